"""Why a command was refused. A refusal changes nothing and leaves no trace in the ledger."""


class Refused(Exception):
    """A command that the rules do not allow; the text is for the caller. ``position``: of the last event in the streams
    that it was decided on, 0 where it was refused before any was looked at."""

    position = 0


class Invalid(Refused):
    """The command itself makes no sense, whatever the state (HTTP 400). The text names the field."""


class Forbidden(Refused):
    """This actor may not do it (HTTP 403)."""


class NotFound(Refused):
    """The subject or punishment is not there (HTTP 404)."""


class Conflict(Refused):
    """It is not possible in the present state (HTTP 409)."""


class Stale(Refused):
    """The record has changed since the version that the caller named (HTTP 412)."""

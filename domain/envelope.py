"""Who, when, via what and why: everything about an event but the fact itself, and the names of streams."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from modledger.domain.events import Event

ActorKind = Literal["user", "bot", "system", "operator"]
Via = Literal["http", "worker", "cli", "import"]
SubjectKind = Literal["user", "guild", "bot"]


class Actor(msgspec.Struct, frozen=True):
    """Who acted. ``id`` is a Discord id for users and bots and None for the system and the operator."""

    kind: ActorKind
    id: int | None = None

    def __str__(self) -> str:
        return self.kind if self.id is None else f"{self.kind}:{self.id}"

    @property
    def user_id(self) -> int | None:
        """The acting user's Discord id; None when the system, an operator or a bot acted."""
        return self.id if self.kind == "user" else None


SYSTEM = Actor("system")
OPERATOR = Actor("operator")


class Subject(msgspec.Struct, frozen=True):
    """One user, guild or bot, by Discord id (1 … 2^63−1). Its stream bears its name: ``user:123``."""

    kind: SubjectKind
    id: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


def subject_of(stream: str) -> Subject:
    """The subject of a stream; raises ValueError when the text names none."""
    kind, _, number = stream.partition(":")
    if kind not in ("user", "guild", "bot"):
        raise ValueError(f"{stream!r} is not the name of a stream")
    return Subject(kind, int(number))  # type: ignore[arg-type]


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event on its way into the ledger. ``version`` counts from 1 in its stream, without holes."""

    stream: str
    version: int
    event: Event
    event_id: UUID
    occurred_at: datetime
    actor: Actor
    correlation_id: UUID
    causation_id: UUID | None = None
    via: Via
    external_id: str | None = None

    @property
    def originator_id(self) -> str:
        """The library's name for the stream."""
        return self.stream

    @property
    def originator_version(self) -> int:
        """The library's name for the version."""
        return self.version


class Recorded(NewEvent, frozen=True, kw_only=True):
    """An event of the ledger. ``position`` orders the whole ledger (commit order, gaps allowed); ``recorded_at`` is
    the database's time of the append and never goes back along the ledger."""

    position: int
    recorded_at: datetime

"""Weeks without a gap through all of time: what counts of very many rows are kept by."""

from datetime import UTC, datetime, timedelta

_WEEK = timedelta(weeks=1)
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


def week(at: datetime) -> int:
    """The number of the seven days that hold the moment, 1 for those that begin the year 1 in UTC. Any aware datetime
    has one, also the first and the last whose UTC year Python cannot write: such a week is below 1 or above the
    last."""
    return 1 + (at - _BEGINNING) // _WEEK


def within(column: str) -> str:
    """SQL: the column's moment lies in the week of the parameter ``week``, which is 0 for any."""
    begins = "('0001-01-01T00:00:00Z'::timestamptz + make_interval(hours => 168 * (%(week)s::integer - {})))"
    return f"(%(week)s = 0 or {column} >= {begins.format(1)} and {column} < {begins.format(0)})"


def beginning(number: int) -> str:
    """The week's first moment, in SQL: the year 9999 has a week after the last that Python can write."""
    return f"('0001-01-01T00:00:00Z'::timestamptz + interval '{168 * (number - 1)} hours')"


def beginning_of(number: str) -> str:
    """The same of a week whose number is SQL."""
    return f"('0001-01-01T00:00:00Z'::timestamptz + interval '168 hours' * ({number} - 1))"

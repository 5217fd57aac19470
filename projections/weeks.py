"""Weeks and days without a gap through all of time: what counts of very many rows are kept by."""

from datetime import UTC, datetime

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


def week(at: datetime) -> int:
    """The number of the seven days that hold the moment, 1 for those that begin the year 1 in UTC. Any aware datetime
    has one, also the first and the last whose UTC year Python cannot write: such a week is below 1 or above the
    last."""
    return 1 + (at - _BEGINNING).days // 7


def day(at: datetime) -> int:
    """The number of the day in UTC, 1 for the first of week 1. Of any aware datetime, as ``week``."""
    return 1 + (at - _BEGINNING).days


def covering(after: datetime | None, before: datetime | None) -> list[tuple[int, int | None]]:
    """The whole weeks and days between the moments, none twice, as the first and the last of cells of which there are
    counts: a week by its number, a day by its number negated, 0 for everything. Last None: all that come after."""
    if after is None and before is None:
        return [(0, 0)]
    first = 1 if after is None else day(after) + 1
    # Of the week in which they begin the days stand alone, unless that is a Monday.
    monday = -(-(first - 1) // 7) * 7 + 1
    if before is None:
        return [*_days(first, monday - 1), (monday // 7 + 1, None)]
    last = day(before) - 1
    if last < monday + 6:
        return _days(first, last)
    return [*_days(first, monday - 1), (monday // 7 + 1, last // 7), *_days(last // 7 * 7 + 1, last)]


def _days(first: int, last: int) -> list[tuple[int, int | None]]:
    return [(-last, -first)] if first <= last else []


def within(column: str) -> str:
    """SQL: the column's moment lies in the cell of the parameter ``week``: a week, a day by its number negated, or 0
    for any."""
    moment = "('0001-01-01T00:00:00Z'::timestamptz + make_interval(hours => case when %(week)s::integer > 0"
    moment += " then 168 * (%(week)s::integer - {0}) else 24 * (- %(week)s::integer - {0}) end))"
    return f"(%(week)s = 0 or {column} >= {moment.format(1)} and {column} < {moment.format(0)})"


def beginning_of_day(number: int) -> str:
    """The day's first moment, in SQL."""
    return f"('0001-01-01T00:00:00Z'::timestamptz + interval '{24 * (number - 1)} hours')"


def beginning(number: int) -> str:
    """The week's first moment, in SQL: the year 9999 has a week after the last that Python can write."""
    return f"('0001-01-01T00:00:00Z'::timestamptz + interval '{168 * (number - 1)} hours')"


def beginning_of(number: str) -> str:
    """The same of a week whose number is SQL."""
    return f"('0001-01-01T00:00:00Z'::timestamptz + interval '168 hours' * ({number} - 1))"

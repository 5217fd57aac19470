"""Cells of counts between two moments."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from modledger.projections.weeks import covering, day, week

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
MOMENTS = st.integers(0, 60 * 24).map(lambda hours: BEGINNING + timedelta(hours=hours))
# Whatever comes after all moments.
LAST_WEEK = 12


def days_of(first: int, last: int | None) -> list[int]:
    if first < 0:
        assert last is not None
        return list(range(-last, -first + 1))
    return list(range(7 * (first - 1) + 1, 7 * (LAST_WEEK if last is None else last) + 1))


@given(after=st.none() | MOMENTS, before=st.none() | MOMENTS)
def test_the_cells_between_two_moments_hold_each_whole_day_between_them_once(
    after: datetime | None, before: datetime | None
) -> None:
    if after is None and before is None:
        assert covering(after, before) == [(0, 0)]
        return
    first = 1 if after is None else day(after) + 1
    last = 7 * LAST_WEEK if before is None else day(before) - 1
    assert sorted(one for cells in covering(after, before) for one in days_of(*cells)) == list(range(first, last + 1))


def test_there_are_no_more_single_days_than_two_weeks_lack_to_be_whole() -> None:
    after, before = BEGINNING + timedelta(hours=5), BEGINNING + timedelta(days=60, hours=5)
    assert covering(after, before) == [(-7, -2), (2, 8), (-60, -57)]
    assert [day(after), week(after), day(before), week(before)] == [1, 1, 61, 9]

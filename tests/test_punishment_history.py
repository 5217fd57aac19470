"""Whatever is asked of the past, the versions of a punishment say what the fold of the events that count then says."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from modledger.domain import events
from modledger.domain.envelope import SYSTEM, Recorded
from modledger.projections import punishments, time_travel
from modledger.projections.projector import Key, fold_stream
from modledger.projections.punishment_history import PROJECTOR, History
from modledger.projections.punishment_versions import ALL, BOTH, DATED, KNOWN, Version, versions
from modledger.projections.punishments import Punishment
from modledger.projections.time_travel import Instant
from tests.projection_history import (
    ADMIN,
    BOT,
    FIRST_POSITION,
    HOUR,
    NOW,
    OTHER_ADMIN,
    Happened,
)
from tests.projection_history import recorded as at_once

MINUTE = timedelta(minutes=1)
USER = "user:1"
# Few, so that equal dates are common.
DATES = st.integers(-4, 8).map(lambda hours: NOW + hours * HOUR)
ENDINGS: tuple[Callable[[int], events.Event], ...] = (
    lambda number: events.PunishmentLifted(number=number, reason="enough"),
    lambda number: events.PunishmentVoided(number=number, reason="in error"),
    lambda number: events.PunishmentOverturned(number=number, reason="appeal"),
    lambda number: events.PunishmentSuperseded(number=number, by=number + 1),
    lambda number: events.PunishmentLapsed(number=number),
)


@st.composite
def punished(draw: st.DrawFn, stream: str = USER, *, skew: bool = True) -> list[Happened]:
    """What happens to somebody's punishments, in the order of the ledger: issued, amended while open, ended once,
    erased. ``skew``: whether dates go back."""
    found: list[Happened] = []
    standing: list[int] = []
    date = NOW - 4 * HOUR
    for version in range(1, draw(st.integers(1, 14)) + 1):
        date = draw(DATES) if skew else date + draw(st.integers(0, 2)) * HOUR
        what = draw(st.sampled_from(["issue", "amend", "amend", "amend", "end", "erase"] if standing else ["issue"]))
        text, until = draw(st.sampled_from(["spam", "raid", "two words"])), draw(st.none() | DATES)
        event: events.Event
        if what == "issue":
            standing.append(version)
            event = draw(
                st.sampled_from([events.UserBanned(reason=text, expires_at=until), events.UserWarned(reason=text)])
            )
        elif what == "erase":
            event = events.SubjectErased(reason="request")
        else:
            number = draw(st.sampled_from(standing))
            if what == "end":
                standing.remove(number)
                event = draw(st.sampled_from(ENDINGS))(number)
            else:
                event = events.PunishmentAmended(
                    number=number, old_reason="old", reason=text, old_expires_at=None, expires_at=until
                )
        found.append(Happened(stream, event, date, draw(st.sampled_from([ADMIN, OTHER_ADMIN, SYSTEM, BOT]))))
    return found


def recorded(history: Sequence[Happened]) -> list[Recorded]:
    """Each event is recorded a minute after the one before it, the first at NOW."""
    return [msgspec.structs.replace(one, recorded_at=NOW + n * MINUTE) for n, one in enumerate(at_once(history))]


def as_loaded(stream: Sequence[Recorded]) -> list[Recorded]:
    """As the ledger gives it now: without the text that was erased."""
    last = max((n for n, one in enumerate(stream) if isinstance(one.event, events.SubjectErased)), default=-1)
    return [
        msgspec.structs.replace(
            one,
            event=msgspec.structs.replace(one.event, **dict.fromkeys(one.event.PERSONAL, events.ERASED)),
        )
        if n < last
        else one
        for n, one in enumerate(stream)
    ]


def folded(stream: Sequence[Recorded]) -> dict[Key, History]:
    return fold_stream(PROJECTOR, [one for one in stream if one.event.TOPIC in PROJECTOR.topics])


def then(found: Sequence[Version], position: int | None, date: datetime | None) -> list[Punishment]:
    """The punishments at the moment, by the condition that punishment_versions.py names."""
    serves = BOTH if position is not None and date is not None else KNOWN if position is not None else DATED
    return [as_it_was(one, position, date) for one in found if counts(one, serves, position, date)]


def counts(one: Version, serves: int, position: int | None, date: datetime | None) -> bool:
    if not one.serves & serves:
        return False
    known = position is None or one.since_position <= position
    dated = date is None or one.dated_since <= date
    unreplaced = position is not None and (one.until_position is None or one.until_position > position)
    lasting = date is not None and (one.dated_until is None or one.dated_until > date)
    return known and dated and ((unreplaced and lasting) if one.serves == BOTH else (unreplaced or lasting))


def as_it_was(one: Version, position: int | None, date: datetime | None) -> Punishment:
    ended = (
        one.ended_kind is not None
        and (position is None or (one.ended_position is not None and one.ended_position <= position))
        and (date is None or (one.ended_dated is not None and one.ended_dated <= date))
    )
    return Punishment(
        stream=one.stream,
        number=one.number,
        id=one.id,
        user_id=one.user_id,
        guild_id=one.guild_id,
        type=one.type,
        reason=one.reason,
        reason_key=one.reason_key,
        issued_by=one.issued_by,
        expires_at=one.expires_at,
        open=not ended,
        due_at=None if ended else one.expires_at,
        ended_kind=one.ended_kind if ended else None,
        lifted_at=one.ended_at if ended and one.ended_kind != "lapsed" else None,
        lifted_by=one.ended_by if ended else None,
        version=0,
        created_at=one.created_at,
        updated_at=max(one.updated_at, one.ended_at) if ended and one.ended_at is not None else one.updated_at,
    )


def expected(stream: Sequence[Recorded], at: Instant) -> list[Punishment]:
    """What the fold of the events that count then says."""
    counted = [one for one in time_travel.events_at(stream, at) if one.event.TOPIC in PROJECTOR.topics]
    rows = fold_stream(punishments.PROJECTOR, counted).values()
    return sorted((msgspec.structs.replace(row, version=0) for row in rows), key=lambda row: row.number)


def every_moment(stream: Sequence[Recorded]) -> Iterator[tuple[int | None, datetime | None, Instant]]:
    """Around every event, by the one time, by the other and by both: (position, date, instant)."""
    positions = [stream[0].position - 1, *(one.position for one in stream)]
    dates = sorted({one.occurred_at for one in stream} | {min(one.occurred_at for one in stream) - HOUR})
    for position in [None, *positions]:
        known_at = None if position is None else NOW + (position - FIRST_POSITION) * MINUTE
        for date in [None, *dates]:
            if (position, date) != (None, None):
                yield position, date, Instant(now=NOW, as_of=date, known_at=known_at)


def check(history: Sequence[Happened]) -> None:
    stream = as_loaded(recorded(history))
    found = [
        version
        for history in sorted(folded(stream).values(), key=lambda one: one.number)
        for version in versions(history.stream, history.changes)
    ]
    for position, date, at in every_moment(stream):
        assert then(found, position, date) == expected(stream, at), at


@settings(max_examples=300, deadline=None)
@given(punished())
def test_the_versions_say_of_every_moment_what_the_fold_says_whatever_the_clocks(history: list[Happened]) -> None:
    check(history)


@settings(max_examples=100, deadline=None)
@given(punished(skew=False))
def test_in_order_each_wording_is_one_row_that_serves_every_question(history: list[Happened]) -> None:
    check(history)
    for one in folded(recorded(history)).values():
        found = versions(one.stream, one.changes)
        assert {version.serves for version in found} == {ALL}
        assert [version.position for version in found] == [
            change.position for change in one.changes if isinstance(change.what, int)
        ]


@settings(max_examples=100, deadline=None)
@given(punished())
def test_what_was_folded_before_an_erasure_and_what_is_folded_after_it_are_the_same(history: list[Happened]) -> None:
    stream = recorded(history)
    assert folded(stream) == folded(as_loaded(stream))


def test_a_wording_after_the_end_counts_as_the_fold_has_it() -> None:
    check(
        [
            Happened(USER, events.UserBanned(reason="spam"), NOW),
            Happened(USER, events.PunishmentLifted(number=1, reason="enough"), NOW + HOUR),
            amendment("raid", NOW + 2 * HOUR),
        ]
    )


def amendment(reason: str, date: datetime) -> Happened:
    event = events.PunishmentAmended(number=1, old_reason="", reason=reason, old_expires_at=None, expires_at=None)
    return Happened(USER, event, date)


def test_what_is_out_of_order_costs_two_ranges_an_amendment_and_not_a_range_for_each_pair_of_times() -> None:
    for hours in ((2, 1), (2, 1, 3), (1, 3, 2, 5, 4), (2, 1, *range(3, 60))):
        history = [
            Happened(USER, events.UserWarned(reason="spam"), NOW),
            *(amendment(str(n), NOW + hour * HOUR) for n, hour in enumerate(hours)),
        ]
        (row,) = folded(recorded(history)).values()
        found = [version.serves for version in versions(row.stream, row.changes)]
        assert (found.count(KNOWN), found.count(DATED), found.count(BOTH)) == (
            len(hours) + 1,
            len(hours) + 1,
            2 * len(hours) + 1,
        )

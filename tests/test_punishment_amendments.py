"""Punishments that are amended or run out: the range of a new end, and what the clock records."""

from datetime import datetime

import pytest

from modledger.domain import commands, events
from modledger.domain.commands import AmendPunishment
from modledger.domain.envelope import OPERATOR, SYSTEM
from modledger.domain.refusals import Conflict, Forbidden, Invalid, NotFound
from tests.scenario import (
    ADMIN,
    BOT,
    DAY,
    FIRST_POSITION,
    HOUR,
    NOW,
    OWNER,
    SECOND,
    given,
    happened,
    is_banned,
    is_timed_out,
    user,
)

# -- amend


def test_an_amendment_carries_old_and_new_values() -> None:
    scenario = given(is_banned(1, until=NOW + DAY))
    command = AmendPunishment(target=user(1), number=1, reason=" raid ", expires_at=None)
    scenario.when(command, by=ADMIN).then(
        events.PunishmentAmended(number=1, old_reason="spam", reason="raid", old_expires_at=NOW + DAY, expires_at=None)
    )


def test_what_an_amendment_leaves_out_stays() -> None:
    scenario = given(is_banned(1, until=NOW + DAY))
    scenario.when(AmendPunishment(target=user(1), number=1, reason="raid"), by=ADMIN).then(
        events.PunishmentAmended(
            number=1, old_reason="spam", reason="raid", old_expires_at=NOW + DAY, expires_at=NOW + DAY
        )
    )
    scenario.when(AmendPunishment(target=user(1), number=1, expires_at=NOW + HOUR), by=ADMIN).then(
        events.PunishmentAmended(
            number=1, old_reason="spam", reason="spam", old_expires_at=NOW + DAY, expires_at=NOW + HOUR
        )
    )


def test_an_amendment_of_nothing_is_refused() -> None:
    scenario = given(is_banned(1, until=NOW + DAY))
    scenario.when(AmendPunishment(target=user(1), number=1), by=ADMIN).then_refused(
        Invalid, "reason or expires_at is required"
    )
    same = AmendPunishment(target=user(1), number=1, reason="spam ", expires_at=NOW + DAY)
    scenario.when(same, by=ADMIN).then_refused(Conflict, f"Punishment {FIRST_POSITION} already has this reason and end")


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (None, "expires_at is required for a timeout"),
        (NOW, "expires_at must be in the future"),
        (NOW + 28 * DAY + SECOND, "expires_at must be at most 28 days ahead"),
    ],
)
def test_the_end_of_a_timeout_is_amended_within_the_same_range(end: datetime | None, message: str) -> None:
    scenario = given(is_timed_out(1, until=NOW + HOUR, at=NOW - 27 * DAY))
    scenario.when(AmendPunishment(target=user(1), number=1, expires_at=end), by=ADMIN).then_refused(Invalid, message)
    latest = AmendPunishment(target=user(1), number=1, expires_at=NOW + 28 * DAY)
    assert scenario.when(latest, by=ADMIN).refused is None


def test_a_warning_has_a_reason_to_amend_but_no_end() -> None:
    scenario = given(happened(user(1), events.UserWarned(reason="rude")))
    for end in (None, NOW + DAY):
        scenario.when(AmendPunishment(target=user(1), number=1, expires_at=end), by=ADMIN).then_refused(
            Invalid, "expires_at does not apply to a warning"
        )
    assert scenario.when(AmendPunishment(target=user(1), number=1, reason="other"), by=ADMIN).refused is None


def test_what_has_ended_is_not_amended() -> None:
    for end in (NOW, NOW - DAY):
        command = AmendPunishment(target=user(1), number=1, expires_at=NOW + DAY)
        given(is_banned(1, until=end)).when(command, by=ADMIN).then_refused(
            Conflict, f"Punishment {FIRST_POSITION} has already ended (lapsed)"
        )


# -- lapse


def test_the_clock_records_an_end_at_the_second_it_is_due_dated_by_the_end_itself() -> None:
    command = commands.LapsePunishment(target=user(1), number=1, expires_at=NOW)
    scenario = given(is_banned(1, until=NOW))
    scenario.when(command, by=SYSTEM, at=NOW - SECOND).then_nothing()
    for at in (NOW, NOW + 7 * DAY):
        tried = scenario.when(command, by=SYSTEM, at=at)
        tried.then(events.PunishmentLapsed(number=1))
        assert tried.decided[0].at == NOW


def test_the_clock_records_nothing_for_an_end_that_was_changed_lifted_or_recorded() -> None:
    command = commands.LapsePunishment(target=user(1), number=1, expires_at=NOW)
    longer = events.PunishmentAmended(
        number=1, old_reason="spam", reason="spam", old_expires_at=NOW, expires_at=NOW + DAY
    )
    for event in (longer, events.PunishmentLifted(number=1, reason="ok"), events.PunishmentLapsed(number=1)):
        scenario = given(is_banned(1, until=NOW), happened(user(1), event))
        scenario.when(command, by=SYSTEM, at=NOW + 2 * DAY).then_nothing()
    given(is_banned(1)).when(command, by=SYSTEM).then_nothing()


def test_only_the_clock_records_an_end() -> None:
    command = commands.LapsePunishment(target=user(1), number=1, expires_at=NOW)
    for actor in (OWNER, OPERATOR, BOT):
        given(is_banned(1, until=NOW)).when(command, by=actor).then_refused(Forbidden, "Only the clock records an end")


def test_the_clock_is_told_of_a_punishment_that_does_not_exist() -> None:
    command = commands.LapsePunishment(target=user(1), number=1, expires_at=NOW)
    given().when(command, by=SYSTEM).then_refused(NotFound, "Punishment not found")


# -- a server whose clock is behind


def test_a_decision_is_never_dated_before_what_already_happened_to_the_target() -> None:
    scenario = given(is_banned(1, until=NOW + HOUR, at=NOW))
    late = NOW - DAY
    # Seen from the last event of the stream, this end is in the past although the server's clock says otherwise.
    command = AmendPunishment(target=user(1), number=1, expires_at=NOW - HOUR)
    scenario.when(command, by=ADMIN, at=late).then_refused(Invalid, "expires_at must be in the future")


def test_a_ban_that_was_over_at_the_last_event_is_not_in_the_way_of_a_clock_that_is_behind() -> None:
    later = happened(user(1), events.UserWarned(reason="rude"), at=NOW + 2 * HOUR)
    command = commands.IssueBan(target=user(1), reason="again", replace=True)
    given(is_banned(1, until=NOW + HOUR), later).when(command, by=ADMIN).then(events.UserBanned(reason="again"))

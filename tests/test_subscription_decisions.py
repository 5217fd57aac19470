"""Tiers of users and guilds (api.md §3): grant, trial, renew, revoke, end."""

from datetime import datetime, timedelta

import pytest

from modledger.domain import commands, events
from modledger.domain.commands import Command, GrantSubscription, RevokeSubscription, StartTrial
from modledger.domain.envelope import OPERATOR, SYSTEM, Subject
from modledger.domain.refusals import Conflict, Forbidden, Invalid, NotFound, Stale
from tests.scenario import (
    ADMIN,
    BOT,
    DAY,
    NOW,
    OWNER,
    SECOND,
    Given,
    Happened,
    given,
    guild,
    happened,
    has_level,
    is_guild,
    user,
)

ONE = user(1)
KNOWN = has_level(1, 0)


def has_tier(tier: int, *, until: datetime | None, subject: Subject = ONE) -> Happened:
    return happened(subject, events.SubscriptionGranted(old_tier=0, tier=tier, expires_at=until))


def had_trial(*, until: datetime, subject: Subject = ONE) -> Happened:
    return happened(subject, events.TrialStarted(old_tier=0, expires_at=until))


def granted(old_tier: int, tier: int, until: datetime | None, why: str | None = None) -> events.SubscriptionGranted:
    return events.SubscriptionGranted(old_tier=old_tier, tier=tier, expires_at=until, reason=why)


# -- grant


@pytest.mark.parametrize("subject", [ONE, guild(200)], ids=str)
def test_premium_lasts_the_days_it_was_granted_for_and_thirty_by_default(subject: Subject) -> None:
    scenario = given(KNOWN, is_guild(200, owner_id=1))
    scenario.when(GrantSubscription(target=subject, tier=2), by=ADMIN).then(granted(0, 2, NOW + 30 * DAY))
    for days in (1, 3650):
        command = GrantSubscription(target=subject, tier=2, duration_days=days, reason=" a gift ")
        scenario.when(command, by=ADMIN).then(granted(0, 2, NOW + days * DAY, "a gift"))


def test_lifetime_has_no_end_whatever_the_duration() -> None:
    command = GrantSubscription(target=ONE, tier=3, duration_days=5)
    given(KNOWN).when(command, by=ADMIN).then(granted(0, 3, None))


@pytest.mark.parametrize(
    ("tier", "days", "reason", "message"),
    [
        (0, 30, None, "tier must be between 1 and 3"),
        (4, 30, None, "tier must be between 1 and 3"),
        (-1, 0, " ", "tier must be between 1 and 3"),
        (2, 0, None, "duration_days must be between 1 and 3650"),
        (2, 3651, None, "duration_days must be between 1 and 3650"),
        (2, -1, " ", "duration_days must be between 1 and 3650"),
        (2, 30, " ", "reason must be between 1 and 512 characters"),
        (3, 30, "x" * 513, "reason must be between 1 and 512 characters"),
        (1, 30, "a\0b", "reason must not contain a NUL character"),
    ],
)
def test_a_grant_out_of_range_is_refused_naming_the_first_bad_field(
    tier: int, days: int, reason: str | None, message: str
) -> None:
    command = GrantSubscription(target=ONE, tier=tier, duration_days=days, reason=reason)
    given(KNOWN).when(command, by=ADMIN).then_refused(Invalid, message)


def test_premium_while_premium_renews_from_the_current_end() -> None:
    scenario = given(has_tier(2, until=NOW + SECOND))
    scenario.when(GrantSubscription(target=ONE, tier=2, duration_days=10), by=ADMIN).then(
        events.SubscriptionRenewed(tier=2, old_expires_at=NOW + SECOND, expires_at=NOW + SECOND + 10 * DAY)
    )


def test_premium_that_ended_this_very_second_is_granted_anew_after_its_end_is_recorded() -> None:
    for end in (NOW, NOW - 7 * DAY):
        tried = given(has_tier(2, until=end)).when(GrantSubscription(target=ONE, tier=2), by=ADMIN)
        tried.then(events.SubscriptionEnded(old_tier=2), granted(0, 2, NOW + 30 * DAY))
        ended, renewed = tried.decided
        assert (ended.at, ended.actor) == (end, SYSTEM)
        assert (renewed.at, renewed.actor) == (None, None)


def test_premium_replaces_a_running_trial_from_now_on() -> None:
    given(had_trial(until=NOW + DAY)).when(GrantSubscription(target=ONE, tier=2), by=ADMIN).then(
        granted(1, 2, NOW + 30 * DAY)
    )


def test_lifetime_replaces_premium_and_the_end_that_ran_out_is_recorded_first() -> None:
    lifetime = GrantSubscription(target=ONE, tier=3)
    given(has_tier(2, until=NOW + DAY)).when(lifetime, by=ADMIN).then(granted(2, 3, None))
    given(had_trial(until=NOW)).when(lifetime, by=ADMIN).then(events.SubscriptionEnded(old_tier=1), granted(0, 3, None))


@pytest.mark.parametrize("tier", [2, 3])
def test_nothing_is_granted_on_top_of_a_lifetime_subscription(tier: int) -> None:
    scenario = given(has_tier(3, until=None))
    scenario.when(GrantSubscription(target=ONE, tier=tier), by=ADMIN).then_refused(
        Conflict, "User 1 already has a lifetime subscription"
    )


def test_a_renewal_beyond_the_calendar_is_refused() -> None:
    scenario = given(has_tier(2, until=NOW.replace(year=9999)))
    scenario.when(GrantSubscription(target=ONE, tier=2, duration_days=3650), by=ADMIN).then_refused(
        Conflict, "The subscription cannot be extended any further"
    )


def test_tiers_end_in_whole_seconds() -> None:
    at = NOW + timedelta(microseconds=900_000)
    given(KNOWN).when(GrantSubscription(target=ONE, tier=2), by=ADMIN, at=at).then(granted(0, 2, NOW + 30 * DAY))
    given(KNOWN).when(StartTrial(target=ONE), by=ADMIN, at=at).then(
        events.TrialStarted(old_tier=0, expires_at=NOW + 7 * DAY)
    )


# -- trial

TRIALS: list[Command] = [StartTrial(target=ONE), GrantSubscription(target=ONE, tier=1, duration_days=30)]


def test_a_trial_lasts_seven_days_by_either_command() -> None:
    for target in (ONE, guild(200)):
        for command in (
            StartTrial(target=target, reason=" hello "),
            GrantSubscription(target=target, tier=1, duration_days=30, reason=" hello "),
        ):
            given(KNOWN, is_guild(200, owner_id=None)).when(command, by=ADMIN).then(
                events.TrialStarted(old_tier=0, expires_at=NOW + 7 * DAY, reason="hello")
            )


@pytest.mark.parametrize("command", TRIALS, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize(
    "after",
    [
        [],
        [happened(ONE, events.SubscriptionEnded(old_tier=1))],
        [happened(ONE, events.SubscriptionRevoked(old_tier=1, reason="refund"))],
        [happened(ONE, events.SubscriptionGranted(old_tier=1, tier=2, expires_at=NOW))],
        [happened(ONE, events.SubjectErased(reason="asked for"))],
        [
            happened(ONE, events.SubjectErased(reason="asked for")),
            happened(ONE, events.UserRegistered(username="again")),
        ],
    ],
    ids=["running", "ended", "revoked", "upgraded", "erased", "registered again"],
)
def test_a_trial_is_for_once_in_a_lifetime_by_whichever_command(command: Command, after: list[Happened]) -> None:
    for end in (NOW + DAY, NOW - DAY):
        given(had_trial(until=end), *after).when(command, by=OWNER).then_refused(
            Conflict, "User 1 has already used the trial"
        )


def test_an_older_trial_that_an_import_brought_later_counts_as_the_trial() -> None:
    scenario = given(
        happened(ONE, events.SubscriptionGranted(old_tier=0, tier=2, expires_at=NOW - DAY), at=NOW - 30 * DAY),
        happened(ONE, events.TrialStarted(old_tier=0, expires_at=NOW - 80 * DAY), at=NOW - 87 * DAY),
    )
    scenario.when(StartTrial(target=ONE), by=ADMIN).then_refused(Conflict, "User 1 has already used the trial")


@pytest.mark.parametrize("command", TRIALS, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize(("tier", "until"), [(2, NOW + SECOND), (3, None)])
def test_no_trial_is_started_over_a_running_tier(command: Command, tier: int, until: datetime | None) -> None:
    given(has_tier(tier, until=until)).when(command, by=ADMIN).then_refused(
        Conflict, "User 1 already has an active subscription"
    )


@pytest.mark.parametrize("command", TRIALS, ids=lambda command: type(command).__name__)
def test_a_trial_after_premium_ran_out_records_that_end_first(command: Command) -> None:
    tried = given(has_tier(2, until=NOW)).when(command, by=ADMIN)
    tried.then(events.SubscriptionEnded(old_tier=2), events.TrialStarted(old_tier=0, expires_at=NOW + 7 * DAY))
    assert (tried.decided[0].at, tried.decided[0].actor) == (NOW, SYSTEM)


# -- revoke


@pytest.mark.parametrize(("tier", "until"), [(1, NOW + SECOND), (2, NOW + DAY), (3, None)])
def test_a_running_tier_can_be_revoked(tier: int, until: datetime | None) -> None:
    given(has_tier(tier, until=until)).when(RevokeSubscription(target=ONE, reason=" refund "), by=ADMIN).then(
        events.SubscriptionRevoked(old_tier=tier, reason="refund")
    )


@pytest.mark.parametrize(
    "scenario",
    [
        given(KNOWN),
        given(has_tier(2, until=NOW)),
        given(has_tier(3, until=None), happened(ONE, events.SubscriptionRevoked(old_tier=3, reason="refund"))),
    ],
    ids=["never had one", "ended this second", "revoked before"],
)
def test_nothing_is_revoked_from_basic(scenario: Given) -> None:
    scenario.when(RevokeSubscription(target=ONE, reason="refund"), by=ADMIN).then_refused(
        Conflict, "User 1 has no active subscription"
    )


def test_a_revocation_needs_a_reason() -> None:
    given(has_tier(3, until=None)).when(RevokeSubscription(target=ONE, reason=" "), by=ADMIN).then_refused(
        Invalid, "reason must be between 1 and 512 characters"
    )


# -- all three


@pytest.mark.parametrize(
    "command",
    [GrantSubscription(target=ONE, tier=2), StartTrial(target=ONE), RevokeSubscription(target=ONE, reason="x")],
    ids=lambda command: type(command).__name__,
)
def test_a_user_never_seen_has_no_subscription(command: Command) -> None:
    given().when(command, by=ADMIN).then_refused(NotFound, "User not found")


def test_a_guild_never_seen_has_no_subscription() -> None:
    given().when(StartTrial(target=guild(200)), by=ADMIN).then_refused(NotFound, "Guild not found")


@pytest.mark.parametrize(
    "command",
    [GrantSubscription(target=ONE, tier=3), StartTrial(target=ONE), RevokeSubscription(target=ONE, reason="x")],
    ids=lambda command: type(command).__name__,
)
def test_a_stale_if_match_is_refused(command: Command) -> None:
    given(KNOWN, KNOWN).when(command, by=ADMIN, if_match=1).then_refused(
        Stale, "The record has changed since: it is at version 2"
    )


# -- end


def test_the_clock_records_an_end_at_the_second_it_is_due_dated_by_the_end_itself() -> None:
    command = commands.EndSubscription(target=ONE, expires_at=NOW)
    for scenario, tier in ((given(has_tier(2, until=NOW)), 2), (given(had_trial(until=NOW)), 1)):
        scenario.when(command, by=SYSTEM, at=NOW - SECOND).then_nothing()
        for at in (NOW, NOW + 7 * DAY):
            tried = scenario.when(command, by=SYSTEM, at=at)
            tried.then(events.SubscriptionEnded(old_tier=tier))
            assert tried.decided[0].at == NOW


def test_the_clock_records_nothing_for_a_tier_that_was_renewed_revoked_replaced_or_ended() -> None:
    command = commands.EndSubscription(target=ONE, expires_at=NOW)
    for event in (
        events.SubscriptionRenewed(tier=2, old_expires_at=NOW, expires_at=NOW + DAY),
        events.SubscriptionRevoked(old_tier=2, reason="refund"),
        events.SubscriptionGranted(old_tier=2, tier=3, expires_at=None),
        events.SubscriptionEnded(old_tier=2),
    ):
        scenario = given(has_tier(2, until=NOW), happened(ONE, event, at=NOW))
        scenario.when(command, by=SYSTEM, at=NOW + 2 * DAY).then_nothing()
    given().when(command, by=SYSTEM).then_nothing()


def test_only_the_clock_records_the_end_of_a_tier() -> None:
    command = commands.EndSubscription(target=ONE, expires_at=NOW)
    for actor in (OWNER, OPERATOR, BOT):
        given(has_tier(2, until=NOW)).when(command, by=actor).then_refused(Forbidden, "Only the clock records an end")

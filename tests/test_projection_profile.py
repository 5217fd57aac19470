"""The fold of profiles, and what a profile says at a point in time."""

from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given

from modledger.domain import events
from modledger.domain.envelope import Subject
from modledger.domain.subjects import BAN, TIMEOUT, User, fold
from modledger.projections import profile
from modledger.projections.profile import Profile
from modledger.projections.standing import FOREVER
from tests.projection_history import ADMIN, DAY, HOUR, NOW, SECOND, Happened, folded, only, recorded
from tests.random_history import histories

USER = "user:7"
REGISTERED = Happened(USER, events.UserRegistered(username="Straße", avatar_url="https://a.example/1.png"), NOW - DAY)


def after(*history: Happened) -> Profile:
    row = only(folded(profile.PROJECTOR, *history))
    assert isinstance(row, Profile)
    return row


def happened(event: events.Event, at: datetime = NOW) -> Happened:
    return Happened(USER, event, at, ADMIN)


def banned(until: datetime | None, at: datetime = NOW) -> Happened:
    return happened(events.UserBanned(reason="raid", expires_at=until), at)


def timed_out(until: datetime, at: datetime = NOW) -> Happened:
    return happened(events.UserTimedOut(reason="spam", expires_at=until), at)


def granted(tier: int, until: datetime | None, at: datetime) -> Happened:
    return happened(events.SubscriptionGranted(old_tier=0, tier=tier, expires_at=until), at)


def test_a_registered_user_has_a_name_that_is_found_without_regard_to_case() -> None:
    row = after(REGISTERED)
    assert (row.username, row.username_key, row.named_at) == ("Straße", profile.name_key("STRASSE"), NOW - DAY)
    assert (row.registered, row.prefix, row.level, row.tier, row.version) == (True, "!", 0, 0, 1)
    assert (row.avatar_url, row.created_at, row.updated_at) == ("https://a.example/1.png", NOW - DAY, NOW - DAY)


def test_a_user_never_seen_has_a_profile_without_a_name_once_banned() -> None:
    row = after(banned(None))
    assert (row.registered, row.username, row.username_key, row.created_at) == (False, None, None, NOW)
    assert (row.username_code, row.held) == (None, 2)
    assert profile.state(row, NOW) == 2


def test_registration_dates_a_profile_that_a_ban_had_begun() -> None:
    assert after(banned(None, NOW), REGISTERED).created_at == NOW - DAY


def test_renaming_dates_the_new_name_and_changes_of_avatar_and_prefix_are_taken() -> None:
    row = after(
        REGISTERED,
        happened(events.UserRenamed(old_username="Straße", username="Gasse")),
        happened(events.UserAvatarChanged(old_avatar_url="https://a.example/1.png", avatar_url=None)),
        happened(events.UserPrefixChanged(old_prefix="!", prefix="?")),
    )
    assert (row.username, row.username_key, row.named_at) == ("Gasse", "gasse", NOW)
    assert (row.avatar_url, row.prefix, row.version, row.updated_at) == (None, "?", 4, NOW)


def test_an_imported_older_level_does_not_replace_a_newer_one() -> None:
    newer = happened(events.PermissionChanged(old_level=0, new_level=2, reason="promoted"), NOW)
    older = happened(events.PermissionChanged(old_level=0, new_level=1, reason="promoted"), NOW - 300 * DAY)
    row = after(REGISTERED, newer, older)
    assert (row.level, row.level_at, row.version, row.updated_at) == (2, NOW, 3, NOW)


def test_of_two_levels_with_the_same_date_the_later_in_the_ledger_holds() -> None:
    first = happened(events.PermissionChanged(old_level=0, new_level=2, reason="promoted"))
    second = happened(events.PermissionChanged(old_level=2, new_level=1, reason="demoted"))
    assert after(first, second).level == 1


def test_an_imported_older_tier_does_not_replace_a_newer_one() -> None:
    row = after(granted(3, None, NOW), granted(2, NOW + DAY, NOW - DAY))
    assert (row.tier, row.tier_until, row.tier_at) == (3, None, NOW)


def test_a_trial_stays_used_also_when_it_was_imported_after_a_newer_tier() -> None:
    trial = happened(events.TrialStarted(old_tier=0, expires_at=NOW - 93 * DAY), NOW - 100 * DAY)
    row = after(granted(3, None, NOW), trial)
    assert (row.tier, row.trial_used) == (3, True)


def test_the_recorded_end_of_an_older_tier_does_not_touch_a_tier_granted_since() -> None:
    row = after(
        granted(2, NOW, NOW - DAY),
        granted(3, None, NOW + HOUR),
        happened(events.SubscriptionEnded(old_tier=2), NOW),
    )
    assert (row.tier, row.tier_until) == (3, None)


@pytest.mark.parametrize(
    ("change", "tier", "until"),
    [
        (events.SubscriptionRenewed(tier=2, old_expires_at=NOW + DAY, expires_at=NOW + 2 * DAY), 2, NOW + 2 * DAY),
        (events.SubscriptionRevoked(old_tier=2, reason="refund"), 0, None),
        (events.SubscriptionEnded(old_tier=2), 0, None),
    ],
)
def test_a_tier_is_renewed_revoked_and_ended(change: events.Event, tier: int, until: datetime | None) -> None:
    row = after(granted(2, NOW + DAY, NOW - DAY), happened(change, NOW + DAY))
    assert (row.tier, row.tier_until) == (tier, until)


def test_the_end_of_a_tier_outranks_no_older_change_that_is_imported_after_it() -> None:
    ended = happened(events.SubscriptionEnded(old_tier=2), NOW + DAY)
    revoked = happened(events.SubscriptionRevoked(old_tier=2, reason="refund"), NOW + HOUR)
    regranted = granted(3, None, NOW + 2 * HOUR)
    assert (after(granted(2, NOW + DAY, NOW), ended, revoked).tier_at) == NOW + HOUR
    assert (after(granted(2, NOW + DAY, NOW), ended, regranted).tier) == 3


def test_a_tier_reads_as_basic_from_the_second_of_its_end() -> None:
    row = after(granted(2, NOW + HOUR, NOW))
    before, end = NOW + HOUR - SECOND, NOW + HOUR
    assert (profile.tier(row, before), profile.subscription_expires_at(row, before)) == (2, end)
    assert (profile.tier(row, end), profile.subscription_expires_at(row, end)) == (0, None)
    assert (profile.updated_at(row, before), profile.updated_at(row, end)) == (NOW, end)


def test_a_lifetime_tier_shows_no_end() -> None:
    row = after(granted(3, None, NOW))
    assert (profile.tier(row, NOW + 10_000 * DAY), profile.subscription_expires_at(row, NOW)) == (3, None)


def test_a_state_changes_at_the_second_of_an_end_without_any_further_event() -> None:
    row = after(timed_out(NOW + 2 * HOUR), banned(NOW + HOUR))
    moments = [NOW, NOW + HOUR - SECOND, NOW + HOUR, NOW + 2 * HOUR - SECOND, NOW + 2 * HOUR]
    assert [profile.state(row, at) for at in moments] == [2, 2, 1, 1, 0]
    assert profile.updated_at(row, NOW + HOUR) == NOW + HOUR
    assert profile.updated_at(row, NOW + 2 * HOUR) == NOW + 2 * HOUR


def test_a_permanent_ban_outlasts_every_date() -> None:
    row = after(banned(None))
    assert row.banned_until == FOREVER
    assert profile.state(row, datetime(9999, 1, 1, tzinfo=NOW.tzinfo)) == 2


def test_a_row_holds_the_state_that_it_has_until_an_end_comes() -> None:
    both = (timed_out(NOW + DAY), banned(NOW + 2 * DAY))
    assert [after(*both[:n]).held for n in range(1, 3)] == [1, 2]
    assert after(*both, happened(events.PunishmentLifted(number=2, reason="sorry"))).held == 1
    assert after(*both, happened(events.PunishmentLifted(number=1, reason="sorry"))).held == 2
    lifted = [happened(events.PunishmentLifted(number=number, reason="sorry")) for number in (1, 2)]
    assert after(*both, *lifted).held == 0


def test_warnings_are_no_restriction() -> None:
    row = after(happened(events.UserWarned(reason="spam")))
    assert (row.open_punishments, row.version, profile.state(row, NOW)) == ({}, 1, 0)


@pytest.mark.parametrize(
    "ending",
    [
        events.PunishmentLapsed(number=1),
        events.PunishmentLifted(number=1, reason="sorry"),
        events.PunishmentVoided(number=1, reason="error"),
        events.PunishmentOverturned(number=1, reason="appeal"),
        events.PunishmentSuperseded(number=1, by=3),
    ],
)
def test_every_kind_of_end_ends_the_restriction(ending: events.Event) -> None:
    row = after(banned(NOW + DAY), happened(ending, NOW + HOUR))
    assert (row.open_punishments, row.banned_until, profile.state(row, NOW)) == ({}, None, 0)


def test_the_end_of_one_punishment_leaves_the_others() -> None:
    row = after(
        timed_out(NOW + DAY), banned(NOW + 2 * DAY), happened(events.PunishmentSuperseded(number=2, by=4)), banned(None)
    )
    assert row.open_punishments == {1: (TIMEOUT, NOW + DAY), 4: (BAN, None)}
    assert (row.banned_until, row.timeout_until) == (FOREVER, NOW + DAY)


def test_an_amended_end_moves_the_restriction() -> None:
    amended = events.PunishmentAmended(
        number=1, old_reason="raid", reason="raid", old_expires_at=NOW + DAY, expires_at=NOW + HOUR
    )
    row = after(banned(NOW + DAY), happened(amended))
    assert row.banned_until == NOW + HOUR


def test_an_imported_ban_that_is_long_over_restricts_nobody() -> None:
    row = after(
        REGISTERED,
        banned(NOW + DAY),
        banned(NOW - 300 * DAY, NOW - 400 * DAY),
        happened(events.PunishmentLapsed(number=3), NOW - 300 * DAY),
    )
    assert (row.open_punishments, row.updated_at, row.version) == ({2: (BAN, NOW + DAY)}, NOW, 4)


def test_erasure_takes_name_and_avatar_and_leaves_level_tier_and_punishments() -> None:
    row = after(
        REGISTERED,
        granted(3, None, NOW),
        banned(None),
        happened(events.PermissionChanged(old_level=0, new_level=1, reason="promoted")),
        happened(events.SubjectErased(reason="request"), NOW + HOUR),
    )
    assert (row.registered, row.username, row.username_key, row.named_at, row.avatar_url) == (False, *[None] * 4)
    assert (row.level, row.tier, row.banned_until, row.version, row.updated_at) == (1, 3, FOREVER, 5, NOW + HOUR)


def test_an_erased_name_that_a_replay_reads_is_nobodys_name() -> None:
    row = after(Happened(USER, events.UserRegistered(username=events.ERASED)))
    assert (row.registered, row.username, row.username_key) == (True, None, None)


def test_a_user_can_be_registered_again_after_an_erasure() -> None:
    again = happened(events.UserRegistered(username="New"), NOW + DAY)
    row = after(REGISTERED, happened(events.SubjectErased(reason="request")), again)
    assert (row.registered, row.username, row.created_at) == (True, "New", NOW + DAY)


@given(history=histories())
def test_the_state_that_decides_makes_the_row_that_the_fold_makes(history: list[Happened]) -> None:
    events_of = [one for one in recorded(history) if one.stream == "user:1"]
    state = fold(Subject("user", 1), events_of)
    assert isinstance(state, User)
    row = folded(profile.PROJECTOR, *history).get((1,))
    if row is not None:
        # What only the fold needs.
        row = msgspec.structs.replace(row, named_at=None, level_at=None, tier_at=None)
    assert profile.profile_of(state) == row


@pytest.mark.parametrize("stream", ["guild:7", "bot:7"])
def test_what_happens_to_guilds_and_bots_is_no_profiles(stream: str) -> None:
    history: list[Any] = [Happened(stream, events.SubjectErased(reason="request"))]
    assert folded(profile.PROJECTOR, *history) == {}

"""What a stream adds up to: in the order of the ledger, and still right when an import brings older events later."""

from datetime import datetime, timedelta

import pytest

from modledger.domain import events
from modledger.domain.envelope import SYSTEM, Subject
from modledger.domain.subjects import Bot, Guild, User, evolve, fold, new
from tests.scenario import (
    ADMIN,
    BEFORE,
    DAY,
    FIRST_POSITION,
    HOUR,
    MODERATOR,
    NOW,
    SECOND,
    Happened,
    bot,
    guild,
    happened,
    has_level,
    is_banned,
    is_timed_out,
    recorded,
    user,
)


def folded(*facts: Happened) -> User | Guild | Bot:
    subject = facts[0].subject
    return fold(
        subject,
        [
            recorded(fact, version=version, position=FIRST_POSITION + version - 1)
            for version, fact in enumerate(facts, 1)
        ],
    )


def guild_of(*facts: Happened) -> Guild:
    state = folded(*facts)
    assert isinstance(state, Guild)
    return state


def bot_of(*facts: Happened) -> Bot:
    state = folded(*facts)
    assert isinstance(state, Bot)
    return state


def user_of(*facts: Happened) -> User:
    state = folded(*facts)
    assert isinstance(state, User)
    return state


def granted(tier: int, until: datetime | None, *, at: datetime) -> Happened:
    return happened(user(1), events.SubscriptionGranted(old_tier=0, tier=tier, expires_at=until), at=at)


@pytest.mark.parametrize("subject", [user(1), guild(2), bot(3)], ids=str)
def test_a_subject_never_seen_is_at_version_zero_and_has_no_dates(subject: Subject) -> None:
    state = new(subject)
    assert (state.id, state.version, state.registered) == (subject.id, 0, False)
    assert (state.created_at, state.updated_at) == (None, None)


def test_two_subjects_share_no_punishments() -> None:
    one, other = new(user(1)), new(user(2))
    evolve(one, recorded(is_banned(1), version=1, position=1))
    assert isinstance(one, User)
    assert isinstance(other, User)
    assert (len(one.punishments), len(other.punishments)) == (1, 0)


def test_the_version_is_the_number_of_events() -> None:
    assert user_of(has_level(1, 1), is_banned(1), has_level(1, 0)).version == 3


def test_a_subject_exists_since_its_first_event_and_once_registered_since_then() -> None:
    banned = is_banned(1, at=NOW - DAY)
    registered = happened(user(1), events.UserRegistered(username="ann"), at=NOW)
    assert user_of(banned).created_at == NOW - DAY
    assert user_of(banned, registered).created_at == NOW


def test_a_subject_was_updated_at_its_greatest_date() -> None:
    assert user_of(is_banned(1, at=NOW), has_level(1, 1, at=NOW - DAY)).updated_at == NOW


# -- imports bring older events later


def test_the_level_follows_the_date_and_not_the_place_in_the_ledger() -> None:
    assert user_of(has_level(1, 2, at=NOW), has_level(1, 1, at=NOW - DAY)).level == 2
    assert user_of(has_level(1, 1, at=NOW - DAY), has_level(1, 2, at=NOW)).level == 2


def test_of_two_levels_with_the_same_date_the_later_in_the_ledger_counts() -> None:
    assert user_of(has_level(1, 2), has_level(1, 1)).level == 1


def test_the_tier_follows_the_date_and_not_the_place_in_the_ledger() -> None:
    lifetime, old = granted(3, None, at=NOW), granted(2, NOW + DAY, at=NOW - DAY)
    for state in (user_of(lifetime, old), user_of(old, lifetime)):
        assert (state.tier, state.tier_until) == (3, None)


def test_an_old_end_that_is_imported_later_does_not_end_the_present_tier() -> None:
    ended = happened(user(1), events.SubscriptionEnded(old_tier=2), at=NOW - DAY)
    assert user_of(granted(2, NOW + DAY, at=NOW), ended).tier_at(NOW) == 2


def test_an_old_revocation_that_is_imported_later_does_not_end_the_present_tier() -> None:
    revoked = happened(user(1), events.SubscriptionRevoked(old_tier=2, reason="refund"), at=NOW - DAY)
    assert user_of(granted(2, NOW + DAY, at=NOW), revoked).tier_at(NOW) == 2


def test_an_old_trial_that_is_imported_later_is_used_up_and_changes_no_tier() -> None:
    trial = happened(user(1), events.TrialStarted(old_tier=0, expires_at=NOW - 3 * DAY), at=NOW - 10 * DAY)
    state = user_of(granted(3, None, at=NOW), trial)
    assert (state.tier, state.trial_used) == (3, True)


def test_the_owner_of_a_guild_follows_the_date_and_not_the_place_in_the_ledger() -> None:
    sold = happened(guild(2), events.GuildOwnerChanged(old_owner_id=None, owner_id=8), at=NOW)
    registered = happened(guild(2), events.GuildRegistered(name="Harbour", owner_id=7), at=NOW - DAY)
    state = folded(sold, registered)
    assert isinstance(state, Guild)
    assert (state.owner_id, state.name, state.created_at) == (8, "Harbour", NOW - DAY)


def test_an_older_change_of_a_guilds_owner_does_not_take_it_from_the_present_one() -> None:
    registered = happened(guild(2), events.GuildRegistered(name="Harbour", owner_id=7), at=NOW - 5 * DAY)
    to_eight = happened(guild(2), events.GuildOwnerChanged(old_owner_id=7, owner_id=8), at=NOW)
    to_nobody = happened(guild(2), events.GuildOwnerChanged(old_owner_id=7, owner_id=None), at=NOW - DAY)
    assert guild_of(registered, to_eight, to_nobody).owner_id == 8
    assert guild_of(registered, to_nobody, to_eight).owner_id == 8
    assert guild_of(registered, to_nobody).owner_id is None


def test_the_end_of_an_older_punishment_finds_it_by_its_number() -> None:
    lifted = happened(user(1), events.PunishmentLifted(number=2, reason="served"), at=NOW - 5 * DAY)
    old = is_banned(1, at=NOW - 9 * DAY)
    state = user_of(is_banned(1, at=NOW), old, lifted)
    assert [p.active(NOW) for p in state.punishments.values()] == [True, False]
    assert state.updated_at == NOW


# -- tiers and punishments at a moment


@pytest.mark.parametrize(("when", "tier"), [(-SECOND, 2), (timedelta(0), 0), (SECOND, 0)])
def test_a_tier_reads_as_basic_from_its_very_end_on(when: timedelta, tier: int) -> None:
    assert user_of(granted(2, NOW, at=BEFORE)).tier_at(NOW + when) == tier


@pytest.mark.parametrize(("when", "restricted"), [(-SECOND, True), (timedelta(0), False), (SECOND, False)])
def test_a_restriction_is_over_at_its_very_end_with_no_worker_running(when: timedelta, restricted: bool) -> None:
    for state in (user_of(is_timed_out(1, until=NOW)), user_of(is_banned(1, until=NOW))):
        assert state.restricted(NOW + when) is restricted


def test_recording_an_end_changes_no_answer_about_any_moment_after_it() -> None:
    before = user_of(is_banned(1, until=NOW), granted(2, NOW, at=BEFORE))
    after = user_of(
        is_banned(1, until=NOW),
        granted(2, NOW, at=BEFORE),
        happened(user(1), events.PunishmentLapsed(number=1), at=NOW),
        happened(user(1), events.SubscriptionEnded(old_tier=2), at=NOW),
    )
    for at in (NOW, NOW + SECOND, NOW + DAY):
        assert before.restricted(at) is after.restricted(at) is False
        assert before.tier_at(at) == after.tier_at(at) == 0
    assert before.punishments[1].ends_at == after.punishments[1].ends_at == NOW


def test_a_punishment_knows_its_number_position_issuer_and_last_change() -> None:
    longer = events.PunishmentAmended(
        number=2, old_reason="spam", reason="raid", old_expires_at=NOW, expires_at=NOW + HOUR
    )
    state = user_of(
        has_level(1, 0),
        is_timed_out(1, until=NOW, by=MODERATOR, at=NOW - DAY),
        happened(user(1), longer, at=NOW - HOUR, by=ADMIN),
    )
    punishment = state.punishments[2]
    assert (punishment.number, punishment.position, punishment.version) == (2, FIRST_POSITION + 1, 3)
    assert (punishment.issued_by, punishment.issued_at) == (MODERATOR, NOW - DAY)
    assert (punishment.reason, punishment.ends_at, punishment.updated_at) == ("raid", NOW + HOUR, NOW - HOUR)
    assert punishment.active(NOW)


@pytest.mark.parametrize(
    ("event", "kind", "reason"),
    [
        (events.PunishmentLifted(number=1, reason="served"), "lifted", "served"),
        (events.PunishmentVoided(number=1, reason="mistaken"), "voided", "mistaken"),
        (events.PunishmentOverturned(number=1, reason="appeal"), "overturned", "appeal"),
        (events.PunishmentSuperseded(number=1, by=3), "superseded", None),
        (events.PunishmentLapsed(number=1), "lapsed", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_of_the_five_ends_is_told_apart(event: events.Event, kind: str, reason: str | None) -> None:
    ending = user_of(is_banned(1), happened(user(1), event, at=NOW, by=ADMIN)).punishments[1].ending
    assert ending is not None
    assert (ending.kind, ending.at, ending.by, ending.reason) == (kind, NOW, ADMIN, reason)


def test_an_erasure_takes_the_text_and_leaves_everything_that_decides() -> None:
    state = user_of(
        happened(user(1), events.UserRegistered(username="ann", avatar_url="https://a/1.png")),
        has_level(1, 2),
        happened(user(1), events.TrialStarted(old_tier=0, expires_at=NOW + DAY)),
        is_banned(1, by=SYSTEM),
        happened(user(1), events.UserWarned(reason="rude")),
        happened(user(1), events.PunishmentLifted(number=5, reason="he said sorry")),
        happened(user(1), events.SubjectErased(reason="asked for"), at=NOW),
    )
    ending = state.punishments[5].ending
    assert ending is not None
    assert ending.reason == events.ERASED
    assert (state.registered, state.username, state.avatar_url) == (False, None, None)
    assert state.punishments[4].reason == events.ERASED
    assert (state.level, state.tier_at(NOW), state.trial_used, state.restricted(NOW)) == (2, 1, True, True)


def test_an_erased_guild_or_bot_keeps_its_owner() -> None:
    harbour = folded(
        happened(guild(2), events.GuildRegistered(name="Harbour", owner_id=7)),
        happened(guild(2), events.SubjectErased(reason="asked for")),
    )
    ferry = folded(
        happened(bot(3), events.BotRegistered(name="Ferry", owner_id=7)),
        happened(bot(3), events.SubjectErased(reason="asked for")),
    )
    assert isinstance(harbour, Guild)
    assert isinstance(ferry, Bot)
    assert (harbour.registered, harbour.name, harbour.owner_id) == (False, None, 7)
    assert (ferry.registered, ferry.name, ferry.owner_id) == (False, None, 7)


# -- guilds and bots


def test_a_guild_has_the_picture_and_the_state_that_it_was_given_last() -> None:
    inactive = (
        happened(guild(2), events.GuildRegistered(name="Harbour", avatar_url="https://a/1.png")),
        happened(guild(2), events.GuildAvatarChanged(old_avatar_url="https://a/1.png", avatar_url="https://a/2.png")),
        happened(guild(2), events.GuildStateChanged(old_state=0, state=1)),
    )
    active = happened(guild(2), events.GuildStateChanged(old_state=1, state=0))
    assert (guild_of(*inactive[:1]).state_set, guild_of(*inactive).state_set) == (0, 1)
    assert guild_of(*inactive).avatar_url == "https://a/2.png"
    assert guild_of(*inactive, active).state_set == 0


def test_a_guild_that_is_erased_and_registered_anew_is_still_inactive() -> None:
    state = guild_of(
        happened(guild(2), events.GuildStateChanged(old_state=0, state=1)),
        happened(guild(2), events.SubjectErased(reason="asked for")),
        happened(guild(2), events.GuildRegistered(name="Harbour")),
    )
    assert (state.registered, state.state_set) == (True, 1)


BOT_CHANGES = (
    happened(bot(3), events.BotRegistered(name="Ferry", owner_id=7)),
    happened(bot(3), events.BotAvatarChanged(old_avatar_url=None, avatar_url="https://a/2.png")),
    happened(bot(3), events.BotOwnerChanged(old_owner_id=7, owner_id=8)),
    happened(bot(3), events.BotTypeChanged(old_bot_type=3, bot_type=1)),
    happened(bot(3), events.BotRateLimitChanged(old_rate_limit_per_hour=1000, rate_limit_per_hour=5)),
    happened(bot(3), events.BotDeactivated()),
    happened(bot(3), events.BotKeyRegenerated()),
)


def test_a_bot_is_what_it_was_made_last() -> None:
    state = bot_of(*BOT_CHANGES)
    assert (state.avatar_url, state.owner_id, state.bot_type) == ("https://a/2.png", 8, 1)
    assert (state.rate_limit_per_hour, state.active, state.version) == (5, False, 7)
    assert bot_of(*BOT_CHANGES, happened(bot(3), events.BotActivated())).active


def test_a_bot_that_is_registered_anew_is_active_and_as_it_is_registered() -> None:
    erased = happened(bot(3), events.SubjectErased(reason="asked for"))
    assert (bot_of(*BOT_CHANGES, erased).owner_id, bot_of(*BOT_CHANGES, erased).active) == (8, False)
    state = bot_of(*BOT_CHANGES, erased, BOT_CHANGES[0])
    assert (state.registered, state.active, state.owner_id) == (True, True, 7)
    assert (state.bot_type, state.rate_limit_per_hour, state.avatar_url) == (3, 1000, None)

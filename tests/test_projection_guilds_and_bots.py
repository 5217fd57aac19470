"""The folds of guilds and bots, and what a guild says at a point in time."""

from datetime import datetime

import pytest

from modledger.domain import events
from modledger.projections import bots, guilds
from modledger.projections.bots import Bot
from modledger.projections.guilds import Guild
from modledger.projections.standing import FOREVER
from tests.projection_history import ADMIN, DAY, FIRST_POSITION, HOUR, NOW, SECOND, Happened, folded, only

GUILD, BOT = "guild:8", "bot:9"


def guild_after(*history: tuple[events.Event, datetime]) -> Guild:
    row = only(folded(guilds.PROJECTOR, *(Happened(GUILD, event, at, ADMIN) for event, at in history)))
    assert isinstance(row, Guild)
    return row


def bot_after(*history: tuple[events.Event, datetime]) -> Bot:
    row = only(folded(bots.PROJECTOR, *(Happened(BOT, event, at, ADMIN) for event, at in history)))
    assert isinstance(row, Bot)
    return row


REGISTERED = (events.GuildRegistered(name="Café", avatar_url="https://a.example/g.png", owner_id=7), NOW)


def test_a_registered_guild_has_name_owner_and_defaults() -> None:
    row = guild_after(REGISTERED)
    assert (row.guild_id, row.id, row.version, row.registered) == (8, FIRST_POSITION, 1, True)
    assert (row.name, row.owner_id, row.prefix) == ("Café", 7, "!")
    assert (row.created_at, row.updated_at, guilds.state(row, NOW)) == (NOW, NOW, 0)


def test_the_id_of_a_guild_is_the_position_of_its_first_event_whatever_that_was() -> None:
    rows = folded(
        guilds.PROJECTOR,
        Happened("user:1", events.UserRegistered(username="someone")),
        Happened(GUILD, events.GuildWarned(reason="spam")),
        Happened(GUILD, events.GuildRegistered(name="Late"), NOW + DAY),
    )
    row = only(rows)
    assert (row.id, row.version, row.created_at) == (FIRST_POSITION + 1, 2, NOW + DAY)


def test_name_prefix_and_owner_of_a_guild_change() -> None:
    row = guild_after(
        REGISTERED,
        (events.GuildRenamed(old_name="Café", name="BAR"), NOW + HOUR),
        (events.GuildPrefixChanged(old_prefix="!", prefix="?"), NOW + HOUR),
        (events.GuildOwnerChanged(old_owner_id=7, owner_id=None), NOW + HOUR),
    )
    assert (row.name, row.prefix, row.owner_id, row.version) == ("BAR", "?", None, 4)


def test_an_imported_older_owner_does_not_replace_a_newer_one() -> None:
    row = guild_after(
        (events.GuildOwnerChanged(old_owner_id=None, owner_id=70), NOW + DAY),
        REGISTERED,
    )
    assert (row.owner_id, row.name) == (70, "Café")


def test_a_guild_is_banned_until_the_very_second_in_which_its_blacklisting_ends() -> None:
    row = guild_after(REGISTERED, (events.GuildBlacklisted(reason="raid", expires_at=NOW + DAY), NOW))
    assert [guilds.state(row, at) for at in (NOW, NOW + DAY - SECOND, NOW + DAY)] == [2, 2, 0]
    assert (guilds.updated_at(row, NOW), guilds.updated_at(row, NOW + DAY)) == (NOW, NOW + DAY)


@pytest.mark.parametrize(
    "ending",
    [
        events.PunishmentLapsed(number=2),
        events.PunishmentLifted(number=2, reason="sorry"),
        events.PunishmentVoided(number=2, reason="error"),
        events.PunishmentOverturned(number=2, reason="appeal"),
        events.PunishmentSuperseded(number=2, by=4),
    ],
)
def test_every_kind_of_end_ends_a_blacklisting(ending: events.Event) -> None:
    blacklisted = (events.GuildBlacklisted(reason="raid"), NOW)
    assert guild_after(REGISTERED, blacklisted).blacklisted_until == FOREVER
    row = guild_after(REGISTERED, blacklisted, (ending, NOW + HOUR))
    assert (row.open_punishments, row.blacklisted_until, guilds.state(row, NOW)) == ({}, None, 0)


def test_the_tier_of_a_guild_follows_the_latest_date_and_ends_at_the_second() -> None:
    row = guild_after(
        (events.SubscriptionGranted(old_tier=0, tier=2, expires_at=NOW + DAY), NOW),
        (events.TrialStarted(old_tier=0, expires_at=NOW - 93 * DAY), NOW - 100 * DAY),
    )
    assert (row.tier, row.trial_used) == (2, True)
    assert (guilds.tier(row, NOW + DAY - SECOND), guilds.subscription_expires_at(row, NOW)) == (2, NOW + DAY)
    assert (guilds.tier(row, NOW + DAY), guilds.subscription_expires_at(row, NOW + DAY)) == (0, None)


def test_erasure_takes_name_and_avatar_of_a_guild_and_leaves_the_rest() -> None:
    row = guild_after(
        REGISTERED,
        (events.GuildBlacklisted(reason="raid"), NOW),
        (events.SubjectErased(reason="request"), NOW),
    )
    assert (row.registered, row.name, row.avatar_url) == (False, None, None)
    assert (row.owner_id, guilds.state(row, NOW)) == (7, 2)


def test_a_bot_is_registered_renamed_and_erased() -> None:
    registered = events.BotRegistered(name="Helper", owner_id=7, bot_type=2, rate_limit_per_hour=50)
    row = bot_after((registered, NOW), (events.BotRenamed(old_name="Helper", name="HELPER"), NOW + HOUR))
    assert row == Bot(
        bot_id=9,
        id=FIRST_POSITION,
        version=2,
        registered=True,
        name="HELPER",
        name_key="helper",
        name_code="helper",
        avatar_url=None,
        owner_id=7,
        bot_type=2,
        rate_limit_per_hour=50,
        active=True,
        keys_from=0,
        created_at=NOW,
        updated_at=NOW + HOUR,
    )
    erased = bot_after((registered, NOW), (events.SubjectErased(reason="request"), NOW + DAY))
    assert (erased.registered, erased.name, erased.name_key, erased.owner_id) == (False, None, "", 7)


def test_owner_type_limit_avatar_and_activity_of_a_bot_change() -> None:
    registered = (events.BotRegistered(name="Helper", owner_id=7), NOW)
    row = bot_after(
        registered,
        (events.BotOwnerChanged(old_owner_id=7, owner_id=70), NOW),
        (events.BotTypeChanged(old_bot_type=3, bot_type=1), NOW),
        (events.BotRateLimitChanged(old_rate_limit_per_hour=1000, rate_limit_per_hour=5), NOW),
        (events.BotAvatarChanged(old_avatar_url=None, avatar_url="https://a.example/b.png"), NOW),
        (events.BotDeactivated(), NOW + DAY),
    )
    assert (row.owner_id, row.bot_type, row.rate_limit_per_hour) == (70, 1, 5)
    assert (row.avatar_url, row.active, row.updated_at) == ("https://a.example/b.png", False, NOW + DAY)
    assert bot_after(registered, (events.BotDeactivated(), NOW), (events.BotActivated(), NOW)).active
    assert bot_after(
        registered, (events.BotDeactivated(), NOW), (events.SubjectErased(reason="x"), NOW), registered
    ).active


def test_the_keys_of_a_bot_are_void_from_a_new_key_and_from_an_erasure_on() -> None:
    registered = (events.BotRegistered(name="Helper", owner_id=7), NOW)
    assert bot_after(registered, (events.BotRenamed(old_name="Helper", name="Other"), NOW)).keys_from == 0
    assert bot_after(registered, (events.BotKeyRegenerated(), NOW)).keys_from == 2
    assert bot_after(registered, (events.SubjectErased(reason="request"), NOW), registered).keys_from == 2


def test_each_read_model_keeps_to_its_own_kind_of_subject() -> None:
    erased = [Happened(stream, events.SubjectErased(reason="request")) for stream in ("user:1", GUILD, BOT)]
    assert list(folded(guilds.PROJECTOR, *erased)) == [(8,)]
    assert list(folded(bots.PROJECTOR, *erased)) == [(9,)]

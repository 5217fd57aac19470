"""Who guilds and bots are: registered, updated by the staff, and brought up to date by bots."""

from typing import Any

import pytest

from modledger.domain import commands, events
from modledger.domain.commands import Command
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Subject
from modledger.domain.refusals import Conflict, Forbidden, Invalid, NotFound, Stale
from tests.scenario import (
    ADMIN,
    BOT,
    MODERATOR,
    NOBODY,
    OTHER_ADMIN,
    OWNER,
    Happened,
    bot,
    given,
    guild,
    happened,
    is_banned,
    is_bot,
    is_guild,
)

GUILD, FERRY = is_guild(200, owner_id=1), is_bot(300, owner_id=1)
ITSELF = Actor("bot", 300)
PICTURE, OTHER_PICTURE = "https://a/1.png", "https://a/2.png"
INACTIVE_GUILD = happened(guild(200), events.GuildStateChanged(old_state=0, state=1))
INACTIVE_BOT = happened(bot(300), events.BotDeactivated())
STALE = "The record has changed since: it is at version 1"


def erased(subject: Subject) -> Happened:
    return happened(subject, events.SubjectErased(reason="asked for"))


# -- guilds, by the staff


def test_a_guild_is_registered_by_a_bot_once() -> None:
    command = commands.RegisterGuild(guild_id=200, name="Harbour", owner_id=1)
    given().when(command, by=BOT).then(events.GuildRegistered(name="Harbour", owner_id=1))
    given(GUILD).when(command, by=BOT).then_refused(Conflict, "Guild 200 is already registered")


def test_a_guild_that_was_only_punished_before_can_be_registered() -> None:
    warned = happened(guild(200), events.GuildWarned(reason="raid"))
    command = commands.RegisterGuild(guild_id=200, name="Harbour")
    given(warned).when(command, by=BOT).then(events.GuildRegistered(name="Harbour"))


def test_an_update_of_a_guild_is_one_event_for_each_fact_that_changes() -> None:
    command = commands.UpdateGuild(guild_id=200, name=" Pier ", owner_id=2, state=1)
    given(GUILD).when(command, by=ADMIN).then(
        events.GuildRenamed(old_name="Harbour", name="Pier"),
        events.GuildOwnerChanged(old_owner_id=1, owner_id=2),
        events.GuildStateChanged(old_state=0, state=1),
    )


@pytest.mark.parametrize(
    ("changes", "event"),
    [
        ({"name": "Pier"}, events.GuildRenamed(old_name="Harbour", name="Pier")),
        ({"owner_id": 2}, events.GuildOwnerChanged(old_owner_id=1, owner_id=2)),
        ({"owner_id": None}, events.GuildOwnerChanged(old_owner_id=1, owner_id=None)),
        ({"state": 1}, events.GuildStateChanged(old_state=0, state=1)),
        ({"name": "Harbour", "owner_id": 1, "state": 1}, events.GuildStateChanged(old_state=0, state=1)),
    ],
    ids=str,
)
def test_an_update_of_a_guild_leaves_alone_what_it_does_not_change(changes: Any, event: events.Event) -> None:
    given(GUILD).when(commands.UpdateGuild(guild_id=200, **changes), by=ADMIN).then(event)


@pytest.mark.parametrize(
    "changes",
    [{"name": "Harbour "}, {"owner_id": 1}, {"state": 0}, {"name": "Harbour", "owner_id": 1, "state": 0}],
    ids=str,
)
def test_an_update_of_a_guild_to_what_it_is_does_nothing(changes: Any) -> None:
    given(GUILD).when(commands.UpdateGuild(guild_id=200, **changes), by=ADMIN).then_nothing()


def test_a_guild_without_an_owner_is_given_to_nobody_once_more_by_no_event() -> None:
    command = commands.UpdateGuild(guild_id=200, owner_id=None)
    given(is_guild(200, owner_id=None)).when(command, by=ADMIN).then_nothing()


def test_an_update_of_a_guild_names_what_it_changes() -> None:
    command = commands.UpdateGuild(guild_id=200)
    for scenario in (given(GUILD), given()):
        scenario.when(command, by=ADMIN).then_refused(Invalid, "name, owner_discord_id or state is required")


@pytest.mark.parametrize("state", [-1, 2, 3])
def test_a_guild_is_set_active_or_inactive_and_nothing_else(state: int) -> None:
    command = commands.UpdateGuild(guild_id=200, state=state)
    given(GUILD).when(command, by=ADMIN).then_refused(Invalid, "state must be between 0 and 1")


def test_an_inactive_guild_can_be_changed_and_set_active_again() -> None:
    scenario = given(GUILD, INACTIVE_GUILD)
    scenario.when(commands.UpdateGuild(guild_id=200, state=1), by=ADMIN).then_nothing()
    scenario.when(commands.UpdateGuild(guild_id=200, state=0), by=ADMIN).then(
        events.GuildStateChanged(old_state=1, state=0)
    )
    scenario.when(commands.SyncGuild(guild_id=200, name="Pier"), by=BOT).then(
        events.GuildRenamed(old_name="Harbour", name="Pier")
    )
    scenario.when(commands.ChangeGuildPrefix(guild_id=200, prefix="?"), by=Actor("user", 1)).then(
        events.GuildPrefixChanged(old_prefix="!", prefix="?")
    )


def test_a_blacklisted_guild_may_be_set_inactive() -> None:
    banned = happened(guild(200), events.GuildBlacklisted(reason="raid"))
    given(GUILD, banned).when(commands.UpdateGuild(guild_id=200, state=1), by=ADMIN).then(
        events.GuildStateChanged(old_state=0, state=1)
    )


def test_a_guild_that_is_not_registered_is_not_found_by_an_update() -> None:
    warned = happened(guild(200), events.GuildWarned(reason="raid"))
    for scenario in (given(), given(warned), given(GUILD, erased(guild(200)))):
        for changes in ({"name": "Pier"}, {"owner_id": 2}, {"state": 1}):
            command = commands.UpdateGuild(guild_id=200, **changes)
            scenario.when(command, by=ADMIN).then_refused(NotFound, "Guild not found")


def test_a_bot_may_report_that_a_guild_has_another_name_and_went_to_an_owner() -> None:
    command = commands.UpdateGuild(guild_id=200, name="Pier", owner_id=OWNER.id)
    given(GUILD).when(command, by=BOT).then(
        events.GuildRenamed(old_name="Harbour", name="Pier"),
        events.GuildOwnerChanged(old_owner_id=1, owner_id=OWNER.id),
    )


def test_a_bot_sets_no_guild_inactive() -> None:
    for changes in ({"state": 1}, {"state": 0}, {"name": "Pier", "state": 1}):
        command = commands.UpdateGuild(guild_id=200, **changes)
        given(GUILD).when(command, by=BOT).then_refused(Forbidden, "This needs a user's session")
    for actor in (SYSTEM, OPERATOR):
        given(GUILD).when(commands.UpdateGuild(guild_id=200, state=1), by=actor).then(
            events.GuildStateChanged(old_state=0, state=1)
        )


def test_a_moderator_updates_no_guild() -> None:
    for changes in ({"name": "Pier"}, {"owner_id": 2}, {"state": 1}):
        command = commands.UpdateGuild(guild_id=200, **changes)
        given(GUILD).when(command, by=MODERATOR).then_refused(Forbidden, "Admin access required")


def test_who_may_not_act_on_a_guild_learns_nothing_of_what_is_wrong_with_the_update() -> None:
    command = commands.UpdateGuild(guild_id=200, name="", owner_id=2, state=7)
    given(is_guild(200, owner_id=OTHER_ADMIN.id)).when(command, by=ADMIN, if_match=9).then_refused(
        Forbidden, "You cannot act on this guild"
    )


# -- guilds, by bots


@pytest.mark.parametrize("actor", [BOT, SYSTEM, OPERATOR], ids=str)
def test_a_bot_registers_a_guild_that_it_brings_for_the_first_time(actor: Actor) -> None:
    command = commands.SyncGuild(guild_id=200, name=" Harbour ", avatar_url=PICTURE, owner_id=1)
    registered = events.GuildRegistered(name="Harbour", avatar_url=PICTURE, owner_id=1)
    warned = happened(guild(200), events.GuildWarned(reason="raid"))
    for scenario in (given(), given(warned), given(GUILD, erased(guild(200)))):
        scenario.when(command, by=actor).then(registered)
    given().when(commands.SyncGuild(guild_id=200, name="Harbour"), by=actor).then(
        events.GuildRegistered(name="Harbour")
    )


def test_a_guild_is_not_registered_without_a_name() -> None:
    command = commands.SyncGuild(guild_id=200, avatar_url=PICTURE, owner_id=1)
    for scenario in (given(), given(GUILD, erased(guild(200)))):
        scenario.when(command, by=BOT).then_refused(Invalid, "name is required for a guild that is not registered")


def test_a_bot_brings_only_what_changed_of_a_guild_with_old_and_new_values() -> None:
    scenario = given(GUILD)
    scenario.when(commands.SyncGuild(guild_id=200, name="Pier", avatar_url=PICTURE, owner_id=2), by=BOT).then(
        events.GuildRenamed(old_name="Harbour", name="Pier"),
        events.GuildAvatarChanged(old_avatar_url=None, avatar_url=PICTURE),
        events.GuildOwnerChanged(old_owner_id=1, owner_id=2),
    )
    scenario.when(commands.SyncGuild(guild_id=200, name=" Harbour", owner_id=1), by=BOT).then_nothing()
    scenario.when(commands.SyncGuild(guild_id=200), by=BOT).then_nothing()


def test_a_guilds_picture_changes_from_the_one_it_had() -> None:
    had = happened(guild(200), events.GuildAvatarChanged(old_avatar_url=None, avatar_url=PICTURE))
    scenario = given(GUILD, had)
    scenario.when(commands.SyncGuild(guild_id=200, avatar_url=PICTURE), by=BOT).then_nothing()
    scenario.when(commands.SyncGuild(guild_id=200, avatar_url=OTHER_PICTURE), by=BOT).then(
        events.GuildAvatarChanged(old_avatar_url=PICTURE, avatar_url=OTHER_PICTURE)
    )


def test_no_person_brings_what_bots_report_of_a_guild() -> None:
    command = commands.SyncGuild(guild_id=200, name="Pier")
    for actor in (OWNER, ADMIN, NOBODY, Actor("user", 1)):
        for scenario in (given(GUILD), given()):
            scenario.when(command, by=actor).then_refused(Forbidden, "Only a bot brings this")


# -- bots, by the staff


def test_a_bot_is_registered_once_with_the_documented_defaults() -> None:
    command = commands.RegisterBot(bot_id=300, name="Ferry", owner_id=1)
    given().when(command, by=ADMIN).then(
        events.BotRegistered(name="Ferry", owner_id=1, bot_type=3, rate_limit_per_hour=1000)
    )
    given(FERRY).when(command, by=ADMIN).then_refused(Conflict, "Bot 300 is already registered")
    given(FERRY, erased(bot(300))).when(command, by=ADMIN).then(events.BotRegistered(name="Ferry", owner_id=1))


OUT_OF_RANGE: list[tuple[dict[str, Any], str]] = [
    ({"rate_limit_per_hour": 0}, "rate_limit_per_hour must be between 1 and 100000"),
    ({"rate_limit_per_hour": 100_001}, "rate_limit_per_hour must be between 1 and 100000"),
    ({"bot_type": 0}, "bot_type must be between 1 and 3"),
    ({"bot_type": 4}, "bot_type must be between 1 and 3"),
    ({"name": "x", "rate_limit_per_hour": 0}, "name must be between 2 and 32 characters"),
]


@pytest.mark.parametrize(("wrong", "message"), OUT_OF_RANGE)
def test_a_bot_out_of_range_is_refused_naming_the_first_bad_field(wrong: dict[str, Any], message: str) -> None:
    command = commands.RegisterBot(**{"bot_id": 300, "name": "Ferry", "owner_id": 1, **wrong})
    given().when(command, by=ADMIN).then_refused(Invalid, message)
    given(FERRY).when(commands.UpdateBot(bot_id=300, **wrong), by=ADMIN).then_refused(Invalid, message)


def test_an_update_of_a_bot_is_one_event_for_each_fact_that_changes() -> None:
    command = commands.UpdateBot(
        bot_id=300, name=" Barge ", owner_id=2, bot_type=1, rate_limit_per_hour=100_000, is_active=False
    )
    given(FERRY).when(command, by=ADMIN).then(
        events.BotRenamed(old_name="Ferry", name="Barge"),
        events.BotOwnerChanged(old_owner_id=1, owner_id=2),
        events.BotTypeChanged(old_bot_type=3, bot_type=1),
        events.BotRateLimitChanged(old_rate_limit_per_hour=1000, rate_limit_per_hour=100_000),
        events.BotDeactivated(),
    )


@pytest.mark.parametrize(
    ("changes", "event"),
    [
        ({"name": "Barge"}, events.BotRenamed(old_name="Ferry", name="Barge")),
        ({"owner_id": 2}, events.BotOwnerChanged(old_owner_id=1, owner_id=2)),
        ({"bot_type": 2}, events.BotTypeChanged(old_bot_type=3, bot_type=2)),
        ({"rate_limit_per_hour": 1}, events.BotRateLimitChanged(old_rate_limit_per_hour=1000, rate_limit_per_hour=1)),
        ({"is_active": False}, events.BotDeactivated()),
    ],
    ids=str,
)
def test_an_update_of_a_bot_leaves_alone_what_it_does_not_change(changes: Any, event: events.Event) -> None:
    given(FERRY).when(commands.UpdateBot(bot_id=300, **changes), by=ADMIN).then(event)


@pytest.mark.parametrize(
    "changes",
    [{"name": " Ferry"}, {"owner_id": 1}, {"bot_type": 3}, {"rate_limit_per_hour": 1000}, {"is_active": True}],
)
def test_an_update_of_a_bot_to_what_it_is_does_nothing(changes: Any) -> None:
    given(FERRY).when(commands.UpdateBot(bot_id=300, **changes), by=ADMIN).then_nothing()


def test_an_update_of_a_bot_names_what_it_changes() -> None:
    message = "name, owner_discord_id, bot_type, rate_limit_per_hour or is_active is required"
    for scenario in (given(FERRY), given()):
        scenario.when(commands.UpdateBot(bot_id=300), by=ADMIN).then_refused(Invalid, message)


def test_an_inactive_bot_can_be_changed_given_a_key_and_activated() -> None:
    scenario = given(FERRY, INACTIVE_BOT)
    scenario.when(commands.UpdateBot(bot_id=300, is_active=False), by=ADMIN).then_nothing()
    scenario.when(commands.UpdateBot(bot_id=300, is_active=True), by=ADMIN).then(events.BotActivated())
    scenario.when(commands.UpdateBot(bot_id=300, bot_type=2), by=ADMIN).then(
        events.BotTypeChanged(old_bot_type=3, bot_type=2)
    )
    scenario.when(commands.RegenerateBotKey(bot_id=300), by=ADMIN).then(events.BotKeyRegenerated())


def test_an_inactive_bot_is_active_again_when_it_is_registered_anew() -> None:
    scenario = given(FERRY, INACTIVE_BOT, erased(bot(300)), is_bot(300, owner_id=1))
    scenario.when(commands.UpdateBot(bot_id=300, is_active=True), by=ADMIN).then_nothing()


def test_each_regeneration_of_a_key_is_an_event_of_its_own() -> None:
    regenerated = happened(bot(300), events.BotKeyRegenerated())
    for actor in (ADMIN, OPERATOR, SYSTEM):
        for scenario in (given(FERRY), given(FERRY, regenerated)):
            scenario.when(commands.RegenerateBotKey(bot_id=300), by=actor).then(events.BotKeyRegenerated())


ABOUT_A_BOT: list[Command] = [
    commands.UpdateBot(bot_id=300, name="Barge"),
    commands.UpdateBot(bot_id=300, owner_id=2),
    commands.UpdateBot(bot_id=300, is_active=False),
    commands.RegenerateBotKey(bot_id=300),
]


@pytest.mark.parametrize("command", ABOUT_A_BOT, ids=str)
def test_a_bot_that_is_not_registered_is_not_found(command: Command) -> None:
    for scenario in (given(), given(FERRY, erased(bot(300)))):
        scenario.when(command, by=ADMIN).then_refused(NotFound, "Bot not found")


@pytest.mark.parametrize("command", ABOUT_A_BOT, ids=str)
def test_a_bot_is_no_affair_of_a_moderator_nor_of_a_bot_not_even_itself(command: Command) -> None:
    given(FERRY).when(command, by=MODERATOR).then_refused(Forbidden, "Admin access required")
    for actor in (BOT, ITSELF):
        given(FERRY).when(command, by=actor).then_refused(Forbidden, "This needs a user's session")


@pytest.mark.parametrize("command", ABOUT_A_BOT, ids=str)
def test_a_bot_that_changed_hands_is_protected_by_its_new_owner(command: Command) -> None:
    sold = happened(bot(300), events.BotOwnerChanged(old_owner_id=1, owner_id=OTHER_ADMIN.id or 0))
    given(FERRY, sold).when(command, by=ADMIN).then_refused(Forbidden, "You cannot act on this bot")
    assert given(FERRY, sold).when(command, by=OWNER).refused is None


def test_a_bot_cannot_be_given_to_someone_above_nor_to_oneself() -> None:
    for owner in (OWNER, OTHER_ADMIN, ADMIN):
        command = commands.UpdateBot(bot_id=300, owner_id=owner.id or 0)
        given(FERRY).when(command, by=ADMIN).then_refused(Forbidden, "You cannot act on this user")


# -- bots, by themselves


def test_a_bot_brings_its_own_picture_with_the_one_it_had() -> None:
    had = happened(bot(300), events.BotAvatarChanged(old_avatar_url=None, avatar_url=PICTURE))
    given(FERRY).when(commands.SyncBot(bot_id=300, avatar_url=PICTURE), by=ITSELF).then(
        events.BotAvatarChanged(old_avatar_url=None, avatar_url=PICTURE)
    )
    given(FERRY, had).when(commands.SyncBot(bot_id=300, avatar_url=OTHER_PICTURE), by=ITSELF).then(
        events.BotAvatarChanged(old_avatar_url=PICTURE, avatar_url=OTHER_PICTURE)
    )
    given(FERRY, had).when(commands.SyncBot(bot_id=300, avatar_url=PICTURE), by=ITSELF).then_nothing()
    given(FERRY, had).when(commands.SyncBot(bot_id=300), by=ITSELF).then_nothing()


def test_nobody_but_the_bot_itself_reports_on_it() -> None:
    command = commands.SyncBot(bot_id=300, avatar_url=PICTURE)
    for actor in (BOT, OWNER, ADMIN, Actor("user", 1), Actor("user", 300), SYSTEM, OPERATOR):
        given(FERRY).when(command, by=actor).then_refused(Forbidden, "A bot can only report on itself")


def test_a_bot_that_is_not_registered_has_nothing_to_report() -> None:
    command = commands.SyncBot(bot_id=300, avatar_url=PICTURE)
    for scenario in (given(), given(FERRY, erased(bot(300)))):
        scenario.when(command, by=ITSELF).then_refused(NotFound, "Bot not found")


def test_an_inactive_bot_reports_nothing() -> None:
    scenario = given(FERRY, INACTIVE_BOT)
    for command in (commands.SyncBot(bot_id=300, avatar_url=PICTURE), commands.SyncBot(bot_id=300)):
        scenario.when(command, by=ITSELF).then_refused(Forbidden, "Bot is inactive")


# -- what all of them have in common


@pytest.mark.parametrize("url", ["ftp://a/b", "javascript:alert(1)", "", "https://a/" + "x" * 2048, "https://a/\n"])
def test_a_picture_is_an_http_address_of_bounded_length(url: str) -> None:
    message = "avatar_url must be an http or https URL of at most 2048 characters"
    scenario = given(GUILD, FERRY)
    scenario.when(commands.SyncGuild(guild_id=200, avatar_url=url), by=BOT).then_refused(Invalid, message)
    scenario.when(commands.SyncGuild(guild_id=7, name="Pier", avatar_url=url), by=BOT).then_refused(Invalid, message)
    scenario.when(commands.SyncBot(bot_id=300, avatar_url=url), by=ITSELF).then_refused(Invalid, message)


@pytest.mark.parametrize(
    ("command", "actor"),
    [
        (commands.UpdateGuild(guild_id=200, name="Pier"), ADMIN),
        (commands.UpdateGuild(guild_id=200, owner_id=2), BOT),
        (commands.UpdateGuild(guild_id=200, state=1), ADMIN),
        (commands.SyncGuild(guild_id=200, name="Pier"), BOT),
        (commands.UpdateBot(bot_id=300, is_active=False), ADMIN),
        (commands.RegenerateBotKey(bot_id=300), ADMIN),
        (commands.SyncBot(bot_id=300, avatar_url=PICTURE), ITSELF),
        # Also where nothing would change: what the caller goes by is not so any more.
        (commands.UpdateGuild(guild_id=200, name="Harbour"), ADMIN),
        (commands.UpdateBot(bot_id=300, name="Ferry"), ADMIN),
        (commands.SyncBot(bot_id=300), ITSELF),
    ],
    ids=str,
)
def test_a_guild_or_bot_that_has_changed_since_is_not_changed(command: Command, actor: Actor) -> None:
    scenario = given(GUILD, FERRY)
    assert scenario.when(command, by=actor, if_match=1).refused is None
    scenario.when(command, by=actor, if_match=2).then_refused(Stale, STALE)


def test_a_banned_admin_changes_no_guild_and_no_bot() -> None:
    scenario = given(GUILD, FERRY, is_banned(ADMIN.id or 0))
    for command in (commands.UpdateGuild(guild_id=200, state=1), *ABOUT_A_BOT):
        scenario.when(command, by=ADMIN).then_refused(Forbidden, "Account restricted")

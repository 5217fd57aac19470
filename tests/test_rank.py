"""Who may do what to whom (api.md §2), as a table and through every command that it protects."""

import pytest
from msgspec import UNSET

from modledger.domain import commands, events
from modledger.domain.commands import Command
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor
from modledger.domain.rank import may_act_on
from modledger.domain.refusals import Conflict, Forbidden
from tests.scenario import (
    ADMIN,
    BOT,
    DAY,
    HOUR,
    MODERATOR,
    NOBODY,
    NOW,
    OTHER_ADMIN,
    OTHER_OWNER,
    OWNER,
    SECOND,
    Happened,
    bot,
    given,
    guild,
    happened,
    has_level,
    is_banned,
    is_bot,
    is_guild,
    is_timed_out,
    user,
)

ACCESS = {1: "Moderator access required", 2: "Admin access required", 3: "Owner access required"}
STANDING = [
    is_banned(1, by=SYSTEM),
    is_guild(200, owner_id=2),
    is_bot(300, owner_id=3),
    happened(user(4), events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None)),
]

# Every command of the staff with the level that it needs; each would be carried out for a sufficient actor.
STAFF_COMMANDS: list[tuple[int, Command]] = [
    (1, commands.IssueWarning(target=user(1), reason="spam")),
    (1, commands.IssueWarning(target=guild(200), reason="spam")),
    (1, commands.IssueTimeout(user_id=1, reason="spam", expires_at=NOW + HOUR)),
    (2, commands.IssueBan(target=user(2), reason="spam")),
    (2, commands.IssueBan(target=guild(200), reason="spam")),
    (2, commands.IssueBan(target=user(1), reason="spam", replace=True)),
    (2, commands.AmendPunishment(target=user(1), number=1, reason="raid")),
    (2, commands.LiftPunishment(target=user(1), number=1, reason="served")),
    (2, commands.VoidPunishment(target=user(1), number=1, reason="mistaken")),
    (2, commands.OverturnPunishment(target=user(1), number=1, reason="appeal")),
    (2, commands.GrantSubscription(target=user(1), tier=2)),
    (2, commands.StartTrial(target=user(1))),
    (2, commands.RevokeSubscription(target=user(4), reason="refund")),
    (2, commands.ChangePermission(user_id=1, level=1, reason="hired")),
    (2, commands.UpdateGuild(guild_id=200, name="Pier")),
    (2, commands.UpdateGuild(guild_id=200, owner_id=1)),
    (2, commands.UpdateGuild(guild_id=200, owner_id=None)),
    (2, commands.UpdateGuild(guild_id=200, state=1)),
    (2, commands.RegisterBot(bot_id=301, name="Barge", owner_id=1)),
    (2, commands.UpdateBot(bot_id=300, name="Barge")),
    (2, commands.UpdateBot(bot_id=300, owner_id=1)),
    (2, commands.UpdateBot(bot_id=300, is_active=False)),
    (2, commands.RegenerateBotKey(bot_id=300)),
    (3, commands.EraseSubject(target=user(1), reason="asked for")),
    (3, commands.EraseSubject(target=guild(200), reason="asked for")),
    (3, commands.EraseSubject(target=bot(300), reason="asked for")),
]

# The same, as far as they act on user 7 who stands at some level, or on what belongs to that user.
OF_SEVEN = [
    is_guild(207, owner_id=7),
    is_bot(307, owner_id=7),
    is_guild(200, owner_id=None),
    is_bot(300, owner_id=3),
    happened(user(7), events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None)),
]
COMMANDS_ON_SEVEN: list[tuple[int, Command, str]] = [
    (1, commands.IssueWarning(target=user(7), reason="spam"), "user"),
    (1, commands.IssueWarning(target=guild(207), reason="spam"), "guild"),
    (1, commands.IssueTimeout(user_id=7, reason="spam", expires_at=NOW + HOUR), "user"),
    (2, commands.IssueBan(target=user(7), reason="spam"), "user"),
    (2, commands.IssueBan(target=guild(207), reason="spam"), "guild"),
    (2, commands.GrantSubscription(target=guild(207), tier=2), "guild"),
    (2, commands.StartTrial(target=guild(207)), "guild"),
    (2, commands.RevokeSubscription(target=user(7), reason="refund"), "user"),
    (2, commands.UpdateGuild(guild_id=207, name="Pier"), "guild"),
    (2, commands.UpdateGuild(guild_id=207, owner_id=1), "guild"),
    (2, commands.UpdateGuild(guild_id=207, owner_id=None), "guild"),
    (2, commands.UpdateGuild(guild_id=200, owner_id=7), "user"),
    (2, commands.UpdateGuild(guild_id=207, state=1), "guild"),
    (2, commands.RegisterBot(bot_id=301, name="Barge", owner_id=7), "user"),
    (2, commands.UpdateBot(bot_id=307, name="Barge"), "bot"),
    (2, commands.UpdateBot(bot_id=307, owner_id=1), "bot"),
    (2, commands.UpdateBot(bot_id=300, owner_id=7), "user"),
    (2, commands.RegenerateBotKey(bot_id=307), "bot"),
    (3, commands.EraseSubject(target=user(7), reason="asked for"), "user"),
    (3, commands.EraseSubject(target=guild(207), reason="asked for"), "guild"),
    (3, commands.EraseSubject(target=bot(307), reason="asked for"), "bot"),
]


def named(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, Command) else None


@pytest.mark.parametrize(("actor_level", "targets"), [(0, set()), (1, {0}), (2, {0, 1}), (3, {0, 1, 2, 3})], ids=str)
def test_one_may_act_on_lower_levels_and_an_owner_on_owners(actor_level: int, targets: set[int]) -> None:
    assert {level for level in range(4) if may_act_on(5, actor_level, 6, level)} == targets


@pytest.mark.parametrize("level", range(4))
def test_nobody_may_act_on_themselves(level: int) -> None:
    assert not may_act_on(5, level, 5, 0)
    assert not may_act_on(5, level, 5, level)


@pytest.mark.parametrize(("actor_level", "may"), [(0, False), (1, True), (2, True), (3, True)])
def test_a_guild_without_an_owner_stands_at_level_zero(actor_level: int, may: bool) -> None:
    assert may_act_on(5, actor_level, None, 0) is may


@pytest.mark.parametrize(("least", "command"), STAFF_COMMANDS, ids=named)
def test_each_command_needs_its_level(least: int, command: Command) -> None:
    for level in range(4):
        tried = given(*STANDING, has_level(50, level)).when(command, by=Actor("user", 50))
        if level >= least:
            assert tried.refused is None
            assert tried.decided
        else:
            assert isinstance(tried.refused, Forbidden)
            # For what the system issued a moderator is told about Admins, everybody below about moderators.
            assert str(tried.refused) in {ACCESS[least], ACCESS[1]}


@pytest.mark.parametrize(("least", "command"), STAFF_COMMANDS, ids=named)
def test_a_user_never_seen_may_do_nothing_of_the_staffs(least: int, command: Command) -> None:
    tried = given(*STANDING).when(command, by=NOBODY)
    assert isinstance(tried.refused, Forbidden)


@pytest.mark.parametrize(("least", "command"), STAFF_COMMANDS, ids=named)
@pytest.mark.parametrize(
    "restriction",
    [is_timed_out(50, until=NOW + SECOND), is_banned(50, until=NOW + SECOND), is_banned(50)],
    ids=["timed out", "banned", "banned for ever"],
)
def test_a_restricted_actor_may_do_nothing_whatever_the_level(
    least: int, command: Command, restriction: Happened
) -> None:
    scenario = given(*STANDING, has_level(50, 3), restriction)
    scenario.when(command, by=Actor("user", 50)).then_refused(Forbidden, "Account restricted")


@pytest.mark.parametrize("restriction", [is_timed_out(50, until=NOW), is_banned(50, until=NOW)], ids=["out", "banned"])
def test_an_actor_is_free_again_at_the_very_second_of_the_end(restriction: Happened) -> None:
    tried = given(has_level(50, 1), restriction).when(
        commands.IssueWarning(target=user(1), reason="spam"), by=Actor("user", 50)
    )
    tried.then(events.UserWarned(reason="spam"))


def test_a_warning_restricts_nobody() -> None:
    warned = happened(user(50), events.UserWarned(reason="rude"))
    tried = given(has_level(50, 1), warned).when(
        commands.IssueWarning(target=user(1), reason="spam"), by=Actor("user", 50)
    )
    tried.then(events.UserWarned(reason="spam"))


@pytest.mark.parametrize(("least", "command"), STAFF_COMMANDS, ids=named)
def test_a_demoted_actor_has_the_new_level_only(least: int, command: Command) -> None:
    demoted = happened(user(50), events.PermissionChanged(old_level=3, new_level=0, reason="left"), at=NOW - SECOND)
    tried = given(*STANDING, has_level(50, 3), demoted).when(command, by=Actor("user", 50))
    assert isinstance(tried.refused, Forbidden)


@pytest.mark.parametrize(("least", "command", "kind"), COMMANDS_ON_SEVEN, ids=named)
@pytest.mark.parametrize("actor_level", [1, 2, 3])
@pytest.mark.parametrize("target_level", [0, 1, 2, 3])
def test_a_target_is_protected_by_its_own_or_its_owners_level(
    least: int, command: Command, kind: str, actor_level: int, target_level: int
) -> None:
    tried = given(*OF_SEVEN, has_level(50, actor_level), has_level(7, target_level)).when(command, by=Actor("user", 50))
    if actor_level < least:
        tried.then_refused(Forbidden, ACCESS[least])
    elif actor_level > target_level or actor_level == 3:
        assert tried.refused is None
        assert tried.decided
    else:
        tried.then_refused(Forbidden, f"You cannot act on this {kind}")


@pytest.mark.parametrize(("least", "command", "kind"), COMMANDS_ON_SEVEN, ids=named)
def test_nobody_acts_on_themselves_nor_through_what_they_own(least: int, command: Command, kind: str) -> None:
    scenario = given(*OF_SEVEN, has_level(7, 3))
    scenario.when(command, by=Actor("user", 7)).then_refused(Forbidden, f"You cannot act on this {kind}")


@pytest.mark.parametrize(("least", "command"), STAFF_COMMANDS, ids=named)
def test_the_operator_may_do_all_of_it(least: int, command: Command) -> None:
    tried = given(*STANDING).when(command, by=OPERATOR)
    assert tried.refused is None
    assert tried.decided


@pytest.mark.parametrize(("least", "command"), STAFF_COMMANDS, ids=named)
@pytest.mark.parametrize("actor", [BOT, Actor("user")], ids=["bot", "user without an id"])
def test_a_bot_or_a_nameless_user_may_do_nothing_of_the_staffs(least: int, command: Command, actor: Actor) -> None:
    tried = given(*STANDING).when(command, by=actor)
    if actor == BOT and isinstance(command, commands.UpdateGuild) and command.state is UNSET:
        # What a bot sees of its guilds.
        assert tried.refused is None
    else:
        tried.then_refused(Forbidden, "This needs a user's session")


STAFF_AND_MACHINES = {"Admin", "Owner", "system", "operator"}
BOTS = {"bot", "the bot itself", "bot without an id"}
WHO_MAY: list[tuple[Command, set[str]]] = [
    (commands.UpdateGuild(guild_id=200, name="Pier"), STAFF_AND_MACHINES | BOTS),
    (commands.UpdateGuild(guild_id=200, owner_id=1), STAFF_AND_MACHINES | BOTS),
    (commands.UpdateGuild(guild_id=200, owner_id=None), STAFF_AND_MACHINES | BOTS),
    (commands.UpdateGuild(guild_id=200, state=1), STAFF_AND_MACHINES),
    (commands.UpdateGuild(guild_id=200, name="Pier", owner_id=1, state=1), STAFF_AND_MACHINES),
    (commands.SyncGuild(guild_id=200, name="Pier"), BOTS | {"system", "operator"}),
    (commands.SyncGuild(guild_id=201, name="Pier"), BOTS | {"system", "operator"}),
    (commands.RegisterBot(bot_id=301, name="Barge", owner_id=1), STAFF_AND_MACHINES),
    (commands.UpdateBot(bot_id=300, name="Barge"), STAFF_AND_MACHINES),
    (commands.UpdateBot(bot_id=300, owner_id=1), STAFF_AND_MACHINES),
    (commands.UpdateBot(bot_id=300, bot_type=1), STAFF_AND_MACHINES),
    (commands.UpdateBot(bot_id=300, rate_limit_per_hour=1), STAFF_AND_MACHINES),
    (commands.UpdateBot(bot_id=300, is_active=False), STAFF_AND_MACHINES),
    (commands.RegenerateBotKey(bot_id=300), STAFF_AND_MACHINES),
    (commands.SyncBot(bot_id=300, avatar_url="https://a/1.png"), {"the bot itself"}),
]
EVERYBODY = {
    "nobody": NOBODY,
    "User": Actor("user", 50),
    "Moderator": MODERATOR,
    "Admin": ADMIN,
    "Owner": OWNER,
    "banned Owner": OTHER_OWNER,
    "the guild's owner": Actor("user", 2),
    "the bot's owner": Actor("user", 3),
    "user without an id": Actor("user"),
    "bot": BOT,
    "the bot itself": Actor("bot", 300),
    "bot without an id": Actor("bot"),
    "system": SYSTEM,
    "operator": OPERATOR,
}


@pytest.mark.parametrize(("command", "allowed"), WHO_MAY, ids=[str(command) for command, _ in WHO_MAY])
@pytest.mark.parametrize("who", EVERYBODY)
def test_guilds_and_bots_are_changed_by_those_in_the_table_only(command: Command, allowed: set[str], who: str) -> None:
    scenario = given(*STANDING, has_level(50, 0), is_banned(OTHER_OWNER.id or 0))
    tried = scenario.when(command, by=EVERYBODY[who])
    if who in allowed:
        assert tried.refused is None
        assert len(tried.decided) >= 1
    else:
        assert isinstance(tried.refused, Forbidden)


def test_the_system_changes_no_level_and_erases_nobody() -> None:
    for command in (
        commands.ChangePermission(user_id=1, level=1, reason="hired"),
        commands.EraseSubject(target=user(1), reason="asked for"),
    ):
        given(*STANDING).when(command, by=SYSTEM).then_refused(Forbidden, "This needs a user's session")


def test_a_guild_that_changed_hands_is_protected_by_its_new_owner() -> None:
    sold = happened(guild(200), events.GuildOwnerChanged(old_owner_id=2, owner_id=OTHER_ADMIN.id))
    warning = commands.IssueWarning(target=guild(200), reason="spam")
    scenario = given(is_guild(200, owner_id=2), sold)
    scenario.when(warning, by=ADMIN).then_refused(Forbidden, "You cannot act on this guild")
    scenario.when(warning, by=OTHER_ADMIN).then_refused(Forbidden, "You cannot act on this guild")
    scenario.when(warning, by=OWNER).then(events.GuildWarned(reason="spam"))


def test_a_guild_cannot_be_taken_from_someone_above_by_changing_its_owner() -> None:
    scenario = given(is_guild(200, owner_id=OWNER.id))
    command = commands.UpdateGuild(guild_id=200, owner_id=ADMIN.id)
    scenario.when(command, by=ADMIN).then_refused(Forbidden, "You cannot act on this guild")


def test_a_guild_cannot_be_given_to_someone_above_nor_to_oneself() -> None:
    scenario = given(is_guild(200, owner_id=1))
    for owner in (OWNER, OTHER_ADMIN, ADMIN):
        command = commands.UpdateGuild(guild_id=200, owner_id=owner.id)
        scenario.when(command, by=ADMIN).then_refused(Forbidden, "You cannot act on this user")


def test_an_erased_bot_of_someone_above_cannot_be_registered_for_somebody_else() -> None:
    erased = happened(bot(300), events.SubjectErased(reason="asked for"))
    scenario = given(is_bot(300, owner_id=OWNER.id or 0), erased)
    command = commands.RegisterBot(bot_id=300, name="Barge", owner_id=1)
    scenario.when(command, by=ADMIN).then_refused(Forbidden, "You cannot act on this bot")


def test_restriction_is_told_before_everything_else() -> None:
    command = commands.IssueWarning(target=MODERATOR_SUBJECT, reason=" ")
    scenario = given(is_banned(MODERATOR.id or 0))
    scenario.when(command, by=MODERATOR).then_refused(Forbidden, "Account restricted")


def test_who_may_not_act_learns_nothing_about_the_state_of_the_target() -> None:
    scenario = given(is_banned(1))
    command = commands.IssueBan(target=user(1), reason="spam")
    scenario.when(command, by=MODERATOR).then_refused(Forbidden, "Admin access required")
    tried = scenario.when(command, by=ADMIN)
    assert isinstance(tried.refused, Conflict)


def test_who_is_no_staff_learns_nothing_about_which_punishments_exist() -> None:
    scenario = given(is_banned(1))
    for number in (1, 2):
        command = commands.LiftPunishment(target=user(1), number=number, reason="served")
        scenario.when(command, by=NOBODY).then_refused(Forbidden, "Moderator access required")


def test_a_timeout_that_ran_out_days_ago_unrecorded_restricts_nobody() -> None:
    tried = given(has_level(50, 1), is_timed_out(50, until=NOW - DAY)).when(
        commands.IssueWarning(target=user(1), reason="spam"), by=Actor("user", 50)
    )
    tried.then(events.UserWarned(reason="spam"))


MODERATOR_SUBJECT = user(MODERATOR.id or 0)

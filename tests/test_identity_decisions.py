"""Who users are, the names and prefixes of all, and erasure."""

from typing import Any

import pytest

from modledger.domain import commands, events
from modledger.domain.commands import Command
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Subject
from modledger.domain.refusals import Conflict, Forbidden, Invalid, NotFound, Stale
from tests.scenario import (
    ADMIN,
    BOT,
    NOBODY,
    OWNER,
    Happened,
    bot,
    given,
    guild,
    happened,
    has_level,
    is_banned,
    is_bot,
    is_guild,
    user,
)

REGISTERED = happened(user(1), events.UserRegistered(username="ann", avatar_url="https://a/1.png"))
GUILD, FERRY = is_guild(200, owner_id=1), is_bot(300, owner_id=1)
NAMES = ["x", "日本　サーバー", "👩\u200d👩\u200d👧", "a\u00a0b", "مرحبا", "\U0001fae8"]


def erased(subject: Subject) -> Happened:
    return happened(subject, events.SubjectErased(reason="asked for"))


# -- users


@pytest.mark.parametrize("actor", [BOT, SYSTEM, OPERATOR], ids=str)
def test_a_user_is_registered_by_a_bot_the_system_or_the_operator(actor: Actor) -> None:
    command = commands.RegisterUser(user_id=1, username=" ann ", avatar_url="https://a/1.png")
    given(has_level(1, 2)).when(command, by=actor).then(
        events.UserRegistered(username="ann", avatar_url="https://a/1.png")
    )


@pytest.mark.parametrize(
    "command",
    [
        commands.RegisterUser(user_id=2, username="bea"),
        commands.UpdateUser(user_id=1, username="bea"),
        commands.RegisterGuild(guild_id=201, name="Pier"),
    ],
    ids=lambda command: type(command).__name__,
)
def test_no_person_brings_what_bots_report(command: Command) -> None:
    for actor in (OWNER, NOBODY, Actor("user", 1)):
        given(REGISTERED).when(command, by=actor).then_refused(Forbidden, "Only a bot brings this")


def test_a_registered_user_is_not_registered_again_until_erased() -> None:
    command = commands.RegisterUser(user_id=1, username="ann")
    given(REGISTERED).when(command, by=BOT).then_refused(Conflict, "User 1 is already registered")
    given(REGISTERED, erased(user(1))).when(command, by=BOT).then(events.UserRegistered(username="ann"))


def test_an_update_brings_only_what_changed_with_old_and_new_values() -> None:
    scenario = given(REGISTERED)
    both = commands.UpdateUser(user_id=1, username="bea", avatar_url="https://a/2.png")
    scenario.when(both, by=BOT).then(
        events.UserRenamed(old_username="ann", username="bea"),
        events.UserAvatarChanged(old_avatar_url="https://a/1.png", avatar_url="https://a/2.png"),
    )
    same = commands.UpdateUser(user_id=1, username=" ann", avatar_url="https://a/1.png")
    scenario.when(same, by=BOT).then_nothing()
    scenario.when(commands.UpdateUser(user_id=1), by=BOT).then_nothing()


def test_an_update_registers_nobody() -> None:
    command = commands.UpdateUser(user_id=1, username="bea")
    for scenario in (given(), given(is_banned(1)), given(REGISTERED, erased(user(1)))):
        scenario.when(command, by=BOT).then_refused(NotFound, "User not found")


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "javascript:alert(1)", "", "https://a/" + "x" * 2048, "https://a/\n", "https://a b"]
)
def test_an_avatar_is_an_http_address_of_bounded_length(url: str) -> None:
    message = "avatar_url must be an http or https URL of at most 2048 characters"
    for command in (
        commands.RegisterUser(user_id=2, username="bea", avatar_url=url),
        commands.UpdateUser(user_id=1, avatar_url=url),
        commands.RegisterGuild(guild_id=201, name="Pier", avatar_url=url),
        commands.RegisterBot(bot_id=301, name="Barge", owner_id=1, avatar_url=url),
    ):
        given(REGISTERED).when(command, by=OPERATOR).then_refused(Invalid, message)


# -- names

LENGTHS: list[tuple[Any, str, int, int]] = [
    (lambda name: commands.RegisterUser(user_id=2, username=name), "username", 1, 64),
    (lambda name: commands.UpdateUser(user_id=1, username=name), "username", 1, 64),
    (lambda name: commands.RegisterGuild(guild_id=201, name=name), "name", 1, 100),
    (lambda name: commands.UpdateGuild(guild_id=200, name=name), "name", 1, 100),
    (lambda name: commands.SyncGuild(guild_id=200, name=name), "name", 1, 100),
    (lambda name: commands.SyncGuild(guild_id=201, name=name), "name", 1, 100),
    (lambda name: commands.RegisterBot(bot_id=301, name=name, owner_id=1), "name", 2, 32),
    (lambda name: commands.UpdateBot(bot_id=300, name=name), "name", 2, 32),
]


@pytest.mark.parametrize(("command", "field", "least", "most"), LENGTHS)
def test_a_name_has_its_length_and_no_control_characters(command: Any, field: str, least: int, most: int) -> None:
    scenario = given(REGISTERED, GUILD, FERRY)
    for length in (least, most):
        assert scenario.when(command(f" {'x' * length} "), by=OPERATOR).refused is None
    for text in ("", " " * 10, "x" * (least - 1), "x" * (most + 1)):
        scenario.when(command(text), by=OPERATOR).then_refused(
            Invalid, f"{field} must be between {least} and {most} characters"
        )
    for text in ("ab\0cd", "ab\ncd", "ab\x1b[31mcd", "ab\x85cd"):
        scenario.when(command(text), by=OPERATOR).then_refused(Invalid, f"{field} must not contain control characters")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_of_any_script_is_kept_as_given(name: str) -> None:
    given(GUILD).when(commands.UpdateGuild(guild_id=200, name=name), by=BOT).then(
        events.GuildRenamed(old_name="Harbour", name=name)
    )


# -- prefixes


@pytest.mark.parametrize("prefix", ["!", "abcde", "مح", "🦀", "👩\u200d👩"], ids=ascii)
def test_users_choose_their_own_prefix_also_while_banned(prefix: str) -> None:
    if prefix == "!":
        given(is_banned(1)).when(commands.ChangeUserPrefix(user_id=1, prefix="!"), by=Actor("user", 1)).then_nothing()
    else:
        given(is_banned(1)).when(commands.ChangeUserPrefix(user_id=1, prefix=prefix), by=Actor("user", 1)).then(
            events.UserPrefixChanged(old_prefix="!", prefix=prefix)
        )


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("", "prefix must be between 1 and 5 characters"),
        ("abcdef", "prefix must be between 1 and 5 characters"),
        (" ", "prefix must not contain white space"),
        ("! ", "prefix must not contain white space"),
        ("a\u3000b", "prefix must not contain white space"),
        ("a\0", "prefix must not contain white space"),
    ],
    ids=ascii,
)
def test_a_prefix_has_one_to_five_characters_without_white_space(prefix: str, message: str) -> None:
    scenario = given(REGISTERED, GUILD)
    for command in (
        commands.ChangeUserPrefix(user_id=1, prefix=prefix),
        commands.ChangeGuildPrefix(guild_id=200, prefix=prefix),
    ):
        scenario.when(command, by=Actor("user", 1)).then_refused(Invalid, message)


def test_nobody_else_chooses_a_users_prefix() -> None:
    command = commands.ChangeUserPrefix(user_id=1, prefix="?")
    for actor in (OWNER, BOT, SYSTEM, NOBODY):
        given(REGISTERED).when(command, by=actor).then_refused(Forbidden, "You can only change your own prefix")


def test_a_user_never_seen_has_no_prefix_to_choose() -> None:
    command = commands.ChangeUserPrefix(user_id=1, prefix="?")
    given().when(command, by=Actor("user", 1)).then_refused(NotFound, "User not found")


def test_only_the_owner_chooses_a_guilds_prefix() -> None:
    command = commands.ChangeGuildPrefix(guild_id=200, prefix="?")
    given(GUILD, is_banned(1)).when(command, by=Actor("user", 1)).then(
        events.GuildPrefixChanged(old_prefix="!", prefix="?")
    )
    for actor in (OWNER, BOT, SYSTEM, NOBODY):
        given(GUILD).when(command, by=actor).then_refused(Forbidden, "Only the guild's owner may change its prefix")
    given(is_guild(200, owner_id=None)).when(command, by=SYSTEM).then_refused(
        Forbidden, "Only the guild's owner may change its prefix"
    )
    given().when(command, by=Actor("user", 1)).then_refused(NotFound, "Guild not found")


# -- versions


@pytest.mark.parametrize(
    ("command", "actor"),
    [
        (commands.ChangeUserPrefix(user_id=1, prefix="?"), Actor("user", 1)),
        (commands.ChangeGuildPrefix(guild_id=200, prefix="?"), Actor("user", 1)),
        (commands.UpdateUser(user_id=1, username="bea"), BOT),
        (commands.EraseSubject(target=user(1), reason="asked for"), OWNER),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_stale_if_match_is_refused(command: Command, actor: Actor) -> None:
    scenario = given(REGISTERED, GUILD, FERRY)
    assert scenario.when(command, by=actor, if_match=1).refused is None
    scenario.when(command, by=actor, if_match=2).then_refused(Stale, "The record has changed since: it is at version 1")


# -- erasure


@pytest.mark.parametrize("subject", [user(1), guild(200), bot(300)], ids=str)
def test_an_owner_or_the_operator_erases_a_subject(subject: Subject) -> None:
    command = commands.EraseSubject(target=subject, reason=" asked for ")
    for actor in (OWNER, OPERATOR):
        given(REGISTERED, GUILD, FERRY).when(command, by=actor).then(events.SubjectErased(reason="asked for"))
    given(REGISTERED, GUILD, FERRY).when(command, by=ADMIN).then_refused(Forbidden, "Owner access required")


@pytest.mark.parametrize(("subject", "message"), [(user(1), "User"), (guild(200), "Guild"), (bot(300), "Bot")])
def test_what_was_never_seen_cannot_be_erased(subject: Subject, message: str) -> None:
    command = commands.EraseSubject(target=subject, reason="asked for")
    given().when(command, by=OWNER).then_refused(NotFound, f"{message} not found")


def test_an_erasure_needs_a_reason() -> None:
    command = commands.EraseSubject(target=user(1), reason="\n")
    given(REGISTERED).when(command, by=OWNER).then_refused(Invalid, "reason must be between 1 and 512 characters")


def test_an_erased_user_can_still_be_punished_and_is_still_banned() -> None:
    scenario = given(REGISTERED, is_banned(1), erased(user(1)))
    scenario.when(commands.IssueWarning(target=user(1), reason="spam"), by=ADMIN).then(events.UserWarned(reason="spam"))
    tried = scenario.when(commands.IssueBan(target=user(1), reason="spam"), by=ADMIN)
    assert isinstance(tried.refused, Conflict)
    scenario.when(commands.UpdateGuild(guild_id=200, name="Pier"), by=Actor("user", 1)).then_refused(
        Forbidden, "Account restricted"
    )


def test_the_end_of_a_punishment_of_an_erased_user_can_be_amended_without_its_text() -> None:
    scenario = given(is_banned(1, why="something private"), erased(user(1)))
    command = commands.AmendPunishment(target=user(1), number=1, reason="new words")
    scenario.when(command, by=ADMIN).then(
        events.PunishmentAmended(
            number=1, old_reason="[erased]", reason="new words", old_expires_at=None, expires_at=None
        )
    )


def test_nobody_is_called_what_stands_for_an_erased_name() -> None:
    command = commands.RegisterUser(user_id=7, username=f" {events.ERASED} ")
    given().when(command, by=BOT).then_refused(Invalid, "username must not be [erased]")

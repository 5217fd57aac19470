"""``modledger show``: what HTTP would answer an Owner about the past, for the operator."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from modledger.domain import commands
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Subject
from modledger.domain.execute import execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.workers.runner import catch_up
from tests.http_client import GUILD, OWNER, USER, World
from tests.test_cli import modledger, on, refused, refused_at_once

HOUR = timedelta(hours=1)
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)

Acts = Callable[..., None]


@pytest.fixture
def act(ledger: PostgresLedger) -> Acts:
    def carry_out(command: Command, at: datetime, by: Actor = OPERATOR) -> None:
        execute(ledger, command, Context(actor=by, at=at, command_id=uuid4(), correlation_id=uuid4(), via="cli"))

    return carry_out


@pytest.fixture
def told(act: Acts, ledger: PostgresLedger, database: str) -> str:
    """A user who was renamed and warned, a guild and a bot that changed hands."""
    act(commands.RegisterUser(user_id=USER, username="anna"), NOW - 9 * HOUR, SYSTEM)
    act(commands.RegisterGuild(guild_id=GUILD, name="Guild", owner_id=USER), NOW - 9 * HOUR, SYSTEM)
    act(commands.RegisterBot(bot_id=777, name="Helper", owner_id=USER), NOW - 9 * HOUR)
    act(commands.IssueWarning(target=Subject("user", USER), reason="Straße"), NOW - 8 * HOUR)
    act(commands.UpdateUser(user_id=USER, username="bert"), NOW - 7 * HOUR, SYSTEM)
    act(commands.UpdateGuild(guild_id=GUILD, owner_id=5), NOW - 6 * HOUR)
    act(commands.UpdateBot(bot_id=777, owner_id=5, is_active=False), NOW - 6 * HOUR)
    catch_up(ledger, database, PROJECTORS)
    return database


def shown(database: str, *arguments: str) -> Any:
    done = modledger("show", *arguments, **on(database))
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def ago(hours: int) -> str:
    return (NOW - hours * HOUR).isoformat()


def test_a_user_is_shown_by_id_or_by_the_name_of_then(told: str) -> None:
    by_id, then = shown(told, "user", str(USER)), shown(told, "user", "ANNA", "--as-of", ago(8))
    assert (by_id["username"], then["username"]) == ("bert", "anna")
    assert [one["reason"] for one in then["punishments"]] == ["Straße"]
    assert [one["name"] for one in (*then["guilds"], *then["bots"])] == ["Guild", "Helper"]
    assert (by_id["guilds"], by_id["bots"]) == ([], [])
    assert shown(told, "user", "bert") == by_id
    for name, moment in (("anna", ago(7)), ("bert", ago(8)), ("nobody", ago(1))):
        refused(modledger("show", "user", name, "--as-of", moment, **on(told)), 1, "modledger: User not found")


def test_a_guild_and_a_bot_are_shown_as_they_were(told: str) -> None:
    guilds = [shown(told, "guild", str(GUILD), *more) for more in ([], ["--as-of", ago(7)])]
    bots = [shown(told, "bot", "777", *more) for more in ([], ["--as-of", ago(7)])]
    assert [one["owner_discord_id"] for one in (*guilds, *bots)] == ["5", str(USER)] * 2
    assert [one["is_active"] for one in bots] == [False, True]
    assert guilds[0]["subscription_history"] == []
    for kind, number in (("guild", GUILD), ("bot", 777)):
        refused(modledger("show", kind, str(number), "--as-of", ago(10), **on(told)), 1, "not found")
        refused(modledger("show", kind, "1", **on(told)), 1, "not found")


def test_nothing_was_known_before_it_was_recorded(told: str) -> None:
    now = datetime.now(UTC).isoformat()
    assert shown(told, "user", "anna", "--known-at", now, "--as-of", ago(8))["username"] == "anna"
    refused(modledger("show", "user", "anna", "--known-at", ago(1), "--as-of", ago(8), **on(told)), 1, "User not found")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("user", "anna", "--as-of", "yesterday"), ("--as-of", "2026-03-10T12:00:00Z")),
        (("user", "anna", "--known-at", "2026-03-10T12:00:00"), ("--known-at", "an offset such as Z")),
        (("guild", "7", "--as-of", "9000-01-01T00:00:00Z"), ("as_of must not be in the future",)),
        (("bot", "7", "--known-at", "9000-01-01T00:00:00Z"), ("known_at must not be in the future",)),
        (("guild", "Guild"), ("GUILD_ID",)),
        (("bot", "0"), ("BOT_ID",)),
        (("user", "9" * 19), ("NAME|ID",)),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_opened(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused_at_once(["show", *arguments], *words)


def test_a_wrong_call_ends_the_process_with_status_2(database: str) -> None:
    refused(modledger("show", "user", "0", **on(database)), 2, "NAME|ID")


def test_names_are_not_looked_up_in_tables_that_are_behind(told: str, act: Acts, ledger: PostgresLedger) -> None:
    act(commands.UpdateUser(user_id=USER, username="carl"), NOW, SYSTEM)
    refused(modledger("show", "user", "bert", **on(told)), 1, f"of {ledger.head()}: is modledger work running?")


def test_it_is_what_http_answers_an_owner(world: World) -> None:
    world.act(commands.IssueWarning(target=Subject("user", USER), reason="spam"), at=world.later(hours=-2))
    moment = world.later(hours=-1).isoformat()
    answer = world.get(f"/v1/users/profile/user?as_of={quote(moment)}", OWNER).json()
    assert shown(world.database, "user", "user", "--as-of", moment) == answer

"""``modledger erase``, and the worker that finishes what it began (docs/erasure.md)."""

import threading
import time
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest

from modledger.domain import commands, events
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, Subject
from modledger.domain.events import ERASED
from modledger.domain.execute import execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.http.sessions import open_session
from modledger.workers.eraser import run_eraser
from tests.test_cli import modledger, on, refused

NOW = datetime.now(UTC)
WHY = ("--reason", "Asked for by mail")


def given(ledger: PostgresLedger, command: Command) -> None:
    execute(ledger, command, Context(actor=OPERATOR, at=NOW, command_id=uuid4(), correlation_id=uuid4(), via="cli"))


def sessions(connection: psycopg.Connection) -> int:
    row = connection.execute("select count(*) from sessions").fetchone()
    assert row is not None
    return int(row[0])


SUBJECTS = {
    "user": commands.RegisterUser(user_id=7, username="ann"),
    "guild": commands.RegisterGuild(guild_id=7, name="Harbour"),
    "bot": commands.RegisterBot(bot_id=7, name="Ferry", owner_id=8),
}


@pytest.mark.parametrize("kind", SUBJECTS)
def test_the_operator_erases_users_guilds_and_bots(kind: str, database: str, ledger: PostgresLedger) -> None:
    given(ledger, SUBJECTS[kind])
    done = modledger("erase", kind, "7", *WHY, **on(database))
    assert (done.returncode, done.stdout) == (0, f"{kind} 7 erased (position 2)\n")
    first, last = ledger.load([f"{kind}:7"])[f"{kind}:7"]
    assert getattr(first.event, "username", getattr(first.event, "name", None)) == ERASED
    assert (last.event, last.actor, last.via) == (events.SubjectErased(reason=WHY[1]), OPERATOR, "cli")


def test_a_users_sessions_end_with_it_and_others_go_on(database: str, ledger: PostgresLedger) -> None:
    given(ledger, SUBJECTS["user"])
    given(ledger, SUBJECTS["guild"])
    with psycopg.connect(database, autocommit=True) as connection:
        open_session(connection, 7, 0, NOW)
        open_session(connection, 8, 0, NOW)
        assert modledger("erase", "guild", "7", *WHY, **on(database)).returncode == 0
        assert sessions(connection) == 2
        assert modledger("erase", "user", "7", *WHY, **on(database)).returncode == 0
        assert connection.execute("select user_id from sessions").fetchall() == [(8,)]


def test_a_repetition_is_refused_but_finishes_what_the_first_did_not(database: str, ledger: PostgresLedger) -> None:
    given(ledger, SUBJECTS["user"])
    given(ledger, commands.EraseSubject(target=Subject("user", 7), reason="Asked for"))
    with psycopg.connect(database, autocommit=True) as connection:
        open_session(connection, 7, 0, NOW)
        refused(modledger("erase", "user", "7", *WHY, **on(database)), 1, "User 7 is already erased")
        assert sessions(connection) == 0
    assert ledger.head() == 2


def test_whom_nobody_knows_cannot_be_erased(database: str) -> None:
    refused(modledger("erase", "user", "7", *WHY, **on(database)), 1, "User not found")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("user", "7"), "--reason"),
        (("user", "7", "--reason", " "), "--reason"),
        (("user", "7", "--reason", "x" * 513), "--reason"),
        (("user", "0", *WHY), "DISCORD_ID"),
        (("user", "ann", *WHY), "DISCORD_ID"),
        (("role", "7", *WHY), "'role'"),
    ],
    ids=str,
)
def test_a_bad_call_is_refused_and_changes_nothing(
    arguments: tuple[str, ...], word: str, database: str, ledger: PostgresLedger
) -> None:
    given(ledger, SUBJECTS["user"])
    refused(modledger("erase", *arguments, **on(database)), 2, word)
    assert ledger.head() == 1


def test_the_worker_finishes_an_erasure_whose_process_died(database: str, ledger: PostgresLedger) -> None:
    given(ledger, SUBJECTS["user"])
    given(ledger, commands.EraseSubject(target=Subject("user", 7), reason="Asked for"))
    stop = threading.Event()
    with psycopg.connect(database, autocommit=True) as connection:
        open_session(connection, 7, 0, NOW)
        threads = [run_eraser(database, stop) for _ in range(2)]
        while sessions(connection):
            time.sleep(0.05)
        # Finished once: who comes back is not logged out again.
        open_session(connection, 7, 0, NOW)
        before = connection.execute("select xmin::text from projection_tracking where application_name = 'erasures'")
        given(ledger, commands.RegisterUser(user_id=8, username="bob"))
        seen = before.fetchone()
        while (
            connection.execute(
                "select xmin::text from projection_tracking where application_name = 'erasures'"
            ).fetchone()
            == seen
        ):
            time.sleep(0.05)
        assert sessions(connection) == 1
    stop.set()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()

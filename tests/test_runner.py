"""The worker process: projectors follow the ledger, one of each is active, one that fails stops visibly and alone."""

import os
import signal
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest

from modledger.domain import commands, events
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, Recorded, Subject
from modledger.domain.execute import Outcome, execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.projections.projector import Key, Projector, checkpoint
from modledger.workers.runner import run_projectors
from tests.databases import MASTER_KEY
from tests.forked import start
from tests.test_ledger_contract import command, event

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
PATIENCE_SECONDS = 90


def given(ledger: PostgresLedger, command: Command) -> Outcome:
    context = Context(actor=OPERATOR, at=NOW, command_id=uuid4(), correlation_id=uuid4(), via="cli")
    return execute(ledger, command, context)


def warned(ledger: PostgresLedger, user_id: int) -> int:
    return given(ledger, commands.IssueWarning(target=Subject("user", user_id), reason="spam")).position


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


@contextmanager
def running(ledger: PostgresLedger, conninfo: str, projectors: Sequence[Projector[Any]]) -> Iterator[None]:
    stop = threading.Event()
    threads = run_projectors(ledger, conninfo, projectors, stop)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


def test_every_projector_follows_the_ledger(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    warned(ledger, 1)
    with running(ledger, database, PROJECTORS):
        head = warned(ledger, 2)
        eventually(lambda: all(checkpoint(connection, projector.name) == head for projector in PROJECTORS))
    rows = connection.execute("select user_id from punishments order by id").fetchall()
    assert rows == [(1,), (2,)]


def test_of_two_runners_of_a_projector_one_works_and_nothing_is_folded_twice(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    with running(ledger, database, PROJECTORS), running(ledger, database, PROJECTORS):
        for n in range(50):
            head = warned(ledger, n + 1)
        eventually(lambda: all(checkpoint(connection, projector.name) == head for projector in PROJECTORS))
    counted = connection.execute(
        "select total from punishment_counts where guild_id = 0 and issued_by = 0 and week = 0"
    ).fetchall()
    assert counted == [(50,)]


def test_a_projector_whose_fold_raises_stops_where_it_stands_and_the_others_go_on(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    broken = [
        fails_at(projector, user_id=2) if projector.name == "punishments" else projector for projector in PROJECTORS
    ]
    good = warned(ledger, 1)
    bad = warned(ledger, 2)
    head = warned(ledger, 3)

    with running(ledger, database, broken):
        eventually(lambda: failures(connection) != [])
        eventually(
            lambda: all(
                checkpoint(connection, projector.name) == head
                for projector in PROJECTORS
                if projector.name != "punishments"
            )
        )
    assert failures(connection) == [("punishments", bad, "user.warned.v1", "ValueError('planted')")]
    assert checkpoint(connection, "punishments") == good
    assert connection.execute("select user_id from punishments").fetchall() == [(1,)]


def test_a_projector_that_was_mended_goes_on_at_the_event_where_it_stopped(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    broken = [
        fails_at(projector, user_id=2) if projector.name == "punishments" else projector for projector in PROJECTORS
    ]
    warned(ledger, 1)
    warned(ledger, 2)
    head = warned(ledger, 3)
    with running(ledger, database, broken):
        eventually(lambda: failures(connection) != [])

    with running(ledger, database, PROJECTORS):
        eventually(lambda: checkpoint(connection, "punishments") == head and failures(connection) == [])
    assert connection.execute("select user_id from punishments order by id").fetchall() == [(1,), (2,), (3,)]


def test_an_event_that_cannot_be_read_stops_every_projector_right_before_it(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    good = [warned(ledger, 1), warned(ledger, 2)][-1]
    connection.execute(
        "insert into ledger (originator_id, originator_version, topic, state, recorded_at, actor, via)"
        " select 'user:9', 1, 'user.sainted.v1', state, recorded_at, actor, via from ledger where notification_id = %s",
        (good,),
    )
    bad = ledger.head()
    warned(ledger, 3)

    with running(ledger, database, PROJECTORS):
        eventually(lambda: len(failures(connection)) == len(PROJECTORS))
    assert {failure[1:3] for failure in failures(connection)} == {(bad, "user.sainted.v1")}
    assert {checkpoint(connection, projector.name) for projector in PROJECTORS} == {good}


def test_an_event_that_cannot_be_read_stops_only_the_projectors_that_handle_its_topic(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    good = warned(ledger, 1)
    connection.execute(
        "insert into ledger (originator_id, originator_version, topic, state, recorded_at, actor, via)"
        " select 'user:9', 1, 'user.banned.v1', '{}', recorded_at, actor, via from ledger where notification_id = %s",
        (good,),
    )
    bad = ledger.head()
    head = warned(ledger, 3)
    concerned = {projector.name for projector in PROJECTORS if "user.banned.v1" in projector.topics}
    assert "punishments" in concerned

    with running(ledger, database, PROJECTORS):
        eventually(
            lambda: {failure[:3] for failure in failures(connection)} == {(n, bad, "user.banned.v1") for n in concerned}
        )
        eventually(
            lambda: (
                {projector.name for projector in PROJECTORS if checkpoint(connection, projector.name) == head}
                == {projector.name for projector in PROJECTORS} - concerned
            )
        )
    assert {checkpoint(connection, name) for name in concerned} == {good}


def test_an_event_whose_row_does_not_fit_stops_its_projectors_right_before_it(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    good = warned(ledger, 1)
    level = events.PermissionChanged(old_level=0, new_level=40_000, reason="planted")
    bad = ledger.append(command(event("user:2", 1, level))).events[0].position
    head = warned(ledger, 3)

    with running(ledger, database, PROJECTORS):
        eventually(lambda: len(failures(connection)) == 2 and checkpoint(connection, "punishments") == head)
    assert {failure[:3] for failure in failures(connection)} == {
        ("profile", bad, "user.permission_changed.v1"),
        ("permission_history", bad, "user.permission_changed.v1"),
    }
    assert checkpoint(connection, "profile") == good


def test_a_standby_process_takes_over_from_one_that_was_killed(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    environment = {
        **os.environ,
        "MODLEDGER_DATABASE_URL": database,
        "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode(),
    }
    workers = [start(["-m", "modledger.workers", "work"], environment) for _ in range(2)]
    try:
        head = warned(ledger, 1)
        eventually(lambda: all(checkpoint(connection, projector.name) == head for projector in PROJECTORS))
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        head = warned(ledger, 2)
        eventually(lambda: all(checkpoint(connection, projector.name) == head for projector in PROJECTORS))
        workers[1].send_signal(signal.SIGTERM)
        assert workers[1].wait(PATIENCE_SECONDS) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def fails_at(projector: Projector[Any], *, user_id: int) -> Projector[Any]:
    """The projector with a bug in its fold: it cannot take a warning of that user."""

    def fold(rows: Mapping[Key, Any], recorded: Recorded) -> Sequence[Any]:
        if isinstance(recorded.event, events.UserWarned) and recorded.stream == f"user:{user_id}":
            raise ValueError("planted")
        return projector.fold(rows, recorded)

    return msgspec.structs.replace(projector, fold=fold)


def failures(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute("select projector, position, topic, error from projection_failures").fetchall()

"""Readers and writers go on while a read model is rebuilt and promoted: no read fails, none goes back in time."""

import os
import signal
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from bench.history import fill, history
from modledger.domain import commands
from modledger.domain.envelope import Subject
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import profile, punishments
from modledger.projections.catalog import PROJECTORS, create_missing, outdated, replaceable
from modledger.projections.projector import Projector, checkpoint
from modledger.projections.rebuild import create_replay
from modledger.projections.verification import verify_projector
from modledger.workers.migrate import migrate, require_migrated
from modledger.workers.replay import promote_replay, rebuild_outdated, run_replay
from modledger.workers.runner import catch_up
from tests.databases import later_template
from tests.forked import modledger, start
from tests.http_client import ADMIN, MASTER_KEY, World
from tests.product import NOT_YET
from tests.projection_history import contents
from tests.test_runner import eventually

GO_ON = threading.Event()
REBUILT: tuple[Projector[Any], ...] = (profile.PROJECTOR, punishments.PROJECTOR)


@pytest.fixture(scope="module")
def with_history(postgres_server: str, peopled_database: str) -> Iterator[str]:
    """The name of a database with the people of a world and something to fold, that is folded."""
    with later_template(postgres_server, peopled_database) as (name, url):
        with PostgresLedger(url, MASTER_KEY) as ledger:
            fill(ledger, [msgspec.structs.replace(new, stream=new.stream + "000") for new in history(6_000)])
            catch_up(ledger, url, PROJECTORS)
        yield name


@pytest.fixture(name="template")
def template_of_database(request: pytest.FixtureRequest, template_database: str) -> str:
    """That of ``busy`` tests is filled once."""
    return str(request.getfixturevalue("with_history")) if "busy" in request.fixturenames else template_database


@pytest.fixture
def busy(world: World, tmp_path: Path) -> Iterator[World]:
    """A world whose ledger has something to fold, with a worker process that follows it."""
    world.now = datetime.now(UTC)
    world.catching_up = False
    worker = start(["-m", "modledger.workers", "work"], {**environment(world), "MODLEDGER_DATA_DIR": str(tmp_path)})
    try:
        head = world.act(commands.IssueWarning(target=Subject("user", 3), reason="is the worker there?")).position
        eventually(lambda: all(checkpoint(world.connection, one.name) == head for one in PROJECTORS))
        # The people may be older than what is healthy to be without a seal.
        eventually(lambda: world.query("select count(*) from seals") != [(0,)])
        yield world
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait()


def environment(world: World) -> dict[str, str]:
    return {
        **os.environ,
        "MODLEDGER_DATABASE_URL": world.database,
        "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode(),
    }


def test_no_read_fails_or_goes_back_while_everything_is_rebuilt_and_promoted(busy: World) -> None:
    over = threading.Event()
    wrong: list[str] = []
    # One punishment more at each turn; every answer must know at least as many as any answer before it was asked.
    known = {"total": 0, "position": 0}
    reads = {"punishments": 0, "profile": 0, "health": 0}

    def write() -> None:
        while not over.is_set():
            busy.act(commands.IssueWarning(target=Subject("user", 4), reason="once more"))
            time.sleep(0.02)

    # With a breath between two, or they would take most of the machine.
    def search() -> None:
        while not over.wait(0.005):
            least = known["total"]
            answer = busy.get("/v1/admin/punishments/search?user_id=4&limit=1", ADMIN)
            if answer.status_code == 503 and NOT_YET in answer.text:
                # So slow a machine it was; whoever is told so asks again.
                continue
            if answer.status_code != 200 or answer.json()["total"] < least:
                wrong.append(answer.text)
            else:
                known["total"] = max(known["total"], answer.json()["total"])
                reads["punishments"] += 1

    def look() -> None:
        while not over.wait(0.005):
            answer = busy.get("/v1/users/profile/user", 4)
            if answer.status_code == 503 and NOT_YET in answer.text:
                continue
            if answer.status_code != 200 or answer.json()["username"] != "user":
                wrong.append(answer.text)
            reads["profile"] += 1

    def health() -> None:
        while not over.wait(0.005):
            least = known["position"]
            answer = busy.get("/health")
            position = answer.json()["projections"]["punishments"]["position"] if answer.status_code == 200 else -1
            if position < least or answer.json()["status"] != "healthy":
                wrong.append(answer.text)
            known["position"] = max(known["position"], position)
            reads["health"] += 1

    busy.token(ADMIN), busy.token(4)
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(one) for one in (write, search, look, health)]
        try:
            for _ in range(2):
                before = dict(reads)
                done = modledger(["replay", "all", "--processes", "2"], environment(busy))
                assert (done.returncode, "every read model is rebuilt" in done.stdout) == (0, True), done
                eventually(lambda before=before: all(reads[name] > before[name] for name in reads))  # type: ignore[misc]
        finally:
            over.set()
        for task in tasks:
            task.result()
    assert wrong == [], "\n".join(wrong)
    head = busy.ledger.head()
    eventually(lambda: all(checkpoint(busy.connection, one.name) == head for one in PROJECTORS))
    assert busy.query("select projector from read_models where generation <> 2") == []
    for projector in PROJECTORS:
        assert list(verify_projector(busy.database, projector, busy.ledger)) == []


def test_a_promotion_gives_way_to_a_reader_who_takes_long(busy: World) -> None:
    create_replay(busy.database, profile.PROJECTOR, busy.ledger)
    run_replay(busy.ledger, busy.database, profile.PROJECTOR, GO_ON)
    with psycopg.connect(busy.database) as slow, ThreadPoolExecutor(1) as pool:
        slow.execute("select count(*) from profiles")
        promotion = pool.submit(promote_replay, busy.ledger, busy.database, profile.PROJECTOR, GO_ON)
        for _ in range(20):
            assert busy.get("/v1/users/profile/user", 4).status_code == 200
        assert not promotion.done()
        slow.rollback()
        assert promotion.result().state == "live"


def newer(projector: Projector[Any]) -> Projector[Any]:
    """The projector as a later version of the program has it: with a column more, and another fold."""
    table = msgspec.structs.replace(projector.table, columns={**projector.table.columns, "shouted": "text"})
    row = msgspec.defstruct(
        "Shouting", [("shouted", str | None, None)], bases=(projector.row,), frozen=True, kw_only=True
    )

    def fold(rows: Any, recorded: Any) -> Sequence[Any]:
        found = []
        for one in projector.fold(rows, recorded):
            values = {name: getattr(one, name) for name in projector.table.columns}
            found.append(row(**values, shouted=values["reason"].upper()))
        return found

    return msgspec.structs.replace(projector, table=table, row=row, fold=fold, version=projector.version + 1)


def test_a_migration_that_changes_a_fold_rebuilds_beside_and_old_workers_end_without_a_write(busy: World) -> None:
    catalog = [newer(punishments.PROJECTOR)]
    assert outdated(busy.connection, catalog) == replaceable(busy.connection, catalog) == ["punishments"]
    before = contents(busy.connection, [punishments.TABLE])
    assert rebuild_outdated(busy.ledger, busy.database, catalog, GO_ON) == ["punishments"]
    assert outdated(busy.connection, catalog) == []
    # The old worker is still there: what comes now is for the new one.
    head = busy.act(commands.IssueWarning(target=Subject("user", 4), reason="after it")).position
    eventually(lambda: checkpoint(busy.connection, "profile") == head)
    assert contents(busy.connection, [punishments.TABLE]) == before
    assert checkpoint(busy.connection, "punishments") == head - 1
    assert busy.query("select count(*) from projection_failures") == [(0,)]
    catch_up(busy.ledger, busy.database, catalog)
    assert busy.query("select shouted from punishments order by id desc limit 1") == [("AFTER IT",)]
    assert busy.query("select count(*) from punishments where shouted is null") == [(0,)]
    assert list(verify_projector(busy.database, catalog[0], busy.ledger)) == []
    # And a reader of the old version reads on, since it names the columns that it knows.
    assert busy.get("/v1/admin/punishments/search?user_id=4", ADMIN).json()["total"] == 1
    assert rebuild_outdated(busy.ledger, busy.database, catalog, GO_ON) == []


REBUILD = """
import sys, threading
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import rebuild_folding, rebuild_steps
from modledger.projections.catalog import PROJECTORS
from modledger.workers.replay import rebuild_outdated
rebuild_folding.BATCH = rebuild_steps.BATCH = 100
with PostgresLedger(sys.argv[1], bytes(range(32)), connections=1) as ledger:
    rebuild_outdated(ledger, sys.argv[1], PROJECTORS, threading.Event())
"""


def test_a_migration_that_is_killed_is_taken_up_by_the_next(database: str, ledger: PostgresLedger) -> None:
    fill(ledger, history(3_000))
    catch_up(ledger, database, REBUILT)
    with psycopg.connect(database, autocommit=True) as connection:
        tables = [table for one in REBUILT for table in (one.table, *one.beside)]
        right = contents(connection, tables)
        names = [one.name for one in REBUILT]
        connection.execute("update read_models set fingerprint = 'older' where projector = any(%s)", (names,))
        connection.execute("update punishments set reason = 'of an older version'")
        patience = 0.1
        while outdated(connection):
            process = start(["-c", REBUILD, database])
            time.sleep(patience)
            process.kill()
            process.wait()
            patience *= 1.4
        assert contents(connection, tables) == right
        assert (
            connection.execute("select count(*) from pg_namespace where nspname ~ '^(replay|old)_'").fetchone() == (0,)
            or rebuild_outdated(ledger, database, PROJECTORS, GO_ON) == []
        )


def test_tables_that_are_missing_or_empty_are_made_in_their_place(database: str, ledger: PostgresLedger) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("update read_models set fingerprint = 'older' where projector = 'bots'")
        connection.execute("drop table guilds")
        assert outdated(connection) == ["guilds", "bots"]
        assert replaceable(connection) == []
        migrate(database)
        require_migrated(database)
        assert create_missing(connection) == []

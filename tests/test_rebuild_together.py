"""Several rebuilds that stand at the same place go through the ledger together, and end as each alone would."""

import os
import subprocess
import tempfile
import threading
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from bench.history import fill, history
from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import audit_log, permission_history, profile
from modledger.projections.catalog import PROJECTORS
from modledger.projections.projector import Key, Projector
from modledger.projections.rebuild import (
    Replay,
    ReplayAborted,
    ReplayFailed,
    ReplayRefused,
    abort,
    create_replay,
    create_replays,
    place_of,
    replays,
)
from modledger.projections.rebuild_folding import fold_parts
from modledger.workers.migrate import migrate
from modledger.workers.postgres import EmbeddedPostgres
from modledger.workers.replay import promote_replay, run_replays
from modledger.workers.runner import catch_up
from tests.databases import MASTER_KEY
from tests.forked import start
from tests.postgres_processes import crash, execute, until
from tests.projection_history import contents

TABLES = [table for projector in PROJECTORS for table in (projector.table, *projector.beside)]
THREE = (profile.PROJECTOR, permission_history.PROJECTOR, audit_log.PROJECTOR)
GO_ON = threading.Event()


def standing(conn: psycopg.Connection) -> dict[str, Replay]:
    return {one.projector: one for one in replays(conn, place_of(conn, "all"))}


def test_all_of_them_together_give_the_tables_that_following_the_ledger_gives(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    fill(ledger, history(2_000))
    catch_up(ledger, database, PROJECTORS)
    live = contents(conn, TABLES)
    created = create_replays(database, PROJECTORS, ledger)
    assert [one.projector for one in created] == [projector.name for projector in PROJECTORS]
    assert {(one.state, one.head, one.total) for one in created} == {("created", 2_000, 2_000)}
    for one in run_replays(ledger, database, PROJECTORS, GO_ON, processes=2):
        assert (one.state, one.note) == ("verified", "equal to the tables that are read, both ways")
        assert (one.passed, one.folded) == (2_000, True)
    for projector in PROJECTORS:
        promote_replay(ledger, database, projector, GO_ON)
    assert contents(conn, TABLES) == live


def test_of_several_all_are_begun_or_none(ledger: PostgresLedger, database: str, conn: psycopg.Connection) -> None:
    create_replay(database, permission_history.PROJECTOR, ledger)
    with pytest.raises(ReplayRefused, match="there is a rebuild of permission_history already"):
        create_replays(database, THREE, ledger)
    assert list(standing(conn)) == ["permission_history"]


def test_one_that_stands_elsewhere_counts_nothing_twice(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    whole = history(1_500)
    fill(ledger, whole[:1_000])
    create_replay(database, permission_history.PROJECTOR, ledger)
    fold_parts(database, [permission_history.PROJECTOR], ledger, GO_ON)
    create_replay(database, profile.PROJECTOR, ledger)
    fill(ledger, whole[1_000:])
    create_replay(database, audit_log.PROJECTOR, ledger)
    catch_up(ledger, database, PROJECTORS)
    live = contents(conn, TABLES)
    notes = {one.note for one in run_replays(ledger, database, THREE, GO_ON)}
    assert notes == {"equal to the tables that are read, both ways"}
    for projector in THREE:
        promote_replay(ledger, database, projector, GO_ON)
    assert contents(conn, TABLES) == live


@pytest.mark.parametrize("place", range(3))
def test_one_that_cannot_fold_an_event_fails_alone_and_the_others_are_folded(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection, place: int
) -> None:
    def broken(rows: Mapping[Key, Any], recorded: Recorded) -> Sequence[Any]:
        if isinstance(recorded.event, events.PermissionChanged) and recorded.stream == "user:7":
            raise ValueError("planted")
        return permission_history.fold(rows, recorded)

    fill(ledger, history(600))
    sound: list[Projector[Any]] = [profile.PROJECTOR, audit_log.PROJECTOR]
    together = list(sound)
    together.insert(place, msgspec.structs.replace(permission_history.PROJECTOR, fold=broken))
    create_replays(database, together, ledger)
    with pytest.raises(ReplayFailed, match=r"cannot fold user.permission_changed.v1 at position \d+"):
        fold_parts(database, together, ledger, GO_ON)
    found = standing(conn)
    assert "planted" in str(found["permission_history"].error)
    assert not found["permission_history"].folded
    # What comes before it in the order is done; whoever folds the others next finds all that is left.
    fold_parts(database, sound, ledger, GO_ON)
    found = standing(conn)
    for projector in sound:
        assert (found[projector.name].folded, found[projector.name].passed, found[projector.name].error) == (
            True,
            600,
            None,
        )


def test_when_one_of_them_is_aborted_it_is_named_and_nothing_more_is_written(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    def aborting(rows: Mapping[Key, Any], recorded: Recorded) -> Sequence[Any]:
        if aborter.ident is None:
            aborter.start()
            # It waits for the batch in hand.
            while not conn.execute("select from pg_locks where not granted").fetchall():
                pass
        return profile.fold(rows, recorded)

    class AfterTheAbort(threading.Event):
        """Asked between two batches, and waits: a busy machine might let all be folded before the abort is through."""

        def is_set(self) -> bool:
            if aborter.ident is not None:
                aborter.join()
            return super().is_set()

    fill(ledger, history(300))
    create_replays(database, THREE, ledger)
    aborter = threading.Thread(target=abort, args=(database, "audit_log"))
    first = msgspec.structs.replace(profile.PROJECTOR, fold=aborting)
    with pytest.raises((ReplayAborted, ReplayRefused), match="rebuild of audit_log"):
        fold_parts(database, [first, *THREE[1:]], ledger, AfterTheAbort())
    aborter.join()
    assert standing(conn)["audit_log"].state == "aborted"
    assert conn.execute("select to_regnamespace('replay_audit_log')").fetchone() == (None,)


def test_whoever_rebuilds_everything_and_is_killed_another_goes_on_and_nothing_counts_twice(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    fill(ledger, history(2_000))
    catch_up(ledger, database, PROJECTORS)
    live = contents(conn, TABLES)
    command = ["-m", "modledger.workers", "replay", "all", "--processes", "2", "--drop"]
    at_work = "select from pg_stat_activity where application_name = 'modledger replay'"
    environment = {"MODLEDGER_DATABASE_URL": database, "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode()}
    patience, killed = 0.4, 0
    while True:
        with tempfile.TemporaryFile("w+") as said:
            process = start(command, {**os.environ, **environment}, stderr=said)
            try:
                status = process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                # Those who helped it leave as well.
                until(lambda: conn.execute(at_work).rowcount == 0)
                patience, killed = patience * 1.4, killed + 1
                assert killed < 60
                continue
            said.seek(0)
            assert status == 0, said.read()
        break
    assert killed
    assert {one.state for one in standing(conn).values()} == {"dropped"}
    assert contents(conn, TABLES) == live


def test_batches_that_a_killed_server_takes_back_are_made_again(pg_root: Path) -> None:
    class CrashingServer(threading.Event):
        """Asked before each batch; the server is killed before the second, when the first is not on the disk."""

        def is_set(self) -> bool:
            if now := _passed(url):
                passed.append(now)
                crash(pg_root)
            return super().is_set()

    passed: list[int] = []
    tables = [table for projector in THREE for table in (projector.table, *projector.beside)]
    server = EmbeddedPostgres(pg_root)
    url = server.attach()
    try:
        # Nobody else's flush, and what nobody waits for is written when this process of the server's comes round.
        execute(url, "alter system set autovacuum = off")
        execute(url, "alter system set wal_writer_delay = '10s'")
        execute(url, "select pg_reload_conf()")
        migrate(url)
        with PostgresLedger(url, MASTER_KEY) as ledger:
            fill(ledger, history(6_000))
            catch_up(ledger, url, THREE)
            with psycopg.connect(url) as connection:
                live = contents(connection, tables)
            create_replays(url, THREE, ledger)
            with pytest.raises(psycopg.OperationalError):
                fold_parts(url, THREE, ledger, CrashingServer())
            assert server.attach() == url
            assert _passed(url) < passed[0]
            for one in run_replays(ledger, url, THREE, GO_ON):
                assert (one.state, one.note) == ("verified", "equal to the tables that are read, both ways")
            for projector in THREE:
                promote_replay(ledger, url, projector, GO_ON)
        with psycopg.connect(url) as connection:
            assert contents(connection, tables) == live
    finally:
        server.stop()
        server.detach()


def _passed(url: str) -> int:
    with psycopg.connect(url) as connection:
        return sum(one.passed for one in replays(connection, place_of(connection, "all")))

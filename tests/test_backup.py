"""Backup and restore with PostgreSQL's own programs, as docs/backup.md tells an operator to do it."""

import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest

from bench.processes import free_port
from modledger.domain.commands import Command, Context, EraseSubject, IssueBan, RegisterUser
from modledger.domain.envelope import OPERATOR, Subject
from modledger.domain.events import UserBanned
from modledger.domain.execute import execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.projections.ledger_verification import verify_ledger
from modledger.workers.key_file import read_key
from modledger.workers.migrate import require_migrated
from modledger.workers.postgres import EmbeddedPostgres, postgres_bin
from modledger.workers.runner import catch_up
from tests.databases import MASTER_KEY
from tests.documented import blocks
from tests.made_once import fast_folder
from tests.postgres_processes import ask, until
from tests.postgres_processes import execute as execute_sql
from tests.product import PATIENCE_SECONDS
from tests.test_cli import modledger, refused

PROGRAMS = postgres_bin(None)
PAGE = Path(__file__).parent.parent / "docs" / "backup.md"
LEDGER = "select l::text from ledger as l order by notification_id"


class BackedUp(NamedTuple):
    """An installation, gone for good, and what its operator has of it: the folder ``backup`` with ``base``, ``wal`` and
    the two keys. ``moment``: the time, and by name, when ``before`` were the rows of the ledger; ``later_head``: a
    signed head of what came after."""

    backup: Path
    moment: datetime
    before: list[str]
    acknowledged: list[UUID]
    afterwards: list[UUID]
    later_head: str


def act(ledger: PostgresLedger, command: Command) -> UUID:
    command_id = uuid4()
    context = Context(actor=OPERATOR, at=datetime.now(UTC), command_id=command_id, correlation_id=uuid4(), via="cli")
    assert execute(ledger, command, context).position
    return command_id


def key_of(data_dir: Path) -> bytes:
    key = read_key(data_dir / "master.key")
    assert key is not None
    return key


def ledger_of(conninfo: str) -> list[str]:
    with psycopg.connect(conninfo) as connection:
        return [line for (line,) in connection.execute(LEDGER.encode())]


@pytest.fixture(scope="module")
def backed_up() -> Iterator[BackedUp]:
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        data_dir, backup = Path(folder) / "data", Path(folder) / "backup"
        first = modledger("migrate", MODLEDGER_DATA_DIR=str(data_dir))
        assert first.returncode == 0, first
        shell(ARCHIVE, BACKUP=backup, MODLEDGER_DATA_DIR=data_dir)
        server = EmbeddedPostgres(data_dir / "postgres")
        conninfo = server.attach()
        try:
            with PostgresLedger(conninfo, key_of(data_dir)) as ledger:
                acknowledged = [act(ledger, RegisterUser(user_id=n, username=f"user {n}")) for n in range(1, 10)]
                catch_up(ledger, conninfo, PROJECTORS)
                sealed = modledger("seal", "head", MODLEDGER_DATA_DIR=str(data_dir))
                assert sealed.returncode == 0, sealed
                shell(BASE_BACKUP, BACKUP=backup, MODLEDGER_DATA_DIR=data_dir)
                # What only the archive knows of.
                acknowledged += [
                    act(ledger, IssueBan(target=Subject("user", n), reason=f"raid {n}")) for n in range(1, 5)
                ]
                with psycopg.connect(conninfo, autocommit=True) as connection:
                    connection.execute("select pg_create_restore_point('before the mistake')")
                    row = connection.execute("select clock_timestamp()").fetchone()
                assert row is not None
                before = ledger_of(conninfo)
                afterwards = [act(ledger, EraseSubject(target=Subject("user", n), reason="mistake")) for n in (1, 2)]
                afterwards.append(act(ledger, RegisterUser(user_id=99, username="late")))
                later = modledger("seal", "head", MODLEDGER_DATA_DIR=str(data_dir))
                last = ask(conninfo, "select pg_walfile_name(pg_switch_wal())")
                until((backup / "wal" / last).exists)
        finally:
            server.stop()
            server.detach()
        (backup / "keys").mkdir()
        for name in ("master.key", "seal.key"):
            (data_dir / name).rename(backup / "keys" / name)
        shutil.rmtree(data_dir)
        yield BackedUp(backup, row[0], before, acknowledged, afterwards, later.stdout)


ARCHIVE, BASE_BACKUP, RESTORE, LOG_OUT, DUMP = (text for _, text in blocks(PAGE.read_text(), "sh"))


def shell(step: str, **variables: Path | str) -> None:
    """Runs a step of docs/backup.md as it stands there."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MODLEDGER_", "PG"))}
    environment = {**inherited, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", **variables}
    done = subprocess.run(
        ["sh", "-eu", "-c", step], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, (step, done.stdout, done.stderr)


def restored(backed_up: BackedUp, data_dir: Path, step: str = RESTORE) -> dict[str, str]:
    """Another installation, made from the backup; the settings that it is started with."""
    shell(
        step,
        BACKUP=backed_up.backup,
        KEYS=backed_up.backup / "keys",
        MODLEDGER_DATA_DIR=data_dir,
        MOMENT=backed_up.moment.isoformat(sep=" "),
    )
    return {"MODLEDGER_DATA_DIR": str(data_dir)}


@pytest.fixture
def place(cluster_place: Path) -> Path:
    """Where a restored installation goes."""
    return cluster_place / "data"


@contextmanager
def serving(settings: dict[str, str]) -> Iterator[int]:
    """The port of a ``modledger serve`` that is ready."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "modledger.workers", "serve"],
        env={**environment, **settings, "MODLEDGER_PORT": str(port), "MODLEDGER_DRAIN_SECONDS": "0"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: process.poll() is not None or status(port, "/health/live") == 200)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def status(port: int, path: str) -> int | None:
    """Of a GET; None where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


@contextmanager
def running(data_dir: Path) -> Iterator[str]:
    server = EmbeddedPostgres(data_dir / "postgres")
    try:
        yield server.attach()
    finally:
        server.stop()
        server.detach()


def test_restored_to_a_time_everything_acknowledged_before_it_is_there_and_nothing_after(
    backed_up: BackedUp, place: Path
) -> None:
    settings = restored(backed_up, place)
    with running(place) as conninfo:
        assert ledger_of(conninfo) == backed_up.before
        # With the same master key, also the text of who was erased afterwards.
        with PostgresLedger(conninfo, key_of(place)) as ledger:
            assert ledger.known_commands([*backed_up.acknowledged, *backed_up.afterwards]) == {*backed_up.acknowledged}
            assert [
                recorded.event.reason
                for recorded in ledger.load(["user:1"])["user:1"]
                if isinstance(recorded.event, UserBanned)
            ] == ["raid 1"]
            catch_up(ledger, conninfo, PROJECTORS)
        verified = modledger("verify", **settings)
        assert (verified.returncode, "difference" in verified.stdout) == (0, False), verified
        checked = modledger("seal", "check", **settings)
        assert checked.returncode == 0, checked
        execute_sql(conninfo, "insert into sessions values ('x', 1, 'suffix', now(), now() + interval '1 day')")
        shell(LOG_OUT, MODLEDGER_DATA_DIR=place)
        assert ask(conninfo, "select count(*) from sessions") == 0
        with serving(settings) as port:
            assert status(port, "/health/ready") == 200
        with PostgresLedger(conninfo, key_of(place)) as ledger:
            act(ledger, RegisterUser(user_id=100, username="goes on"))
        assert len(ledger_of(conninfo)) == len(backed_up.before) + 1


def test_restored_to_a_named_moment_it_is_the_same(backed_up: BackedUp, place: Path) -> None:
    step, count = re.subn(
        "^recovery_target_time = .*$", "recovery_target_name = 'before the mistake'", RESTORE, flags=re.MULTILINE
    )
    assert count == 1
    restored(backed_up, place, step)
    with running(place) as conninfo:
        assert ledger_of(conninfo) == backed_up.before


def test_without_a_moment_everything_in_the_archive_comes_back(backed_up: BackedUp, place: Path) -> None:
    settings = restored(backed_up, place, re.sub("(?m)^recovery_target_time = .*\n", "", RESTORE))
    with running(place) as conninfo:
        with PostgresLedger(conninfo, key_of(place)) as ledger:
            commands = [*backed_up.acknowledged, *backed_up.afterwards]
            assert ledger.known_commands(commands) == {*commands}
        (place / "head").write_text(backed_up.later_head)
        checked = modledger("seal", "check", "--head", str(place / "head"), **settings)
        assert checked.returncode == 0, checked


def test_a_head_from_after_the_moment_shows_that_events_were_taken_back(backed_up: BackedUp, place: Path) -> None:
    settings = restored(backed_up, place)
    (place / "head").write_text(backed_up.later_head)
    refused(modledger("seal", "check", "--head", str(place / "head"), **settings), 1, "differences")


def test_what_pg_dump_wrote_is_restored_whole(
    database: str, ledger: PostgresLedger, empty_database: str, tmp_path: Path
) -> None:
    for n in range(1, 5):
        act(ledger, RegisterUser(user_id=n, username=f"user {n}"))
    catch_up(ledger, database, PROJECTORS)
    shell(DUMP, BACKUP=tmp_path, MODLEDGER_DATABASE_URL=database, EMPTY_DATABASE_URL=empty_database)
    assert ledger_of(empty_database) == ledger_of(database)
    require_migrated(empty_database)
    with PostgresLedger(empty_database, MASTER_KEY) as moved:
        assert list(verify_ledger(empty_database, moved)) == []
        act(moved, RegisterUser(user_id=5, username="goes on"))


def test_every_step_of_the_page_is_run_here() -> None:
    assert len(list(blocks(PAGE.read_text(), "sh"))) == 5

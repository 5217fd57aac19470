"""What the tests of the embedded server share: processes that hold it, clusters to try things on, ways to look."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from modledger.workers.postgres import EmbeddedPostgres, postgres_bin
from tests.made_once import copy_folder, fast_folder

ATTACH = """
import os, sys
from pathlib import Path
from modledger.workers.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), bin_dir=Path(sys.argv[2]) if len(sys.argv) > 2 else None, durable=False)
"""
# Holds the server until its standard input ends.
HOLD = ATTACH + "print(server.attach(), flush=True); sys.stdin.read()"

BIN_DIRS = [postgres_bin(None), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]


@pytest.fixture(scope="session")
def stopped_cluster() -> Iterator[Path]:
    """A stopped cluster to copy: initdb for every test would take most of the time."""
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        server = server_for_tests(Path(folder) / "pg")
        execute(server.attach(), "create table kept as select 7 as n")
        server.detach()
        yield Path(folder) / "pg"


@pytest.fixture
def cluster_place() -> Iterator[Path]:
    """An empty folder; servers left in it are stopped in the end."""
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        yield Path(folder)
        for lock in list(Path(folder).rglob("start.lock")):
            clear_away(lock.parent)


@pytest.fixture
def open_cluster_place(cluster_place: Path) -> Path:
    """One that any user may write to."""
    cluster_place.chmod(0o777)
    return cluster_place


@pytest.fixture
def fresh_root(cluster_place: Path) -> Path:
    """A folder that does not exist yet."""
    return cluster_place / "pg"


@pytest.fixture
def pg_root(fresh_root: Path, stopped_cluster: Path) -> Path:
    """The folder of a stopped cluster, whose table `kept` holds a 7."""
    return copy_folder(stopped_cluster, fresh_root)


def clear_away(root: Path) -> None:
    EmbeddedPostgres(root).stop()
    found = root.stat()
    for short in Path("/tmp").glob(f"modledger-*-{found.st_dev:x}-{found.st_ino:x}"):
        shutil.rmtree(short)
    shutil.rmtree(root)


def server_for_tests(root: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(root, durable=False)


@contextlib.contextmanager
def holder(root: Path, code: str = HOLD, **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("postgresql:///modledger?host=")
    return url


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait() == 0


def pid_of(root: Path) -> int:
    return int((root / "data" / "postmaster.pid").read_text().split()[0])


def ask(url: str, query: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def answers(url: str) -> bool:
    try:
        return bool(ask(url, "select true"))
    except psycopg.OperationalError:
        return False


def socket_dir(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def crash(root: Path) -> None:
    pid = pid_of(root)
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_dead(pid))


def is_dead(pid: int) -> bool:
    """Gone, or a zombie: in a container nobody may be there to collect it."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state[:1] in ("", "Z")


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come; only a hung test reaches the limit."""
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)

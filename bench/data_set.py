"""The data set that reads, searches and commands are measured on: a demo ledger with all its read tables, made once.

It stands in ``.data/bench-<punishments>-<seed>-<hash>`` and is used by every run; the hash is that of the read
tables, so that another version of these gets one of its own. Runs add the warnings that they measure. The peer without
a ledger reads the same tables: a copy would ask for the disk twice, which ten million do not leave.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg
from rich.console import Console

from bench.memory import watched
from bench.processes import python
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.projections.projector import fingerprint
from modledger.workers.key_file import read_key
from modledger.workers.postgres import EmbeddedPostgres
from modledger.workers.runner import catch_up

SEED = 1
# Below it starting the processes of a rebuild takes longer than folding in one.
WORTH_REBUILDING = 50_000
SIZES = {"k": 1_000, "m": 1_000_000}


class Made(msgspec.Struct, kw_only=True):
    """How it was made. ``rebuild_seconds`` and ``rebuild_mib`` (the peak of one process): of ``modledger replay all``
    with two processes; None where a small set was folded in one."""

    punishments: int
    events: int
    demo_seconds: float
    rebuild_seconds: float | None
    rebuild_mib: int | None


class DataSet(msgspec.Struct, frozen=True):
    """``superuser``: the URL of the product's database; its server runs as long as the data set is open."""

    folder: Path
    superuser: str
    made: Made

    def postmaster(self) -> int:
        """The process of its server."""
        return int((self.folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])


def size_of(text: str) -> int:
    """``100k``, ``1m``, ``10m`` or a plain number. Raises ValueError."""
    number, factor = (text[:-1], SIZES[text[-1]]) if text[-1:] in SIZES else (text, 1)
    if not number.isdecimal() or not int(number):
        raise ValueError(f"no size: {text!r}; give 100k, 1m, 10m or a number of punishments")
    return int(number) * factor


@contextmanager
def opened(home: Path, punishments: int, console: Console) -> Iterator[DataSet]:
    """The data set of that size in ``home``, made first where it is not there yet, with its server running."""
    folder = home / f"bench-{punishments}-{SEED}-{_version()}"
    record = folder / "made.json"
    if not record.exists():
        if folder.exists():
            shutil.rmtree(folder)
        console.print(f"making the data set of {punishments:,} punishments in {folder}, once", style="dim")
        _make(folder, punishments, record)
    server = EmbeddedPostgres(folder / "postgres")
    try:
        superuser = server.attach()
        # A version of the program with other tables beside the read tables brings them along.
        _command(folder, "migrate")
        yield DataSet(folder, superuser, msgspec.json.decode(record.read_bytes(), type=Made))
    finally:
        server.stop()
        server.detach()


def _version() -> str:
    return hashlib.sha256(" ".join(fingerprint(one) for one in PROJECTORS).encode()).hexdigest()[:12]


def environment(folder: Path) -> dict[str, str]:
    """What the product's commands need to be told of the data set; all else is its default."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
    return inherited | {"MODLEDGER_DATA_DIR": str(folder)}


def _make(folder: Path, punishments: int, record: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    server = EmbeddedPostgres(folder / "postgres")
    try:
        superuser = server.attach()
        _command(folder, "migrate")
        seconds, _ = _command(folder, "demo", "--punishments", str(punishments), "--seed", str(SEED))
        made = Made(punishments=punishments, events=0, demo_seconds=seconds, rebuild_seconds=None, rebuild_mib=None)
        if punishments >= WORTH_REBUILDING:
            made.rebuild_seconds, made.rebuild_mib = rebuild(folder)
        else:
            key = read_key(folder / "master.key")
            assert key is not None
            with PostgresLedger(superuser, key, connections=1) as ledger:
                catch_up(ledger, superuser, PROJECTORS)
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute("vacuum analyze")
            found = connection.execute("select count(*) from ledger").fetchone()
        assert found is not None
        made.events = found[0]
        record.write_bytes(msgspec.json.encode(made))
    finally:
        server.stop()
        server.detach()


def rebuild(folder: Path) -> tuple[float, int]:
    """All read tables made anew by two processes: seconds, and the peak of one process in MiB."""
    return _command(folder, "replay", "all", "--processes", "2", "--drop")


def _command(folder: Path, *arguments: str) -> tuple[float, int]:
    """Seconds and peak memory (MiB, of the process that used most) of a command of the product."""
    log = folder / "made.log"
    began = time.perf_counter()
    with watched() as peaks, python(["-m", "modledger.workers", *arguments], log, environment(folder)) as process:
        peaks.roots[process.pid] = "command"
        if process.wait():
            raise RuntimeError(f"modledger {' '.join(arguments)} ended with {process.returncode}\n{log.read_text()}")
        seconds = time.perf_counter() - began
    return seconds, max((mib for name, mib in peaks.mib.items() if name.startswith("command")), default=0)

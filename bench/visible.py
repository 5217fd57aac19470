"""How long after its commit a command is seen, and how long one waits to read what one has just written."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from itertools import count
from statistics import median
from typing import Any

import psycopg

from bench.commands import REASON, single_append
from bench.measure import quantile
from bench.processes import HOST
from bench.table import Result
from bench.world import World, rows

COMMANDS_A_SECOND = 200
SENDERS = 16
LOOK_SECONDS = 0.001
OWN_WRITES = 100

# As in commands.py.
_MEMBERS = """
    select user_id from profiles
    where username is not null and level = 0 and held = 0 and mod(user_id, 5) = 0 order by md5(user_id::text) limit 2000
"""
_MODERATORS = "select user_id, level from profiles where level = 2 and held = 0 and username is not null limit %s"
# projection_tracking_pkey. The clock is read after the snapshot was taken, so no row is seen too early.
_REACHED = """
    select notification_id, clock_timestamp() from projection_tracking where application_name = 'punishments'
"""
# ledger_position. The time is given under the ledger's lock, before the commit: that wait is counted too.
_RECORDED = "select notification_id, recorded_at from ledger where notification_id > %s order by notification_id"


def measure(world: World) -> dict[str, Result | str]:
    """The checkpoint is written in the transaction that writes the rows, so what it has passed is found."""
    data, port = world.data(), world.product().port
    cookies = world.sessions([(user, level) for user, level in rows(data.superuser, _MODERATORS, SENDERS)])
    members = [user for (user,) in rows(data.superuser, _MEMBERS)]
    p99, p50, done, single, own, plain = [], [], 0, [], [], []
    world.settle()
    for _ in range(world.effort.rounds):
        took, sent = _visible(data.superuser, port, cookies, members, world.effort.seconds, world.settle)
        p99.append(quantile(took, 0.99))
        p50.append(median(took))
        done += sent
        single.append(single_append(world))
        mine, nobodys = _own_writes(port, cookies[0], members)
        own.append(median(mine))
        plain.append(median(nobodys))
    world.requests += done
    rate = done / (world.effort.rounds * world.effort.seconds)
    return {
        "visible p99": Result(
            figure=p99,
            floor=single,
            note=f"{rate:.0f} commands/s over {SENDERS} connections, p50 {median(p50):.1f} ms; from the time of"
            " recording, before the commit, to the first look that finds the checkpoint there",
        ),
        "own writes p50": Result(
            figure=own, floor=plain, note="the whole request: a search for the user whom the request before it warned"
        ),
    }


def _visible(
    conninfo: str,
    port: int,
    cookies: Sequence[str],
    members: Sequence[int],
    seconds: float,
    settled: Callable[[], None],
) -> tuple[list[float], int]:
    """Milliseconds of each command from its recording until it is in the read tables; how many were sent."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        found = connection.execute("select max(notification_id) from ledger").fetchone()
    assert found is not None
    with _watching(conninfo) as looks:
        sent = _send(port, cookies, members, seconds)
        # The last ones have to be seen too.
        settled()
        time.sleep(0.2)
    took, n = [], 0
    for position, recorded in rows(conninfo, _RECORDED, found[0]):
        while n < len(looks) and looks[n][0] < position:
            n += 1
        if n == len(looks):
            raise RuntimeError(f"position {position} was not seen in time")
        took.append((looks[n][1] - recorded).total_seconds() * 1000)
    return took, sent


@contextmanager
def _watching(conninfo: str) -> Iterator[list[tuple[int, datetime]]]:
    looks: list[tuple[int, datetime]] = []
    over = threading.Event()

    def watch() -> None:
        with psycopg.connect(conninfo, autocommit=True, prepare_threshold=0) as connection:
            while not over.wait(LOOK_SECONDS):
                row = connection.execute(_REACHED).fetchone()
                if row is not None and (not looks or row[0] != looks[-1][0]):
                    looks.append((row[0], row[1]))

    thread = threading.Thread(target=watch, name="looks", daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        over.set()
        thread.join()


def _send(port: int, cookies: Sequence[str], members: Sequence[int], seconds: float) -> int:
    """Commands at their times, whether or not those before them are answered. Raises RuntimeError for a refusal."""
    total = int(COMMANDS_A_SECOND * seconds)
    began, turns = time.perf_counter() + 0.1, count()
    wrong: list[Exception] = []

    def send(cookie: str) -> None:
        with closing(_Asked(port, cookie)) as asked:
            while (number := next(turns)) < total and not wrong:
                time.sleep(max(0.0, began + number / COMMANDS_A_SECOND - time.perf_counter()))
                try:
                    asked.warn(members[number % len(members)])
                except (OSError, RuntimeError) as error:
                    wrong.append(error)

    threads = [threading.Thread(target=send, args=(cookies[n % len(cookies)],)) for n in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise RuntimeError(f"a command failed: {wrong[0]!r}") from wrong[0]
    return total


def _own_writes(port: int, cookie: str, members: Sequence[int]) -> tuple[list[float], list[float]]:
    """Milliseconds of a read right after a write of the same session, and of the same read once more."""
    mine: list[float] = []
    again: list[float] = []
    with closing(_Asked(port, cookie)) as asked:
        for member in members[:OWN_WRITES]:
            position = asked.warn(member)
            path = f"/v1/admin/punishments/search?user_id={member}&limit=1&sort=-created_at"
            for took in (mine, again):
                began = time.perf_counter()
                found = asked.ask("GET", path)
                took.append((time.perf_counter() - began) * 1000)
                if found["punishments"][0]["id"] != position:
                    raise RuntimeError(f"{path} does not have {position}: {found}")
    return mine, again


class _Asked:
    """A connection of one session."""

    def __init__(self, port: int, cookie: str) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=30)
        self._headers = {"Cookie": cookie, "Content-Type": "application/json"}

    def close(self) -> None:
        self._connection.close()

    def warn(self, user_id: int) -> int:
        """The id of the warning."""
        path = f"/v1/admin/punishments/user/{user_id}/warn"
        found: int = self.ask("POST", path, json.dumps({"reason": REASON}))["id"]
        return found

    def ask(self, method: str, path: str, body: str | None = None) -> Any:
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content!r}")
        return json.loads(content)

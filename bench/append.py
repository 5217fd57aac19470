"""How fast events get into the ledger, one command at a time and in batches."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import psycopg
from anyio import to_thread
from eventsourcing.persistence import StoredEvent

from bench.measure import in_turn
from bench.peers.library import recorder
from bench.reads import run_pgbench
from bench.server import create_database
from bench.table import Result
from bench.world import World
from modledger.domain.envelope import Actor, NewEvent
from modledger.domain.events import UserWarned
from modledger.domain.ledger import Append, Appended
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.http.together import Gathered
from modledger.workers.migrate import migrate

T = TypeVar("T")

BATCH = 1_000
# How many streams one writer goes round.
STREAMS = 200

PLAIN = """
    create table plain (
        id bigserial primary key, stream text, version bigint, topic text, state bytea, recorded_at timestamptz,
        command_id uuid, actor text, via text
    )
"""
ONE = "insert into plain (stream, version, topic, state, recorded_at, command_id, actor, via) select {} "


def measure(world: World) -> dict[str, Result | str]:
    """On databases of its own, on a server of the run."""
    conninfo, effort, key = world.scratch(), world.effort, os.urandom(32)
    plain = create_database(conninfo, "append_plain")
    ours = create_database(conninfo, "append_ours")
    theirs = create_database(conninfo, "append_library")
    migrate(ours)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(PLAIN)
    with ExitStack() as stack:
        ledger = stack.enter_context(PostgresLedger(ours, key))
        library = stack.enter_context(recorder(theirs))
        numbers = count(1)
        ledger.append(next(warnings(0)))
        state = _state(ours)
        one, many = _scripts(state, world.folder())
        writers = [warnings(next(numbers) * STREAMS) for _ in range(1 + effort.writers)]
        records = [stored(state) for _ in range(1 + effort.writers)]
        batches, stored_batches = warnings(next(numbers) * STREAMS), stored(state)
        lost: list[float] = []

        def append(mine: Iterator[Append]) -> None:
            ledger.append(next(mine))

        def insert(mine: Iterator[StoredEvent]) -> None:
            library.insert_events([next(mine)])

        def followed(work: Callable[[], float]) -> Callable[[], float]:
            return lambda: _followed(ledger, work, lost)

        def by_processes() -> float:
            return _processes("ours", ours, effort.writers, key, state, numbers, seconds)

        def by_callers() -> float:
            return asyncio.run(_together(ledger, writers[1:], seconds))

        seconds = effort.seconds
        figures = in_turn(
            {
                "ours processes": by_processes,
                "peer processes": lambda: _processes("library", theirs, effort.writers, key, state, numbers, seconds),
                "ours many": by_callers,
                # Rounds of their own: neither floor nor peer has a reader beside it.
                "processes followed": followed(by_processes),
                "callers followed": followed(by_callers),
                "floor many": lambda: run_pgbench(plain, one, effort.writers, seconds),
                "peer many": lambda: _at_once([lambda r=r: insert(r) for r in records[1:]], seconds),  # type: ignore[misc]
                "ours 1": lambda: _at_once([lambda: append(writers[0])], seconds),
                "floor 1": lambda: run_pgbench(plain, one, 1, seconds),
                "peer 1": lambda: _at_once([lambda: insert(records[0])], seconds),
                "ours batch": lambda: _in_batches(ledger.append_batch, batches, seconds),
                "floor batch": lambda: BATCH * run_pgbench(plain, many, 1, seconds),
                "peer batch": lambda: _in_batches(library.insert_events, stored_batches, seconds),
            },
            effort.rounds,
        )
    note = f"{len(state)} bytes of state; ours encodes and encrypts, floor and peer get the bytes"
    many_at_once = f"{effort.writers} at once; {note}"
    named = {"append": ("processes", "many"), "append grouped": ("many", "many"), "append one": ("1", "1")}
    named["append batch"] = ("batch", "batch")
    found: dict[str, Result | str] = {
        name: Result(
            figure=figures[f"ours {mine}"],
            floor=figures[f"floor {floor}"],
            peer=figures[f"peer {mine}"],
            note=many_at_once if floor == "many" else note,
        )
        for name, (mine, floor) in named.items()
    }
    found["append lost"] = Result(
        figure=lost, note="a reader that counts every millisecond what follows its last position"
    )
    return found


def _followed(ledger: PostgresLedger, work: Callable[[], float], lost: list[float]) -> float:
    """What ``work`` answers; meanwhile a tail reader counts, and is compared with the table afterwards."""
    began, over, seen = ledger.head(), threading.Event(), [0]

    def follow() -> None:
        after = began
        while True:
            # Seen before the look, so that a look that finds nothing after it is the last.
            ended = over.is_set()
            # Only counted: what else it would do in this process would be the writers' time.
            found = ledger.read_topics((), after, 1_000)
            seen[0] += found.passed
            after = found.position
            if not found.passed and ended:
                return
            time.sleep(0.001)

    thread = threading.Thread(target=follow, name="tail", daemon=True)
    thread.start()
    try:
        figure = work()
    finally:
        over.set()
        thread.join()
    after, there = began, 0
    while found := ledger.read(after, 5_000):
        there, after = there + len(found), found[-1].position
    lost.append(there - seen[0])
    return figure


def _processes(
    kind: str, conninfo: str, writers: int, key: bytes, state: bytes, numbers: Iterator[int], seconds: float
) -> float:
    """Events a second of that many processes together."""
    environment = os.environ | {"BENCH_KEY": key.hex(), "BENCH_STATE": state.hex()}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.writers", kind, conninfo, str(next(numbers) * STREAMS), str(seconds)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(writers)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a writer did not start")
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate()[0].split() for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return sum(int(done) / float(took) for done, took in said)


def warnings(first_user: int) -> Iterator[Append]:
    """Commands of one event each that go round ``STREAMS`` users; each expects a version of the target's and the
    actor's stream, as a decision would."""
    for version in count(1):
        for user in range(first_user + 2, first_user + 2 + STREAMS):
            stream, command_id = f"user:{user}", uuid4()
            new = NewEvent(
                stream=stream,
                version=version,
                event=UserWarned(reason="Repeated advertising in general"),
                event_id=uuid4(),
                occurred_at=datetime.now(UTC),
                actor=Actor("user", 1),
                correlation_id=command_id,
                via="http",
            )
            yield Append(command_id=command_id, events=[new], expected={stream: version - 1, "user:1": 0})


def stored(state: bytes) -> Iterator[StoredEvent]:
    """The same for the library's recorder: as many streams, the state of one of our events."""
    streams = [uuid4() for _ in range(STREAMS)]
    for version in count(1):
        for stream in streams:
            yield StoredEvent(stream, version, UserWarned.TOPIC, state)


def _at_once(steps: Sequence[Callable[[], None]], seconds: float) -> float:
    """Steps a second, each repeated in a thread of its own until the time is up."""
    done = [0] * len(steps)
    errors: list[BaseException] = []
    start = threading.Barrier(len(steps) + 1)

    def work(n: int) -> None:
        start.wait()
        try:
            while time.perf_counter() < until:
                steps[n]()
                done[n] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(steps))]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    until = began + seconds
    start.wait()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(done) / (time.perf_counter() - began)


async def _together(ledger: PostgresLedger, writers: Sequence[Iterator[Append]], seconds: float) -> float:
    """Appends a second of several callers of one event loop, each of which waits for its own; those that wait at the
    same time go together, as claims of keys and, in groups that form in the same way, commands do in ``serve``."""

    async def append(several: Sequence[Append]) -> list[Appended | Exception]:
        return await to_thread.run_sync(ledger.append_together, several)

    gathered = Gathered(append)
    began = time.perf_counter()

    async def write(mine: Iterator[Append]) -> int:
        for done in count(1):
            appended = await gathered.ask(next(mine))
            if isinstance(appended, Exception):
                raise appended
            if time.perf_counter() - began >= seconds:
                return done
        raise AssertionError

    return sum(await asyncio.gather(*map(write, writers))) / (time.perf_counter() - began)


def _in_batches(write: Callable[[Sequence[T]], object], source: Iterator[T], seconds: float) -> float:
    """Items a second in batches; making them is not counted."""
    took, batches = 0.0, 0
    while took < seconds:
        batch = list(islice(source, BATCH))
        began = time.perf_counter()
        write(batch)
        took += time.perf_counter() - began
        batches += 1
    return batches * BATCH / took


def _state(conninfo: str) -> bytes:
    with psycopg.connect(conninfo) as connection:
        found = connection.execute("select state from ledger limit 1").fetchone()
    assert found is not None
    return bytes(found[0])


def _scripts(state: bytes, folder: Path) -> tuple[Path, Path]:
    """Two scripts for pgbench: one row, and a batch of rows, with the values of a row of ours."""
    values = (
        f"'user:100', 1, '{UserWarned.TOPIC}', '\\x{state.hex()}'::bytea, now(), gen_random_uuid(), 'user:1', 'http'"
    )
    one, many = folder / "one.sql", folder / "many.sql"
    one.write_text(ONE.format(values) + ";\n")
    many.write_text(ONE.format(values) + f"from generate_series(1, {BATCH});\n")
    return one, many

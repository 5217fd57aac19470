"""How fast events get into the ledger, one command at a time and in batches."""

import os
import re
import subprocess
import tempfile
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
from eventsourcing.persistence import StoredEvent

from bench.library import recorder
from bench.measure import Effort, Row, in_turn, row
from bench.server import create_database
from modledger.domain.envelope import Actor, NewEvent
from modledger.domain.events import UserWarned
from modledger.domain.ledger import Append
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.migrate import migrate
from modledger.workers.postgres import postgres_bin

T = TypeVar("T")

THREADS = 8
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


def measure(conninfo: str, effort: Effort) -> list[Row]:
    """The rows of this part; ``conninfo`` is a superuser's, databases are made on that server."""
    plain = create_database(conninfo, "append_plain")
    ours = create_database(conninfo, "append_ours")
    theirs = create_database(conninfo, "append_library")
    migrate(ours)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(PLAIN)
    with ExitStack() as stack:
        ledger = stack.enter_context(PostgresLedger(ours, os.urandom(32)))
        library = stack.enter_context(recorder(theirs))
        numbers = count(1)
        ledger.append(next(warnings(0)))
        state = _state(ours)
        one, many = _scripts(state, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        writers = [warnings(next(numbers) * STREAMS) for _ in range(1 + THREADS)]
        records = [stored(state) for _ in range(1 + THREADS)]
        batches, stored_batches = warnings(next(numbers) * STREAMS), stored(state)

        def append(mine: Iterator[Append]) -> None:
            ledger.append(next(mine))

        def insert(mine: Iterator[StoredEvent]) -> None:
            library.insert_events([next(mine)])

        seconds = effort.seconds
        figures = in_turn(
            {
                "ours 1": lambda: _at_once([lambda: append(writers[0])], seconds),
                "floor 1": lambda: _pgbench(plain, one, 1, seconds),
                "peer 1": lambda: _at_once([lambda: insert(records[0])], seconds),
                "ours 8": lambda: _at_once([lambda w=w: append(w) for w in writers[1:]], seconds),  # type: ignore[misc]
                "floor 8": lambda: _pgbench(plain, one, THREADS, seconds),
                "peer 8": lambda: _at_once([lambda r=r: insert(r) for r in records[1:]], seconds),  # type: ignore[misc]
                "ours batch": lambda: _in_batches(ledger.append_batch, batches, seconds),
                "floor batch": lambda: BATCH * _pgbench(plain, many, 1, seconds),
                "peer batch": lambda: _in_batches(library.insert_events, stored_batches, seconds),
            },
            effort.rounds,
        )
    return [
        row(
            "append",
            name,
            "events/s",
            figures[f"ours {key}"],
            floor=(floor, figures[f"floor {key}"]),
            peer=(peer, figures[f"peer {key}"]),
            note=f"{len(state)} bytes of state; ours encodes and encrypts, floor and peer get the bytes",
        )
        for key, name, floor, peer in (
            ("1", "append, one event a command, 1 thread", INSERT.format(1), RECORDER),
            ("8", f"append, one event a command, {THREADS} threads", INSERT.format(THREADS), RECORDER),
            ("batch", f"append_batch of {BATCH:,} commands", f"pgbench, {BATCH:,} rows an INSERT", RECORDER),
        )
    ]


INSERT = "pgbench INSERT into a plain table, no order, connections: {}"
RECORDER = "eventsourcing PostgresApplicationRecorder, defaults"


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


def _pgbench(conninfo: str, script: Path, clients: int, seconds: float) -> float:
    """Transactions a second."""
    said = subprocess.run(
        [
            postgres_bin(None) / "pgbench",
            *("--no-vacuum", "--protocol=prepared", f"--file={script}"),
            *(f"--client={clients}", f"--jobs={min(clients, os.cpu_count() or 1)}", f"--time={max(1, round(seconds))}"),
            conninfo,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"^tps = ([0-9.]+)", said.stdout, re.MULTILINE)
    if found is None or "failed transactions: 0 " not in said.stdout:
        raise RuntimeError(f"pgbench says:\n{said.stdout}\n{said.stderr}")
    return float(found[1])

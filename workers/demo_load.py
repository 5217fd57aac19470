"""A demo of any size into an empty ledger: made by several processes, then copied in one transaction.

Nothing enters the database before all is made, and what is copied is committed at once: whoever is killed leaves
nothing behind. Memory does not grow with the size: of the parts some are under way, the rest lies aside on disk.
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path

import msgspec
import psycopg
from psycopg.rows import tuple_row

from modledger.domain.personal_text import MasterKey
from modledger.workers.demo import DEMO_BOT, DemoRefused
from modledger.workers.demo_blocks import Size, parts
from modledger.workers.demo_rows import (
    KEY_COLUMNS,
    LEDGER_COLUMNS,
    Aside,
    Rows,
    made,
    recorded,
    spans,
)
from modledger.workers.demo_staff import END
from modledger.workers.demo_telemetry import COPY_END, COPY_HEAD, TABLES, encoded, fill

# What is being done, how much of it, of how much.
Told = Callable[[str, int, int], None]

# Rows that go to the server at once.
_BATCH = 2_000
# A few events for each punishment; how many is known when they are made.
_EVENTS_OF_A_PUNISHMENT = 3
# That of ledger_append: nobody appends before we have committed.
_LOCK = "select pg_advisory_xact_lock('pg_class'::regclass::oid::int, 'ledger'::regclass::oid::int)"
# ledger_position, its last entry; that of subject_keys_pkey.
_EMPTY = "select not exists (select from ledger) and not exists (select from subject_keys)"
_NOW = "select clock_timestamp(), (extract(epoch from clock_timestamp()) * 1000000)::bigint - 946684800000000"


class Loaded(msgspec.Struct, kw_only=True):
    """How much there is."""

    events: int = 0
    punishments: int = 0


class Interrupted(Exception):
    """Told to stop; nothing was changed."""


def load(
    conninfo: str,
    master_key: bytes,
    size: Size,
    seed: int,
    *,
    processes: int,
    stop: threading.Event,
    tell: Told,
    folder: Path | None = None,
) -> Loaded:
    """Fills an empty ledger: the same events at the same positions for the same seed and size, whatever the number of
    ``processes`` (≥ 1), all recorded now. ``tell`` learns what is being done, how much of it, and of how much.
    ``folder`` has to have room for some 600 bytes an event; None is where temporary files go.

    Raises DemoRefused where the ledger is not empty or the server's clock stands before the demo's end, Interrupted,
    WrongMasterKey, OSError and psycopg.Error; nothing was changed then.
    """
    with psycopg.connect(conninfo, application_name="modledger demo") as connection:
        now, _ = _begin(connection)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    todo = parts(size)
    count = spans(size.number * (1 if size.events is not None else _EVENTS_OF_A_PUNISHMENT))
    loaded, present = Loaded(), 0
    with closing(Aside(count, folder)) as ledger, closing(Aside(1 + len(TABLES), folder)) as beside:
        for one in _made(master_key, seed, todo, count, today, processes):
            for span, content in one.ledger:
                ledger.put(span, content)
            for place, content in enumerate((one.keys, *one.telemetry.values())):
                beside.put(place, content)
            loaded.events += one.events
            loaded.punishments += one.punishments
            present += one.present
            tell("making", loaded.events if size.events is not None else loaded.punishments, size.number)
            _require_going_on(stop)
        if present:
            # It is in the guilds of all parts.
            row = (DEMO_BOT, present, 20 * present, 35.5, today)
            beside.put(1 + list(TABLES).index("bot_activity"), encoded("bot_activity", [row]))
        _copy(conninfo, ledger, count, beside, loaded.events, stop, tell)
    return loaded


def _require_going_on(stop: threading.Event) -> None:
    if stop.is_set():
        raise Interrupted("stopped; nothing was changed")


def _begin(connection: psycopg.Connection) -> tuple[datetime, int]:
    """Now, also in microseconds since 2000 began. The ledger stays empty until the transaction of ``connection`` ends.
    Raises DemoRefused."""
    cursor = connection.cursor(row_factory=tuple_row)
    # In a statement of its own: those after it see every append that was made before.
    cursor.execute(_LOCK)
    if cursor.execute(_EMPTY).fetchone() != (True,):
        raise DemoRefused("the ledger is not empty: a demo needs an installation of its own")
    row = cursor.execute(_NOW).fetchone()
    assert row is not None
    now, microseconds = row
    if now < END:
        raise DemoRefused(f"the database's clock says {now:%Y-%m-%d}, and the demo goes on until {END:%Y-%m-%d}")
    return now, microseconds


def _made(
    secret: bytes, seed: int, todo: Sequence[tuple[int, Size]], count: int, today: datetime, processes: int
) -> Iterator[Rows]:
    """The parts, in no order. Other processes only where there is something for each and more."""
    if processes == 1 or len(todo) <= processes:
        yield from made(MasterKey(secret), seed, todo, count, today)
        return
    # Not forked: there are threads here.
    context = multiprocessing.get_context("spawn")
    helpers, ends = [], []
    try:
        for n in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            helper = context.Process(
                target=_help, args=(theirs, secret, seed, todo[n::processes], count, today), daemon=True
            )
            helper.start()
            theirs.close()
            helpers.append(helper)
            ends.append(ours)
        while ends:
            for end in wait(ends):
                assert isinstance(end, Connection)
                try:
                    found = end.recv()
                except EOFError:
                    raise OSError("a process that makes the demo has ended") from None
                if found is None:
                    ends.remove(end)
                else:
                    yield found
    finally:
        for helper in helpers:
            helper.terminate()
            helper.join()


def _help(
    end: Connection, secret: bytes, seed: int, todo: Sequence[tuple[int, Size]], count: int, today: datetime
) -> None:
    """Another process: sends its parts, then None. It ends with whoever reads, as a pipe does; a Ctrl-C in the terminal
    is for that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for one in made(MasterKey(secret), seed, todo, count, today):
            end.send(one)
        end.send(None)
    except BrokenPipeError:
        return


def _copy(
    conninfo: str,
    ledger: Aside,
    count: int,
    beside: Aside,
    events: int,
    stop: threading.Event,
    tell: Told,
) -> None:
    with psycopg.connect(conninfo, application_name="modledger demo") as connection:
        _, microseconds = _begin(connection)
        head, done = recorded(microseconds), 0
        # So that positions are the same however often a load was undone; this is undone with it as well. The name
        # comes quoted where it has to be.
        row = connection.execute("select pg_get_serial_sequence('ledger', 'notification_id')").fetchone()
        assert row is not None
        connection.execute(f"alter sequence {row[0]} restart".encode())
        with connection.cursor().copy(f"copy ledger ({LEDGER_COLUMNS}) from stdin (format binary)".encode()) as copy:
            copy.write(COPY_HEAD)
            for span in range(count):
                rows = ledger.sorted(span)
                for start in range(0, len(rows), _BATCH):
                    _require_going_on(stop)
                    batch = rows[start : start + _BATCH]
                    copy.write(head + head.join(batch))
                    done += len(batch)
                    tell("copying", done, events)
            copy.write(COPY_END)
        tell("copying keys and telemetry", 0, 0)
        with connection.cursor().copy(f"copy subject_keys ({KEY_COLUMNS}) from stdin (format binary)".encode()) as copy:
            copy.write(COPY_HEAD)
            for piece in beside.pieces(0):
                copy.write(piece)
            copy.write(COPY_END)
        for place, table in enumerate(TABLES, start=1):
            fill(connection, table, beside.pieces(place))
        _require_going_on(stop)
        connection.execute("notify ledger")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        # What autovacuum would come to do in a minute; whoever folds the ledger now reads all of it.
        connection.execute("analyze ledger")
        connection.execute("analyze subject_keys")

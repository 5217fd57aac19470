"""What a ledger never does by itself: to lose its end, to lose a key, to be what it was before. On both stores."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg

from modledger.domain.memory_ledger import MemoryLedger, MemoryRecorder
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.recorder_ledger import RecorderLedger


class Dump(msgspec.Struct, frozen=True):
    """All that a ledger held: its rows by position, its keys, and in memory the commands."""

    rows: list[Any]
    keys: list[Any]
    commands: dict[Any, int] = {}


def lose_since(store: RecorderLedger, position: int) -> None:
    """The events from that position on are gone, and the keys that began with them; the next one gets that position."""
    if isinstance(store, PostgresLedger):
        with _unprotected(store) as connection:
            connection.execute("delete from ledger where notification_id >= %s", (position,))
            connection.execute(
                "delete from subject_keys where generation > coalesce("
                "(select max(originator_version) from ledger where originator_id = subject), -1)"
            )
            _next_position(connection, position)
        return
    held = _memory(store)
    with held._database_lock:
        for stored in held._stored_events[position - 1 :]:
            del held._stored_events_index[str(stored.originator_id)][stored.originator_version]
        del held._stored_events[position - 1 :]
        del held._times[position - 1 :]
        held._first_positions = {one: first for one, first in held._first_positions.items() if first < position}
        ends = {subject: max(held._stored_events_index.get(subject, ()), default=-1) for subject in held._keys}
        held._keys = {subject: key for subject, key in held._keys.items() if key[0] <= ends[subject]}


def lose_key(store: RecorderLedger, subject: str) -> None:
    """The subject's key is gone, and no event says so."""
    if isinstance(store, PostgresLedger):
        with _unprotected(store) as connection:
            connection.execute("delete from subject_keys where subject = %s", (subject,))
        return
    _memory(store)._keys.pop(subject, None)


def dumped(store: RecorderLedger) -> Dump:
    """What the ledger holds now."""
    if isinstance(store, PostgresLedger):
        with store.recorder.datastore.pool.connection() as connection, connection.cursor() as cursor:
            rows = cursor.execute("select * from ledger order by notification_id").fetchall()
            return Dump(rows, cursor.execute("select * from subject_keys").fetchall())
    held = _memory(store)
    stored = list(zip(held._stored_events, held._times, strict=True))
    return Dump(stored, list(held._keys.items()), dict(held._first_positions))


def restore(store: RecorderLedger, dump: Dump) -> None:
    """The ledger becomes what it was, under the processes that are at work on it."""
    lose_since(store, 1)
    if isinstance(store, PostgresLedger):
        with _unprotected(store) as connection:
            connection.execute("delete from subject_keys")
            for table, rows in (("ledger", dump.rows), ("subject_keys", dump.keys)):
                for row in rows:
                    values = ", ".join(f"%({name})s" for name in row)
                    connection.execute(
                        f"insert into {table} ({', '.join(row)}) overriding system value values ({values})".encode(),
                        row,
                    )
            _next_position(connection, 1 + max((row["notification_id"] for row in dump.rows), default=0))
        return
    held = _memory(store)
    with held._database_lock:
        held._update_table([stored for stored, _ in dump.rows])
        held._times.extend(at for _, at in dump.rows)
        held._keys = dict(dump.keys)
        held._first_positions = dict(dump.commands)


def _memory(store: RecorderLedger) -> MemoryRecorder:
    assert isinstance(store, MemoryLedger)
    assert isinstance(store.recorder, MemoryRecorder)
    return store.recorder


@contextmanager
def _unprotected(store: PostgresLedger) -> Iterator[psycopg.Connection[Any]]:
    with store.recorder.datastore.pool.connection() as connection, connection.transaction():
        connection.execute("alter table ledger disable trigger ledger_append_only")
        connection.execute("alter table subject_keys disable trigger subject_keys_only_erased")
        yield connection
        connection.execute("alter table ledger enable always trigger ledger_append_only")
        connection.execute("alter table subject_keys enable always trigger subject_keys_only_erased")


def _next_position(connection: psycopg.Connection[Any], position: int) -> None:
    sequence = "pg_get_serial_sequence('ledger', 'notification_id')"
    connection.execute(f"select setval({sequence}, %s, false)".encode(), (position,))

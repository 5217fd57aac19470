"""The telemetry tables of the demo, filled by binary COPY."""

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

# What binary COPY begins with: signature, flags, no extension. And what it ends with.
COPY_HEAD, COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class _Table(NamedTuple):
    """``row``: a row of binary COPY, each column after its length."""

    columns: tuple[str, ...]
    lengths: tuple[int, ...]
    row: struct.Struct


def _table(**columns: str) -> _Table:
    lengths = tuple(struct.calcsize(f">{one}") for one in columns.values())
    return _Table(tuple(columns), lengths, struct.Struct(">h" + "".join(f"i{one}" for one in columns.values())))


TABLES = {
    "user_activity": _table(user_id="q", last_activity_at="q"),
    "guild_activity": _table(guild_id="q", member_count="i", first_joined_at="q"),
    "bot_activity": _table(bot_id="q", guilds="i", users="q", latency_ms="d", last_activity_at="q"),
    "bot_guilds": _table(bot_id="q", guild_id="q"),
}


def encoded(table: str, rows: Iterable[Sequence[int | float | datetime]]) -> bytes:
    """The rows as binary COPY has them; dates are aware."""
    columns, lengths, row = TABLES[table]
    found = []
    for values in rows:
        fields: list[Any] = [len(columns)]
        for length, value in zip(lengths, values, strict=True):
            fields += (length, (value - _EPOCH) // _MICROSECOND if isinstance(value, datetime) else value)
        found.append(row.pack(*fields))
    return b"".join(found)


def fill(connection: psycopg.Connection, table: str, pieces: Iterable[bytes]) -> None:
    """Adds encoded rows, in a transaction of the connection's; one whose key is there already stays as it is."""
    names = sql.SQL(", ").join(map(sql.Identifier, TABLES[table].columns))
    target, loaded = sql.Identifier(table), sql.Identifier(f"loaded_{table}")
    connection.execute(sql.SQL("create temporary table {} (like {}) on commit drop").format(loaded, target))
    statement = sql.SQL("copy {} ({}) from stdin (format binary)").format(loaded, names)
    with connection.cursor().copy(statement) as copy:
        copy.write(COPY_HEAD)
        for piece in pieces:
            copy.write(piece)
        copy.write(COPY_END)
    # The primary keys of the four tables. `like` brings no defaults, but each column is among ours.
    connection.execute(
        sql.SQL("insert into {} ({names}) select {names} from {} on conflict do nothing").format(
            target, loaded, names=names
        )
    )

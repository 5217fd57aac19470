"""Rows into a table by COPY: as CSV, of the values as JSON has them, which msgspec writes in a fraction of the time
that the driver takes to write each value by itself."""

import re
from collections.abc import Mapping, Sequence
from functools import cache

import msgspec
from psycopg import pq, sql

from modledger.projections.projector import Cursor, Table

_lines = msgspec.json.Encoder().encode_lines
_one = msgspec.json.Encoder().encode

# All that a backslash may begin in JSON. CSV is told that one may stand before a quote or another; the rest are control
# characters, which stand there as they are.
_ESCAPED = re.compile(rb"\\(?:u00([0-9a-f]{2})|(.))")
# Nearly never found. Where it is by mistake, in a backslash that stands before a letter, nothing is changed.
_CONTROL = re.compile(rb'\\[^"\\]')
_CONTROLS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}


def copy_rows(
    cursor: Cursor, table: sql.Composable, columns: Mapping[str, str], rows: Sequence[msgspec.Struct]
) -> None:
    """Copies these rows (at least one), whose fields are the ``columns`` with their types, in that order."""
    statement = sql.SQL("""copy {} ({}) from stdin (format csv, null 'null', escape '\\')""").format(
        table, sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with cursor.copy(statement) as copy:
        copy.write(csv(rows, [n for n, kind in enumerate(columns.values()) if kind.startswith("jsonb")]))


def add_rows(cursor: Cursor, table: Table, rows: Sequence[msgspec.Struct]) -> None:
    """Writes these rows (at least one), whose fields are the columns of the table, in that order; none is there yet.
    A pipeline cannot take COPY, so in one they are inserted."""
    if cursor.connection.pgconn.pipeline_status == pq.PipelineStatus.OFF:
        copy_rows(cursor, sql.Identifier(table.name), table.columns, rows)
    else:
        cursor.execute(_insert(table.name, tuple(table.columns)), (msgspec.json.encode(rows).decode(),))


@cache
def _insert(table: str, columns: tuple[str, ...]) -> bytes:
    told = ", ".join(columns)
    return f"insert into {table} ({told}) select {told} from json_populate_recordset(null::{table}, %s)".encode()  # noqa: S608


def csv(rows: Sequence[msgspec.Struct], in_json: Sequence[int]) -> bytes:
    """The rows as lines of CSV. ``in_json``: places of the fields that are JSON in the table."""
    tuples: list[Sequence[object]] = [msgspec.structs.astuple(row) for row in rows]
    if in_json:
        tuples = [list(values) for values in tuples]
        for values in tuples:
            for n in in_json:
                values[n] = _one(values[n]).decode()  # type: ignore[index]
    text = _lines(tuples)[1:-2].replace(b"]\n[", b"\n")
    told = text
    if in_json:
        # There one stands before each quote, of which the search is slower than to take them out.
        told = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if _CONTROL.search(told):
        text = _ESCAPED.sub(_as_it_is, text)
    return text + b"\n"


def _as_it_is(escaped: re.Match[bytes]) -> bytes:
    code, sign = escaped.groups()
    return escaped[0] if sign in (b'"', b"\\") else bytes([int(code, 16)]) if code else _CONTROLS[sign]

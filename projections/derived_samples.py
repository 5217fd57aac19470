"""A sample of what is derived from rows (counts, marks, words): lines of the tables beside, each compared with what all
rows give that it is derived from, whatever the size of the tables.

Lines are drawn from the tables, which finds those that are wrong or one too many, and from what a few rows give, which
finds those that are missing. Their rows are looked up by the projector's ``slices`` and derived by its own ``also``. A
line of too many rows for that is compared by its sums alone; one that takes too long even so is passed over.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from random import Random
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from modledger.projections.projector import Cursor, Projector, Slice, Table
from modledger.projections.verification import (
    Difference,
    Unfit,
    differing_lines,
    home_of,
    make_temporary,
    moment_of,
    opened,
    row_of,
    snapshot,
)

# For each stream of the sample: rows that are derived anew, seconds, and lines of each table beside; as many again
# are drawn from rows.
ROWS_EACH, SECONDS_EACH, LINES_EACH = 200, 0.05, 0.1
# Rows whose marks are in memory at a time.
AT_ONCE = 1_000
# Beyond which a line is passed over.
TIMEOUT = "1s"

Line = Mapping[str, Any]


def sample_derived(conninfo: str, projector: Projector[Any], size: int, luck: Random) -> list[Difference]:
    """The differences in a sample of the tables beside. ``size`` (≥ 1): of how many streams the whole sample is; that
    bounds rows, memory and time. Raises psycopg.Error."""
    if projector.also is None:
        return []
    with opened(conninfo, None) as conn:
        while True:
            with snapshot(conn, projector) as moment:
                found = _sampled(conn, projector, size, luck)
            if moment_of(conn, projector).generation == moment.generation:
                return found


def _sampled(
    conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any], size: int, luck: Random
) -> list[Difference]:
    home, cursor = home_of(conn), conn.cursor(row_factory=tuple_row)
    lines = max(1, round(size * LINES_EACH))
    drawn = _drawn(cursor, projector, home, lines, luck)
    most, give_up = size * ROWS_EACH // max(1, len(drawn)), time.monotonic() + size * SECONDS_EACH
    differences: list[Difference] = []
    rows: dict[tuple[Any, ...], str] = {}
    compared: dict[str, list[Line]] = {table.name: [] for table in projector.beside}
    left = {table.name: most for table in projector.beside}
    # In turn, so that time that runs out does so for all tables alike.
    conn.execute("select set_config('statement_timeout', %s, true)", (TIMEOUT,))
    for line_of_each in zip_longest(*drawn.values()):
        for table, line in zip(projector.beside, line_of_each, strict=True):
            if line is None or time.monotonic() > give_up:
                continue
            found = _rows_of_line(conn, projector, home, table, line, left[table.name])
            if found is None:
                differences += _compared_by_sums(conn, projector, home, table, line)
            else:
                left[table.name] -= len(found)
                rows |= found
                compared[table.name].append(line)
    conn.execute("select set_config('statement_timeout', '0', true)")
    make_temporary(cursor, projector, home)
    _derive(cursor, projector, list(rows.values()))
    for table in projector.beside:
        differences += _compared(cursor, projector, home, table, compared[table.name])
    return differences


def _drawn(cursor: Cursor, projector: Projector[Any], home: str, lines: int, luck: Random) -> dict[str, list[Line]]:
    """The keys of lines of each table beside, drawn by lot from both sides."""
    found = {
        table.name: [msgspec.json.decode(line) for line in _lot(cursor, table, home, lines, luck)]
        for table in projector.beside
    }
    rows = _lot(cursor, projector.table, home, lines, luck)
    make_temporary(cursor, projector, home)
    _derive(cursor, projector, rows)
    for table in projector.beside:
        derived = _all_of(cursor, table)
        found[table.name] += luck.sample(derived, min(lines, len(derived)))
        cursor.execute(sql.SQL("drop table {}").format(sql.Identifier("pg_temp", table.name)))
    return {
        table.name: luck.sample(keys, len(keys))
        for table in projector.beside
        for keys in [_keys(table, found[table.name])]
    }


def _keys(table: Table, lines: Sequence[Line]) -> list[Line]:
    """The keys of these lines, each once."""
    keys = {tuple(line[column] for column in table.primary_key) for line in lines}
    return [dict(zip(table.primary_key, key, strict=True)) for key in sorted(keys)]


def _all_of(cursor: Cursor, table: Table) -> list[Line]:
    found = cursor.execute(sql.SQL("select row_to_json(t) from {} as t").format(sql.Identifier("pg_temp", table.name)))
    return sorted((line for (line,) in found.fetchall()), key=lambda line: [line[c] for c in table.primary_key])


def _lot(cursor: Cursor, table: Table, home: str, number: int, luck: Random) -> list[str]:
    """So many rows or fewer, as JSON, from that many pages drawn by lot."""
    name = sql.Identifier(home, table.name)
    row = cursor.execute(
        "select greatest(1, pg_relation_size(to_regclass(%s)) / current_setting('block_size')::int)",
        (name.as_string(cursor),),
    ).fetchone()
    assert row is not None
    found = cursor.execute(
        sql.SQL("select row_to_json(t)::text from {} as t tablesample system ({}) repeatable ({})").format(
            name, min(100.0, 100.0 * number / row[0]), luck.getrandbits(31)
        )
    ).fetchall()
    return [text for (text,) in luck.sample(found, min(number, len(found)))]


def _derive(cursor: Cursor, projector: Projector[Any], rows: Sequence[str]) -> None:
    """Writes what these rows give into the temporary tables."""
    assert projector.also is not None
    for first in range(0, len(rows), AT_ONCE):
        found = [row_of(projector, text) for text in rows[first : first + AT_ONCE]]
        fit = [(None, row) for row in found if not isinstance(row, Unfit)]
        if fit:
            projector.also(cursor, fit)


def _rows_of_line(
    conn: psycopg.Connection[tuple[Any, ...]],
    projector: Projector[Any],
    home: str,
    table: Table,
    line: Line,
    most: int,
) -> dict[tuple[Any, ...], str] | None:
    """The rows that the line is derived from, by their primary key; None where they are more than that, or too long to
    look for."""
    slice_ = projector.slices.get(table.name)
    if slice_ is None:
        return None
    # By the index that the slice names. Of too many rows none is sent, only how many there are.
    query = sql.SQL(
        "with found as materialized (select {key}, row_to_json(t)::text as line from {rows} as t where {slice}"
        " limit {limit}), counted as materialized (select count(*) as rows from found)"
        " select counted.rows, found.* from counted left join found on counted.rows < {limit}"
    ).format(
        key=sql.SQL(", ").join(sql.Identifier("t", column) for column in projector.table.primary_key),
        rows=sql.Identifier(home, projector.table.name),
        slice=sql.SQL(slice_.rows),
        limit=most + 1,
    )
    found = _in_time(conn, query, line)
    if found is None or found[0][0] > most:
        return None
    return {tuple(key): text for rows, *key, text in found if rows}


def _compared_by_sums(
    conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any], home: str, table: Table, line: Line
) -> list[Difference]:
    slice_ = projector.slices.get(table.name, Slice(rows="true"))
    if not slice_.sums:
        return []
    summed = _in_time(
        conn,
        sql.SQL("select {sums} from {rows} as t where {slice}").format(
            sums=sql.SQL(", ").join(map(sql.SQL, slice_.sums.values())),
            rows=sql.Identifier(home, projector.table.name),
            slice=sql.SQL(slice_.rows),
        ),
        line,
    )
    if summed is None:
        return []
    # The primary key.
    there = _in_time(
        conn,
        sql.SQL("select row_to_json(t) from {} as t where {}").format(
            sql.Identifier(home, table.name),
            sql.SQL(" and ").join(
                sql.SQL("{} = {}").format(sql.Identifier(column), sql.Placeholder(column)) for column in line
            ),
        ),
        line,
    )
    if there is None:
        return []
    expected = {**line, **dict(zip(slice_.sums, map(int, summed[0]), strict=True))}
    return list(differing_lines(projector.name, table, expected, there[0][0] if there else None))


def _in_time(
    conn: psycopg.Connection[tuple[Any, ...]], query: sql.Composed, line: Line
) -> list[tuple[Any, ...]] | None:
    """The answer of a query with the line's columns as parameters; None if it takes longer than statements may now."""
    try:
        with conn.transaction():
            return conn.cursor(row_factory=tuple_row).execute(query, line).fetchall()
    except psycopg.errors.QueryCanceled:
        return None


def _compared(
    cursor: Cursor, projector: Projector[Any], home: str, table: Table, keys: Sequence[Line]
) -> list[Difference]:
    """The differences between these lines as they are and as they were derived anew."""
    columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    select = sql.SQL("(select {} from {})")
    key = sql.SQL(", ").join(map(sql.Identifier, table.primary_key))
    # The primary key, of both.
    cursor.execute(
        sql.SQL(
            "select row_to_json(e), row_to_json(f) from json_populate_recordset(null::{table}, %s) as k"
            " left join {expected} as e using ({key}) left join {found} as f using ({key})"
            " where e is distinct from f"
        ).format(
            table=sql.Identifier(home, table.name),
            expected=select.format(columns, sql.Identifier("pg_temp", table.name)),
            found=select.format(columns, sql.Identifier(home, table.name)),
            key=key,
        ),
        (msgspec.json.encode(keys).decode(),),
    )
    return [
        one for expected, found in cursor.fetchall() for one in differing_lines(projector.name, table, expected, found)
    ]

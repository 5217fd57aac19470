"""Rows that are copied are the rows that are found, whatever text they bear."""

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from modledger.projections.copying import copy_rows

COLUMNS = {
    "id": "bigint not null",
    "text": "text",
    "flag": "boolean not null",
    "at": "timestamptz",
    "told": "jsonb not null",
    "of": "uuid",
}


class Told(msgspec.Struct, frozen=True, array_like=True):
    by: str
    number: int | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    text: str | None
    flag: bool
    at: datetime | None
    told: list[Told]
    of: UUID | None


# Whatever PostgreSQL takes as text, and what CSV, COPY and JSON have a meaning of their own for.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.lists(
    st.sampled_from(
        ["\\", '"', "\n", "\r", "\t", "\b", "\f", "\x01", "\x1f", "]", "[", ",", "null", "\\.", "\\n", "u0"]
    )
).map("".join)
ROWS = st.lists(
    st.builds(
        Row,
        id=st.integers(-(2**63), 2**63 - 1),
        text=st.none() | TEXTS,
        flag=st.booleans(),
        at=st.none() | st.datetimes(timezones=st.just(UTC)),
        told=st.lists(st.builds(Told, by=TEXTS, number=st.none() | st.integers(0, 9)), max_size=3),
        of=st.none() | st.uuids(),
    ),
    min_size=1,
    max_size=5,
)


def copied(conn: psycopg.Connection, rows: list[Row]) -> list[Row]:
    """What is found after these rows were copied into an empty table."""
    with conn.transaction(force_rollback=True), conn.cursor() as cursor:
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        cursor.execute(f"create temp table copied (place integer generated always as identity, {columns})".encode())
        copy_rows(cursor, sql.Identifier("copied"), COLUMNS, rows)
        found = cursor.execute("select id, text, flag, at, told::text, of from copied order by place").fetchall()
    return [
        Row(id=id_, text=text, flag=flag, at=at, told=msgspec.json.decode(told, type=list[Told]), of=of)
        for id_, text, flag, at, told, of in found
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_rows_are_found_as_they_were_copied(conn: psycopg.Connection, rows: list[Row]) -> None:
    assert copied(conn, rows) == rows


@pytest.mark.parametrize(
    "text", ["", "null", "\\N", "\\.", "a\nb", "\\\\n", '\\"\n"', "]\n[", "\u2028", "x\r\ny", "\x7f"]
)
def test_text_that_means_something_to_a_format_is_copied_as_it_is(conn: psycopg.Connection, text: str) -> None:
    row = Row(id=1, text=text, flag=True, at=None, told=[Told(text, None)], of=None)
    assert copied(conn, [row, row]) == [row, row]

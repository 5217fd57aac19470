"""Read tables of many rows, for tests of plans."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg


@contextmanager
def indexes_afterwards(conn: psycopg.Connection[Any], table: str) -> Iterator[None]:
    """The indexes of ``table``, its primary key's aside, are made once the rows are there that are written meanwhile:
    the same indexes, in a fraction of the time."""
    # pg_index_indrelid_index
    found = conn.execute(
        "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index"
        " where indrelid = %s::text::regclass and not indisprimary",
        (table,),
    ).fetchall()
    for name, _ in found:
        conn.execute(f"drop index {name}".encode())
    yield
    for _, definition in found:
        conn.execute(definition.encode())

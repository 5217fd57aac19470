"""The read models there are, and the making of their tables."""

from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from modledger.projections import bots, guilds, permission_history, profile, punishments, subscription_history
from modledger.projections.projector import Cursor, Projector, Table

PROJECTORS: Final[tuple[Projector[Any], ...]] = (
    profile.PROJECTOR,
    punishments.PROJECTOR,
    subscription_history.PROJECTOR,
    permission_history.PROJECTOR,
    guilds.PROJECTOR,
    bots.PROJECTOR,
)

# Any number that no other advisory lock of ours has.
_LOCK = 0x6D6C_7265_6164


def create_missing(conn: psycopg.Connection[Any]) -> list[str]:
    """Makes each read table that is missing, with its indexes, and answers the names of the projectors that begin anew.

    A projector one of whose tables was missing folds the ledger again from its beginning into new ones. Callers at the
    same time wait for each other; inside a transaction of the caller's it becomes part of that. Needs the numbered migrations.
    """
    anew = []
    with conn.transaction():
        cursor = conn.cursor(row_factory=tuple_row)
        cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        for projector in PROJECTORS:
            tables = (projector.table, *projector.beside)
            if all(_exists(cursor, table) for table in tables):
                continue
            # 0 and not no row: a runner that still holds an older position is fenced by it. projection_tracking_pkey
            cursor.execute(
                "insert into projection_tracking values (%s, 0)"
                " on conflict (application_name) do update set notification_id = 0",
                (projector.name,),
            )
            cursor.execute("delete from projection_failures where projector = %s", (projector.name,))
            for table in tables:
                cursor.execute(sql.SQL("drop table if exists {}").format(sql.Identifier(table.name)))
                create(cursor, table)
            anew.append(projector.name)
    return anew


def create(cursor: Cursor, table: Table) -> None:
    """Makes one read table and its indexes."""
    columns = [f"{name} {kind}" for name, kind in table.columns.items()]
    columns.append(f"primary key ({', '.join(table.primary_key)})")
    cursor.execute(f"create table {table.name} ({', '.join(columns)}) {table.options}".encode())
    for name, on in table.indexes.items():
        unique = "unique " if on.startswith("unique ") else ""
        cursor.execute(f"create {unique}index {name} on {table.name} {on.removeprefix(unique)}".encode())


def _exists(cursor: Cursor, table: Table) -> bool:
    found = cursor.execute("select to_regclass(%s)", (table.name,)).fetchone()
    return found is not None and found[0] is not None

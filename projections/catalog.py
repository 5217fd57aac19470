"""The read models there are, and the making of their tables."""

from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from modledger.projections import (
    audit_log,
    bots,
    guilds,
    ownerships,
    permission_history,
    profile,
    punishment_history,
    punishments,
    rights,
    subscription_history,
    user_names,
)
from modledger.projections.projector import Cursor, Projector, Table, fingerprint

PROJECTORS: Final[tuple[Projector[Any], ...]] = (
    profile.PROJECTOR,
    punishments.PROJECTOR,
    subscription_history.PROJECTOR,
    permission_history.PROJECTOR,
    guilds.PROJECTOR,
    bots.PROJECTOR,
    audit_log.PROJECTOR,
    user_names.PROJECTOR,
    ownerships.PROJECTOR,
    punishment_history.PROJECTOR,
)

# Any number that no other advisory lock of ours has.
_LOCK = 0x6D6C_7265_6164


def outdated(conn: psycopg.Connection[Any], projectors: Sequence[Projector[Any]] = PROJECTORS) -> list[str]:
    """The names of the projectors whose tables are missing or made by another version. Needs the numbered
    migrations."""
    cursor = conn.cursor(row_factory=tuple_row)
    # The whole table, a row per projector.
    known: dict[str, str] = dict(cursor.execute("select projector, fingerprint from read_models").fetchall())
    return [
        projector.name
        for projector in projectors
        if known.get(projector.name) != fingerprint(projector)
        or not all(_exists(cursor, table) for table in (projector.table, *projector.beside))
    ]


def create_missing(conn: psycopg.Connection[Any], projectors: Sequence[Projector[Any]] = PROJECTORS) -> list[str]:
    """Makes each read table that is missing or of another version, with its indexes, and answers the names of the
    projectors that begin anew: they fold the ledger again from its beginning. Where pg_trgm has come since, the tables
    that are there get their indexes for fragments.

    Callers at the same time wait for each other; inside a transaction of the caller's it becomes part of that. Needs
    the numbered migrations.
    """
    with conn.transaction():
        cursor = conn.cursor(row_factory=tuple_row)
        cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        anew = outdated(conn, projectors)
        for projector in projectors:
            if projector.name not in anew:
                continue
            # 0 and not no row: a runner that still holds an older position is fenced by it. projection_tracking_pkey
            cursor.execute(
                "insert into projection_tracking values (%s, 0)"
                " on conflict (application_name) do update set notification_id = 0",
                (projector.name,),
            )
            cursor.execute("delete from projection_failures where projector = %s", (projector.name,))
            tables = (projector.table, *projector.beside)
            # Also those that only another version had: they may say what was erased. read_models_pkey
            had = cursor.execute("select tables from read_models where projector = %s", (projector.name,)).fetchone()
            for name in dict.fromkeys([table.name for table in tables] + (had[0] if had else [])):
                cursor.execute(sql.SQL("drop table if exists {}").format(sql.Identifier(name)))
            for table in tables:
                create(cursor, table)
            # read_models_pkey
            cursor.execute(
                "insert into read_models (projector, fingerprint, tables) values (%s, %s, %s) on conflict (projector)"
                " do update set fingerprint = excluded.fingerprint, tables = excluded.tables,"
                " generation = read_models.generation + 1",
                (projector.name, fingerprint(projector), [table.name for table in _tables([projector])]),
            )
        if anew:
            home = cursor.execute("select current_schema()").fetchone()
            assert home is not None
            rights.give(cursor, home[0], rights.of_read_tables([one for one in projectors if one.name in anew]))
        if has_trigrams(cursor):
            for table in _tables(projectors):
                for name, on in table.fragments.items():
                    cursor.execute(f"create index if not exists {name} on {table.name} {on}".encode())
    return anew


def replaceable(conn: psycopg.Connection[Any], projectors: Sequence[Projector[Any]] = PROJECTORS) -> list[str]:
    """Of the outdated ones those whose tables can be read while others are made beside them: they are there, and full
    of what another version of the program made of the ledger."""
    cursor = conn.cursor(row_factory=tuple_row)
    names = outdated(conn, projectors)
    # The whole table, a row per projector; projection_tracking_pkey
    known: dict[str, str] = dict(
        cursor.execute(
            "select projector, fingerprint from read_models join projection_tracking on application_name = projector"
            " where notification_id > 0"
        ).fetchall()
    )
    return [
        projector.name
        for projector in projectors
        if projector.name in names
        and known.get(projector.name, fingerprint(projector)) != fingerprint(projector)
        and _exists(cursor, projector.table)
    ]


def create(cursor: Cursor, table: Table) -> None:
    """Makes one read table and its indexes, those for fragments aside."""
    create_bare(cursor, table)
    add_primary_key(cursor, table)
    create_indexes(cursor, table)


def create_bare(cursor: Cursor, table: Table) -> None:
    """Makes one read table without any index."""
    columns = ", ".join(f"{name} {kind}" for name, kind in table.columns.items())
    cursor.execute(f"create table {table.name} ({columns}) {table.options}".encode())


def add_primary_key(cursor: Cursor, table: Table) -> None:
    covered = f" include ({', '.join(table.covered)})" if table.covered else ""
    cursor.execute(f"alter table {table.name} add primary key ({', '.join(table.primary_key)}){covered}".encode())


def create_indexes(cursor: Cursor, table: Table) -> None:
    """Makes the indexes of a read table, those for fragments and the primary key's aside, that are not there yet."""
    for name, on in table.indexes.items():
        unique = "unique " if on.startswith("unique ") else ""
        cursor.execute(f"create {unique}index if not exists {name} on {table.name} {on.removeprefix(unique)}".encode())


def has_trigrams(cursor: Cursor) -> bool:
    """Whether indexes for fragments can be made: pg_trgm is there, in a schema that is searched."""
    found = cursor.execute(
        "select exists (select from pg_opclass where opcname = 'gin_trgm_ops' and pg_opclass_is_visible(oid))"
    ).fetchone()
    return found == (True,)


def fragment_indexes(projectors: Sequence[Projector[Any]] = PROJECTORS) -> list[str]:
    """The names of all indexes that fragments are found by."""
    return [name for table in _tables(projectors) for name in table.fragments]


def _tables(projectors: Sequence[Projector[Any]]) -> list[Table]:
    return [table for projector in projectors for table in (projector.table, *projector.beside)]


def _exists(cursor: Cursor, table: Table) -> bool:
    found = cursor.execute("select to_regclass(%s)", (table.name,)).fetchone()
    return found is not None and found[0] is not None

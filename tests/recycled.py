"""Databases that one test after the other uses: emptied and filled as they were, which costs less than making another.

Whatever else a test leaves behind makes its database one that is not used again: a changed schema, right or setting,
statistics, more rows than are deleted in a moment.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

import psycopg
from psycopg import sql

from tests.postgres_server import create_database, drop_database

# More take longer to delete than another database takes to make.
MOST_ROWS = 3_000
PATIENCE_SECONDS = 10

# With the triggers that guard the rows of each from everybody, also from us.
_TABLES = """
    select relname, array(
        select tgname from pg_trigger where tgrelid = c.oid and tgenabled = 'A' and not tgisinternal
    ) from pg_class c where relkind = 'r' and relnamespace = 'public'::regnamespace order by 1
"""
_SEQUENCES = "select sequencename from pg_sequences where schemaname = 'public' order by 1"
# Rows of the catalog that were written since a database was made have a later transaction. What ANALYZE and VACUUM find
# is written in place, and so is compared by its sums. The first oid that a server gives to anybody's objects is 16384.
_CATALOG = """
    select (select array[count(*), max(xmin::text::bigint), sum(relpages), sum(reltuples::bigint)] from pg_class
            where relkind <> 't' and oid >= 16384)
        || (select array[count(*), max(xmin::text::bigint)] from pg_attribute where attrelid >= 16384)
        || (select array[count(*), max(xmin::text::bigint)] from pg_proc where oid >= 16384)
        || (select array[count(*), max(xmin::text::bigint)] from pg_type where oid >= 16384)
        || (select array[count(*), max(xmin::text::bigint)] from pg_constraint)
        || (select array[count(*), max(xmin::text::bigint)] from pg_trigger)
        || (select array[count(*), max(xmin::text::bigint)] from pg_index where indexrelid >= 16384)
        || (select array[count(*), max(xmin::text::bigint)] from pg_namespace)
        || (select array[count(*), max(xmin::text::bigint)] from pg_extension)
        || (select array[count(*), max(xmin::text::bigint)] from pg_default_acl)
        || (select array[count(*), max(xmin::text::bigint)] from pg_db_role_setting)
        || (select array[count(*), max(xmin::text::bigint)] from pg_statistic where starelid >= 16384)
        || (select array[count(*), max(xmin::text::bigint)] from pg_policy)
        || (select array[count(*), max(xmin::text::bigint)] from pg_database where datname = current_database())
"""
_OTHERS = "from pg_stat_activity where datname = current_database() and pid <> all(%s)"
# All that a test may have told its connection; what was prepared stays, which is why it is kept.
_FORGOTTEN = b"rollback; close all; unlisten *; select pg_advisory_unlock_all(); discard temp; reset all"


class Recycled(NamedTuple):
    """A database, whose copy it is, a connection to it, and what was in it."""

    name: str
    url: str
    connection: psycopg.Connection
    catalog: object
    rows: dict[str, bytes]
    sequences: dict[str, tuple[int, bool]]
    emptying: bytes


# Of a database the connection that one test after the other has, by its URL: half of what a test's first statements
# take is that a new one knows nothing of the tables.
_KEPT: dict[str, psycopg.Connection] = {}


def kept_connection(url: str) -> psycopg.Connection:
    """A connection to a database that was taken, for its test; in autocommit mode. It is not to be closed."""
    kept = _KEPT.get(url)
    if kept is None or kept.closed:
        kept = _KEPT[url] = psycopg.connect(url, autocommit=True)
    return kept


# Those that nobody uses now, by server and template.
_FREE: dict[tuple[str, str], list[Recycled]] = {}


def take(server_url: str, template: str) -> Recycled:
    """One that is as the template is."""
    free = _FREE.setdefault((server_url, template), [])
    return free.pop() if free else _new(server_url, template)


def give_back(server_url: str, template: str, used: Recycled) -> None:
    """Disconnects whoever uses it, and makes it what it was, or drops it."""
    try:
        if (restored := _restored(used)) is not None:
            _FREE[server_url, template].append(restored)
            return
    except psycopg.Error:
        # Whatever a test may have done to the server, or to its database.
        pass
    used.connection.close()
    if used.url in _KEPT:
        _KEPT.pop(used.url).close()
    drop_database(server_url, used.name)


def close() -> None:
    """Leaves the databases, for their server to be stopped."""
    for free in _FREE.values():
        for one in free:
            one.connection.close()
    for kept in _KEPT.values():
        kept.close()
    _FREE.clear()
    _KEPT.clear()


def _new(server_url: str, template: str) -> Recycled:
    name = f"test_{uuid4().hex}"
    url = create_database(server_url, name, template)
    connection = psycopg.connect(url, autocommit=True)
    # Nothing that guards the tables stands in the way of the one who empties them.
    connection.execute("set session_replication_role = replica")
    tables: list[tuple[str, list[str]]] = connection.execute(_TABLES).fetchall()
    rows = {}
    for table, _ in tables:
        with connection.cursor().copy(sql.SQL("copy {} to stdout").format(sql.Identifier(table))) as copied:
            if found := b"".join(copied):
                rows[table] = found
    sequences = {}
    for (sequence,) in connection.execute(_SEQUENCES).fetchall():
        place = connection.execute(
            sql.SQL("select last_value, is_called from {}").format(sql.Identifier(sequence))
        ).fetchone()
        assert place is not None
        sequences[str(sequence)] = place
    emptied = sql.SQL(" ").join([_emptied(table, guards) for table, guards in tables])
    emptying = sql.SQL("do $$ begin {} end $$").format(emptied).as_bytes(connection)
    catalog = connection.execute(_CATALOG).fetchone()
    return Recycled(name, url, connection, catalog, rows, sequences, emptying)


def _emptied(table: str, guards: Sequence[str]) -> sql.Composed:
    names = {"table": sql.Identifier(table), "most": sql.Literal(MOST_ROWS)}
    unguarded, guarded = (
        sql.SQL(" ").join(
            sql.SQL("alter table {} {} trigger {};").format(names["table"], sql.SQL(what), sql.Identifier(guard))
            for guard in guards
        )
        for what in ("disable", "enable always")
    )
    return sql.SQL(
        "if exists (select from {table}) then"
        " assert (select count(*) from (select from {table} limit {most} + 1) as r) <= {most}, 'too much';"
        " {unguarded} delete from {table}; {guarded} end if;"
    ).format(**names, unguarded=unguarded, guarded=guarded)


def _restored(used: Recycled) -> Recycled | None:
    connection = used.connection
    ours = [connection.info.backend_pid]
    kept = _KEPT.get(used.url)
    if kept is not None and not kept.closed:
        kept.execute(_FORGOTTEN)
        ours.append(kept.info.backend_pid)
    if connection.execute(_CATALOG).fetchone() != used.catalog:
        return None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while connection.execute(f"select pg_terminate_backend(pid) {_OTHERS}".encode(), (ours,)).fetchall():
        if time.monotonic() > deadline:
            return None
        time.sleep(0.001)
    with connection.transaction():
        connection.execute(used.emptying)
        for table, rows in used.rows.items():
            with connection.cursor().copy(sql.SQL("copy {} from stdin").format(sql.Identifier(table))) as copied:
                copied.write(rows)
        for sequence, (value, called) in used.sequences.items():
            connection.execute("select setval(%s::regclass, %s, %s)", (f'public."{sequence}"', value, called))
    # The guards were written anew.
    return used._replace(catalog=connection.execute(_CATALOG).fetchone())

"""Databases that one test after the other uses: emptied and filled as they were, which costs less than making another.

Whatever else a test leaves behind makes its database one that is not used again: a changed schema, right or setting,
statistics, more rows than are deleted in a moment.
"""

import time
from collections.abc import Sequence
from typing import LiteralString, NamedTuple
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
# What tells whether rows were written since: how many there are, or one too many, and the last transaction that wrote
# any. Most tests write into few tables, and to empty and fill all of them took half of what a database costs.
_OF_TABLE: LiteralString = """
    select {text}, array[count(*), coalesce(max(xmin::text::bigint), 0)]
    from (select xmin from {name} limit {most} + 1) as r
"""
_OF_SEQUENCE: LiteralString = "select {text}, array[last_value, is_called::int] from {name}"
_OTHERS = "from pg_stat_activity where datname = current_database() and pid <> all(%s)"
# All that a test may have told its connection; what was prepared stays, which is why it is kept.
_FORGOTTEN = b"rollback; close all; unlisten *; select pg_advisory_unlock_all(); discard temp; reset all"


class Recycled(NamedTuple):
    """A database, a connection to it, and what was in it. ``guards``: of each table. ``looks``: statements that say
    what is ``seen`` of every table and sequence."""

    name: str
    url: str
    connection: psycopg.Connection
    catalog: object
    rows: dict[str, bytes]
    guards: dict[str, list[str]]
    looks: list[bytes]
    seen: dict[str, list[int]]


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
    guards: dict[str, list[str]] = dict(connection.execute(_TABLES).fetchall())
    rows = {}
    for table in guards:
        with connection.cursor().copy(sql.SQL("copy {} to stdout").format(sql.Identifier(table))) as copied:
            if found := b"".join(copied):
                rows[table] = found
    sequences = [name for (name,) in connection.execute(_SEQUENCES).fetchall()]
    # Guarded tables apart: what is prepared is planned anew after a guard of one of its tables was written anew.
    free, guarded = ([table for table in guards if bool(guards[table]) is so] for so in (False, True))
    places = [_named(_OF_SEQUENCE, sequence) for sequence in sequences]
    looks = [[*(_named(_OF_TABLE, table) for table in free), *places], [_named(_OF_TABLE, table) for table in guarded]]
    asked = [sql.SQL(" union all ").join(several).as_bytes(connection) for several in looks]
    catalog = connection.execute(_CATALOG).fetchone()
    return Recycled(name, url, connection, catalog, rows, guards, asked, _seen(connection, asked))


def _named(statement: LiteralString, name: str) -> sql.Composed:
    return sql.SQL(statement).format(text=sql.Literal(name), name=sql.Identifier(name), most=sql.Literal(MOST_ROWS))


def _seen(connection: psycopg.Connection, looks: Sequence[bytes]) -> dict[str, list[int]]:
    return {name: told for look in looks for name, told in connection.execute(look, prepare=True).fetchall()}


def _emptied(table: str, guards: Sequence[str]) -> sql.Composed:
    unguarded, guarded = (
        [sql.SQL(f"alter table {{}} {what} trigger {{}};").format(*map(sql.Identifier, (table, one))) for one in guards]
        for what in ("disable", "enable always")
    )
    return sql.SQL(" ").join([*unguarded, sql.SQL("delete from {};").format(sql.Identifier(table)), *guarded])


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
    seen = _seen(connection, used.looks)
    if any(seen[table][0] > MOST_ROWS for table in used.guards):
        return None
    changed = [name for name in used.seen if seen[name] != used.seen[name]]
    return _mended(used, changed) if changed else used


def _mended(used: Recycled, changed: Sequence[str]) -> Recycled:
    """With these tables and sequences as they were."""
    connection, seen = used.connection, dict(used.seen)
    tables = [name for name in changed if name in used.guards]
    with connection.transaction():
        connection.execute(sql.SQL(" ").join(_emptied(table, used.guards[table]) for table in tables))
        for table in tables:
            if table in used.rows:
                with connection.cursor().copy(sql.SQL("copy {} from stdin").format(sql.Identifier(table))) as copied:
                    copied.write(used.rows[table])
        for sequence in changed:
            if sequence not in used.guards:
                value, called = seen[sequence]
                connection.execute("select setval(%s::regclass, %s, %s)", (f'public."{sequence}"', value, bool(called)))
        ((written,),) = connection.execute("select pg_current_xact_id()::text::bigint").fetchall()
    for table in tables:
        count, before = seen[table]
        seen[table] = [count, written if count else before]
    # Guards were written anew, where there are some.
    catalog = connection.execute(_CATALOG).fetchone() if any(map(used.guards.get, tables)) else used.catalog
    return used._replace(catalog=catalog, seen=seen)

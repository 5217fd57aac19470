"""Who the program is to its database: an owner that makes tables, a login that serves and works, and one that reads.

What each may do is in projections/rights.py; why, in docs/security.md.
"""

from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg
import structlog
from psycopg import sql

from modledger.domain.settings import Settings
from modledger.projections import rights
from modledger.projections.catalog import PROJECTORS

log = structlog.get_logger()

OWNER, APP, READ = "modledger_owner", "modledger_app", "modledger_read"
# Any number that no other advisory lock of ours has.
_LOCK = int.from_bytes(b"logins")

# pg_authid_rolname_index, pg_database_datname_index, pg_class_oid_index. Tables that a superuser has put back from a
# backup may be the superuser's.
_ARE_THERE = """
    select (select count(*) from pg_roles where rolname = any(%s)), pg_get_userbyid(datdba),
        coalesce(
            (select pg_get_userbyid(relowner) from pg_class where oid = to_regclass('ledger')), pg_get_userbyid(datdba)
        )
    from pg_database where datname = current_database()
"""
# What is in the database but of the server itself and of extensions, and belongs to somebody else than it should.
_OTHERS = """
    select kind, name from (
        select 1 as turn, 'schema' as kind, format('%%I', nspname) as name, nspowner as owner, 'pg_namespace'::regclass,
            oid from pg_namespace where nspname <> 'public'
        union all
        select 2, 'table', format('%%I.%%I', nspname, relname), relowner, 'pg_class'::regclass, c.oid
            from pg_class as c join pg_namespace as n on n.oid = relnamespace where relkind in ('r', 'p', 'v')
        union all
        select 3, 'routine', p.oid::regprocedure::text, proowner, 'pg_proc'::regclass, p.oid from pg_proc as p
    ) as found (turn, kind, name, owner, class, oid)
    where owner <> %s::text::regrole
        -- Objects that initdb has made have numbers below this one (FirstNormalObjectId).
        and oid >= 16384
        and not exists (select from pg_depend where classid = class and objid = found.oid and deptype in ('e', 'i'))
        and name !~ '^pg_(temp|toast)'
    order by turn, name
"""
_OWNS = "select pg_has_role(relowner, 'member') from pg_class where oid = 'ledger'::regclass"
_WRITES = "select has_table_privilege('projection_tracking', 'insert, update, delete')"


class Logins(NamedTuple):
    """The URLs of one database for its three logins; those that are not told apart are equal."""

    owner: str
    app: str
    read: str


def external(settings: Settings, url: str) -> Logins:
    """The logins of a server of the operator's own."""
    return Logins(settings.owner_database_url or url, url, settings.read_database_url or url)


def embedded(superuser: str) -> Logins:
    """The logins of our own server, made when missing; what an earlier version of the program made there as superuser
    becomes the owner's. ``superuser``: a URL whose query names the user. Raises psycopg.Error."""
    with psycopg.connect(superuser, autocommit=True) as connection:
        if connection.execute(_ARE_THERE, ([OWNER, APP, READ],)).fetchone() != (3, OWNER, OWNER):
            _make(connection)
    return Logins(*(as_login(superuser, name) for name in (OWNER, APP, READ)))


def _make(connection: psycopg.Connection) -> None:
    make_roles(connection)
    row = connection.execute("select current_database()").fetchone()
    assert row is not None
    database = sql.Identifier(row[0])
    connection.execute(sql.SQL("revoke temporary on database {} from public").format(database))
    # For what a verification derives anew and compares.
    connection.execute(sql.SQL("grant temporary on database {} to {}").format(database, sql.Identifier(APP)))
    # One by one, or the locks of all would be held together and stop whoever is at work.
    for kind, name in connection.execute(_OTHERS, (OWNER,)).fetchall():
        connection.execute(f"alter {kind} {name} owner to {OWNER}".encode())
    # Last: by this it is known to be done.
    connection.execute(sql.SQL("alter database {} owner to {}").format(database, sql.Identifier(OWNER)))


def make_roles(connection: psycopg.Connection) -> None:
    """Makes the three logins where they are missing, without a password and without any right. Callers at once wait
    for each other until this one closes ``connection``."""
    connection.execute("select pg_advisory_lock(%s)", (_LOCK,))
    # pg_authid_rolname_index
    known = {name for (name,) in connection.execute("select rolname from pg_roles").fetchall()}
    for name in (OWNER, APP, READ):
        if name not in known:
            connection.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
    connection.execute(f"alter role {READ} set default_transaction_read_only = on".encode())


def as_login(url: str, user: str) -> str:
    """The URL with another user in its query or, where that names none, before its host."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    if any(key == "user" for key, _ in query):
        others = [(key, user if key == "user" else value) for key, value in query]
        return f"{url.partition('?')[0]}?{urlencode(others, quote_via=quote, safe='/')}"
    scheme, _, rest = url.partition("://")
    host = parts.netloc.rpartition("@")[2]
    return f"{scheme}://{quote(user, safe='')}@{host}{rest.removeprefix(parts.netloc)}"


def give_rights(connection: psycopg.Connection, logins: Logins | None) -> None:
    """Gives the app's and the reader's logins their rights to all there is, after the tables were made or changed.
    ``connection``: the owner's, on a migrated database; ``logins`` None: those that it knows. A login in whose place
    another is named loses its rights. Raises psycopg.Error, as for a login that does not exist."""
    with connection.transaction():
        cursor = connection.cursor()
        row = cursor.execute("select current_schema(), current_user").fetchone()
        assert row is not None
        home, owner = row
        if logins is not None:
            _remember(cursor, home, _named(logins, owner))
        # The whole table, a row or two; those that exist, since a backup may be put back where they do not.
        there = "select name, rights from database_roles join pg_roles on rolname = name"
        for name, kind in cursor.execute(there).fetchall():
            whom = sql.Identifier(name)
            row = cursor.execute("select has_schema_privilege(%s, %s, 'usage')", (name, home)).fetchone()
            if row == (False,):
                cursor.execute(sql.SQL("grant usage on schema {} to {}").format(sql.Identifier(home), whom))
            for function in rights.FUNCTIONS if kind == "app" else ():
                cursor.execute(
                    sql.SQL("grant execute on function {} to {}").format(sql.Identifier(home, function), whom)
                )
        rights.give(cursor, home, {**rights.TABLES, **rights.of_read_tables(PROJECTORS)})


def _named(logins: Logins, owner: str) -> dict[str, str]:
    """The names of the logins that are not the owner, with their kind of rights."""
    named: dict[str, str] = {}
    for kind, url in (("read", logins.read), ("app", logins.app)):
        if url != logins.owner:
            # Only the server knows who a URL without a user is, or one that sets a role.
            with psycopg.connect(url, autocommit=True) as connection:
                row = connection.execute("select current_user").fetchone()
            assert row is not None
            named[row[0]] = kind
    named.pop(owner, None)
    return named


def _remember(cursor: psycopg.Cursor, home: str, named: dict[str, str]) -> None:
    known: dict[str, str] = dict(cursor.execute("select name, rights from database_roles").fetchall())
    for name, kind in known.items():
        # Where no other is named for what it does, as where only one of the URLs is set here, it stays.
        if named.get(name, kind) == kind and (name in named or kind not in named.values()):
            continue
        # database_roles_pkey
        cursor.execute("delete from database_roles where name = %s", (name,))
        if cursor.execute("select from pg_roles where rolname = %s", (name,)).fetchone() is not None:
            for what in ("tables", "functions"):
                cursor.execute(
                    sql.SQL("revoke all on all {} in schema {} from {}").format(
                        sql.SQL(what), sql.Identifier(home), sql.Identifier(name)
                    )
                )
    cursor.executemany(
        "insert into database_roles (name, rights) values (%s, %s) on conflict do nothing", list(named.items())
    )


def warn_unless_separated(app: str, read: str | None = None) -> None:
    """Leaves a line in the log where the login that serves and works (``app``) could undo what protects the ledger, or
    the one that reads could write. Needs a migrated database. Raises psycopg.Error."""
    for kind, url, query in (("app", app, _OWNS), ("read", read, _WRITES)):
        if url is None:
            continue
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(query).fetchone()
        if row != (False,):
            log.warning("database roles are not separated", login=kind, see="docs/security.md")

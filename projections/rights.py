"""What the program's logins may do with each table: one list, which docs/security.md explains and tests hold it to.

Nobody but the owner of the tables may delete or change an event, a seal or a table. Events enter the ledger, and keys
of subjects come and go, through ``ledger_append`` and ``ledger_append_batch`` alone, which act as that owner.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from psycopg import sql

from modledger.projections.projector import Cursor, Projector


class Rights(NamedTuple):
    """Privileges in PostgreSQL's words. ``app``: of the login that serves and works, ``read``: of the one that
    answers reads."""

    app: frozenset[str]
    read: frozenset[str]


def _rights(app: str, read: str = "") -> Rights:
    return Rights(frozenset(app.split()), frozenset(read.split()))


_ALL: Final = "select insert update delete"

# The tables of the numbered migrations, every one of them.
TABLES: Final[Mapping[str, Rights]] = {
    "migrations": _rights("select", "select"),
    "database_roles": _rights(""),
    "installation": _rights("select"),
    "ledger": _rights("select", "select"),
    "subject_keys": _rights("select"),
    # Only grow: triggers see to it, which only an owner can switch off.
    "seal_tiles": _rights("select insert update", "select"),
    "seals": _rights("select insert", "select"),
    "seal_keys": _rights("select insert", "select"),
    "projection_tracking": _rights("select insert update", "select"),
    "projection_failures": _rights(_ALL, "select"),
    "verifications": _rights("select insert update", "select"),
    "read_models": _rights("select", "select"),
    "replays": _rights("select", "select"),
    "replay_parts": _rights("select", "select"),
    # Whoever asks for rows "for update" needs the right to update them.
    "sessions": _rights(_ALL, "select"),
    "api_keys": _rights(_ALL, "select"),
    "login_codes": _rights(_ALL),
    "login_history": _rights(_ALL),
    "idempotency_keys": _rights(_ALL),
    "rate_limits": _rights(_ALL),
    "user_activity": _rights(_ALL, "select"),
    "guild_activity": _rights(_ALL, "select"),
    "bot_activity": _rights(_ALL, "select"),
    "bot_guilds": _rights(_ALL, "select"),
}
READ_TABLE: Final = _rights(_ALL, "select")
# For the app alone.
FUNCTIONS: Final = ("ledger_append", "ledger_append_batch")

_HELD = """
    select c.relname, r.rolname, d.rights,
        array(select lower(privilege_type) from aclexplode(c.relacl) where grantee = r.oid)
    from {roles} as d
    join pg_roles as r on r.rolname = d.name
    join pg_class as c on c.relname = any(%(tables)s) and c.relkind = 'r'
    join pg_namespace as n on n.oid = c.relnamespace and n.nspname = %(home)s
    order by 1, 2
"""


def of_read_tables(projectors: Iterable[Projector[Any]]) -> dict[str, Rights]:
    """What is right for the tables of these projectors."""
    return {table.name: READ_TABLE for one in projectors for table in (one.table, *one.beside)}


def give(cursor: Cursor, home: str, tables: Mapping[str, Rights]) -> None:
    """Gives the logins that ``database_roles`` in the schema ``home`` names exactly these rights to these tables there,
    and takes away any other. Where they have them nothing is written, so that no plan becomes void."""
    roles = sql.Identifier(home, "database_roles")
    # The whole table, a row or two; pg_class_relname_nsp_index
    held = cursor.execute(sql.SQL(_HELD).format(roles=roles), {"home": home, "tables": list(tables)}).fetchall()
    for table, login, kind, has in held:
        wanted = tables[table].app if kind == "app" else tables[table].read
        on, whom = sql.Identifier(home, table), sql.Identifier(login)
        if beyond := sorted(set(has) - wanted):
            cursor.execute(sql.SQL("revoke {} on {} from {}").format(_named(beyond), on, whom))
        if missing := sorted(wanted - set(has)):
            cursor.execute(sql.SQL("grant {} on {} to {}").format(_named(missing), on, whom))


def _named(rights: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL(one) for one in rights)

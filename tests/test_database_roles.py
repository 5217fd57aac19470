"""Least rights: what each login of the program may do with each table, and what it is refused (docs/security.md)."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
import structlog
from psycopg import sql

from modledger.domain import commands
from modledger.domain.commands import Context
from modledger.domain.envelope import OPERATOR, Subject
from modledger.domain.execute import execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import ownerships
from modledger.projections.catalog import PROJECTORS
from modledger.projections.rebuild import create_replay
from modledger.projections.rights import READ_TABLE, TABLES, Rights, of_read_tables
from modledger.workers.logins import APP, READ, Logins, as_login, warn_unless_separated
from modledger.workers.migrate import MigrationError, migrate, require_migrated
from modledger.workers.replay import promote_replay, run_replay
from modledger.workers.runner import catch_up
from tests.databases import MASTER_KEY, logins_on, made_logins
from tests.postgres_server import create_database, drop_database

DECIDED = {**TABLES, **of_read_tables(PROJECTORS)}
# All that PostgreSQL 15 knows of; 17 adds maintain, which is the owner's too.
PRIVILEGES = ("select", "insert", "update", "delete", "truncate", "references", "trigger")

# Refused to the app and to the reader alike. {owner}: who owns the tables.
FORBIDDEN = [
    # Another past.
    "insert into ledger default values",
    "update ledger set actor = actor",
    "delete from ledger",
    "truncate ledger",
    "merge into ledger using (select 1) as one on false when not matched then do nothing when matched then delete",
    "select from ledger for update",
    "do 'begin lock table ledger in exclusive mode; end'",
    "select setval(pg_get_serial_sequence('ledger', 'notification_id'), 1)",
    # Another seal.
    "update seals set note = note",
    "delete from seals",
    "truncate seals",
    "update seal_keys set since = since",
    "delete from seal_keys",
    "delete from seal_tiles",
    "truncate seal_tiles",
    # Other keys than an event goes with.
    "insert into subject_keys values ('user:1', 0, '')",
    "update subject_keys set wrapped = wrapped",
    "delete from subject_keys",
    "truncate subject_keys",
    "update installation set master_key_check = master_key_check",
    "delete from installation",
    "select from database_roles",
    "insert into database_roles values ('me', 'app')",
    "insert into migrations values (9000, 'x', 'x')",
    "update read_models set fingerprint = fingerprint",
    "update replays set state = state",
    # Without what guards them.
    "alter table ledger disable trigger ledger_append_only",
    "alter table ledger disable trigger all",
    "drop trigger ledger_append_only on ledger",
    "alter table seal_tiles disable trigger seal_tiles_grow",
    "create trigger mine before insert on ledger for each row execute function ledger_refuse_change()",
    "set session_replication_role = replica",
    "alter function ledger_refuse_change() owner to current_user",
    "create or replace function ledger_refuse_change() returns trigger language plpgsql as 'begin return new; end'",
    "alter function ledger_append security invoker",
    "drop function ledger_append",
    # Other tables.
    "drop table ledger",
    "drop table profiles",
    "truncate profiles",
    "alter table sessions add column mine int",
    "alter table ledger rename to another",
    "create table mine (a int)",
    "create view mine as select 1",
    "create index mine on ledger (topic)",
    "create function mine() returns int language sql as 'select 1'",
    "create schema mine",
    # Another login, more rights, another server.
    "set role {owner}",
    "set session authorization {owner}",
    "grant {owner} to current_user",
    "create role mine",
    "alter role {owner} password 'mine'",
    "alter role current_user createrole",
    "alter system set log_connections = on",
    "copy (select 1) to program 'true'",
    "copy ledger to '/tmp/mine'",
    "select pg_read_file('PG_VERSION')",
    "select lo_import('/etc/hostname')",
    "select pg_reload_conf()",
    "select pg_terminate_backend({pid})",
]
# Refused to the reader, also when it has made itself writable.
FORBIDDEN_TO_READ = [
    "select from subject_keys",
    "select from installation",
    "select from login_codes",
    "select from login_history",
    "select from idempotency_keys",
    "select from rate_limits",
    *(f"insert into {name} default values" for name in DECIDED),
    *(f"delete from {name}" for name in DECIDED),
]


@pytest.fixture
def owner(database: str) -> Iterator[psycopg.Connection]:
    """The owner of everything in ``database``."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def logins(database: str) -> Logins:
    return logins_on(database)


@pytest.fixture(scope="module")
def untouched(postgres_server: str, template_database: str) -> Iterator[tuple[psycopg.Connection, Logins]]:
    """The owner and the logins of one database for all statements that are refused: none changes anything in it."""
    name = f"refusing_{uuid4().hex}"
    url = create_database(postgres_server, name, template_database)
    with psycopg.connect(url, autocommit=True) as connection:
        before = row_versions(connection)
        yield connection, logins_on(url)
        assert row_versions(connection) == before
    drop_database(postgres_server, name)


def row_versions(connection: psycopg.Connection) -> dict[str, tuple[object, ...]]:
    """Of each table of the database, the catalog's too, which versions of rows it holds; and where its sequences are.
    Whatever a statement inserts, updates, deletes, makes, alters, drops or grants leaves another version of a row."""
    # Without what vacuum and analyze write, and what all databases of the server share.
    tables = connection.execute(
        "select oid::regclass::text from pg_class where relkind = 'r' and not relisshared"
        " and relname not in ('pg_statistic', 'pg_statistic_ext_data') order by 1"
    ).fetchall()
    query = " union all ".join(
        f"select '{name}', count(*), md5(coalesce(string_agg(ctid::text || xmin::text, ',' order by ctid), ''))"
        f" from only {name}"
        for (name,) in tables
    )
    found = {name: tuple(rest) for name, *rest in connection.execute(query.encode()).fetchall()}
    assert found["ledger"][0] == 0 < found["pg_class"][0]
    sequences = "select sequencename, last_value from pg_sequences order by 1"
    found["sequences"] = tuple(connection.execute(sequences).fetchall())
    found["settings"] = tuple(connection.execute("select name, setting from pg_file_settings").fetchall())
    roles = (
        "select rolname, rolcreaterole, rolcreatedb, rolsuper, rolpassword is null from pg_authid"
        " where rolname = any(%s) order by 1"
    )
    found["roles"] = tuple(connection.execute(roles, ([APP, READ, connection.info.user],)).fetchall())
    return found


def warned(ledger: PostgresLedger, user_id: int) -> None:
    command = commands.IssueWarning(target=Subject("user", user_id), reason="spam")
    at = datetime.now(UTC)
    execute(ledger, command, Context(actor=OPERATOR, at=at, command_id=uuid4(), correlation_id=uuid4(), via="cli"))


def unlike_decided(connection: psycopg.Connection, app: str = APP, read: str = READ) -> list[tuple[str, str, str]]:
    """Where what a login may do is not what was decided."""
    found = []
    for table, rights in DECIDED.items():
        for login, wanted in ((app, rights.app), (read, rights.read)):
            for privilege in PRIVILEGES:
                row = connection.execute(
                    "select has_table_privilege(%(login)s, %(table)s, %(privilege)s), %(privilege)s not in"
                    " ('select', 'insert', 'update', 'references')"
                    " or has_any_column_privilege(%(login)s, %(table)s, %(privilege)s) = %(wanted)s",
                    {"login": login, "table": table, "privilege": privilege, "wanted": privilege in wanted},
                ).fetchone()
                if row != (privilege in wanted, True):
                    found.append((login, table, privilege))
    return found


def test_of_every_table_it_is_decided_who_may_do_what(owner: psycopg.Connection) -> None:
    tables = owner.execute(
        "select relname from pg_class where relnamespace = current_schema()::regnamespace"
        " and relkind in ('r', 'p', 'v', 'm', 'f')"
    ).fetchall()
    assert {name for (name,) in tables} == DECIDED.keys()


def test_each_login_has_the_decided_rights_to_every_table_and_no_other(owner: psycopg.Connection) -> None:
    assert unlike_decided(owner) == []


def test_of_the_functions_only_those_that_append_are_the_apps_and_none_is_the_readers(
    owner: psycopg.Connection,
) -> None:
    may = owner.execute(
        "select p.proname, prosecdef, has_function_privilege(%s, p.oid, 'execute'),"
        " has_function_privilege(%s, p.oid, 'execute') from pg_proc as p"
        " where pronamespace = current_schema()::regnamespace and prorettype <> 'trigger'::regtype"
        " and not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = p.oid"
        " and deptype = 'e')"
        " order by 1",
        (APP, READ),
    ).fetchall()
    assert may == [("ledger_append", True, True, False), ("ledger_append_batch", True, True, False)]


def test_neither_login_is_anybody_else_or_more_than_a_login(owner: psycopg.Connection) -> None:
    query = (
        "select rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls,"
        " (select count(*) from pg_auth_members where member = r.oid) from pg_roles as r where rolname = any(%s)"
    )
    assert owner.execute(query, ([APP, READ],)).fetchall() == [(False, 0), (False, 0)]


@pytest.mark.parametrize("statement", FORBIDDEN)
@pytest.mark.parametrize("login", ["app", "read"])
def test_a_login_is_refused(untouched: tuple[psycopg.Connection, Logins], login: str, statement: str) -> None:
    owner, logins = untouched
    said = statement.format(owner=owner.info.user, pid=owner.info.backend_pid)
    refused(getattr(logins, login), said)


@pytest.mark.parametrize("statement", FORBIDDEN_TO_READ)
def test_the_reader_is_also_refused(untouched: tuple[psycopg.Connection, Logins], statement: str) -> None:
    refused(untouched[1].read, statement)


def refused(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        # Or a transaction that only reads would be what refuses it, which each session may leave.
        connection.execute("set default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_the_readers_sessions_begin_read_only_whatever_is_granted(owner: psycopg.Connection, logins: Logins) -> None:
    owner.execute(f"grant delete on profiles to {READ}".encode())
    with (
        psycopg.connect(logins.read, autocommit=True) as reader,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
    ):
        reader.execute("delete from profiles")


def test_an_append_goes_into_the_ledger_whatever_stands_in_its_callers_way(
    owner: psycopg.Connection, logins: Logins
) -> None:
    with psycopg.connect(logins.app, autocommit=True) as app:
        for table in ("ledger", "subject_keys"):
            app.execute(f"create temporary table {table} (like {table} including all)".encode())
        app.execute("set search_path = pg_temp, public")
        empty: list[str] = []
        app.execute(
            "select public.ledger_append(array[gen_random_uuid()], '{1}', '{user:1}', '{1}', '{t}', '{x}', '{system}',"
            " '{cli}', '{0}', %(none)s::text[], %(none)s::bigint[], '{0}', %(none)s::text[], %(none)s::bigint[],"
            " %(none)s::bytea[], '{0}', %(none)s::text[], %(none)s::bigint[])",
            {"none": empty},
        )
        assert app.execute("select from pg_temp.ledger").fetchall() == []
    assert owner.execute("select originator_id from ledger").fetchall() == [("user:1",)]


def test_a_promoted_rebuild_has_the_rights_of_what_it_replaced_and_none_before(
    owner: psycopg.Connection, ledger: PostgresLedger, database: str, logins: Logins
) -> None:
    warned(ledger, 1)
    catch_up(ledger, logins.app, PROJECTORS)
    for projector in PROJECTORS:
        create_replay(database, projector, ledger)
        run_replay(ledger, database, projector, threading.Event())
        for url in (logins.app, logins.read):
            refused(url, f"select from replay_{projector.name}.{projector.table.name}")
        promote_replay(ledger, database, projector, threading.Event())
    assert unlike_decided(owner) == []
    with PostgresLedger(logins.app, MASTER_KEY) as as_app:
        warned(as_app, 2)
        catch_up(as_app, logins.app, PROJECTORS)
    with psycopg.connect(logins.read) as reader:
        assert reader.execute("select user_id from punishments order by 1").fetchall() == [(1,), (2,)]


def test_a_table_that_is_made_anew_has_the_rights_of_the_one_before(owner: psycopg.Connection, database: str) -> None:
    owner.execute(sql.SQL("drop table {}").format(sql.Identifier(ownerships.PROJECTOR.table.name)))
    migrate(database)
    assert unlike_decided(owner) == []


def test_rights_beyond_or_short_of_what_was_decided_are_set_right_by_migrate(
    owner: psycopg.Connection, database: str
) -> None:
    owner.execute(f"grant update, truncate on ledger to {APP}; revoke select on profiles from {READ}".encode())
    owner.execute(f"grant select on subject_keys to {READ}".encode())
    assert len(unlike_decided(owner)) == 4
    migrate(database)
    assert unlike_decided(owner) == []
    before = owner.execute("select relname, xmin from pg_class order by 1").fetchall()
    migrate(database)
    assert owner.execute("select relname, xmin from pg_class order by 1").fetchall() == before


def test_a_login_that_another_takes_the_place_of_loses_its_rights(
    owner: psycopg.Connection, database: str, logins: Logins
) -> None:
    other = f"other_{uuid4().hex}"
    owner.execute(sql.SQL("create role {} login").format(sql.Identifier(other)))
    try:
        as_other = as_login(logins.app, other)
        with pytest.raises(MigrationError, match="run modledger migrate"):
            require_migrated(as_other)
        migrate(database, logins._replace(app=as_other))
        assert unlike_decided(owner, app=other) == []
        require_migrated(as_other)
        with pytest.raises(MigrationError, match="run modledger migrate"):
            require_migrated(logins.app)
        refused(logins.app, "select from ledger")
    finally:
        owner.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(other)))


def test_logins_have_their_rights_in_a_schema_of_the_installations_own(
    empty_database: str,
) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("create schema elsewhere")
    of = made_logins(empty_database)
    logins = Logins(*(f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3Delsewhere" for url in of))
    migrate(logins.owner, logins)
    PostgresLedger(logins.owner, MASTER_KEY).close()
    with PostgresLedger(logins.app, MASTER_KEY) as as_app:
        warned(as_app, 1)
        catch_up(as_app, logins.app, PROJECTORS)
    with psycopg.connect(logins.owner) as connection, psycopg.connect(logins.read) as reader:
        assert unlike_decided(connection) == []
        assert reader.execute("select user_id from elsewhere.punishments").fetchall() == [(1,)]


def test_one_login_for_everything_is_told_in_the_log_and_separate_ones_are_not(logins: Logins) -> None:
    with structlog.testing.capture_logs() as lines:
        warn_unless_separated(logins.app, logins.read)
        assert lines == []
        warn_unless_separated(logins.owner, logins.owner)
        assert [(line["log_level"], line["event"], line["login"]) for line in lines] == [
            ("warning", "database roles are not separated", "app"),
            ("warning", "database roles are not separated", "read"),
        ]


def test_every_decision_is_one_that_postgresql_knows() -> None:
    for rights in (*TABLES.values(), READ_TABLE):
        assert isinstance(rights, Rights)
        assert rights.app | rights.read <= {"select", "insert", "update", "delete"}
        assert rights.read <= rights.app & {"select"}

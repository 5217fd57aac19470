"""The logins of the embedded PostgreSQL: made at the start, also where an earlier version had one for everything."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.projections.catalog import PROJECTORS
from modledger.workers.database import logged_in
from modledger.workers.logins import APP, OWNER, READ, as_login, embedded
from modledger.workers.migrate import migrate, require_migrated
from modledger.workers.postgres import EmbeddedPostgres
from modledger.workers.runner import catch_up
from tests.databases import MASTER_KEY
from tests.forked import modledger
from tests.made_once import copy_folder, fast_folder
from tests.postgres_processes import server_for_tests, until
from tests.product import Product

# What the superuser still has of the program's; the public schema goes by the database's owner.
OF_OTHERS = f"""
    select relname from pg_class join pg_namespace as n on n.oid = relnamespace
        where pg_get_userbyid(relowner) <> '{OWNER}' and nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
    union all select proname from pg_proc as p where pg_get_userbyid(proowner) <> '{OWNER}' and oid >= 16384
        and not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = p.oid and deptype = 'e')
    union all select nspname from pg_namespace where pg_get_userbyid(nspowner) <> '{OWNER}' and oid >= 16384
        and nspname !~ '^pg_'
    union all select datname from pg_database
        where datname = current_database() and pg_get_userbyid(datdba) <> '{OWNER}'
"""
WHO = """
    select distinct application_name, usename from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""

COMMANDS = [
    "migrate",
    "owner 1",
    "session 1 --cookie-jar {folder}/jar.txt",
    "key public",
    "key bot 5",
    "import docs/import_example.jsonl",
    "replay all --drop",
    "verify",
    "verify --sample 10",
    "seal head",
    "seal check",
    "show user 1",
    "audit log",
    "erase user 1 --reason asked",
    "dump {folder}/ledger.dump",
]


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    """The whole product in real processes."""
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        started = Product(Path(folder) / "data", MODLEDGER_DEMO="false")
        started.start()
        yield started
        started.stop()


def superuser_of(product: Product) -> str:
    lines = (product.data_dir / "postgres" / "data" / "postmaster.pid").read_text().splitlines()
    return f"postgresql:///modledger?host={lines[4]}&port={lines[3]}&user=postgres"


def test_an_installation_of_one_role_is_brought_along_with_all_that_is_in_it(
    cluster_place: Path, stopped_cluster: Path
) -> None:
    settings = Settings(data_dir=cluster_place)
    server = EmbeddedPostgres(copy_folder(stopped_cluster, cluster_place / "postgres"))
    superuser = server.attach()
    migrate(superuser)
    PostgresLedger(superuser, MASTER_KEY).close()
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute("create schema replay_of_then; create table replay_of_then.profiles (a int)")
        with logged_in(settings) as logins:
            assert connection.execute(OF_OTHERS).fetchall() == []
            migrate(logins.owner, logins)
            require_migrated(logins.app)
            with PostgresLedger(logins.app, MASTER_KEY) as ledger:
                catch_up(ledger, logins.app, PROJECTORS)
        with logged_in(settings) as again:
            assert again == logins
            assert migrate(again.owner, again) == []
        assert connection.execute(OF_OTHERS).fetchall() == []
    server.stop()
    server.detach()


def test_processes_that_start_at_once_make_the_logins_once(pg_root: Path) -> None:
    server = server_for_tests(pg_root)
    superuser = server.attach()
    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(embedded, [superuser] * 6))
    assert made == [tuple(as_login(superuser, name) for name in (OWNER, APP, READ))] * 6
    for url, name in zip(made[0], (OWNER, APP, READ), strict=True):
        with psycopg.connect(url) as connection:
            assert connection.execute("select session_user::text").fetchone() == (name,)
    with psycopg.connect(made[0].read, autocommit=True) as reader:
        reader.execute("set default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("create temporary table mine (a int)")
    server.stop()
    server.detach()


def test_what_serves_and_works_is_the_app_or_the_reader(product: Product) -> None:
    assert product.ask("GET", "/v1/users/profile/nobody").status == 401
    with psycopg.connect(superuser_of(product), autocommit=True) as connection:
        all_of_them = {("modledger http", READ)}
        all_of_them |= {(f"modledger {name}", APP) for name in ("clock", "sealer", "profile")}
        # Each connects for itself.
        until(lambda: all_of_them <= set(connection.execute(WHO).fetchall()))
        found = connection.execute(WHO).fetchall()
    who = {name for application, name in found if application}
    assert who == {APP, READ}
    assert "not separated" not in product.said()


def test_every_command_has_the_rights_that_it_needs_and_nothing_is_refused(product: Product) -> None:
    for command in COMMANDS:
        done = modledger(command.format(folder=product.data_dir).split(), product.environment())
        assert done.returncode == 0, (command, done.stderr)
    log = (product.data_dir / "postgres" / "postgres.log").read_text()
    assert "permission denied" not in log + product.said()
    # The sealer may not have come to it yet.
    until(lambda: product.ask("GET", "/health").body["status"] == "healthy")

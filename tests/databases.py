"""pytest plugin: migrated databases, and ledgers on them. A database for each test, as one of a few templates is."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest

from bench.history import fill, history
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.workers.logins import APP, READ, Logins, as_login, make_roles
from modledger.workers.migrate import migrate
from modledger.workers.runner import catch_up
from tests import recycled
from tests.postgres_server import create_database, drop_database, filled, template

MASTER_KEY = bytes(range(32))
# Of the product's logins, for a server that asks for one.
PASSWORD = "of-the-suite"


@template("migrated")
def _migrated(url: str) -> None:
    migrate(url, made_logins(url))


@template("folded", of="migrated")
def _folded(url: str) -> None:
    with PostgresLedger(url, MASTER_KEY) as ledger:
        fill(ledger, history(500))
        catch_up(ledger, url, PROJECTORS)


@pytest.fixture(scope="session")
def template_database(postgres_server: str) -> Iterator[str]:
    """The name of a migrated, empty database. Nobody may stay connected to it."""
    with filled(postgres_server, "migrated") as name:
        yield name


def made_logins(url: str) -> Logins:
    """The logins of the product, made where the server has none."""
    with psycopg.connect(url, autocommit=True) as connection:
        make_roles(connection)
        for login in (APP, READ):
            connection.execute(f"alter role {login} password '{PASSWORD}'".encode())
    return logins_on(url)


def logins_on(url: str) -> Logins:
    """The logins of the product on a database of the suite's; its superuser is the owner."""
    app, read = (as_login(url, login) for login in (APP, READ))
    return Logins(url, *(f"{one}{'&' if '?' in one else '?'}password={PASSWORD}" for one in (app, read)))


@contextmanager
def later_template(server_url: str, template: str) -> Iterator[tuple[str, str]]:
    """A copy of ``template``, its name and its URL, to be filled once and then copied for one test after the other.
    Whoever fills it has to leave it."""
    name = f"template_{uuid4().hex}"
    yield name, create_database(server_url, name, template)
    drop_database(server_url, name)


@pytest.fixture(scope="session")
def folded_database(postgres_server: str) -> Iterator[str]:
    """The name of a database with a history of five hundred events that every projector has folded."""
    with filled(postgres_server, "folded") as name:
        yield name


@pytest.fixture(name="template")
def template_of_database(request: pytest.FixtureRequest, template_database: str) -> str:
    """Of what ``database`` is a copy. A module may say otherwise for tests of its own."""
    asked = request.fixturenames
    if "world" in asked and "unfolded" not in asked:
        name: str = request.getfixturevalue("peopled_database")
    elif "folded" in asked:
        name = request.getfixturevalue("folded_database")
    else:
        name = template_database
    return name


@pytest.fixture(scope="session")
def _recycling(postgres_server: str) -> Iterator[None]:
    yield
    recycled.close()


@pytest.fixture
def database(postgres_server: str, template: str, _recycling: None) -> Iterator[str]:
    """The conninfo of a migrated database of the test's own: an empty one, or for a test with a ``world`` that of its
    people."""
    taken = recycled.take(postgres_server, template)
    yield taken.url
    recycled.give_back(postgres_server, template, taken)


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    """A connection to ``database``, in autocommit mode."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def exaggerated(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection to a module's ``database_url`` that sees so many punishments in each week that nothing seems few:
    not what lies between dates, unless many are later, and not what the weeks of a page hold."""
    with psycopg.connect(database_url) as connection:
        connection.execute("update punishment_counts set total = 1000000, open = 1000000 where week > 0")
        yield connection
        connection.rollback()


@pytest.fixture
def folded(database: str) -> Iterator[psycopg.Connection]:
    """A connection to ``database``, in which for a test that asks for this is what ``folded_database`` has."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def empty_database(postgres_server: str) -> Iterator[str]:
    """The conninfo of a database without any table."""
    name = f"empty_{uuid4().hex}"
    yield create_database(postgres_server, name)
    drop_database(postgres_server, name)


@pytest.fixture
def ledger(database: str) -> Iterator[PostgresLedger]:
    """A ledger on ``database``."""
    with PostgresLedger(database, MASTER_KEY) as opened:
        yield opened

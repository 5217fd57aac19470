"""pytest plugin: migrated databases, and ledgers on them. A database per test, copied from one template per session."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.logins import APP, READ, Logins, as_login, make_roles
from modledger.workers.migrate import migrate
from tests.postgres_server import create_database, drop_database

MASTER_KEY = bytes(range(32))
# Of the product's logins, for a server that asks for one.
PASSWORD = "of-the-suite"


@pytest.fixture(scope="session")
def template_database(postgres_server: str) -> Iterator[str]:
    """The name of a migrated, empty database. Nobody may stay connected to it."""
    name = f"template_{uuid4().hex}"
    url = create_database(postgres_server, name)
    migrate(url, made_logins(url))
    yield name
    drop_database(postgres_server, name)


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


@pytest.fixture
def template(request: pytest.FixtureRequest, template_database: str) -> str:
    """Of what ``database`` is a copy. A module may say otherwise for tests of its own."""
    asked = request.fixturenames
    if "world" in asked and "unfolded" not in asked:
        name: str = request.getfixturevalue("peopled_database")
        return name
    return template_database


@pytest.fixture
def database(postgres_server: str, template: str) -> Iterator[str]:
    """The conninfo of a migrated database of the test's own: an empty one, or for a test with a ``world`` that of its
    people."""
    name = f"test_{uuid4().hex}"
    yield create_database(postgres_server, name, template)
    drop_database(postgres_server, name)


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

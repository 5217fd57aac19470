"""pytest plugin: migrated databases, and ledgers on them. A database per test, copied from one template per session."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.migrate import migrate
from tests.postgres_server import create_database, drop_database

MASTER_KEY = bytes(range(32))


@pytest.fixture(scope="session")
def template_database(postgres_server: str) -> Iterator[str]:
    """The name of a migrated, empty database. Nobody may stay connected to it."""
    name = f"template_{uuid4().hex}"
    migrate(create_database(postgres_server, name))
    yield name
    drop_database(postgres_server, name)


@pytest.fixture
def database(postgres_server: str, template_database: str) -> Iterator[str]:
    """The conninfo of a migrated, empty database of the test's own."""
    name = f"test_{uuid4().hex}"
    yield create_database(postgres_server, name, template_database)
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

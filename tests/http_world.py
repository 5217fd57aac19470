"""pytest plugin: the application on a database of its own, with one user for each role."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from modledger.domain.postgres_ledger import PostgresLedger
from tests.http_client import MASTER_KEY, World, people, started
from tests.postgres_server import create_database, drop_database


@pytest.fixture
def world(database: str, ledger: PostgresLedger) -> Iterator[World]:
    """People of every role, and an application that runs; all of the test's own."""
    yield from _worlds(database, ledger)


@pytest.fixture(scope="module")
def shared_world(postgres_server: str, template_database: str) -> Iterator[World]:
    """The same, of a module's: for tables of requests of which none changes anything."""
    name = f"shared_{uuid4().hex}"
    database = create_database(postgres_server, name, template_database)
    with PostgresLedger(database, MASTER_KEY) as ledger:
        yield from _worlds(database, ledger)
    drop_database(postgres_server, name)


def _worlds(database: str, ledger: PostgresLedger) -> Iterator[World]:
    made = World(database, ledger)
    with made.connection:
        people(made)
        with started(made) as running:
            yield running

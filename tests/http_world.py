"""pytest plugin: the application on a database of its own, with one user for each role."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.migrate import migrate
from modledger.workers.postgres import EmbeddedPostgres
from tests.http_client import MASTER_KEY, World, people, started
from tests.made_once import fast_folder
from tests.postgres_server import create_database, drop_database, filled, template
from tests.recycled import kept_connection


@template("peopled", of="migrated")
def _peopled(url: str) -> None:
    with PostgresLedger(url, MASTER_KEY) as ledger:
        world = World(url, ledger)
        with world.connection:
            people(world)
            world.catch_up()


@pytest.fixture(scope="session")
def peopled_database(postgres_server: str) -> Iterator[str]:
    """The name of a database with people of every role, whom every projector has folded. Nobody stays connected."""
    with filled(postgres_server, "peopled") as name:
        yield name


@pytest.fixture
def world(request: pytest.FixtureRequest, database: str, ledger: PostgresLedger) -> Iterator[World]:
    """People of every role, whom every projector has folded, and an application that runs; all of the test's own."""
    made = World(database, ledger, kept_connection(database))
    yield from _running(made, peopled="unfolded" not in request.fixturenames)


@pytest.fixture
def unfolded() -> None:
    """For tests of what is behind: nobody in their ``world`` was recorded before the test began, and no projector has
    done anything."""


@pytest.fixture(scope="module")
def shared_world(postgres_server: str, peopled_database: str) -> Iterator[World]:
    """The same, of a module's: for tables of requests of which none changes anything."""
    name = f"shared_{uuid4().hex}"
    database = create_database(postgres_server, name, peopled_database)
    with PostgresLedger(database, MASTER_KEY) as ledger:
        made = World(database, ledger)
        with made.connection:
            yield from _running(made, peopled=True)
    drop_database(postgres_server, name)


@contextmanager
def world_without_pytest(name: str) -> Iterator[World]:
    """People of every role on a PostgreSQL of their own, of a program that runs by itself; no application yet."""
    with tempfile.TemporaryDirectory(prefix=f"modledger-{name}-", dir=fast_folder()) as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", durable=False)
        database = create_database(server.attach(), name)
        try:
            migrate(database)
            with PostgresLedger(database, MASTER_KEY) as ledger:
                world = World(database, ledger)
                with world.connection:
                    people(world)
                    yield world
        finally:
            server.stop()
            server.detach()


def _running(made: World, *, peopled: bool) -> Iterator[World]:
    if not peopled:
        people(made)
    with started(made) as running:
        yield running

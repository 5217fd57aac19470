"""GET /health/live and /health/ready: what starts, stops and balances processes goes by them."""

import pytest

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.migrate import migrate, migrations
from modledger.workers.postgres import EmbeddedPostgres
from tests.http_client import MASTER_KEY, World, started

READY = {"status": "ready", "reason": None}


def not_ready(world: World) -> str:
    response = world.get("/health/ready")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert response.json()["status"] == "not ready"
    return str(response.json()["reason"])


def test_a_process_that_answers_is_live_and_with_its_database_ready(world: World) -> None:
    live, ready = world.get("/health/live"), world.get("/health/ready")
    assert (live.status_code, live.json()) == (200, {"status": "live"})
    assert (ready.status_code, ready.json()) == (200, READY)


def test_a_process_that_is_about_to_stop_is_live_and_not_ready(world: World) -> None:
    world.client.app.state["stopping"] = True
    try:
        assert not_ready(world) == "This process is about to stop"
        assert world.get("/health/live").status_code == 200
    finally:
        world.client.app.state["stopping"] = False
    assert world.get("/health/ready").json() == READY


@pytest.mark.usefixtures("unfolded")
def test_read_tables_of_another_version_are_not_ready(world: World) -> None:
    world.catching_up = False
    world.connection.execute("update read_models set fingerprint = 'another' where projector = 'bots'")
    assert not_ready(world) == "The read tables of bots are another version's"


def test_migrations_that_are_missing_or_others_are_not_ready_and_newer_ones_are_none_of_ours(world: World) -> None:
    state = world.client.app.state
    before = state["migrations"]
    try:
        state["migrations"] = {one.number: one.checksum for one in migrations()}
        assert world.get("/health/ready").json() == READY
        world.connection.execute("insert into migrations (number, name, checksum) values (9999, 'newer', 'x')")
        assert world.get("/health/ready").json() == READY
        world.connection.execute("update migrations set checksum = 'x' where number = 3")
        assert not_ready(world) == "The database is not at this program's migrations"
        world.connection.execute("delete from migrations where number = 3")
        assert not_ready(world) == "The database is not at this program's migrations"
        world.connection.execute("drop table migrations")
        assert not_ready(world) == "The database was never migrated"
    finally:
        state["migrations"] = before


@pytest.fixture
def own_server(tmp_path: object) -> EmbeddedPostgres:
    return EmbeddedPostgres(tmp_path / "postgres", durable=False)  # type: ignore[operator]


@pytest.mark.usefixtures("unfolded")
def test_without_its_database_a_process_is_live_and_not_ready_until_it_is_back(own_server: EmbeddedPostgres) -> None:
    conninfo = own_server.attach()
    try:
        migrate(conninfo)
        with PostgresLedger(conninfo, MASTER_KEY) as ledger:
            world = World(conninfo, ledger)
            world.catching_up = False
            with world.connection, started(world):
                assert world.get("/health/ready").json() == READY
                own_server.stop()
                assert not_ready(world) == "The database does not answer"
                assert world.get("/health/live").json() == {"status": "live"}
                own_server.attach()
                assert world.get("/health/ready").json() == READY
    finally:
        own_server.stop()
        own_server.detach()

"""GET /health, and what everything answers while the database is away (api.md §1 and §4)."""

import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import structlog

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.http.source_hashes import source_hash, source_hashes
from modledger.projections.catalog import PROJECTORS
from modledger.workers.migrate import migrate
from modledger.workers.postgres import EmbeddedPostgres
from tests.http_client import ADMIN, MASTER_KEY, MODERATOR, USER, World, error_of, people, started

HEALTH_KEYS = [
    "status",
    "database",
    "cache",
    "started_at",
    "db_statistics",
    "cache_statistics",
    "errors",
    "projections",
]


def test_health_tells_of_database_and_projectors(world: World) -> None:
    response = world.get("/health")
    assert response.status_code == 200
    body = response.json()
    assert list(body) == HEALTH_KEYS
    assert (body["status"], body["database"], body["cache"]) == ("healthy", True, True)
    assert (body["started_at"], body["cache_statistics"], body["errors"]) == ("2026-03-10T12:00:00Z", {}, [])
    assert list(body["db_statistics"]) == ["size", "checked_in", "checked_out", "overflow", "total", "latency_ms"]
    assert body["db_statistics"]["size"] == 4
    head = world.ledger.head()
    assert set(body["projections"]) == {projector.name for projector in PROJECTORS}
    assert all(one == {"position": head, "lag_events": 0, "lag_seconds": 0.0} for one in body["projections"].values())


@pytest.mark.usefixtures("unfolded")
def test_health_tells_how_far_behind_a_projector_is(world: World) -> None:
    world.catching_up = False
    world.catch_up("profile")
    projections = world.get("/health").json()["projections"]
    assert projections["profile"]["lag_events"] == 0
    assert projections["punishments"]["position"] == 0
    assert projections["punishments"]["lag_events"] == world.ledger.head()


def test_a_stopped_projector_makes_it_degraded_and_its_error_stays_inside(world: World) -> None:
    world.connection.execute(
        "insert into projection_failures values ('bots', 7, %s, 'bot.registered.v1', 'secret detail', now())",
        (uuid4(),),
    )
    response = world.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["errors"] == ["The projector bots has stopped at position 7"]
    assert "secret" not in response.text


@pytest.mark.usefixtures("unfolded")
def test_a_projector_that_nobody_runs_makes_it_degraded(world: World) -> None:
    world.catching_up = False
    world.catch_up(*(projector.name for projector in PROJECTORS if projector.name != "punishments"))
    world.now = datetime.now(UTC) + timedelta(seconds=60)
    body = world.get("/health").json()
    assert body["status"] == "degraded"
    assert len(body["errors"]) == 1
    assert re.fullmatch(r"The projector punishments is \d+ s behind", body["errors"][0])


def test_admins_are_also_told_which_program_answers(world: World) -> None:
    everybody, response = world.get("/health").json(), world.get("/v1/admin/health", ADMIN)
    assert response.status_code == 200
    body = response.json()
    assert list(body) == [*HEALTH_KEYS, "source_hash", "source_hashes"]
    assert {key: body[key] for key in ("status", "started_at", "projections")} == {
        key: everybody[key] for key in ("status", "started_at", "projections")
    }
    assert (body["source_hash"], body["source_hashes"]) == (source_hash(), source_hashes())
    assert list(body["source_hashes"]) == ["domain", "projections", "http", "workers"]


def test_the_state_of_the_service_is_for_admins(world: World) -> None:
    assert error_of(world.get("/v1/admin/health"), 401) == "Authentication required"
    for user in (USER, MODERATOR):
        assert error_of(world.get("/v1/admin/health", user), 403) == "Admin access required"
    assert error_of(world.get("/v1/admin/health?verbose=1", ADMIN), 400) == "unknown parameter: verbose"


@pytest.mark.usefixtures("unfolded")
def test_tables_that_cannot_be_read_are_unhealthy_for_admins_as_for_everybody(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    world.connection.execute("alter table projection_failures rename to away")
    for path, user, more in (("/health", None, []), ("/v1/admin/health", ADMIN, ["source_hash", "source_hashes"])):
        response = world.get(path, user)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert list(response.json()) == HEALTH_KEYS + more
        assert response.json()["status"] == "unhealthy"


def test_source_hashes_are_those_that_sha256sum_gives() -> None:
    root = Path(__file__).resolve().parent.parent

    def listed(*rooms: str) -> str:
        command = "sha256sum $(find \"$@\" -name '*.py' -o -name '*.sql' | sort) | sha256sum | cut -d' ' -f1"
        run = subprocess.run(
            ["sh", "-c", command, "sh", *rooms],
            cwd=root,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout.strip()

    rooms = ["domain", "projections", "http", "workers"]
    assert source_hashes() == {room: listed(room) for room in rooms}
    assert source_hash() == listed(*rooms)


@pytest.fixture
def own_server(tmp_path: object) -> EmbeddedPostgres:
    return EmbeddedPostgres(tmp_path / "postgres", durable=False)  # type: ignore[operator]


@pytest.mark.usefixtures("unfolded")
def test_while_the_database_is_away_everything_answers_503_and_afterwards_as_before(
    own_server: EmbeddedPostgres,
) -> None:
    conninfo = own_server.attach()
    try:
        migrate(conninfo)
        with PostgresLedger(conninfo, MASTER_KEY) as ledger:
            world = World(conninfo, ledger)
            with world.connection:
                people(world)
                world.catch_up()
                world.catching_up = False
                for user in (USER, MODERATOR, ADMIN):
                    world.token(user)
            with started(world):
                assert world.get("/v1/users/profile/user", ADMIN).status_code == 200
                own_server.stop()
                body = world.get("/health")
                assert body.status_code == 503
                assert body.headers["Retry-After"] == "1"
                assert list(body.json()) == HEALTH_KEYS
                assert (body.json()["status"], body.json()["database"]) == ("unhealthy", False)
                for response in (
                    world.get("/v1/users/me", USER),
                    world.get("/v1/users/profile/user", ADMIN),
                    world.get("/v1/admin/punishments/search", ADMIN),
                    world.get("/v1/admin/health", ADMIN),
                    world.post(f"/v1/admin/punishments/user/{USER}/warn", ADMIN, {"reason": "x"}),
                    world.post("/v1/authentication/request", json={"discord_id": USER}),
                    world.post("/v1/authentication/verify", json={"code": "ABCD1234"}),
                ):
                    assert error_of(response, 503) == "Database unavailable"
                    assert response.headers["Retry-After"] == "1"
                own_server.attach()
                assert world.get("/v1/users/profile/user", ADMIN).status_code == 200
                warned = world.post(f"/v1/admin/punishments/user/{USER}/warn", ADMIN, {"reason": "x"})
                assert warned.status_code == 200
                assert world.get("/health").json()["status"] == "healthy"
    finally:
        own_server.stop()
        own_server.detach()


def test_what_nobody_foresaw_is_logged_under_the_correlation_id_and_kept_from_the_caller(world: World) -> None:
    world.connection.execute("alter table punishments rename column reason to gone")
    with structlog.testing.capture_logs() as lines:
        response = world.get("/v1/admin/punishments/search", ADMIN)
        assert error_of(response, 500) == "Internal server error"
        assert "gone" not in response.text
        assert world.get("/health").json()["status"] == "healthy"
    (line,) = [line for line in lines if line["event"] == "unexpected error"]
    assert line["log_level"] == "error"
    assert "UndefinedColumn" in repr(line["exc_info"])


def test_every_request_is_logged_under_its_correlation_id(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(),
    )
    try:
        response = world.get("/v1/users/me?limit=1", USER)
        (line,) = [json.loads(one) for one in capsys.readouterr().out.splitlines() if one.startswith("{")]
    finally:
        structlog.reset_defaults()
    assert line["correlation_id"] == response.json()["correlation_id"] == response.headers["X-Correlation-ID"]
    assert (line["method"], line["route"], line["status"], line["actor"]) == (
        "GET",
        "/v1/users/me",
        400,
        f"user:{USER}",
    )


def test_no_two_requests_share_a_correlation_id(world: World) -> None:
    assert len({world.get("/health").headers["X-Correlation-ID"] for _ in range(5)}) == 5


def test_answers_are_not_to_be_kept_by_caches(world: World) -> None:
    for path in ("/v1/users/me", "/health", "/v1/nothing"):
        headers = world.get(path, USER).headers
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")

"""Rate limits as a client meets them (api.md §1, 429): which operations count where, and what comes before what."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import msgspec
import psycopg
import pytest
from litestar.testing import TestClient
from psycopg.sql import SQL, Identifier

from modledger.domain import commands
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.http.app import create_app
from modledger.http.sessions import COOKIE
from tests.http_client import ADMIN, MASTER_KEY, SETTINGS, USER, World, error_of, people, started

LIMITED = msgspec.structs.replace(
    SETTINGS, rate_limit_login=2, rate_limit_staff=3, rate_limit_public=4, rate_limit_bot=5
)
BOT = 5000


@pytest.fixture
def limited(database: str, ledger: PostgresLedger) -> Iterator[World]:
    """An application with small limits, and one user for each role."""
    world = World(database, ledger)
    with world.connection:
        people(world)
        with started(world, LIMITED) as running:
            yield running


def statuses(world: World, times: int, method: str, path: str, user: int | None = None, **more: Any) -> list[int]:
    return [world.send(method, path, user, **more).status_code for _ in range(times)]


def test_each_kind_of_operation_has_a_limit_of_its_own(limited: World) -> None:
    key = {"X-API-Key": limited.bot_key(BOT)}
    code: dict[str, Any] = {"json": {"discord_id": "4"}}
    assert statuses(limited, 3, "POST", "/v1/authentication/request", **code) == [200, 200, 429]
    assert statuses(limited, 4, "GET", "/v1/admin/punishments/search", ADMIN) == [200, 200, 200, 429]
    assert statuses(limited, 5, "GET", "/v1/users/me", USER) == [200, 200, 200, 200, 429]
    path = "/v1/authentication/bot/login-code"
    assert statuses(limited, 6, "POST", path, headers=key, **code) == [200] * 5 + [429]
    assert statuses(limited, 2, "POST", "/v1/authentication/verify", json={"code": "ABCD1234"}) == [429, 429]
    assert statuses(limited, 2, "GET", "/v1/users/profile/admin", ADMIN) == [429, 429]


def test_what_is_outside_of_v1_is_never_limited(limited: World) -> None:
    assert statuses(limited, 12, "GET", "/health") == [200] * 12
    assert statuses(limited, 3, "GET", "/schema/openapi.json") == [200] * 3


def test_a_refused_request_says_when_to_come_again(limited: World) -> None:
    for _ in range(3):
        limited.get("/v1/admin/punishments/search", ADMIN)
    limited.now = limited.later(seconds=1)
    refused = limited.get("/v1/admin/punishments/search", ADMIN)
    assert error_of(refused, 429) == "Too many requests"
    assert refused.headers["Retry-After"] == "19"
    limited.now = limited.later(seconds=18)
    assert limited.get("/v1/admin/punishments/search", ADMIN).headers["Retry-After"] == "1"
    limited.now = limited.later(seconds=1)
    assert statuses(limited, 2, "GET", "/v1/admin/punishments/search", ADMIN) == [200, 429]


@pytest.mark.parametrize(
    ("method", "path", "user", "more", "status"),
    [
        ("GET", "/v1/admin/punishments/search", None, {}, 401),
        ("GET", "/v1/admin/punishments/search", USER, {}, 403),
        ("GET", "/v1/admin/punishments/search?limit=0", ADMIN, {}, 400),
        ("POST", f"/v1/admin/punishments/user/{USER}/warn", ADMIN, {"content": b"{", "headers": {"Origin": "x"}}, 403),
        ("POST", f"/v1/admin/punishments/user/{USER}/warn", ADMIN, {"content": b"{"}, 415),
        ("POST", f"/v1/admin/punishments/user/{USER}/warn", ADMIN, {"json": {}}, 400),
    ],
)
def test_refused_requests_count_and_then_429_comes_before_any_other_refusal(
    limited: World, method: str, path: str, user: int | None, more: dict[str, Any], status: int
) -> None:
    assert statuses(limited, 5, method, path, user, **more) == [status] * 3 + [429, 429]
    assert limited.get("/v1/admin/punishments/search", ADMIN).status_code == 429


def test_guessing_log_in_codes_and_keys_is_limited(limited: World) -> None:
    guesses = [limited.post("/v1/authentication/verify", json={"code": f"ABCD123{n}"}).status_code for n in range(5)]
    assert guesses == [401, 401, 429, 429, 429]
    path = "/v1/authentication/bot/login-code"
    keys = [limited.post(path, json={"discord_id": 4}, headers={"X-API-Key": f"hbot_{n}"}) for n in range(7)]
    assert [answer.status_code for answer in keys] == [401] * 5 + [429] * 2


def test_logging_out_counts_as_logging_in(limited: World) -> None:
    assert statuses(limited, 3, "POST", "/v1/authentication/logout", json={}) == [401, 401, 429]


# -- a bot's own limit an hour


def hourly(world: World, limit: int, bot_id: int = BOT) -> dict[str, str]:
    """The credentials of a registered bot with that limit."""
    world.act(commands.RegisterBot(bot_id=bot_id, name=f"bot {bot_id}", owner_id=ADMIN, rate_limit_per_hour=limit))
    return {"X-API-Key": world.bot_key(bot_id)}


def ask_as(world: World, key: dict[str, str]) -> int:
    return world.post("/v1/authentication/bot/login-code", json={"discord_id": 4}, headers=key).status_code


def test_a_bot_has_its_own_limit_an_hour_wherever_it_asks_from(world: World) -> None:
    key, other = hourly(world, 3), hourly(world, 2, 6000)
    assert [ask_as(world, key) for _ in range(4)] == [200, 200, 200, 429]
    assert [ask_as(world, other) for _ in range(3)] == [200, 200, 429]
    body, sent = b'{"discord_id": "4"}', [("Content-Type", "application/json"), *key.items()]
    refused = world.raw("POST", "/v1/authentication/bot/login-code", sent, body, peer="198.51.100.9")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1200")
    world.now = world.later(seconds=1200)
    assert [ask_as(world, key) for _ in range(2)] == [200, 429]


def test_a_new_key_brings_no_new_requests(world: World) -> None:
    key = hourly(world, 2)
    assert [ask_as(world, key) for _ in range(3)] == [200, 200, 429]
    assert ask_as(world, {"X-API-Key": world.bot_key(BOT)}) == 429


def test_a_changed_limit_of_a_bot_holds_at_once(world: World) -> None:
    key = hourly(world, 2)
    assert [ask_as(world, key) for _ in range(2)] == [200, 200]
    world.act(commands.UpdateBot(bot_id=BOT, rate_limit_per_hour=4))
    # What is spent is a whole hour, so the first of four comes back after a quarter of it and not after a half.
    refused = world.post("/v1/authentication/bot/login-code", json={"discord_id": 4}, headers=key)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "900")
    world.now = world.later(seconds=900)
    assert [ask_as(world, key) for _ in range(2)] == [200, 429]


def test_a_bot_that_was_never_registered_has_the_usual_limit(world: World) -> None:
    key = {"X-API-Key": world.bot_key(BOT)}
    assert ask_as(world, key) == 200
    assert world.query("select key, requests from rate_limits") == [(f"bot {BOT} hourly", 1000)]


def test_who_only_guesses_a_key_takes_nothing_from_the_bot(world: World) -> None:
    key = hourly(world, 2)
    for n in range(5):
        assert ask_as(world, {"X-API-Key": f"{key['X-API-Key']}{n}"}) == 401
    assert [ask_as(world, key) for _ in range(3)] == [200, 200, 429]


def test_what_a_bots_own_limit_refuses_takes_nothing_of_it_but_counts_for_the_client(limited: World) -> None:
    key = hourly(limited, 2)
    assert [ask_as(limited, key) for _ in range(3)] == [200, 200, 429]
    spent = limited.query("select full_at from rate_limits where key = %s", f"bot {BOT} hourly")
    assert [ask_as(limited, key) for _ in range(3)] == [429] * 3
    assert limited.query("select full_at from rate_limits where key = %s", f"bot {BOT} hourly") == spent
    # Five a minute of one client, whichever bots it is.
    assert [ask_as(limited, hourly(limited, 9, 6000))] == [429]


def test_bad_requests_of_a_bot_count(world: World) -> None:
    key = hourly(world, 2)
    path = "/v1/authentication/bot/login-code"
    assert statuses(world, 3, "POST", path, headers=key, json={"discord_id": "x"}) == [400, 400, 429]


# -- several server processes


def test_of_many_requests_at_once_to_two_servers_exactly_the_limit_is_let_through(
    database: str, ledger: PostgresLedger
) -> None:
    settings: Settings = msgspec.structs.replace(SETTINGS, rate_limit_public=50)
    world = World(database, ledger)
    with world.connection, ExitStack() as stack:
        people(world)
        world.catch_up()
        cookie = {"Cookie": f"{COOKIE}={world.token(USER)}"}
        clients = []
        for _ in range(2):
            app = create_app(settings, conninfo=database, master_key=MASTER_KEY, clock=lambda: world.now)
            clients.append(stack.enter_context(TestClient(app)))

        def ask(number: int) -> tuple[int, str | None]:
            # Half of them without a session: refused ones count as well.
            answer = clients[number % 2].get("/v1/users/me", headers=cookie if number % 4 < 2 else {})
            return answer.status_code, answer.headers.get("Retry-After")

        with ThreadPoolExecutor(32) as pool:
            answers = Counter(pool.map(ask, range(200)))
            assert answers[429, "2"] == 150
            assert answers[200, None] + answers[401, None] == 50
            world.now = world.later(seconds=1)
            assert Counter(pool.map(ask, range(40))) == {(429, "1"): 40}
            world.now = world.later(seconds=1)
            assert Counter(status for status, _ in pool.map(ask, range(40)))[429] == 39
            world.now = world.later(seconds=60)
            assert Counter(status for status, _ in pool.map(ask, range(200)))[429] == 150


# -- what it rests on


def test_without_the_counts_nobody_is_let_through_unseen(limited: World) -> None:
    limited.connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'modledger http'"
    )
    assert limited.get("/v1/users/me", USER).status_code == 200
    limited.connection.execute("begin; lock table rate_limits in access exclusive mode")
    try:
        refused = limited.get("/v1/users/me", USER)
        assert error_of(refused, 503) == "Database unavailable"
    finally:
        limited.connection.execute("rollback")
    assert limited.get("/v1/users/me", USER).status_code == 200


def test_who_cannot_be_told_apart_without_the_database_does_not_wait_for_the_count_too(limited: World) -> None:
    assert limited.get("/v1/users/me", USER).status_code == 200
    (name,) = limited.query("select current_database()")[0]
    with psycopg.connect(limited.database, dbname="postgres", autocommit=True) as elsewhere:
        limited.connection.execute("begin; lock table rate_limits in access exclusive mode")
        # Whoever reads sessions has to connect anew and cannot; the count has its connection, and waits for the lock.
        elsewhere.execute(SQL("alter database {} allow_connections false").format(Identifier(name)))
        try:
            elsewhere.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'modledger http'"
                " and datname = %s and query not like '%%rate_limits%%'",
                (name,),
            )
            assert error_of(limited.get("/v1/users/me", USER), 503) == "Database unavailable"
            waiting = elsewhere.execute(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = %s", (name,)
            ).fetchone()
            assert waiting == (1,)
        finally:
            elsewhere.execute(SQL("alter database {} allow_connections true").format(Identifier(name)))
            limited.connection.execute("rollback")


def test_every_operation_below_v1_and_no_other_documents_429(world: World) -> None:
    document = world.get("/schema/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert ("429" in operation["responses"]) == path.startswith("/v1/"), path
            if "429" in operation["responses"]:
                retry = operation["responses"]["429"]["headers"]["Retry-After"]
                assert retry["schema"] == {"type": "integer", "minimum": 1}


def test_a_page_of_another_origin_may_read_when_to_come_again(limited: World) -> None:
    headers = {"Origin": "https://panel.example.org"}
    assert statuses(limited, 4, "GET", "/v1/users/me", USER, headers=headers) == [200] * 4
    answer = limited.get("/v1/users/me", USER, headers=headers)
    assert answer.status_code == 429
    assert "retry-after" in answer.headers["Access-Control-Expose-Headers"].lower()

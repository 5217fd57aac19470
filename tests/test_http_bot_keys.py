"""The keys of bots: shown once, void at once, and only as good as the bot is now (api.md §4)."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from httpx import Response

from modledger.domain import commands
from modledger.domain.envelope import Actor, Subject
from modledger.http.keys import create_key
from modledger.http.sessions import COOKIE
from tests.http_client import ADMIN, OWNER, USER, World, error_of, started

BOT = 900
NEW_KEY = f"/v1/admin/bots/{BOT}/regenerate-key"
REGISTER: dict[str, Any] = {"discord_id": BOT, "name": "Music", "owner_discord_id": USER}
# For a bot only, for who has a session or any key, for everybody.
BOT_ONLY, PUBLIC, OPEN = "/v1/bot/me", "/v1/bots/900", "/v1/bots"


def registered(world: World) -> str:
    """The key of the bot, just registered."""
    key = world.post("/v1/admin/bots", ADMIN, REGISTER).json()["api_key"]
    assert isinstance(key, str)
    return key


def new_key(world: World, **headers: str) -> str:
    key = world.post(NEW_KEY, ADMIN, headers=headers).json()["api_key"]
    assert isinstance(key, str)
    return key


def asks(world: World, key: str, path: str = BOT_ONLY) -> Response:
    return world.get(path, headers={"X-API-Key": key})


def is_good(world: World, key: str) -> bool:
    status = asks(world, key).status_code
    assert status in (200, 401)
    return status == 200


def switch(world: World, *, on: bool) -> None:
    assert world.post(f"/v1/admin/bots/{BOT}/update", ADMIN, {"is_active": on}).status_code == 200


def test_a_key_has_256_bits_and_only_its_hash_is_stored(world: World) -> None:
    key = registered(world)
    assert (key[:5], len(key)) == ("hbot_", 5 + 43)
    ((stored,),) = world.query("select key_hash from api_keys")
    assert stored == hashlib.sha256(key.encode()).digest()


@pytest.mark.parametrize("path", ["/v1/admin/bots", NEW_KEY])
def test_a_repeated_request_shows_the_same_key_and_no_table_does(world: World, path: str) -> None:
    if path == NEW_KEY:
        registered(world)
    asked = {"Idempotency-Key": "one"}
    body = REGISTER if path == "/v1/admin/bots" else None
    first, again = (world.post(path, ADMIN, body, headers=asked) for _ in range(2))
    assert again.headers["Idempotency-Replayed"] == "true"
    assert first.json() == again.json()
    key = first.json()["api_key"]
    assert is_good(world, key)
    ((kept,),) = world.query("select body from idempotency_keys where key = 'one'")
    assert key.encode() not in kept
    assert key.encode() not in b"".join(state for (state,) in world.query("select state from ledger"))


def test_a_new_key_is_good_and_the_old_one_dead_at_once_on_every_server(world: World) -> None:
    old = registered(world)
    assert is_good(world, old)
    first = world.client
    with started(world):
        new = new_key(world)
        for client in (world.client, first):
            world.client = client
            assert error_of(asks(world, old), 401) == "Authentication required"
            assert is_good(world, new)


def test_the_keys_of_two_at_once_leave_one_that_is_good(world: World) -> None:
    keys = [registered(world)]
    world.catch_up()
    headers = {"Cookie": f"{COOKIE}={world.token(ADMIN)}", "Content-Type": "application/json"}
    first = world.client
    with started(world):
        clients = [first, world.client] * 4
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda client: client.post(NEW_KEY, headers=headers), clients))
        assert {answer.status_code for answer in answers} == {200}
        keys += [answer.json()["api_key"] for answer in answers]
        good = [key for key in keys if is_good(world, key)]
    assert len(good) == 1
    latest = max(answers, key=lambda answer: int(answer.headers["X-Ledger-Position"]))
    assert good == [latest.json()["api_key"]]


@pytest.mark.parametrize("path", ["/v1/admin/bots", NEW_KEY])
def test_a_server_that_died_between_the_event_and_the_key_is_made_up_for_by_the_retry(world: World, path: str) -> None:
    old = registered(world) if path == NEW_KEY else "hbot_none"
    body = REGISTER if path == "/v1/admin/bots" else None
    before = world.query("select key_hash, kind, bot_id, created_at, version from api_keys")
    lost = world.post(path, ADMIN, body, headers={"Idempotency-Key": "one"})
    head = world.ledger.head()
    # What such a server leaves behind: the event, the mark without an answer, and the keys as they were.
    world.connection.execute("update idempotency_keys set status = null, body = null where key = 'one'")
    world.connection.execute("delete from api_keys")
    for row in before:
        world.connection.execute(
            "insert into api_keys (key_hash, kind, bot_id, created_at, version) values (%s, %s, %s, %s, %s)", row
        )
    assert not is_good(world, lost.json()["api_key"])
    assert not is_good(world, old)
    again = world.post(path, ADMIN, body, headers={"Idempotency-Key": "one"})
    assert world.ledger.head() == head
    assert again.headers["X-Ledger-Position"] == lost.headers["X-Ledger-Position"]
    assert {**again.json(), "api_key": ""} == {**lost.json(), "api_key": ""}
    assert is_good(world, again.json()["api_key"])


def test_a_retry_that_comes_after_a_later_key_leaves_that_alone(world: World) -> None:
    registered(world)
    new_key(world, **{"Idempotency-Key": "one"})
    world.connection.execute("update idempotency_keys set status = null, body = null where key = 'one'")
    later = new_key(world)
    late = new_key(world, **{"Idempotency-Key": "one"})
    assert (is_good(world, later), is_good(world, late)) == (True, False)


def test_an_erased_bot_has_no_good_key_until_an_operator_makes_one(world: World) -> None:
    old = registered(world)
    world.act(commands.EraseSubject(target=Subject("bot", BOT), reason="request"), Actor("user", OWNER))
    assert error_of(asks(world, old, OPEN), 401) == "Authentication required"
    made = world.bot_key(BOT)
    assert asks(world, made, OPEN).status_code == 200
    assert error_of(asks(world, made), 404) == "Bot not found"


def test_the_key_of_an_operator_replaces_the_one_of_an_admin_and_the_other_way_round(world: World) -> None:
    first = world.bot_key(BOT)
    second = registered(world)
    third = world.bot_key(BOT)
    assert [is_good(world, key) for key in (first, second, third)] == [False, False, True]
    fourth = new_key(world)
    assert [is_good(world, key) for key in (third, fourth)] == [False, True]


def test_the_key_of_a_bot_that_was_never_registered_works(world: World) -> None:
    key = world.bot_key(BOT)
    body = {"discord_id": USER}
    answer = world.post("/v1/authentication/bot/login-code", json=body, headers={"X-API-Key": key})
    assert answer.status_code == 200
    assert asks(world, key, OPEN).status_code == 200
    assert error_of(asks(world, key), 404) == "Bot not found"


def test_the_key_of_an_inactive_bot_is_refused_everywhere_until_it_is_active_again(world: World) -> None:
    key = registered(world)
    switch(world, on=False)
    for path in (BOT_ONLY, PUBLIC, OPEN):
        assert error_of(asks(world, key, path), 403) == "Bot is inactive"
    for path, body in (("/v1/bot/me", {"guild_ids": [], "users": 1}), ("/v1/bot/batch", {"commands": []})):
        assert error_of(world.post(path, json=body, headers={"X-API-Key": key}), 403) == "Bot is inactive"
    # A new key is no way around it.
    new = new_key(world)
    assert error_of(asks(world, new), 403) == "Bot is inactive"
    assert error_of(asks(world, key), 401) == "Authentication required"
    switch(world, on=True)
    for path in (BOT_ONLY, PUBLIC, OPEN):
        assert asks(world, new, path).status_code == 200


@pytest.mark.parametrize("path", [BOT_ONLY, PUBLIC, OPEN])
def test_a_key_that_nobody_knows_is_refused_everywhere(world: World, path: str) -> None:
    registered(world)
    for key in ("hbot_" + "0" * 43, "hpub_" + "0" * 43, "x", "x" * 5000):
        assert error_of(asks(world, key, path), 401) == "Authentication required"
        bearer = {"Authorization": f"Bearer {key}"}
        assert error_of(world.get(path, headers=bearer), 401) == "Authentication required"


@pytest.mark.parametrize("path", [BOT_ONLY, PUBLIC, OPEN])
@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_key_given_twice_is_refused_whichever_is_good(world: World, path: str, header: str) -> None:
    good = registered(world)
    scheme = "Bearer " if header == "Authorization" else ""
    for keys in ((good, "hbot_wrong"), ("hbot_wrong", good), (good, good)):
        answer = world.raw("GET", path, [(header, scheme + key) for key in keys])
        assert error_of(answer, 400) == f"{header} given more than once"


def test_a_public_key_is_good_for_public_views_only(world: World) -> None:
    registered(world)
    key = create_key(world.connection, "public", None, world.now)
    assert error_of(asks(world, key), 403) == "Bot key required"
    assert asks(world, key, PUBLIC).status_code == 200
    assert asks(world, key, OPEN).status_code == 200
    # There may be many of them.
    other = create_key(world.connection, "public", None, world.now)
    assert [asks(world, one, PUBLIC).status_code for one in (key, other)] == [200, 200]


def test_a_session_wins_over_a_key_that_is_not_good(world: World) -> None:
    registered(world)
    for path in (PUBLIC, OPEN):
        assert world.get(path, USER, headers={"X-API-Key": "hbot_wrong"}).status_code == 200


@pytest.mark.usefixtures("unfolded")
def test_what_a_key_may_is_never_older_than_its_bots_own_stream(world: World) -> None:
    key = registered(world)
    world.catch_up()
    world.catching_up = False
    assert asks(world, key).status_code == 200
    switch(world, on=False)
    # The projector is behind: whether the bot is active is not known, so nobody is let in.
    for path in (BOT_ONLY, PUBLIC, OPEN):
        assert "not yet at position" in error_of(asks(world, key, path), 503)
    assert world.get(OPEN).status_code == 200
    world.catch_up("bots")
    assert error_of(asks(world, key), 403) == "Bot is inactive"
    new_key(world)
    error_of(asks(world, key), 401)


@pytest.mark.usefixtures("unfolded")
def test_a_bot_sees_what_it_wrote_itself(world: World) -> None:
    key = {"X-API-Key": registered(world)}
    world.catch_up()
    world.catching_up = False
    avatar = "https://a.example/new.png"
    reported = world.post("/v1/bot/me", json={"guild_ids": [], "users": 1, "avatar_url": avatar}, headers=key)
    assert reported.json()["avatar_url"] == avatar
    world.catch_up("bots")
    assert world.get("/v1/bot/me", headers=key).json()["avatar_url"] == avatar
    renamed = world.post(f"/v1/bot/users/{USER}", json={"username": "newname"}, headers=key)
    assert renamed.json()["username"] == "newname"
    assert "not yet at position" in error_of(world.get(f"/v1/bot/users/{USER}", headers=key), 503)
    assert "not yet at position" in error_of(world.get(OPEN, headers=key), 503)
    world.catch_up()
    assert world.get(f"/v1/bot/users/{USER}", headers=key).json()["username"] == "newname"

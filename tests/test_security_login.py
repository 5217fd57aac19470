"""Log-in against an attacker (docs/security.md): names are not told apart, codes are not guessed, and a bot that is not
trusted with codes gets none."""

import ast
import hashlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from httpx import Response

from modledger.domain import commands
from modledger.domain.envelope import SYSTEM
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.http import authentication, login_codes
from modledger.http.keys import create_key, new_key
from modledger.http.login_codes import new_code
from modledger.http.sealing import Sealing
from modledger.http.sessions import COOKIE, new_session
from tests.http_client import ADMIN, MASTER_KEY, NAMES, NOW, OWNER, SETTINGS, UNKNOWN, USER, World, error_of, started
from tests.recording_proxy import Recorded, recorded

REQUEST = "/v1/authentication/request"
FETCH = "/v1/authentication/bot/login-code"
VERIFY = "/v1/authentication/verify"
TRUSTED, OTHER = 5000, 6000
# So often until the driver has prepared a statement on each connection of its pool.
WARM = 24


def fetch(world: World, key: str, user_id: int = USER, **more: Any) -> Response:
    return world.post(FETCH, json={"discord_id": user_id, **more}, headers={"X-API-Key": key})


def code_of(world: World, user_id: int) -> str:
    assert world.post(REQUEST, json={"discord_id": user_id}).status_code == 200
    return str(fetch(world, world.bot_key(TRUSTED), user_id).json()["code"])


# -- who exists


@pytest.fixture
def watched(world: World, database: str, ledger: PostgresLedger) -> Iterator[tuple[World, Recorded]]:
    """The world, and every statement that its application sends to the database."""
    with recorded(database) as (through, record):
        watched = World(database, ledger)
        watched.database = through
        with watched.connection, started(watched):
            yield watched, record


def test_no_statement_tells_whether_a_name_or_an_id_is_known(watched: tuple[World, Recorded]) -> None:
    """The same statements in the same order, each found by a primary or unique key: so no answer takes a step more."""
    world, record = watched
    for known, unknown in (
        ((REQUEST, {"username": NAMES[USER]}), (REQUEST, {"username": "nobody"})),
        ((REQUEST, {"discord_id": USER}), (REQUEST, {"discord_id": UNKNOWN})),
        # A code is pending for the first, and none for the second.
        ((VERIFY, {"code": "WRONG000", "discord_id": USER}), (VERIFY, {"code": "WRONG000", "discord_id": OWNER})),
    ):
        for _ in range(WARM):
            for path, body in (known, unknown):
                world.post(path, json=body)
        world.post(REQUEST, json={"discord_id": USER})
        took: list[list[str]] = []
        for path, body in (known, unknown):
            record.take()
            world.post(path, json=body)
            took.append(record.take())
        assert took[0] == took[1]
        assert any("login_codes" in statement for statement in took[0])


def without_its_number(response: Response) -> tuple[int, dict[str, str], object]:
    headers = {name: value for name, value in response.headers.items() if name != "x-correlation-id"}
    body = response.json()
    body.pop("correlation_id", None)
    return response.status_code, headers, body


def test_status_headers_and_body_are_the_same_whoever_is_asked_for(world: World) -> None:
    asked = [{"username": NAMES[OWNER]}, {"username": "nobody"}, {"discord_id": OWNER}, {"discord_id": UNKNOWN}]
    first, *others = [without_its_number(world.post(REQUEST, json=body)) for body in asked]
    assert first[0] == 200
    assert all(other == first for other in others)
    tried = [
        {"code": "WRONG000"},
        {"code": "WRONG000", "discord_id": OWNER},
        {"code": "WRONG000", "discord_id": ADMIN},
        {"code": "WRONG000", "discord_id": UNKNOWN},
        {"code": "x", "discord_id": OWNER},
    ]
    first, *others = [without_its_number(world.post(VERIFY, json=body)) for body in tried]
    assert first[0] == 401
    assert all(other == first for other in others)


def test_a_wrong_code_waits_for_no_disk(watched: tuple[World, Recorded]) -> None:
    """Only where there is a code is something written; the flush of it would be seen from afar."""
    world, record = watched
    world.post(REQUEST, json={"discord_id": USER})
    for user_id in (USER, OWNER):
        record.take()
        error_of(world.post(VERIFY, json={"code": "WRONG000", "discord_id": user_id}), 401)
        statements = record.take()
        at = statements.index("set local synchronous_commit = off")
        assert [one.split()[0] for one in statements[at:]] == ["set", "update", "delete", "commit"]


# -- guessing


def test_a_code_that_was_burnt_is_not_brought_back_by_asking_and_a_new_one_is_another(world: World) -> None:
    code = code_of(world, USER)
    for _ in range(5):
        error_of(world.post(VERIFY, json={"code": "WRONG000", "discord_id": USER}), 401)
    assert fetch(world, world.bot_key(TRUSTED)).json() == {"code": None}
    assert code_of(world, USER) != code
    error_of(world.post(VERIFY, json={"code": code}), 401)


def test_wrong_tries_are_counted_for_the_account_whoever_makes_them(world: World) -> None:
    code = code_of(world, USER)
    body = b'{"code": "WRONG000", "discord_id": "%d"}' % USER
    for number in range(5):
        answer = world.raw("POST", VERIFY, [("Content-Type", "application/json")], body, peer=f"203.0.113.{number}")
        assert answer.status_code == 401
    error_of(world.post(VERIFY, json={"code": code, "discord_id": USER}), 401)


def test_wrong_tries_at_one_account_leave_the_codes_of_others_alone(world: World) -> None:
    mine, others = code_of(world, USER), code_of(world, ADMIN)
    for _ in range(5):
        error_of(world.post(VERIFY, json={"code": mine, "discord_id": ADMIN}), 401)
    error_of(world.post(VERIFY, json={"code": others}), 401)
    assert world.post(VERIFY, json={"code": mine}).status_code == 200


def test_codes_are_found_by_a_keyed_hash_or_compared_in_constant_time() -> None:
    """No code is compared by ``==``: a look-up by code is by HMAC under a key that no client has, so what the index
    compares tells nothing about the code; a look-up by user compares these hashes with ``hmac.compare_digest``."""
    tree = ast.parse(inspect.getsource(login_codes) + inspect.getsource(authentication))
    secret = {"code", "known", "code_hash", "token", "before"}
    compared = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and any(isinstance(op, ast.Eq | ast.NotEq | ast.In) for op in node.ops)
        and any(isinstance(part, ast.Name) and part.id in secret for part in (node.left, *node.comparators))
    ]
    assert compared == []
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert calls.count("hmac.compare_digest") == 1
    assert "sealing.lookup" in calls


def test_what_is_stored_of_a_code_takes_the_master_key_to_make(world: World) -> None:
    code = code_of(world, USER)
    ((stored,),) = world.query("select code_hash from login_codes")
    assert stored == Sealing(MASTER_KEY).lookup(code) != Sealing(bytes(32)).lookup(code)
    # Or all 36⁸ could be tried at home by whoever has a copy of the table.
    assert not any(
        hashlib.new(name, code.encode()).digest()[:32] == stored
        for name in hashlib.algorithms_guaranteed
        if not name.startswith("shake")
    )


def test_what_is_sealed_for_one_opens_for_no_other(world: World) -> None:
    mine, others = code_of(world, USER), code_of(world, ADMIN)
    moved = "update login_codes set sealed_code = (select sealed_code from login_codes where user_id = %s)"
    assert world.query(f"{moved} where user_id = %s returning user_id", ADMIN, USER) == [(USER,)]
    assert fetch(world, world.bot_key(TRUSTED)).json() == {"code": None}
    assert world.post(VERIFY, json={"code": mine}).status_code == 200
    keyed = {"Idempotency-Key": "once", "X-API-Key": world.bot_key(TRUSTED)}
    asked: dict[str, Any] = {"json": {"discord_id": ADMIN}}
    assert world.post(FETCH, **asked, headers=keyed).json() == {"code": others}
    assert world.query("update idempotency_keys set key = 'another' where key = 'once' returning 1") == [(1,)]
    again = world.post(FETCH, **asked, headers={**keyed, "Idempotency-Key": "another"})
    assert "Idempotency-Replayed" not in again.headers


# -- sessions


@pytest.mark.parametrize(
    ("made", "characters", "values"),
    [
        pytest.param(lambda: new_session(1, 0, NOW, None, None)[0], 43, 64, id="token"),
        pytest.param(lambda: new_key("bot")[0].removeprefix("hbot_"), 43, 64, id="key of a bot"),
        pytest.param(lambda: new_key("public")[0].removeprefix("hpub_"), 43, 64, id="public key"),
        pytest.param(new_code, 8, 36, id="code"),
    ],
)
def test_every_character_of_a_secret_is_drawn_anew(made: Callable[[], str], characters: int, values: int) -> None:
    """256 bits are 42 characters of 6 and one of 4; of 36 there are no more than eight."""
    columns = list(zip(*(made() for _ in range(400)), strict=True))
    assert len(columns) == characters
    found = [len(set(column)) for column in columns]
    assert all(count > values // 2 for count in found[: min(characters, 42)])
    assert found[-1] > 8


def test_a_session_cannot_be_planted_whatever_cookie_a_log_in_brings(world: World) -> None:
    planted = world.token(ADMIN)
    for cookie in (planted, "A" * 43, "", '"', planted + planted):
        answer = world.post(VERIFY, json={"code": code_of(world, USER)}, headers={"Cookie": f"{COOKIE}={cookie}"})
        token = answer.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
        assert len(token) == 43
        assert token != planted
        assert world.get("/v1/users/me", headers={"Cookie": f"{COOKIE}={token}"}).json()["discord_id"] == str(USER)
    # What it brought was closed, so nobody goes on under it.
    error_of(world.get("/v1/users/me", headers={"Cookie": f"{COOKIE}={planted}"}), 401)


def test_what_is_shown_or_stored_of_a_token_opens_nothing(world: World) -> None:
    token = world.token(USER)
    ((stored, suffix),) = world.query("select token_hash, token_suffix from sessions")
    for tried in (suffix, stored.hex(), stored.hex()[:64], "A" * 37 + suffix, token[:-1], token[1:], token.swapcase()):
        error_of(world.get("/v1/users/me", headers={"Cookie": f"{COOKIE}={tried}"}), 401)
    assert world.get("/v1/users/me", USER).status_code == 200
    shown = world.get("/v1/users/me/sessions", USER).text
    assert suffix in shown
    assert token[:-6] not in shown


# -- the bot that delivers codes


@pytest.fixture
def choosy(world: World) -> Iterator[World]:
    """An application that lets one bot alone deliver codes."""
    with started(world, msgspec.structs.replace(SETTINGS, login_bots=(TRUSTED,))) as running:
        yield running


def test_a_bot_that_is_not_on_the_list_gets_no_code_and_changes_nobody(choosy: World) -> None:
    choosy.act(commands.RegisterBot(bot_id=OTHER, name="other", owner_id=USER), SYSTEM)
    key = choosy.bot_key(OTHER)
    assert choosy.post(REQUEST, json={"discord_id": OWNER}).status_code == 200
    head = choosy.ledger.head()
    message = "This bot may not fetch log-in codes"
    assert error_of(fetch(choosy, key, OWNER, username="renamed"), 403) == message
    assert error_of(fetch(choosy, key, UNKNOWN, username="newcomer"), 403) == message
    # Whether it may comes before what it asks.
    assert error_of(choosy.post(FETCH, json={"foo": 1}, headers={"X-API-Key": key}), 403) == message
    assert choosy.ledger.head() == head
    assert fetch(choosy, choosy.bot_key(TRUSTED), OWNER).json()["code"] is not None
    # All else is open to it.
    assert choosy.get(f"/v1/bot/users/{OWNER}", headers={"X-API-Key": key}).status_code == 200


def test_an_answer_that_was_kept_for_a_bot_is_not_repeated_once_it_is_off_the_list(world: World) -> None:
    key = world.bot_key(OTHER)
    world.post(REQUEST, json={"discord_id": USER})
    asked: dict[str, Any] = {"json": {"discord_id": USER}, "headers": {"X-API-Key": key, "Idempotency-Key": "once"}}
    assert world.post(FETCH, **asked).json()["code"] is not None
    with started(world, msgspec.structs.replace(SETTINGS, login_bots=(TRUSTED,))):
        error_of(world.post(FETCH, **asked), 403)


def test_without_the_list_every_bots_key_will_do_and_no_other(world: World) -> None:
    for bot_id in (TRUSTED, OTHER):
        assert fetch(world, world.bot_key(bot_id)).status_code == 200
    public = create_key(world.connection, "public", None, world.now)
    assert error_of(fetch(world, public), 403) == "Bot key required"
    error_of(world.post(FETCH, USER, {"discord_id": USER}), 401)

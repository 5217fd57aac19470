"""Log-in codes and bot keys (api.md §4, Authentication)."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from httpx import Response
from psycopg import RawCursor

from modledger.domain.settings import Settings
from modledger.http.keys import create_key
from modledger.http.login_codes import FORGET, new_code
from modledger.http.sessions import COOKIE
from tests.http_client import ADMIN, OTHER_USER, UNKNOWN, USER, World, error_of, started

REQUEST = "/v1/authentication/request"
FETCH = "/v1/authentication/bot/login-code"
VERIFY = "/v1/authentication/verify"


@pytest.fixture
def key(world: World) -> str:
    return world.bot_key()


def fetch(world: World, key: str, **body: Any) -> Response:
    return world.post(FETCH, json=body, headers={"Authorization": f"Bearer {key}"})


def code_for(world: World, key: str, user_id: int) -> str:
    assert world.post(REQUEST, json={"discord_id": user_id}).status_code == 200
    code = fetch(world, key, discord_id=user_id).json()["code"]
    assert re.fullmatch("[A-Z0-9]{8}", code)
    return str(code)


def cookie_of(response: Response) -> str:
    found = re.match(rf"{COOKIE}=([A-Za-z0-9_-]{{43}});", response.headers["Set-Cookie"])
    assert found
    return found[1]


def test_a_user_logs_in_with_the_code_that_the_bot_delivers(world: World, key: str) -> None:
    asked = world.post(REQUEST, json={"username": "USER"})
    assert asked.json() == {"message": "Login code sent via Discord DM", "expires_at": "2026-03-10T12:05:00Z"}
    code = fetch(world, key, discord_id=str(USER), username="user").json()["code"]
    answer = world.post(VERIFY, json={"code": code}, headers={"User-Agent": "test"})
    assert answer.status_code == 200
    assert list(answer.json()) == ["status", "message", "user"]
    assert answer.json()["status"] == "success"
    assert answer.json()["message"] == "Authentication successful"
    world.cookies[USER] = cookie_of(answer)
    assert world.get("/v1/users/me", USER).json() == answer.json()["user"]
    assert world.query("select user_id, user_agent, at from login_history") == [(USER, "test", world.now)]


def test_the_cookie_is_for_https_and_out_of_reach_for_scripts(world: World, key: str) -> None:
    header = world.post(VERIFY, json={"code": code_for(world, key, USER)}).headers["Set-Cookie"]
    attributes = {part.strip().lower() for part in header.split(";")[1:]}
    assert attributes == {"httponly", "secure", "samesite=none", "path=/", "max-age=2592000"}
    header = world.post(VERIFY, json={"code": code_for(world, key, ADMIN)}).headers["Set-Cookie"]
    assert "Max-Age=86400" in header
    with started(world, Settings(development=True, cookie_domain="example.org")):
        header = world.post(VERIFY, json={"code": code_for(world, key, USER)}).headers["Set-Cookie"]
    attributes = {part.strip().lower() for part in header.split(";")[1:]}
    assert attributes == {"httponly", "samesite=lax", "path=/", "max-age=2592000", "domain=example.org"}


def test_a_log_in_takes_no_token_from_the_client_and_closes_the_session_before(world: World, key: str) -> None:
    planted = "A" * 43
    answer = world.post(VERIFY, json={"code": code_for(world, key, USER)}, headers={"Cookie": f"{COOKIE}={planted}"})
    world.cookies[USER] = planted
    error_of(world.get("/v1/users/me", USER), 401)
    first = world.cookies[USER] = cookie_of(answer)
    second = cookie_of(world.post(VERIFY, USER, json={"code": code_for(world, key, USER)}))
    assert second != first
    error_of(world.get("/v1/users/me", USER), 401)
    world.cookies[USER] = second
    assert world.get("/v1/users/me", USER).status_code == 200


def test_a_code_works_once(world: World, key: str) -> None:
    code = code_for(world, key, USER)
    assert world.post(VERIFY, json={"code": code}).status_code == 200
    assert error_of(world.post(VERIFY, json={"code": code}), 401) == "Authentication required"


@pytest.mark.usefixtures("unfolded")
def test_of_two_who_bring_a_code_at_once_one_logs_in(world: World, key: str) -> None:
    code = code_for(world, key, USER)
    world.catching_up = False
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: world.client.post(VERIFY, json={"code": code}).status_code, range(8)))
    assert sorted(answers) == [200] + [401] * 7
    assert world.query("select count(*) from sessions") == [(1,)]


def test_a_code_ends_after_five_minutes(world: World, key: str) -> None:
    begin = world.now
    code = code_for(world, key, USER)
    world.now = world.later(minutes=5)
    error_of(world.post(VERIFY, json={"code": code}), 401)
    assert fetch(world, key, discord_id=USER).json() == {"code": None}
    world.now = begin
    code = code_for(world, key, USER)
    world.now = world.later(minutes=4, seconds=59)
    assert world.post(VERIFY, json={"code": code}).status_code == 200


def test_a_new_code_takes_the_place_of_the_pending_one(world: World, key: str) -> None:
    first = code_for(world, key, USER)
    second = code_for(world, key, USER)
    assert first != second
    error_of(world.post(VERIFY, json={"code": first}), 401)
    assert world.post(VERIFY, json={"code": second}).status_code == 200


def test_five_wrong_tries_burn_a_code_and_four_do_not(world: World, key: str) -> None:
    code = code_for(world, key, USER)
    for _ in range(4):
        error_of(world.post(VERIFY, json={"code": "WRONG000", "discord_id": USER}), 401)
    assert world.post(VERIFY, json={"code": code, "discord_id": str(USER)}).status_code == 200
    code = code_for(world, key, USER)
    for _ in range(5):
        error_of(world.post(VERIFY, json={"code": "WRONG000", "discord_id": USER}), 401)
    error_of(world.post(VERIFY, json={"code": code, "discord_id": USER}), 401)
    error_of(world.post(VERIFY, json={"code": code}), 401)


def test_a_code_is_its_users_only(world: World, key: str) -> None:
    code = code_for(world, key, USER)
    code_for(world, key, OTHER_USER)
    error_of(world.post(VERIFY, json={"code": code, "discord_id": OTHER_USER}), 401)
    assert world.post(VERIFY, json={"code": code, "discord_id": USER}).json()["user"]["discord_id"] == str(USER)


@pytest.mark.parametrize("write", [str.lower, lambda code: f" {code} "])
def test_a_code_may_be_typed_in_any_case(world: World, key: str, write: Any) -> None:
    assert world.post(VERIFY, json={"code": write(code_for(world, key, USER))}).status_code == 200


@pytest.mark.parametrize("code", ["A", "AAAAAAAA", "A" * 64, "🙂" * 8, "' or 1=1"])
def test_a_wrong_code_is_refused(shared_world: World, code: str) -> None:
    assert error_of(shared_world.post(VERIFY, json={"code": code}), 401) == "Authentication required"


def test_the_answer_does_not_tell_whether_a_user_exists(world: World) -> None:
    bodies: list[dict[str, Any]] = [
        {"username": "user"},
        {"username": "nobody"},
        {"discord_id": USER},
        {"discord_id": UNKNOWN},
    ]
    answers = [world.post(REQUEST, json=body) for body in bodies]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1


def test_neither_codes_nor_tokens_can_be_read_from_the_tables(world: World, key: str) -> None:
    code = code_for(world, key, USER)
    ((row,),) = world.query("select code_hash || sealed_code from login_codes")
    assert code.encode() not in row


def test_expired_codes_are_forgotten_a_few_at_a_time_and_others_never(world: World) -> None:
    for user_id in range(1000, 1030):
        assert world.post(REQUEST, json={"discord_id": user_id}).status_code == 200
    world.now = world.later(minutes=4)
    world.post(REQUEST, json={"discord_id": USER})
    assert world.query("select count(*) from login_codes") == [(31,)]
    world.now = world.later(minutes=1)
    world.post(REQUEST, json={"discord_id": OTHER_USER})
    assert world.query("select count(*) from login_codes") == [(12,)]
    world.post(REQUEST, json={"discord_id": OTHER_USER})
    assert world.query("select user_id from login_codes order by 1") == [(USER,), (OTHER_USER,)]


def test_those_that_have_expired_are_found_among_very_many_codes(world: World) -> None:
    world.connection.execute(
        "insert into login_codes (user_id, code_hash, sealed_code, expires_at)"
        " select n, n::text::bytea, '', timestamptz '2026-03-10T12:05:00Z' from generate_series(1, 5000) as n"
    )
    world.connection.execute("analyze login_codes")
    lines = RawCursor(world.connection).execute(f"explain {FORGET}".encode(), [world.now]).fetchall()
    plan = "\n".join(line for (line,) in lines)
    assert "login_codes_expiry" in plan
    assert "Seq Scan" not in plan


def test_codes_come_from_the_whole_alphabet() -> None:
    codes = [new_code() for _ in range(500)]
    assert all(re.fullmatch("[A-Z0-9]{8}", code) for code in codes)
    assert len(set("".join(codes))) == 36
    assert len(set(codes)) == 500


def test_the_bot_registers_a_user_who_asked_before_being_known(world: World, key: str) -> None:
    world.post(REQUEST, json={"discord_id": UNKNOWN})
    message = error_of(fetch(world, key, discord_id=UNKNOWN), 400)
    assert message == "username is required for a user who is not registered"
    avatar = "https://cdn.example/a.png"
    answer = fetch(world, key, discord_id=UNKNOWN, username="newcomer", avatar_url=avatar)
    assert int(answer.headers["X-Ledger-Position"]) == world.ledger.head()
    user = world.post(VERIFY, json={"code": answer.json()["code"]}).json()["user"]
    assert (user["username"], user["avatar_url"], user["permission_level"]) == ("newcomer", avatar, 0)
    assert world.ledger.load([f"user:{UNKNOWN}"])[f"user:{UNKNOWN}"][0].actor.kind == "bot"


def test_the_bot_brings_name_and_avatar_up_to_date_once(world: World, key: str) -> None:
    fetch(world, key, discord_id=USER, username="renamed", avatar_url="https://cdn.example/b.png")
    head = world.ledger.head()
    assert fetch(world, key, discord_id=USER, username="renamed", avatar_url="https://cdn.example/b.png").json() == {
        "code": None
    }
    assert fetch(world, key, discord_id=USER, username=None).status_code == 200
    assert world.ledger.head() == head
    assert world.get("/v1/users/me", USER).json()["username"] == "renamed"


@pytest.mark.usefixtures("unfolded")
def test_a_user_logs_in_right_after_the_bot_registered_them_though_no_projector_has_run(world: World, key: str) -> None:
    world.post(REQUEST, json={"discord_id": UNKNOWN})
    code = fetch(world, key, discord_id=UNKNOWN, username="newcomer").json()["code"]
    world.catching_up = False
    error_of(world.post(VERIFY, json={"code": code}), 503)
    world.catch_up()
    assert world.post(VERIFY, json={"code": code}).status_code == 200


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_key_comes_in_either_header(world: World, key: str, header: str) -> None:
    value = f"Bearer {key}" if header == "Authorization" else key
    assert world.post(FETCH, json={"discord_id": USER}, headers={header: value}).status_code == 200


def test_only_a_bots_own_last_key_opens_its_endpoints(world: World, key: str) -> None:
    public = create_key(world.connection, "public", None, world.now)
    assert public.startswith("hpub_")
    assert error_of(fetch(world, public, discord_id=USER), 403) == "Bot key required"
    for wrong in ("", "hbot_wrong", "x" * 1000, f"{key}x"):
        assert error_of(fetch(world, wrong, discord_id=USER), 401) == "Authentication required"
    newer = world.bot_key()
    assert error_of(fetch(world, key, discord_id=USER), 401) == "Authentication required"
    assert fetch(world, newer, discord_id=USER).status_code == 200
    assert world.query("select count(*) from api_keys where position(%s in encode(key_hash, 'escape')) > 0", newer) == [
        (0,)
    ]

"""A user's own sessions, the newest log-ins, and ending a session from another device (api.md §4)."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from modledger.domain import commands
from modledger.domain.envelope import OPERATOR, Subject
from modledger.http import logins
from modledger.http.own_sessions import MOST, NEWEST
from modledger.http.sessions import COOKIE, lifetime, open_session
from tests.http_client import ADMIN, NOW, OTHER_USER, USER, World, error_of, started

SESSIONS = "/v1/users/me/sessions"


def session(world: World, user_id: int = USER, ip: str | None = None) -> str:
    """A new session's token, besides those that ``World.token`` keeps."""
    return open_session(world.connection, user_id, 0, world.now, ip, "curl/8")


def by(token: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={token}"}


def destroy(world: World, suffix: str, user: int | None = USER, **more: Any) -> Any:
    return world.post(f"{SESSIONS}/{suffix}/destroy", user, **more)


def log_in(world: World, user_id: int = USER) -> str:
    """A session by a code, and its token."""
    bot = {"X-API-Key": world.bot_key()}
    assert world.post("/v1/authentication/request", json={"discord_id": user_id}).status_code == 200
    code = world.post("/v1/authentication/bot/login-code", json={"discord_id": user_id}, headers=bot).json()["code"]
    answer = world.post("/v1/authentication/verify", json={"code": code}, headers={"User-Agent": "Mozilla/5.0"})
    assert answer.status_code == 200
    return answer.headers["Set-Cookie"].partition(f"{COOKIE}=")[2].partition(";")[0]


def test_the_sessions_that_are_still_good_are_listed_newest_first(world: World) -> None:
    first = session(world, ip="192.0.2.1")
    world.now = world.later(hours=1)
    second = session(world, ip="2001:db8::1")
    session(world, OTHER_USER)
    world.now = world.later(hours=1)
    current = world.token(USER)
    body = world.get(SESSIONS, USER).json()
    assert list(body) == ["sessions", "geo_map", "login_history"]
    assert body["sessions"] == [
        {
            "token_suffix": current[-6:],
            "created_at": "2026-03-10T14:00:00Z",
            "expires_at": "2026-04-09T14:00:00Z",
            "client_ip": None,
            "geo": None,
            "is_current": True,
        },
        {
            "token_suffix": second[-6:],
            "created_at": "2026-03-10T13:00:00Z",
            "expires_at": "2026-04-09T13:00:00Z",
            "client_ip": "2001:db8::1",
            "geo": None,
            "is_current": False,
        },
        {
            "token_suffix": first[-6:],
            "created_at": "2026-03-10T12:00:00Z",
            "expires_at": "2026-04-09T12:00:00Z",
            "client_ip": "192.0.2.1",
            "geo": None,
            "is_current": False,
        },
    ]
    assert list(body["sessions"][0]) == ["token_suffix", "created_at", "expires_at", "client_ip", "geo", "is_current"]
    assert body["geo_map"] == {"192.0.2.1": None, "2001:db8::1": None}
    assert body["login_history"] == {}


def test_a_session_is_listed_until_the_very_second_of_its_end(world: World) -> None:
    old = session(world)
    world.now = NOW + lifetime(0) - timedelta(seconds=1)
    world.token(USER)
    assert old[-6:] in [one["token_suffix"] for one in world.get(SESSIONS, USER).json()["sessions"]]
    world.now = NOW + lifetime(0)
    assert [one["is_current"] for one in world.get(SESSIONS, USER).json()["sessions"]] == [True]
    assert error_of(destroy(world, old[-6:]), 404) == "Session not found"


def test_a_session_that_was_logged_in_is_listed_with_its_log_in(world: World) -> None:
    token = log_in(world)
    body = world.get(SESSIONS, headers=by(token)).json()
    ((address, (entry,)),) = body["login_history"].items()
    assert entry == {"ts": "2026-03-10T12:00:00Z", "ua": "Mozilla/5.0"}
    assert body["geo_map"].keys() == {address, *(one["client_ip"] for one in body["sessions"])} - {None}
    assert address == "0.0.0.0"


def test_a_destroyed_session_is_dead_at_the_next_request_and_the_others_live(world: World) -> None:
    other, third = session(world), session(world)
    response = destroy(world, other[-6:])
    assert (response.status_code, response.text) == (200, '{"destroyed":true}')
    assert error_of(world.get("/v1/users/me", headers=by(other)), 401) == "Authentication required"
    assert world.get("/v1/users/me", headers=by(third)).status_code == 200
    assert other[-6:] not in [one["token_suffix"] for one in world.get(SESSIONS, USER).json()["sessions"]]
    assert error_of(destroy(world, other[-6:]), 404) == "Session not found"


def test_a_destroyed_session_is_dead_on_every_server(world: World) -> None:
    other = session(world)
    here = world.client
    with started(world):
        assert world.get("/v1/users/me", headers=by(other)).status_code == 200
        there = world.client
        world.client = here
        assert destroy(world, other[-6:]).status_code == 200
        world.client = there
        assert world.get("/v1/users/me", headers=by(other)).status_code == 401
    world.client = here


def test_the_current_session_is_ended_by_logging_out_only(world: World) -> None:
    current = world.token(USER)
    message = error_of(destroy(world, current[-6:]), 400)
    assert message == "The current session is ended by logging out"
    assert world.get("/v1/users/me", USER).status_code == 200


def test_all_sessions_with_the_same_suffix_end(world: World) -> None:
    one, two, three = session(world), session(world), session(world)
    world.connection.execute(
        "update sessions set token_suffix = 'Same-_' where token_suffix = any(%s)", ([one[-6:], two[-6:]],)
    )
    assert destroy(world, "Same-_").status_code == 200
    assert [world.get("/v1/users/me", headers=by(token)).status_code for token in (one, two, three)] == [401, 401, 200]


def test_nobody_ends_the_session_of_another(world: World) -> None:
    theirs = session(world, OTHER_USER)
    for user in (USER, ADMIN):
        assert error_of(destroy(world, theirs[-6:], user), 404) == "Session not found"
    assert world.get("/v1/users/me", headers=by(theirs)).status_code == 200


@pytest.mark.parametrize(
    "suffix",
    [
        "abcdef",
        "abc",
        "abcdefg",
        "a" * 43,
        "a" * 5000,
        "abc%20ef",
        "%ED%A0%80",
        "%FF%FF",
        "%F0%9F%98%80",
        "*",
        "%25",
        "......",
    ],
    ids=lambda text: text[:20],
)
def test_an_unknown_suffix_is_not_found(shared_world: World, suffix: str) -> None:
    assert "ound" in error_of(destroy(shared_world, suffix), 404)


def test_a_suffix_with_a_nul_is_refused(shared_world: World) -> None:
    assert error_of(destroy(shared_world, "abc%00e"), 400) == "token_suffix must not contain a NUL character"


def test_a_repetition_under_the_same_key_ends_the_session_once(world: World) -> None:
    other = session(world)
    headers = {"Idempotency-Key": "k1"}
    first = destroy(world, other[-6:], headers=headers)
    again = destroy(world, other[-6:], headers=headers)
    assert (first.status_code, again.status_code, again.text) == (200, 200, first.text)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert error_of(destroy(world, other[-6:], headers={"Idempotency-Key": "k2"}), 404) == "Session not found"


def test_a_form_or_another_page_cannot_end_a_session(world: World) -> None:
    other = session(world)
    path = f"{SESSIONS}/{other[-6:]}/destroy"
    assert world.send("POST", path, USER).status_code == 415
    assert error_of(destroy(world, other[-6:], headers={"Origin": "https://evil.example"}), 403) == "Origin not allowed"
    assert world.get("/v1/users/me", headers=by(other)).status_code == 200


def test_without_a_session_neither_is_there(shared_world: World) -> None:
    key = {"X-API-Key": shared_world.bot_key(5001)}
    for headers in ({}, key, by("x" * 43)):
        assert error_of(shared_world.get(SESSIONS, headers=headers), 401) == "Authentication required"
        assert error_of(destroy(shared_world, "abcdef", None, headers=headers), 401) == "Authentication required"


def test_the_restricted_see_and_end_their_sessions(world: World) -> None:
    other = session(world)
    world.act(commands.IssueBan(target=Subject("user", USER), reason="x"), OPERATOR)
    assert len(world.get(SESSIONS, USER).json()["sessions"]) == 2
    assert destroy(world, other[-6:]).status_code == 200


def test_unknown_parameters_are_refused(shared_world: World) -> None:
    assert error_of(shared_world.get(f"{SESSIONS}?limit=5", USER), 400) == "unknown parameter: limit"
    refused = shared_world.post(f"{SESSIONS}/abcdef/destroy?foo=1", USER)
    assert error_of(refused, 400) == "unknown parameter: foo"
    refused = shared_world.get(SESSIONS, USER, headers={"X-Ledger-Position": "x"})
    assert error_of(refused, 400).startswith("X-Ledger-Position must be")


# -- what is kept of log-ins


def test_the_newest_hundred_log_ins_are_kept(world: World) -> None:
    for number in range(250):
        world.connection.execute(
            "insert into login_history values (%s, '192.0.2.1', %s, %s)",
            (USER, f"agent {number}", NOW - timedelta(days=250 - number)),
        )
    world.connection.execute(
        "insert into login_history values (%s, '192.0.2.1', 'theirs', %s)", (OTHER_USER, NOW - timedelta(days=999))
    )
    # A log-in forgets a hundred at most, so that none pays for all of an old installation.
    token = ""
    for left in (151, 100, 100):
        world.now = world.later(minutes=1)
        token = log_in(world)
        assert world.query("select count(*) from login_history where user_id = %s", USER) == [(left,)]
    kept = [agent for (agent,) in world.query("select user_agent from login_history where user_id = %s", USER)]
    assert sorted(kept) == sorted([f"agent {number}" for number in range(153, 250)] + ["Mozilla/5.0"] * 3)
    assert world.query("select count(*) from login_history where user_id = %s", OTHER_USER) == [(1,)]
    history = world.get(SESSIONS, headers=by(token)).json()["login_history"]
    assert {address: len(entries) for address, entries in history.items()} == {"0.0.0.0": 3, "192.0.2.1": 97}
    assert history["192.0.2.1"][0]["ua"] == "agent 249"
    assert logins.NEWEST == 100


def test_a_log_in_that_fails_is_in_no_history(world: World) -> None:
    assert world.post("/v1/authentication/request", json={"discord_id": USER}).status_code == 200
    assert world.post("/v1/authentication/verify", json={"discord_id": USER, "code": "AAAAAAAA"}).status_code == 401
    assert world.query("select count(*) from login_history") == [(0,)]


def test_a_session_of_the_command_line_forgets_what_has_expired(world: World) -> None:
    for _ in range(25):
        session(world, OTHER_USER)
    world.now = NOW + lifetime(0)
    for left in (5, 0):
        session(world)
        assert world.query("select count(*) from sessions where expires_at <= %s", world.now) == [(left,)]
    assert world.query("select count(*) from sessions where user_id = %s", USER) == [(2,)]


def test_of_however_many_sessions_the_newest_are_walked_and_none_is_sorted(world: World) -> None:
    world.connection.execute(
        "insert into sessions (token_hash, user_id, token_suffix, created_at, expires_at)"
        " select sha256(n::text::bytea), case when n %% 2 = 0 then %(user)s else n end, 'abcdef',"
        " %(now)s - n * interval '1 second', %(now)s + interval '1 day' from generate_series(1, 20000) n",
        {"user": USER, "now": NOW},
    )
    world.connection.execute("analyze sessions")
    lines = psycopg.RawCursor(world.connection).execute(f"explain {NEWEST}", (USER, NOW, b"", MOST)).fetchall()
    plan = "\n".join(line for (line,) in lines)
    assert "sessions_order" in plan, plan
    assert "Sort" not in plan, plan
    assert len(world.get(SESSIONS, USER).json()["sessions"]) == MOST

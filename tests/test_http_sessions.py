"""Who stands behind a cookie, read anew at every request (api.md §2 and §4)."""

import re
from datetime import timedelta

import pytest

from modledger.domain import commands
from modledger.domain.envelope import OPERATOR, Actor, Subject
from modledger.domain.settings import Settings
from modledger.http.sessions import COOKIE, hash_of, lifetime, open_session
from tests.http_client import (
    ADMIN,
    MODERATOR,
    OTHER_USER,
    OWNER,
    SETTINGS,
    USER,
    World,
    error_of,
    started,
)

SEARCH = "/v1/admin/punishments/search"
WARN = f"/v1/admin/punishments/user/{OTHER_USER}/warn"
WHY = {"reason": "spam"}
PROTECTED = [
    ("GET", "/v1/users/me"),
    ("GET", "/v1/users/me/subscription"),
    ("GET", "/v1/users/me/punishments"),
    ("GET", "/v1/users/profile/user"),
    ("GET", SEARCH),
    ("GET", "/v1/admin/subscriptions/active"),
    ("GET", "/v1/admin/punishments/1"),
    ("GET", "/v1/admin/punishments/1/history"),
    ("POST", WARN),
    ("POST", f"/v1/admin/punishments/user/{OTHER_USER}/timeout"),
    ("POST", f"/v1/admin/punishments/user/{OTHER_USER}/ban"),
    ("POST", "/v1/admin/punishments/guild/1/warn"),
    ("POST", "/v1/admin/punishments/guild/1/ban"),
    ("POST", "/v1/admin/punishments/1/lift"),
    ("POST", "/v1/admin/punishments/1/amend"),
    ("POST", f"/v1/admin/users/{OTHER_USER}/permission"),
    ("POST", f"/v1/admin/subscriptions/user/{OTHER_USER}/grant"),
    ("POST", f"/v1/admin/subscriptions/user/{OTHER_USER}/trial"),
    ("POST", f"/v1/admin/subscriptions/user/{OTHER_USER}/revoke"),
    ("POST", "/v1/admin/subscriptions/guild/1/grant"),
    ("POST", "/v1/admin/subscriptions/guild/1/trial"),
    ("POST", "/v1/admin/subscriptions/guild/1/revoke"),
    ("POST", "/v1/authentication/logout"),
    ("POST", "/v1/authentication/bot/login-code"),
]
# Nothing in it is right: who asks comes before what is asked.
NONSENSE = {"foo": 1}


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize("cookie", [None, "", "x", "x" * 43, "x" * 5000, "é", "%00"])
def test_without_a_good_session_everything_else_is_beside_the_point(
    shared_world: World, method: str, path: str, cookie: str | None
) -> None:
    headers = {} if cookie is None else {"Cookie": f"{COOKIE}={cookie}".encode()}
    body = {"json": NONSENSE} if method == "POST" else {}
    response = shared_world.send(method, f"{path}?foo=1", headers=headers, **body)  # type: ignore[arg-type]
    assert error_of(response, 401) == "Authentication required"


def test_a_session_ends_at_its_very_second(world: World) -> None:
    for user, ends_after in ((USER, timedelta(days=30)), (MODERATOR, timedelta(days=30)), (ADMIN, timedelta(days=1))):
        begin = world.now
        world.token(user)
        world.now = begin + ends_after - timedelta(seconds=1)
        assert world.get("/v1/users/me", user).status_code == 200
        world.now = begin + ends_after
        assert error_of(world.get("/v1/users/me", user), 401) == "Authentication required"


@pytest.mark.parametrize(("level", "days"), [(0, 30), (1, 30), (2, 1), (3, 1)])
def test_sessions_of_admins_and_owners_are_short(level: int, days: int) -> None:
    assert lifetime(level) == timedelta(days=days)


def test_each_cookie_is_its_own_users(world: World) -> None:
    assert world.get("/v1/users/me", USER).json()["discord_id"] == str(USER)
    assert world.get("/v1/users/me", OTHER_USER).json()["discord_id"] == str(OTHER_USER)


def test_only_a_hash_of_the_token_is_stored(world: World) -> None:
    token = world.token(USER)
    assert len(token) == 43
    ((stored, suffix),) = world.query("select token_hash, token_suffix from sessions")
    assert stored == hash_of(token)
    assert suffix == token[-6:]


def test_opening_a_session_forgets_a_few_that_have_expired(world: World) -> None:
    def log_in() -> None:
        assert world.post("/v1/authentication/request", json={"discord_id": USER}).status_code == 200
        code = world.post("/v1/authentication/bot/login-code", json={"discord_id": USER}, headers=bot).json()["code"]
        assert world.post("/v1/authentication/verify", json={"code": code}).status_code == 200

    bot = {"Authorization": f"Bearer {world.bot_key()}"}
    for _ in range(25):
        open_session(world.connection, OTHER_USER, 0, world.now)
    world.now += timedelta(seconds=1)
    alive = world.token(OTHER_USER)
    world.now += lifetime(0) - timedelta(seconds=1)
    for expired in (5, 0):
        log_in()
        left = world.query("select count(*) from sessions where expires_at <= %s", world.now)
        assert left == [(expired,)]
    assert world.query("select user_id from sessions where token_hash = %s", hash_of(alive)) == [(OTHER_USER,)]
    assert world.query("select count(*) from sessions where user_id = %s", USER) == [(2,)]


def test_a_logged_out_session_is_dead_and_others_live(world: World) -> None:
    first = world.token(USER)
    del world.cookies[USER]
    second = world.token(USER)
    response = world.post("/v1/authentication/logout", USER)
    assert response.json() == {"message": "Logged out"}
    assert "Max-Age=0" in response.headers["Set-Cookie"]
    assert error_of(world.get("/v1/users/me", USER), 401) == "Authentication required"
    world.cookies[USER] = first
    assert world.get("/v1/users/me", USER).status_code == 200
    assert second != first


def test_a_level_lost_between_two_requests_is_gone_at_the_second(world: World) -> None:
    assert world.get(SEARCH, ADMIN).status_code == 200
    world.act(commands.ChangePermission(user_id=ADMIN, level=0, reason="left"))
    assert error_of(world.get(SEARCH, ADMIN), 403) == "Admin access required"
    assert error_of(world.post(WARN, ADMIN, WHY), 403) == "Moderator access required"


@pytest.mark.usefixtures("unfolded")
def test_a_level_lost_counts_although_no_projector_has_heard_of_it(world: World) -> None:
    assert world.get(SEARCH, ADMIN).status_code == 200
    world.act(commands.ChangePermission(user_id=ADMIN, level=0, reason="left"))
    world.catching_up = False
    error_of(world.get(SEARCH, ADMIN), 503)
    world.catch_up("profile")
    assert error_of(world.get(SEARCH, ADMIN), 403) == "Admin access required"


def test_a_level_won_counts_at_the_next_request(world: World) -> None:
    assert world.get(SEARCH, USER).status_code == 403
    world.act(commands.ChangePermission(user_id=USER, level=2, reason="joined"))
    assert world.get(SEARCH, USER).status_code == 200


@pytest.mark.parametrize("kind", ["timeout", "ban"])
def test_the_restricted_reach_their_own_data_and_nothing_else(world: World, kind: str) -> None:
    end = world.later(hours=1)
    system = Actor("system")
    if kind == "ban":
        world.act(commands.IssueBan(target=Subject("user", ADMIN), reason="x", expires_at=end), system)
    else:
        world.act(commands.IssueTimeout(user_id=ADMIN, reason="x", expires_at=end), system)
    for method, path in PROTECTED:
        if path.endswith("bot/login-code"):
            continue
        body = {"json": NONSENSE} if method == "POST" else {}
        response = world.send(method, f"{path}?foo=1", ADMIN, **body)  # type: ignore[arg-type]
        if path.startswith("/v1/users/me") or path.endswith("logout"):
            # What takes no body says so before it looks at the query.
            bad = "field" if path.endswith("logout") else "parameter"
            assert error_of(response, 400) == f"unknown {bad}: foo"
        else:
            assert error_of(response, 403) == "Account restricted"
    assert world.get("/v1/users/me", ADMIN).json()["state"] == (2 if kind == "ban" else 1)
    world.now = end
    assert world.get("/v1/users/me", ADMIN).json()["state"] == 0
    assert world.get(SEARCH, ADMIN).status_code == 200


def test_the_restricted_can_log_out(world: World) -> None:
    world.act(commands.IssueBan(target=Subject("user", USER), reason="x"), OPERATOR)
    assert world.post("/v1/authentication/logout", USER).status_code == 200


def test_who_asks_comes_before_what_is_asked(world: World) -> None:
    bad = f"{SEARCH}?limit=0"
    assert world.get(bad).status_code == 401
    assert world.get(bad, USER).status_code == 403
    assert world.get(bad, ADMIN).status_code == 400
    for user, status in ((None, 401), (USER, 403), (ADMIN, 415)):
        response = world.send("POST", "/v1/admin/punishments/999999/lift", user, content=b"x" * 70_000)
        assert response.status_code == status
    assert world.post("/v1/admin/punishments/999999/lift", ADMIN, {}).status_code == 400
    assert world.post("/v1/admin/punishments/999999/lift", ADMIN, WHY).status_code == 404


ALLOWED = {"Origin": "https://panel.example.org"}


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://panel.example.org:8443", "http://panel.example.org", ""]
)
def test_a_page_of_another_origin_cannot_command(world: World, origin: str) -> None:
    head = world.ledger.head()
    for path, body in ((WARN, WHY), ("/v1/authentication/logout", {}), ("/v1/authentication/verify", {"code": "x"})):
        response = world.post(path, ADMIN, body, headers={"Origin": origin})
        assert error_of(response, 403) == "Origin not allowed"
    assert world.ledger.head() == head
    assert world.get("/v1/users/me", ADMIN).status_code == 200


def test_an_allowed_page_commands_and_may_read_the_answer(world: World) -> None:
    response = world.post(WARN, ADMIN, WHY, headers=ALLOWED)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ALLOWED["Origin"]
    assert response.headers["access-control-allow-credentials"] == "true"
    assert world.send("POST", "/v1/authentication/logout", ADMIN, headers=ALLOWED).status_code == 200


@pytest.mark.parametrize("asked", [{"Origin": "https://evil.example"}, {**ALLOWED, "method": "DELETE"}])
def test_a_browser_that_asks_first_is_refused_like_everybody(world: World, asked: dict[str, str]) -> None:
    asked = dict(asked)
    method = asked.pop("method", "POST")
    response = world.send("OPTIONS", WARN, headers={**asked, "Access-Control-Request-Method": method})
    assert error_of(response, 400).startswith("Disallowed CORS")


def test_cookies_in_headers_of_their_own_are_read_as_one(world: World) -> None:
    good, bad = ("Cookie", f"hsession={world.token(USER)}"), ("Cookie", "hsession=bad")
    for headers, status in (
        ([("Cookie", "a=1"), good, ("Cookie", "b=2")], 200),
        ([bad, good], 200),
        ([good, bad], 401),
        ([("Cookie", f'a=1; hsession="{world.token(USER)}" ;b')], 200),
        ([("Cookie", "xhsession=a; hsession; =; hsession=")], 401),
    ):
        assert world.raw("GET", "/v1/users/me", headers).status_code == status


def test_an_origin_given_twice_is_not_allowed(world: World) -> None:
    headers = [("Cookie", f"hsession={world.token(ADMIN)}"), ("Content-Type", "application/json")]
    headers += [*ALLOWED.items(), ("Origin", "https://evil.example")]
    error_of(world.raw("POST", WARN, headers, b'{"reason": "spam"}'), 403)


def test_a_browser_that_asks_first_is_told_what_an_allowed_page_may_send(world: World) -> None:
    asking = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,idempotency-key,if-match,x-ledger-position",
    }
    allowed = world.send("OPTIONS", WARN, headers={**ALLOWED, **asking})
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == ALLOWED["Origin"]
    assert allowed.headers["access-control-allow-credentials"] == "true"
    named = allowed.headers["access-control-allow-headers"].lower()
    assert {"content-type", "idempotency-key", "if-match", "x-ledger-position"} <= set(re.split(r",\s*", named))
    refused = world.send("OPTIONS", WARN, headers={"Origin": "https://evil.example", **asking})
    assert "access-control-allow-origin" not in refused.headers


def test_what_a_form_can_send_is_refused_where_no_origin_is_given(world: World) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        response = world.send("POST", "/v1/authentication/logout", ADMIN, headers={"Content-Type": content_type})
        assert error_of(response, 415) == "Content-Type must be application/json"
    assert world.send("POST", "/v1/authentication/logout", ADMIN).status_code == 415
    assert world.get("/v1/users/me", ADMIN).status_code == 200


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8123", "http://localhost:8123"])
def test_in_development_our_own_pages_may_command(world: World, origin: str) -> None:
    with started(world, Settings(development=True, port=8123)):
        assert world.post(WARN, ADMIN, WHY, headers={"Origin": origin}).status_code == 200
    with started(world, SETTINGS):
        error_of(world.post(WARN, ADMIN, WHY, headers={"Origin": origin}), 403)


def test_owners_sign_in_like_all_others(world: World) -> None:
    assert world.get("/v1/users/me", OWNER).json()["permission_level"] == 3

"""A request is answered without the framework's way to it, and whoever does take that way is answered the same."""

import re
from typing import Any

import pytest

from modledger.http.sessions import COOKIE
from tests.http_client import LEVELS, OWNER, SETTINGS, UNKNOWN, USER, World, error_of
from tests.permitted_requests import REQUESTS, Asker

READS = [key for key in REQUESTS if key[0].startswith("GET /v1/")]
COMMANDS = [key for key in REQUESTS if key[0].startswith("POST /v1/")]
# The telling of time in /health, and what names the request.
CHANGING = re.compile(r'"(latency_ms|uptime_seconds|correlation_id)":("[^"]*"|[^,}]*)')
SAME = ("content-type", "content-length", "etag", "x-ledger-position", "cache-control", "content-security-policy")


def seen(answer: Any) -> tuple[int, str, dict[str, str | None]]:
    text = CHANGING.sub("", answer.text)
    return answer.status_code, text, {name: answer.headers.get(name) for name in SAME if name != "content-length"}


@pytest.mark.parametrize("operation", READS, ids=[" ".join(key).strip() for key in READS])
def test_a_read_is_answered_the_same_by_either_way(shared_world: World, operation: tuple[str, str]) -> None:
    world = shared_world
    owner = Asker(OWNER, True, {"Cookie": f"{COOKIE}={world.token(OWNER)}"})
    path, _ = REQUESTS[operation](world, owner)
    beginning, mark, query = path.partition("?")
    usual = world.get(path, headers=owner.credentials)
    # A page's own script asks with an Origin, and a path may end in a slash: both are the framework's.
    crossing = world.get(path, headers={**owner.credentials, "Origin": SETTINGS.allowed_origins[0]})
    slashed = world.get(f"{beginning}/{mark}{query}", headers=owner.credentials)
    assert seen(crossing) == seen(usual)
    assert crossing.headers["access-control-allow-origin"] == SETTINGS.allowed_origins[0]
    assert seen(slashed) == seen(usual)


@pytest.mark.parametrize("user", [None, USER, OWNER])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/users/profile/nobody",
        "/v1/users/profile/owner?limit=1",
        "/v1/users/profile/owner?as_of=tomorrow",
        "/v1/users/x",
        f"/v1/users/{2**63}",
        f"/v1/admin/punishments/{UNKNOWN}",
        "/v1/admin/punishments/search?limit=0",
        "/v1/admin/punishments/search?limit=1&limit=2",
    ],
)
def test_a_refusal_is_the_same_by_either_way(shared_world: World, path: str, user: int | None) -> None:
    beginning, mark, query = path.partition("?")
    usual, slashed = (shared_world.get(one, user) for one in (path, f"{beginning}/{mark}{query}"))
    assert error_of(usual, usual.status_code) == error_of(slashed, usual.status_code)
    assert seen(usual)[2] == seen(slashed)[2]


@pytest.mark.parametrize("operation", COMMANDS, ids=[" ".join(key).strip() for key in COMMANDS])
def test_a_command_is_carried_out_the_same_by_either_way(shared_world: World, operation: tuple[str, str]) -> None:
    world = shared_world
    answers = []
    for ending, more in (("", {}), ("", {"Origin": SETTINGS.allowed_origins[0]}), ("/", {})):
        owner = Asker(OWNER, True, {"Cookie": f"{COOKIE}={world.token(OWNER)}"})
        path, body = REQUESTS[operation](world, owner)
        sent = {} if body is None else body
        done = world.send("POST", path + ending, headers={**owner.credentials, **more}, json=sent)
        wrong = world.send("POST", path + ending, headers={**owner.credentials, **more}, json={"unheard": 1})
        nobody = world.send("POST", path + ending, headers=more, json=sent)
        # What it is about was made for it, so what the answer says of that is its own.
        shape = done.status_code, list(done.json()), done.headers.keys()
        answers.append((shape, seen(wrong)[:2], seen(nobody)[:2]))
        # Nobody is to be logged out for the others.
        world.cookies.pop(OWNER)
    usual, crossing, slashed = answers
    assert crossing[1:] == usual[1:] == slashed[1:]
    assert (crossing[0][:2], slashed[0]) == (usual[0][:2], usual[0])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/admin/punishments/user/warn",
        "/v1/admin/punishments/bulk/lift",
        "/v1/admin/punishments/user//warn",
        "/v1/users/profile/owner",
        "/v1/admin/punishments/search",
        "/v1/nothing",
        "/",
    ],
)
def test_what_is_no_path_of_a_command_is_refused_by_the_framework(shared_world: World, path: str) -> None:
    answer = shared_world.post(path, OWNER, {"reason": "spam"})
    assert error_of(answer, answer.status_code) in ("Not found", "Method not allowed")


@pytest.mark.parametrize(
    "body", ['{"reason": "\\ud800"}', "[]", "{", '{"reason": 1}', '{"reason": "a", "reason": "b"}', ""]
)
def test_a_body_that_is_none_is_refused_with_a_message_that_says_so(shared_world: World, body: str) -> None:
    path = f"/v1/admin/punishments/user/{USER}/warn"
    headers = {"Content-Type": "application/json"}
    usual, slashed = (
        shared_world.send("POST", one, OWNER, headers=headers, content=body) for one in (path, f"{path}/")
    )
    assert error_of(usual, 400) == error_of(slashed, 400)


def test_the_path_of_a_command_is_no_parameter_of_a_read(shared_world: World) -> None:
    paths = shared_world.get("/schema/openapi.json").json()["paths"]
    commands = [path for path, operations in paths.items() if "get" not in operations and "{" not in path]
    # /v1/admin/punishments/bulk beside /v1/admin/punishments/{punishment_id}, at least.
    assert any(f"{path.rpartition('/')[0]}/{{punishment_id}}" in paths for path in commands)
    for path in commands:
        assert error_of(shared_world.get(path, OWNER), 405) == "Method not allowed"


@pytest.mark.parametrize("path", ["/v1/users/profile/", "/v1/users/profile/a/b", "/v1/users/profile//owner/", "//v1"])
def test_what_is_no_path_of_a_read_is_not_found(shared_world: World, path: str) -> None:
    answer = shared_world.raw("GET", path, [("cookie", f"{COOKIE}={shared_world.token(USER)}")])
    assert answer.status_code in (200, 404)
    assert (answer.status_code == 200) == (path == "/v1/users/profile//owner/")


def test_a_host_that_none_can_be_is_refused(shared_world: World) -> None:
    session = ("cookie", f"{COOKIE}={shared_world.token(USER)}")
    assert shared_world.raw("GET", "/v1/users/me", [session, ("host", "localhost:8000")]).status_code == 200
    assert shared_world.raw("GET", "/v1/users/me", [session, ("host", "[::1]:8000")]).status_code == 200
    refused = shared_world.raw("GET", "/v1/users/me", [session, ("host", "local host/<b>")])
    assert error_of(refused, 400) == "Bad request"


@pytest.mark.parametrize("level", sorted(set(LEVELS.values())))
def test_a_read_finds_what_the_path_names_whatever_its_letters_are(shared_world: World, level: int) -> None:
    user = next(one for one, has in LEVELS.items() if has == level)
    for spelled in ("OWNER", "%6Fwner"):
        assert shared_world.get(f"/v1/users/profile/{spelled}", user).json()["username"] == "owner"

"""POST /v1/users/me/prefix (api.md §4)."""

from typing import Any

import pytest

from modledger.domain import commands
from modledger.domain.envelope import OPERATOR, Actor, Subject
from tests.http_client import ADMIN, NOW, USER, World, error_of

PREFIX = "/v1/users/me/prefix"


def test_a_new_prefix_is_answered_with_the_user(world: World) -> None:
    world.connection.execute("insert into user_activity values (%s, %s)", (USER, NOW))
    world.now = world.later(hours=1)
    response = world.post(PREFIX, USER, {"prefix": "?"})
    assert response.status_code == 200
    body = response.json()
    assert body["prefix"] == "?"
    assert body["updated_at"] == "2026-03-10T13:00:00Z"
    assert response.headers["X-Ledger-Position"] == str(world.ledger.head())
    read = world.get("/v1/users/me", USER)
    assert read.text == response.text
    assert read.headers["ETag"] == response.headers["ETag"]


@pytest.mark.usefixtures("unfolded")
def test_what_was_written_is_read_at_once_also_where_no_projector_is_done(world: World) -> None:
    assert world.post(PREFIX, USER, {"prefix": "ab!"}).json()["prefix"] == "ab!"
    world.catching_up = False
    for path in ("/v1/users/me", f"/v1/users/{USER}", "/v1/users/search"):
        error_of(world.get(path, USER), 503)
    world.catch_up("profile")
    assert world.get("/v1/users/me", USER).json()["prefix"] == "ab!"
    # And what the search shows to those who may see it.
    (found,) = world.get("/v1/users/search?q=us", ADMIN).json()["users"]
    assert found["prefix"] == "ab!"


def test_the_answer_has_all_that_the_user_is_now(world: World) -> None:
    target, by_admin = Subject("user", USER), Actor("user", ADMIN)
    world.act(commands.GrantSubscription(target=target, tier=2), by_admin)
    world.act(commands.IssueTimeout(user_id=USER, reason="x", expires_at=world.later(hours=2)), by_admin)
    world.act(commands.IssueBan(target=target, reason="x", expires_at=world.later(hours=1)), by_admin)
    for hours, state, tier in ((0, 2, 2), (1, 1, 2), (2, 0, 2), (720, 0, 0)):
        world.now = NOW
        world.now = world.later(hours=hours)
        world.cookies.clear()
        answer = world.post(PREFIX, USER, {"prefix": f"{hours}"})
        assert answer.text == world.get("/v1/users/me", USER).text
        assert (answer.json()["state"], answer.json()["subscription_tier"]) == (state, tier)


def test_the_same_prefix_again_is_no_event(world: World) -> None:
    head = world.ledger.head()
    response = world.post(PREFIX, USER, {"prefix": "!"})
    assert (response.status_code, response.json()["prefix"]) == (200, "!")
    assert world.ledger.head() == head
    assert response.headers["X-Ledger-Position"] == str(head)


def test_a_repetition_under_the_same_key_changes_nothing(world: World) -> None:
    headers = {"Idempotency-Key": "k"}
    first = world.post(PREFIX, USER, {"prefix": "?"}, headers=headers)
    world.post(PREFIX, USER, {"prefix": "+"})
    again = world.post(PREFIX, USER, {"prefix": "?"}, headers=headers)
    assert (again.text, again.headers["Idempotency-Replayed"]) == (first.text, "true")
    assert world.get("/v1/users/me", USER).json()["prefix"] == "+"
    error_of(world.post(PREFIX, USER, {"prefix": "-"}, headers=headers), 409)


def test_a_stale_tag_is_refused(world: World) -> None:
    tag = world.get("/v1/users/me", USER).headers["ETag"]
    assert world.post(PREFIX, USER, {"prefix": "?"}, headers={"If-Match": tag}).status_code == 200
    error_of(world.post(PREFIX, USER, {"prefix": "+"}, headers={"If-Match": tag}), 412)


def test_the_restricted_choose_their_prefix_too(world: World) -> None:
    world.act(commands.IssueBan(target=Subject("user", USER), reason="x"), OPERATOR)
    body = world.post(PREFIX, USER, {"prefix": "?"}).json()
    assert (body["prefix"], body["state"]) == ("?", 2)


def test_a_session_of_somebody_whom_the_ledger_does_not_know_has_no_prefix(world: World) -> None:
    assert error_of(world.post(PREFIX, 999, {"prefix": "?"}), 404) == "User not found"


def test_nobody_without_a_session_has_a_prefix(world: World) -> None:
    for headers in ({}, {"X-API-Key": world.bot_key()}):
        assert error_of(world.post(PREFIX, None, {"prefix": "?"}, headers=headers), 401) == "Authentication required"


LENGTH = "prefix must be between 1 and 5 characters"
SPACE = "prefix must not contain white space"
BODIES: list[tuple[Any, str]] = [
    ({}, "prefix is required"),
    ({"prefix": None}, "prefix is required"),
    ({"prefix": 1}, "prefix must be a string"),
    ({"prefix": ["!"]}, "prefix must be a string"),
    ({"prefix": True}, "prefix must be a string"),
    ({"prefix": ""}, LENGTH),
    ({"prefix": " "}, LENGTH),
    ({"prefix": "abcdef"}, LENGTH),
    ({"prefix": "a" * 60_000}, LENGTH),
    ({"prefix": "a b"}, SPACE),
    ({"prefix": " a"}, SPACE),
    ({"prefix": "a\t"}, SPACE),
    ({"prefix": "a\u2003b"}, SPACE),
    ({"prefix": "a\u0085b"}, SPACE),
    ({"prefix": "a\x07"}, SPACE),
    ({"prefix": "a\x00"}, "prefix must not contain a NUL character"),
    ({"prefix": "?", "user_id": 1}, "unknown field: user_id"),
    ([], "body must be a JSON object"),
    ("?", "body must be a JSON object"),
]


@pytest.mark.parametrize(("body", "message"), BODIES, ids=[repr(body)[:40] for body, _ in BODIES])
def test_a_bad_body_is_refused(shared_world: World, body: Any, message: str) -> None:
    head = shared_world.ledger.head()
    assert error_of(shared_world.post(PREFIX, USER, body), 400) == message
    assert shared_world.ledger.head() == head


@pytest.mark.parametrize("raw", [b"", b"{", b'{"prefix": "?"', b'{"prefix": "\\ud800"}', b"\xff", b"[" * 9999])
def test_what_is_no_json_is_refused(shared_world: World, raw: bytes) -> None:
    response = shared_world.send("POST", PREFIX, USER, headers={"Content-Type": "application/json"}, content=raw)
    assert error_of(response, 400) == "body must be valid JSON"


def test_a_field_given_twice_and_an_unknown_parameter_are_refused(shared_world: World) -> None:
    headers = {"Content-Type": "application/json"}
    twice = shared_world.send("POST", PREFIX, USER, headers=headers, content=b'{"prefix": "a", "prefix": "b"}')
    assert error_of(twice, 400) == "prefix given more than once"
    assert error_of(shared_world.post(f"{PREFIX}?foo=1", USER, {"prefix": "?"}), 400) == "unknown parameter: foo"
    error_of(shared_world.send("POST", PREFIX, USER, content=b"{}"), 415)


@pytest.mark.parametrize("prefix", ["!", "abcde", "😀😀😀😀😀", "¿", "<!>", "\\"])
def test_any_other_text_of_up_to_five_characters_is_a_prefix(world: World, prefix: str) -> None:
    assert world.post(PREFIX, USER, {"prefix": prefix}).json()["prefix"] == prefix
    assert world.get("/v1/users/me", USER).json()["prefix"] == prefix

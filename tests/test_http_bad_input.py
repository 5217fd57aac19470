"""Bad input, in path, query, headers and body: refused with 400 (or what fits better) and never with 500 (issue 2)."""

from typing import Any

import pytest

from tests.http_client import ADMIN, MODERATOR, NOW, OTHER_USER, USER, World, error_of

SEARCH = "/v1/admin/punishments/search"
BAN = f"/v1/admin/punishments/user/{OTHER_USER}/ban"
TIMEOUT = f"/v1/admin/punishments/user/{OTHER_USER}/timeout"
TOP = 2**63 - 1
ID_RANGE = f"must be between 1 and {TOP}"

QUERIES = [
    ("limit=0", "limit must be between 1 and 100"),
    ("limit=101", "limit must be between 1 and 100"),
    ("limit=-1", "limit must be between 1 and 100"),
    ("limit=", "limit must be between 1 and 100"),
    ("limit=ten", "limit must be between 1 and 100"),
    ("limit=1.0", "limit must be between 1 and 100"),
    ("limit=%2B5", "limit must be between 1 and 100"),
    ("limit=%205", "limit must be between 1 and 100"),
    ("limit=1_0", "limit must be between 1 and 100"),
    ("limit=%D9%A5", "limit must be between 1 and 100"),
    ("limit=1e1", "limit must be between 1 and 100"),
    ("limit=0x10", "limit must be between 1 and 100"),
    ("offset=-1", "offset must be 0 or greater"),
    ("offset=x", "offset must be 0 or greater"),
    (f"offset={TOP + 1}", "offset must be an integer below 2^63"),
    ("offset=" + "9" * 5000, "offset must be an integer below 2^63"),
    ("offset=-" + "9" * 5000, "offset must be 0 or greater"),
    ("offset=-0", "offset must be 0 or greater"),
    ("limit=5&limit=5", "limit given more than once"),
    ("user_id=1&user_id=2", "user_id given more than once"),
    ("foo=1", "unknown parameter: foo"),
    ("Limit=5", "unknown parameter: Limit"),
    ("q=", "q must be between 1 and 100 characters"),
    ("q=%20", "q must be between 1 and 100 characters"),
    ("query=spam", "unknown parameter: query"),
    ("limit=0&foo=1", "limit must be between 1 and 100"),
    ("foo=1&limit=0", "unknown parameter: foo"),
    ("user_id=007", f"user_id {ID_RANGE}"),
    ("user_id=0", f"user_id {ID_RANGE}"),
    ("user_id=-5", f"user_id {ID_RANGE}"),
    (f"user_id={TOP + 1}", f"user_id {ID_RANGE}"),
    ("user_id=someone", f"user_id {ID_RANGE}"),
    ("guild_id=0", f"guild_id {ID_RANGE}"),
    ("issued_by=", f"issued_by {ID_RANGE}"),
    ("punishment_type=0", "punishment_type must be between 1 and 4"),
    ("punishment_type=5", "punishment_type must be between 1 and 4"),
    ("punishment_type=ban", "punishment_type must be between 1 and 4"),
    ("punishment_type=KICK", "punishment_type must be between 1 and 4"),
    ("active_only=yes", "active_only must be true or false"),
    ("active_only=2", "active_only must be true or false"),
    ("active_only=", "active_only must be true or false"),
    ("sort=reason", "sort must be one of -created_at, created_at, -expires_at, expires_at"),
    ("created_after=2026-01-01T00:00:00", "created_after must have an offset such as Z"),
    ("created_after=yesterday", "created_after must be a timestamp such as 2026-03-10T12:00:00Z"),
    ("created_before=1760000000", "created_before must be a timestamp such as 2026-03-10T12:00:00Z"),
    ("created_before=0001-01-01T00:00:00%2B14:00", "created_before must be a timestamp such as 2026-03-10T12:00:00Z"),
    ("cursor=!", "cursor is not valid"),
    ("cursor=", "cursor is not valid"),
    ("cursor=" + "a" * 4097, "cursor must be between 0 and 4096 characters"),
    ("cursor=%00", "cursor must not contain a NUL character"),
    ("cursor=%FF", "the query must be UTF-8 and hold no more parameters than there are"),
    ("offset=0&cursor=abc", "offset cannot be used together with cursor"),
    ("&".join(f"p{n}=1" for n in range(100)), "the query must be UTF-8 and hold no more parameters than there are"),
]


@pytest.mark.parametrize(("query", "message"), QUERIES, ids=[query[:40] for query, _ in QUERIES])
def test_a_bad_query_is_refused_and_the_first_bad_parameter_named(
    shared_world: World, query: str, message: str
) -> None:
    assert error_of(shared_world.get(f"{SEARCH}?{query}", ADMIN), 400) == message


@pytest.mark.parametrize(
    "query",
    [
        "limit=1",
        "limit=100",
        "offset=0",
        f"offset={TOP}",
        f"user_id={TOP}",
        "user_id=1",
        "punishment_type=1",
        "punishment_type=4",
        "punishment_type=GUILD_BLACKLIST",
        "active_only=true",
        "active_only=False",
        "active_only=1",
        "sort=-expires_at",
        "created_after=2026-01-01T00:00:00.5%2B01:00",
    ],
)
def test_the_ends_of_every_range_are_inside_it(shared_world: World, query: str) -> None:
    assert shared_world.get(f"{SEARCH}?{query}", ADMIN).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/users/me",
        "/v1/users/me/subscription",
        "/v1/users/me/punishments",
        "/v1/users/profile/user",
        "/v1/admin/subscriptions/active",
        "/v1/admin/punishments/1",
        "/v1/admin/punishments/1/history",
        "/health",
    ],
)
def test_every_read_refuses_an_unknown_parameter(shared_world: World, path: str) -> None:
    assert error_of(shared_world.get(f"{path}?foo=1", ADMIN), 400) == "unknown parameter: foo"


@pytest.mark.parametrize("tier", ["0", "4", "premium"])
def test_a_tier_out_of_range_is_refused(shared_world: World, tier: str) -> None:
    message = error_of(shared_world.get(f"/v1/admin/subscriptions/active?tier={tier}", ADMIN), 400)
    assert message == "tier must be between 1 and 3"


@pytest.mark.parametrize("given", ["0", "-1", str(TOP + 1), "someone", "1.5", "%00", "9" * 60])
def test_an_id_in_the_path_out_of_range_is_refused(shared_world: World, given: str) -> None:
    for name, path in {
        "user_id": f"/v1/admin/punishments/user/{given}/ban",
        "guild_id": f"/v1/admin/punishments/guild/{given}/ban",
        "punishment_id": f"/v1/admin/punishments/{given}/lift",
    }.items():
        response = shared_world.post(path, ADMIN, {"reason": "spam"})
        assert error_of(response, 400) == f"{name} {ID_RANGE}"


REASON = "reason must be between 1 and 512 characters"
BODIES: list[tuple[str, Any, str]] = [
    (BAN, {}, "reason is required"),
    (BAN, {"reason": None}, "reason is required"),
    (BAN, {"reason": ""}, REASON),
    (BAN, {"reason": " \t\n\u3000 "}, REASON),
    (BAN, {"reason": "x" * 513}, REASON),
    (BAN, {"reason": "spam\x00"}, "reason must not contain a NUL character"),
    (BAN, {"reason": 5}, "reason must be a string"),
    (BAN, {"reason": ["spam"]}, "reason must be a string"),
    (BAN, {"reason": "spam", "foo": 1}, "unknown field: foo"),
    (BAN, {"reason": "spam", "replace": "yes"}, "replace must be true or false"),
    (BAN, {"reason": "spam", "replace": None}, "replace must be true or false"),
    (BAN, {"reason": "spam", "expires_at": "2026-04-01T00:00:00"}, "expires_at must have an offset such as Z"),
    (BAN, {"reason": "spam", "expires_at": "soon"}, "expires_at must be a timestamp such as 2026-03-10T12:00:00Z"),
    (BAN, {"reason": "spam", "expires_at": 1760000000}, "expires_at must be a timestamp such as 2026-03-10T12:00:00Z"),
    (BAN, {"reason": "spam", "expires_at": ""}, "expires_at must be a timestamp such as 2026-03-10T12:00:00Z"),
    (BAN, {"reason": "spam", "expires_at": NOW.isoformat()}, "expires_at must be in the future"),
    (BAN, {"reason": "spam", "expires_at": "2026-03-10T11:59:59Z"}, "expires_at must be in the future"),
    (
        BAN,
        {"reason": "spam", "expires_at": "9999-12-31T23:59:59-01:00"},
        "expires_at must be a timestamp such as 2026-03-10T12:00:00Z",
    ),
    (TIMEOUT, {"reason": "spam"}, "expires_at is required"),
    (TIMEOUT, {"reason": "spam", "expires_at": None}, "expires_at is required"),
    (TIMEOUT, {"reason": "spam", "expires_at": "2026-03-10T11:00:00Z"}, "expires_at must be in the future"),
    (TIMEOUT, {"reason": "spam", "expires_at": "2026-04-08T12:00:00Z"}, "expires_at must be at most 28 days ahead"),
    (TIMEOUT, {"reason": "spam", "expires_at": "2026-04-07T12:00:01Z"}, "expires_at must be at most 28 days ahead"),
    ("/v1/admin/punishments/1/amend", {"reason": ""}, REASON),
    ("/v1/admin/punishments/1/amend", {"reason": None}, "reason must be a string"),
    (f"/v1/admin/users/{USER}/permission", {"reason": "x"}, "permission_level is required"),
    (
        f"/v1/admin/users/{USER}/permission",
        {"permission_level": -1, "reason": "x"},
        "permission_level must be between 0 and 3",
    ),
    (
        f"/v1/admin/users/{USER}/permission",
        {"permission_level": 4, "reason": "x"},
        "permission_level must be between 0 and 3",
    ),
    (
        f"/v1/admin/users/{USER}/permission",
        {"permission_level": "1", "reason": "x"},
        "permission_level must be between 0 and 3",
    ),
    (
        f"/v1/admin/users/{USER}/permission",
        {"permission_level": True, "reason": "x"},
        "permission_level must be between 0 and 3",
    ),
    (
        f"/v1/admin/users/{USER}/permission",
        {"permission_level": 1.5, "reason": "x"},
        "permission_level must be between 0 and 3",
    ),
    (f"/v1/admin/subscriptions/user/{USER}/grant", {"tier": 0}, "tier must be between 1 and 3"),
    (f"/v1/admin/subscriptions/user/{USER}/grant", {"tier": 4}, "tier must be between 1 and 3"),
    (f"/v1/admin/subscriptions/user/{USER}/grant", {}, "tier is required"),
    (
        f"/v1/admin/subscriptions/user/{USER}/grant",
        {"tier": 2, "duration_days": 0},
        "duration_days must be between 1 and 3650",
    ),
    (
        f"/v1/admin/subscriptions/user/{USER}/grant",
        {"tier": 2, "duration_days": 3651},
        "duration_days must be between 1 and 3650",
    ),
    (f"/v1/admin/subscriptions/user/{USER}/trial", {"reason": " "}, REASON),
    (f"/v1/admin/subscriptions/user/{USER}/revoke", {}, "reason is required"),
    ("/v1/authentication/request", {}, "discord_id or username is required"),
    ("/v1/authentication/request", {"discord_id": 0}, f"discord_id {ID_RANGE}"),
    ("/v1/authentication/request", {"discord_id": TOP + 1}, f"discord_id {ID_RANGE}"),
    ("/v1/authentication/request", {"discord_id": 10**30}, f"discord_id {ID_RANGE}"),
    ("/v1/authentication/request", {"discord_id": "x"}, f"discord_id {ID_RANGE}"),
    ("/v1/authentication/request", {"discord_id": True}, f"discord_id {ID_RANGE}"),
    ("/v1/authentication/request", {"discord_id": 1.0}, f"discord_id {ID_RANGE}"),
    ("/v1/authentication/request", {"username": ""}, "username must be between 1 and 64 characters"),
    ("/v1/authentication/request", {"username": "a\x00"}, "username must not contain a NUL character"),
    (
        "/v1/authentication/request",
        {"username": "user", "discord_id": 4},
        "discord_id and username exclude each other",
    ),
    ("/v1/authentication/verify", {}, "code is required"),
    ("/v1/authentication/verify", {"code": 12345678}, "code must be a string"),
]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    BODIES,
    ids=[f"{path.rpartition('/')[2]} {str(body)[:40]!r}" for path, body, _ in BODIES],
)
def test_a_bad_body_is_refused_and_the_first_bad_field_named(
    shared_world: World, path: str, body: Any, message: str
) -> None:
    head = shared_world.ledger.head()
    assert error_of(shared_world.post(path, ADMIN, body), 400) == message
    assert shared_world.ledger.head() == head


def test_amending_nothing_is_refused(world: World) -> None:
    number = world.post(BAN, ADMIN, {"reason": "spam"}).json()["id"]
    message = error_of(world.post(f"/v1/admin/punishments/{number}/amend", ADMIN, {}), 400)
    assert message == "reason or expires_at is required"


JSON = {"Content-Type": "application/json"}
RAW = [
    (b"", "body must be valid JSON"),
    (b"{", "body must be valid JSON"),
    (b"reason=spam", "body must be valid JSON"),
    (b'{"reason": "spam"} x', "body must be valid JSON"),
    (b"\xff\xfe", "body must be valid JSON"),
    (b'{"reason": "\xff"}', "body must be valid JSON"),
    (b'{"reason": "\\ud800"}', "body must be valid JSON"),
    (b"[" * 20_000, "body must be valid JSON"),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "body must be valid JSON"),
    (b"[]", "body must be a JSON object"),
    (b'["reason"]', "body must be a JSON object"),
    (b"null", "body must be a JSON object"),
    (b'"spam"', "body must be a JSON object"),
]


@pytest.mark.parametrize(("raw", "message"), RAW, ids=[repr(raw[:20]) for raw, _ in RAW])
def test_a_body_that_is_no_json_object_is_refused(shared_world: World, raw: bytes, message: str) -> None:
    response = shared_world.send("POST", BAN, ADMIN, content=raw, headers=JSON)
    assert error_of(response, 400) == message


def test_64_kib_of_body_are_read_and_one_byte_more_is_not(shared_world: World) -> None:
    def padded(size: int) -> bytes:
        start, end = b'{"reason": "', b'"}'
        return start + b"x" * (size - len(start) - len(end)) + end

    fits = shared_world.send("POST", BAN, ADMIN, content=padded(65536), headers=JSON)
    assert error_of(fits, 400) == REASON
    too_large = shared_world.send("POST", BAN, ADMIN, content=padded(65537), headers=JSON)
    assert error_of(too_large, 413) == "body must not be larger than 64 KiB"

    def unannounced() -> Any:
        yield padded(65537)

    streamed = shared_world.send("POST", BAN, ADMIN, content=unannounced(), headers=JSON)
    assert error_of(streamed, 413) == "body must not be larger than 64 KiB"


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/msgpack", ""],
)
def test_a_body_not_announced_as_json_is_refused(shared_world: World, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = shared_world.send("POST", BAN, ADMIN, content=b'{"reason": "spam"}', headers=headers)
    assert error_of(response, 415) == "Content-Type must be application/json"


@pytest.mark.parametrize(
    "reason",
    ["x", "x" * 512, f"  {'x' * 512}\n", "سبب من اليمين", "\u202egnorw", "𝔰𝔭𝔞𝔪 🚫", "'; drop table ledger; --"],
)
def test_a_good_reason_is_stored_trimmed_and_answered_as_given(world: World, reason: str) -> None:
    response = world.post(BAN, ADMIN, {"reason": reason})
    assert response.status_code == 200
    assert response.json()["reason"] == reason.strip()
    assert world.get(SEARCH, ADMIN).json()["punishments"][0]["reason"] == reason.strip()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("2026-03-11T12:00:00Z", "2026-03-11T12:00:00Z"),
        ("2026-03-11T12:00:00.999999Z", "2026-03-11T12:00:00Z"),
        ("2026-03-11T14:00:00+02:00", "2026-03-11T12:00:00Z"),
        ("2026-04-07T12:00:00Z", "2026-04-07T12:00:00Z"),
    ],
)
def test_a_time_with_any_offset_and_fraction_is_answered_in_whole_seconds_of_utc(
    world: World, given: str, shown: str
) -> None:
    response = world.post(TIMEOUT, MODERATOR, {"reason": "spam", "expires_at": given})
    assert response.json()["expires_at"] == shown


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/users/me/nothing", "/v2/users/me", "/schema/nothing"])
def test_an_unknown_path_is_answered_like_every_error(shared_world: World, path: str) -> None:
    assert error_of(shared_world.get(path), 404) == "Not found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", SEARCH, "GET"),
        ("DELETE", "/v1/users/me", "GET"),
        ("GET", BAN, "POST"),
        ("PUT", "/health", "GET"),
        ("HEAD", "/v1/users/me", "GET"),
    ],
)
def test_a_method_that_a_path_does_not_know_is_answered_with_those_it_does(
    shared_world: World, method: str, path: str, allowed: str
) -> None:
    response = shared_world.send(method, path, ADMIN)
    assert response.status_code == 405
    assert allowed in response.headers["allow"].split(", ")
    if method != "HEAD":
        assert error_of(response, 405) == "Method not allowed"


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b'{"reason": "mild", "reason": "harsh"}', "reason"),
        (b'{"reason": "spam", "foo": {"a": 1, "a": 2}}', "a"),
        (b'{"reason": "spam", "re\\u0061son": "harsh"}', "reason"),
    ],
)
def test_a_field_given_more_than_once_is_refused(shared_world: World, raw: bytes, name: str) -> None:
    response = shared_world.send("POST", BAN, ADMIN, content=raw, headers=JSON)
    assert error_of(response, 400) == f"{name} given more than once"


def test_a_deep_nesting_is_refused_however_deep(shared_world: World) -> None:
    for depth in (200, 900, 1000, 1500, 5000):
        raw = b'{"reason": ' + b"[" * depth + b"]" * depth + b"}"
        response = shared_world.send("POST", BAN, ADMIN, content=raw, headers=JSON)
        assert error_of(response, 400) in ("reason must be a string", "body must be valid JSON")


@pytest.mark.parametrize("name", ["X-Ledger-Position", "Idempotency-Key"])
def test_a_header_that_has_one_value_is_refused_when_given_twice(shared_world: World, name: str) -> None:
    headers = [("Cookie", f"hsession={shared_world.token(ADMIN)}"), ("Content-Type", "application/json")]
    headers += [(name, "1"), (name, "2")]
    method, path = ("GET", "/v1/users/me") if name == "X-Ledger-Position" else ("POST", BAN)
    response = shared_world.raw(method, path, headers, b'{"reason": "x"}')
    assert error_of(response, 400) == f"{name} given more than once"


def test_a_content_type_given_twice_is_not_json(shared_world: World) -> None:
    headers = [("Cookie", f"hsession={shared_world.token(ADMIN)}")]
    headers += [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    error_of(shared_world.raw("POST", BAN, headers, b'{"reason": "x"}'), 415)


@pytest.mark.parametrize("path", [BAN, "/v1/authentication/logout"])
def test_a_body_that_breaks_off_is_the_clients_mistake(shared_world: World, path: str) -> None:
    headers = [("Cookie", f"hsession={shared_world.token(ADMIN)}"), ("Content-Type", "application/json")]
    response = shared_world.raw("POST", path, headers, b'{"reason": ', breaks_off=True)
    assert error_of(response, 400) == "body is not complete"


@pytest.mark.parametrize("header", ["-1", "x", "1.5", str(2**63), ""])
def test_a_bad_position_is_refused(shared_world: World, header: str) -> None:
    response = shared_world.get("/v1/users/me", USER, headers={"X-Ledger-Position": header})
    assert error_of(response, 400) == f"X-Ledger-Position must be an integer between 0 and {TOP}"


def test_an_operation_without_a_body_takes_no_fields(shared_world: World) -> None:
    destroy = "/v1/users/me/sessions/abcdef/destroy"
    assert error_of(shared_world.post(destroy, USER, json={"reason": "mine"}), 400) == "unknown field: reason"
    assert error_of(shared_world.post(destroy, USER, json=[1]), 400) == "body must be a JSON object"
    assert error_of(shared_world.post(destroy, USER, json={}), 404) == "Session not found"
    assert error_of(shared_world.post(destroy, USER), 404) == "Session not found"

"""Bad input of the operations about bots: refused with 400, naming the first bad thing, and never with 500."""

from typing import Any

import pytest

from modledger.domain import commands
from tests.http_client import ADMIN, NOW, USER, World, error_of

TOP = 2**63 - 1
ID_RANGE = f"must be between 1 and {TOP}"
BOT = 900

QUERIES = [
    ("/v1/bots?limit=0", "limit must be between 1 and 50"),
    ("/v1/bots?limit=51", "limit must be between 1 and 50"),
    ("/v1/bots?offset=-1", "offset must be 0 or greater"),
    (f"/v1/bots?offset={TOP + 1}", "offset must be an integer below 2^63"),
    ("/v1/bots?cursor=x", "unknown parameter: cursor"),
    ("/v1/bots/900?foo=1", "unknown parameter: foo"),
    ("/v1/bots/0", f"bot_id {ID_RANGE}"),
    ("/v1/bots/me", f"bot_id {ID_RANGE}"),
    (f"/v1/bots/{TOP + 1}", f"bot_id {ID_RANGE}"),
    ("/v1/bots/search?limit=0", "limit must be between 1 and 100"),
    ("/v1/bots/search?limit=101", "limit must be between 1 and 100"),
    ("/v1/bots/search?offset=10001", "offset must be between 0 and 10000"),
    ("/v1/bots/search?offset=-1", "offset must be between 0 and 10000"),
    ("/v1/bots/search?q=", "q must be between 1 and 50 characters"),
    ("/v1/bots/search?q=%20%09", "q must be between 1 and 50 characters"),
    ("/v1/bots/search?q=" + "x" * 51, "q must be between 1 and 50 characters"),
    ("/v1/bots/search?q=a%00", "q must not contain a NUL character"),
    ("/v1/bots/search?q=a&q=b", "q given more than once"),
    ("/v1/bots/search?owner=0", f"owner {ID_RANGE}"),
    ("/v1/bots/search?owner=me", f"owner {ID_RANGE}"),
    ("/v1/bots/search?bot_type=0", "bot_type must be between 1 and 3"),
    ("/v1/bots/search?bot_type=4", "bot_type must be between 1 and 3"),
    ("/v1/bots/search?is_active=true", "unknown parameter: is_active"),
    ("/v1/bots/search?cursor=!", "cursor is not valid"),
    ("/v1/bots/search?cursor=%00", "cursor must not contain a NUL character"),
    ("/v1/bots/search?cursor=" + "a" * 4097, "cursor must be between 0 and 4096 characters"),
    ("/v1/bots/search?offset=0&cursor=abc", "offset cannot be used together with cursor"),
    ("/v1/admin/bots?limit=26", "limit must be between 1 and 25"),
    ("/v1/admin/bots?limit=0", "limit must be between 1 and 25"),
    ("/v1/admin/bots?offset=x", "offset must be 0 or greater"),
]


@pytest.mark.parametrize(("path", "message"), QUERIES, ids=[path[:60] for path, _ in QUERIES])
def test_a_bad_query_is_refused(shared_world: World, path: str, message: str) -> None:
    assert error_of(shared_world.get(path, ADMIN), 400) == message


@pytest.mark.parametrize(
    "q", ["%", "_", "\\", "%25%25%25", "'--", "%F0%9F%98%80", "%E2%80%AEabc", "[erased]", "0", "00", "9" * 50, "-1"]
)
def test_any_text_may_be_searched_for(shared_world: World, q: str) -> None:
    assert shared_world.get(f"/v1/bots/search?q={q}", USER).json()["bots"] == []


@pytest.mark.parametrize(
    "query",
    ["limit=1", "limit=100", "offset=10000", "q=x", "q=" + "x" * 50, "q=%20" + "x" * 50 + "%20", f"owner={TOP}"],
)
def test_the_ends_of_every_range_are_inside_it(shared_world: World, query: str) -> None:
    assert shared_world.get(f"/v1/bots/search?{query}", USER).status_code == 200


GOOD = {"discord_id": 901, "name": "Music", "owner_discord_id": USER}
NAME = "name must be between 2 and 32 characters"
LIMIT = "rate_limit_per_hour must be between 1 and 100000"
TYPE = "bot_type must be between 1 and 3"
URL = "avatar_url must be an http or https URL of at most 2048 characters"
REGISTRATIONS: list[tuple[dict[str, Any], str]] = [
    ({}, "discord_id is required"),
    ({"discord_id": 901}, "name is required"),
    ({"discord_id": 901, "name": "Music"}, "owner_discord_id is required"),
    ({**GOOD, "discord_id": 0}, f"discord_id {ID_RANGE}"),
    ({**GOOD, "discord_id": "x"}, f"discord_id {ID_RANGE}"),
    ({**GOOD, "discord_id": TOP + 1}, f"discord_id {ID_RANGE}"),
    ({**GOOD, "discord_id": None}, "discord_id is required"),
    ({**GOOD, "name": "x"}, NAME),
    ({**GOOD, "name": "  x  "}, NAME),
    ({**GOOD, "name": "x" * 33}, NAME),
    ({**GOOD, "name": 5}, "name must be a string"),
    ({**GOOD, "name": "a\x00b"}, "name must not contain a NUL character"),
    ({**GOOD, "name": "a\nb"}, "name must not contain control characters"),
    ({**GOOD, "name": "[erased]"}, "name must not be [erased]"),
    ({**GOOD, "owner_discord_id": -1}, f"owner_discord_id {ID_RANGE}"),
    ({**GOOD, "owner_discord_id": True}, f"owner_discord_id {ID_RANGE}"),
    ({**GOOD, "rate_limit_per_hour": 0}, LIMIT),
    ({**GOOD, "rate_limit_per_hour": 100_001}, LIMIT),
    ({**GOOD, "rate_limit_per_hour": "1000"}, LIMIT),
    ({**GOOD, "rate_limit_per_hour": None}, LIMIT),
    ({**GOOD, "bot_type": 0}, TYPE),
    ({**GOOD, "bot_type": 4}, TYPE),
    ({**GOOD, "avatar_url": "x"}, URL),
    ({**GOOD, "avatar_url": ""}, "avatar_url must be between 1 and 2048 characters"),
    ({**GOOD, "avatar_url": "https://" + "x" * 2048}, "avatar_url must be between 1 and 2048 characters"),
    ({**GOOD, "is_active": True}, "unknown field: is_active"),
]
UPDATES: list[tuple[dict[str, Any], str]] = [
    ({}, "name, owner_discord_id, bot_type, rate_limit_per_hour or is_active is required"),
    ({"name": None}, "name must be a string"),
    ({"name": "x"}, NAME),
    ({"owner_discord_id": None}, f"owner_discord_id {ID_RANGE}"),
    ({"owner_discord_id": "someone"}, f"owner_discord_id {ID_RANGE}"),
    ({"bot_type": 4}, TYPE),
    ({"bot_type": "2"}, TYPE),
    ({"rate_limit_per_hour": 1.5}, LIMIT),
    ({"rate_limit_per_hour": 0}, LIMIT),
    ({"is_active": 1}, "is_active must be true or false"),
    ({"is_active": None}, "is_active must be true or false"),
    ({"discord_id": 5}, "unknown field: discord_id"),
    ({"avatar_url": "https://a.example/x.png"}, "unknown field: avatar_url"),
]


@pytest.fixture(scope="module")
def keyed(shared_world: World) -> World:
    """The shared world with a registered bot, which has a key."""
    shared_world.act(commands.RegisterBot(bot_id=BOT, name="Reporter", owner_id=USER))
    shared_world.cookies[-1] = shared_world.bot_key(BOT)
    return shared_world


@pytest.mark.parametrize(("body", "message"), REGISTRATIONS, ids=[str(body)[-50:] for body, _ in REGISTRATIONS])
def test_a_bad_registration_is_refused(keyed: World, body: dict[str, Any], message: str) -> None:
    head = keyed.ledger.head()
    assert error_of(keyed.post("/v1/admin/bots", ADMIN, body), 400) == message
    assert keyed.ledger.head() == head


@pytest.mark.parametrize(("body", "message"), UPDATES, ids=[str(body) for body, _ in UPDATES])
def test_a_bad_update_is_refused(keyed: World, body: dict[str, Any], message: str) -> None:
    head = keyed.ledger.head()
    assert error_of(keyed.post(f"/v1/admin/bots/{BOT}/update", ADMIN, body), 400) == message
    assert keyed.ledger.head() == head


@pytest.mark.parametrize("bot_id", ["0", "x", str(TOP + 1), "1.5", "%00"])
def test_a_path_that_names_no_id_is_refused(keyed: World, bot_id: str) -> None:
    for path, body in (
        (f"/v1/admin/bots/{bot_id}/update", {"name": "Other"}),
        (f"/v1/admin/bots/{bot_id}/regenerate-key", None),
    ):
        assert error_of(keyed.post(path, ADMIN, body), 400) == f"bot_id {ID_RANGE}"
    answer = keyed.get(f"/v1/bot/users/{bot_id}", headers={"X-API-Key": keyed.cookies[-1]})
    assert error_of(answer, 400) == f"user_id {ID_RANGE}"


ME, BATCH, USERS = "/v1/bot/me", "/v1/bot/batch", f"/v1/bot/users/{USER}"
RAN: dict[str, Any] = {"command": "play", "count": 1, "user_discord_id": 1, "timestamp": NOW.isoformat()}
MOMENT = "must be a timestamp such as 2026-03-10T12:00:00Z"
REPORTS: list[tuple[str, Any, str]] = [
    (ME, {}, "guild_ids is required"),
    (ME, {"guild_ids": []}, "users is required"),
    (ME, {"guild_ids": None, "users": 1}, "guild_ids is required"),
    (ME, {"guild_ids": "5", "users": 1}, "guild_ids must be a list"),
    (ME, {"guild_ids": {"5": 1}, "users": 1}, "guild_ids must be a list"),
    (ME, {"guild_ids": ["5", 0], "users": 1}, f"guild_ids[1] {ID_RANGE}"),
    (ME, {"guild_ids": [None], "users": 1}, f"guild_ids[0] {ID_RANGE}"),
    (ME, {"guild_ids": [[5]], "users": 1}, f"guild_ids[0] {ID_RANGE}"),
    (ME, {"guild_ids": ["007"], "users": 1}, f"guild_ids[0] {ID_RANGE}"),
    (ME, {"guild_ids": [], "users": -1}, "users must be between 0 and 1000000000000"),
    (ME, {"guild_ids": [], "users": 10**12 + 1}, "users must be between 0 and 1000000000000"),
    (ME, {"guild_ids": [], "users": "7"}, "users must be between 0 and 1000000000000"),
    (ME, {"guild_ids": [], "users": 1, "latency_ms": -0.1}, "latency_ms must be between 0 and 1000000"),
    (ME, {"guild_ids": [], "users": 1, "latency_ms": 1_000_000.5}, "latency_ms must be between 0 and 1000000"),
    (ME, {"guild_ids": [], "users": 1, "latency_ms": "fast"}, "latency_ms must be a number"),
    (ME, {"guild_ids": [], "users": 1, "latency_ms": True}, "latency_ms must be a number"),
    (ME, {"guild_ids": [], "users": 1, "avatar_url": "x"}, URL),
    (ME, {"guild_ids": [], "users": 1, "name": "Other"}, "unknown field: name"),
    (BATCH, {}, "commands is required"),
    (BATCH, {"commands": RAN}, "commands must be a list"),
    (BATCH, {"commands": ["play"]}, "commands[0] must be an object"),
    (BATCH, {"commands": [RAN, {}]}, "commands[1].command is required"),
    (BATCH, {"commands": [{**RAN, "command": ""}]}, "commands[0].command must be between 1 and 100 characters"),
    (BATCH, {"commands": [{**RAN, "command": "x" * 101}]}, "commands[0].command must be between 1 and 100 characters"),
    (BATCH, {"commands": [{**RAN, "count": 0}]}, "commands[0].count must be between 1 and 1000000"),
    (BATCH, {"commands": [RAN, RAN, {**RAN, "count": 1_000_001}]}, "commands[2].count must be between 1 and 1000000"),
    (BATCH, {"commands": [{**RAN, "user_discord_id": 0}]}, f"commands[0].user_discord_id {ID_RANGE}"),
    (BATCH, {"commands": [{**RAN, "user_discord_id": None}]}, "commands[0].user_discord_id is required"),
    (BATCH, {"commands": [{**RAN, "guild_discord_id": "x"}]}, f"commands[0].guild_discord_id {ID_RANGE}"),
    (
        BATCH,
        {"commands": [{**RAN, "timestamp": "2026-03-10T12:00:00"}]},
        "commands[0].timestamp must have an offset such as Z",
    ),
    (BATCH, {"commands": [{**RAN, "timestamp": "now"}]}, f"commands[0].timestamp {MOMENT}"),
    (BATCH, {"commands": [{**RAN, "timestamp": 1760000000}]}, f"commands[0].timestamp {MOMENT}"),
    (BATCH, {"commands": [{**RAN, "timestamp": "0001-01-01T00:00:00+14:00"}]}, f"commands[0].timestamp {MOMENT}"),
    (BATCH, {"commands": [{**RAN, "foo": 1}]}, "unknown field: commands[0].foo"),
    (BATCH, {"commands": [], "foo": 1}, "unknown field: foo"),
    (USERS, {"username": ""}, "username must be between 1 and 64 characters"),
    (USERS, {"username": "x" * 65}, "username must be between 1 and 64 characters"),
    (USERS, {"username": "a\tb"}, "username must not contain control characters"),
    (USERS, {"username": "[erased]"}, "username must not be [erased]"),
    (USERS, {"username": 5}, "username must be a string"),
    (USERS, {"avatar_url": "javascript:x"}, URL),
    (USERS, {"discord_id": 5}, "unknown field: discord_id"),
]


@pytest.mark.parametrize(
    ("path", "body", "message"), REPORTS, ids=[f"{path} {str(body)[-50:]}" for path, body, _ in REPORTS]
)
def test_a_bad_report_is_refused_and_leaves_nothing(keyed: World, path: str, body: Any, message: str) -> None:
    head = keyed.ledger.head()
    answer = keyed.post(path, json=body, headers={"X-API-Key": keyed.cookies[-1]})
    assert error_of(answer, 400) == message
    assert keyed.ledger.head() == head
    for table in ("bot_activity", "bot_guilds", "user_activity", "guild_activity"):
        assert keyed.query(f"select * from {table}") == []


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"guild_ids": [], "users": 1, "latency_ms": 1e999}', "body must be valid JSON"),
        (b'{"guild_ids": [], "users": 1, "latency_ms": NaN}', "body must be valid JSON"),
        (b'{"guild_ids": [], "users": 1e3}', "users must be between 0 and 1000000000000"),
        (b'{"guild_ids": [], "users": 1, "users": 2}', "users given more than once"),
        (b"[]", "body must be a JSON object"),
        (b'{"guild_ids": [' + b"[" * 5000, "body must be valid JSON"),
    ],
)
def test_what_is_no_number_or_no_json_is_refused(keyed: World, raw: bytes, message: str) -> None:
    headers = {"X-API-Key": keyed.cookies[-1], "Content-Type": "application/json"}
    assert error_of(keyed.send("POST", ME, content=raw, headers=headers), 400) == message

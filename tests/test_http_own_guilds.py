"""Guilds as their owners see them, and bots with their keys (api.md §4)."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modledger.domain import commands
from modledger.domain.envelope import SYSTEM, Actor, Subject
from modledger.http.keys import create_key
from tests.http_client import ADMIN, GUILD, NOW, OTHER_USER, UNKNOWN, USER, World, error_of

OWN = "/v1/users/me/guilds"
PREFIX = f"{OWN}/{GUILD}/prefix"
BOT_PATH = f"/v1/bot/guilds/{GUILD}"
TARGET = Subject("guild", GUILD)
BY_ADMIN = Actor("user", ADMIN)
BOT = 5000

PUBLIC = [
    "discord_id",
    "name",
    "avatar_url",
    "member_count",
    "prefix",
    "owner_discord_id",
    "state",
    "source",
    "created_at",
    "updated_at",
]
PRIVATE = [*PUBLIC, "id", "is_whitelisted", "has_bot", "first_joined_at"]


def guild(world: World, guild_id: int = GUILD, owner_id: int | None = USER, hours: int = 0) -> None:
    register = commands.RegisterGuild(guild_id=guild_id, name=f"Guild {guild_id}", owner_id=owner_id)
    world.act(register, SYSTEM, world.later(hours=hours))


def key(world: World, bot_id: int = BOT) -> dict[str, str]:
    return {"Authorization": f"Bearer {world.bot_key(bot_id)}"}


# -- owners


def test_own_guilds_are_the_public_views_of_the_registered_ones_newest_first(world: World) -> None:
    for guild_id, owner_id in ((1, USER), (2, USER), (3, OTHER_USER), (4, None)):
        guild(world, guild_id, owner_id, hours=-guild_id)
    world.act(commands.EraseSubject(target=Subject("guild", 2), reason="request"))
    guild(world, 5, USER)
    world.connection.execute("insert into guild_activity (guild_id, member_count) values (5, 12)")
    body = world.get(OWN, USER).json()
    assert [(one["discord_id"], one["member_count"]) for one in body] == [("5", 12), ("1", 0)]
    assert all(list(one) == PUBLIC for one in body)
    assert body[0] == world.get("/v1/guilds/5", USER).json()
    assert world.get(OWN, ADMIN).json() == []


def test_all_own_guilds_are_answered_up_to_a_thousand(world: World) -> None:
    world.connection.execute(
        "insert into guilds (guild_id, id, version, registered, name, owner_id, prefix, tier, trial_used,"
        " open_punishments, state_set, state_recorded, created_at, updated_at)"
        " select n, n, 1, true, 'Guild ' || n, %s, '!', 0, false, '{}', 0, 0, %s, %s from generate_series(1, 1003) n",
        (USER, NOW, NOW),
    )
    found = [int(one["discord_id"]) for one in world.get(OWN, USER).json()]
    assert found == list(range(1003, 3, -1))


def test_the_restricted_keep_their_guilds_and_others_need_a_session(world: World) -> None:
    guild(world)
    assert error_of(world.get(OWN), 401) == "Authentication required"
    assert error_of(world.get(OWN, headers=key(world)), 401) == "Authentication required"
    world.act(commands.IssueBan(target=Subject("user", USER), reason="x"), BY_ADMIN)
    assert len(world.get(OWN, USER).json()) == 1
    assert world.post(PREFIX, USER, {"prefix": "?"}).status_code == 200
    assert error_of(world.get(f"{OWN}?limit=5", USER), 400) == "unknown parameter: limit"


def test_the_owner_chooses_the_prefix_and_is_answered_what_everybody_then_sees(world: World) -> None:
    guild(world)
    world.act(commands.StartTrial(target=TARGET), BY_ADMIN)
    world.act(commands.IssueBan(target=TARGET, reason="raid", expires_at=world.later(days=1)), BY_ADMIN)
    world.connection.execute("insert into guild_activity (guild_id, member_count) values (%s, 12)", (GUILD,))
    world.now = world.later(days=9)
    world.token(USER)
    answered = world.post(PREFIX, USER, {"prefix": "?!"})
    assert (answered.status_code, answered.json()["prefix"], list(answered.json())) == (200, "?!", PUBLIC)
    seen = world.get(f"/v1/guilds/{GUILD}", USER)
    assert answered.text == seen.text
    assert answered.headers["ETag"] == seen.headers["ETag"]
    assert world.get(OWN, USER).json() == [answered.json()]


@pytest.mark.parametrize("user", [OTHER_USER, ADMIN])
def test_nobody_else_chooses_it(world: World, user: int) -> None:
    guild(world)
    head = world.ledger.head()
    assert error_of(world.post(PREFIX, user, {"prefix": "?"}), 403) == "Only the guild's owner may change its prefix"
    assert error_of(world.post(f"{OWN}/{UNKNOWN}/prefix", user, {"prefix": "?"}), 404) == "Guild not found"
    assert world.ledger.head() == head


def test_the_prefix_that_is_there_adds_no_event(world: World) -> None:
    guild(world)
    head = world.ledger.head()
    answered = world.post(PREFIX, USER, {"prefix": "!"})
    assert (answered.status_code, answered.headers["X-Ledger-Position"]) == (200, str(head))
    assert world.ledger.head() == head


def test_the_prefix_is_guarded_by_if_match_and_done_once_under_a_key(world: World) -> None:
    guild(world)
    tag = world.get(f"/v1/guilds/{GUILD}", USER).headers["ETag"]
    once = {"Idempotency-Key": "once", "If-Match": tag}
    first = world.post(PREFIX, USER, {"prefix": "?"}, headers=once)
    assert error_of(world.post(PREFIX, USER, {"prefix": "$"}, headers={"If-Match": tag}), 412).endswith("at version 2")
    again = world.post(PREFIX, USER, {"prefix": "?"}, headers=once)
    assert (again.status_code, again.text, again.headers["Idempotency-Replayed"]) == (200, first.text, "true")


PREFIXES: list[tuple[Any, str]] = [
    ({}, "prefix is required"),
    ({"prefix": None}, "prefix is required"),
    ({"prefix": ""}, "prefix must be between 1 and 5 characters"),
    ({"prefix": "123456"}, "prefix must be between 1 and 5 characters"),
    ({"prefix": " "}, "prefix must be between 1 and 5 characters"),
    ({"prefix": "a b"}, "prefix must not contain white space"),
    ({"prefix": "!\u3000"}, "prefix must not contain white space"),
    ({"prefix": "a\x00"}, "prefix must not contain a NUL character"),
    ({"prefix": "a\x07"}, "prefix must not contain white space"),
    ({"prefix": 5}, "prefix must be a string"),
    ({"prefix": "?", "guild": 1}, "unknown field: guild"),
]


@pytest.mark.parametrize(("body", "message"), PREFIXES, ids=[str(body)[:30] for body, _ in PREFIXES])
def test_a_bad_prefix_is_refused(world: World, body: Any, message: str) -> None:
    guild(world)
    head = world.ledger.head()
    assert error_of(world.post(PREFIX, USER, body), 400) == message
    assert world.ledger.head() == head


# -- bots


def test_a_bot_registers_a_guild_and_is_answered_the_private_view(world: World) -> None:
    brought = {
        "name": "Café",
        "avatar_url": "https://a.example/g.png",
        "member_count": 250,
        "owner_discord_id": str(USER),
    }
    answered = world.post(BOT_PATH, json=brought, headers=key(world))
    assert answered.status_code == 200
    assert answered.json() == {
        "discord_id": str(GUILD),
        "name": "Café",
        "avatar_url": "https://a.example/g.png",
        "member_count": 250,
        "prefix": "!",
        "owner_discord_id": str(USER),
        "state": 0,
        "source": "database",
        "created_at": "2026-03-10T12:00:00Z",
        "updated_at": "2026-03-10T12:00:00Z",
        "id": world.ledger.head(),
        "is_whitelisted": False,
        "has_bot": False,
        "first_joined_at": None,
    }
    assert list(answered.json()) == PRIVATE
    read = world.get(BOT_PATH, headers=key(world))
    assert read.text == answered.text
    assert read.headers["ETag"] == answered.headers["ETag"]
    spared = world.get(BOT_PATH, headers={**key(world), "If-None-Match": read.headers["ETag"]})
    assert (spared.status_code, spared.content) == (304, b"")


def test_each_fact_that_changed_is_one_event_and_what_is_left_out_stays(world: World) -> None:
    guild(world)
    mine = key(world)
    head = world.ledger.head()
    avatar = {"avatar_url": "https://a.example/g.png"}
    assert world.post(BOT_PATH, json={**avatar, "name": f"Guild {GUILD}"}, headers=mine).json()["owner_discord_id"]
    assert world.ledger.head() == head + 1
    assert world.post(BOT_PATH, json={"name": "New", "owner_discord_id": OTHER_USER}, headers=mine).status_code == 200
    assert world.ledger.head() == head + 3
    body = world.get(BOT_PATH, headers=mine).json()
    assert [body[name] for name in ("name", "owner_discord_id", "avatar_url")] == [
        "New",
        str(OTHER_USER),
        *avatar.values(),
    ]
    assert world.post(BOT_PATH, json={"name": None, "avatar_url": None}, headers=mine).json() == body
    assert world.post(BOT_PATH, json={}, headers=mine).json() == body
    assert world.ledger.head() == head + 3


def test_members_are_told_and_are_no_event(world: World) -> None:
    guild(world)
    head = world.ledger.head()
    for count in (2**31 - 1, 0):
        answered = world.post(BOT_PATH, json={"member_count": count}, headers=key(world))
        assert (answered.json()["member_count"], answered.headers["X-Ledger-Position"]) == (count, str(head))
        assert world.get(f"/v1/guilds/{GUILD}", USER).json()["member_count"] == count
    assert world.ledger.head() == head
    assert world.post(BOT_PATH, json={"name": "New"}, headers=key(world)).json()["member_count"] == 0


def test_a_refused_upsert_writes_nothing_at_all(world: World) -> None:
    head = world.ledger.head()
    refused = world.post(BOT_PATH, json={"member_count": 5}, headers=key(world))
    assert error_of(refused, 400) == "name is required for a guild that is not registered"
    bad_url = world.post(
        BOT_PATH, json={"name": "x", "avatar_url": "javascript:1", "member_count": 5}, headers=key(world)
    )
    assert error_of(bad_url, 400).startswith("avatar_url must be an http or https URL")
    guild(world)
    stale = {**key(world), "If-Match": '"9-0123456789abcdef"'}
    error_of(world.post(BOT_PATH, json={"member_count": 5}, headers=stale), 412)
    assert world.query("select count(*) from guild_activity") == [(0,)]
    assert world.ledger.head() == head + 1


def test_a_guild_is_whitelisted_while_it_has_premium_and_is_not_blacklisted(world: World) -> None:
    guild(world)

    def whitelisted() -> bool:
        bot = world.get(BOT_PATH, headers=key(world)).json()["is_whitelisted"]
        synced = world.post(BOT_PATH, json={}, headers=key(world)).json()["is_whitelisted"]
        assert bot == synced
        return bool(bot)

    world.act(commands.StartTrial(target=TARGET), BY_ADMIN)
    assert not whitelisted()
    world.act(commands.GrantSubscription(target=TARGET, tier=2, duration_days=3), BY_ADMIN)
    assert whitelisted()
    world.act(commands.IssueBan(target=TARGET, reason="raid", expires_at=world.later(days=1)), BY_ADMIN)
    assert not whitelisted()
    world.now = NOW.replace(day=11)
    assert whitelisted()
    world.now = NOW.replace(day=13)
    assert not whitelisted()


def test_whether_a_bot_is_there_and_since_when_is_what_bots_reported(world: World) -> None:
    guild(world)
    world.connection.execute("insert into guild_activity (guild_id, first_joined_at) values (%s, %s)", (GUILD, NOW))
    world.connection.execute("insert into bot_guilds values (1, %s), (2, %s)", (GUILD, UNKNOWN))
    for body in (
        world.get(BOT_PATH, headers=key(world)).json(),
        world.post(BOT_PATH, json={"member_count": 3}, headers=key(world)).json(),
    ):
        assert (body["has_bot"], body["first_joined_at"]) == (True, "2026-03-10T12:00:00Z")
    world.connection.execute("delete from bot_guilds")
    body = world.get(BOT_PATH, headers=key(world)).json()
    assert (body["has_bot"], body["first_joined_at"]) == (False, "2026-03-10T12:00:00Z")


def test_only_a_bots_key_opens_the_private_view(world: World) -> None:
    guild(world)
    public = {"X-API-Key": create_key(world.connection, "public", None, world.now)}
    for headers, user, status, message in (
        ({}, None, 401, "Authentication required"),
        ({}, ADMIN, 401, "Authentication required"),
        ({"X-API-Key": "hbot_nobody"}, None, 401, "Authentication required"),
        (public, None, 403, "Bot key required"),
    ):
        assert error_of(world.get(BOT_PATH, user, headers=headers), status) == message
        assert error_of(world.post(BOT_PATH, user, {"name": "x"}, headers=headers), status) == message
    assert error_of(world.get(f"/v1/bot/guilds/{UNKNOWN}", headers=key(world)), 404) == "Guild not found"


@pytest.mark.usefixtures("unfolded")
def test_a_bot_reads_its_own_write_or_is_told_to_wait(world: World) -> None:
    guild(world)
    mine, another = key(world), key(world, 6000)
    world.catch_up()
    world.catching_up = False
    assert world.post(BOT_PATH, json={"name": "New", "member_count": 9}, headers=mine).json()["name"] == "New"
    assert "not yet at position" in error_of(world.get(BOT_PATH, headers=mine), 503)
    seen = world.get(BOT_PATH, headers=another).json()
    assert (seen["name"], seen["member_count"]) == (f"Guild {GUILD}", 9)
    world.catch_up("guilds")
    assert world.get(BOT_PATH, headers=mine).json()["name"] == "New"


def test_under_an_idempotency_key_the_answer_is_given_again_and_members_are_not_set_back(world: World) -> None:
    once = {**key(world), "Idempotency-Key": "once"}
    first = world.post(BOT_PATH, json={"name": "New", "member_count": 9}, headers=once)
    head = world.ledger.head()
    world.connection.execute("update guild_activity set member_count = 10")
    again = world.post(BOT_PATH, json={"name": "New", "member_count": 9}, headers=once)
    assert (again.status_code, again.text, again.headers["Idempotency-Replayed"]) == (200, first.text, "true")
    assert world.ledger.head() == head
    assert world.query("select member_count from guild_activity") == [(10,)]
    error_of(world.post(BOT_PATH, json={"name": "Other"}, headers=once), 409)


@pytest.mark.usefixtures("unfolded")
def test_two_bots_that_bring_the_same_guild_at_once_register_it_once(world: World) -> None:
    keys = [key(world, bot_id) for bot_id in range(6000, 6006)]
    world.catch_up()
    world.catching_up = False
    head = world.ledger.head()
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda mine: world.post(BOT_PATH, json={"name": "New", "member_count": 4}, headers=mine), keys)
        )
    assert {(answer.status_code, answer.json()["id"]) for answer in answers} == {(200, head + 1)}
    assert world.ledger.head() == head + 1


BODIES: list[tuple[Any, str]] = [
    ({"name": ""}, "name must be between 1 and 100 characters"),
    ({"name": "x" * 101}, "name must be between 1 and 100 characters"),
    ({"name": "a\x00"}, "name must not contain a NUL character"),
    ({"name": "a\x07"}, "name must not contain control characters"),
    ({"name": ["x"]}, "name must be a string"),
    ({"name": "x", "avatar_url": ""}, "avatar_url must be between 1 and 2048 characters"),
    ({"name": "x", "avatar_url": "ftp://a"}, "avatar_url must be an http or https URL of at most 2048 characters"),
    ({"name": "x", "avatar_url": "https://" + "a" * 2041}, "avatar_url must be between 1 and 2048 characters"),
    ({"member_count": -1}, "member_count must be between 0 and 2147483647"),
    ({"member_count": 2**31}, "member_count must be between 0 and 2147483647"),
    ({"member_count": "5"}, "member_count must be between 0 and 2147483647"),
    ({"member_count": 1.5}, "member_count must be between 0 and 2147483647"),
    ({"member_count": True}, "member_count must be between 0 and 2147483647"),
    ({"owner_discord_id": 0}, f"owner_discord_id must be between 1 and {2**63 - 1}"),
    ({"owner_discord_id": "me"}, f"owner_discord_id must be between 1 and {2**63 - 1}"),
    ({"prefix": "?"}, "unknown field: prefix"),
]


@pytest.mark.parametrize(("body", "message"), BODIES, ids=[str(body)[:40] for body, _ in BODIES])
def test_a_bad_upsert_is_refused_and_the_first_bad_field_named(shared_world: World, body: Any, message: str) -> None:
    head = shared_world.ledger.head()
    assert error_of(shared_world.post(BOT_PATH, json=body, headers=key(shared_world)), 400) == message
    assert shared_world.ledger.head() == head
    assert shared_world.query("select count(*) from guild_activity") == [(0,)]


@pytest.mark.parametrize("given", ["0", "-1", str(2**63), "someone", "1.5", "%00", "9" * 60])
def test_an_id_in_the_path_out_of_range_is_refused(shared_world: World, given: str) -> None:
    message = f"guild_id must be between 1 and {2**63 - 1}"
    mine = key(shared_world)
    for answer in (
        shared_world.get(f"/v1/guilds/{given}", USER),
        shared_world.post(f"/v1/admin/guilds/{given}/update", ADMIN, {"state": 0}),
        shared_world.post(f"{OWN}/{given}/prefix", USER, {"prefix": "?"}),
        shared_world.get(f"/v1/bot/guilds/{given}", headers=mine),
        shared_world.post(f"/v1/bot/guilds/{given}", json={"name": "x"}, headers=mine),
    ):
        assert error_of(answer, 400) == message

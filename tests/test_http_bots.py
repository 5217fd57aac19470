"""Bots as everybody and as the staff see them, and what admins do to them (api.md §4)."""

from typing import Any

import pytest

from modledger.domain import commands
from modledger.domain.envelope import OPERATOR, Actor, Subject
from modledger.http.keys import create_key
from tests.http_client import (
    ADMIN,
    AVATAR,
    LEVELS,
    MODERATOR,
    NOW,
    OTHER_ADMIN,
    OTHER_USER,
    OWNER,
    USER,
    World,
    error_of,
)

PUBLIC_KEYS = [
    "discord_id",
    "name",
    "guilds",
    "users",
    "avatar_url",
    "latency_ms",
    "is_verified",
    "last_activity_at",
    "source",
    "created_at",
    "updated_at",
]
ADMIN_KEYS = [*PUBLIC_KEYS, "id", "owner_discord_id", "bot_type", "is_active", "rate_limit_per_hour"]
BOTS = "/v1/admin/bots"


def bot(world: World, bot_id: int, name: str = "helper", owner_id: int = USER, **more: Any) -> int:
    """A registered bot; each is of a later second."""
    world.act(commands.RegisterBot(bot_id=bot_id, name=name, owner_id=owner_id, **more), at=world.later(seconds=bot_id))
    return bot_id


def switch_off(world: World, bot_id: int) -> None:
    world.act(commands.UpdateBot(bot_id=bot_id, is_active=False), Actor("user", OWNER), at=world.later(seconds=9999))


def asked_with(world: World, who: int | str | None) -> dict[str, Any]:
    """The credentials of a user, of a kind of key, or none."""
    if who == "bot":
        return {"headers": {"X-API-Key": world.bot_key(4000)}}
    if who == "public":
        return {"headers": {"X-API-Key": create_key(world.connection, "public", None, world.now)}}
    return {"user": who}


EVERYBODY = [None, "public", "bot", USER, MODERATOR, ADMIN, OWNER]


@pytest.mark.parametrize("who", EVERYBODY)
def test_admins_see_five_keys_more_and_bots_that_are_switched_off(world: World, who: int | str | None) -> None:
    bot(world, 101, "First")
    bot(world, 102, "Second", bot_type=2)
    switch_off(world, bot(world, 103, "Third"))
    is_admin = who in (ADMIN, OWNER)
    keys, seen = (ADMIN_KEYS, ["103", "102", "101"]) if is_admin else (PUBLIC_KEYS, ["102", "101"])
    listed = world.get("/v1/bots", **asked_with(world, who)).json()
    assert [one["discord_id"] for one in listed] == seen
    assert {tuple(one) for one in listed} == {tuple(keys)}
    if who is None:
        error_of(world.get("/v1/bots/101"), 401)
        return
    single = world.get("/v1/bots/102", **asked_with(world, who))
    assert list(single.json()) == keys
    assert single.json()["is_verified"] is True
    hidden = world.get("/v1/bots/103", **asked_with(world, who))
    if is_admin:
        assert hidden.json()["is_active"] is False
    else:
        assert error_of(hidden, 404) == "Bot not found"
    found = world.get("/v1/bots/search?q=ir", **asked_with(world, who))
    if isinstance(who, str):
        error_of(found, 401)
        return
    found = world.get("/v1/bots/search", **asked_with(world, who)).json()
    assert list(found) == ["bots", "total", "limit", "offset"]
    assert (found["total"], found["limit"], found["offset"]) == (len(seen), 25, 0)
    assert [one["discord_id"] for one in found["bots"]] == sorted(seen)
    assert {tuple(one) for one in found["bots"]} == {tuple(keys)}


def test_a_bot_is_shown_with_what_it_last_reported(world: World) -> None:
    bot(world, 101, "Example", avatar_url=AVATAR)
    assert world.get("/v1/bots/101", USER).json() == {
        "discord_id": "101",
        "name": "Example",
        "guilds": 0,
        "users": 0,
        "avatar_url": AVATAR,
        "latency_ms": None,
        "is_verified": False,
        "last_activity_at": "2026-03-10T12:01:41Z",
        "source": "database",
        "created_at": "2026-03-10T12:01:41Z",
        "updated_at": "2026-03-10T12:01:41Z",
    }
    world.now = world.later(hours=1)
    key = {"X-API-Key": world.bot_key(101)}
    world.post("/v1/bot/me", json={"guild_ids": ["5", 6, "6"], "users": 77, "latency_ms": 12.5}, headers=key)
    shown = world.get("/v1/bots/101", ADMIN).json()
    assert (shown["guilds"], shown["users"], shown["latency_ms"]) == (2, 77, 12.5)
    assert shown["last_activity_at"] == "2026-03-10T13:00:00Z"
    assert (shown["owner_discord_id"], shown["bot_type"], shown["rate_limit_per_hour"]) == (str(USER), 3, 1000)


@pytest.mark.parametrize("path", ["/v1/bots/999", "/v1/bots/4000"])
def test_who_was_never_registered_or_is_erased_is_no_bot(world: World, path: str) -> None:
    bot(world, 4000)
    world.act(commands.EraseSubject(target=Subject("bot", 4000), reason="request"), Actor("user", OWNER))
    assert error_of(world.get(path, ADMIN), 404) == "Bot not found"
    assert world.get("/v1/bots", ADMIN).json() == []
    assert world.get("/v1/bots/search", ADMIN).json()["total"] == 0


def test_lists_have_their_own_ends(world: World) -> None:
    for number in range(1, 61):
        bot(world, number, f"bot {number}")
    newest = [str(number) for number in range(60, 0, -1)]

    def ids(path: str) -> list[str]:
        body = world.get(path, ADMIN).json()
        return [one["discord_id"] for one in (body if isinstance(body, list) else body["bots"])]

    assert ids("/v1/bots") == newest[:25]
    assert ids("/v1/bots?limit=50") == newest[:50]
    assert ids("/v1/bots?limit=50&offset=50") == newest[50:]
    assert ids(f"/v1/bots?offset={2**63 - 1}") == []
    assert ids(BOTS) == newest[:25]
    assert ids(f"{BOTS}?limit=1&offset=59") == ["1"]
    body = world.get(f"{BOTS}?limit=3&offset=58", ADMIN).json()
    assert (body["total"], body["limit"], body["offset"], len(body["bots"])) == (60, 3, 58, 2)
    assert len(ids("/v1/bots/search?limit=100")) == 60
    assert ids("/v1/bots/search?offset=10000") == []


def test_the_search_filters_by_name_id_owner_and_type_and_goes_on_by_cursor(world: World) -> None:
    bot(world, 11, "Alpha")
    bot(world, 12, "alphabet", OTHER_USER, bot_type=2)
    bot(world, 13, "Beta", OTHER_USER, bot_type=1)

    def ids(query: str) -> list[str]:
        return [one["discord_id"] for one in world.get(f"/v1/bots/search?{query}", USER).json()["bots"]]

    assert ids("") == ["11", "12", "13"]
    assert ids("q=al") == ["11", "12"]
    assert ids("q=%20LPHAB%20") == ["12"]
    assert ids("q=13") == ["13"]
    assert ids(f"owner={OTHER_USER}") == ["12", "13"]
    assert ids(f"owner={OTHER_USER}&bot_type=1") == ["13"]
    assert ids("q=" + "x" * 50) == []
    first = world.get("/v1/bots/search?limit=2", USER).json()
    assert list(first) == ["bots", "total", "limit", "offset", "next_cursor"]
    second = world.get(f"/v1/bots/search?limit=2&cursor={first['next_cursor']}", USER).json()
    assert [one["discord_id"] for one in second["bots"]] == ["13"]
    assert (second["total"], "next_cursor" in second) == (3, False)
    other = world.get(f"/v1/bots/search?cursor={first['next_cursor']}", ADMIN)
    assert error_of(other, 400) == "cursor belongs to another search"


def test_registering_shows_the_bot_and_its_key(world: World) -> None:
    asked = {"discord_id": 900, "name": "  Music ", "owner_discord_id": str(USER)}
    answer = world.post(BOTS, ADMIN, asked)
    body = answer.json()
    assert list(body) == ["message", "bot", "api_key", "created_at", "updated_at"]
    assert body["message"] == "Bot 900 registered"
    assert (body["created_at"], body["updated_at"]) == ("2026-03-10T12:00:00Z", "2026-03-10T12:00:00Z")
    assert body["bot"] == {
        "discord_id": "900",
        "name": "Music",
        "guilds": 0,
        "users": 0,
        "avatar_url": None,
        "latency_ms": None,
        "is_verified": False,
        "last_activity_at": "2026-03-10T12:00:00Z",
        "source": "database",
        "created_at": "2026-03-10T12:00:00Z",
        "updated_at": "2026-03-10T12:00:00Z",
        "id": world.ledger.head(),
        "owner_discord_id": str(USER),
        "bot_type": 3,
        "is_active": True,
        "rate_limit_per_hour": 1000,
    }
    assert answer.headers["X-Ledger-Position"] == str(world.ledger.head())
    assert world.get("/v1/bots/900", ADMIN).json() == body["bot"]
    assert world.get("/v1/bot/me", headers={"X-API-Key": body["api_key"]}).json() == body["bot"]


def test_all_of_a_bot_can_be_said_when_it_is_registered(world: World) -> None:
    asked = {"discord_id": "900", "name": "Music", "owner_discord_id": OTHER_ADMIN}
    asked |= {"rate_limit_per_hour": 100_000, "bot_type": 1, "avatar_url": AVATAR}
    assert error_of(world.post(BOTS, ADMIN, asked), 403) == "You cannot act on this user"
    seen = world.post(BOTS, OWNER, asked).json()["bot"]
    assert (seen["rate_limit_per_hour"], seen["bot_type"], seen["is_verified"]) == (100_000, 1, True)
    assert (seen["avatar_url"], seen["owner_discord_id"]) == (AVATAR, str(OTHER_ADMIN))
    assert error_of(world.post(BOTS, OWNER, asked), 409) == "Bot 900 is already registered"


def test_what_became_of_a_bot_keeps_its_id_when_it_is_registered_again(world: World) -> None:
    asked = {"discord_id": "900", "name": "Music", "owner_discord_id": USER}
    first = world.post(BOTS, ADMIN, asked).json()
    world.act(commands.EraseSubject(target=Subject("bot", 900), reason="request"), Actor("user", OWNER))
    error_of(world.get("/v1/bot/me", headers={"X-API-Key": first["api_key"]}), 401)
    again = world.post(BOTS, ADMIN, asked).json()
    assert again["bot"]["id"] == first["bot"]["id"]
    assert world.get("/v1/bot/me", headers={"X-API-Key": again["api_key"]}).json() == again["bot"]


UPDATES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": "Renamed"}, {"name": "Renamed"}),
    ({"owner_discord_id": str(OTHER_USER)}, {"owner_discord_id": str(OTHER_USER)}),
    ({"bot_type": 2}, {"bot_type": 2, "is_verified": True}),
    ({"rate_limit_per_hour": 1}, {"rate_limit_per_hour": 1}),
    ({"is_active": False}, {"is_active": False}),
    (
        {"name": "New", "owner_discord_id": MODERATOR, "bot_type": 1, "rate_limit_per_hour": 9, "is_active": True},
        {
            "name": "New",
            "owner_discord_id": str(MODERATOR),
            "bot_type": 1,
            "is_verified": True,
            "rate_limit_per_hour": 9,
        },
    ),
]


@pytest.mark.parametrize(("asked", "changed"), UPDATES, ids=[",".join(asked) for asked, _ in UPDATES])
def test_an_update_answers_the_bot_as_it_is_then(world: World, asked: dict[str, Any], changed: dict[str, Any]) -> None:
    bot(world, 900)
    before = world.get("/v1/bots/900", ADMIN).json()
    world.now = world.later(hours=12)
    answer = world.post(f"{BOTS}/900/update", ADMIN, asked)
    body = answer.json()
    assert list(body) == ["message", "bot", "created_at", "updated_at"]
    assert body["message"] == "Bot 900 updated"
    assert body["bot"] == {**before, **changed, "updated_at": "2026-03-11T00:00:00Z"}
    assert (body["created_at"], body["updated_at"]) == (before["created_at"], "2026-03-11T00:00:00Z")
    assert world.get("/v1/bots/900", ADMIN).json() == body["bot"]
    assert world.get(f"/v1/bots/search?q={body['bot']['name']}", ADMIN).json()["bots"] == [body["bot"]]


def test_an_update_that_changes_nothing_adds_no_event(world: World) -> None:
    bot(world, 900, "Same")
    head = world.ledger.head()
    answer = world.post(f"{BOTS}/900/update", ADMIN, {"name": "Same", "is_active": True})
    assert (answer.status_code, answer.headers["X-Ledger-Position"]) == (200, str(head))
    assert world.ledger.head() == head


@pytest.mark.parametrize("act", ["update", "regenerate-key"])
@pytest.mark.parametrize("who", LEVELS)
def test_only_admins_who_may_act_on_the_owner_change_a_bot(world: World, act: str, who: int) -> None:
    for bot_id, owner_id in enumerate((USER, MODERATOR, ADMIN, OWNER), 901):
        bot(world, bot_id, owner_id=owner_id)
        body = {"bot_type": 1} if act == "update" else None
        answer = world.post(f"{BOTS}/{bot_id}/{act}", who, body)
        if LEVELS[who] < 2:
            assert error_of(answer, 403) == "Admin access required"
        elif who != owner_id and (LEVELS[who] > LEVELS[owner_id] or LEVELS[who] == 3):
            assert answer.status_code == 200
        else:
            assert error_of(answer, 403) == "You cannot act on this bot"


def test_a_new_owner_has_to_be_somebody_that_one_may_act_on_too(world: World) -> None:
    bot(world, 900)
    for owner_id in (ADMIN, OTHER_ADMIN, OWNER):
        answer = world.post(f"{BOTS}/900/update", ADMIN, {"owner_discord_id": owner_id})
        assert error_of(answer, 403) == "You cannot act on this user"
    assert world.post(f"{BOTS}/900/update", OWNER, {"owner_discord_id": OTHER_ADMIN}).status_code == 200
    # Now it is another admin's: the old owner counts as well.
    answer = world.post(f"{BOTS}/900/update", ADMIN, {"owner_discord_id": USER})
    assert error_of(answer, 403) == "You cannot act on this bot"


def test_what_is_not_registered_cannot_be_changed(world: World) -> None:
    for path, body in ((f"{BOTS}/900/update", {"name": "Nobody"}), (f"{BOTS}/900/regenerate-key", None)):
        assert error_of(world.post(path, ADMIN, body), 404) == "Bot not found"


def test_an_etag_guards_an_update_and_saves_a_read(world: World) -> None:
    bot(world, 900)
    read = world.get("/v1/bots/900", ADMIN)
    tag = {"If-Match": read.headers["ETag"]}
    unchanged = world.get("/v1/bots/900", ADMIN, headers={"If-None-Match": read.headers["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    # Another body of the same version is another tag.
    assert world.get("/v1/bots/900", USER).headers["ETag"] != read.headers["ETag"]
    changed = world.post(f"{BOTS}/900/update", ADMIN, {"name": "One"}, headers=tag)
    assert changed.status_code == 200
    for path, body in ((f"{BOTS}/900/update", {"name": "Two"}), (f"{BOTS}/900/regenerate-key", None)):
        assert error_of(world.post(path, ADMIN, body, headers=tag), 412).startswith("The record has changed")
    again = world.post(f"{BOTS}/900/regenerate-key", ADMIN, headers={"If-Match": changed.headers["ETag"]})
    assert again.status_code == 200
    assert world.get("/v1/bots/900", ADMIN, headers={"If-None-Match": read.headers["ETag"]}).status_code == 200


@pytest.mark.usefixtures("unfolded")
def test_no_list_is_older_than_its_readers_writes(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    registered = world.post(BOTS, ADMIN, {"discord_id": 900, "name": "Music", "owner_discord_id": USER})
    paths = ("/v1/bots", "/v1/bots/900", "/v1/bots/search", BOTS)
    for path in paths:
        assert "not yet at position" in error_of(world.get(path, ADMIN), 503)
    asked = {"X-Ledger-Position": registered.headers["X-Ledger-Position"]}
    error_of(world.get("/v1/bots", headers=asked), 503)
    assert world.get("/v1/bots").json() == []
    assert error_of(world.get("/v1/bots/900", USER), 404) == "Bot not found"
    # Only what feeds them is waited for.
    world.catch_up("bots")
    for path in paths:
        read = world.get(path, ADMIN)
        assert read.status_code == 200
        assert int(read.headers["X-Ledger-Position"]) >= int(asked["X-Ledger-Position"])


def test_an_owners_profile_shows_the_bots_that_everybody_sees(world: World) -> None:
    bot(world, 900, "On")
    switch_off(world, bot(world, 901, "Off"))
    shown = world.get("/v1/users/profile/user", MODERATOR).json()["bots"]
    assert shown == [world.get("/v1/bots/900", USER).json()]


def test_bots_made_by_an_operator_are_found_like_all(world: World) -> None:
    world.act(commands.RegisterBot(bot_id=5, name="Made", owner_id=OWNER), OPERATOR, NOW)
    assert world.get("/v1/bots/search?q=made", USER).json()["total"] == 1

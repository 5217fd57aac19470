"""GET /v1/users/profile/{username} (api.md §5.1)."""

from datetime import UTC, datetime

import pytest

from modledger.domain import commands
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Subject
from tests.http_client import (
    ADMIN,
    AVATAR,
    EXAMPLE_USER,
    GUILD,
    MODERATOR,
    NOW,
    OTHER_ADMIN,
    OWNER,
    USER,
    World,
    error_of,
)

KEYS = [
    "discord_id",
    "username",
    "avatar_url",
    "subscription_tier",
    "state",
    "permission_level",
    "prefix",
    "subscription_expires_at",
    "last_activity_at",
    "source",
    "created_at",
    "updated_at",
]
LISTS = ["punishments", "guilds", "bots", "subscription_history", "permission_history"]


def test_the_seed_example_is_answered_key_for_key(world: World) -> None:
    born = datetime(2025, 1, 1, tzinfo=UTC)
    registered = commands.RegisterUser(user_id=EXAMPLE_USER, username="exampleuser", avatar_url=AVATAR)
    world.act(registered, SYSTEM, born)
    world.act(commands.ChangeUserPrefix(user_id=EXAMPLE_USER, prefix="?"), OPERATOR, born)
    world.act(commands.ChangeUserPrefix(user_id=EXAMPLE_USER, prefix="!"), OPERATOR, NOW)
    world.connection.execute("insert into user_activity values (%s, %s)", (EXAMPLE_USER, NOW))
    response = world.get("/v1/users/profile/exampleuser", USER)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.text == (
        '{"discord_id":"123456789012345678","username":"exampleuser",'
        '"avatar_url":"https://cdn.discordapp.com/avatars/123456789012345678/abc.png",'
        '"subscription_tier":0,"state":0,"permission_level":0,"prefix":"!",'
        '"subscription_expires_at":null,"last_activity_at":"2026-03-10T12:00:00Z","source":"database",'
        '"created_at":"2025-01-01T00:00:00Z","updated_at":"2026-03-10T12:00:00Z"}'
    )


@pytest.mark.parametrize("name", ["user", "USER", "uSeR"])
def test_a_name_is_found_in_any_case(world: World, name: str) -> None:
    assert world.get(f"/v1/users/profile/{name}", USER).json()["discord_id"] == str(USER)


@pytest.mark.parametrize("name", ["nobody", "a" * 65, "%ED%A0%80", "123", "%20", "user%2Fme"])
def test_an_unknown_name_is_not_found(world: World, name: str) -> None:
    assert "ound" in error_of(world.get(f"/v1/users/profile/{name}", USER), 404)


def test_a_name_with_a_nul_is_refused(world: World) -> None:
    message = error_of(world.get("/v1/users/profile/us%00er", USER), 400)
    assert message == "username must not contain a NUL character"


def test_the_user_who_bears_the_name_now_is_found(world: World) -> None:
    world.act(commands.UpdateUser(user_id=USER, username="renamed"), SYSTEM)
    world.register(500, "user")
    assert world.get("/v1/users/profile/user", ADMIN).json()["discord_id"] == "500"
    assert world.get("/v1/users/profile/renamed", ADMIN).json()["discord_id"] == str(USER)


@pytest.mark.parametrize(
    ("viewer", "name", "detailed"),
    [
        (USER, "user", False),
        (USER, "moderator", False),
        (MODERATOR, "user", True),
        (MODERATOR, "moderator", False),
        (MODERATOR, "othermoderator", False),
        (MODERATOR, "admin", False),
        (ADMIN, "moderator", True),
        (ADMIN, "otheradmin", False),
        (OWNER, "admin", True),
        (OWNER, "owner", False),
    ],
)
def test_detail_is_for_moderators_and_above_who_can_act_on_the_user(
    world: World, viewer: int, name: str, detailed: bool
) -> None:
    keys = list(world.get(f"/v1/users/profile/{name}", viewer).json())
    assert keys == ([*KEYS, *LISTS] if detailed else KEYS)


def test_the_five_lists_hold_what_happened_newest_first(world: World) -> None:
    by_admin = Actor("user", ADMIN)
    target = Subject("user", USER)
    world.act(commands.IssueWarning(target=target, reason="first"), by_admin, NOW)
    world.act(commands.IssueWarning(target=target, reason="second"), by_admin, world.later(seconds=1))
    world.act(commands.RegisterGuild(guild_id=GUILD, name="Guild", owner_id=USER), SYSTEM)
    world.act(commands.RegisterBot(bot_id=777, name="Helper", owner_id=USER, bot_type=2))
    world.act(commands.GrantSubscription(target=target, tier=2, reason="paid"), by_admin, world.later(seconds=2))
    world.act(commands.ChangePermission(user_id=USER, level=1, reason="joined"), at=world.later(seconds=3))
    world.now = world.later(seconds=10)
    body = world.get("/v1/users/profile/user", ADMIN).json()
    assert [one["reason"] for one in body["punishments"]] == ["second", "first"]
    warning = body["punishments"][0]
    assert list(warning) == [
        "id",
        "discord_user_id",
        "discord_guild_id",
        "punishment_type",
        "discord_issued_by_id",
        "reason",
        "expires_at",
        "is_lifted",
        "lifted_at",
        "discord_lifted_by_id",
        "created_at",
        "updated_at",
    ]
    assert warning["discord_user_id"] == str(USER)
    assert warning["punishment_type"] == "WARNING"
    assert body["guilds"] == [
        {
            "discord_id": str(GUILD),
            "name": "Guild",
            "avatar_url": None,
            "member_count": 0,
            "prefix": "!",
            "owner_discord_id": str(USER),
            "state": 0,
            "source": "database",
            "created_at": "2026-03-10T12:00:00Z",
            "updated_at": "2026-03-10T12:00:00Z",
        }
    ]
    assert body["bots"] == [
        {
            "discord_id": "777",
            "name": "Helper",
            "guilds": 0,
            "users": 0,
            "avatar_url": None,
            "latency_ms": None,
            "is_verified": True,
            "last_activity_at": "2026-03-10T12:00:00Z",
            "source": "database",
            "created_at": "2026-03-10T12:00:00Z",
            "updated_at": "2026-03-10T12:00:00Z",
        }
    ]
    (subscribed,) = body["subscription_history"]
    assert list(subscribed) == ["id", "old_tier", "new_tier", "reason", "granted_by_id", "expires_at", "created_at"]
    assert (subscribed["old_tier"], subscribed["new_tier"], subscribed["granted_by_id"]) == (0, 2, str(ADMIN))
    assert subscribed["expires_at"] == body["subscription_expires_at"] == "2026-04-09T12:00:02Z"
    (permitted,) = body["permission_history"]
    assert list(permitted) == ["id", "old_level", "new_level", "reason", "changed_by_id", "created_at"]
    assert (permitted["old_level"], permitted["new_level"], permitted["changed_by_id"]) == (0, 1, None)


def test_each_list_holds_the_newest_hundred(world: World) -> None:
    for number in range(103):
        warn = commands.IssueWarning(target=Subject("user", USER), reason=f"number {number}")
        world.act(warn, Actor("user", ADMIN), world.later(seconds=number))
    world.now = world.later(hours=1)
    reasons = [one["reason"] for one in world.get("/v1/users/profile/user", ADMIN).json()["punishments"]]
    assert reasons == [f"number {number}" for number in range(102, 2, -1)]


def test_a_tier_and_a_timeout_end_at_their_very_second_with_no_worker_running(world: World) -> None:
    target = Subject("user", USER)
    world.act(commands.StartTrial(target=target), Actor("user", ADMIN))
    end = world.later(days=7)
    world.act(commands.IssueTimeout(user_id=USER, reason="x", expires_at=end), Actor("user", ADMIN))
    world.token(OTHER_ADMIN)

    def seen() -> tuple[int, int, str | None]:
        world.cookies.pop(OTHER_ADMIN, None)
        body = world.get("/v1/users/profile/user", OTHER_ADMIN).json()
        return body["state"], body["subscription_tier"], body["subscription_expires_at"]

    world.now = world.later(days=7, seconds=-1)
    assert seen() == (1, 1, "2026-03-17T12:00:00Z")
    world.now = end
    assert seen() == (0, 0, None)


def test_the_etag_changes_with_what_is_seen_and_spares_the_body(world: World) -> None:
    first = world.get("/v1/users/profile/user", ADMIN)
    tag = first.headers["ETag"]
    again = world.get("/v1/users/profile/user", ADMIN, headers={"If-None-Match": f'"other", W/{tag}'})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["ETag"] == tag
    assert world.get("/v1/users/profile/user", USER).headers["ETag"] != tag
    world.act(commands.ChangeUserPrefix(user_id=USER, prefix="?"))
    changed = world.get("/v1/users/profile/user", ADMIN, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag


def test_a_user_who_was_never_registered_has_no_name_to_be_found_by(world: World) -> None:
    world.act(commands.IssueBan(target=Subject("user", 6000), reason="spam"), Actor("user", ADMIN))
    assert error_of(world.get("/v1/users/profile/6000", ADMIN), 404) == "User not found"

"""Punishing, lifting, amending and changing levels over HTTP (api.md §2 to §4)."""

from typing import Any

import pytest

from modledger.domain import commands
from modledger.domain.envelope import SYSTEM, Actor, Subject
from tests.http_client import (
    ADMIN,
    GUILD,
    MODERATOR,
    OTHER_ADMIN,
    OTHER_MODERATOR,
    OTHER_USER,
    OWNER,
    UNKNOWN,
    USER,
    World,
    error_of,
)

WHY = {"reason": "spam"}
KEYS = [
    "user_discord_id",
    "guild_discord_id",
    "punishment_type",
    "reason",
    "issued_by_discord_id",
    "expires_at",
    "created_at",
    "updated_at",
    "id",
]


def url(target: int, act: str, kind: str = "user") -> str:
    return f"/v1/admin/punishments/{kind}/{target}/{act}"


def test_warn_timeout_and_ban_answer_what_was_issued(world: World) -> None:
    end = "2026-03-11T12:00:00Z"
    for act, body, kind, expires_at in (
        ("warn", WHY, "WARNING", None),
        ("timeout", {**WHY, "expires_at": end}, "TIMEOUT", end),
        ("ban", WHY, "BAN", None),
    ):
        response = world.post(url(USER, act), ADMIN, body)
        assert response.status_code == 200
        answer = response.json()
        assert list(answer) == KEYS
        assert answer == {
            "user_discord_id": str(USER),
            "guild_discord_id": None,
            "punishment_type": kind,
            "reason": "spam",
            "issued_by_discord_id": str(ADMIN),
            "expires_at": expires_at,
            "created_at": "2026-03-10T12:00:00Z",
            "updated_at": "2026-03-10T12:00:00Z",
            "id": int(response.headers["X-Ledger-Position"]),
        }
        record = world.get(f"/v1/admin/punishments/{answer['id']}", ADMIN).json()
        assert record["punishment_type"] == kind


def test_a_guild_is_warned_and_blacklisted(world: World) -> None:
    warned = world.post(url(GUILD, "warn", "guild"), MODERATOR, WHY).json()
    assert (warned["guild_discord_id"], warned["user_discord_id"]) == (str(GUILD), None)
    banned = world.post(url(GUILD, "ban", "guild"), ADMIN, WHY).json()
    assert banned["punishment_type"] == "GUILD_BLACKLIST"
    assert "blacklisting" in error_of(world.post(url(GUILD, "ban", "guild"), ADMIN, WHY), 409)


def test_a_guild_is_protected_by_its_owners_rank(world: World) -> None:
    world.act(commands.RegisterGuild(guild_id=GUILD, name="Guild", owner_id=OTHER_ADMIN), SYSTEM)
    assert error_of(world.post(url(GUILD, "ban", "guild"), ADMIN, WHY), 403) == "You cannot act on this guild"
    assert world.post(url(GUILD, "ban", "guild"), OWNER, WHY).status_code == 200


def test_a_user_never_seen_can_be_banned(world: World) -> None:
    assert world.post(url(UNKNOWN, "ban"), ADMIN, WHY).status_code == 200


ACTORS = [
    (USER, OTHER_USER, "warn", 403, "Moderator access required"),
    (USER, OTHER_USER, "ban", 403, "Admin access required"),
    (MODERATOR, USER, "warn", 200, ""),
    (MODERATOR, USER, "ban", 403, "Admin access required"),
    (MODERATOR, OTHER_MODERATOR, "warn", 403, "You cannot act on this user"),
    (MODERATOR, MODERATOR, "warn", 403, "You cannot act on this user"),
    (MODERATOR, ADMIN, "warn", 403, "You cannot act on this user"),
    (ADMIN, MODERATOR, "ban", 200, ""),
    (ADMIN, OTHER_ADMIN, "ban", 403, "You cannot act on this user"),
    (ADMIN, ADMIN, "ban", 403, "You cannot act on this user"),
    (ADMIN, OWNER, "warn", 403, "You cannot act on this user"),
    (OWNER, ADMIN, "ban", 200, ""),
    (OWNER, OWNER, "ban", 403, "You cannot act on this user"),
]


@pytest.mark.parametrize(("actor", "target", "act", "status", "message"), ACTORS)
def test_one_acts_only_on_those_below(
    world: World, actor: int, target: int, act: str, status: int, message: str
) -> None:
    head = world.ledger.head()
    response = world.post(url(target, act), actor, WHY)
    if status == 200:
        assert response.status_code == 200
    else:
        assert error_of(response, status) == message
        assert world.ledger.head() == head


def test_a_second_active_ban_or_timeout_is_refused_naming_the_first(world: World) -> None:
    end = {"expires_at": "2026-03-11T12:00:00Z"}
    for act, body in (("ban", WHY), ("timeout", {**WHY, **end})):
        first = world.post(url(USER, act), ADMIN, body).json()["id"]
        message = error_of(world.post(url(USER, act), ADMIN, body), 409)
        assert message == f"User {USER} already has an active {act}: punishment {first}"


def test_replace_supersedes_the_active_ban_in_the_same_append(world: World) -> None:
    first = world.post(url(USER, "ban"), ADMIN, WHY).json()["id"]
    response = world.post(url(USER, "ban"), ADMIN, {"reason": "worse", "replace": True})
    second = response.json()["id"]
    assert response.json()["reason"] == "worse"
    history = world.get(f"/v1/admin/punishments/{first}/history", ADMIN).json()["history"]
    assert [event["event_type"] for event in history] == ["issued", "superseded"]
    assert history[1]["superseded_by"] == second
    old = world.get(f"/v1/admin/punishments/{first}", ADMIN).json()
    assert (old["is_lifted"], old["discord_lifted_by_id"]) == (True, str(ADMIN))


def test_a_ban_that_ran_out_makes_room_for_the_next_at_that_very_second(world: World) -> None:
    world.token(ADMIN)
    world.post(url(USER, "ban"), ADMIN, {**WHY, "expires_at": "2026-03-10T13:00:00Z"})
    world.now = world.later(minutes=59, seconds=59)
    assert world.post(url(USER, "ban"), ADMIN, WHY).status_code == 409
    world.now = world.later(seconds=1)
    assert world.post(url(USER, "ban"), ADMIN, WHY).status_code == 200


def test_lifting_answers_the_search_record_and_is_possible_once(world: World) -> None:
    number = world.post(url(USER, "ban"), ADMIN, WHY).json()["id"]
    world.now = world.later(minutes=5)
    response = world.post(f"/v1/admin/punishments/{number}/lift", OTHER_ADMIN, {"reason": "appeal"})
    assert error_of(response, 403) == "You cannot act on this punishment"
    lifted = world.post(f"/v1/admin/punishments/{number}/lift", ADMIN, {"reason": "appeal"}).json()
    assert lifted == {
        "id": number,
        "discord_user_id": str(USER),
        "discord_guild_id": None,
        "punishment_type": "BAN",
        "discord_issued_by_id": str(ADMIN),
        "reason": "spam",
        "expires_at": None,
        "is_lifted": True,
        "lifted_at": "2026-03-10T12:05:00Z",
        "discord_lifted_by_id": str(ADMIN),
        "created_at": "2026-03-10T12:00:00Z",
        "updated_at": "2026-03-10T12:05:00Z",
    }
    assert world.get(f"/v1/admin/punishments/{number}", ADMIN).json() == lifted
    again = world.post(f"/v1/admin/punishments/{number}/lift", ADMIN, {"reason": "appeal"})
    assert error_of(again, 409) == f"Punishment {number} has already ended (lifted)"


def test_lifting_what_ran_out_is_refused_with_no_worker_running(world: World) -> None:
    world.token(ADMIN)
    body = {**WHY, "expires_at": "2026-03-10T13:00:00Z"}
    number = world.post(url(USER, "ban"), ADMIN, body).json()["id"]
    world.now = world.later(hours=1)
    response = world.post(f"/v1/admin/punishments/{number}/lift", ADMIN, {"reason": "appeal"})
    assert error_of(response, 409) == f"Punishment {number} has already ended (lapsed)"


def test_amending_keeps_old_and_new_in_the_history(world: World) -> None:
    number = world.post(url(USER, "ban"), ADMIN, WHY).json()["id"]
    world.now = world.later(minutes=1)
    path = f"/v1/admin/punishments/{number}"
    amended = world.post(f"{path}/amend", ADMIN, {"expires_at": "2026-04-01T00:00:00Z"}).json()
    assert (amended["reason"], amended["expires_at"]) == ("spam", "2026-04-01T00:00:00Z")
    amended = world.post(f"{path}/amend", ADMIN, {"reason": "more spam", "expires_at": None}).json()
    assert (amended["reason"], amended["expires_at"]) == ("more spam", None)
    assert world.get(path, ADMIN).json() == amended
    history = world.get(f"{path}/history", ADMIN).json()
    assert history["id"] == number
    issued, first, second = history["history"]
    assert list(issued) == [
        "id",
        "event_type",
        "actor",
        "reason",
        "old_reason",
        "expires_at",
        "old_expires_at",
        "superseded_by",
        "created_at",
        "recorded_at",
    ]
    assert issued["actor"] == {"kind": "user", "discord_id": str(ADMIN)}
    assert (first["event_type"], first["old_expires_at"], first["expires_at"]) == (
        "amended",
        None,
        "2026-04-01T00:00:00Z",
    )
    assert (second["old_reason"], second["reason"]) == ("spam", "more spam")
    assert (second["old_expires_at"], second["expires_at"]) == ("2026-04-01T00:00:00Z", None)


@pytest.mark.parametrize(("act", "body"), [("lift", WHY), ("amend", WHY)])
def test_a_moderator_changes_only_what_they_issued(world: World, act: str, body: Any) -> None:
    own = world.post(url(USER, "warn"), MODERATOR, {"reason": "mine"}).json()["id"]
    other = world.post(url(USER, "warn"), OTHER_MODERATOR, {"reason": "theirs"}).json()["id"]
    assert world.post(f"/v1/admin/punishments/{own}/{act}", MODERATOR, body).status_code == 200
    refused = world.post(f"/v1/admin/punishments/{other}/{act}", MODERATOR, body)
    assert error_of(refused, 403) == "Admin access required"
    for path in (f"/v1/admin/punishments/{other}", f"/v1/admin/punishments/{other}/history"):
        assert error_of(world.get(path, MODERATOR), 403) == "Admin access required"
        assert world.get(path, ADMIN).status_code == 200
    for path in (f"/v1/admin/punishments/{own}", f"/v1/admin/punishments/{own}/history"):
        assert world.get(path, MODERATOR).status_code == 200
        assert error_of(world.get(path, USER), 403) == "Moderator access required"


def test_a_punishment_that_is_not_there_is_not_found(world: World) -> None:
    registration = 1
    for number in (registration, 10_000, 2**63 - 1):
        for act in ("lift", "amend"):
            response = world.post(f"/v1/admin/punishments/{number}/{act}", ADMIN, WHY)
            assert error_of(response, 404) == "Punishment not found"
        for path in (f"/v1/admin/punishments/{number}", f"/v1/admin/punishments/{number}/history"):
            assert error_of(world.get(path, ADMIN), 404) == "Punishment not found"


def test_the_system_punishes_under_no_ones_name(world: World) -> None:
    issued = world.act(commands.IssueBan(target=Subject("user", USER), reason="automatic"), SYSTEM)
    record = world.get(f"/v1/admin/punishments/{issued.position}", ADMIN).json()
    assert record["discord_issued_by_id"] is None
    history = world.get(f"/v1/admin/punishments/{issued.position}/history", ADMIN).json()["history"]
    assert history[0]["actor"] == {"kind": "system", "discord_id": None}


LEVELS = [
    (ADMIN, USER, 1, 200, ""),
    (ADMIN, USER, 2, 403, "Owner access required"),
    (ADMIN, USER, 3, 403, "An Owner is made by the command line only"),
    (ADMIN, OTHER_ADMIN, 0, 403, "You cannot act on this user"),
    (ADMIN, ADMIN, 1, 403, "You cannot act on this user"),
    (ADMIN, UNKNOWN, 1, 404, "User not found"),
    (OWNER, USER, 2, 200, ""),
    (OWNER, ADMIN, 0, 200, ""),
    (OWNER, USER, 3, 403, "An Owner is made by the command line only"),
    (MODERATOR, USER, 1, 403, "Admin access required"),
    (OWNER, USER, 0, 409, f"User {USER} already has level 0"),
]


@pytest.mark.parametrize(("actor", "target", "level", "status", "message"), LEVELS)
def test_levels_are_given_by_those_above(
    world: World, actor: int, target: int, level: int, status: int, message: str
) -> None:
    body = {"permission_level": level, "reason": "staff"}
    response = world.post(f"/v1/admin/users/{target}/permission", actor, body)
    if status != 200:
        assert error_of(response, status) == message
        return
    answer = response.json()
    assert list(answer) == ["id", "old_level", "new_level", "reason", "changed_by_id", "created_at"]
    assert (answer["new_level"], answer["changed_by_id"]) == (level, str(actor))
    assert answer["id"] == int(response.headers["X-Ledger-Position"])


def test_subscriptions_are_granted_tried_and_revoked(world: World) -> None:
    base = f"/v1/admin/subscriptions/user/{USER}"
    trial = world.post(f"{base}/trial", ADMIN, {})
    assert trial.json() == {"message": f"Trial granted to user {USER} (7-day trial)"}
    mine = world.get("/v1/users/me/subscription", USER).json()
    assert list(mine) == ["subscription_tier", "expires_at", "is_active", "created_at", "updated_at"]
    assert (mine["subscription_tier"], mine["expires_at"], mine["is_active"]) == (1, "2026-03-17T12:00:00Z", True)
    grant = world.post(f"{base}/grant", ADMIN, {"tier": 2, "duration_days": 10, "reason": "paid"})
    assert grant.json() == {"message": "Subscription granted successfully"}
    renewal = world.post(f"{base}/grant", ADMIN, {"tier": 2, "duration_days": 10})
    assert renewal.status_code == 200
    mine = world.get("/v1/users/me/subscription", USER).json()
    assert (mine["subscription_tier"], mine["expires_at"]) == (2, "2026-03-30T12:00:00Z")
    assert world.post(f"{base}/revoke", ADMIN, {"reason": "refund"}).json() == {
        "message": f"Subscription revoked for user {USER}"
    }
    assert world.get("/v1/users/me/subscription", USER).json()["is_active"] is False
    assert world.post(f"{base}/revoke", ADMIN, {"reason": "refund"}).status_code == 409
    assert world.post(f"{base}/trial", ADMIN, {}).status_code == 409
    assert world.post(f"{base}/grant", ADMIN, {"tier": 1}).status_code == 409
    assert error_of(world.post(f"{base}/trial", MODERATOR, {}), 403) == "Admin access required"
    unknown = world.post(f"/v1/admin/subscriptions/user/{UNKNOWN}/grant", ADMIN, {"tier": 3})
    assert error_of(unknown, 404) == "User not found"


def test_active_subscriptions_list_users_and_guilds_until_their_very_end(world: World) -> None:
    world.act(commands.RegisterGuild(guild_id=GUILD, name="Guild", owner_id=USER), SYSTEM)
    world.post(f"/v1/admin/subscriptions/user/{USER}/grant", ADMIN, {"tier": 2, "duration_days": 1})
    world.post(f"/v1/admin/subscriptions/guild/{GUILD}/grant", ADMIN, {"tier": 3})
    world.post(f"/v1/admin/subscriptions/guild/{GUILD}/trial", ADMIN, {})
    everything = world.get("/v1/admin/subscriptions/active", ADMIN).json()
    assert everything == {
        "users": [
            {"discord_id": USER, "name": "user", "tier": 2, "expires_at": "2026-03-11T12:00:00Z", "is_active": True}
        ],
        "guilds": [{"discord_id": GUILD, "name": "Guild", "tier": 3, "expires_at": None, "is_active": True}],
    }
    assert world.get("/v1/admin/subscriptions/active?tier=2", ADMIN).json()["guilds"] == []
    assert world.get("/v1/admin/subscriptions/active?tier=3", ADMIN).json()["users"] == []
    world.cookies.clear()
    world.now = world.later(days=1)
    assert world.get("/v1/admin/subscriptions/active", ADMIN).json()["users"] == []
    assert error_of(world.get("/v1/admin/subscriptions/active", MODERATOR), 403) == "Admin access required"


def test_own_punishments_are_a_bare_array_newest_first(world: World) -> None:
    for number in range(3):
        world.act(
            commands.IssueWarning(target=Subject("user", USER), reason=f"number {number}"),
            Actor("user", ADMIN),
            world.later(seconds=number),
        )
    mine = world.get("/v1/users/me/punishments", USER).json()
    assert list(mine[0]) == ["id", "punishment_type", "reason", "is_lifted", "expires_at", "created_at"]
    assert [one["reason"] for one in mine] == ["number 2", "number 1", "number 0"]
    page = world.get("/v1/users/me/punishments?offset=1&limit=1", USER).json()
    assert [one["reason"] for one in page] == ["number 1"]
    assert world.get("/v1/users/me/punishments", OTHER_USER).json() == []

"""Voided, overturned, replaced: the ends of punishments other than a lift, over HTTP (api.md §4)."""

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
    OWNER,
    USER,
    World,
    error_of,
)

WHY = {"reason": "spam"}
END, LATER = "2026-03-11T12:00:00Z", "2026-03-12T12:00:00Z"
ENDINGS = {"void": "voided", "overturn": "overturned"}


def issue(world: World, act: str = "ban", actor: int = ADMIN, target: str = f"user/{USER}", **more: Any) -> int:
    response = world.post(f"/v1/admin/punishments/{target}/{act}", actor, {**WHY, **more})
    assert response.status_code == 200, response.text
    return int(response.json()["id"])


def end(world: World, number: int, act: str, actor: int = ADMIN, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return world.post(f"/v1/admin/punishments/{number}/{act}", actor, {"reason": "in error"}, headers=named)


@pytest.mark.parametrize("act", ENDINGS)
def test_it_reads_as_lifted_and_bears_its_own_name_in_the_history(world: World, act: str) -> None:
    number = issue(world)
    world.now = world.later(minutes=5)
    response = end(world, number, act)
    assert response.json() == {
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
    record = world.get(f"/v1/admin/punishments/{number}", ADMIN)
    assert (record.json(), record.headers["ETag"]) == (response.json(), response.headers["ETag"])
    assert world.get("/v1/admin/punishments/search", ADMIN).json()["punishments"] == [response.json()]
    assert world.get("/v1/admin/punishments/search?active_only=true", ADMIN).json()["total"] == 0
    assert world.get("/v1/users/profile/user", OWNER).json()["state"] == 0
    _, ended = world.get(f"/v1/admin/punishments/{number}/history", ADMIN).json()["history"]
    assert (ended["event_type"], ended["reason"]) == (ENDINGS[act], "in error")
    assert ended["id"] == int(response.headers["X-Ledger-Position"])
    log = world.get(f"/v1/admin/audit/logs?event_type=USER_PUNISHMENT_{act.upper()}", ADMIN).json()["items"]
    assert [entry["event_metadata"]["punishment_id"] for entry in log] == [number]


@pytest.mark.parametrize("act", ENDINGS)
def test_a_guilds_blacklisting_can_be_ended_so_too(world: World, act: str) -> None:
    number = issue(world, target=f"guild/{GUILD}")
    ended = end(world, number, act).json()
    assert (ended["discord_guild_id"], ended["is_lifted"]) == (str(GUILD), True)
    log = world.get(f"/v1/admin/audit/logs?event_type=GUILD_PUNISHMENT_{act.upper()}", ADMIN).json()
    assert log["total"] == 1


@pytest.mark.parametrize("act", ["lift", *ENDINGS])
def test_what_has_ended_in_whatever_way_is_refused(world: World, act: str) -> None:
    for first, how in (("lift", "lifted"), *ENDINGS.items()):
        number = issue(world)
        end(world, number, first)
        assert error_of(end(world, number, act), 409) == f"Punishment {number} has already ended ({how})"
    lapsing = issue(world, expires_at="2026-03-10T13:00:00Z")
    world.token(ADMIN)
    world.now = world.later(hours=1)
    assert error_of(end(world, lapsing, act), 409) == f"Punishment {lapsing} has already ended (lapsed)"


@pytest.mark.parametrize("act", ENDINGS)
def test_who_may_is_as_for_a_lift(world: World, act: str) -> None:
    of_moderator, of_admin = issue(world, "warn", MODERATOR), issue(world)
    of_system = world.act(commands.IssueWarning(target=Subject("user", USER), reason="automatic"), SYSTEM).position
    refusals = (
        (USER, of_moderator, "Account restricted"),
        (OTHER_MODERATOR, of_moderator, "Admin access required"),
        (MODERATOR, of_admin, "Admin access required"),
        (MODERATOR, of_system, "Admin access required"),
        (OTHER_ADMIN, of_admin, "You cannot act on this punishment"),
    )
    for actor, number, message in refusals:
        assert error_of(end(world, number, act, actor), 403) == message
    for actor, number in ((MODERATOR, of_moderator), (OTHER_ADMIN, of_system), (OWNER, of_admin)):
        assert end(world, number, act, actor).status_code == 200


@pytest.mark.parametrize("act", ENDINGS)
def test_what_is_not_there_or_not_said_is_refused(world: World, act: str) -> None:
    number = issue(world)
    for missing in (1, 10_000, 2**63 - 1):
        assert error_of(end(world, missing, act), 404) == "Punishment not found"
    path = f"/v1/admin/punishments/{number}/{act}"
    for body, message in (
        ({}, "reason is required"),
        ({"reason": " "}, "reason must be between 1 and 512 characters"),
        ({"reason": "x" * 513}, "reason must be between 1 and 512 characters"),
        ({**WHY, "expires_at": END}, "unknown field: expires_at"),
    ):
        assert error_of(world.post(path, ADMIN, body), 400) == message
    assert world.get(f"/v1/admin/punishments/{number}", ADMIN).json()["is_lifted"] is False


@pytest.mark.parametrize("act", ENDINGS)
def test_a_stale_tag_is_refused_and_a_fresh_one_is_not(world: World, act: str) -> None:
    number = issue(world)
    seen = world.get(f"/v1/admin/punishments/{number}", ADMIN).headers["ETag"]
    world.post(f"/v1/admin/punishments/{number}/amend", ADMIN, {"reason": "worse spam"})
    assert "has changed since" in error_of(end(world, number, act, If_Match=seen), 412)
    fresh = world.get(f"/v1/admin/punishments/{number}", ADMIN).headers["ETag"]
    assert end(world, number, act, If_Match=fresh).status_code == 200


@pytest.mark.parametrize("act", ENDINGS)
def test_a_repetition_gets_the_first_answer(world: World, act: str) -> None:
    number = issue(world)
    first = end(world, number, act, Idempotency_Key="one")
    again = end(world, number, act, Idempotency_Key="one")
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = "overturn" if act == "void" else "void"
    assert error_of(end(world, number, other, Idempotency_Key="one"), 409).startswith("Idempotency-Key")


# -- replaced


def test_replace_supersedes_the_active_timeout_in_the_same_append(world: World) -> None:
    first = issue(world, "timeout", MODERATOR, expires_at=END)
    refused = world.post(f"/v1/admin/punishments/user/{USER}/timeout", MODERATOR, {**WHY, "expires_at": LATER})
    assert error_of(refused, 409) == f"User {USER} already has an active timeout: punishment {first}"
    second = issue(world, "timeout", MODERATOR, expires_at=LATER, replace=True)
    history = world.get(f"/v1/admin/punishments/{first}/history", MODERATOR).json()["history"]
    assert [event["event_type"] for event in history] == ["issued", "superseded"]
    assert history[1]["superseded_by"] == second
    found = world.get("/v1/admin/punishments/search?active_only=true", ADMIN).json()["punishments"]
    assert [(one["id"], one["expires_at"]) for one in found] == [(second, LATER)]
    assert world.get(f"/v1/admin/punishments/{first}", ADMIN).json()["discord_lifted_by_id"] == str(MODERATOR)


def test_replace_without_anything_to_replace_just_issues(world: World) -> None:
    number = issue(world, replace=True)
    history = world.get(f"/v1/admin/punishments/{number}/history", ADMIN).json()["history"]
    assert [event["event_type"] for event in history] == ["issued"]


def test_replace_goes_by_the_rank_of_who_issued_what_is_replaced(world: World) -> None:
    end = {"expires_at": END}
    of_admin = issue(world, "timeout", ADMIN, **end)
    replacing = {**WHY, "expires_at": LATER, "replace": True}
    path = f"/v1/admin/punishments/user/{USER}/timeout"
    head = world.ledger.head()
    assert error_of(world.post(path, MODERATOR, replacing), 403) == "Admin access required"
    assert error_of(world.post(path, OTHER_ADMIN, replacing), 403) == "You cannot act on this punishment"
    assert world.ledger.head() == head
    assert world.post(path, OWNER, replacing).status_code == 200
    assert world.get(f"/v1/admin/punishments/{of_admin}", ADMIN).json()["is_lifted"] is True


def test_an_admin_replaces_what_a_moderator_or_the_system_issued(world: World) -> None:
    issue(world, "timeout", MODERATOR, expires_at=END)
    issue(world, "timeout", OTHER_ADMIN, expires_at=LATER, replace=True)
    world.act(commands.IssueBan(target=Subject("user", USER), reason="automatic"), SYSTEM)
    issue(world, "ban", ADMIN, replace=True)
    # What an Owner issued only an Owner replaces.
    world.act(commands.IssueBan(target=Subject("user", USER), reason="x", replace=True), Actor("user", OWNER))
    refused = world.post(f"/v1/admin/punishments/user/{USER}/ban", ADMIN, {**WHY, "replace": True})
    assert error_of(refused, 403) == "You cannot act on this punishment"


def test_a_guilds_blacklisting_is_replaced_likewise(world: World) -> None:
    first = issue(world, target=f"guild/{GUILD}")
    second = issue(world, target=f"guild/{GUILD}", expires_at=END, replace=True)
    history = world.get(f"/v1/admin/punishments/{first}/history", ADMIN).json()["history"]
    assert history[1]["superseded_by"] == second

"""GET /v1/statistics/* (api.md §4): for everybody, exact, from counts."""

from datetime import timedelta
from importlib.metadata import version
from typing import Any

import pytest

from modledger.domain import commands
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Subject
from modledger.http.keys import create_key
from modledger.http.sessions import COOKIE
from tests.http_client import ADMIN, GUILD, LEVELS, NOW, OTHER_USER, OWNER, USER, World, error_of

PATHS = [f"/v1/statistics/{what}" for what in ("users", "guilds", "bots", "application")]
USERS, GUILDS, BOTS, APPLICATION = PATHS
BY_ADMIN = Actor("user", ADMIN)


def grant(world: World, target: Subject, tier: int) -> None:
    trial, other = commands.StartTrial(target=target), commands.GrantSubscription(target=target, tier=tier)
    world.act(trial if tier == 1 else other, OPERATOR)


def users(world: World, **more: Any) -> tuple[int, ...]:
    """Total, basic, premium, lifetime, trial."""
    return tuple(world.get(USERS, **more).json().values())


def test_users_are_counted_by_the_tier_that_they_have_now(world: World) -> None:
    body = world.get(USERS).json()
    assert list(body) == ["total_count", "basic_count", "premium_count", "lifetime_count", "trial_count"]
    everybody = len(LEVELS)
    assert users(world) == (everybody, everybody, 0, 0, 0)
    for number, tier in ((USER, 1), (OTHER_USER, 2), (OWNER, 3)):
        grant(world, Subject("user", number), tier)
    assert users(world) == (everybody, everybody - 3, 1, 1, 1)
    for days, counts in ((7, (everybody, everybody - 2, 1, 1, 0)), (30, (everybody, everybody - 1, 0, 1, 0))):
        world.now = NOW + timedelta(days=days, seconds=-1)
        assert users(world) != counts
        world.now = NOW + timedelta(days=days)
        assert users(world) == counts
    # Nothing changes when the clock records the end that has come.
    for number, tier in ((USER, 7), (OTHER_USER, 30)):
        ended = commands.EndSubscription(target=Subject("user", number), expires_at=NOW + timedelta(days=tier))
        world.act(ended, SYSTEM)
    assert users(world) == (everybody, everybody - 1, 0, 1, 0)


def test_only_registered_users_are_counted(world: World) -> None:
    world.act(commands.IssueBan(target=Subject("user", 6000), reason="spam"), BY_ADMIN)
    world.act(commands.IssueWarning(target=Subject("user", 6001), reason="spam"), BY_ADMIN)
    grant(world, Subject("user", 6001), 3)
    assert users(world) == (len(LEVELS), len(LEVELS), 0, 0, 0)
    world.register(6001, "late")
    assert users(world) == (len(LEVELS) + 1, len(LEVELS), 0, 1, 0)
    world.act(commands.EraseSubject(target=Subject("user", USER), reason="request"), OPERATOR)
    assert users(world) == (len(LEVELS), len(LEVELS) - 1, 0, 1, 0)


def test_guilds_are_counted_by_the_access_that_they_have_now(world: World) -> None:
    assert world.get(GUILDS).json() == {
        "total_count": 0,
        "whitelisted_count": 0,
        "trial_count": 0,
        "guild_access_count": 0,
    }
    for number, tier in ((GUILD, 0), (GUILD + 1, 1), (GUILD + 2, 2), (GUILD + 3, 3)):
        world.act(commands.RegisterGuild(guild_id=number, name="Guild", owner_id=USER), SYSTEM)
        if tier:
            grant(world, Subject("guild", number), tier)
    world.act(commands.IssueWarning(target=Subject("guild", 7000), reason="spam"), BY_ADMIN)
    body = world.get(GUILDS).json()
    assert list(body) == ["total_count", "whitelisted_count", "trial_count", "guild_access_count"]
    assert tuple(body.values()) == (4, 2, 1, 3)
    world.now = NOW + timedelta(days=7)
    assert tuple(world.get(GUILDS).json().values()) == (4, 2, 0, 2)
    world.now = NOW + timedelta(days=30)
    assert tuple(world.get(GUILDS).json().values()) == (4, 1, 0, 1)


def test_bots_are_counted_by_type(world: World) -> None:
    for number, kind in enumerate((1, 2, 2, 3, 3, 3)):
        world.act(commands.RegisterBot(bot_id=800 + number, name=f"bot {number}", owner_id=USER, bot_type=kind))
    body = world.get(BOTS).json()
    assert list(body) == ["total_count", "official_count", "verified_count", "community_count"]
    assert tuple(body.values()) == (6, 1, 2, 3)


def test_the_application_says_what_runs_here(world: World) -> None:
    world.act(commands.RegisterGuild(guild_id=GUILD, name="Guild", owner_id=USER), SYSTEM)
    world.now = world.later(hours=3)
    assert world.get(APPLICATION).json() == {
        "application_name": "modledger",
        "version": version("modledger"),
        "users": len(LEVELS),
        "guilds": 1,
        "started_at": "2026-03-10T12:00:00Z",
    }
    assert list(world.get(APPLICATION).json()) == ["application_name", "version", "users", "guilds", "started_at"]


@pytest.mark.parametrize("path", PATHS)
def test_statistics_are_for_everybody(shared_world: World, path: str) -> None:
    answers = [shared_world.get(path)]
    answers += [shared_world.get(path, viewer) for viewer in LEVELS]
    for kind, bot_id in (("public", None), ("bot", 5002)):
        key = create_key(shared_world.connection, kind, bot_id, NOW)  # type: ignore[arg-type]
        answers.append(shared_world.get(path, headers={"Authorization": f"Bearer {key}"}))
    # A session that is over counts as nobody.
    answers.append(shared_world.get(path, headers={"Cookie": f"{COOKIE}=x"}))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert all(answer.headers["X-Ledger-Position"] for answer in answers)


@pytest.mark.parametrize("path", PATHS)
def test_a_key_that_is_given_has_to_be_good(shared_world: World, path: str) -> None:
    assert error_of(shared_world.get(path, headers={"X-API-Key": "hpub_x"}), 401) == "Authentication required"


@pytest.mark.parametrize("path", PATHS)
def test_the_restricted_are_refused(world: World, path: str) -> None:
    world.act(commands.IssueBan(target=Subject("user", USER), reason="x"), OPERATOR)
    assert error_of(world.get(path, USER), 403) == "Account restricted"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("query", "headers", "message"),
    [
        ("?foo=1", {}, "unknown parameter: foo"),
        ("?limit=1", {}, "unknown parameter: limit"),
        ("", {"X-Ledger-Position": "x"}, f"X-Ledger-Position must be an integer between 0 and {2**63 - 1}"),
        ("", {"X-Ledger-Position": "-1"}, f"X-Ledger-Position must be an integer between 0 and {2**63 - 1}"),
    ],
)
def test_bad_input_is_refused(
    shared_world: World, path: str, query: str, headers: dict[str, str], message: str
) -> None:
    assert error_of(shared_world.get(path + query, headers=headers), 400) == message


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.usefixtures("unfolded")
def test_an_answer_is_not_older_than_what_was_asked_for(world: World, path: str) -> None:
    head = world.ledger.head()
    assert int(world.get(path, headers={"X-Ledger-Position": str(head)}).headers["X-Ledger-Position"]) >= head
    world.catching_up = False
    error_of(world.get(path, headers={"X-Ledger-Position": str(head + 1)}), 503)


@pytest.mark.parametrize("path", ["/v1/statistics", "/v1/statistics/punishments", "/v1/statistics/users/1"])
def test_there_are_no_others(shared_world: World, path: str) -> None:
    assert error_of(shared_world.get(path), 404) == "Not found"

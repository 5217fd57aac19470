"""``as_of`` and ``known_at``: who may ask, what is refused, whom a name leads to, and what goes with the answer."""

from datetime import timedelta
from urllib.parse import quote

import pytest

from modledger.domain import commands
from modledger.domain.envelope import OPERATOR, SYSTEM, Subject
from tests.http_client import (
    ADMIN,
    GUILD,
    MODERATOR,
    NOW,
    OTHER_ADMIN,
    OTHER_USER,
    OWNER,
    UNKNOWN,
    USER,
    World,
    error_of,
    people,
    started,
)
from tests.lived_history import set_time, world_of_set_time

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PATHS = ["/v1/users/profile/user", f"/v1/users/{USER}", f"/v1/guilds/{GUILD}"]
PAST = "2026-03-01T00:00:00Z"


@pytest.mark.parametrize("path", [*PATHS, "/v1/users/profile/nobody", f"/v1/users/{UNKNOWN}", f"/v1/guilds/{UNKNOWN}"])
@pytest.mark.parametrize(
    "query", [f"as_of={PAST}", f"known_at={PAST}", "as_of=garbage", "known_at=", "as%5Fof=x&foo=1"]
)
def test_only_admins_may_ask_about_the_past_and_nobody_else_learns_anything(
    shared_world: World, path: str, query: str
) -> None:
    for viewer in (MODERATOR, USER):
        assert error_of(shared_world.get(f"{path}?{query}", viewer), 403) == "Admin access required"
    key = shared_world.get(f"{path}?{query}", headers={"X-API-Key": shared_world.bot_key()})
    status = 401 if "profile" in path else 403
    assert error_of(key, status) in ("Authentication required", "Admin access required")
    error_of(shared_world.get(f"{path}?{query}"), 401)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("as_of=2026-03-10T12:00:01Z", "as_of must not be in the future"),
        ("known_at=2026-03-10T12:00:00.000001Z", "known_at must not be in the future"),
        ("known_at=2026-03-10T12:00:00%2B01:00&as_of=9999-12-31T23:59:59Z", "as_of must not be in the future"),
        ("as_of=yesterday", "as_of must be a timestamp such as 2026-03-10T12:00:00Z"),
        ("known_at=2026-03-01T00:00:00", "known_at must have an offset such as Z"),
        ("known_at=", "known_at must be a timestamp such as 2026-03-10T12:00:00Z"),
        ("as_of=0001-01-01T00:00:00%2B01:00", "as_of must be a timestamp such as 2026-03-10T12:00:00Z"),
        (f"as_of={PAST}&as_of={PAST}", "as_of given more than once"),
        (f"as_of={PAST}&at={PAST}", "unknown parameter: at"),
    ],
)
def test_what_is_no_moment_of_the_past_is_refused(shared_world: World, path: str, query: str, message: str) -> None:
    assert error_of(shared_world.get(f"{path}?{query}", ADMIN), 400) == message


def test_this_very_moment_is_past_enough(world: World) -> None:
    now = quote(NOW.isoformat())
    for query in (f"as_of={now}", f"known_at={quote((NOW - HOUR).isoformat())}&as_of={now}"):
        assert world.get(f"/v1/users/{USER}?{query}", ADMIN).status_code in (200, 404)


def test_what_did_not_exist_then_is_not_found(world: World) -> None:
    world.register(500, "newcomer")
    world.act(commands.RegisterGuild(guild_id=GUILD, name="Guild", owner_id=500), SYSTEM)
    before, after = (f"?as_of={quote((NOW - by).isoformat())}" for by in (HOUR, 0 * HOUR))
    for path, message in (
        ("/v1/users/profile/newcomer", "User not found"),
        ("/v1/users/500", "User not found"),
        (f"/v1/guilds/{GUILD}", "Guild not found"),
    ):
        assert error_of(world.get(path + before, ADMIN), 404) == message
        assert world.get(path + after, ADMIN).status_code == 200
    for path in ("/v1/users/profile/nobody", f"/v1/users/{UNKNOWN}", f"/v1/guilds/{UNKNOWN}"):
        error_of(world.get(path + after, ADMIN), 404)


def test_a_name_leads_to_whoever_bore_it_then(world: World) -> None:
    for user_id, name, by in ((500, "anna", 50), (501, "bert", 49)):
        world.register(user_id, name, at=NOW - by * HOUR)
    world.act(commands.UpdateUser(user_id=500, username="carl"), SYSTEM, NOW - 30 * HOUR)
    world.act(commands.UpdateUser(user_id=501, username="ANNA"), SYSTEM, NOW - 20 * HOUR)

    def bearer(name: str, hours: int) -> str | None:
        found = world.get(f"/v1/users/profile/{name}?as_of={quote((NOW - hours * HOUR).isoformat())}", ADMIN)
        return str(found.json()["discord_id"]) if found.status_code == 200 else None

    assert [bearer("Anna", hours) for hours in (51, 50, 30, 25, 20, 1)] == [None, "500", None, None, "501", "501"]
    assert bearer("bert", 21) == "501"
    assert bearer("bert", 19) is None


def test_of_several_bearers_then_the_one_who_took_the_name_last_is_found(world: World) -> None:
    for user_id, by in ((500, 3), (501, 1), (502, 2)):
        world.register(user_id, "anna", at=NOW - by * HOUR)
    found = world.get(f"/v1/users/profile/anna?as_of={quote(NOW.isoformat())}", ADMIN).json()["discord_id"]
    assert found == world.get("/v1/users/profile/anna", ADMIN).json()["discord_id"] == "501"


def test_detail_is_seen_by_todays_levels_and_shows_those_of_then(world: World) -> None:
    world.act(commands.ChangePermission(user_id=USER, level=2, reason="joined"), at=NOW - HOUR)
    world.act(commands.ChangePermission(user_id=OTHER_ADMIN, level=0, reason="left"), at=NOW - HOUR)
    then = f"?as_of={quote((NOW - DAY).isoformat())}"
    promoted = world.get(f"/v1/users/profile/user{then}", ADMIN).json()
    demoted = world.get(f"/v1/users/profile/otheradmin{then}", ADMIN).json()
    assert (promoted["permission_level"], "punishments" in promoted) == (0, False)
    assert (demoted["permission_level"], "punishments" in demoted) == (2, True)
    assert "login_history" not in world.get(f"/v1/users/{USER}{then}", ADMIN).json()
    assert world.get(f"/v1/users/{USER}{then}", OWNER).json()["login_history"] == {}
    assert "punishments" not in world.get(f"/v1/users/profile/admin{then}", ADMIN).json()


def test_a_guilds_detail_is_seen_by_the_level_of_its_owner_of_today(world: World) -> None:
    world.act(commands.RegisterGuild(guild_id=GUILD, name="Guild", owner_id=USER), SYSTEM, NOW - DAY)
    then = f"/v1/guilds/{GUILD}?as_of={quote((NOW - DAY).isoformat())}"
    assert world.get(then, ADMIN).json()["is_blacklisted"] is False
    world.act(commands.UpdateGuild(guild_id=GUILD, owner_id=OTHER_ADMIN), OPERATOR, NOW - HOUR)
    answer = world.get(then, ADMIN).json()
    assert answer["owner_discord_id"] == str(USER)
    assert "is_blacklisted" not in answer
    assert "is_blacklisted" in world.get(then, OWNER).json()


def test_what_was_owned_then_is_listed_as_it_was(world: World) -> None:
    world.act(commands.RegisterGuild(guild_id=GUILD, name="Guild", owner_id=USER), SYSTEM, NOW - DAY)
    world.act(commands.RegisterBot(bot_id=777, name="Helper", owner_id=USER), OPERATOR, NOW - DAY)
    world.act(commands.UpdateGuild(guild_id=GUILD, name="Renamed", owner_id=OTHER_USER), OPERATOR, NOW - HOUR)
    world.act(commands.UpdateBot(bot_id=777, owner_id=OTHER_USER), OPERATOR, NOW - HOUR)

    def owned(name: str, hours: int) -> list[str]:
        path = f"/v1/users/profile/{name}?as_of={quote((NOW - hours * HOUR).isoformat())}"
        body = world.get(path, ADMIN).json()
        return [one["name"] for one in (*body["guilds"], *body["bots"])]

    assert [owned("user", hours) for hours in (25, 24, 2, 1)] == [[], ["Guild", "Helper"], ["Guild", "Helper"], []]
    assert [owned("otheruser", hours) for hours in (2, 1)] == [[], ["Renamed", "Helper"]]


def test_what_was_never_an_event_is_not_known_of_the_past(world: World) -> None:
    world.act(commands.RegisterGuild(guild_id=GUILD, name="Guild", owner_id=USER), SYSTEM, NOW - DAY)
    world.act(commands.RegisterBot(bot_id=777, name="Helper", owner_id=USER), OPERATOR, NOW - DAY)
    world.connection.execute("insert into user_activity values (%s, %s)", (USER, NOW - HOUR))
    world.connection.execute("insert into guild_activity (guild_id, member_count) values (%s, 7)", (GUILD,))
    world.connection.execute("insert into bot_activity values (777, 3, 4, 5.5, %s)", (NOW - HOUR,))
    world.connection.execute(
        "insert into login_history (user_id, client_ip, user_agent, at) values (%s, '::1', 'x', %s)", (USER, NOW - HOUR)
    )
    body = world.get(f"/v1/users/{USER}?as_of={quote(NOW.isoformat())}", ADMIN).json()
    assert body["last_activity_at"] == body["created_at"]
    assert body["login_history"] == {}
    assert body["guilds"][0]["member_count"] == 0
    (bot,) = body["bots"]
    assert (bot["guilds"], bot["users"], bot["latency_ms"]) == (0, 0, None)
    assert bot["last_activity_at"] == bot["created_at"]
    assert world.get(f"/v1/guilds/{GUILD}?as_of={quote(NOW.isoformat())}", ADMIN).json()["member_count"] == 0


def test_the_text_of_the_erased_is_gone_from_the_past_too(world: World) -> None:
    warned = commands.IssueWarning(target=Subject("user", USER), reason="their secret")
    world.act(warned, OPERATOR, NOW - DAY)
    world.act(commands.EraseSubject(target=Subject("user", USER), reason="request"), OPERATOR, NOW - HOUR)
    then = f"?as_of={quote((NOW - 2 * HOUR).isoformat())}"
    body = world.get(f"/v1/users/{USER}{then}", ADMIN).json()
    assert (body["username"], body["avatar_url"], body["punishments"][0]["reason"]) == (None, None, "[erased]")
    error_of(world.get(f"/v1/users/profile/user{then}", ADMIN), 404)


def test_the_answer_has_a_tag_and_the_position_of_the_ledgers_head(world: World) -> None:
    world.act(commands.RegisterGuild(guild_id=GUILD, name="Guild", owner_id=USER), SYSTEM, NOW - DAY)
    for path in PATHS:
        asked = f"{path}?as_of={quote(NOW.isoformat())}"
        first = world.get(asked, ADMIN)
        assert first.headers["X-Ledger-Position"] == str(world.ledger.head())
        again = world.get(asked, ADMIN, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.text) == (304, "")
        assert again.headers["ETag"] == first.headers["ETag"]


def test_the_tag_of_the_past_lets_nobody_change_what_has_changed_since(world: World) -> None:
    world.act(commands.RegisterGuild(guild_id=GUILD, name="Guild", owner_id=USER), SYSTEM, NOW - DAY)
    then, now = (
        world.get(f"/v1/guilds/{GUILD}?as_of={quote(at.isoformat())}", ADMIN).headers["ETag"] for at in (NOW - DAY, NOW)
    )
    assert then == now
    world.act(commands.UpdateGuild(guild_id=GUILD, state=1), OPERATOR, NOW - HOUR)
    refused = world.post(f"/v1/admin/guilds/{GUILD}/update", ADMIN, {"name": "Other"}, headers={"If-Match": then})
    error_of(refused, 412)


@pytest.mark.usefixtures("unfolded")
def test_an_answer_is_not_older_than_what_was_asked_for(world: World) -> None:
    head = world.act(commands.UpdateUser(user_id=USER, username="renamed"), SYSTEM, NOW - HOUR).position
    world.catch_up("profile", "user_names")
    world.catching_up = False
    asked = {"X-Ledger-Position": str(head)}
    now = f"?as_of={quote(NOW.isoformat())}"
    # The names are there; what is owned is not, and only the detail asks for it.
    world.register(500, "somebody", 2, NOW - HOUR)
    behind = {"X-Ledger-Position": str(world.ledger.head())}
    assert "are not yet at position" in error_of(world.get(f"/v1/users/{USER}{now}", ADMIN, headers=asked), 503)
    error_of(world.get(f"/v1/users/profile/somebody{now}", ADMIN, headers=behind), 503)
    assert world.get(f"/v1/users/500{now}", ADMIN, headers=behind).status_code == 200
    world.catch_up()
    assert world.get(f"/v1/users/profile/renamed{now}", ADMIN, headers=asked).status_code == 200
    error_of(world.get(f"/v1/guilds/{GUILD}{now}", ADMIN, headers={"X-Ledger-Position": str(2**62)}), 503)


def test_of_two_events_of_the_moment_itself_both_count(database: str) -> None:
    with world_of_set_time(database) as world:
        people(world)
        with started(world):
            at = world.later(hours=1)
            set_time(world, at)
            target = Subject("user", USER)
            for reason in ("one", "two"):
                world.act(commands.IssueWarning(target=target, reason=reason))
            set_time(world, world.later(hours=1))
            world.act(commands.IssueWarning(target=target, reason="three"))

            def known(by: timedelta) -> int:
                path = f"/v1/users/{USER}?known_at={quote((at + by).isoformat())}"
                return len(world.get(path, ADMIN).json()["punishments"])

            microsecond = timedelta(microseconds=1)
            assert [known(by) for by in (-microsecond, 0 * HOUR, HOUR - microsecond, HOUR)] == [0, 2, 2, 3]

"""GET /v1/admin/audit/logs (api.md §4)."""

from datetime import timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from modledger.domain import commands
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Subject
from modledger.projections.audit_log import EVENT_TYPES
from tests.http_client import (
    ADMIN,
    GUILD,
    LEVELS,
    MODERATOR,
    NOW,
    OTHER_USER,
    OWNER,
    UNKNOWN,
    USER,
    World,
    error_of,
)

LOGS = "/v1/admin/audit/logs"
BY_ADMIN, BY_MODERATOR = Actor("user", ADMIN), Actor("user", MODERATOR)
BOT = 5000
ANNA, BERT = Subject("user", USER), Subject("user", OTHER_USER)
KEYS = ["id", "entity_type", "discord_id", "event_type", "discord_user_id", "event_metadata", "created_at"]


def populate(world: World) -> list[dict[str, Any]]:
    """Twelve further events of every kind of entity and actor, as the log shows them all."""
    begin = NOW - timedelta(days=10)
    hours = iter(range(100))

    def act(command: commands.Command, actor: Actor) -> None:
        world.act(command, actor, begin + timedelta(hours=next(hours)))

    for actor in (BY_ADMIN, BY_MODERATOR):
        for target in (ANNA, BERT, Subject("guild", GUILD)):
            act(commands.IssueWarning(target=target, reason="Rule 1"), actor)
    act(commands.IssueTimeout(user_id=USER, reason="Rule 2", expires_at=NOW + timedelta(days=1)), BY_MODERATOR)
    act(commands.IssueBan(target=ANNA, reason="Rule 3"), SYSTEM)
    act(commands.RegisterBot(bot_id=BOT, name="helper", owner_id=USER), BY_ADMIN)
    act(commands.RegisterUser(user_id=UNKNOWN, username="new", avatar_url=None), Actor("bot", BOT))
    # A guild and a bot that share a user's id.
    act(commands.RegisterGuild(guild_id=USER, name="Guild", owner_id=USER), Actor("bot", BOT))
    act(commands.GrantSubscription(target=BERT, tier=2, duration_days=30), BY_ADMIN)
    found: list[dict[str, Any]] = world.get(f"{LOGS}?limit=200", OWNER).json()["items"]
    assert len(found) == world.ledger.head()
    return found


def request_of(entry: dict[str, Any]) -> str:
    return str(entry["event_metadata"]["correlation_id"])


def test_all_that_one_request_did_is_found_by_the_correlation_id_of_its_answer(world: World) -> None:
    items = [{"action": "warn", "target": "user", "id": USER, "reason": f"Rule {n}"} for n in range(3)]
    items.append({"action": "warn", "target": "guild", "id": GUILD, "reason": "Rule 4"})
    bulk = world.post("/v1/admin/punishments/bulk", MODERATOR, {"items": items})
    world.post(f"/v1/admin/punishments/user/{USER}/warn", MODERATOR, {"reason": "Rule 1"})
    done = bulk.headers["X-Correlation-ID"]
    found = world.get(f"{LOGS}?correlation_id={done}", ADMIN).json()
    assert (found["total"], {request_of(one) for one in found["items"]}) == (4, {done})
    assert {one["event_metadata"]["batch_id"] for one in found["items"]} == {bulk.json()["batch_id"]}
    # Shouted it is the same; a moderator sees of it what moderators see.
    assert world.get(f"{LOGS}?correlation_id={done.upper()}&limit=200", ADMIN).json()["items"] == found["items"]
    assert world.get(f"{LOGS}?correlation_id={done}", MODERATOR).json()["total"] == 3
    assert world.get(f"{LOGS}?correlation_id={UUID(int=1)}", ADMIN).json()["total"] == 0
    refused = world.get(f"{LOGS}?limit=1&correlation_id={done}", USER)
    assert error_of(refused, 403) == "Moderator access required"
    for garbage in ("", "x", done[:-1], f"{{{done}}}", f"urn:uuid:{done}", done.replace("-", "")):
        answer = world.get(LOGS, ADMIN, params={"correlation_id": garbage})
        assert error_of(answer, 400) == "correlation_id must be a UUID"
    cursor = world.get(f"{LOGS}?correlation_id={done}&limit=2", ADMIN).json()["next_cursor"]
    rest = world.get(f"{LOGS}?correlation_id={done}&limit=2&cursor={cursor}", ADMIN).json()
    assert (rest["items"], "next_cursor" in rest) == (found["items"][2:], False)
    assert error_of(world.get(f"{LOGS}?cursor={cursor}", ADMIN), 400) == "cursor belongs to another search"


def test_an_entry_holds_the_documented_keys_and_what_happened(world: World) -> None:
    issued = world.post(f"/v1/admin/punishments/user/{USER}/warn", MODERATOR, {"reason": "Rule 1"})
    response = world.get(f"{LOGS}?event_type=USER_WARN", MODERATOR)
    body = response.json()
    assert list(body) == ["items", "total", "offset", "limit"]
    assert (body["total"], body["offset"], body["limit"]) == (1, 0, 50)
    [entry] = body["items"]
    assert list(entry) == KEYS
    assert entry == {
        "id": issued.json()["id"],
        "entity_type": "user",
        "discord_id": str(USER),
        "event_type": "USER_WARN",
        "discord_user_id": str(MODERATOR),
        "event_metadata": {
            "punishment_id": issued.json()["id"],
            "reason": "Rule 1",
            "actor_kind": "user",
            "via": "http",
            "correlation_id": issued.headers["X-Correlation-ID"],
        },
        "created_at": "2026-03-10T12:00:00Z",
    }
    assert int(response.headers["X-Ledger-Position"]) >= entry["id"]
    assert "ETag" not in response.headers


def test_every_combination_of_filters_answers_what_matches_and_its_exact_number(world: World) -> None:
    everything = populate(world)
    assert everything == sorted(everything, key=lambda one: (one["created_at"], one["id"]), reverse=True)
    middle = everything[len(everything) // 2]["created_at"]
    combinations = product(
        (None, "USER_WARN", "USER_BAN", "GUILD_WARN"),
        (None, "user", "guild", "bot"),
        (None, USER, GUILD, BOT),
        (None, ADMIN, BOT),
        ({}, {"since": middle}, {"until": middle}, {"correlation_id": request_of(everything[3])}),
    )
    for event_type, entity_type, entity_id, actor_id, dates in combinations:
        expected = [
            one
            for one in everything
            if event_type in (None, one["event_type"])
            and entity_type in (None, one["entity_type"])
            and (entity_id is None or one["discord_id"] == str(entity_id))
            and (actor_id is None or one["discord_user_id"] == str(actor_id))
            and one["created_at"] >= dates.get("since", "")
            and one["created_at"] < dates.get("until", "9")
            and dates.get("correlation_id", request_of(one)) == request_of(one)
        ]
        given = {"event_type": event_type, "entity_type": entity_type, "entity_id": entity_id, "actor_id": actor_id}
        parameters = {name: str(value) for name, value in given.items() if value is not None} | dates
        body = world.get(LOGS, ADMIN, params=parameters).json()
        assert (body["items"], body["total"]) == (expected, len(expected)), parameters


def test_pages_by_offset_and_by_cursor_are_the_same_and_lose_nothing(world: World) -> None:
    everything = populate(world)
    total = len(everything)
    by_offset = []
    for offset in range(0, total, 4):
        by_offset += world.get(f"{LOGS}?limit=4&offset={offset}", ADMIN).json()["items"]
    by_cursor, parameters = [], {"limit": "4"}
    while True:
        body = world.get(LOGS, ADMIN, params=parameters).json()
        assert (body["total"], body["offset"], body["limit"]) == (total, 0, 4)
        by_cursor += body["items"]
        if "next_cursor" not in body:
            break
        parameters["cursor"] = body["next_cursor"]
    assert by_offset == by_cursor == everything
    beyond = world.get(f"{LOGS}?offset=9223372036854775807", ADMIN).json()
    assert (beyond["items"], beyond["total"]) == ([], total)


def test_a_cursor_belongs_to_its_search(world: World) -> None:
    populate(world)
    cursor = world.get(f"{LOGS}?limit=2", ADMIN).json()["next_cursor"]
    for other in ("event_type=USER_WARN", f"actor_id={ADMIN}", "since=2026-01-01T00:00:00Z"):
        assert error_of(world.get(f"{LOGS}?{other}&cursor={cursor}", ADMIN), 400) == "cursor belongs to another search"
    assert error_of(world.get(f"{LOGS}?cursor={cursor}", MODERATOR), 400) == "cursor belongs to another search"
    message = error_of(world.get(f"{LOGS}?offset=2&cursor={cursor}", ADMIN), 400)
    assert message == "offset cannot be used together with cursor"
    assert error_of(world.get(f"{LOGS}?cursor={cursor[:-3]}", ADMIN), 400) == "cursor is not valid"


def test_the_first_moment_is_within_and_the_last_is_not(world: World) -> None:
    everything = populate(world)
    at = everything[3]["created_at"]
    assert len({one["created_at"] for one in everything[2:5]}) == 3
    assert world.get(LOGS, ADMIN, params={"since": at}).json()["items"] == everything[:4]
    assert world.get(LOGS, ADMIN, params={"until": at}).json()["total"] == len(everything) - 4
    assert world.get(LOGS, ADMIN, params={"since": at, "until": at}).json()["items"] == []
    shifted = at.replace("Z", ".000001+00:00")
    assert world.get(LOGS, ADMIN, params={"since": at, "until": shifted}).json()["items"] == [everything[3]]


def test_moderators_see_warnings_and_timeouts_of_users_alone(world: World) -> None:
    everything = populate(world)
    theirs = [one for one in everything if one["event_type"] in ("USER_WARN", "USER_TIMEOUT")]
    body = world.get(LOGS, MODERATOR).json()
    assert (body["items"], body["total"]) == (theirs, len(theirs))
    assert len(theirs) == 5
    for kind in ("USER_WARN", "USER_TIMEOUT"):
        assert world.get(f"{LOGS}?event_type={kind}", MODERATOR).json()["total"] == sum(
            one["event_type"] == kind for one in theirs
        )
    assert world.get(f"{LOGS}?entity_type=guild", MODERATOR).json()["items"] == []
    for kind in set(EVENT_TYPES.values()) - {"USER_WARN", "USER_TIMEOUT"}:
        assert error_of(world.get(f"{LOGS}?event_type={kind}", MODERATOR), 403) == "Admin access required"
    assert error_of(world.get(LOGS, OTHER_USER), 403) == "Moderator access required"
    assert error_of(world.get(LOGS), 401) == "Authentication required"


BAD = [
    ("event_type=user.banned.v1", "event_type must be the name of an event, such as USER_BAN"),
    ("event_type=user_ban", "event_type must be the name of an event, such as USER_BAN"),
    ("event_type=", "event_type must be the name of an event, such as USER_BAN"),
    ("entity_type=channel", "entity_type must be one of user, guild, bot"),
    ("entity_id=0", f"entity_id must be between 1 and {2**63 - 1}"),
    (f"actor_id={2**63}", f"actor_id must be between 1 and {2**63 - 1}"),
    ("since=2026-01-01T00:00:00", "since must have an offset such as Z"),
    ("until=yesterday", "until must be a timestamp such as 2026-03-10T12:00:00Z"),
    ("offset=-1", "offset must be 0 or greater"),
    ("limit=0", "limit must be between 1 and 200"),
    ("limit=201", "limit must be between 1 and 200"),
    ("sort=id", "unknown parameter: sort"),
]


@pytest.mark.parametrize(("query", "message"), BAD)
def test_a_wrong_filter_is_named_and_never_widens_the_search(shared_world: World, query: str, message: str) -> None:
    for user in (MODERATOR, ADMIN):
        assert error_of(shared_world.get(f"{LOGS}?{query}", user), 400) == message


def test_what_a_change_of_a_punishment_is_about_is_named_by_its_id(world: World) -> None:
    first = world.post(f"/v1/admin/punishments/user/{USER}/ban", ADMIN, {"reason": "spam"}).json()["id"]
    world.post(f"/v1/admin/punishments/{first}/amend", ADMIN, {"expires_at": "2026-04-01T02:00:00.5+02:00"})
    again = world.post(f"/v1/admin/punishments/user/{USER}/ban", ADMIN, {"reason": "worse", "replace": True})
    second = again.json()["id"]
    world.post(f"/v1/admin/punishments/{second}/overturn", ADMIN, {"reason": "appeal"})
    items = world.get(f"{LOGS}?entity_type=user&entity_id={USER}&limit=5", ADMIN).json()["items"]
    told = [{**one["event_metadata"], "type": one["event_type"]} for one in items]
    for one in told:
        assert (one.pop("actor_kind"), one.pop("via")) == ("user", "http")
        UUID(one.pop("correlation_id"))
    assert told == [
        {"type": "USER_PUNISHMENT_OVERTURN", "punishment_id": second, "reason": "appeal"},
        {"type": "USER_BAN", "punishment_id": second, "reason": "worse", "expires_at": None},
        {"type": "USER_PUNISHMENT_SUPERSEDE", "punishment_id": first, "superseded_by": second},
        {
            "type": "USER_PUNISHMENT_AMEND",
            "punishment_id": first,
            "old_reason": "spam",
            "reason": "spam",
            "old_expires_at": None,
            "expires_at": "2026-04-01T00:00:00Z",
        },
        {"type": "USER_BAN", "punishment_id": first, "reason": "spam", "expires_at": None},
    ]


def test_ids_within_what_happened_are_strings(world: World) -> None:
    world.act(commands.RegisterBot(bot_id=BOT, name="helper", owner_id=USER), OPERATOR)
    [entry] = world.get(f"{LOGS}?event_type=BOT_REGISTER", ADMIN).json()["items"]
    assert entry["event_metadata"]["owner_id"] == str(USER)
    assert (entry["event_metadata"]["actor_kind"], entry["event_metadata"]["via"]) == ("operator", "cli")
    assert (entry["discord_id"], entry["discord_user_id"]) == (str(BOT), None)


def test_a_bot_is_an_actor_as_well(world: World) -> None:
    key = world.bot_key(BOT)
    body = {"discord_id": UNKNOWN, "username": "new"}
    assert world.post("/v1/authentication/bot/login-code", json=body, headers={"X-API-Key": key}).status_code == 200
    [entry] = world.get(f"{LOGS}?actor_id={BOT}", ADMIN).json()["items"]
    assert (entry["event_type"], entry["discord_user_id"]) == ("USER_REGISTER", str(BOT))
    assert entry["event_metadata"]["actor_kind"] == "bot"


def test_erased_text_is_erased_in_the_log_too(world: World) -> None:
    world.act(commands.IssueWarning(target=ANNA, reason="a very particular reason"), BY_ADMIN)
    assert "particular" in world.get(LOGS, ADMIN).text
    world.act(commands.EraseSubject(target=ANNA, reason="asked by mail"), Actor("user", OWNER))
    response = world.get(f"{LOGS}?entity_id={USER}", ADMIN)
    assert "particular" not in response.text
    erased, warned, registered = response.json()["items"]
    assert (erased["event_type"], erased["event_metadata"]["reason"]) == ("USER_ERASE", "asked by mail")
    assert warned["event_metadata"]["reason"] == "[erased]"
    assert registered["event_metadata"]["username"] == "[erased]"


@pytest.mark.usefixtures("unfolded")
def test_an_event_that_only_a_newer_program_knows_is_a_line_without_metadata(world: World) -> None:
    entries = populate(world)
    strange = next(one for one in entries if one["event_type"] == "USER_BAN")
    with world.connection.transaction():
        world.connection.execute("alter table ledger disable trigger ledger_append_only")
        world.connection.execute(
            "update ledger set topic = 'user.praised.v1' where notification_id = %s", (strange["id"],)
        )
        world.connection.execute("alter table ledger enable always trigger ledger_append_only")
        world.connection.execute(
            "update audit_log set event_type = 'USER_PRAISE' where position = %s", (strange["id"],)
        )
        world.connection.execute("update audit_log_counts set event_type = 'USER_PRAISE' where event_type = 'USER_BAN'")
    world.catching_up = False
    known = {**strange, "event_type": "USER_PRAISE", "event_metadata": {}}
    expected = [known if one["id"] == strange["id"] else one for one in entries]
    for query in ("limit=200", "limit=200&entity_type=user", f"limit=200&entity_id={USER}"):
        body = world.get(f"{LOGS}?{query}", ADMIN).json()
        assert known in body["items"]
        assert body["total"] == len(body["items"])
    assert world.get(f"{LOGS}?limit=200", ADMIN).json()["items"] == expected


@pytest.mark.usefixtures("unfolded")
def test_a_session_sees_what_it_did_and_others_do_not_wait_for_it(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    world.post(f"/v1/admin/punishments/user/{USER}/warn", ADMIN, {"reason": "x"})
    for query in ("", f"?actor_id={ADMIN}", f"?entity_id={USER}"):
        refused = world.get(f"{LOGS}{query}", ADMIN)
        assert "not yet at position" in error_of(refused, 503)
        assert refused.headers["Retry-After"] == "1"
    assert world.get(f"{LOGS}?event_type=USER_WARN", MODERATOR).json()["total"] == 0
    world.catch_up("profile", "audit_log")
    assert world.get(f"{LOGS}?actor_id={ADMIN}", ADMIN).json()["total"] == 1
    head = world.ledger.head()
    response = world.get(LOGS, MODERATOR, headers={"X-Ledger-Position": str(head)})
    assert int(response.headers["X-Ledger-Position"]) >= head


def test_the_log_begins_with_the_first_event_there_is(world: World) -> None:
    last = world.get(f"{LOGS}?limit=200", OWNER).json()["items"][-1]
    assert last["event_type"] == "USER_REGISTER"
    assert world.get(f"{LOGS}?event_type=USER_REGISTER", OWNER).json()["total"] == len(LEVELS)

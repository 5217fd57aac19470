"""GET /v1/users/{user_id} and GET /v1/users/search (api.md §4)."""

from datetime import timedelta
from typing import Any

import pytest

from modledger.domain import commands
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Subject
from modledger.http.keys import create_key
from modledger.http.sessions import COOKIE
from tests.http_client import (
    ADMIN,
    LEVELS,
    MODERATOR,
    NAMES,
    NOW,
    OTHER_MODERATOR,
    OTHER_USER,
    OWNER,
    USER,
    World,
    error_of,
)

PUBLIC = ["discord_id", "username", "avatar_url", "subscription_tier", "source", "created_at", "updated_at"]
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
SEARCH = "/v1/users/search"
BY_ADMIN = Actor("user", ADMIN)


def key(world: World, kind: str) -> dict[str, str]:
    """The headers of a request with a new key."""
    made = (
        create_key(world.connection, "bot", 5000, NOW)
        if kind == "bot"
        else create_key(world.connection, "public", None, NOW)
    )
    return {"X-API-Key": made}


# -- by id


def test_the_public_view_has_seven_keys(world: World) -> None:
    response = world.get(f"/v1/users/{OWNER}", USER)
    assert response.text == (
        '{"discord_id":"1","username":"owner","avatar_url":null,"subscription_tier":0,"source":"database",'
        '"created_at":"2026-02-08T12:00:00Z","updated_at":"2026-02-08T12:00:00Z"}'
    )
    assert response.headers["X-Ledger-Position"]
    assert response.headers["ETag"]


@pytest.mark.parametrize("kind", ["public", "bot"])
@pytest.mark.parametrize("target", [OWNER, USER])
def test_keys_of_every_kind_are_shown_the_public_view(world: World, kind: str, target: int) -> None:
    assert list(world.get(f"/v1/users/{target}", headers=key(world, kind)).json()) == PUBLIC


@pytest.mark.parametrize("viewer", LEVELS)
@pytest.mark.parametrize("target", [OWNER, ADMIN, OTHER_MODERATOR, OTHER_USER])
def test_detail_is_for_moderators_and_above_who_can_act_on_the_user(
    shared_world: World, viewer: int, target: int
) -> None:
    above = LEVELS[viewer] > LEVELS[target] or LEVELS[viewer] == 3
    detailed = LEVELS[viewer] >= 1 and above and viewer != target
    keys = list(shared_world.get(f"/v1/users/{target}", viewer).json())
    assert keys == ([*KEYS, *LISTS, "login_history"] if detailed else PUBLIC)


def test_nobody_sees_the_detail_of_themselves(shared_world: World) -> None:
    for viewer in LEVELS:
        assert list(shared_world.get(f"/v1/users/{viewer}", viewer).json()) == PUBLIC


def test_the_detail_is_the_profiles_and_the_log_ins(world: World) -> None:
    target = Subject("user", USER)
    world.act(commands.IssueWarning(target=target, reason="spam"), BY_ADMIN)
    world.act(commands.GrantSubscription(target=target, tier=2, reason="paid"), BY_ADMIN)
    world.act(commands.RegisterGuild(guild_id=77, name="Guild", owner_id=USER), SYSTEM)
    for ip, agent, seconds in (("192.0.2.1", "a", 3), ("2001:db8::1", "b", 2), ("192.0.2.1", "c", 1)):
        world.connection.execute(
            "insert into login_history values (%s, %s, %s, %s)", (USER, ip, agent, NOW - timedelta(seconds=seconds))
        )
    profile = world.get("/v1/users/profile/user", ADMIN).json()
    record = world.get(f"/v1/users/{USER}", ADMIN).json()
    assert record == {
        **profile,
        "login_history": {
            "192.0.2.1": [{"ts": "2026-03-10T11:59:59Z", "ua": "c"}, {"ts": "2026-03-10T11:59:57Z", "ua": "a"}],
            "2001:db8::1": [{"ts": "2026-03-10T11:59:58Z", "ua": "b"}],
        },
    }
    assert list(record["login_history"]) == ["192.0.2.1", "2001:db8::1"]
    assert len(record["subscription_history"]) == len(record["punishments"]) == len(record["guilds"]) == 1


def test_moderators_see_no_subscription_history_here(world: World) -> None:
    world.act(commands.GrantSubscription(target=Subject("user", USER), tier=2, reason="paid"), BY_ADMIN)
    by_moderator = world.get(f"/v1/users/{USER}", MODERATOR).json()
    assert by_moderator["subscription_history"] == []
    assert by_moderator["subscription_tier"] == 2
    assert len(world.get(f"/v1/users/{USER}", ADMIN).json()["subscription_history"]) == 1
    assert len(world.get("/v1/users/profile/user", MODERATOR).json()["subscription_history"]) == 1


def test_a_user_who_was_never_registered_is_found_by_id_without_a_name(world: World) -> None:
    world.act(commands.IssueBan(target=Subject("user", 6000), reason="spam"), BY_ADMIN)
    assert world.get("/v1/users/6000", USER).json()["username"] is None
    assert world.get("/v1/users/6000", ADMIN).json()["state"] == 2


def test_an_unknown_user_is_not_found(shared_world: World) -> None:
    for viewer in (USER, ADMIN):
        assert error_of(shared_world.get("/v1/users/999", viewer), 404) == "User not found"
    assert error_of(shared_world.get(f"/v1/users/{2**63 - 1}", USER), 404) == "User not found"


def test_without_a_session_or_key_a_user_is_shown_to_nobody(world: World) -> None:
    for headers in ({}, {"X-API-Key": "hpub_x"}, {"Cookie": f"{COOKIE}=x"}, {"Authorization": "Bearer x"}):
        assert error_of(world.get(f"/v1/users/{USER}", headers=headers), 401) == "Authentication required"
        assert error_of(world.get(SEARCH, headers=headers), 401) == "Authentication required"
    for kind in ("public", "bot"):
        assert error_of(world.get(SEARCH, headers=key(world, kind)), 401) == "Authentication required"


def test_the_restricted_see_only_themselves(world: World) -> None:
    world.act(commands.IssueBan(target=Subject("user", MODERATOR), reason="x"), OPERATOR)
    for path in (f"/v1/users/{USER}", f"/v1/users/{MODERATOR}", SEARCH):
        assert error_of(world.get(path, MODERATOR), 403) == "Account restricted"
    assert world.get("/v1/users/me", MODERATOR).status_code == 200


def test_the_etag_changes_with_what_is_seen_and_spares_the_body(world: World) -> None:
    path = f"/v1/users/{USER}"
    for viewer in (OTHER_USER, ADMIN):
        tag = world.get(path, viewer).headers["ETag"]
        again = world.get(path, viewer, headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        world.act(commands.GrantSubscription(target=Subject("user", USER), tier=2, reason="paid"), BY_ADMIN)
        assert world.get(path, viewer, headers={"If-None-Match": tag}).status_code == 200
    with_log_in = world.get(path, ADMIN).headers["ETag"]
    world.connection.execute("insert into login_history values (%s, '192.0.2.1', '', %s)", (USER, NOW))
    assert world.get(path, ADMIN, headers={"If-None-Match": with_log_in}).status_code == 200


def test_the_tag_of_a_user_guards_a_command_about_them(world: World) -> None:
    tag = world.get(f"/v1/users/{USER}", ADMIN).headers["ETag"]
    ban, why = f"/v1/admin/punishments/user/{USER}/ban", {"reason": "raid"}
    world.act(commands.IssueWarning(target=Subject("user", USER), reason="spam"), BY_ADMIN)
    error_of(world.post(ban, ADMIN, why, headers={"If-Match": tag}), 412)
    tag = world.get(f"/v1/users/{USER}", ADMIN).headers["ETag"]
    assert world.post(ban, ADMIN, why, headers={"If-Match": tag}).status_code == 200


def test_a_tier_ends_at_its_very_second_with_no_worker_running(world: World) -> None:
    world.act(commands.StartTrial(target=Subject("user", USER)), BY_ADMIN)
    for seconds, tier in ((-1, 1), (0, 0)):
        world.now = NOW + timedelta(days=7, seconds=seconds)
        world.cookies.pop(OTHER_USER, None)
        assert world.get(f"/v1/users/{USER}", OTHER_USER).json()["subscription_tier"] == tier
        found = world.get(f"{SEARCH}?subscription_tier=1", OTHER_USER).json()
        assert (found["total"], len(found["users"])) == (tier, tier)


ID_RANGE = f"user_id must be between 1 and {2**63 - 1}"
BAD_IDS = ["0", "-1", "007", "1.0", "1e3", "0x1", "someone", "%D9%A5", "%EF%BC%91", "%2B1", "%201", "+1", "1_0", "1,2"]
BAD_IDS += [str(2**63), "9" * 5000, "%00", "true", "null", "%F0%9F%98%80"]


@pytest.mark.parametrize("user_id", BAD_IDS, ids=lambda text: text[:20])
def test_what_is_no_id_is_refused(shared_world: World, user_id: str) -> None:
    assert error_of(shared_world.get(f"/v1/users/{user_id}", USER), 400) == ID_RANGE


def test_a_user_takes_no_other_parameters_than_two_times(shared_world: World) -> None:
    for query, message in (
        ("foo=1", "unknown parameter: foo"),
        ("user_id=1", "unknown parameter: user_id"),
        ("at=2026-01-01T00:00:00Z", "unknown parameter: at"),
    ):
        assert error_of(shared_world.get(f"/v1/users/{USER}?{query}", USER), 400) == message
    for position in ("x", "-1", str(2**63), ""):
        response = shared_world.get(f"/v1/users/{USER}", USER, headers={"X-Ledger-Position": position})
        assert error_of(response, 400).startswith("X-Ledger-Position must be")


@pytest.mark.usefixtures("unfolded")
def test_an_answer_is_not_older_than_what_was_asked_for(world: World) -> None:
    head = world.act(commands.UpdateUser(user_id=USER, username="renamed"), SYSTEM).position
    assert head is not None
    world.catching_up = False
    asked = {"X-Ledger-Position": str(head)}
    for path in (f"/v1/users/{USER}", SEARCH):
        error_of(world.get(path, OTHER_USER, headers=asked), 503)
    world.catch_up("profile")
    assert world.get(f"/v1/users/{USER}", OTHER_USER, headers=asked).json()["username"] == "renamed"
    assert world.get(f"{SEARCH}?q=renamed", OTHER_USER, headers=asked).json()["total"] == 1
    # The histories are other projectors', and the detail waits for them too.
    error_of(world.get(f"/v1/users/{USER}", ADMIN, headers=asked), 503)


# -- search


def found(world: World, query: str, viewer: int = OTHER_USER) -> list[str]:
    body = world.get(f"{SEARCH}?{query}", viewer).json()
    assert body["total"] == len(body["users"])
    return [one["username"] for one in body["users"]]


def test_users_are_found_in_the_order_of_their_names_the_nameless_last(world: World) -> None:
    world.act(commands.IssueWarning(target=Subject("user", 6000), reason="x"), BY_ADMIN)
    world.register(500, "Zoë")
    world.register(501, "ANNA")
    world.register(502, "anna")
    response = world.get(SEARCH, OTHER_USER)
    body = response.json()
    assert list(body) == ["users", "total", "limit", "offset"]
    assert (body["total"], body["limit"], body["offset"]) == (len(LEVELS) + 4, 25, 0)
    names = [one["username"] for one in body["users"]]
    assert names == ["admin", "ANNA", "anna", *sorted(set(NAMES.values()) - {"admin"}), "Zoë", None]
    assert "ETag" not in response.headers


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("q=other", ["otheradmin", "othermoderator", "otheruser"]),
        ("q=OTHER", ["otheradmin", "othermoderator", "otheruser"]),
        ("q=%20other%20", ["otheradmin", "othermoderator", "otheruser"]),
        ("q=hera", ["otheradmin"]),
        ("q=ad", ["admin"]),
        ("q=min", ["admin", "otheradmin"]),
        ("q=in", []),
        ("q=22", ["otheradmin"]),
        ("q=999", []),
        ("q=%25", []),
        ("q=_", []),
        ("q=other%25", []),
        ("q=%5C", []),
        ("state=0&permission_level=2", ["admin", "otheradmin"]),
        ("permission_level=3", ["owner"]),
        ("q=other&permission_level=1", ["othermoderator"]),
        ("state=1", []),
        ("state=2", []),
        ("subscription_tier=3", []),
    ],
)
def test_what_is_asked_for_is_found(shared_world: World, query: str, names: list[str]) -> None:
    assert found(shared_world, query) == names


@pytest.mark.parametrize("viewer", LEVELS)
def test_a_search_shows_detail_only_of_users_that_the_viewer_can_act_on(shared_world: World, viewer: int) -> None:
    for one in shared_world.get(SEARCH, viewer).json()["users"]:
        target = int(one["discord_id"])
        above = LEVELS[viewer] > LEVELS[target] or LEVELS[viewer] == 3
        detailed = LEVELS[viewer] >= 1 and above and viewer != target
        assert list(one) == (KEYS if detailed else PUBLIC)
        by_id = shared_world.get(f"/v1/users/{target}", viewer).json()
        assert one == {name: by_id[name] for name in one}


def test_a_state_is_found_until_the_very_second_of_its_end(world: World) -> None:
    end = world.later(hours=1)
    world.act(commands.IssueTimeout(user_id=USER, reason="x", expires_at=end), BY_ADMIN)
    world.act(commands.IssueBan(target=Subject("user", OTHER_USER), reason="x", expires_at=end), BY_ADMIN)
    for at, states in ((end - timedelta(seconds=1), {1: ["user"], 2: ["otheruser"]}), (end, {1: [], 2: []})):
        world.now = at
        for state, names in states.items():
            assert found(world, f"state={state}", ADMIN) == names
        assert len(found(world, "state=0", ADMIN)) == len(LEVELS) - sum(map(len, states.values()))


def test_a_new_name_is_found_and_the_old_one_is_not(world: World) -> None:
    world.act(commands.UpdateUser(user_id=USER, username="renamed"), SYSTEM)
    assert found(world, "q=renamed") == ["renamed"]
    assert found(world, "q=use") == ["otheruser"]


def test_an_erased_name_is_found_no_more_and_the_user_is(world: World) -> None:
    world.act(commands.EraseSubject(target=Subject("user", USER), reason="request"), OPERATOR)
    assert found(world, "q=user") == ["otheruser"]
    assert found(world, f"q={USER}") == [None]


def test_pages_follow_each_other_by_offset_and_by_cursor(shared_world: World) -> None:
    whole = shared_world.get(SEARCH, ADMIN).json()["users"]
    by_offset: list[Any] = []
    by_cursor: list[Any] = []
    query = ""
    while True:
        page = shared_world.get(f"{SEARCH}?limit=2{query}", ADMIN).json()
        assert page["total"] == len(whole)
        by_cursor += page["users"]
        by_offset += shared_world.get(f"{SEARCH}?limit=2&offset={len(by_offset)}", ADMIN).json()["users"]
        if "next_cursor" not in page:
            break
        assert list(page) == ["users", "total", "limit", "offset", "next_cursor"]
        query = f"&cursor={page['next_cursor']}"
    assert by_cursor == by_offset == whole


TOP = 2**63 - 1
QUERIES = [
    ("limit=0", "limit must be between 1 and 100"),
    ("limit=101", "limit must be between 1 and 100"),
    ("limit=%D9%A5", "limit must be between 1 and 100"),
    ("limit=5&limit=5", "limit given more than once"),
    ("offset=-1", "offset must be 0 or greater"),
    (f"offset={TOP + 1}", "offset must be an integer below 2^63"),
    ("state=3", "state must be between 0 and 2"),
    ("state=-1", "state must be between 0 and 2"),
    ("state=", "state must be between 0 and 2"),
    ("state=banned", "state must be between 0 and 2"),
    ("state=1&state=1", "state given more than once"),
    ("standing=1", "unknown parameter: standing"),
    ("permission_level=4", "permission_level must be between 0 and 3"),
    ("permission_level=admin", "permission_level must be between 0 and 3"),
    ("subscription_tier=4", "subscription_tier must be between 0 and 3"),
    ("subscription_tier=1.5", "subscription_tier must be between 0 and 3"),
    ("tier=1", "unknown parameter: tier"),
    ("level=1", "unknown parameter: level"),
    ("q=", "q must be between 1 and 100 characters"),
    ("q=%20%20", "q must be between 1 and 100 characters"),
    ("q=" + "a" * 101, "q must be between 1 and 100 characters"),
    ("q=a%00b", "q must not contain a NUL character"),
    ("q=a&q=b", "q given more than once"),
    ("q=%FF", "the query must be UTF-8 and hold no more parameters than there are"),
    ("q=%ED%A0%80", "the query must be UTF-8 and hold no more parameters than there are"),
    ("cursor=", "cursor is not valid"),
    ("cursor=!", "cursor is not valid"),
    ("cursor=%00", "cursor must not contain a NUL character"),
    ("offset=0&cursor=abc", "offset cannot be used together with cursor"),
    ("foo=1", "unknown parameter: foo"),
    ("username=anna", "unknown parameter: username"),
    ("user_id=1", "unknown parameter: user_id"),
]


@pytest.mark.parametrize(("query", "message"), QUERIES, ids=[query[:40] for query, _ in QUERIES])
def test_a_bad_query_is_refused_and_the_first_bad_parameter_named(
    shared_world: World, query: str, message: str
) -> None:
    assert error_of(shared_world.get(f"{SEARCH}?{query}", USER), 400) == message


@pytest.mark.parametrize(
    "query",
    [
        "limit=100",
        f"offset={TOP}",
        "state=0&permission_level=3&subscription_tier=3",
        "q=" + "ß" * 100,
        "q=" + "😀" * 100,
        "q=" + "9" * 100,
    ],
)
def test_the_ends_of_every_range_are_inside_it(shared_world: World, query: str) -> None:
    assert shared_world.get(f"{SEARCH}?{query}", USER).status_code == 200


def test_a_cursor_is_bound_to_its_filters(shared_world: World) -> None:
    cursor = shared_world.get(f"{SEARCH}?limit=1", USER).json()["next_cursor"]
    message = error_of(shared_world.get(f"{SEARCH}?state=0&cursor={cursor}", USER), 400)
    assert message == "cursor belongs to another search"


def test_a_cursor_at_the_longest_name_is_followed(world: World) -> None:
    for number, name in enumerate(("😀" * 63 + "a", "😀" * 63 + "b")):
        world.register(700 + number, name)
    first = world.get(f"{SEARCH}?q={'😀' * 63}&limit=1", USER).json()
    second = world.get(f"{SEARCH}?q={'😀' * 63}&limit=1&cursor={first['next_cursor']}", USER).json()
    assert [one["discord_id"] for one in first["users"] + second["users"]] == ["700", "701"]

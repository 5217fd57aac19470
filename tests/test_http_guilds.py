"""Guilds over HTTP: one by id in its three views, the search, the staff's update (api.md §4)."""

from datetime import datetime
from itertools import product
from typing import Any

import pytest

from modledger.domain import commands
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Subject
from modledger.http.keys import create_key
from modledger.projections.catalog import fragment_indexes
from tests.http_client import (
    ADMIN,
    GUILD,
    MODERATOR,
    NOW,
    OTHER_ADMIN,
    OTHER_MODERATOR,
    OTHER_USER,
    OWNER,
    UNKNOWN,
    USER,
    World,
    error_of,
    started,
)

PATH = f"/v1/guilds/{GUILD}"
SEARCH = "/v1/guilds/search"
UPDATE = f"/v1/admin/guilds/{GUILD}/update"
TARGET = Subject("guild", GUILD)
BY_ADMIN = Actor("user", ADMIN)

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
STANDING = ["subscription_tier", "subscription_expires_at", "sponsored_by_id", "is_blacklisted"]
LISTS = ["punishments", "subscription_history"]


def guild(world: World, owner_id: int | None = USER, guild_id: int = GUILD, name: str = "Guild") -> None:
    world.act(commands.RegisterGuild(guild_id=guild_id, name=name, owner_id=owner_id), SYSTEM)


def public_key(world: World) -> dict[str, str]:
    return {"X-API-Key": create_key(world.connection, "public", None, world.now)}


# -- one guild


def test_a_guild_in_its_public_view_key_for_key(world: World) -> None:
    world.act(
        commands.RegisterGuild(guild_id=GUILD, name="Café", avatar_url="https://a.example/g.png", owner_id=USER), SYSTEM
    )
    world.connection.execute("insert into guild_activity (guild_id, member_count) values (%s, 250)", (GUILD,))
    expected = (
        f'{{"discord_id":"{GUILD}","name":"Café","avatar_url":"https://a.example/g.png","member_count":250,'
        f'"prefix":"!","owner_discord_id":"{USER}","state":0,"source":"database",'
        '"created_at":"2026-03-10T12:00:00Z","updated_at":"2026-03-10T12:00:00Z"}'
    )
    assert world.get(PATH, USER).text == expected
    assert world.get(PATH, headers=public_key(world)).text == expected
    assert world.get(PATH, headers={"Authorization": f"Bearer {world.bot_key()}"}).text == expected


VIEWERS = (USER, OTHER_USER, MODERATOR, OTHER_MODERATOR, ADMIN, OTHER_ADMIN, OWNER)
# Whose guild, and who then sees it redacted and who with its true values.
SEEN: dict[int | None, tuple[set[int], set[int]]] = {
    None: ({MODERATOR, OTHER_MODERATOR}, {ADMIN, OTHER_ADMIN, OWNER}),
    UNKNOWN: ({MODERATOR, OTHER_MODERATOR}, {ADMIN, OTHER_ADMIN, OWNER}),
    USER: ({MODERATOR, OTHER_MODERATOR}, {ADMIN, OTHER_ADMIN, OWNER}),
    MODERATOR: (set(), {ADMIN, OTHER_ADMIN, OWNER}),
    ADMIN: (set(), {OWNER}),
    OWNER: (set(), set()),
}


@pytest.mark.parametrize("owner_id", SEEN)
def test_who_sees_which_view_of_a_guild_follows_from_its_owner(world: World, owner_id: int | None) -> None:
    guild(world, None)
    world.act(commands.GrantSubscription(target=TARGET, tier=2), BY_ADMIN)
    world.act(commands.IssueWarning(target=TARGET, reason="raid"), OPERATOR)
    world.act(commands.UpdateGuild(guild_id=GUILD, owner_id=owner_id), OPERATOR)
    redacted, true_values = SEEN[owner_id]
    for viewer in VIEWERS:
        body = world.get(PATH, viewer).json()
        (found,) = world.get(SEARCH, viewer).json()["guilds"]
        if viewer not in redacted | true_values:
            assert list(body) == list(found) == PUBLIC, viewer
            continue
        assert list(body) == [*PUBLIC, *STANDING, *LISTS], viewer
        assert list(found) == [*PUBLIC, *STANDING], viewer
        assert {key: body[key] for key in found} == found
        assert [one["reason"] for one in body["punishments"]] == ["raid"]
        seen = [body[key] for key in STANDING[:3]] + [len(body["subscription_history"])]
        if viewer in redacted:
            assert seen == [0, None, None, 0]
        else:
            assert seen == [2, "2026-04-09T12:00:00Z", str(ADMIN), 1]
    for headers in (public_key(world), {"X-API-Key": world.bot_key()}):
        assert list(world.get(PATH, headers=headers).json()) == PUBLIC


def test_the_lists_hold_the_newest_hundred_newest_first(world: World) -> None:
    guild(world)
    for number in range(60):
        world.act(
            commands.IssueWarning(target=TARGET, reason=f"warning {number}"), BY_ADMIN, world.later(minutes=number)
        )
        banned = world.act(
            commands.IssueBan(target=TARGET, reason=f"ban {number}"), BY_ADMIN, world.later(minutes=number, seconds=1)
        )
        if number % 2 or number < 59:
            lift = commands.LiftPunishment(target=TARGET, number=banned.events[0].version, reason="sorry")
            world.act(lift, BY_ADMIN, world.later(minutes=number, seconds=2))
    world.now = world.later(days=1)
    reasons = [one["reason"] for one in world.get(PATH, ADMIN).json()["punishments"]]
    whole = [f"{kind} {number}" for number in range(60) for kind in ("warning", "ban")]
    assert reasons == whole[::-1][:100]


def test_an_entry_of_the_lists_is_the_search_record_and_the_history_entry(world: World) -> None:
    guild(world)
    world.act(commands.IssueBan(target=TARGET, reason="raid"), BY_ADMIN)
    world.act(commands.StartTrial(target=TARGET, reason="try"), BY_ADMIN)
    body = world.get(PATH, OWNER).json()
    searched = world.get(f"/v1/admin/punishments/search?guild_id={GUILD}", OWNER).json()
    assert body["punishments"] == searched["punishments"]
    assert body["subscription_history"] == [
        {
            "id": world.ledger.head(),
            "old_tier": 0,
            "new_tier": 1,
            "reason": "try",
            "granted_by_id": str(ADMIN),
            "expires_at": "2026-03-17T12:00:00Z",
            "created_at": "2026-03-10T12:00:00Z",
        }
    ]


def test_a_blacklisting_and_a_tier_end_at_their_very_second_with_no_worker_running(world: World) -> None:
    guild(world)
    end = world.later(days=7)
    world.act(commands.StartTrial(target=TARGET), BY_ADMIN)
    world.act(commands.IssueBan(target=TARGET, reason="raid", expires_at=end), BY_ADMIN)
    world.act(commands.UpdateGuild(guild_id=GUILD, state=1), OPERATOR)

    def seen(now: datetime) -> list[Any]:
        world.cookies.clear()
        world.now = now
        body = world.get(PATH, ADMIN).json()
        (found,) = world.get(
            f"{SEARCH}?state={body['state']}&subscription_tier={body['subscription_tier']}", ADMIN
        ).json()["guilds"]
        assert found == {key: body[key] for key in found}
        return [body[key] for key in ("state", *STANDING, "updated_at")]

    before = end.replace(second=0) - (end - end.replace(day=end.day - 1)) / 86400
    assert seen(before) == [2, 1, "2026-03-17T12:00:00Z", str(ADMIN), True, "2026-03-10T12:00:00Z"]
    assert seen(end) == [1, 0, None, None, False, "2026-03-17T12:00:00Z"]


def test_a_guild_that_was_only_punished_has_no_name_and_an_unknown_one_is_not_there(world: World) -> None:
    world.act(commands.IssueBan(target=TARGET, reason="raid"), BY_ADMIN)
    body = world.get(PATH, USER).json()
    assert (body["name"], body["state"], body["owner_discord_id"]) == (None, 2, None)
    for headers in ({}, public_key(world)):
        unknown = world.get(f"/v1/guilds/{UNKNOWN}", None if headers else ADMIN, headers=headers)
        assert error_of(unknown, 404) == "Guild not found"


def test_who_asks_has_to_be_somebody(world: World) -> None:
    guild(world)
    for path in (PATH, SEARCH):
        assert error_of(world.get(path), 401) == "Authentication required"
        assert error_of(world.get(path, headers={"X-API-Key": "hpub_nobody"}), 401) == "Authentication required"
    assert error_of(world.get(SEARCH, headers=public_key(world)), 401) == "Authentication required"
    world.act(commands.IssueTimeout(user_id=OTHER_USER, reason="x", expires_at=world.later(days=1)), BY_ADMIN)
    for path in (PATH, SEARCH):
        assert error_of(world.get(path, OTHER_USER), 403) == "Account restricted"


def test_the_etag_is_that_of_the_view_and_spares_the_body(world: World) -> None:
    guild(world)
    tags = {viewer: world.get(PATH, viewer).headers["ETag"] for viewer in (USER, ADMIN)}
    assert tags[USER] != tags[ADMIN]
    for viewer, tag in tags.items():
        again = world.get(PATH, viewer, headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    world.connection.execute("insert into guild_activity (guild_id, member_count) values (%s, 7)", (GUILD,))
    changed = world.get(PATH, USER, headers={"If-None-Match": tags[USER]})
    assert (changed.status_code, changed.json()["member_count"]) == (200, 7)


# -- the search


def test_the_search_answers_a_page_in_the_order_of_names_and_the_exact_total(world: World) -> None:
    for guild_id, name in enumerate(["beta", "Alpha", "alphabet", "GAMMA", "100% fun"], 800):
        guild(world, guild_id=guild_id, name=name)
    body = world.get(f"{SEARCH}?limit=2", USER).json()
    assert list(body) == ["guilds", "total", "limit", "offset", "next_cursor"]
    assert [one["name"] for one in body["guilds"]] == ["100% fun", "Alpha"]
    assert (body["total"], body["limit"], body["offset"]) == (5, 2, 0)
    names = []
    cursor = ""
    while True:
        page = world.get(f"{SEARCH}?limit=2{cursor}", USER).json()
        names += [one["name"] for one in page["guilds"]]
        if "next_cursor" not in page:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert names == ["100% fun", "Alpha", "alphabet", "beta", "GAMMA"]
    last = world.get(f"{SEARCH}?offset=4", USER).json()
    assert ([one["name"] for one in last["guilds"]], last["offset"], last["limit"]) == (["GAMMA"], 4, 25)


@pytest.mark.parametrize(
    ("q", "names"),
    [
        ("ALPH", ["Alpha", "alphabet"]),
        ("bet", ["alphabet", "beta"]),
        ("b", ["beta"]),
        ("%25", []),
        ("0%25+f", ["100% fun"]),
        ("802", ["alphabet"]),
        ("+gamma+", ["GAMMA"]),
        ("nothing", []),
    ],
)
def test_q_finds_a_fragment_a_beginning_or_an_id(world: World, q: str, names: list[str]) -> None:
    for guild_id, name in enumerate(["beta", "Alpha", "alphabet", "GAMMA", "100% fun"], 800):
        guild(world, guild_id=guild_id, name=name)
    body = world.get(f"{SEARCH}?q={q}", USER).json()
    assert [one["name"] for one in body["guilds"]] == names
    assert body["total"] == len(names)


def test_filters_are_combined_with_and(world: World) -> None:
    for guild_id in range(800, 812):
        guild(world, guild_id=guild_id, name=f"Guild {guild_id}")
        subject = Subject("guild", guild_id)
        if guild_id % 2:
            world.act(commands.GrantSubscription(target=subject, tier=3), BY_ADMIN)
        if guild_id % 3 == 0:
            world.act(commands.IssueBan(target=subject, reason="raid"), BY_ADMIN)
    for q, state, tier in product((None, "guild 80"), (None, 0, 1, 2), (None, 0, 3)):
        expected = [
            str(one)
            for one in range(800, 812)
            if (q is None or one < 810)
            and state in (None, 2 if one % 3 == 0 else 0)
            and tier in (None, 3 if one % 2 else 0)
        ]
        given = {"q": q, "state": state, "subscription_tier": tier}
        body = world.get(SEARCH, ADMIN, params={key: one for key, one in given.items() if one is not None}).json()
        assert [one["discord_id"] for one in body["guilds"]] == expected
        assert body["total"] == len(expected)


QUERIES = [
    ("state=3", "state must be between 0 and 2"),
    ("state=-1", "state must be between 0 and 2"),
    ("state=active", "state must be between 0 and 2"),
    ("subscription_tier=4", "subscription_tier must be between 0 and 3"),
    ("subscription_tier=", "subscription_tier must be between 0 and 3"),
    ("q=", "q must be between 1 and 100 characters"),
    ("q=%20%20", "q must be between 1 and 100 characters"),
    ("q=" + "a" * 101, "q must be between 1 and 100 characters"),
    ("q=%00", "q must not contain a NUL character"),
    ("q=%FF", "the query must be UTF-8 and hold no more parameters than there are"),
    ("limit=0", "limit must be between 1 and 100"),
    ("limit=101", "limit must be between 1 and 100"),
    ("offset=-1", "offset must be 0 or greater"),
    ("cursor=!", "cursor is not valid"),
    ("offset=0&cursor=abc", "offset cannot be used together with cursor"),
    ("permission_level=0", "unknown parameter: permission_level"),
    ("state=0&state=1", "state given more than once"),
]


@pytest.mark.parametrize(("query", "message"), QUERIES, ids=[query[:30] for query, _ in QUERIES])
def test_a_bad_search_is_refused_and_the_first_bad_parameter_named(
    shared_world: World, query: str, message: str
) -> None:
    assert error_of(shared_world.get(f"{SEARCH}?{query}", USER), 400) == message


def test_a_cursor_of_another_search_is_refused(world: World) -> None:
    for guild_id in (800, 801):
        guild(world, guild_id=guild_id)
    cursor = world.get(f"{SEARCH}?limit=1", USER).json()["next_cursor"]
    refused = world.get(f"{SEARCH}?state=0&cursor={cursor}", USER)
    assert error_of(refused, 400) == "cursor belongs to another search"


def test_without_pg_trgm_a_fragment_is_not_looked_for_and_the_rest_works(world: World) -> None:
    guild(world, name="Alphabet")
    for index in fragment_indexes():
        world.connection.execute(f"drop index {index}")
    with started(world):
        assert "pg_trgm" in error_of(world.get(f"{SEARCH}?q=bet", USER), 501)
        for q, total in (("alpha", 1), (str(GUILD), 1), ("be", 0)):
            assert world.get(f"{SEARCH}?q={q}", USER).json()["total"] == total


# -- the update


def test_an_admin_changes_name_owner_and_state_and_sees_it_at_once(world: World) -> None:
    guild(world)
    changes = {"name": "  Renamed ", "owner_discord_id": str(OTHER_USER), "state": 1}
    answered = world.post(UPDATE, ADMIN, changes)
    assert (answered.status_code, answered.json()) == (200, {"message": f"Guild {GUILD} updated"})
    assert int(answered.headers["X-Ledger-Position"]) == world.ledger.head()
    body = world.get(PATH, ADMIN).json()
    assert (body["name"], body["owner_discord_id"], body["state"]) == ("Renamed", str(OTHER_USER), 1)
    assert world.post(UPDATE, ADMIN, {"owner_discord_id": None, "state": 0}).status_code == 200
    body = world.get(PATH, ADMIN).json()
    assert (body["owner_discord_id"], body["state"]) == (None, 0)


def test_a_blacklisted_guild_stays_banned_whatever_is_set_and_then_shows_it(world: World) -> None:
    guild(world)
    banned = world.post(f"/v1/admin/punishments/guild/{GUILD}/ban", ADMIN, {"reason": "raid"}).json()["id"]
    assert world.post(UPDATE, ADMIN, {"state": 1}).status_code == 200
    assert world.get(PATH, ADMIN).json()["state"] == 2
    world.post(f"/v1/admin/punishments/{banned}/lift", ADMIN, {"reason": "sorry"})
    assert world.get(PATH, ADMIN).json()["state"] == 1


def test_nothing_to_change_adds_no_event(world: World) -> None:
    guild(world)
    head = world.ledger.head()
    answered = world.post(UPDATE, ADMIN, {"name": "Guild", "owner_discord_id": USER, "state": 0})
    assert (answered.status_code, world.ledger.head()) == (200, head)
    assert int(answered.headers["X-Ledger-Position"]) == head


@pytest.mark.parametrize(
    ("owner_id", "new_owner_id", "actor", "refusal"),
    [
        (USER, OTHER_USER, MODERATOR, "Admin access required"),
        (USER, OTHER_USER, USER, "Admin access required"),
        (OTHER_ADMIN, USER, ADMIN, "You cannot act on this guild"),
        (ADMIN, USER, ADMIN, "You cannot act on this guild"),
        (USER, OTHER_ADMIN, ADMIN, "You cannot act on this user"),
        (USER, ADMIN, ADMIN, "You cannot act on this user"),
        (USER, OWNER, ADMIN, "You cannot act on this user"),
    ],
)
def test_the_staff_must_be_able_to_act_on_the_old_and_the_new_owner(
    world: World, owner_id: int, new_owner_id: int, actor: int, refusal: str
) -> None:
    guild(world, owner_id)
    head = world.ledger.head()
    assert error_of(world.post(UPDATE, actor, {"owner_discord_id": new_owner_id}), 403) == refusal
    assert world.ledger.head() == head


UPDATES: list[tuple[Any, str]] = [
    ({}, "name, owner_discord_id or state is required"),
    ({"name": None}, "name must be a string"),
    ({"name": ""}, "name must be between 1 and 100 characters"),
    ({"name": "  "}, "name must be between 1 and 100 characters"),
    ({"name": "x" * 101}, "name must be between 1 and 100 characters"),
    ({"name": "a\x00"}, "name must not contain a NUL character"),
    ({"name": "a\nb"}, "name must not contain control characters"),
    ({"name": 7}, "name must be a string"),
    ({"owner_discord_id": 0}, f"owner_discord_id must be between 1 and {2**63 - 1}"),
    ({"owner_discord_id": "x"}, f"owner_discord_id must be between 1 and {2**63 - 1}"),
    ({"state": 2}, "state must be between 0 and 1"),
    ({"state": None}, "state must be between 0 and 1"),
    ({"state": True}, "state must be between 0 and 1"),
    ({"state": 0, "prefix": "?"}, "unknown field: prefix"),
]


@pytest.mark.parametrize(("body", "message"), UPDATES, ids=[str(body)[:40] for body, _ in UPDATES])
def test_a_bad_update_is_refused_and_the_first_bad_field_named(world: World, body: Any, message: str) -> None:
    guild(world)
    head = world.ledger.head()
    assert error_of(world.post(UPDATE, ADMIN, body), 400) == message
    assert world.ledger.head() == head


def test_a_guild_that_is_not_registered_is_not_updated(world: World) -> None:
    assert error_of(world.post(UPDATE, ADMIN, {"state": 1}), 404) == "Guild not found"
    world.act(commands.IssueWarning(target=TARGET, reason="raid"), BY_ADMIN)
    assert error_of(world.post(UPDATE, ADMIN, {"state": 1}), 404) == "Guild not found"


def test_if_match_guards_an_update_with_the_tag_of_the_view(world: World) -> None:
    guild(world)
    seen = world.get(PATH, ADMIN).headers["ETag"]
    assert world.post(UPDATE, ADMIN, {"state": 1}, headers={"If-Match": seen}).status_code == 200
    refused = world.post(UPDATE, ADMIN, {"state": 0}, headers={"If-Match": seen})
    assert error_of(refused, 412) == "The record has changed since: it is at version 2"


def test_an_idempotency_key_repeats_the_answer_and_not_the_update(world: World) -> None:
    guild(world)
    key = {"Idempotency-Key": "once"}
    first = world.post(UPDATE, ADMIN, {"state": 1}, headers=key)
    world.post(UPDATE, ADMIN, {"state": 0})
    again = world.post(UPDATE, ADMIN, {"state": 1}, headers=key)
    assert (again.status_code, again.text) == (200, first.text)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert world.get(PATH, ADMIN).json()["state"] == 0
    error_of(world.post(UPDATE, ADMIN, {"state": 0}, headers=key), 409)


# -- freshness


@pytest.mark.usefixtures("unfolded")
def test_an_admin_reads_the_own_write_or_is_told_to_wait(world: World) -> None:
    guild(world)
    world.catch_up()
    world.catching_up = False
    world.post(UPDATE, ADMIN, {"state": 1})
    for path in (PATH, SEARCH):
        assert "not yet at position" in error_of(world.get(path, ADMIN), 503)
        assert world.get(path, OTHER_ADMIN).status_code == 200
    world.catch_up("guilds")
    assert world.get(SEARCH, ADMIN).status_code == 503
    world.catch_up("guilds", "profile")
    assert world.get(SEARCH, ADMIN).json()["guilds"][0]["state"] == 1
    assert world.get(PATH, ADMIN).status_code == 503
    world.catch_up()
    assert world.get(PATH, ADMIN).json()["state"] == 1
    assert world.now == NOW


@pytest.mark.usefixtures("unfolded")
def test_a_users_reads_need_only_the_guilds(world: World) -> None:
    guild(world)
    world.catch_up()
    world.catching_up = False
    position = world.act(commands.UpdateGuild(guild_id=GUILD, state=1), OPERATOR).position
    world.catch_up("guilds")
    asked = {"X-Ledger-Position": str(position)}
    for headers, user in ((asked, USER), ({**asked, **public_key(world)}, None)):
        assert world.get(PATH, user, headers=headers).json()["state"] == 1
    assert world.get(SEARCH, USER, headers=asked).status_code == 200


def test_an_owners_new_level_closes_the_view_of_who_gave_it(world: World) -> None:
    guild(world)
    assert "punishments" in world.get(PATH, ADMIN).json()
    world.post(f"/v1/admin/users/{USER}/permission", OWNER, {"permission_level": 2, "reason": "staff"})
    assert list(world.get(PATH, ADMIN).json()) == PUBLIC

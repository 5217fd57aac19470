"""What bots report, and what they read and write about themselves and users (api.md §4)."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from modledger.domain import commands
from modledger.domain.envelope import Actor, Subject
from tests.http_client import AVATAR, NOW, OTHER_USER, OWNER, USER, World, error_of
from tests.test_http_bots import ADMIN_KEYS

BOT, OTHER_BOT = 900, 901
ME, BATCH = "/v1/bot/me", "/v1/bot/batch"


@pytest.fixture
def bots(world: World) -> World:
    """Two bots that are registered."""
    for bot_id, name in ((BOT, "Music"), (OTHER_BOT, "Games")):
        world.act(commands.RegisterBot(bot_id=bot_id, name=name, owner_id=USER))
    return world


def key(world: World, bot_id: int = BOT) -> dict[str, str]:
    return {"X-API-Key": world.bot_key(bot_id)}


def report(world: World, guild_ids: list[Any], bot_id: int = BOT, **more: Any) -> dict[str, Any]:
    body = {"guild_ids": guild_ids, "users": 10, **more}
    answer = world.post(ME, json=body, headers=key(world, bot_id))
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def guilds_of(world: World, bot_id: int = BOT) -> list[int]:
    return [row[0] for row in world.query("select guild_id from bot_guilds where bot_id = %s order by 1", bot_id)]


def test_a_bot_reads_of_itself_what_admins_see(bots: World) -> None:
    shown = bots.get(ME, headers=key(bots))
    assert list(shown.json()) == ADMIN_KEYS
    assert shown.json() == bots.get(f"/v1/bots/{BOT}", OWNER).json()
    unchanged = bots.get(ME, headers={**key(bots), "If-None-Match": shown.headers["ETag"]})
    assert unchanged.status_code == 304


def test_a_report_replaces_the_one_before(bots: World) -> None:
    first = report(bots, ["5", 6, "7"], latency_ms=40)
    assert list(first) == ADMIN_KEYS
    assert (first["guilds"], first["users"], first["latency_ms"]) == (3, 10, 40)
    assert guilds_of(bots) == [5, 6, 7]
    bots.now = bots.later(minutes=1)
    second = report(bots, [7, 8, 8, "8"], users=0)
    # What is left out stays.
    assert (second["guilds"], second["users"], second["latency_ms"]) == (2, 0, 40)
    assert second["last_activity_at"] == "2026-03-10T12:01:00Z"
    assert guilds_of(bots) == [7, 8]
    assert bots.get(ME, headers=key(bots)).json() == second
    assert report(bots, [], latency_ms=0.25)["latency_ms"] == 0.25
    assert guilds_of(bots) == []


def test_one_bots_report_leaves_the_guilds_of_others(bots: World) -> None:
    report(bots, [5, 6])
    report(bots, [6, 7], OTHER_BOT)
    report(bots, [])
    assert (guilds_of(bots), guilds_of(bots, OTHER_BOT)) == ([], [6, 7])


def test_the_first_report_of_a_guild_is_when_a_bot_joined_it(bots: World) -> None:
    report(bots, [5])
    bots.now = bots.later(hours=1)
    report(bots, [5, 6], OTHER_BOT)
    report(bots, [])
    bots.now = bots.later(hours=1)
    report(bots, [5, 6])
    joined = bots.query("select guild_id, first_joined_at, member_count from guild_activity order by 1")
    assert joined == [(5, NOW, None), (6, NOW + timedelta(hours=1), None)]


def test_what_is_kept_of_a_guild_that_nobody_knows_goes_with_the_last_bot(bots: World) -> None:
    bots.act(commands.RegisterGuild(guild_id=7, name="Known", owner_id=USER), Actor("bot", BOT))
    report(bots, [5, 6, 7])
    report(bots, [6], OTHER_BOT)
    report(bots, [])
    # 6 has a bot still, 7 is known to the ledger.
    assert bots.query("select guild_id, first_joined_at from guild_activity order by 1") == [(6, NOW), (7, NOW)]
    report(bots, [], OTHER_BOT)
    assert bots.query("select guild_id from guild_activity") == [(7,)]


def test_a_guild_whose_members_were_counted_before_keeps_the_count(bots: World) -> None:
    bots.connection.execute("insert into guild_activity (guild_id, member_count) values (5, 77)")
    report(bots, [5])
    assert bots.query("select member_count, first_joined_at from guild_activity") == [(77, NOW)]


def test_a_new_picture_is_an_event_and_the_same_one_is_none(bots: World) -> None:
    head = bots.ledger.head()
    first = bots.post(ME, json={"guild_ids": [], "users": 1, "avatar_url": AVATAR}, headers=key(bots))
    assert first.json()["avatar_url"] == AVATAR
    assert first.headers["X-Ledger-Position"] == str(bots.ledger.head())
    assert bots.ledger.head() > head
    head = bots.ledger.head()
    assert report(bots, [5], avatar_url=AVATAR)["avatar_url"] == AVATAR
    assert report(bots, [5])["avatar_url"] == AVATAR
    assert bots.ledger.head() == head
    assert bots.get(f"/v1/bots/{BOT}", USER).json()["avatar_url"] == AVATAR


@pytest.mark.parametrize("avatar", ["ftp://a.example/x", "x", "https://a.example/\n"])
def test_a_picture_that_is_no_url_is_refused_with_the_whole_report(bots: World, avatar: str) -> None:
    body = {"guild_ids": [5], "users": 1, "avatar_url": avatar}
    assert error_of(bots.post(ME, json=body, headers=key(bots)), 400).startswith("avatar_url must be an http")
    assert guilds_of(bots) == []


def test_who_is_not_registered_reports_nothing(world: World) -> None:
    for answer in (
        world.get(ME, headers=key(world)),
        world.post(ME, json={"guild_ids": [5], "users": 1}, headers=key(world)),
    ):
        assert error_of(answer, 404) == "Bot not found"
    assert world.query("select * from bot_guilds") == world.query("select * from bot_activity") == []


def test_a_report_guarded_by_an_old_etag_is_refused(bots: World) -> None:
    tag = bots.get(ME, headers=key(bots)).headers["ETag"]
    bots.act(commands.UpdateBot(bot_id=BOT, bot_type=1), Actor("user", OWNER))
    stale = bots.post(ME, json={"guild_ids": [5], "users": 1}, headers={**key(bots), "If-Match": tag})
    error_of(stale, 412)
    assert guilds_of(bots) == []


def test_ten_thousand_guilds_are_reported_at_once_and_not_one_more(bots: World) -> None:
    most = [str(2**63 - 1 - number) for number in range(10_000)]
    assert report(bots, most)["guilds"] == 10_000
    assert len(guilds_of(bots)) == 10_000
    answer = bots.post(ME, json={"guild_ids": [*most, 1], "users": 1}, headers=key(bots))
    assert error_of(answer, 400) == "guild_ids must hold at most 10000 items"


@pytest.mark.parametrize("path", [ME, BATCH])
def test_a_report_may_have_a_mebibyte_and_not_one_byte_more(bots: World, path: str) -> None:
    def padded(size: int) -> bytes:
        return b'{"x": "' + b"y" * (size - 9) + b'"}'

    headers = {**key(bots), "Content-Type": "application/json"}
    error_of(bots.send("POST", path, content=padded(1024 * 1024), headers=headers), 400)
    too_large = bots.send("POST", path, content=padded(1024 * 1024 + 1), headers=headers)
    assert error_of(too_large, 413) == "body must not be larger than 1024 KiB"


def test_many_reports_at_once_leave_one_of_them_whole(bots: World) -> None:
    bots.catch_up()
    lists = [list(range(start, start + 40)) for start in range(1, 400, 20)]
    headers = {bot_id: key(bots, bot_id) for bot_id in (BOT, OTHER_BOT)}

    def send(number: int) -> int:
        body = {"guild_ids": lists[number % 20], "users": number}
        return bots.client.post(ME, json=body, headers=headers[(BOT, OTHER_BOT)[number % 2]]).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(60))) == {200}
    for bot_id in (BOT, OTHER_BOT):
        ((users, guilds),) = bots.query("select users, guilds from bot_activity where bot_id = %s", bot_id)
        assert guilds_of(bots, bot_id) == lists[users % 20]
        assert guilds == 40


# -- batches


def ran(user_id: Any, at: datetime | str, **more: Any) -> dict[str, Any]:
    at = at if isinstance(at, str) else at.isoformat()
    return {
        "command": "play",
        "count": 1,
        "user_discord_id": user_id,
        "guild_discord_id": None,
        "timestamp": at,
        **more,
    }


def send_batch(world: World, *batch: dict[str, Any], bot_id: int = BOT) -> str:
    answer = world.post(BATCH, json={"commands": list(batch)}, headers=key(world, bot_id))
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["message"]
    return str(answer.json()["message"])


def last_seen(world: World, user_id: int) -> str:
    return str(world.get(f"/v1/bot/users/{user_id}", headers=key(world)).json()["last_activity_at"])


def test_a_batch_moves_when_users_and_the_bot_were_last_active(bots: World) -> None:
    head = bots.ledger.head()
    hour = timedelta(hours=1)
    message = send_batch(
        bots,
        ran(USER, NOW - 3 * hour),
        ran(str(USER), NOW - hour, guild_discord_id="5", count=1_000_000),
        ran(USER, NOW - 2 * hour, command="x" * 100),
        ran(OTHER_USER, "2026-03-10T10:00:00.999+01:00"),
    )
    assert message == "4 commands recorded"
    assert last_seen(bots, USER) == "2026-03-10T11:00:00Z"
    assert last_seen(bots, OTHER_USER) == "2026-03-10T09:00:00Z"
    assert bots.get(ME, headers=key(bots)).json()["last_activity_at"] == "2026-03-10T12:00:00Z"
    assert bots.ledger.head() == head


def test_a_batch_leaves_nothing_of_users_whom_nobody_knows(bots: World) -> None:
    assert send_batch(bots, ran(USER, NOW), *(ran(number, NOW) for number in range(70_000, 70_500))) == (
        "501 commands recorded"
    )
    assert bots.query("select user_id from user_activity") == [(USER,)]


def test_a_batch_never_moves_anybody_back_nor_ahead_of_now(bots: World) -> None:
    send_batch(bots, ran(USER, NOW - timedelta(minutes=5)))
    send_batch(bots, ran(USER, NOW - timedelta(minutes=9)))
    assert last_seen(bots, USER) == "2026-03-10T11:55:00Z"
    send_batch(bots, ran(USER, "9999-12-31T00:00:00Z"))
    assert last_seen(bots, USER) == "2026-03-10T12:00:00Z"
    bots.now = bots.later(seconds=1)
    send_batch(bots)
    shown = bots.get(ME, headers=key(bots)).json()
    assert (shown["last_activity_at"], shown["guilds"]) == ("2026-03-10T12:00:01Z", 0)


def test_a_thousand_commands_are_recorded_at_once_and_not_one_more(bots: World) -> None:
    most = [ran(number, NOW) for number in range(1, 1001)]
    assert send_batch(bots, *most) == "1000 commands recorded"
    assert send_batch(bots) == "0 commands recorded"
    answer = bots.post(BATCH, json={"commands": [*most, ran(1, NOW)]}, headers=key(bots))
    assert error_of(answer, 400) == "commands must hold at most 1000 items"


def test_a_bot_that_was_never_registered_reports_commands_too(world: World) -> None:
    assert send_batch(world, ran(USER, NOW)) == "1 commands recorded"
    assert last_seen(world, USER) == "2026-03-10T12:00:00Z"


def test_batches_at_once_do_not_wait_for_each_other_in_circles(bots: World) -> None:
    bots.catch_up()
    headers = {bot_id: key(bots, bot_id) for bot_id in (BOT, OTHER_BOT)}
    users = list(range(1001, 1201))
    for user_id in users:
        bots.act(commands.RegisterUser(user_id=user_id, username=f"user{user_id}", avatar_url=None))

    def send(number: int) -> int:
        order = users if number % 3 else users[::-1]
        body = {"commands": [ran(user_id, NOW - timedelta(seconds=60 - number)) for user_id in order]}
        return bots.client.post(BATCH, json=body, headers=headers[(BOT, OTHER_BOT)[number % 2]]).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(40))) == {200}
    assert bots.query("select distinct last_activity_at from user_activity") == [(NOW - timedelta(seconds=21),)]


@pytest.mark.parametrize("path", [ME, BATCH, f"/v1/bot/users/{USER}"])
def test_a_repetition_under_the_same_key_gets_the_first_answer(bots: World, path: str) -> None:
    bodies = {ME: {"guild_ids": [5], "users": 1}, BATCH: {"commands": [ran(USER, NOW)]}}
    body = bodies.get(path, {"username": "other"})
    headers = {**key(bots), "Idempotency-Key": "one"}
    first = bots.post(path, json=body, headers=headers)
    bots.now = bots.later(minutes=1)
    again = bots.post(path, json=body, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
    # The keys of one bot are not those of another.
    other = bots.post(path, json=body, headers={**key(bots, OTHER_BOT), "Idempotency-Key": "one"})
    assert "Idempotency-Replayed" not in other.headers


# -- users


def test_a_bot_reads_a_user_as_the_user_does(bots: World) -> None:
    answer = bots.get(f"/v1/bot/users/{USER}", headers=key(bots))
    assert answer.json() == bots.get("/v1/users/me", USER).json()
    assert answer.headers["ETag"]
    assert error_of(bots.get("/v1/bot/users/98765", headers=key(bots)), 404) == "User not found"


def test_a_bot_brings_a_users_name_and_picture(bots: World) -> None:
    answer = bots.post(f"/v1/bot/users/{USER}", json={"username": "New", "avatar_url": AVATAR}, headers=key(bots))
    assert (answer.json()["username"], answer.json()["avatar_url"]) == ("New", AVATAR)
    assert answer.json() == bots.get("/v1/users/me", USER).json()
    assert answer.headers["X-Ledger-Position"] == str(bots.ledger.head())
    head = bots.ledger.head()
    for nothing_new in ({}, {"username": "New"}, {"username": None, "avatar_url": None}):
        again = bots.post(f"/v1/bot/users/{USER}", json=nothing_new, headers=key(bots))
        assert again.json() == answer.json()
    assert bots.ledger.head() == head


def test_what_a_bot_brings_shows_the_user_as_is_now(bots: World) -> None:
    target = Subject("user", USER)
    bots.act(commands.IssueBan(target=target, reason="spam", expires_at=bots.later(hours=1)), Actor("user", OWNER))
    bots.act(commands.GrantSubscription(target=target, tier=2, duration_days=1), Actor("user", OWNER))
    send_batch(bots, ran(USER, NOW))
    banned = bots.post(f"/v1/bot/users/{USER}", json={"username": "New"}, headers=key(bots)).json()
    assert (banned["state"], banned["subscription_tier"]) == (2, 2)
    assert banned["last_activity_at"] == "2026-03-10T12:00:00Z"
    assert banned == bots.get("/v1/users/me", USER).json()
    bots.now = bots.later(hours=1)
    free = bots.post(f"/v1/bot/users/{USER}", json={}, headers=key(bots)).json()
    assert (free["state"], free) == (0, bots.get("/v1/users/me", USER).json())


def test_a_bot_brings_nothing_of_who_is_not_registered(bots: World) -> None:
    bots.act(commands.IssueWarning(target=Subject("user", 77), reason="spam"), Actor("user", OWNER))
    for user_id in (77, 78):
        answer = bots.post(f"/v1/bot/users/{user_id}", json={"username": "New"}, headers=key(bots))
        assert error_of(answer, 404) == "User not found"
    # Who was punished is known, without a name.
    assert bots.get("/v1/bot/users/77", headers=key(bots)).json()["username"] is None


def test_an_etag_guards_what_a_bot_brings(bots: World) -> None:
    path = f"/v1/bot/users/{USER}"
    tag = bots.get(path, headers=key(bots)).headers["ETag"]
    headers = {**key(bots), "If-Match": tag}
    assert bots.post(path, json={"username": "One"}, headers=headers).status_code == 200
    error_of(bots.post(path, json={"username": "Two"}, headers=headers), 412)

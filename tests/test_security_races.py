"""Power that is taken away while it is used (docs/security.md): what was decided with it is in the ledger before, or
nowhere."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier, Event
from typing import Any

import pytest
from litestar.testing import TestClient

from modledger.domain import commands, events
from modledger.domain.envelope import SYSTEM, Subject
from modledger.domain.settings import Settings
from modledger.http.sessions import COOKIE
from tests.http_client import ADMIN, OTHER_USER, OWNER, USER, World, started

TARGETS = range(7000, 7040)


def two_servers(world: World, stack: ExitStack) -> list[TestClient[Any]]:
    """Two applications on the world's database, with two kept states of everybody."""
    here = world.client
    there = stack.enter_context(started(world)).client
    world.client = here
    return [here, there]


@pytest.mark.parametrize("how", ["demoted", "banned"])
def test_nothing_of_an_admin_comes_after_the_event_that_took_the_power(world: World, how: str) -> None:
    """Forty warnings by one admin over two servers, and in the middle of them an owner acts on that admin. Of the last
    ones each is sent when the owner has heard that it is done."""
    for target in TARGETS:
        world.register(target, f"target{target}")
    world.catch_up()
    world.catching_up = False
    admin, owner = ({"Cookie": f"{COOKIE}={world.token(one)}"} for one in (ADMIN, OWNER))
    half, done = Barrier(3), Event()
    with ExitStack() as stack:
        servers = two_servers(world, stack)

        def warn(number: int) -> int:
            if number in (10, 11):
                half.wait()
            elif number >= len(TARGETS) - 8:
                done.wait()
            path = f"/v1/admin/punishments/user/{TARGETS[number]}/warn"
            return servers[number % 2].post(path, json={"reason": "spam"}, headers=admin).status_code

        def take_away() -> int:
            half.wait()
            if how == "demoted":
                path, body = f"/v1/admin/users/{ADMIN}/permission", {"permission_level": 0, "reason": "left"}
            else:
                path, body = f"/v1/admin/punishments/user/{ADMIN}/ban", {"reason": "left"}
            try:
                status = servers[1].post(path, json=body, headers=owner).status_code
            finally:
                done.set()
            world.catch_up()
            return status

        with ThreadPoolExecutor(9) as pool:
            taken = pool.submit(take_away)
            answers = Counter(pool.map(warn, range(len(TARGETS))))
            assert taken.result() == 200
    stream = world.ledger.load([f"user:{ADMIN}"])[f"user:{ADMIN}"]
    kind = events.PermissionChanged if how == "demoted" else events.UserBanned
    end = max(recorded.position for recorded in stream if isinstance(recorded.event, kind))
    wrote = world.query("select notification_id from ledger where actor = %s order by 1", f"user:{ADMIN}")
    assert all(position < end for (position,) in wrote)
    assert len(wrote) == answers[200]
    # 503: the profile had not come so far, and nothing was done.
    assert set(answers) <= {200, 403, 503}
    assert answers[403] + answers[503] >= 8


def test_of_two_owners_who_demote_each_other_at_once_one_stays(world: World) -> None:
    """Each of the two decides on the other's rank and their own; one of them then decides anew, as nobody."""
    rounds = []
    with ExitStack() as stack:
        servers = two_servers(world, stack)
        for number in range(8):
            first, second = 8000 + 2 * number, 8001 + 2 * number
            for owner in (first, second):
                world.register(owner, f"owner{owner}", 3)
            world.catch_up()
            world.catching_up = False
            together = Barrier(2)

            def demote(server: TestClient[Any], who: int, whom: int, together: Barrier = together) -> int:
                cookie = {"Cookie": f"{COOKIE}={world.token(who, 3)}"}
                together.wait()
                body = {"permission_level": 0, "reason": "mine"}
                return server.post(f"/v1/admin/users/{whom}/permission", json=body, headers=cookie).status_code

            for owner in (first, second):
                world.token(owner, 3)
            with ThreadPoolExecutor(2) as pool:
                one = pool.submit(demote, servers[0], first, second)
                other = pool.submit(demote, servers[1], second, first)
                rounds.append(sorted((one.result(), other.result())))
            world.catching_up = True
    assert all(answers[0] == 200 and answers[1] in (403, 503) for answers in rounds), rounds


def test_a_key_that_was_replaced_in_the_middle_is_good_for_nothing_afterwards(world: World) -> None:
    bot_id = 9000
    world.act(commands.RegisterBot(bot_id=bot_id, name="reporter", owner_id=USER), SYSTEM)
    old = world.bot_key(bot_id)
    owner = {"Cookie": f"{COOKIE}={world.token(OWNER)}"}
    world.catch_up()
    with ExitStack() as stack:
        servers = two_servers(world, stack)
        path = f"/v1/admin/bots/{bot_id}/regenerate-key"
        answer = servers[0].post(path, json={}, headers={**owner, "Content-Type": "application/json"})
        new = answer.json()["api_key"]
        world.catch_up()
        statuses = [
            server.get("/v1/bot/me", headers={"X-API-Key": key}).status_code for key in (old, new) for server in servers
        ]
    assert statuses == [401, 401, 200, 200]


def test_whoever_was_banned_in_the_middle_of_a_bulk_of_commands_does_no_more_of_it(world: World) -> None:
    """Each item is decided on its own, on the actor as it then is."""
    for target in TARGETS:
        world.register(target, f"target{target}")
    world.catch_up()
    world.catching_up = False
    cookie = {"Cookie": f"{COOKIE}={world.token(ADMIN)}"}
    items = [{"action": "warn", "target": "user", "id": str(target), "reason": "spam"} for target in TARGETS]
    by_admin = "select notification_id from ledger where actor = %s"

    def act() -> list[int]:
        answer = world.client.post("/v1/admin/punishments/bulk", json={"items": items}, headers=cookie)
        assert answer.status_code == 200
        return [item["status"] for item in answer.json()["results"]]

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(act)
        while not sent.done() and not world.query(by_admin, f"user:{ADMIN}"):
            pass
        world.act(commands.IssueBan(target=Subject("user", ADMIN), reason="left"))
        statuses = Counter(sent.result())
    stream = world.ledger.load([f"user:{ADMIN}"])[f"user:{ADMIN}"]
    (end,) = [recorded.position for recorded in stream if isinstance(recorded.event, events.UserBanned)]
    wrote = world.query(by_admin, f"user:{ADMIN}")
    assert all(position < end for (position,) in wrote)
    assert statuses == Counter({200: len(wrote), 403: len(TARGETS) - len(wrote)})
    assert wrote


def test_a_session_of_before_has_the_level_of_now(world: World) -> None:
    with started(world, Settings(rate_limit_staff=0)):
        world.token(USER)
        assert world.get("/v1/admin/punishments/search", USER).status_code == 403
        world.act(commands.ChangePermission(user_id=USER, level=2, reason="joined"))
        assert world.get("/v1/admin/punishments/search", USER).status_code == 200
        world.act(commands.ChangePermission(user_id=USER, level=0, reason="left"))
        body = {"reason": "spam"}
        path = f"/v1/admin/punishments/user/{OTHER_USER}/warn"
        assert world.post(path, USER, body).status_code == 403

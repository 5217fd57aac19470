"""Read-your-writes: no answer is older than its caller's writes, or than the position asked for (api.md §1)."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modledger.domain import commands
from modledger.domain.envelope import Actor, Subject
from tests.http_client import ADMIN, MODERATOR, OTHER_ADMIN, OTHER_USER, OWNER, USER, World, error_of
from tests.product import NOT_YET, PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("unfolded")

SEARCH = "/v1/admin/punishments/search"
WHY = {"reason": "spam"}


def test_a_write_is_seen_by_the_next_read_of_its_session_as_soon_as_projectors_come(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    written = world.post(f"/v1/admin/punishments/user/{USER}/ban", ADMIN, WHY)
    position = int(written.headers["X-Ledger-Position"])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.get, SEARCH, ADMIN)
        time.sleep(0.05)
        assert not waiting.done()
        world.catch_up()
        read = waiting.result()
    if read.status_code == 503:
        # All this took longer than anybody is made to wait.
        read = world.get(SEARCH, ADMIN)
    assert read.status_code == 200
    assert read.json()["total"] == 1
    assert int(read.headers["X-Ledger-Position"]) >= position


def test_without_projectors_the_answer_is_to_try_again_in_a_second(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    world.post(f"/v1/admin/punishments/user/{USER}/ban", ADMIN, WHY)
    for path in (SEARCH, "/v1/users/profile/user", "/v1/admin/subscriptions/active"):
        response = world.get(path, ADMIN)
        assert "not yet at position" in error_of(response, 503)
        assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("who_banned", [OTHER_ADMIN, ADMIN])
def test_a_refusal_by_the_state_bears_the_position_whose_read_shows_the_reason(world: World, who_banned: int) -> None:
    world.catch_up()
    world.catching_up = False
    # By no session, so that no read waits for it of itself.
    ban = world.act(commands.IssueBan(target=Subject("user", USER), reason="raid"), Actor("user", who_banned))
    world.act(commands.IssueWarning(target=Subject("user", OTHER_USER), reason="x"), Actor("user", OWNER))
    refused = world.post(f"/v1/admin/punishments/user/{USER}/ban", ADMIN, WHY)
    assert f"punishment {ban.position}" in error_of(refused, 409)
    # No further than what was looked at, or the client would wait for what does not concern it.
    assert refused.headers["X-Ledger-Position"] == str(ban.position)
    told = {"X-Ledger-Position": refused.headers["X-Ledger-Position"]}
    error_of(world.get(SEARCH, ADMIN, headers=told), 503)
    world.catch_up()
    read = world.get(SEARCH, ADMIN, headers=told).json()["punishments"]
    assert [one["id"] for one in read if one["punishment_type"] == "BAN"] == [ban.position]


def test_so_does_one_by_the_version_and_one_in_a_batch_and_one_that_is_repeated(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    ban = world.act(commands.IssueBan(target=Subject("user", USER), reason="raid"), Actor("user", OTHER_ADMIN))
    path, keyed = f"/v1/admin/punishments/user/{USER}/ban", {"Idempotency-Key": "again"}
    stale = world.post(path, ADMIN, WHY, headers={"If-Match": '"1-0000000000000000"'})
    batch = world.post(
        "/v1/admin/punishments/bulk", ADMIN, {"items": [{"action": "ban", "target": "user", "id": USER, **WHY}]}
    )
    assert error_of(stale, 412)
    assert [one["status"] for one in batch.json()["results"]] == [409]
    first, second = (world.post(path, ADMIN, WHY, headers=keyed) for _ in range(2))
    assert (first.status_code, second.headers["Idempotency-Replayed"]) == (409, "true")
    positions = [one.headers["X-Ledger-Position"] for one in (stale, batch, first, second)]
    assert positions == [str(ban.position)] * 4


def test_a_refusal_of_power_says_nothing_of_how_far_the_target_is(world: World) -> None:
    refusals = [
        world.post(f"/v1/admin/punishments/user/{OTHER_ADMIN}/ban", ADMIN, WHY),
        world.post(f"/v1/admin/punishments/user/{ADMIN}/warn", ADMIN, WHY),
        world.post(f"/v1/admin/punishments/user/{USER}/ban", MODERATOR, WHY),
        world.post("/v1/admin/punishments/999999/lift", ADMIN, WHY),
        world.post(f"/v1/admin/punishments/user/{USER}/timeout", ADMIN, {**WHY, "expires_at": "2020-01-01T00:00:00Z"}),
    ]
    assert [one.status_code for one in refusals] == [403, 403, 403, 404, 400]
    assert not any("X-Ledger-Position" in one.headers for one in refusals)


def test_others_are_not_made_to_wait_for_a_strangers_write(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    world.post(f"/v1/admin/punishments/user/{USER}/ban", ADMIN, WHY)
    assert world.get(SEARCH, OTHER_ADMIN).json()["total"] == 0


def test_any_client_may_ask_for_a_position(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    outcome = world.act(commands.IssueWarning(target=Subject("user", OTHER_USER), reason="x"), Actor("user", ADMIN))
    asked = {"X-Ledger-Position": str(outcome.position)}
    paths = (SEARCH, "/v1/users/profile/otheruser", "/v1/users/me", f"/v1/admin/punishments/{outcome.position}")
    for path in paths:
        error_of(world.get(path, OTHER_ADMIN, headers=asked), 503)
    world.catch_up()
    for path in paths:
        response = world.get(path, OTHER_ADMIN, headers=asked)
        assert response.status_code == 200
        assert int(response.headers["X-Ledger-Position"]) >= outcome.position


def test_what_is_read_from_the_ledger_itself_needs_no_projector(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    issued = world.post(f"/v1/admin/punishments/user/{USER}/ban", ADMIN, WHY).json()["id"]
    assert world.get(f"/v1/admin/punishments/{issued}/history", ADMIN).status_code == 200
    lifted = world.post(f"/v1/admin/punishments/{issued}/lift", ADMIN, WHY)
    assert lifted.status_code == 200
    future = {"X-Ledger-Position": str(world.ledger.head() + 1)}
    error_of(world.get(f"/v1/admin/punishments/{issued}/history", ADMIN, headers=future), 503)


def test_one_stopped_projector_holds_up_only_what_it_feeds(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    world.post(f"/v1/admin/punishments/user/{USER}/ban", ADMIN, WHY)
    world.catch_up("profile", "punishments")
    assert world.get(SEARCH, ADMIN).status_code == 200
    assert world.get("/v1/users/profile/otheradmin", ADMIN).status_code == 200
    error_of(world.get("/v1/users/profile/user", ADMIN), 503)


def _read(world: World, path: str) -> Any:
    """What is answered in the end: where projectors take longer than two seconds it is asked for again."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (response := world.get(path, ADMIN)).status_code == 503:
        assert NOT_YET in response.text
        assert time.monotonic() < deadline
    assert response.status_code == 200
    return response.json()


def test_a_session_sees_its_own_writes_while_projectors_run_behind_it(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    world.token(ADMIN)
    stop = threading.Event()

    def project() -> None:
        while not stop.wait(0.01):
            world.catch_up()

    worker = threading.Thread(target=project)
    worker.start()
    try:
        for number in range(1, 11):
            world.post(f"/v1/admin/punishments/user/{USER}/warn", ADMIN, WHY)
            assert _read(world, SEARCH)["total"] == number
            assert len(_read(world, "/v1/users/profile/user")["punishments"]) == number
    finally:
        stop.set()
        worker.join()

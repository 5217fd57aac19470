"""Punishments in bulk, and their revert (api.md §4)."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from httpx import Response

from modledger.domain import commands
from modledger.http.punishments_bulk import SIDE_BY_SIDE
from modledger.http.sessions import COOKIE
from tests.http_client import (
    ADMIN,
    GUILD,
    MODERATOR,
    OTHER_ADMIN,
    OTHER_USER,
    OWNER,
    UNKNOWN,
    USER,
    World,
    error_of,
)

BULK = "/v1/admin/punishments/bulk"
WHY = {"reason": "spam"}
END = "2026-03-11T12:00:00Z"


def warn(user_id: int = USER, reason: str = "spam") -> dict[str, Any]:
    return {"action": "warn", "target": "user", "id": user_id, "reason": reason}


def ban(user_id: int = USER, **more: Any) -> dict[str, Any]:
    return {"action": "ban", "target": "user", "id": str(user_id), **WHY, **more}


def lift(punishment_id: int) -> dict[str, Any]:
    return {"action": "lift", "punishment_id": punishment_id, **WHY}


def bulk(world: World, *items: Any, user: int = ADMIN, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return world.post(BULK, user, {"items": list(items)}, headers=named)


def revert(world: World, batch_id: str, user: int = ADMIN, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return world.post(f"{BULK}/{batch_id}/revert", user, {"reason": "wrong list"}, headers=named)


def statuses(response: Response) -> list[int]:
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    for result in results:
        assert list(result) == ["index", "status", "punishment", "error"]
        assert (result["punishment"] is None) == (result["status"] != 200) == (result["error"] is not None)
    return [result["status"] for result in results]


def errors(response: Response) -> list[str | None]:
    return [result["error"] for result in response.json()["results"]]


def ids(response: Response) -> list[int]:
    return [result["punishment"]["id"] for result in response.json()["results"] if result["status"] == 200]


def test_items_of_every_kind_answer_as_their_operations_would(world: World) -> None:
    before = world.post(f"/v1/admin/punishments/user/{OTHER_USER}/warn", ADMIN, WHY).json()["id"]
    response = bulk(
        world,
        warn(),
        {"action": "timeout", "target": "user", "id": USER, **WHY, "expires_at": END},
        ban(),
        {"action": "warn", "target": "guild", "id": GUILD, **WHY},
        {"action": "ban", "target": "guild", "id": GUILD, **WHY, "expires_at": END},
        lift(before),
    )
    body = response.json()
    assert list(body) == ["batch_id", "results"]
    UUID(body["batch_id"])
    assert statuses(response) == [200] * 6
    assert [result["index"] for result in body["results"]] == list(range(6))
    answers = [result["punishment"] for result in body["results"]]
    assert [one["punishment_type"] for one in answers] == [
        "WARNING",
        "TIMEOUT",
        "BAN",
        "WARNING",
        "GUILD_BLACKLIST",
        "WARNING",
    ]
    assert answers[1] == {
        "user_discord_id": str(USER),
        "guild_discord_id": None,
        "punishment_type": "TIMEOUT",
        "reason": "spam",
        "issued_by_discord_id": str(ADMIN),
        "expires_at": END,
        "created_at": "2026-03-10T12:00:00Z",
        "updated_at": "2026-03-10T12:00:00Z",
        "id": answers[1]["id"],
    }
    assert world.get(f"/v1/admin/punishments/{before}", ADMIN).json() == answers[5]
    assert answers[5]["is_lifted"] is True
    assert int(response.headers["X-Ledger-Position"]) == world.ledger.head()
    assert world.get("/v1/admin/punishments/search", ADMIN).json()["total"] == 6


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "items must hold between 1 and 200 items"),
        ([warn()] * 201, "items must hold between 1 and 200 items"),
        ({}, "items must be a list"),
        (None, "items is required"),
    ],
)
def test_how_many_items_there_may_be(shared_world: World, items: Any, message: str) -> None:
    head = shared_world.ledger.head()
    assert error_of(shared_world.post(BULK, ADMIN, {"items": items}), 400) == message
    assert shared_world.ledger.head() == head


def test_two_hundred_items_with_the_longest_reasons_fit(world: World) -> None:
    reason = "\N{GRINNING FACE}" * 512
    response = bulk(world, *(warn(1_000 + n, reason) for n in range(200)))
    assert statuses(response) == [200] * 200
    assert response.json()["results"][199]["punishment"]["reason"] == reason
    # As ASCII, which takes twelve bytes for each of these characters.
    item = b'{"action": "warn", "target": "user", "id": "4", "reason": "' + b"\\ud83d\\ude00" * 512 + b'"}'
    content = b'{"items": [' + b", ".join([item] * 200) + b"]}"
    json = {"Content-Type": "application/json"}
    assert statuses(world.send("POST", BULK, ADMIN, content=content, headers=json)) == [200] * 200
    too_large = world.send("POST", BULK, ADMIN, content=content + b" " * 100_000, headers=json)
    assert error_of(too_large, 413) == "body must not be larger than 1280 KiB"


def test_items_of_one_target_are_done_in_their_order(world: World) -> None:
    end = {"expires_at": END}
    timeout = {"action": "timeout", "target": "user", "id": USER, **WHY, **end}
    response = bulk(world, ban(), warn(), ban(), timeout, timeout, ban(OTHER_USER), ban(replace=True), ban(OTHER_USER))
    assert statuses(response) == [200, 200, 409, 200, 409, 200, 200, 409]
    first, second, third, other, replaced = ids(response)
    said = errors(response)
    assert said[2] == f"User {USER} already has an active ban: punishment {first}"
    assert said[4] == f"User {USER} already has an active timeout: punishment {third}"
    assert said[7] == f"User {OTHER_USER} already has an active ban: punishment {other}"
    assert first < second < third < replaced
    assert int(response.headers["X-Ledger-Position"]) == max(first, second, third, other, replaced)


BAD_ITEMS: list[tuple[Any, str]] = [
    ({**warn(), "reason": None}, "reason is required"),
    ({**warn(), "reason": " "}, "reason must be between 1 and 512 characters"),
    ({**warn(), "reason": "x" * 513}, "reason must be between 1 and 512 characters"),
    ({**warn(), "reason": 5}, "reason must be a string"),
    ({**warn(), "reason": "\x00"}, "reason must not contain a NUL character"),
    ({**warn(), "id": None}, "id is required"),
    ({**warn(), "id": 0}, f"id must be between 1 and {2**63 - 1}"),
    ({**warn(), "id": True}, f"id must be between 1 and {2**63 - 1}"),
    ({**warn(), "id": "007"}, f"id must be between 1 and {2**63 - 1}"),
    ({**warn(), "target": None}, "target is required"),
    ({**warn(), "target": "bot"}, "target must be one of guild, user"),
    ({**warn(), "action": None}, "action is required"),
    ({**warn(), "action": "kick"}, "action must be one of warn, timeout, ban, lift"),
    ({**warn(), "action": ["warn"]}, "action must be one of warn, timeout, ban, lift"),
    ({**warn(), "action": "WARN"}, "action must be one of warn, timeout, ban, lift"),
    ({**warn(), "foo": 1}, "unknown field: foo"),
    ({**warn(), "foo": None}, "unknown field: foo"),
    ({**warn(), "expires_at": END}, "expires_at does not apply to warn"),
    ({**warn(), "replace": True}, "replace does not apply to warn"),
    ({**warn(), "punishment_id": 3}, "punishment_id does not apply to warn"),
    ({**warn(), "action": "timeout"}, "expires_at is required"),
    ({**warn(), "action": "timeout", "target": "guild", "expires_at": END}, "target must be one of user"),
    ({**warn(), "action": "timeout", "expires_at": "2026-03-11"}, "expires_at must be a timestamp such as"),
    ({**warn(), "action": "timeout", "expires_at": "2026-03-10T11:00:00Z"}, "expires_at must be in the future"),
    ({**warn(), "action": "timeout", "expires_at": "2026-05-10T11:00:00Z"}, "expires_at must be at most 28 days ahead"),
    ({**ban(), "replace": "yes"}, "replace must be true or false"),
    ({**ban(), "expires_at": "2026-03-11T12:00:00"}, "expires_at must have an offset such as Z"),
    ({"action": "lift", **WHY}, "punishment_id is required"),
    ({**lift(1), "punishment_id": "1"}, f"punishment_id must be between 1 and {2**63 - 1}"),
    ({**lift(1), "target": "user"}, "target does not apply to lift"),
    ({}, "action is required"),
    (None, "item must be an object"),
    ("warn", "item must be an object"),
    ([], "item must be an object"),
]


@pytest.mark.parametrize(("item", "message"), BAD_ITEMS)
def test_a_bad_item_is_refused_alone_and_names_what_is_wrong(shared_world: World, item: Any, message: str) -> None:
    response = bulk(shared_world, warn(), item, warn(OTHER_USER))
    assert statuses(response) == [200, 400, 200]
    assert (errors(response)[1] or "").startswith(message)


def test_null_is_as_good_as_left_out(world: World) -> None:
    every = dict.fromkeys(["action", "target", "id", "punishment_id", "reason", "expires_at", "replace"])
    response = bulk(world, {**every, **warn()}, {**every, **ban(OTHER_USER)}, {**every, **ban(OTHER_USER)})
    assert statuses(response) == [200, 200, 409]
    assert statuses(bulk(world, {**every, **lift(ids(response)[0])})) == [200]


def test_each_item_is_authorised_on_its_own(world: World) -> None:
    response = bulk(world, warn(), ban(), warn(ADMIN), warn(MODERATOR), warn(UNKNOWN), user=MODERATOR)
    assert statuses(response) == [200, 403, 403, 403, 200]
    assert errors(response)[1:4] == ["Admin access required", *["You cannot act on this user"] * 2]
    others = bulk(world, lift(ids(response)[0]), user=OTHER_ADMIN)
    assert statuses(others) == [200]
    mine = bulk(world, warn(OTHER_USER), user=ADMIN)
    refused = bulk(world, lift(ids(mine)[0]), user=MODERATOR)
    assert errors(refused) == ["Admin access required"]
    assert int(refused.headers["X-Ledger-Position"]) == world.ledger.head()


def test_whoever_is_restricted_or_below_does_nothing_at_all(world: World) -> None:
    world.act(commands.IssueTimeout(user_id=MODERATOR, reason="x", expires_at=world.later(hours=1)))
    head = world.ledger.head()
    assert error_of(bulk(world, warn(), user=MODERATOR), 403) == "Account restricted"
    assert error_of(bulk(world, warn(), user=USER), 403) == "Moderator access required"
    assert error_of(world.post(BULK, json={"items": [warn()]}), 401) == "Authentication required"
    assert world.ledger.head() == head


def test_a_lift_of_what_is_not_there_or_over_is_refused_alone(world: World) -> None:
    issued = ids(bulk(world, ban(), warn()))
    response = bulk(world, lift(1), lift(2**63 - 1), lift(issued[0]), lift(issued[0]), lift(issued[1]))
    assert statuses(response) == [404, 404, 200, 409, 200]
    said = errors(response)
    assert said[:2] == ["Punishment not found"] * 2
    assert said[3] == f"Punishment {issued[0]} has already ended (lifted)"


@pytest.mark.usefixtures("unfolded")
def test_a_target_that_this_program_cannot_read_is_refused_alone(world: World) -> None:
    world.post(f"/v1/admin/punishments/user/{UNKNOWN}/warn", ADMIN, WHY)
    world.catch_up()
    world.catching_up = False
    world.connection.execute(
        "insert into ledger (originator_id, originator_version, topic, state, recorded_at, actor, via)"
        " select originator_id, 2, 'user.promoted.v1', state, recorded_at, actor, via from ledger"
        f" where originator_id = 'user:{UNKNOWN}'"
    )
    response = bulk(world, warn(UNKNOWN), warn())
    assert statuses(response) == [500, 200]
    assert errors(response) == ["Internal server error", None]
    assert len(world.ledger.load([f"user:{USER}"])[f"user:{USER}"]) == 2


def test_every_event_of_a_batch_names_it(world: World) -> None:
    world.post(f"/v1/admin/punishments/user/{USER}/ban", ADMIN, WHY)
    response = bulk(world, ban(replace=True), warn(OTHER_USER))
    batch_id = response.json()["batch_id"]
    log = world.get(f"/v1/admin/audit/logs?actor_id={ADMIN}&limit=3", ADMIN).json()["items"]
    assert [one["event_metadata"]["batch_id"] for one in log] == [batch_id] * 3
    assert {one["event_type"] for one in log} == {"USER_BAN", "USER_PUNISHMENT_SUPERSEDE", "USER_WARN"}
    rest = world.get(f"/v1/admin/audit/logs?actor_id={ADMIN}&offset=3", ADMIN).json()["items"]
    assert all("batch_id" not in one["event_metadata"] for one in rest)


def test_conditions_do_not_apply(world: World) -> None:
    assert statuses(bulk(world, warn(), If_Match='"99-0123456789abcdef"')) == [200]


# -- again, and at once


def test_a_repetition_gets_the_first_answer_and_another_body_is_refused(world: World) -> None:
    first = bulk(world, warn(), ban(), ban(), Idempotency_Key="one")
    head = world.ledger.head()
    again = bulk(world, warn(), ban(), ban(), Idempotency_Key="one")
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["X-Ledger-Position"] == first.headers["X-Ledger-Position"]
    message = error_of(bulk(world, warn(), Idempotency_Key="one"), 409)
    assert message == "Idempotency-Key was already used with another request"
    assert world.ledger.head() == head
    assert bulk(world, warn()).json()["batch_id"] != bulk(world, warn()).json()["batch_id"]


FAIL = """
    create function fail() returns trigger language plpgsql as $$
    begin
        if new.originator_id ~ '^{stream}$' then
            raise exception 'the server goes away' using errcode = 'admin_shutdown';
        end if;
        return new;
    end
    $$;
    create trigger fail before insert on ledger for each row execute function fail();
"""


def test_a_batch_that_fails_in_the_middle_is_named_so_that_its_part_can_be_looked_up_and_reverted(world: World) -> None:
    before = world.ledger.head()
    world.connection.execute(FAIL.format(stream=f"user:{USER}").encode())
    failed = bulk(world, warn(), warn(OTHER_USER))
    assert error_of(failed, 503) == "Database unavailable"
    world.connection.execute("drop function fail cascade")
    (done,) = world.ledger.read(before, 100)
    assert (done.stream, str(done.causation_id)) == (f"user:{OTHER_USER}", failed.headers["X-Batch-ID"])
    log = world.get(f"/v1/admin/audit/logs?correlation_id={failed.json()['correlation_id']}", ADMIN).json()
    assert [(one["id"], one["event_metadata"]["batch_id"]) for one in log["items"]] == [
        (done.position, failed.headers["X-Batch-ID"])
    ]
    reverted = world.post(f"/v1/admin/punishments/bulk/{failed.headers['X-Batch-ID']}/revert", ADMIN, WHY)
    assert (statuses(reverted), ids(reverted)) == ([200], [done.position])
    assert "X-Batch-ID" not in reverted.headers


@pytest.mark.parametrize("target", [USER, OTHER_USER])
def test_when_the_database_goes_away_in_the_middle_the_retry_does_each_once(world: World, target: int) -> None:
    items = [warn(), ban(), warn(OTHER_USER), {"action": "warn", "target": "guild", "id": GUILD, **WHY}]
    before = world.ledger.head()
    world.connection.execute(FAIL.format(stream=f"user:{target}").encode())
    assert error_of(bulk(world, *items, Idempotency_Key="one"), 503) == "Database unavailable"
    done = world.ledger.read(before, 100)
    assert {event.stream for event in done} == {f"user:{USER}", f"user:{OTHER_USER}", f"guild:{GUILD}"} - {
        f"user:{target}"
    }
    world.connection.execute("drop function fail cascade")
    world.now = world.later(minutes=1)
    response = bulk(world, *items, Idempotency_Key="one")
    assert statuses(response) == [200] * 4
    events = world.ledger.read(before, 100)
    assert events[: len(done)] == done
    assert len(events) == 4
    assert {event.causation_id for event in events} == {UUID(response.json()["batch_id"])}
    assert {event.position for event in done} < set(ids(response))
    assert int(response.headers["X-Ledger-Position"]) == world.ledger.head()
    assert bulk(world, *items, Idempotency_Key="one").content == response.content


def test_no_target_is_begun_once_the_database_is_gone(world: World) -> None:
    assert SIDE_BY_SIDE == 8
    items = [warn(target) for target in range(2_000, 2_020)]
    before = world.ledger.head()
    # Only for those that are begun first, so that the others could be done.
    world.connection.execute(FAIL.format(stream="user:200[0-7]").encode())
    assert error_of(bulk(world, *items, Idempotency_Key="one"), 503) == "Database unavailable"
    assert world.ledger.head() == before
    world.connection.execute("drop function fail cascade")
    assert statuses(bulk(world, *items, Idempotency_Key="one")) == [200] * len(items)
    assert len(world.ledger.read(before, 100)) == len(items)


def test_when_a_server_dies_before_its_answer_the_retry_gives_it(world: World) -> None:
    first = bulk(world, warn(), ban(), warn(OTHER_USER), Idempotency_Key="one")
    head = world.ledger.head()
    # What such a server leaves behind: the events, and the mark without an answer.
    world.connection.execute("update idempotency_keys set status = null, body = null")
    world.now = world.later(minutes=1)
    again = bulk(world, warn(), ban(), warn(OTHER_USER), Idempotency_Key="one")
    assert again.content == first.content
    assert "Idempotency-Replayed" not in again.headers
    assert again.headers["X-Ledger-Position"] == first.headers["X-Ledger-Position"]
    assert world.ledger.head() == head


@pytest.mark.usefixtures("unfolded")
def test_two_batches_at_once_on_the_same_targets_lose_and_double_nothing(world: World) -> None:
    targets = range(2_000, 2_030)
    items = {"items": [item for target in targets for item in (ban(target), warn(target))]}
    world.catch_up()
    world.catching_up = False
    headers = {"Cookie": f"{COOKIE}={world.token(ADMIN)}"}
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: world.client.post(BULK, json=items, headers=headers), range(2)))
    one, other = (statuses(response) for response in both)
    assert sorted(zip(one[::2], other[::2], strict=True)) == sorted(
        zip(one[::2], (409 if status == 200 else 200 for status in one[::2]), strict=True)
    )
    assert one[1::2] == other[1::2] == [200] * 30
    for target in targets:
        assert len(world.ledger.load([f"user:{target}"])[f"user:{target}"]) == 3
    positions = [max(ids(response)) for response in both]
    assert [int(response.headers["X-Ledger-Position"]) for response in both] == positions


# -- revert


def test_a_revert_lifts_what_the_batch_issued_and_is_still_active(world: World) -> None:
    earlier = world.post(f"/v1/admin/punishments/user/{OTHER_USER}/ban", ADMIN, WHY).json()["id"]
    batch = bulk(world, warn(), ban(), ban(), lift(earlier), warn(OTHER_USER))
    assert statuses(batch) == [200, 200, 409, 200, 200]
    world.now = world.later(minutes=1)
    issued = [batch.json()["results"][index]["punishment"]["id"] for index in (0, 1, 4)]
    world.post(f"/v1/admin/punishments/{issued[0]}/lift", ADMIN, WHY)
    response = revert(world, batch.json()["batch_id"])
    assert statuses(response) == [409, 200, 200]
    assert [result["index"] for result in response.json()["results"]] == [0, 1, 4]
    assert response.json()["batch_id"] != batch.json()["batch_id"]
    assert errors(response)[0] == f"Punishment {issued[0]} has already ended (lifted)"
    lifted = response.json()["results"][1]["punishment"]
    assert lifted == world.get(f"/v1/admin/punishments/{issued[1]}", ADMIN).json()
    assert (lifted["is_lifted"], lifted["lifted_at"]) == (True, "2026-03-10T12:01:00Z")
    assert int(response.headers["X-Ledger-Position"]) == world.ledger.head()
    # What the batch lifted stays lifted.
    assert world.get(f"/v1/admin/punishments/{earlier}", ADMIN).json()["is_lifted"] is True
    history = world.get(f"/v1/admin/punishments/{issued[1]}/history", ADMIN).json()["history"]
    assert (history[1]["event_type"], history[1]["reason"]) == ("lifted", "wrong list")


def test_reverted_twice_nothing_is_left_to_lift(world: World) -> None:
    batch_id = bulk(world, warn(), ban(OTHER_USER)).json()["batch_id"]
    assert statuses(revert(world, batch_id)) == [200, 200]
    head = world.ledger.head()
    again = revert(world, batch_id)
    assert statuses(again) == [409, 409]
    assert world.ledger.head() == head
    assert int(again.headers["X-Ledger-Position"]) == head


def test_a_revert_is_repeated_like_any_command(world: World) -> None:
    batch_id = bulk(world, warn(), ban(OTHER_USER)).json()["batch_id"]
    first = revert(world, batch_id, Idempotency_Key="undo")
    again = revert(world, batch_id, Idempotency_Key="undo")
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"
    world.connection.execute("update idempotency_keys set status = null, body = null")
    head = world.ledger.head()
    assert revert(world, batch_id, Idempotency_Key="undo").content == first.content
    assert world.ledger.head() == head


def test_a_revert_goes_by_the_rank_of_whoever_asks(world: World) -> None:
    batch_id = bulk(world, warn(), ban(OTHER_USER)).json()["batch_id"]
    assert errors(revert(world, batch_id, MODERATOR)) == ["Admin access required"] * 2
    assert errors(revert(world, batch_id, OTHER_ADMIN)) == ["You cannot act on this punishment"] * 2
    assert statuses(revert(world, batch_id, OWNER)) == [200, 200]
    own = bulk(world, warn(), user=MODERATOR).json()["batch_id"]
    assert statuses(revert(world, own, MODERATOR)) == [200]
    assert error_of(revert(world, own, USER), 403) == "Moderator access required"


def test_a_revert_also_lifts_what_replaced_another(world: World) -> None:
    world.post(f"/v1/admin/punishments/user/{USER}/ban", ADMIN, WHY)
    batch = bulk(world, ban(replace=True))
    assert ids(revert(world, batch.json()["batch_id"])) == ids(batch)
    assert world.get("/v1/admin/punishments/search?active_only=true", ADMIN).json()["total"] == 0


def test_a_batch_that_is_not_there_is_not_found(world: World) -> None:
    unknown = "0d4f7a52-3c5e-4d0a-9c53-6a1f6c2b9e10"
    assert error_of(revert(world, unknown), 404) == "Batch not found"
    nothing = bulk(world, {}, ban(ADMIN)).json()["batch_id"]
    assert error_of(revert(world, nothing), 404) == "Batch not found"
    for bad in ("x", "1", unknown[:-1], unknown.replace("-", ""), "{" + unknown + "}"):
        assert error_of(revert(world, bad), 400) == "batch_id must be a UUID"
    assert error_of(world.post(f"{BULK}/{unknown}/revert", ADMIN, {}), 400) == "reason is required"


def test_a_reverted_revert_lifts_nothing(world: World) -> None:
    batch_id = bulk(world, warn()).json()["batch_id"]
    reverted = revert(world, batch_id.upper())
    assert statuses(reverted) == [200]
    assert statuses(revert(world, reverted.json()["batch_id"])) == []

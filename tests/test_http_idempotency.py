"""Idempotency-Key: the first answer again, once acted however often it is sent (api.md §1)."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from httpx import Response

from modledger.http.sessions import COOKIE
from tests.http_client import ADMIN, OTHER_ADMIN, USER, World, error_of, started

WARN = f"/v1/admin/punishments/user/{USER}/warn"
BAN = f"/v1/admin/punishments/user/{USER}/ban"
WHY = {"reason": "spam"}


def send(world: World, key: str, path: str = WARN, body: Any = None, user: int = ADMIN) -> Response:
    return world.post(path, user, body or WHY, headers={"Idempotency-Key": key})


def test_a_repetition_gets_the_first_answer_and_does_nothing(world: World) -> None:
    first = send(world, "one")
    head = world.ledger.head()
    world.now += timedelta(hours=1)
    again = send(world, "one")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    for name in ("X-Ledger-Position", "ETag", "Content-Type"):
        assert again.headers[name] == first.headers[name]
    assert world.ledger.head() == head


def test_without_a_key_each_request_acts(world: World) -> None:
    world.post(WARN, ADMIN, WHY)
    world.post(WARN, ADMIN, WHY)
    assert world.get("/v1/admin/punishments/search", ADMIN).json()["total"] == 2


def test_a_refusal_is_repeated_too(world: World) -> None:
    world.post(BAN, ADMIN, WHY)
    first = send(world, "one", BAN)
    assert first.status_code == 409
    number = world.get("/v1/admin/punishments/search", ADMIN).json()["punishments"][0]["id"]
    world.post(f"/v1/admin/punishments/{number}/lift", ADMIN, WHY)
    again = send(world, "one", BAN)
    assert error_of(again, 409) == error_of(first, 409)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert send(world, "two", BAN).status_code == 200


def test_a_condition_that_cannot_be_read_is_not_kept(world: World) -> None:
    headers = {"Idempotency-Key": "one"}
    error_of(world.post(WARN, ADMIN, WHY, headers={**headers, "If-Match": "unquoted"}), 400)
    again = world.post(WARN, ADMIN, WHY, headers=headers)
    assert again.status_code == 200
    assert "Idempotency-Replayed" not in again.headers


LOCKS = "application_name = 'modledger http locks' and datname = current_database()"


def test_a_lost_connection_of_the_locks_is_replaced_without_anybody_noticing(world: World) -> None:
    assert send(world, "one").status_code == 200
    world.query(f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where {LOCKS}")
    assert send(world, "two").status_code == 200


def test_a_database_that_stops_answering_in_the_middle_holds_up_keyed_requests_only_for_a_while(world: World) -> None:
    assert send(world, "one").status_code == 200
    ((backend,),) = world.query(f"select pid from pg_stat_activity where {LOCKS}")
    os.kill(backend, signal.SIGSTOP)
    try:
        assert error_of(send(world, "two"), 503) == "Database unavailable"
        assert send(world, "two").status_code == 200
    finally:
        os.kill(backend, signal.SIGCONT)


def test_a_key_of_another_request_is_refused(world: World) -> None:
    send(world, "one")
    head = world.ledger.head()
    for path, body in ((WARN, {"reason": "other"}), (BAN, WHY)):
        message = error_of(send(world, "one", path, body), 409)
        assert message == "Idempotency-Key was already used with another request"
    assert world.ledger.head() == head


def test_keys_are_each_actors_own(world: World) -> None:
    send(world, "one")
    other = send(world, "one", user=OTHER_ADMIN)
    assert other.json()["issued_by_discord_id"] == str(OTHER_ADMIN)
    assert "Idempotency-Replayed" not in other.headers


def test_a_key_is_kept_for_a_day(world: World) -> None:
    world.cookies[ADMIN] = world.token(ADMIN, level=0)
    first = send(world, "one").json()["id"]
    world.now += timedelta(hours=23, minutes=59)
    assert send(world, "one").json()["id"] == first
    world.now += timedelta(minutes=2)
    assert send(world, "one").json()["id"] != first
    assert world.query("select count(*) from idempotency_keys") == [(1,)]


def test_old_keys_are_forgotten(world: World) -> None:
    world.cookies[ADMIN] = world.token(ADMIN, level=0)
    for number in range(3):
        send(world, f"old {number}")
    world.now += timedelta(hours=25)
    send(world, "new")
    assert world.query("select key from idempotency_keys") == [("new",)]


@pytest.mark.usefixtures("unfolded")
def test_of_two_at_once_one_runs_and_the_others_get_its_answer(world: World) -> None:
    world.catching_up = False
    world.catch_up()
    headers = {"Idempotency-Key": "one", "Cookie": f"{COOKIE}={world.token(ADMIN)}"}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: world.client.post(WARN, json=WHY, headers=headers), range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 11
    assert len(world.ledger.load([f"user:{USER}"])[f"user:{USER}"]) == 2


def test_of_two_servers_at_once_one_runs_too(world: World) -> None:
    world.catch_up()
    first = world.client
    headers = {"Idempotency-Key": "one", "Cookie": f"{COOKIE}={world.token(ADMIN)}"}
    with started(world):
        clients = [first, world.client] * 6
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda client: client.post(BAN, json=WHY, headers=headers), clients))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 11


def test_a_process_that_died_between_append_and_answer_is_made_up_for(world: World) -> None:
    first = send(world, "one", BAN)
    head = world.ledger.head()
    # What such a process leaves behind: the events, and the mark without an answer.
    world.connection.execute("update idempotency_keys set status = null, body = null")
    world.now += timedelta(minutes=5)
    again = send(world, "one", BAN)
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["X-Ledger-Position"] == first.headers["X-Ledger-Position"]
    assert world.ledger.head() == head


def test_a_process_that_died_before_the_append_is_made_up_for(world: World) -> None:
    world.connection.execute(
        "insert into idempotency_keys (actor, key, fingerprint, created_at)"
        " select %s, 'one', sha256(convert_to(%s, 'utf8')), %s",
        (f"user:{ADMIN}", f'POST\n{WARN}\n{{"reason":"spam"}}', world.now),
    )
    assert send(world, "one").status_code == 200


def test_what_is_kept_cannot_be_read_from_the_table(world: World) -> None:
    send(world, "one", body={"reason": "something about a person"})
    ((kept,),) = world.query("select body from idempotency_keys")
    assert b"person" not in kept


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "schlüssel".encode(), b"\xff"])
def test_a_bad_key_is_refused(world: World, key: str | bytes) -> None:
    headers: Any = {"Idempotency-Key": key}
    message = error_of(world.post(WARN, ADMIN, WHY, headers=headers), 400)
    assert message == "Idempotency-Key must be 1 to 255 printable ASCII characters"


@pytest.mark.parametrize("key", ["x", "~" * 255, "with space", "{}"])
def test_any_printable_key_will_do(world: World, key: str) -> None:
    assert send(world, key).status_code == 200
    assert send(world, key).headers["Idempotency-Replayed"] == "true"


def test_logging_in_and_out_can_be_repeated_too(world: World) -> None:
    world.post("/v1/authentication/request", json={"discord_id": USER})
    bot = {"X-API-Key": world.bot_key(), "Idempotency-Key": "fetch"}
    code = world.post("/v1/authentication/bot/login-code", json={"discord_id": USER}, headers=bot).json()["code"]
    again = world.post("/v1/authentication/bot/login-code", json={"discord_id": USER}, headers=bot)
    assert again.json()["code"] == code
    verify = {"Idempotency-Key": "verify"}
    first = world.post("/v1/authentication/verify", json={"code": code}, headers=verify)
    second = world.post("/v1/authentication/verify", json={"code": code}, headers=verify)
    assert second.status_code == 200
    assert second.headers["Set-Cookie"] == first.headers["Set-Cookie"]
    assert world.query("select count(*) from sessions") == [(1,)]


# What was so when the claim of a key was committed, and when the first event after it was on its way into the ledger.
WATCHED = """
    create table watched (what text, claimed boolean, setting text, written pg_lsn, flushed pg_lsn);
    create function watch() returns trigger language plpgsql security definer as $$
    begin
        insert into watched select tg_argv[0], exists (select from idempotency_keys where key = 'one'),
            current_setting('synchronous_commit'), pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn();
        return null;
    end $$;
    create constraint trigger claims after insert on idempotency_keys deferrable initially deferred
        for each row execute function watch('claim');
    create trigger events after insert on ledger for each statement execute function watch('command');
"""


def test_the_claim_of_a_key_is_on_the_disk_before_its_command_is_in_the_ledger(world: World) -> None:
    # The suite's server commits without waiting for the disk, unless it is told otherwise.
    name = world.connection.info.dbname
    world.connection.execute(f"alter database {name} set synchronous_commit = on".encode())
    world.connection.execute(WATCHED)
    assert send(world, "one").status_code == 200
    claim, command = world.query("select * from watched order by written")
    assert (claim[:3], command[:2]) == (("claim", True, "on"), ("command", True))
    # The trigger of the claim is the last that its transaction does, so what comes after it is the commit.
    ((flushed,),) = world.query("select %s::pg_lsn > %s::pg_lsn", command[4], claim[3])
    assert flushed

"""Verification finds whatever was planted in read tables and ledger, names it, and finds nothing where nothing is."""

import os
import subprocess
import threading
from base64 import b64encode
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from bench.history import fill, history
from modledger.domain import events
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import permission_history, profile
from modledger.projections.catalog import PROJECTORS
from modledger.projections.ledger_verification import verify_ledger
from modledger.projections.projector import Projector
from modledger.projections.samples import remember, verify_sample
from modledger.projections.verification import verify_projector
from modledger.workers.runner import catch_up
from modledger.workers.verifier import run_verifier
from tests.databases import MASTER_KEY
from tests.forked import modledger
from tests.http_client import World
from tests.projection_history import NOW, Happened, append
from tests.random_history import histories
from tests.test_runner import eventually

BY_NAME = {projector.name: projector for projector in PROJECTORS}


def found(database: str, ledger: PostgresLedger, name: str) -> list[tuple[str, str, str | None, str | None]]:
    """Of a projector, or the ledger: where, field, expected, found."""
    differences = (
        verify_ledger(database, ledger) if name == "ledger" else verify_projector(database, BY_NAME[name], ledger)
    )
    return [(one.where, one.field, one.expected, one.found) for one in differences]


def verified(*arguments: str, database: str) -> subprocess.CompletedProcess[str]:
    on = {"MODLEDGER_DATABASE_URL": database, "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode()}
    return modledger(["verify", *arguments], {**os.environ, **on})


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happened=histories(least=5, most=60))
def test_whatever_happened_the_tables_are_what_the_ledger_says(database: str, happened: list[Happened]) -> None:
    with PostgresLedger(database, MASTER_KEY, connections=2) as ledger:
        # A ledger cannot be emptied, so each history is one of other subjects.
        apart = 1000 * (ledger.head() + 1)
        versions: dict[str, int] = {}
        for one in happened:
            kind, _, number = one.stream.partition(":")
            append(ledger, versions, msgspec.structs.replace(one, stream=f"{kind}:{apart + int(number)}"))
        catch_up(ledger, database, PROJECTORS)
        for name in BY_NAME:
            assert found(database, ledger, name) == []
        assert [one for one in found(database, ledger, "ledger") if "future" not in one[1]] == []


PLANTED: list[tuple[str, str, str, list[tuple[str, str, str | None, str | None]]]] = [
    (
        "profile",
        "a changed field",
        "update profiles set level = 3, prefix = '?' where user_id = 2",
        [("(user_id=2)", "level", "2", "3"), ("(user_id=2)", "prefix", '"!"', '"?"')],
    ),
    (
        "punishments",
        "a value that is none",
        "update punishments set ended_kind = 'forgiven' where ctid = (select min(ctid) from punishments)",
        [("(stream=", "ended_kind", "", '"forgiven"')],
    ),
    (
        "guilds",
        "a missing row",
        "delete from guilds where guild_id = 50",
        [("(guild_id=50)", "row is missing", "", None), ("guild_counts (", "total", "", "")],
    ),
    (
        "guilds",
        "a row of nobody",
        "insert into guilds select (json_populate_record(g, '{\"guild_id\": 77}')).* from guilds g limit 1",
        [("(guild_id=77)", "row is one too many", None, ""), ("guild_counts (", "total", "", "")],
    ),
    (
        "punishments",
        "a further row of somebody",
        (
            "insert into punishments select"
            ' (json_populate_record(p, \'{"number": 99, "id": 99999, "ordinal": 99999}\')).*'
            " from punishments p where open limit 1"
        ),
        [("number=99)", "row is one too many", None, ""), ("punishment_counts (", "total", "", "")],
    ),
    (
        "punishments",
        "a wrong count",
        "update punishment_counts set total = total + 7 where (guild_id, issued_by, type, week) = (0, 0, 1, 0)",
        [("punishment_counts (guild_id=0, issued_by=0, type=1, week=0)", "total", "", "")],
    ),
    (
        "profile",
        "a count too many",
        "insert into profile_counts values (false, 2, 3, 3, 5)",
        [("profile_counts (registered=False, held=2, level=3, tier=3)", "row is one too many", None, "")],
    ),
    (
        "audit_log",
        "a changed part of a primary key",
        "update audit_log set occurred_at = '2020-01-01' where position = 12",
        [("(position=12)", "occurred_at", "", '"2020-01-01T00:00:00Z"'), ("audit_log_counts (", "", "", "")],
    ),
    (
        "audit_log",
        "a row twice",
        (
            "insert into audit_log select position, event_type, entity_id, actor_id, '2020-01-01', correlation_id from"
            " audit_log where position = 10"
        ),
        [("(position=10)", "row is there 2 times", None, None)],
    ),
    (
        "ledger",
        "a hole in a stream",
        (
            "delete from ledger where notification_id ="
            " (select max(notification_id) from ledger where originator_version = 1 and originator_id in"
            " (select originator_id from ledger where originator_version = 2))"
        ),
        [("at position", "version 1 is missing", "1", "2")],
    ),
    (
        "ledger",
        "an event that cannot be read",
        "update ledger set state = '{}' where notification_id = 500",
        [("at position 500", "cannot be read: ", None, None)],
    ),
    (
        "ledger",
        "one byte of an event's text",
        (
            "update ledger set state = overlay(state placing 'A' from position('\"text\":\"'::bytea in state) + 20)"
            " where notification_id = (select min(notification_id) from ledger where topic = 'user.banned.v1')"
        ),
        [("at position", "cannot be read: ", None, None)],
    ),
    (
        "ledger",
        "a time that goes back",
        "update ledger set recorded_at = recorded_at - interval '1 day' where notification_id = 400",
        [("at position 400", "recorded_at goes back", ">= ", "")],
    ),
    (
        "ledger",
        "an act of the future",
        "update ledger set recorded_at = '2020-01-01' where notification_id = 1",
        [("at position 1", "occurred_at is in the future", "<= 2020-01-01T00:05:00+00:00", "")],
    ),
    (
        "ledger",
        "another actor in the column than in the event",
        "update ledger set actor = 'user:666' where notification_id = 300",
        [("at position 300", "actor", "", "user:666")],
    ),
    (
        "ledger",
        "versions in another order than positions",
        (
            "update ledger set notification_id = 1000000 where notification_id ="
            " (select max(notification_id) from ledger where originator_version = 1 and originator_id in"
            " (select originator_id from ledger where originator_version = 2))"
        ),
        [("", "stands before the version that it follows", "> 1000000", "")],
    ),
]


def plant_in(folded: psycopg.Connection, *statements: str) -> None:
    folded.execute(
        "alter table ledger disable trigger all; alter table ledger alter column notification_id drop identity"
    )
    for statement in statements:
        assert folded.execute(statement.encode()).rowcount == 1, statement


# That nothing is found before, in a copy of the same database, is shown on the command line.
@pytest.mark.parametrize(
    ("name", "plant", "expected"), [(n, p, e) for n, _, p, e in PLANTED], ids=[p[1] for p in PLANTED]
)
def test_what_was_planted_is_found_and_named(
    folded: psycopg.Connection, database: str, ledger: PostgresLedger, name: str, plant: str, expected: list[Any]
) -> None:
    plant_in(folded, plant)
    told = found(database, ledger, name)
    assert told != []
    for where, field, wanted, there in expected:
        assert any(
            where in one[0]
            and field in one[1]
            and (one[2] is None if wanted is None else wanted in str(one[2]))
            and (one[3] is None if there is None else there in str(one[3]))
            for one in told
        ), (where, field, told)


@pytest.mark.parametrize("name", sorted({name for name, *_ in PLANTED}))
def test_all_that_was_planted_is_named_on_the_command_line(
    folded: psycopg.Connection, database: str, name: str
) -> None:
    planted = [one for one in PLANTED if one[0] == name]
    plant_in(folded, *(plant for _, _, plant, _ in planted))
    done = verified(name, database=database)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done
    for _, _, _, ((where, field, *_), *_) in planted:
        assert any(where in line and field in line for line in done.stdout.splitlines()), (where, field, done.stdout)


def test_nothing_planted_nothing_found_on_the_command_line(folded: psycopg.Connection, database: str) -> None:
    for arguments in ([], ["profile", "ledger"], ["--sample", "50"]):
        done = verified(*arguments, database=database)
        assert (done.returncode, done.stderr) == (0, ""), done
        assert "profile: as it should be" in done.stdout
    for arguments in (["nonsense"], ["--sample", "0"]):
        done = verified(*arguments, database=database)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    assert (
        "there is no projection 'nonsense'; there are ledger, profile" in verified("nonsense", database=database).stderr
    )


def test_an_event_that_cannot_be_read_any_more_does_not_hide_what_else_is_wrong(
    folded: psycopg.Connection, database: str, ledger: PostgresLedger
) -> None:
    folded.execute("alter table ledger disable trigger all")
    stream, position = folded.execute(
        "update ledger set state = '{}' where notification_id ="
        " (select max(notification_id) from ledger where topic = 'user.banned.v1')"
        " returning originator_id, notification_id"
    ).fetchone() or ("", 0)
    others = folded.execute(
        "update profiles set prefix = '?' where user_id in (1, 40, 80) and 'user:' || user_id <> %s returning user_id",
        (stream,),
    ).fetchall()
    told = found(database, ledger, "profile")
    assert [one for one in told if f"user.banned.v1 at position {position}" in one[1]] != []
    assert {one[0] for one in told if one[1] == "prefix"} == {f"(user_id={user_id})" for (user_id,) in others}


def test_text_that_was_erased_before_the_projector_came_to_it_is_no_difference(
    folded: psycopg.Connection, database: str, ledger: PostgresLedger
) -> None:
    last = ledger.load(["user:1"])["user:1"][-1].version
    append(ledger, {"user:1": last}, Happened("user:1", events.SubjectErased(reason="asked for")))
    waited = threading.Timer(0.5, catch_up, (ledger, database, PROJECTORS))
    waited.start()
    assert found(database, ledger, "profile") == []
    waited.join()
    assert found(database, ledger, "profile") == []
    assert folded.execute("select username from profiles where user_id = 1").fetchone() == (None,)


def test_a_verification_while_the_projectors_are_at_work_finds_nothing(database: str, ledger: PostgresLedger) -> None:
    # Of forty further batches each may come between the two snapshots of a verification; how long each is, or how
    # much there was before, adds only to what is compared.
    whole, over = history(1_200), threading.Event()
    fill(ledger, whole[:400])
    catch_up(ledger, database, PROJECTORS)

    def go_on() -> None:
        for n in range(400, 1_200, 20):
            fill(ledger, whole[n : n + 20])
            catch_up(ledger, database, PROJECTORS)
        over.set()

    thread = threading.Thread(target=go_on)
    thread.start()
    told = []
    while not over.is_set():
        for name in ("profile", "punishments", "audit_log"):
            told += found(database, ledger, name)
    thread.join()
    assert told == []


def sample(
    folded: psycopg.Connection, database: str, ledger: PostgresLedger, seed: int, size: int = 20
) -> dict[str, int]:
    """What a sample finds, and keeps."""
    results = verify_sample(database, PROJECTORS, ledger, size, Random(seed))
    remember(folded, results, NOW, whole=False)
    return {one.subject: len(one.differences) for one in results if one.differences}


def test_what_a_sample_found_is_looked_at_again_until_it_is_mended(
    folded: psycopg.Connection, database: str, ledger: PostgresLedger
) -> None:
    assert sample(folded, database, ledger, 1) == {}
    folded.execute("update profiles set prefix = '?' where user_id = 2")
    folded.execute("insert into permission_history select 5000, 5000, 0, 1, 'planted', null, now()")
    folded.execute("update permission_history set reason = 'planted' where user_id = 3")
    assert {name: count for name, count in sample(folded, database, ledger, 2, 1_000).items() if name != "profile"} == {
        "permission_history": 2
    }
    for seed in range(3, 8):
        # So few that they would hardly be drawn again.
        assert sample(folded, database, ledger, seed, 1)["permission_history"] >= 1
        assert sample(folded, database, ledger, seed, 1)["profile"] == 1
    folded.execute("update profiles set prefix = '!' where user_id = 2")
    folded.execute("delete from permission_history where user_id = 5000")
    folded.execute("update permission_history set reason = 'Joined staff' where user_id = 3")
    assert sample(folded, database, ledger, 8) == {}
    assert folded.execute("select sum(differences) from verifications").fetchone() == (0,)


def test_a_damaged_event_that_a_sample_found_is_looked_at_again(
    folded: psycopg.Connection, database: str, ledger: PostgresLedger
) -> None:
    folded.execute("alter table ledger disable trigger all")
    folded.execute("update ledger set via = 'cli' where notification_id = 500")
    assert sample(folded, database, ledger, 1, 2_000) == {"ledger": 1}
    assert sample(folded, database, ledger, 2, 1) == {"ledger": 1}
    folded.execute("update ledger set via = 'http' where notification_id = 500")
    assert sample(folded, database, ledger, 3, 1) == {}


def test_the_worker_verifies_all_the_time_and_health_names_what_it_found(world: World) -> None:
    world.catch_up()
    assert world.get("/health").json()["status"] == "healthy"
    stop = threading.Event()
    projectors: list[Projector[Any]] = [profile.PROJECTOR, permission_history.PROJECTOR]
    thread = run_verifier(world.ledger, world.database, projectors, lambda: datetime.now(UTC), stop, every=0.05)
    try:
        eventually(lambda: world.query("select count(*) from verifications") == [(3,)])
        assert world.get("/health").json()["errors"] == []
        world.connection.execute("update profiles set level = 2 where user_id = 4")
        eventually(lambda: world.get("/health").json()["status"] == "degraded")
        health = world.get("/health").json()
        assert health["errors"] == ["The tables of profile differ from the ledger: modledger verify tells in what"]
        world.connection.execute("update profiles set level = 0 where user_id = 4")
        eventually(lambda: world.get("/health").json()["errors"] == [])
    finally:
        stop.set()
        thread.join()

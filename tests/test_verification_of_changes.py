"""Every column of an event that somebody changes in SQL is found: by the seal whatever it is, by the ledger's own
verification also where the changed row makes sense, and without any seal as far as it can be."""

import os
from base64 import b64encode
from collections.abc import Iterator

import psycopg
import pytest
from msgspec.structs import replace

from bench.history import fill, history
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.ledger_verification import BATCH, verify_ledger
from modledger.workers.seal_check import Report, examine, stored
from modledger.workers.seal_key import public_keys
from modledger.workers.sealer import seal
from tests.databases import MASTER_KEY
from tests.forked import modledger
from tests.sealing import NOW, SEED, begun, unguarded

BAN = "(select min(notification_id) from ledger where topic = 'user.banned.v1' and originator_version < 4)"
LAPSE = "(select max(notification_id) from ledger where topic = 'punishment.lapsed.v1')"

# Dates as text: Python has no infinity of them.
ROW = (
    "select notification_id, originator_id, originator_version, topic, state, recorded_at::text, command_id, actor, via"
    " from ledger"
)


def state(pattern: str, by: str) -> str:
    """Something else in the stored JSON."""
    return f"state = convert_to(regexp_replace(convert_from(state, 'UTF8'), '{pattern}', '{by}'), 'UTF8')"


# What is changed of which event, and whether it is found at its position without a seal.
CHANGES = [
    (BAN, "state = set_byte(state, 3, get_byte(state, 3) # 1)", True),
    (BAN, "state = overlay(state placing 'A' from position('\"text\":\"'::bytea in state) + 20)", True),
    (BAN, state('"generation":0', '"generation":7'), False),
    (BAN, state('"expires_at":[^}]*', '"expires_at":"2031-01-01T00:00:00Z"'), False),
    (BAN, state('"correlation_id":"....', '"correlation_id":"1234'), False),
    (BAN, state('"event_id":"....', '"event_id":"1234'), True),
    (BAN, state('"occurred_at":"....', '"occurred_at":"2999'), True),
    (BAN, state('"occurred_at":"....', '"occurred_at":"2023'), False),
    (BAN, state('"actor":{[^}]*}', '"actor":{"kind":"operator"}'), True),
    (LAPSE, state('"number":[0-9]*', '"number":77'), False),
    (BAN, "topic = 'user.registered.v1'", False),
    (LAPSE, "topic = 'punishment.lifted.v1'", True),
    (BAN, "topic = 'user.banned.v9'", True),
    (BAN, "originator_id = originator_id || '0000'", True),
    (BAN, "originator_version = originator_version + 100", True),
    (BAN, "recorded_at = recorded_at - interval '1 day'", True),
    (LAPSE, "recorded_at = 'infinity'", True),
    (LAPSE, "recorded_at = recorded_at + interval '1 microsecond'", False),
    (BAN, "command_id = gen_random_uuid()", False),
    (BAN, "command_id = null", False),
    (BAN, "actor = 'user:666'", True),
    (BAN, "via = 'cli'", True),
]


@pytest.fixture
def conn(database: str, ledger: PostgresLedger) -> Iterator[psycopg.Connection]:
    """Of a ledger of which nothing is sealed yet."""
    fill(ledger, history(400))
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def positions_by_verification(database: str, ledger: PostgresLedger) -> set[int]:
    return {int(one.where.rpartition(" ")[2]) for one in verify_ledger(database, ledger)}


def positions_by_seal(conn: psycopg.Connection) -> set[int | None]:
    report = Report()
    examine(report, stored(conn), public_keys(conn))
    return {finding.position for finding in report.findings}


def test_each_changed_column_is_found_at_its_position(
    conn: psycopg.Connection, database: str, ledger: PostgresLedger
) -> None:
    without = {}
    for sealed in (False, True):
        if sealed:
            seal(conn, begun(conn), NOW)
        assert positions_by_verification(database, ledger) == positions_by_seal(conn) == set()
        for where, change, _ in CHANGES:
            row = conn.execute(f"{ROW} where notification_id = {where}".encode()).fetchone()
            assert row is not None
            unguarded(conn, f"update ledger set {change} where notification_id = %s", row[0])
            now = conn.execute(f"{ROW} where notification_id = %s".encode(), (row[0],)).fetchone()
            assert now != row, change
            told = positions_by_verification(database, ledger)
            if sealed:
                assert row[0] in told, change
                assert positions_by_seal(conn) == {row[0]}, change
            else:
                without[change] = row[0] in told
                assert positions_by_seal(conn) == set()
            unguarded(
                conn,
                "update ledger set originator_id = %s, originator_version = %s, topic = %s, state = %s,"
                " recorded_at = %s::timestamptz, command_id = %s, actor = %s, via = %s where notification_id = %s",
                *row[1:],
                row[0],
            )
    assert without == {change: alone for _, change, alone in CHANGES}


def test_what_was_deleted_put_in_or_taken_from_the_end_is_found_at_its_position(
    conn: psycopg.Connection, database: str, ledger: PostgresLedger
) -> None:
    seal(conn, begun(conn), NOW)
    unguarded(conn, "delete from ledger where notification_id in (100, 399, 400)")
    assert {100, 399, 400} <= positions_by_verification(database, ledger)
    unguarded(
        conn,
        "insert into ledger overriding system value"
        " select 100, 'user:9000', 1, topic, state, recorded_at, null, actor, via from ledger"
        " where notification_id = 101",
    )
    told = [one.field for one in verify_ledger(database, ledger) if one.where.endswith(" 100")]
    assert "is not what was sealed" in told


def test_what_is_appended_after_the_seal_is_no_difference(
    conn: psycopg.Connection, database: str, ledger: PostgresLedger
) -> None:
    seal(conn, begun(conn), NOW)
    fill(ledger, [replace(one, stream=f"{one.stream}000") for one in history(300, seed=2)])
    assert positions_by_verification(database, ledger) == set()
    seal(conn, begun(conn), NOW)
    assert positions_by_verification(database, ledger) == set()


def test_an_event_between_two_batches_is_told_once(
    conn: psycopg.Connection, database: str, ledger: PostgresLedger
) -> None:
    fill(ledger, [replace(one, stream=f"{one.stream}000") for one in history(BATCH, seed=2)])
    unguarded(conn, "update ledger set via = 'cli' where notification_id = %s", BATCH)
    assert [one.field for one in verify_ledger(database, ledger)] == ["via"]


def test_the_command_names_the_position_and_so_does_the_check_of_the_seal(
    conn: psycopg.Connection, database: str
) -> None:
    seal(conn, begun(conn), NOW)
    unguarded(conn, "update ledger set command_id = null where notification_id = 250")
    environment = {
        **os.environ,
        "MODLEDGER_DATABASE_URL": database,
        "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode(),
        "MODLEDGER_SEAL_KEY": b64encode(SEED).decode(),
    }
    for arguments in (["verify", "ledger"], ["seal", "check"]):
        done = modledger(arguments, environment)
        assert (done.returncode, "position 250" in done.stdout, "Traceback" in done.stderr) == (1, True, False), done

"""Databases as each earlier version left them, brought to now by ``modledger migrate`` (tests/old_databases.py)."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from modledger.domain.commands import Context, IssueWarning
from modledger.domain.envelope import OPERATOR
from modledger.domain.events import SubjectErased, UserBanned, UserRegistered, UserWarned
from modledger.domain.execute import execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.projections.catalog import PROJECTORS
from modledger.projections.ledger_verification import verify_ledger
from modledger.projections.verification import verify_projector
from modledger.workers.migrate import migrations, require_migrated
from modledger.workers.seal_check import Report, examine, stored
from modledger.workers.seal_key import public_keys, signing_key
from modledger.workers.sealer import seal
from tests.old_databases import sql_of
from tests.old_databases import stored as stored_databases
from tests.old_history import ANNA, AT, CODES, GONE, MASTER_KEY, NAMES, REASONS, SEAL_KEY, SEALS
from tests.test_cli import modledger, on

Rows = dict[str, list[dict[str, Any]]]
# What tells of read tables and of rebuilds is as the program makes it; the rest is the users'.
OURS = {"migrations", "read_models", "projection_tracking", "projection_failures", "replays", "replay_parts"}
OURS |= {table.name for projector in PROJECTORS for table in (projector.table, *projector.beside)}
# Of versions before.
OURS |= {"punishment_marks"}


def kept_rows(conninfo: str) -> Rows:
    """Every row of every table that no program can make anew."""
    with psycopg.connect(conninfo) as connection:
        names = [
            name
            for (name,) in connection.execute("select tablename from pg_tables where schemaname = 'public' order by 1")
            if name not in OURS
        ]
        return {
            name: [
                row for (row,) in connection.execute(f"select to_json(t) from {name} as t order by t::text".encode())
            ]
            for name in names
        }


@pytest.fixture(params=sorted(stored_databases()), ids=lambda number: f"{number:04}")
def number(request: pytest.FixtureRequest) -> int:
    """The last migration of a stored database."""
    return int(request.param)


@pytest.fixture
def old(empty_database: str, number: int) -> str:
    """A database as that version left it."""
    with psycopg.connect(empty_database) as connection:
        connection.execute(sql_of(number).encode())
    return empty_database


def test_there_is_a_stored_database_of_every_earlier_migration() -> None:
    assert {file.number for file in migrations()[:-1]} <= stored_databases().keys()


def test_migrate_brings_it_to_now_and_everything_that_was_in_it_is_there(old: str, number: int) -> None:
    before = kept_rows(old)
    assert len(before["ledger"]) > 15
    done = modledger("migrate", **on(old, key=MASTER_KEY))
    assert done.returncode == 0, done
    require_migrated(old)
    after = kept_rows(old)
    for name, rows in before.items():
        assert [{key: row[key] for key in then if key in row} for then, row in zip(rows, after[name], strict=True)] == [
            {key: value for key, value in row.items() if key in after[name][0]} for row in rows
        ], name

    with PostgresLedger(old, MASTER_KEY) as ledger:
        # The text opens with the key of then, and what was erased does not.
        assert [one.event.username for one in of_type(ledger, 3, UserRegistered)] == [NAMES[3]]
        assert [one.event.reason for one in of_type(ledger, ANNA.id, UserBanned)] == REASONS[:2]
        assert [one.event.reason for one in of_type(ledger, ANNA.id, UserWarned)] == REASONS[2:]
        assert [one.event.reason for one in of_type(ledger, GONE.id, UserWarned)] == ["[erased]"]
        assert len(of_type(ledger, GONE.id, SubjectErased)) == 1

        # Read tables are filled, and agree with the ledger field by field.
        with psycopg.connect(old) as connection:
            found = connection.execute("select user_id, username from profiles order by 1").fetchall()
        assert found == [(1, NAMES[1]), (2, NAMES[2]), (3, "Bertram"), (4, None)]
        for projector in PROJECTORS:
            assert list(verify_projector(old, projector, ledger)) == [], projector.name
        assert list(verify_ledger(old, ledger)) == []

        # And life goes on.
        context = Context(actor=OPERATOR, at=AT + timedelta(days=1), command_id=CODES, correlation_id=CODES, via="cli")
        outcome = execute(ledger, IssueWarning(target=ANNA, reason="afterwards"), context)
        assert outcome.position == max(row["notification_id"] for row in before["ledger"]) + 1
    if number >= SEALS:
        check_seals(old)


def of_type(ledger: PostgresLedger, user_id: int, kind: type[Any]) -> list[Any]:
    stream = f"user:{user_id}"
    return [one for one in ledger.load([stream])[stream] if isinstance(one.event, kind)]


def check_seals(conninfo: str) -> None:
    """Heads of then prove the ledger of now, also once it has grown."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        heads = [note for (note,) in connection.execute("select note from seals")]
        assert len(heads) == 1
        seal(connection, signing_key(Settings(seal_key=SEAL_KEY), connection), AT + timedelta(days=2))
        report = Report()
        examine(report, stored(connection), public_keys(connection), heads)
        assert (report.findings, report.heads) == ([], 2)

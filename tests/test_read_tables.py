"""Read tables are disposable: what was made by another version of the program is made anew and folded again."""

import threading
from collections.abc import Collection
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import psycopg
import pytest

from modledger.domain import commands
from modledger.domain.commands import Context
from modledger.domain.envelope import OPERATOR, Subject
from modledger.domain.execute import execute
from modledger.domain.ledger import Passage
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import punishments
from modledger.projections.catalog import PROJECTORS, create_missing, outdated
from modledger.projections.projector import Fenced, advance
from modledger.workers.migrate import MigrationError, migrate, require_migrated
from modledger.workers.replay import rebuild_outdated
from modledger.workers.runner import catch_up
from tests.databases import MASTER_KEY

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def warned(ledger: PostgresLedger, user_id: int) -> None:
    command = commands.IssueWarning(target=Subject("user", user_id), reason="spam")
    execute(ledger, command, Context(actor=OPERATOR, at=NOW, command_id=uuid4(), correlation_id=uuid4(), via="cli"))


def rows(database: str) -> list[tuple[int, str]]:
    with psycopg.connect(database) as connection:
        return connection.execute("select user_id, reason from punishments order by id").fetchall()


def test_a_table_of_an_older_shape_is_left_by_migrate_and_rebuilt(ledger: PostgresLedger, database: str) -> None:
    warned(ledger, 1)
    catch_up(ledger, database, PROJECTORS)
    with psycopg.connect(database) as connection:
        connection.execute("alter table punishment_counts drop column week cascade")
        connection.execute("update read_models set fingerprint = 'of an older program' where projector = 'punishments'")

    with pytest.raises(
        MigrationError, match="read tables of punishments are of another version: run modledger migrate"
    ):
        require_migrated(database)
    migrate(database)
    assert rows(database) == [(1, "spam")]
    assert rebuild_outdated(ledger, database, PROJECTORS, threading.Event()) == ["punishments"]

    require_migrated(database)
    assert rows(database) == [(1, "spam")]
    warned(ledger, 2)
    catch_up(ledger, database, PROJECTORS)
    assert rows(database) == [(1, "spam"), (2, "spam")]


def test_a_new_version_of_a_fold_alone_makes_its_tables_anew_once(ledger: PostgresLedger, database: str) -> None:
    warned(ledger, 1)
    catch_up(ledger, database, PROJECTORS)
    newer = [msgspec.structs.replace(punishments.PROJECTOR, version=punishments.PROJECTOR.version + 1)]
    with psycopg.connect(database, autocommit=True) as connection:
        assert outdated(connection) == []
        assert outdated(connection, newer) == ["punishments"]
        assert create_missing(connection, newer) == ["punishments"]
        assert create_missing(connection, newer) == []
    assert rows(database) == []


def test_a_runner_that_was_at_work_while_its_table_was_made_anew_writes_nothing_into_it(
    ledger: PostgresLedger, database: str
) -> None:
    warned(ledger, 1)
    catch_up(ledger, database, PROJECTORS)
    warned(ledger, 2)
    newer = [msgspec.structs.replace(punishments.PROJECTOR, version=punishments.PROJECTOR.version + 1)]

    class SlowLedger(PostgresLedger):
        """Between this read and the write of what it brings, somebody migrates."""

        def read_topics(self, topics: Collection[str], after: int, limit: int) -> Passage:
            passage = super().read_topics(topics, after, limit)
            with psycopg.connect(database, autocommit=True) as other:
                create_missing(other, newer)
            return passage

    with SlowLedger(database, MASTER_KEY) as slow, psycopg.connect(database, autocommit=True) as connection:
        with pytest.raises(Fenced):
            advance(connection, punishments.PROJECTOR, slow, 100)
        assert rows(database) == []


def test_bits_of_marks_stand_in_the_primary_key_of_live_and_of_rebuilt_tables(
    ledger: PostgresLedger, database: str
) -> None:
    warned(ledger, 1)
    catch_up(ledger, database, PROJECTORS)

    def covering() -> list[str]:
        with psycopg.connect(database) as connection:
            return [
                definition.partition(" USING ")[2]
                for (definition,) in connection.execute(
                    "select indexdef from pg_indexes where indexname ~ 'marks_pkey$' order by indexname"
                )
            ]

    live = covering()
    assert live == ["btree (kind, value, span) INCLUDE (bits)"] * 2
    with psycopg.connect(database) as connection:
        connection.execute("update read_models set fingerprint = 'older' where projector ~ '^punishment'")
    names = ["punishment_history", "punishments"]
    assert sorted(rebuild_outdated(ledger, database, PROJECTORS, threading.Event())) == names
    assert covering() == live

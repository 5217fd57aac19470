"""A sample of counts, marks and words finds what is wrong, missing or too many in tables of any size."""

from collections.abc import Iterator
from itertools import zip_longest
from random import Random
from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings

from bench.history import fill, history
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import derived_samples, punishments, samples
from modledger.projections.catalog import PROJECTORS
from modledger.projections.derived_samples import sample_derived
from modledger.projections.projector import Projector
from modledger.projections.samples import verify_sample
from modledger.workers.runner import catch_up
from tests.databases import MASTER_KEY
from tests.projection_history import Happened, append
from tests.random_history import histories

DERIVED = [one for one in PROJECTORS if one.also is not None]
BY_NAME = {projector.name: projector for projector in PROJECTORS}
# Of all lines of a small history, and all rows.
WHOLE = 20_000


def found(database: str, projector: Projector[Any], size: int = WHOLE, seed: int = 1) -> list[tuple[str, str]]:
    return [(one.where, one.field) for one in sample_derived(database, projector, size, Random(seed))]


def test_every_table_beside_says_which_rows_its_lines_come_from() -> None:
    for projector in PROJECTORS:
        assert set(projector.slices) == {table.name for table in projector.beside}, projector.name


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happened=histories(least=5, most=60))
def test_whatever_happened_a_sample_of_a_right_table_finds_nothing(database: str, happened: list[Happened]) -> None:
    with PostgresLedger(database, MASTER_KEY, connections=2) as ledger:
        # A ledger cannot be emptied, so each history is one of other subjects.
        apart = 1000 * (ledger.head() + 1)
        versions: dict[str, int] = {}
        for one in happened:
            kind, _, number = one.stream.partition(":")
            append(ledger, versions, Happened(f"{kind}:{apart + int(number)}", one.event, one.at, one.by))
        catch_up(ledger, database, PROJECTORS)
    for projector in DERIVED:
        assert found(database, projector) == []
        # No row may be derived anew, so everything is compared by its sums.
        assert found(database, projector, size=1) == []


PLANTED = [
    ("profile", "update profile_counts set total = total + 1", "total"),
    ("profile", "insert into profile_counts values (false, 2, 3, 3, 5)", "row is one too many"),
    ("guilds", "delete from guild_counts", "row is missing"),
    ("bots", "insert into bot_counts values (0, true, 3, 7)", "row is one too many"),
    ("audit_log", "update audit_log_counts set total = total - 1 where actor_id > 0 and week > 0", "total"),
    ("audit_log", "delete from audit_log_counts where week = 0", "row is missing"),
    ("punishments", "update punishment_counts set open = open + 1 where guild_id = 0 and issued_by = 0", "open"),
    ("punishments", "delete from punishment_counts where week > 0", "row is missing"),
    ("punishments", "update ordinal_marks set bits = ~bits where kind = 3", "bits"),
    ("punishments", "update ordinal_marks set bits = set_bit(bits, 4095, 1)", "bits"),
    ("punishments", "delete from ordinal_marks where kind = 0", "row is missing"),
    (
        "punishments",
        "insert into ordinal_marks select 1, 777, span, bits from ordinal_marks limit 1",
        "row is one too many",
    ),
    ("punishments", "update reason_words set punishments = punishments + 1", "punishments"),
    ("punishments", "update reason_words set code = 'x'", "code"),
    ("punishments", "delete from reason_words", "row is missing"),
    ("punishments", "insert into reason_words values (99, 99, 'x', 1, 5)", "row is one too many"),
    ("punishment_history", "update punishment_versions set reason = 'x' where number % 3 = 1", "reason"),
    ("punishment_history", "delete from punishment_versions where number % 2 = 1", "row is missing"),
    ("punishment_history", "update punishment_version_marks set bits = ~bits where kind = 3", "bits"),
    ("punishment_history", "update punishment_history_counts set active = active + 1", "active"),
    ("punishment_history", "update version_words set ids = ids + 1", "ids"),
]


def rounds() -> Iterator[tuple[Projector[Any], dict[str, tuple[str, str]]]]:
    """What is planted at a time: a fault in each table beside the same rows. A line is compared with what rows give
    and with nothing else beside them, so no fault hides or shows another."""
    for projector in DERIVED:
        faults = [
            [
                (table.name, plant, field)
                for name, plant, field in PLANTED
                if name == projector.name and f" {table.name} " in f"{plant} "
            ]
            for table in projector.beside
        ]
        for together in zip_longest(*faults):
            yield projector, {table: (plant, field) for table, plant, field in filter(None, together)}


def test_what_is_planted_in_a_table_beside_is_found_and_named(folded: psycopg.Connection, database: str) -> None:
    planted = 0
    for projector, faults in rounds():
        many = set()
        for table, (plant, _) in faults.items():
            folded.execute(f"create temporary table kept_{table} as select * from {table}".encode())
            changed = folded.execute(plant.encode()).rowcount
            assert changed > 0, plant
            many |= {table} if changed > 1 else set()
        told = found(database, projector)
        for table, (plant, field) in faults.items():
            assert any(where.startswith(f"{table} (") and field == what for where, what in told), (plant, told)
        # And by lot: of few lines and few rows sooner or later.
        for seed in range(20):
            if many:
                many -= {where.partition(" (")[0] for where, _ in found(database, projector, size=50, seed=seed)}
        assert not many, faults
        for table in faults:
            folded.execute(
                f"truncate {table}; insert into {table} select * from kept_{table}; drop table kept_{table}".encode()
            )
        planted += len(faults)
    assert planted == len(PLANTED)
    assert [one for projector in DERIVED for one in found(database, projector)] == []


def test_a_line_of_too_many_rows_is_compared_by_its_sums(folded: psycopg.Connection, database: str) -> None:
    folded.execute("update punishment_counts set total = total + 1 where (guild_id, issued_by, week) = (0, 0, 0)")
    told = [one for seed in range(60) for one in sample_derived(database, punishments.PROJECTOR, 1, Random(seed))]
    assert told != []
    assert {one.field for one in told} == {"total"}
    most = derived_samples.ROWS_EACH // len(punishments.PROJECTOR.beside)
    assert all(int(one.found or 0) == int(one.expected or 0) + 1 > most for one in told if "type=1" in one.where)
    assert any("type=1" in one.where for one in told)


def test_the_sample_of_large_tables_is_one_of_lines_and_that_of_small_ones_is_everything(
    folded: psycopg.Connection, database: str, ledger: PostgresLedger
) -> None:
    # Five hundred events have fewer rows than that, so one wrong line of many is found at once.
    assert samples.FEW_ROWS > 1_000
    assert derived_samples.ROWS_EACH * 100 >= samples.FEW_ROWS
    folded.execute("update punishment_counts set total = 0 where (guild_id, issued_by, type, week) = (0, 0, 1, 0)")
    results = verify_sample(database, PROJECTORS, ledger, 1, Random(1), every_table=True)
    assert {one.subject: len(one.differences) for one in results if one.differences} == {"punishments": 1}


def rows_of(conn: psycopg.Connection, projector: Projector[Any]) -> int:
    row = conn.execute(f"select count(*) from {projector.table.name}".encode()).fetchone()
    assert row is not None
    count: int = row[0]
    return count


def test_what_more_rows_give_than_are_derived_at_once_is_added_up(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    fill(ledger, history(3 * derived_samples.AT_ONCE // 2))
    catch_up(ledger, database, PROJECTORS)
    large = [one for one in DERIVED if rows_of(conn, one) > derived_samples.AT_ONCE]
    assert BY_NAME["audit_log"] in large
    for projector in large:
        assert found(database, projector) == []
    conn.execute("update audit_log_counts set total = total + 1 where week = 0")
    assert {field for _, field in found(database, BY_NAME["audit_log"])} == {"total"}


def test_nothing_of_the_sample_is_left_in_the_database(folded: psycopg.Connection, database: str) -> None:
    tables = "select count(*) from pg_class where relkind in ('r', 'v', 'i')"
    before = folded.execute(tables).fetchone()
    for projector in DERIVED:
        found(database, projector, size=50)
    assert folded.execute(tables).fetchone() == before

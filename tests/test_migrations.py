from concurrent.futures import ThreadPoolExecutor

import msgspec
import psycopg
import pytest

from modledger.workers.migrate import MigrationError, apply_sql, migrate, migrations
from tests.forked import run

MIGRATE = "import sys; from modledger.workers.migrate import migrate; print(len(migrate(sys.argv[1])))"


def test_an_empty_database_gets_every_file_in_order_and_a_second_run_nothing(empty_database: str) -> None:
    names = [f"{migration.number:04}_{migration.name}" for migration in migrations()]
    assert names[0] == "0001_ledger"
    assert [migration.number for migration in migrations()] == list(range(1, len(names) + 1))
    assert migrate(empty_database) == names
    assert migrate(empty_database) == []


def test_eight_processes_that_migrate_at_once_apply_each_file_once(empty_database: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        ended = list(threads.map(run, [["-c", MIGRATE, empty_database]] * 8))
    assert [process.returncode for process in ended] == [0] * 8, ended
    assert sorted(int(process.stdout) for process in ended) == [0] * 7 + [len(migrations())]


def test_a_file_that_changed_after_it_was_applied_is_refused(empty_database: str) -> None:
    first = migrations()[0]
    apply_sql(empty_database, [first])
    with pytest.raises(MigrationError, match="0001_ledger was applied with other contents"):
        apply_sql(empty_database, [msgspec.structs.replace(first, checksum="0" * 64)])


def test_a_database_newer_than_the_program_is_refused(empty_database: str) -> None:
    apply_sql(empty_database)
    with psycopg.connect(empty_database) as connection:
        connection.execute("insert into migrations (number, name, checksum) values (9000, 'from_the_future', '')")
    with pytest.raises(MigrationError, match="9000_from_the_future"):
        migrate(empty_database)


def test_a_file_that_fails_leaves_nothing_behind_and_the_files_before_it_applied(empty_database: str) -> None:
    first = migrations()[0]
    broken = msgspec.structs.replace(
        first, number=2, name="broken", checksum="1", sql="create table half (a int); select no_such_function();"
    )
    with pytest.raises(psycopg.errors.UndefinedFunction):
        apply_sql(empty_database, [first, broken])
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("select to_regclass('half')").fetchone() == (None,)
        assert connection.execute("select number from migrations").fetchall() == [(1,)]


def test_the_tables_land_in_the_first_schema_of_the_search_path(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("create schema elsewhere")
    separator = "&" if "?" in empty_database else "?"
    migrate(f"{empty_database}{separator}options=-csearch_path%3Delsewhere")
    with psycopg.connect(empty_database) as connection:
        outside = connection.execute(
            "select tablename from pg_tables where schemaname not in ('elsewhere', 'pg_catalog', 'information_schema')"
        ).fetchall()
    assert outside == []

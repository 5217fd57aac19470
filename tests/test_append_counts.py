"""What is counted of appends: /metrics shows it, so it has to be what happened."""

from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import psycopg
import pytest

from modledger.domain.append_counts import GROUP_BOUNDS, AppendCounts
from modledger.domain.ledger import VersionConflict
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.recorder_ledger import Outcome
from tests.test_ledger_contract import command, event, warnings
from tests.test_ledger_postgres import appends_held_back, wait_for_held_append


def test_appends_are_counted_with_their_events(ledger: PostgresLedger) -> None:
    warnings(ledger, "user:1", 1, 2)
    counted = ledger.recorder.counts.now()
    ledger.append(command(event("user:1", 3), event("user:1", 4)))
    after = ledger.recorder.counts.now()
    assert after.outcomes["appended"] - counted.outcomes["appended"] == 1
    assert after.events - counted.events == 2


def test_a_duplicate_and_a_conflict_count_as_what_they_are_and_bring_no_events(ledger: PostgresLedger) -> None:
    first = command(event("user:1", 1))
    ledger.append(first)
    ledger.append(first)
    with pytest.raises(VersionConflict):
        ledger.append(command(event("user:1", 1)))
    counted = ledger.recorder.counts.now()
    assert counted.outcomes == {"appended": 1, "duplicate": 1, "conflict": 1}
    assert (counted.events, counted.grouped, sum(counted.groups)) == (1, 3, 3)


def test_commands_that_are_committed_together_are_one_group(ledger: PostgresLedger) -> None:
    for numbers in ((1,), (2,), range(3, 11)):
        ledger.append_together([command(event(f"user:{n}", 1)) for n in numbers])
    counted = ledger.recorder.counts.now()
    assert counted.outcomes["appended"] == counted.grouped == counted.events == 10
    # Two alone, then eight in one call.
    assert dict(zip(GROUP_BOUNDS, counted.groups, strict=True)) == dict.fromkeys(GROUP_BOUNDS, 0) | {1: 2, 8: 1}


def test_what_fails_together_is_counted_when_each_is_sent_alone(database: str, ledger: PostgresLedger) -> None:
    with ThreadPoolExecutor(1) as threads, psycopg.connect(database, autocommit=True) as admin:
        with appends_held_back(database):
            future = threads.submit(ledger.append_together, [command(event(f"user:{n}", 1)) for n in (1, 2)])
            admin.execute("select pg_terminate_backend(%s)", (wait_for_held_append(admin),))
        future.result()
    assert ledger.recorder.counts.now().alone >= 2


def test_a_batch_counts_its_commands_and_is_no_group(ledger: PostgresLedger) -> None:
    ledger.append_batch([command(event(f"user:{n}", 1)) for n in (1, 2, 3)])
    with pytest.raises(VersionConflict):
        ledger.append_batch([command(event("user:1", 1))])
    counted = ledger.recorder.counts.now()
    assert counted.outcomes == {"appended": 3, "duplicate": 0, "conflict": 1}
    assert (counted.events, counted.grouped) == (3, 0)


def test_a_connection_that_dies_during_an_append_is_counted(database: str, ledger: PostgresLedger) -> None:
    with ThreadPoolExecutor(1) as threads, psycopg.connect(database, autocommit=True) as admin:
        with appends_held_back(database):
            future = threads.submit(ledger.append, command(event("user:1", 1)))
            admin.execute("select pg_terminate_backend(%s)", (wait_for_held_append(admin),))
        future.result()
    counted = ledger.recorder.counts.now()
    assert (counted.reconnects, counted.events, counted.outcomes["appended"]) == (1, 1, 1)


def test_nothing_is_lost_when_threads_count_at_once() -> None:
    counts = AppendCounts()

    def count() -> None:
        for _ in range(2_000):
            counts.call([Outcome("appended", (1, 2)), Outcome("conflict")])
            counts.reconnected()

    threads = [Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = counts.now()
    assert counted.outcomes == {"appended": 8_000, "duplicate": 0, "conflict": 8_000}
    assert (counted.events, counted.grouped, counted.groups[1], counted.reconnects) == (16_000, 16_000, 8_000, 8_000)

"""Commands of several callers in one call, on both stores: each is appended, refused or recognised alone."""

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from modledger.domain.events import ERASED, SubjectErased
from modledger.domain.ledger import Append, Appended, Ledger, LedgerDamaged, LedgerUnavailable, VersionConflict
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.recorder_ledger import RecorderLedger
from modledger.workers.migrate import apply_sql
from modledger.workers.postgres import EmbeddedPostgres
from tests.databases import MASTER_KEY
from tests.sealing import unguarded
from tests.test_ledger_contract import command, event, store, warnings
from tests.test_ledger_postgres import appends_held_back, wait_for_held_append

__all__ = ["store"]


def streams_of(appended: Sequence[Appended | Exception]) -> list[object]:
    """Of each the stream that it was appended to, or the kind of its error."""
    return [one.events[0].stream if isinstance(one, Appended) else type(one) for one in appended]


def written(ledger: Ledger) -> list[str]:
    return [recorded.stream for recorded in ledger.read(0, 1000)]


def test_each_is_answered_in_its_place_with_the_events_as_they_are_in_the_ledger(store: RecorderLedger) -> None:
    warnings(store, "user:1", 1, 1)
    appended = store.append_together(
        [command(event("user:1", 2)), command(event("user:2", 1), event("user:2", 2)), command(event("guild:1", 1))]
    )
    assert streams_of(appended) == ["user:1", "user:2", "guild:1"]
    events = [one for each in appended if isinstance(each, Appended) for one in each.events]
    assert store.read(0, 10)[1:] == events
    assert not any(each.duplicate for each in appended if isinstance(each, Appended))


def test_nothing_at_all_may_be_appended_together(store: RecorderLedger) -> None:
    assert store.append_together([]) == []


def test_what_stands_in_the_way_of_one_leaves_the_others_alone(store: RecorderLedger) -> None:
    known = command(event("user:1", 1))
    store.append(known)
    hole = Append(command_id=known.command_id, events=[event("user:3", 7)], expected={"user:3": 0})
    appended = store.append_together(
        [
            command(event("user:2", 1)),
            known,
            hole,
            command(event("user:9", 1), user_1=7),
            command(event("user:4", 1), user_1=0),
            command(event("user:5", 1), user_6=0),
        ]
    )
    assert streams_of(appended) == ["user:2", "user:1", ValueError, VersionConflict, VersionConflict, "user:5"]
    assert [one.duplicate for one in appended if isinstance(one, Appended)] == [False, True, False]
    assert written(store) == ["user:1", "user:2", "user:5"]


def test_what_one_writes_no_other_of_the_call_may_have_read_after_it(store: RecorderLedger) -> None:
    before, first, rival = (
        command(event("user:2", 1), user_1=0),
        command(event("user:1", 1)),
        command(event("user:1", 1)),
    )
    second, after = command(event("user:1", 2)), command(event("user:3", 1), user_1=0)
    appended = store.append_together([before, first, rival, second, after, command(event("user:4", 1))])
    conflict = VersionConflict
    assert streams_of(appended) == ["user:2", "user:1", conflict, conflict, conflict, "user:4"]
    assert streams_of(store.append_together([second])) == ["user:1"]
    loaded = store.load(["user:1", "user:2", "user:3", "user:4"])
    assert [[one.version for one in loaded[stream]] for stream in loaded] == [[1, 2], [1], [], [1]]


def test_an_erasure_among_them_takes_the_key_of_its_subject_alone(store: RecorderLedger) -> None:
    warnings(store, "user:1", 1, 1)
    warnings(store, "user:2", 1, 1)
    erasing = command(event("user:1", 2, SubjectErased(reason="asked by mail")), erase=["user:1"])
    appended = store.append_together([command(event("user:2", 2)), erasing, command(event("user:3", 1))])
    assert streams_of(appended) == ["user:2", "user:1", "user:3"]
    loaded = store.load(["user:1", "user:2", "user:3"])
    assert {stream: [getattr(one.event, "reason", None) for one in loaded[stream]] for stream in loaded} == {
        "user:1": [ERASED, "asked by mail"],
        "user:2": ["spam", "spam"],
        "user:3": ["spam"],
    }


def test_all_of_a_call_are_one_transaction_and_are_announced(database: str, ledger: PostgresLedger) -> None:
    with psycopg.connect(database, autocommit=True) as listener:
        listener.execute("listen ledger")
        ledger.append_together([command(event(f"user:{number}", 1)) for number in range(40)])
        assert any(listener.notifies(timeout=30, stop_after=1))
        ((transactions, events),) = listener.execute("select count(distinct xmin::text), count(*) from ledger")
    assert (transactions, events) == (1, 40)
    assert ledger.recorder.counts.now().grouped == 40


def test_one_that_the_server_refuses_is_found_out_and_the_others_are_appended_once(
    database: str, ledger: PostgresLedger
) -> None:
    warnings(ledger, "user:1", 1, 1)
    with psycopg.connect(database, autocommit=True) as connection:
        unguarded(connection, "delete from ledger where originator_id = %s", "user:1")
    # A key of it is there, and no event that would tell of it.
    appended = ledger.append_together([command(event(f"user:{number}", 1)) for number in (2, 1, 3)])
    assert streams_of(appended) == ["user:2", LedgerDamaged, "user:3"]
    assert written(ledger) == ["user:2", "user:3"]
    assert ledger.recorder.counts.now().alone == 3


def test_a_connection_that_dies_meanwhile_leaves_each_in_the_ledger_once(database: str, ledger: PostgresLedger) -> None:
    asked = [command(event(f"user:{number}", 1)) for number in range(8)]
    with ThreadPoolExecutor(1) as threads, psycopg.connect(database, autocommit=True) as watcher:
        with appends_held_back(database):
            future = threads.submit(ledger.append_together, asked)
            watcher.execute("select pg_terminate_backend(%s)", (wait_for_held_append(watcher),))
        assert set(streams_of(future.result())) <= {*(f"user:{number}" for number in range(8)), LedgerUnavailable}
    for append in asked:
        ledger.append(append)
    assert sorted(written(ledger)) == [f"user:{number}" for number in range(8)]


def test_a_server_that_is_gone_is_said_to_be_gone_to_each() -> None:
    with tempfile.TemporaryDirectory(prefix="modledger-gone-") as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", durable=False)
        url = server.attach()
        apply_sql(url)
        asked = [command(event(f"user:{number}", 1)) for number in range(3)]
        with PostgresLedger(url, MASTER_KEY) as ledger:
            server.stop()
            assert streams_of(ledger.append_together(asked)) == [LedgerUnavailable] * 3
            server.detach()
            assert server.attach() == url
            assert streams_of(ledger.append_together(asked)) == ["user:0", "user:1", "user:2"]
        server.stop()
        server.detach()

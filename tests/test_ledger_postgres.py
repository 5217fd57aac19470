"""What only the ledger on PostgreSQL can break: its table, its connections, other processes, its installation's key."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from time import sleep

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from modledger.domain.envelope import Recorded
from modledger.domain.events import ERASED, SubjectErased, UserWarned
from modledger.domain.ledger import LedgerUnavailable, VersionConflict
from modledger.domain.mapper import UnknownEvent, UnreadableEvent
from modledger.domain.personal_text import WrongMasterKey
from modledger.domain.postgres_ledger import PATIENCE, NotMigrated, PostgresLedger
from modledger.workers.migrate import apply_sql
from modledger.workers.postgres import EmbeddedPostgres
from tests.databases import MASTER_KEY
from tests.test_ledger_contract import command, erase, event, warnings

LOCK = "pg_advisory_xact_lock('pg_class'::regclass::oid::int, 'ledger'::regclass::oid::int)"


def reasons(ledger: PostgresLedger, stream: str) -> list[str | None]:
    return [getattr(recorded.event, "reason", None) for recorded in ledger.load([stream])[stream]]


@contextmanager
def appends_held_back(database: str) -> Iterator[None]:
    """Holds the ledger's lock, so that appends wait inside the function."""
    with psycopg.connect(database) as connection:
        connection.execute(sql.SQL("select {}").format(sql.SQL(LOCK)))
        yield
        connection.rollback()


def wait_for_held_append(connection: psycopg.Connection) -> int:
    """The server's process id of an append that waits for the lock."""
    while True:
        row = connection.execute(
            "select pid from pg_locks join pg_stat_activity using (pid)"
            " where not granted and locktype = 'advisory' and query like '%ledger_append%'"
        ).fetchone()
        if row:
            return int(row[0])
        sleep(0.01)


@pytest.mark.parametrize(
    "change",
    [
        "update ledger set actor = 'nobody'",
        "update ledger set state = state where false",
        "delete from ledger",
        "truncate ledger",
        """insert into ledger overriding system value select * from ledger
            on conflict (notification_id) do update set actor = 'nobody'""",
    ],
)
def test_what_is_in_the_ledger_cannot_be_changed(database: str, ledger: PostgresLedger, change: str) -> None:
    before = warnings(ledger, "user:1", 1, 2)
    for role in ("origin", "replica"):
        with psycopg.connect(database) as connection:
            connection.execute(sql.SQL("set session_replication_role = {}").format(role))
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                connection.execute(change.encode())
    assert ledger.read(0, 10) == before


def test_no_byte_of_personal_text_is_in_the_database(database: str, ledger: PostgresLedger) -> None:
    ledger.append(command(event("user:1", 1, UserWarned(reason="a very particular reason"))))
    with psycopg.connect(database) as connection:
        rows = connection.execute("select l::text, encode(state, 'escape') from ledger as l").fetchall()
        keys = connection.execute("select wrapped from subject_keys").fetchall()
    assert len(rows) == len(keys) == 1
    assert not any("particular" in text for row in rows for text in row)


def test_another_master_key_is_refused_before_anything_is_read(database: str, ledger: PostgresLedger) -> None:
    with pytest.raises(WrongMasterKey, match="installation"):
        PostgresLedger(database, bytes(32))
    with PostgresLedger(database, MASTER_KEY) as again:
        assert again.head() == 0


def test_eight_ledgers_that_open_a_fresh_installation_at_once_agree_on_its_key(database: str) -> None:
    def open_and_close(number: int) -> str:
        try:
            PostgresLedger(database, bytes([number % 2]) * 32).close()
        except WrongMasterKey:
            return "refused"
        return "opened"

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(open_and_close, range(8)))
    assert outcomes in (["opened", "refused"] * 4, ["refused", "opened"] * 4)


def test_a_database_without_the_tables_is_named_as_such(empty_database: str) -> None:
    with pytest.raises(NotMigrated, match="modledger migrate"):
        PostgresLedger(empty_database, MASTER_KEY)


def test_variables_that_the_library_reads_elsewhere_do_not_reach_the_ledger(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_SCHEMA", "nowhere")
    monkeypatch.setenv("POSTGRES_ENABLE_DB_FUNCTIONS", "y")
    monkeypatch.setenv("COMPRESSOR_TOPIC", "zlib")
    with PostgresLedger(database, MASTER_KEY) as ledger:
        assert warnings(ledger, "user:1", 1, 1) == ledger.read(0, 1)


def test_the_conninfo_may_be_key_words_with_options_of_its_own(database: str) -> None:
    conninfo = make_conninfo(database, application_name="a name", options="-c lock_timeout=4321 -c search_path=public")
    with PostgresLedger(conninfo, MASTER_KEY) as ledger, psycopg.connect(database) as watcher:
        warnings(ledger, "user:1", 1, 1)
        names = watcher.execute("select application_name from pg_stat_activity where query like '%ledger%'").fetchall()
        assert ("a name",) in names


def test_an_erasure_by_one_process_holds_at_once_in_another(database: str, ledger: PostgresLedger) -> None:
    [first] = warnings(ledger, "user:1", 1, 1)
    with PostgresLedger(database, MASTER_KEY) as other:
        assert other.at(first.position) == first
        erase(ledger, "user:1", 2)
        erased = [other.at(first.position), other.read(0, 1)[0], other.load(["user:1"])["user:1"][0]]
    assert [e and e.event for e in erased] == [UserWarned(reason=ERASED)] * 3


def test_a_key_that_was_destroyed_elsewhere_is_never_used_again(database: str, ledger: PostgresLedger) -> None:
    warnings(ledger, "user:1", 1, 1)
    with PostgresLedger(database, MASTER_KEY) as other:
        assert reasons(other, "user:1") == ["spam"]
        erase(ledger, "user:1", 2)
        with pytest.raises(VersionConflict):
            other.append(command(event("user:1", 2)))
        # The caller has learned the version from somewhere else: the ledger has to find the generation itself.
        other.append(command(event("user:1", 3, UserWarned(reason="new"))))
        assert reasons(other, "user:1") == reasons(ledger, "user:1") == [ERASED, "asked by mail", "new"]
    with psycopg.connect(database) as connection:
        assert connection.execute("select generation from subject_keys").fetchall() == [(2,)]


def test_a_fresh_process_continues_under_the_key_that_is_there(database: str, ledger: PostgresLedger) -> None:
    warnings(ledger, "user:1", 1, 2)
    with PostgresLedger(database, MASTER_KEY) as fresh:
        warnings(fresh, "user:1", 3, 3)
        fresh.append_batch([command(event("user:1", 4)), command(event("user:1", 5))])
    with psycopg.connect(database) as connection:
        assert connection.execute("select generation from subject_keys").fetchall() == [(0,)]
    assert reasons(ledger, "user:1") == ["spam"] * 5


def test_racing_processes_make_one_key_for_a_subject_and_every_text_stays_readable(database: str) -> None:
    ledgers = [PostgresLedger(database, MASTER_KEY, connections=2) for _ in range(4)]
    start = Barrier(4)

    def write(ledger: PostgresLedger) -> int:
        start.wait()
        won = 0
        for _ in range(20):
            version = len(ledger.load(["user:1"])["user:1"]) + 1
            erases = version % 7 == 0
            fact = SubjectErased(reason="asked") if erases else UserWarned(reason=f"warning {version}")
            try:
                ledger.append(command(event("user:1", version, fact), erase=["user:1"] if erases else []))
            except VersionConflict:
                continue
            won += 1
        return won

    with ThreadPoolExecutor(4) as threads:
        total = sum(threads.map(write, ledgers))
    found = reasons(ledgers[0], "user:1")
    last = total - total % 7
    assert len(found) == total
    assert found[: max(last - 1, 0)] == [ERASED] * max(last - 1, 0)
    assert found[last:] == [f"warning {version}" for version in range(last + 1, total + 1)]
    for ledger in ledgers:
        ledger.close()


def test_threads_that_append_at_the_same_time_wait_for_one_another(database: str, ledger: PostgresLedger) -> None:
    start = Barrier(8)

    def append(number: int) -> Recorded:
        start.wait()
        return warnings(ledger, f"user:{number}", 1, 1)[0]

    with ThreadPoolExecutor(8) as threads:
        appended = list(threads.map(append, range(8)))
    assert sorted(appended, key=lambda event: event.position) == ledger.read(0, 100)
    with psycopg.connect(database) as connection:
        [(transactions,)] = connection.execute("select count(distinct xmin::text) from ledger").fetchall()
    assert transactions == len(appended)


def test_a_connection_that_dies_during_an_append_leaves_the_command_in_the_ledger_once(
    database: str, ledger: PostgresLedger
) -> None:
    with ThreadPoolExecutor(8) as threads:
        with appends_held_back(database), psycopg.connect(database, autocommit=True) as watcher:
            futures = [threads.submit(warnings, ledger, f"user:{number}", 1, 1) for number in range(8)]
            watcher.execute("select pg_terminate_backend(%s)", (wait_for_held_append(watcher),))
        assert [len(future.result()) for future in futures] == [1] * 8
    assert sorted(e.stream for e in ledger.read(0, 100)) == [f"user:{number}" for number in range(8)]


def test_a_batch_whose_connection_dies_is_in_the_ledger_once(database: str, ledger: PostgresLedger) -> None:
    batch = [command(event("user:1", version)) for version in range(1, 4)]
    with ThreadPoolExecutor(1) as threads:
        with appends_held_back(database), psycopg.connect(database, autocommit=True) as watcher:
            future = threads.submit(ledger.append_batch, batch)
            watcher.execute("select pg_terminate_backend(%s)", (wait_for_held_append(watcher),))
        future.result()
    assert [e.version for e in ledger.read(0, 100)] == [1, 2, 3]


def test_a_page_of_streams_may_take_longer_than_what_somebody_waits_for(database: str, ledger: PostgresLedger) -> None:
    ledger.append(command(event("user:1", 1)))
    with psycopg.connect(database) as connection, ThreadPoolExecutor(1) as pool:
        connection.execute("lock table ledger in access exclusive mode")
        page = pool.submit(ledger.read_streams, {UserWarned.TOPIC}, "", None, 10, 10)
        sleep(PATIENCE + 0.5)
        assert not page.done()
        connection.rollback()
        assert len(page.result().streams) == 1


def test_idle_connections_that_died_are_replaced_unnoticed(database: str, ledger: PostgresLedger) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: warnings(ledger, f"user:{number}", 1, 1), range(8)))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    assert len(ledger.read(0, 10)) == 8
    assert len(warnings(ledger, "user:1", 2, 3)) == 2


def test_an_append_is_announced_after_its_commit(database: str, ledger: PostgresLedger) -> None:
    with psycopg.connect(database, autocommit=True) as listener:
        listener.execute("listen ledger")
        for first in (1, 31):
            appended = warnings(ledger, "user:1", first, first + 29)
            assert any(listener.notifies(timeout=30, stop_after=1))
            assert ledger.head() == appended[-1].position
            # Those of the burst; the next burst has to be announced by its own.
            for _ in listener.notifies(timeout=0.5):
                pass


def test_a_server_that_is_gone_is_said_to_be_gone_and_found_again_when_it_is_back() -> None:
    with tempfile.TemporaryDirectory(prefix="modledger-gone-") as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", durable=False)
        url = server.attach()
        apply_sql(url)
        ledger = PostgresLedger(url, MASTER_KEY)
        [first] = warnings(ledger, "user:1", 1, 1)
        server.stop()
        late = command(event("user:1", 2))
        with pytest.raises(LedgerUnavailable):
            ledger.append(late)
        with pytest.raises(LedgerUnavailable):
            ledger.append_batch([late])
        with pytest.raises(LedgerUnavailable):
            ledger.read(0, 10)
        with pytest.raises(LedgerUnavailable):
            PostgresLedger(url, MASTER_KEY)
        server.detach()
        assert server.attach() == url
        assert not ledger.append(late).duplicate
        assert [e.version for e in ledger.read(0, 10)] == [1, 2]
        assert ledger.at(first.position) == first
        ledger.close()
        server.stop()
        server.detach()


def test_a_ledger_that_was_closed_says_so_and_may_be_closed_again(database: str) -> None:
    ledger = PostgresLedger(database, MASTER_KEY)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        ledger.read(0, 1)
    with pytest.raises(LedgerUnavailable, match="closed"):
        ledger.append(command(event("user:1", 1)))


def planted(database: str, topic: str, state: bytes) -> int:
    """The position of an event that this program did not write."""
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute(
            "insert into ledger (originator_id, originator_version, topic, state, recorded_at, actor, via)"
            " select %s, 1, %s, %s, recorded_at, actor, via from ledger order by notification_id desc limit 1"
            " returning notification_id",
            (f"user:{topic}", topic, state),
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_reader_of_some_topics_passes_what_it_cannot_read_of_others(database: str, ledger: PostgresLedger) -> None:
    [good] = warnings(ledger, "user:1", 1, 1)
    bad = planted(database, "user.banned.v1", b"not json")
    [last] = warnings(ledger, "user:1", 2, 2)
    passage = ledger.read_topics({"user.warned.v1"}, 0, 10)
    assert (passage.events, passage.passed, passage.position) == ([good, last], 3, last.position)
    with pytest.raises(UnreadableEvent) as caught:
        ledger.read_topics({"user.banned.v1"}, 0, 10)
    assert caught.value.position == bad


def test_a_reader_of_some_topics_does_not_pass_one_that_the_program_does_not_know(
    database: str, ledger: PostgresLedger
) -> None:
    [good] = warnings(ledger, "user:1", 1, 1)
    state = ledger.recorder.rows_after(0, 1)[0].state
    unknown = planted(database, "user.warned.v2", state)
    warnings(ledger, "user:1", 2, 2)
    for topics in ({"user.warned.v1"}, {"user.banned.v1"}, set()):
        with pytest.raises(UnknownEvent) as caught:
            ledger.read_topics(topics, 0, 10)
        assert caught.value.position == unknown
        assert ledger.read_topics(topics, 0, 1).position == good.position


def test_the_library_can_read_the_ledger_but_not_write_around_it(ledger: PostgresLedger) -> None:
    [first] = warnings(ledger, "user:1", 1, 1)
    [notification] = ledger.notification_log.select(first.position, 10)
    assert (notification.id, notification.originator_id, notification.topic) == (
        first.position,
        "user:1",
        "user.warned.v1",
    )
    with pytest.raises(TypeError, match="through append"):
        ledger.recorder.insert_events([notification])


def test_the_time_of_recording_never_goes_back_even_if_the_servers_clock_did(
    ledger: PostgresLedger, database: str
) -> None:
    ledger.append(command(event("user:1", 1)))
    with psycopg.connect(database) as connection:
        # As if it had been recorded before the clock was set back by an hour.
        connection.execute(
            "insert into ledger (originator_id, originator_version, topic, state, recorded_at, actor, via)"
            " select 'user:2', 1, topic, state, recorded_at + interval '1 hour', actor, via from ledger"
        )
    ledger.append(command(event("user:3", 1)))
    ledger.append_batch([command(event("user:4", 1))])
    with psycopg.connect(database) as connection:
        rows = connection.execute("select recorded_at from ledger order by notification_id").fetchall()
    assert rows == sorted(rows)
    assert rows[1] == rows[2] == rows[3]


def test_nobody_chooses_a_position(ledger: PostgresLedger, database: str) -> None:
    ledger.append(command(event("user:1", 1)))
    with psycopg.connect(database) as connection, pytest.raises(psycopg.errors.GeneratedAlways):
        connection.execute(
            "insert into ledger"
            " (notification_id, originator_id, originator_version, topic, state, recorded_at, actor, via)"
            " select 7777777, 'user:2', 1, topic, state, recorded_at, actor, via from ledger"
        )

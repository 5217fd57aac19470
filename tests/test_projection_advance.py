"""The runner's step: a batch counts exactly once, whoever dies and whoever else runs."""

from collections.abc import Iterator, Mapping, Sequence
from threading import Thread
from typing import Any

import msgspec
import psycopg
import pytest

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.domain.ledger import Append
from modledger.domain.memory_ledger import MemoryLedger
from modledger.projections import guilds, permission_history, profile, punishments
from modledger.projections.catalog import PROJECTORS, create_missing
from modledger.projections.projector import Cursor, Fenced, FoldFailed, Key, Projector, advance, checkpoint
from modledger.projections.punishments import Punishment
from tests.projection_history import DAY, NOW, Happened, append, contents, memory_ledger, new_event

PUNISHMENTS = punishments.PROJECTOR
TABLES = (PUNISHMENTS.table, *PUNISHMENTS.beside)
HISTORY = [
    Happened("user:7", events.UserWarned(reason="one")),
    Happened("user:7", events.UserBanned(reason="two")),
    Happened("guild:8", events.GuildRegistered(name="not about a punishment")),
    Happened("user:7", events.PunishmentLifted(number=2, reason="sorry")),
    Happened("user:9", events.UserTimedOut(reason="three", expires_at=NOW + DAY)),
]


@pytest.fixture
def memory() -> Iterator[MemoryLedger]:
    """A ledger of HISTORY, at positions 1 to 5."""
    versions: dict[str, int] = {}
    ledger = memory_ledger()
    for happened in HISTORY:
        append(ledger, versions, happened)
    yield ledger
    ledger.close()


def with_fold(fold: Any = punishments.fold, also: Any = punishments.count) -> Projector[Punishment]:
    """The punishments' projector with another fold or write."""
    return msgspec.structs.replace(PUNISHMENTS, fold=fold, also=also)


def reasons(conn: psycopg.Connection) -> list[tuple[str, bool]]:
    return conn.execute("select reason, open from punishments order by id").fetchall()


def test_a_batch_is_folded_and_the_checkpoint_moves_with_it(conn: psycopg.Connection, memory: MemoryLedger) -> None:
    first = advance(conn, PUNISHMENTS, memory, 4)
    assert (first.read, first.folded, first.position, first.more) == (4, 3, 4, True)
    second = advance(conn, PUNISHMENTS, memory, 4)
    assert (second.read, second.folded, second.position, second.more) == (1, 1, 5, False)
    third = advance(conn, PUNISHMENTS, memory, 4)
    assert (third.read, third.folded, third.position, third.more) == (0, 0, 5, False)
    assert checkpoint(conn, "punishments") == 5
    assert reasons(conn) == [("one", True), ("two", False), ("three", True)]


def test_events_of_no_interest_only_move_the_checkpoint(conn: psycopg.Connection, memory: MemoryLedger) -> None:
    step = advance(conn, permission_history.PROJECTOR, memory, 10)
    assert (step.read, step.folded, step.position) == (5, 0, 5)
    assert checkpoint(conn, "permission_history") == 5


def test_a_second_advance_after_a_crash_before_the_commit_counts_everything_once(
    conn: psycopg.Connection, database: str, memory: MemoryLedger
) -> None:
    def dies(cursor: Cursor, changes: Sequence[tuple[Punishment | None, Punishment]]) -> None:
        punishments.count(cursor, changes)
        # As after kill -9: the server ends the session in the middle of the transaction.
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s)", (cursor.connection.info.backend_pid,))
        cursor.execute("select 1")

    advance(conn, PUNISHMENTS, memory, 2)
    with psycopg.connect(database, autocommit=True) as doomed, pytest.raises(psycopg.OperationalError):
        advance(doomed, with_fold(also=dies), memory, 10)
    assert checkpoint(conn, "punishments") == 2
    assert reasons(conn) == [("one", True), ("two", True)]
    assert advance(conn, PUNISHMENTS, memory, 10).folded == 2
    assert reasons(conn) == [("one", True), ("two", False), ("three", True)]
    total = conn.execute(
        "select sum(total), sum(open) from punishment_counts where (guild_id, issued_by, week) = (0, 0, 0)"
    )
    assert total.fetchone() == (3, 2)


@pytest.mark.parametrize("limits", [(5, 5), (2, 5), (5, 2)])
def test_of_two_runners_that_read_from_the_same_checkpoint_one_is_fenced(
    conn: psycopg.Connection, database: str, memory: MemoryLedger, limits: tuple[int, int]
) -> None:
    mine, others = limits

    def overtaken(rows: Mapping[Key, Punishment], recorded: Recorded) -> Sequence[Punishment]:
        if recorded.position == 1:
            with psycopg.connect(database, autocommit=True) as other:
                advance(other, PUNISHMENTS, memory, others)
        return punishments.fold(rows, recorded)

    with pytest.raises(Fenced):
        advance(conn, with_fold(overtaken), memory, mine)
    assert checkpoint(conn, "punishments") == others
    while advance(conn, PUNISHMENTS, memory, 5).read:
        pass
    assert reasons(conn) == [("one", True), ("two", False), ("three", True)]


def test_a_runner_that_was_overtaken_in_the_middle_of_its_write_is_fenced(
    conn: psycopg.Connection, database: str, memory: MemoryLedger
) -> None:
    outcomes: list[type[Exception]] = []

    def late() -> None:
        with psycopg.connect(database, autocommit=True) as other:
            try:
                advance(other, PUNISHMENTS, memory, 5)
            except (Fenced, psycopg.Error) as error:
                outcomes.append(type(error))

    thread = Thread(target=late)

    def slow(cursor: Cursor, changes: Sequence[tuple[Punishment | None, Punishment]]) -> None:
        punishments.count(cursor, changes)
        thread.start()
        with psycopg.connect(database, autocommit=True) as watch:
            while not watch.execute("select from pg_locks where not granted").fetchall():
                pass

    advance(conn, with_fold(also=slow), memory, 5)
    thread.join()
    assert outcomes == [Fenced]
    assert reasons(conn) == [("one", True), ("two", False), ("three", True)]


def test_a_fold_that_raises_stops_there_with_everything_before_it_written(
    conn: psycopg.Connection, memory: MemoryLedger
) -> None:
    def refuses(rows: Mapping[Key, Punishment], recorded: Recorded) -> Sequence[Punishment]:
        if recorded.position == 4:
            raise ZeroDivisionError("bad event")
        return punishments.fold(rows, recorded)

    for _ in range(2):
        with pytest.raises(FoldFailed) as caught:
            advance(conn, with_fold(refuses), memory, 10)
        failed = memory.at(4)
        assert failed is not None
        assert (caught.value.projector, caught.value.position, caught.value.topic) == (
            "punishments",
            4,
            failed.event.TOPIC,
        )
        assert (caught.value.event_id, type(caught.value.cause)) == (failed.event_id, ZeroDivisionError)
        # 3 is of no interest to this projector and passed as well.
        assert checkpoint(conn, "punishments") == 3
        assert reasons(conn) == [("one", True), ("two", True)]
    assert advance(conn, PUNISHMENTS, memory, 10).position == 5
    assert reasons(conn) == [("one", True), ("two", False), ("three", True)]


def test_a_fold_that_raises_at_once_writes_nothing(conn: psycopg.Connection, memory: MemoryLedger) -> None:
    def refuses(rows: Mapping[Key, Punishment], recorded: Recorded) -> Sequence[Punishment]:
        raise ValueError("bad event")

    with pytest.raises(FoldFailed):
        advance(conn, with_fold(refuses), memory, 10)
    assert (checkpoint(conn, "punishments"), reasons(conn)) == (0, [])


def test_an_erasure_reaches_rows_of_earlier_batches_and_of_its_own(conn: psycopg.Connection) -> None:
    versions: dict[str, int] = {}
    with memory_ledger() as ledger:
        append(ledger, versions, Happened("user:7", events.UserWarned(reason="earlier")))
        append(ledger, versions, Happened("user:70", events.UserWarned(reason="someone else's")))
        advance(conn, PUNISHMENTS, ledger, 10)
        append(ledger, versions, Happened("user:7", events.UserWarned(reason="same batch")))
        append(ledger, versions, Happened("user:7", events.SubjectErased(reason="request")))
        append(ledger, versions, Happened("user:7", events.UserWarned(reason="afterwards")))
        advance(conn, PUNISHMENTS, ledger, 10)
    assert [reason for reason, _ in reasons(conn)] == [
        events.ERASED,
        "someone else's",
        events.ERASED,
        "afterwards",
    ]


def test_rows_that_end_as_they_were_are_not_written(conn: psycopg.Connection, memory: MemoryLedger) -> None:
    def unchanged(rows: Mapping[Key, Punishment], recorded: Recorded) -> Sequence[Punishment]:
        return list(rows.values())

    advance(conn, PUNISHMENTS, memory, 3)
    before = conn.execute("select xmin::text from punishments order by id").fetchall()
    assert advance(conn, with_fold(unchanged), memory, 1).folded == 1
    assert conn.execute("select xmin::text from punishments order by id").fetchall() == before


def test_an_advance_needs_transactions_of_its_own(database: str, memory: MemoryLedger) -> None:
    with psycopg.connect(database) as conn, pytest.raises(ValueError, match="autocommit"):
        advance(conn, PUNISHMENTS, memory, 10)


def test_every_ledger_gives_the_same_rows(conn: psycopg.Connection, ledger: Any) -> None:
    versions: dict[str, int] = {}
    for happened in HISTORY:
        append(ledger, versions, happened)
    for projector in PROJECTORS:
        assert advance(conn, projector, ledger, 100).position == ledger.head()
    assert reasons(conn) == [("one", True), ("two", False), ("three", True)]
    assert conn.execute("select id = %s, name from guilds", (3,)).fetchone() == (True, "not about a punishment")


def test_missing_tables_are_made_and_begin_anew(conn: psycopg.Connection, memory: MemoryLedger) -> None:
    assert create_missing(conn) == []
    advance(conn, PUNISHMENTS, memory, 10)
    advance(conn, guilds.PROJECTOR, memory, 10)
    before = contents(conn, TABLES)
    conn.execute("drop table punishment_counts")
    assert create_missing(conn) == ["punishments"]
    assert (checkpoint(conn, "punishments"), checkpoint(conn, "guilds")) == (0, 5)
    assert reasons(conn) == []
    advance(conn, PUNISHMENTS, memory, 10)
    assert contents(conn, TABLES) == before


def test_a_runner_of_a_table_that_was_made_anew_is_fenced(
    conn: psycopg.Connection, database: str, memory: MemoryLedger
) -> None:
    def anew(rows: Mapping[Key, Punishment], recorded: Recorded) -> Sequence[Punishment]:
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("drop table if exists punishment_counts")
            create_missing(other)
        return punishments.fold(rows, recorded)

    advance(conn, PUNISHMENTS, memory, 4)
    with pytest.raises(Fenced):
        advance(conn, with_fold(anew), memory, 10)
    assert (checkpoint(conn, "punishments"), reasons(conn)) == (0, [])


def test_callers_at_the_same_time_make_each_table_once(conn: psycopg.Connection, database: str) -> None:
    for projector in PROJECTORS:
        conn.execute(f"drop table {projector.table.name}".encode())
    made: list[list[str]] = []

    def make() -> None:
        with psycopg.connect(database, autocommit=True) as other:
            made.append(create_missing(other))

    threads = [Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made, key=len) == [[], [], [], [projector.name for projector in PROJECTORS]]


def test_every_column_of_a_table_is_a_field_of_its_row() -> None:
    for projector in PROJECTORS:
        assert tuple(projector.table.columns) == projector.row.__struct_fields__
        assert set(projector.key) <= set(projector.table.columns)


def test_several_events_of_one_command_are_folded_in_their_order(conn: psycopg.Connection) -> None:
    replaced = [
        Happened("user:7", events.UserBanned(reason="first", expires_at=NOW + DAY)),
        Happened("user:7", events.PunishmentSuperseded(number=1, by=3)),
        Happened("user:7", events.UserBanned(reason="second")),
    ]
    made = [new_event(happened, version) for version, happened in enumerate(replaced, 1)]
    with memory_ledger() as ledger:
        ledger.append(Append(command_id=made[0].event_id, events=made, expected={"user:7": 0}))
        advance(conn, PUNISHMENTS, ledger, 10)
        advance(conn, profile.PROJECTOR, ledger, 10)
    assert reasons(conn) == [("first", False), ("second", True)]
    assert conn.execute("select open_punishments from profiles").fetchall() == [({"3": [3, None]},)]

"""Projectors that go together: one transaction for all, and whoever cannot go along holds up and spoils nobody."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.domain.memory_ledger import MemoryLedger
from modledger.projections import guilds, punishments
from modledger.projections.catalog import PROJECTORS, create_missing
from modledger.projections.joint_advance import JointAdvance, advance_together
from modledger.projections.projector import (
    Cursor,
    Fenced,
    FoldFailed,
    Key,
    Projector,
    Superseded,
    advance,
    checkpoint,
    standings,
)
from tests.projection_history import DAY, NOW, Happened, append, contents, memory_ledger
from tests.random_history import histories

NAMES = [projector.name for projector in PROJECTORS]
OTHERS = [name for name in NAMES if name != "punishments"]
TABLES = [table for projector in PROJECTORS for table in (projector.table, *projector.beside)]
HISTORY = [
    Happened("user:7", events.UserRegistered(username="seven")),
    Happened("user:7", events.UserWarned(reason="one")),
    Happened("guild:8", events.GuildRegistered(name="eight", owner_id=7)),
    Happened("user:7", events.PunishmentLifted(number=2, reason="sorry")),
    Happened("bot:9", events.BotRegistered(name="nine", owner_id=7)),
    Happened("user:9", events.UserTimedOut(reason="two", expires_at=NOW + DAY)),
]
LAST = len(HISTORY)


@pytest.fixture
def memory() -> Iterator[MemoryLedger]:
    """A ledger of HISTORY, at positions 1 to LAST."""
    versions: dict[str, int] = {}
    with memory_ledger() as ledger:
        for happened in HISTORY:
            append(ledger, versions, happened)
        yield ledger


def together(
    conn: psycopg.Connection, ledger: MemoryLedger, changed: Sequence[Projector[Any]] = (), **how: Any
) -> JointAdvance:
    """All projectors advance, some of them changed."""
    mine = {projector.name: projector for projector in (*PROJECTORS, *changed)}
    return advance_together(conn, list(mine.values()), ledger, **{"limit": 100, **how})


def positions(conn: psycopg.Connection, names: Sequence[str] = NAMES) -> set[int]:
    return {checkpoint(conn, name) for name in names}


def transactions(conn: psycopg.Connection, names: Sequence[str] = NAMES) -> int:
    """How many transactions have written the checkpoints of these."""
    row = conn.execute(
        "select count(distinct xmin::text) from projection_tracking where application_name = any(%s)", (list(names),)
    ).fetchone()
    assert row is not None
    return int(row[0])


def on_event(position: int, act: Callable[[], None]) -> Projector[Any]:
    """The projector of punishments; when it folds that event something happens."""

    def fold(rows: Mapping[Key, Any], recorded: Recorded) -> Sequence[Any]:
        if recorded.position == position:
            act()
        return punishments.fold(rows, recorded)

    return msgspec.structs.replace(punishments.PROJECTOR, fold=fold)


def once_it_is_read(position: int, act: Callable[[], None]) -> Projector[Any]:
    """The same, when that event has been read and nothing else has been done."""

    def touches(recorded: Recorded) -> Key | None:
        if recorded.position == position:
            act()
        return punishments.touches(recorded)

    return msgspec.structs.replace(punishments.PROJECTOR, touches=touches)


def refuse() -> None:
    raise ValueError("planted")


def anew(conn: psycopg.Connection) -> None:
    """Makes all read tables anew, empty."""
    conn.execute("delete from read_models")
    create_missing(conn)


def test_those_that_stand_level_are_written_in_one_transaction(conn: psycopg.Connection, memory: MemoryLedger) -> None:
    first = together(conn, memory, limit=4)
    assert (first.read, first.position, first.more, first.left) == (4, 4, True, {})
    assert (positions(conn), transactions(conn)) == ({4}, 1)
    second = together(conn, memory, limit=4, known=first.stands)
    assert (second.read, second.position, second.more) == (2, 6, False)
    assert (positions(conn), transactions(conn)) == ({6}, 1)
    third = together(conn, memory, limit=4, known=second.stands)
    assert (third.read, third.position, third.more) == (0, 6, False)


def test_what_they_write_is_what_each_writes_alone(conn: psycopg.Connection, memory: MemoryLedger) -> None:
    while together(conn, memory, limit=2).more:
        pass
    found = contents(conn, TABLES)
    assert found["punishments"]
    assert found["guilds"]
    assert found["bots"]
    anew(conn)
    for projector in PROJECTORS:
        advance(conn, projector, memory, 100)
    assert contents(conn, TABLES) == found


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories(), luck=st.integers(0, 2**32))
def test_however_they_part_and_meet_the_tables_come_out_the_same(
    conn: psycopg.Connection, history: list[Happened], luck: int
) -> None:
    drawn = Random(luck)
    with memory_ledger() as ledger:
        versions: dict[str, int] = {}
        for happened in history:
            append(ledger, versions, happened)
        _empty(conn)
        for projector in PROJECTORS:
            advance(conn, projector, ledger, 1000)
        expected = contents(conn, TABLES)
        _empty(conn)
        step: JointAdvance | None = None
        while positions(conn) != {ledger.head()}:
            some = drawn.sample(PROJECTORS, drawn.randint(1, len(PROJECTORS)))
            if drawn.random() < 0.3:
                advance(conn, some[0], ledger, drawn.randint(1, 25))
            elif step is not None and step.stands and drawn.random() < 0.5:
                # They go on as they were, where they still are.
                some = [projector for projector in PROJECTORS if projector.name in step.stands]
                step = advance_together(conn, some, ledger, drawn.randint(1, 25), step.stands)
            else:
                step = advance_together(conn, some, ledger, drawn.randint(1, 25))
        assert contents(conn, TABLES) == expected


def _empty(conn: psycopg.Connection) -> None:
    for table in TABLES:
        conn.execute(f"delete from {table.name}".encode())
    conn.execute("update projection_tracking set notification_id = 0 where application_name = any(%s)", (NAMES,))


def test_one_that_refuses_an_event_is_left_where_it_was_and_the_others_go_on(
    conn: psycopg.Connection, memory: MemoryLedger
) -> None:
    broken = on_event(4, refuse)
    joint = together(conn, memory, [broken])
    assert set(joint.left) == {"punishments"}
    assert "planted" in joint.left["punishments"]
    assert (checkpoint(conn, "punishments"), positions(conn, OTHERS), transactions(conn, OTHERS)) == (0, {LAST}, 1)
    assert conn.execute("select from punishments").fetchall() == []
    # Alone it goes as far as it can, and says why no further.
    with pytest.raises(FoldFailed):
        advance(conn, broken, memory, 100)
    assert checkpoint(conn, "punishments") == 3


def test_one_that_cannot_even_say_what_an_event_touches_is_left_too(
    conn: psycopg.Connection, memory: MemoryLedger
) -> None:
    def touches(recorded: Recorded) -> Key | None:
        raise ValueError(f"planted at {recorded.position}")

    joint = together(conn, memory, [msgspec.structs.replace(punishments.PROJECTOR, touches=touches)])
    assert set(joint.left) == {"punishments"}
    assert (checkpoint(conn, "punishments"), positions(conn, OTHERS)) == (0, {LAST})


def test_one_that_somebody_else_moved_meanwhile_is_fenced_and_the_others_go_on(
    conn: psycopg.Connection, database: str, memory: MemoryLedger
) -> None:
    def overtake() -> None:
        with psycopg.connect(database, autocommit=True) as other:
            advance(other, punishments.PROJECTOR, memory, 3)

    joint = together(conn, memory, [once_it_is_read(2, overtake)])
    assert set(joint.left) == {"punishments"}
    assert (checkpoint(conn, "punishments"), positions(conn, OTHERS)) == (3, {LAST})
    assert advance(conn, punishments.PROJECTOR, memory, 100).folded == 2
    assert conn.execute("select reason, open from punishments order by id").fetchall() == [
        ("one", False),
        ("two", True),
    ]


def test_one_that_moved_since_it_was_seen_is_left_although_it_is_thought_level(
    conn: psycopg.Connection, memory: MemoryLedger
) -> None:
    known = standings(conn, NAMES)
    advance(conn, punishments.PROJECTOR, memory, 3)
    joint = together(conn, memory, known=known)
    assert set(joint.left) == {"punishments"}
    assert (checkpoint(conn, "punishments"), positions(conn, OTHERS)) == (3, {LAST})
    assert together(conn, memory).left == {}
    assert positions(conn) == {LAST}


def test_nobody_waits_for_one_whose_checkpoint_is_held(
    conn: psycopg.Connection, database: str, memory: MemoryLedger
) -> None:
    with psycopg.connect(database) as holder:
        # As a promotion does while it puts other tables in the place of these.
        holder.execute("select from projection_tracking where application_name = 'punishments' for update")
        holder.execute("lock table punishments in access exclusive mode")
        joint = together(conn, memory)
        assert set(joint.left) == {"punishments"}
        assert (checkpoint(conn, "profile"), checkpoint(conn, "punishments")) == (LAST, 0)
    assert positions(conn, OTHERS) == {LAST}
    assert together(conn, memory).left == {}
    assert positions(conn) == {LAST}


def test_one_whose_tables_are_replaced_meanwhile_writes_nothing_into_them_and_the_others_go_on(
    conn: psycopg.Connection, database: str, memory: MemoryLedger
) -> None:
    def replace() -> None:
        with psycopg.connect(database, autocommit=True) as other:
            # The same position, so that the generation alone tells.
            other.execute("update read_models set generation = generation + 1 where projector = 'punishments'")

    joint = together(conn, memory, [once_it_is_read(2, replace)])
    assert set(joint.left) == {"punishments"}
    assert (checkpoint(conn, "punishments"), positions(conn, OTHERS)) == (0, {LAST})
    assert conn.execute("select from punishments").fetchall() == []


def test_one_whose_tables_another_version_made_is_left_and_the_others_go_on(
    conn: psycopg.Connection, memory: MemoryLedger
) -> None:
    conn.execute("update read_models set fingerprint = 'of a newer program' where projector = 'punishments'")
    joint = together(conn, memory)
    assert set(joint.left) == {"punishments"}
    assert (checkpoint(conn, "punishments"), positions(conn, OTHERS)) == (0, {LAST})
    with pytest.raises(Superseded):
        advance(conn, punishments.PROJECTOR, memory, 100)


def test_after_a_crash_before_the_commit_nothing_is_written_and_everything_counts_once(
    conn: psycopg.Connection, database: str, memory: MemoryLedger
) -> None:
    def dies(cursor: Cursor, changes: Sequence[tuple[Any, Any]]) -> None:
        guilds.count(cursor, changes)
        # As after kill -9: the server ends the session in the middle of the transaction.
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s, 5000)", (cursor.connection.info.backend_pid,))

    together(conn, memory, limit=2)
    before = contents(conn, TABLES)
    with psycopg.connect(database, autocommit=True) as doomed, pytest.raises(psycopg.OperationalError):
        together(doomed, memory, [msgspec.structs.replace(guilds.PROJECTOR, also=dies)])
    assert (positions(conn), contents(conn, TABLES)) == ({2}, before)
    together(conn, memory)
    after = contents(conn, TABLES)
    anew(conn)
    together(conn, memory)
    assert (positions(conn), contents(conn, TABLES)) == ({LAST}, after)


def test_a_row_that_does_not_fit_spoils_it_for_all_and_leaves_nothing_of_it(
    conn: psycopg.Connection, memory: MemoryLedger
) -> None:
    def large(rows: Mapping[Key, Any], recorded: Recorded) -> Sequence[Any]:
        return [msgspec.structs.replace(row, type=40_000) for row in punishments.fold(rows, recorded)]

    unfit = msgspec.structs.replace(punishments.PROJECTOR, fold=large)
    with pytest.raises(psycopg.DataError):
        together(conn, memory, [unfit])
    assert (positions(conn), conn.execute("select from profiles").fetchall()) == ({0}, [])
    # The connection is as good as before.
    assert together(conn, memory).left == {}
    assert positions(conn) == {LAST}


def test_they_go_on_together_after_somebody_rolled_back_on_their_connection(
    conn: psycopg.Connection, memory: MemoryLedger
) -> None:
    conn.prepare_threshold = 0
    first = together(conn, memory, limit=2)
    # With what it has prepared itself psycopg then drops all that is prepared.
    conn.execute("begin")
    conn.execute("rollback")
    assert conn.execute("select from pg_prepared_statements where name like 'modledger%'").fetchall() == []
    assert together(conn, memory, known=first.stands).left == {}
    assert (positions(conn), transactions(conn)) == ({LAST}, 1)


def test_whoever_is_a_little_behind_comes_along_and_whoever_is_far_behind_does_not(
    conn: psycopg.Connection, memory: MemoryLedger
) -> None:
    for projector in PROJECTORS:
        if projector.name in OTHERS:
            advance(conn, projector, memory, 4)
    joint = together(conn, memory, limit=3)
    assert set(joint.left) == {"punishments"}
    assert (checkpoint(conn, "punishments"), positions(conn, OTHERS)) == (0, {LAST})
    advance(conn, punishments.PROJECTOR, memory, 3)
    # As many events as the others have in hand by now are none, so it comes to where they are.
    joint = together(conn, memory, limit=3)
    assert (joint.left, positions(conn)) == ({}, {LAST})


def test_one_without_a_checkpoint_begins_alone(conn: psycopg.Connection, memory: MemoryLedger) -> None:
    conn.execute("delete from projection_tracking where application_name = 'punishments'")
    assert set(together(conn, memory).left) == {"punishments"}
    assert advance(conn, punishments.PROJECTOR, memory, 100).position == LAST


def test_one_alone_still_waits_for_whoever_holds_its_checkpoint_and_is_fenced(
    conn: psycopg.Connection, database: str, memory: MemoryLedger
) -> None:
    together(conn, memory, limit=2)

    def overtake() -> None:
        with psycopg.connect(database, autocommit=True) as other:
            together(other, memory)

    with pytest.raises(Fenced):
        advance(conn, on_event(4, overtake), memory, 100)
    assert positions(conn) == {LAST}


def test_to_advance_together_needs_transactions_of_its_own(database: str, memory: MemoryLedger) -> None:
    with psycopg.connect(database) as conn, pytest.raises(ValueError, match="autocommit"):
        together(conn, memory)

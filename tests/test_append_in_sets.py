"""A group goes into the ledger in sets, or one command after the other: nobody can tell which from what comes of it.

Compared with the function of migration 0012, which knew the second way alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count
from uuid import uuid4

import msgspec
import psycopg
import pytest
from eventsourcing.persistence import StoredEvent
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from modledger.domain.events import SubjectErased, UserWarned
from modledger.domain.ledger import Append
from modledger.domain.mapper import StoredCommand
from modledger.domain.personal_text import MasterKey
from modledger.domain.postgres_ledger import LedgerRecorder, PostgresLedger
from modledger.domain.recorder_ledger import Outcome, StreamHead
from modledger.workers.migrate import apply_sql, migrations
from tests.databases import MASTER_KEY
from tests.test_ledger_contract import command, event, warnings

STREAMS = 5
# The last migration before appends in sets.
BEFORE = 12
# Streams of one example are not those of another.
LIVES = count(1)


class Part(msgspec.Struct, frozen=True):
    """``events`` on a stream (0: it is only read), expected so far off where it is. ``key``: of which generation one is
    brought along, counted from the expected version."""

    stream: int
    events: int
    off: int
    key: int | None


class Asked(msgspec.Struct, frozen=True):
    """A command. ``after``: it counts on those before it in the group. ``id_of``: it bears the id of the command that
    was sent so many before it, and with ``again`` it is that command."""

    parts: Sequence[Part]
    erases: bool
    after: bool
    id_of: int | None
    again: bool


parts = st.builds(
    Part,
    stream=st.integers(0, STREAMS - 1),
    events=st.sampled_from([0, 1, 1, 1, 2, 3]),
    off=st.sampled_from([0] * 12 + [-1, 1]),
    key=st.sampled_from([None, None, None, None, 0, 1]),
)
asked = st.builds(
    Asked,
    parts=st.lists(parts, min_size=1, max_size=3, unique_by=lambda part: part.stream).filter(
        lambda several: any(part.events for part in several)
    ),
    erases=st.sampled_from([False] * 11 + [True]),
    after=st.booleans(),
    id_of=st.none() | st.sampled_from([None, None, None, 1, 2, 5]),
    again=st.booleans(),
)
groups = st.lists(st.lists(asked, min_size=1, max_size=5), min_size=1, max_size=6)
# What can be in the way of a group that is else clear.
ONE = Asked([Part(0, 1, 0, None)], erases=False, after=False, id_of=None, again=False)
READER = msgspec.structs.replace(ONE, parts=[Part(1, 1, 0, None), Part(0, 0, 0, None)])
NEIGHBOUR = msgspec.structs.replace(ONE, parts=[Part(2, 2, 0, 0)])
ELSEWHERE = msgspec.structs.replace(ONE, parts=[Part(2, 1, 0, None), Part(4, 0, 0, None)])


class Side:
    """A ledger of the two that are given the same."""

    def __init__(self, ledger: PostgresLedger, connection: psycopg.Connection) -> None:
        self.recorder, self._connection = ledger.recorder, connection
        self._head = 0

    def begin(self) -> None:
        """Looks at nothing that is there already."""
        self._head = self.recorder.last_position()

    def written(self) -> list[tuple[int, datetime, tuple[object, ...]]]:
        """Of each event its position, when it was recorded, and all else of it."""
        # ledger_position
        rows = self._connection.execute(
            "select notification_id, recorded_at, originator_id, originator_version, topic, state, command_id, actor,"
            " via from ledger where notification_id > %s order by notification_id",
            (self._head,),
        ).fetchall()
        return [(position, at, tuple(rest)) for position, at, *rest in rows]

    def keys(self) -> list[tuple[object, ...]]:
        return self._connection.execute("select * from subject_keys order by subject, generation").fetchall()

    def told(self, outcomes: Sequence[Outcome | Exception]) -> list[object]:
        """What was answered, each position as its place among the events: what is rolled back takes positions too."""
        places = {position: (place, at) for place, (position, at, _) in enumerate(self.written())}
        answers: list[object] = []
        for outcome in outcomes:
            if isinstance(outcome, Outcome):
                times = {places[position][1] for position in outcome.positions}
                assert (times == {outcome.recorded_at}) is (outcome.kind == "appended")
                answers.append((outcome.kind, [places[position][0] for position in outcome.positions]))
            else:
                answers.append(repr(outcome))
        return answers


class Life:
    """Makes commands of what is asked, about streams that nobody has met. ``at``: where each of them is."""

    def __init__(self, number: int) -> None:
        self._streams = [f"user:{number}{place}" for place in range(STREAMS)]
        self._sent: list[StoredCommand] = []
        self._master = MasterKey(MASTER_KEY)

    def group_of(self, several: Sequence[Asked], at: Mapping[str, StreamHead]) -> list[StoredCommand]:
        before = {stream: head.version for stream, head in at.items()}
        moved = dict(before)
        group = []
        for one in several:
            group.append(self._command_of(one, moved if one.after else before, moved))
            self._sent.append(group[-1])
        return group

    def heads(self, recorder: LedgerRecorder) -> dict[str, StreamHead]:
        return recorder.heads_of(self._streams)

    def _command_of(self, one: Asked, seen: Mapping[str, int], moved: dict[str, int]) -> StoredCommand:
        earlier = self._sent[-one.id_of] if one.id_of is not None and len(self._sent) >= one.id_of else None
        if earlier is not None and one.again:
            return earlier
        command = StoredCommand(
            command_id=uuid4() if earlier is None else earlier.command_id,
            events=[],
            actors=[],
            vias=[],
            expected={
                self._streams[part.stream]: max(0, seen[self._streams[part.stream]] + part.off) for part in one.parts
            },
            keys=[],
            erased=[],
            standings={},
        )
        for part, (stream, version) in zip(one.parts, command.expected.items(), strict=True):
            if part.key is not None:
                command.keys.append(self._master.make(stream, version + part.key))
            for later in range(1, part.events + 1):
                erasing = one.erases and later == part.events
                topic = SubjectErased.TOPIC if erasing else UserWarned.TOPIC
                command.events.append(StoredEvent(stream, version + later, topic, uuid4().bytes))
                command.actors.append(f"user:{later}")
                command.vias.append("cli" if erasing else "http")
                if erasing:
                    command.erased.append((stream, version + later))
            moved[stream] = max(moved[stream], version + part.events)
        return command


@pytest.fixture
def sides(database: str, empty_database: str) -> Iterator[tuple[Side, Side]]:
    """The ledger as it is, and one whose function is that of before."""
    apply_sql(empty_database, [file for file in migrations() if file.number <= BEFORE])
    with (
        PostgresLedger(database, MASTER_KEY) as ours,
        PostgresLedger(empty_database, MASTER_KEY) as theirs,
        psycopg.connect(database, autocommit=True) as one,
        psycopg.connect(empty_database, autocommit=True) as other,
    ):
        yield Side(ours, one), Side(theirs, other)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=groups)
@example(sequence=[[ELSEWHERE, msgspec.structs.replace(ELSEWHERE, parts=[Part(3, 1, 0, None), Part(4, 0, 1, None)])]])
@example(
    sequence=[[NEIGHBOUR, ONE], [READER, ONE], [ONE, READER], [NEIGHBOUR, msgspec.structs.replace(READER, after=True)]]
)
@example(
    sequence=[[ONE, msgspec.structs.replace(NEIGHBOUR, id_of=1)], [msgspec.structs.replace(ONE, id_of=2, again=True)]]
)
@example(
    sequence=[[NEIGHBOUR, msgspec.structs.replace(ONE, erases=True)], [NEIGHBOUR, ONE], [ONE, NEIGHBOUR, NEIGHBOUR]]
)
def test_the_answers_and_the_ledger_are_those_of_one_after_the_other(
    sides: tuple[Side, Side], sequence: list[list[Asked]]
) -> None:
    life = Life(next(LIVES))
    for side in sides:
        side.begin()
    for several in sequence:
        group = life.group_of(several, life.heads(sides[0].recorder))
        ours, theirs = (side.told(side.recorder.append_commands(group)) for side in sides)
        assert ours == theirs
        ledgers = [side.written() for side in sides]
        assert [row for _, _, row in ledgers[0]] == [row for _, _, row in ledgers[1]]
        times = [at for _, at, _ in ledgers[0]]
        assert times == sorted(times)
        assert sides[0].keys() == sides[1].keys()
        # Nor did the server refuse what it had not refused before.
        assert len({side.recorder.counts.now().alone for side in sides}) == 1


def statements(database: str, after: int) -> list[int]:
    """How many events each statement wrote, in the order of the ledger."""
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "select count(*) from ledger where notification_id > %s group by xmin::text, cmin::text"
            " order by min(notification_id)",
            (after,),
        )
        return [events for (events,) in rows]


def test_a_group_that_nothing_stands_in_the_way_of_is_written_by_one_statement(
    database: str, ledger: PostgresLedger
) -> None:
    actor = warnings(ledger, "user:1", 1, 1)[0]
    ledger.append_together(
        [command(event(f"user:{n}", 1), event(f"user:{n}", 2), user_1=1, guild_1=0) for n in range(2, 10)]
    )
    assert statements(database, actor.position) == [16]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(lambda known: known, id="one that is known"),
        pytest.param(lambda _: command(event("user:7", 1), user_1=0), id="one that saw another version"),
        pytest.param(
            lambda _: command(event("user:1", 2, SubjectErased(reason="asked")), erase=["user:1"]), id="an erasure"
        ),
        pytest.param(lambda _: command(event("guild:9", 1)), id="one that writes what another read"),
    ],
)
def test_else_each_of_it_by_one_of_its_own(
    database: str, ledger: PostgresLedger, odd: Callable[[Append], Append]
) -> None:
    known = command(event("user:1", 1))
    head = ledger.append(known).events[-1].position
    asked = [command(event(f"user:{n}", 1), event(f"user:{n}", 2), guild_9=0) for n in (2, 3)]
    ledger.append_together([*asked, odd(known)])
    assert statements(database, head)[:2] == [2, 2]


def looks_at_the_ledger(ledger: PostgresLedger) -> tuple[int, int]:
    """How often this connection's statements read it from end to end, and how often by an index."""
    with ledger.recorder.datastore.pool.connection() as connection:
        connection.execute("select pg_stat_force_next_flush()")
        found = connection.execute("select * from pg_stat_user_tables where relname = 'ledger'").fetchone()
    assert found is not None
    return found["seq_scan"], found["idx_scan"]


def test_a_function_that_met_an_empty_ledger_goes_by_the_indexes_when_it_is_large(database: str) -> None:
    with PostgresLedger(database, MASTER_KEY, connections=1) as ledger:
        for first in (1, 3, 5):
            ledger.append_together([command(event(f"user:{n}", 1)) for n in (first, first + 1)])
        ledger.append_batch([command(event(f"user:{n}", 1)) for n in range(7, 2000)])
        scans, looks = looks_at_the_ledger(ledger)
        ledger.append_together([command(event("user:2", 2)), command(event("user:3", 2))])
        assert looks_at_the_ledger(ledger)[0] == scans
        assert looks_at_the_ledger(ledger)[1] > looks

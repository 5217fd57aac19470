"""Two processes that keep states, one ledger, and whatever befalls it: the same comes of every command as without."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID, uuid5

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.domain import commands
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, Actor, Recorded, Subject
from modledger.domain.events import Issued
from modledger.domain.execute import execute, execute_batch
from modledger.domain.kept_states import KeptStates
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.recorder_ledger import RecorderLedger
from modledger.domain.refusals import Refused
from tests.databases import MASTER_KEY
from tests.ledger_faults import dumped, lose_since, restore
from tests.scenario import DAY, HOUR, NAMESPACE, NOW, SECOND
from tests.test_domain_invariants import LEVELS, actors, all_commands, user_ids

EPOCH = datetime(2026, 1, 1, tzinfo=NOW.tzinfo)


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """A command to one of the two processes, by itself or as a batch of one. ``again``: not this one but one that was
    sent before is sent, as a retry."""

    command: Command
    actor: Actor
    process: Literal[0, 1]
    later: timedelta
    batch: bool
    again: int | None


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """``what`` befalls the ledger: it is dumped, becomes what the last dump held, or loses its last commands."""

    what: Literal["dump", "restore", "lose end"]
    commands: int


def acts(retries: st.SearchStrategy[int | None]) -> st.SearchStrategy[Act]:
    erasing = st.builds(
        commands.EraseSubject,
        target=st.builds(Subject, kind=st.just("user"), id=user_ids),
        reason=st.sampled_from(["asked", "by mail"]),
    )
    return st.builds(
        Act,
        command=st.one_of(*[all_commands] * 8, erasing),
        actor=st.one_of(actors, st.just(Actor("user", 1)), st.just(OPERATOR)),
        process=st.sampled_from([0, 1]),
        later=st.sampled_from([timedelta(0), SECOND, HOUR, DAY]),
        batch=st.sampled_from([False, False, False, True]),
        again=retries,
    )


# Nobody refuses these, so that streams which lost their end soon are as long as they were.
certain = st.builds(
    Act,
    command=st.one_of(
        st.builds(
            commands.IssueWarning,
            target=st.builds(Subject, kind=st.just("user"), id=st.sampled_from([3, 6])),
            reason=st.sampled_from(["spam", "raid"]),
        ),
        st.builds(
            commands.ChangePermission,
            user_id=st.sampled_from([3, 6]),
            level=st.sampled_from([0, 1, 2]),
            reason=st.just("hired"),
        ),
        st.builds(
            commands.IssueBan,
            target=st.builds(Subject, kind=st.just("user"), id=st.sampled_from([3, 6])),
            reason=st.just("spam"),
            replace=st.booleans(),
        ),
    ),
    actor=st.sampled_from([OPERATOR, OPERATOR, Actor("user", 3)]),
    process=st.sampled_from([0, 1]),
    later=st.just(SECOND),
    batch=st.sampled_from([False, False, True]),
    again=st.none(),
)
faults = st.builds(
    Fault,
    what=st.sampled_from(["dump", "restore", "lose end"]),
    commands=st.integers(1, 6),
)
plain = acts(st.none() | st.integers(0, 30))
sequences = st.lists(st.one_of(*[plain] * 3, *[certain] * 4, faults), min_size=10, max_size=40)
sizes = st.sampled_from([(100, 1 << 20), (2, 1 << 20), (100, 8000)])


def recorded(happened: Recorded) -> Recorded:
    """The clocks of the stores are their own."""
    return msgspec.structs.replace(happened, recorded_at=EPOCH)


class Life:
    """A ledger, and how its commands are carried out: with what is kept by this or that process, or without."""

    def __init__(self, ledger: RecorderLedger, kept: tuple[KeptStates | None, KeptStates | None]) -> None:
        self.ledger, self.kept = ledger, kept
        self.now = NOW
        self.sent: list[tuple[Command, Context]] = []
        self.dump = dumped(ledger)
        for user_id, level in LEVELS.items():
            hired = commands.ChangePermission(user_id=user_id, level=level, reason="hired")
            execute(ledger, hired, self.context(OPERATOR, f"hire {user_id}"))

    def context(self, actor: Actor, name: str) -> Context:
        command_id = uuid5(NAMESPACE, name)
        return Context(actor=actor, at=self.now, command_id=command_id, correlation_id=UUID(int=0), via="http")

    def history(self) -> list[Recorded]:
        return [recorded(one) for one in self.ledger.read(0, 10_000)]

    def meant(self, command: Command) -> Command:
        """The command about one of the punishments that there are."""
        target = getattr(command, "target", None)
        number = getattr(command, "number", None)
        if target is None or number is None:
            return command
        issued = [one for one in self.ledger.load([str(target)])[str(target)] if isinstance(one.event, Issued)]
        if not issued:
            return command
        chosen = issued[number % len(issued)]
        if isinstance(command, commands.LapsePunishment):
            end = getattr(chosen.event, "expires_at", None) or command.expires_at
            return msgspec.structs.replace(command, number=chosen.version, expires_at=end)
        return msgspec.structs.replace(command, number=chosen.version)

    def take(self, act: Act) -> object:
        self.now += act.later
        if act.again is not None and self.sent:
            command, context = self.sent[act.again % len(self.sent)]
            context = msgspec.structs.replace(context, at=self.now)
        else:
            command, context = self.meant(act.command), self.context(act.actor, str(len(self.sent)))
            self.sent.append((command, context))
        kept = self.kept[act.process]
        if act.batch:
            [decision] = execute_batch(self.ledger, [(command, context)], kept)
            return decision.events, decision.duplicate, repr(decision.refused)
        try:
            outcome = execute(self.ledger, command, context, kept)
        except Refused as refused:
            return repr(refused)
        return [recorded(one) for one in outcome.events], outcome.duplicate, outcome.subject

    def suffer(self, fault: Fault) -> object:
        match fault.what:
            case "dump":
                self.dump = dumped(self.ledger)
            case "restore":
                restore(self.ledger, self.dump)
            case "lose end":
                # Whole commands: the ledger knows no others.
                positions = [one.position for one in self.history() if one.event_id in self.firsts()]
                if positions:
                    lose_since(self.ledger, positions[-min(fault.commands, len(positions))])
        return self.history()

    def firsts(self) -> set[UUID]:
        names = [*(f"hire {user_id}" for user_id in LEVELS), *map(str, range(len(self.sent)))]
        return {uuid5(uuid5(NAMESPACE, name), "0") for name in names}


def same_lives(with_kept: Life, without: Life, sequence: list[Act | Fault]) -> None:
    for step in sequence:
        if isinstance(step, Act):
            assert with_kept.take(step) == without.take(step), step
        else:
            assert with_kept.suffer(step) == without.suffer(step), step
        assert with_kept.ledger.head() == without.ledger.head()
    assert with_kept.history() == without.history()


def memory() -> MemoryLedger:
    return MemoryLedger(lambda: NOW, MASTER_KEY)


@settings(max_examples=200, deadline=None)
@given(sequences, sizes)
def test_two_processes_that_keep_states_do_what_others_do_that_keep_none(
    sequence: list[Act | Fault], size: tuple[int, int]
) -> None:
    same_lives(Life(memory(), (KeptStates(*size), KeptStates(*size))), Life(memory(), (None, None)), sequence)


Opened = Callable[[], tuple[PostgresLedger, PostgresLedger]]


@pytest.fixture
def opened(database: str) -> Iterator[Opened]:
    """Two processes' ledgers on one database, empty again each time."""
    with PostgresLedger(database, MASTER_KEY) as one, PostgresLedger(database, MASTER_KEY) as other:
        empty = dumped(one)

        def emptied() -> tuple[PostgresLedger, PostgresLedger]:
            restore(one, empty)
            return one, other

        yield emptied


class TwoProcesses(Life):
    """Each process has a connection pool, keys and states of its own; the faults come by the first one's."""

    def __init__(self, ledgers: tuple[PostgresLedger, PostgresLedger], kept: tuple[KeptStates, KeptStates]) -> None:
        self.ledgers = ledgers
        super().__init__(ledgers[0], kept)

    def take(self, act: Act) -> object:
        self.ledger = self.ledgers[act.process]
        try:
            return super().take(act)
        finally:
            self.ledger = self.ledgers[0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=sequences, size=sizes)
def test_the_same_holds_of_two_processes_on_postgresql(
    opened: Opened, sequence: list[Act | Fault], size: tuple[int, int]
) -> None:
    kept = KeptStates(*size), KeptStates(*size)
    same_lives(TwoProcesses(opened(), kept), Life(memory(), (None, None)), sequence)

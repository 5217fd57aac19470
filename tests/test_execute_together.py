"""Commands of several callers carried out at once: each as if it were alone."""

from collections.abc import Callable, Sequence
from uuid import UUID, uuid4, uuid5

import psycopg
import pytest

from modledger.domain import commands
from modledger.domain.commands import ChangePermission, Command, Context, IssueBan, IssueWarning
from modledger.domain.envelope import OPERATOR, Actor
from modledger.domain.execute import Outcome, execute, execute_together
from modledger.domain.kept_states import KeptStates
from modledger.domain.ledger import Append, Appended, LedgerDamaged, LedgerUnavailable
from modledger.domain.mapper import UnreadableEvent
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.recorder_ledger import RecorderLedger
from modledger.domain.refusals import Conflict, Forbidden, Stale
from tests.scenario import ADMIN, MODERATOR, NAMESPACE, NOW, OTHER_ADMIN, OWNER, STAFF, guild, user
from tests.sealing import unguarded
from tests.test_ledger_contract import store
from tests.test_ledger_postgres import planted

__all__ = ["store"]

Asked = tuple[Command, Context]


def by(actor: Actor, command_id: UUID | None = None, if_match: int | None = None) -> Context:
    return Context(
        actor=actor,
        at=NOW,
        command_id=command_id or uuid4(),
        correlation_id=uuid5(NAMESPACE, "correlation"),
        via="http",
        if_match=if_match,
    )


def warn(number: int, actor: Actor = MODERATOR, command_id: UUID | None = None) -> Asked:
    return IssueWarning(target=user(number), reason=f"rude {number}"), by(actor, command_id)


def ban(number: int, actor: Actor = ADMIN) -> Asked:
    return IssueBan(target=user(number), reason="spam"), by(actor)


def promote(user_id: int, level: int, actor: Actor = OPERATOR) -> Asked:
    return ChangePermission(user_id=user_id, level=level, reason="because"), by(actor)


def said(outcomes: Sequence[Outcome | Exception | None]) -> list[object]:
    """Of each the position of its event, the kind of its error, or None."""
    return [one.position if isinstance(one, Outcome) else None if one is None else type(one) for one in outcomes]


@pytest.fixture
def staffed(store: RecorderLedger) -> RecorderLedger:
    for actor, level in STAFF.items():
        execute(store, *promote(actor.id or 0, level))
    return store


@pytest.fixture(params=["kept", "not kept"])
def kept(request: pytest.FixtureRequest, staffed: RecorderLedger) -> KeptStates:
    """What a process knows of these streams: all, or nothing yet."""
    states = KeptStates()
    if request.param == "kept":
        execute_together(staffed, [warn(number) for number in range(1, 4)], states)
        assert len(states) == 4
    return states


def test_each_comes_to_the_outcome_that_it_would_have_alone(staffed: RecorderLedger, kept: KeptStates) -> None:
    head = staffed.head()
    asked = [warn(1), ban(2), (IssueWarning(target=guild(9), reason="raids"), by(MODERATOR))]
    outcomes = execute_together(staffed, asked, kept)
    assert said(outcomes) == [head + 1, head + 2, head + 3]
    for (command, context), outcome in zip(asked, outcomes, strict=True):
        assert isinstance(outcome, Outcome)
        again = execute(staffed, command, context)
        assert (again.duplicate, again.events, again.subject) == (True, outcome.events, outcome.subject)


def test_who_is_refused_stops_nobody_and_nobody_elses_command(staffed: RecorderLedger, kept: KeptStates) -> None:
    head = staffed.head()
    stale = IssueWarning(target=user(3), reason="rude"), by(MODERATOR, if_match=99)
    outcomes = execute_together(staffed, [warn(1), warn(2, Actor("user", 7)), ban(4), stale, warn(5)], kept)
    assert said(outcomes) == [head + 1, Forbidden, head + 2, Stale, head + 3]
    assert staffed.head() == head + 3


def test_a_refusal_names_how_far_the_streams_of_its_own_decision_were_read(
    staffed: RecorderLedger, kept: KeptStates
) -> None:
    banned = execute(staffed, *ban(4))
    execute(staffed, *warn(5))
    _, refused = execute_together(staffed, [warn(5), ban(4)], kept)
    assert isinstance(refused, Conflict)
    assert refused.position == banned.position


def test_of_several_on_one_stream_the_first_goes_and_the_others_are_asked_again(
    staffed: RecorderLedger, kept: KeptStates
) -> None:
    head = staffed.head()
    asked = [ban(8), ban(8, OTHER_ADMIN), warn(9), ban(8, OWNER)]
    assert said(execute_together(staffed, asked, kept)) == [head + 1, None, head + 2, None]
    outcomes = execute_together(staffed, [asked[1], asked[3]], kept)
    assert [str(one) for one in outcomes] == [f"User 8 already has an active ban: punishment {head + 1}"] * 2


def test_what_changes_the_rights_of_one_who_acts_after_it_counts(staffed: RecorderLedger, kept: KeptStates) -> None:
    head = staffed.head()
    asked = [warn(1), promote(MODERATOR.id or 0, 0, OWNER), warn(2), warn(3, ADMIN)]
    assert said(execute_together(staffed, asked, kept)) == [head + 1, head + 2, None, head + 3]
    assert said(execute_together(staffed, [asked[2]], kept)) == [Forbidden]


class ContestedLedger(MemoryLedger):
    """Somebody else gets to do something between the decisions and their append."""

    meanwhile: Callable[[], object] | None = None

    def append_together(self, appends: Sequence[Append]) -> list[Appended | Exception]:
        others, self.meanwhile = self.meanwhile, None
        if others is not None:
            others()
        return super().append_together(appends)


def test_where_somebody_was_faster_only_those_concerned_are_asked_again() -> None:
    ledger, states, asked = ContestedLedger(lambda: NOW), KeptStates(), [ban(1), warn(2), ban(3)]
    for actor, level in STAFF.items():
        execute(ledger, *promote(actor.id or 0, level))
    head = ledger.head()
    ledger.meanwhile = lambda: execute(ledger, *ban(3, OTHER_ADMIN))
    assert said(execute_together(ledger, asked, states)) == [head + 2, head + 3, None]
    assert said(execute_together(ledger, asked[2:], states)) == [Conflict]


def test_a_repetition_is_recognised_and_an_id_of_another_command_refused(
    staffed: RecorderLedger, kept: KeptStates
) -> None:
    mine, other = uuid4(), uuid4()
    first = execute(staffed, *warn(1, command_id=mine))
    execute(staffed, *warn(2, command_id=other))
    head = staffed.head()
    asked = [warn(1, command_id=mine), warn(3), warn(4, command_id=other)]
    outcomes = execute_together(staffed, asked, kept)
    assert said(outcomes) == [first.position, head + 1, Conflict]
    assert isinstance(outcomes[0], Outcome)
    assert (outcomes[0].duplicate, outcomes[0].subject) == (True, first.subject)


def test_the_same_command_twice_happens_once(staffed: RecorderLedger, kept: KeptStates) -> None:
    mine, head = uuid4(), staffed.head()
    asked = [warn(6, command_id=mine), warn(6, command_id=mine)]
    assert said(execute_together(staffed, asked, kept)) == [head + 1, None]
    assert said(execute_together(staffed, asked[1:], kept)) == [head + 1]
    assert staffed.head() == head + 1


def test_nothing_to_change_is_an_outcome_without_events(staffed: RecorderLedger, kept: KeptStates) -> None:
    execute(staffed, commands.RegisterUser(user_id=6, username="ann"), by(Actor("bot", 5000)))
    head = staffed.head()
    same = commands.UpdateUser(user_id=6, username="ann"), by(Actor("bot", 5000))
    assert said(execute_together(staffed, [same, warn(7)], kept)) == [0, head + 1]


def test_an_erasure_among_them_leaves_nothing_of_the_text_in_memory(staffed: RecorderLedger, kept: KeptStates) -> None:
    execute(staffed, *warn(1), kept)
    erase = commands.EraseSubject(target=user(1), reason="asked by mail"), by(OWNER)
    outcomes = execute_together(staffed, [erase, warn(2)], kept)
    assert None not in said(outcomes)
    assert kept.find(["user:1", "user:2"]).keys() == {"user:2"}


def test_a_stream_that_cannot_be_read_concerns_those_who_need_it(database: str, ledger: PostgresLedger) -> None:
    execute(ledger, *promote(MODERATOR.id or 0, 1))
    planted(database, "1", b"no event")
    outcomes = execute_together(ledger, [warn(2), warn(1), warn(3)], KeptStates())
    assert [type(one) for one in outcomes] == [Outcome, UnreadableEvent, Outcome]


def test_a_subject_with_a_key_and_no_event_stops_nobody_else(database: str, ledger: PostgresLedger) -> None:
    execute(ledger, *promote(MODERATOR.id or 0, 1))
    execute(ledger, *warn(1))
    with psycopg.connect(database, autocommit=True) as connection:
        unguarded(connection, "delete from ledger where originator_id = 'user:1'")
    outcomes = execute_together(ledger, [warn(2), warn(1), warn(3)], KeptStates())
    assert [type(one) for one in outcomes] == [Outcome, LedgerDamaged, Outcome]


def test_a_ledger_that_is_closed_is_said_to_be_so_to_each(ledger: PostgresLedger) -> None:
    ledger.close()
    assert said(execute_together(ledger, [warn(1), warn(2)], KeptStates())) == [LedgerUnavailable] * 2


def test_what_is_committed_together_is_one_transaction(database: str, ledger: PostgresLedger) -> None:
    execute(ledger, *promote(MODERATOR.id or 0, 1))
    outcomes = execute_together(ledger, [warn(number) for number in range(50, 90)], KeptStates())
    assert None not in outcomes
    with psycopg.connect(database) as connection:
        rows = connection.execute("select count(*) from ledger group by xmin::text order by 1").fetchall()
    assert rows == [(1,), (40,)]

"""From a command to the ledger: exactly once, deciding again when somebody was faster, and many in one transaction."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID, uuid5

import pytest

from modledger.domain import commands, events
from modledger.domain.commands import ChangePermission, Command, Context, IssueBan, IssueTimeout, IssueWarning
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor
from modledger.domain.execute import execute, execute_batch
from modledger.domain.ledger import Append, Appended, LedgerUnavailable
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.refusals import Conflict, Forbidden, Refused, Stale
from modledger.domain.subjects import User
from tests.scenario import (
    ADMIN,
    BOT,
    DAY,
    HOUR,
    MODERATOR,
    NAMESPACE,
    NOW,
    OTHER_ADMIN,
    OTHER_OWNER,
    OWNER,
    SECOND,
    STAFF,
    guild,
    user,
)

Meanwhile = Callable[[], object]


class ContestedLedger(MemoryLedger):
    """Between a decision and its append somebody else gets to do something: the next of ``meanwhile``."""

    meanwhile: Sequence[Meanwhile] = ()

    def append(self, append: Append) -> Appended:
        self._let_others()
        return super().append(append)

    def append_batch(self, appends: Sequence[Append]) -> None:
        self._let_others()
        super().append_batch(appends)

    def _let_others(self) -> None:
        if self.meanwhile:
            now, *self.meanwhile = self.meanwhile
            now()


class SilentLedger(MemoryLedger):
    """Appends and then loses the connection before it answers, once ``silent`` is set."""

    silent = False

    def append(self, append: Append) -> Appended:
        appended = super().append(append)
        if self.silent:
            self.silent = False
            raise LedgerUnavailable("the connection was lost")
        return appended


L = TypeVar("L", bound=MemoryLedger)


def staffed(kind: type[L]) -> L:
    ledger = kind(lambda: NOW)
    for actor, level in STAFF.items():
        execute(ledger, promote(actor.id or 0, level), by(OPERATOR, f"{actor} is hired", at=NOW - DAY))
    return ledger


@pytest.fixture
def ledger() -> ContestedLedger:
    return staffed(ContestedLedger)


def by(actor: Actor, name: str, *, at: datetime = NOW, if_match: int | None = None) -> Context:
    """The context of the command that bears this name."""
    correlation_id = uuid5(NAMESPACE, "correlation")
    return Context(
        actor=actor, at=at, command_id=command_id(name), correlation_id=correlation_id, via="http", if_match=if_match
    )


def command_id(name: str) -> UUID:
    return uuid5(NAMESPACE, name)


def promote(user_id: int, level: int) -> ChangePermission:
    return ChangePermission(user_id=user_id, level=level, reason="because")


def stored(ledger: MemoryLedger, stream: str) -> list[events.Event]:
    return [happened.event for happened in ledger.load([stream])[stream]]


BAN = IssueBan(target=user(1), reason="spam")
WARNING = IssueWarning(target=user(1), reason="rude")


# -- one command


def test_an_outcome_tells_the_events_their_position_and_the_state_after_them(ledger: ContestedLedger) -> None:
    execute(ledger, WARNING, by(ADMIN, "first"))
    before = ledger.head()
    outcome = execute(ledger, BAN, by(ADMIN, "second"))
    assert [happened.event for happened in outcome.events] == [events.UserBanned(reason="spam")]
    assert (outcome.position, outcome.duplicate, outcome.subject.version) == (before + 1, False, 2)
    assert isinstance(outcome.subject, User)
    assert outcome.subject.punishments[2].position == before + 1
    assert ledger.at(before + 1) == outcome.events[0]


def test_the_envelope_says_who_when_and_under_which_correlation(ledger: ContestedLedger) -> None:
    context = by(ADMIN, "first", at=NOW + SECOND)
    happened = execute(ledger, BAN, context).events[0]
    assert (happened.actor, happened.occurred_at, happened.via) == (ADMIN, NOW + SECOND, "http")
    assert (happened.correlation_id, happened.stream, happened.version) == (context.correlation_id, "user:1", 1)


def test_a_refused_command_leaves_no_trace(ledger: ContestedLedger) -> None:
    execute(ledger, BAN, by(ADMIN, "first"))
    before = ledger.read(0, 1000)
    with pytest.raises(Conflict):
        execute(ledger, BAN, by(ADMIN, "second"))
    with pytest.raises(Forbidden):
        execute(ledger, BAN, by(Actor("user", 7), "third"))
    assert ledger.read(0, 1000) == before
    assert ledger.known_commands([command_id("second"), command_id("third")]) == set()


def test_a_command_with_nothing_to_change_appends_nothing(ledger: ContestedLedger) -> None:
    execute(ledger, commands.RegisterUser(user_id=1, username="ann"), by(BOT, "first"))
    before = ledger.head()
    outcome = execute(ledger, commands.UpdateUser(user_id=1, username="ann"), by(BOT, "second"))
    assert (list(outcome.events), outcome.position, outcome.subject.version) == ([], 0, 1)
    assert ledger.head() == before


def test_an_end_that_ran_out_unrecorded_is_the_systems_and_not_the_admins(ledger: ContestedLedger) -> None:
    execute(ledger, WARNING, by(ADMIN, "known", at=NOW - 2 * DAY))
    grant = commands.GrantSubscription(target=user(1), tier=2, duration_days=1)
    execute(ledger, grant, by(ADMIN, "first", at=NOW - 2 * DAY))
    ended, granted = execute(ledger, grant, by(ADMIN, "again")).events
    assert (ended.event, ended.actor, ended.occurred_at) == (
        events.SubscriptionEnded(old_tier=2),
        SYSTEM,
        NOW - DAY,
    )
    assert (granted.actor, granted.occurred_at) == (ADMIN, NOW)


def test_a_server_whose_clock_is_behind_dates_nothing_before_what_it_follows(ledger: ContestedLedger) -> None:
    execute(ledger, BAN, by(ADMIN, "first"))
    lift = commands.LiftPunishment(target=user(1), number=1, reason="served")
    outcome = execute(ledger, lift, by(ADMIN, "second", at=NOW - HOUR))
    assert outcome.events[0].occurred_at == NOW


# -- the same command twice


def test_a_retry_answers_as_the_first_time_and_adds_nothing(ledger: ContestedLedger) -> None:
    first = execute(ledger, BAN, by(ADMIN, "first"))
    head = ledger.head()
    again = execute(ledger, BAN, by(ADMIN, "first", at=NOW + HOUR))
    assert (again.duplicate, again.events, again.subject) == (True, first.events, first.subject)
    assert ledger.head() == head


def test_a_retry_answers_as_the_first_time_also_after_later_events_of_the_stream(ledger: ContestedLedger) -> None:
    execute(ledger, BAN, by(ADMIN, "first"))
    worse = IssueBan(target=user(1), reason="worse", replace=True)
    first = execute(ledger, worse, by(ADMIN, "second"))
    lift = commands.LiftPunishment(target=user(1), number=3, reason="served")
    execute(ledger, lift, by(ADMIN, "third"))
    execute(ledger, WARNING, by(ADMIN, "fourth"))
    again = execute(ledger, worse, by(ADMIN, "second"))
    assert len(again.events) == 2
    assert (again.duplicate, again.events, again.subject) == (True, first.events, first.subject)


def test_a_retry_is_recognised_although_its_actor_could_no_longer_do_it(ledger: ContestedLedger) -> None:
    first = execute(ledger, BAN, by(ADMIN, "first"))
    execute(ledger, promote(ADMIN.id or 0, 0), by(OWNER, "fired"))
    assert execute(ledger, BAN, by(ADMIN, "first")).events == first.events


def test_a_retry_with_the_version_that_the_first_try_saw_is_not_stale(ledger: ContestedLedger) -> None:
    execute(ledger, WARNING, by(ADMIN, "first", if_match=0))
    assert execute(ledger, WARNING, by(ADMIN, "first", if_match=0)).duplicate
    with pytest.raises(Stale):
        execute(ledger, WARNING, by(ADMIN, "second", if_match=0))


def test_a_refused_command_may_be_tried_again_under_its_id(ledger: ContestedLedger) -> None:
    with pytest.raises(Forbidden):
        execute(ledger, BAN, by(MODERATOR, "first"))
    execute(ledger, promote(MODERATOR.id or 0, 2), by(OWNER, "promoted"))
    assert not execute(ledger, BAN, by(MODERATOR, "first")).duplicate


def test_a_lost_acknowledgement_is_made_good_by_calling_again() -> None:
    ledger = staffed(SilentLedger)
    ledger.silent = True
    with pytest.raises(LedgerUnavailable):
        execute(ledger, BAN, by(ADMIN, "first"))
    again = execute(ledger, BAN, by(ADMIN, "first"))
    assert again.duplicate
    assert stored(ledger, "user:1") == [events.UserBanned(reason="spam")]


def test_the_id_of_another_targets_command_is_refused(ledger: ContestedLedger) -> None:
    execute(ledger, BAN, by(ADMIN, "first"))
    head = ledger.head()
    for target in (user(2), guild(1)):
        with pytest.raises(Conflict, match="This command id already belongs to another command"):
            execute(ledger, IssueBan(target=target, reason="spam"), by(ADMIN, "first"))
    assert ledger.head() == head


def test_the_same_command_twice_at_once_happens_once(ledger: ContestedLedger) -> None:
    rival = []
    ledger.meanwhile = [lambda: rival.append(execute(ledger, WARNING, by(ADMIN, "first")))]
    outcome = execute(ledger, WARNING, by(ADMIN, "first"))
    assert outcome.duplicate
    assert not rival[0].duplicate
    assert outcome.events == rival[0].events
    assert stored(ledger, "user:1") == [events.UserWarned(reason="rude")]


# -- somebody was faster


def test_of_two_bans_at_once_the_slower_is_refused_naming_the_faster(ledger: ContestedLedger) -> None:
    ledger.meanwhile = [lambda: execute(ledger, BAN, by(OTHER_ADMIN, "faster"))]
    position = ledger.head() + 1
    with pytest.raises(Conflict, match=f"already has an active ban: punishment {position}$"):
        execute(ledger, BAN, by(ADMIN, "slower"))
    assert len(stored(ledger, "user:1")) == 1


def test_a_warning_is_decided_again_for_as_long_as_others_are_faster(ledger: ContestedLedger) -> None:
    names = [f"rival {number}" for number in range(5)]
    ledger.meanwhile = [_warn(ledger, name) for name in names]
    outcome = execute(ledger, WARNING, by(ADMIN, "slower"))
    assert (outcome.events[0].version, outcome.subject.version) == (6, 6)


def _warn(ledger: ContestedLedger, name: str) -> Meanwhile:
    # The rival's own append must not let the next rival in, so it goes past the queue.
    def warn() -> None:
        waiting, ledger.meanwhile = ledger.meanwhile, ()
        execute(ledger, WARNING, by(OTHER_ADMIN, name))
        ledger.meanwhile = waiting

    return warn


@pytest.mark.parametrize(
    ("rival", "actor", "message"),
    [
        (promote(ADMIN.id or 0, 0), OWNER, "Admin access required"),
        (promote(1, 2), OWNER, "You cannot act on this user"),
        (IssueBan(target=user(ADMIN.id or 0), reason="rogue"), OWNER, "Account restricted"),
        (
            IssueTimeout(user_id=ADMIN.id or 0, reason="rogue", expires_at=NOW + HOUR),
            OPERATOR,
            "Account restricted",
        ),
    ],
    ids=["demoted", "target promoted", "banned", "timed out"],
)
def test_what_changes_about_the_actor_or_target_during_the_decision_counts(
    ledger: ContestedLedger, rival: Command, actor: Actor, message: str
) -> None:
    execute(ledger, promote(1, 1), by(OPERATOR, "known"))
    ledger.meanwhile = [lambda: execute(ledger, rival, by(actor, "faster"))]
    with pytest.raises(Forbidden, match=message):
        execute(ledger, BAN, by(ADMIN, "slower"))


def test_a_guild_that_changes_hands_during_the_decision_is_protected_by_its_new_owner(ledger: ContestedLedger) -> None:
    execute(ledger, commands.RegisterGuild(guild_id=200, name="Harbour", owner_id=1), by(BOT, "known"))
    sold = commands.UpdateGuild(guild_id=200, owner_id=OTHER_ADMIN.id)
    ledger.meanwhile = [lambda: execute(ledger, sold, by(BOT, "faster"))]
    with pytest.raises(Forbidden, match="You cannot act on this guild"):
        execute(ledger, IssueWarning(target=guild(200), reason="rude"), by(ADMIN, "slower"))


def test_an_issuer_who_is_promoted_during_a_lift_keeps_the_punishment(ledger: ContestedLedger) -> None:
    timeout = IssueTimeout(user_id=1, reason="spam", expires_at=NOW + HOUR)
    execute(ledger, timeout, by(MODERATOR, "issued"))
    lift = commands.LiftPunishment(target=user(1), number=1, reason="served")
    ledger.meanwhile = [lambda: execute(ledger, promote(MODERATOR.id or 0, 2), by(OWNER, "faster"))]
    with pytest.raises(Forbidden, match="You cannot act on this punishment"):
        execute(ledger, lift, by(ADMIN, "slower"))


def test_of_two_owners_who_demote_each_other_one_remains(ledger: ContestedLedger) -> None:
    mine, theirs = promote(OTHER_OWNER.id or 0, 0), promote(OWNER.id or 0, 0)
    ledger.meanwhile = [lambda: execute(ledger, theirs, by(OTHER_OWNER, "faster"))]
    with pytest.raises(Forbidden, match="Admin access required"):
        execute(ledger, mine, by(OWNER, "slower"))
    assert len(stored(ledger, str(user(OTHER_OWNER.id or 0)))) == 1


def test_two_clock_workers_record_an_end_once(ledger: ContestedLedger) -> None:
    ban = IssueBan(target=user(1), reason="spam", expires_at=NOW + SECOND)
    execute(ledger, ban, by(ADMIN, "issued"))
    lapse = commands.LapsePunishment(target=user(1), number=1, expires_at=NOW + SECOND)
    later = NOW + 7 * DAY
    ledger.meanwhile = [lambda: execute(ledger, lapse, by(SYSTEM, "faster", at=later))]
    assert list(execute(ledger, lapse, by(SYSTEM, "slower", at=later)).events) == []
    happened = ledger.load(["user:1"])["user:1"]
    assert [one.event for one in happened[1:]] == [events.PunishmentLapsed(number=1)]
    assert happened[1].occurred_at == NOW + SECOND


# -- many commands


def test_a_batch_decides_each_command_on_what_those_before_it_did(ledger: ContestedLedger) -> None:
    decisions = execute_batch(
        ledger,
        [
            (promote(50, 1), by(OPERATOR, "hired")),
            (IssueTimeout(user_id=1, reason="spam", expires_at=NOW + HOUR), by(Actor("user", 50), "allowed")),
            (promote(50, 0), by(ADMIN, "fired")),
            (IssueWarning(target=user(1), reason="spam"), by(Actor("user", 50), "refused")),
            (IssueTimeout(user_id=1, reason="spam", expires_at=NOW + HOUR), by(ADMIN, "second")),
            (commands.LiftPunishment(target=user(1), number=1, reason="served"), by(OWNER, "lifted")),
        ],
    )
    assert [type(decision.refused) for decision in decisions] == [
        type(None),
        type(None),
        type(None),
        Forbidden,
        Conflict,
        type(None),
    ]
    assert stored(ledger, "user:1") == [
        events.UserTimedOut(reason="spam", expires_at=NOW + HOUR),
        events.PunishmentLifted(number=1, reason="served"),
    ]


def test_a_conflict_with_what_the_same_batch_issued_says_so_as_that_has_no_id_yet(ledger: ContestedLedger) -> None:
    lift = commands.LiftPunishment(target=user(1), number=1, reason="served")
    decisions = execute_batch(
        ledger,
        [
            (BAN, by(ADMIN, "banned")),
            (BAN, by(ADMIN, "again")),
            (lift, by(ADMIN, "lifted")),
            (lift, by(ADMIN, "lifted again")),
        ],
    )
    assert [str(decision.refused) for decision in decisions if decision.refused] == [
        "User 1 already has an active ban: a punishment issued by this same batch",
        "A punishment issued by this same batch has already ended (lifted)",
    ]
    (banned,) = execute(ledger, BAN, by(ADMIN, "before")).events
    (refused,) = execute_batch(ledger, [(BAN, by(ADMIN, "after"))])
    assert str(refused.refused) == f"User 1 already has an active ban: punishment {banned.position}"


def test_a_batch_that_was_appended_adds_nothing_the_second_time(ledger: ContestedLedger) -> None:
    items: list[tuple[Command, Context]] = [(WARNING, by(ADMIN, "one")), (BAN, by(ADMIN, "two"))]
    execute_batch(ledger, items)
    head = ledger.head()
    assert [decision.duplicate for decision in execute_batch(ledger, items)] == [True, True]
    assert ledger.head() == head


def test_a_command_that_stands_twice_in_a_batch_happens_once(ledger: ContestedLedger) -> None:
    decisions = execute_batch(ledger, [(WARNING, by(ADMIN, "one")), (WARNING, by(ADMIN, "one"))])
    assert [decision.duplicate for decision in decisions] == [False, True]
    assert len(stored(ledger, "user:1")) == 1


def test_a_refused_command_of_a_batch_may_stand_there_again(ledger: ContestedLedger) -> None:
    decisions = execute_batch(
        ledger,
        [
            (BAN, by(MODERATOR, "one")),
            (promote(MODERATOR.id or 0, 2), by(OWNER, "promoted")),
            (BAN, by(MODERATOR, "one")),
        ],
    )
    assert isinstance(decisions[0].refused, Refused)
    assert (decisions[2].refused, decisions[2].duplicate, len(decisions[2].events)) == (None, False, 1)


def test_a_batch_is_decided_again_when_somebody_was_faster(ledger: ContestedLedger) -> None:
    ledger.meanwhile = [lambda: execute(ledger, BAN, by(OTHER_ADMIN, "faster"))]
    decisions = execute_batch(ledger, [(BAN, by(ADMIN, "slower")), (WARNING, by(ADMIN, "warned"))])
    assert isinstance(decisions[0].refused, Conflict)
    assert stored(ledger, "user:1") == [events.UserBanned(reason="spam"), events.UserWarned(reason="rude")]


def test_a_batch_recognises_a_command_that_another_process_appended_meanwhile(ledger: ContestedLedger) -> None:
    ledger.meanwhile = [lambda: execute(ledger, BAN, by(ADMIN, "one"))]
    decisions = execute_batch(ledger, [(BAN, by(ADMIN, "one"))])
    assert (decisions[0].duplicate, decisions[0].refused) == (True, None)
    assert len(stored(ledger, "user:1")) == 1


def test_an_empty_batch_or_one_of_refusals_appends_nothing(ledger: ContestedLedger) -> None:
    head = ledger.head()
    assert execute_batch(ledger, []) == []
    execute_batch(ledger, [(BAN, by(MODERATOR, "one"))])
    assert ledger.head() == head

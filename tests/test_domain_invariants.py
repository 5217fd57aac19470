"""Whatever anyone commands in whatever order: nobody acts on one they may not act on, and no subject gets into a state
that api.md §3 rules out."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modledger.domain import commands, events
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Recorded, Subject, subject_of
from modledger.domain.execute import Outcome, execute, execute_batch
from modledger.domain.ledger import Append, Appended
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.refusals import Forbidden, Refused
from modledger.domain.subjects import fold
from tests import oracle
from tests.scenario import DAY, HOUR, NAMESPACE, NOW, SECOND

# Few, so that commands meet. 6 and 7 are never seen before somebody acts on them; the others begin with these levels.
USERS = (1, 2, 3, 4, 5, 6, 7)
LEVELS = {1: 3, 2: 3, 3: 2, 4: 2, 5: 1}
GUILD, BOT = 101, 201
MICROSECOND = timedelta(microseconds=1)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A command by someone, ``later`` than the last one by a clock that may be ``off``. ``retries`` how often it is
    sent again. ``rival``: what somebody else does between its decision and its append."""

    command: Command
    actor: Actor
    later: timedelta
    off: timedelta
    retries: int
    rival: "Step | None" = None


class ContestedLedger(MemoryLedger):
    """Lets the rival in before the next append."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW)
        self.rival: Any = None

    def append(self, append: Append) -> Appended:
        rival, self.rival = self.rival, None
        if rival is not None:
            rival()
        return super().append(append)


user_ids = st.sampled_from([6, 6, 6, 5, 5, 4, *USERS])
guild_ids, bot_ids = st.just(GUILD), st.just(BOT)
accounts = st.one_of(user_ids, user_ids, st.none()).map(
    lambda one: Subject("guild", GUILD) if one is None else Subject("user", one)
)
reasons = st.sampled_from(["spam", "raid", "مرحبا", "spam", "raid", " "])
numbers = st.integers(0, 5)
unset = st.just(msgspec.UNSET)
pictures = st.sampled_from(["https://a/1.png", "https://a/2.png", "a.png"])
ends = st.sampled_from([timedelta(0), SECOND, HOUR, HOUR, DAY, 7 * DAY, 28 * DAY, 28 * DAY + SECOND]).map(
    lambda ahead: NOW + ahead
)
actors = st.sampled_from(
    [
        *(Actor("user", one) for one in (1, 1, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 7, 99)),
        OPERATOR,
        OPERATOR,
        SYSTEM,
        Actor("bot", BOT),
    ]
)
punishing = st.one_of(
    st.builds(commands.IssueWarning, target=accounts, reason=reasons),
    st.builds(commands.IssueTimeout, user_id=user_ids, reason=st.just("spam"), expires_at=ends, replace=st.booleans()),
    st.builds(
        commands.IssueBan,
        target=accounts,
        reason=st.just("spam"),
        expires_at=st.none() | ends,
        replace=st.booleans(),
    ),
)
changing = st.one_of(
    st.builds(
        commands.AmendPunishment,
        target=accounts,
        number=numbers,
        reason=st.just(msgspec.UNSET) | st.sampled_from(["spam", "new"]),
        expires_at=st.just(msgspec.UNSET) | st.none() | ends,
    ),
    st.builds(commands.LiftPunishment, target=accounts, number=numbers, reason=st.just("ok")),
    st.builds(commands.VoidPunishment, target=accounts, number=numbers, reason=st.just("ok")),
    st.builds(commands.OverturnPunishment, target=accounts, number=numbers, reason=st.just("ok")),
    st.builds(commands.LapsePunishment, target=accounts, number=numbers, expires_at=ends),
)
subscribing = st.one_of(
    st.builds(
        commands.GrantSubscription,
        target=accounts,
        tier=st.sampled_from([0, 1, 2, 2, 2, 3, 4]),
        duration_days=st.sampled_from([0, 1, 1, 7, 7, 3650, 3651]),
    ),
    st.builds(commands.StartTrial, target=accounts),
    st.builds(commands.RevokeSubscription, target=accounts, reason=reasons),
    st.builds(commands.EndSubscription, target=accounts, expires_at=ends),
)
being = st.one_of(
    st.builds(commands.RegisterUser, user_id=user_ids, username=st.sampled_from(["ann", "bea"])),
    st.builds(commands.UpdateUser, user_id=user_ids, username=st.sampled_from(["ann", "bea"])),
    st.builds(commands.ChangeUserPrefix, user_id=user_ids, prefix=st.sampled_from(["!", "?", " "])),
    st.builds(commands.RegisterGuild, guild_id=guild_ids, name=st.just("Harbour"), owner_id=st.none() | user_ids),
    st.builds(
        commands.UpdateGuild,
        guild_id=guild_ids,
        name=unset | st.sampled_from(["Harbour", "Pier"]),
        owner_id=unset | st.none() | user_ids,
        state=unset | st.sampled_from([0, 1, 1, 2]),
    ),
    st.builds(
        commands.SyncGuild,
        guild_id=guild_ids,
        name=st.none() | st.sampled_from(["Harbour", "Pier"]),
        avatar_url=st.none() | pictures,
        owner_id=st.none() | user_ids,
    ),
    st.builds(commands.ChangeGuildPrefix, guild_id=guild_ids, prefix=st.sampled_from(["!", "?"])),
    st.builds(commands.RegisterBot, bot_id=bot_ids, name=st.just("Ferry"), owner_id=user_ids),
    st.builds(
        commands.UpdateBot,
        bot_id=bot_ids,
        name=unset | st.sampled_from(["Ferry", "Barge"]),
        owner_id=unset | user_ids,
        bot_type=unset | st.sampled_from([0, 1, 2, 3]),
        rate_limit_per_hour=unset | st.sampled_from([0, 1, 1000]),
        is_active=unset | st.booleans(),
    ),
    st.builds(commands.SyncBot, bot_id=bot_ids, avatar_url=st.none() | pictures),
    st.builds(commands.RegenerateBotKey, bot_id=bot_ids),
    st.builds(
        commands.EraseSubject,
        target=accounts | bot_ids.map(lambda one: Subject("bot", one)),
        reason=reasons,
    ),
)
levelling = st.builds(
    commands.ChangePermission,
    user_id=user_ids,
    level=st.sampled_from([-1, 0, 0, 1, 1, 2, 2, 3, 4]),
    reason=st.sampled_from(["hired", "fired"]),
)
all_commands: st.SearchStrategy[Command] = st.one_of(
    punishing, punishing, changing, changing, subscribing, subscribing, levelling, being
)


def steps_with(rivals: st.SearchStrategy[Step | None]) -> st.SearchStrategy[Step]:
    return st.builds(
        Step,
        command=all_commands,
        actor=actors,
        later=st.sampled_from([timedelta(0), timedelta(0), MICROSECOND, SECOND, SECOND, HOUR, DAY, 8 * DAY]),
        off=st.sampled_from([timedelta(0), timedelta(0), timedelta(0), -SECOND, -2 * HOUR, SECOND, 2 * DAY]),
        retries=st.sampled_from([0, 0, 0, 1, 2]),
        rival=rivals,
    )


steps = steps_with(st.none() | steps_with(st.none()))


class World:
    """The ledger, the clock, and what has been sent so far."""

    def __init__(self) -> None:
        self.ledger = ContestedLedger()
        self.now = NOW
        self.sent = 0
        self.read: list[Recorded] = []
        for user_id, level in LEVELS.items():
            hired = commands.ChangePermission(user_id=user_id, level=level, reason="hired")
            execute(self.ledger, hired, self.context(OPERATOR, NOW))

    def context(self, actor: Actor, at: datetime) -> Context:
        self.sent += 1
        return Context(
            actor=actor,
            at=at,
            command_id=uuid5(NAMESPACE, str(self.sent)),
            correlation_id=UUID(int=self.sent),
            via="http",
        )

    def history(self) -> list[Recorded]:
        """The whole ledger. Only an erasure changes how an event reads that was read before; that they all read so
        still is asserted at the end."""
        further = self.ledger.read(len(self.read), 10_000)
        if any(isinstance(one.event, events.SubjectErased) for one in further):
            self.read, further = [], self.ledger.read(0, 10_000)
        if further:
            self.read = [*self.read, *further]
        return self.read

    def meant(self, command: Command) -> Command:
        """The command with its number among the punishments there are, and its end seen from now."""
        changed: dict[str, Any] = {}
        end = getattr(command, "expires_at", None)
        if isinstance(end, datetime):
            changed["expires_at"] = self.now + (end - NOW)
        if hasattr(command, "number"):
            there_are = oracle.spans(self.history(), oracle.stream_of(command))
            if there_are:
                chosen = there_are[command.number % len(there_are)]
                changed["number"] = chosen.number
                if isinstance(command, commands.LapsePunishment) and chosen.end is not None:
                    changed["expires_at"] = chosen.end
        if isinstance(command, commands.EndSubscription):
            stream = oracle.of(self.history(), str(command.target))
            known = [
                one.event.expires_at
                for one in stream
                if isinstance(one.event, events.TrialStarted | events.SubscriptionGranted)
            ]
            if known and known[-1] is not None:
                changed["expires_at"] = known[-1]
        return msgspec.structs.replace(command, **changed)

    def take(self, step: Step) -> None:
        self.now += step.later
        command, at = self.meant(step.command), self.now + step.off
        context = self.context(step.actor, at)
        before = self.history()
        rival = step.rival
        if rival is not None:
            self.ledger.rival = lambda: self.take(rival)
        try:
            outcome = execute(self.ledger, command, context)
        except Refused as refused:
            self.check_refusal(command, context, before, refused)
            return
        finally:
            self.ledger.rival = None
        self.check(command, step.actor, at, outcome)
        for _ in range(step.retries):
            self.retry(command, context, outcome)

    def check_refusal(self, command: Command, context: Context, before: list[Recorded], refused: Refused) -> None:
        after = self.history()
        assert after[: len(before)] == before
        # What came between, if anything, is the rival's.
        assert not any(one.correlation_id == context.correlation_id for one in after)
        assert not self.ledger.known_commands([context.command_id])
        assert str(refused)
        if isinstance(refused, Forbidden):
            assert not oracle.may(command, context.actor, context.at, after), (command, context, str(refused))

    def check(self, command: Command, actor: Actor, at: datetime, outcome: Outcome) -> None:
        stream = oracle.stream_of(command)
        history = self.history()
        assert not outcome.duplicate
        if outcome.events:
            first = outcome.events[0].position
            assert [one for one in history if one.position >= first] == list(outcome.events)
            assert {one.stream for one in outcome.events} == {stream}
            assert oracle.may(command, actor, at, [one for one in history if one.position < first]), (command, actor)
        assert outcome.subject == fold(subject_of(stream), oracle.of(history, stream))
        check_stream(history, stream)

    def retry(self, command: Command, context: Context, outcome: Outcome) -> None:
        if not outcome.events:
            return
        before = self.ledger.head()
        again = execute(self.ledger, command, msgspec.structs.replace(context, at=context.at + HOUR))
        assert (again.duplicate, again.events, again.subject) == (True, outcome.events, outcome.subject)
        assert self.ledger.head() == before


def check_stream(history: list[Recorded], stream: str) -> None:
    mine = oracle.of(history, stream)
    assert [one.version for one in mine] == list(range(1, len(mine) + 1))
    assert oracle.overlaps(history, stream) == []
    assert all(span.end is None or span.end >= span.start for span in oracle.spans(history, stream))
    ended = Counter(
        one.event.number  # type: ignore[attr-defined]
        for one in mine
        if one.event.TOPIC.startswith("punishment.") and not isinstance(one.event, events.PunishmentAmended)
    )
    assert all(times == 1 for times in ended.values())
    assert sum(isinstance(one.event, events.TrialStarted) for one in mine) <= 1
    assert oracle.tiers_follow_each_other(history, stream)


@settings(max_examples=600)
@given(st.lists(steps, min_size=30, max_size=60))
def test_no_sequence_of_commands_breaks_a_rule(sequence: list[Step]) -> None:
    world = World()
    for step in sequence:
        world.take(step)
    history = world.history()
    assert history == world.ledger.read(0, 10_000)
    assert [one.position for one in history] == list(range(1, len(history) + 1))
    for stream in {one.stream for one in history}:
        mine = oracle.of(history, stream)
        check_stream(history, stream)
        for length in range(len(mine) + 1):
            assert fold(subject_of(stream), mine[:length]).version == length


@settings(max_examples=30)
@given(st.lists(steps, min_size=10, max_size=30))
def test_a_batch_comes_to_the_same_as_its_commands_one_by_one(sequence: list[Step]) -> None:
    one_by_one, together = World(), World()
    now, items = NOW, []
    for step in sequence:
        now += step.later
        context = one_by_one.context(step.actor, now + step.off)
        items += [(step.command, context)] * (1 + step.retries)
    expected: list[tuple[type[Refused] | None, int]] = []
    for command, context in items:
        try:
            outcome = execute(one_by_one.ledger, command, context)
            expected.append((None, 0 if outcome.duplicate else len(outcome.events)))
        except Refused as refused:
            expected.append((type(refused), 0))
    decisions = execute_batch(together.ledger, items)
    assert [(type(d.refused) if d.refused else None, len(d.events)) for d in decisions] == expected
    assert together.history() == one_by_one.ledger.read(0, 10_000)


@pytest.mark.parametrize("command", [value for value in vars(commands).values() if isinstance(value, type)])
def test_the_oracle_knows_every_command(command: type) -> None:
    if issubclass(command, Command) and command is not Command:
        assert command in oracle.LEAST_LEVEL or command in oracle.OTHERS

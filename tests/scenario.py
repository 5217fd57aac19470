"""Given these events, when somebody commands this, then that happens: decisions tried without a ledger.

Every scenario begins with the same staff, so that a test names only what it is about.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import msgspec

from modledger.domain import events
from modledger.domain.commands import Command, Context
from modledger.domain.decide import decide, needed
from modledger.domain.envelope import SYSTEM, Actor, Recorded, Subject, subject_of
from modledger.domain.facts import Decided, Facts
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.refusals import Refused
from modledger.domain.subjects import State, fold

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
BEFORE = NOW - timedelta(days=100)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
NAMESPACE = UUID("6f6e6c79-2066-6f72-2074-657374730000")

# The position of the first event of a scenario; far from any version, so that the two cannot be taken for each other.
FIRST_POSITION = 1001

MODERATOR, OTHER_MODERATOR = Actor("user", 11), Actor("user", 12)
ADMIN, OTHER_ADMIN = Actor("user", 21), Actor("user", 22)
OWNER, OTHER_OWNER = Actor("user", 31), Actor("user", 32)
NOBODY = Actor("user", 99)
BOT = Actor("bot", 500)
STAFF = {MODERATOR: 1, OTHER_MODERATOR: 1, ADMIN: 2, OTHER_ADMIN: 2, OWNER: 3, OTHER_OWNER: 3}


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a scenario starts from."""

    subject: Subject
    event: events.Event
    at: datetime = BEFORE
    by: Actor = SYSTEM


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the command: events, or the refusal."""

    decided: list[Decided]
    refused: Refused | None

    def then(self, *expected: events.Event) -> None:
        """Exactly these events, in this order."""
        assert self.refused is None, repr(self.refused)
        assert [one.event for one in self.decided] == list(expected)

    def then_nothing(self) -> None:
        """Neither an event nor a refusal."""
        self.then()

    def then_refused(self, kind: type[Refused], message: str) -> None:
        """Refused in this way, with this text for the caller."""
        assert self.refused is not None, self.decided
        assert (type(self.refused), str(self.refused)) == (kind, message)


class Given(msgspec.Struct, frozen=True):
    """What happened so far."""

    histories: dict[str, list[Recorded]]

    def when(self, command: Command, *, by: Actor, at: datetime = NOW, if_match: int | None = None) -> Tried:
        """Decides on the command."""
        context = Context(
            actor=by,
            at=at,
            command_id=uuid5(NAMESPACE, "command"),
            correlation_id=uuid5(NAMESPACE, "correlation"),
            via="http",
            if_match=if_match,
        )
        states: dict[str, State] = {}
        while missing := needed(command, context, states) - states.keys():
            states |= {stream: fold(subject_of(stream), self.histories.get(stream, [])) for stream in missing}
        try:
            return Tried(decided=decide(command, Facts(context, states)), refused=None)
        except Refused as refused:
            return Tried(decided=[], refused=refused)


def given(*facts: Happened) -> Given:
    """These events, after the staff got its levels. The first fact has ``FIRST_POSITION``, and so on from there."""
    staff = [has_level(actor.id or 0, level) for actor, level in STAFF.items()]
    histories: dict[str, list[Recorded]] = {}
    for position, fact in enumerate([*staff, *facts], FIRST_POSITION - len(staff)):
        history = histories.setdefault(str(fact.subject), [])
        history.append(recorded(fact, version=len(history) + 1, position=position))
    return Given(histories)


def recorded(fact: Happened, *, version: int, position: int) -> Recorded:
    return Recorded(
        stream=str(fact.subject),
        version=version,
        event=fact.event,
        event_id=uuid5(NAMESPACE, str(position)),
        occurred_at=fact.at,
        actor=fact.by,
        correlation_id=uuid5(NAMESPACE, "correlation"),
        via="cli",
        position=position,
        recorded_at=fact.at,
    )


def user(user_id: int) -> Subject:
    return Subject("user", user_id)


def guild(guild_id: int) -> Subject:
    return Subject("guild", guild_id)


def bot(bot_id: int) -> Subject:
    return Subject("bot", bot_id)


def happened(subject: Subject, event: events.Event, *, at: datetime = BEFORE, by: Actor = SYSTEM) -> Happened:
    return Happened(subject=subject, event=event, at=at, by=by)


def has_level(user_id: int, level: int, *, at: datetime = BEFORE) -> Happened:
    changed = events.PermissionChanged(old_level=0, new_level=level, reason="hired")
    return happened(user(user_id), changed, at=at)


def is_timed_out(user_id: int, *, until: datetime, by: Actor = SYSTEM, at: datetime = BEFORE) -> Happened:
    return happened(user(user_id), events.UserTimedOut(reason="spam", expires_at=until), by=by, at=at)


def is_banned(
    user_id: int, *, until: datetime | None = None, by: Actor = SYSTEM, at: datetime = BEFORE, why: str = "spam"
) -> Happened:
    return happened(user(user_id), events.UserBanned(reason=why, expires_at=until), by=by, at=at)


def is_guild(guild_id: int, *, owner_id: int | None) -> Happened:
    return happened(guild(guild_id), events.GuildRegistered(name="Harbour", owner_id=owner_id))


def is_bot(bot_id: int, *, owner_id: int) -> Happened:
    return happened(bot(bot_id), events.BotRegistered(name="Ferry", owner_id=owner_id))


def memory_ledger() -> MemoryLedger:
    """An empty ledger whose clock stands at ``NOW``."""
    return MemoryLedger(lambda: NOW)

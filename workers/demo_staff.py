"""Who keeps order in the demo, from when until when; the acts of its history and how they become commands."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID, uuid5

import msgspec

from modledger.domain.commands import Command, Context
from modledger.domain.decide import target_of
from modledger.domain.envelope import SYSTEM, Actor
from modledger.domain.subjects import ADMIN, MODERATOR, OWNER

START = datetime(2025, 1, 1, tzinfo=UTC)
END = datetime(2026, 3, 10, 12, tzinfo=UTC)

OWNER_ID = 100200300400500600
EXAMPLE_ADMIN_ID = 999888777666555444
HEAD_ADMIN_ID = 211222333444555666
MODERATOR_ID = 322333444555666777

# The share of all punishments that the one busiest member of staff issues, and that of the system (design §8).
BUSIEST_SHARE = 1 / 3
SYSTEM_SHARE = 0.05

_COMMAND_IDS = UUID("6f1c2f4e-8a51-4c43-9d0b-3a5d1f2e7c90")


class Stint(msgspec.Struct, frozen=True):
    """A level held ``since`` ≤ t < ``until``; None: held to this day."""

    user_id: int
    level: int
    since: datetime
    until: datetime | None = None

    def covers(self, at: datetime) -> bool:
        return self.since < at and (self.until is None or at < self.until)


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """A command of the history whose place in its stream is not known yet. ``issues`` and ``about`` are the demo's own
    number of the punishment that it issues or is about; ``events`` is how many events the decision will make of it."""

    at: datetime
    actor: Actor
    command: Command
    events: int = 1
    issues: int | None = None
    about: int | None = None


def user(user_id: int) -> Actor:
    return Actor("user", user_id)


def _stints() -> list[Stint]:
    """The staff of the first day, then more moderators every few weeks, of whom some have left or risen since."""
    founders = [Stint(OWNER_ID, OWNER, START)]
    founders += [Stint(user_id, ADMIN, START) for user_id in (HEAD_ADMIN_ID, EXAMPLE_ADMIN_ID, *_ids(2, 3))]
    founders += [Stint(user_id, MODERATOR, START) for user_id in (MODERATOR_ID, *_ids(3, 6))]
    later = []
    for index, user_id in enumerate(_ids(4, 23)):
        since = START + timedelta(days=9 + 17 * index, hours=10, minutes=7 * index)
        until = since + timedelta(days=60 + 10 * index) if index % 3 == 1 and index < 15 else None
        later.append(Stint(user_id, MODERATOR, since, until))
        if until and index % 2:
            later.append(Stint(user_id, ADMIN, until))
    return [*founders, *later]


def _ids(series: int, count: int) -> list[int]:
    return [series * 100_000_000_000_000_000 + 77_003_100_201 * (index + 1) for index in range(count)]


STINTS = _stints()
STAFF = frozenset(stint.user_id for stint in STINTS)


def in_office(user_id: int, at: datetime, level: int = MODERATOR) -> bool:
    return any(stint.user_id == user_id and stint.level >= level and stint.covers(at) for stint in STINTS)


def issuer(rng: Random, at: datetime, level: int) -> Actor:
    """Somebody of at least that level at that time; the example's admin is spared, so that few records bear that id."""
    roll = rng.random()
    if roll < BUSIEST_SHARE:
        return user(HEAD_ADMIN_ID)
    if roll < BUSIEST_SHARE + SYSTEM_SHARE:
        return SYSTEM
    choice = [
        stint.user_id
        for stint in STINTS
        if stint.level >= level and stint.covers(at) and stint.user_id not in (HEAD_ADMIN_ID, EXAMPLE_ADMIN_ID)
    ]
    return user(rng.choice(choice))


def admin(rng: Random, at: datetime) -> Actor:
    """Any Admin or Owner of that time."""
    return user(rng.choice([stint.user_id for stint in STINTS if stint.level >= ADMIN and stint.covers(at)]))


def who_ends(issued_by: Actor, at: datetime) -> Actor:
    """Who may lift or amend it at that time: who issued it, an Admin what the system issued, the Owner everything."""
    if issued_by.user_id is None:
        return user(HEAD_ADMIN_ID)
    return issued_by if in_office(issued_by.user_id, at) else user(OWNER_ID)


def as_commands(acts: Iterable[Act]) -> list[tuple[Command, Context]]:
    """The commands in the order given, each told the number that its punishment has in its stream by then."""
    versions: dict[str, int] = {}
    numbers: dict[int, int] = {}
    items: list[tuple[Command, Context]] = []
    for act in acts:
        stream = str(target_of(act.command))
        versions[stream] = versions.get(stream, 0) + act.events
        if act.issues is not None:
            numbers[act.issues] = versions[stream]
        command = act.command
        if act.about is not None:
            command = msgspec.structs.replace(command, number=numbers[act.about])
        command_id = uuid5(_COMMAND_IDS, str(len(items)))
        items.append(
            (
                command,
                Context(actor=act.actor, at=act.at, command_id=command_id, correlation_id=command_id, via="cli"),
            )
        )
    return items


def by_date(acts: Sequence[Act]) -> list[Act]:
    """In order of their dates; acts of the same second stay in the order in which they were thought of."""
    return sorted(acts, key=lambda act: act.at)

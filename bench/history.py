"""A ledger's worth of history: the same at every run, and of the shape of a real ban database (design §8).

Per ten users some sixteen punishments, half of the users with none; half of what can run out lapsed, a third lifted; a
subscription for one user in five; a guild for every fifty users, a bot for every five hundred. Straight into the ledger
in the order of their dates, without decisions: what is measured with it reads.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from operator import attrgetter
from uuid import UUID

from modledger.domain import events
from modledger.domain.envelope import SYSTEM, Actor, NewEvent
from modledger.domain.ledger import Append, Ledger

BATCH = 1_000
BEGINNING = datetime(2024, 1, 1, tzinfo=UTC)
STAFF = 50
REASONS = ("spam", "raid", "scam link", "ban evasion", "advertising", "Repeated insults after two warnings")


def history(length: int, seed: int = 1) -> list[NewEvent]:
    """``length`` events in the order of their dates, every stream whole from its first event on."""
    luck = random.Random(seed)
    found: list[NewEvent] = []
    for user in count(1):
        found += _stream(f"user:{user}", luck, _user(user, luck))
        if user % 50 == 0:
            found += _stream(f"guild:{user}", luck, _guild(user, luck))
        if user % 500 == 0:
            found += _stream(
                f"bot:{user}", luck, [(SYSTEM, 1.0, events.BotRegistered(name=f"bot{user}", owner_id=user))]
            )
        if len(found) >= length:
            # Sorting is stable, so a stream keeps its order; cutting at the end leaves no hole in any.
            return sorted(found, key=attrgetter("occurred_at"))[:length]
    raise AssertionError


def fill(ledger: Ledger, found: list[NewEvent]) -> None:
    """Appends them, one command an event, in batches."""
    rest = iter(found)
    while batch := list(islice(rest, BATCH)):
        ledger.append_batch(
            [Append(command_id=new.event_id, events=[new], expected={new.stream: new.version - 1}) for new in batch]
        )


# who, how many hours after the event before, what
Happening = tuple[Actor, float, events.Event]


def _stream(stream: str, luck: random.Random, happenings: list[Happening]) -> Iterator[NewEvent]:
    at = BEGINNING + timedelta(hours=luck.random() * 365 * 24)
    for version, (actor, hours, event) in enumerate(happenings, start=1):
        at += timedelta(hours=hours)
        event_id = UUID(int=luck.getrandbits(128), version=4)
        yield NewEvent(
            stream=stream,
            version=version,
            event=event,
            event_id=event_id,
            occurred_at=at,
            actor=actor,
            correlation_id=event_id,
            via="http",
        )


def _user(user: int, luck: random.Random) -> list[Happening]:
    found: list[Happening] = [(SYSTEM, 0.0, events.UserRegistered(username=f"user{user}"))]
    if user <= STAFF:
        level = 2 if user <= STAFF // 5 else 1
        found.append(
            (Actor("user", 1), 1.0, events.PermissionChanged(old_level=0, new_level=level, reason="Joined staff"))
        )
    if luck.random() < 0.2:
        ends = BEGINNING + timedelta(days=4000)
        found.append((_staff(luck), 24.0, events.SubscriptionGranted(old_tier=0, tier=2, expires_at=ends)))
        if luck.random() < 0.5:
            found.append((_staff(luck), 240.0, events.SubscriptionRevoked(old_tier=2, reason="Charged back")))
    while luck.random() < 0.62:
        found += _punishment(len(found) + 1, luck)
    return found


def _punishment(number: int, luck: random.Random) -> list[Happening]:
    kind, reason, wait = luck.random(), luck.choice(REASONS), luck.expovariate(1 / 200)
    if kind < 0.4:
        return [(_staff(luck), wait, events.UserWarned(reason=reason))]
    # The date of the ban is not known here; its end lies beyond everything, and the lapse is dated as the stream goes.
    ends = BEGINNING + timedelta(days=4000)
    issued: events.Event = events.UserTimedOut(reason=reason, expires_at=ends)
    if kind > 0.75:
        issued = events.UserBanned(reason=reason, expires_at=None if luck.random() < 0.19 else ends)
    end = luck.random()
    found: list[Happening] = [(_staff(luck), wait, issued)]
    if end < 0.56:
        found.append((SYSTEM, 24.0, events.PunishmentLapsed(number=number)))
    elif end < 0.89:
        found.append((_staff(luck), 24.0, events.PunishmentLifted(number=number, reason="Appeal accepted")))
    return found


def _guild(guild: int, luck: random.Random) -> list[Happening]:
    found: list[Happening] = [(SYSTEM, 0.0, events.GuildRegistered(name=f"guild{guild}", owner_id=guild))]
    if luck.random() < 0.3:
        found.append((_staff(luck), 100.0, events.GuildWarned(reason=luck.choice(REASONS))))
    return found


def _staff(luck: random.Random) -> Actor:
    return Actor("user", luck.randint(1, STAFF))

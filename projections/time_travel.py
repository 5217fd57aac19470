"""The past, from the events alone: which of a stream's events count at a moment, and what the read models' own folds
make of them.

There are two times (api.md §4). ``known_at``: what was recorded until then, in the order of the ledger, which is what
the endpoints answered then. ``as_of``: what is dated until then, in the order of the dates. Everything here is pure.
What was never an event is not known of the past: activity, members, reports of bots.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.projections import (
    bots,
    guild_detail,
    guilds,
    permission_history,
    profile,
    punishments,
    subscription_history,
    user_detail,
)
from modledger.projections.projector import Key, Projector, fold_stream

R = TypeVar("R", bound=msgspec.Struct)

History = Sequence[Recorded]


class Instant(msgspec.Struct, frozen=True, kw_only=True):
    """``now`` is the time that ends are compared with: ``as_of`` where it is given, else ``known_at``, else the
    present. Aware datetimes."""

    now: datetime
    as_of: datetime | None = None
    known_at: datetime | None = None


def instant(present: datetime, as_of: datetime | None, known_at: datetime | None) -> Instant:
    """The moment that these two times name. Raises ValueError for one that lies in the future."""
    for name, time in (("as_of", as_of), ("known_at", known_at)):
        if time is not None and time > present:
            raise ValueError(f"{name} must not be in the future")
    return Instant(now=as_of or known_at or present, as_of=as_of, known_at=known_at)


def events_at(stream: History, at: Instant) -> list[Recorded]:
    """Of a whole stream those events that count, in the order in which they are to be folded.

    In the order of dates, but what is said about a punishment never comes before the punishment, whatever the clocks of
    two servers made of it; nor what an erasure cannot have touched, because it was recorded later, before the erasure.
    """
    known = [one for one in stream if at.known_at is None or one.recorded_at <= at.known_at]
    if at.as_of is None:
        return known
    issued: dict[int, datetime] = {}
    erasures = 0
    found = []
    for one in known:
        date = max(one.occurred_at, issued.get(getattr(one.event, "number", 0), one.occurred_at))
        if isinstance(one.event, events.Issued):
            issued[one.version] = date
        erased = isinstance(one.event, events.SubjectErased)
        if date <= at.as_of:
            found.append(((erasures, erased, date, one.position), one))
        erasures += erased
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _folded(projector: Projector[R], counted: Iterable[Recorded]) -> Mapping[Key, Any]:
    return fold_stream(projector, [one for one in counted if one.event.TOPIC in projector.topics])


def _seen(counted: Iterable[Recorded]) -> int:
    """The version up to which all of the stream is counted: whoever saw this has seen that version, and no later one
    though an older date may have put an event of a later version among these."""
    versions = {one.version for one in counted}
    return next(version for version in range(len(versions) + 1) if version + 1 not in versions)


def _subject(projector: Projector[Any], counted: Sequence[Recorded]) -> Any:
    """The only row; None where nothing had happened yet."""
    row = next(iter(_folded(projector, counted).values()), None)
    return None if row is None else msgspec.structs.replace(row, version=_seen(counted))


def profile_at(stream: History, at: Instant) -> profile.Profile | None:
    """A user's row; None where nothing had happened to them yet. Raises FoldFailed, as everything here."""
    row: profile.Profile | None = _subject(profile.PROJECTOR, events_at(stream, at))
    return row


def guild_at(stream: History, at: Instant) -> guilds.Owned | None:
    """A guild; None where nothing had happened to it yet."""
    row: guilds.Guild | None = _subject(guilds.PROJECTOR, events_at(stream, at))
    return None if row is None else guilds.Owned(msgspec.structs.replace(row, id=stream[0].position), 0)


def bot_at(stream: History, at: Instant) -> bots.Owned | None:
    """A bot; None where nothing had happened to it yet."""
    row: bots.Bot | None = _subject(bots.PROJECTOR, events_at(stream, at))
    if row is None:
        return None
    return bots.Owned(msgspec.structs.replace(row, id=stream[0].position), 0, 0, None, row.created_at)


class Possessions(msgspec.Struct, frozen=True):
    """What a user owned, the newest 100 each, newest first."""

    guilds: list[guilds.Owned]
    bots: list[bots.Owned]


NOTHING = Possessions([], [])


def possessions(before: Possessions, owner_id: int, streams: Iterable[History], at: Instant) -> Possessions:
    """What the user owned of the guilds and bots of these streams, and of those found before."""
    owned, run = list(before.guilds), list(before.bots)
    for stream in streams:
        if not stream:
            continue
        if stream[0].stream.startswith("guild:"):
            guild = guild_at(stream, at)
            if guild is not None and guild.guild.owner_id == owner_id and guild.guild.registered:
                owned.append(guild)
        else:
            bot = bot_at(stream, at)
            if bot is not None and bot.bot.owner_id == owner_id and bot.bot.registered and bot.bot.active:
                run.append(bot)
    owned.sort(key=lambda one: (one.guild.created_at, one.guild.guild_id), reverse=True)
    run.sort(key=lambda one: (one.bot.created_at, one.bot.bot_id), reverse=True)
    return Possessions(owned[: user_detail.NEWEST], run[: user_detail.NEWEST])


def user_detail_at(stream: History, owned: Possessions, at: Instant) -> user_detail.Detail | None:
    """Everything about a user; None where nothing had happened to them yet. ``position`` is that of the last event of
    the stream."""
    row = profile_at(stream, at)
    if row is None:
        return None
    counted, position = events_at(stream, at), stream[-1].position
    return user_detail.Detail(
        found=profile.Found(row.user_id, position, row, row.created_at),
        punishments=_newest(punishments.PROJECTOR, counted),
        guilds=owned.guilds,
        bots=owned.bots,
        subscription_history=_newest(subscription_history.PROJECTOR, counted),
        permission_history=_newest(permission_history.PROJECTOR, counted),
        position=position,
    )


def guild_detail_at(stream: History, owner_level: int, at: Instant) -> guild_detail.Detail | None:
    """Everything about a guild; None where nothing had happened to it yet. ``position`` as in ``user_detail_at``."""
    owned = guild_at(stream, at)
    if owned is None:
        return None
    counted, position = events_at(stream, at), stream[-1].position
    return guild_detail.Detail(
        found=guilds.Found(
            position=position,
            owner_position=position,
            owner_level=owner_level,
            has_bot=False,
            first_joined_at=None,
            owned=owned,
        ),
        punishments=_newest(punishments.PROJECTOR, counted),
        subscription_history=_newest(subscription_history.PROJECTOR, counted),
        position=position,
    )


def _newest(projector: Projector[Any], counted: Iterable[Recorded]) -> list[Any]:
    rows = sorted(_folded(projector, counted).values(), key=lambda row: (row.created_at, row.id), reverse=True)
    return rows[: user_detail.NEWEST]

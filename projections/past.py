"""The streams that time travel (time_travel.py) needs, read from the ledger; two small read tables say which ones."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from modledger.domain.envelope import Recorded
from modledger.domain.ledger import Ledger
from modledger.domain.subjects import USER
from modledger.projections import bots, guild_detail, guilds, ownerships, profile, time_travel, user_detail, user_names
from modledger.projections.time_travel import History, Instant

# The rows of a query with $1 placeholders.
Fetch = Callable[..., Awaitable[Sequence[Sequence[Any]]]]

# The projectors behind a user of the past; guilds and bots need none.
READ_BY_USER = ("user_names", "ownerships")
# Usually one bears a name. And so many streams are in memory at once.
CANDIDATES, STREAMS = 10, 250


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user at a moment. ``position``: as fresh as this position of the ledger. ``found.profile`` None: there was no
    such user. ``detail`` None: it is not for whoever asks."""

    position: int
    found: profile.Found
    detail: user_detail.Detail | None = None


class Guild(msgspec.Struct, frozen=True, kw_only=True):
    """A guild at a moment, as ``User``; ``owned`` None: there was no such guild."""

    position: int
    owned: guilds.Owned | None
    detail: guild_detail.Detail | None = None


async def user(
    fetch: Fetch, ledger: Ledger, who: int | str, at: Instant, sees_detail: Callable[[profile.Profile], bool]
) -> User:
    """A user by id, or by the name (``profile.name_key``) that the user bore at the moment. ``sees_detail`` is asked
    about the profile of today. Raises what ``fetch`` and the ledger raise, and FoldFailed."""
    position = await asyncio.to_thread(ledger.head)
    if isinstance(who, int):
        stream: History = await _stream(ledger, f"user:{who}")
    else:
        stream, checkpoint = await _bearer(fetch, ledger, who, at)
        position = min(position, checkpoint)
    then, today = time_travel.profile_at(stream, at), time_travel.profile_at(stream, Instant(now=at.now))
    if then is None or today is None:
        return User(position=position, found=profile.Found(who, position, None, None))
    found = profile.Found(who, position, then, then.created_at)
    if not sees_detail(today):
        return User(position=position, found=found)
    owned, checkpoint = await _owned(fetch, ledger, then.user_id, at)
    detail = time_travel.user_detail_at(stream, owned, at)
    return User(position=min(position, checkpoint), found=found, detail=detail)


async def guild(ledger: Ledger, guild_id: int, at: Instant, sees_detail: Callable[[guilds.Guild, int], bool]) -> Guild:
    """A guild. ``sees_detail`` is asked about the guild of today and its owner's level. Raises what the ledger raises,
    and FoldFailed."""
    position = await asyncio.to_thread(ledger.head)
    stream = await _stream(ledger, f"guild:{guild_id}")
    present = Instant(now=at.now)
    then, today = time_travel.guild_at(stream, at), time_travel.guild_at(stream, present)
    if then is None or today is None:
        return Guild(position=position, owned=None)
    owner = None
    if today.guild.owner_id is not None:
        owner = time_travel.profile_at(await _stream(ledger, f"user:{today.guild.owner_id}"), present)
    level = USER if owner is None else owner.level
    if not sees_detail(today.guild, level):
        return Guild(position=position, owned=then)
    return Guild(position=position, owned=then, detail=time_travel.guild_detail_at(stream, level, at))


async def bot(ledger: Ledger, bot_id: int, at: Instant) -> bots.Owned | None:
    """A bot; None where there was no such bot. Raises what the ledger raises, and FoldFailed."""
    return time_travel.bot_at(await _stream(ledger, f"bot:{bot_id}"), at)


async def _stream(ledger: Ledger, name: str) -> list[Recorded]:
    return (await asyncio.to_thread(ledger.load, [name]))[name]


async def _bearer(fetch: Fetch, ledger: Ledger, key: str, at: Instant) -> tuple[History, int]:
    """The stream of the user who bore the name, and how fresh the table of names is; an empty one for nobody."""
    offset = 0
    while True:
        lines = await fetch(user_names.BEARERS, key, at.known_at, at.as_of, offset, CANDIDATES)
        checkpoint, candidates = user_names.bearers(lines)
        streams = (
            await asyncio.to_thread(ledger.load, [f"user:{user_id}" for user_id in candidates]) if candidates else {}
        )
        for user_id in candidates:
            stream = streams[f"user:{user_id}"]
            row = time_travel.profile_at(stream, at)
            if row is not None and row.username_key == key:
                return stream, checkpoint
        if len(candidates) < CANDIDATES:
            return [], checkpoint
        offset += CANDIDATES


async def _owned(fetch: Fetch, ledger: Ledger, user_id: int, at: Instant) -> tuple[time_travel.Possessions, int]:
    checkpoint, names = ownerships.of_owner(await fetch(ownerships.OF_OWNER, user_id))
    owned = time_travel.NOTHING
    for first in range(0, len(names), STREAMS):
        streams = await asyncio.to_thread(ledger.load, names[first : first + STREAMS])
        owned = time_travel.possessions(owned, user_id, streams.values(), at)
    return owned, checkpoint

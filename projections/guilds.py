"""Guilds: who they are, whose they are, what they have, and until when they are blacklisted."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.domain.subjects import GUILD_BLACKLIST, LIFETIME
from modledger.projections import standing
from modledger.projections.projector import Key, Projector, Table

TABLE = Table(
    name="guilds",
    columns={
        "guild_id": "bigint not null",
        "id": "bigint not null",
        "version": "integer not null",
        "registered": "boolean not null",
        "name": "text",
        "avatar_url": "text",
        "owner_id": "bigint",
        "owner_at": "timestamptz",
        "prefix": "text not null",
        "tier": "smallint not null",
        "tier_until": "timestamptz",
        "tier_at": "timestamptz",
        "trial_used": "boolean not null",
        "open_punishments": "jsonb not null",
        "blacklisted_until": "timestamptz",
        "created_at": "timestamptz not null",
        "updated_at": "timestamptz not null",
    },
    primary_key=("guild_id",),
    indexes={
        "guilds_owner": "(owner_id, created_at, guild_id) where owner_id is not null",
        # Subscriptions that are active, and those whose end the clock has to record.
        "guilds_tier": "(tier, guild_id) where tier <> 0",
        "guilds_tier_until": "(tier_until) where tier_until is not null",
    },
    options="with (fillfactor = 85)",
)


class Guild(msgspec.Struct, frozen=True, kw_only=True):
    """A row. ``id`` is the position of the stream's first event. ``open_punishments`` holds blacklistings,
    ``blacklisted_until`` their greatest end, ``standing.FOREVER`` for a permanent one."""

    guild_id: int
    id: int
    version: int
    registered: bool = False
    name: str | None = None
    avatar_url: str | None = None
    owner_id: int | None = None
    owner_at: datetime | None = None
    prefix: str = "!"
    tier: int = 0
    tier_until: datetime | None = None
    tier_at: datetime | None = None
    trial_used: bool = False
    open_punishments: standing.OpenPunishments = {}
    blacklisted_until: datetime | None = None
    created_at: datetime
    updated_at: datetime


ISSUES: Mapping[type[events.Event], int] = {events.GuildBlacklisted: GUILD_BLACKLIST}


def touches(recorded: Recorded) -> Key | None:
    return (int(recorded.stream[6:]),) if recorded.stream.startswith("guild:") else None


def fold(rows: Mapping[Key, Guild], recorded: Recorded) -> Sequence[Guild]:
    """Name, avatar and prefix follow the ledger; owner and tier the event with the latest date."""
    event, at = recorded.event, recorded.occurred_at
    guild_id = int(recorded.stream[6:])
    row = rows.get((guild_id,))
    if row is None:
        row = Guild(guild_id=guild_id, id=recorded.position, version=0, created_at=at, updated_at=at)
    changes: dict[str, Any] = {"version": recorded.version, "updated_at": max(row.updated_at, at)}
    match event:
        case events.GuildRegistered():
            changes |= {
                "registered": True,
                "name": standing.unless_erased(event.name),
                "avatar_url": standing.unless_erased(event.avatar_url),
                "created_at": at,
            }
            if standing.is_later(row.owner_at, recorded):
                changes |= {"owner_id": event.owner_id, "owner_at": at}
        case events.GuildRenamed():
            changes["name"] = standing.unless_erased(event.name)
        case events.GuildOwnerChanged():
            if standing.is_later(row.owner_at, recorded):
                changes |= {"owner_id": event.owner_id, "owner_at": at}
        case events.GuildPrefixChanged():
            changes["prefix"] = event.prefix
        case events.SubjectErased():
            changes |= {"registered": False, "name": None, "avatar_url": None}
        case _:
            changes |= standing.tier_changes(row.tier_at, row.tier_until, recorded)
            still_open = standing.open_after(row.open_punishments, recorded, ISSUES)
            if still_open is not None:
                changes["open_punishments"] = still_open
                changes["blacklisted_until"] = standing.greatest_until(still_open, GUILD_BLACKLIST)
    return (msgspec.structs.replace(row, **changes),)


PROJECTOR = Projector(
    name="guilds",
    table=TABLE,
    row=Guild,
    key=("guild_id",),
    topics=frozenset(t for t in events.EVENTS if t.startswith(("guild.", "subscription.", "punishment.", "subject."))),
    touches=touches,
    fold=fold,
)


# -- at a point in time


def state(guild: Guild, now: datetime) -> int:
    """2 Banned while a blacklisting is active, else 0 Active (api.md §3); no event makes a guild 1 Inactive yet."""
    return 2 if guild.blacklisted_until is not None and guild.blacklisted_until > now else 0


def tier(guild: Guild, now: datetime) -> int:
    """0 Basic, 1 Trial, 2 Premium, 3 Lifetime; Basic from the very end on."""
    return standing.tier_now(guild.tier, guild.tier_until, now)


def subscription_expires_at(guild: Guild, now: datetime) -> datetime | None:
    """The end of a running trial or premium tier; None for Basic and Lifetime."""
    return None if tier(guild, now) in (0, LIFETIME) else guild.tier_until


def updated_at(guild: Guild, now: datetime) -> datetime:
    """The last change of the guild, ends included that have come since the last event."""
    return standing.updated_now(guild.updated_at, (guild.tier_until, guild.blacklisted_until), now)


# -- queries, for psycopg's raw cursors ($1)


class Owned(msgspec.Struct, frozen=True):
    """``member_count`` 0 until a bot has reported one."""

    guild: Guild
    member_count: int


COLUMNS = ", ".join(f"g.{column}" for column in TABLE.columns)
POSITION = "(select notification_id from projection_tracking where application_name = 'guilds')"

# $1 owner's user id, $2 limit: newest first. guilds_owner, guild_activity_pkey
OWNED = f"""
    select coalesce(a.member_count, 0), {COLUMNS}
    from (
        select * from guilds where owner_id = $1 and registered order by created_at desc, guild_id desc limit $2
    ) g
    left join guild_activity a on a.guild_id = g.guild_id
    order by g.created_at desc, g.guild_id desc
"""  # noqa: S608

# $1 bigint[] of guild ids. A line per id asked for: id, checkpoint, member count, columns (all null: no such guild).
# guilds_pkey, guild_activity_pkey
BY_IDS = f"""
    select asked.key, {POSITION}, coalesce(a.member_count, 0), {COLUMNS}
    from unnest($1::bigint[]) as asked (key)
    left join guilds g on g.guild_id = asked.key
    left join guild_activity a on a.guild_id = g.guild_id
"""  # noqa: S608

# $1 timestamptz now, $2 smallint tier or null for all. guilds_tier
SUBSCRIBED = """
    select guild_id, name, tier, tier_until from guilds
    where tier <> 0 and ($2::smallint is null or tier = $2) and (tier_until is null or tier_until > $1)
    order by guild_id
"""

# $1 timestamptz now: (stream, end) of the subscriptions that ran out, earliest first. guilds_tier_until
DUE_SUBSCRIPTIONS = """
    select 'guild:' || guild_id, tier_until from guilds where tier_until <= $1 order by tier_until
"""


def guild_of(columns: Sequence[Any]) -> Guild:
    """The row Struct from the columns of ``COLUMNS``."""
    values = dict(zip(TABLE.columns, columns, strict=True))
    values["open_punishments"] = msgspec.convert(values["open_punishments"], standing.OpenPunishments, strict=False)
    return Guild(**values)


def owned(row: Sequence[Any]) -> Owned:
    """One line of OWNED."""
    return Owned(guild_of(row[1:]), row[0])

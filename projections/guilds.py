"""Guilds: who they are, whose they are, what they have, and until when they are blacklisted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from modledger.domain import events, subjects
from modledger.domain.envelope import Recorded
from modledger.domain.subjects import BASIC, GUILD_BLACKLIST, LIFETIME, PREMIUM
from modledger.projections import fragments, standing
from modledger.projections.profile import name_key
from modledger.projections.projector import Cursor, Key, Projector, Slice, Table

# The first end in a row: up to then its tier and its state are as recorded.
FIRST_END = "(least(tier_until, blacklisted_until))"

TABLE = Table(
    name="guilds",
    columns={
        "guild_id": "bigint not null",
        "id": "bigint not null",
        "version": "integer not null",
        "registered": "boolean not null",
        "name": "text",
        # In the order and with the prefixes of its code points, whatever the database's own collation.
        "name_key": 'text collate "C"',
        "name_code": "text",
        "avatar_url": "text",
        "owner_id": "bigint",
        "owner_at": "timestamptz",
        "prefix": "text not null",
        "tier": "smallint not null",
        "tier_until": "timestamptz",
        "tier_at": "timestamptz",
        "tier_by": "bigint",
        "trial_used": "boolean not null",
        "open_punishments": "jsonb not null",
        "blacklisted_until": "timestamptz",
        "state_set": "smallint not null",
        "state_recorded": "smallint not null",
        "created_at": "timestamptz not null",
        "updated_at": "timestamptz not null",
    },
    primary_key=("guild_id",),
    indexes={
        "guilds_owner": "(owner_id, created_at, guild_id) where owner_id is not null",
        # The search walks one of these, see guild_search.py.
        "guilds_name": "(name_key, guild_id)",
        "guilds_standing": "(state_recorded, tier, name_key, guild_id)",
        # Subscriptions that are active, and those whose end the clock has to record.
        "guilds_tier": "(tier, guild_id) where tier <> 0",
        "guilds_tier_until": "(tier_until) where tier_until is not null",
        # What the counts have wrong and the search looks at by itself: an end that has come and is not recorded yet.
        # Of all rows: the planner has no statistics about the expression of a partial index, takes a third of the table
        # for past, and starts workers for it.
        "guilds_first_end": f"({FIRST_END})",
    },
    fragments={"guilds_name_code": "using gin (name_code gin_trgm_ops)"},
    options="with (fillfactor = 85)",
)

COUNTS = Table(
    name="guild_counts",
    columns={
        "registered": "boolean not null",
        "state_recorded": "smallint not null",
        "tier": "smallint not null",
        "total": "bigint not null",
    },
    primary_key=("registered", "state_recorded", "tier"),
    indexes={},
    options="with (fillfactor = 50)",
)


class Guild(msgspec.Struct, frozen=True, kw_only=True):
    """A row. ``id`` is the position of the stream's first event, ``tier_by`` the user who gave the tier.
    ``open_punishments`` holds blacklistings, ``blacklisted_until`` their greatest end, ``standing.FOREVER`` for a
    permanent one. ``state_set`` is what the staff set, 0 or 1. ``state_recorded`` and ``tier`` take no notice of an end
    that no event has recorded yet: what holds at a time, ``state`` and ``tier`` below say."""

    guild_id: int
    id: int
    version: int
    registered: bool = False
    name: str | None = None
    name_key: str | None = None
    name_code: str | None = None
    avatar_url: str | None = None
    owner_id: int | None = None
    owner_at: datetime | None = None
    prefix: str = "!"
    tier: int = 0
    tier_until: datetime | None = None
    tier_at: datetime | None = None
    tier_by: int | None = None
    trial_used: bool = False
    open_punishments: standing.OpenPunishments = {}
    blacklisted_until: datetime | None = None
    state_set: int = 0
    state_recorded: int = 0
    created_at: datetime
    updated_at: datetime


ACTIVE, INACTIVE, BANNED = 0, 1, 2

ISSUES: Mapping[type[events.Event], int] = {events.GuildBlacklisted: GUILD_BLACKLIST}


def touches(recorded: Recorded) -> Key | None:
    return (int(recorded.stream[6:]),) if recorded.stream.startswith("guild:") else None


def fold(rows: Mapping[Key, Guild], recorded: Recorded) -> Sequence[Guild]:
    """Name, avatar, prefix and the state set follow the ledger; owner and tier the event with the latest date."""
    event, at = recorded.event, recorded.occurred_at
    guild_id = int(recorded.stream[6:])
    row = rows.get((guild_id,))
    if row is None:
        row = Guild(guild_id=guild_id, id=recorded.position, version=0, created_at=at, updated_at=at)
    changes: dict[str, Any] = {"version": recorded.version, "updated_at": max(row.updated_at, at)}
    match event:
        case events.GuildRegistered():
            changes |= _named(event.name)
            changes |= {"registered": True, "avatar_url": standing.unless_erased(event.avatar_url), "created_at": at}
            if standing.is_later(row.owner_at, recorded):
                changes |= {"owner_id": event.owner_id, "owner_at": at}
        case events.GuildRenamed():
            changes |= _named(event.name)
        case events.GuildAvatarChanged():
            changes["avatar_url"] = standing.unless_erased(event.avatar_url)
        case events.GuildOwnerChanged():
            if standing.is_later(row.owner_at, recorded):
                changes |= {"owner_id": event.owner_id, "owner_at": at}
        case events.GuildPrefixChanged():
            changes["prefix"] = event.prefix
        case events.GuildStateChanged():
            changes["state_set"] = event.state
        case events.SubjectErased():
            changes |= {"registered": False, "avatar_url": None, **_named(events.ERASED)}
        case _:
            changes |= standing.tier_changes(row.tier_at, row.tier_until, recorded)
            if "tier" in changes:
                changes["tier_by"] = None if changes["tier"] == BASIC else recorded.actor.user_id
            still_open = standing.open_after(row.open_punishments, recorded, ISSUES)
            if still_open is not None:
                changes["open_punishments"] = still_open
                changes["blacklisted_until"] = standing.greatest_until(still_open, GUILD_BLACKLIST)
    after = msgspec.structs.replace(row, **changes)
    recorded_state = after.state_set if after.blacklisted_until is None else BANNED
    return (msgspec.structs.replace(after, state_recorded=recorded_state),)


def _named(name: str) -> dict[str, Any]:
    known = standing.unless_erased(name)
    key = None if known is None else name_key(known)
    return {"name": known, "name_key": key, "name_code": None if key is None else fragments.code(key)}


def count(cursor: Cursor, changes: Sequence[tuple[Guild | None, Guild]]) -> None:
    """Brings ``guild_counts`` along with these changes of rows."""
    deltas: Counter[tuple[bool, int, int]] = Counter()
    for before, after in changes:
        deltas[after.registered, after.state_recorded, after.tier] += 1
        if before is not None:
            deltas[before.registered, before.state_recorded, before.tier] -= 1
    moved = [dict(zip(COUNTS.columns, (*cell, delta), strict=True)) for cell, delta in deltas.items() if delta]
    if not moved:
        return
    # guild_counts_pkey
    cursor.execute(
        "insert into guild_counts as c (registered, state_recorded, tier, total)"
        " select registered, state_recorded, tier, total from json_populate_recordset(null::guild_counts, %s)"
        " on conflict (registered, state_recorded, tier) do update set total = c.total + excluded.total",
        (msgspec.json.encode(moved).decode(),),
    )
    # So that a replay comes to the same rows; there are two dozen at most.
    cursor.execute("delete from guild_counts where total = 0")


PROJECTOR = Projector(
    name="guilds",
    table=TABLE,
    row=Guild,
    key=("guild_id",),
    topics=frozenset(t for t in events.EVENTS if t.startswith(("guild.", "subscription.", "punishment.", "subject."))),
    touches=touches,
    fold=fold,
    also=count,
    beside=(COUNTS,),
    slices={
        # guilds_standing
        COUNTS.name: Slice(
            rows="state_recorded = %(state_recorded)s and tier = %(tier)s and registered = %(registered)s",
            sums={"total": "count(*)"},
        )
    },
)


# -- at a point in time


def state(guild: Guild, now: datetime) -> int:
    """2 Banned while a blacklisting is active, else what the staff set: 0 Active, 1 Inactive (api.md §3)."""
    return BANNED if guild.blacklisted_until is not None and guild.blacklisted_until > now else guild.state_set


def tier(guild: Guild, now: datetime) -> int:
    """0 Basic, 1 Trial, 2 Premium, 3 Lifetime; Basic from the very end on."""
    return standing.tier_now(guild.tier, guild.tier_until, now)


def subscription_expires_at(guild: Guild, now: datetime) -> datetime | None:
    """The end of a running trial or premium tier; None for Basic and Lifetime."""
    return None if tier(guild, now) in (0, LIFETIME) else guild.tier_until


def sponsored_by(guild: Guild, now: datetime) -> int | None:
    """The user who gave the tier that runs; None for Basic, or where no user gave it."""
    return None if tier(guild, now) == BASIC else guild.tier_by


def is_whitelisted(guild: Guild, now: datetime) -> bool:
    """Premium or Lifetime, and not blacklisted."""
    return tier(guild, now) in (PREMIUM, LIFETIME) and state(guild, now) != BANNED


def updated_at(guild: Guild, now: datetime) -> datetime:
    """The last change of the guild, ends included that have come since the last event."""
    return standing.updated_now(guild.updated_at, (guild.tier_until, guild.blacklisted_until), now)


# -- queries, for psycopg's raw cursors ($1)


class Owned(msgspec.Struct, frozen=True):
    """``member_count`` 0 until a bot has reported one."""

    guild: Guild
    member_count: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """``position``: what is said of the guild is as fresh as this position of the ledger; ``owner_position`` the same
    for ``owner_level``, which is 0 without an owner. ``owned`` None: no such guild. ``has_bot``: the last report of
    some bot names it; ``first_joined_at``: the first that ever did."""

    position: int
    owner_position: int
    owner_level: int
    has_bot: bool
    first_joined_at: datetime | None
    owned: Owned | None


COLUMNS = ", ".join(f"g.{column}" for column in TABLE.columns)
POSITION = "(select notification_id from projection_tracking where application_name = 'guilds')"
PROFILE_POSITION = "(select notification_id from projection_tracking where application_name = 'profile')"

# $1 owner's user id, $2 limit: newest first. guilds_owner, guild_activity_pkey
OWNED = f"""
    select coalesce(a.member_count, 0), {COLUMNS}
    from (
        select * from guilds where owner_id = $1 and registered order by created_at desc, guild_id desc limit $2
    ) g
    left join guild_activity a on a.guild_id = g.guild_id
    order by g.created_at desc, g.guild_id desc
"""  # noqa: S608

# $1, $2 as above. A line per guild, and one with nulls when there is none: checkpoint, member count, columns.
OF_OWNER = f"""
    select {POSITION}, own.* from (select 1) always left join ({OWNED}) own on true
    order by own.created_at desc, own.guild_id desc
"""  # noqa: S608

# $1 bigint[] of guild ids. A line per id asked for: id, checkpoints of guilds and of profile, the owner's level,
# whether there is a bot, since when, member count, columns (all null: no such guild).
# guilds_pkey, profiles_pkey, bot_guilds_guild, guild_activity_pkey, projection_tracking_pkey
BY_IDS = f"""
    select asked.key, {POSITION}, {PROFILE_POSITION}, coalesce(o.level, 0),
        exists (select from bot_guilds b where b.guild_id = asked.key),
        a.first_joined_at, coalesce(a.member_count, 0), {COLUMNS}
    from unnest((select $1::bigint[])) as asked (key)
    left join guilds g on g.guild_id = asked.key
    left join profiles o on o.user_id = g.owner_id
    left join guild_activity a on a.guild_id = asked.key
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

# $1 timestamptz now: registered guilds, all of them and by tier; from the counts, less the tiers that ran out and are
# not recorded yet. guild_counts_pkey, guilds_tier_until, projection_tracking_pkey
STATISTICS = f"""
    select {POSITION},
        coalesce(sum(total), 0)::bigint,
        coalesce(sum(total) filter (where tier in (2, 3)), 0)::bigint - max(ended.premium),
        coalesce(sum(total) filter (where tier = 1), 0)::bigint - max(ended.trial)
    from (
        select count(*) filter (where tier = 2) as premium, count(*) filter (where tier = 1) as trial
        from guilds where tier_until <= $1 and registered
    ) ended
    left join guild_counts on registered
"""  # noqa: S608


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Of registered guilds: all, those with Premium or Lifetime, those with a trial, and the last two together.
    ``position``: as fresh as this position of the ledger."""

    position: int
    total_count: int
    whitelisted_count: int
    trial_count: int
    guild_access_count: int


def statistics(line: Sequence[Any]) -> Statistics:
    """The one line of STATISTICS."""
    position, total, whitelisted, trial = line
    return Statistics(
        position=position or 0,
        total_count=total,
        whitelisted_count=whitelisted,
        trial_count=trial,
        guild_access_count=whitelisted + trial,
    )


def guild_of(columns: Sequence[Any]) -> Guild:
    """The row Struct from the columns of ``COLUMNS``."""
    values = dict(zip(TABLE.columns, columns, strict=True))
    values["open_punishments"] = msgspec.convert(values["open_punishments"], standing.OpenPunishments, strict=False)
    return Guild(**values)


def owned(row: Sequence[Any]) -> Owned:
    """One line of OWNED."""
    return Owned(guild_of(row[1:]), row[0])


def of_owner(lines: Sequence[Sequence[Any]]) -> tuple[int, list[Owned]]:
    """The lines of OF_OWNER: how fresh they are, and the guilds."""
    return lines[0][0] or 0, [owned(line[1:]) for line in lines if line[2] is not None]


def found(line: Sequence[Any]) -> Found:
    """One line of BY_IDS, without the id."""
    position, owner_position, owner_level, has_bot, first_joined_at, *one = line
    return Found(
        position=position or 0,
        owner_position=owner_position or 0,
        owner_level=owner_level,
        has_bot=has_bot,
        first_joined_at=first_joined_at,
        owned=None if one[1] is None else owned(one),
    )


# -- for the answers of commands, which need no projector to have come that far

# $1 guild id: the position of its stream's first event, whether there is a bot, since when, member count.
# ledger_pkey, bot_guilds_guild, guild_activity_pkey
BESIDE = """
    select (select notification_id from ledger where originator_id = 'guild:' || $1::bigint and originator_version = 1),
        exists (select from bot_guilds b where b.guild_id = $1), a.first_joined_at, coalesce(a.member_count, 0)
    from (select 1) always left join guild_activity a on a.guild_id = $1
"""

# $1 guild id, $2 members. guild_activity_pkey
COUNT_MEMBERS = """
    insert into guild_activity (guild_id, member_count) values ($1, $2)
    on conflict (guild_id) do update set member_count = excluded.member_count
"""


def owned_after(guild: subjects.Guild, position: int, member_count: int) -> Owned:
    """What the projector makes of the same events. The times and the actor of tier and owner, which no answer to a
    command shows, are None in it."""
    assert guild.created_at is not None
    assert guild.updated_at is not None
    still_open: standing.OpenPunishments = {
        number: (one.type, one.expires_at)
        for number, one in guild.punishments.items()
        if one.ending is None and one.type == GUILD_BLACKLIST
    }
    blacklisted_until = standing.greatest_until(still_open, GUILD_BLACKLIST)
    row = Guild(
        guild_id=guild.id,
        id=position,
        version=guild.version,
        registered=guild.registered,
        **_named(events.ERASED if guild.name is None else guild.name),
        avatar_url=guild.avatar_url,
        owner_id=guild.owner_id,
        prefix=guild.prefix,
        tier=guild.tier,
        tier_until=guild.tier_until,
        trial_used=guild.trial_used,
        open_punishments=still_open,
        blacklisted_until=blacklisted_until,
        state_set=guild.state_set,
        state_recorded=guild.state_set if blacklisted_until is None else BANNED,
        created_at=guild.created_at,
        updated_at=guild.updated_at,
    )
    return Owned(row, member_count)

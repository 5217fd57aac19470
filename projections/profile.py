"""Profiles: who a user is, what they may do and have, and until when they are restricted."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.domain.subjects import BAN, LIFETIME, TIMEOUT, User
from modledger.projections import fragments, standing
from modledger.projections.projector import Cursor, Key, Projector, Slice, Table

# The first end in a row: up to then its ``held`` and ``tier`` are as it says. FOREVER for what never ends.
FIRST_END = "(least(tier_until, banned_until, timeout_until))"

TABLE = Table(
    name="profiles",
    columns={
        "user_id": "bigint not null",
        "version": "integer not null",
        "registered": "boolean not null",
        "username": "text",
        # In the order of its bytes, so that the order of names, and a prefix, is an index's in every database.
        "username_key": 'text collate "C"',
        "username_code": "text",
        "named_at": "timestamptz",
        "avatar_url": "text",
        "level": "smallint not null",
        "level_at": "timestamptz",
        "prefix": "text not null",
        "tier": "smallint not null",
        "tier_until": "timestamptz",
        "tier_at": "timestamptz",
        "trial_used": "boolean not null",
        "open_punishments": "jsonb not null",
        "banned_until": "timestamptz",
        "timeout_until": "timestamptz",
        "held": "smallint not null",
        "created_at": "timestamptz not null",
        "updated_at": "timestamptz not null",
    },
    primary_key=("user_id",),
    indexes={
        # The bearer of a name: of several users who took it, the first entry.
        "profiles_name": "(username_key, named_at desc, user_id) where username_key is not null",
        # Subscriptions that are active, and those whose end the clock has to record.
        "profiles_tier": "(tier, user_id) where tier <> 0",
        "profiles_tier_until": "(tier_until) where tier_until is not null",
        # The search: all users by name, and those of one state, level and tier.
        "profiles_names": "(username_key, user_id)",
        "profiles_cells": "(held, level, tier, username_key, user_id)",
        # What the counts by state and tier have too many or too few. Of all rows: the planner has no statistics about
        # the expression of a partial index, and takes a third of the table for past.
        "profiles_first_end": f"({FIRST_END})",
    },
    # Most changes leave the indexed columns alone and fit beside the old row.
    fragments={"profiles_code": "using gin (username_code gin_trgm_ops)"},
    options="with (fillfactor = 85)",
)

# How many users there are of each kind, 96 rows at most.
COUNTS = Table(
    name="profile_counts",
    columns={
        "registered": "boolean not null",
        "held": "smallint not null",
        "level": "smallint not null",
        "tier": "smallint not null",
        "total": "bigint not null",
    },
    primary_key=("registered", "held", "level", "tier"),
    indexes={},
    options="with (fillfactor = 50)",
)


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A row. ``username`` is None for a user who was never registered or is erased; ``banned_until`` and
    ``timeout_until`` are the greatest end of the open ones, ``standing.FOREVER`` for a permanent one. ``held`` is the
    state as long as no end has come: 0 nothing is open, 1 a timeout, 2 a ban. ``open_punishments`` holds timeouts and
    bans."""

    user_id: int
    version: int
    registered: bool = False
    username: str | None = None
    username_key: str | None = None
    username_code: str | None = None
    named_at: datetime | None = None
    avatar_url: str | None = None
    level: int = 0
    level_at: datetime | None = None
    prefix: str = "!"
    tier: int = 0
    tier_until: datetime | None = None
    tier_at: datetime | None = None
    trial_used: bool = False
    open_punishments: standing.OpenPunishments = {}
    banned_until: datetime | None = None
    timeout_until: datetime | None = None
    held: int = 0
    created_at: datetime
    updated_at: datetime


class Shown(msgspec.Struct, frozen=True):
    """What of a row anybody is shown, as the look-ups of single users read it."""

    user_id: int
    version: int
    username: str | None
    avatar_url: str | None
    level: int
    prefix: str
    tier: int
    tier_until: datetime | None
    banned_until: datetime | None
    timeout_until: datetime | None
    created_at: datetime
    updated_at: datetime


Person = Profile | Shown

ISSUES: Mapping[type[events.Event], int] = {events.UserTimedOut: TIMEOUT, events.UserBanned: BAN}


def name_key(username: str) -> str:
    """The form under which a name is found: without regard to case (api.md §5.1)."""
    return username.casefold()


def touches(recorded: Recorded) -> Key | None:
    return (int(recorded.stream[5:]),) if recorded.stream.startswith("user:") else None


def fold(rows: Mapping[Key, Profile], recorded: Recorded) -> Sequence[Profile]:
    """Name, avatar and prefix follow the ledger; level and tier the event with the latest date."""
    event, at = recorded.event, recorded.occurred_at
    user_id = int(recorded.stream[5:])
    row = rows.get((user_id,)) or Profile(user_id=user_id, version=0, created_at=at, updated_at=at)
    changes: dict[str, Any] = {"version": recorded.version, "updated_at": max(row.updated_at, at)}
    match event:
        case events.UserRegistered():
            changes |= _named(event.username, at)
            changes |= {"registered": True, "avatar_url": standing.unless_erased(event.avatar_url), "created_at": at}
        case events.UserRenamed():
            changes |= _named(event.username, at)
        case events.UserAvatarChanged():
            changes["avatar_url"] = standing.unless_erased(event.avatar_url)
        case events.UserPrefixChanged():
            changes["prefix"] = event.prefix
        case events.PermissionChanged():
            if standing.is_later(row.level_at, recorded):
                changes |= {"level": event.new_level, "level_at": at}
        case events.SubjectErased():
            changes |= {
                "registered": False,
                "username": None,
                "username_key": None,
                "username_code": None,
                "named_at": None,
                "avatar_url": None,
            }
        case _:
            changes |= standing.tier_changes(row.tier_at, row.tier_until, recorded)
            still_open = standing.open_after(row.open_punishments, recorded, ISSUES)
            if still_open is not None:
                changes |= _restricted(still_open)
    return (msgspec.structs.replace(row, **changes),)


def _restricted(still_open: standing.OpenPunishments) -> dict[str, Any]:
    banned_until, timeout_until = (standing.greatest_until(still_open, kind) for kind in (BAN, TIMEOUT))
    held = 2 if banned_until is not None else 1 if timeout_until is not None else 0
    return {
        "open_punishments": still_open,
        "banned_until": banned_until,
        "timeout_until": timeout_until,
        "held": held,
    }


def _named(username: str, at: datetime) -> dict[str, Any]:
    known = standing.unless_erased(username)
    if known is None:
        return {"username": None, "username_key": None, "username_code": None, "named_at": None}
    key = name_key(known)
    return {"username": known, "username_key": key, "username_code": fragments.code(key), "named_at": at}


Cell = tuple[bool, int, int, int]


def count(cursor: Cursor, changes: Sequence[tuple[Profile | None, Profile]]) -> None:
    """Brings ``profile_counts`` along with these changes of rows."""
    deltas: dict[Cell, int] = {}
    for before, after in changes:
        if before is None:
            deltas[_cell(after)] = deltas.get(_cell(after), 0) + 1
        elif _cell(before) != _cell(after):
            deltas[_cell(before)] = deltas.get(_cell(before), 0) - 1
            deltas[_cell(after)] = deltas.get(_cell(after), 0) + 1
    moved = [dict(zip(COUNTS.columns, (*cell, delta), strict=True)) for cell, delta in deltas.items() if delta]
    if not moved:
        return
    # profile_counts_pkey
    cursor.execute(
        "insert into profile_counts as c (registered, held, level, tier, total)"
        " select registered, held, level, tier, total from json_populate_recordset(null::profile_counts, %s)"
        " on conflict (registered, held, level, tier) do update set total = c.total + excluded.total",
        (msgspec.json.encode(moved).decode(),),
    )
    if any(delta < 0 for delta in deltas.values()):
        # What nobody is in any more has no row, or the rows would tell by which batches they came about.
        cursor.execute("delete from profile_counts where total = 0")


def _cell(row: Profile) -> Cell:
    return row.registered, row.held, row.level, row.tier


PROJECTOR = Projector(
    name="profile",
    table=TABLE,
    row=Profile,
    key=("user_id",),
    topics=frozenset(t for t in events.EVENTS if not t.startswith(("guild.", "bot."))),
    touches=touches,
    fold=fold,
    also=count,
    beside=(COUNTS,),
    slices={
        # profiles_cells
        COUNTS.name: Slice(
            rows="held = %(held)s and level = %(level)s and tier = %(tier)s and registered = %(registered)s",
            sums={"total": "count(*)"},
        )
    },
)


def profile_of(user: User) -> Profile | None:
    """The row that the projector makes of the same events, for a command's answer; None for a user without events.
    ``named_at``, ``level_at`` and ``tier_at``, which only the fold needs, are None in it."""
    if user.created_at is None or user.updated_at is None:
        return None
    still_open: standing.OpenPunishments = {
        number: (one.type, one.expires_at)
        for number, one in user.punishments.items()
        if one.ending is None and one.type in (TIMEOUT, BAN)
    }
    key = None if user.username is None else name_key(user.username)
    return Profile(
        user_id=user.id,
        version=user.version,
        registered=user.registered,
        username=user.username,
        username_key=key,
        username_code=None if key is None else fragments.code(key),
        avatar_url=user.avatar_url,
        level=user.level,
        prefix=user.prefix,
        tier=user.tier,
        tier_until=user.tier_until,
        trial_used=user.trial_used,
        created_at=user.created_at,
        updated_at=user.updated_at,
        **_restricted(still_open),
    )


# -- at a point in time


def state(profile: Person, now: datetime) -> int:
    """0 Active, 1 Timeout, 2 Banned, exact to the second of an end (api.md §3)."""
    if profile.banned_until is not None and profile.banned_until > now:
        return 2
    return 1 if profile.timeout_until is not None and profile.timeout_until > now else 0


def tier(profile: Person, now: datetime) -> int:
    """0 Basic, 1 Trial, 2 Premium, 3 Lifetime; Basic from the very end on."""
    return standing.tier_now(profile.tier, profile.tier_until, now)


def subscription_expires_at(profile: Person, now: datetime) -> datetime | None:
    """The end of a running trial or premium tier; None for Basic and Lifetime."""
    return None if tier(profile, now) in (0, LIFETIME) else profile.tier_until


def updated_at(profile: Person, now: datetime) -> datetime:
    """The last change of the profile, ends included that have come since the last event."""
    return standing.updated_now(
        profile.updated_at, (profile.tier_until, profile.timeout_until, profile.banned_until), now
    )


# -- queries, for psycopg's raw cursors ($1). Each answers one line per key asked for, in any order: the key, the
#    checkpoint of `profile` (None before its first batch), the last activity, and the profile's columns or those that
#    are shown (all None: no such user).


class Found(msgspec.Struct, frozen=True):
    """``key``: as it was asked for. ``position``: the answer is as fresh as this position of the ledger, 0 for none.
    ``last_activity_at``: the profile's ``created_at`` where no activity is known."""

    key: int | str
    position: int
    profile: Person | None
    last_activity_at: datetime | None


COLUMNS = ", ".join(f"p.{column}" for column in TABLE.columns)
SHOWN = ", ".join(f"p.{column}" for column in Shown.__struct_fields__)
POSITION = "(select notification_id from projection_tracking where application_name = 'profile')"

# $1 text[] of name_key(): the user who took the name last. profiles_name, user_activity_pkey
BY_NAMES = f"""
    select asked.key, {POSITION}, a.last_activity_at, {SHOWN}
    from unnest((select $1::text[])) as asked (key)
    left join lateral (
        select * from profiles where username_key = asked.key order by named_at desc, user_id limit 1
    ) p on true
    left join user_activity a on a.user_id = p.user_id
"""  # noqa: S608

# $1 bigint[] of user ids. profiles_pkey, user_activity_pkey
BY_IDS = f"""
    select asked.key, {POSITION}, a.last_activity_at, {COLUMNS}
    from unnest((select $1::bigint[])) as asked (key)
    left join profiles p on p.user_id = asked.key
    left join user_activity a on a.user_id = p.user_id
"""  # noqa: S608


def found(row: Sequence[Any]) -> Found:
    """One line of BY_IDS."""
    key, position, last_activity_at, *columns = row
    if columns[0] is None:
        return Found(key, position or 0, None, None)
    profile = row_of(columns)
    return Found(key, position or 0, profile, last_activity_at or profile.created_at)


def found_shown(key: int | str, row: Sequence[Any]) -> Found:
    """One line of BY_NAMES after its key, or of another query that ends with POSITION, the last activity and SHOWN."""
    if row[2] is None:
        return Found(key, row[0] or 0, None, None)
    person = Shown(*row[2:])
    return Found(key, row[0] or 0, person, row[1] or person.created_at)


def row_of(columns: Sequence[Any]) -> Profile:
    """The row Struct from the columns of ``COLUMNS``."""
    values = dict(zip(TABLE.columns, columns, strict=True))
    if values["open_punishments"]:
        values["open_punishments"] = msgspec.convert(values["open_punishments"], standing.OpenPunishments, strict=False)
    return Profile(**values)


# $1 timestamptz now: checkpoint, all registered users, those with a trial, with Premium, with Lifetime; from the
# counts, less the tiers that ran out and are not recorded yet. profile_counts of 96 rows at most, profiles_tier_until
STATISTICS = f"""
    select {POSITION}, counted.total, counted.trial - ended.trial, counted.premium - ended.premium, counted.lifetime
    from (
        select coalesce(sum(total), 0)::bigint as total,
            coalesce(sum(total) filter (where tier = 1), 0)::bigint as trial,
            coalesce(sum(total) filter (where tier = 2), 0)::bigint as premium,
            coalesce(sum(total) filter (where tier = 3), 0)::bigint as lifetime
        from profile_counts where registered
    ) counted cross join (
        select count(*) filter (where tier = 1) as trial, count(*) filter (where tier = 2) as premium
        from profiles where tier_until <= $1 and registered
    ) ended
"""  # noqa: S608


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Of registered users: all, and those of each tier. ``position``: as fresh as this position of the ledger."""

    position: int
    total_count: int
    basic_count: int
    trial_count: int
    premium_count: int
    lifetime_count: int


def statistics(line: Sequence[Any]) -> Statistics:
    """The one line of STATISTICS."""
    position, total, trial, premium, lifetime = line
    return Statistics(
        position=position or 0,
        total_count=total,
        basic_count=total - trial - premium - lifetime,
        trial_count=trial,
        premium_count=premium,
        lifetime_count=lifetime,
    )


# -- subscriptions


class Subscribed(msgspec.Struct, frozen=True):
    """A user or guild with a tier other than Basic; ``name`` None where none is known."""

    id: int
    name: str | None
    tier: int
    tier_until: datetime | None


# $1 timestamptz now, $2 smallint tier or null for all. profiles_tier
SUBSCRIBED = """
    select user_id, username, tier, tier_until from profiles
    where tier <> 0 and ($2::smallint is null or tier = $2) and (tier_until is null or tier_until > $1)
    order by user_id
"""

# $1 timestamptz now: (stream, end) of the subscriptions that ran out, earliest first. profiles_tier_until
DUE_SUBSCRIPTIONS = """
    select 'user:' || user_id, tier_until from profiles where tier_until <= $1 order by tier_until
"""

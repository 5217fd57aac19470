"""The detail view of a user (api.md §5.1): the profile and its five arrays, all of one moment."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from modledger.projections import bots, guilds, permission_history, profile, punishments, subscription_history

NEWEST = 100
# The projectors behind it.
READ_BY_DETAIL = ("profile", "punishments", "subscription_history", "permission_history", "guilds", "bots")


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """Each list holds the newest 100, newest first. ``position``: the least checkpoint of the six projectors, so
    everything in here is at least as fresh as this position of the ledger."""

    found: profile.Found
    punishments: list[punishments.Punishment]
    guilds: list[guilds.Owned]
    bots: list[bots.Owned]
    subscription_history: list[subscription_history.SubscriptionChange]
    permission_history: list[permission_history.PermissionChange]
    position: int


class _Read(msgspec.Struct, frozen=True):
    """The document of a line of BY_IDS."""

    profile: profile.Profile | None
    last_activity_at: datetime | None
    punishments: list[punishments.Punishment]
    guilds: list[guilds.Owned]
    bots: list[bots.Owned]
    subscription_history: list[subscription_history.SubscriptionChange]
    permission_history: list[permission_history.PermissionChange]


def newest(rows: str) -> str:
    """SQL: the rows of a query as a JSON array, in their order, which an aggregate over nothing but them keeps."""
    return f"(select coalesce(json_agg(found), '[]') from ({rows}) found)"  # noqa: S608


_LISTS = {
    # punishments_user
    "punishments": f"""
        select {punishments.COLUMNS} from punishments p where user_id = asked.key
        order by created_at desc, id desc limit {NEWEST}
    """,  # noqa: S608
    # guilds_owner, guild_activity_pkey
    "guilds": f"""
        select g as guild, coalesce(a.member_count, 0) as member_count
        from (
            select {guilds.COLUMNS} from guilds g where owner_id = asked.key and registered
            order by created_at desc, guild_id desc limit {NEWEST}
        ) g
        left join guild_activity a on a.guild_id = g.guild_id
        order by g.created_at desc, g.guild_id desc
    """,  # noqa: S608
    # bots_owner, bot_activity_pkey
    "bots": f"""
        select b as bot, {bots.REPORTED}
        from (
            select {bots.COLUMNS} from bots b where owner_id = asked.key and active and registered
            order by created_at desc, bot_id desc limit {NEWEST}
        ) b
        left join bot_activity a on a.bot_id = b.bot_id
        order by b.created_at desc, b.bot_id desc
    """,  # noqa: S608
    # subscription_history_subject
    "subscription_history": f"""
        select {subscription_history.COLUMNS} from subscription_history where stream = 'user:' || asked.key
        order by created_at desc, id desc limit {NEWEST}
    """,  # noqa: S608
    # permission_history_user
    "permission_history": f"""
        select {permission_history.COLUMNS} from permission_history where user_id = asked.key
        order by created_at desc, id desc limit {NEWEST}
    """,  # noqa: S608
}

# $1 bigint[] of user ids. A line per id asked for: id, the least checkpoint, that of ``profile``, and all else as one
# JSON document (``_Read``): msgspec makes rows of it at once. One statement, so one snapshot.
# projection_tracking_pkey (a projector without a row has folded nothing yet), profiles_pkey, user_activity_pkey
BY_IDS = f"""
    select asked.key,
        (select min(coalesce(t.notification_id, 0)) from unnest(array{list(READ_BY_DETAIL)}) as p (name)
            left join projection_tracking t on t.application_name = p.name),
        {profile.POSITION},
        json_build_object(
            'profile', (
                select row_to_json(found)
                from (select {profile.COLUMNS} from profiles p where user_id = asked.key) found
            ),
            'last_activity_at', (select a.last_activity_at from user_activity a where a.user_id = asked.key),
            {", ".join(f"'{name}', {newest(rows)}" for name, rows in _LISTS.items())}
        )::text
    from unnest((select $1::bigint[])) as asked (key)
"""  # noqa: S608

_decode = msgspec.json.Decoder(_Read).decode


def detail_of(line: Sequence[Any]) -> Detail:
    """One line of BY_IDS. ``found.profile`` None: no such user. Nothing in it depends on the time of day: the read
    models' ``state``, ``updated_at`` and the like take it from there."""
    key, position, profile_position, document = line
    read = _decode(document)
    row = read.profile
    active = None if row is None else read.last_activity_at or row.created_at
    return Detail(
        found=profile.Found(key, profile_position or 0, row, active),
        punishments=read.punishments,
        guilds=read.guilds,
        bots=read.bots,
        subscription_history=read.subscription_history,
        permission_history=read.permission_history,
        position=position,
    )

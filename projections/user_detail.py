"""The detail view of a user (api.md §5.1): the profile and its five arrays, all of one moment."""

from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

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


# projection_tracking_pkey; a projector without a row has folded nothing yet
_POSITION = """
    select min(coalesce(t.notification_id, 0)) from unnest($1::text[]) as p (name)
    left join projection_tracking t on t.application_name = p.name
"""


async def detail(conn: psycopg.AsyncConnection[Any], user_id: int) -> Detail:
    """Everything about one user, read from one snapshot in a few round trips. ``found.profile`` None: no such user.

    ``conn`` must be in autocommit mode and is used alone. What it answers does not depend on the time of day; the read
    models' ``state``, ``updated_at`` and the like take it from there. Raises psycopg.Error.
    """
    if not conn.autocommit:
        raise ValueError("detail needs a connection in autocommit mode")
    cursors = [psycopg.AsyncRawCursor(conn, row_factory=tuple_row) for _ in range(7)]
    reads: list[tuple[str, list[object]]] = [
        (profile.BY_IDS, [[user_id]]),
        (punishments.OF_USER, [user_id, 0, NEWEST]),
        (guilds.OWNED, [user_id, NEWEST]),
        (bots.OWNED, [user_id, NEWEST]),
        (subscription_history.OF_SUBJECT, [f"user:{user_id}", NEWEST]),
        (permission_history.OF_USER, [user_id, NEWEST]),
        (_POSITION, [list(READ_BY_DETAIL)]),
    ]
    async with conn.pipeline(), conn.transaction():
        await conn.execute("set transaction isolation level repeatable read read only")
        for cursor, (query, parameters) in zip(cursors, reads, strict=True):
            await cursor.execute(query, parameters, prepare=True)
    who, punished, owned, run, subscribed, permitted, position = [await cursor.fetchall() for cursor in cursors]
    return Detail(
        found=profile.found(who[0]),
        punishments=[row for line in punished if (row := punishments.punishment_of(line[1:])) is not None],
        guilds=[guilds.owned(line) for line in owned],
        bots=[bots.owned(line) for line in run],
        subscription_history=[subscription_history.change_of(line) for line in subscribed],
        permission_history=[permission_history.change_of(line) for line in permitted],
        position=position[0][0],
    )

"""The detail view of a guild (api.md §4): the guild, its owner's level and two arrays, all of one moment."""

from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

from modledger.domain.subjects import GUILD_BLACKLIST, WARNING
from modledger.projections import guilds, punishments, subscription_history

NEWEST = 100

_WALKS = " union all ".join(
    f"(select * from punishments where guild_id = $1 and {state} and type = {kind}"  # noqa: S608
    " order by created_at desc, id desc limit $2)"
    for state in ("open", "not open")
    for kind in (WARNING, GUILD_BLACKLIST)
)
# $1 guild id, $2 limit: newest first. A line per punishment, and one with nulls when there is none: checkpoint,
# columns. punishments_guild_created, walked once for each (open, type)
_PUNISHMENTS = f"""
    select {punishments.POSITION}, {punishments.COLUMNS} from (select 1) always left join (
        select * from ({_WALKS}) walks order by created_at desc, id desc limit $2
    ) p on true
    order by p.created_at desc, p.id desc
"""  # noqa: S608


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """Each list holds the newest 100, newest first. ``position``: the least checkpoint of the four projectors, so
    everything in here is at least as fresh as this position of the ledger."""

    found: guilds.Found
    punishments: list[punishments.Punishment]
    subscription_history: list[subscription_history.SubscriptionChange]
    position: int


# projection_tracking_pkey
_HISTORY_POSITION = f"select {subscription_history.POSITION}"


async def detail(conn: psycopg.AsyncConnection[Any], guild_id: int) -> Detail:
    """Everything about one guild, read from one snapshot in a few round trips. ``found.owned`` None: no such guild.

    What it answers does not depend on the time of day. ``conn`` must be in autocommit mode and is used alone. Raises
    psycopg.Error.
    """
    if not conn.autocommit:
        raise ValueError("detail needs a connection in autocommit mode")
    cursors = [psycopg.AsyncRawCursor(conn, row_factory=tuple_row) for _ in range(4)]
    async with conn.pipeline(), conn.transaction():
        await conn.execute("set transaction isolation level repeatable read read only")
        await cursors[0].execute(guilds.BY_IDS, [[guild_id]], prepare=True)
        await cursors[1].execute(_PUNISHMENTS, [guild_id, NEWEST], prepare=True)
        await cursors[2].execute(subscription_history.OF_SUBJECT, [f"guild:{guild_id}", NEWEST], prepare=True)
        await cursors[3].execute(_HISTORY_POSITION, prepare=True)
    who, punished, subscribed, position = [await cursor.fetchall() for cursor in cursors]
    found = guilds.found(who[0][1:])
    return Detail(
        found=found,
        punishments=[row for line in punished if (row := punishments.punishment_of(line[1:])) is not None],
        subscription_history=[subscription_history.change_of(line) for line in subscribed],
        position=min(found.position, found.owner_position, punished[0][0] or 0, position[0][0] or 0),
    )

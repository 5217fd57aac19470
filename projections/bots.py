"""Bots: who they are, whose they are, whether their keys are good, and how many there are."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from modledger.domain import events, subjects
from modledger.domain.envelope import Recorded
from modledger.projections import standing
from modledger.projections.fragments import code
from modledger.projections.profile import name_key
from modledger.projections.projector import Cursor, Key, Projector, Slice, Table

TABLE = Table(
    name="bots",
    columns={
        "bot_id": "bigint not null",
        "id": "bigint not null",
        "version": "integer not null",
        "registered": "boolean not null",
        "name": "text",
        # Compared by its characters in any database, so that an index serves its order and its prefixes alike.
        "name_key": 'text collate "C" not null',
        "name_code": "text not null",
        "avatar_url": "text",
        "owner_id": "bigint",
        "bot_type": "smallint not null",
        "rate_limit_per_hour": "integer not null",
        "active": "boolean not null",
        "keys_from": "integer not null",
        "created_at": "timestamptz not null",
        "updated_at": "timestamptz not null",
    },
    primary_key=("bot_id",),
    indexes={
        "bots_owner": "(owner_id, active, created_at, bot_id) where registered",
        "bots_created": "(active, created_at, bot_id) where registered",
        # The search walks these once for each (active, type) that it wants; see bot_search.py.
        "bots_cells": "(active, bot_type, name_key, bot_id) where registered",
        "bots_owner_cells": "(owner_id, active, bot_type, name_key, bot_id) where registered",
        # Whether any name begins with this.
        "bots_name": "(name_key, bot_id)",
    },
    fragments={"bots_name_code": "using gin (name_code gin_trgm_ops)"},
    options="with (fillfactor = 85)",
)

COUNTS = Table(
    name="bot_counts",
    # Of those that are registered. Owner 0 stands for any; a type and active or not is always said.
    columns={
        "owner_id": "bigint not null",
        "active": "boolean not null",
        "bot_type": "smallint not null",
        "total": "bigint not null",
    },
    primary_key=("owner_id", "active", "bot_type"),
    indexes={},
    options="with (fillfactor = 50)",
)


class Bot(msgspec.Struct, frozen=True, kw_only=True):
    """A row. ``id`` is the position of the stream's first event; the limit is in requests an hour. ``name_key`` is the
    form under which the name is found and ``name_code`` that in which fragments of it are (fragments.py), both empty
    without a name. A key that was made at a version of the stream below
    ``keys_from`` is void."""

    bot_id: int
    id: int
    version: int
    registered: bool = False
    name: str | None = None
    name_key: str = ""
    name_code: str = ""
    avatar_url: str | None = None
    owner_id: int | None = None
    bot_type: int = 3
    rate_limit_per_hour: int = 1000
    active: bool = True
    keys_from: int = 0
    created_at: datetime
    updated_at: datetime


def touches(recorded: Recorded) -> Key | None:
    return (int(recorded.stream[4:]),) if recorded.stream.startswith("bot:") else None


def fold(rows: Mapping[Key, Bot], recorded: Recorded) -> Sequence[Bot]:
    event, at = recorded.event, recorded.occurred_at
    bot_id = int(recorded.stream[4:])
    row = rows.get((bot_id,))
    if row is None:
        row = Bot(bot_id=bot_id, id=recorded.position, version=0, created_at=at, updated_at=at)
    changes: dict[str, Any] = {"version": recorded.version, "updated_at": max(row.updated_at, at)}
    match event:
        case events.BotRegistered():
            changes |= {
                **_named(event.name),
                "registered": True,
                "avatar_url": standing.unless_erased(event.avatar_url),
                "owner_id": event.owner_id,
                "bot_type": event.bot_type,
                "rate_limit_per_hour": event.rate_limit_per_hour,
                "active": True,
                "created_at": at,
            }
        case events.BotRenamed():
            changes |= _named(event.name)
        case events.BotAvatarChanged():
            changes["avatar_url"] = standing.unless_erased(event.avatar_url)
        case events.BotOwnerChanged():
            changes["owner_id"] = event.owner_id
        case events.BotTypeChanged():
            changes["bot_type"] = event.bot_type
        case events.BotRateLimitChanged():
            changes["rate_limit_per_hour"] = event.rate_limit_per_hour
        case events.BotActivated():
            changes["active"] = True
        case events.BotDeactivated():
            changes["active"] = False
        case events.BotKeyRegenerated():
            changes["keys_from"] = recorded.version
        case events.SubjectErased():
            changes |= {"registered": False, **_named(events.ERASED), "avatar_url": None, "keys_from": recorded.version}
        case _:
            raise ValueError(f"{event.TOPIC} does not happen to a bot")
    return (msgspec.structs.replace(row, **changes),)


def _named(name: str) -> dict[str, Any]:
    known = standing.unless_erased(name)
    key = "" if known is None else name_key(known)
    return {"name": known, "name_key": key, "name_code": code(key)}


def count(cursor: Cursor, changes: Sequence[tuple[Bot | None, Bot]]) -> None:
    """Brings ``bot_counts`` along with these changes of rows."""
    deltas: dict[tuple[int, bool, int], int] = {}
    for before, after in changes:
        for row, by in ((before, -1), (after, 1)):
            for cell in _cells(row):
                deltas[cell] = deltas.get(cell, 0) + by
    deltas = {cell: by for cell, by in deltas.items() if by}
    # bot_counts_pkey
    cursor.execute(
        "insert into bot_counts as c (owner_id, active, bot_type, total)"
        " select owner_id, active, bot_type, total from json_populate_recordset(null::bot_counts, %s)"
        " on conflict (owner_id, active, bot_type) do update set total = c.total + excluded.total",
        (_json([dict(zip(COUNTS.columns, (*cell, by), strict=True)) for cell, by in deltas.items()]),),
    )
    # Or the same bots would leave other rows behind, according to what came in one batch. bot_counts_pkey
    cursor.execute(
        "delete from bot_counts c using json_populate_recordset(null::bot_counts, %s) n"
        " where (c.owner_id, c.active, c.bot_type) = (n.owner_id, n.active, n.bot_type) and c.total = 0",
        (_json([dict(zip(COUNTS.columns, cell, strict=False)) for cell, by in deltas.items() if by < 0]),),
    )


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return msgspec.json.encode(rows).decode()


def _cells(row: Bot | None) -> Iterable[tuple[int, bool, int]]:
    if row is None or not row.registered:
        return ()
    owners = (0,) if row.owner_id is None else (0, row.owner_id)
    return [(owner, row.active, row.bot_type) for owner in owners]


PROJECTOR = Projector(
    name="bots",
    table=TABLE,
    row=Bot,
    key=("bot_id",),
    topics=frozenset(t for t in events.EVENTS if t.startswith(("bot.", "subject."))),
    touches=touches,
    fold=fold,
    also=count,
    beside=(COUNTS,),
    slices={
        # bots_cells, bots_owner_cells
        COUNTS.name: Slice(
            rows="registered and active = %(active)s and bot_type = %(bot_type)s"
            " and (%(owner_id)s = 0 or owner_id = %(owner_id)s)",
            sums={"total": "count(*)"},
        )
    },
)


# -- queries, for psycopg's raw cursors ($1)


class Owned(msgspec.Struct, frozen=True):
    """A bot and what it last reported: 0 guilds and users and no latency before its first report;
    ``last_activity_at`` is then the bot's ``created_at``."""

    bot: Bot
    guilds: int
    users: int
    latency_ms: float | None
    last_activity_at: datetime


COLUMNS = ", ".join(f"b.{column}" for column in TABLE.columns)
POSITION = "(select notification_id from projection_tracking where application_name = 'bots')"

# What stands before COLUMNS in a line that ``owned_or_none`` reads: bots as b, bot_activity as a.
REPORTED = (
    "coalesce(a.guilds, 0) as guilds, coalesce(a.users, 0) as users, a.latency_ms,"
    " coalesce(a.last_activity_at, b.created_at) as last_activity_at"
)

# $1 bigint[] of bot ids. A line per id asked for: id, checkpoint, what it reported, columns (all null: no such bot).
# bots_pkey, bot_activity_pkey
BY_IDS = f"""
    select asked.key, {POSITION}, {REPORTED}, {COLUMNS}
    from unnest((select $1::bigint[])) as asked (key)
    left join bots b on b.bot_id = asked.key
    left join bot_activity a on a.bot_id = b.bot_id
"""  # noqa: S608

# $1 whether inactive ones too, $2 offset, $3 limit: newest first. A line per bot, and one with nulls when there is
# none: checkpoint, total, what it reported, columns. bots_created, once for the active ones and once for the others;
# bot_counts_pkey, bot_activity_pkey
NEWEST = f"""
    select {POSITION},
        coalesce((
            select sum(total) from bot_counts
            where owner_id = 0 and active = any(case when $1::boolean then array[true, false] else array[true] end)
        ), 0)::bigint,
        {REPORTED}, {COLUMNS}
    from (select 1) always
    left join (
        select * from (
            (select * from bots where active and registered order by created_at desc, bot_id desc
                limit $2::bigint + $3::bigint)
            union all
            (select * from bots where not active and registered and $1::boolean order by created_at desc, bot_id desc
                limit $2::bigint + $3::bigint)
        ) both_walks
        order by created_at desc, bot_id desc offset $2::bigint limit $3::bigint
    ) b on true
    left join bot_activity a on a.bot_id = b.bot_id
    order by b.created_at desc, b.bot_id desc
"""  # noqa: S608

# A line: checkpoint, those registered, of them official, verified, community. bot_counts_pkey
STATISTICS = f"""
    select {POSITION}, coalesce(sum(total), 0)::bigint, coalesce(sum(total) filter (where bot_type = 1), 0)::bigint,
        coalesce(sum(total) filter (where bot_type = 2), 0)::bigint,
        coalesce(sum(total) filter (where bot_type = 3), 0)::bigint
    from bot_counts where owner_id = 0
"""  # noqa: S608


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """How many bots are registered, active or not. ``position``: the answer is as fresh as this position of the
    ledger."""

    position: int
    total: int
    official: int
    verified: int
    community: int


def statistics(line: Sequence[Any]) -> Statistics:
    """The only line of STATISTICS."""
    position, total, official, verified, community = line
    return Statistics(position=position or 0, total=total, official=official, verified=verified, community=community)


def row_of(columns: Sequence[Any]) -> Bot | None:
    """The row Struct from the columns of ``COLUMNS``; None where they are all null."""
    return None if columns[0] is None else Bot(**dict(zip(TABLE.columns, columns, strict=True)))


def owned_or_none(line: Sequence[Any]) -> Owned | None:
    """REPORTED and COLUMNS as one; None where there is no bot."""
    guilds, users, latency_ms, last_activity_at, *columns = line
    bot = row_of(columns)
    return None if bot is None else Owned(bot, guilds, users, latency_ms, last_activity_at)


# -- for the answers of commands, which need no projector to have come that far

# $1 bot id: the position of its stream's first event, and guilds, users, latency, last activity as bot_activity has
# them, null before its first report. ledger_pkey, bot_activity_pkey
BESIDE = """
    select (select notification_id from ledger where originator_id = 'bot:' || $1::bigint and originator_version = 1),
        a.guilds, a.users, a.latency_ms, a.last_activity_at
    from (select 1) always left join bot_activity a on a.bot_id = $1
"""


def owned_after(bot: subjects.Bot, line: Sequence[Any]) -> Owned:
    """What the projector makes of the same events, and the only line of BESIDE. ``keys_from``, which no answer shows,
    is 0 in it."""
    position, guilds, users, latency_ms, last_activity_at = line
    assert bot.created_at is not None
    assert bot.updated_at is not None
    row = Bot(
        bot_id=bot.id,
        id=position,
        version=bot.version,
        registered=bot.registered,
        **_named(events.ERASED if bot.name is None else bot.name),
        avatar_url=bot.avatar_url,
        owner_id=bot.owner_id,
        bot_type=bot.bot_type,
        rate_limit_per_hour=bot.rate_limit_per_hour,
        active=bot.active,
        created_at=bot.created_at,
        updated_at=bot.updated_at,
    )
    return Owned(row, guilds or 0, users or 0, latency_ms, last_activity_at or row.created_at)

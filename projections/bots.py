"""Bots: who they are and whose they are."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.projections import standing
from modledger.projections.projector import Key, Projector, Table

TABLE = Table(
    name="bots",
    columns={
        "bot_id": "bigint not null",
        "id": "bigint not null",
        "version": "integer not null",
        "registered": "boolean not null",
        "name": "text",
        "avatar_url": "text",
        "owner_id": "bigint",
        "bot_type": "smallint not null",
        "rate_limit_per_hour": "integer not null",
        "created_at": "timestamptz not null",
        "updated_at": "timestamptz not null",
    },
    primary_key=("bot_id",),
    indexes={"bots_owner": "(owner_id, created_at, bot_id) where owner_id is not null"},
)


class Bot(msgspec.Struct, frozen=True, kw_only=True):
    """A row. ``id`` is the position of the stream's first event; the limit is in requests an hour."""

    bot_id: int
    id: int
    version: int
    registered: bool = False
    name: str | None = None
    avatar_url: str | None = None
    owner_id: int | None = None
    bot_type: int = 3
    rate_limit_per_hour: int = 1000
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
                "registered": True,
                "name": standing.unless_erased(event.name),
                "avatar_url": standing.unless_erased(event.avatar_url),
                "owner_id": event.owner_id,
                "bot_type": event.bot_type,
                "rate_limit_per_hour": event.rate_limit_per_hour,
                "created_at": at,
            }
        case events.BotRenamed():
            changes["name"] = standing.unless_erased(event.name)
        case events.SubjectErased():
            changes |= {"registered": False, "name": None, "avatar_url": None}
        case _:
            raise ValueError(f"{event.TOPIC} does not happen to a bot")
    return (msgspec.structs.replace(row, **changes),)


PROJECTOR = Projector(
    name="bots",
    table=TABLE,
    row=Bot,
    key=("bot_id",),
    topics=frozenset(t for t in events.EVENTS if t.startswith(("bot.", "subject."))),
    touches=touches,
    fold=fold,
)


# -- queries, for psycopg's raw cursors ($1)


class Owned(msgspec.Struct, frozen=True):
    """What a bot last reported: 0 guilds and users and no latency before its first report; ``last_activity_at`` is then
    the bot's ``created_at``."""

    bot: Bot
    guilds: int
    users: int
    latency_ms: float | None
    last_activity_at: datetime


COLUMNS = ", ".join(f"b.{column}" for column in TABLE.columns)
POSITION = "(select notification_id from projection_tracking where application_name = 'bots')"

# $1 owner's user id, $2 limit: newest first. bots_owner, bot_activity_pkey
OWNED = f"""
    select coalesce(a.guilds, 0), coalesce(a.users, 0), a.latency_ms,
        coalesce(a.last_activity_at, b.created_at), {COLUMNS}
    from (
        select * from bots where owner_id = $1 and registered order by created_at desc, bot_id desc limit $2
    ) b
    left join bot_activity a on a.bot_id = b.bot_id
    order by b.created_at desc, b.bot_id desc
"""  # noqa: S608


def bot_of(columns: Sequence[Any]) -> Bot:
    """The row Struct from the columns of ``COLUMNS``."""
    return Bot(**dict(zip(TABLE.columns, columns, strict=True)))


def owned(row: Sequence[Any]) -> Owned:
    """One line of OWNED."""
    guilds, users, latency_ms, last_activity_at, *columns = row
    return Owned(bot_of(columns), guilds, users, latency_ms, last_activity_at)

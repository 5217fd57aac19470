"""A slim line for every event of the ledger, and how many there are per actor, event type and week.

No text stands here: a page of the audit log reads its events from the ledger by position, so what is erased there
is erased here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded, SubjectKind, subject_of
from modledger.projections.projector import Cursor, Key, Projector, Slice, Table
from modledger.projections.weeks import week, within

TABLE = Table(
    name="audit_log",
    # "C": names are compared as bytes, in the indexes too.
    columns={
        "position": "bigint not null",
        "event_type": 'text collate "C" not null',
        "entity_id": "bigint not null",
        "actor_id": "bigint",
        "occurred_at": "timestamptz not null",
        "correlation_id": "uuid not null",
    },
    # Also the order of the log; a position alone is looked for in the ledger.
    primary_key=("occurred_at", "position"),
    indexes={
        "audit_log_type": "(event_type, occurred_at, position)",
        "audit_log_actor": "(actor_id, event_type, occurred_at, position) where actor_id is not null",
        "audit_log_entity": "(entity_id, occurred_at, position)",
        "audit_log_correlation": "(correlation_id, occurred_at, position)",
    },
)

COUNTS = Table(
    name="audit_log_counts",
    # 0 stands for any actor, any week.
    columns={
        "actor_id": "bigint not null",
        "week": "integer not null",
        "event_type": 'text collate "C" not null',
        "total": "bigint not null",
    },
    primary_key=("actor_id", "week", "event_type"),
    indexes={},
    options="with (fillfactor = 50)",
)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A row. ``event_type`` begins with the kind of the entity, whose Discord id is ``entity_id``; ``actor_id`` is that
    of the acting user or bot, None for the system and the operator. ``correlation_id``: of the request, import or
    run of the clock."""

    position: int
    event_type: str
    entity_id: int
    actor_id: int | None
    occurred_at: datetime
    correlation_id: UUID


_OF_USERS = {
    "user.registered.v1": "REGISTER",
    "user.renamed.v1": "RENAME",
    "user.avatar_changed.v1": "AVATAR_CHANGE",
    "user.prefix_changed.v1": "PREFIX_CHANGE",
    "user.permission_changed.v1": "PERMISSION_CHANGE",
    "user.warned.v1": "WARN",
    "user.timed_out.v1": "TIMEOUT",
    "user.banned.v1": "BAN",
}
_OF_GUILDS = {
    "guild.registered.v1": "REGISTER",
    "guild.renamed.v1": "RENAME",
    "guild.avatar_changed.v1": "AVATAR_CHANGE",
    "guild.owner_changed.v1": "OWNER_CHANGE",
    "guild.prefix_changed.v1": "PREFIX_CHANGE",
    "guild.state_changed.v1": "STATE_CHANGE",
    "guild.warned.v1": "WARN",
    "guild.blacklisted.v1": "BLACKLIST",
}
_OF_BOTS = {
    "bot.registered.v1": "REGISTER",
    "bot.renamed.v1": "RENAME",
    "bot.avatar_changed.v1": "AVATAR_CHANGE",
    "bot.owner_changed.v1": "OWNER_CHANGE",
    "bot.type_changed.v1": "TYPE_CHANGE",
    "bot.rate_limit_changed.v1": "RATE_LIMIT_CHANGE",
    "bot.activated.v1": "ACTIVATE",
    "bot.deactivated.v1": "DEACTIVATE",
    "bot.key_regenerated.v1": "KEY_REGENERATE",
}
_OF_ACCOUNTS = {
    "subscription.granted.v1": "SUBSCRIPTION_GRANT",
    "subscription.trial_started.v1": "SUBSCRIPTION_TRIAL",
    "subscription.renewed.v1": "SUBSCRIPTION_RENEW",
    "subscription.revoked.v1": "SUBSCRIPTION_REVOKE",
    "subscription.ended.v1": "SUBSCRIPTION_END",
    "punishment.amended.v1": "PUNISHMENT_AMEND",
    "punishment.lapsed.v1": "PUNISHMENT_LAPSE",
    "punishment.lifted.v1": "PUNISHMENT_LIFT",
    "punishment.voided.v1": "PUNISHMENT_VOID",
    "punishment.overturned.v1": "PUNISHMENT_OVERTURN",
    "punishment.superseded.v1": "PUNISHMENT_SUPERSEDE",
}
_OF_ALL = {"subject.erased.v1": "ERASE"}

_HAPPENS: Mapping[SubjectKind, Mapping[str, str]] = {
    "user": {**_OF_USERS, **_OF_ACCOUNTS, **_OF_ALL},
    "guild": {**_OF_GUILDS, **_OF_ACCOUNTS, **_OF_ALL},
    "bot": {**_OF_BOTS, **_OF_ALL},
}
# The public names (docs/api.md): they never change, whatever becomes of a topic's version.
EVENT_TYPES: Mapping[tuple[SubjectKind, str], str] = {
    (kind, topic): f"{kind.upper()}_{name}" for kind, names in _HAPPENS.items() for topic, name in names.items()
}


def prefix(kind: SubjectKind) -> str:
    """What the event types of users, guilds or bots begin with."""
    return f"{kind.upper()}_"


def entity_of(event_type: str) -> SubjectKind:
    """What such an event happens to; raises KeyError for the name of none."""
    kinds: dict[str, SubjectKind] = {"USER": "user", "GUILD": "guild", "BOT": "bot"}
    return kinds[event_type.partition("_")[0]]


def touches(recorded: Recorded) -> Key:
    return (recorded.position,)


def fold(rows: Mapping[Key, Entry], recorded: Recorded) -> Sequence[Entry]:  # noqa: ARG001 - every event is a row
    of = subject_of(recorded.stream)
    return (
        Entry(
            position=recorded.position,
            event_type=EVENT_TYPES[of.kind, recorded.event.TOPIC],
            entity_id=of.id,
            actor_id=recorded.actor.id,
            occurred_at=recorded.occurred_at,
            correlation_id=recorded.correlation_id,
        ),
    )


def count(cursor: Cursor, changes: Sequence[tuple[Entry | None, Entry]]) -> None:
    """Brings ``audit_log_counts`` along with these new rows."""
    totals: dict[tuple[int, int, str], int] = {}
    for _, entry in changes:
        for actor in (0,) if entry.actor_id is None else (0, entry.actor_id):
            for number in (0, week(entry.occurred_at)):
                cell = (actor, number, entry.event_type)
                totals[cell] = totals.get(cell, 0) + 1
    # audit_log_counts_pkey
    cursor.execute(
        "insert into audit_log_counts as c (actor_id, week, event_type, total)"
        " select actor_id, week, event_type, total from json_populate_recordset(null::audit_log_counts, %s)"
        " on conflict (actor_id, week, event_type) do update set total = c.total + excluded.total",
        (
            msgspec.json.encode(
                [dict(zip(COUNTS.columns, (*cell, total), strict=True)) for cell, total in totals.items()]
            ).decode(),
        ),
    )


PROJECTOR = Projector(
    name="audit_log",
    table=TABLE,
    row=Entry,
    key=("position",),
    topics=frozenset(events.EVENTS),
    makes=frozenset(events.EVENTS),
    touches=touches,
    fold=fold,
    also=count,
    beside=(COUNTS,),
    slices={
        # audit_log_type, audit_log_actor
        COUNTS.name: Slice(
            rows="event_type = %(event_type)s and (%(actor_id)s = 0 or actor_id = %(actor_id)s) and "
            + within("occurred_at"),
            sums={"total": "count(*)"},
        )
    },
)

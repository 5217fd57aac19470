"""Every change of a tier, of users and guilds."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.domain.subjects import BASIC, TRIAL
from modledger.projections.projector import Key, Projector, Table

TABLE = Table(
    name="subscription_history",
    columns={
        "id": "bigint not null",
        "stream": "text not null",
        "user_id": "bigint",
        "guild_id": "bigint",
        "old_tier": "smallint not null",
        "new_tier": "smallint not null",
        "reason": "text",
        "granted_by": "bigint",
        "expires_at": "timestamptz",
        "created_at": "timestamptz not null",
    },
    primary_key=("id",),
    # Also finds what an erasure touches.
    indexes={"subscription_history_subject": "(stream, created_at, id)"},
)


class SubscriptionChange(msgspec.Struct, frozen=True, kw_only=True):
    """A row. ``id`` is the event's position, ``granted_by`` None unless a user acted, ``expires_at`` the tier's."""

    id: int
    stream: str
    user_id: int | None
    guild_id: int | None
    old_tier: int
    new_tier: int
    reason: str | None
    granted_by: int | None
    expires_at: datetime | None
    created_at: datetime


def touches(recorded: Recorded) -> Key | None:
    if isinstance(recorded.event, events.SubjectErased):
        return (recorded.stream,)
    return (recorded.stream, recorded.position)


def fold(rows: Mapping[Key, SubscriptionChange], recorded: Recorded) -> Sequence[SubscriptionChange]:
    reason: str | None = None
    expires_at: datetime | None = None
    match recorded.event:
        case events.SubjectErased():
            # Not "[erased]": whether there was a reason is gone with the key, and a replay has to come to the same.
            return [msgspec.structs.replace(row, reason=None) for row in rows.values()]
        case events.SubscriptionGranted() as event:
            old_tier, new_tier, reason, expires_at = event.old_tier, event.tier, event.reason, event.expires_at
        case events.TrialStarted() as event:
            old_tier, new_tier, reason, expires_at = event.old_tier, TRIAL, event.reason, event.expires_at
        case events.SubscriptionRenewed() as event:
            old_tier, new_tier, reason, expires_at = event.tier, event.tier, event.reason, event.expires_at
        case events.SubscriptionRevoked() as event:
            old_tier, new_tier, reason = event.old_tier, BASIC, event.reason
        case events.SubscriptionEnded() as event:
            old_tier, new_tier = event.old_tier, BASIC
        case other:
            raise ValueError(f"{other.TOPIC} changes no tier")
    of, _, subject_id = recorded.stream.partition(":")
    return (
        SubscriptionChange(
            id=recorded.position,
            stream=recorded.stream,
            user_id=int(subject_id) if of == "user" else None,
            guild_id=int(subject_id) if of == "guild" else None,
            old_tier=old_tier,
            new_tier=new_tier,
            reason=reason,
            granted_by=recorded.actor.user_id,
            expires_at=expires_at,
            created_at=recorded.occurred_at,
        ),
    )


_CHANGES = frozenset(topic for topic in events.EVENTS if topic.startswith("subscription."))

PROJECTOR = Projector(
    name="subscription_history",
    table=TABLE,
    row=SubscriptionChange,
    key=("stream", "id"),
    topics=_CHANGES | {events.SubjectErased.TOPIC},
    makes=_CHANGES,
    touches=touches,
    fold=fold,
)

COLUMNS = ", ".join(TABLE.columns)
POSITION = "(select notification_id from projection_tracking where application_name = 'subscription_history')"

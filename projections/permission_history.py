"""Every change of a user's level."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.projections.projector import Key, Projector, Table

TABLE = Table(
    name="permission_history",
    columns={
        "id": "bigint not null",
        "user_id": "bigint not null",
        "old_level": "smallint not null",
        "new_level": "smallint not null",
        "reason": "text not null",
        "changed_by": "bigint",
        "created_at": "timestamptz not null",
    },
    primary_key=("id",),
    # Also finds what an erasure touches.
    indexes={"permission_history_user": "(user_id, created_at, id)"},
)


class PermissionChange(msgspec.Struct, frozen=True, kw_only=True):
    """A row. ``id`` is the event's position, ``changed_by`` None unless a user acted."""

    id: int
    user_id: int
    old_level: int
    new_level: int
    reason: str
    changed_by: int | None
    created_at: datetime


def touches(recorded: Recorded) -> Key | None:
    if not recorded.stream.startswith("user:"):
        return None
    user_id = int(recorded.stream[5:])
    return (user_id,) if isinstance(recorded.event, events.SubjectErased) else (user_id, recorded.position)


def fold(rows: Mapping[Key, PermissionChange], recorded: Recorded) -> Sequence[PermissionChange]:
    event = recorded.event
    if isinstance(event, events.SubjectErased):
        return [msgspec.structs.replace(row, reason=events.ERASED) for row in rows.values()]
    if not isinstance(event, events.PermissionChanged):
        raise TypeError(f"{event.TOPIC} changes no level")
    return (
        PermissionChange(
            id=recorded.position,
            user_id=int(recorded.stream[5:]),
            old_level=event.old_level,
            new_level=event.new_level,
            reason=event.reason,
            changed_by=recorded.actor.user_id,
            created_at=recorded.occurred_at,
        ),
    )


PROJECTOR = Projector(
    name="permission_history",
    table=TABLE,
    row=PermissionChange,
    key=("user_id", "id"),
    topics=frozenset({events.PermissionChanged.TOPIC, events.SubjectErased.TOPIC}),
    makes=frozenset({events.PermissionChanged.TOPIC}),
    touches=touches,
    fold=fold,
)

COLUMNS = ", ".join(TABLE.columns)
POSITION = "(select notification_id from projection_tracking where application_name = 'permission_history')"

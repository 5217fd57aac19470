"""How far each projector is, for /health (api.md §4)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from modledger.projections.catalog import PROJECTORS

NAMES = [projector.name for projector in PROJECTORS]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The event at which a projector has stopped."""

    position: int
    event_id: str
    topic: str
    error: str
    failed_at: datetime


class ProjectorHealth(msgspec.Struct, frozen=True, kw_only=True):
    """``lag_events``: positions between the checkpoint and the ledger's head. An append that fails leaves a gap in
    the positions, so this is the number of events that wait or slightly more; it is 0 exactly when none waits.
    ``lag_seconds``: age of the oldest event that waits, since it was recorded; 0 when none waits."""

    name: str
    position: int
    lag_events: int
    lag_seconds: float
    failure: Failure | None


# $1 text[] of NAMES, $2 timestamptz now: a line per projector.
# projection_tracking_pkey, ledger_position (its last entry; the first one after the checkpoint),
# projection_failures_pkey
HEALTH = """
    select asked.name, t.position,
        case when oldest.recorded_at is null then 0 else head.position - t.position end,
        coalesce(greatest(extract(epoch from $2 - oldest.recorded_at), 0), 0)::double precision,
        f.position, f.event_id::text, f.topic, f.error, f.failed_at
    from unnest($1::text[]) as asked (name)
    cross join (select coalesce(max(notification_id), 0) as position from ledger) head
    cross join lateral (
        select coalesce(
            (select notification_id from projection_tracking where application_name = asked.name), 0
        ) as position
    ) t
    left join lateral (
        select recorded_at from ledger where notification_id > t.position order by notification_id limit 1
    ) oldest on true
    left join projection_failures f on f.projector = asked.name
"""


def health(line: Sequence[Any]) -> ProjectorHealth:
    """One line of HEALTH."""
    name, position, lag_events, lag_seconds, failed_position, event_id, topic, error, failed_at = line
    failure = None
    if failed_position is not None:
        failure = Failure(position=failed_position, event_id=event_id, topic=topic, error=error, failed_at=failed_at)
    return ProjectorHealth(
        name=name, position=position, lag_events=lag_events, lag_seconds=lag_seconds, failure=failure
    )

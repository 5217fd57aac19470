"""Whether the ledger itself is whole: versions without a hole, positions and times in order, every event readable."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from modledger.domain.ledger import Ledger
from modledger.domain.mapper import UnreadableEvent
from modledger.projections.verification import Difference

BATCH = 2_000
# An act is recorded after it happened; clocks may be apart by this much.
MOST_AHEAD = timedelta(minutes=5)

# ledger_pkey. $streams null: of all.
_STREAMS = """
    select originator_id, originator_version, notification_id, before, earlier from (
        select originator_id, originator_version, notification_id,
            lag(originator_version, 1, 0::bigint) over stream as before,
            lag(notification_id, 1, 0::bigint) over stream as earlier
        from ledger where %(streams)s::text[] is null or originator_id = any(%(streams)s)
        window stream as (partition by originator_id order by originator_version)
    ) as events
    where originator_version <> before + 1 or notification_id <= earlier
"""
# ledger_position
_TIMES = """
    select notification_id, originator_id, recorded_at, before from (
        select notification_id, originator_id, recorded_at, lag(recorded_at) over (order by notification_id) as before
        from (select * from ledger where notification_id > %s order by notification_id limit %s) as l
    ) as events
    where recorded_at < before
"""
# ledger_position
_COLUMNS = """
    select notification_id, originator_id, actor, via from ledger
    where notification_id > %s order by notification_id limit %s
"""


def verify_ledger(conninfo: str, ledger: Ledger) -> Iterator[Difference]:
    """All that is wrong with the ledger up to its present end. Memory is bounded. Raises LedgerUnavailable and
    psycopg.Error."""
    with psycopg.connect(conninfo, autocommit=True, application_name="modledger verify") as conn:
        with conn.transaction(), conn.cursor("streams_with_holes", row_factory=tuple_row) as cursor:
            cursor.execute(_STREAMS, {"streams": None})
            for row in cursor:
                yield _hole(row)
        after, head = 0, ledger.head()
        while after < head:
            found, reached = verify_stretch(conn, ledger, after, BATCH)
            yield from found
            # From the last one on, so that each time is compared with the one before it.
            after = reached if reached == head else reached - 1


def verify_streams(conn: psycopg.Connection[Any], streams: Sequence[str]) -> list[Difference]:
    """The holes in these streams."""
    return [_hole(row) for row in conn.cursor(row_factory=tuple_row).execute(_STREAMS, {"streams": list(streams)})]


def _hole(row: Sequence[Any]) -> Difference:
    stream, version, position, before, earlier = row
    if version != before + 1:
        return Difference(
            subject="ledger",
            where=f"of {stream} at position {position}",
            field=f"version {before + 1} is missing",
            expected=str(before + 1),
            found=str(version),
            stream=stream,
        )
    return Difference(
        subject="ledger",
        where=f"of {stream} at position {position}",
        field=f"version {version} stands before the version that it follows",
        expected=f"> {earlier}",
        found=str(position),
        stream=stream,
    )


def verify_stretch(
    conn: psycopg.Connection[Any], ledger: Ledger, after: int, limit: int
) -> tuple[list[Difference], int]:
    """What is wrong with at most ``limit`` (≥ 2) events after that position: their times, their bytes, and what the
    columns repeat of them. Also the last position that was looked at."""
    cursor = conn.cursor(row_factory=tuple_row)
    found = [
        Difference(
            subject="ledger",
            where=f"of {stream} at position {position}",
            field="recorded_at goes back",
            expected=f">= {_iso(before)}",
            found=_iso(recorded_at),
            stream=stream,
        )
        for position, stream, recorded_at, before in cursor.execute(_TIMES, (after, limit))
    ]
    columns = cursor.execute(_COLUMNS, (after, limit)).fetchall()
    readable = ledger.at_all([row[0] for row in columns])
    for position, stream, actor, via in columns:
        one = Difference(subject="ledger", where=f"of {stream} at position {position}", field="", stream=stream)
        event = readable.get(position)
        if event is None:
            found.append(_with(one, f"cannot be read: {_why(ledger, position)}"))
            continue
        if event.occurred_at > event.recorded_at + MOST_AHEAD:
            latest = _iso(event.recorded_at + MOST_AHEAD)
            found.append(_with(one, "occurred_at is in the future", f"<= {latest}", _iso(event.occurred_at)))
        if str(event.actor) != actor:
            found.append(_with(one, "actor", str(event.actor), actor))
        if event.via != via:
            found.append(_with(one, "via", event.via, via))
    return found, columns[-1][0] if columns else after


def _with(one: Difference, field: str, expected: str | None = None, found: str | None = None) -> Difference:
    return Difference(
        subject=one.subject, where=one.where, field=field, expected=expected, found=found, stream=one.stream
    )


def _why(ledger: Ledger, position: int) -> str:
    try:
        ledger.at(position)
    except UnreadableEvent as error:
        return str(error)
    return "it was when it was looked at again"


def _iso(at: datetime) -> str:
    return at.isoformat()

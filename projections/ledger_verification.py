"""Whether the ledger itself is whole: versions without a hole, positions and times in order, every event readable and
what it was when it was sealed, every key that of a stream.

The first say what is wrong with an event, whenever it was appended; the seal says that one was changed in whatever
column, also where the changed row makes sense. That the sealed hashes are those that were signed is for ``modledger
seal check`` to say (docs/proof.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from modledger.domain.ledger import Ledger
from modledger.domain.mapper import UnreadableEvent
from modledger.domain.merkle import leaf_hash
from modledger.domain.seal_tree import copy_rows, leaf_of_message, position_of, split
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
# subject_keys_pkey, or the whole table; of each key ledger_pkey and ledger_erasures. A key comes with an event's text.
# $streams null: of all.
_KEYS = """
    select k.subject, k.generation, e.generation, e.begun from subject_keys as k
    cross join lateral (select
        exists (select from ledger where originator_id = k.subject) as begun,
        coalesce((select max(originator_version) from ledger
            where originator_id = k.subject and topic = 'subject.erased.v1'), 0) as generation
    ) as e
    where (%(streams)s::text[] is null or k.subject = any(%(streams)s))
        and (not e.begun or k.generation <> e.generation)
    order by 1, 2
"""
# ledger_position. Times that Python has a datetime for: somebody may have written another one.
_TIMES = """
    select notification_id, originator_id, recorded_at, before from (
        select notification_id, originator_id, recorded_at, lag(recorded_at) over (order by notification_id) as before
        from (select * from ledger where notification_id >= %s order by notification_id limit %s) as l
        where recorded_at between '0001-01-02' and '9999-12-30'
    ) as events
    where recorded_at < before
"""
# ledger_position
_COLUMNS = """
    select notification_id, originator_id, actor, via, recorded_at between '0001-01-02' and '9999-12-30' from ledger
    where notification_id > %s order by notification_id limit %s
"""
# seal_tiles_position, its last entry
_LAST_SEALED = """
    select positions[cardinality(positions)] from seal_tiles where level = 0 order by first_position desc limit 1
"""
# seal_tiles_position: from the tile that the first of these positions may stand in.
_SEALED = """
    select positions, hashes from seal_tiles
    where level = 0 and first_position <= %(until)s and first_position >= coalesce(
        (select max(first_position) from seal_tiles where level = 0 and first_position <= %(after)s), 0)
    order by first_position
"""


def verify_ledger(conninfo: str, ledger: Ledger) -> Iterator[Difference]:
    """All that is wrong with the ledger up to its present end. Memory is bounded. Raises LedgerUnavailable and
    psycopg.Error."""
    with psycopg.connect(conninfo, autocommit=True, application_name="modledger verify") as conn:
        with conn.transaction(), conn.cursor("streams_with_holes", row_factory=tuple_row) as cursor:
            cursor.execute(_STREAMS, {"streams": None})
            for row in cursor:
                yield _hole(row)
        with conn.transaction(), conn.cursor("stray_keys", row_factory=tuple_row) as cursor:
            cursor.execute(_KEYS, {"streams": None})
            for row in cursor:
                yield _stray_key(row)
        # In this order: what was sealed before stood before this head.
        sealed, after, head = _last_sealed(conn), 0, ledger.head()
        while after < head:
            found, after = verify_stretch(conn, ledger, after, BATCH)
            yield from found
        yield from _unlike_the_sealed(conn, {}, head, sealed)


def verify_streams(conn: psycopg.Connection[Any], streams: Sequence[str]) -> list[Difference]:
    """The holes in these streams, and what is wrong with their keys."""
    cursor, these = conn.cursor(row_factory=tuple_row), {"streams": list(streams)}
    holes = [_hole(row) for row in cursor.execute(_STREAMS, these)]
    return holes + [_stray_key(row) for row in cursor.execute(_KEYS, these)]


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


def _stray_key(row: Sequence[Any]) -> Difference:
    subject, generation, erased_at, begun = row
    return Difference(
        subject="ledger",
        where=f"of {subject}",
        field="has a key of another generation than its last erasure" if begun else "has a key but no events",
        expected=str(erased_at) if begun else None,
        found=str(generation) if begun else None,
        stream=subject,
    )


def verify_stretch(
    conn: psycopg.Connection[Any], ledger: Ledger, after: int, limit: int
) -> tuple[list[Difference], int]:
    """What is wrong with at most ``limit`` (≥ 2) events after that position: their times, their bytes, and what the
    columns repeat of them, and what the seal says of each. Also the last position that was looked at."""
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
        for position, stream, recorded_at, before in cursor.execute(_TIMES, (after, limit + 1))
    ]
    columns = cursor.execute(_COLUMNS, (after, limit)).fetchall()
    readable = ledger.at_all([row[0] for row in columns if row[4]])
    for position, stream, actor, via, is_a_time in columns:
        one = Difference(subject="ledger", where=f"of {stream} at position {position}", field="", stream=stream)
        if not is_a_time:
            found.append(_with(one, "recorded_at is out of range"))
            continue
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
    until = columns[-1][0] if columns else after
    found += _unlike_the_sealed(conn, {position: stream for position, stream, *_ in columns}, after, until)
    return found, until


def _unlike_the_sealed(
    conn: psycopg.Connection[Any], streams: Mapping[int, str], after: int, until: int
) -> Iterator[Difference]:
    """Of the positions after one up to another: what is not as it was sealed, is gone, or was put in later."""
    there: dict[int, list[bytes]] = {}
    with conn.cursor() as cursor, cursor.copy(copy_rows(after, until).encode()) as messages:
        for message in messages:
            if (leaf := leaf_of_message(message)) is not None:
                there.setdefault(position_of(leaf), []).append(leaf_hash(leaf))
    # After the rows, and the last before the tiles: the sealer may be at work.
    last = _last_sealed(conn)
    sealed = {
        position: hashed
        for positions, hashes in conn.cursor(row_factory=tuple_row).execute(_SEALED, {"after": after, "until": until})
        for position, hashed in zip(positions, split(hashes), strict=False)
        if after < position <= until
    }
    for position in sorted(sealed.keys() | there.keys()):
        hashed, found = sealed.get(position), there.get(position, [])
        stream = streams.get(position)
        one = Difference(
            subject="ledger",
            where=f"of {stream} at position {position}" if stream else f"at position {position}",
            field="",
            stream=stream,
        )
        if hashed is None:
            if position <= last:
                yield _with(one, "was put in after the ledger had been sealed beyond it")
        elif not found:
            yield _with(one, "was sealed, and is gone")
        elif hashed not in found:
            yield _with(one, "is not what was sealed")
        elif len(found) > 1:
            yield _with(one, "stands beside another event at its position")


def _last_sealed(conn: psycopg.Connection[Any]) -> int:
    row = conn.cursor(row_factory=tuple_row).execute(_LAST_SEALED).fetchone()
    return row[0] if row else 0


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

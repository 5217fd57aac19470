"""A verification of a few streams, to go on all the time; what was found last stands in ``verifications``."""

from collections.abc import Sequence
from datetime import datetime
from random import Random
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from modledger.domain.ledger import Ledger
from modledger.projections.derived_samples import sample_derived
from modledger.projections.ledger_verification import verify_streams, verify_stretch
from modledger.projections.projector import Projector
from modledger.projections.verification import (
    Difference,
    misnumbered,
    opened,
    rows_without_events,
    settled,
    verify_derived,
)

# What differs is looked at again every time until it agrees; of more than these, some.
MOST_REMEMBERED = 100
# Whatever is derived from fewer rows is derived again in a second.
FEW_ROWS = 20_000


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found in a projector's tables, or in the ``ledger``. ``streams``: how many were compared."""

    subject: str
    streams: int
    differences: list[Difference]


def verify_sample(
    conninfo: str,
    projectors: Sequence[Projector[Any]],
    ledger: Ledger,
    size: int,
    luck: Random,
    *,
    every_table: bool = False,
) -> list[Verification]:
    """Compares about ``size`` (≥ 1) streams, drawn from the ledger and from the tables, and those that differed when
    they were last looked at; also what is derived from the rows of one projector drawn by lot, or of every one:
    all of it while rows are few, else a sample. Raises as ``verify_projector``."""
    with opened(conninfo, None) as conn:
        head = ledger.head()
        drawn = [luck.randint(1, head) for _ in range(size)] if head else []
        # ledger_position
        streams = [
            stream
            for (stream,) in conn.execute(
                "select distinct l.originator_id from unnest(%s::bigint[]) as drawn (position) cross join lateral ("
                " select originator_id from ledger where notification_id >= drawn.position"
                " order by notification_id limit 1) as l",
                (drawn,),
            )
        ]
        known = _remembered(conn)
        again = sorted({*streams, *known.get("ledger", ())})
        found = verify_streams(conn, again)
        stretch, _ = verify_stretch(conn, ledger, luck.randint(0, max(0, head - size)), size + 1)
        # Where an event was unreadable, by its position in the stretch that it was found in.
        found += [one for one in stretch if one not in found]
        for stream in known.get("ledger", ()):
            found += [one for one in _of_stream(conn, ledger, stream) if one not in found]
        results = [Verification(subject="ledger", streams=len(again), differences=found)]
        lot = luck.choice(projectors) if projectors else None
        for projector in projectors:
            again = sorted({*streams, *known.get(projector.name, ())})
            differences = list(settled(conn, projector, ledger, again))
            differences += rows_without_events(conn, projector, size)
            differences += misnumbered(conn, projector, size)
            if every_table or projector is lot:
                differences += (
                    verify_derived(conninfo, projector)
                    if _few(conn, projector)
                    else sample_derived(conninfo, projector, size, luck)
                )
            results.append(Verification(subject=projector.name, streams=len(again), differences=differences))
    return results


def _few(conn: psycopg.Connection[Any], projector: Projector[Any]) -> bool:
    statement = sql.SQL("select count(*) from (select from {} limit %s) as t").format(
        sql.Identifier(projector.table.name)
    )
    # So many rows at most.
    row = conn.execute(statement, (FEW_ROWS,)).fetchone()
    return row is not None and row[0] < FEW_ROWS


def _of_stream(conn: psycopg.Connection[Any], ledger: Ledger, stream: str) -> list[Difference]:
    # ledger_pkey
    positions = conn.execute("select notification_id from ledger where originator_id = %s", (stream,)).fetchall()
    # From the event before on, so that its time is compared with that one's.
    found = [
        one
        for (position,) in positions
        for one in verify_stretch(conn, ledger, _before(conn, position), 2)[0]
        if one.stream == stream
    ]
    return list(dict.fromkeys(found))


def _before(conn: psycopg.Connection[Any], position: int) -> int:
    # ledger_position: what to begin after so that the event and the one before it are read
    row = conn.execute(
        "select coalesce(max(notification_id), 1) - 1 from ledger where notification_id < %s", (position,)
    ).fetchone()
    assert row is not None
    return int(row[0])


def _remembered(conn: psycopg.Connection[Any]) -> dict[str, list[str]]:
    # The whole table, a row per projector.
    return dict(conn.cursor(row_factory=tuple_row).execute("select subject, differing from verifications").fetchall())


def remember(conn: psycopg.Connection[Any], results: Sequence[Verification], now: datetime, *, whole: bool) -> None:
    """Keeps what was found, without what it says, for /health and for the next time. ``whole``: all was compared, and
    not a sample; a difference that no sample can look at again stays until then."""
    for one in results:
        streams = list(dict.fromkeys(d.stream for d in one.differences if d.stream is not None))[:MOST_REMEMBERED]
        first = one.differences[0].place() if one.differences else None
        # verifications_pkey
        conn.execute(
            "insert into verifications as v (subject, checked_at, streams, differences, differing, more)"
            " values (%(subject)s, %(now)s, %(streams)s, %(differences)s, %(differing)s, %(first)s)"
            " on conflict (subject) do update set checked_at = excluded.checked_at, streams = excluded.streams,"
            " differences = excluded.differences, differing = excluded.differing, more = excluded.more"
            " where %(whole)s or excluded.differences > 0 or v.differences = 0 or cardinality(v.differing) > 0",
            {
                "subject": one.subject,
                "now": now,
                "streams": one.streams,
                "differences": len(one.differences),
                "differing": streams,
                "first": first,
                "whole": whole,
            },
        )


# The subjects that differ. The whole table, a row per projector.
DIFFERING = "select subject from verifications where differences > 0 order by subject"

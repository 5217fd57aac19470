"""Projectors that stand at about the same place go on together: the ledger is read and decoded once for all of them,
and what they make of it is written in one transaction, with one flush to disk.

Each folds its own part with its own fold, and is fenced as if it went alone (projector.py). Whatever is out of the
ordinary with one of them, it is left behind untouched and has to go on by itself, where it does or says what it always
did; the others do not wait for it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import psycopg

from modledger.domain.envelope import Recorded
from modledger.domain.ledger import Ledger, Passage
from modledger.projections.projector import (
    Cursor,
    Key,
    Projector,
    Standing,
    ask_for_rows,
    fingerprint,
    fold_batch,
    handled_by,
    rows_of,
    standings,
    write,
)
from modledger.projections.sent_at_once import forget, sender


class JointAdvance(msgspec.Struct, frozen=True, kw_only=True):
    """``read`` events were passed; whoever went along stands at ``position`` or, having been ahead, beyond it. ``left``
    says why whom was left behind; ``stands`` where the others stand now. ``more``: as many as were asked for were read,
    so that more probably wait."""

    read: int
    position: int
    more: bool
    left: Mapping[str, str]
    stands: Mapping[str, Standing]


class _Part(msgspec.Struct, frozen=True):
    projector: Projector[Any]
    handled: list[tuple[Recorded, Key]]


def advance_together(
    conn: psycopg.Connection[Any],
    projectors: Sequence[Projector[Any]],
    ledger: Ledger,
    limit: int,
    known: Mapping[str, Standing] | None = None,
) -> JointAdvance:
    """Folds at most ``limit`` (≥ 1) further events of the ledger into the tables of all these projectors, durable on
    return; at most as many positions may lie between any of them and the foremost, or it is left behind.

    ``known``: what the one before this answered as ``stands`` of the same projectors. It need not be true any more,
    since nothing is written for a projector that stands elsewhere. ``conn`` must be in autocommit mode and is used
    alone. Raises what the ledger raises, psycopg.Error, and ValidationError for a row that is none: nothing was written
    then, unless the connection was lost during the commit, and whose error it is shows when each goes on alone.
    """
    if not conn.autocommit:
        raise ValueError("to advance together needs a connection in autocommit mode")
    stands = known or standings(conn, [one.name for one in projectors])
    left = {} if known else _left_by_their_tables(projectors, stands)
    foremost = max((stands[one.name].position or 0 for one in projectors if one.name not in left), default=0)
    for one in projectors:
        if one.name not in left and foremost - (stands[one.name].position or 0) > limit:
            left[one.name] = "it is far behind the others"
    together = [one for one in projectors if one.name not in left]
    positions = {one.name: stands[one.name].position or 0 for one in together}
    after = min(positions.values(), default=0)
    if not together:
        return JointAdvance(read=0, position=after, more=False, left=left, stands={})
    passage = ledger.read_topics(frozenset[str]().union(*(one.topics for one in together)), after, limit)
    # One that is further already waits until the others have come.
    handled = _handled([one for one in together if positions[one.name] < passage.position], positions, passage, left)
    written = _write(conn, handled, stands, passage.position, left) if handled else set()
    now = {
        one.name: msgspec.structs.replace(stands[one.name], position=passage.position)
        if one.name in written
        else stands[one.name]
        for one in together
        if one.name not in left
    }
    return JointAdvance(
        read=passage.passed, position=passage.position, more=passage.passed >= limit, left=left, stands=now
    )


def _left_by_their_tables(projectors: Sequence[Projector[Any]], stands: Mapping[str, Standing]) -> dict[str, str]:
    left = {}
    for one in projectors:
        if stands[one.name].position is None:
            left[one.name] = "it has no checkpoint yet"
        elif stands[one.name].fingerprint not in (None, fingerprint(one)):
            left[one.name] = "its tables are of another version of the program"
    return left


def _handled(
    projectors: Sequence[Projector[Any]], positions: Mapping[str, int], passage: Passage, left: dict[str, str]
) -> list[_Part]:
    """What each has to fold of the passage; adds to ``left`` those that cannot even say that."""
    parts = []
    for one in projectors:
        after = positions[one.name]
        try:
            parts.append(_Part(one, handled_by(one, (event for event in passage.events if event.position > after))))
        except Exception as error:
            left[one.name] = repr(error)
    return parts


# Of the rows that are where they were seen those that nobody else has in hand. projection_tracking_pkey
_LOCK = """
    select t.application_name from projection_tracking as t
    join unnest(%s::text[], %s::bigint[]) as seen (name, position)
        on t.application_name = seen.name and t.notification_id = seen.position
    for update of t skip locked
"""
# read_models_pkey
_GENERATIONS = "select projector, generation from read_models where projector = any(%s)"
# projection_tracking_pkey
_MOVE = "update projection_tracking set notification_id = %s where application_name = any(%s)"


def _write(
    conn: psycopg.Connection[Any],
    parts: Sequence[_Part],
    stands: Mapping[str, Standing],
    position: int,
    left: dict[str, str],
) -> set[str]:
    """Commits checkpoints and rows; answers whose, and adds the others to ``left``."""
    try:
        written, others = _try_to_write(conn, parts, stands, position)
    except psycopg.errors.InvalidSqlStatementName:
        # Somebody rolled back on this connection, since when nothing is prepared there.
        written, others = _try_to_write(conn, parts, stands, position)
    left |= others
    return written


def _try_to_write(
    conn: psycopg.Connection[Any], parts: Sequence[_Part], stands: Mapping[str, Standing], position: int
) -> tuple[set[str], dict[str, str]]:
    names = [part.projector.name for part in parts]
    left: dict[str, str] = {}
    written: set[str] = set()
    try:
        with sender(conn) as out:
            out.execute("begin")
            # Before anything is read of their tables: these row locks hold back every other runner of these projectors
            # until we have committed, and whoever puts other tables in the place of one's has its lock for as long.
            out.execute(_LOCK, (names, [stands[name].position for name in names]))
            # Only now, in a snapshot of its own: tables may have been replaced until those locks were ours.
            out.execute(_GENERATIONS, (names,))
        _, locked, generations = out.answers
        ours = {name for (name,) in locked}
        replaced = {name for name, now in generations if name in ours and int(now) != stands[name].generation}
        left |= dict.fromkeys(set(names) - ours, "its checkpoint is somebody else's at the moment, or has moved")
        left |= dict.fromkeys(replaced, "its tables were replaced")
        taken = [part for part in parts if part.projector.name in ours - replaced]
        with conn.pipeline():
            asked: list[list[Cursor]] = [ask_for_rows(conn, part.projector, part.handled) for part in taken]
        with sender(conn) as out:
            for part, cursors in zip(taken, asked, strict=True):
                name, before = part.projector.name, rows_of(part.projector, cursors)
                batch = fold_batch(part.projector, before, part.handled)
                if batch.failure is None:
                    write(out, part.projector, batch.changes)
                    # The server writes this one's while the next is folded.
                    out.push()
                    written.add(name)
                else:
                    left[name] = str(batch.failure)
            if written:
                out.execute(_MOVE, (position, list(written)))
            out.execute("commit")
    except BaseException:
        # Where the connection is lost the server does it.
        with suppress(psycopg.Error):
            conn.rollback()
            forget(conn)
        raise
    return written, left

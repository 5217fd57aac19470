"""The first step of rebuilds (rebuild.py): the streams of their parts folded whole, by any number of processes."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from modledger.domain.envelope import Recorded
from modledger.domain.ledger import Ledger
from modledger.domain.mapper import UnreadableEvent
from modledger.projections.copying import copy_rows
from modledger.projections.projector import Cursor, FoldFailed, Projector, fold_stream
from modledger.projections.rebuild import (
    ACTIVE,
    Place,
    Replay,
    ReplayAborted,
    ReplayFailed,
    current,
    fail,
    move,
    place_of,
    replays,
    wait_for_no_flush,
)

BATCH = 5_000
PAUSE_SECONDS = 0.1


class Member(msgspec.Struct, frozen=True):
    """A rebuild among those that are folded together."""

    projector: Projector[Any]
    place: Place
    run: Replay


def fold_parts(conninfo: str, projectors: Sequence[Projector[Any]], ledger: Ledger, stop: threading.Event) -> None:
    """Folds the streams of the parts that nobody else is at, until all are folded or ``stop`` is set. Any number of
    processes may do so at once.

    Rebuilds that stand at the same place go through the ledger together, so that each event is read and decoded once;
    one that stands elsewhere, or cannot fold an event, goes by itself after them. Raises ReplayAborted, ReplayRefused
    and ReplayFailed.
    """
    with psycopg.connect(conninfo, autocommit=True, application_name="modledger replay") as conn:
        wait_for_no_flush(conn)
        for number, projector in enumerate(projectors):
            first = _member(conn, projector)
            if first.run.folded and first.run.state != "created":
                continue
            members = [first, *(_member(conn, other) for other in projectors[number + 1 :])]
            for one in members:
                if one.run.state == "created":
                    with suppress(ReplayAborted):
                        cursor = conn.cursor(row_factory=tuple_row)
                        move(cursor, one.place, one.run.run, ["created"], "replaying")
            _fold(conn, members, ledger, stop)


def _member(conn: psycopg.Connection[Any], projector: Projector[Any]) -> Member:
    place = place_of(conn, projector.name)
    return Member(projector, place, current(conn, place, projector))


def _fold(conn: psycopg.Connection[Any], members: list[Member], ledger: Ledger, stop: threading.Event) -> None:
    """All that the first of them has left."""
    while not stop.is_set():
        try:
            folded = _fold_batch(conn, members, ledger)
        except (FoldFailed, UnreadableEvent) as error:
            [first, *others] = members
            failed = next(
                (one for one in others if isinstance(error, FoldFailed) and one.projector.name == error.projector), None
            )
            if failed is None and isinstance(error, UnreadableEvent) and others:
                # Perhaps the first has no need of that event.
                members = [first]
            elif failed is not None:
                members = [one for one in members if one is not failed]
            else:
                fail(conn, first.place, first.run.run, str(error))
                raise ReplayFailed(str(error)) from error
        except psycopg.errors.UndefinedTable as error:
            raise ReplayAborted(f"the rebuild of {_aborted(conn, members)} was aborted") from error
        else:
            if folded == "all":
                return
            if folded == "others":
                stop.wait(PAUSE_SECONDS)


def _aborted(conn: psycopg.Connection[Any], members: Sequence[Member]) -> str:
    """The name of the one whose tables are gone."""
    states = {one.run: one.state for one in replays(conn, members[0].place)}
    return next(
        (one.projector.name for one in members if states.get(one.run.run) not in ACTIVE), members[0].projector.name
    )


def _fold_batch(conn: psycopg.Connection[Any], members: Sequence[Member], ledger: Ledger) -> str:
    """``some`` after a batch; ``others`` when other processes are at all that the first has left; ``all`` when nothing
    is left of it."""
    with conn.transaction():
        cursor = conn.cursor(row_factory=tuple_row)
        first = members[0]
        parts = first.place.at_home("replay_parts")
        # replays, a row per projector. The lock of a part lasts as long as its batch: a killed process leaves it free.
        states: dict[int, str] = dict(
            cursor.execute(
                sql.SQL("select run, state from {} where run = any(%s)").format(first.place.at_home("replays")),
                ([one.run.run for one in members],),
            ).fetchall()
        )
        for one in members:
            if states.get(one.run.run) not in ("replaying", "catching_up", "verified", "live"):
                raise ReplayAborted(f"the rebuild of {one.projector.name} was aborted")
        # replay_parts_pkey
        part = cursor.execute(
            sql.SQL(
                "select part from {} where projector = %s and not finished order by part limit 1 for update skip locked"
            ).format(parts),
            (first.projector.name,),
        ).fetchone()
        if part is None:
            left = cursor.execute(
                sql.SQL("select from {} where projector = %s and not finished limit 1").format(parts),
                (first.projector.name,),
            ).fetchone()
            return "all" if left is None else "others"
        # replay_parts_pkey
        stand: dict[str, tuple[str, str]] = {
            name: (after, until)
            for name, after, until in cursor.execute(
                sql.SQL(
                    "select projector, coalesce(done, after), until from {} where projector = any(%s) and part = %s"
                    " and not finished order by projector for update"
                ).format(parts),
                ([one.projector.name for one in members], part[0]),
            ).fetchall()
        }
        after, until = stand[first.projector.name]
        together = [
            one for one in members if stand.get(one.projector.name) == (after, until) and one.run.head == first.run.head
        ]
        topics = frozenset[str]().union(*(one.projector.topics for one in together))
        page = ledger.read_streams(topics, after, until, first.run.head, BATCH)
        streams = [(frozenset(one.event.TOPIC for one in events), events) for events in page.streams.values()]
        rows = {one.projector.name: _rows(cursor, one, streams) for one in together}
        # replay_parts_pkey
        cursor.execute(
            sql.SQL(
                "update {} as p set done = %s, passed = passed + %s, rows = p.rows + made.rows, finished = %s"
                " from unnest(%s::text[], %s::bigint[]) as made (projector, rows)"
                " where p.projector = made.projector and part = %s"
            ).format(parts),
            (page.last, page.passed, not page.more, list(rows), list(rows.values()), part[0]),
        )
    return "some"


def _rows(cursor: Cursor, member: Member, streams: Sequence[tuple[frozenset[str], Sequence[Recorded]]]) -> int:
    """Folds these streams, each with its topics, into the rebuild's table; how many rows it got."""
    projector = member.projector
    wanted = projector.topics
    rows = [
        row
        for topics, events in streams
        if not topics.isdisjoint(wanted)
        for row in fold_stream(
            projector, events if topics <= wanted else [one for one in events if one.event.TOPIC in wanted]
        ).values()
    ]
    if rows:
        copy_rows(cursor, sql.Identifier(member.place.shadow, projector.table.name), projector.table.columns, rows)
    return len(rows)

"""A read model made anew beside the one that is read, and put in its place: a rebuild.

Its tables stand under their own names in a schema of their own, and a connection that works on them searches that schema
and no other: folds, counts and verifications run unchanged, and what is gone with an aborted rebuild can never be taken
for what is read. How far a rebuild is stands in ``replays`` and ``replay_parts``; each step commits its progress with its
rows, so whoever is killed has lost one batch, and anybody may go on.

created → replaying → catching_up → verified → live → dropped; aborted from any of the first four.
"""  # noqa: E501

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import class_row, tuple_row

from modledger.domain.ledger import Ledger
from modledger.projections.catalog import add_primary_key, create_bare
from modledger.projections.projector import Cursor, Projector, Table, fingerprint

State = Literal["created", "replaying", "catching_up", "verified", "live", "aborted", "dropped"]
ACTIVE: tuple[State, ...] = ("created", "replaying", "catching_up", "verified")

# Small parts, so that several processes end at about the same time.
MOST_PARTS = 64
LEAST_PART = 5_000


class ReplayRefused(Exception):
    """The step does not fit the state of the rebuild; nothing was changed."""


class ReplayAborted(Exception):
    """Somebody aborted this rebuild meanwhile, or aborted it and began another."""


class ReplayFailed(Exception):
    """The rebuild cannot go on: an event cannot be folded, or what came out is not what the ledger says. It stands
    where it stood, and can be run again or aborted."""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """The last rebuild of a projector, as ``replays`` has it. ``passed`` of ``total`` events are gone through stream by
    stream, ``rows`` are made of them, and from ``derived_rows`` of these the tables beside. ``note`` says what the
    verification found, ``error`` why the last run failed."""

    projector: str
    run: int
    state: State
    fingerprint: str
    head: int
    total: int
    passed: int
    rows: int
    folded: bool
    derived_rows: int
    note: str | None
    error: str | None
    created_at: datetime
    changed_at: datetime


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Schemas: of the tables that are read, of those of the rebuild, of those that were replaced."""

    home: str
    shadow: str
    old: str

    def at_home(self, table: str) -> sql.Identifier:
        return sql.Identifier(self.home, table)


def place_of(conn: psycopg.Connection[Any], projector: str) -> Place:
    """The schemas of that projector's rebuild; ``conn`` searches those of the installation."""
    row = conn.cursor(row_factory=tuple_row).execute("select current_schema()").fetchone()
    assert row is not None
    home: str = row[0]
    # Several installations may share a database.
    of = "" if home == "public" else f"{home}_"
    # A longer name would be cut, and two of them be one.
    shadow, old = (_short(f"{of}{kind}_{projector}") for kind in ("replay", "old"))
    return Place(home=home, shadow=shadow, old=old)


def _short(name: str) -> str:
    return name if len(name.encode()) < 64 else f"replay_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


@contextmanager
def beside(conninfo: str, projector: str) -> Iterator[tuple[psycopg.Connection[Any], Place]]:
    """A connection on which that projector's tables are those of its rebuild."""
    with psycopg.connect(conninfo, autocommit=True, application_name=f"modledger replay {projector}") as conn:
        place = place_of(conn, projector)
        search(conn.cursor(), place.shadow)
        yield conn, place


def search(cursor: Cursor, *schemas: str) -> None:
    """Lets the session search these schemas and no other, or within a transaction until its end."""
    cursor.execute(sql.SQL("set search_path = {}").format(sql.SQL(", ").join(map(sql.Identifier, schemas))))


def wait_for_no_flush(conn: psycopg.Connection[Any]) -> None:
    """Lets the session commit without waiting for the disk. Whoever kills the server takes the last batches back, with
    the progress that says that they were made; nobody was told of them. Later commits that wait, as the promotion's,
    have these on disk before them."""
    conn.execute("set synchronous_commit = off")


def replays(conn: psycopg.Connection[Any], place: Place, projector: str | None = None) -> list[Replay]:
    """The last rebuild of each projector, or of one; none of those that never had one."""
    with conn.cursor(row_factory=class_row(Replay)) as cursor:
        # replays_pkey, replay_parts_pkey
        return cursor.execute(
            sql.SQL(
                "select r.projector, r.run, r.state, r.fingerprint, r.head, r.total, r.derived_rows, r.note, r.error,"
                " r.created_at, r.changed_at, p.passed, p.rows, p.folded from {replays} as r cross join lateral ("
                " select coalesce(sum(passed), 0)::bigint as passed, coalesce(sum(rows), 0)::bigint as rows,"
                " coalesce(bool_and(finished), true) as folded from {parts} where projector = r.projector) as p"
                " where %s::text is null or r.projector = %s order by r.projector"
            ).format(replays=place.at_home("replays"), parts=place.at_home("replay_parts")),
            (projector, projector),
        ).fetchall()


def current(conn: psycopg.Connection[Any], place: Place, projector: Projector[Any]) -> Replay:
    """The rebuild that is under way, or was promoted. Raises ReplayRefused when there is none, or none for this
    program."""
    found = replays(conn, place, projector.name)
    if not found or found[0].state in ("aborted", "dropped"):
        raise ReplayRefused(f"there is no rebuild of {projector.name}: create one")
    if found[0].fingerprint != fingerprint(projector):
        raise ReplayRefused(f"the rebuild of {projector.name} is another version's of this program: abort it")
    return found[0]


def create_replay(conninfo: str, projector: Projector[Any], ledger: Ledger) -> Replay:
    """As ``create_replays``, of one."""
    [created] = create_replays(conninfo, [projector], ledger)
    return created


def create_replays(conninfo: str, projectors: Sequence[Projector[Any]], ledger: Ledger) -> list[Replay]:
    """Begins rebuilds, all of them or none: empty tables, and the streams in the same parts for each. What the last one
    replaced is dropped.

    Raises ReplayRefused while one of them has one already, and psycopg.Error, as for a role that may create no schemas.
    """
    # First: what is appended from here on is caught up with, whichever part its stream falls into.
    head = ledger.head()
    with psycopg.connect(conninfo, autocommit=True) as conn:
        with conn.transaction():
            total = 0
            for number, projector in enumerate(projectors):
                place = place_of(conn, projector.name)
                cursor = conn.cursor(row_factory=tuple_row)
                _begin(cursor, projector.name)
                if number == 0:
                    total = _split(cursor, projector.name)
                else:
                    # replay_parts_pkey
                    cursor.execute(
                        "insert into replay_parts (projector, part, after, until)"
                        " select %s, part, after, until from replay_parts where projector = %s",
                        (projector.name, projectors[0].name),
                    )
                cursor.execute(
                    "update replays set run = default, state = 'created', fingerprint = %s, head = %s, total = %s,"
                    " derived = null, derived_rows = 0, note = null, error = null, created_at = now(),"
                    " changed_at = now() where projector = %s",
                    (fingerprint(projector), head, total, projector.name),
                )
                for schema in (place.old, place.shadow):
                    cursor.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema)))
                cursor.execute(sql.SQL("create schema {}").format(sql.Identifier(place.shadow)))
                search(cursor, place.shadow)
                _furnish(cursor, place, projector)
                search(cursor, place.home)
        return [current(conn, place_of(conn, projector.name), projector) for projector in projectors]


def _begin(cursor: Cursor, projector: str) -> None:
    """Holds the projector's line in ``replays``, and empties its parts. Raises ReplayRefused while it has a rebuild."""
    # replays_pkey
    cursor.execute(
        "insert into replays (projector, state, fingerprint, head, total, created_at, changed_at)"
        " values (%s, 'dropped', '', 0, 0, now(), now()) on conflict (projector) do nothing",
        (projector,),
    )
    row = cursor.execute("select state from replays where projector = %s for update", (projector,)).fetchone()
    if row is None or row[0] in ACTIVE:
        raise ReplayRefused(f"there is a rebuild of {projector} already, which is {row and row[0]}")
    # replay_parts_pkey
    cursor.execute("delete from replay_parts where projector = %s", (projector,))


def _split(cursor: Cursor, projector: str) -> int:
    """Cuts the ledger into parts by the names of streams; answers how many events there are."""
    row = cursor.execute("select count(*) from ledger").fetchone()
    assert row is not None
    total: int = row[0]
    parts = min(MOST_PARTS, total // LEAST_PART + 1)
    # ledger_pkey alone. A stream that two of the equal shares have in common belongs to the first of them.
    cursor.execute(
        "insert into replay_parts (projector, part, after, until)"
        " select %s, row_number() over (order by until), coalesce(lag(until) over (order by until), ''), until from ("
        " select distinct max(originator_id) as until from ("
        " select originator_id, ntile(%s) over (order by originator_id) as part from ledger) as shares group by part"
        ") as bounds",
        (projector, parts),
    )
    return total


def _furnish(cursor: Cursor, place: Place, projector: Projector[Any]) -> None:
    """Makes the tables of a rebuild: the projector's, and those that ``advance`` needs."""
    for name in ("projection_tracking", "read_models"):
        cursor.execute(
            sql.SQL("create table {} (like {} including all)").format(sql.Identifier(name), place.at_home(name))
        )
    cursor.execute(
        "insert into read_models (projector, fingerprint) values (%s, %s)", (projector.name, fingerprint(projector))
    )
    create_bare(cursor, projector.table)
    leave_to_vacuum(cursor, projector.table, by_itself=False)
    for table in projector.beside:
        # By its key the table is filled; the other indexes are sooner made of all that is in it.
        create_bare(cursor, table)
        leave_to_vacuum(cursor, table, by_itself=False)
        if table.name not in projector.inserts:
            add_primary_key(cursor, table)


def leave_to_vacuum(cursor: Cursor, table: Table, *, by_itself: bool) -> None:
    """Lets the server vacuum and analyse the table by itself, or keeps it from that while the table is filled: what is
    to come would be in vain."""
    change = "reset (autovacuum_enabled)" if by_itself else "set (autovacuum_enabled = false)"
    cursor.execute(f"alter table {table.name} {change}".encode())


def move(
    cursor: Cursor, place: Place, run: int, before: Sequence[State], after: State, *, note: str | None = None
) -> None:
    """Takes the rebuild to the next state. Raises ReplayAborted when it is in none of the states ``before``."""
    # The whole table, a row per projector.
    moved = cursor.execute(
        sql.SQL(
            "update {} set state = %s, changed_at = now(), note = coalesce(%s, note), error = null"
            " where run = %s and state = any(%s) returning projector"
        ).format(place.at_home("replays")),
        (after, note, run, list(before)),
    ).fetchone()
    if moved is None:
        raise ReplayAborted(f"this rebuild is no longer {' or '.join(before)}")


def fail(conn: psycopg.Connection[Any], place: Place, run: int, error: str) -> None:
    """Keeps why a run failed, for ``status``."""
    conn.execute(
        sql.SQL("update {} set error = %s, changed_at = now() where run = %s").format(place.at_home("replays")),
        (error, run),
    )


def abort(conninfo: str, projector: str) -> None:
    """Ends a rebuild and drops its tables; who is at work on it finds out. Raises ReplayRefused when there is none."""
    with psycopg.connect(conninfo, autocommit=True) as conn, conn.transaction():
        place = place_of(conn, projector)
        _leave(conn, projector, ACTIVE, "aborted", "there is no rebuild of {} to abort")
        conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(place.shadow)))


def drop(conninfo: str, projector: str) -> None:
    """Drops the tables that a rebuild has replaced. Raises ReplayRefused when none was promoted."""
    with psycopg.connect(conninfo, autocommit=True) as conn, conn.transaction():
        place = place_of(conn, projector)
        _leave(conn, projector, ("live",), "dropped", "no rebuild of {} was promoted, so there is nothing to drop")
        conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(place.old)))


def _leave(conn: psycopg.Connection[Any], projector: str, before: Sequence[State], after: State, unless: str) -> None:
    # replays_pkey
    left = conn.execute(
        "update replays set state = %s, changed_at = now(), error = null where projector = %s and state = any(%s)"
        " returning projector",
        (after, projector, list(before)),
    ).fetchone()
    if left is None:
        raise ReplayRefused(unless.format(projector))
    # replay_parts_pkey
    conn.execute("delete from replay_parts where projector = %s", (projector,))

"""How events become rows: a projector is plain data about one fold, ``advance`` runs it over the next batch.

A batch is folded in memory and its net result written in one transaction together with the checkpoint, so each event
counts exactly once however often a process is killed. Rows travel as JSON both ways: msgspec and PostgreSQL know the
same types, so the Struct is the only description of a row in Python.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Generic, LiteralString, TypeVar
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from modledger.domain.envelope import Recorded
from modledger.domain.ledger import Ledger

Key = tuple[Any, ...]
Cursor = psycopg.Cursor[tuple[Any, ...]]
R = TypeVar("R", bound=msgspec.Struct)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A read table. ``columns`` maps names to types, in the order of the row Struct's fields; ``indexes`` maps the name
    of each index to what stands after ``on <table>``, and to ``unique`` before it where it begins with that word.
    ``fragments``: indexes of the same form that need the extension pg_trgm and are made only where it is. ``covered``:
    columns that the primary key's index holds too, so that they are read without a look at the table."""

    name: str
    columns: Mapping[str, str]
    primary_key: tuple[str, ...]
    indexes: Mapping[str, str]
    fragments: Mapping[str, str] = {}
    options: str = ""
    covered: tuple[str, ...] = ()


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows a line of a table beside is derived from: ``rows`` is an SQL condition for all of them, maybe more, in
    which the line's columns stand as ``%(column)s``. ``sums``, where it is for exactly these: what columns of the line
    are over them, in SQL."""

    rows: LiteralString
    sums: Mapping[str, LiteralString] = {}


class Numbered(msgspec.Struct, frozen=True, kw_only=True):
    """That each row gets a number when it is written, which the fold does not know: ``column`` says the how-manieth it
    is in the order of ``along``, from 1 on. Events make rows in that order and none is ever deleted, so no number
    changes. Both columns have unique indexes."""

    column: str
    along: str


class Projector(msgspec.Struct, Generic[R], frozen=True, kw_only=True):
    """One read model. ``name`` is its name in the checkpoints, ``topics`` the events that it handles.

    ``key`` names the columns that tell rows apart, beginning with the one that says whose rows they are. ``touches``
    gives the key of the row that an event may change; a key cut short stands for all rows beginning with it, None for
    an event about someone else's read model. Events of the topics ``makes`` always make a row of their own, so that
    none has to be looked for. ``fold`` answers the rows that the event makes or changes, from the loaded rows of the
    same subject; it is pure and date-safe, and raises for an event that makes no sense. ``also`` writes what is derived
    from (row before, row after) in the same transaction, into the tables ``beside``; it adds up, so that rows may come
    in any order, best in that of the columns ``along``, which begin an index of the table and tell rows apart (without
    any: those of the primary key). ``slices``, by the name of the table beside, is what a sample of it is verified by;
    ``inserts`` names those into which ``also`` only inserts for rows that were not there before, so that a rebuild
    needs no key to fill them by. ``numbered`` is what the rows are numbered by. ``version`` goes up when the same
    events are to give other rows: then the tables are folded anew.
    """

    name: str
    table: Table
    row: type[R]
    key: tuple[str, ...]
    topics: frozenset[str]
    touches: Callable[[Recorded], Key | None]
    fold: Callable[[Mapping[Key, R], Recorded], Sequence[R]]
    makes: frozenset[str] = frozenset()
    also: Callable[[Cursor, Sequence[tuple[R | None, R]]], None] | None = None
    beside: tuple[Table, ...] = ()
    along: tuple[str, ...] = ()
    slices: Mapping[str, Slice] = {}
    inserts: frozenset[str] = frozenset()
    numbered: Numbered | None = None
    version: int = 1


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """``read`` events were passed, ``folded`` of them handled; the checkpoint stands at ``position``. ``more``: the
    batch was full, so that more events probably wait."""

    read: int
    folded: int
    position: int
    more: bool


class Standing(msgspec.Struct, frozen=True):
    """Where a projector stands: its checkpoint, None before its first; of its tables, None where they are not recorded,
    how often they were replaced and what version of the program made them."""

    position: int | None
    generation: int | None
    fingerprint: str | None


class Fenced(Exception):
    """Another runner has moved this projector's checkpoint meanwhile. Nothing was written."""


class Superseded(Exception):
    """The projector's tables are of another version of the program now, and nothing of this one's to write into."""


class FoldFailed(Exception):
    """The fold refused an event: everything before it is written, nothing from it on. The cause is ``__cause__``."""

    def __init__(self, projector: str, failed: Recorded, cause: Exception) -> None:
        super().__init__(f"{projector} cannot fold {failed.event.TOPIC} at position {failed.position}: {cause!r}")
        self.projector: str = projector
        self.position: int = failed.position
        self.event_id: UUID = failed.event_id
        self.topic: str = failed.event.TOPIC
        self.cause: Exception = cause


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What events make of rows: (row before, row after) of each that changes, by ``folded`` of them; ``failure`` is the
    one that the fold refused."""

    changes: list[tuple[Any, Any]]
    folded: int
    failure: FoldFailed | None


def fingerprint(projector: Projector[Any]) -> str:
    """The same for the same tables and the same version of the fold."""
    tables = [msgspec.structs.asdict(table) for table in (projector.table, *projector.beside)]
    for table in tables:
        # The fingerprints of tables without any are older than that field.
        if not table["covered"]:
            del table["covered"]
    described: bytes = msgspec.json.encode([projector.version, tables], order="deterministic")
    return hashlib.sha256(described).hexdigest()


def checkpoint(conn: psycopg.Connection[Any], name: str) -> int:
    """The position up to which that projector has folded the ledger; 0 before its first batch."""
    # projection_tracking_pkey
    found = conn.cursor(row_factory=tuple_row).execute(
        "select notification_id from projection_tracking where application_name = %s", (name,)
    )
    row = found.fetchone()
    return 0 if row is None else int(row[0])


def standings(conn: psycopg.Connection[Any], names: Sequence[str]) -> dict[str, Standing]:
    """Where each of these projectors stands, of one moment."""
    # projection_tracking_pkey, read_models_pkey
    found = conn.cursor(row_factory=tuple_row).execute(
        "select asked.name, t.notification_id, m.generation, m.fingerprint from unnest(%s::text[]) as asked (name)"
        " left join projection_tracking as t on t.application_name = asked.name"
        " left join read_models as m on m.projector = asked.name",
        (list(names),),
    )
    return {name: Standing(*columns) for name, *columns in found.fetchall()}


def look_up_by_index(conn: psycopg.Connection[Any]) -> None:
    """Has this session, which is for folding alone, find rows by an index however few there are. Its plans are made for
    any number of keys and kept, perhaps since a table was empty: left to itself the server reads tables whole."""
    conn.execute("set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off")


def advance(conn: psycopg.Connection[Any], projector: Projector[Any], ledger: Ledger, limit: int) -> Advance:
    """Folds at most ``limit`` (≥ 1) further events of the ledger into the projector's table, durable on return.

    ``conn`` must be in autocommit mode and is used alone. Raises FoldFailed, Fenced and Superseded, what the ledger
    raises, and psycopg.Error; a lost connection during the commit leaves open whether it happened, so call again.
    """
    if not conn.autocommit:
        raise ValueError("advance needs a connection in autocommit mode")
    standing = standings(conn, [projector.name])[projector.name]
    if standing.fingerprint not in (None, fingerprint(projector)):
        raise Superseded(f"the read tables of {projector.name} are of another version of the program now")
    after = standing.position or 0
    passage = ledger.read_topics(projector.topics, after, limit)
    if not passage.passed:
        return Advance(read=0, folded=0, position=after, more=False)
    handled = handled_by(projector, passage.events)
    batch = fold_batch(projector, rows_of(projector, ask_for_rows(conn, projector, handled)), handled)
    # Whatever stands before an event that failed has been passed, and nothing can come there any more.
    reached = passage.position if batch.failure is None else batch.failure.position - 1
    if reached > after:
        with conn.transaction():
            cursor = conn.cursor(row_factory=tuple_row)
            # First, because its row lock holds back every other runner of this projector until we have committed.
            _track(cursor, projector.name, after, reached)
            # Only now, in a snapshot of its own: tables may have been replaced until that lock was ours.
            # read_models_pkey
            now = cursor.execute(
                "select generation from read_models where projector = %s", (projector.name,)
            ).fetchone()
            if now is not None and now[0] != standing.generation:
                raise Fenced(f"the tables of {projector.name} were replaced")
            write(cursor, projector, batch.changes)
    if batch.failure is not None:
        raise batch.failure
    return Advance(read=passage.passed, folded=batch.folded, position=reached, more=passage.passed >= limit)


def handled_by(projector: Projector[Any], events: Iterable[Recorded]) -> list[tuple[Recorded, Key]]:
    """Those of the events that are about this read model, each with what it touches."""
    topics, touches = projector.topics, projector.touches
    wanted = ((recorded, touches(recorded)) for recorded in events if recorded.event.TOPIC in topics)
    return [(recorded, key) for recorded, key in wanted if key is not None]


def fold_batch(projector: Projector[Any], before: Mapping[Key, Any], handled: Sequence[tuple[Recorded, Key]]) -> Batch:
    """What becomes of the rows ``before`` by these events, up to one that the fold refuses."""
    rows: dict[Any, dict[Key, msgspec.Struct]] = {}
    for key, row in before.items():
        rows.setdefault(key[0], {})[key] = row
    by = key_of(projector.key)
    failure: FoldFailed | None = None
    folded = 0
    for recorded, key in handled:
        mine = rows.setdefault(key[0], {})
        try:
            changed = projector.fold(mine, recorded)
        except Exception as cause:
            failure = FoldFailed(projector.name, recorded, cause)
            failure.__cause__ = cause
            break
        for row in changed:
            mine[by(row)] = row
        folded += 1
    changes = [
        (before.get(key), row)
        for mine in rows.values()
        for key, row in mine.items()
        if row is not before.get(key) and row != before.get(key)
    ]
    return Batch(changes=changes, folded=folded, failure=failure)


def fold_stream(projector: Projector[Any], events: Sequence[Recorded]) -> dict[Key, Any]:
    """The rows that these events of one stream make, from nothing. Raises FoldFailed."""
    rows: dict[Key, Any] = {}
    by = key_of(projector.key)
    for recorded in events:
        if projector.touches(recorded) is not None:
            try:
                for row in projector.fold(rows, recorded):
                    rows[by(row)] = row
            except Exception as cause:
                raise FoldFailed(projector.name, recorded, cause) from cause
    return rows


def key_of(columns: tuple[str, ...]) -> Callable[[Any], Key]:
    """What takes the key from a row; of one or two columns."""
    if len(columns) == 1:
        (only,) = columns
        return lambda row: (getattr(row, only),)
    first, second = columns
    return lambda row: (getattr(row, first), getattr(row, second))


def ask_for_rows(
    conn: psycopg.Connection[Any], projector: Projector[Any], handled: Sequence[tuple[Recorded, Key]]
) -> list[Cursor]:
    """Asks for the rows that these events may change, for ``rows_of``: one statement for the whole keys and one for
    those cut short, where there are any. In a pipeline they are on their way, else answered."""
    # The first event of a stream finds nothing either.
    keys = {key for recorded, key in handled if recorded.version > 1 and recorded.event.TOPIC not in projector.makes}
    whole = [key for key in keys if len(key) == len(projector.key)]
    cut = [key for key in keys if len(key) < len(projector.key)]
    asked = []
    for group in (whole, cut):
        if group:
            columns = projector.key[: len(group[0])]
            told = _json([dict(zip(columns, key, strict=True)) for key in group])
            asked.append(conn.cursor(row_factory=tuple_row).execute(_rows_by(projector.table.name, columns), (told,)))
    return asked


def rows_of(projector: Projector[R], asked: Sequence[Cursor]) -> dict[Key, R]:
    """The rows that were asked for, by their keys."""
    loaded: dict[Key, R] = {}
    by = key_of(projector.key)
    for cursor in asked:
        found = cursor.fetchone()
        assert found is not None
        for row in _decoder(projector.row).decode(found[0]):
            loaded[by(row)] = row
    return loaded


def write(cursor: Cursor, projector: Projector[Any], changes: Sequence[tuple[Any, Any]]) -> None:
    """Writes the rows that events have changed, and what is derived from them; reads nothing, so it may be used in a
    pipeline."""
    table, columns, key = projector.table.name, tuple(projector.table.columns), projector.key
    made = [after for before, after in changes if before is None]
    changed = [after for before, after in changes if before is not None]
    if made:
        cursor.execute(_insert(table, columns, projector.numbered), (_json(made),))
    if changed:
        cursor.execute(_update(table, columns, key), (_json(changed),))
    if changes and projector.also is not None:
        projector.also(cursor, changes)


# Composed once: the text of a statement takes longer to make than the statement to run.


@cache
def _rows_by(table: str, columns: tuple[str, ...]) -> bytes:
    # By the primary key, or by the index that begins with the first key column (named in each module).
    return (
        sql.SQL(
            "select coalesce(json_agg(t), '[]')::text from {table} t"
            " join json_populate_recordset(null::{table}, %s) k on {same}"
        )
        .format(table=sql.Identifier(table), same=_same("t", "k", columns))
        .as_bytes()
    )


@cache
def _insert(table: str, columns: tuple[str, ...], numbered: Numbered | None) -> bytes:
    values: list[sql.Composable] = [sql.Identifier(column) for column in columns]
    if numbered is not None:
        # The index of the number. None of these rows comes before one that is there.
        values[columns.index(numbered.column)] = sql.SQL(
            "coalesce((select max({column}) from {table}), 0) + row_number() over (order by {along})"
        ).format(
            table=sql.Identifier(table), column=sql.Identifier(numbered.column), along=sql.Identifier(numbered.along)
        )
    return (
        sql.SQL("insert into {table} ({columns}) select {values} from json_populate_recordset(null::{table}, %s)")
        .format(
            table=sql.Identifier(table),
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            values=sql.SQL(", ").join(values),
        )
        .as_bytes()
    )


@cache
def _update(table: str, columns: tuple[str, ...], key: tuple[str, ...]) -> bytes:
    values = [sql.SQL("{0} = n.{0}").format(sql.Identifier(column)) for column in columns if column not in key]
    # By the primary key.
    return (
        sql.SQL("update {table} t set {values} from json_populate_recordset(null::{table}, %s) n where {same}")
        .format(table=sql.Identifier(table), values=sql.SQL(", ").join(values), same=_same("t", "n", key))
        .as_bytes()
    )


@cache
def _decoder(row: type[R]) -> msgspec.json.Decoder[list[R]]:
    return msgspec.json.Decoder(list[row])  # type: ignore[valid-type]


def _same(one: str, other: str, columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(" and ").join(
        sql.SQL("{}.{} = {}.{}").format(*map(sql.Identifier, (one, column, other, column))) for column in columns
    )


def _json(rows: Sequence[Any]) -> str:
    return msgspec.json.encode(rows).decode()


def _track(cursor: Cursor, name: str, after: int, position: int) -> None:
    """The tracking upsert of eventsourcing's PostgresTrackingRecorder, and one condition more: that alone would let a
    runner pass whose batch begins before, but ends after, what another has written meanwhile."""
    # projection_tracking_pkey
    tracked = cursor.execute(
        "insert into projection_tracking values (%(name)s, %(position)s)"
        " on conflict (application_name) do update set notification_id = %(position)s"
        " where projection_tracking.notification_id < %(position)s and projection_tracking.notification_id = %(after)s"
        " returning notification_id",
        {"name": name, "position": position, "after": after},
    ).fetchone()
    if tracked is None:
        raise Fenced(f"{name} is no longer at position {after}: another runner is ahead")

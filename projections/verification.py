"""Whether the read tables are what the ledger says: every stream folded anew up to the checkpoint, and compared with
its rows both ways, field by field; and what is derived from rows derived anew.

What is compared is of one moment: checkpoint and rows come from one snapshot, and events up to a position never change.
All but their personal text, which reads as erased from the erasure on, while the rows have it until their projector
comes by; so what differs is looked at again once it has.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import msgspec
import psycopg
from msgspec.structs import fields
from psycopg import sql
from psycopg.rows import tuple_row

from modledger.domain.envelope import Recorded
from modledger.domain.events import SubjectErased
from modledger.domain.ledger import Ledger
from modledger.domain.mapper import UnreadableEvent, others_than
from modledger.projections.numbering import out_of_order
from modledger.projections.projector import Cursor, FoldFailed, Key, Projector, Table, fold_stream, key_of

BATCH = 5_000
# Of what is found in a table that is derived; a table that is wrong throughout need not be told in full.
MOST_DERIVED = 10_000
PAUSE_SECONDS, PATIENCE_SECONDS = 0.1, 5.0

# The stream of a row, by the column that its key begins with. In audit_log a row is an event.
_STREAM: Final[Mapping[str, LiteralString]] = {
    "stream": "t.stream",
    "user_id": "'user:' || t.user_id",
    "guild_id": "'guild:' || t.guild_id",
    "bot_id": "'bot:' || t.bot_id",
}


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. ``subject``: the projector's name, or ``ledger``; ``where``: which row or event; ``field``: which
    column, or what is wrong with the whole. ``expected`` and ``found`` may be personal text. ``stream``: where one can
    be named."""

    subject: str
    where: str
    field: str
    expected: str | None = None
    found: str | None = None
    stream: str | None = None

    def place(self) -> str:
        """What differs, without what it is."""
        return f"{self.subject} {self.where}: {self.field}"


def verify_projector(
    conninfo: str,
    projector: Projector[Any],
    ledger: Ledger,
    *,
    schema: str | None = None,
    between: Callable[[], None] = lambda: None,
) -> Iterator[Difference]:
    """All differences between the projector's tables and the ledger. ``schema``: of tables that stand elsewhere.
    ``between`` is called from batch to batch, and may raise to end it.

    Memory is bounded; live projectors and readers are not held up. Raises LedgerUnavailable and psycopg.Error.
    """
    with opened(conninfo, schema) as conn:
        after, limit, more = "", BATCH, True
        while more:
            between()
            try:
                streams, after, more = _next_differing(conn, projector, ledger, after, limit)
            except UnreadableEvent as error:
                if limit > 1:
                    # Stream by stream up to the one that cannot be read.
                    limit = 1
                    continue
                after, limit = _stream_at(conn, error.position), BATCH
                yield _unreadable(projector, after, error)
            else:
                yield from settled(conn, projector, ledger, streams)
        yield from rows_without_events(conn, projector)
        yield from _twice(conn, projector)
        yield from misnumbered(conn, projector)
    yield from verify_derived(conninfo, projector, schema, between)


@contextmanager
def opened(conninfo: str, schema: str | None) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection for verifications: tables are found in ``schema`` first, where one is named."""
    # Nothing is prepared, since names stand for temporary tables now and for others then.
    with psycopg.connect(
        conninfo, autocommit=True, prepare_threshold=None, application_name="modledger verify"
    ) as conn:
        if schema is not None:
            home = conn.execute("select current_schema()").fetchone()
            assert home is not None
            # The ledger stands there; the tables are found in the first.
            conn.execute(sql.SQL("set search_path = {}, {}").format(sql.Identifier(schema), sql.Identifier(home[0])))
        yield conn


def _unreadable(projector: Projector[Any], stream: str, error: UnreadableEvent) -> Difference:
    return Difference(subject=projector.name, where=f"of {stream}", field=f"cannot be folded: {error}", stream=stream)


def _stream_at(conn: psycopg.Connection[tuple[Any, ...]], position: int) -> str:
    # ledger_position
    row = conn.execute("select originator_id from ledger where notification_id = %s", (position,)).fetchone()
    assert row is not None
    return str(row[0])


class Moment(msgspec.Struct, frozen=True):
    """What a snapshot says of a projector."""

    position: int
    generation: int


@contextmanager
def snapshot(conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any]) -> Iterator[Moment]:
    """A transaction that sees one moment throughout."""
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        yield moment_of(conn, projector)


def moment_of(conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any]) -> Moment:
    """What the snapshot says; outside of one, what holds now."""
    # projection_tracking_pkey, read_models_pkey
    row = conn.execute(
        "select coalesce((select notification_id from projection_tracking where application_name = %(name)s), 0),"
        " coalesce((select generation from read_models where projector = %(name)s), 0)",
        {"name": projector.name},
    ).fetchone()
    assert row is not None
    return Moment(*row)


def _next_differing(
    conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any], ledger: Ledger, after: str, limit: int
) -> tuple[list[str], str, bool]:
    """Of the next streams those that differ; the last that was looked at, and whether there are more."""
    with snapshot(conn, projector) as moment:
        page = ledger.read_streams(projector.topics, after, None, moment.position, limit)
        found = _compare(conn, projector, page.streams)
    return list(dict.fromkeys(one.stream for one in found if one.stream is not None)), page.last, page.more


def settled(
    conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any], ledger: Ledger, streams: Sequence[str]
) -> Iterator[Difference]:
    """The differences in these streams. One whose personal text was erased after the checkpoint cannot be compared
    before the projector has come to that: it is waited for, 5 s at most, and then passed over."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    waiting = list(streams)
    while waiting:
        with snapshot(conn, projector) as moment:
            found, erased = _look(conn, projector, ledger, waiting, moment.position)
        if moment_of(conn, projector).generation == moment.generation:
            yield from (one for one in found if one.stream not in erased)
            waiting = [stream for stream in erased if any(one.stream == stream for one in found)]
        if waiting and time.monotonic() > give_up:
            return
        if waiting:
            time.sleep(PAUSE_SECONDS)


def _look(
    conn: psycopg.Connection[tuple[Any, ...]],
    projector: Projector[Any],
    ledger: Ledger,
    streams: Sequence[str],
    position: int,
) -> tuple[list[Difference], set[str]]:
    """The differences in these streams at that position, and which of them were erased after it."""
    found, erased, known = [], set(), {}
    try:
        loaded = ledger.load(streams)
    except UnreadableEvent:
        loaded = {}
        for stream in streams:
            try:
                loaded |= ledger.load([stream])
            except UnreadableEvent as error:
                # One that no projector has come to yet is not this one's difference.
                if error.position <= position:
                    found.append(_unreadable(projector, stream, error))
    for stream, events in loaded.items():
        known[stream] = [e for e in events if e.position <= position and e.event.TOPIC in projector.topics]
        if any(isinstance(e.event, SubjectErased) and e.position > position for e in events):
            erased.add(stream)
    return found + _compare(conn, projector, known), erased


def _compare(
    conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any], streams: Mapping[str, Sequence[Recorded]]
) -> list[Difference]:
    """The differences between the fold of these streams and their rows in this snapshot."""
    differences: list[Difference] = []
    expected: dict[Key, Any] = {}
    stream_of: dict[Any, str] = {}
    for stream, events in streams.items():
        stream_of.update((first, stream) for first in _firsts(projector, stream, events))
        try:
            expected |= fold_stream(projector, events)
        except FoldFailed as failure:
            place = f"of {stream}"
            differences.append(
                Difference(subject=projector.name, where=place, field=f"cannot be folded: {failure}", stream=stream)
            )
            stream_of = {first: of for first, of in stream_of.items() if of != stream}
    found = _rows_of(conn, projector, expected, list(stream_of))
    for key in expected.keys() | found.keys():
        stream = stream_of[key[0]]
        differences += [
            msgspec.structs.replace(one, stream=stream)
            for one in _differing(projector, key, expected.get(key), found.get(key, []))
        ]
    return differences


def _firsts(projector: Projector[Any], stream: str, events: Sequence[Recorded]) -> list[Any]:
    """What the keys of the stream's rows begin with; also of a stream without events, which may have rows though it
    should not."""
    column, (kind, _, number) = projector.key[0], stream.partition(":")
    if column == "position":
        return [event.position for event in events]
    if column == "stream":
        return [stream]
    return [int(number)] if column == f"{kind}_id" else []


def _differing(projector: Projector[Any], key: Key, expected: Any, found: Sequence[Any]) -> Iterator[Difference]:
    where = "(" + ", ".join(f"{c}={v}" for c, v in zip(projector.key, key, strict=True)) + ")"
    one = Difference(subject=projector.name, where=where, field="")
    if not found:
        yield msgspec.structs.replace(one, field="row is missing", expected=said(expected))
    elif expected is None:
        for row in found:
            yield msgspec.structs.replace(one, field="row is one too many", found=said(row))
    else:
        for row in found:
            for column in projector.table.columns:
                if projector.numbered is not None and column == projector.numbered.column:
                    continue
                fold_says, table_says = getattr(expected, column), getattr(row, column)
                if fold_says != table_says:
                    yield msgspec.structs.replace(one, field=column, expected=said(fold_says), found=said(table_says))
        if len(found) > 1:
            yield msgspec.structs.replace(one, field=f"row is there {len(found)} times")


def said(value: Any) -> str:
    """A value, or a row, as JSON."""
    if isinstance(value, Unfit):
        value = value.__dict__
    return msgspec.json.encode(value).decode()


def _rows_of(
    conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any], expected: Mapping[Key, Any], firsts: list[Any]
) -> dict[Key, list[Any]]:
    """The rows of these subjects, named by the first column of their key, by key."""
    table, first = projector.table, projector.key[0]
    if _leads(table, first):
        return _select(conn, projector, [{first: value} for value in firsts])
    # By the primary key; and what is not found so is looked for in the whole table.
    rows = list(expected.values())
    found = _select(conn, projector, [{c: getattr(row, c) for c in table.primary_key} for row in rows])
    missing = [{first: key[0]} for key in expected if key not in found]
    return found | _select(conn, projector, missing)


def _leads(table: Table, column: str) -> bool:
    """Whether an index of the whole table begins with the column."""
    return table.primary_key[0] == column or any(
        on.startswith((f"({column},", f"({column})")) and " where " not in on for on in table.indexes.values()
    )


def _select(
    conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any], named: Sequence[Mapping[str, Any]]
) -> dict[Key, list[Any]]:
    if not named:
        return {}
    table = sql.Identifier(projector.table.name)
    same = sql.SQL(" and ").join(sql.SQL("t.{0} = k.{0}").format(sql.Identifier(column)) for column in named[0])
    # By the primary key, or by the index that _leads has found.
    row = conn.execute(
        sql.SQL(
            "select coalesce(json_agg(t), '[]')::text from {table} t"
            " join json_populate_recordset(null::{table}, %s) k on {same}"
        ).format(table=table, same=same),
        (msgspec.json.encode(named).decode(),),
    ).fetchone()
    assert row is not None
    by = key_of(projector.key)
    found: dict[Key, list[Any]] = {}
    for text in msgspec.json.decode(row[0], type=list[msgspec.Raw]):
        one = row_of(projector, text)
        found.setdefault(by(one), []).append(one)
    return found


class Unfit:
    """A row that the fold could not give, since somebody changed a value to one of no meaning."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def row_of(projector: Projector[Any], text: bytes | str | msgspec.Raw) -> Any:
    """The row Struct of a row as JSON, or an ``Unfit``."""
    try:
        return msgspec.json.decode(text, type=projector.row)
    except msgspec.ValidationError:
        values = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return Unfit({field.name: _value(values[field.name], field.type) for field in fields(projector.row)})


def _value(text: msgspec.Raw, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError:
        return msgspec.json.decode(text)


def rows_without_events(
    conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any], sample: int | None = None
) -> Iterator[Difference]:
    """The rows of which the ledger has no event at all; ``sample``: only about so many rows are looked at."""
    first, rows = projector.key[0], _rows(conn, projector.table, sample)
    # ledger_pkey, or ledger_position
    of: sql.Composable = sql.SQL("l.notification_id = t.position")
    stream: sql.Composable = sql.SQL("(select originator_id from ledger where notification_id = t.position)")
    if first != "position":
        stream = sql.SQL("({})").format(sql.SQL(_STREAM[first]))
        of = sql.SQL("l.originator_id = {}").format(stream)
    with conn.transaction(), conn.cursor("rows_without_events", row_factory=tuple_row) as cursor:
        cursor.execute(
            sql.SQL(
                "select {stream}, row_to_json(t)::text from {rows}"
                " where not exists (select from ledger as l where {of} and l.topic <> all(%s))"
            ).format(stream=stream, rows=rows, of=of),
            (others_than(projector.topics),),
        )
        for found_stream, text in cursor:
            values = msgspec.json.decode(text)
            key = ", ".join(f"{column}={values[column]}" for column in projector.key)
            yield Difference(
                subject=projector.name, where=f"({key})", field="row is one too many", found=text, stream=found_stream
            )


def _rows(conn: psycopg.Connection[tuple[Any, ...]], table: Table, sample: int | None) -> sql.Composable:
    """The rows of a table, or about so many, as ``t``."""
    name = sql.Identifier(table.name)
    if sample is None:
        return sql.SQL("{} as t").format(name)
    # By pages, so that a large table is not read for a few rows; the estimate is -1 before there is one.
    row = conn.execute("select reltuples from pg_class where oid = %s::text::regclass", (table.name,)).fetchone()
    share = 100.0 if row is None or row[0] <= sample else 100.0 * sample / row[0]
    return sql.SQL("(select * from {} tablesample system ({}) limit {}) as t").format(name, share, sample)


def misnumbered(
    conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any], sample: int | None = None
) -> Iterator[Difference]:
    """The rows whose number does not follow that of the one before; ``sample``: only about so many are looked at."""
    for key, expected, found in out_of_order(conn, projector, _rows(conn, projector.table, sample), MOST_DERIVED):
        where = "(" + ", ".join(f"{column}={value}" for column, value in key.items()) + ")"
        column = "" if projector.numbered is None else projector.numbered.column
        yield Difference(subject=projector.name, where=where, field=column, expected=said(expected), found=said(found))


def _twice(conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any]) -> Iterator[Difference]:
    """The keys that have two rows, where no index forbids it."""
    if set(projector.table.primary_key) <= set(projector.key):
        return
    columns = sql.SQL(", ").join(map(sql.Identifier, projector.key))
    # The whole table.
    found = conn.execute(
        sql.SQL("select count(*), {columns} from {table} group by {columns} having count(*) > 1").format(
            columns=columns, table=sql.Identifier(projector.table.name)
        )
    )
    for times, *key in found:
        where = "(" + ", ".join(f"{c}={v}" for c, v in zip(projector.key, key, strict=True)) + ")"
        yield Difference(subject=projector.name, where=where, field=f"row is there {times} times")


def verify_derived(
    conninfo: str,
    projector: Projector[Any],
    schema: str | None = None,
    between: Callable[[], None] = lambda: None,
) -> Iterator[Difference]:
    """The differences between the tables beside and what the rows give, both of one snapshot. ``between`` as in
    ``verify_projector``."""
    if projector.also is None:
        return
    with opened(conninfo, schema) as conn:
        while True:
            with snapshot(conn, projector) as moment:
                found = list(_derive_and_compare(conn, projector, between))
            if moment_of(conn, projector).generation == moment.generation:
                yield from found
                return


def _derive_and_compare(
    conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any], between: Callable[[], None]
) -> Iterable[Difference]:
    assert projector.also is not None
    home = home_of(conn)
    cursor = conn.cursor(row_factory=tuple_row)
    make_temporary(cursor, projector, home)
    with conn.cursor("rows_to_derive_from", row_factory=tuple_row) as rows:
        rows.execute(
            # The whole table, along an index or sorted.
            sql.SQL("select row_to_json(t)::text from {} as t order by {}").format(
                sql.Identifier(home, projector.table.name),
                sql.SQL(", ").join(map(sql.Identifier, projector.along or projector.table.primary_key)),
            )
        )
        while batch := rows.fetchmany(BATCH):
            between()
            found = [row_of(projector, text) for (text,) in batch]
            # Of a row that does not fit, the comparison of rows tells.
            projector.also(cursor, [(None, row) for row in found if not isinstance(row, Unfit)])
    for table in projector.beside:
        yield from _compare_derived(cursor, projector.name, home, table)


def home_of(conn: psycopg.Connection[Any]) -> str:
    """The schema in which the tables stand."""
    row = conn.cursor(row_factory=tuple_row).execute("select current_schema()").fetchone()
    assert row is not None
    return str(row[0])


def make_temporary(cursor: Cursor, projector: Projector[Any], home: str) -> None:
    """Makes empty tables like those beside, until the end of the transaction. They are found before all others of these
    names, so that ``also`` writes there."""
    for table in projector.beside:
        cursor.execute(
            sql.SQL("create temporary table {} (like {} including indexes) on commit drop").format(
                sql.Identifier(table.name), sql.Identifier(home, table.name)
            )
        )


def _compare_derived(cursor: Cursor, projector: str, home: str, table: Table) -> Iterator[Difference]:
    columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    select = sql.SQL("select {} from {}")
    cursor.execute(
        sql.SQL(
            "select row_to_json(e), row_to_json(f) from ({expected}) as e full join ({found}) as f using ({key})"
            " where e is distinct from f limit %s"
        ).format(
            expected=select.format(columns, sql.Identifier("pg_temp", table.name)),
            found=select.format(columns, sql.Identifier(home, table.name)),
            key=sql.SQL(", ").join(map(sql.Identifier, table.primary_key)),
        ),
        (MOST_DERIVED,),
    )
    for expected, found in cursor.fetchall():
        yield from differing_lines(projector, table, expected, found)


def differing_lines(
    projector: str, table: Table, expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None
) -> Iterator[Difference]:
    """The differences between a line of a table beside as it is expected and as it is; None where there is none. Of
    columns of which nothing is expected nothing is said."""
    values = expected or found
    if values is not None:
        where = f"{table.name} (" + ", ".join(f"{c}={values[c]}" for c in table.primary_key) + ")"
        one = Difference(subject=projector, where=where, field="")
        if found is None:
            yield msgspec.structs.replace(one, field="row is missing", expected=said(expected))
        elif expected is None:
            yield msgspec.structs.replace(one, field="row is one too many", found=said(found))
        else:
            for column in expected:
                if expected[column] != found[column]:
                    yield msgspec.structs.replace(
                        one, field=column, expected=said(expected[column]), found=said(found[column])
                    )

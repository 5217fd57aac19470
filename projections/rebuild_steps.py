"""What a rebuild (rebuild.py) does after its folding: indexes, derived tables, catching up, comparing, promotion."""

import time
from collections.abc import Callable
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from modledger.domain.ledger import Ledger
from modledger.domain.mapper import UnreadableEvent
from modledger.projections import marks
from modledger.projections.catalog import add_primary_key, create_bare, create_indexes
from modledger.projections.projector import (
    Cursor,
    FoldFailed,
    Projector,
    Table,
    advance,
    checkpoint,
    fingerprint,
)
from modledger.projections.rebuild import (
    Place,
    Replay,
    ReplayAborted,
    ReplayFailed,
    ReplayRefused,
    beside,
    current,
    fail,
    leave_to_vacuum,
    move,
    search,
    wait_for_no_flush,
)
from modledger.projections.rights import give, of_read_tables
from modledger.projections.verification import verify_projector

BATCH = 5_000
# As many as share a line of marks by ordinals, so that each batch makes lines that the next leaves alone.
DERIVED = marks.ORDINALS
PAUSE_SECONDS = 0.1
# How long promotion waits for a table before it lets the readers behind it pass and tries again. Less than
# deadlock_timeout, so that of a reader and a promotion that block each other it is always the promotion that yields.
LOCK_PATIENCE = "100ms"
# Vacuum lets go of a table for somebody who has waited for deadlock_timeout.
VACUUM_PATIENCE = "60s"
PROMOTION_TRIES = 100

# Whether somebody runs the live projector, asked on a connection to what is read.
Followed = Callable[[psycopg.Connection[Any]], bool]


def finish(
    conninfo: str,
    projector: Projector[Any],
    ledger: Ledger,
    followed: Followed,
    between: Callable[[], None],
    *,
    alone: bool = True,
) -> Replay:
    """All that comes after the folding of the streams, up to ``verified``. For one process at a time, which the caller
    sees to; goes on where another was killed. ``followed`` says whether the tables that are read are brought up to the
    ledger by somebody, so that waiting for them has an end. ``between`` is called from batch to batch, and may raise to
    end it there. ``alone``: nobody finishes another at the same time, so that the server may use its own further
    processes. Raises ReplayAborted, ReplayRefused, ReplayFailed."""
    with beside(conninfo, projector.name) as (conn, place):
        run = current(conn, place, projector)
        wait_for_no_flush(conn)
        if not alone:
            conn.execute("set max_parallel_maintenance_workers = 0; set max_parallel_workers_per_gather = 0")
        try:
            if run.state == "replaying" and run.folded:
                _number(conn, place, projector, run)
                _index(conn, place, projector.table)
                _derive(conn, place, projector, run, between)
                for table in projector.beside:
                    _index(conn, place, table)
                _settle(conn, place, projector, run)
                run = current(conn, place, projector)
            if run.state == "catching_up":
                _catch_up(conn, projector, ledger)
                note = _verify(conn, conninfo, place, projector, ledger, followed, between)
                conn.execute("reset synchronous_commit")
                move(conn.cursor(row_factory=tuple_row), place, run.run, ["catching_up"], "verified", note=note)
        except (FoldFailed, UnreadableEvent, ReplayFailed) as error:
            fail(conn, place, run.run, str(error))
            raise ReplayFailed(str(error)) from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise ReplayAborted(f"the rebuild of {projector.name} was aborted") from error
        return current(conn, place, projector)


def _number(conn: psycopg.Connection[Any], place: Place, projector: Projector[Any], run: Replay) -> None:
    """Numbers the rows, all at once, which puts them in the order of their numbers too."""
    numbered, table = projector.numbered, projector.table
    if numbered is None:
        return
    with conn.transaction():
        cursor = conn.cursor(row_factory=tuple_row)
        _hold(cursor, place, projector, run)
        name, column = sql.Identifier(table.name), sql.Identifier(numbered.column)
        if cursor.execute(sql.SQL("select {} from {} limit 1").format(column, name)).fetchone() != (None,):
            return
        bare = msgspec.structs.replace(table, name=f"numbered_{table.name}")
        create_bare(cursor, bare)
        leave_to_vacuum(cursor, bare, by_itself=False)
        # The whole table. An update would leave it twice as large.
        cursor.execute(
            sql.SQL("insert into {} ({}) select {} from {} order by {along}").format(
                sql.Identifier(bare.name),
                sql.SQL(", ").join(map(sql.Identifier, table.columns)),
                sql.SQL(", ").join(
                    sql.SQL("row_number() over (order by {along})" if one == numbered.column else "{column}").format(
                        along=sql.Identifier(numbered.along), column=sql.Identifier(one)
                    )
                    for one in table.columns
                ),
                name,
                along=sql.Identifier(numbered.along),
            )
        )
        cursor.execute(sql.SQL("drop table {}").format(name))
        cursor.execute(sql.SQL("alter table {} rename to {}").format(sql.Identifier(bare.name), name))


def _hold(cursor: Cursor, place: Place, projector: Projector[Any], run: Replay) -> list[str] | None:
    """Holds back whoever aborts until the end of the transaction; answers up to which row others are derived."""
    # replays, a row per projector
    found = cursor.execute(
        sql.SQL("select derived from {} where run = %s for update").format(place.at_home("replays")), (run.run,)
    ).fetchone()
    if found is None:
        raise ReplayAborted(f"the rebuild of {projector.name} was aborted")
    after: list[str] | None = found[0]
    return after


def _index(conn: psycopg.Connection[Any], place: Place, table: Table) -> None:
    """Makes the indexes that are not there yet, each committed by itself."""
    cursor = conn.cursor(row_factory=tuple_row)
    if cursor.execute("select to_regclass(%s)", (f"{table.name}_pkey",)).fetchone() == (None,):
        add_primary_key(cursor, table)
    create_indexes(cursor, table)
    trigrams = cursor.execute(
        "select nspname from pg_extension as e join pg_namespace as n on n.oid = e.extnamespace where extname = %s",
        ("pg_trgm",),
    ).fetchone()
    if trigrams is None:
        return
    for name, on in table.fragments.items():
        # In full, since where the extension is there may be a table of that name, which is the one that is read.
        where = sql.Identifier(place.shadow, table.name)
        search(cursor, place.shadow, trigrams[0])
        cursor.execute(
            sql.SQL("create index if not exists {} on {} {}").format(sql.Identifier(name), where, sql.SQL(on))
        )
        search(cursor, place.shadow)


def _derive(
    conn: psycopg.Connection[Any],
    place: Place,
    projector: Projector[Any],
    run: Replay,
    between: Callable[[], None],
) -> None:
    """Makes the tables beside from the rows, in batches along an index."""
    if projector.also is None:
        return
    cursor = conn.cursor(row_factory=tuple_row)
    table = projector.table
    columns = projector.along or table.primary_key
    order = sql.SQL(", ").join(map(sql.Identifier, columns))
    bounds = sql.SQL(", ").join(sql.SQL("%s::" + table.columns[c].split()[0]) for c in columns)
    decoder = msgspec.json.Decoder(list[projector.row])  # type: ignore[name-defined]
    replays = place.at_home("replays")
    while True:
        between()
        with conn.transaction():
            after = _hold(cursor, place, projector, run)
            # By the index that begins with these columns, the primary key's or the one that Projector.along promises.
            beyond = sql.SQL("") if after is None else sql.SQL("where ({}) > ({})").format(order, bounds)
            row = cursor.execute(
                sql.SQL(
                    "select coalesce(json_agg(t), '[]')::text from"
                    " (select * from {table} {beyond} order by {order} limit %s) as t"
                ).format(table=sql.Identifier(table.name), beyond=beyond, order=order),
                (*(after or ()), DERIVED),
            ).fetchone()
            assert row is not None
            rows = decoder.decode(row[0])
            if not rows:
                return
            projector.also(cursor, [(None, one) for one in rows])
            last = [str(getattr(rows[-1], column)) for column in columns]
            cursor.execute(
                sql.SQL("update {} set derived = %s, derived_rows = derived_rows + %s where run = %s").format(replays),
                (msgspec.json.encode(last).decode(), len(rows), run.run),
            )


def _settle(conn: psycopg.Connection[Any], place: Place, projector: Projector[Any], run: Replay) -> None:
    """Statistics and visibility, without which the first readers would get slow plans; then the checkpoint."""
    for table in (projector.table, *projector.beside):
        conn.execute(sql.SQL("vacuum (analyze) {}").format(sql.Identifier(table.name)))
    with conn.transaction():
        cursor = conn.cursor(row_factory=tuple_row)
        # First, as whoever aborts does: its row before any of the tables, or each would wait for the other.
        move(cursor, place, run.run, ["replaying"], "catching_up")
        for table in (projector.table, *projector.beside):
            leave_to_vacuum(cursor, table, by_itself=True)
        # projection_tracking_pkey
        cursor.execute(
            "insert into projection_tracking values (%s, %s)"
            " on conflict (application_name) do update set notification_id = excluded.notification_id",
            (projector.name, run.head),
        )


def _catch_up(conn: psycopg.Connection[Any], projector: Projector[Any], ledger: Ledger) -> None:
    while advance(conn, projector, ledger, BATCH).more:
        pass


def _verify(
    conn: psycopg.Connection[Any],
    conninfo: str,
    place: Place,
    projector: Projector[Any],
    ledger: Ledger,
    followed: Followed,
    between: Callable[[], None],
) -> str:
    """Whether the rebuilt tables are right: equal to those that are read, or else to a fresh fold of the ledger.
    Answers what it found; raises ReplayFailed."""
    differing = _differing_from_live(conn, conninfo, place, projector, ledger, followed)
    if differing == 0:
        return "equal to the tables that are read, both ways"
    found = next(verify_projector(conninfo, projector, ledger, schema=place.shadow, between=between), None)
    if found is not None:
        raise ReplayFailed(f"the rebuilt tables are not what the ledger says: {found.place()}")
    if differing is None:
        return "equal to a fresh fold of the ledger"
    return f"equal to a fresh fold of the ledger, from which the tables that are read differ in {differing} rows"


def _differing_from_live(
    conn: psycopg.Connection[Any],
    conninfo: str,
    place: Place,
    projector: Projector[Any],
    ledger: Ledger,
    followed: Followed,
) -> int | None:
    """How many rows are in the rebuilt tables and not in those that are read, or the other way round, both at the same
    position; None where they cannot be compared."""
    with psycopg.connect(conninfo, autocommit=True) as live:
        made_for = live.execute(
            "select fingerprint from read_models where projector = %s", (projector.name,)
        ).fetchone()
        if made_for is None or made_for[0] != fingerprint(projector):
            return None
        cursor = conn.cursor(row_factory=tuple_row)
        for _ in range(PROMOTION_TRIES):
            with live.transaction():
                # Holds the live projector back for the few milliseconds until there is a snapshot of both.
                fence = live.execute(
                    "select notification_id from projection_tracking where application_name = %s for update",
                    (projector.name,),
                ).fetchone()
                position = 0 if fence is None else fence[0]
                _advance_to(conn, projector, ledger, position)
                if checkpoint(conn, projector.name) == position:
                    cursor.execute("begin isolation level repeatable read")
                    cursor.execute("select 1")
            if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                break
            if not followed(live):
                return None
            time.sleep(PAUSE_SECONDS)
            _catch_up(conn, projector, ledger)
        else:
            # Whoever runs it stands before an event, or is far behind.
            return None
        try:
            return sum(_differing(cursor, place, table) for table in (projector.table, *projector.beside))
        except psycopg.errors.UndefinedTable:
            return None
        finally:
            cursor.execute("rollback")


def _advance_to(conn: psycopg.Connection[Any], projector: Projector[Any], ledger: Ledger, position: int) -> None:
    """Brings the rebuilt tables to that position and not beyond."""
    while (reached := checkpoint(conn, projector.name)) < position:
        advance(conn, projector, ledger, min(BATCH, position - reached))


def _differing(cursor: Cursor, place: Place, table: Table) -> int:
    """How many rows only one of the two tables has."""
    # Both tables whole. Side by side by their keys that takes a third of what EXCEPT both ways does, and column by
    # column half of what rows made of the columns do.
    row = cursor.execute(
        sql.SQL(
            "select count(a.{first}) + count(b.{first}) from {rebuilt} a full join {live} b on {same} where {differ}"
        ).format(
            first=sql.Identifier(table.primary_key[0]),
            rebuilt=sql.Identifier(place.shadow, table.name),
            live=place.at_home(table.name),
            same=sql.SQL(" and ").join(_both("{} = {}", column) for column in table.primary_key),
            differ=sql.SQL(" or ").join(_both("{} is distinct from {}", column) for column in table.columns),
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


def _both(compared: LiteralString, column: str) -> sql.Composed:
    return sql.SQL(compared).format(sql.Identifier("a", column), sql.Identifier("b", column))


def promote(conninfo: str, projector: Projector[Any], ledger: Ledger) -> Replay:
    """Puts the rebuilt tables in the place of those that are read, in one short transaction. Readers and the live
    projector wait for it a moment and go on with the new tables, at the same position or a later one.

    For one process at a time, which the caller sees to. Raises ReplayRefused before it is verified; ReplayFailed where
    somebody held the tables all the time.
    """
    with beside(conninfo, projector.name) as (conn, place):
        run = current(conn, place, projector)
        if run.state == "live":
            return run
        if run.state != "verified":
            raise ReplayRefused(f"the rebuild of {projector.name} is not verified yet, but {run.state}: run it")
        try:
            _catch_up(conn, projector, ledger)
            with conn.transaction():
                _hold_vacuum_back(conn.cursor(row_factory=tuple_row), place, projector)
                for _ in range(PROMOTION_TRIES):
                    try:
                        with conn.transaction():
                            _swap(conn, place, projector, ledger, run)
                        break
                    except psycopg.errors.LockNotAvailable:
                        time.sleep(PAUSE_SECONDS)
                else:
                    raise ReplayFailed(f"the tables of {projector.name} are in use all the time: promote again later")
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise ReplayAborted(f"the rebuild of {projector.name} was aborted") from error
        return current(conn, place, projector)


def _hold_vacuum_back(cursor: Cursor, place: Place, projector: Projector[Any]) -> None:
    """A vacuum of a large table takes longer than all our tries. This lock keeps no reader and no writer waiting."""
    cursor.execute("select set_config('lock_timeout', %s, true)", (VACUUM_PATIENCE,))
    for table in _live_tables(cursor, place, projector):
        cursor.execute(sql.SQL("lock table {} in share update exclusive mode").format(place.at_home(table)))


def _live_tables(cursor: Cursor, place: Place, projector: Projector[Any]) -> list[str]:
    """The tables that are read now: by those names, or by those that another version gave them."""
    # read_models_pkey
    row = cursor.execute(
        sql.SQL("select tables from {} where projector = %s").format(place.at_home("read_models")), (projector.name,)
    ).fetchone()
    names = {table.name for table in (projector.table, *projector.beside)} | set(row[0] if row else ())
    found = cursor.execute(
        "select tablename from pg_tables where schemaname = %s and tablename = any(%s) order by tablename",
        (place.home, list(names)),
    )
    return [name for (name,) in found]


def _swap(conn: psycopg.Connection[Any], place: Place, projector: Projector[Any], ledger: Ledger, run: Replay) -> None:
    cursor = conn.cursor(row_factory=tuple_row)
    cursor.execute("select set_config('lock_timeout', %s, true)", (LOCK_PATIENCE,))
    # Its row holds back whoever aborts.
    move(cursor, place, run.run, ["verified"], "live")
    # The live projector writes its checkpoint first, so it waits here with nothing in hand, and is fenced afterwards.
    fence = cursor.execute(
        sql.SQL("select notification_id from {} where application_name = %s for update").format(
            place.at_home("projection_tracking")
        ),
        (projector.name,),
    ).fetchone()
    while checkpoint(conn, projector.name) < (0 if fence is None else fence[0]):
        advance(conn, projector, ledger, BATCH)
    position = checkpoint(conn, projector.name)
    live = _live_tables(cursor, place, projector)
    if live:
        tables = sql.SQL(", ").join(place.at_home(table) for table in live)
        cursor.execute(sql.SQL("lock table {} in access exclusive mode").format(tables))
    cursor.execute(sql.SQL("create schema {}").format(sql.Identifier(place.old)))
    into = sql.SQL("alter table {} set schema {}")
    for name in live:
        cursor.execute(into.format(place.at_home(name), sql.Identifier(place.old)))
    made = [table.name for table in (projector.table, *projector.beside)]
    for name in made:
        cursor.execute(into.format(sql.Identifier(place.shadow, name), sql.Identifier(place.home)))
    # Until now they were for the owner alone.
    give(cursor, place.home, of_read_tables([projector]))
    # projection_tracking_pkey, projection_failures_pkey, verifications_pkey, read_models_pkey
    cursor.execute(
        sql.SQL(
            "insert into {} values (%s, %s)"
            " on conflict (application_name) do update set notification_id = excluded.notification_id"
        ).format(place.at_home("projection_tracking")),
        (projector.name, position),
    )
    for table, column in (("projection_failures", "projector"), ("verifications", "subject")):
        cursor.execute(
            sql.SQL("delete from {} where {} = %s").format(place.at_home(table), sql.Identifier(column)),
            (projector.name,),
        )
    cursor.execute(
        sql.SQL(
            "insert into {} as m (projector, fingerprint, tables, generation) values (%s, %s, %s, 1)"
            " on conflict (projector) do update set fingerprint = excluded.fingerprint, tables = excluded.tables,"
            " generation = m.generation + 1"
        ).format(place.at_home("read_models")),
        (projector.name, fingerprint(projector), made),
    )
    cursor.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(place.shadow)))

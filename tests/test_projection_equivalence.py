"""However the ledger is cut into batches, live or replayed after an erasure, the read tables come out the same; and
they say what the domain says."""

from itertools import product
from typing import Any, LiteralString

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.domain.envelope import Subject, subject_of
from modledger.domain.events import Event
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.subjects import Account, Bot, Guild, User, fold
from modledger.projections.catalog import PROJECTORS
from modledger.projections.projector import advance
from modledger.projections.punishments import Punishment
from modledger.projections.search import Page, Search, is_steady, page, statement
from tests.projection_history import Happened, append, contents, memory_ledger
from tests.random_history import MINUTES, STREAMS, histories

TABLES = [table for projector in PROJECTORS for table in (projector.table, *projector.beside)]
# What is kept as a count, and what counting finds.
COUNTED: list[tuple[LiteralString, LiteralString]] = [
    (
        "select registered, held, level, tier, total from profile_counts order by 1, 2, 3, 4",
        "select registered, held, level, tier, count(*) from profiles group by 1, 2, 3, 4 order by 1, 2, 3, 4",
    ),
    (
        "select registered, state_recorded, tier, total from guild_counts order by 1, 2, 3",
        "select registered, state_recorded, tier, count(*) from guilds group by 1, 2, 3 order by 1, 2, 3",
    ),
    (
        "select owner_id, active, bot_type, total from bot_counts order by 1, 2, 3",
        """select o, active, bot_type, count(*) from bots, unnest(array[0, owner_id]) o where registered
        group by 1, 2, 3 order by 1, 2, 3""",
    ),
]
# The database is emptied for every example.
slow = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def empty(conn: psycopg.Connection) -> None:
    for table in TABLES:
        conn.execute(f"delete from {table.name}".encode())
    conn.execute("update projection_tracking set notification_id = 0 where application_name <> '__migration__'")


def catch_up(conn: psycopg.Connection, ledger: MemoryLedger, limit: int = 1000) -> None:
    for projector in PROJECTORS:
        while advance(conn, projector, ledger, limit).more:
            pass


def fold_last(conn: psycopg.Connection, ledger: MemoryLedger, event: Event) -> None:
    """By those that handle it. The others pass it with their next one: a batch of nothing for them takes as long as one
    with something in it, and the batches that are drawn have enough of these."""
    for projector in PROJECTORS:
        if event.TOPIC in projector.topics:
            while advance(conn, projector, ledger, 1000).more:
                pass


@settings(parent=slow, max_examples=60)
@given(history=histories(), data=st.data())
def test_every_cut_into_batches_live_or_replayed_gives_the_same_tables(
    conn: psycopg.Connection, history: list[Happened], data: st.DataObject
) -> None:
    with memory_ledger() as ledger:
        versions: dict[str, int] = {}
        empty(conn)
        for happened in history:
            append(ledger, versions, happened)
            fold_last(conn, ledger, happened.event)
        live = contents(conn, TABLES)
        empty(conn)
        for projector in PROJECTORS:
            while advance(conn, projector, ledger, data.draw(st.integers(1, 15))).read:
                pass
        assert contents(conn, TABLES) == live


@settings(parent=slow, max_examples=60)
@given(history=histories())
def test_the_tables_say_what_the_domain_says(conn: psycopg.Connection, history: list[Happened]) -> None:
    with memory_ledger() as ledger:
        versions: dict[str, int] = {}
        empty(conn)
        for happened in history:
            append(ledger, versions, happened)
        catch_up(conn, ledger, 7)
        streams = ledger.load(STREAMS)
    for counts, counting in COUNTED:
        assert conn.execute(counts).fetchall() == conn.execute(counting).fetchall()
    for stream, recorded in streams.items():
        state = fold(subject_of(stream), recorded)
        if isinstance(state, Bot) and recorded:
            assert _bot(conn, state.id) == (
                *(state.version, state.registered, state.name, state.avatar_url, state.owner_id, state.bot_type),
                *(state.rate_limit_per_hour, state.active, state.created_at, state.updated_at),
            )
        if isinstance(state, Account) and recorded:
            assert _account(conn, subject_of(stream)) == _as_row(state)
            assert _punishments(conn, stream) == [
                (p.number, p.position, p.type, p.reason, p.issued_by.user_id, p.expires_at, p.ending and p.ending.kind)
                for p in state.punishments.values()
            ]


def _bot(conn: psycopg.Connection, bot_id: int) -> Any:
    return conn.execute(
        "select version, registered, name, avatar_url, owner_id, bot_type, rate_limit_per_hour, active, created_at,"
        " updated_at from bots where bot_id = %s",
        (bot_id,),
    ).fetchone()


def _account(conn: psycopg.Connection, subject: Subject) -> Any:
    common = "version, registered, avatar_url, prefix, tier, tier_until, tier_at, trial_used, created_at, updated_at"
    if subject.kind == "user":
        query = f"select {common}, username, level, level_at from profiles where user_id = %s"
    else:
        query = f"select {common}, name, owner_id, owner_at, state_set from guilds where guild_id = %s"
    return conn.execute(query.encode(), (subject.id,)).fetchone()


def _as_row(state: Account) -> tuple[Any, ...]:
    common = (state.version, state.registered, state.avatar_url, state.prefix, state.tier, state.tier_until)
    common += (state.tier_since, state.trial_used, state.created_at, state.updated_at)  # type: ignore[assignment]
    match state:
        case User():
            return (*common, state.username, state.level, state.level_since)
        case Guild():
            return (*common, state.name, state.owner_id, state.owner_since, state.state_set)
    raise TypeError(state)


def _punishments(conn: psycopg.Connection, stream: str) -> list[Any]:
    return conn.execute(
        "select number, id, type, reason, issued_by, expires_at, ended_kind from punishments"
        " where stream = %s order by number",
        (stream,),
    ).fetchall()


@settings(parent=slow, max_examples=40)
@given(history=histories(least=10, most=60), now=MINUTES, limit=st.integers(1, 20))
def test_totals_equal_what_counting_finds_for_every_combination_of_filters(
    conn: psycopg.Connection, history: list[Happened], now: Any, limit: int
) -> None:
    with memory_ledger() as ledger:
        versions: dict[str, int] = {}
        empty(conn)
        for happened in history:
            append(ledger, versions, happened)
        catch_up(conn, ledger, limit)
    # As the product asks, which prepares what one plan serves; by itself a connection would forget it before it comes
    # again in the next example.
    conn.prepared_max = 1000
    cursor = psycopg.RawCursor(conn)

    def found_by(search: Search) -> Page:
        sql, parameters = statement(search, now, fragments=True)
        return page(search, cursor.execute(sql, parameters, prepare=is_steady(search)).fetchall())

    every = found_by(Search(limit=1000)).punishments
    subjects: list[dict[str, int]] = [{}, {"user_id": 1}, {"guild_id": 1}, {"user_id": 1, "guild_id": 1}]
    for subject, issuer, kind, active in product(subjects, (None, 21, 99), (None, 1, 2, 3, 4), (False, True)):
        search = Search(**subject, issued_by=issuer, type=kind, active_only=active)  # type: ignore[arg-type]
        found = found_by(search)
        assert found.total == sum(matches(search, row, now) for row in every), search


def matches(search: Search, row: Punishment, now: Any) -> bool:
    return (
        search.user_id in (None, row.user_id)
        and search.guild_id in (None, row.guild_id)
        and search.issued_by in (None, row.issued_by)
        and search.type in (None, row.type)
        and not (search.active_only and not (row.open and (row.expires_at is None or row.expires_at > now)))
    )

"""The search over the past, compared with the rule of ``time_travel`` applied to every stream."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import cycle, product
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.projections import history_counts, history_search, marks, search
from modledger.projections.history_search import past_page, statement
from modledger.projections.punishments import Punishment
from modledger.projections.search import SORTS, Page, Search, Sort
from modledger.projections.time_travel import Instant
from tests.every_three import every_three
from tests.http_client import World
from tests.lived_history import world_of_set_time
from tests.past_punishments import BEGIN, Chronicle, Oracle
from tests.postgres_server import create_database, drop_database
from tests.projection_history import DAY, HOUR
from tests.test_search_reasons import QUERIES

STEPS = 450
MONDAYS = tuple(datetime(2025, 1, 6, tzinfo=UTC) + weeks * 7 * DAY for weeks in range(-30, 110))


class Past:
    """A history that is over. ``moments``: of anything in it, in order."""

    def __init__(self, world: World) -> None:
        self.world, self.oracle = world, Oracle(world)
        self.moments = [at for at in sorted({*self.oracle.moments(), *MONDAYS}) if at <= world.now]


@pytest.fixture(scope="module", params=[1, 2])
def past(request: pytest.FixtureRequest, postgres_server: str, template_database: str) -> Iterator[Past]:
    name = f"past_{uuid4().hex}"
    with world_of_set_time(create_database(postgres_server, name, template_database)) as world:
        Chronicle(world, request.param).write(STEPS)
        world.connection.execute("analyze")
        made = Past(world)
        assert made.oracle.events[-1].position // marks.BUCKET > 3
        yield made
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def exaggerated(past: Past) -> Iterator[psycopg.Connection]:
    """Sees so many in each week that nothing between dates seems few, but what lies before many later ones."""
    with psycopg.connect(past.world.connection.info.dsn) as connection:
        connection.execute(
            "update punishment_history_counts set there = 1000000 where axis = %s", (history_counts.DATED,)
        )
        yield connection
        connection.rollback()


def ask(past: Past, search: Search, at: Instant, on: psycopg.Connection[Any] | None = None) -> Page:
    position = None if at.known_at is None else past.world.ledger.position_at(at.known_at)
    sql, parameters = statement(search, at, position, fragments=True)
    lines = psycopg.RawCursor(on or past.world.connection).execute(sql, parameters, prepare=False).fetchall()
    return past_page(search, at, lines)


def instant(as_of: datetime | None, known_at: datetime | None) -> Instant:
    now = as_of or known_at
    assert now is not None
    return Instant(now=now, as_of=as_of, known_at=known_at)


# Where in the list of all moments.
PLACES = st.floats(0, 1)
EDGES = st.none() | st.integers(-600, 600).map(lambda days: BEGIN + days * DAY) | st.sampled_from(MONDAYS)
SEARCHES = st.builds(
    Search,
    q=st.none() | QUERIES,
    user_id=st.sampled_from([None, None, None, None, 1, 2, 99]),
    guild_id=st.sampled_from([None, None, None, 1, 99]),
    issued_by=st.sampled_from([None, None, 21, 22, 99]),
    type=st.sampled_from([None, None, 1, 2, 3, 4]),
    active_only=st.booleans(),
    created_after=EDGES,
    created_before=EDGES,
    sort=st.sampled_from(SORTS),
    limit=st.sampled_from([1, 2, 25, 1000]),
)


@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(search=SEARCHES, dated=st.none() | PLACES, known=st.none() | PLACES)
def test_a_search_of_the_past_is_the_rule_applied_to_every_stream(
    past: Past, search: Search, dated: float | None, known: float | None
) -> None:
    if dated is None and known is None:
        known = 0.5
    last = len(past.moments) - 1
    as_of, known_at = (None if place is None else past.moments[round(place * last)] for place in (dated, known))
    compare(past, search, instant(as_of, known_at))


def compare(past: Past, search: Search, at: Instant) -> None:
    """Up to four pages, by cursor and by offset."""
    whole = past.oracle.found(search, at)
    found: list[Punishment] = []
    cursor = None
    while True:
        by_offset = ask(past, msgspec.structs.replace(search, offset=len(found)), at)
        # The first page has no cursor yet, and is the same question.
        by_cursor = by_offset if cursor is None else ask(past, msgspec.structs.replace(search, cursor=cursor), at)
        assert by_offset.total == by_cursor.total == len(whole)
        assert by_offset.punishments == by_cursor.punishments == whole[len(found) : len(found) + search.limit]
        found += by_cursor.punishments
        cursor = by_cursor.next_cursor
        assert (cursor is None) == (by_offset.next_cursor is None) == (len(found) >= len(whole))
        if cursor is None or len(found) >= 4 * search.limit:
            return


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(search=SEARCHES, sort=st.sampled_from(["expires_at", "-expires_at"]), dated=st.booleans(), place=PLACES)
def test_sorting_and_walking_give_one_page_of_the_past(
    past: Past, exaggerated: psycopg.Connection, search: Search, sort: Sort, dated: bool, place: float
) -> None:
    moment = past.moments[round(place * (len(past.moments) - 1))]
    at = instant(moment, None) if dated else instant(None, moment)
    asked = msgspec.structs.replace(search, sort=sort)
    assert ask(past, asked, at, exaggerated).punishments == past.oracle.found(asked, at)[: search.limit]


def test_every_filter_combines_with_every_kind_of_moment(past: Past) -> None:
    early, middle, late = (past.moments[len(past.moments) * part // 16] for part in (6, 10, 15))
    subjects: list[dict[str, Any]] = [{}, {"user_id": 1}, {"guild_id": 1}]
    others: list[dict[str, Any]] = [{}, {"issued_by": 21}, {"type": 1}, {"q": "spam"}]
    dates: list[dict[str, Any]] = [
        {}, {"created_after": early}, {"created_before": early},
        {"created_after": early - 3 * DAY, "created_before": early + 40 * DAY},
    ]  # fmt: skip
    single = ((early, None), (late, None), (None, early), (None, late))
    moments = (*single, (early, late), (middle, middle), (late, early))
    searches = every_three(SORTS, (False, True), subjects, others, dates, moments, (1, 2, 7, 400))
    # More than three together: a walk finds a page where much is found, and sums know what has no dates
    # (history_marks.has_sums).
    searches += product(SORTS, (False, True), [{}], [{}], dates, moments, [1])
    known = product(SORTS, (False, True), ({}, {"guild_id": 1}), others[:3], [{}], single)
    searches += [(*one, limit) for one, limit in zip(known, cycle((1, 2, 25)), strict=False)]
    for sort, active_only, subject, more, between, moment, limit in searches:
        asked = Search(active_only=active_only, limit=limit, sort=sort, **subject, **more, **between)
        at = instant(*moment)
        whole, found = past.oracle.found(asked, at), ask(past, asked, at)
        assert (found.punishments, found.total) == (whole[:limit], len(whole)), (asked, at)


def test_before_everything_there_is_nothing_and_in_the_end_there_is_what_there_is_today(past: Past) -> None:
    first = datetime.min.replace(tzinfo=UTC)
    for at in (instant(first, None), instant(None, first), instant(first, past.world.now)):
        for asked in (Search(), Search(active_only=True, q="spam"), Search(sort="expires_at", issued_by=21)):
            assert (ask(past, asked, at).punishments, ask(past, asked, at).total) == ([], 0)
    now = past.world.now
    past.world.catch_up("punishments")
    for active, sort, q in product((False, True), SORTS, (None, "spam", "a")):
        asked = Search(active_only=active, sort=sort, q=q, limit=1000)
        sql, parameters = search.statement(asked, now, fragments=True)
        today = search.page(asked, psycopg.RawCursor(past.world.connection).execute(sql, parameters).fetchall())
        assert [one.id for one in ask(past, asked, instant(None, now)).punishments] == [
            one.id for one in today.punishments
        ]
        assert ask(past, asked, instant(None, now)).total == today.total


def test_the_past_holds_what_was_not_in_order_and_what_was_replaced(past: Past) -> None:
    ((odd, several),) = past.world.query(
        "select count(distinct (stream, number)) filter (where serves <> 7), count(*) filter (where place = 1)"
        " from punishment_versions"
    )
    assert odd > 5
    assert several > 50


def test_the_asynchronous_door_gives_the_same_page(past: Past) -> None:
    asked, at = Search(issued_by=21, active_only=True, sort="expires_at", limit=7), instant(None, past.moments[-9])
    assert at.known_at is not None
    position = past.world.ledger.position_at(at.known_at)

    async def found() -> Page:
        async with await psycopg.AsyncConnection.connect(past.world.database, autocommit=True) as connection:
            return await history_search.find(connection, asked, at, position, fragments=True)

    assert asyncio.run(found()) == ask(past, asked, at)


def test_a_position_belongs_to_a_search_by_what_was_known(past: Past) -> None:
    moment = past.moments[-1]
    for at, position in ((instant(moment, None), 5), (instant(None, moment), None)):
        with pytest.raises(ValueError, match="a position belongs to known_at"):
            statement(Search(), at, position, fragments=True)


def test_no_search_of_the_past_has_to_read_a_table_from_end_to_end(past: Past) -> None:
    # On so few rows the planner likes to; where it must not, it says so of each table that has no index for it.
    moment = past.moments[len(past.moments) // 2]
    named: list[dict[str, Any]] = [{}, {"user_id": 1}, {"guild_id": 1}, {"issued_by": 21}, {"type": 3}]
    dates: list[dict[str, Any]] = [
        {}, {"created_after": moment - 60 * DAY}, {"created_before": moment - 60 * DAY},
        {"created_after": moment - 60 * DAY, "created_before": moment},
    ]  # fmt: skip
    instants = (instant(moment, None), instant(None, moment), instant(moment, moment + HOUR))
    conn = past.world.connection
    with conn.transaction():
        conn.execute("set local enable_seqscan = off")
        for q, one, between, at, active_only, sort in every_three(
            (None, "spam", "a", "???"), named, dates, instants, (False, True), SORTS
        ):
            asked = Search(q=q, active_only=active_only, sort=sort, **one, **between)
            position = None if at.known_at is None else past.world.ledger.position_at(at.known_at)
            sql, parameters = statement(asked, at, position, fragments=True)
            plan = psycopg.RawCursor(conn).execute("explain " + sql, parameters).fetchall()
            assert not [line for (line,) in plan if "Seq Scan" in line], (asked, at)


def test_an_empty_database_answers_an_empty_page(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        for active, q, (at, position) in product(
            (False, True), (None, "a"), ((instant(BEGIN, None), None), (instant(None, BEGIN), 0))
        ):
            asked = Search(active_only=active, q=q)
            sql, parameters = statement(asked, at, position, fragments=True)
            found = past_page(asked, at, psycopg.RawCursor(conn).execute(sql, parameters, prepare=False).fetchall())
            assert (found.punishments, found.total, found.next_cursor, found.position) == ([], 0, None, 0)

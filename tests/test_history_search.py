"""The search over the past, compared with the rule of ``time_travel`` applied to every stream."""

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.projections import marks
from modledger.projections.history_search import past_page, statement
from modledger.projections.punishments import Punishment
from modledger.projections.search import SORTS, Page, Search
from modledger.projections.time_travel import Instant
from tests.http_client import World
from tests.lived_history import world_of_set_time
from tests.past_punishments import BEGIN, Chronicle, Oracle
from tests.postgres_server import create_database, drop_database
from tests.projection_history import DAY
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


def ask(past: Past, search: Search, at: Instant) -> Page:
    position = None if at.known_at is None else past.world.ledger.position_at(at.known_at)
    sql, parameters = statement(search, at, position, fragments=True)
    lines = psycopg.RawCursor(past.world.connection).execute(sql, parameters, prepare=False).fetchall()
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


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        by_cursor = ask(past, msgspec.structs.replace(search, cursor=cursor), at)
        assert by_offset.total == by_cursor.total == len(whole)
        assert by_offset.punishments == by_cursor.punishments == whole[len(found) : len(found) + search.limit]
        found += by_cursor.punishments
        cursor = by_cursor.next_cursor
        assert (cursor is None) == (by_offset.next_cursor is None) == (len(found) >= len(whole))
        if cursor is None or len(found) >= 4 * search.limit:
            return

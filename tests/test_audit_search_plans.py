"""No search of the audit log reads a table from end to end, on a million events."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import md5
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest

from modledger.domain.envelope import SubjectKind
from modledger.projections.audit_log import COUNTS, EVENT_TYPES, TABLE
from modledger.projections.audit_search import KINDS, Filters, Page, Search, needs_kinds, page, statement
from modledger.projections.catalog import create
from tests.postgres_server import create_database, drop_database

ROWS = 1_000_000
NOW = datetime(2026, 11, 1, tzinfo=UTC)
# A third of all events is one actor's, one guild has 70,000, one user 5,000.
BUSY_ACTOR, ACTOR, NOBODY = 9_000, 9_077, 7
BUSY_GUILD, BUSY_USER, USER = 500, 100_000, 250_000
TYPES = sorted(EVENT_TYPES.values())
IMPORT, BULK, NO_REQUEST = (UUID(md5(name.encode()).hexdigest()) for name in ("import", "777", "nothing"))

# Half of all events are warnings, a quarter their ends; every other type has its share of the rest.
FILL = """
    insert into audit_log
    select n,
        case when n %% 100 < 7 then case when n %% 2 = 0 then 'GUILD_WARN' else 'GUILD_PUNISHMENT_LAPSE' end
             when n %% 4 < 2 then 'USER_WARN' when n %% 4 = 2 then 'USER_PUNISHMENT_LAPSE'
             else (%(types)s::text[])[1 + n / 4 %% cardinality(%(types)s::text[])] end,
        case when n %% 100 < 7 then %(guild)s when n %% 200 = 10 then %(user)s
             else %(user)s + 1 + (random() * 400000)::bigint end,
        case when n %% 3 = 0 then %(actor)s when n %% 5 > 0 then %(actor)s + 1 + n %% 2000 end,
        %(now)s - (%(rows)s - n) * interval '90 seconds',
        -- An import of 100,000 records, many requests of one event, some of two hundred.
        case when n <= 100000 then %(import)s::uuid when n %% 1000 < 200 then md5((n / 1000)::text)::uuid
             else md5('alone ' || n)::uuid end
    from generate_series(1, %(rows)s) n
"""
COUNT = """
    insert into audit_log_counts
    select a, w, event_type, count(*) from audit_log,
        lateral (values (0::bigint), (actor_id)) as of_actor (a),
        lateral (values (0), (1 + ((occurred_at at time zone 'UTC')::date - date '0001-01-01') / 7)) as of_week (w)
    where a is not null group by 1, 2, 3
"""


@pytest.fixture(scope="module")
def conn(postgres_server: str) -> Iterator[psycopg.Connection]:
    name = f"audit_plans_{uuid4().hex}"
    with psycopg.connect(create_database(postgres_server, name), autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("create table projection_tracking (application_name text primary key, notification_id bigint)")
        cursor.execute("insert into projection_tracking values ('audit_log', %s)", (ROWS,))
        create(cursor, COUNTS)
        # The indexes after the rows, which takes half the time.
        create(cursor, msgspec.structs.replace(TABLE, indexes={}))
        values: dict[str, Any] = {"rows": ROWS, "now": NOW, "types": TYPES, "import": IMPORT}
        cursor.execute(FILL, {**values, "guild": BUSY_GUILD, "user": BUSY_USER, "actor": BUSY_ACTOR})
        for index, on in TABLE.indexes.items():
            cursor.execute(f"create index {index} on {TABLE.name} {on}".encode())
        cursor.execute(COUNT)
        cursor.execute("vacuum analyze audit_log")
        cursor.execute("vacuum analyze audit_log_counts")
        yield connection
    drop_database(postgres_server, name)


ACTORS = (None, BUSY_ACTOR, ACTOR, NOBODY)
ENTITIES = (None, BUSY_GUILD, BUSY_USER, USER)
KINDS_OF_ENTITIES: tuple[SubjectKind | None, ...] = (None, "user", "guild", "bot")
TYPES_ASKED: tuple[tuple[str, ...] | None, ...] = (None, ("USER_WARN",), ("BOT_RENAME",), ("USER_TIMEOUT", "USER_WARN"))
LATELY, LONG_AGO = NOW - timedelta(days=3, hours=5), NOW - timedelta(days=900, hours=5)
DATES = ((None, None), (LATELY, None), (None, LONG_AGO), (LONG_AGO, LONG_AGO + timedelta(days=10)), (LONG_AGO, LATELY))
PLACES: tuple[dict[str, int], ...] = ({}, {"offset": 100_000}, {"limit": 200})


def searches() -> Iterator[Search]:
    for actor, entity_id, entity, types, (since, until) in product(
        ACTORS, ENTITIES, KINDS_OF_ENTITIES, TYPES_ASKED, DATES
    ):
        filters = Filters(
            event_types=types, entity=entity, entity_id=entity_id, actor_id=actor, since=since, until=until
        )
        for place in PLACES:
            yield Search(filters=filters, offset=place.get("offset", 0), limit=place.get("limit", 50))
        for correlation_id in (IMPORT, BULK, NO_REQUEST):
            yield Search(filters=msgspec.structs.replace(filters, correlation_id=correlation_id))


def asked(conn: psycopg.Connection, search: Search) -> tuple[str, list[object]]:
    kinds: list[str] = []
    if needs_kinds(search.filters):
        kinds = kinds_of(conn, search.filters.actor_id or 0)
    return statement(search, kinds)


@cache
def kinds_of(conn: psycopg.Connection, actor_id: int) -> list[str]:
    found = psycopg.RawCursor(conn).execute(KINDS, (actor_id,)).fetchone()
    assert found is not None
    kinds: list[str] = found[1]
    return kinds


def plan(conn: psycopg.Connection, sql: str, parameters: list[object]) -> str:
    lines = psycopg.RawCursor(conn).execute(f"explain (costs off) {sql}", parameters, prepare=False).fetchall()
    return "\n".join(line for (line,) in lines)


def test_every_combination_of_filters_goes_by_an_index(conn: psycopg.Connection) -> None:
    tried = 0
    for search in searches():
        found = plan(conn, *asked(conn, search))
        assert "Seq Scan on audit_log" not in found, (search, found)
        tried += 1
    assert tried == 4 * 4 * 4 * 4 * 5 * (3 + 3)


def test_which_types_there_are_is_asked_of_an_index(conn: psycopg.Connection) -> None:
    for actor in (0, BUSY_ACTOR, ACTOR):
        assert "audit_log_counts_pkey" in plan(conn, KINDS, [actor])


WALKS = [
    (Filters(), "audit_log_pkey"),
    (Filters(event_types=("USER_BAN",)), "audit_log_type"),
    (Filters(entity="guild"), "audit_log_type"),
    (Filters(actor_id=BUSY_ACTOR), "audit_log_actor"),
    (Filters(actor_id=ACTOR, event_types=("USER_WARN",)), "audit_log_actor"),
    (Filters(entity_id=BUSY_GUILD), "audit_log_entity"),
    (Filters(entity_id=BUSY_GUILD, actor_id=BUSY_ACTOR), "audit_log_entity"),
    (Filters(correlation_id=IMPORT), "audit_log_correlation"),
]


@pytest.mark.parametrize(("filters", "index"), WALKS)
def test_a_page_is_a_walk_along_the_index_that_has_its_order(
    conn: psycopg.Connection, filters: Filters, index: str
) -> None:
    found = plan(conn, *asked(conn, Search(filters=filters)))
    assert index in found
    # However deep the page: nothing is sorted but the page itself, at the top.
    assert found.count("Sort Key") <= (2 if "Merge Append" in found else 1), found


@pytest.mark.parametrize(
    "filters",
    [
        Filters(correlation_id=BULK),
        Filters(correlation_id=BULK, entity_id=BUSY_GUILD, entity="guild"),
        Filters(correlation_id=BULK, actor_id=BUSY_ACTOR, event_types=("USER_WARN",)),
        Filters(correlation_id=NO_REQUEST, since=LONG_AGO, until=LATELY),
    ],
)
def test_what_one_request_did_is_looked_up_by_its_id_whatever_else_is_asked(
    conn: psycopg.Connection, filters: Filters
) -> None:
    found = plan(conn, *asked(conn, Search(filters=filters)))
    # Once for the page and once for its total.
    indexes = set(re.findall(r"(?:Scan using|Index Scan on) (\w+)", found))
    assert indexes - {"projection_tracking_pkey"} == {"audit_log_correlation"}, found
    assert "Seq Scan on audit_log" not in found


def test_totals_are_exact(conn: psycopg.Connection) -> None:
    def ask(search: Search) -> Page:
        return page(search, psycopg.RawCursor(conn).execute(*asked(conn, search), prepare=False).fetchall())

    within = f"occurred_at >= '{LONG_AGO.isoformat()}' and occurred_at < '{LATELY.isoformat()}'"
    dated = Filters(since=LONG_AGO, until=LATELY)
    for filters, where in (
        (Filters(), "true"),
        (Filters(actor_id=ACTOR), f"actor_id = {ACTOR}"),
        (Filters(correlation_id=BULK), f"correlation_id = '{BULK}'"),
        (Filters(correlation_id=IMPORT, entity="guild"), f"correlation_id = '{IMPORT}' and event_type like 'GUILD%'"),
        (msgspec.structs.replace(dated, entity="guild"), f"event_type like 'GUILD%' and {within}"),
        (msgspec.structs.replace(dated, event_types=("USER_WARN",)), f"event_type = 'USER_WARN' and {within}"),
    ):
        counted = conn.execute(f"select count(*) from audit_log where {where}".encode()).fetchone()
        assert (ask(Search(filters=filters)).total,) == counted

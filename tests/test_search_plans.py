"""One plan for all values: what a search of punishments reads when its statement was prepared, on skewed rows."""

from collections.abc import Iterator
from itertools import product
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest

from bench.search_rows import ISSUER, NOW, USER, fill_punishments
from modledger.http.reader import SESSION
from modledger.projections.search import SORTS, Search, is_steady, page, statement
from tests.large_tables import indexes_afterwards
from tests.postgres_server import create_database, drop_database

ROWS = 40_000
# The issuer of a third, one of 2,000 others, nobody; the user with the most.
SUBJECTS: tuple[dict[str, int], ...] = ({}, {"issued_by": ISSUER}, {"issued_by": ISSUER + 77}, {"user_id": USER})
# Of a third, of one in twelve, of a few, of none.
WORDS = (None, "auto", "spa", "7a3b", "nothing")
LARGE = ("punishments", "ordinal_marks", "reason_words", "punishment_counts")


@pytest.fixture(scope="module")
def conn(postgres_server: str, template_database: str) -> Iterator[psycopg.Connection[Any]]:
    name = f"search_plans_{uuid4().hex}"
    with psycopg.connect(create_database(postgres_server, name, template_database), autocommit=True) as connection:
        with indexes_afterwards(connection, "punishments"):
            fill_punishments(connection, ROWS)
        connection.execute("vacuum analyze")
        # As the product reads, but for as long as it takes here.
        connection.execute(f"{SESSION}; set statement_timeout = 0".encode())
        yield connection
    drop_database(postgres_server, name)


def steady() -> Iterator[Search]:
    for subject, q, kind, active, sort in product(SUBJECTS, WORDS, (None, 1, 3), (False, True), SORTS):
        filters: dict[str, Any] = {**subject, "q": q, "type": kind, "active_only": active, "sort": sort}
        if is_steady(search := Search(**filters)):
            yield search


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def explained(conn: psycopg.Connection[Any], search: Search) -> list[dict[str, Any]]:
    sql, parameters = statement(search, NOW, fragments=True)
    cursor = psycopg.RawCursor(conn)
    cursor.execute(f"explain (analyze, timing off, format json) {sql}".encode(), parameters, prepare=False)
    ((found,),) = cursor.fetchall()
    return list(nodes(found[0]["Plan"]))


def rows_read(plan: list[dict[str, Any]]) -> int:
    """How many rows, or entries of indexes, of ``punishments`` were looked at."""
    looked_at = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return sum(
        round(sum(node.get(key, 0) for key in looked_at) * node["Actual Loops"])
        for node in plan
        if node.get("Relation Name") == "punishments" and node["Node Type"] != "CTE Scan"
    )


def test_one_plan_for_all_reads_about_what_it_answers_whoever_is_asked_about(conn: psycopg.Connection[Any]) -> None:
    ((overdue,),) = conn.execute("select count(*) from punishments where due_at <= %s", (NOW,)).fetchall()
    ((of_user,),) = conn.execute("select count(*) from punishments where user_id = %s", (USER,)).fetchall()
    assert of_user == ROWS // 200
    tried = 0
    for search in steady():
        if search.q is not None:
            continue
        plan = explained(conn, search)
        answered = page(search, psycopg.RawCursor(conn).execute(*statement(search, NOW, fragments=True)).fetchall())
        followed = msgspec.structs.replace(search, cursor=answered.next_cursor)
        for one in (plan, explained(conn, followed)):
            # Once for the page and once for the total; else of each of eight walks a page and what it passes.
            most = 2 * of_user if search.user_id is not None else 8 * (search.limit + 1) + 3 * overdue
            assert rows_read(one) <= most, search
            tried += 1
    assert tried == 4 * 3 * 2 * 4 * 2


def test_no_plan_for_all_reads_a_table_from_end_to_end(conn: psycopg.Connection[Any]) -> None:
    words = 0
    for search in steady():
        words += search.q is not None
        for node in explained(conn, search):
            assert node["Node Type"] != "Seq Scan" or node["Relation Name"] not in LARGE, search
    assert words == 3 * 4 * 3 * 2 * 4


@pytest.mark.parametrize("filters", [{}, {"q": "spa"}, {"active_only": True}, {"sort": "expires_at", "q": "auto"}])
def test_a_search_is_planned_once_for_whoever_is_asked_about(
    conn: psycopg.Connection[Any], filters: dict[str, Any]
) -> None:
    asked = [statement(Search(issued_by=ISSUER + n, limit=n + 1, **filters), NOW, fragments=True) for n in range(12)]
    ((sql,),) = {(sql,) for sql, _ in asked}
    cursor = psycopg.RawCursor(conn)
    for _, parameters in asked:
        cursor.execute(sql.encode(), parameters, prepare=True).fetchall()
    cursor.execute("select custom_plans from pg_prepared_statements where statement = $1", (sql,))
    # PostgreSQL tries the first five ways by themselves before it compares.
    assert [custom <= 5 for (custom,) in cursor.fetchall()] == [True]


def between(conn: psycopg.Connection[Any], until: float, **filters: Any) -> Search:
    """From the third tenth of all rows on, up to a share of them."""
    ((after, before),) = conn.execute(
        "select percentile_disc(0.3) within group (order by created_at),"
        " percentile_disc(%s) within group (order by created_at) from punishments",
        (until,),
    ).fetchall()
    return Search(created_after=after, created_before=before, sort="-expires_at", **filters)


def ways_taken(conn: psycopg.Connection[Any], search: Search) -> set[str]:
    """How those that end were looked for. What is not chosen stands in the plan and is never begun."""
    begun = [node for node in explained(conn, search) if node["Actual Loops"]]
    walked = [node for node in begun if "< 'infinity'" in node.get("Index Cond", "")]
    assert all(node["Index Name"].endswith("_ends") for node in walked)
    sorts = [node for node in begun if node.get("Subplan Name") == "CTE first_of_sorted"]
    fetched = [node for sort in sorts for node in nodes(sort) if node["Actual Loops"] and "Relation Name" in node]
    return {"walked along" for _ in walked} | {"sorted" for _ in fetched}


def behind_those_without_an_end(conn: psycopg.Connection[Any], search: Search) -> Search:
    """The page after the first that ends."""
    cursor = psycopg.RawCursor(conn)
    endless = 0
    while True:
        asked = msgspec.structs.replace(search, limit=endless + 1)
        found = page(asked, cursor.execute(*statement(asked, NOW, fragments=True)).fetchall())
        if found.punishments[-1].expires_at is not None:
            return msgspec.structs.replace(search, cursor=found.next_cursor)
        endless = 2 * endless + 1


@pytest.mark.parametrize(("until", "way"), [(0.301, "sorted"), (0.5, "walked along")])
@pytest.mark.parametrize("filters", [{}, {"issued_by": ISSUER}, {"type": 2}, {"active_only": True}])
def test_between_dates_the_last_ends_are_sorted_where_there_are_few_and_else_walked_along(
    conn: psycopg.Connection[Any], filters: dict[str, Any], until: float, way: str
) -> None:
    search = behind_those_without_an_end(conn, between(conn, until, **filters))
    assert ways_taken(conn, search) == {way}


@pytest.mark.parametrize("until", [0.35, 0.5])
@pytest.mark.parametrize("filters", [{}, {"issued_by": ISSUER}, {"type": 1}, {"active_only": True}])
def test_between_dates_nobody_looks_for_the_last_ends_where_those_without_are_a_page(
    conn: psycopg.Connection[Any], filters: dict[str, Any], until: float
) -> None:
    assert ways_taken(conn, between(conn, until, **filters)) == set()

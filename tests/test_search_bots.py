"""The search for bots: pages, totals and cursors are those of the filtered and sorted whole."""

import asyncio
import base64
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.domain import events
from modledger.projections import bots, user_detail
from modledger.projections.bot_search import Page, Search, find, page, statement
from modledger.projections.bots import Bot
from modledger.projections.fragments import FragmentsNeeded
from modledger.projections.profile import name_key
from modledger.projections.projector import advance
from tests.large_tables import indexes_afterwards
from tests.postgres_server import create_database, drop_database
from tests.projection_history import DAY, HOUR, NOW, Happened, append, memory_ledger

HOW_MANY = 120
NAMES = [
    "music",
    "MUSIC",
    "Music Box",
    "mod_bot",
    "mod%bot",
    r"m\o",
    "Straße",
    "STRASSE",
    "Ωμέγα",
    "17",
    "1x",
    "😀😀😀",
]


def history() -> list[Happened]:
    """Bots of every type, of five owners, of which some are switched off and some erased, many of the same name."""
    made = []
    for n in range(1, HOW_MANY + 1):
        stream, begin = f"bot:{n}", NOW + n // 3 * HOUR
        registered = events.BotRegistered(name=NAMES[n % len(NAMES)], owner_id=1 + n % 5, bot_type=1 + n % 3)
        made.append(Happened(stream, registered, begin))
        if n % 4 == 0:
            made.append(Happened(stream, events.BotDeactivated(), begin))
        if n % 8 == 0:
            made.append(Happened(stream, events.BotActivated(), begin))
        if n % 9 == 0:
            changed = events.BotOwnerChanged(old_owner_id=1 + n % 5, owner_id=1 + (n + 1) % 5)
            made.append(Happened(stream, changed, begin))
        if n % 10 == 0:
            made.append(Happened(stream, events.BotRenamed(old_name="x", name="renamed"), begin + DAY))
        if n % 13 == 0:
            made.append(Happened(stream, events.SubjectErased(reason="request"), begin + DAY))
    return made


@pytest.fixture(scope="module")
def database_url(postgres_server: str, template_database: str) -> Iterator[str]:
    name = f"bots_{uuid4().hex}"
    url = create_database(postgres_server, name, template_database)
    versions: dict[str, int] = {}
    with memory_ledger() as ledger, psycopg.connect(url, autocommit=True) as conn:
        for happened in history():
            append(ledger, versions, happened)
        while advance(conn, bots.PROJECTOR, ledger, 30).more:
            pass
    yield url
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def conn(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def rows(conn: psycopg.Connection) -> list[Bot]:
    columns = ", ".join(bots.TABLE.columns)
    found = [bots.row_of(line) for line in conn.execute(f"select {columns} from bots".encode()).fetchall()]
    assert len(found) == HOW_MANY
    return [row for row in found if row is not None]


def ask(conn: psycopg.Connection, search: Search, *, fragments: bool = True) -> Page:
    sql, parameters = statement(search, fragments=fragments)
    return page(search, psycopg.RawCursor(conn).execute(sql.encode(), parameters, prepare=False).fetchall())


def found_by(row: Bot, q: str, *, fragments: bool) -> bool:
    key = name_key(q)
    named = key in row.name_key if fragments and len(key) >= 3 else row.name_key.startswith(key)
    return named or q == str(row.bot_id)


def expected(rows: Sequence[Bot], search: Search, *, fragments: bool) -> list[int]:
    wanted = [
        row
        for row in rows
        if row.registered
        and (row.active or search.inactive_too)
        and search.owner_id in (None, row.owner_id)
        and search.bot_type in (None, row.bot_type)
        and (search.q is None or found_by(row, search.q, fragments=fragments))
    ]
    return [row.bot_id for row in sorted(wanted, key=lambda row: (row.name_key, row.bot_id))]


QUERIES = [
    "m",
    "MU",
    "music",
    "usic",
    "c b",
    "_",
    "%",
    "mod_",
    "d%b",
    "\\",
    "ß",
    "strasse",
    "μέγ",
    "😀",
    "1",
    "17",
    "20",
]
QUERIES += ["renamed", "117", "999", "0", "nobody", "[erased]"]
SEARCHES = st.builds(
    Search,
    q=st.sampled_from([None, None, *QUERIES]),
    owner_id=st.sampled_from([None, None, 1, 2, 99]),
    bot_type=st.sampled_from([None, None, 1, 2, 3]),
    inactive_too=st.booleans(),
    limit=st.integers(1, 40),
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(search=SEARCHES, fragments=st.booleans())
def test_pages_by_cursor_and_by_offset_are_the_filtered_and_sorted_whole(
    conn: psycopg.Connection, rows: list[Bot], search: Search, fragments: bool
) -> None:
    q = search.q
    if (
        not fragments
        and q is not None
        and len(name_key(q)) >= 3
        and not any(found_by(row, q, fragments=False) for row in rows)
    ):
        with pytest.raises(FragmentsNeeded):
            ask(conn, search, fragments=False)
        return
    whole = expected(rows, search, fragments=fragments)
    by_offset: list[int] = []
    by_cursor: list[int] = []
    cursor = None
    while True:
        next_page = msgspec.structs.replace(search, offset=len(by_offset))
        offset_page = ask(conn, next_page, fragments=fragments)
        cursor_page = offset_page
        # Without a cursor, on the first page, it is the same question.
        if cursor is not None:
            cursor_page = ask(conn, msgspec.structs.replace(search, cursor=cursor), fragments=fragments)
        assert offset_page.total == cursor_page.total == len(whole)
        by_offset += [one.bot.bot_id for one in offset_page.bots]
        by_cursor += [one.bot.bot_id for one in cursor_page.bots]
        cursor = cursor_page.next_cursor
        assert (cursor is None) == (offset_page.next_cursor is None) == (len(by_cursor) >= len(whole))
        if cursor is None:
            break
    assert by_offset == whole
    assert by_cursor == whole


def test_the_counts_are_those_of_the_rows(conn: psycopg.Connection, rows: list[Bot]) -> None:
    line = conn.execute(bots.STATISTICS.encode()).fetchone()
    assert line is not None
    found = bots.statistics(line)
    registered = [row.bot_type for row in rows if row.registered]
    assert (found.total, found.official, found.verified, found.community) == (
        len(registered),
        registered.count(1),
        registered.count(2),
        registered.count(3),
    )
    assert found.position == len(history())


@pytest.mark.parametrize("inactive_too", [False, True])
def test_the_newest_come_first_page_by_page(conn: psycopg.Connection, rows: list[Bot], inactive_too: bool) -> None:
    wanted = [row for row in rows if row.registered and (row.active or inactive_too)]
    wanted.sort(key=lambda row: (row.created_at, row.bot_id), reverse=True)
    found: list[int] = []
    for offset in range(0, len(wanted) + 14, 7):
        lines = psycopg.RawCursor(conn).execute(bots.NEWEST.encode(), (inactive_too, offset, 7)).fetchall()
        assert {line[1] for line in lines} == {len(wanted)}
        found += [owned.bot.bot_id for line in lines if (owned := bots.owned_or_none(line[2:])) is not None]
    assert found == [row.bot_id for row in wanted]


def test_owners_are_shown_their_active_bots(conn: psycopg.Connection, rows: list[Bot]) -> None:
    (line,) = psycopg.RawCursor(conn).execute(user_detail.BY_IDS.encode(), ([2],)).fetchall()
    wanted = [row for row in rows if row.registered and row.active and row.owner_id == 2]
    wanted.sort(key=lambda row: (row.created_at, row.bot_id), reverse=True)
    assert [one.bot for one in user_detail.detail_of(line).bots] == wanted


def test_the_asynchronous_door_gives_the_same_page(conn: psycopg.Connection, database_url: str) -> None:
    search = Search(q="usic", bot_type=2, limit=3)

    async def found() -> Page:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            return await find(connection, search, fragments=True)

    assert asyncio.run(found()) == ask(conn, search)


def test_a_page_behind_the_end_is_empty_and_keeps_its_total_and_position(conn: psycopg.Connection) -> None:
    for q in (None, "m", "usic"):
        whole, beyond = ask(conn, Search(q=q)), ask(conn, Search(q=q, offset=10_000))
        assert (beyond.bots, beyond.total, beyond.next_cursor) == ([], whole.total, None)
        assert beyond.position == whole.position == len(history())


@pytest.mark.parametrize("other", [{"q": "m"}, {"owner_id": 1}, {"bot_type": 1}, {"inactive_too": True}])
def test_a_cursor_is_bound_to_its_filters(conn: psycopg.Connection, other: dict[str, Any]) -> None:
    cursor = ask(conn, Search(limit=1)).next_cursor
    assert cursor is not None
    with pytest.raises(ValueError, match="cursor belongs to another search"):
        statement(Search(cursor=cursor, **other), fragments=True)
    with pytest.raises(ValueError, match="exclude each other"):
        statement(Search(cursor=cursor, offset=1), fragments=True)


@pytest.mark.parametrize("cursor", ["", "x", "ünïcode", base64.urlsafe_b64encode(b'["a",["b",0]]').decode()])
def test_garbage_is_no_cursor(cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor is not valid"):
        statement(Search(cursor=cursor), fragments=True)


PLANS: list[tuple[Search, set[str]]] = [
    (Search(), {"bots_cells"}),
    (Search(bot_type=2, inactive_too=True), {"bots_cells"}),
    (Search(owner_id=3), {"bots_owner_cells"}),
    (Search(owner_id=3, bot_type=1), {"bots_owner_cells"}),
    (Search(q="ab"), set()),
    (Search(q="ab", bot_type=1), {"bots_cells"}),
    (Search(q="ab", owner_id=3, bot_type=2), {"bots_owner_cells"}),
    (Search(q="77", inactive_too=True), {"bots_pkey"}),
    (Search(q="1f3"), {"bots_name_code"}),
    (Search(q="1f3a", bot_type=2), {"bots_name_code"}),
    (Search(q="12345"), {"bots_name_code", "bots_pkey"}),
]


@pytest.fixture(scope="module")
def crowded(postgres_server: str, template_database: str) -> Iterator[psycopg.Connection]:
    """A hundred thousand bots, of which owner 3 has a few."""
    name = f"crowd_{uuid4().hex}"
    url = create_database(postgres_server, name, template_database)
    with psycopg.connect(url, autocommit=True) as connection:
        with indexes_afterwards(connection, "bots"):
            connection.execute(
                "insert into bots (bot_id, id, version, registered, name, name_key, name_code, owner_id, bot_type,"
                " rate_limit_per_hour, active, keys_from, created_at, updated_at)"
                " select n, n, 1, true, md5(n::text), md5(n::text), md5(n::text),"
                " case when n % 9999 = 0 then 3 else n end, 1 + n % 3,"
                " 1000, n % 20 <> 0, 0, now(), now() from generate_series(1, 100000) as n"
            )
        connection.execute("vacuum analyze bots")
        yield connection
    drop_database(postgres_server, name)


@pytest.mark.parametrize(("search", "indexes"), PLANS)
def test_every_combination_is_served_by_an_index(
    crowded: psycopg.Connection, search: Search, indexes: set[str]
) -> None:
    sql, parameters = statement(search, fragments=True)
    cursor = psycopg.RawCursor(crowded)
    plan = " ".join(line for (line,) in cursor.execute(f"explain (costs off) {sql}".encode(), parameters).fetchall())
    assert "Seq Scan on bots" not in plan
    assert indexes <= {index for index in ("bots_pkey", *bots.TABLE.indexes, *bots.TABLE.fragments) if index in plan}


@pytest.mark.parametrize(
    ("query", "parameters", "index"),
    [
        (bots.NEWEST, (False, 0, 25), "bots_created"),
        (bots.NEWEST, (True, 500, 25), "bots_created"),
        (user_detail.BY_IDS, ([3],), "bots_owner"),
        (bots.BY_IDS, ([5],), "bots_pkey"),
    ],
)
def test_the_lists_are_served_by_an_index(
    crowded: psycopg.Connection, query: str, parameters: tuple[object, ...], index: str
) -> None:
    cursor = psycopg.RawCursor(crowded)
    plan = " ".join(line for (line,) in cursor.execute(f"explain (costs off) {query}".encode(), parameters).fetchall())
    assert "Seq Scan on bots" not in plan
    assert index in plan

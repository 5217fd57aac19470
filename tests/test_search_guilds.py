"""The search of guilds: pages, totals and cursors against a plain filter over all, states and tiers that end, plans."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import product
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from modledger.domain import events
from modledger.projections import guilds
from modledger.projections.catalog import create_missing
from modledger.projections.fragments import FragmentsNeeded, code
from modledger.projections.guild_search import Page, Search, find, page, statement
from modledger.projections.guilds import Guild
from modledger.projections.profile import name_key
from modledger.projections.projector import advance
from tests.large_tables import indexes_afterwards
from tests.postgres_server import create_database, drop_database
from tests.projection_history import ADMIN, DAY, HOUR, NOW, SECOND, Happened, append, memory_ledger

NAMES = [
    "Alpha",
    "ALPHABET",
    "beta",
    "Über",
    "STRASSE",
    "Straße 7",
    "100%",
    "under_score",
    "back\\slash",
    "12",
    "αβγ",
    "a",
]
TIMES = [NOW + hours * HOUR for hours in (-3, -1, 0, 1, 2)]


def history() -> list[Happened]:
    """90 guilds: of every state and tier, some with ends that have come, some without a name."""
    made = []
    for n in range(1, 91):
        stream = f"guild:{n}"
        at = NOW - DAY
        if n % 9:
            made.append(
                Happened(stream, events.GuildRegistered(name=NAMES[n % len(NAMES)], owner_id=n % 4 or None), at)
            )
        else:
            made.append(Happened(stream, events.GuildWarned(reason="unknown"), at, ADMIN))
        if n % 5 == 0:
            made.append(Happened(stream, events.GuildStateChanged(old_state=0, state=1), at, ADMIN))
        if n % 7 < 3:
            until = (None, TIMES[n % 5], TIMES[n % 4])[n % 3]
            made.append(Happened(stream, events.GuildBlacklisted(reason="raid", expires_at=until), at, ADMIN))
        match n % 6:
            case 0:
                made.append(Happened(stream, events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None), at))
            case 1 | 2:
                granted = events.SubscriptionGranted(old_tier=0, tier=2, expires_at=TIMES[n % 5])
                made.append(Happened(stream, granted, at, ADMIN))
            case 3:
                made.append(Happened(stream, events.TrialStarted(old_tier=0, expires_at=TIMES[n % 4]), at, ADMIN))
        if n % 45 == 1:
            made.append(Happened(stream, events.SubjectErased(reason="request"), at, ADMIN))
    return made


@pytest.fixture(scope="module")
def database_url(postgres_server: str, template_database: str) -> Iterator[str]:
    name = f"guild_search_{uuid4().hex}"
    url = create_database(postgres_server, name, template_database)
    versions: dict[str, int] = {}
    with memory_ledger() as ledger, psycopg.connect(url, autocommit=True) as conn:
        assert create_missing(conn) == []
        for happened in history():
            append(ledger, versions, happened)
        while advance(conn, guilds.PROJECTOR, ledger, 17).more:
            pass
    yield url
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def ask(conn: psycopg.Connection[Any], search: Search, now: datetime = NOW, *, fragments: bool = True) -> Page:
    sql, parameters = statement(search, now, fragments=fragments)
    return page(search, psycopg.RawCursor(conn).execute(sql, parameters, prepare=False).fetchall())


def rows_of(found: Page) -> list[Guild]:
    return [item.owned.guild for item in found.guilds]


def matches(row: Guild, search: Search, now: datetime, *, fragments: bool) -> bool:
    if search.state not in (None, guilds.state(row, now)) or search.tier not in (None, guilds.tier(row, now)):
        return False
    if search.q is None or search.q == str(row.guild_id):
        return True
    if row.name is None:
        return False
    name, q = name_key(row.name), name_key(search.q)
    # Of three characters and more as it is compared: an ß is two.
    return q in name if fragments and len(q) >= 3 else name.startswith(q)


@pytest.fixture(scope="module")
def every(conn: psycopg.Connection[Any]) -> list[Guild]:
    found = rows_of(ask(conn, Search(limit=1000)))
    assert len(found) == 90
    return found


def expected(every: list[Guild], search: Search, now: datetime, *, fragments: bool) -> list[Guild]:
    wanted = [row for row in every if matches(row, search, now, fragments=fragments)]
    return sorted(wanted, key=lambda row: (row.name is None, name_key(row.name or ""), row.guild_id))


PIECES = st.sampled_from(NAMES).flatmap(
    lambda name: st.tuples(st.integers(0, len(name) - 1), st.integers(1, len(name))).map(
        lambda cut: name[cut[0] : cut[0] + cut[1]]
    )
)
QUERIES = (
    st.none() | PIECES.map(str.strip).filter(bool) | st.sampled_from(["7", "12", "90", "999", "%", "_", "\\", "zzz"])
)
SEARCHES = st.builds(
    Search,
    q=QUERIES,
    state=st.sampled_from([None, None, 0, 1, 2]),
    tier=st.sampled_from([None, None, 0, 1, 2, 3]),
    limit=st.integers(1, 40),
)
MOMENTS = st.sampled_from([at + by for at in TIMES for by in (-SECOND, 0 * SECOND, SECOND)])


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(search=SEARCHES, now=MOMENTS, fragments=st.booleans())
@example(search=Search(q="aß", limit=5), now=NOW, fragments=True)
@example(search=Search(q="aß", limit=5), now=NOW, fragments=False)
def test_pages_by_cursor_and_by_offset_are_the_filtered_and_sorted_whole(
    conn: psycopg.Connection[Any], every: list[Guild], search: Search, now: datetime, fragments: bool
) -> None:
    whole = expected(every, search, now, fragments=fragments)
    if not fragments and search.q is not None and len(name_key(search.q)) >= 3:
        anywhere = msgspec.structs.replace(search, state=None, tier=None)
        if not expected(every, anywhere, now, fragments=False):
            with pytest.raises(FragmentsNeeded):
                ask(conn, search, now, fragments=False)
            return
    by_offset: list[Guild] = []
    by_cursor: list[Guild] = []
    cursor = None
    while True:
        offset_page = ask(conn, msgspec.structs.replace(search, offset=len(by_offset)), now, fragments=fragments)
        cursor_page = offset_page
        # Without a cursor, on the first page, it is the same question.
        if cursor is not None:
            cursor_page = ask(conn, msgspec.structs.replace(search, cursor=cursor), now, fragments=fragments)
        assert offset_page.total == cursor_page.total == len(whole)
        by_offset += rows_of(offset_page)
        by_cursor += rows_of(cursor_page)
        cursor = cursor_page.next_cursor
        assert (cursor is None) == (offset_page.next_cursor is None) == (len(by_cursor) >= len(whole))
        if cursor is None:
            break
    assert by_offset == whole
    assert by_cursor == whole


@pytest.mark.parametrize("end", TIMES)
def test_state_and_tier_change_at_their_very_second_with_no_worker_running(
    conn: psycopg.Connection[Any], every: list[Guild], end: datetime
) -> None:
    for now, (state, tier) in product((end - SECOND, end), product((None, 0, 1, 2), (None, 0, 1, 2, 3))):
        search = Search(state=state, tier=tier, limit=100)
        found = ask(conn, search, now)
        assert rows_of(found) == expected(every, search, now, fragments=True)
        assert found.total == len(found.guilds)


@pytest.mark.parametrize("now", [TIMES[0] - SECOND, *TIMES, TIMES[-1] + SECOND])
def test_the_statistics_are_of_registered_guilds_as_they_are_now(conn: psycopg.Connection[Any], now: datetime) -> None:
    every = [row for row in rows_of(ask(conn, Search(limit=1000))) if row.registered]
    tiers = [guilds.tier(row, now) for row in every]
    line = psycopg.RawCursor(conn).execute(guilds.STATISTICS, (now,)).fetchone()
    assert line is not None
    assert guilds.statistics(line) == guilds.Statistics(
        position=len(history()),
        total_count=len(every),
        whitelisted_count=sum(tier >= 2 for tier in tiers),
        trial_count=tiers.count(1),
        guild_access_count=sum(tier >= 1 for tier in tiers),
    )


def test_an_empty_database_answers_an_empty_page_and_zeroes(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        for search in (Search(), Search(state=2), Search(tier=1), Search(q="abc"), Search(q="7", state=0)):
            found = ask(conn, search)
            assert (found.guilds, found.total, found.next_cursor, found.position) == ([], 0, None, 0)
        line = psycopg.RawCursor(conn).execute(guilds.STATISTICS, (NOW,)).fetchone()
        assert line == (0, 0, 0, 0)


@pytest.mark.parametrize("other", [{"q": "a"}, {"state": 0}, {"tier": 0}])
def test_a_cursor_is_bound_to_its_filters(conn: psycopg.Connection[Any], other: dict[str, Any]) -> None:
    for one, another in (({}, other), (other, {})):
        cursor = ask(conn, Search(limit=1, **one)).next_cursor
        with pytest.raises(ValueError, match="cursor belongs to another search"):
            statement(Search(cursor=cursor, **another), NOW, fragments=True)


def test_a_cursor_takes_no_offset(conn: psycopg.Connection[Any]) -> None:
    cursor = ask(conn, Search(limit=1)).next_cursor
    with pytest.raises(ValueError, match="exclude each other"):
        statement(Search(cursor=cursor, offset=1), NOW, fragments=True)
    with pytest.raises(ValueError, match="cursor is not valid"):
        statement(Search(cursor="garbage"), NOW, fragments=True)


def test_the_asynchronous_door_gives_the_same_page(conn: psycopg.Connection[Any], database_url: str) -> None:
    search = Search(q="alph", state=0, limit=3)

    async def found() -> Page:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            return await find(connection, search, NOW, fragments=True)

    assert asyncio.run(found()) == ask(conn, search)


# -- plans


@pytest.fixture(scope="module")
def many(postgres_server: str, template_database: str) -> Iterator[psycopg.Connection[Any]]:
    """100,000 guilds: one in nine inactive, one in fifty blacklisted, one in five with a tier, ten that just ended."""
    name = f"many_guilds_{uuid4().hex}"
    url = create_database(postgres_server, name, template_database)
    with psycopg.connect(url, autocommit=True) as conn:
        rows = [_row(n) for n in range(1, 100_001)]
        columns = ", ".join(guilds.TABLE.columns)
        with indexes_afterwards(conn, "guilds"):
            for start in range(0, len(rows), 20_000):
                conn.execute(
                    f"insert into guilds ({columns}) select {columns} from json_populate_recordset(null::guilds, %s)",
                    (msgspec.json.encode(rows[start : start + 20_000]).decode(),),
                )
        guilds.count(conn.cursor(), [(None, row) for row in rows])
        conn.execute("vacuum analyze")
        yield conn
    drop_database(postgres_server, name)


def _row(n: int) -> Guild:
    name = None if n % 1000 == 0 else f"{('Gaming', 'Study', 'Music', 'The')[n % 4]} guild {n * 7919 % 100_003}"
    key = None if name is None else name_key(name)
    ending = n % 10_000 == 3
    blacklisted_until = NOW - HOUR if ending else NOW + DAY if n % 50 == 0 else None
    tier = 2 if n % 5 == 0 else 1 if n % 97 == 0 else 3 if n % 89 == 0 else 0
    state_set = int(n % 9 == 0)
    return Guild(
        guild_id=n,
        id=n,
        version=1,
        registered=True,
        name=name,
        name_key=key,
        name_code=None if key is None else code(key),
        owner_id=n % 1000 + 1,
        tier=tier,
        tier_until=NOW + timedelta(days=n % 30 + 1) if tier in (1, 2) else None,
        blacklisted_until=blacklisted_until,
        state_set=state_set,
        state_recorded=state_set if blacklisted_until is None else 2,
        created_at=NOW - DAY,
        updated_at=NOW - DAY,
    )


def scanned(plan: dict[str, Any]) -> set[str]:
    """The tables that are read from end to end."""
    mine = {plan["Relation Name"]} if plan["Node Type"] == "Seq Scan" else set()
    return mine.union(*(scanned(part) for part in plan.get("Plans", ())))


def by_index(name: str, plan: dict[str, Any]) -> list[int]:
    """How many rows the planner expects of each scan of that index."""
    mine = [plan["Plan Rows"]] if plan.get("Index Name") == name else []
    return sum((by_index(name, part) for part in plan.get("Plans", ())), mine)


def plan_of(conn: psycopg.Connection[Any], search: Search, *, fragments: bool) -> dict[str, Any]:
    sql, parameters = statement(search, NOW, fragments=fragments)
    lines = psycopg.RawCursor(conn).execute(f"explain (format json) {sql}", parameters, prepare=False).fetchall()
    plan: dict[str, Any] = lines[0][0][0]["Plan"]
    return plan


# A fragment that stands in a good part of all names is not among them: to count those is to read them.
@pytest.mark.parametrize("fragments", [True, False])
@pytest.mark.parametrize("q", [None, "g", "gaming guild 5", "guild 777", "the", "zzz", "500"])
def test_no_search_reads_the_guilds_from_end_to_end(
    many: psycopg.Connection[Any], q: str | None, fragments: bool
) -> None:
    for state, tier in product((None, 0, 1, 2), (None, 0, 1, 2, 3)):
        first = Search(q=q, state=state, tier=tier)
        after = ask(many, msgspec.structs.replace(first, limit=1)).next_cursor
        for search in (
            first,
            msgspec.structs.replace(first, offset=500),
            msgspec.structs.replace(first, cursor=after),
        ):
            assert "guilds" not in scanned(plan_of(many, search, fragments=fragments)), search


def test_what_has_ended_is_expected_to_be_a_handful(many: psycopg.Connection[Any]) -> None:
    for state, tier in product((0, 1, 2), (None, 0, 1, 2, 3)):
        found = by_index("guilds_first_end", plan_of(many, Search(state=state, tier=tier), fragments=True))
        # Ten they are. Expecting a third of all guilds, the planner would start workers for them.
        assert found
        assert max(found) < 1000, (state, tier)


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        (guilds.BY_IDS, ([5, 500, 50_000],)),
        (guilds.OF_OWNER, (7, 1000)),
        (guilds.STATISTICS, (NOW,)),
        (guilds.BESIDE, (5,)),
    ],
)
def test_no_other_read_does(many: psycopg.Connection[Any], query: str, parameters: tuple[object, ...]) -> None:
    lines = psycopg.RawCursor(many).execute(f"explain (format json) {query}", parameters).fetchall()
    assert "guilds" not in scanned(lines[0][0][0]["Plan"])

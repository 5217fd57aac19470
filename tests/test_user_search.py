"""The search for users: pages, totals and cursors are those of the filtered and sorted whole, at any moment."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.domain import events
from modledger.projections import profile
from modledger.projections.fragments import FragmentsNeeded
from modledger.projections.profile import Profile
from modledger.projections.projector import advance
from modledger.projections.user_search import Page, Search, find, page, statement
from tests.large_tables import indexes_afterwards
from tests.postgres_server import create_database, drop_database
from tests.projection_history import ADMIN, DAY, HOUR, NOW, SECOND, Happened, append, memory_ledger
from tests.random_history import MINUTES

HOW_MANY = 180
NAMES = ["anna", "ANNA", "Anna B", "bannanas", "Straße", "STRASSE", "a_b%c", r"a\b", "Ωμέγα", "17", "1", "😀😀😀", "zz"]


def history() -> list[Happened]:
    """Users of every state, level and tier, many with the same name and some with none, most of whose ends come on the
    day of NOW; every fifth end is recorded, as the clock would."""
    made = []
    for n in range(1, HOW_MANY + 1):
        stream, begin = f"user:{n}", NOW - DAY
        if n % 11:
            made.append(Happened(stream, events.UserRegistered(username=NAMES[n % len(NAMES)]), begin))
        version = len([one for one in made if one.stream == stream])
        until = NOW + (n % 8 - 3) * HOUR
        if n % 3 == 0:
            made.append(Happened(stream, events.UserTimedOut(reason="spam", expires_at=until), begin, ADMIN))
            if n % 5 == 0:
                made.append(Happened(stream, events.PunishmentLapsed(number=version + 1), until))
        if n % 4 == 0:
            forever = n % 16 == 0
            banned = events.UserBanned(reason="raid", expires_at=None if forever else until + HOUR)
            made.append(Happened(stream, banned, begin, ADMIN))
        if n % 5 == 0:
            changed = events.PermissionChanged(old_level=0, new_level=n // 5 % 4, reason="staff")
            made.append(Happened(stream, changed, begin, ADMIN))
        if n % 7 == 0:
            tier = 1 + n // 7 % 3
            end = None if tier == 3 else NOW + (n % 6 - 2) * HOUR
            made.append(Happened(stream, events.SubscriptionGranted(old_tier=0, tier=tier, expires_at=end), begin))
            if n % 2 and end is not None and end < NOW:
                made.append(Happened(stream, events.SubscriptionEnded(old_tier=tier), end))
        if n % 37 == 0:
            made.append(Happened(stream, events.SubjectErased(reason="request"), begin))
        if not [one for one in made if one.stream == stream]:
            made.append(Happened(stream, events.UserWarned(reason="spam"), begin, ADMIN))
    return made


@pytest.fixture(scope="module")
def database_url(postgres_server: str, template_database: str) -> Iterator[str]:
    name = f"users_{uuid4().hex}"
    url = create_database(postgres_server, name, template_database)
    versions: dict[str, int] = {}
    with memory_ledger() as ledger, psycopg.connect(url, autocommit=True) as conn:
        for happened in history():
            append(ledger, versions, happened)
        while advance(conn, profile.PROJECTOR, ledger, 50).more:
            pass
    yield url
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def conn(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def rows(conn: psycopg.Connection) -> list[Profile]:
    columns = ", ".join(profile.TABLE.columns)
    found = [profile.row_of(line) for line in conn.execute(f"select {columns} from profiles".encode()).fetchall()]
    assert len(found) == HOW_MANY
    return found


def ask(conn: psycopg.Connection, search: Search, now: datetime = NOW, *, fragments: bool = True) -> Page:
    sql, parameters = statement(search, now, fragments=fragments)
    return page(search, psycopg.RawCursor(conn).execute(sql, parameters, prepare=False).fetchall())


def found_by(row: Profile, q: str, *, fragments: bool) -> bool:
    key = row.username_key
    named = key is not None and (
        profile.name_key(q) in key
        if fragments and len(profile.name_key(q)) >= 3
        else key.startswith(profile.name_key(q))
    )
    return named or q == str(row.user_id)


def expected(rows: Sequence[Profile], search: Search, now: datetime, *, fragments: bool) -> list[int]:
    wanted = [
        row
        for row in rows
        if search.state in (None, profile.state(row, now))
        and search.level in (None, row.level)
        and search.tier in (None, profile.tier(row, now))
        and (search.q is None or found_by(row, search.q, fragments=fragments))
    ]
    wanted.sort(key=lambda row: (row.username_key is None, row.username_key or "", row.user_id))
    return [row.user_id for row in wanted]


QUERIES = [
    "a",
    "A",
    "ann",
    "AN",
    "anna b",
    "nna",
    "nan",
    "strasse",
    "ß",
    "_",
    "%",
    "a_b",
    "b%c",
    "\\",
    "μέγ",
    "ωμ",
    "😀",
]
QUERIES += ["1", "17", "111", "999", "0", "nobody", "ann%", "ΩΜΈ"]
SEARCHES = st.builds(
    Search,
    q=st.none() | st.sampled_from(QUERIES),
    state=st.none() | st.integers(0, 2),
    level=st.none() | st.integers(0, 3),
    tier=st.none() | st.integers(0, 3),
    limit=st.integers(1, 60),
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(search=SEARCHES, now=MINUTES, fragments=st.booleans())
def test_pages_by_cursor_and_by_offset_are_the_filtered_and_sorted_whole(
    conn: psycopg.Connection, rows: list[Profile], search: Search, now: datetime, fragments: bool
) -> None:
    q = search.q
    known = q is None or len(profile.name_key(q)) < 3 or any(found_by(row, q, fragments=False) for row in rows)
    if not fragments and not known:
        with pytest.raises(FragmentsNeeded):
            ask(conn, search, now, fragments=False)
        return
    whole = expected(rows, search, now, fragments=fragments)
    by_offset: list[int] = []
    by_cursor: list[int] = []
    cursor = None
    while True:
        offset_page = ask(conn, msgspec.structs.replace(search, offset=len(by_offset)), now, fragments=fragments)
        cursor_page = offset_page
        # Without a cursor, on the first page, it is the same question.
        if cursor is not None:
            cursor_page = ask(conn, msgspec.structs.replace(search, cursor=cursor), now, fragments=fragments)
        assert offset_page.total == cursor_page.total == len(whole)
        by_offset += [one.profile.user_id for one in offset_page.users if one.profile is not None]
        by_cursor += [one.profile.user_id for one in cursor_page.users if one.profile is not None]
        cursor = cursor_page.next_cursor
        assert (cursor is None) == (offset_page.next_cursor is None) == (len(by_cursor) >= len(whole))
        if cursor is None:
            break
    assert by_offset == whole
    assert by_cursor == whole


@pytest.mark.parametrize("state", [0, 1, 2])
@pytest.mark.parametrize("tier", [None, 0, 1, 2])
def test_at_each_second_around_an_end_the_total_is_the_number_of_those_who_match(
    conn: psycopg.Connection, rows: list[Profile], state: int, tier: int | None
) -> None:
    search = Search(state=state, tier=tier, limit=HOW_MANY)
    for hours in range(-4, 7):
        for by in (-SECOND, 0 * SECOND, SECOND):
            now = NOW + hours * HOUR + by
            found = ask(conn, search, now)
            whole = expected(rows, search, now, fragments=True)
            assert [one.key for one in found.users] == whole
            assert found.total == len(whole)


def test_what_is_found_is_the_whole_profile_with_its_last_activity(database_url: str, rows: list[Profile]) -> None:
    with psycopg.connect(database_url) as conn:
        conn.execute("insert into user_activity values (%s, %s)", (12, NOW))
        (one,) = [found for found in ask(conn, Search(limit=HOW_MANY)).users if found.key == 12]
    assert one.profile == next(row for row in rows if row.user_id == 12)
    assert one.last_activity_at == NOW


def test_a_page_behind_the_end_is_empty_and_keeps_its_total_and_position(conn: psycopg.Connection) -> None:
    for search in (
        Search(offset=10_000),
        Search(offset=2**62),
        Search(offset=2**62, state=0),
        Search(q="ann", offset=99),
    ):
        found = ask(conn, search)
        assert (found.users, found.next_cursor) == ([], None)
        assert found.total > 0
        assert found.position == len(history())


def cursor_of(conn: psycopg.Connection, search: Search) -> str:
    cursor = ask(conn, msgspec.structs.replace(search, limit=1)).next_cursor
    assert cursor is not None
    return cursor


@pytest.mark.parametrize("other", [{"q": "ann"}, {"state": 0}, {"level": 0}, {"tier": 0}])
def test_a_cursor_is_bound_to_its_filters(conn: psycopg.Connection, other: dict[str, Any]) -> None:
    for one, two in (({}, other), (other, {})):
        with pytest.raises(ValueError, match="cursor belongs to another search"):
            statement(Search(cursor=cursor_of(conn, Search(**one)), **two), NOW, fragments=True)


def test_a_cursor_takes_no_offset(conn: psycopg.Connection) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        statement(Search(cursor=cursor_of(conn, Search()), offset=1), NOW, fragments=True)


@pytest.mark.parametrize("cursor", ["", "x", "====", "ünïcode", "AAAA", "W10", "e30"])
def test_garbage_is_no_cursor(cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor is not valid"):
        statement(Search(cursor=cursor), NOW, fragments=True)


def test_the_asynchronous_door_gives_the_same_page(conn: psycopg.Connection, database_url: str) -> None:
    search = Search(state=1, limit=7)

    async def found() -> Page:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            return await find(connection, search, NOW, fragments=True)

    assert asyncio.run(found()) == ask(conn, search)


def test_an_empty_database_answers_an_empty_page(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        for search in (Search(), Search(state=0), Search(level=1, tier=2), Search(q="ann")):
            found = ask(conn, search)
            assert (found.users, found.total, found.next_cursor, found.position) == ([], 0, None, 0)


# -- plans

FILTERS: list[dict[str, Any]] = [
    dict(zip(("state", "level", "tier"), values, strict=True))
    for values in [(state, level, tier) for state in (None, 0, 1, 2) for level in (None, 0, 2) for tier in (None, 0, 2)]
]


@pytest.fixture(scope="module")
def many(postgres_server: str, template_database: str) -> Iterator[psycopg.Connection]:
    """300,000 users: nearly all of them without any restriction, rank and subscription."""
    name = f"many_users_{uuid4().hex}"
    url = create_database(postgres_server, name, template_database)
    with psycopg.connect(url, autocommit=True) as conn:
        with indexes_afterwards(conn, "profiles"):
            conn.execute(
                """
                insert into profiles (user_id, version, registered, username, username_key, username_code, level,
                    prefix, tier, tier_until, trial_used, open_punishments, banned_until, timeout_until, held,
                    created_at, updated_at)
                select n, 1, true, name, name, name,
                    case when n % 499 = 0 then n / 499 % 4 else 0 end, '!',
                    case when n % 50 = 0 then 1 + n / 50 % 3 else 0 end,
                    case when n % 50 = 0 and n / 50 % 3 < 2 then now() + (n % 997 - 2) * interval '1 hour' end,
                    false, '{}',
                    case when n % 70 = 0 then now() + (n % 991 - 2) * interval '1 hour' end,
                    case when n % 130 = 0 then now() + (n % 983 - 2) * interval '1 hour' end,
                    case when n % 70 = 0 then 2 when n % 130 = 0 then 1 else 0 end, now(), now()
                from generate_series(1, 300000) as n
                cross join lateral (select case when n % 90 <> 0 then substr(md5(n::text), 1, 12) end as name) as named
                """
            )
        conn.execute(
            "insert into profile_counts"
            " select registered, held, level, tier, count(*) from profiles group by registered, held, level, tier"
        )
        conn.execute("vacuum analyze")
        yield conn
    drop_database(postgres_server, name)


def read_from_end_to_end(conn: psycopg.Connection, search: Search, now: datetime) -> list[str]:
    sql, parameters = statement(search, now, fragments=True)
    lines = psycopg.RawCursor(conn).execute("explain " + sql, parameters, prepare=False).fetchall()
    return [line for (line,) in lines if "Seq Scan on profiles" in line]


def test_on_many_users_every_combination_is_served_by_an_index_and_its_total_is_exact(many: psycopg.Connection) -> None:
    (now,) = many.execute("select now()").fetchone() or (NOW,)
    # All that the rules look at; of most of these there are thousands that are alike.
    columns = ("level", "tier", "tier_until", "banned_until", "timeout_until")
    alike = many.execute(f"select count(*), {', '.join(columns)} from profiles group by {', '.join(columns)}".encode())
    kinds: Counter[tuple[int, int, int]] = Counter()
    for count, *values in alike:
        named = dict(zip(columns, values, strict=True))
        row = Profile(user_id=1, version=1, created_at=now, updated_at=now, **named)
        kinds[profile.state(row, now), row.level, profile.tier(row, now)] += count
    assert kinds.total() == 300_000
    for filters in FILTERS:
        found = ask(many, Search(limit=1, **filters), now)
        asked = tuple(filters.values())
        wanted = [n for kind, n in kinds.items() if all(a in (None, k) for a, k in zip(asked, kind, strict=True))]
        assert found.total == sum(wanted), filters
        for q in (None, "a", "ab1", "ab1c", "12345"):
            first = Search(q=q, **filters)
            assert read_from_end_to_end(many, first, now) == [], first
            assert read_from_end_to_end(many, msgspec.structs.replace(first, offset=500), now) == [], first
        if found.next_cursor is not None:
            assert read_from_end_to_end(many, Search(cursor=found.next_cursor, **filters), now) == [], filters

"""The punishment search: pages, cursors and their ends, over a database full of equal times."""

import asyncio
import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timezone
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.domain import events
from modledger.domain.envelope import SYSTEM
from modledger.projections import punishments
from modledger.projections.catalog import create_missing
from modledger.projections.projector import advance
from modledger.projections.punishments import Punishment
from modledger.projections.search import SORTS, Page, Search, Sort, find, is_steady, page, statement
from modledger.projections.weeks import week
from tests.postgres_server import create_database, drop_database
from tests.projection_history import ADMIN, DAY, HOUR, NOW, OTHER_ADMIN, Happened, append, memory_ledger
from tests.random_history import MINUTES

# Counts are kept by weeks, which begin on Mondays at midnight.
MONDAY = datetime(2026, 3, 9, tzinfo=UTC)
INSTANT = NOW.resolution
DATES = (
    *(NOW + hours * HOUR for hours in range(4)),
    *(MONDAY + weeks * 7 * DAY for weeks in (-9, -2, -1, 0, 1)),
    *(MONDAY + weeks * 7 * DAY - INSTANT for weeks in (-2, -1, 0, 1)),
    *(MONDAY + days * DAY + INSTANT for days in (-7, -3, 0)),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 20, tzinfo=UTC),
)


def history() -> list[Happened]:
    """240 punishments of three users and two guilds: every third ended somehow, many of the same second."""
    made = []
    for n in range(240):
        stream = ("user:1", "user:2", "user:3", "guild:1", "guild:2")[n % 5]
        at, by = DATES[n // 5 % len(DATES)], (ADMIN, ADMIN, OTHER_ADMIN, SYSTEM)[n % 7 % 4]
        until = None if n % 3 == 0 else at + (n % 6) * HOUR + HOUR
        reason = f"number {n}"
        if stream.startswith("guild"):
            event: events.Event = (
                events.GuildWarned(reason=reason) if n % 2 else events.GuildBlacklisted(reason=reason, expires_at=until)
            )
        elif n % 4 == 0:
            event = events.UserWarned(reason=reason)
        elif n % 4 == 1:
            event = events.UserTimedOut(reason=reason, expires_at=until or at + DAY)
        else:
            event = events.UserBanned(reason=reason, expires_at=until)
        made.append(Happened(stream, event, at, by))
    return made


@pytest.fixture(scope="module")
def database_url(postgres_server: str, template_database: str) -> Iterator[str]:
    name = f"search_{uuid4().hex}"
    url = create_database(postgres_server, name, template_database)
    versions: dict[str, int] = {}
    with memory_ledger() as ledger, psycopg.connect(url, autocommit=True) as conn:
        assert create_missing(conn) == []
        for n, happened in enumerate(history()):
            number = append(ledger, versions, happened)
            ends = {
                0: events.PunishmentLifted(number=number, reason="sorry"),
                1: events.PunishmentLapsed(number=number),
                2: events.PunishmentOverturned(number=number, reason="appeal"),
            }
            if n % 3 == 1:
                append(ledger, versions, Happened(happened.stream, ends[n % 9 // 3], happened.at + HOUR, ADMIN))
        while advance(conn, punishments.PROJECTOR, ledger, 100).more:
            pass
    yield url
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def conn(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def ask(conn: psycopg.Connection, search: Search, now: datetime = NOW) -> Page:
    sql, parameters = statement(search, now, fragments=True)
    return page(search, psycopg.RawCursor(conn).execute(sql, parameters, prepare=is_steady(search)).fetchall())


EDGES = st.none() | st.one_of(
    st.builds(lambda at, by: at + by, st.sampled_from(DATES[:-2]), st.sampled_from([-INSTANT, 0 * DAY, INSTANT, DAY])),
    st.datetimes(timezones=st.just(UTC)),
    st.sampled_from(
        [
            datetime.min.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
            datetime.min.replace(tzinfo=timezone(14 * HOUR)),
            datetime.max.replace(tzinfo=timezone(-14 * HOUR)),
        ]
    ),
)
SEARCHES = st.builds(
    Search,
    user_id=st.sampled_from([None, None, 1, 2, 99]),
    guild_id=st.sampled_from([None, None, 1, 2, 99]),
    issued_by=st.sampled_from([None, None, 21, 22, 99]),
    type=st.sampled_from([None, None, 1, 2, 3, 4]),
    active_only=st.booleans(),
    created_after=EDGES,
    created_before=EDGES,
    sort=st.sampled_from(SORTS),
    limit=st.integers(1, 40),
)


@pytest.fixture(scope="module")
def every(conn: psycopg.Connection) -> list[Punishment]:
    found = ask(conn, Search(limit=1000)).punishments
    assert len(found) == 240
    return found


def expected(every: list[Punishment], search: Search, now: datetime) -> list[Punishment]:
    wanted = [
        row
        for row in every
        if search.user_id in (None, row.user_id)
        and search.guild_id in (None, row.guild_id)
        and search.issued_by in (None, row.issued_by)
        and search.type in (None, row.type)
        and (search.created_after is None or row.created_at > search.created_after)
        and (search.created_before is None or row.created_at < search.created_before)
        and (punishments.is_active(row, now) or not search.active_only)
    ]

    def key(row: Punishment) -> tuple[Any, ...]:
        if search.sort.endswith("created_at"):
            return (row.created_at, row.id)
        return (row.expires_at is None, row.expires_at or NOW, row.created_at, row.id)

    return sorted(wanted, key=key, reverse=search.sort.startswith("-"))


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(search=SEARCHES, now=MINUTES)
def test_pages_by_cursor_and_by_offset_are_the_filtered_and_sorted_whole(
    conn: psycopg.Connection, every: list[Punishment], search: Search, now: datetime
) -> None:
    whole = expected(every, search, now)
    by_offset: list[Punishment] = []
    by_cursor: list[Punishment] = []
    cursor = None
    while True:
        offset_page = ask(conn, msgspec.structs.replace(search, offset=len(by_offset)), now)
        # The first page has no cursor yet, and is the same question.
        cursor_page = offset_page if cursor is None else ask(conn, msgspec.structs.replace(search, cursor=cursor), now)
        assert offset_page.total == cursor_page.total == len(whole)
        by_offset += offset_page.punishments
        by_cursor += cursor_page.punishments
        cursor = cursor_page.next_cursor
        assert (cursor is None) == (offset_page.next_cursor is None) == (len(by_cursor) >= len(whole))
        if cursor is None:
            break
    assert by_offset == whole
    assert by_cursor == whole


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(search=SEARCHES, now=MINUTES)
def test_sorting_and_walking_give_one_page(
    exaggerated: psycopg.Connection, every: list[Punishment], search: Search, now: datetime
) -> None:
    whole = expected(every, search, now)
    found = ask(exaggerated, search, now)
    assert found.punishments == whole[: search.limit]
    if found.next_cursor is not None:
        following = ask(exaggerated, msgspec.structs.replace(search, cursor=found.next_cursor), now)
        assert following.punishments == whole[search.limit : 2 * search.limit]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("active_only", [False, True])
@pytest.mark.parametrize("days", [0, 1, 6, 8, 99])
def test_between_any_two_edges_the_total_is_the_number_of_those_between(
    conn: psycopg.Connection, every: list[Punishment], sort: Sort, active_only: bool, days: int
) -> None:
    for at in DATES[:-2]:
        for by in (-INSTANT, 0 * DAY, INSTANT):
            after, before = at + by, at + days * DAY
            search = Search(active_only=active_only, sort=sort, limit=1000, created_after=after, created_before=before)
            found = ask(conn, search)
            assert found.punishments == expected(every, search, NOW)
            assert found.total == len(found.punishments)


def test_weeks_follow_each_other_without_a_hole_through_all_of_time() -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert week(first) == 1
    assert week(first.replace(tzinfo=timezone(HOUR))) == 0
    assert week(last) == week(last.replace(tzinfo=timezone(-HOUR)))
    assert [week(MONDAY + by) - week(MONDAY) for by in (-INSTANT, INSTANT, 7 * DAY)] == [
        -1,
        0,
        1,
    ]


def test_a_page_behind_the_end_is_empty_and_keeps_its_total_and_position(conn: psycopg.Connection) -> None:
    found = ask(conn, Search(offset=10_000))
    assert (found.punishments, found.total, found.next_cursor, found.position) == ([], 240, None, 320)


@pytest.mark.parametrize("sort", SORTS)
def test_a_user_is_in_no_guild(conn: psycopg.Connection, sort: Sort) -> None:
    found = ask(conn, Search(user_id=1, guild_id=1, sort=sort))
    assert (found.punishments, found.total, found.position) == ([], 0, 320)


@pytest.mark.parametrize(("subject", "kind"), [({"user_id": 1}, 4), ({"guild_id": 1}, 2), ({"guild_id": 1}, 3)])
def test_users_and_guilds_have_no_punishments_of_each_others_types(
    conn: psycopg.Connection, subject: dict[str, Any], kind: int
) -> None:
    assert ask(conn, Search(type=kind, **subject)).total == 0


def test_those_without_an_end_come_behind_every_end(conn: psycopg.Connection) -> None:
    ascending = [row.expires_at for row in ask(conn, Search(sort="expires_at", limit=1000)).punishments]
    never = ascending.index(None)
    assert set(ascending[never:]) == {None}
    assert ascending[:never] == sorted(end for end in ascending[:never] if end is not None)
    assert ask(conn, Search(sort="-expires_at", limit=1)).punishments[0].expires_at is None


def test_one_that_ran_out_and_is_not_recorded_yet_counts_until_the_second_of_its_end(conn: psycopg.Connection) -> None:
    row = next(r for r in ask(conn, Search(limit=1000)).punishments if r.open and r.expires_at is not None)
    assert row.expires_at is not None
    before, after = row.expires_at - NOW.resolution, row.expires_at
    search = Search(active_only=True, limit=1000)
    assert row in ask(conn, search, before).punishments
    assert row not in ask(conn, search, after).punishments
    for now in (before, after):
        found = ask(conn, search, now)
        assert found.total == len(found.punishments)


def cursor_of(conn: psycopg.Connection, search: Search) -> str:
    cursor = ask(conn, msgspec.structs.replace(search, limit=1)).next_cursor
    assert cursor is not None
    return cursor


@pytest.mark.parametrize(
    "other",
    [
        {"user_id": 1},
        {"guild_id": 1},
        {"issued_by": 21},
        {"type": 1},
        {"active_only": True},
        {"created_after": NOW},
        {"created_before": NOW + DAY},
        {"sort": "created_at"},
        {"sort": "-expires_at"},
    ],
)
def test_a_cursor_is_bound_to_its_filters_and_sort(conn: psycopg.Connection, other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cursor belongs to another search"):
        statement(Search(cursor=cursor_of(conn, Search()), **other), NOW, fragments=True)
    with pytest.raises(ValueError, match="cursor belongs to another search"):
        statement(Search(cursor=cursor_of(conn, Search(**other))), NOW, fragments=True)


def test_a_cursor_may_be_followed_with_another_limit(conn: psycopg.Connection) -> None:
    first = ask(conn, Search(limit=3))
    rest = ask(conn, Search(limit=1000, cursor=first.next_cursor))
    assert (
        len(first.punishments + rest.punishments)
        == len({row.id for row in first.punishments + rest.punishments})
        == 240
    )


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")


FILTERS: list[object] = [None, None, None, None, False, None, None, "-created_at"]


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "====",
        "not a cursor",
        "ünïcode",
        "AAAA",
        encoded({}),
        encoded([]),
        encoded(FILTERS),
        encoded([*FILTERS, None, None, 5]),
        encoded([*FILTERS, None, "2026-03-10T12:00:00", 5]),
        encoded([*FILTERS, "2026-03-10T12:00:00", "2026-03-10T12:00:00Z", 5]),
        encoded([*FILTERS, None, "2026-03-10T12:00:00Z", 0]),
        encoded([*FILTERS, None, "2026-03-10T12:00:00Z", 2**63]),
        encoded([*FILTERS, None, "2026-03-10T12:00:00Z", "5"]),
        encoded([*FILTERS[:5], "2026-03-10T12:00:00", None, "-created_at", None, "2026-03-10T12:00:00Z", 5]),
        encoded([*FILTERS[:-1], "reason", None, "2026-03-10T12:00:00Z", 5]),
        encoded([*FILTERS, None, "2026-03-10T12:00:00Z", 5]) + "A" * 9,
        encoded([*FILTERS, None, "2026-03-10T12:00:00Z", 5, "more"]),
        base64.urlsafe_b64encode(b"[" * 3000).decode(),
        base64.urlsafe_b64encode(
            msgspec.json.encode(FILTERS)[:-1] + b',null,"2026-03-10T12:00:00Z",5,' + b"[" * 6000
        ).decode(),
    ],
)
def test_garbage_is_no_cursor(cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor is not valid"):
        statement(Search(cursor=cursor), NOW, fragments=True)


def test_a_cursor_takes_no_offset(conn: psycopg.Connection) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        statement(Search(cursor=cursor_of(conn, Search()), offset=1), NOW, fragments=True)


def test_the_asynchronous_door_gives_the_same_page(conn: psycopg.Connection, database_url: str) -> None:
    search = Search(issued_by=21, active_only=True, sort="expires_at", limit=7)

    async def found() -> Page:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            return await find(connection, search, NOW, fragments=True)

    assert asyncio.run(found()) == ask(conn, search)


def test_an_empty_database_answers_an_empty_page(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        for active in (False, True):
            found = ask(conn, Search(active_only=active))
            assert (found.punishments, found.total, found.next_cursor, found.position) == ([], 0, None, 0)

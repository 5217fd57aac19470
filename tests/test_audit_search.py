"""The audit log's lines and its search: pages, cursors and totals, over a database full of equal times."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timezone
from typing import get_args
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.domain import events
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, SubjectKind, subject_of
from modledger.projections import audit_log
from modledger.projections.audit_log import EVENT_TYPES, Entry, entity_of
from modledger.projections.audit_search import KINDS, Filters, Page, Search, find, needs_kinds, page, statement
from modledger.projections.projector import advance
from tests.postgres_server import create_database, drop_database
from tests.projection_history import (
    ADMIN,
    BOT,
    DAY,
    FIRST_POSITION,
    HOUR,
    NOW,
    OTHER_ADMIN,
    Happened,
    append,
    folded,
    memory_ledger,
    only,
)
from tests.random_history import histories

KINDS_OF_SUBJECTS = get_args(SubjectKind)
# Counts are kept by weeks, which begin on Mondays at midnight.
MONDAY = datetime(2026, 3, 9, tzinfo=UTC)
INSTANT = NOW.resolution
DATES = (
    NOW,
    NOW + HOUR,
    *(MONDAY + weeks * 7 * DAY for weeks in (-9, -2, -1, 0, 1)),
    *(MONDAY + weeks * 7 * DAY - INSTANT for weeks in (-1, 0, 1)),
    MONDAY + 3 * DAY,
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 20, tzinfo=UTC),
)
ACTORS = (ADMIN, ADMIN, OTHER_ADMIN, SYSTEM, OPERATOR, BOT, Actor("bot", 21))
REQUESTS = [UUID(int=n) for n in range(1, 24)]


def history() -> list[Happened]:
    """300 events of three users, a guild and a bot that share their ids, many of the same second."""
    made = []
    for n in range(300):
        stream = ("user:1", "user:2", "user:3", "guild:1", "bot:1")[n % 5]
        choices: list[events.Event] = [
            events.UserWarned(reason="x"),
            events.UserBanned(reason="x"),
            events.SubscriptionEnded(old_tier=2),
        ]
        if stream.startswith("guild"):
            choices = [events.GuildWarned(reason="x"), events.SubscriptionEnded(old_tier=2)]
        elif stream.startswith("bot"):
            choices = [events.BotRegistered(name="x", owner_id=1), events.BotRenamed(old_name="x", name="y")]
        request = REQUESTS[n // 3 % len(REQUESTS)]
        event = choices[n % len(choices)]
        made.append(Happened(stream, event, DATES[n // 7 % len(DATES)], ACTORS[n % len(ACTORS)], request))
    return made


@pytest.fixture(scope="module")
def database_url(postgres_server: str, template_database: str) -> Iterator[str]:
    name = f"audit_{uuid4().hex}"
    url = create_database(postgres_server, name, template_database)
    versions: dict[str, int] = {}
    with memory_ledger() as ledger, psycopg.connect(url, autocommit=True) as conn:
        for happened in history():
            append(ledger, versions, happened)
        while advance(conn, audit_log.PROJECTOR, ledger, 37).more:
            pass
    yield url
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def conn(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def ask(conn: psycopg.Connection, search: Search) -> Page:
    cursor = psycopg.RawCursor(conn)
    kinds: list[str] = []
    if needs_kinds(search.filters):
        found = cursor.execute(KINDS, (search.filters.actor_id or 0,)).fetchone()
        assert found is not None
        kinds = found[1]
    return page(search, cursor.execute(*statement(search, kinds), prepare=False).fetchall())


@pytest.fixture(scope="module")
def every(conn: psycopg.Connection) -> list[Entry]:
    found = ask(conn, Search(limit=1000)).entries
    assert len(found) == 300
    return found


def expected(every: list[Entry], filters: Filters) -> list[Entry]:
    wanted = [
        entry
        for entry in every
        if (filters.event_types is None or entry.event_type in filters.event_types)
        and filters.entity in (None, entity_of(entry.event_type))
        and filters.entity_id in (None, entry.entity_id)
        and filters.actor_id in (None, entry.actor_id)
        and filters.correlation_id in (None, entry.correlation_id)
        and (filters.since is None or entry.occurred_at >= filters.since)
        and (filters.until is None or entry.occurred_at < filters.until)
    ]
    return sorted(wanted, key=lambda entry: (entry.occurred_at, entry.position), reverse=True)


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
FILTERS = st.builds(
    Filters,
    event_types=st.sampled_from([None, None, ("USER_WARN",), ("USER_WARN", "USER_TIMEOUT"), ("BOT_RENAME",)]),
    entity=st.sampled_from([None, None, *KINDS_OF_SUBJECTS]),
    entity_id=st.sampled_from([None, None, 1, 2, 99]),
    actor_id=st.sampled_from([None, None, 21, 22, 500, 99]),
    correlation_id=st.sampled_from([None, None, None, *REQUESTS[:2], UUID(int=99)]),
    since=EDGES,
    until=EDGES,
)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filters=FILTERS, limit=st.integers(1, 60))
def test_pages_by_cursor_and_by_offset_are_the_filtered_whole_newest_first(
    conn: psycopg.Connection, every: list[Entry], filters: Filters, limit: int
) -> None:
    whole = expected(every, filters)
    by_offset: list[Entry] = []
    by_cursor: list[Entry] = []
    cursor = None
    while True:
        offset_page = ask(conn, Search(filters=filters, limit=limit, offset=len(by_offset)))
        cursor_page = offset_page
        # Without a cursor, on the first page, it is the same question.
        if cursor is not None:
            cursor_page = ask(conn, Search(filters=filters, limit=limit, cursor=cursor))
        assert offset_page.total == cursor_page.total == len(whole)
        by_offset += offset_page.entries
        by_cursor += cursor_page.entries
        cursor = cursor_page.next_cursor
        assert (cursor is None) == (offset_page.next_cursor is None) == (len(by_cursor) >= len(whole))
        if cursor is None:
            break
    assert by_offset == whole
    assert by_cursor == whole


@pytest.mark.parametrize("days", [0, 1, 6, 8, 99])
def test_between_any_two_edges_the_total_is_the_number_of_those_between(
    conn: psycopg.Connection, every: list[Entry], days: int
) -> None:
    for at in DATES[:-2]:
        for by in (-INSTANT, 0 * DAY, INSTANT):
            filters = Filters(since=at + by, until=at + days * DAY)
            found = ask(conn, Search(filters=filters, limit=1000))
            assert found.entries == expected(every, filters)
            assert found.total == len(found.entries)


def test_an_actor_is_a_user_or_a_bot_of_that_id(conn: psycopg.Connection) -> None:
    wanted = sum(happened.by.id == 21 for happened in history())
    assert {happened.by.kind for happened in history() if happened.by.id == 21} == {"user", "bot"}
    assert ask(conn, Search(filters=Filters(actor_id=21))).total == wanted


def test_entities_of_one_id_are_told_apart_by_their_kind(conn: psycopg.Connection) -> None:
    kinds = {kind: ask(conn, Search(filters=Filters(entity=kind, entity_id=1))).total for kind in KINDS_OF_SUBJECTS}
    assert kinds == {"user": 60, "guild": 60, "bot": 60}
    assert ask(conn, Search(filters=Filters(entity_id=1))).total == 180


def test_a_page_behind_the_end_is_empty_and_keeps_its_total_and_position(
    conn: psycopg.Connection, every: list[Entry]
) -> None:
    for filters in (Filters(), Filters(actor_id=21), Filters(entity_id=1), Filters(correlation_id=REQUESTS[0])):
        found = ask(conn, Search(filters=filters, offset=10_000))
        assert (found.entries, found.next_cursor, found.position) == ([], None, 300)
        assert found.total == len(expected(every, filters))


@pytest.mark.parametrize(
    "other",
    [
        Filters(event_types=("USER_WARN",)),
        Filters(entity="user"),
        Filters(entity_id=1),
        Filters(actor_id=21),
        Filters(correlation_id=REQUESTS[0]),
        Filters(since=NOW - DAY),
        Filters(until=NOW + DAY),
    ],
)
def test_a_cursor_is_bound_to_its_filters(conn: psycopg.Connection, other: Filters) -> None:
    cursor = ask(conn, Search(limit=1)).next_cursor
    with pytest.raises(ValueError, match="cursor belongs to another search"):
        statement(Search(filters=other, cursor=cursor), ["USER_WARN"])
    cursor = ask(conn, Search(filters=other, limit=1)).next_cursor
    with pytest.raises(ValueError, match="cursor belongs to another search"):
        statement(Search(cursor=cursor))


def test_a_cursor_may_be_followed_with_another_limit_but_takes_no_offset(conn: psycopg.Connection) -> None:
    first = ask(conn, Search(limit=3))
    rest = ask(conn, Search(limit=1000, cursor=first.next_cursor))
    assert len({entry.position for entry in first.entries + rest.entries}) == 300
    with pytest.raises(ValueError, match="exclude each other"):
        statement(Search(cursor=first.next_cursor, offset=1))


@pytest.mark.parametrize("cursor", ["", "x", "====", "ünïcode", "AAAA", "WyJ4IixbXV0"])
def test_garbage_is_no_cursor(cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor is not valid"):
        statement(Search(cursor=cursor))


def test_the_asynchronous_door_gives_the_same_page(conn: psycopg.Connection, database_url: str) -> None:
    for filters in (Filters(), Filters(actor_id=21), Filters(entity="bot", since=NOW - DAY), Filters(entity_id=1)):
        search = Search(filters=filters, limit=7)

        async def found(search: Search = search) -> Page:
            async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
                return await find(connection, search)

        assert asyncio.run(found()) == ask(conn, search)


def test_an_empty_database_answers_an_empty_page(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        for filters in (
            Filters(),
            Filters(actor_id=1),
            Filters(entity="user"),
            Filters(entity_id=1),
            Filters(since=NOW),
        ):
            found = ask(conn, Search(filters=filters))
            assert (found.entries, found.total, found.next_cursor, found.position) == ([], 0, None, 0)


# -- the lines


def test_every_event_has_a_name_for_each_kind_of_entity_that_it_can_happen_to() -> None:
    assert {topic for _, topic in EVENT_TYPES} == events.EVENTS.keys()
    for topic in events.EVENTS:
        first = topic.partition(".")[0]
        kinds = {
            "subscription": {"user", "guild"},
            "punishment": {"user", "guild"},
            "subject": {"user", "guild", "bot"},
        }
        assert {kind for kind, named in EVENT_TYPES if named == topic} == kinds.get(first, {first})


def test_names_are_upper_case_begin_with_their_entity_and_are_each_of_one_event() -> None:
    assert len(set(EVENT_TYPES.values())) == len(EVENT_TYPES)
    for (kind, _), name in EVENT_TYPES.items():
        assert entity_of(name) == kind
        assert name.replace("_", "").isalpha()
        assert name == name.upper()


def test_a_line_holds_who_what_and_when_and_no_text() -> None:
    warned = Happened("user:7", events.UserWarned(reason="secret"), NOW, BOT, REQUESTS[3])
    line = only(folded(audit_log.PROJECTOR, warned))
    assert line == Entry(
        position=FIRST_POSITION,
        event_type="USER_WARN",
        entity_id=7,
        actor_id=500,
        occurred_at=NOW,
        correlation_id=REQUESTS[3],
    )
    assert "secret" not in msgspec.json.encode(line).decode()


@pytest.mark.parametrize("by", [SYSTEM, OPERATOR])
def test_neither_the_system_nor_an_operator_is_an_actor_with_an_id(by: Actor) -> None:
    line = only(folded(audit_log.PROJECTOR, Happened("guild:7", events.SubscriptionEnded(old_tier=2), NOW, by)))
    assert (line.event_type, line.actor_id) == ("GUILD_SUBSCRIPTION_END", None)


def test_an_event_that_cannot_happen_to_its_subject_is_refused() -> None:
    with pytest.raises(KeyError):
        folded(audit_log.PROJECTOR, Happened("bot:7", events.SubscriptionEnded(old_tier=2)))


COUNTED = """
    select a, w, event_type, count(*) from audit_log,
        lateral (values (0::bigint), (actor_id)) as of_actor (a),
        lateral (values (0), (1 + floor(extract(epoch from occurred_at - '0001-01-01T00:00:00Z') / 604800)::int))
            as of_week (w)
    where a is not null group by 1, 2, 3 order by 1, 2, 3
"""


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(happened=histories(), limit=st.integers(1, 20))
def test_every_event_is_one_line_and_counts_are_those_of_the_lines(
    database: str, happened: list[Happened], limit: int
) -> None:
    versions: dict[str, int] = {}
    with memory_ledger() as ledger, psycopg.connect(database, autocommit=True) as conn:
        conn.execute("delete from audit_log")
        conn.execute("delete from audit_log_counts")
        conn.execute("update projection_tracking set notification_id = 0 where application_name = 'audit_log'")
        for one in happened:
            append(ledger, versions, one)
        while advance(conn, audit_log.PROJECTOR, ledger, limit).read:
            pass
        lines = conn.execute("select * from audit_log order by position").fetchall()
        assert lines == [
            (
                one.position,
                EVENT_TYPES[subject_of(one.stream).kind, one.event.TOPIC],
                subject_of(one.stream).id,
                one.actor.id,
                one.occurred_at,
                one.correlation_id,
            )
            for one in ledger.read(0, 1000)
        ]
        counts = conn.execute("select * from audit_log_counts order by 1, 2, 3").fetchall()
        assert counts == conn.execute(COUNTED.encode()).fetchall()

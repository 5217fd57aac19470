"""The search for words and fragments in reasons, compared with the rule applied to every reason in Python."""

from collections.abc import Iterator
from datetime import datetime
from functools import cache
from itertools import product
from random import Random
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.domain import events
from modledger.domain.envelope import SYSTEM
from modledger.domain.events import ERASED
from modledger.domain.ledger import Ledger
from modledger.projections import marks, punishments, reason_words
from modledger.projections.catalog import create_missing
from modledger.projections.fragments import FragmentsNeeded, code
from modledger.projections.projector import advance
from modledger.projections.punishments import Punishment
from modledger.projections.search import SORTS, Page, Search, Sort, is_steady, page, statement
from modledger.projections.weeks import week
from tests.postgres_server import create_database, drop_database
from tests.projection_history import ADMIN, DAY, HOUR, NOW, OTHER_ADMIN, Happened, append, memory_ledger

ROWS = 320
# Whatever LIKE, trigrams, casefolding and punctuation might trip over; "spam" and "a" are in very many.
WORDS = (
    "spam", "Spam", "SPAM,", "(spam)", "spamming", "a", "A.", "no", "No!", "x", "100%", "5%_off", "a_b", "back\\slash",
    "O'Brien", 'said"so"', "ß", "Straße", "STRASSE", "İstanbul", "ıslak", "I", "i", "🚫", "🚫🚫🚫", "👩‍👩‍👧",
    "???", "?!", "c++", "rule", "7\\8", "--", "é", "e\u0301", "ПРИВЕТ", "привет", "スパム行為", "ﬁne", "QDPZ",
    "qdpz", "x3f", "_", "%", "\\", "ΐΐ", "ǅ", "https://example.com/a?b=c&d=%20", "{1,2}", "null", "$1", "::text",
)  # fmt: skip
SPACES = (" ", "  ", "\t", "\n", "\u00a0", "\u3000")


def reason(luck: Random) -> str:
    chosen = luck.choices(WORDS, weights=[9, 3, 3] + [1] * 2 + [9] + [1] * (len(WORDS) - 6), k=luck.randint(1, 5))
    return "".join(word + luck.choice(SPACES) for word in chosen).strip()


def history() -> list[Happened]:
    """Punishments of a few subjects and issuers, of two years."""
    luck, found = Random(3), []
    for n in range(ROWS):
        stream = ("user:1", "user:2", "user:3", "guild:1", "guild:2")[n % 5]
        at, by = NOW - n * 7 * HOUR, (ADMIN, ADMIN, OTHER_ADMIN, SYSTEM)[n % 4]
        until = None if n % 3 == 0 else at + (n % 600) * HOUR + HOUR
        given: events.Event
        if stream.startswith("guild"):
            given = (
                events.GuildBlacklisted(reason=reason(luck), expires_at=until)
                if n % 2
                else events.GuildWarned(reason=reason(luck))
            )
        else:
            given = (
                events.UserBanned(reason=reason(luck), expires_at=until)
                if n % 2
                else events.UserWarned(reason=reason(luck))
            )
        found.append(Happened(stream, given, at, by))
    return found


def catch_up(conn: psycopg.Connection, ledger: Ledger) -> None:
    while advance(conn, punishments.PROJECTOR, ledger, 37).more:
        pass


def skip_to(conn: psycopg.Connection, ordinal: int) -> None:
    """Numbers the next punishment as if so many had been before. The row that stands for these bears no marks."""
    conn.execute(
        "insert into punishments select (json_populate_record(p, json_build_object("
        " 'stream', 'skipped', 'number', %(ordinal)s::bigint, 'id', -%(ordinal)s::bigint, 'ordinal', %(ordinal)s)"
        ")).* from (select p from punishments p limit 1) one",
        {"ordinal": ordinal},
    )


@pytest.fixture(scope="module")
def database_url(postgres_server: str, template_database: str) -> Iterator[str]:
    name = f"reasons_{uuid4().hex}"
    url = create_database(postgres_server, name, template_database)
    luck = Random(4)
    versions: dict[str, int] = {}
    with memory_ledger() as ledger, psycopg.connect(url, autocommit=True) as conn:
        for n, issued in enumerate(history()):
            if n % 90 == 60:
                # So that punishments lie in several lines of marks, and some next to where one ends.
                catch_up(conn, ledger)
                skip_to(conn, (n // 90 + 1) * marks.ORDINALS - 15)
            number = append(ledger, versions, issued)
            until = getattr(issued.event, "expires_at", None)
            later: dict[int, events.Event] = {
                0: events.PunishmentLifted(number=number, reason="sorry"),
                1: events.PunishmentAmended(
                    number=number, old_reason="", reason=reason(luck), old_expires_at=until, expires_at=until
                ),
            }
            if n % 3 in later:
                append(ledger, versions, Happened(issued.stream, later[n % 3], issued.at + HOUR, ADMIN))
            # Most of a ledger is no punishment.
            for prefix in "ab":
                append(ledger, versions, Happened("user:9", events.UserPrefixChanged(old_prefix="!", prefix=prefix)))
        catch_up(conn, ledger)
        conn.execute("delete from punishments where stream = 'skipped'")
    yield url
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def conn(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def every(conn: psycopg.Connection) -> list[Punishment]:
    found = ask(conn, Search(limit=1000), NOW).punishments
    assert len(found) == ROWS
    assert len({row.ordinal // marks.ORDINALS for row in found if row.ordinal is not None}) > 2
    return found


def ask(conn: psycopg.Connection, search: Search, now: datetime, *, fragments: bool = True) -> Page:
    sql, parameters = statement(search, now, fragments=fragments)
    return page(search, psycopg.RawCursor(conn).execute(sql, parameters, prepare=is_steady(search)).fetchall())


def bare(word: str) -> str:
    letters = [place for place, one in enumerate(word) if one.isalnum()]
    return word[letters[0] : letters[-1] + 1] if letters else word


@cache
def forms(reason: str) -> list[tuple[str, str]]:
    """Each word of the reason, as it is and bare."""
    return [(word, bare(word)) for word in reason.casefold().split()]


def bears(row: Punishment, q: str, *, fragments: bool = True) -> bool:
    words = forms(row.reason)
    return all(
        any(term in word for word, _ in words) if fragments and len(term) >= 3 else any(term in both for both in words)
        for term in q.casefold().split()
    )


def expected(every: list[Punishment], search: Search, now: datetime, *, fragments: bool = True) -> list[Punishment]:
    assert search.q is not None
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
        and bears(row, search.q, fragments=fragments)
    ]

    def key(row: Punishment) -> tuple[Any, ...]:
        if search.sort.endswith("created_at"):
            return (row.created_at, row.id)
        return (row.expires_at is None, row.expires_at or NOW, row.created_at, row.id)

    return sorted(wanted, key=key, reverse=search.sort.startswith("-"))


# Half of them words as they are, which many reasons bear.
TERMS = st.sampled_from(WORDS[:6]) | st.sampled_from(WORDS).flatmap(
    lambda word: st.tuples(st.integers(0, len(word) - 1), st.integers(1, 12)).map(
        lambda cut: word[cut[0] : cut[0] + cut[1]]
    )
)
TEXTS = st.lists(TERMS, min_size=1, max_size=3).flatmap(
    lambda terms: st.sampled_from(SPACES).map(lambda space: space.join(terms))
) | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)
QUERIES = TEXTS.map(str.strip).filter(lambda q: 1 <= len(q) <= 100)
EDGES = st.none() | st.integers(-10, ROWS * 7 + 10).map(lambda hours: NOW - hours * HOUR)
SEARCHES = st.builds(
    Search,
    q=QUERIES,
    user_id=st.sampled_from([None, None, None, 1, 99]),
    guild_id=st.sampled_from([None, None, None, 1, 99]),
    issued_by=st.sampled_from([None, None, 21, 22, 99]),
    type=st.sampled_from([None, None, 1, 3, 4]),
    active_only=st.booleans(),
    created_after=EDGES,
    created_before=EDGES,
    sort=st.sampled_from(SORTS),
    limit=st.sampled_from([1, 2, 25, 400]),
)


@settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(search=SEARCHES, hours=st.integers(0, ROWS * 7))
def test_a_search_for_words_and_fragments_is_the_rule_applied_to_every_reason(
    conn: psycopg.Connection, every: list[Punishment], search: Search, hours: int
) -> None:
    now = NOW - hours * HOUR
    whole = expected(every, search, now)
    found: list[Punishment] = []
    cursor = None
    while True:
        by_offset = ask(conn, msgspec.structs.replace(search, offset=len(found)), now)
        # The first page has no cursor yet, and is the same question.
        by_cursor = by_offset if cursor is None else ask(conn, msgspec.structs.replace(search, cursor=cursor), now)
        assert by_offset.total == by_cursor.total == len(whole)
        assert by_offset.punishments == by_cursor.punishments == whole[len(found) : len(found) + search.limit]
        found += by_cursor.punishments
        cursor = by_cursor.next_cursor
        assert (cursor is None) == (by_offset.next_cursor is None) == (len(found) >= len(whole))
        # Far pages of long answers are like near ones.
        if cursor is None or len(found) >= 4 * search.limit:
            return


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(search=SEARCHES, sort=st.sampled_from(["created_at", "-created_at"]))
def test_the_marks_of_weeks_lead_to_the_page_to_which_their_rows_lead(
    exaggerated: psycopg.Connection, every: list[Punishment], search: Search, sort: Sort
) -> None:
    asked = msgspec.structs.replace(search, sort=sort, created_after=None, created_before=None)
    whole = expected(every, asked, NOW)
    found = ask(exaggerated, asked, NOW)
    assert (found.punishments, found.total) == (whole[: search.limit], len(whole))
    if found.next_cursor is not None:
        following = ask(exaggerated, msgspec.structs.replace(asked, cursor=found.next_cursor), NOW)
        assert following.punishments == whole[search.limit : 2 * search.limit]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("subject", [{}, {"guild_id": 1}, {"issued_by": 21}])
def test_pages_of_a_word_follow_each_other_to_the_end(
    conn: psycopg.Connection, every: list[Punishment], subject: dict[str, Any], sort: Sort
) -> None:
    asked = Search(q="spam", limit=4, sort=sort, **subject)
    whole, found = expected(every, asked, NOW), list[Punishment]()
    while len(found) < len(whole):
        page_ = ask(conn, asked, NOW)
        assert page_.total == len(whole)
        found += page_.punishments
        asked = msgspec.structs.replace(asked, cursor=page_.next_cursor)
    assert found == whole
    assert len(whole) > 20


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize(("q", "limit"), [("a", 1), ("pam", 25), ("spam a", 2), ("no", 400), ("rule", 1), ("🚫", 25)])
def test_the_words_of_a_search_combine_with_every_filter(
    conn: psycopg.Connection, every: list[Punishment], q: str, limit: int, sort: Any
) -> None:
    middle = NOW - ROWS * 3 * HOUR
    for subject, issuer, kind, active, dates in product(
        ({}, {"user_id": 1}, {"guild_id": 1}),
        ({}, {"issued_by": 21}),
        ({}, {"type": 1}, {"type": 4}),
        (False, True),
        ({}, {"created_after": middle}, {"created_before": middle},
         {"created_after": middle - 3 * DAY, "created_before": middle + 20 * DAY}),
    ):  # fmt: skip
        filters: dict[str, Any] = {**subject, **issuer, **kind, **dates}
        search = Search(q=q, active_only=active, limit=limit, sort=sort, **filters)
        whole = expected(every, search, NOW)
        found = ask(conn, search, NOW)
        assert (found.punishments, found.total) == (whole[:limit], len(whole)), search


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(search=SEARCHES)
def test_without_pg_trgm_a_search_is_for_whole_words_or_refused(
    conn: psycopg.Connection, every: list[Punishment], search: Search
) -> None:
    assert search.q is not None
    words = {form for row in every for word in row.reason.casefold().split() for form in (word, bare(word))}
    if any(len(term) >= 3 and term not in words for term in search.q.casefold().split()):
        with pytest.raises(FragmentsNeeded):
            ask(conn, search, NOW, fragments=False)
    else:
        whole = expected(every, search, NOW, fragments=False)
        found = ask(conn, search, NOW, fragments=False)
        assert (found.punishments, found.total) == (whole[: search.limit], len(whole))


def kept(conn: psycopg.Connection) -> tuple[set[marks.Mark], set[tuple[Any, ...]]]:
    lines = conn.execute("select kind, value, span, bits::text from ordinal_marks").fetchall()
    words = conn.execute("select word, bare, code, punishments, ids from reason_words").fetchall()
    return (
        {
            (kind, value, span * marks.ORDINALS + place)
            for kind, value, span, bits in lines
            for place, bit in enumerate(bits)
            if bit == "1"
        },
        set(words),
    )


def derived(rows: list[Punishment]) -> tuple[set[marks.Mark], set[tuple[Any, ...]]]:
    found: set[marks.Mark] = set()
    bearers: dict[str, set[int]] = {}
    for row in rows:
        assert row.ordinal is not None
        found |= {(marks.TYPE, row.type, row.ordinal), (marks.WEEK, week(row.created_at), row.ordinal)}
        found |= {(marks.ISSUER, row.issued_by, row.ordinal)} if row.issued_by is not None else set()
        found |= {(marks.GUILD, row.guild_id, row.ordinal)} if row.guild_id is not None else set()
        found |= {(marks.OPEN, 0, row.ordinal)} if row.open else set()
        for word in row.reason.casefold().split() if row.reason != ERASED else []:
            bearers.setdefault(word, set()).add(row.ordinal)
            found.add((marks.WORD, reason_words.number(word), row.ordinal))
    words = {
        (reason_words.number(word), reason_words.number(bare(word)), code(word), len(ordinals), sum(ordinals))
        for word, ordinals in bearers.items()
    }
    return found, words


def test_marks_and_words_are_those_of_the_rows(conn: psycopg.Connection, every: list[Punishment]) -> None:
    assert kept(conn) == derived(every)


def test_an_erased_reason_is_found_by_nobody_and_its_words_are_forgotten(database: str) -> None:
    history = [
        Happened("user:1", events.UserWarned(reason="spam secretword")),
        Happened("user:1", events.UserWarned(reason="secretword")),
        Happened("user:2", events.UserWarned(reason="spam")),
        Happened("user:1", events.PunishmentAmended(
            number=2, old_reason="secretword", reason="hiddenword", old_expires_at=None, expires_at=None
        )),
    ]  # fmt: skip
    versions: dict[str, int] = {}
    with memory_ledger() as ledger, psycopg.connect(database, autocommit=True) as conn:
        for happened in history:
            append(ledger, versions, happened)
        advance(conn, punishments.PROJECTOR, ledger, 100)
        asked = ("spam", "secret", "hidden", "[erased]", "erased", "[e")
        assert [ask(conn, Search(q=q), NOW).total for q in asked] == [2, 1, 1, 0, 0, 0]
        append(ledger, versions, Happened("user:1", events.SubjectErased(reason="asked for")))
        advance(conn, punishments.PROJECTOR, ledger, 100)
        assert [ask(conn, Search(q=q), NOW).total for q in asked] == [1, 0, 0, 0, 0, 0]
        whole = ask(conn, Search(), NOW).punishments
        assert kept(conn) == derived(whole)
        assert conn.execute("select code from reason_words").fetchall() == [("spam",)]
        # Who folds the ledger anew reads what was erased as such from the beginning.
        again = msgspec.structs.replace(punishments.PROJECTOR, version=punishments.PROJECTOR.version + 1)
        assert create_missing(conn, [again]) == ["punishments"]
        advance(conn, again, ledger, 100)
        assert ask(conn, Search(), NOW).punishments == whole
        assert kept(conn) == derived(whole)


def test_a_word_of_any_length_is_found(database: str) -> None:
    # The longest that a reason can be when it is casefolded, and longer than an index can hold.
    longest = "".join(Random(1).choices("ΐΰ🚫x", k=512))
    with memory_ledger() as ledger, psycopg.connect(database, autocommit=True) as conn:
        append(ledger, {}, Happened("user:1", events.UserWarned(reason=longest)))
        advance(conn, punishments.PROJECTOR, ledger, 100)
        assert ask(conn, Search(q=longest[200:300]), NOW).total == 1
        assert ask(conn, Search(q="y" + longest[200:299]), NOW).total == 0


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("active_only", [False, True])
def test_no_search_for_words_has_to_read_a_table_from_end_to_end(
    conn: psycopg.Connection, sort: Any, active_only: bool
) -> None:
    # On so few rows the planner likes to; where it must not, it says so of each table that has no index for it.
    with conn.transaction():
        conn.execute("set local enable_seqscan = off")
        middle = NOW - ROWS * 3 * HOUR
        filters: list[dict[str, Any]] = [
            {}, {"user_id": 1}, {"guild_id": 1}, {"issued_by": 21}, {"guild_id": 1, "issued_by": 21}, {"type": 3},
            {"created_after": middle}, {"created_before": middle},
            {"created_after": middle, "created_before": middle + 20 * DAY},
        ]  # fmt: skip
        for q, fragments, more in product(("spam", "a", "???", "🚫🚫🚫", "spam a"), (True, False), filters):
            search = Search(q=q, active_only=active_only, sort=sort, **more)
            sql, parameters = statement(search, NOW, fragments=fragments)
            plan = psycopg.RawCursor(conn).execute("explain " + sql, parameters).fetchall()
            assert not [line for (line,) in plan if "Seq Scan" in line], search

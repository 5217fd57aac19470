"""The tables of the punishment history: selected by the condition that names a moment, in SQL; marks and words as the
rows say; equal however the ledger is cut; nothing of what was erased."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import product
from typing import Final

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import class_row

from modledger.domain import events
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import marks, reason_words
from modledger.projections.projector import advance
from modledger.projections.punishment_history import PROJECTOR, History, derive
from modledger.projections.punishment_versions import BOTH, DATED, KNOWN, TABLE, Version
from modledger.projections.time_travel import Instant
from modledger.projections.verification import verify_projector
from modledger.projections.weeks import week
from tests.projection_history import DAY, HOUR, NOW, Happened, append, contents, memory_ledger
from tests.test_punishment_history import as_it_was, expected, punished

TABLES: Final = (PROJECTOR.table, *PROJECTOR.beside)
# As punishment_versions.py has it.
AT: Final = {
    KNOWN: "since_position <= %(position)s and coalesce(until_position > %(position)s, true)",
    DATED: "dated_since <= %(date)s and coalesce(dated_until > %(date)s, true)",
    BOTH: """since_position <= %(position)s and dated_since <= %(date)s and case when serves = 7
        then coalesce(until_position > %(position)s, true) or coalesce(dated_until > %(date)s, true)
        else coalesce(until_position > %(position)s, true) and coalesce(dated_until > %(date)s, true) end""",
}
slow = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def empty(conn: psycopg.Connection) -> None:
    for table in TABLES:
        conn.execute(f"delete from {table.name}".encode())
    conn.execute("update projection_tracking set notification_id = 0 where application_name = %s", (PROJECTOR.name,))


def catch_up(conn: psycopg.Connection, ledger: MemoryLedger, limit: int = 1000) -> None:
    while advance(conn, PROJECTOR, ledger, limit).more:
        pass


def selected(conn: psycopg.Connection, position: int | None, date: datetime | None) -> list[Version]:
    serves = BOTH if position is not None and date is not None else KNOWN if position is not None else DATED
    cursor = conn.cursor(row_factory=class_row(Version))
    return cursor.execute(
        f"select {', '.join(TABLE.columns)} from punishment_versions"
        f" where serves & {serves} > 0 and {AT[serves]} order by stream, number".encode(),
        {"position": position, "date": date},
    ).fetchall()


@st.composite
def lives(draw: st.DrawFn) -> list[Happened]:
    """What happened to several, in turn."""
    rest = [draw(punished(stream)) for stream in ("user:1", "user:2", "guild:3")]
    found = []
    while any(rest):
        found.append(draw(st.sampled_from([one for one in rest if one])).pop(0))
    return found


@settings(parent=slow, max_examples=20)
@given(history=lives(), data=st.data())
def test_what_the_condition_selects_is_what_the_fold_of_the_events_that_count_says(
    conn: psycopg.Connection, history: list[Happened], data: st.DataObject
) -> None:
    empty(conn)
    with memory_ledger() as ledger:
        numbers: dict[str, int] = {}
        for happened in history:
            append(ledger, numbers, happened)
        catch_up(conn, ledger, data.draw(st.integers(1, 20)))
        streams = {
            stream: [msgspec.structs.replace(one, recorded_at=NOW + one.position * HOUR) for one in found]
            for stream, found in ledger.load(sorted(numbers)).items()
        }
    last = max(one.position for found in streams.values() for one in found)
    for _ in range(10):
        position = data.draw(st.none() | st.integers(0, last))
        date = data.draw(
            (st.none() if position is not None else st.nothing()) | st.sampled_from([h.at for h in history])
        )
        at = Instant(now=NOW, as_of=date, known_at=None if position is None else NOW + position * HOUR)
        says = [row for stream in sorted(streams) for row in expected(streams[stream], at)]
        assert [as_it_was(one, position, date) for one in selected(conn, position, date)] == says


# -- marks and words


def set_marks(conn: psycopg.Connection) -> set[marks.Mark]:
    # The whole table; one line for each bit that is set.
    lines = conn.execute("select kind, value, span, bits::text from punishment_version_marks").fetchall()
    return {
        (kind, value, span * marks.SPAN + place)
        for kind, value, span, bits in lines
        for place, bit in enumerate(bits)
        if bit == "1"
    }


def marks_said(rows: Sequence[Version]) -> set[marks.Mark]:
    found: set[tuple[int, int | None, int]] = set()
    for row in rows:
        at = row.position
        if at is None:
            continue
        created, since = week(row.created_at), week(row.dated_since)
        found |= {(marks.TYPE, row.type, at), (marks.ISSUER, row.issued_by, at), (marks.GUILD, row.guild_id, at)}
        found |= {(marks.WEEK, created, at), (marks.SINCE, since if since > created else None, at)}
        found |= {(marks.WORD, reason_words.number(word), at) for word in reason_words.words(row.reason)}
        for kind, position in (
            (marks.REPLACED_KNOWN, row.until_position),
            (marks.ENDED_KNOWN, row.ended_position),
        ):
            found.add((kind, None if position is None else position // 16_384, at))
        for kind, date in (
            (marks.REPLACED_DATED, row.dated_until),
            (marks.ENDED_DATED, row.ended_dated),
            (marks.EXPIRES, row.expires_at),
        ):
            found.add((kind, None if date is None else week(date), at))
    blocks = {marks.ENDED_KNOWN: 12, marks.ENDED_DATED: 13, marks.EXPIRES: 14}
    found |= {(blocks[kind], None if value is None else value // 16, at) for kind, value, at in found if kind in blocks}
    return {(kind, value, at) for kind, value, at in found if value is not None}


def words_said(rows: Sequence[Version]) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for row in rows:
        for word in reason_words.words(row.reason) if row.position is not None else ():
            number = reason_words.number(word)
            count, ids = found.get(number, (0, 0))
            found[number] = (count + 1, ids + (row.position or 0))
    return found


def spread(history: Sequence[Happened]) -> list[Happened]:
    """The same over weeks instead of hours."""
    return [msgspec.structs.replace(one, at=NOW + (one.at - NOW) * 24 * 3) for one in history]


@settings(parent=slow, max_examples=20)
@given(history=lives().map(spread), limit=st.integers(1, 20))
def test_marks_and_words_are_those_of_the_versions_in_order(
    conn: psycopg.Connection, history: list[Happened], limit: int
) -> None:
    empty(conn)
    with memory_ledger() as ledger:
        numbers: dict[str, int] = {}
        for happened in history:
            append(ledger, numbers, happened)
            catch_up(conn, ledger, limit)
    cursor = conn.cursor(row_factory=class_row(Version))
    rows = cursor.execute(f"select {', '.join(TABLE.columns)} from punishment_versions".encode()).fetchall()
    assert set_marks(conn) == marks_said(rows)
    words = conn.execute("select word, punishments, ids from version_words").fetchall()
    assert {word: (count, ids) for word, count, ids in words} == words_said(rows)


# -- counts


def counts_said(rows: Sequence[Version]) -> dict[tuple[int, int, int, int, int], tuple[int, int]]:
    """By axis, guild, issuer, type and place: those that began less those that were replaced, or were not active any
    more."""
    found: Counter[tuple[tuple[int, int, int, int, int], int]] = Counter()
    for row in rows:
        turns = [(1, at // 16_384, n, sign) for at, n, sign in (
            (row.position, 0, 1), (row.until_position, 0, -1), (row.position, 1, 1), (row.known_stop, 1, -1),
        ) if at is not None]  # fmt: skip
        turns += [(axis, week(at), n, sign) for axis, at, n, sign in (
            (2, row.dated_since, 0, 1), (2, row.dated_until, 0, -1), (2, row.dated_since, 1, 1),
            (2, row.dated_stop, 1, -1), (3, row.known_end, 1, -1),
        ) if at is not None]  # fmt: skip
        for (axis, place, n, sign), guild, issuer in product(turns, {0, row.guild_id}, {0, row.issued_by}):
            if guild is not None and issuer is not None:
                found[(axis, guild, issuer, row.type, place), n] += sign
    return {cell: both for cell, _ in found if any(both := (found[cell, 0], found[cell, 1]))}


@settings(parent=slow, max_examples=20)
@given(history=lives().map(spread), data=st.data())
def test_counts_are_those_of_the_versions_in_order_and_each_counts_as_active_exactly_while_it_is(
    conn: psycopg.Connection, history: list[Happened], data: st.DataObject
) -> None:
    empty(conn)
    times = [NOW]
    with MemoryLedger(lambda: times[-1]) as ledger:
        numbers: dict[str, int] = {}
        for happened in history:
            times.append(max(times[-1], happened.at + data.draw(st.sampled_from([-DAY, 0 * DAY, HOUR, 30 * DAY]))))
            append(ledger, numbers, happened)
            if data.draw(st.booleans()):
                catch_up(conn, ledger)
        catch_up(conn, ledger)
        recorded = [(one.position, one.recorded_at) for found in ledger.load(sorted(numbers)).values() for one in found]
    cursor = conn.cursor(row_factory=class_row(Version))
    rows = cursor.execute(
        f"select {', '.join(TABLE.columns)} from punishment_versions where serves = 7".encode()
    ).fetchall()
    cells = conn.execute("select * from punishment_history_counts").fetchall()
    assert {tuple(cell): (there, active) for *cell, there, active in cells} == counts_said(rows)
    ends = [row.expires_at for row in rows if row.expires_at is not None]
    for row in rows:
        gone, done = row.until_position or row.ended_position, row.dated_until or row.ended_dated

        def runs(now: datetime, row: Version = row) -> bool:
            return row.expires_at is None or row.expires_at > now

        for now in {at for _, at in recorded} | set(ends):
            position = max((position for position, at in recorded if at <= now), default=0)
            known = row.since_position <= position and (gone is None or gone > position) and runs(now)
            dated = row.dated_since <= now and (done is None or done > now) and runs(now)
            begun, stop, end = row.since_position <= position, row.known_stop, row.known_end
            assert known == begun - (stop is not None and stop <= position) - (end is not None and end <= now)
            assert dated == (row.dated_since <= now) - (row.dated_stop is not None and row.dated_stop <= now)


# -- batches and erasure


@settings(parent=slow, max_examples=20)
@given(history=lives(), data=st.data())
def test_however_the_ledger_is_cut_the_tables_are_those_made_from_nothing(
    conn: psycopg.Connection, history: list[Happened], data: st.DataObject
) -> None:
    empty(conn)
    with memory_ledger() as ledger:
        numbers: dict[str, int] = {}
        for happened in history:
            append(ledger, numbers, happened)
            catch_up(conn, ledger)
        followed = contents(conn, TABLES)
        empty(conn)
        while advance(conn, PROJECTOR, ledger, data.draw(st.integers(1, 9))).read:
            pass
        assert contents(conn, TABLES) == followed
    rows = [
        History(**dict(zip(PROJECTOR.table.columns, line, strict=True))) for line in followed["punishment_histories"]
    ]
    with conn.transaction():
        for table in PROJECTOR.beside:
            conn.execute(f"delete from {table.name}".encode())
        derive(conn.cursor(), [(None, msgspec.convert(msgspec.to_builtins(row), History)) for row in rows])
    assert contents(conn, TABLES) == followed


def test_an_erasure_leaves_no_text_and_no_word_in_any_table_in_order_or_not(conn: psycopg.Connection) -> None:
    def happen(stream: str, event: events.Event, hours: int) -> None:
        append(ledger, numbers, Happened(stream, event, NOW + hours * HOUR))

    def amended(number: int, reason: str) -> events.Event:
        return events.PunishmentAmended(
            number=number, old_reason="", reason=reason, old_expires_at=None, expires_at=None
        )

    empty(conn)
    texts = ["Mudslinger", "Flamewarden", "Slanderlark", "Sockpuppetry", "Quillfeather"]
    with memory_ledger() as ledger:
        numbers: dict[str, int] = {}
        happen("user:1", events.UserWarned(reason=texts[0]), 0)
        happen("user:1", amended(1, texts[1]), 1)
        happen("user:1", events.UserBanned(reason=texts[2]), 2)
        happen("user:1", amended(3, texts[3]), 4)
        happen("user:1", amended(3, texts[4]), 3)
        happen("user:2", events.UserWarned(reason="Mudslinger kept"), 0)
        catch_up(conn, ledger)
        held = {text for text in texts if text.casefold() in everything(conn)}
        before = set_marks(conn)
        happen("user:1", events.SubjectErased(reason="asked for"), 5)
        catch_up(conn, ledger)
    gone = {reason_words.number(text.casefold()) for text in texts[1:]}
    assert held == set(texts)
    assert gone & {value for kind, value, _ in before if kind == marks.WORD}
    assert [text for text in texts if text.casefold() in everything(conn)] == texts[:1]
    assert not gone & {value for kind, value, _ in set_marks(conn)}
    lines = conn.execute("select value from punishment_version_marks where kind = %s", (marks.WORD,)).fetchall()
    assert {value for (value,) in lines} == {reason_words.number("mudslinger"), reason_words.number("kept")}


def everything(conn: psycopg.Connection) -> str:
    """All rows of all tables, as text."""
    return " ".join(
        str(line)
        for table in TABLES
        for line in conn.execute(f"select t::text from {table.name} t".encode()).fetchall()
    ).casefold()


# -- verification


PLANTED = [
    (
        "update punishment_histories set changes = jsonb_set(changes, '{0,6}', '\"not so\"')",
        (
            "punishment_history (stream=user:1, number=1): changes",
            "punishment_versions (stream=user:1, number=1, place=0)",
        ),
    ),
    (
        "update punishment_versions set until_position = null where place = 0",
        ("punishment_versions (stream=user:1, number=1, place=0): until_position",),
    ),
    ("delete from punishment_versions where place = 1", ("place=1): row is missing",)),
    (f"delete from punishment_version_marks where kind = {marks.REPLACED_DATED}", ("punishment_version_marks",)),
    ("update version_words set punishments = 7 where code = 'raid'", ("version_words",)),
    (
        "update punishment_history_counts set there = there + 1 where axis = 2 and guild_id = 0 and issued_by = 0",
        ("punishment_history_counts",),
    ),
]


@pytest.mark.parametrize(("plant", "told"), PLANTED)
def test_verification_finds_what_was_changed_in_any_of_the_tables(
    conn: psycopg.Connection, database: str, ledger: PostgresLedger, plant: str, told: Sequence[str]
) -> None:
    numbers: dict[str, int] = {}
    append(ledger, numbers, Happened("user:1", events.UserWarned(reason="spam"), NOW))
    amended = events.PunishmentAmended(number=1, old_reason="spam", reason="raid", old_expires_at=None, expires_at=None)
    append(ledger, numbers, Happened("user:1", amended, NOW + DAY))
    while advance(conn, PROJECTOR, ledger, 100).more:
        pass
    assert list(verify_projector(database, PROJECTOR, ledger)) == []
    assert conn.execute(plant.encode()).rowcount == 1
    places = [one.place() for one in verify_projector(database, PROJECTOR, ledger)]
    assert places
    for text in told:
        assert any(text in place for place in places), places

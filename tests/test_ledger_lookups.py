"""Events by position, by command and by stream and version: what every ledger promises, held against both stores."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import psycopg
import pytest

from modledger.domain.events import ERASED, SubjectErased, UserRegistered, UserWarned
from modledger.domain.ledger import VersionConflict
from modledger.domain.ledger_queries import AT_ALL, OF_COMMANDS, POSITION_AT, POSITIONS
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.recorder_ledger import RecorderLedger
from tests.test_ledger_contract import command, erase, event, store, warnings

__all__ = ["store"]


def test_an_empty_ledger_finds_nothing(store: RecorderLedger) -> None:
    assert store.at_all([1, 2, 3]) == {}
    assert store.of_commands([uuid4()]) == {}
    assert store.positions_of([("user:1", 1)]) == {}
    assert store.at_all([]) == {}
    assert store.of_commands([]) == {}
    assert store.positions_of([]) == {}


def test_events_are_found_by_their_positions(store: RecorderLedger) -> None:
    events = [*warnings(store, "user:1", 1, 3), *warnings(store, "guild:2", 1, 2)]
    wanted = [events[4], events[0], events[2]]
    asked = [*(one.position for one in wanted), events[0].position, 0, -1, 2**62]
    assert store.at_all(asked) == {one.position: one for one in wanted}


def test_text_that_was_erased_is_erased_wherever_it_is_found(store: RecorderLedger) -> None:
    first = command(event("user:1", 1), event("user:2", 1))
    [one, other] = store.append(first).events
    erased = erase(store, "user:1", 2)
    assert erased.event == SubjectErased(reason="asked by mail")
    found = store.at_all([one.position, other.position, erased.position])
    assert [getattr(recorded.event, "reason", None) for recorded in found.values()].count(ERASED) == 1
    assert getattr(found[one.position].event, "reason", None) == ERASED
    assert (found[other.position], found[erased.position]) == (other, erased)
    assert store.of_commands([first.command_id])[first.command_id] == [found[one.position], other]


def test_the_events_of_each_command_are_found_in_their_order(store: RecorderLedger) -> None:
    commands = [
        command(event("user:1", 1)),
        command(event("user:1", 2), event("user:2", 1), event("user:1", 3)),
        command(event("user:3", 1, UserRegistered(username="zoë"))),
        command(event("user:3", 2), event("user:3", 3)),
    ]
    appended = {one.command_id: list(store.append(one).events) for one in commands[:3]}
    store.append_batch([commands[3], command(event("user:4", 1))])
    appended[commands[3].command_id] = store.load(["user:3"])["user:3"][1:]
    assert store.of_commands([uuid4(), *(one.command_id for one in reversed(commands))]) == appended
    only = commands[1].command_id
    assert store.of_commands([only, only]) == {only: appended[only]}


def test_a_refused_command_has_no_events(store: RecorderLedger) -> None:
    first = command(event("user:1", 1))
    store.append(first)
    store.append(first)
    assert [one.version for one in store.of_commands([first.command_id])[first.command_id]] == [1]
    assert store.of_commands([command(event("user:1", 1)).command_id]) == {}


def test_positions_are_found_by_stream_and_version(store: RecorderLedger) -> None:
    events = [*warnings(store, "user:1", 1, 3), *warnings(store, "guild:1", 1, 2)]
    known = {(one.stream, one.version): one.position for one in events}
    asked = [*known, ("user:1", 4), ("bot:1", 1), ("user:1", 0)]
    assert store.positions_of(asked) == known
    assert store.positions_of([("user:1", 2)]) == {("user:1", 2): known[("user:1", 2)]}


def test_a_moment_leads_to_the_last_position_recorded_until_then(store: RecorderLedger) -> None:
    assert store.position_at(datetime.max.replace(tzinfo=UTC)) == 0
    store.append(command(event("user:1", 1), event("user:2", 1), event("user:3", 1)))
    for first in range(2, 40):
        if first % 3 == 0:
            # Refused, so that positions may have gaps.
            with suppress(VersionConflict):
                store.append(command(event("user:1", 1)))
        store.append_batch([command(event("user:1", first)), command(event("user:2", first), event("user:3", first))])
    whole = store.read(0, 1000)
    for one in whole:
        for moment in (one.recorded_at - one.recorded_at.resolution, one.recorded_at):
            until = max((other.position for other in whole if other.recorded_at <= moment), default=0)
            assert store.position_at(moment) == until
            assert store.position_at(moment.astimezone(timezone(timedelta(hours=5)))) == until
    assert store.position_at(datetime.max.replace(tzinfo=UTC)) == store.head()
    assert store.position_at(datetime.min.replace(tzinfo=UTC)) == 0


def test_a_moment_is_found_across_gaps_between_positions(database: str, ledger: PostgresLedger) -> None:
    found = []
    with psycopg.connect(database, autocommit=True) as connection:
        for version, gap in enumerate((0, 1, 5, 90, 1, 2**40, 0, 7), 1):
            for _ in range(min(gap, 90)):
                connection.execute("select nextval(pg_get_serial_sequence('ledger', 'notification_id'))")
            if gap > 90:
                connection.execute("select setval(pg_get_serial_sequence('ledger', 'notification_id'), %s)", (gap,))
            found += warnings(ledger, "user:1", version, version)
    for one in found:
        assert ledger.position_at(one.recorded_at) == one.position
        before = [other.position for other in found if other.recorded_at < one.recorded_at]
        assert ledger.position_at(one.recorded_at - one.recorded_at.resolution) == max(before, default=0)


def test_what_this_program_cannot_read_is_left_out_and_holds_up_nothing(database: str, ledger: PostgresLedger) -> None:
    first, newer, damaged, last = warnings(ledger, "user:1", 1, 4)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("alter table ledger disable trigger ledger_append_only")
        connection.execute("update ledger set topic = 'user.praised.v1' where notification_id = %s", (newer.position,))
        connection.execute("update ledger set state = 'x' where notification_id = %s", (damaged.position,))
    found = ledger.at_all([one.position for one in (first, newer, damaged, last)])
    assert found == {first.position: first, last.position: last}


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        (AT_ALL, ["ledger_position", "subject_keys_pkey"]),
        (OF_COMMANDS, ["ledger_command", "ledger_position", "subject_keys_pkey"]),
        (POSITIONS, ["ledger_pkey"]),
        (POSITION_AT, ["ledger_position"]),
    ],
)
def test_each_look_up_goes_by_the_index_that_it_names(
    database: str, ledger: PostgresLedger, statement: str, wanted: list[str]
) -> None:
    stored = [command(event(f"user:{n}", 1), event(f"user:{n}", 2, UserWarned(reason="x"))) for n in range(1, 2001)]
    ledger.append_batch(stored)
    arguments: list[object] = [list(range(1, 40, 2))]
    if statement is OF_COMMANDS:
        arguments = [[one.command_id for one in stored[:20]]]
    elif statement is POSITIONS:
        arguments = [[f"user:{n}" for n in range(1, 21)], [1] * 20]
    elif statement is POSITION_AT:
        arguments = [datetime.now(UTC)]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("analyze ledger")
        connection.execute("analyze subject_keys")
        cursor = connection.cursor(binary=True)
        plan = "\n".join(row[0] for row in cursor.execute(f"explain {statement}".encode(), arguments).fetchall())
    assert "Seq Scan" not in plan
    for index in wanted:
        assert index in plan

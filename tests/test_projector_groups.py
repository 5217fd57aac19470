"""The projectors of a worker process: they go together, part where they must, and come together again."""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from modledger.domain import events
from modledger.domain.ledger import Append
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS, create_missing
from modledger.projections.projector import checkpoint
from modledger.workers.runner import BATCH, catch_up
from tests.test_joint_advance import NAMES, OTHERS, positions, transactions
from tests.test_ledger_contract import command, event
from tests.test_runner import eventually, fails_at, failures, running, warned


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


def go_together(ledger: PostgresLedger, connection: psycopg.Connection, names: list[str]) -> bool:
    """Whether the next event brings all of these on in one transaction."""
    head = warned(ledger, 1)
    eventually(lambda: positions(connection, names) == {head})
    return transactions(connection, names) == 1


def appended(ledger: PostgresLedger, count: int) -> int:
    """That many warnings, of users of their own; answers the last position."""
    first = 1_000_000 + ledger.head()
    warnings = [event(f"user:{first + n}", 1, events.UserWarned(reason="spam")) for n in range(count)]
    ledger.append_batch(
        [Append(command_id=uuid4(), events=[new], expected={new.stream: 0}) for new in warnings],
    )
    return ledger.head()


def end(connection: psycopg.Connection, name: str) -> None:
    """The server ends that projector's connection, and with it its turn."""
    ended = connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = %s and datname = current_database()",
        (f"modledger {name}",),
    ).fetchall()
    assert ended == [(True,)]


def test_projectors_that_follow_the_ledger_do_so_in_one_transaction(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    with running(ledger, database, PROJECTORS):
        eventually(lambda: go_together(ledger, connection, NAMES))


def test_those_that_begin_together_go_together_through_a_long_ledger(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    head = appended(ledger, 2 * BATCH + 1)
    with running(ledger, database, PROJECTORS):
        eventually(lambda: positions(connection) == {head})
        eventually(lambda: go_together(ledger, connection, NAMES))
    counted = connection.execute(
        "select total from punishment_counts where guild_id = 0 and issued_by = 0 and week = 0 and type = 1"
    ).fetchall()
    rows = connection.execute("select count(*) from punishments").fetchall()
    assert rows == counted == [(ledger.head(),)]


def test_when_one_stops_the_nine_go_on_together(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    # The first of them leads, the one in the middle is led.
    for broken in ("profile", "punishments"):
        others = [name for name in NAMES if name != broken]
        changed = [fails_at(one, user_id=2) if one.name == broken else one for one in PROJECTORS]
        with running(ledger, database, changed):
            eventually(lambda names=others: go_together(ledger, connection, names))  # type: ignore[misc]
            bad = warned(ledger, 2)
            eventually(lambda: failures(connection) != [])
            assert failures(connection) == [(broken, bad, "user.warned.v1", "ValueError('planted')")]
            eventually(lambda names=others: go_together(ledger, connection, names))  # type: ignore[misc]
            assert checkpoint(connection, broken) == bad - 1
        with running(ledger, database, PROJECTORS):
            eventually(lambda: failures(connection) == [])


def test_when_an_event_spoils_the_batch_of_two_the_eight_pass_it_and_go_on_together(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    with running(ledger, database, PROJECTORS):
        eventually(lambda: go_together(ledger, connection, NAMES))
        # Its row does not fit.
        level = events.PermissionChanged(old_level=0, new_level=40_000, reason="planted")
        bad = ledger.append(command(event("user:2", 1, level))).events[0].position
        eventually(lambda: len(failures(connection)) == 2)
        stopped = {failure[0] for failure in failures(connection)}
        assert stopped == {"profile", "permission_history"}
        eventually(lambda: go_together(ledger, connection, [name for name in NAMES if name not in stopped]))
        assert positions(connection, list(stopped)) == {bad - 1}


@pytest.mark.parametrize("name", ["profile", "punishments", "punishment_history"])
def test_one_that_loses_its_connection_takes_its_turn_again_and_comes_back(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection, name: str
) -> None:
    with running(ledger, database, PROJECTORS):
        eventually(lambda: go_together(ledger, connection, NAMES))
        end(connection, name)
        eventually(lambda: go_together(ledger, connection, NAMES))
        # Its turn is held by a connection that lives.
        eventually(lambda: _connected(connection, name))


def _connected(connection: psycopg.Connection, name: str) -> bool:
    found = connection.execute(
        "select count(*) from pg_locks join pg_stat_activity using (pid) where locktype = 'advisory' and granted"
        " and application_name = %s and datname = current_database()",
        (f"modledger {name}",),
    ).fetchone()
    return found == (1,)


def test_one_whose_table_is_locked_keeps_no_other_waiting(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    with running(ledger, database, PROJECTORS):
        eventually(lambda: go_together(ledger, connection, NAMES))
        before = checkpoint(connection, "punishments")
        with psycopg.connect(database) as holder:
            holder.execute("lock table punishments in access exclusive mode")
            eventually(lambda: go_together(ledger, connection, OTHERS))
            assert checkpoint(connection, "punishments") == before
        eventually(lambda: go_together(ledger, connection, NAMES))


def test_one_whose_tables_are_made_anew_catches_up_by_itself_and_comes_back(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    appended(ledger, 2 * BATCH + 1)
    catch_up(ledger, database, PROJECTORS)
    with running(ledger, database, PROJECTORS):
        eventually(lambda: go_together(ledger, connection, NAMES))
        connection.execute("drop table punishment_counts")
        assert create_missing(connection) == ["punishments"]
        eventually(lambda: go_together(ledger, connection, NAMES))
    assert failures(connection) == []
    rows = connection.execute("select count(*) from punishments").fetchall()
    assert rows == [(ledger.head(),)]


def test_one_whose_tables_a_newer_program_made_leaves_and_the_nine_go_on_together(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    with running(ledger, database, PROJECTORS):
        eventually(lambda: go_together(ledger, connection, NAMES))
        connection.execute(
            "update read_models set fingerprint = 'of a newer program', generation = generation + 1"
            " where projector = 'punishments'"
        )
        eventually(lambda: not _connected(connection, "punishments"))
        before = checkpoint(connection, "punishments")
        eventually(lambda: go_together(ledger, connection, OTHERS))
        assert checkpoint(connection, "punishments") == before
    assert failures(connection) == []


def test_catching_up_passes_by_whoever_cannot_take_an_event(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    good = warned(ledger, 1)
    warned(ledger, 2)
    head = appended(ledger, BATCH)
    broken = [fails_at(one, user_id=2) if one.name == "punishments" else one for one in PROJECTORS]
    assert catch_up(ledger, database, broken) == head
    assert (checkpoint(connection, "punishments"), positions(connection, OTHERS)) == (good, {head})
    assert catch_up(ledger, database, PROJECTORS) == head
    assert positions(connection) == {head}

"""The clock worker records what ran out: once, at its own time, however late it comes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from modledger.domain import commands, events
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, SYSTEM, Subject
from modledger.domain.execute import Outcome, execute, execute_batch
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.workers import clock
from modledger.workers.clock import record_ends
from modledger.workers.runner import catch_up

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
USER = Subject("user", 4711)


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


def given(ledger: PostgresLedger, command: Command, at: datetime = NOW) -> Outcome:
    context = Context(actor=OPERATOR, at=at, command_id=uuid4(), correlation_id=uuid4(), via="cli")
    return execute(ledger, command, context)


def ends_of(ledger: PostgresLedger, stream: str) -> list[tuple[str, datetime]]:
    """The recorded ends of the stream, earliest first."""
    return ends_of_each(ledger, [stream])[stream]


def ends_of_each(ledger: PostgresLedger, streams: Sequence[str]) -> dict[str, list[tuple[str, datetime]]]:
    ends = {
        stream: [one for one in history if isinstance(one.event, events.PunishmentLapsed | events.SubscriptionEnded)]
        for stream, history in ledger.load(streams).items()
    }
    return {
        stream: [(one.event.TOPIC, one.occurred_at) for one in sorted(found, key=lambda one: one.occurred_at)]
        for stream, found in ends.items()
    }


def test_a_timeout_that_ran_out_is_recorded_at_its_own_end_by_the_system(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    given(ledger, commands.IssueTimeout(user_id=USER.id, reason="spam", expires_at=NOW + HOUR))
    catch_up(ledger, database, PROJECTORS)

    assert record_ends(ledger, connection, NOW + HOUR - timedelta(microseconds=1)) == 0
    assert record_ends(ledger, connection, NOW + HOUR) == 1

    lapsed = ledger.load([str(USER)])[str(USER)][-1]
    assert (lapsed.event, lapsed.occurred_at) == (events.PunishmentLapsed(number=1), NOW + HOUR)
    assert (lapsed.actor, lapsed.via) == (SYSTEM, "worker")


def test_an_end_is_recorded_once_although_the_read_tables_do_not_know_of_it_yet(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    given(ledger, commands.IssueTimeout(user_id=USER.id, reason="spam", expires_at=NOW + HOUR))
    catch_up(ledger, database, PROJECTORS)

    recorded = [record_ends(ledger, connection, NOW + DAY) for _ in range(3)]

    assert recorded == [1, 0, 0]
    assert ends_of(ledger, str(USER)) == [("punishment.lapsed.v1", NOW + HOUR)]


def test_two_clocks_at_the_same_moment_record_every_end_once(ledger: PostgresLedger, database: str) -> None:
    users = [Subject("user", 1000 + n) for n in range(40)]
    for user in users:
        given(ledger, commands.IssueTimeout(user_id=user.id, reason="spam", expires_at=NOW + HOUR))
        given(ledger, commands.GrantSubscription(target=user, tier=1))
    catch_up(ledger, database, PROJECTORS)

    def record(_: int) -> None:
        with psycopg.connect(database, autocommit=True) as own:
            record_ends(ledger, own, NOW + 8 * DAY)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(record, range(8)))

    recorded = [("punishment.lapsed.v1", NOW + HOUR), ("subscription.ended.v1", NOW + 7 * DAY)]
    assert ends_of_each(ledger, list(map(str, users))) == {str(user): recorded for user in users}


def test_after_a_week_without_a_clock_everything_is_made_up_for_at_the_right_times(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    many = clock.BATCH + 100
    items: list[tuple[Command, Context]] = [
        (
            commands.IssueTimeout(user_id=2000 + n, reason="spam", expires_at=NOW + timedelta(minutes=n + 1)),
            Context(actor=OPERATOR, at=NOW, command_id=uuid4(), correlation_id=uuid4(), via="cli"),
        )
        for n in range(many)
    ]
    execute_batch(ledger, items)
    catch_up(ledger, database, PROJECTORS)

    total = 0
    while recorded := record_ends(ledger, connection, NOW + 7 * DAY):
        total += recorded
        catch_up(ledger, database, PROJECTORS)

    assert total == many
    assert ends_of_each(ledger, [f"user:{2000 + n}" for n in range(many)]) == {
        f"user:{2000 + n}": [("punishment.lapsed.v1", NOW + timedelta(minutes=n + 1))] for n in range(many)
    }


def test_a_tier_that_was_renewed_meanwhile_does_not_end(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    given(ledger, commands.ChangePermission(user_id=USER.id, level=1, reason="hired"))
    given(ledger, commands.GrantSubscription(target=USER, tier=2, duration_days=1))
    catch_up(ledger, database, PROJECTORS)
    given(ledger, commands.GrantSubscription(target=USER, tier=2, duration_days=30), at=NOW + HOUR)

    assert record_ends(ledger, connection, NOW + 2 * DAY) == 0
    assert ends_of(ledger, str(USER)) == []


def test_what_was_lifted_meanwhile_does_not_lapse(
    ledger: PostgresLedger, database: str, connection: psycopg.Connection
) -> None:
    given(ledger, commands.IssueTimeout(user_id=USER.id, reason="spam", expires_at=NOW + HOUR))
    catch_up(ledger, database, PROJECTORS)
    given(ledger, commands.LiftPunishment(target=USER, number=1, reason="sorry"), at=NOW + timedelta(minutes=1))

    assert record_ends(ledger, connection, NOW + DAY) == 0
    assert ends_of(ledger, str(USER)) == []

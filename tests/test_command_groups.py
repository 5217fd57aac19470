"""Commands of many requests carried out together: each is answered as if alone, and none waits for what hangs."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import uuid4

import psycopg
from structlog.contextvars import bind_contextvars, get_contextvars

from modledger.domain import commands
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR
from modledger.domain.execute import Outcome
from modledger.domain.kept_states import KeptStates
from modledger.domain.ledger import LedgerUnavailable
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.refusals import Conflict
from modledger.http.command_groups import CommandGroups
from modledger.workers.metrics import ledger_pool
from tests.postgres_processes import until
from tests.scenario import NOW, user
from tests.test_ledger_postgres import appends_held_back, wait_for_held_append

T = TypeVar("T")


def by_operator() -> Context:
    return Context(actor=OPERATOR, at=NOW, command_id=uuid4(), correlation_id=uuid4(), via="cli")


def warning(number: int) -> Command:
    return commands.IssueWarning(target=user(number), reason=f"rude {number}")


def ban(number: int) -> Command:
    return commands.IssueBan(target=user(number), reason="spam")


def position(outcome: Outcome) -> int:
    return outcome.position


def run(
    ledger: PostgresLedger, work: Callable[[CommandGroups], Awaitable[T]], most: int = 128, patience: float = 60
) -> T:
    async def started() -> T:
        return await work(CommandGroups(ledger, KeptStates(), most, patience))

    return asyncio.run(started())


async def held(database: str) -> None:
    """Until an append waits for the ledger's lock."""
    with psycopg.connect(database, autocommit=True) as watcher:
        await asyncio.to_thread(wait_for_held_append, watcher)


def transactions(database: str) -> list[int]:
    """How many events each transaction appended, in order."""
    with psycopg.connect(database) as connection:
        rows = connection.execute("select count(*) from ledger group by xmin::text order by min(notification_id)")
        return [count for (count,) in rows]


def test_those_that_come_in_one_turn_of_the_loop_go_together_and_no_more_than_the_most(
    database: str, ledger: PostgresLedger
) -> None:
    async def work(groups: CommandGroups) -> list[int]:
        return await asyncio.gather(*(groups.execute(warning(n), by_operator(), position) for n in range(20)))

    positions = run(ledger, work, most=8)
    assert positions == sorted(set(positions))
    assert transactions(database) == [8, 8, 4]
    for number, place in enumerate(positions):
        found = ledger.at(place)
        assert found is not None
        assert found.stream == f"user:{number}"


def test_those_that_come_while_a_group_is_at_work_go_together_in_the_next(
    database: str, ledger: PostgresLedger
) -> None:
    async def work(groups: CommandGroups) -> None:
        with appends_held_back(database):
            first = asyncio.create_task(groups.execute(warning(1), by_operator(), position))
            await held(database)
            others = [asyncio.create_task(groups.execute(warning(n), by_operator(), position)) for n in range(2, 9)]
            await asyncio.sleep(0)
        await asyncio.gather(first, *others)

    run(ledger, work)
    assert transactions(database) == [1, 7]


def test_a_refusal_or_a_mistake_of_one_leaves_the_others_alone(ledger: PostgresLedger) -> None:
    def mistaken(outcome: Outcome) -> int:
        raise ZeroDivisionError(outcome.position)

    async def work(groups: CommandGroups) -> list[int | BaseException]:
        await groups.execute(ban(3), by_operator(), position)
        asked = [
            groups.execute(warning(1), by_operator(), position),
            groups.execute(warning(2), by_operator(), mistaken),
            groups.execute(ban(3), by_operator(), position),
            groups.execute(warning(4), by_operator(), position),
        ]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = run(ledger, work)
    assert [type(answer) for answer in answers] == [int, ZeroDivisionError, Conflict, int]
    assert [recorded.stream for recorded in ledger.read(0, 10)] == ["user:3", "user:1", "user:2", "user:4"]


def test_of_many_on_one_stream_all_come_through_in_the_order_in_which_they_came(ledger: PostgresLedger) -> None:
    async def work(groups: CommandGroups) -> list[int]:
        return await asyncio.gather(*(groups.execute(warning(1), by_operator(), position) for _ in range(12)))

    positions = run(ledger, work)
    assert positions == [recorded.position for recorded in ledger.load(["user:1"])["user:1"]]


def test_a_group_that_hangs_is_not_waited_for(database: str, ledger: PostgresLedger) -> None:
    async def work(groups: CommandGroups) -> None:
        await groups.execute(warning(1), by_operator(), position)
        with psycopg.connect(database, autocommit=True) as watcher:
            asked = "select pid from pg_stat_activity where state = 'idle' and query like '%ledger_append%'"
            ((backend,),) = watcher.execute(asked).fetchall()
        os.kill(backend, signal.SIGSTOP)
        try:
            hanging = asyncio.create_task(groups.execute(warning(2), by_operator(), position))
            # Until it has the connection that hangs.
            await asyncio.to_thread(until, lambda: ledger_pool(ledger).busy > 0)
            for number in (3, 4):
                await groups.execute(warning(number), by_operator(), position)
            assert not hanging.done()
        finally:
            os.kill(backend, signal.SIGCONT)
        await hanging

    run(ledger, work, patience=0.05)
    assert sorted(recorded.stream for recorded in ledger.read(0, 10)) == ["user:1", "user:2", "user:3", "user:4"]


def test_a_caller_that_left_before_anything_was_begun_has_done_nothing(database: str, ledger: PostgresLedger) -> None:
    async def work(groups: CommandGroups) -> None:
        with appends_held_back(database):
            first = asyncio.create_task(groups.execute(warning(1), by_operator(), position))
            await held(database)
            leaving = asyncio.create_task(groups.execute(warning(2), by_operator(), position))
            staying = asyncio.create_task(groups.execute(warning(3), by_operator(), position))
            await asyncio.sleep(0)
            leaving.cancel()
        await asyncio.gather(first, staying)
        assert leaving.cancelled()

    run(ledger, work)
    assert [recorded.stream for recorded in ledger.read(0, 10)] == ["user:1", "user:3"]


def test_a_caller_that_left_meanwhile_leaves_the_others_their_answers(database: str, ledger: PostgresLedger) -> None:
    async def work(groups: CommandGroups) -> None:
        with appends_held_back(database):
            leaving = asyncio.create_task(groups.execute(warning(1), by_operator(), position))
            staying = asyncio.create_task(groups.execute(warning(2), by_operator(), position))
            await held(database)
            leaving.cancel()
        await staying

    run(ledger, work)
    assert [recorded.stream for recorded in ledger.read(0, 10)] == ["user:1", "user:2"]


def test_a_ledger_that_is_closed_is_said_to_be_so_to_each(ledger: PostgresLedger) -> None:
    async def work(groups: CommandGroups) -> list[int | BaseException]:
        asked = (groups.execute(warning(number), by_operator(), position) for number in range(3))
        return await asyncio.gather(*asked, return_exceptions=True)

    ledger.close()
    assert [type(answer) for answer in run(ledger, work)] == [LedgerUnavailable] * 3


def test_what_a_request_has_bound_to_its_log_lines_is_not_bound_to_the_others(ledger: PostgresLedger) -> None:
    async def asked(groups: CommandGroups, number: int) -> dict[str, object]:
        bind_contextvars(correlation_id=number)
        return await groups.execute(warning(number), by_operator(), lambda _: get_contextvars())

    async def work(groups: CommandGroups) -> list[dict[str, object]]:
        return await asyncio.gather(*(asked(groups, number) for number in range(3)))

    assert run(ledger, work) == [{}] * 3


FAILING = """
    create function fail() returns trigger language plpgsql as $$
        begin raise exception 'out of order' using errcode = 'admin_shutdown'; end
    $$;
    create trigger fail before insert on ledger for each row when (new.originator_id = 'user:2')
        execute function fail();
"""


def test_what_the_server_does_not_take_of_one_keeps_nobody_else_waiting(database: str, ledger: PostgresLedger) -> None:
    async def work(groups: CommandGroups) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(FAILING)
            asked = [asyncio.create_task(groups.execute(warning(n), by_operator(), position)) for n in range(4)]
            await asyncio.gather(asked[0], asked[1], asked[3])
            assert not asked[2].done()
            connection.execute("drop function fail cascade")
            await asked[2]

    run(ledger, work)
    assert sorted(recorded.stream for recorded in ledger.read(0, 10)) == ["user:0", "user:1", "user:2", "user:3"]


def test_a_connection_that_dies_under_a_group_is_replaced_without_anybody_noticing(
    database: str, ledger: PostgresLedger
) -> None:
    async def work(groups: CommandGroups) -> None:
        with psycopg.connect(database, autocommit=True) as watcher:
            with appends_held_back(database):
                asked = [asyncio.create_task(groups.execute(warning(n), by_operator(), position)) for n in range(8)]
                backend = await asyncio.to_thread(wait_for_held_append, watcher)
                watcher.execute("select pg_terminate_backend(%s)", (backend,))
            await asyncio.gather(*asked)

    run(ledger, work)
    assert sorted(recorded.stream for recorded in ledger.read(0, 100)) == [f"user:{number}" for number in range(8)]

"""The coalescing reader: few connections, shared queries, and what happens when they break."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from modledger.http import freshness, keys, sessions
from modledger.http.errors import Unavailable
from modledger.http.reader import BATCH, Coalesced, Reader
from modledger.projections import bots, guild_detail, guilds, profile, punishments, user_detail
from tests.postgres_processes import until

DOUBLE = "select key, key * 2 from unnest($1::bigint[]) as asked (key) where key < 1000"
# Leaves a trace of each query, so that a test can count them.
COUNTED = """
    with asked as (insert into asked_for (keys) values ($1::bigint[]))
    select key, key * 2 from unnest($1::bigint[]) as k (key), pg_sleep(0.05)
"""
Test = Callable[[Reader], Awaitable[None]]


def run(database: str, test: Test, connections: int = 4) -> None:
    async def main() -> None:
        reader = Reader(database, connections)
        try:
            await asyncio.wait_for(test(reader), 30)
        finally:
            await reader.close()

    asyncio.run(main())


def kill_all(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'modledger http'"
        )


def test_keys_of_one_moment_share_a_query_and_equal_keys_an_answer(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table asked_for (keys bigint[])")

        async def test(reader: Reader) -> None:
            coalesced: Coalesced[int] = Coalesced(reader, COUNTED)
            answers = await asyncio.gather(*(coalesced.load(key) for key in (1, 2, 3, 2, 1)))
            assert answers == [(2,), (4,), (6,), (4,), (2,)]

        run(database, test)
        assert connection.execute("select keys from asked_for").fetchall() == [([1, 2, 3],)]


def test_a_batch_is_capped_and_keys_gather_while_queries_run(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table asked_for (keys bigint[])")

        async def test(reader: Reader) -> None:
            coalesced: Coalesced[int] = Coalesced(reader, COUNTED)
            answers = await asyncio.gather(*(coalesced.load(key) for key in range(BATCH * 3 + 1)))
            assert answers == [(key * 2,) for key in range(BATCH * 3 + 1)]
            assert reader.opened <= 2

        run(database, test)
        sizes = connection.execute("select cardinality(keys) from asked_for order by 1").fetchall()
        assert sizes == [(1,), (BATCH,), (BATCH,), (BATCH,)]


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (sessions.VIEWERS, b"hash"),
        (sessions.USERS, 1),
        (keys.CALLERS, b"hash"),
        (profile.BY_NAMES, "name"),
        (profile.BY_IDS, 1),
        (guilds.BY_IDS, 1),
        (bots.BY_IDS, 1),
        (punishments.BY_IDS, 1),
        (user_detail.BY_IDS, 1),
        (guild_detail.BY_IDS, 1),
        (freshness.CHECKPOINTS, "profile"),
    ],
)
def test_point_reads_are_planned_once_and_not_for_each_number_of_keys(database: str, query: str, key: object) -> None:
    async def test(reader: Reader) -> None:
        for times in range(1, 20):
            await reader.fetch(query, [key] * (times % 3 + 1))
        ((custom,),) = await reader.fetch(
            "select sum(custom_plans) from pg_prepared_statements where statement = $1", query
        )
        # PostgreSQL tries the first five ways by themselves before it compares.
        assert custom <= 5

    run(database, test, connections=1)


def test_a_key_without_a_row_is_none(database: str) -> None:
    async def test(reader: Reader) -> None:
        assert await Coalesced[int](reader, DOUBLE).load(5000) is None

    run(database, test)


def test_a_read_after_a_write_never_gets_the_answer_to_an_earlier_question(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table counters (id bigint, n bigint)")
        connection.execute("insert into counters values (1, 0)")

        async def test(reader: Reader) -> None:
            slow = "select id, n from counters, pg_sleep(0.02) where id = any($1::bigint[])"
            coalesced: Coalesced[int] = Coalesced(reader, slow)
            for n in range(10):
                earlier = asyncio.ensure_future(coalesced.load(1))
                await asyncio.sleep(0.005)
                await reader.fetch("update counters set n = $1", n)
                later = await coalesced.load(1)
                assert later == (n,)
                await earlier

        run(database, test)


def test_an_error_goes_to_every_waiter_and_the_next_read_works(database: str) -> None:
    async def test(reader: Reader) -> None:
        coalesced: Coalesced[int] = Coalesced(reader, "select key, 1 / key from unnest($1::bigint[]) as k (key)")
        answers = await asyncio.gather(*(coalesced.load(key) for key in (1, 0, 2)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [psycopg.errors.DivisionByZero] * 3
        assert await coalesced.load(1) == (1,)

    run(database, test, connections=1)


def test_one_waiter_that_goes_away_leaves_the_others_their_answer(database: str) -> None:
    async def test(reader: Reader) -> None:
        # The lock is held until one of them has gone away.
        slow = "select key, key from unnest($1::bigint[]) as k (key), pg_advisory_xact_lock_shared(7)"
        coalesced: Coalesced[int] = Coalesced(reader, slow)
        with psycopg.connect(database) as holding:
            holding.execute("select pg_advisory_xact_lock(7)")
            gone, stays = (asyncio.ensure_future(coalesced.load(7)) for _ in range(2))
            waits = "select from pg_locks where not granted"
            await asyncio.to_thread(until, lambda: holding.execute(waits).rowcount > 0)
            gone.cancel()
        assert await stays == (7,)
        with pytest.raises(asyncio.CancelledError):
            await gone

    run(database, test)


def test_broken_connections_are_replaced_without_anybody_noticing(database: str) -> None:
    async def test(reader: Reader) -> None:
        sleep = "select 1 from pg_sleep(0.05)"
        await asyncio.gather(*(reader.fetch(sleep) for _ in range(4)))
        assert reader.opened == 4
        await asyncio.to_thread(kill_all, database)
        for _ in range(6):
            assert await reader.fetch("select 1") == [(1,)]

    run(database, test)


def test_a_transaction_begins_on_a_connection_that_works(database: str) -> None:
    async def test(reader: Reader) -> None:
        assert await reader.fetch("select 1") == [(1,)]
        await asyncio.to_thread(kill_all, database)
        async with reader.transaction() as cursor:
            await cursor.execute(b"select 2")
            assert await cursor.fetchone() == (2,)

    run(database, test, connections=1)


def test_a_connection_that_was_left_in_the_middle_of_a_query_is_not_used_again(database: str) -> None:
    async def test(reader: Reader) -> None:
        assert await reader.fetch("select 1") == [(1,)]
        left = asyncio.ensure_future(reader.fetch("select 'the wrong answer' from pg_sleep(10)"))
        await asyncio.sleep(0.1)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert (reader.opened, reader.checked_out) == (0, 0)
        assert await reader.fetch("select 2") == [(2,)]

    run(database, test, connections=1)


def test_a_statement_that_takes_too_long_is_given_up(database: str) -> None:
    async def test(reader: Reader) -> None:
        # The last one has no more time either, and the machine may be busy.
        await reader.fetch("set statement_timeout = 500")
        with pytest.raises(Unavailable):
            await reader.fetch("select pg_sleep(30)")
        assert await reader.fetch("select 1") == [(1,)]

    run(database, test, connections=1)


def test_a_database_that_is_not_there_is_unavailable() -> None:
    async def test(reader: Reader) -> None:
        with pytest.raises(Unavailable):
            await reader.fetch("select 1")
        with pytest.raises(Unavailable):
            await Coalesced[int](reader, DOUBLE).load(1)
        with pytest.raises(Unavailable):
            async with reader.transaction():
                pass
        assert reader.checked_out == 0

    run("host=/nonexistent dbname=x", test)


def test_a_changed_result_type_is_prepared_anew(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table shape (a int); insert into shape values (1)")

        async def test(reader: Reader) -> None:
            assert await reader.fetch("select * from shape") == [(1,)]
            await asyncio.to_thread(connection.execute, "alter table shape add column b int default 2")
            assert await reader.fetch("select * from shape") == [(1, 2)]

        run(database, test, connections=1)


def test_a_transaction_commits_what_it_did_or_nothing(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table kept (n int)")

        async def test(reader: Reader) -> None:
            async with reader.transaction() as cursor:
                await cursor.execute(b"insert into kept values (1)")
            with pytest.raises(psycopg.errors.DivisionByZero):
                await insert_and_fail(reader)
            assert await reader.fetch("select n from kept") == [(1,)]
            assert reader.opened == 1

        run(database, test, connections=1)


async def insert_and_fail(reader: Reader) -> None:
    async with reader.transaction() as cursor:
        await cursor.execute(b"insert into kept values (2)")
        await cursor.execute(b"select 1 / 0")

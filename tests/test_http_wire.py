"""A connection that sends statements by way of libpq alone: values, answers of any size, and who else uses it."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from modledger.http.reader import Reader
from modledger.http.wire import PREPARED, Row, Wire, array

SECONDS = 60.0
MINE = "select count(*) from pg_prepared_statements where name like 'wire%'"


def run(database: str, test: Callable[[Wire], Awaitable[None]]) -> None:
    async def main() -> None:
        connection: psycopg.AsyncConnection[Row] = await psycopg.AsyncConnection.connect(
            database, autocommit=True, prepare_threshold=0
        )
        wire = Wire(connection)
        try:
            await test(wire)
        finally:
            await wire.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("of", "values"),
    [
        (
            "text",
            ["anna", "", "null", 'with "quotes"', "back\\slash\\", "{a,b}", " ä\n\U0001f600", "'; drop table x; --"],
        ),
        ("bytea", [b"", b"\x00\xff", b'\\"{},', bytes(range(256))]),
        ("bigint", [0, -1, 2**63 - 1, -(2**63)]),
        ("text", []),
    ],
)
def test_an_array_arrives_as_it_was_given(database: str, of: str, values: list[bytes | str | int]) -> None:
    async def test(wire: Wire) -> None:
        assert await wire.rows(f"select $1::{of}[]", [array(values)], SECONDS) == [(values,)]

    run(database, test)


def test_values_of_every_kind_come_back(database: str) -> None:
    async def test(wire: Wire) -> None:
        asked = "select $1::text, $2::bigint, $3::bytea, $4::boolean, $5::bigint[]"
        assert await wire.rows(asked, ["a", 7, b"\x00", None, [1, 2]], SECONDS) == [("a", 7, b"\x00", None, [1, 2])]
        assert await wire.rows("select", [], SECONDS) == []
        assert await wire.rows("create temp table t (a int)", [], SECONDS) == []
        assert await wire.rows("insert into t values ($1) returning a", [5], SECONDS) == [(5,)]
        assert await wire.rows("select a from t where a > $1", [5], SECONDS) == []

    run(database, test)


def test_questions_and_answers_beyond_any_buffer_are_sent_and_read_whole(database: str) -> None:
    async def test(wire: Wire) -> None:
        text = "0123456789abcdef" * 2**20
        asked = "select $1::text, n from generate_series(1, 3) n"
        assert await wire.rows(asked, [text], SECONDS) == [(text, n) for n in (1, 2, 3)]

    run(database, test)


def test_a_statement_is_prepared_once_for_each_kind_of_what_it_is_given(database: str) -> None:
    async def test(wire: Wire) -> None:
        for _ in range(3):
            assert await wire.rows("select $1 + 1", [1], SECONDS) == [(2,)]
            assert await wire.rows("select $1 + 1", [2**40], SECONDS) == [(2**40 + 1,)]
        assert await wire.rows(MINE, [], SECONDS) == [(3,)]

    run(database, test)


def test_no_more_statements_stay_prepared_than_that(database: str) -> None:
    async def test(wire: Wire) -> None:
        for n in range(PREPARED + 10):
            assert await wire.rows(f"select {n}", [], SECONDS) == [(n,)]
        assert await wire.rows("select 0", [], SECONDS) == [(0,)]
        assert await wire.rows(MINE, [], SECONDS) == [(PREPARED,)]

    run(database, test)


def test_an_error_leaves_the_connection_good(database: str) -> None:
    async def test(wire: Wire) -> None:
        for _ in range(2):
            with pytest.raises(psycopg.errors.DivisionByZero):
                await wire.rows("select 1 / $1::int", [0], SECONDS)
            with pytest.raises(psycopg.errors.UndefinedTable):
                await wire.rows("select * from nowhere", [], SECONDS)
            assert wire.idle
            assert await wire.rows("select 1 / $1::int", [1], SECONDS) == [(1,)]

    run(database, test)


def test_the_drivers_cursor_and_the_wire_take_turns_on_one_connection(database: str) -> None:
    async def test(wire: Wire) -> None:
        for n in range(3):
            assert await wire.rows("select $1::int", [n], SECONDS) == [(n,)]
            cursor = wire.by_driver()
            await cursor.execute(b"select pg_sleep(0.01), $1::int", (n,))
            assert await cursor.fetchone() == ("", n)

    run(database, test)


def test_a_transaction_that_was_rolled_back_forgets_no_statement_of_ours(database: str) -> None:
    async def test(reader: Reader) -> None:
        for n in range(3):
            assert await reader.fetch("select $1::int", n) == [(n,)]
            with pytest.raises(psycopg.errors.DivisionByZero):
                await _failing(reader)
            # After the next statement of the driver's nothing is prepared any more.
            await reader.doing(lambda cursor: cursor.execute(b"select 1"))
        assert await reader.fetch("select $1::int", 4) == [(4,)]
        assert reader.opened == 1

    async def main() -> None:
        reader = Reader(database, 1)
        try:
            await test(reader)
        finally:
            await reader.close()

    asyncio.run(main())


async def _failing(reader: Reader) -> None:
    async with reader.transaction() as cursor:
        await cursor.execute(b"select 1 / 0")


def test_an_answer_that_does_not_come_in_time_leaves_no_connection_to_be_used(database: str) -> None:
    async def test(wire: Wire) -> None:
        with pytest.raises(TimeoutError):
            await wire.rows("select pg_sleep(600)", [], 0.01)
        assert not wire.idle

    run(database, test)


def test_a_connection_that_ends_in_the_middle_of_a_statement_or_before_it_says_so(database: str) -> None:
    async def test(wire: Wire) -> None:
        ((pid,),) = await wire.rows("select pg_backend_pid()", [], SECONDS)
        waiting = asyncio.ensure_future(wire.rows("select pg_sleep(600)", [], SECONDS))
        await asyncio.sleep(0)
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as other:
            await other.execute("select pg_terminate_backend(%s)", (pid,))
            with pytest.raises(psycopg.OperationalError):
                await waiting
        assert not wire.idle
        with pytest.raises(psycopg.OperationalError):
            await wire.rows("select 1", [], SECONDS)

    run(database, test)

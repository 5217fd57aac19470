"""The token buckets themselves: exact over several servers, forward only, and forgotten when nobody needs them."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.domain.settings import Settings
from modledger.http import rate_limits
from modledger.http.client_address import parsed
from modledger.http.errors import Problem, Unavailable
from modledger.http.rate_limits import Limit, RateLimiter, client_key, kind_of, limits
from modledger.http.reader import Reader

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
MINUTELY = Limit(20, 60)


class Server:
    """One server process's limiter, and its clock."""

    def __init__(self, database: str) -> None:
        self.now = NOW
        self.reader = Reader(database, 1, session=rate_limits.SESSION)
        self.limiter = RateLimiter(self.reader, lambda: self.now)

    def later(self, **by: float) -> None:
        self.now += timedelta(**by)

    async def ask(self, key: str = "a", limit: Limit = MINUTELY) -> int:
        """0 when it was let through, else the seconds to wait."""
        try:
            await self.limiter.start(key, limit)
        except Problem as refused:
            return int(refused.headers["Retry-After"])
        return 0

    async def let_through(self, requests: int, key: str = "a", limit: Limit = MINUTELY) -> int:
        """How many of so many at once."""
        return (await asyncio.gather(*(self.ask(key, limit) for _ in range(requests)))).count(0)


def run(database: str, test: Callable[[Server, Server], Awaitable[None]]) -> None:
    async def main() -> None:
        one, other = Server(database), Server(database)
        try:
            await asyncio.wait_for(test(one, other), 60)
        finally:
            await one.reader.close()
            await other.reader.close()

    asyncio.run(main())


@pytest.mark.parametrize("limit", [Limit(1, 60), Limit(7, 60), MINUTELY, Limit(333, 60), Limit(1000, 3600)])
def test_of_many_at_once_on_two_servers_exactly_the_limit_passes(database: str, limit: Limit) -> None:
    async def test(one: Server, other: Server) -> None:
        asked = limit.requests + 5
        passed = await asyncio.gather(one.let_through(asked, limit=limit), other.let_through(asked, limit=limit))
        assert sum(passed) == limit.requests

    run(database, test)


def test_one_after_another_as_many_pass_as_at_once(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        waits = [await server.ask() for server in [one, other] * 15]
        assert waits == [0] * 20 + [3] * 10

    run(database, test)


@pytest.mark.parametrize("limit", [Limit(1, 60), Limit(7, 60), MINUTELY, Limit(59, 60), Limit(1, 3600)])
def test_the_next_one_passes_after_the_wait_that_was_named_and_not_a_second_before(database: str, limit: Limit) -> None:
    async def test(one: Server, other: Server) -> None:
        assert await one.let_through(limit.requests, limit=limit) == limit.requests
        wait = await other.ask(limit=limit)
        assert wait == -(-limit.seconds // limit.requests)
        for server in (one, other):
            server.later(seconds=wait - 1)
            assert await server.ask(limit=limit) >= 1
            server.later(seconds=1)
        assert 0 in (await one.ask(limit=limit), await other.ask(limit=limit))

    run(database, test)


def test_requests_come_back_one_by_one_and_never_more_than_the_limit(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        assert await one.let_through(25) == 20
        one.later(seconds=9)
        assert await one.let_through(25) == 3
        one.later(seconds=60)
        assert await one.let_through(25) == 20
        one.later(days=30)
        assert await one.let_through(25) == 20

    run(database, test)


def test_a_refused_request_takes_nothing(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        assert await one.let_through(20) == 20
        for _ in range(50):
            assert await other.ask() == 3
        other.later(seconds=3)
        assert await other.ask() == 0

    run(database, test)


def test_a_server_whose_clock_is_behind_refills_nothing_twice(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        one.later(seconds=30)
        assert await one.let_through(25) == 20
        assert await other.ask() == 33
        one.later(seconds=3)
        assert await other.ask() == 33
        assert await one.let_through(25) == 1
        other.later(seconds=33)
        assert await other.let_through(25) == 0

    run(database, test)


@pytest.mark.parametrize("limit", [MINUTELY, Limit(100, 3600)])
def test_a_clock_that_is_set_back_shuts_nobody_out(database: str, limit: Limit) -> None:
    async def test(one: Server, other: Server) -> None:
        one.later(hours=3)
        assert await one.let_through(1, "seldom", limit=limit) == 1
        assert await one.let_through(limit.requests + 5, limit=limit) == limit.requests
        one.later(hours=-3)
        wait = limit.seconds // limit.requests
        # Also the server that remembers an empty bucket; none gets more than what comes back.
        for server in (one, other):
            assert await server.ask("seldom", limit=limit) == wait
            assert await server.ask(limit=limit) == wait
        other.later(seconds=wait)
        assert await other.let_through(5, "seldom", limit=limit) == 1
        assert await other.let_through(5, limit=limit) == 1

    run(database, test)


def test_keys_are_counted_each_for_itself(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        passed = await asyncio.gather(one.let_through(25), one.let_through(25, "b"), one.let_through(5, "c"))
        assert tuple(passed) == (20, 20, 5)

    run(database, test)


def test_requests_of_one_turn_share_a_statement(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        assert await asyncio.gather(*(one.ask(key) for key in "cabcab")) == [0] * 6

    run(database, test)
    with psycopg.connect(database) as connection:
        rows = connection.execute("select key, granted, xmin::text from rate_limits order by key").fetchall()
    assert [row[:2] for row in rows] == [("a", 2), ("b", 2), ("c", 2)]
    assert len({row[2] for row in rows}) == 1


def test_more_keys_than_fit_into_one_statement_are_all_counted(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        keys = [f"key {number}" for number in range(rate_limits.BATCH * 2 + 1)]
        once = Limit(1, 60)
        waits = await asyncio.gather(*(server.ask(key, once) for server in (one, other) for key in keys))
        assert waits.count(0) == len(keys)

    run(database, test)


def test_another_limit_for_the_same_key_holds_at_once(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        assert await one.let_through(30, limit=Limit(10, 60)) == 10
        assert await one.ask(limit=Limit(10, 60)) == 6
        # Ten of the minute of six-second steps are spent: that is all of twenty three-second ones.
        assert await one.let_through(30, limit=MINUTELY) == 0
        one.later(seconds=60)
        assert await one.let_through(30, limit=MINUTELY) == 20

    run(database, test)


def test_two_limits_for_one_key_in_one_turn_are_one_bucket(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        passed = await asyncio.gather(one.let_through(5, limit=Limit(3, 60)), one.let_through(5, limit=Limit(4, 60)))
        assert sum(passed) == 4

    run(database, test)


def test_a_client_known_to_have_none_left_is_refused_without_the_database(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        assert await one.let_through(21) == 20
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("alter table rate_limits rename to away")
            assert await one.ask() == 3
            with pytest.raises(psycopg.errors.UndefinedTable):
                await other.ask()
            one.later(seconds=3)
            with pytest.raises(psycopg.errors.UndefinedTable):
                await one.ask()
            connection.execute("alter table away rename to rate_limits")
        assert await one.ask() == 0

    run(database, test)


def test_no_more_refusals_are_remembered_than_there_is_room_for(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        once = Limit(1, 60)
        keys = [f"key {number}" for number in range(rate_limits.REMEMBERED + 500)]
        for server, wait in ((one, 0), (other, 60), (other, 60)):
            assert await asyncio.gather(*(server.ask(key, once) for key in keys)) == [wait] * len(keys)

    run(database, test)


def test_a_database_that_is_away_makes_it_unavailable_and_nothing_is_let_through_unseen(database: str) -> None:
    async def test(one: Server, other: Server) -> None:
        away = RateLimiter(Reader("postgresql://127.0.0.1:1/nothing", 1), lambda: NOW)
        results = await asyncio.gather(*(away.start("a", MINUTELY) for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 3

    run(database, test)


def test_a_refusal_that_nobody_waits_for_is_no_error_in_the_log(database: str) -> None:
    complaints: list[object] = []

    async def test(one: Server, other: Server) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        futures = [one.limiter.start("a", MINUTELY) for _ in range(25)]
        futures[3].cancel()
        await asyncio.wait(futures)
        futures.clear()
        gc.collect()

    run(database, test)
    assert complaints == []


def test_buckets_that_are_full_for_an_hour_are_forgotten_a_few_at_a_time(database: str) -> None:
    def rows() -> int:
        with psycopg.connect(database) as connection:
            ((count,),) = connection.execute("select count(*) from rate_limits").fetchall()
        return int(count)

    async def test(one: Server, other: Server) -> None:
        await asyncio.gather(*(one.ask(f"old {number}") for number in range(2500)))
        assert rows() == 2500
        one.later(seconds=3604)
        everything = Limit(1_000_000, 60)
        while rows() > 2:
            before = rows()
            assert await one.let_through(rate_limits.SWEEP_EVERY, "new", everything) == rate_limits.SWEEP_EVERY
            assert await one.ask("last") == 0
            assert before - rows() <= rate_limits.SWEPT

    run(database, test)
    with psycopg.connect(database) as connection:
        assert connection.execute("select key from rate_limits order by key").fetchall() == [("last",), ("new",)]


@given(
    limit=st.builds(Limit, st.integers(1, 40), st.sampled_from([60, 3600])),
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 60), st.integers(0, 90_000)), min_size=1, max_size=12),
    behind=st.integers(0, 90_000),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_far_apart_clocks_are_no_more_pass_than_the_limit_and_what_comes_back(
    database: str, limit: Limit, steps: list[tuple[bool, int, int]], behind: int
) -> None:
    key = str(uuid4())

    async def test(one: Server, other: Server) -> None:
        other.later(milliseconds=-behind)
        passed, asked_at = 0, []
        for ahead, asked, milliseconds in steps:
            one.later(milliseconds=milliseconds)
            other.later(milliseconds=milliseconds)
            server = one if ahead else other
            asked_at.append(server.now)
            passed += await server.let_through(asked, key, limit)
            came_back = limit.requests * (max(asked_at) - asked_at[0]) / timedelta(seconds=limit.seconds)
            assert passed <= limit.requests + came_back

    run(database, test)


def test_every_path_of_the_api_counts_against_one_limit() -> None:
    assert kind_of("/v1/authentication/verify", for_bots=False) == "login"
    assert kind_of("/v1/authentication/bot/login-code", for_bots=True) == "bot"
    assert kind_of("/v1/bot/me", for_bots=True) == "bot"
    assert kind_of("/v1/admin/health", for_bots=False) == "staff"
    assert kind_of("/v1/users/me", for_bots=False) == "public"
    assert kind_of("/health", for_bots=False) is None


def test_a_limit_of_0_is_none() -> None:
    assert limits(Settings(rate_limit_staff=0)) == {
        "login": Limit(20, 60),
        "bot": Limit(600, 60),
        "public": Limit(120, 60),
    }


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.7", "public 203.0.113.7"),
        ("::ffff:203.0.113.7", "public 203.0.113.7"),
        ("2001:db8:0:1:aaaa::1", "public 2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::ffff", "public 2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "public 2001:db8:0:2::/64"),
        ("", "public unknown"),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_network_of_64_bits(address: str, key: str) -> None:
    assert client_key("public", parsed(address)) == key

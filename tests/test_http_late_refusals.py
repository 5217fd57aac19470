"""A server that was stopped in the middle of a keyed command, and goes on when another one has carried it out."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import psycopg

from modledger.http.idempotency import Answer, Asked, Keys
from modledger.http.reader import Reader
from modledger.http.sealing import Sealing
from tests.http_client import MASTER_KEY, NOW

ASKED = Asked("POST", "/v1/admin/punishments/user/4/ban", b"{}")
DONE = Answer(status=200, body=b'{"id":42}')
REFUSED = Answer(status=409, body=b'{"error":"User 4 already has an active ban: punishment 41"}')
END_LOCKS = """
    select pg_terminate_backend(pid, 5000) from pg_stat_activity
        where application_name = 'modledger http locks' and datname = current_database()
"""


def test_a_refusal_that_comes_late_does_not_hide_what_another_server_has_done_meanwhile(database: str) -> None:
    slow, fast, third = asyncio.run(_two_servers(database, REFUSED, DONE))
    assert fast == DONE
    assert (slow.status, slow.body) == (third.status, third.body) == (200, DONE.body)


def test_what_was_done_replaces_a_refusal_that_another_server_has_kept_meanwhile(database: str) -> None:
    slow, fast, third = asyncio.run(_two_servers(database, DONE, REFUSED))
    assert (slow, fast) == (DONE, REFUSED)
    assert (third.status, third.body) == (200, DONE.body)


async def _two_servers(database: str, slow: Answer, fast: Answer) -> tuple[Answer, Answer, Answer]:
    """Two servers at the same keyed command, the slow one deciding first and keeping its answer last; what each of
    them answers, and a repetition afterwards."""
    desks = [Reader(database, 2) for _ in range(2)]
    first, second = (Keys(database, desk, Sealing(MASTER_KEY)) for desk in desks)
    decided, go_on = asyncio.Event(), asyncio.Event()

    async def waiting(_: UUID) -> Answer:
        decided.set()
        await go_on.wait()
        return slow

    async def at_once(_: UUID) -> Answer:
        return fast

    async def never(_: UUID) -> Answer:
        raise AssertionError("it was done once too often")

    def once(keys: Keys, run: Callable[[UUID], Awaitable[Answer]]) -> Awaitable[Answer]:
        return keys.once("user:2", "one", ASKED, NOW, run)

    try:
        held_up = asyncio.ensure_future(once(first, waiting))
        await decided.wait()
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            # The server's lock goes with its connection, as when it is stopped and the network gives it up.
            await connection.execute(END_LOCKS.encode())
        quick = await once(second, at_once)
        go_on.set()
        return await held_up, quick, await once(second, never)
    finally:
        for closing in (first.close, second.close, desks[0].close, desks[1].close):
            await closing()

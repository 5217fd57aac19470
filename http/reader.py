"""Reads from PostgreSQL without a pool's bookkeeping: a few connections, and reads of one moment share a query.

Round trips are the cost of a read (design §6), so point reads go through ``Coalesced``: keys that arrive together are
answered by one statement with ``= any($1)``. Everything here belongs to one event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

import msgspec
import psycopg
from psycopg.types.json import set_json_loads

from modledger.http.errors import Unavailable
from modledger.http.wire import Cursor, Row, Wire, array

K = TypeVar("K", bytes, str, int)
T = TypeVar("T")

_Waiting = dict[K, list["asyncio.Future[Row | None]"]]

STATEMENT_TIMEOUT_MS = 5_000
CONNECT_TIMEOUT_S = 3
# The server ends a slow statement itself; this ends the wait for a server that is gone without a word.
ANSWER_TIMEOUT_S = STATEMENT_TIMEOUT_MS / 1000 + 2
BATCH = 32

# What each connection is told.
# UTC: in another zone the last hours of the year 9999 are no date that Python can hold.
# Nothing in parallel: many read at once, and to start workers takes longer than most reads.
# A page out of order is as dear as one in order, as in memory it is: or the planner reads all that it takes for a few
# rows and sorts them, rather than walk an index in its order until a page is full (projections/search.py).
SESSION = (
    f"set statement_timeout = {STATEMENT_TIMEOUT_MS}; set timezone = 'UTC'; set max_parallel_workers_per_gather = 0;"
    " set random_page_cost = 1; set seq_page_cost = 1"
)


class Reader:
    """At most ``connections`` connections, opened when first needed and again when one broke. ``session``: what each is
    told beforehand, as SQL.

    Every method raises Unavailable when the database cannot be reached or does not answer in time.
    """

    def __init__(self, conninfo: str, connections: int, *, session: str = "") -> None:
        self.size = connections
        # How often all connections were at work, how long that was waited for, and how many wait now.
        self.waits = 0
        self.wait_seconds = 0.0
        self.waiting = 0
        self._conninfo = conninfo
        self._session = session
        self._free = asyncio.Semaphore(connections)
        self._idle: deque[Wire] = deque()
        self._busy: set[Wire] = set()
        self._closed = False

    @property
    def checked_out(self) -> int:
        """Connections that are at work now."""
        return len(self._busy)

    @property
    def opened(self) -> int:
        """Connections that are open now."""
        return len(self._busy) + len(self._idle)

    async def close(self) -> None:
        """Closes what is idle now, and each busy connection when it is given back."""
        self._closed = True
        await self._drop_idle()

    async def fetch(self, query: str, *args: object) -> list[Row]:
        """All rows of one statement with ``$1`` placeholders; see ``doing`` for which ones may be sent so."""
        return await self._twice(lambda wire: wire.rows(query, args, ANSWER_TIMEOUT_S))

    async def doing(self, work: Callable[[Cursor], Awaitable[T]]) -> T:
        """What ``work`` answers, given a connection of its own in autocommit mode. Where the connection turns out to be
        broken it is done once more on another one, so it must be work that may be done twice: reading, or writing the
        same again."""

        async def by_driver(wire: Wire) -> T:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await work(wire.by_driver())

        return await self._twice(by_driver)

    async def _twice(self, work: Callable[[Wire], Awaitable[T]]) -> T:
        try:
            return await self._once(work)
        except (psycopg.errors.QueryCanceled, TimeoutError) as error:
            raise Unavailable(str(error)) from error
        # FeatureNotSupported: "cached plan must not change result type", after a read table was replaced.
        except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.FeatureNotSupported):
            # The server may have restarted: then the other idle connections are dead too.
            await self._drop_idle()
        try:
            return await self._once(work)
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
            await self._drop_idle()
            raise Unavailable(str(error)) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Cursor]:
        """A cursor inside one transaction, committed at the end of the block and rolled back when it raises."""
        try:
            # Nothing is lost with a connection that proves to be broken before there is a transaction.
            await self.fetch("select 1")
            wire = await self._take()
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    cursor = wire.by_driver()
                    await cursor.execute(b"begin")
                    try:
                        yield cursor
                    except Exception:
                        if not cursor.connection.closed:
                            with suppress(psycopg.Error):
                                await cursor.execute(b"rollback")
                        raise
                    await cursor.execute(b"commit")
            except asyncio.CancelledError:
                await wire.close()
                raise
            finally:
                await self._give_back(wire)
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
            await self._drop_idle()
            raise Unavailable(str(error)) from error

    async def _once(self, work: Callable[[Wire], Awaitable[T]]) -> T:
        wire = await self._take()
        try:
            return await work(wire)
        except asyncio.CancelledError:
            # In the middle of a query: what the connection would answer next is not known.
            await wire.close()
            raise
        finally:
            await self._give_back(wire)

    async def _take(self) -> Wire:
        await self._take_turn()
        try:
            wire = self._idle.pop() if self._idle else await self._connect()
        except BaseException:
            self._free.release()
            raise
        self._busy.add(wire)
        return wire

    async def _give_back(self, wire: Wire) -> None:
        self._busy.discard(wire)
        try:
            if self._closed or not wire.idle:
                await wire.close()
            else:
                self._idle.append(wire)
        finally:
            self._free.release()

    async def _take_turn(self) -> None:
        if not self._free.locked():
            # Does not give way to anybody else, so there is nothing to time.
            await self._free.acquire()
            return
        began = time.monotonic()
        self.waits += 1
        self.waiting += 1
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._free.acquire()
        finally:
            self.waiting -= 1
            self.wait_seconds += time.monotonic() - began

    async def _connect(self) -> Wire:
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            prepare_threshold=0,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="modledger http",
        )
        # What is stored as JSON; the driver's own way takes several times as long.
        set_json_loads(msgspec.json.decode, connection)
        try:
            # By a statement and not by the start-up's options, which a pooler before the server may refuse.
            await connection.execute(f"{SESSION}; {self._session}".encode(), prepare=False)
        except BaseException:
            await connection.close()
            raise
        return Wire(connection)

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()


class Coalesced(Generic[K]):
    """Point reads by key. The query takes an array of keys as ``$1`` and answers rows that begin with their key, one
    row at most for each. It unnests ``(select $1::bigint[])`` rather than ``$1::bigint[]``: seeing how many keys there
    are, the server would plan anew each time, which takes longer than the read.

    A key that waits for its query is shared by all who ask for it meanwhile; whoever asks after the query was sent
    gets a new one, so no answer is older than its question. At most half of the reader's connections work for one
    kind of read, and while they do, keys gather for the next query.
    """

    def __init__(self, reader: Reader, query: str) -> None:
        self._reader = reader
        self._query = query
        self._waiting: _Waiting[K] = {}
        self._runs: set[asyncio.Task[None]] = set()
        self._most_runs = max(1, reader.size // 2)
        self._scheduled = False

    def load(self, key: K) -> "asyncio.Future[Row | None]":
        """Puts the key on its way at once, whether or not it is awaited: the row without its key, None where there is
        none. Raises Unavailable when awaited."""
        loop = asyncio.get_running_loop()
        # One for each who asks: a waiter that is cancelled must not cancel the others' answer.
        future: asyncio.Future[Row | None] = loop.create_future()
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = [future]
            if not self._scheduled and len(self._runs) < self._most_runs:
                self._scheduled = True
                # Not at once: the other requests of this turn of the loop come along.
                loop.call_soon(self._start_run)
        else:
            waiting.append(future)
        return future

    def _start_run(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._runs) < self._most_runs:
            taken = {key: self._waiting.pop(key) for key in list(self._waiting)[:BATCH]}
            run = asyncio.get_running_loop().create_task(self._run(taken))
            self._runs.add(run)
            run.add_done_callback(self._end_run)

    def _end_run(self, run: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        self._start_run()

    async def _run(self, taken: _Waiting[K]) -> None:
        try:
            rows = {row[0]: row[1:] for row in await self._reader.fetch(self._query, array(taken))}
        except asyncio.CancelledError:
            _fail(taken, Unavailable("the read was cancelled"))
            raise
        except Exception as error:
            _fail(taken, error)
            return
        for key, futures in taken.items():
            row = rows.get(key)
            for future in futures:
                if not future.done():
                    future.set_result(row)


def _fail(taken: _Waiting[K], error: Exception) -> None:
    for futures in taken.values():
        for future in futures:
            if not future.done():
                future.set_exception(error)
                # Asked for here, so that nobody is told of it where nobody waits any more.
                future.exception()

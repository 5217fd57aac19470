"""One connection to PostgreSQL, over which the event loop sends one statement at a time by way of libpq alone.

The driver's own cursor builds a query, a wait and its clean-up anew for each statement and tells the loop twice to
look at the socket; for a short statement that is more than half of what it costs this process (docs/performance.md).
Here statements are prepared when they first come, the loop keeps looking at the socket, and an answer is taken up as
it arrives. Values go in and out by the driver's own conversions.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult

Row = tuple[Any, ...]
Cursor = psycopg.AsyncRawCursor[Row]

# Statements that a connection holds prepared at most.
PREPARED = 200

_GOOD = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.EMPTY_QUERY)


def array(values: Iterable[bytes | str | int]) -> str:
    """An array as a statement takes it that says of which type (``$1::text[]``). The driver's own way there takes as
    long as all the rest of a short statement."""
    return f"{{{','.join(map(_element, values))}}}"


def _element(value: bytes | str | int) -> str:
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


class Wire:
    """Belongs to the event loop that it was made in, and to one user at a time. ``connection``: in autocommit mode."""

    def __init__(self, connection: psycopg.AsyncConnection[Row]) -> None:
        self._connection = connection
        self._cursor: Cursor = psycopg.AsyncRawCursor(connection)
        self._pg = connection.pgconn
        self._socket = connection.pgconn.socket
        self._values = Transformer(connection)
        self._loop = asyncio.get_running_loop()
        self._watched = False
        # By text and types of what is given, as one may mean different statements.
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._prepared = 0
        self._late = False
        self._results: list[PGresult] = []
        self._answer: asyncio.Future[list[PGresult]] | None = None

    @property
    def idle(self) -> bool:
        """Whether it is connected, and outside of any statement and transaction."""
        return self._pg.transaction_status == TransactionStatus.IDLE

    def by_driver(self) -> Cursor:
        """The driver's cursor, which waits in its own way."""
        self._look_away()
        return self._cursor

    async def close(self) -> None:
        """Whatever it is in the middle of."""
        self._look_away()
        await self._connection.close()

    async def rows(self, query: str, args: Sequence[object], seconds: float) -> list[Row]:
        """All rows of one statement with ``$1`` placeholders. Raises psycopg.Error, and TimeoutError without an answer
        in that time; after that, and when it was cancelled, it is not ``idle``."""
        self._late = False
        timer = self._loop.call_later(seconds, self._too_late)
        try:
            given, types, formats = self._dumped(args)
            name = self._names.get((query, types)) or await self._prepare(query, types)
            try:
                self._pg.send_query_prepared(name, given, formats)
                return self._loaded(await self._answered())
            except psycopg.errors.InvalidSqlStatementName:
                # The driver forgets all that is prepared after a transaction that was rolled back.
                self._names.clear()
            self._pg.send_query_prepared(await self._prepare(query, types), given, formats)
            return self._loaded(await self._answered())
        finally:
            timer.cancel()

    def _dumped(self, args: Sequence[object]) -> tuple[Sequence[Buffer | None], tuple[int, ...], Sequence[Format]]:
        if not args:
            return (), (), ()
        given = self._values.dump_sequence(args, [PyFormat.AUTO] * len(args))
        return given, self._values.types or (), self._values.formats or ()

    async def _prepare(self, query: str, types: tuple[int, ...]) -> bytes:
        if len(self._names) >= PREPARED:
            # The oldest. Texts are constants, but numbers come as several types.
            self._pg.send_query(b"deallocate " + self._names.pop(next(iter(self._names))))
            self._loaded(await self._answered())
        self._prepared += 1
        name = b"wire_%d" % self._prepared
        self._pg.send_prepare(name, query.encode(), types)
        self._loaded(await self._answered())
        self._names[query, types] = name
        return name

    def _answered(self) -> "asyncio.Future[list[PGresult]]":
        if not self._watched:
            self._loop.add_reader(self._socket, self._readable)
            self._watched = True
        self._results = []
        self._answer = self._loop.create_future()
        if self._pg.flush():
            self._loop.add_writer(self._socket, self._writable)
        if self._late:
            self._too_late()
        return self._answer

    def _writable(self) -> None:
        try:
            if not self._pg.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.Error as error:
            self._broken(error)

    def _readable(self) -> None:
        pg, answer = self._pg, self._answer
        try:
            pg.consume_input()
            while answer is not None and not pg.is_busy():
                result = pg.get_result()
                if result is None:
                    self._answer = None
                    if not answer.done():
                        answer.set_result(self._results)
                    return
                self._results.append(result)
        except psycopg.Error as error:
            self._broken(error)

    def _broken(self, error: psycopg.Error) -> None:
        # Or the loop would be told of its end again and again.
        self._look_away()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _too_late(self) -> None:
        # Also for what is asked next, where this comes between two questions.
        self._late = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TimeoutError("the database did not answer in time"))

    def _look_away(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)

    def _loaded(self, results: list[PGresult]) -> list[Row]:
        for result in results:
            if result.status not in _GOOD:
                raise error_from_result(result, self._values.encoding)
        if not results or not results[0].nfields:
            return []
        self._values.set_pgresult(results[0])
        rows = self._values.load_rows(0, results[0].ntuples, tuple)
        self._values.set_pgresult(None)
        return rows

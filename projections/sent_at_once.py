"""Statements of which none waits for another's answer, sent to the server in few pieces and answered together.

psycopg's pipeline sends each by itself and looks for answers after each, so a dozen small ones wake the server a dozen
times (docs/performance.md). This is libpq's own pipeline mode, through psycopg's wrapper of it (psycopg.pq).
"""

import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from typing import Any, Self
from weakref import WeakKeyDictionary

import psycopg
from psycopg import pq
from psycopg.abc import Params, Query
from psycopg.adapt import PyFormat, Transformer

# By connection the names of what is prepared there.
_PREPARED: WeakKeyDictionary[psycopg.Connection[Any], set[bytes]] = WeakKeyDictionary()
_GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


class Sender(psycopg.Cursor[Any]):
    """A cursor that gathers what it is to execute. Placeholders are ``%s``, and a ``%`` stands for nothing else.
    ``answers``, in the end: of each statement its rows, as text."""

    answers: list[list[tuple[str, ...]]]

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection)
        self._server, self._known = connection.pgconn, _PREPARED.setdefault(connection, set())
        self._values = Transformer(connection)
        # In the order of the answers: what is prepared by then, where that is what is answered.
        self._told: list[bytes | None] = []
        self._pushed = 0
        self.answers = []

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,  # noqa: ARG002 - all are
        binary: bool | None = None,  # noqa: ARG002 - none has an answer
    ) -> Self:
        text = query.encode() if isinstance(query, str) else query
        if not isinstance(text, bytes) or not (params is None or isinstance(params, Sequence)):
            raise TypeError("only plain text with parameters in their order is sent")
        name = _name(text)
        if name not in self._known and name not in self._told:
            self._server.send_prepare(name, _numbered(text))
            self._told.append(name)
        values = () if params is None else params
        self._server.send_query_prepared(name, self._values.dump_sequence(values, [PyFormat.TEXT] * len(values)))
        self._told.append(None)
        return self

    def push(self) -> None:
        """Has the server begin with what was gathered so far, if anything was."""
        if self._pushed == len(self._told):
            return
        self._pushed = len(self._told)
        self._flush()

    def _flush(self) -> None:
        while self._server.flush():
            # A server whose own answers nobody reads would stop reading.
            if self._ready(select.POLLIN | select.POLLOUT) & ~select.POLLOUT:
                self._server.consume_input()

    def end(self) -> psycopg.Error | None:
        """Waits until all is answered, and answers what the first that failed said."""
        self._server.pipeline_sync()
        self._flush()
        failed: psycopg.Error | None = None
        for prepared in self._told:
            result = self._next()
            if result.status in _GOOD:
                if prepared is None:
                    self.answers.append(_rows(result))
                else:
                    self._known.add(prepared)
            elif failed is None:
                failed = psycopg.errors.error_from_result(result)
        self._next()
        self._server.exit_pipeline_mode()
        return failed

    def _next(self) -> pq.abc.PGresult:
        for _ in range(2):
            while self._server.is_busy():
                self._ready(select.POLLIN)
                self._server.consume_input()
            # Between the answers of two statements there is none.
            if (result := self._server.get_result()) is not None:
                return result
        raise psycopg.OperationalError("the connection was lost before all was answered")

    def _ready(self, events: int) -> int:
        waiting = select.poll()
        waiting.register(self._server.socket, events)
        return next(found for _, found in waiting.poll())


@contextmanager
def sender(connection: psycopg.Connection[Any]) -> Iterator[Sender]:
    """What the block executes is carried out in order and has been by its end; a connection that is in no pipeline, and
    that nobody else uses. Raises psycopg.Error for the first statement that failed: those after it were not carried
    out, and the transaction is to be rolled back. An error of the block comes first."""
    failed: psycopg.Error | None = None
    opened = Sender(connection)
    try:
        connection.pgconn.enter_pipeline_mode()
        try:
            yield opened
        finally:
            failed = opened.end()
    except BaseException:
        if connection.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            # Nobody can say where it stands.
            with suppress(psycopg.Error):
                connection.close()
        raise
    if failed is not None:
        raise failed


def forget(connection: psycopg.Connection[Any]) -> None:
    """Has whatever was prepared on a connection prepared again. psycopg drops it all, ours with its own, after a
    rollback or a DROP that goes through it: then ``sender`` raises InvalidSqlStatementName."""
    _PREPARED.pop(connection, None)
    connection.execute("deallocate all")


def _rows(result: pq.abc.PGresult) -> list[tuple[str, ...]]:
    return [
        tuple((result.get_value(row, column) or b"").decode() for column in range(result.nfields))
        for row in range(result.ntuples)
    ]


@cache
def _numbered(text: bytes) -> bytes:
    first, *others = text.split(b"%s")
    if any(b"%" in piece for piece in (first, *others)):
        raise ValueError(f"a % that is no placeholder: {text.decode()}")
    return first + b"".join(b"$%d%s" % (n, piece) for n, piece in enumerate(others, start=1))


@cache
def _name(text: bytes) -> bytes:
    return b"modledger_" + sha256(text).hexdigest()[:32].encode()

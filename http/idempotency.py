"""Idempotency-Key: the first answer to a request is kept for a day and given again to its repetitions (api.md §1).

A request under way is marked by an advisory lock, which the server releases when our process dies: nobody waits for a
lease to run out. All locks of a process are held by one connection, and whoever waits for one holds no connection
between tries, so a storm of repetitions cannot starve the commands that it waits for. Should that connection break,
two may run the same command at once: they bear the same command id, and the ledger lets one act.

What is stored is sealed: an answer may hold a session's token or a reason about a person.
"""

import asyncio
import hashlib
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4, uuid5

import msgspec
import psycopg

from modledger.http.errors import Problem, Unavailable, bad
from modledger.http.reader import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, Reader, Row
from modledger.http.sealing import Sealing

T = TypeVar("T")

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEPT = timedelta(hours=24)

_NAMESPACE = UUID("5f0e6a0e-9d0c-4b64-9d6b-6d4b1d0c8a3e")
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.1

# idempotency_keys_pkey
CLAIM = """
    insert into idempotency_keys (actor, key, fingerprint, created_at) values ($1, $2, $3, $4)
    on conflict (actor, key) do update
        set fingerprint = excluded.fingerprint, created_at = excluded.created_at, status = null, body = null
        where idempotency_keys.created_at <= $5
    returning created_at
"""
FIND = "select created_at, fingerprint, status, body from idempotency_keys where actor = $1 and key = $2"
# Status 0: somebody's text was erased since (projections/erasures.py), and the answer may hold it. Where another
# process was at the command too, because the connection of our locks broke, a refusal never replaces its answer: it may
# have done what we refused before or after.
STORE = """
    update idempotency_keys set status = $3, body = $4
        where actor = $1 and key = $2 and status is distinct from 0 and (status is null or $3 < 400)
        returning true
"""
# idempotency_keys_age; a few at a time, so that no request pays for a day's leavings.
FORGET = """
    delete from idempotency_keys where (actor, key) in
        (select actor, key from idempotency_keys where created_at <= $1
            order by created_at limit 20 for update skip locked)
"""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it goes out, and as it is kept. ``set_cookie`` is the value of that header."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    set_cookie: str | None = None


class Asked(msgspec.Struct, frozen=True):
    """What makes two requests under one key the same."""

    method: str
    path: str
    body: bytes


Run = Callable[[UUID], Awaitable[Answer]]


def read_key(header: str | None) -> str | None:
    """The key of a request, None without one. Raises Problem 400 unless it is 1–255 printable ASCII characters."""
    if header is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", header):
        raise bad(f"{HEADER} must be 1 to 255 printable ASCII characters")
    return header


class Keys:
    """The kept answers, in the table ``idempotency_keys``."""

    def __init__(self, conninfo: str, desk: Reader, sealing: Sealing) -> None:
        self._desk = desk
        self._sealing = sealing
        self._locks = _Locks(conninfo)

    async def close(self) -> None:
        """Lets go of all locks."""
        await self._locks.close()

    async def once(self, actor: str, key: str | None, request: Asked, now: datetime, run: Run) -> Answer:
        """The answer that ``run`` gives under a command id that is the same at every repetition; or the kept answer.

        Without a key it just runs. Raises Problem 409 when the key was used with another request, Unavailable, and what
        ``run`` raises, which is not kept; nor is an answer of 500 and above.
        """
        if key is None:
            return await run(uuid4())
        fingerprint = hashlib.sha256(
            b"\n".join((request.method.encode(), request.path.encode(), request.body))
        ).digest()
        async with self._locks.held(f"{actor}\n{key}"):
            claimed = await self._desk.fetch(CLAIM, actor, key, fingerprint, now, now - KEPT)
            row = claimed[0] if claimed else (await self._desk.fetch(FIND, actor, key))[0]
            kept = None if claimed else self._kept(row, fingerprint, bound_to(actor, key))
            if kept is not None:
                return kept
            # The time of the claim is part of it: a day later the same key is a new one.
            name = f"{actor}\n{key}\n{fingerprint.hex()}\n{row[0].astimezone(UTC).isoformat()}"
            answer = await run(uuid5(_NAMESPACE, name))
            if answer.status < 500:
                sealed = self._sealing.seal(msgspec.json.encode(answer), bound_to(actor, key))
                if not await self._desk.fetch(STORE, actor, key, answer.status, sealed):
                    for row in await self._desk.fetch(FIND, actor, key):
                        answer = self._kept(row, fingerprint, bound_to(actor, key)) or answer
        with suppress(Unavailable):
            await self._desk.fetch(FORGET, now - KEPT)
        return answer

    def _kept(self, row: Row, fingerprint: bytes, name: str) -> Answer | None:
        _, known, _, sealed = row
        if known != fingerprint:
            raise Problem(409, f"{HEADER} was already used with another request")
        # Without an answer, the process that was at it has died or somebody was erased: the same command id makes doing
        # it again safe. So it is with an answer that was sealed under another master key.
        content = None if sealed is None else self._sealing.unseal(sealed, name)
        if content is None:
            return None
        answer = msgspec.json.decode(content, type=Answer)
        return msgspec.structs.replace(answer, headers={**answer.headers, REPLAYED: "true"})


def bound_to(actor: str, key: str) -> str:
    """What a kept answer is sealed for."""
    return f"{actor}\n{key}"


class _Locks:
    """Session-level advisory locks by name: one process's requests among themselves by a lock in memory, and against
    other processes by PostgreSQL."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: psycopg.AsyncConnection[Row] | None = None
        self._turn = asyncio.Lock()
        self._mine: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._users: defaultdict[str, int] = defaultdict(int)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        self._users[name] += 1
        try:
            async with self._mine[name]:
                number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
                pause = _FIRST_PAUSE_S
                while not await self._try(number):
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE_S)
                try:
                    yield
                finally:
                    await asyncio.shield(self._background(self._release(number)))
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._mine[name]

    async def _try(self, number: int) -> bool:
        asked = self._background(self._ask("select pg_try_advisory_lock(%s)", number))
        try:
            # Shielded: our cancellation in the middle of it would leave the connection of all locks in doubt.
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            self._background(self._release_if_taken(asked, number))
            raise

    async def _release_if_taken(self, asked: "asyncio.Task[bool]", number: int) -> None:
        with suppress(Unavailable):
            if await asked:
                await self._release(number)

    async def _release(self, number: int) -> None:
        # Where the connection is gone, so is every lock of it.
        with suppress(Unavailable):
            await self._ask("select pg_advisory_unlock(%s)", number)

    def _background(self, work: Coroutine[None, None, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask(self, query: str, number: int) -> bool:
        # Without an end a server that is gone without a word would hold up every keyed request of this process.
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S), self._turn:
                try:
                    return await self._ask_once(query, number)
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    # The server may have restarted.
                    return await self._ask_once(query, number)
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
            raise Unavailable(str(error)) from error

    async def _ask_once(self, query: str, number: int) -> bool:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = await psycopg.AsyncConnection.connect(
                    self._conninfo,
                    autocommit=True,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    application_name="modledger http locks",
                )
            row = await (await self._connection.execute(query.encode(), (number,))).fetchone()
        except BaseException:
            # Broken, or given up in the middle of a query: what it would answer next is not known.
            if self._connection is not None:
                await self._connection.close()
            raise
        return row is not None and bool(row[0])

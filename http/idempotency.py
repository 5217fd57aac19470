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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4, uuid5

import msgspec
import psycopg

from modledger.http.errors import Problem, Unavailable, bad
from modledger.http.reader import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, Reader
from modledger.http.sealing import Sealing
from modledger.http.together import Gathered
from modledger.http.wire import Row

T = TypeVar("T")

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEPT = timedelta(hours=24)

_NAMESPACE = UUID("5f0e6a0e-9d0c-4b64-9d6b-6d4b1d0c8a3e")
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.1

# idempotency_keys_pkey. In order, so that no two servers wait for each other's rows. On the disk before anything is
# done: the server may crash under a command that then goes on, and a repetition has to find the claim.
CLAIM = """
    insert into idempotency_keys (actor, key, fingerprint, created_at)
        select actor, key, fingerprint, created_at
        from unnest($1::text[], $2::text[], $3::bytea[], $4::timestamptz[])
            as claims (actor, key, fingerprint, created_at)
        order by actor, key
    on conflict (actor, key) do update
        set fingerprint = excluded.fingerprint, created_at = excluded.created_at, status = null, body = null
        where idempotency_keys.created_at <= excluded.created_at - $5::interval
    returning actor, key, created_at
"""
FIND = "select created_at, fingerprint, status, body from idempotency_keys where actor = $1 and key = $2"
# Status 0: somebody's text was erased since (projections/erasures.py), and the answer may hold it. Where another
# process was at the command too, because the connection of our locks broke, a refusal never replaces its answer: it may
# have done what we refused before or after. idempotency_keys_pkey; in the order in which an erasure comes by, so
# that neither waits for the other's rows.
STORE = """
    with answers as materialized (
        select * from unnest($1::text[], $2::text[], $3::integer[], $4::bytea[]) as a (actor, key, status, body)
    ), held as materialized (
        select k.actor, k.key from idempotency_keys as k join answers as a on k.actor = a.actor and k.key = a.key
            order by k.ctid for update of k
    )
    update idempotency_keys as k set status = a.status, body = a.body
        from answers as a join held as h on h.actor = a.actor and h.key = a.key
        where k.actor = a.actor and k.key = a.key
            and k.status is distinct from 0 and (k.status is null or a.status < 400)
        returning k.actor, k.key
"""
# $1 before when, $2 how many at most. idempotency_keys_age; a few at a time, so that no request pays for a day's
# leavings.
FORGET = """
    delete from idempotency_keys where (actor, key) in
        (select actor, key from idempotency_keys where created_at <= $1
            order by created_at limit $2 for update skip locked)
"""
# Each in its place: a lock taken if it is free, or given back; whether it was.
LOCK = """
    select case when take then pg_try_advisory_lock(number) else pg_advisory_unlock(number) end
        from unnest(%s::boolean[], %s::bigint[]) as asked (take, number)
"""
# For each answer that is kept.
FORGOTTEN = 20


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


class _Claim(NamedTuple):
    actor: str
    key: str
    fingerprint: bytes
    at: datetime


class _Stored(NamedTuple):
    actor: str
    key: str
    status: int
    sealed: bytes


class Keys:
    """The kept answers, in the table ``idempotency_keys``. Requests under way at the same time share their statements,
    and the fsync."""

    def __init__(self, conninfo: str, desk: Reader, sealing: Sealing) -> None:
        self._desk = desk
        self._sealing = sealing
        self._locks = _Locks(conninfo)
        self._claims = Gathered(self._claim)
        self._answers = Gathered(self._store)
        self._forgotten = Gathered(self._forget)

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
            claimed = await self._claims.ask(_Claim(actor, key, fingerprint, now))
            if claimed is None:
                row = (await self._desk.fetch(FIND, actor, key))[0]
                kept = self._kept(row, fingerprint, bound_to(actor, key))
                if kept is not None:
                    return kept
                claimed = row[0]
            # The time of the claim is part of it: a day later the same key is a new one.
            name = f"{actor}\n{key}\n{fingerprint.hex()}\n{claimed.astimezone(UTC).isoformat()}"
            answer = await run(uuid5(_NAMESPACE, name))
            if answer.status < 500:
                sealed = self._sealing.seal(msgspec.json.encode(answer), bound_to(actor, key))
                if not await self._answers.ask(_Stored(actor, key, answer.status, sealed)):
                    for row in await self._desk.fetch(FIND, actor, key):
                        answer = self._kept(row, fingerprint, bound_to(actor, key)) or answer
        with suppress(Unavailable):
            await self._forgotten.ask(now - KEPT)
        return answer

    async def _claim(self, claims: Sequence[_Claim]) -> list[datetime | None]:
        """The time of each claim that came about."""
        rows = await self._desk.fetch(CLAIM, *map(list, zip(*claims, strict=True)), KEPT)
        at = {(actor, key): moment for actor, key, moment in rows}
        return [at.get(claim[:2]) for claim in claims]

    async def _store(self, answers: Sequence[_Stored]) -> list[bool]:
        """Which of the answers are kept."""
        rows = await self._desk.fetch(STORE, *map(list, zip(*answers, strict=True)))
        kept = {(actor, key) for actor, key in rows}
        return [answer[:2] in kept for answer in answers]

    async def _forget(self, before: Sequence[datetime]) -> Sequence[datetime]:
        await self._desk.fetch(FORGET, max(before), FORGOTTEN * len(before))
        return before

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
        # Whether to take or to give back, and which.
        self._turn: Gathered[tuple[bool, int], bool] = Gathered(self._ask)
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
        asked = self._turn.ask((True, number))
        try:
            # Shielded: what became of it has to be known.
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            self._background(self._release_if_taken(asked, number))
            raise

    async def _release_if_taken(self, asked: "asyncio.Future[bool]", number: int) -> None:
        with suppress(Unavailable):
            if await asked:
                await self._release(number)

    async def _release(self, number: int) -> None:
        # Where the connection is gone, so is every lock of it.
        with suppress(Unavailable):
            await self._turn.ask((False, number))

    def _background(self, work: Coroutine[None, None, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask(self, asked: Sequence[tuple[bool, int]]) -> list[bool]:
        # Without an end a server that is gone without a word would hold up every keyed request of this process.
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                try:
                    return await self._ask_once(asked)
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    # The server may have restarted.
                    return await self._ask_once(asked)
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
            raise Unavailable(str(error)) from error

    async def _ask_once(self, asked: Sequence[tuple[bool, int]]) -> list[bool]:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = await psycopg.AsyncConnection.connect(
                    self._conninfo,
                    autocommit=True,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    application_name="modledger http locks",
                )
            cursor = await self._connection.execute(LOCK.encode(), [*map(list, zip(*asked, strict=True))])
            return [bool(row[0]) for row in await cursor.fetchall()]
        except BaseException:
            # Broken, or given up in the middle of a query: what it would answer next is not known.
            if self._connection is not None:
                await self._connection.close()
            raise

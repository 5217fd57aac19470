"""How often a client may ask (api.md §1, 429): a token bucket for each, in PostgreSQL, exact over all server processes.

The whole state of a bucket is the moment at which it will be full again (the generic cell rate algorithm, as in ITU-T
I.371), and that moment only ever moves on. So a server whose clock is behind by no more than two minutes refills
nothing twice, and what is known to be empty until some moment can be refused without asking the database. What is
further ahead than that is no count but a clock that was wrong: then the bucket is empty, and fills from now on.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

import msgspec

from modledger.domain.settings import Settings
from modledger.http.errors import Problem, Unavailable
from modledger.http.reader import Reader
from modledger.http.wire import array

Kind = Literal["login", "staff", "bot", "public"]
_Taken = dict[str, tuple["Limit", list[asyncio.Future[None]]]]

MINUTE_S = 60
HOUR_S = 3600
# Keys that share a statement, refusals that are remembered, requests between two looks for rows to forget, and how many
# rows each looks at: more than those requests can have made.
BATCH = 128
REMEMBERED = 4096
SWEEP_EVERY = 500
SWEPT = 1000
# The clocks of servers are taken to differ by no more: what is further ahead was written before a clock was set back.
SKEW_S = 120
# A bucket that has been full for as long is as good as none, also to a server whose clock is an hour behind.
FORGOTTEN_AFTER_S = 3600

_SECOND_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Nobody waits for the disk; and the statement is planned once: left to itself the server plans it anew for most arrays.
SESSION = "set synchronous_commit = off; set plan_cache_mode = force_generic_plan"

# When the bucket would be full if nobody asked any more. No clock that is right puts that more than an empty bucket and
# the clocks' difference ahead: else all who asked before a clock was set back by an hour would be shut out for an hour.
_FULL_AT = f"""case
    when kept.full_at > $5 + excluded.requests * excluded.step + {SKEW_S * _SECOND_NS}
    then $5 + excluded.requests * excluded.step
    else greatest(kept.full_at, $5) end"""
# How many of those that ask are let through: what is between the bucket's level now and its brim, in whole steps.
_GRANTED = f"""greatest(0, least(
    excluded.granted,
    ($5 + excluded.requests * excluded.step - {_FULL_AT}) / excluded.step))"""

# $1 text[] keys, $2 integer[] how many ask, $3 integer[] and $4 bigint[] requests and step of their limit, $5 now.
# rate_limits_pkey. Ordered, so that no two servers wait for each other's rows.
TAKE = f"""
    insert into rate_limits as kept (key, full_at, step, requests, granted)
    select key, $5 + least(asking, requests) * step, step, requests, least(asking, requests)
    from unnest($1::text[], $2::integer[], $3::integer[], $4::bigint[]) as asked (key, asking, requests, step)
    order by key
    on conflict (key) do update set
        full_at = {_FULL_AT} + {_GRANTED} * excluded.step,
        step = excluded.step,
        requests = excluded.requests,
        granted = {_GRANTED}
    returning key, granted, full_at
"""  # noqa: S608

# $1 the key after which to look, $2 full before this moment, $3 how many rows to look at. rate_limits_pkey. Nothing is
# waited for: a row that is in use is not to be forgotten.
SWEEP = """
    with looked_at as materialized (
        select key, full_at from rate_limits where key > $1 order by key limit $3
    ), forgotten as (
        delete from rate_limits where key in (
            select key from rate_limits
            where key in (select key from looked_at where full_at < $2) and full_at < $2
            for update skip locked)
    )
    select max(key) from looked_at
"""


class Limit(msgspec.Struct, frozen=True):
    """``requests`` (1 … 1,000,000) at once, and as many again over every ``seconds``."""

    requests: int
    seconds: int

    @property
    def step(self) -> int:
        """Nanoseconds until one more request is there; rounded up, so never early."""
        return -(-self.seconds * _SECOND_NS // self.requests)


def limits(settings: Settings) -> dict[Kind, Limit]:
    """The limits for one client; a kind that is not in it has none."""
    a_minute: dict[Kind, int] = {
        "login": settings.rate_limit_login,
        "staff": settings.rate_limit_staff,
        "bot": settings.rate_limit_bot,
        "public": settings.rate_limit_public,
    }
    return {kind: Limit(requests, MINUTE_S) for kind, requests in a_minute.items() if requests}


def kind_of(path: str, *, for_bots: bool) -> Kind | None:
    """Which limit an operation counts against; None for those outside /v1. ``for_bots``: nobody else may use it."""
    if not path.startswith("/v1/"):
        return None
    if for_bots:
        return "bot"
    if path.startswith("/v1/authentication/"):
        return "login"
    return "staff" if path.startswith("/v1/admin/") else "public"


# To write an address out takes as long as to count it.
@lru_cache(maxsize=4096)
def client_key(kind: Kind, address: IPv4Address | IPv6Address | None) -> str:
    """The key of a client's bucket. A network of 64 bits is what one IPv6 client has at the least (RFC 6177), so it
    counts as one; so do all peers without an address."""
    if isinstance(address, IPv6Address):
        return f"{kind} {IPv6Address(int(address) >> 64 << 64)}/64"
    return f"{kind} {address or 'unknown'}"


def bot_key(bot_id: int) -> str:
    """The key of a bot's own bucket, for its limit an hour."""
    return f"bot {bot_id} hourly"


class RateLimiter:
    """The buckets, asked by one event loop over ``reader``. Requests that arrive in the same turn of the loop, or while
    a statement is under way, share one statement."""

    def __init__(self, reader: Reader, clock: Callable[[], datetime]) -> None:
        self._reader = reader
        self._clock = clock
        self._waiting: _Taken = {}
        self._run: asyncio.Task[None] | None = None
        self._scheduled = False
        # When the next request will be there, of buckets found empty.
        self._empty_until: dict[tuple[str, Limit], int] = {}
        self._since_sweep = 0
        self._swept_to = ""

    def start(self, key: str, limit: Limit) -> asyncio.Future[None]:
        """Takes one request from a bucket. The future raises Problem 429, or Unavailable; one that nobody awaits does
        no harm. Raises Problem 429 at once where the bucket is known to be empty."""
        until = self._empty_until.get((key, limit))
        if until is not None:
            now = self._now()
            # Further ahead, and our clock was set back since.
            if now < until <= now + limit.step + SKEW_S * _SECOND_NS:
                raise _refusal(until - now)
            del self._empty_until[key, limit]
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        _, together = self._waiting.get(key, (limit, []))
        together.append(future)
        # Two limits of one key: the bot's own was changed a moment ago.
        self._waiting[key] = limit, together
        if not self._scheduled and self._run is None:
            self._scheduled = True
            # Not at once: the other requests of this turn of the loop come along.
            loop.call_soon(self._start_run)
        return future

    def _now(self) -> int:
        return (self._clock() - _EPOCH) // timedelta(microseconds=1) * 1000

    def _start_run(self) -> None:
        self._scheduled = False
        if self._waiting:
            self._run = asyncio.get_running_loop().create_task(self._take())
            self._run.add_done_callback(self._end_run)

    def _end_run(self, _: asyncio.Task[None]) -> None:
        self._run = None
        self._start_run()

    async def _take(self) -> None:
        taken = {key: self._waiting.pop(key) for key in list(self._waiting)[:BATCH]}
        try:
            await self._ask(taken)
        except asyncio.CancelledError:
            _fail_all(taken, Unavailable("the count was cancelled"))
            raise
        except Exception as error:
            _fail_all(taken, error)
        else:
            # The next one will do.
            with suppress(Unavailable):
                await self._sweep()

    async def _ask(self, taken: _Taken) -> None:
        now = self._now()
        rows = await self._reader.fetch(
            TAKE,
            array(taken),
            array(len(futures) for _, futures in taken.values()),
            array(limit.requests for limit, _ in taken.values()),
            array(limit.step for limit, _ in taken.values()),
            now,
        )
        self._since_sweep += sum(len(futures) for _, futures in taken.values())
        for key, granted, full_at in rows:
            limit, futures = taken[key]
            for future in futures[:granted]:
                if not future.done():
                    future.set_result(None)
            if granted < len(futures):
                until = full_at - (limit.requests - 1) * limit.step
                self._remember(key, limit, until, now)
                for future in futures[granted:]:
                    _fail(future, _refusal(until - now))

    def _remember(self, key: str, limit: Limit, until: int, now: int) -> None:
        if len(self._empty_until) >= REMEMBERED:
            self._empty_until = {one: moment for one, moment in self._empty_until.items() if moment > now}
        if len(self._empty_until) < REMEMBERED:
            self._empty_until[key, limit] = until

    async def _sweep(self) -> None:
        if self._since_sweep < SWEEP_EVERY:
            return
        self._since_sweep = 0
        ((last,),) = await self._reader.fetch(
            SWEEP, self._swept_to, self._now() - FORGOTTEN_AFTER_S * _SECOND_NS, SWEPT
        )
        self._swept_to = last or ""


def _refusal(wait_ns: int) -> Problem:
    return Problem(429, "Too many requests", {"Retry-After": str(max(1, -(-wait_ns // _SECOND_NS)))})


def _fail_all(taken: _Taken, error: Exception) -> None:
    for _, futures in taken.values():
        for future in futures:
            _fail(future, error)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # Asked for here, so that nobody is told of it where nobody waits any more.
        future.exception()

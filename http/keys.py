"""API keys of bots and of the public: made, shown once, and only their hash stored.

A key comes as ``Authorization: Bearer <key>`` or as ``X-API-Key: <key>``; api.md names no header, clients use either.
"""

import hashlib
import secrets
from datetime import datetime
from typing import Any, Literal

import msgspec
import psycopg
from litestar import Request

from modledger.http.errors import Problem, unauthenticated
from modledger.http.freshness import fresh, progress_of
from modledger.http.parameters import one_header
from modledger.http.services import services
from modledger.http.wire import Row
from modledger.projections import bots

KeyKind = Literal["public", "bot"]

_PREFIXES: dict[KeyKind, str] = {"bot": "hbot_", "public": "hpub_"}
_LONGEST_KEY = 128
# Of a bot that was never registered, whose key an operator made: what a registered one has unless it says otherwise.
_USUAL_LIMIT = 1000

# $1 bytea[] of key hashes. Beside the key: the last position that its bot wrote over HTTP (ledger_http_writes), the
# last of the bot's own stream (ledger_pkey), and the bot with its checkpoint in the same snapshot.
# api_keys_pkey, bots_pkey, bot_activity_pkey, projection_tracking_pkey
CALLERS = f"""
    select k.key_hash, k.kind, k.bot_id, k.version,
        (select max(notification_id) from ledger where actor = 'bot:' || k.bot_id and via = 'http'),
        (select notification_id from ledger where originator_id = 'bot:' || k.bot_id
            order by originator_version desc limit 1),
        {bots.POSITION}, {bots.REPORTED}, {bots.COLUMNS}
    from api_keys k
    left join bots b on b.bot_id = k.bot_id
    left join bot_activity a on a.bot_id = k.bot_id
    where k.key_hash = any((select $1::bytea[])::bytea[])
"""  # noqa: S608

# $1 key hash, $2 kind, $3 bot id or null, $4 now, $5 the version of the bot's stream that the key is good from, null
# for the present one (ledger_pkey). A bot's old key is dead with it; one that was made after a later event stays.
# api_keys_bot
STORE = """
    insert into api_keys (key_hash, kind, bot_id, created_at, version)
    select $1, $2, $3, $4, coalesce($5,
        (select max(originator_version) from ledger where originator_id = 'bot:' || $3::bigint), 0)
    on conflict (bot_id) where bot_id is not null do update
        set key_hash = excluded.key_hash, created_at = excluded.created_at, version = excluded.version
        where api_keys.version <= excluded.version
"""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whose key it is; ``bot_id`` is a bot's Discord id, None for a public key, ``written`` the last ledger position
    that this bot wrote over HTTP. ``found`` is the bot, at a ``position`` not below the last of the bot's own stream;
    None for a public key, and for a bot that nothing ever happened to. ``rate_limit_per_hour``: the requests that a bot
    has, None for a public key."""

    kind: KeyKind
    bot_id: int | None
    written: int
    found: bots.Owned | None
    position: int
    rate_limit_per_hour: int | None


def new_key(kind: KeyKind) -> tuple[str, bytes]:
    """A key of 256 bits and the hash that is stored of it."""
    key = _PREFIXES[kind] + secrets.token_urlsafe(32)
    return key, _hash_of(key)


def create_key(conn: psycopg.Connection[Any], kind: KeyKind, bot_id: int | None, now: datetime) -> str:
    """A new key, the only time that it can be seen; a bot's old key is dead with it. For the command line, whose
    operator needs no event for it. Commits when ``conn`` is in autocommit mode. Raises psycopg.Error."""
    while True:
        key, hashed = new_key(kind)
        stored = psycopg.RawCursor(conn).execute(STORE.encode(), (hashed, kind, bot_id, now, None))
        # None: a server stored the key of a later event meanwhile.
        if stored.rowcount:
            return key


def _hash_of(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def key_of(request: Request[Any, Any, Any]) -> str | None:
    """The key that the request brings; None without one. One that is too long to be ours is cut. Raises Problem 400 for
    one of the two headers given more than once."""
    authorization, alone = one_header(request, "Authorization"), one_header(request, "X-API-Key")
    scheme, _, bearer = (authorization or "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else (alone or "").strip()
    return key[:_LONGEST_KEY] or None


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """A key that is stored. ``head``: the last position of its bot's stream."""

    caller: Caller
    version: int
    head: int


def _known(row: Row) -> _Known:
    kind, bot_id, version, written, head, position, *columns = row
    found = bots.owned_or_none(columns)
    limit = None if bot_id is None else _USUAL_LIMIT if found is None else found.bot.rate_limit_per_hour
    caller = Caller(
        kind=kind,
        bot_id=bot_id,
        written=written or 0,
        found=found,
        position=position or 0,
        rate_limit_per_hour=limit,
    )
    return _Known(caller=caller, version=version, head=head or 0)


async def caller_of(request: Request[Any, Any, Any]) -> Caller | None:
    """Whose key the request brings; None without a key.

    Raises Problem 400 for a header given twice, 401 for a key that is not known or void, 403 for that of an inactive
    bot, and 503 when the bots are behind the bot's own stream for 2 seconds.
    """
    key = key_of(request)
    if key is None:
        return None
    has, hashed = services(request), _hash_of(key)

    async def read() -> _Known | None:
        row = await has.callers.load(hashed)
        return None if row is None else _known(row)

    # A key that was made void, or a bot that was switched off, is so at the next request.
    known = await fresh(
        read,
        lambda one: 0 if one is None else one.caller.position,
        lambda one: 0 if one is None else one.head,
        progress_of(has.checkpoints, "bots"),
    )
    bot = None if known is None or known.caller.found is None else known.caller.found.bot
    if known is None or (bot is not None and known.version < bot.keys_from):
        raise unauthenticated()
    if bot is not None and bot.registered and not bot.active:
        raise Problem(403, "Bot is inactive")
    return known.caller


async def authenticate_bot(request: Request[Any, Any, Any]) -> Caller:
    """The bot behind the request's key. Raises Problem as ``caller_of``, 401 without a key, and 403 for a public
    one."""
    caller = await caller_of(request)
    if caller is None:
        raise unauthenticated()
    # Before the refusal: the log names who was refused.
    request.scope["user"] = caller
    if caller.kind != "bot":
        raise Problem(403, "Bot key required")
    return caller

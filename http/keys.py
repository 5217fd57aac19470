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
from modledger.http.services import services

KeyKind = Literal["public", "bot"]

_PREFIXES: dict[KeyKind, str] = {"bot": "hbot_", "public": "hpub_"}
_LONGEST_KEY = 128

# $1 bytea[] of key hashes. Beside the key: the last position that its bot wrote over HTTP. api_keys_pkey,
# ledger_http_writes
CALLERS = """
    select k.key_hash, k.kind, k.bot_id,
        (select max(notification_id) from ledger where actor = 'bot:' || k.bot_id and via = 'http')
    from api_keys k
    where k.key_hash = any($1::bytea[])
"""


class Caller(msgspec.Struct, frozen=True):
    """Whose key it is; ``bot_id`` is a bot's Discord id, None for a public key, ``written`` the last ledger position
    that this bot wrote over HTTP."""

    kind: KeyKind
    bot_id: int | None
    written: int


def create_key(conn: psycopg.Connection[Any], kind: KeyKind, bot_id: int | None, now: datetime) -> str:
    """A new key of 256 bits, the only time that it can be seen; a bot's old key is dead with it. Commits when ``conn``
    is in autocommit mode. Raises psycopg.Error."""
    key = _PREFIXES[kind] + secrets.token_urlsafe(32)
    psycopg.RawCursor(conn).execute(
        # api_keys_bot
        b"insert into api_keys (key_hash, kind, bot_id, created_at) values ($1, $2, $3, $4)"
        b" on conflict (bot_id) where bot_id is not null"
        b" do update set key_hash = excluded.key_hash, created_at = excluded.created_at",
        (_hash_of(key), kind, bot_id, now),
    )
    return key


def _hash_of(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def key_of(request: Request[Any, Any, Any]) -> str | None:
    """The key that the request brings; None without one. One that is too long to be ours is cut."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "").strip()
    return key[:_LONGEST_KEY] or None


async def caller_of(request: Request[Any, Any, Any]) -> Caller | None:
    """Whose key the request brings; None without a key. Raises Problem 401 for one that is not known."""
    key = key_of(request)
    if key is None:
        return None
    row = await services(request).callers.load(_hash_of(key))
    if row is None:
        raise unauthenticated()
    kind, bot_id, written = row
    return Caller(kind, bot_id, written or 0)


async def authenticate_bot(request: Request[Any, Any, Any]) -> Caller:
    """The bot behind the request's key. Raises Problem 401 without a known key and 403 for a public one."""
    caller = await caller_of(request)
    if caller is None:
        raise unauthenticated()
    if caller.kind != "bot":
        raise Problem(403, "Bot key required")
    request.scope["user"] = caller
    return caller

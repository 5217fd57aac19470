"""Sessions: the cookie, its token, and who stands behind it, read anew at every request (api.md §2 and §4)."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg
from litestar import Request
from litestar.datastructures import Cookie

from modledger.domain.rank import ACCESS
from modledger.domain.settings import Settings
from modledger.domain.subjects import ADMIN, USER
from modledger.http.errors import Problem, unauthenticated
from modledger.http.freshness import fresh, progress_of
from modledger.http.keys import caller_of
from modledger.http.parameters import header_values
from modledger.http.services import Services, services
from modledger.http.wire import Row
from modledger.projections import profile as profiles

COOKIE = "hsession"
SUFFIX_LENGTH = 6
# 32 bytes in URL-safe base64; anything longer was never given out by us.
_LONGEST_TOKEN = 64
_LONGEST_AGENT = 512

# $1 bytea[] of token hashes. Beside the session: the last position that the user wrote over HTTP (ledger_http_writes),
# the last of the user's own stream (ledger_pkey), and the profile with its checkpoint in the same snapshot.
# sessions_pkey, profiles_pkey, user_activity_pkey, projection_tracking_pkey
VIEWERS = f"""
    select s.token_hash, s.user_id, s.expires_at,
        (select max(notification_id) from ledger where actor = 'user:' || s.user_id and via = 'http'),
        (select notification_id from ledger where originator_id = 'user:' || s.user_id
            order by originator_version desc limit 1),
        (select notification_id from projection_tracking where application_name = 'profile'),
        a.last_activity_at, {profiles.SHOWN}
    from sessions s
    left join profiles p on p.user_id = s.user_id
    left join user_activity a on a.user_id = s.user_id
    where s.token_hash = any((select $1::bytea[])::bytea[])
"""  # noqa: S608

# $1 bigint[] of user ids: as above, without a session. ledger_pkey, profiles_pkey, user_activity_pkey
USERS = f"""
    select asked.key,
        (select notification_id from ledger where originator_id = 'user:' || asked.key
            order by originator_version desc limit 1),
        (select notification_id from projection_tracking where application_name = 'profile'),
        a.last_activity_at, {profiles.SHOWN}
    from unnest((select $1::bigint[])) as asked (key)
    left join profiles p on p.user_id = asked.key
    left join user_activity a on a.user_id = asked.key
"""  # noqa: S608

OPEN = """
    insert into sessions (token_hash, user_id, token_suffix, created_at, expires_at, client_ip, user_agent)
    values ($1, $2, $3, $4, $5, $6, $7)
"""
# $1 now. sessions_expiry; a few at a time, so that no log-in pays for a month, and none waits for another.
FORGET = """
    delete from sessions where token_hash in
        (select token_hash from sessions where expires_at <= $1 order by expires_at limit 20 for update skip locked)
"""


class Viewer(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. ``written`` is the last ledger position that this user wrote over HTTP, ``head`` the last of the user's
    own stream; ``found`` the profile, at a position not below ``head``; ``level`` 0 User … 3 Owner, 0 without
    events."""

    user_id: int
    token_hash: bytes
    written: int
    head: int
    found: profiles.Found
    level: int
    restricted: bool


# -- tokens


def hash_of(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def lifetime(level: int) -> timedelta:
    """1 day from Admin on, else 30 days; fixed at log-in (api.md §4)."""
    return timedelta(days=1) if level >= ADMIN else timedelta(days=30)


def new_session(
    user_id: int, level: int, now: datetime, client_ip: str | None, user_agent: str | None
) -> tuple[str, tuple[object, ...]]:
    """A new token of 256 bits, and the values of ``OPEN`` for it."""
    token = secrets.token_urlsafe(32)
    values = (
        hash_of(token),
        user_id,
        token[-SUFFIX_LENGTH:],
        now,
        now + lifetime(level),
        client_ip,
        None if user_agent is None else user_agent[:_LONGEST_AGENT],
    )
    return token, values


def open_session(
    conn: psycopg.Connection[Any],
    user_id: int,
    level: int,
    now: datetime,
    client_ip: str | None = None,
    user_agent: str | None = None,
) -> str:
    """Logs a user in without a code and answers the token: for the command line, whose operator needs none. Forgets a
    few sessions that have expired, like every log-in. Commits when ``conn`` is in autocommit mode. Raises
    psycopg.Error."""
    token, values = new_session(user_id, level, now, client_ip, user_agent)
    cursor = psycopg.RawCursor(conn)
    cursor.execute(OPEN.encode(), values)
    cursor.execute(FORGET.encode(), (now,))
    return token


def cookie(token: str, level: int, settings: Settings) -> Cookie:
    """The cookie of a new session (api.md §4)."""
    return _cookie(token, int(lifetime(level).total_seconds()), settings)


def removal(settings: Settings) -> Cookie:
    """The cookie that makes a browser forget the session."""
    return _cookie("", 0, settings)


def _cookie(value: str, max_age: int, settings: Settings) -> Cookie:
    return Cookie(
        key=COOKIE,
        value=value,
        path="/",
        domain=settings.cookie_domain,
        max_age=max_age,
        httponly=True,
        secure=not settings.development,
        samesite="lax" if settings.development else "none",
    )


# -- who is asking


def token_of(request: Request[Any, Any, Any]) -> str | None:
    """The token in the request's cookie, of several the last; None where there is none that could be ours."""
    # Not the framework's own reading: it knows the first header only, and HTTP/2 may bring each cookie in one of its
    # own (RFC 9113 §8.2.3).
    for line in reversed(header_values(request, "cookie")):
        for pair in reversed(line.split(";")):
            name, _, value = pair.partition("=")
            if name.strip() == COOKIE:
                token = value.strip().strip('"')
                return token if 0 < len(token) <= _LONGEST_TOKEN else None
    return None


def user_agent(request: Request[Any, Any, Any]) -> str:
    """What the client calls itself, cut to 512 characters."""
    return request.headers.get("user-agent", "").replace("\x00", "")[:_LONGEST_AGENT]


async def authenticate(request: Request[Any, Any, Any], level: int, *, restricted_too: bool) -> Viewer:
    """The viewer behind the request's cookie.

    Raises Problem 401 without a session that is good now, 403 for a restricted viewer (unless ``restricted_too``), 403
    below ``level``, and 503 when the profile is behind the viewer's own stream for 2 seconds.
    """
    token = token_of(request)
    if token is None:
        raise unauthenticated()
    viewer = await _viewer(services(request), hash_of(token))
    if viewer is None:
        raise unauthenticated()
    # Before any refusal: the log names who was refused.
    request.scope["user"] = viewer
    if viewer.restricted and not restricted_too:
        raise Problem(403, "Account restricted")
    if viewer.level < level:
        raise Problem(403, ACCESS[level])
    return viewer


async def authenticate_any(request: Request[Any, Any, Any], *, required: bool) -> None:
    """For what is open to keys too: ``request.user`` becomes the viewer of a session that is good now, else the caller
    whose key it is, else None.

    Raises Problem 401 for an unknown key, and without session and key where one is ``required``; 403 for a restricted
    viewer; 503 as ``authenticate``.
    """
    token = token_of(request)
    viewer = None if token is None else await _viewer(services(request), hash_of(token))
    request.scope["user"] = viewer
    if viewer is not None and viewer.restricted:
        raise Problem(403, "Account restricted")
    who = viewer or await caller_of(request)
    if who is None and required:
        raise unauthenticated()
    request.scope["user"] = who


async def _viewer(has: Services, token_hash: bytes) -> Viewer | None:
    now = has.clock()

    async def read() -> Viewer | None:
        row = await has.viewers.load(token_hash)
        return None if row is None or row[1] <= now else _viewer_of(token_hash, row, now)

    # A level that was taken away or a ban is in force at the next request, however far behind the projector is.
    return await fresh(
        read,
        lambda viewer: 0 if viewer is None else viewer.found.position,
        lambda viewer: 0 if viewer is None else viewer.head,
        progress_of(has.checkpoints, "profile"),
    )


def _viewer_of(token_hash: bytes, row: Row, now: datetime) -> Viewer:
    user_id, _, written, head = row[:4]
    found = profiles.found_shown(user_id, row[4:])
    person = found.profile
    return Viewer(
        user_id=user_id,
        token_hash=token_hash,
        written=written or 0,
        head=head or 0,
        found=found,
        level=USER if person is None else person.level,
        restricted=person is not None and profiles.state(person, now) != 0,
    )


async def current_user(has: Services, user_id: int, required: int = 0) -> profiles.Found:
    """A user's profile, as fresh as the user's own stream and the position required. Raises Problem 503 after 2 seconds
    behind them."""

    async def read() -> tuple[int, profiles.Found]:
        row = await has.users.load(user_id)
        assert row is not None
        return max(row[0] or 0, required), profiles.found_shown(user_id, row[1:])

    _, found = await fresh(
        read, lambda both: both[1].position, lambda both: both[0], progress_of(has.checkpoints, "profile")
    )
    return found


async def current_found(request: Request[Any, Any, Any], required: int) -> profiles.Found:
    """The profile of the request's viewer, at that position or later. Raises Problem 503 after 2 seconds below it."""
    viewer: Viewer = request.user
    if viewer.found.position >= required:
        return viewer.found
    return await current_user(services(request), viewer.user_id, required)

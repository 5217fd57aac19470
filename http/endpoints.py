"""The two kinds of operation, ``read`` and ``command``: who is let in, the strict check, what the documentation says.

The order of refusals is the same everywhere: too much to do (503, admission.py), too often (429), who (401), whether
(403), then what (415, 413, 408, 400), and only then the record (404, 409, 412).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler

from modledger.domain.rank import ACCESS
from modledger.domain.settings import Settings
from modledger.domain.subjects import ADMIN, MODERATOR, OWNER, USER
from modledger.http import direct, parameters
from modledger.http.client_address import client_address
from modledger.http.errors import BODY_LIMIT, Problem, Unavailable, late, too_large
from modledger.http.keys import Caller, authenticate_bot
from modledger.http.openapi import DOCUMENTED, Documented, DocumentedOperation, Who, error_responses
from modledger.http.rate_limits import HOUR_S, Kind, Limit, bot_key, client_key, kind_of
from modledger.http.services import services
from modledger.http.sessions import Viewer, authenticate, authenticate_any

AnyRequest = Request[Any, Any, Any]


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Who is let in: a session, a bot by its key, either a session or any key (``public``), or everybody, of whom a
    session or key is told apart (``open``) or not (``none``). ``level``: the least, of a session; ``restricted_too``:
    also somebody timed out or banned; ``delivers``: of bots only those that the settings let deliver log-in codes."""

    who: Who
    level: int = USER
    restricted_too: bool = False
    delivers: bool = False


NOBODY = Access(who="none")
OPEN = Access(who="open")
PUBLIC = Access(who="public")
BOT = Access(who="bot")
LOGIN_BOT = Access(who="bot", delivers=True)
SESSION = Access(who="session")
OWN = Access(who="session", restricted_too=True)
STAFF = {level: Access(who="session", level=level) for level in (MODERATOR, ADMIN, OWNER)}


def read(
    path: str,
    *,
    operation_id: str,
    summary: str,
    access: Access,
    tag: str,
    example: object,
    errors: Mapping[int, str] | None = None,
    tagged: bool = False,
    own_503: object = None,
    start: Callable[[AnyRequest], None] | None = None,
    travels: bool = False,
    fresh: bool = True,
) -> HTTPRouteHandler:
    """GET. ``start`` may put a query on its way before it is known who asks; ``tagged``: a single record with an ETag;
    ``own_503``: the example of a 503 that is no error answer; ``travels``: it also answers about the past, to Admins
    and above (time_travel.py); ``fresh`` False: it answers about a moment that it names, whatever was written since."""
    kind = kind_of(path, for_bots=access.who == "bot")
    statuses = {
        400: "unknown parameter: foo",
        **_who_statuses(access, "GET"),
        **_often_statuses(kind),
        **_SERVER,
        **(errors or {}),
    }
    if tagged:
        statuses[304] = ""
    if own_503 is not None and access.who == "none":
        del statuses[503]
    DOCUMENTED[operation_id] = Documented(
        example=example,
        security=access.who,
        reads=fresh and access.who != "none" and own_503 is None,
        tagged=tagged,
        commands=False,
        keyed=False,
        conditional=False,
        own_503=own_503,
    )
    return get(
        path,
        middleware=[direct.instead],
        opt={direct.ADMIT: _admission(access, kind, start, travels=travels)},
        operation_class=DocumentedOperation,
        operation_id=operation_id,
        summary=summary,
        responses=error_responses(statuses),
        tags=[tag],
    )


def command(
    path: str | list[str],
    *,
    operation_id: str,
    summary: str,
    access: Access,
    tag: str,
    example: object,
    body_example: object = None,
    errors: Mapping[int, str] | None = None,
    tagged: bool = False,
    on_ledger: bool = True,
    sets_cookie: bool = False,
    batched: bool = False,
    body_limit: int = BODY_LIMIT,
) -> HTTPRouteHandler:
    """POST, answered with 200. ``on_ledger``: its answer bears the position of its last event; ``sets_cookie``: it
    opens or ends a session; ``batched``: a 5xx names the batch of which a part may be done. ``body_limit``
    in bytes, a multiple of 1024; api.md gives 64 KiB, which the longest lists that it allows do not fit in."""
    kind = kind_of(path if isinstance(path, str) else path[0], for_bots=access.who == "bot")
    statuses = {
        400: "reason is required",
        409: "Idempotency-Key was already used with another request",
        408: late(Settings().body_seconds),
        413: too_large(body_limit),
        415: "Content-Type must be application/json",
        **_who_statuses(access, "POST"),
        **_often_statuses(kind),
        **_SERVER,
        **(errors or {}),
    }
    DOCUMENTED[operation_id] = Documented(
        example=example,
        body_example=body_example,
        security=access.who,
        reads=False,
        tagged=tagged,
        commands=on_ledger,
        keyed=True,
        batched=batched,
        conditional=412 in statuses,
        sets_cookie=sets_cookie,
    )
    return post(
        path,
        status_code=200,
        request_max_body_size=body_limit,
        middleware=[direct.instead],
        opt={direct.ADMIT: _admission(access, kind, None)},
        operation_class=DocumentedOperation,
        operation_id=operation_id,
        summary=summary,
        responses=error_responses(statuses),
        tags=[tag],
    )


_SERVER = {500: "Internal server error", 503: "Database unavailable"}


def _who_statuses(access: Access, method: str) -> dict[int, str]:
    statuses = {} if access.who == "none" else {401: "Authentication required"}
    if access.who == "bot":
        statuses[403] = "Bot key required"
    elif access.who in ("public", "open"):
        statuses[403] = "Account restricted"
    elif access.level > USER:
        statuses[403] = ACCESS[access.level]
    elif access.who == "session" and not access.restricted_too:
        statuses[403] = "Account restricted"
    elif method == "POST":
        statuses[403] = "Origin not allowed"
    return statuses


def _often_statuses(kind: Kind | None) -> dict[int, str]:
    return {429: "Too many requests"} if kind else {}


def _admission(
    access: Access, kind: Kind | None, start: Callable[[AnyRequest], None] | None, *, travels: bool = False
) -> direct.Admit:
    async def admit(request: AnyRequest) -> Mapping[str, Any]:
        counted = None if kind is None else _count_client(request, kind)
        if start is not None:
            start(request)
        try:
            await _authenticate(request, access)
            if travels and asks_about_the_past(request):
                require_level(request, ADMIN)
        except Unavailable:
            # The counts are in the same database: waiting for them would only take as long once more.
            raise
        except Exception:
            # Who asks too often is told nothing else.
            if counted is not None:
                await counted
            raise
        if counted is not None:
            await counted
        await _count_bot(request)
        if request.scope["method"] != "POST":
            return parameters.arguments(request)
        if access.who != "bot":
            check_origin(request)
        body = await parameters.checked_body(request)
        return {**parameters.arguments(request), **body}

    return admit


async def _authenticate(request: AnyRequest, access: Access) -> None:
    match access.who:
        case "session":
            await authenticate(request, access.level, restricted_too=access.restricted_too)
        case "bot":
            caller = await authenticate_bot(request)
            trusted = services(request).settings.login_bots
            if access.delivers and trusted and caller.bot_id not in trusted:
                raise Problem(403, "This bot may not fetch log-in codes")
        case "public" | "open":
            await authenticate_any(request, required=access.who == "public")
        case "none":
            pass


def asks_about_the_past(request: AnyRequest) -> bool:
    """Whether one of the two times of time travel is given, whatever it says."""
    # Most have no query, and then there is nothing to read.
    return bool(request.scope["query_string"]) and not request.query_params.keys().isdisjoint(("as_of", "known_at"))


def require_level(request: AnyRequest, level: int) -> None:
    """Raises Problem 403 for keys, and for sessions below the level."""
    if not isinstance(request.user, Viewer) or request.user.level < level:
        raise Problem(403, ACCESS[level])


def _count_client(request: AnyRequest, kind: Kind) -> Awaitable[None] | None:
    """Puts the count on its way, beside the question who asks. Raises Problem 429, now or when awaited."""
    has = services(request)
    limit = has.limits.get(kind)
    return None if limit is None else has.limiter.start(client_key(kind, client_address(request)), limit)


async def _count_bot(request: AnyRequest) -> None:
    # Only once its key is known to be good, or anybody could use up what a bot has.
    caller = request.scope.get("user")
    if isinstance(caller, Caller) and caller.bot_id is not None and caller.rate_limit_per_hour is not None:
        limit = Limit(caller.rate_limit_per_hour, HOUR_S)
        await services(request).limiter.start(bot_key(caller.bot_id), limit)


def check_origin(request: AnyRequest) -> None:
    """Against requests forged by another site's page (api.md §4): an Origin has to be on the list; without one, only a
    request that says it is JSON passes, which no form can send.

    Raises Problem 403 and 415.
    """
    origin = parameters.listed_header(request, "origin")
    if origin is None:
        parameters.require_json(request)
    elif origin not in allowed_origins(services(request).settings):
        raise Problem(403, "Origin not allowed")


def allowed_origins(settings: Settings) -> tuple[str, ...]:
    """Pages that may send commands: those of the settings, and in development our own."""
    if not settings.development:
        return settings.allowed_origins
    return (
        *settings.allowed_origins,
        f"http://127.0.0.1:{settings.port}",
        f"http://localhost:{settings.port}",
    )

"""The line that a request leaves in the log: what was asked by whom and how it ended, never what was said.

It names the route and not the path, which names people, nor the query, which has what they look for. Its correlation id
is in the answer's header and in every event that the request appended (docs/operate.md).
"""

import structlog
from litestar.types import HTTPScope

from modledger.domain.settings import AccessLog
from modledger.http.keys import Caller
from modledger.http.metrics import METHODS, OTHER, route_of
from modledger.http.sessions import Viewer

log = structlog.get_logger("modledger.http")

# Balancers and supervisors ask every few seconds.
_PROBES = frozenset({"/health", "/health/live", "/health/ready"})


def log_request(wanted: AccessLog, scope: HTTPScope, status: int, seconds: float) -> None:
    """One line for a request that was answered, where ``wanted`` says so; at ``debug`` for probes that went well.
    ``status`` 0: the client left before."""
    if wanted == "none":
        return
    method, route = scope["method"], route_of(scope)
    read = method == "GET" and 0 < status < 400
    if wanted == "changes" and read:
        return
    said = log.debug if read and route in _PROBES else log.info
    said(
        "request",
        method=method if method in METHODS else OTHER,
        route=route,
        status=status,
        took_ms=round(seconds * 1000, 2),
        actor=actor_name(scope.get("user")),
    )


def actor_name(who: object) -> str | None:
    """Whose request it was, as the ledger names actors: ``user:1``, ``bot:2``; ``public key``; None for nobody whom we
    know."""
    match who:
        case Viewer():
            return f"user:{who.user_id}"
        case Caller(bot_id=None):
            return "public key"
        case Caller():
            return f"bot:{who.bot_id}"
    return None

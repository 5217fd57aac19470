"""The outermost layer: names the request, puts the headers on that every answer bears, counts it and logs it."""

import time
from collections.abc import Callable
from uuid import uuid4

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from litestar.types.asgi_types import HTTPResponseStartEvent

from modledger.domain.settings import AccessLog
from modledger.http.access_log import log_request
from modledger.http.errors import JSON, error_body
from modledger.http.metrics import Requests, route_of

log = structlog.get_logger("modledger.http")

_CORRELATION = b"x-correlation-id"
_PLAIN = b"text/plain; charset=utf-8"
# An answer is data: a browser that is made to show it runs nothing in it, tells no other site its path, and lends it to
# no other site's page. Those of the settings ask in a way that the last one leaves alone.
_EVERYWHERE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_UNLESS_GIVEN = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    # Who may see what changes from one moment to the next.
    (b"cache-control", b"no-store"),
)


def refused_preflights_as_errors(app: ASGIApp) -> ASGIApp:
    """``app`` with an error answer like every other where the framework refuses a preflight in plain text."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] != "OPTIONS":
            await app(scope, receive, send)
            return
        held: HTTPResponseStartEvent | None = None

        async def send_as_json(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and (b"content-type", _PLAIN) in message["headers"]:
                held = message
            elif held is not None and message["type"] == "http.response.body":
                body = error_body(message["body"].decode(), scope["state"]["correlation_id"])
                held["headers"] = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode())]
                await send(held)
                await send({"type": "http.response.body", "body": body, "more_body": False})
            else:
                await send(message)

        await app(scope, receive, send_as_json)

    return serve


def named_and_logged(app: ASGIApp, requests: Requests, access_log: AccessLog, stopping: Callable[[], bool]) -> ASGIApp:
    """``app`` with a correlation id for each request: in its state, in the log's context, and in the answer's headers
    unless the answer is a repetition that bears its first one's. Each is counted, and logged as ``access_log`` says.
    While ``stopping``, every answer is the last one on its connection."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            await app(scope, receive, send)
            return
        named = scope["state"]["correlation_id"] = str(uuid4())
        began = time.perf_counter()
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # In lower case: so ASGI wants them.
                given = dict(message["headers"])
                headers = [*message["headers"], *_EVERYWHERE]
                if _CORRELATION not in given:
                    headers.append((_CORRELATION, named.encode()))
                headers += [one for one in _UNLESS_GIVEN if one[0] not in given]
                if stopping():
                    # Or the next request might be on its way while we close it, and nobody would know whether it came.
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        requests.began()
        structlog.contextvars.bind_contextvars(correlation_id=named)
        try:
            await app(scope, receive, send_named)
        except Exception:
            log.exception("unexpected error", route=route_of(scope))
            if status:
                raise
            await send_named(
                {
                    "type": "http.response.start",
                    "status": 500,
                    "headers": [(b"content-type", JSON.encode())],
                }
            )
            body = error_body("Internal server error", named)
            await send({"type": "http.response.body", "body": body, "more_body": False})
        finally:
            took = time.perf_counter() - began
            requests.ended(scope, status, took)
            log_request(access_log, scope, status, took)

    return serve

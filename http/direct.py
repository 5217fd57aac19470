"""How a read is answered: found by its path, let in, its arguments read, its answer sent, and nothing more.

Litestar's own way from a path to an answer takes as long as all the rest of a read (docs/performance.md): it walks a
tree, models every parameter a second time, and makes three objects of one answer. So it declares the reads, describes
them, and is asked about everything that is out of the ordinary: other methods, other spellings of a path, an Origin.
Where that leads to a read after all, it is answered by the same function.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from litestar import Litestar, Request, Response
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from modledger.http.admission import admitted
from modledger.http.errors import JSON, Busy, answer_error

# Where an operation keeps its admission: it lets the request in or raises, and answers the handler's arguments.
ADMIT = "admit"
Admit = Callable[[Request[Any, Any, Any]], Awaitable[Mapping[str, Any]]]

# What a host is made of beside letters and digits; whether anything else is allowed is the framework's to say.
_BETWEEN = b".-:[]"
_CONTENT_TYPE = (b"content-type", JSON.encode())


class _Read(NamedTuple):
    """``parameter``: what the last part of the path is, "" where the template is the path."""

    template: str
    parameter: str
    handler: HTTPRouteHandler


def instead(app: ASGIApp) -> ASGIApp:  # noqa: ARG001
    """The middleware of every read: what the framework would call to answer it is left alone."""
    return _answer


def directly(app: Litestar, otherwise: ASGIApp) -> ASGIApp:
    """The reads of ``app`` without detour; what is no plain request for one goes to ``otherwise``."""
    fixed, beginnings, others = _reads(app)
    among_others = admitted(_answer)

    def find(scope: HTTPScope) -> _Read | None:
        if scope["method"] != "GET" or scope["root_path"]:
            return None
        path = scope["path"]
        found = fixed.get(path)
        last = ""
        if found is None and path not in others:
            beginning, _, last = path.rpartition("/")
            found = beginnings.get(beginning) if last else None
        if found is None:
            return None
        for name, value in scope["headers"]:
            if name == b"origin" or (name == b"host" and not value.translate(None, _BETWEEN).isalnum()):
                return None
        scope["path_params"] = {found.parameter: last} if last else {}
        scope["path_template"], scope["route_handler"] = found.template, found.handler
        return found

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or find(scope) is None:
            await otherwise(scope, receive, send)
            return
        try:
            await among_others(scope, receive, send)
        except Busy as error:
            await _send(answer_error(Request(scope, receive, send), error), send)

    return serve


def _reads(app: Litestar) -> tuple[dict[str, _Read], dict[str, _Read], set[str]]:
    """By path; by all of it but the parameter that ends it; and the paths that are no read's."""
    fixed, beginnings, others = {}, {}, set()
    for route in app.routes:
        handlers = route.route_handlers if isinstance(route, HTTPRoute) else []
        handler = next((one for one in handlers if ADMIT in one.opt), None)
        beginning, _, last = route.path_format.rpartition("/")
        if handler is None:
            others.add(route.path_format)
        elif "{" not in route.path_format:
            fixed[route.path_format] = _Read(route.path_format, "", handler)
        elif "{" not in beginning:
            beginnings[beginning] = _Read(route.path_format, last.strip("{}"), handler)
    return fixed, beginnings, others


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    request: Request[Any, Any, Any] = Request(scope, receive, send)
    handler: HTTPRouteHandler = request.route_handler
    try:
        response = await handler.fn(request, **await handler.opt[ADMIT](request))
    except Exception as error:
        response = answer_error(request, error)
    await _send(response, send)


async def _send(response: Response[Any], send: Send) -> None:
    headers = [(_name(name), value.encode("latin-1")) for name, value in response.headers.items()]
    status, body = response.status_code or 200, response.content
    if status == 304:
        body = b""
    else:
        headers += _CONTENT_TYPE, (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@lru_cache
def _name(name: str) -> bytes:
    return name.lower().encode("latin-1")

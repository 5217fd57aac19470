"""How a request is answered: found by its path, let in, its arguments read, its answer sent, and nothing more.

Litestar's own way from a path to an answer takes as long as all the rest of a read (docs/performance.md): it walks a
tree, models every parameter a second time, and makes three objects of one answer. So it declares the operations,
describes them, and is asked about everything that is out of the ordinary: other methods, other spellings of a path, an
Origin. Where that leads to an operation after all, it is answered by the same function.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

from litestar import Litestar, Request, Response
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from modledger.http.admission import admitted
from modledger.http.errors import JSON, Busy, answer_error
from modledger.http.parameters import headers_of

# Where an operation keeps its admission: it lets the request in or raises, and answers the handler's arguments.
ADMIT = "admit"
Admit = Callable[[Request[Any, Any, Any]], Awaitable[Mapping[str, Any]]]

# What a host is made of beside letters and digits; whether anything else is allowed is the framework's to say.
_BETWEEN = b".-:[]"
_CONTENT_TYPE = (b"content-type", JSON.encode())


class _Operation(NamedTuple):
    """``parameter``: what the template names, "" where the template is the path."""

    template: str
    parameter: str
    handler: HTTPRouteHandler


class _Operations(NamedTuple):
    """By method and path; by method and what stands before and after the one parameter; and of each beginning the parts
    that follow it by name, which no parameter may be."""

    fixed: dict[tuple[str, str], _Operation]
    around: dict[tuple[str, str, str], _Operation]
    named: dict[str, set[str]]


def instead(app: ASGIApp) -> ASGIApp:  # noqa: ARG001
    """The middleware of every operation: what the framework would call to answer it is left alone."""
    return _answer


def directly(app: Litestar, otherwise: ASGIApp) -> ASGIApp:
    """The operations of ``app`` without detour; what is no plain request for one goes to ``otherwise``."""
    fixed, around, named = _operations(app)
    among_others = admitted(_answer)

    def find(scope: HTTPScope) -> _Operation | None:
        if scope["root_path"]:
            return None
        method, path = scope["method"], scope["path"]
        found = fixed.get((method, path))
        value = ""
        if found is None:
            beginning, _, value = path.rpartition("/")
            found = around.get((method, beginning, ""))
            if found is None:
                ending = value
                beginning, _, value = beginning.rpartition("/")
                found = around.get((method, beginning, ending)) if ending else None
            if found is None or not value or value in named[beginning]:
                return None
        headers = headers_of(scope)
        if b"origin" in headers or (b"host" in headers and not headers[b"host"].translate(None, _BETWEEN).isalnum()):
            return None
        if len(headers) < len(list(scope["headers"])) and [name for name, _ in scope["headers"]].count(b"host") > 1:
            return None
        scope["path_params"] = {found.parameter: value} if value else {}
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


def _operations(app: Litestar) -> _Operations:
    found = _Operations({}, {}, {})
    for route in app.routes:
        parts = route.path_format.split("/")
        for place, part in enumerate(parts):
            if "{" not in part:
                found.named.setdefault("/".join(parts[:place]), set()).add(part)
        places = [place for place, part in enumerate(parts) if "{" in part]
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else []:
            for method in handler.http_methods if ADMIT in handler.opt else ():
                if not places:
                    found.fixed[method, route.path_format] = _Operation(route.path_format, "", handler)
                elif len(places) == 1 and len(parts) - places[0] <= 2:
                    beginning, ending = "/".join(parts[: places[0]]), "/".join(parts[places[0] + 1 :])
                    operation = _Operation(route.path_format, parts[places[0]].strip("{}"), handler)
                    found.around[method, beginning, ending] = operation
    for _, beginning, _ in found.around:
        found.named.setdefault(beginning, set())
    return found


class _Incoming(Request[Any, Any, Any]):
    """The framework's request, of which nothing but the scope is there until it is asked for: most reads never do."""

    __slots__ = ()

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = cast("HTTPScope", scope), receive, send

    def __getattr__(self, name: str) -> Any:
        # Python asks here for what is not there.
        if name not in _LATER:
            raise AttributeError(name)
        super().__init__(self.scope, self.receive, self.send)
        return getattr(self, name)


_LATER = {name for of in Request.__mro__ for name in getattr(of, "__slots__", ())} - {"scope", "receive", "send"}


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    request = _Incoming(scope, receive, send)
    handler: Any = scope["route_handler"]
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

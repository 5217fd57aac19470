"""The proxy: it passes on, cuts, and leads nowhere."""

import socket
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.proxy import Proxy


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while received := self.request.recv(4096):
            self.request.sendall(received)


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True


class _Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture(params=["tcp", "unix"])
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """Before a server that says everything again."""
    with tempfile.TemporaryDirectory(prefix="modledger-test-") as folder:
        path = Path(folder) / "socket"
        server = _Tcp(("127.0.0.1", 0), _Echo) if request.param == "tcp" else _Unix(str(path), _Echo)
        upstream = path if isinstance(server, _Unix) else int(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Proxy(upstream) as made:
            yield made
        server.shutdown()
        server.server_close()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as opened:
        yield opened


def answer_of(client: socket.socket, said: bytes) -> bytes:
    client.sendall(said)
    return client.recv(4096)


def test_it_passes_everything_on(client: socket.socket) -> None:
    assert answer_of(client, b"one") == b"one"
    assert answer_of(client, b"two") == b"two"


def test_a_cut_breaks_what_is_open_and_lets_new_connections_in(proxy: Proxy, client: socket.socket) -> None:
    assert answer_of(client, b"one") == b"one"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        answer_of(client, b"two")
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as again:
        assert answer_of(again, b"three") == b"three"


def test_nothing_comes_out_of_a_hole_until_it_heals_and_then_nothing_is_lost(
    proxy: Proxy, client: socket.socket
) -> None:
    assert answer_of(client, b"one") == b"one"
    proxy.hole()
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        answer_of(client, b"two")
    proxy.heal(cutting=False)
    client.settimeout(30)
    assert client.recv(4096) == b"two"


def test_a_hole_takes_new_connections_and_may_end_with_a_cut(proxy: Proxy) -> None:
    proxy.hole()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.2) as client:
        with pytest.raises(TimeoutError):
            answer_of(client, b"one")
        proxy.heal(cutting=True)
        client.settimeout(30)
        with pytest.raises(ConnectionResetError):
            client.recv(4096)


def test_where_nobody_listens_it_ends_the_connection() -> None:
    with (
        Proxy(Path("/nowhere/at/all")) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as client,
    ):
        assert client.recv(4096) == b""

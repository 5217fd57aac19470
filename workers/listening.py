"""The HTTP server on its socket: how many may be connected at once, and for how long a client may keep it waiting."""

import resource
import socket
import sys

import structlog
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from litestar import Litestar

from modledger.workers.port import taken

log = structlog.get_logger()

# Several times as many as are worked on at once (http/admission.py), since most connections are idle. Whoever comes
# beyond that waits in the socket's queue, which holds as many again.
CONNECTIONS = 1024
# Files that are open beside clients' connections: those to the database, the log, what a program holds anyway.
OTHER_FILES = 256
# A connection on which no whole head of a request comes for so long, the first or the next, is closed; and one whose
# client takes nothing for so long of what it was answered. Bodies have MODLEDGER_BODY_SECONDS.
SILENT_SECONDS = 30
# Of a request's head, in bytes; as much as the largest body (api.md §1).
LARGEST_HEAD = 64 * 1024


def listening(app: Litestar, host: str, port: int) -> Server:
    """A server that listens there once it serves. Raises PortTaken where nobody can."""
    connections = _allowed_connections()
    # granian's usual server runs its worker as a second process, which outlives a kill -9 of the first and keeps the
    # port; the embedded one is as fast (docs/architecture.md) and is this process.
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        # Left to find out by itself whether a client speaks HTTP/2, it would wait for ever for one that says nothing.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=SILENT_SECONDS * 1000, max_buffer_size=LARGEST_HEAD),
        websockets=False,
        backlog=CONNECTIONS,
        backpressure=connections,
        log_enabled=False,
    )
    if sys.platform == "linux":
        # The server's own socket has no limit for clients that do not read, and no setting for one.
        listener = _socket(host, port)
        server._init_shared_socket = lambda: None  # type: ignore[method-assign]
        server._shd = SocketHolder(listener.detach(), False, CONNECTIONS)  # type: ignore[assignment, call-arg]
    return server


def _socket(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Each connection has them from the socket that it came by.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise taken(host, port, error) from None
    return listener


def _allowed_connections() -> int:
    # A server that has no file left for the next connection tries again and again, and can open nothing else either.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return CONNECTIONS
    connections = max(soft // 2, soft - OTHER_FILES)
    log.warning("fewer clients can be connected than could be served", connections=connections, open_files=soft)
    return connections

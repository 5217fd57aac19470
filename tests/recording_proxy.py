"""A TCP proxy before PostgreSQL that writes down which statements are sent through it, in order, not their values."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

# PostgreSQL's protocol, version 3: an int32 length counts itself but not the byte before it that says the kind.
_LENGTH = struct.Struct("!i")


class Recorded:
    """What ran through: the text of each statement, as often as it was executed."""

    def __init__(self) -> None:
        self.executed: list[str] = []

    def take(self) -> list[str]:
        """What was executed since it was last asked."""
        taken, self.executed = self.executed, []
        return taken


@contextmanager
def recorded(conninfo: str) -> Iterator[tuple[str, Recorded]]:
    """The URL of the proxy before the database at ``conninfo``, and what it records."""
    known = conninfo_to_dict(conninfo)
    record = Recorded()
    host, port = str(known.get("host", "127.0.0.1")), int(known.get("port") or 5432)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, host, port, record), daemon=True).start()
        others = {name: value for name, value in known.items() if name not in ("host", "port", "dbname", "hostaddr")}
        query = urlencode({**others, "sslmode": "disable", "gssencmode": "disable"}, quote_via=quote)
        yield f"postgresql://127.0.0.1:{server.getsockname()[1]}/{quote(str(known['dbname']))}?{query}", record


def _accept(server: socket.socket, host: str, port: int, record: Recorded) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        if host.startswith("/"):
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(f"{host}/.s.PGSQL.{port}")
        else:
            upstream = socket.create_connection((host, port))
        threading.Thread(target=_forward, args=(upstream, client), daemon=True).start()
        threading.Thread(target=_record, args=(client, upstream, record), daemon=True).start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with source, suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)


def _record(source: socket.socket, target: socket.socket, record: Recorded) -> None:
    statements: dict[bytes, str] = {}
    with source, target, suppress(OSError, EOFError):
        # The first message has no kind.
        head = _exactly(source, 4)
        target.sendall(head + _exactly(source, _LENGTH.unpack(head)[0] - 4))
        while True:
            head = _exactly(source, 5)
            body = _exactly(source, _LENGTH.unpack(head[1:])[0] - 4)
            match head[:1]:
                case b"Q":
                    record.executed.append(body.rstrip(b"\0").decode())
                case b"P":
                    name, query, _ = body.split(b"\0", 2)
                    statements[name] = query.decode()
                case b"B":
                    record.executed.append(statements[body.split(b"\0", 2)[1]])
            target.sendall(head + body)


def _exactly(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = source.recv(size - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found

"""Whether we can listen where we are told to, found out before anything else is started."""

import socket
import time

# The server of a predecessor that was killed needs a moment to leave.
PATIENCE_SECONDS = 5


class PortTaken(Exception):
    """Nobody can listen at this address now; the message says what to do."""


def taken(host: str, port: int, error: OSError, variable: str = "MODLEDGER_PORT") -> PortTaken:
    """What to say of an address where one could not listen; ``variable``: the setting that names the port."""
    return PortTaken(f"cannot listen on {host}:{port} ({error.strerror}): set {variable} to another")


def require_free_port(host: str, port: int, variable: str = "MODLEDGER_PORT") -> None:
    """Raises PortTaken when somebody else listens there, and goes on doing so for a few seconds. ``variable``: the
    setting that names the port."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise taken(host, port, error, variable) from None
            time.sleep(0.1)

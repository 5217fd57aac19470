"""Servers as processes of their own, and requests as the bytes that are sent to them."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import SystemRandom
from typing import Any

HOST = "127.0.0.1"
START_SECONDS = 120
# At ten million rows a peer that counts them has eight such answers under way at a time.
ANSWER_SECONDS = 120
# Below those that a system gives to whoever asks for any, or connects to somewhere.
_PORTS = range(10_000, 32_000)
_ANY = SystemRandom()
_CLAIMED: list[ExitStack] = []


@contextmanager
def python(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """``python`` with these arguments until the end of the block; what it says goes to the log."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=dict(os.environ if environment is None else environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def server(arguments: Sequence[str], log: Path) -> Iterator[tuple[int, int]]:
    """The same with a free port as its last argument, until it listens there; its port and its process."""
    port = free_port()
    with python([*arguments, str(port)], log) as process:
        wait(lambda: _listens(port), process, log)
        yield port, process.pid


def wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Until ``ready``. Raises RuntimeError with the log when the process ends first, or time does."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} has ended or is not ready after {START_SECONDS} s\n{log.read_text()}")
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def free_port(more: int = 0) -> int:
    """A port that nobody listens on now, nor on ``more`` right after it. Nobody else who asks here is given one of them
    while this process lives, and no client's connection gets one from the system."""
    while True:
        first = _ANY.choice(_PORTS)
        with ExitStack() as claims:
            try:
                for port in range(first, first + more + 1):
                    # A name that is nobody's file and goes with its process.
                    claims.enter_context(socket.socket(socket.AF_UNIX)).bind(f"\0modledger port {port}")
                    socket.create_server((HOST, port)).close()
            except OSError:
                continue
            _CLAIMED.append(claims.pop_all())
            return first


def get(path: str, cookie: str = "") -> bytes:
    return request("GET", path, cookie)


def post(path: str, cookie: str, body: Mapping[str, object]) -> bytes:
    return request("POST", path, cookie, json.dumps(body).encode())


def request(method: str, path: str, cookie: str, body: bytes = b"") -> bytes:
    """An HTTP/1.1 request; ``cookie``: ``name=value``, or empty."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}"]
    if cookie:
        lines.append(f"Cookie: {cookie}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def probe(port: int, sent: bytes) -> Any:
    """The JSON of the answer to one request by itself, so that what is refused is seen with its reason. Raises
    RuntimeError."""
    with socket.create_connection((HOST, port), timeout=ANSWER_SECONDS) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{sent!r}\n{answer.status} {content!r}")
        return json.loads(content)


def token_of(jar: Path) -> str:
    """The cookie of a jar in Netscape's format, as a request names it."""
    fields = next(line.split("\t") for line in jar.read_text().splitlines() if line.count("\t") == 6)
    return f"{fields[5]}={fields[6]}"

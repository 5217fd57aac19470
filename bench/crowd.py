"""Many clients at once, each with a connection of its own and one request at a time, who note how each was answered.

An answer is *served* (200, or 409 for a command), or *refused* (503 with ``Retry-After``); anything else is wrong. Who
is refused waits as long as the answer says and sends the same again; a command then bears the same Idempotency-Key.
Nobody leaves before the last request was served, so in the end it is known of every command that it was done.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple
from uuid import uuid4

import msgspec

HOST = "127.0.0.1"
Kind = Literal["read", "command"]
# How long a client waits for an answer, in seconds; it never comes to that.
PATIENCE_S = 60


class Ask(NamedTuple):
    """One request. ``reason``: of a command, and like no other's."""

    kind: Kind
    path: str
    cookie: str
    reason: str = ""


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class Came(msgspec.Struct, kw_only=True):
    """What came of it. ``answers`` by kind and status; ``took``: milliseconds from a served request's last sending to
    its answer; ``acknowledged``: the reason of a command and the id of what it made, once for each acknowledgement;
    ``wrong``: what no client may ever see."""

    answers: Counter[tuple[Kind, int]] = msgspec.field(default_factory=Counter)
    took: dict[Kind, list[float]] = msgspec.field(default_factory=lambda: {"read": [], "command": []})
    acknowledged: list[tuple[str, int]] = []
    wrong: list[str] = []

    @property
    def served(self) -> int:
        """Answers that say what was asked for."""
        return sum(len(took) for took in self.took.values())

    def refused(self, kind: Kind) -> int:
        """Answers that say to come again."""
        return self.answers[kind, 503]


class Client:
    """One keep-alive connection, opened when needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> Answer:
        """Raises OSError, EOFError and TimeoutError, after which the connection is a new one."""
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(HOST, self._port)
                reader, writer = self._streams
                writer.write(request)
                answer = await answer_on(reader)
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        """The next request opens another one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def answer_on(reader: asyncio.StreamReader) -> Answer:
    """The next answer of a connection. Raises EOFError where it ends before."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    headers = {name.lower(): value for name, _, value in pairs}
    return Answer(int(first.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0))))


def request_of(ask: Ask) -> bytes:
    """The bytes of a request; of a command with an Idempotency-Key of its own."""
    lines = [f"{'GET' if ask.kind == 'read' else 'POST'} {ask.path} HTTP/1.1", f"Host: {HOST}", f"Cookie: {ask.cookie}"]
    body = b""
    if ask.kind == "command":
        body = json.dumps({"reason": ask.reason}).encode()
        lines += [f"Idempotency-Key: {uuid4()}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def crowd(
    port: int, clients: int, work: Iterator[Ask], over: Callable[[], bool], came: Came, *, patient: bool = True
) -> None:
    """So many clients, each taking its next request from ``work`` until it is ``over``, who note all in ``came``.
    ``patient`` False: who is refused sends again at once, as no client should."""
    await asyncio.gather(*(_client(port, work, over, came, patient) for _ in range(clients)))


async def _client(port: int, work: Iterator[Ask], over: Callable[[], bool], came: Came, patient: bool) -> None:
    client = Client(port)
    again: tuple[Ask, bytes] | None = None
    try:
        while again is not None or not over():
            if again is None:
                ask = next(work)
                again = ask, request_of(ask)
            pause = await _once(client, *again, came)
            if pause is None:
                again = None
            elif patient:
                await asyncio.sleep(pause)
    finally:
        client.close()


async def _once(client: Client, ask: Ask, request: bytes, came: Came) -> float | None:
    """One try; how long to wait before the next one, None where the request was served or went wrong."""
    sent = time.perf_counter()
    try:
        answer = await client.send(request)
    except (OSError, EOFError, TimeoutError) as error:
        came.wrong.append(f"{ask.path}: {error!r}")
        return None
    came.answers[ask.kind, answer.status] += 1
    if answer.status == 503 and answer.headers.get("retry-after", "").isdecimal():
        return float(answer.headers["retry-after"])
    if answer.status != 200 and (ask.kind, answer.status) != ("command", 409):
        came.wrong.append(f"{ask.path}: {answer.status} {answer.body[:300]!r}")
        return None
    came.took[ask.kind].append((time.perf_counter() - sent) * 1000)
    if ask.kind == "command" and answer.status == 200:
        came.acknowledged.append((ask.reason, json.loads(answer.body)["id"]))
    return None

"""A small HTTP balancer, as docs/operate.md wants one: it goes by /health/ready, and tries nothing twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from bench.crowd import HOST, Answer, Client

PROBE_PAUSE_S = 0.05
_PROBE = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Balancer:
    """``port`` is where clients come. ``ready``: the ports of servers that get requests; ``at_work``: how many each has
    in hand."""

    def __init__(self, servers: Sequence[int]) -> None:
        self.port = 0
        self.ready: set[int] = set()
        self.at_work: Counter[int] = Counter()
        self._servers = servers
        self._changed = asyncio.Event()

    async def out(self, server: int) -> None:
        """Waits until it gets no more requests and has none in hand."""
        while server in self.ready or self.at_work[server]:
            await self._change()

    async def back(self, server: int) -> None:
        """Waits until it gets requests again."""
        while server not in self.ready:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def probe(self) -> None:
        """Looks at each server again and again."""
        while True:
            for server in self._servers:
                answer = None
                with suppress(OSError, EOFError, TimeoutError):
                    answer = await Client(server).send(_PROBE)
                (self.ready.add if answer is not None and answer.status == 200 else self.ready.discard)(server)
                self._changed.set()
            await asyncio.sleep(PROBE_PAUSE_S)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, and one to each server for it."""
        ways = {server: Client(server) for server in self._servers}
        try:
            with suppress(EOFError, ConnectionError):
                while True:
                    writer.write(_bytes_of(await self._pass_on(await _request_on(reader), ways)))
        finally:
            for way in ways.values():
                way.close()
            writer.close()

    async def _pass_on(self, request: bytes, ways: dict[int, Client]) -> Answer:
        while not self.ready:
            await self._change()
        server = min(sorted(self.ready), key=lambda ready: self.at_work[ready])
        self.at_work[server] += 1
        try:
            return await ways[server].send(request)
        except (OSError, EOFError, TimeoutError) as error:
            return Answer(502, {}, repr(error).encode())
        finally:
            self.at_work[server] -= 1
            self._changed.set()


@asynccontextmanager
async def balancing(servers: Sequence[int]) -> AsyncIterator[Balancer]:
    """A balancer that runs over servers on this machine, all of which are ready to begin with."""
    balancer = Balancer(servers)
    listening = await asyncio.start_server(balancer.serve, HOST, 0)
    balancer.port = listening.sockets[0].getsockname()[1]
    probing = asyncio.create_task(balancer.probe())
    try:
        for server in servers:
            await balancer.back(server)
        yield balancer
    finally:
        probing.cancel()
        listening.close()


async def _request_on(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return head + await reader.readexactly(int(length or 0))


def _bytes_of(answer: Answer) -> bytes:
    headers = {name: value for name, value in answer.headers.items() if name != "connection"}
    headers["content-length"] = str(len(answer.body))
    lines = [f"HTTP/1.1 {answer.status} ", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + answer.body

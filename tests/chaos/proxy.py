"""A TCP proxy whose connections can be cut, or made to lead nowhere."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_CHUNK = 64 * 1024


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to ``upstream``: a port there, or a Unix socket.

    While it is a hole, connections are accepted and bytes are taken, and nothing comes of them in either direction:
    what a peer sees of a host that hangs. In a thread of its own; every method may be called from any.
    """

    def __init__(self, upstream: int | Path) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="proxy", daemon=True)
        self._thread.start()
        started.wait()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def cut(self) -> None:
        """Breaks every connection that there is, without a farewell; new ones are served."""
        self._do(self._abort)

    def hole(self) -> None:
        """From now on nothing passes."""
        self._do(self._flowing.clear)

    def heal(self, *, cutting: bool) -> None:
        """Ends the hole. ``cutting``: its connections break, as when both ends have noticed; else they go on where
        they were."""
        if cutting:
            self.cut()
        self._do(self._flowing.set)

    def close(self) -> None:
        """Breaks all and stops listening."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _do(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def acted() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(acted)
        done.wait()

    def _abort(self) -> None:
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            end = writer.get_extra_info("socket")
            if end.family != socket.AF_UNIX:
                # A reset instead of an orderly end.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accepted, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        self._abort()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        # The transports that were aborted close in the loop's next turns.
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start(self._serve(reader, writer))

    def _start(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        beyond: asyncio.StreamWriter | None = None
        try:
            await self._flowing.wait()
            if isinstance(self._upstream, Path):
                from_there, beyond = await asyncio.open_unix_connection(str(self._upstream))
            else:
                from_there, beyond = await asyncio.open_connection("127.0.0.1", self._upstream)
            self._writers.add(beyond)
            ways = [self._start(self._pass(reader, beyond)), self._start(self._pass(from_there, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
        except OSError:
            # Nobody listens there: the same is true of us.
            pass
        finally:
            for one in (writer, beyond):
                if one is not None:
                    self._writers.discard(one)
                    one.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()

"""One answer for all who ask the same at the same time, and one errand for all who send on the same."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")


class Together(Generic[T]):
    """Asks at most once at a time, however many want to know: whoever comes while it is under way is answered by the
    next time, so no answer is older than its question. Belongs to one event loop."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._running: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def answer(self) -> T:
        """Raises what asking raises."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._after(self._running))
            # Whoever waits learns of an exception; if nobody does any more, nobody has to.
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Shielded: one who gives up must not end it for the others.
        return await asyncio.shield(self._next)

    async def _after(self, running: "asyncio.Task[T] | None") -> T:
        if running is not None:
            await asyncio.wait([running])
        self._running, self._next = self._next, None
        return await self._ask()


class Gathered(Generic[K, T]):
    """Does ``work`` once at a time, for all that was asked in one turn of the loop or while the last was under way, at
    most for ``most``. It answers each in its place. Belongs to one event loop."""

    def __init__(self, work: Callable[[Sequence[K]], Awaitable[Sequence[T]]], most: int = 128) -> None:
        self._work, self._most = work, most
        self._waiting: deque[tuple[K, asyncio.Future[T]]] = deque()
        self._running: asyncio.Task[None] | None = None

    def ask(self, item: K) -> "asyncio.Future[T]":
        """Puts the item on its way at once, whether or not it is awaited. Raises what the work raises when awaited."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._waiting.append((item, answer))
        if self._running is None:
            # It begins in the loop's next turn: whoever asks in this one comes along.
            self._running = loop.create_task(self._run())
        return answer

    async def _run(self) -> None:
        taken: list[tuple[K, asyncio.Future[T]]] = []
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
                try:
                    answers = await self._work([item for item, _ in taken])
                except Exception as error:
                    for _, answer in taken:
                        if not answer.done():
                            answer.set_exception(error)
                            # Asked for here, so that nobody is told of it where nobody waits any more.
                            answer.exception()
                    continue
                for (_, answer), answered in zip(taken, answers, strict=True):
                    if not answer.done():
                        answer.set_result(answered)
        finally:
            self._running = None
            for _, answer in (*taken, *self._waiting):
                answer.cancel()
            self._waiting.clear()

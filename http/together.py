"""One answer for all who ask the same at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

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

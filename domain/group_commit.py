"""Group commit: what several threads submit at the same time goes to the database in one call, and one fsync.

Whoever finds nobody at work becomes the leader and sends at once, so a lone caller waits for no one; whatever arrives
meanwhile waits and goes together in the next call, sent by the first of those who wait. A call that is not answered,
as by a server that hangs, is waited for once: whoever comes later is told at once to go alone.
"""

from collections import deque
from collections.abc import Callable, Sequence
from threading import Event, Lock
from time import monotonic
from typing import Generic, TypeVar

Command = TypeVar("Command")
Answer = TypeVar("Answer")


class NotAnswered(Exception):
    """The call that took the command along failed or did not answer in time, and whether it was done is unknown; or the
    one under way has not answered for so long that it was not taken along at all."""


class _Waiting(Generic[Command, Answer]):
    __slots__ = ("answer", "command", "leads", "woken")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.answer: Answer | None = None
        self.leads = False
        self.woken = Event()


class GroupCommit(Generic[Command, Answer]):
    """``send`` does a group of at most ``most`` commands and answers each, in their order. ``clock`` in seconds."""

    def __init__(
        self,
        send: Callable[[Sequence[Command]], Sequence[Answer]],
        most: int = 128,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._send = send
        self._most = most
        self._clock = clock
        self._lock = Lock()
        self._waiting: deque[_Waiting[Command, Answer]] = deque()
        self._at_work = False
        # When the call that is under way began.
        self._begun = 0.0

    def submit(self, command: Command, timeout: float) -> Answer:
        """The answer to this command. Raises what ``send`` raised when the command was alone or ours was the call, and
        NotAnswered when someone else's call failed or has not answered ``timeout`` seconds after it began."""
        mine: _Waiting[Command, Answer] = _Waiting(command)
        with self._lock:
            leads, now = not self._at_work, self._clock()
            patience = self._begun + timeout - now
            if leads:
                self._at_work, self._begun = True, now
            elif patience <= 0:
                raise NotAnswered
            else:
                self._waiting.append(mine)
        if leads:
            return self._lead(mine)
        if not mine.woken.wait(patience):
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
        if mine.leads:
            return self._lead(mine)
        if mine.answer is None:
            raise NotAnswered
        return mine.answer

    def _lead(self, mine: _Waiting[Command, Answer]) -> Answer:
        with self._lock:
            group = [mine, *(self._waiting.popleft() for _ in range(min(len(self._waiting), self._most - 1)))]
        try:
            for member, answer in zip(group, self._send([member.command for member in group]), strict=True):
                member.answer = answer
        finally:
            with self._lock:
                if self._waiting:
                    group.append(self._waiting.popleft())
                    group[-1].leads = True
                    self._begun = self._clock()
                else:
                    self._at_work = False
            for member in group[1:]:
                member.woken.set()
        if mine.answer is None:
            raise NotAnswered
        return mine.answer

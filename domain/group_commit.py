"""Group commit: what several threads submit at the same time goes to the database in one call, and one fsync.

Whoever finds nobody at work becomes the leader and sends at once, so a lone caller waits for no one; whatever arrives
meanwhile waits and goes together in the next call, sent by the first of those who wait.
"""

from collections import deque
from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import Generic, TypeVar

Command = TypeVar("Command")
Answer = TypeVar("Answer")


class NotAnswered(Exception):
    """The call that took the command along failed or did not answer in time: whether it was done is unknown."""


class _Waiting(Generic[Command, Answer]):
    __slots__ = ("answer", "command", "leads", "woken")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.answer: Answer | None = None
        self.leads = False
        self.woken = Event()


class GroupCommit(Generic[Command, Answer]):
    """``send`` does a group of at most ``most`` commands and answers each, in their order."""

    def __init__(self, send: Callable[[Sequence[Command]], Sequence[Answer]], most: int = 128) -> None:
        self._send = send
        self._most = most
        self._lock = Lock()
        self._waiting: deque[_Waiting[Command, Answer]] = deque()
        self._at_work = False

    def submit(self, command: Command, timeout: float) -> Answer:
        """The answer to this command. Raises what ``send`` raised when the command was alone or ours was the call, and
        NotAnswered when someone else's call failed or ``timeout`` seconds went by."""
        mine: _Waiting[Command, Answer] = _Waiting(command)
        with self._lock:
            leads = not self._at_work
            self._at_work = True
            if not leads:
                self._waiting.append(mine)
        if leads:
            return self._lead(mine)
        if not mine.woken.wait(timeout):
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
                else:
                    self._at_work = False
            for member in group[1:]:
                member.woken.set()
        if mine.answer is None:
            raise NotAnswered
        return mine.answer

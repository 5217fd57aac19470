"""Group commit: what several threads submit at the same time goes to the database in one call, and one fsync.

Whoever finds nobody at work sends at once, so a lone caller waits for no one; whatever arrives meanwhile waits and goes
together in the next call. That one a thread of our own sends, and the ones after it for as long as somebody waits:
handed to one of those who wait it would begin only once he got his turn among the threads that the last call has set
free (docs/performance.md). A call that is not answered, as by a server that hangs, is waited for once: whoever comes
later is told at once to go alone.
"""

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock, Semaphore, Thread
from time import monotonic
from typing import Generic, TypeVar

Command = TypeVar("Command")
Answer = TypeVar("Answer")


class NotAnswered(Exception):
    """The call that took the command along failed or did not answer in time, and whether it was done is unknown; or the
    one under way has not answered for so long that it was not taken along at all."""


class _Waiting(Generic[Command, Answer]):
    """``told`` is held until there is something to say."""

    __slots__ = ("answer", "command", "error", "told")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.told = Lock()
        self.told.acquire()


class GroupCommit(Generic[Command, Answer]):
    """``send`` does a group of at most ``most`` commands and answers each, in their order. ``clock`` in seconds. Close
    it when nobody submits any more."""

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
        self._sender: Thread | None = None
        self._due = Semaphore(0)
        self._closed = False

    def submit(self, command: Command, timeout: float) -> Answer:
        """The answer to this command. Raises what ``send`` raised when the command was alone or the first of its call,
        and NotAnswered when another's call failed or has not answered ``timeout`` seconds after it began."""
        mine: _Waiting[Command, Answer] = _Waiting(command)
        with self._lock:
            alone, now = not self._at_work, self._clock()
            patience = self._begun + timeout - now
            if alone:
                self._at_work, self._begun = True, now
            elif patience <= 0:
                raise NotAnswered
            else:
                self._waiting.append(mine)
        if alone:
            try:
                return self._send([command])[0]
            finally:
                self._hand_over()
        if not mine.told.acquire(timeout=patience):
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error
        if mine.answer is None:
            raise NotAnswered
        return mine.answer

    def close(self) -> None:
        """Ends the thread, which is not waited for."""
        with self._lock:
            self._closed = True
        self._due.release()

    def _hand_over(self) -> None:
        with self._lock:
            if not self._waiting:
                self._at_work = False
                return
            self._begun = self._clock()
            if self._sender is None:
                self._sender = Thread(target=self._send_groups, name="group-commit", daemon=True)
                self._sender.start()
        self._due.release()

    def _send_groups(self) -> None:
        while True:
            self._due.acquire()
            while group := self._next_group():
                try:
                    answers = self._send([member.command for member in group])
                    for member, answer in zip(group, answers, strict=True):
                        member.answer = answer
                except Exception as error:
                    group[0].error = error
                for member in group:
                    member.told.release()
            with self._lock:
                if self._closed and not self._at_work:
                    self._sender = None
                    return

    def _next_group(self) -> list[_Waiting[Command, Answer]]:
        with self._lock:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
            self._at_work = bool(group)
            self._begun = self._clock()
            return group

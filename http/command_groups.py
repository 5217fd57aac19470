"""Commands that wait at the same time are carried out together: loaded in one statement, each decided alone, committed
by one fsync (domain/execute.py). With a thread and two round trips for each they cost several times as much
(docs/performance.md).
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from anyio import to_thread

from modledger.domain.commands import Command, Context
from modledger.domain.execute import Outcome, execute_together
from modledger.domain.kept_states import KeptStates
from modledger.domain.ledger import Ledger, LedgerUnavailable, tried

T = TypeVar("T")

# As many as one commit of the ledger takes, and as are admitted at once (admission.py).
MOST = 128
# A group that takes longer, in seconds, such as one with a stream of 70,000 events that is met for the first time, or
# one whose connection hangs, is not waited for: the next one goes beside it.
PATIENCE = 0.5


class _Waiting(NamedTuple, Generic[T]):
    command: Command
    context: Context
    then: Callable[[Outcome], T]
    answer: "asyncio.Future[T]"


class CommandGroups:
    """Belongs to one event loop; what it does of the work itself, it does in threads. ``most`` commands in one group;
    ``patience`` in seconds."""

    def __init__(self, ledger: Ledger, states: KeptStates, most: int = MOST, patience: float = PATIENCE) -> None:
        self._ledger, self._states = ledger, states
        self._most, self._patience = most, patience
        self._waiting: deque[_Waiting[Any]] = deque()
        self._groups: set[asyncio.Task[None]] = set()
        # The group that others wait for.
        self._at_work: asyncio.Task[None] | None = None
        self._scheduled = False
        # Not that of the request that happens to begin a group: its id does not belong into the others' lines.
        self._nobodys = contextvars.copy_context()

    async def execute(self, command: Command, context: Context, then: Callable[[Outcome], T]) -> T:
        """What ``then`` makes of the outcome, in the thread of the group. Raises what it raises, and what
        ``domain.execute.execute`` does."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(command, context, then, answer))
        self._schedule()
        return await answer

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled and self._at_work is None:
            self._scheduled = True
            # Not at once: the other requests of this turn of the loop come along.
            asyncio.get_running_loop().call_soon(self._begin, context=self._nobodys)

    def _begin(self) -> None:
        self._scheduled = False
        group: list[_Waiting[Any]] = []
        while self._waiting and len(group) < self._most:
            waiting = self._waiting.popleft()
            # Of one whose caller has gone before anything was begun nothing has to be done.
            if not waiting.answer.done():
                group.append(waiting)
        if not group:
            return
        task = self._at_work = self._go(group)
        overdue = asyncio.get_running_loop().call_later(self._patience, self._next, task)
        task.add_done_callback(lambda _: overdue.cancel())

    def _go(self, group: Sequence[_Waiting[Any]]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(self._carry_out(group))
        self._groups.add(task)
        task.add_done_callback(self._groups.discard)
        task.add_done_callback(self._next)
        return task

    def _next(self, group: "asyncio.Task[None]") -> None:
        if self._at_work is group:
            self._at_work = None
        # Also where it was not waited for any more: it may have left some to ask again.
        self._schedule()

    async def _carry_out(self, group: Sequence[_Waiting[Any]]) -> None:
        try:
            answers = await to_thread.run_sync(self._together, group)
        except asyncio.CancelledError:
            for waiting in group:
                waiting.answer.cancel()
            raise
        except Exception as error:
            answers = [(True, error)] * len(group)
        again = []
        gone = [isinstance(answer, LedgerUnavailable) for _, answer in answers]
        for waiting, (answered, answer) in zip(group, answers, strict=True):
            if waiting.answer.done():
                continue
            if not answered:
                again.append(waiting)
            elif isinstance(answer, LedgerUnavailable) and not all(gone):
                # The others are answered now; what ails this one may pass.
                self._go([waiting])
            elif isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)
        # They came before those who wait now.
        self._waiting.extendleft(reversed(again))

    def _together(self, group: Sequence[_Waiting[Any]]) -> list[tuple[bool, Any]]:
        outcomes = execute_together(self._ledger, [(one.command, one.context) for one in group], self._states)
        return [
            (outcome is not None, tried(one.then, outcome) if isinstance(outcome, Outcome) else outcome)
            for one, outcome in zip(group, outcomes, strict=True)
        ]

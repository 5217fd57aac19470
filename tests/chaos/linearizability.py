"""Whether a history of operations that overlapped could have happened one after the other (Wing and Gong 1993, with
Lowe's cache of what was tried).

An operation took effect at one moment between its begin and its end. One whose outcome nobody knows may take effect at
any moment after its begin, or never.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

S = TypeVar("S", bound=Hashable)
O = TypeVar("O")  # noqa: E741

# States that are looked at before a history is given up as too tangled to say.
MOST_STEPS = 200_000


class Call(msgspec.Struct, Generic[O], frozen=True):
    """``began`` and ``ended`` by one clock; ``ended`` None: the outcome is not known."""

    operation: O
    began: float
    ended: float | None


class TooTangled(Exception):
    """So many operations overlap that it cannot be told in a reasonable time."""


def stuck_at(
    calls: Sequence[Call[O]], initial: S, step: Callable[[S, O], Iterable[S]], *, most_steps: int = MOST_STEPS
) -> list[Call[O]] | None:
    """None when the history is linearizable. Otherwise the calls of which none can come next, after as many of the
    others as could be put in order.

    ``step`` answers every state that the operation, with the outcome that it had, may lead to; none where it cannot
    have had that outcome. For an operation without a known outcome it answers what it may have led to.

    Raises TooTangled.
    """
    ordered = sorted(calls, key=lambda call: call.began)
    unfinished = [call.ended is None for call in ordered]
    everything = (1 << len(ordered)) - 1
    must = sum(1 << n for n, open_ended in enumerate(unfinished) if not open_ended)
    tried: set[tuple[int, S]] = set()
    waiting: list[tuple[int, S]] = [(0, initial)]
    farthest, farthest_done = 0, -1
    while waiting:
        done, state = waiting.pop()
        if done & must == must:
            return None
        if (done, state) in tried:
            continue
        tried.add((done, state))
        if len(tried) > most_steps:
            raise TooTangled(f"more than {most_steps} states of {len(ordered)} calls")
        if (done & must).bit_count() > farthest_done:
            farthest, farthest_done = done, (done & must).bit_count()
        for n in reversed(_next(ordered, done, everything)):
            waiting += [(done | 1 << n, after) for after in step(state, ordered[n].operation)]
    return [ordered[n] for n in _next(ordered, farthest, everything)]


def _next(ordered: Sequence[Call[O]], done: int, everything: int) -> list[int]:
    """What may come next: no other call that is still to come had ended before it began."""
    first_end = float("inf")
    found = []
    left = everything & ~done
    while left:
        n = (left & -left).bit_length() - 1
        left &= left - 1
        call = ordered[n]
        if call.began > first_end:
            break
        found.append(n)
        if call.ended is not None:
            first_end = min(first_end, call.ended)
    return found

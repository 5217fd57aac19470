"""The checker of histories, tried on histories of which the answer is known, and against the definition itself."""

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.linearizability import Call, TooTangled, stuck_at


class Act(NamedTuple):
    """Of a register that begins at 0: a write, a read with what it answered (None: nobody knows), or a
    compare-and-set with whether it did."""

    kind: str
    value: int | None = None
    expected: int | None = None
    done: bool = True


def act(state: int, one: Act) -> Iterator[int]:
    match one.kind:
        case "write":
            assert one.value is not None
            yield one.value
        case "read" if one.value in (state, None):
            yield state
        case "swap" if one.done == (state == one.expected):
            assert one.value is not None
            yield one.value if one.done else state


def write(value: int, began: float, ended: float | None) -> Call[Act]:
    return Call(Act("write", value), began, ended)


def read(value: int | None, began: float, ended: float | None) -> Call[Act]:
    return Call(Act("read", value), began, ended)


def swap(expected: int, value: int, began: float, ended: float | None, *, done: bool = True) -> Call[Act]:
    return Call(Act("swap", value, expected, done), began, ended)


GOOD = {
    "nothing happened": [],
    "one after the other": [write(1, 0, 1), read(1, 2, 3), write(2, 4, 5), read(2, 6, 7)],
    "a read beside a write sees the old": [write(1, 0, 5), read(0, 1, 2)],
    "a read beside a write sees the new": [write(1, 0, 5), read(1, 1, 2)],
    "two reads beside a write see the old, then the new": [write(1, 0, 9), read(0, 1, 2), read(1, 3, 4)],
    "the write that nobody knows of happened": [write(1, 0, None), read(0, 1, 2), read(1, 3, 4)],
    "the write that nobody knows of never happened": [write(1, 0, None), read(0, 1, 2), read(0, 30, 40)],
    "a read whose answer was lost": [write(1, 0, 1), read(None, 2, None), read(1, 3, 4)],
    "of two swaps one won": [swap(0, 1, 0, 5), swap(0, 2, 0, 5, done=False), read(1, 6, 7)],
    "overlapping writes end in either order": [write(1, 0, 5), write(2, 1, 4), read(1, 6, 7), read(1, 8, 9)],
}
BAD = {
    "a read of what nobody wrote": [write(1, 0, 1), read(2, 2, 3)],
    "a stale read": [write(1, 0, 1), read(0, 2, 3)],
    "a read that goes back": [write(1, 0, 9), read(1, 1, 2), read(0, 3, 4)],
    "a write that was lost": [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],
    "a write that came before its begin": [read(1, 0, 1), write(1, 2, 3)],
    "both swaps won": [swap(0, 1, 0, 5), swap(0, 2, 0, 5)],
    "a write that nobody knows of happened twice": [write(1, 0, None), read(1, 1, 2), write(2, 3, 4), read(1, 5, 6)],
    "a swap was refused without a reason": [swap(0, 1, 0, 1, done=False)],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_can_be_put_in_order_passes(name: str) -> None:
    assert stuck_at(GOOD[name], 0, act) is None


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_cannot_be_put_in_order_is_stuck(name: str) -> None:
    assert stuck_at(BAD[name], 0, act)


def test_it_names_the_calls_of_which_none_can_come_next() -> None:
    history = [write(1, 0, 1), read(1, 2, 3), read(7, 4, 6), write(2, 5, 8), read(2, 9, 10)]
    stuck = stuck_at(history, 0, act)
    assert stuck is not None
    assert read(7, 4, 6) in stuck
    assert read(2, 9, 10) not in stuck


def test_a_tangle_is_given_up_and_not_passed() -> None:
    tangle = [write(n, 0, 100) for n in range(14)] + [read(99, 0, 100)]
    with pytest.raises(TooTangled):
        stuck_at(tangle, 0, act, most_steps=1_000)


def by_definition(calls: Sequence[Call[Act]]) -> bool:
    """Some order of the finished calls, and of some of the others, keeps to real time and to the register."""
    must = {n for n, call in enumerate(calls) if call.ended is not None}
    for order in permutations(range(len(calls))):
        for length in range(len(must), len(calls) + 1):
            chosen = order[:length]
            if must <= set(chosen) and _keeps_time(calls, chosen) and _keeps_to_register(calls, chosen):
                return True
    return False


def _keeps_time(calls: Sequence[Call[Act]], chosen: Sequence[int]) -> bool:
    ends = [calls[n].ended for n in chosen]
    return all(
        end is None or end >= calls[earlier].began for place, end in enumerate(ends) for earlier in chosen[:place]
    )


def _keeps_to_register(calls: Sequence[Call[Act]], chosen: Sequence[int]) -> bool:
    state = 0
    for n in chosen:
        after = list(act(state, calls[n].operation))
        if not after:
            return False
        state = after[0]
    return True


SMALL = st.integers(0, 2)
ACTS = st.one_of(
    st.builds(lambda value: Act("write", value), SMALL),
    st.builds(lambda value: Act("read", value), SMALL),
    st.builds(lambda value, expected, done: Act("swap", value, expected, done), SMALL, SMALL, st.booleans()),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Call[Act]]:
    calls = []
    for one in draw(st.lists(ACTS, max_size=5)):
        began = draw(st.integers(0, 8))
        lasted = draw(st.one_of(st.none(), st.integers(0, 4)))
        calls.append(Call(one, float(began), None if lasted is None else float(began + lasted)))
    return calls


@given(histories())
def test_it_agrees_with_the_definition(calls: list[Call[Act]]) -> None:
    assert (stuck_at(calls, 0, act) is None) == by_definition(calls)

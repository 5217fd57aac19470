"""What is asked for at the same time is done in one go, and each gets the answer to its own."""

import asyncio
from collections.abc import Sequence

import pytest

from modledger.http.together import Gathered


class Work:
    """Doubles numbers, once it is let go; fails where one is below zero."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.let_go = asyncio.Event()

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.calls.append(list(numbers))
        await self.let_go.wait()
        if any(number < 0 for number in numbers):
            raise ConnectionError
        return [2 * number for number in numbers]


def test_what_comes_in_one_turn_goes_together_and_what_comes_meanwhile_in_the_next() -> None:
    async def scenario() -> list[list[int]]:
        work = Work()
        gathered = Gathered(work, most=3)
        first = [gathered.ask(number) for number in (1, 2)]
        await asyncio.sleep(0)
        later = [gathered.ask(number) for number in range(3, 8)]
        work.let_go.set()
        assert await asyncio.gather(*first, *later) == [2, 4, 6, 8, 10, 12, 14]
        assert await gathered.ask(8) == 16
        return work.calls

    assert asyncio.run(scenario()) == [[1, 2], [3, 4, 5], [6, 7], [8]]


def test_a_failure_is_told_to_those_who_were_in_it_and_nobody_else() -> None:
    async def scenario() -> list[int | BaseException]:
        work = Work()
        work.let_go.set()
        gathered = Gathered(work, most=2)
        return await asyncio.gather(*map(gathered.ask, (1, -2, 3, 4)), return_exceptions=True)

    first, second, *others = asyncio.run(scenario())
    assert isinstance(first, ConnectionError)
    assert isinstance(second, ConnectionError)
    assert others == [6, 8]


def test_one_who_gives_up_leaves_the_others_their_answers() -> None:
    async def scenario() -> None:
        work = Work()
        gathered = Gathered(work)
        leaving, staying = gathered.ask(1), gathered.ask(2)
        await asyncio.sleep(0)
        leaving.cancel()
        work.let_go.set()
        assert await staying == 4
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await gathered.ask(3) == 6

    asyncio.run(scenario())

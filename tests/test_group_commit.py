from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import sleep

import pytest

from modledger.domain.group_commit import GroupCommit, NotAnswered


class Sender:
    """Doubles numbers; the first call waits until it is let go, a call with a number below zero fails."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.called = Event()
        self.let_go = Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.calls.append(list(numbers))
        self.called.set()
        self.let_go.wait(30)
        if any(number < 0 for number in numbers):
            raise ConnectionError
        return [2 * number for number in numbers]


def until_waiting(group: GroupCommit[int, int], count: int) -> None:
    while len(group._waiting) < count:
        sleep(0.001)


def test_a_lone_command_is_sent_at_once_and_alone() -> None:
    sender = Sender()
    sender.let_go.set()
    group = GroupCommit(sender)
    assert [group.submit(number, 30) for number in (1, 2)] == [2, 4]
    assert sender.calls == [[1], [2]]


def test_what_arrives_during_a_call_goes_together_in_the_next_and_no_more_than_the_limit() -> None:
    sender = Sender()
    group = GroupCommit(sender, most=4)
    with ThreadPoolExecutor(11) as threads:
        first = threads.submit(group.submit, 1, 30)
        sender.called.wait(30)
        others = [threads.submit(group.submit, number, 30) for number in range(2, 12)]
        until_waiting(group, 10)
        sender.let_go.set()
        assert [future.result() for future in (first, *others)] == [2 * number for number in range(1, 12)]
    assert sender.calls[0] == [1]
    assert all(len(call) <= 4 for call in sender.calls)
    assert len(sender.calls) < 11
    assert sorted(number for call in sender.calls for number in call) == list(range(1, 12))


def test_whoever_sent_a_call_that_failed_gets_its_error_and_its_fellows_hear_that_they_were_not_answered() -> None:
    sender = Sender()
    group = GroupCommit(sender)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(group.submit, 1, 30)
        sender.called.wait(30)
        others = [threads.submit(group.submit, -number, 30) for number in range(2, 5)]
        until_waiting(group, 3)
        sender.let_go.set()
        assert first.result() == 2
        failures = [type(future.exception()) for future in others]
    assert set(failures) <= {ConnectionError, NotAnswered}
    assert failures.count(ConnectionError) == len(sender.calls) - 1
    assert group.submit(5, 30) == 10


def test_a_command_that_waited_too_long_is_withdrawn() -> None:
    sender = Sender()
    group = GroupCommit(sender)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(group.submit, 1, 30)
        sender.called.wait(30)
        with pytest.raises(NotAnswered):
            group.submit(2, 0.05)
        sender.let_go.set()
        assert first.result() == 2
    assert group.submit(3, 30) == 6
    assert sender.calls == [[1], [3]]


def test_a_call_that_hangs_is_waited_for_once_and_whoever_comes_later_is_told_at_once() -> None:
    sender, now = Sender(), [0.0]
    group = GroupCommit(sender, clock=lambda: now[0])
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(group.submit, 1, 30)
        sender.called.wait(30)
        now[0] = 5000.0
        # It would wait for an hour and more, were it not for the call that began that long ago.
        with pytest.raises(NotAnswered):
            group.submit(2, 4999)
        waiting = threads.submit(group.submit, 3, 5030)
        until_waiting(group, 1)
        sender.let_go.set()
        assert (first.result(), waiting.result()) == (2, 6)
    # Once it has answered, all is as before, whatever time it is.
    assert group.submit(4, 0.001) == 8
    assert sender.calls == [[1], [3], [4]]

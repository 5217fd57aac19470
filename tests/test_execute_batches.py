"""Batches that are decided while the one before is under way come to what they would have come to one by one."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from random import Random
from threading import Event as Signal
from uuid import UUID, uuid4, uuid5

import pytest

from modledger.domain import commands, events
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR
from modledger.domain.execute import Decision, execute, execute_batch
from modledger.domain.execute_batches import Items, execute_batches
from modledger.domain.importing import ImportPermission, ImportPunishment, ImportUser, Record, Unfit
from modledger.domain.kept_states import BYTES, STREAM_BYTES, STREAMS
from modledger.domain.ledger import LedgerUnavailable, Prepared, Seen, Since
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.recorder_ledger import RecorderLedger
from tests.databases import MASTER_KEY
from tests.ledger_faults import lose_since
from tests.scenario import DAY, NAMESPACE, NOW, user

# Seconds after which a test that waits for something that never comes fails.
PATIENCE = 60.0
LONG_AGO = NOW - 400 * DAY

Meanwhile = Callable[[], object]


class WatchedLedger(MemoryLedger):
    """Notes what is loaded, says when it was asked for a command, and lets others do something right before a batch is
    appended: by its number from 1."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW, MASTER_KEY)
        self.loaded: list[str] = []
        self.asked_for: dict[UUID, Signal] = {}
        self.meanwhile: dict[int, Meanwhile] = {}
        self.sent = 0

    def load_since(self, seen: Mapping[str, Seen], command_ids: Collection[UUID] = ()) -> Since:
        self.loaded.extend(seen)
        return super().load_since(seen, command_ids)

    def known_commands(self, command_ids: Sequence[UUID]) -> set[UUID]:
        for command_id in command_ids:
            if command_id in self.asked_for:
                self.asked_for[command_id].set()
        return super().known_commands(command_ids)

    def append_prepared(self, prepared: Prepared) -> None:
        self.sent += 1
        self.meanwhile.pop(self.sent, lambda: None)()
        super().append_prepared(prepared)


@pytest.fixture
def watched() -> WatchedLedger:
    return WatchedLedger()


def item(record: Record, command_id: UUID | None = None) -> tuple[Command, Context]:
    return record, Context(
        actor=OPERATOR,
        at=NOW,
        command_id=command_id or uuid5(NAMESPACE, record.external_id),
        correlation_id=uuid5(NAMESPACE, "import"),
        via="import",
        external_id=record.external_id,
    )


def ban(name: str, user_id: int, since: int, until: int | None, kind: int = 3) -> tuple[Command, Context]:
    """From one day to another, counted from long ago."""
    return item(
        ImportPunishment(
            external_id=name,
            created_at=LONG_AGO + since * DAY,
            discord_user_id=user_id,  # type: ignore[arg-type]
            punishment_type=kind,  # type: ignore[arg-type]
            reason=name,
            expires_at=None if until is None else LONG_AGO + until * DAY,
        )
    )


def warning(name: str, user_id: int) -> tuple[Command, Context]:
    return ban(name, user_id, 1, None, kind=1)


def live(ledger: RecorderLedger, command: Command, at: datetime = NOW) -> None:
    execute(ledger, command, Context(actor=OPERATOR, at=at, command_id=uuid4(), correlation_id=uuid4(), via="cli"))


def told(decisions: Sequence[Decision]) -> list[str]:
    return ["there" if not one.refused and not one.events else str(one.refused or len(one.events)) for one in decisions]


def history(ledger: RecorderLedger) -> list[tuple[str, int, events.Event, UUID, datetime]]:
    return [(one.stream, one.version, one.event, one.event_id, one.occurred_at) for one in ledger.read(0, 100_000)]


def made_up(seed: int) -> list[Items]:
    """Batches of records about few users, of which some contradict each other or come twice."""
    draw = Random(seed)
    items: list[tuple[Command, Context]] = []
    for number in range(draw.randrange(20, 200)):
        user_id, at = draw.randrange(1, 8), LONG_AGO + draw.randrange(300) * DAY
        match draw.randrange(6):
            case 0:
                registered = ImportUser(
                    external_id=f"u{number}",
                    created_at=at,
                    discord_id=user_id,  # type: ignore[arg-type]
                    username=draw.choice(["ada", "zoë", ""]),
                )
                items.append(item(registered))
            case 1:
                level = ImportPermission(
                    external_id=f"l{number}",
                    created_at=at,
                    discord_user_id=user_id,  # type: ignore[arg-type]
                    old_level=0,
                    new_level=draw.randrange(3),
                    reason="hired",
                )
                items.append(item(level))
            case 2 if items:
                items.append(draw.choice(items))
            case _:
                since = draw.randrange(300)
                until = draw.choice([since + 1, since + 20, None])
                items.append(ban(f"p{number}", user_id, since, until))
    size = draw.choice([1, 3, 10, 50])
    return [items[start : start + size] for start in range(0, len(items), size)]


@pytest.mark.parametrize("seed", range(40))
def test_batches_end_as_they_do_one_by_one_and_are_answered_in_order(watched: WatchedLedger, seed: int) -> None:
    batches, alone = made_up(seed), WatchedLedger()
    # Of the states so many stay that all do, or hardly one.
    for _ in range(2):
        answers = [told(answer) for answer in execute_batches(watched, batches, streams=10_000 if seed % 2 else 2)]
        assert answers == [told(execute_batch(alone, items)) for items in batches]
        assert history(watched) == history(alone)


def test_the_next_batch_is_taken_and_decided_while_one_is_under_way(watched: WatchedLedger) -> None:
    decided = watched.asked_for[uuid5(NAMESPACE, "second")] = Signal()
    watched.meanwhile[1] = lambda: decided.wait(PATIENCE) or pytest.fail("nobody decides the second batch")
    answers = execute_batches(watched, [[warning("first", 1)], [warning("second", 1)]])
    assert [told(answer) for answer in answers] == [["1"], ["1"]]
    assert [one.version for one in watched.load(["user:1"])["user:1"]] == [1, 2]


def test_a_batch_is_answered_when_it_is_in_the_ledger_and_not_before(watched: WatchedLedger) -> None:
    batches = [[warning(f"{number}", number)] for number in range(1, 5)]
    for number, _ in enumerate(execute_batches(watched, batches), start=1):
        assert watched.known_commands([uuid5(NAMESPACE, f"{number}")])


def test_what_earlier_batches_did_is_not_loaded_again(watched: WatchedLedger) -> None:
    batches = [[warning(f"{number}", 1), ban(f"ban {number}", 2, 2 * number, 2 * number + 1)] for number in range(9)]
    assert [told(answer) for answer in execute_batches(watched, batches)] == [["1", "2"]] * 9
    assert sorted(watched.loaded) == ["user:1", "user:2"]


@pytest.mark.parametrize(("streams", "size"), [(8, BYTES), (STREAMS, 8 * STREAM_BYTES)], ids=["streams", "bytes"])
def test_no_more_stays_from_batch_to_batch_than_may(watched: WatchedLedger, streams: int, size: int) -> None:
    users = [*range(1, 31), 30, 1]
    batches = [[warning(f"{number}", user_id)] for number, user_id in enumerate(users)]
    assert [told(answer) for answer in execute_batches(watched, batches, streams=streams, size=size)] == [["1"]] * 32
    assert watched.loaded == [*(f"user:{user_id}" for user_id in range(1, 31)), "user:1"]


def test_what_nobody_asks_for_is_gone_after_ten_minutes(watched: WatchedLedger) -> None:
    minutes = iter(range(0, 100, 3))
    users = [1, 1, 2, 2, 2, 2, 1]
    batches = [[warning(f"{number}", user_id)] for number, user_id in enumerate(users)]
    answers = list(execute_batches(watched, batches, clock=lambda: 60.0 * next(minutes)))
    assert len(answers) == len(users)
    assert watched.loaded == ["user:1", "user:2", "user:1"]


def test_a_command_that_is_under_way_is_not_carried_out_again(watched: WatchedLedger) -> None:
    batches = [[warning("once", 1)], [warning("once", 1), warning("twice", 1)], [warning("once", 1)]]
    assert [told(answer) for answer in execute_batches(watched, batches)] == [["1"], ["there", "1"], ["there"]]
    assert len(watched.read(0, 10)) == 2


# -- others write meanwhile


def test_a_batch_to_whose_stream_somebody_wrote_is_decided_again_and_the_one_after_it_too(
    watched: WatchedLedger,
) -> None:
    faster = commands.IssueBan(target=user(1), reason="faster")
    watched.meanwhile[1] = lambda: live(watched, faster, LONG_AGO)
    batches = [
        [ban("slower", 1, 5, 6), warning("one", 1)],
        [ban("over it", 1, 5, 7), warning("two", 1), warning("three", 2)],
        [warning("four", 2)],
    ]
    overlap = "overlap: user 1 has one of this type since 2025-02-03T12:00:00+00:00 already"
    answers = [told(answer) for answer in execute_batches(watched, batches)]
    assert answers == [[overlap, "1"], [overlap, "1", "1"], ["1"]]
    reasons = [getattr(one.event, "reason", None) for one in watched.load(["user:1"])["user:1"]]
    assert reasons == ["faster", "one", "two"]
    assert [one.version for one in watched.load(["user:2"])["user:2"]] == [1, 2]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_last_batch_and_every_other_is_carried_out_although_somebody_was_faster(
    watched: WatchedLedger, batch: int
) -> None:
    watched.meanwhile[batch] = lambda: live(watched, commands.IssueWarning(target=user(1), reason="faster"))
    batches = [[warning(f"{number}", 1), warning(f"other {number}", number)] for number in (7, 8, 9)]
    assert [told(answer) for answer in execute_batches(watched, batches)] == [["1", "1"]] * 3
    assert len(watched.load(["user:1"])["user:1"]) == 4


def test_nothing_is_refused_on_what_was_kept_when_somebody_has_written_since(watched: WatchedLedger) -> None:
    """Every record of the last batch is refused or brings nothing: no event of it could be turned away."""
    registered = ImportUser(
        external_id="again",
        created_at=LONG_AGO + DAY,
        discord_id=3,  # type: ignore[arg-type]
        username="zoë",
    )
    first = ImportUser(
        external_id="first",
        created_at=LONG_AGO,
        discord_id=3,  # type: ignore[arg-type]
        username="ada",
    )

    def erase() -> None:
        for user_id in (1, 3):
            live(watched, commands.EraseSubject(target=user(user_id), reason="asked"), LONG_AGO + 10 * DAY)

    def batches() -> Iterator[Items]:
        yield [ban("ban", 1, 1, 3), item(first)]
        yield [warning("between", 2)]
        yield [ban("over it", 1, 2, 4), item(registered)]

    watched.meanwhile[3] = erase
    answers = [told(answer) for answer in execute_batches(watched, batches())]
    assert answers[:2] == [["2", "1"], ["1"]]
    assert answers[2] == [
        "erased subject: user 1 was erased after created_at",
        "erased subject: user 3 was erased after created_at",
    ]


def test_a_batch_of_refusals_alone_appends_nothing(watched: WatchedLedger) -> None:
    batches = [[ban("ban", 1, 1, 3)], [ban("over it", 1, 2, 4)], [ban("too", 1, 2, 5)]]
    answers = list(execute_batches(watched, batches))
    assert [type(answer[0].refused) for answer in answers] == [type(None), Unfit, Unfit]
    assert len(watched.read(0, 10)) == 2


def test_a_command_that_another_process_appended_meanwhile_is_recognised(watched: WatchedLedger) -> None:
    again = [ban("same", 1, 1, 3), warning("other", 1)]
    watched.meanwhile[2] = lambda: execute_batch(watched, again[:1])
    answers = [told(answer) for answer in execute_batches(watched, [[warning("first", 1)], again])]
    assert answers == [["1"], ["there", "1"]]
    assert len(watched.load(["user:1"])["user:1"]) == 4


def test_a_ledger_that_lost_its_end_is_not_mistaken_for_the_one_that_was_written(
    database: str, ledger: PostgresLedger
) -> None:
    """The stream is as long again as it was, but it is another one, with another key."""

    def batches() -> Iterator[Items]:
        yield [warning("lost", 1)]
        yield [warning("lost as well", 2)]
        yield [warning("and this", 3)]
        # The first two are answered now, and known to have been there.
        with PostgresLedger(database, MASTER_KEY) as other:
            while len(other.read(0, 10)) < 3:
                pass
            lose_since(other, 1)
            live(other, commands.IssueWarning(target=user(1), reason="another"))
        yield [warning("afterwards", 1)]

    assert [told(answer) for answer in execute_batches(ledger, batches())] == [["1"]] * 4
    with PostgresLedger(database, MASTER_KEY) as other:
        found = [getattr(one.event, "reason", None) for one in other.load(["user:1"])["user:1"]]
    assert found == ["another", "afterwards"]


# -- failures


class Broken(Exception):
    pass


def until_it_fails(answers: Iterator[list[Decision]], answered: list[list[str]]) -> None:
    for answer in answers:
        answered.append(told(answer))  # noqa: PERF401 - those before the error are what is asked for


def fail(error: Exception) -> Meanwhile:
    def raising() -> None:
        raise error

    return raising


@pytest.mark.parametrize("error", [LedgerUnavailable("the connection was lost"), Broken()])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_batch_that_fails_under_way_is_told_and_no_later_one_is_sent(
    watched: WatchedLedger, batch: int, error: Exception
) -> None:
    watched.meanwhile[batch] = fail(error)
    batches = [[warning(f"{number}", 1)] for number in (1, 2, 3)]
    answered: list[list[str]] = []
    with pytest.raises(type(error)):
        until_it_fails(execute_batches(watched, batches), answered)
    assert answered == [["1"]] * (batch - 1)
    assert watched.sent == batch
    assert len(watched.read(0, 10)) == batch - 1
    assert [told(answer) for answer in execute_batches(watched, batches)] == [["there"]] * (batch - 1) + [["1"]] * (
        4 - batch
    )


def test_what_went_before_is_answered_when_the_next_batch_cannot_be_taken(watched: WatchedLedger) -> None:
    def batches() -> Iterator[Items]:
        yield [warning("one", 1)]
        yield [warning("two", 1)]
        raise Broken

    answered: list[list[str]] = []
    with pytest.raises(Broken):
        until_it_fails(execute_batches(watched, batches()), answered)
    assert answered == [["1"], ["1"]]
    assert len(watched.read(0, 10)) == 2


def test_who_leaves_in_the_middle_waits_for_what_is_under_way(watched: WatchedLedger) -> None:
    answers = execute_batches(watched, [[warning("one", 1)], [warning("two", 1)], [warning("three", 1)]])
    assert told(next(answers)) == ["1"]
    answers.close()
    assert [one.version for one in watched.read(0, 10)] == [1, 2]


def test_nothing_comes_of_no_batches_and_of_empty_ones(watched: WatchedLedger) -> None:
    assert list(execute_batches(watched, [])) == []
    assert list(execute_batches(watched, [[], []])) == [[], []]
    assert (watched.sent, watched.head()) == (0, 0)

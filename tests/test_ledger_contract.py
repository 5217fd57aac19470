"""What every ledger promises, held against both stores; test_ledger_postgres.py has what only one can break."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from uuid import UUID, uuid4

import pytest

from modledger.domain.envelope import SYSTEM, Actor, NewEvent, Recorded
from modledger.domain.events import (
    ERASED,
    EVENTS,
    Event,
    SubjectErased,
    SubscriptionGranted,
    UserPrefixChanged,
    UserRegistered,
    UserWarned,
)
from modledger.domain.ledger import Append, Ledger, Passage, VersionConflict
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.recorder_ledger import RecorderLedger

LONG_AGO = datetime(2019, 5, 17, 8, 30, 15, 250_001, tzinfo=UTC)


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> RecorderLedger:
    if request.param == "memory":
        return MemoryLedger(lambda: datetime.now(UTC))
    opened: RecorderLedger = request.getfixturevalue("ledger")
    return opened


def event(stream: str, version: int, fact: Event | None = None) -> NewEvent:
    return NewEvent(
        stream=stream,
        version=version,
        event=fact or UserWarned(reason="spam"),
        event_id=uuid4(),
        occurred_at=LONG_AGO,
        actor=Actor("user", 7),
        correlation_id=uuid4(),
        via="http",
    )


def command(*events: NewEvent, erase: Sequence[str] = (), command_id: UUID | None = None, **read: int) -> Append:
    """``read``: versions of streams that the decision only read, ``user_7=3`` for user:7 at 3."""
    expected = {name.replace("_", ":"): version for name, version in read.items()}
    for new in events:
        expected.setdefault(new.stream, new.version - 1)
    return Append(command_id=command_id or uuid4(), events=events, expected=expected, erase=erase)


def warnings(store: Ledger, stream: str, first: int, last: int) -> list[Recorded]:
    return [store.append(command(event(stream, version))).events[0] for version in range(first, last + 1)]


def erase(store: Ledger, stream: str, version: int) -> Recorded:
    asked = SubjectErased(reason="asked by mail")
    return store.append(command(event(stream, version, asked), erase=[stream])).events[0]


def test_an_appended_event_is_loaded_and_read_as_it_was_appended(store: RecorderLedger) -> None:
    new = NewEvent(
        stream="user:123456789012345678",
        version=1,
        event=UserRegistered(username="zoë\u202e\n", avatar_url=None),
        event_id=uuid4(),
        occurred_at=LONG_AGO,
        actor=SYSTEM,
        correlation_id=uuid4(),
        causation_id=uuid4(),
        via="import",
        external_id="ticket-17",
    )
    appended = store.append(command(new))
    [recorded] = appended.events
    assert not appended.duplicate
    assert {name: getattr(recorded, name) for name in new.__struct_fields__} == {
        name: getattr(new, name) for name in new.__struct_fields__
    }
    assert store.load([new.stream]) == {new.stream: [recorded]}
    assert store.read(0, 10) == [recorded]
    assert store.at(recorded.position) == recorded
    assert recorded.recorded_at.utcoffset() == timedelta(0)


def test_an_empty_ledger_has_no_head_no_events_and_no_streams(store: RecorderLedger) -> None:
    assert store.head() == 0
    assert store.read(0, 10) == []
    assert store.at(1) is None
    assert store.load(["user:1", "guild:2"]) == {"user:1": [], "guild:2": []}
    assert store.known_commands([uuid4()]) == set()
    assert store.load([]) == {}
    assert store.known_commands([]) == set()


def test_streams_are_loaded_together_each_in_the_order_of_its_versions(store: RecorderLedger) -> None:
    store.append(command(event("user:1", 1)))
    store.append(command(event("user:2", 1), event("user:1", 2), event("user:2", 2)))
    store.append(command(event("user:3", 1)))
    loaded = store.load(["user:2", "user:1", "user:9"])
    assert {stream: [e.version for e in events] for stream, events in loaded.items()} == {
        "user:2": [1, 2],
        "user:1": [1, 2],
        "user:9": [],
    }


def test_reading_goes_forward_by_position_as_far_as_the_limit(store: RecorderLedger) -> None:
    events = warnings(store, "user:1", 1, 5)
    assert [e.position for e in events] == sorted({e.position for e in events})
    assert store.read(0, 2) == events[:2]
    assert store.read(events[1].position, 2) == events[2:4]
    assert store.read(events[3].position, 100) == events[4:]
    assert store.read(events[4].position, 100) == []
    assert store.head() == events[4].position
    assert store.at(events[4].position + 1) is None
    assert store.at(0) is None


def test_a_reader_of_some_topics_passes_the_others_and_is_told_how_far_it_got(store: RecorderLedger) -> None:
    facts = [
        UserRegistered(username="zoë", avatar_url=None),
        UserWarned(reason="spam"),
        UserPrefixChanged(old_prefix="!", prefix="?"),
        UserPrefixChanged(old_prefix="?", prefix="!"),
        UserWarned(reason="raid"),
        SubjectErased(reason="asked"),
    ]
    for version, fact in enumerate(facts[:-1], 1):
        store.append(command(event("user:1", version, fact)))
    erase(store, "user:1", 6)
    whole = store.read(0, 10)
    start = whole[0].position - 1
    for topics in ({"user.warned.v1"}, {"user.warned.v1", "user.registered.v1"}, {"user.banned.v1"}, {*EVENTS}, set()):
        for limit in range(1, 8):
            after, found, stretches = start, [], 0
            while (passage := store.read_topics(topics, after, limit)).passed:
                there = store.read(after, limit)
                assert (passage.passed, passage.position) == (len(there), there[-1].position)
                found += passage.events
                after, stretches = passage.position, stretches + 1
            assert found == [e for e in whole if e.event.TOPIC in topics]
            assert stretches == -(-len(whole) // limit)
            assert passage == Passage(events=[], passed=0, position=whole[-1].position)


def test_a_reader_of_some_topics_finds_nothing_in_an_empty_ledger(store: RecorderLedger) -> None:
    assert store.read_topics({"user.warned.v1"}, 0, 10) == Passage(events=[], passed=0, position=0)


def test_streams_are_read_one_after_the_other_each_whole_up_to_a_position(store: RecorderLedger) -> None:
    for version in range(1, 6):
        for stream in ("guild:1", "user:1", "user:2", "user:30"):
            store.append(command(event(stream, version)))
    head = store.head()
    whole = store.load(["guild:1", "user:1", "user:2", "user:30"])
    later = store.append(command(event("user:1", 6), event("user:4", 1))).events[0].position
    topics = {UserWarned.TOPIC}
    for limit in (1, 4, 5, 6, 11, 100):
        after = ""
        found: dict[str, list[Recorded]] = {}
        while (page := store.read_streams(topics, after, None, head, limit)).more:
            assert page.last > after
            after = page.last
            assert not found.keys() & page.streams.keys()
            found.update(page.streams)
        assert {**found, **page.streams} == whole, limit
    two = store.read_streams(topics, "guild:1", "user:2", later, 100)
    assert {stream: len(events) for stream, events in two.streams.items()} == {"user:1": 6, "user:2": 5}
    assert (two.passed, two.last, two.more) == (11, "user:2", False)


def test_a_reader_of_streams_is_given_only_its_topics(store: RecorderLedger) -> None:
    store.append(command(event("user:1", 1), event("user:1", 2, UserPrefixChanged(old_prefix="!", prefix="?"))))
    store.append(command(event("user:2", 1)))
    page = store.read_streams({UserPrefixChanged.TOPIC}, "", None, store.head(), 10)
    assert {stream: [e.version for e in events] for stream, events in page.streams.items()} == {"user:1": [2]}
    assert (page.passed, page.last, page.more) == (3, "user:2", False)


def test_there_are_no_streams_to_read_in_an_empty_ledger(store: RecorderLedger) -> None:
    page = store.read_streams({UserWarned.TOPIC}, "", None, 10, 1)
    assert (page.streams, page.passed, page.last, page.more) == ({}, 0, "", False)


def test_the_events_of_a_command_stand_together_in_their_order(store: RecorderLedger) -> None:
    appended = store.append(command(event("user:1", 1), event("user:2", 1), event("user:1", 2)))
    assert [(e.stream, e.version) for e in appended.events] == [("user:1", 1), ("user:2", 1), ("user:1", 2)]
    assert store.read(0, 10) == list(appended.events)


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_an_append_to_a_stream_that_has_moved_on_is_refused(store: RecorderLedger, expected: int) -> None:
    before = warnings(store, "user:1", 1, 2)
    with pytest.raises(VersionConflict, match="user:1"):
        store.append(command(event("user:1", expected + 1)))
    assert store.read(0, 10) == before


def test_an_append_is_refused_when_a_stream_that_was_only_read_has_moved_on(store: RecorderLedger) -> None:
    warnings(store, "user:7", 1, 2)
    with pytest.raises(VersionConflict):
        store.append(command(event("user:1", 1), user_7=1))
    assert store.load(["user:1"]) == {"user:1": []}
    assert store.append(command(event("user:1", 1), user_7=2)).events[0].version == 1
    assert store.append(command(event("user:1", 2), guild_99=0)).events[0].version == 2


def test_a_retried_command_adds_nothing_and_answers_with_what_it_did(store: RecorderLedger) -> None:
    both = command(event("user:1", 1), event("user:2", 1, UserRegistered(username="zoë")))
    first = store.append(both)
    store.append(command(event("user:1", 2)))
    again = store.append(both)
    assert again.duplicate
    assert again.events == first.events
    assert len(store.read(0, 10)) == 3


def test_a_command_is_recognised_by_its_id_whatever_it_now_says(store: RecorderLedger) -> None:
    first = command(event("user:1", 1))
    store.append(first)
    again = store.append(command(event("user:5", 1), command_id=first.command_id, user_1=0))
    assert again.duplicate
    assert [(e.stream, e.version) for e in again.events] == [("user:1", 1)]
    assert store.load(["user:5"]) == {"user:5": []}
    assert store.known_commands([first.command_id, uuid4()]) == {first.command_id}


def test_a_refused_command_is_not_known_and_can_be_appended_later(store: RecorderLedger) -> None:
    late = command(event("user:1", 2))
    with pytest.raises(VersionConflict):
        store.append(late)
    assert store.known_commands([late.command_id]) == set()
    store.append(command(event("user:1", 1)))
    assert not store.append(late).duplicate


def test_a_batch_is_appended_in_order_with_streams_that_go_on_within_it(store: RecorderLedger) -> None:
    store.append(command(event("user:1", 1)))
    batch = [
        command(event("user:1", 2)),
        command(event("user:2", 1), user_1=2),
        command(event("user:1", 3), event("user:1", 4)),
    ]
    store.append_batch(batch)
    assert [(e.stream, e.version) for e in store.read(0, 10)] == [
        ("user:1", 1),
        ("user:1", 2),
        ("user:2", 1),
        ("user:1", 3),
        ("user:1", 4),
    ]
    assert store.known_commands([append.command_id for append in batch]) == {append.command_id for append in batch}
    assert store.append(batch[2]).duplicate
    assert [e.version for e in store.append(batch[2]).events] == [3, 4]
    assert [getattr(e.event, "reason", None) for e in store.load(["user:1"])["user:1"]] == ["spam"] * 4


def test_an_empty_batch_is_nothing(store: RecorderLedger) -> None:
    store.append_batch([])
    assert store.head() == 0


def test_a_batch_is_refused_whole_when_a_stream_has_moved_on(store: RecorderLedger) -> None:
    before = warnings(store, "user:1", 1, 1)
    for last in (command(event("user:1", 1)), command(event("user:3", 1), user_1=0)):
        with pytest.raises(VersionConflict):
            store.append_batch([command(event("user:2", 1)), last])
    with pytest.raises(VersionConflict):
        store.append_batch([command(event("user:2", 1)), command(event("user:3", 1), user_2=0)])
    assert store.read(0, 10) == before


def test_a_batch_is_refused_whole_when_one_of_its_commands_is_known(store: RecorderLedger) -> None:
    known = command(event("user:1", 1))
    store.append(known)
    with pytest.raises(VersionConflict, match="already in the ledger"):
        store.append_batch([command(event("user:2", 1)), command(event("user:3", 1), command_id=known.command_id)])
    twice = uuid4()
    with pytest.raises(VersionConflict, match="already in the ledger"):
        store.append_batch(
            [command(event("user:2", 1), command_id=twice), command(event("user:3", 1), command_id=twice)]
        )
    assert len(store.read(0, 10)) == 1
    store.append(command(event("user:2", 1)))
    assert len(store.load(["user:2"])["user:2"]) == 1


def test_a_batch_may_be_prepared_while_the_one_before_it_is_under_way(store: RecorderLedger) -> None:
    first = store.prepare_batch([command(event("user:1", 1)), command(event("user:2", 1))])
    second = store.prepare_batch([command(event("user:1", 2)), command(event("user:3", 1))], after=first)
    third = store.prepare_batch([command(event("user:1", 3))], after=second)
    assert store.head() == 0
    for prepared in (first, second, third):
        store.append_prepared(prepared)
    assert [(e.stream, e.version) for e in store.read(0, 10)] == [
        ("user:1", 1),
        ("user:2", 1),
        ("user:1", 2),
        ("user:3", 1),
        ("user:1", 3),
    ]
    assert [getattr(e.event, "reason", None) for e in store.read(0, 10)] == ["spam"] * 5


def test_a_prepared_batch_is_refused_when_the_one_before_it_is_not_there(store: RecorderLedger) -> None:
    first = store.prepare_batch([command(event("user:1", 1))])
    second = store.prepare_batch([command(event("user:1", 2))], after=first)
    with pytest.raises(VersionConflict):
        store.append_prepared(second)
    assert store.head() == 0
    store.append(command(event("user:1", 1)))
    with pytest.raises(VersionConflict):
        store.append_prepared(first)
    assert [getattr(e.event, "reason", None) for e in store.read(0, 10)] == ["spam"]


def test_a_prepared_batch_expects_what_was_only_read_also_when_it_has_nothing_to_append(store: RecorderLedger) -> None:
    warnings(store, "user:1", 1, 2)
    head = store.head()
    store.append_prepared(store.prepare_batch([], {"user:1": 2, "user:2": 0}))
    for read in ({"user:1": 1}, {"user:2": 1, "user:1": 2}):
        with pytest.raises(VersionConflict):
            store.append_prepared(store.prepare_batch([], read))
        with pytest.raises(VersionConflict):
            store.append_prepared(store.prepare_batch([command(event("user:3", 1))], read))
    assert store.head() == head
    # What the batch writes is expected where it begins, not where it ends.
    store.append_prepared(store.prepare_batch([command(event("user:3", 1))], {"user:3": 1, "user:1": 2}))
    assert [(e.stream, e.version) for e in store.read(head, 10)] == [("user:3", 1)]


@pytest.mark.parametrize(
    "broken",
    [
        Append(command_id=uuid4(), events=[], expected={"user:1": 0}),
        Append(command_id=uuid4(), events=[event("user:1", 1)], expected={}),
        Append(command_id=uuid4(), events=[event("user:1", 2)], expected={"user:1": 0}),
        Append(command_id=uuid4(), events=[event("user:1", 1), event("user:1", 3)], expected={"user:1": 0}),
        Append(command_id=uuid4(), events=[event("user:1", 1)], expected={"user:1": 0}, erase=["user:1"]),
        Append(command_id=uuid4(), events=[event("user:1", 1, SubjectErased(reason="x"))], expected={"user:1": 0}),
    ],
    ids=[
        "no event",
        "unnamed stream",
        "hole at the start",
        "hole inside",
        "erase without event",
        "event without erase",
    ],
)
def test_an_append_against_the_rules_is_refused_before_it_is_sent(store: RecorderLedger, broken: Append) -> None:
    with pytest.raises(ValueError, match=r"."):
        store.append(broken)
    with pytest.raises(ValueError, match=r"."):
        store.append_batch([broken])
    assert store.head() == 0


def test_an_erased_subject_keeps_its_events_and_loses_their_text(store: RecorderLedger) -> None:
    store.append(command(event("user:1", 1, UserRegistered(username="zoë", avatar_url="https://cdn.example/a.png"))))
    store.append(command(event("user:1", 2, UserPrefixChanged(old_prefix="!", prefix="?"))))
    other = warnings(store, "user:2", 1, 1)[0]
    erased = erase(store, "user:1", 3)
    assert [e.event for e in store.load(["user:1"])["user:1"]] == [
        UserRegistered(username=ERASED, avatar_url=None),
        UserPrefixChanged(old_prefix="!", prefix="?"),
        SubjectErased(reason="asked by mail"),
    ]
    assert [e.event for e in store.read(0, 2)] == [e.event for e in store.load(["user:1"])["user:1"][:2]]
    assert store.at(other.position) == other
    assert store.at(erased.position) == erased


def test_text_that_comes_after_an_erasure_is_readable_and_erased_by_the_next(store: RecorderLedger) -> None:
    warnings(store, "user:1", 1, 1)
    erase(store, "user:1", 2)
    warnings(store, "user:1", 3, 3)
    assert [getattr(e.event, "reason", None) for e in store.load(["user:1"])["user:1"]] == [
        ERASED,
        "asked by mail",
        "spam",
    ]
    both = command(
        event("user:1", 4), event("user:1", 5, SubjectErased(reason="again")), event("user:1", 6), erase=["user:1"]
    )
    store.append(both)
    reasons = [getattr(e.event, "reason", None) for e in store.read(0, 10)]
    assert reasons == [ERASED, ERASED, ERASED, ERASED, "again", "spam"]


def test_a_batch_may_erase(store: RecorderLedger) -> None:
    warnings(store, "user:1", 1, 1)
    store.append_batch(
        [
            command(event("user:1", 2)),
            command(event("user:1", 3, SubjectErased(reason="asked")), erase=["user:1"]),
            command(event("user:1", 4)),
        ]
    )
    reasons = [getattr(e.event, "reason", None) for e in store.load(["user:1"])["user:1"]]
    assert reasons == [ERASED, ERASED, "asked", "spam"]


def test_a_refused_erasure_erases_nothing(store: RecorderLedger) -> None:
    warnings(store, "user:1", 1, 2)
    with pytest.raises(VersionConflict):
        erase(store, "user:1", 2)
    warnings(store, "user:1", 3, 3)
    assert [getattr(e.event, "reason", None) for e in store.load(["user:1"])["user:1"]] == ["spam"] * 3


def test_a_text_that_is_not_given_needs_no_key_and_reads_as_not_given(store: RecorderLedger) -> None:
    granted = SubscriptionGranted(old_tier=0, tier=2, expires_at=LONG_AGO, reason=None)
    store.append(command(event("guild:1", 1, granted)))
    assert store.recorder.keys_of(["guild:1"]) == {}
    assert store.read(0, 1)[0].event == granted
    store.append(command(event("guild:1", 2, SubscriptionGranted(old_tier=2, tier=3, expires_at=None, reason="won"))))
    assert [getattr(e.event, "reason", "") for e in store.load(["guild:1"])["guild:1"]] == [None, "won"]


def test_personal_text_is_not_in_what_is_stored(store: RecorderLedger) -> None:
    text = "a very particular reason"
    store.append(command(event("user:1", 1, UserWarned(reason=text))))
    store.append_batch([command(event("user:1", 2, UserWarned(reason=text)))])
    for row in store.recorder.rows_after(0, 10):
        assert text.encode() not in row.state
        assert b"reason" not in row.state


def test_the_time_of_recording_never_goes_back(store: RecorderLedger) -> None:
    warnings(store, "user:1", 1, 5)
    store.append_batch([command(event("user:2", version)) for version in range(1, 6)])
    times = [e.recorded_at for e in store.read(0, 20)]
    assert times == sorted(times)
    assert len(times) == 10


def test_a_clock_that_is_set_back_does_not_take_the_ledger_with_it() -> None:
    times = iter([LONG_AGO + timedelta(hours=1), LONG_AGO, LONG_AGO + timedelta(hours=2)])
    store = MemoryLedger(lambda: next(times))
    assert [e.recorded_at - LONG_AGO for e in warnings(store, "user:1", 1, 3)] == [
        timedelta(hours=1),
        timedelta(hours=1),
        timedelta(hours=2),
    ]


def test_of_many_threads_each_gets_the_outcome_of_its_own_command(store: RecorderLedger) -> None:
    warnings(store, "user:7", 1, 1)
    start = Barrier(32)

    def attempt(number: int) -> str:
        stale = number % 2 == 1
        append = command(event(f"user:{100 + number}", 1), user_7=0 if stale else 1)
        start.wait()
        try:
            appended = store.append(append)
        except VersionConflict:
            return "refused" if store.load([f"user:{100 + number}"]) == {f"user:{100 + number}": []} else "wrong"
        [mine] = appended.events
        found = store.at(mine.position)
        return "appended" if found == mine and mine.stream == f"user:{100 + number}" else "wrong"

    with ThreadPoolExecutor(32) as threads:
        outcomes = list(threads.map(attempt, range(32)))
    assert outcomes == ["appended", "refused"] * 16
    assert len(store.read(0, 100)) == 17


def test_of_fifty_threads_that_race_for_the_same_version_exactly_one_wins(store: RecorderLedger) -> None:
    start = Barrier(50)

    def attempt(_: int) -> bool:
        append = command(event("user:1", 1))
        start.wait()
        try:
            return not store.append(append).duplicate
        except VersionConflict:
            return False

    with ThreadPoolExecutor(50) as threads:
        assert sum(threads.map(attempt, range(50))) == 1
    assert [getattr(e.event, "reason", None) for e in store.load(["user:1"])["user:1"]] == ["spam"]


def test_of_ten_threads_that_retry_the_same_command_one_appends_and_all_get_its_events(store: RecorderLedger) -> None:
    append = command(event("user:1", 1), event("user:2", 1))
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: store.append(append), range(10)))
    assert sorted(answer.duplicate for answer in answers) == [False] + [True] * 9
    assert len({tuple(e.position for e in answer.events) for answer in answers}) == 1
    assert len(store.read(0, 10)) == 2

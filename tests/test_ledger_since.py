"""What came to a stream since it was read, held against both stores: and whether it still is the one that was read."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg

from modledger.domain.envelope import Recorded
from modledger.domain.events import ERASED, UserPrefixChanged, UserWarned
from modledger.domain.ledger import UNSEEN, Ledger, Seen
from modledger.domain.ledger_queries import SINCE
from modledger.domain.memory_ledger import MemoryLedger, MemoryRecorder
from modledger.domain.personal_text import MasterKey, Standings
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.recorder_ledger import RecorderLedger, StreamHead
from tests.databases import MASTER_KEY
from tests.ledger_faults import lose_key, lose_since
from tests.test_ledger_contract import command, erase, event, store, warnings

__all__ = ["store"]

CHANGED = UserPrefixChanged(old_prefix="!", prefix="?")


def seen(store: Ledger, stream: str) -> Seen:
    return UNSEEN.and_then(store.load([stream])[stream])


def since(store: Ledger, **read: Seen) -> dict[str, list[Recorded] | None]:
    return store.load_since({name.replace("_", ":"): one for name, one in read.items()}).streams


def test_of_a_stream_that_was_read_only_later_events_come_and_of_others_all(store: RecorderLedger) -> None:
    before = warnings(store, "user:1", 1, 3)
    read = seen(store, "user:1")
    other = warnings(store, "user:2", 1, 2)
    later = warnings(store, "user:1", 4, 5)
    assert since(store, user_1=read, user_2=UNSEEN, user_3=UNSEEN) == {"user:1": later, "user:2": other, "user:3": []}
    assert since(store, user_1=UNSEEN) == {"user:1": [*before, *later]}


def test_a_stream_that_nothing_came_to_brings_no_event(store: RecorderLedger) -> None:
    warnings(store, "user:1", 1, 3)
    assert since(store, user_1=seen(store, "user:1")) == {"user:1": []}
    assert store.load_since({}).streams == {}


def test_the_later_events_lead_to_the_same_as_all_of_them_at_once(store: RecorderLedger) -> None:
    warnings(store, "user:1", 1, 2)
    read = seen(store, "user:1")
    erase(store, "user:1", 3)
    store.append(command(event("user:1", 4, CHANGED)))
    whole = store.load(["user:1"])["user:1"]
    assert read.and_then(whole[2:]) == seen(store, "user:1")
    assert (seen(store, "user:1").generation, seen(store, "user:1").text) == (3, True)


def test_a_command_is_recognised_whether_or_not_its_event_is_among_those_asked_for(store: RecorderLedger) -> None:
    mine, other, nobody = uuid4(), uuid4(), uuid4()
    store.append(command(event("user:1", 1), event("user:1", 2), command_id=mine))
    store.append(command(event("user:2", 1), command_id=other))
    read = seen(store, "user:1")

    def recognised(*command_ids: UUID) -> dict[UUID, str]:
        found = store.load_since({"user:1": read}, command_ids)
        assert found.streams == {"user:1": []}
        return found.commands

    alone = [recognised(one) for one in (mine, other, nobody)]
    assert alone == [{mine: "user:1"}, {other: "user:2"}, {}]
    assert recognised(nobody, other, mine) == {mine: "user:1", other: "user:2"}
    assert recognised() == {}


def test_a_stream_without_text_goes_on_when_its_first_text_came(store: RecorderLedger) -> None:
    store.append(command(event("user:1", 1, CHANGED)))
    read = seen(store, "user:1")
    [warned] = warnings(store, "user:1", 2, 2)
    assert since(store, user_1=read) == {"user:1": [warned]}


def test_a_stream_that_was_erased_since_has_to_be_read_from_its_beginning(store: RecorderLedger) -> None:
    warnings(store, "user:1", 1, 2)
    read = seen(store, "user:1")
    erase(store, "user:1", 3)
    assert since(store, user_1=read) == {"user:1": None}
    warnings(store, "user:1", 4, 4)
    assert since(store, user_1=read) == {"user:1": None}
    assert since(store, user_1=seen(store, "user:1")) == {"user:1": []}


def test_a_stream_whose_key_is_gone_has_to_be_read_from_its_beginning(store: RecorderLedger) -> None:
    warnings(store, "user:1", 1, 2)
    read = seen(store, "user:1")
    lose_key(store, "user:1")
    assert since(store, user_1=read) == {"user:1": None}
    whole = since(store, user_1=UNSEEN)["user:1"]
    assert [one.event for one in whole or []] == [UserWarned(reason=ERASED)] * 2


def test_a_stream_that_lost_its_end_has_to_be_read_from_its_beginning(store: RecorderLedger) -> None:
    kept = warnings(store, "user:1", 1, 2)
    [lost] = warnings(store, "user:1", 3, 3)
    read = seen(store, "user:1")
    lose_since(store, lost.position)
    assert since(store, user_1=read) == {"user:1": None}
    assert since(store, user_1=UNSEEN) == {"user:1": kept}
    # Another event at the same version and position is not the one that was seen.
    [anew] = warnings(store, "user:1", 3, 3)
    assert anew.position == lost.position
    assert since(store, user_1=read) == {"user:1": None}
    warnings(store, "user:1", 4, 4)
    assert since(store, user_1=read) == {"user:1": None}


class WatchedRecorder(MemoryRecorder):
    """Notes the streams whose heads, and with them keys, are asked for."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__(clock)
        self.asked: list[str] = []

    def heads_of(self, streams: Sequence[str]) -> dict[str, StreamHead]:
        self.asked += streams
        return super().heads_of(streams)


class WatchedLedger(MemoryLedger):
    recorder: WatchedRecorder

    def construct_recorder(self) -> WatchedRecorder:
        return WatchedRecorder(self._clock)


def test_what_was_read_lets_the_next_text_be_appended_without_asking_for_the_key() -> None:
    master, now = bytes(32), datetime(2026, 3, 10, tzinfo=UTC)
    watched = WatchedLedger(lambda: now, master)
    warnings(watched, "user:1", 1, 2)
    read = seen(watched, "user:1")
    # Nothing is known of the stream's key any more, as in a process that others have kept from it.
    watched._standings = Standings(MasterKey(master))
    since(watched, user_1=read)
    warnings(watched, "user:1", 3, 3)
    assert watched.recorder.asked == []


def test_another_process_sees_the_same_of_a_stream(database: str, ledger: PostgresLedger) -> None:
    warnings(ledger, "user:1", 1, 2)
    read = seen(ledger, "user:1")
    with PostgresLedger(database, MASTER_KEY) as other:
        [third] = warnings(other, "user:1", 3, 3)
        assert since(ledger, user_1=read) == {"user:1": [third]}
        erase(other, "user:1", 4)
    assert since(ledger, user_1=read) == {"user:1": None}


def test_what_came_since_is_found_by_the_indexes_that_the_statement_names(
    database: str, ledger: PostgresLedger
) -> None:
    stored = [command(event(f"user:{n}", 1), event(f"user:{n}", 2, CHANGED)) for n in range(1, 2001)]
    ledger.append_batch([*stored, *(command(event("user:9001", n, CHANGED)) for n in range(1, 3001))])
    names = ["user:9001", "user:1", "user:7"]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("analyze ledger")
        connection.execute("analyze subject_keys")
        connection.execute("set plan_cache_mode = force_generic_plan")
        cursor = connection.cursor(binary=True)
        asked = [names, [3000, 0, 2], names, [stored[0].command_id, stored[1].command_id]]
        plan = "\n".join(row[0] for row in cursor.execute(f"explain {SINCE}".encode(), asked).fetchall())
    assert "Seq Scan" not in plan
    assert all(index in plan for index in ("ledger_pkey", "ledger_command", "subject_keys_pkey"))

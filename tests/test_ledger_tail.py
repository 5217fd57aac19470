"""The permanent test of the ledger's order: eight processes write, one reader follows, and nothing is missed."""

import multiprocessing
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from time import monotonic
from uuid import uuid4

import msgspec

from modledger.domain.envelope import SYSTEM, NewEvent
from modledger.domain.events import UserBanned, UserWarned
from modledger.domain.ledger import Append, VersionConflict
from modledger.domain.postgres_ledger import PostgresLedger
from tests.databases import MASTER_KEY

WRITERS = 8
SECONDS = 5.0
SHARED = "user:1"


def append(*places: tuple[str, int]) -> Append:
    events = [
        NewEvent(
            stream=stream,
            version=version,
            event=UserWarned(reason="spam"),
            event_id=uuid4(),
            occurred_at=datetime.now(UTC),
            actor=SYSTEM,
            correlation_id=uuid4(),
            via="worker",
        )
        for stream, version in places
    ]
    return Append(
        command_id=uuid4(), events=events, expected={stream: version - 1 for stream, version in reversed(places)}
    )


def write(database: str, number: int, results: Connection) -> None:
    """Every kind of append: alone, several events, several streams, batches, conflicts, and batches that are rolled
    back after they have taken positions. Answers with the positions of its own events in the order of its appends."""
    with PostgresLedger(database, MASTER_KEY, connections=2) as ledger:
        results.send("ready")
        results.recv()
        written: list[int] = []
        end, turn = monotonic() + SECONDS, 0
        while monotonic() < end:
            stream = f"user:{1000 * (turn * WRITERS + number)}"
            first = append((stream, 1))
            written += [event.position for event in ledger.append(first).events]
            written += [event.position for event in ledger.append(append((stream, 2), (stream, 3))).events]
            shared = len(ledger.load([SHARED])[SHARED]) if turn % 20 == 0 else 0
            with suppress(VersionConflict):
                written += [event.position for event in ledger.append(append((SHARED, shared + 1))).events]
            known = msgspec.structs.replace(append((stream, 5)), command_id=first.command_id)
            with suppress(VersionConflict):
                ledger.append_batch([append((stream, 4)), known])
            batch = [append((stream, version)) for version in range(4, 8)]
            ledger.append_batch(batch)
            written += [event.position for event in ledger.load([stream])[stream][3:]]
            turn += 1
        results.send(written)


def test_a_reader_that_follows_eight_writing_processes_misses_nothing_and_sees_nothing_twice(database: str) -> None:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(WRITERS)]
    writers = [
        context.Process(target=write, args=(database, number, theirs)) for number, (_, theirs) in enumerate(pipes)
    ]
    for writer in writers:
        writer.start()
    ours = [pipe for pipe, _ in pipes]
    with PostgresLedger(database, MASTER_KEY) as ledger:
        for pipe in ours:
            assert pipe.recv() == "ready"
        for pipe in ours:
            pipe.send("go")
        seen: list[tuple[int, datetime]] = []
        picked: list[int] = []
        skipped = picking = skipping = 0
        looks = 0
        written: list[list[int]] = []
        while True:
            # Asked before the look: what was written before the last writer ended must be in it.
            done = not any(writer.is_alive() for writer in writers)
            while page := ledger.read(seen[-1][0] if seen else 0, 500):
                seen += [(event.position, event.recorded_at) for event in page]
                looks += 1
            while (some := ledger.read_topics({UserWarned.TOPIC}, picking, 500)).passed:
                picked += [event.position for event in some.events]
                picking = some.position
            while (none := ledger.read_topics({UserBanned.TOPIC}, skipping, 500)).passed:
                skipped += none.passed
                skipping = none.position
            # Taken from the pipe at once, or a writer with much to tell would never end.
            written += [pipe.recv() for pipe in wait(ours, timeout=0) if isinstance(pipe, Connection)]
            if done:
                break
        everything = ledger.read(0, len(seen) + 1000)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    positions = [position for position, _ in seen]
    assert positions == sorted(set(positions)), "a position came twice or out of order"
    assert positions == [event.position for event in everything], "the follower missed events"
    assert picked == positions, "the follower of a topic missed events"
    assert (picking, skipping, skipped) == (positions[-1], positions[-1], len(positions)), "passed is not what is there"
    assert sorted(position for mine in written for position in mine) == positions, "acknowledged is not what is there"
    assert all(mine == sorted(mine) for mine in written), "a later append stands before an earlier one"
    assert [at for _, at in seen] == sorted(at for _, at in seen), "recorded_at went back"
    assert max(positions) > len(positions), "no gap was made: the rolled back batches did not test anything"
    assert looks > WRITERS

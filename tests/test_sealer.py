"""The sealer: the tree that it keeps is the RFC's over all events, whatever batches, processes and deaths it took."""

import os
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from struct import pack
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from modledger.domain.commands import Context, IssueWarning
from modledger.domain.envelope import OPERATOR, Subject
from modledger.domain.execute import execute
from modledger.domain.merkle import leaf_hash, proves_consistency, proves_inclusion, tree_hash
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.refusals import Conflict, NotFound
from modledger.domain.seal_proofs import consistency, grown, inclusion, last_head
from modledger.domain.signed_heads import read_head, verify
from modledger.workers.seal_key import public_keys
from modledger.workers.seal_store import carry_out, leaves
from modledger.workers.sealer import SealBroken, seal
from tests.databases import MASTER_KEY
from tests.forked import start
from tests.sealing import NOW, SEED, begun, fill, unguarded


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


def rows(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select notification_id, originator_id, originator_version, topic, state,"
        " (extract(epoch from recorded_at) * 1000000)::bigint, command_id, actor, via from ledger order by 1"
    ).fetchall()


def written_by_hand(row: tuple[Any, ...]) -> bytes:
    """The leaf as docs/proof.md defines it."""
    position, stream, version, topic, state, micros, command_id, actor, via = row
    fields = [
        pack(">q", position),
        stream.encode(),
        pack(">q", version),
        topic.encode(),
        state,
        pack(">q", micros - 946_684_800_000_000),
        None if command_id is None else command_id.bytes,
        actor.encode(),
        via.encode(),
    ]
    return pack(">h", 9) + b"".join(pack(">i", -1) if one is None else pack(">i", len(one)) + one for one in fields)


def every_leaf(connection: psycopg.Connection) -> list[bytes]:
    with leaves(connection, -(2**63), 2**63 - 1) as found:
        return list(found)


def hashes(connection: psycopg.Connection) -> list[bytes]:
    return [leaf_hash(written_by_hand(row)) for row in rows(connection)]


def test_a_leaf_is_the_row_of_the_ledger_field_by_field(connection: psycopg.Connection) -> None:
    fill(connection, 10)
    assert every_leaf(connection) == [written_by_hand(row) for row in rows(connection)]
    assert {row[6] is None for row in rows(connection)} == {True, False}


def test_nothing_is_sealed_of_an_empty_ledger(connection: psycopg.Connection) -> None:
    assert seal(connection, begun(connection), NOW) is None
    with pytest.raises(NotFound, match="Nothing is sealed yet"):
        carry_out(connection, last_head())


@pytest.mark.parametrize("batch", [1, 7, 100, 256, 257, 5000])
def test_the_root_is_the_rfcs_whatever_the_batches(connection: psycopg.Connection, batch: int) -> None:
    signer = begun(connection)
    for events in (5, 250, 1, 513):
        fill(connection, events)
        head = seal(connection, signer, NOW, batch=batch)
        assert head is not None
        assert head.root == tree_hash(hashes(connection))
        assert (head.tree_size, head.position) == (len(rows(connection)), rows(connection)[-1][0])
        assert seal(connection, signer, NOW) is None


def test_a_head_is_signed_and_says_when(connection: psycopg.Connection) -> None:
    signer = begun(connection)
    fill(connection, 3)
    head = seal(connection, signer, NOW)
    assert head is not None
    assert head.at == NOW.replace(microsecond=0)
    assert verify(carry_out(connection, last_head()).note, public_keys(connection)) == head


def test_positions_may_have_gaps(connection: psycopg.Connection) -> None:
    signer = begun(connection)
    for _ in range(3):
        fill(connection, 100)
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(
                "insert into ledger values (default, 'user:900001', 1, 'x.v1', '{}', now(), null, 'system', 'cli')"
            )
    head = seal(connection, signer, NOW, batch=64)
    assert head is not None
    assert (head.tree_size, head.root) == (300, tree_hash(hashes(connection)))
    assert head.position == 302
    positions = [row[0] for row in rows(connection)]
    for index, position in enumerate(positions):
        proof = carry_out(connection, inclusion(position))
        assert (proof.leaf_index, proof.tree_size) == (index, 300)
    missing = next(position for position in range(1, positions[-1]) if position not in positions)
    with pytest.raises(NotFound, match="Event not found"):
        carry_out(connection, inclusion(missing))


def test_every_event_is_proved_and_every_size_is_consistent(connection: psycopg.Connection) -> None:
    signer = begun(connection)
    fill(connection, 300)
    seal(connection, signer, NOW, batch=7)
    fill(connection, 299)
    head = seal(connection, signer, NOW + timedelta(minutes=1), batch=100)
    assert head is not None
    known = hashes(connection)
    for position in (1, 2, 255, 256, 257, 511, 512, 513, 599):
        proof = carry_out(connection, inclusion(position))
        assert leaf_hash(proof.leaf) == known[position - 1]
        assert proves_inclusion(leaf_hash(proof.leaf), proof.leaf_index, 599, proof.path, head.root)
    for first, second in ((1, 599), (255, 256), (256, 512), (300, 599), (300, 301), (513, 513), (511, 598)):
        link = carry_out(connection, consistency(first, second))
        assert (link.from_root, link.to_root) == (tree_hash(known[:first]), tree_hash(known[:second]))
        assert proves_consistency(first, second, link.path, link.from_root, link.to_root)
        assert (link.from_head is not None) == (first == 300)
        assert (link.to_head is not None) == (second == 599)


def test_a_tree_of_three_levels_of_tiles_is_right_where_they_meet(connection: psycopg.Connection) -> None:
    signer = begun(connection)
    fill(connection, 65_530)
    seal(connection, signer, NOW)
    heads = []
    for _ in range(4):
        fill(connection, 3)
        heads.append(seal(connection, signer, NOW))
    known = [leaf_hash(leaf) for leaf in every_leaf(connection)]
    for head in heads:
        assert head is not None
        assert head.root == tree_hash(known[: head.tree_size])
    root = tree_hash(known)
    for position in (1, 65_535, 65_536, 65_537, 65_542):
        proof = carry_out(connection, inclusion(position))
        assert proves_inclusion(known[position - 1], position - 1, len(known), proof.path, root)
    assert connection.execute("select level, count(*) from seal_tiles group by 1 order by 1").fetchall() == [
        (0, 257),
        (1, 1),
        (2, 1),
    ]


def test_what_is_not_sealed_yet_is_told_apart_from_what_does_not_exist(connection: psycopg.Connection) -> None:
    signer = begun(connection)
    fill(connection, 5)
    seal(connection, signer, NOW)
    fill(connection, 1)
    with pytest.raises(Conflict, match="Position 6 is not sealed yet: the last head is of position 5"):
        carry_out(connection, inclusion(6))
    with pytest.raises(NotFound, match="Event not found"):
        carry_out(connection, inclusion(7))
    with pytest.raises(Conflict, match="6 events are not sealed yet: the last head is of 5"):
        carry_out(connection, consistency(2, 6))


def test_several_sealers_at_once_seal_every_event_once(database: str, connection: psycopg.Connection) -> None:
    signer = begun(connection)
    done = threading.Event()

    def work() -> None:
        with psycopg.connect(database, autocommit=True) as own:
            while not done.is_set():
                seal(own, signer, NOW, batch=13)

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(work) for _ in range(4)]
        for _ in range(40):
            fill(connection, 25)
        done.set()
        for one in running:
            one.result()
    seal(connection, signer, NOW)
    assert carry_out(connection, grown())[0] == 1000
    head = read_head(carry_out(connection, last_head()).note)
    assert head.root == tree_hash(hashes(connection))
    sealed = connection.execute("select tree_size, note from seals order by 1").fetchall()
    known = hashes(connection)
    for size, note in sealed:
        assert read_head(note).root == tree_hash(known[:size])


# A third of the ledger at most: then it waits for its end.
SEALING = """
import sys, time
from datetime import UTC, datetime
import psycopg
from modledger.workers.sealer import seal
from tests.sealing import begun
class Enough:
    batches = 0
    def is_set(self):
        self.batches += 1
        while self.batches == 300:
            time.sleep(1)
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    seal(connection, begun(connection), datetime.now(UTC), Enough(), batch=3)
"""


def test_a_sealer_that_was_killed_is_gone_on_with(database: str, connection: psycopg.Connection) -> None:
    signer = begun(connection)
    fill(connection, 3000)
    for _ in range(3):
        before = carry_out(connection, grown())[0]
        process = start(["-c", SEALING, database])
        while carry_out(connection, grown())[0] < before + 30:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    head = seal(connection, signer, NOW)
    assert head is not None
    assert (head.tree_size, head.root) == (3000, tree_hash(hashes(connection)))


def test_nothing_is_signed_on_top_of_a_tree_that_was_changed(connection: psycopg.Connection) -> None:
    signer = begun(connection)
    fill(connection, 5)
    seal(connection, signer, NOW)
    unguarded(connection, "update seal_tiles set hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1)")
    fill(connection, 1)
    with pytest.raises(SealBroken, match="the tree of 5 events is not the one that was signed; run modledger"):
        seal(connection, signer, NOW)


def test_nothing_is_signed_on_top_of_a_head_that_was_changed(connection: psycopg.Connection) -> None:
    signer = begun(connection)
    fill(connection, 5)
    seal(connection, signer, NOW)
    unguarded(connection, "update seals set note = replace(note, '2026', '2025')")
    fill(connection, 1)
    with pytest.raises(SealBroken, match="was changed after it was signed"):
        seal(connection, signer, NOW)


@pytest.mark.parametrize(
    "statement",
    [
        "update seals set note = ''",
        "delete from seals",
        "truncate seals",
        "update seal_keys set since = now()",
        "delete from seal_keys",
        "delete from seal_tiles",
        "truncate seal_tiles",
        "update seal_tiles set hashes = set_byte(hashes, 0, 1)",
        "update seal_tiles set hashes = substr(hashes, 1, 64), positions = positions[:2]",
        "update seal_tiles set positions = array[1, 2, 3, 4, 6]",
        "update seal_tiles set number = 1",
    ],
)
def test_what_is_sealed_cannot_be_changed_by_mistake(connection: psycopg.Connection, statement: str) -> None:
    signer = begun(connection)
    fill(connection, 5)
    seal(connection, signer, NOW)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def worker(database: str, seed: bytes = SEED) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
    return subprocess.Popen(
        [sys.executable, "-m", "modledger.workers", "work"],
        env={
            **environment,
            "MODLEDGER_DATABASE_URL": database,
            "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode(),
            "MODLEDGER_SEAL_KEY": b64encode(seed).decode(),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_sealed(connection: psycopg.Connection, events: int) -> None:
    deadline = time.monotonic() + 60
    while (connection.execute("select max(tree_size) from seals").fetchone() or (0,))[0] != events:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_of_several_workers_one_seals_and_another_takes_over_when_it_is_killed(
    database: str, connection: psycopg.Connection
) -> None:
    connection.execute("insert into ledger values (default, 'user:1', 1, 'x.v1', '{}', now(), null, 'system', 'cli')")
    first = worker(database)
    try:
        wait_until_sealed(connection, 1)
        second = worker(database)
        try:
            holders = "select count(*) from pg_locks as l join pg_stat_activity as a using (pid)"
            holders += " where l.locktype = 'advisory' and a.application_name = 'modledger sealer' and l.granted = %s"
            deadline = time.monotonic() + 60
            while connection.execute(holders.encode(), (False,)).fetchone() != (1,):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert connection.execute(holders.encode(), (True,)).fetchone() == (1,)
            connection.execute(
                "insert into ledger values (default, 'user:1', 2, 'x.v1', '{}', now(), null, 'system', 'cli')"
            )
            first.kill()
            wait_until_sealed(connection, 2)
        finally:
            second.terminate()
            second.communicate()
    finally:
        first.kill()
        first.communicate()


def test_a_worker_with_another_key_says_so_seals_nothing_and_does_all_else(
    database: str, connection: psycopg.Connection, ledger: PostgresLedger
) -> None:
    begun(connection)
    now = datetime.now(UTC)
    context = Context(actor=OPERATOR, at=now, command_id=uuid4(), correlation_id=uuid4(), via="cli")
    execute(ledger, IssueWarning(target=Subject("user", 5), reason="Rule 1"), context)
    running = worker(database, bytes(32))
    try:
        assert running.stderr is not None
        for line in running.stderr:
            if "nothing is sealed" in line:
                break
        assert "MODLEDGER_SEAL_KEY is not the key that this ledger is sealed with" in line
        deadline = time.monotonic() + 60
        while connection.execute("select count(*) from punishments").fetchone() != (1,):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert connection.execute("select count(*) from seals").fetchone() == (0,)
    finally:
        running.terminate()
        running.communicate()

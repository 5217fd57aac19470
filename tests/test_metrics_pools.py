"""Connections, as /metrics shows them: how many there are, who waits, and for how long it was waited."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import psycopg
from prometheus_client import CollectorRegistry, generate_latest

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.http.reader import Reader
from modledger.workers.metrics import Pool, PoolCollector, ledger_pool
from tests.databases import MASTER_KEY
from tests.postgres_processes import until
from tests.test_ledger_contract import command, event
from tests.test_ledger_postgres import appends_held_back, wait_for_held_append


def test_a_reader_counts_who_waits_for_its_connections(database: str) -> None:
    async def read() -> None:
        reader = Reader(database, 1)
        try:
            await reader.fetch("select 1")
            assert (reader.waits, reader.waiting, reader.wait_seconds) == (0, 0, 0.0)
            reads = [asyncio.create_task(reader.fetch("select pg_sleep(0.05)")) for _ in range(3)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (reader.checked_out, reader.waiting, reader.waits) == (1, 2, 2)
            await asyncio.gather(*reads)
            assert (reader.checked_out, reader.waiting, reader.waits) == (0, 0, 2)
            assert reader.wait_seconds > 0
            await reader.fetch("select 1")
            assert reader.waits == 2
        finally:
            await reader.close()

    asyncio.run(read())


def test_whoever_stops_waiting_is_no_longer_counted_as_waiting(database: str) -> None:
    async def read() -> None:
        reader = Reader(database, 1)
        try:
            with psycopg.connect(database) as holding:
                holding.execute("select pg_advisory_xact_lock(7)")
                first = asyncio.create_task(reader.fetch("select 1 from pg_advisory_xact_lock_shared(7)"))
                await asyncio.to_thread(until, lambda: reader.checked_out == 1)
                second = asyncio.create_task(reader.fetch("select 1"))
                await asyncio.to_thread(until, lambda: reader.waiting == 1)
                second.cancel()
                await asyncio.gather(second, return_exceptions=True)
            assert await first == [(1,)]
            assert (reader.waiting, reader.waits) == (0, 1)
            # Its place is free for others.
            assert await reader.fetch("select 2") == [(2,)]
        finally:
            await reader.close()

    asyncio.run(read())


def test_the_ledger_tells_of_its_connections(database: str) -> None:
    with PostgresLedger(database, MASTER_KEY, connections=1) as ledger, ThreadPoolExecutor(2) as threads:
        ledger.head()
        assert ledger_pool(ledger)._replace(waits=0, wait_seconds=0.0) == Pool("ledger", 1, 1, 0, 0, 0, 0.0)
        before = ledger_pool(ledger).waits
        with appends_held_back(database), psycopg.connect(database, autocommit=True) as watching:
            append = threads.submit(ledger.append, command(event("user:1", 1)))
            wait_for_held_append(watching)
            head = threads.submit(ledger.head)
            while not ledger_pool(ledger).waiting:
                sleep(0.01)
            assert (ledger_pool(ledger).busy, ledger_pool(ledger).idle) == (1, 0)
        append.result()
        head.result()
        assert ledger_pool(ledger).waits == before + 1
        assert ledger_pool(ledger).wait_seconds > 0


def test_pools_are_asked_at_every_scrape() -> None:
    pools: list[Pool] = []
    registry = CollectorRegistry()
    registry.register(PoolCollector(lambda: pools))
    assert b'pool="read"' not in generate_latest(registry)
    pools.append(Pool("read", 4, 1, 2, 3, 5, 0.25))
    said = generate_latest(registry).decode()
    for line in (
        'modledger_pool_connections_max{pool="read"} 4.0',
        'modledger_pool_connections{pool="read",state="idle"} 1.0',
        'modledger_pool_connections{pool="read",state="busy"} 2.0',
        'modledger_pool_waiting{pool="read"} 3.0',
        'modledger_pool_waits_total{pool="read"} 5.0',
        'modledger_pool_wait_seconds_total{pool="read"} 0.25',
    ):
        assert line in said.splitlines()

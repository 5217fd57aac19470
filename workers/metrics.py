"""/metrics of one process, on an address of its own: what the process did, and what it finds in the database.

Each process answers for itself: nothing has to be shared between them, and one that was killed takes its numbers along.
docs/operate.md lists the metrics; who may read them is decided by who reaches the address.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from platform import python_version
from typing import NamedTuple

import structlog
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from modledger.domain.append_counts import GROUP_BOUNDS, Counted
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.workers.metrics_installation import InstallationCollector
from modledger.workers.port import require_free_port

log = structlog.get_logger()


class Pool(NamedTuple):
    """The connections of one kind of work. ``waits``: how often somebody had to wait for one since the start, and
    ``wait_seconds`` for how long in all."""

    name: str
    most: int
    idle: int
    busy: int
    waiting: int
    waits: int
    wait_seconds: float


def ledger_pool(ledger: PostgresLedger) -> Pool:
    """The connections that commands are decided and appended over."""
    pool = ledger.recorder.datastore.pool
    said = pool.get_stats()
    return Pool(
        name="ledger",
        most=said.get("pool_max", 0),
        idle=said.get("pool_available", 0),
        busy=said.get("pool_size", 0) - said.get("pool_available", 0),
        waiting=said.get("requests_waiting", 0),
        waits=said.get("requests_queued", 0),
        wait_seconds=said.get("requests_wait_ms", 0) / 1000,
    )


class PoolCollector(Collector):
    """``pools`` is asked at every scrape."""

    def __init__(self, pools: Callable[[], Iterable[Pool]]) -> None:
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        most = GaugeMetricFamily("modledger_pool_connections_max", "Connections that may be open.", labels=["pool"])
        now = GaugeMetricFamily("modledger_pool_connections", "Connections that are open.", labels=["pool", "state"])
        waiting = GaugeMetricFamily("modledger_pool_waiting", "Who waits for a connection now.", labels=["pool"])
        waits = CounterMetricFamily("modledger_pool_waits", "Waits for a connection.", labels=["pool"])
        seconds = CounterMetricFamily("modledger_pool_wait_seconds", "Time waited for connections.", labels=["pool"])
        for pool in self._pools():
            most.add_metric([pool.name], pool.most)
            now.add_metric([pool.name, "idle"], pool.idle)
            now.add_metric([pool.name, "busy"], pool.busy)
            waiting.add_metric([pool.name], pool.waiting)
            waits.add_metric([pool.name], pool.waits)
            seconds.add_metric([pool.name], pool.wait_seconds)
        yield from (most, now, waiting, waits, seconds)


class AppendCollector(Collector):
    """What this process appended to the ledger. ``counted`` answers None while the ledger is not open yet."""

    def __init__(self, counted: Callable[[], Counted | None]) -> None:
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        counted = self._counted()
        if counted is None:
            return
        appends = CounterMetricFamily(
            "modledger_appends", "Commands sent to the ledger, by what became of them.", labels=["outcome"]
        )
        for outcome, number in counted.outcomes.items():
            appends.add_metric([outcome], number)
        retries = CounterMetricFamily("modledger_append_retries", "Sent again, and why.", labels=["reason"])
        retries.add_metric(["group_failed"], counted.alone)
        retries.add_metric(["connection_lost"], counted.reconnects)
        buckets, passed = [], 0
        for bound, number in zip(GROUP_BOUNDS, counted.groups, strict=True):
            passed += number
            buckets.append((str(float(bound)), float(passed)))
        group = HistogramMetricFamily("modledger_group_commit_size", "Commands that were committed together.")
        group.add_metric([], [*buckets, ("+Inf", float(passed))], counted.grouped)
        yield from (
            appends,
            CounterMetricFamily("modledger_events_appended", "Events appended to the ledger.", value=counted.events),
            retries,
            group,
        )


@contextmanager
def watched_process(
    registry: CollectorRegistry,
    process: str,
    settings: Settings,
    conninfo: str,
    ledger: Callable[[], PostgresLedger | None],
    pools: Callable[[], Iterable[Pool]] = tuple,
) -> Iterator[None]:
    """Registers what every process of ours shows, to be asked for as long as the block lasts. ``ledger`` answers None
    while it is not open; ``pools``: those beside the ledger's own."""

    def all_pools() -> Iterator[Pool]:
        if (opened := ledger()) is not None:
            yield ledger_pool(opened)
            yield from pools()

    def counted() -> Counted | None:
        return None if (opened := ledger()) is None else opened.recorder.counts.now()

    # When a series was made is of no use to Prometheus, and as many lines again.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    Info("modledger_build", "The program that runs.", registry=registry).info(
        {"version": version("modledger"), "python": python_version(), "process": process}
    )
    if settings.database_url is None:
        # The embedded PostgreSQL is there; of another server's disk only that server knows.
        Gauge(
            "modledger_data_dir_free_bytes", "Free space where MODLEDGER_DATA_DIR is.", registry=registry
        ).set_function(lambda: _free_bytes(settings))
    registry.register(AppendCollector(counted))
    registry.register(PoolCollector(all_pools))
    installation = InstallationCollector(conninfo)
    registry.register(installation)
    try:
        yield
    finally:
        installation.close()


def _free_bytes(settings: Settings) -> int:
    found = os.statvfs(settings.data_dir)
    return found.f_bavail * found.f_frsize


@contextmanager
def metrics_served(settings: Settings, registry: CollectorRegistry) -> Iterator[None]:
    """Serves /metrics by a thread of its own for as long as the block lasts, where the settings name a port: it answers
    also while an event loop is stuck. Raises PortTaken."""
    if settings.metrics_port is None:
        yield
        return
    require_free_port(settings.metrics_host, settings.metrics_port, "MODLEDGER_METRICS_PORT")
    server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    log.info("metrics are served", address=settings.metrics_host, port=settings.metrics_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

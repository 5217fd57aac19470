"""The worker process: all projectors, the clock, the sealer and the verifier."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.projections.catalog import PROJECTORS
from modledger.workers.clock import run_clock
from modledger.workers.collector import collected_seldom
from modledger.workers.eraser import run_eraser
from modledger.workers.metrics import metrics_served, watched_process
from modledger.workers.runner import run_projectors
from modledger.workers.sealer import run_sealer
from modledger.workers.verifier import run_verifier


def _utc_now() -> datetime:
    return datetime.now(UTC)


def work(
    ledger: PostgresLedger,
    conninfo: str,
    settings: Settings,
    stop: threading.Event,
    clock: Callable[[], datetime] = _utc_now,
) -> None:
    """Runs until ``stop`` is set, then lets every batch in hand finish. Any number of such processes may run: each
    projector, the clock and the sealer is active in one of them, the others stand by. ``clock`` tells the time. Raises
    PortTaken where the port of /metrics is."""
    registry = CollectorRegistry()
    with (
        watched_process(registry, "work", settings, conninfo, lambda: ledger),
        metrics_served(settings, registry),
        collected_seldom(),
    ):
        _run(ledger, conninfo, settings, stop, clock)


def _run(
    ledger: PostgresLedger,
    conninfo: str,
    settings: Settings,
    stop: threading.Event,
    clock: Callable[[], datetime],
) -> None:
    threads = [
        *run_projectors(ledger, conninfo, PROJECTORS, stop),
        run_clock(ledger, conninfo, clock, stop),
        run_eraser(conninfo, stop),
        run_sealer(settings, conninfo, clock, stop),
        run_verifier(ledger, conninfo, PROJECTORS, clock, stop),
    ]
    stop.wait()
    for thread in threads:
        thread.join(timeout=10)

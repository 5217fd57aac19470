"""The worker process: all projectors, the clock, the sealer and the verifier."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from modledger.domain.ledger import Ledger
from modledger.domain.settings import Settings
from modledger.projections.catalog import PROJECTORS
from modledger.workers.clock import run_clock
from modledger.workers.eraser import run_eraser
from modledger.workers.runner import run_projectors
from modledger.workers.sealer import run_sealer
from modledger.workers.verifier import run_verifier


def _utc_now() -> datetime:
    return datetime.now(UTC)


def work(
    ledger: Ledger,
    conninfo: str,
    settings: Settings,
    stop: threading.Event,
    clock: Callable[[], datetime] = _utc_now,
) -> None:
    """Runs until ``stop`` is set, then lets every batch in hand finish. Any number of such processes may run: each
    projector, the clock and the sealer is active in one of them, the others stand by. ``clock`` tells the time."""
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

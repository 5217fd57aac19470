"""The worker process: all projectors and the clock."""

import threading
from datetime import UTC, datetime

from modledger.domain.ledger import Ledger
from modledger.projections.catalog import PROJECTORS
from modledger.workers.clock import run_clock
from modledger.workers.runner import run_projectors


def work(ledger: Ledger, conninfo: str, stop: threading.Event) -> None:
    """Runs until ``stop`` is set, then lets every batch in hand finish. Any number of such processes may run: each
    projector and the clock is active in one of them, the others stand by."""
    threads = [
        *run_projectors(ledger, conninfo, PROJECTORS, stop),
        run_clock(ledger, conninfo, lambda: datetime.now(UTC), stop),
    ]
    stop.wait()
    for thread in threads:
        thread.join(timeout=10)

"""Verifies a few streams every minute: what it finds shows in /health until it is mended."""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from random import Random
from typing import Any

import psycopg
import structlog

from modledger.domain.ledger import Ledger, LedgerUnavailable
from modledger.domain.personal_text import WrongMasterKey
from modledger.projections.projector import Projector
from modledger.projections.samples import remember, verify_sample
from modledger.workers.turn import wait_for_turn

log = structlog.get_logger()

EVERY_SECONDS = 60.0
# A tenth of a second of one core; a million streams are through in two days, by chance.
SAMPLE = 100
RETRY_SECONDS = 5.0


def run_verifier(
    ledger: Ledger,
    conninfo: str,
    projectors: Sequence[Projector[Any]],
    clock: Callable[[], datetime],
    stop: threading.Event,
    every: float = EVERY_SECONDS,
) -> threading.Thread:
    """Starts the thread that verifies a sample every so many seconds until ``stop`` is set. Of several processes one
    is active."""
    thread = threading.Thread(
        target=_run, args=(ledger, conninfo, projectors, clock, stop, every), name="verifier", daemon=True
    )
    thread.start()
    return thread


def _run(
    ledger: Ledger,
    conninfo: str,
    projectors: Sequence[Projector[Any]],
    clock: Callable[[], datetime],
    stop: threading.Event,
    every: float,
) -> None:
    luck = Random()  # noqa: S311 - who draws the sample need not be feared
    while not stop.is_set():
        try:
            with psycopg.connect(conninfo, autocommit=True, application_name="modledger verifier") as connection:
                wait_for_turn(connection, "verifier", stop)
                while not stop.wait(every):
                    results = verify_sample(conninfo, projectors, ledger, SAMPLE, luck)
                    remember(connection, results, clock(), whole=False)
                    for one in results:
                        if one.differences:
                            log.error(
                                "verification found differences",
                                subject=one.subject,
                                differences=len(one.differences),
                                first=one.differences[0].place(),
                            )
        except (psycopg.Error, LedgerUnavailable, WrongMasterKey) as error:
            log.warning("verifier starts over", error=str(error))
            stop.wait(RETRY_SECONDS)
        except Exception:
            log.exception("verifier starts over after an unexpected error")
            stop.wait(RETRY_SECONDS)

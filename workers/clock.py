"""The clock worker: records in the ledger what ran out, at the time when it ran out.

States and tiers do not wait for it (queries compare ends with now); it is for histories, counts and listeners.
"""

import threading
from collections.abc import Callable
from datetime import datetime
from uuid import UUID, uuid4, uuid5

import psycopg
import structlog

from modledger.domain.commands import Command, Context, EndSubscription, LapsePunishment
from modledger.domain.envelope import SYSTEM, subject_of
from modledger.domain.execute import execute_batch
from modledger.domain.ledger import Ledger, LedgerUnavailable
from modledger.projections.due import due_punishments, due_subscriptions
from modledger.workers.turn import wait_for_turn

log = structlog.get_logger()

# One name for all ends, so that an end has one command id whoever records it and however often.
ENDS = UUID("3b1f5f8e-6f0c-5f5e-9d53-0a4b8a3c7d10")
BATCH = 500
TICK_SECONDS = 1.0


def run_clock(ledger: Ledger, conninfo: str, clock: Callable[[], datetime], stop: threading.Event) -> threading.Thread:
    """Starts the thread that records ends until ``stop`` is set. Of several processes one is active; should two ever be,
    the command ids keep every end single."""
    thread = threading.Thread(target=_run, args=(ledger, conninfo, clock, stop), name="clock", daemon=True)
    thread.start()
    return thread


def _run(ledger: Ledger, conninfo: str, clock: Callable[[], datetime], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            with psycopg.connect(conninfo, autocommit=True, application_name="modledger clock") as connection:
                if wait_for_turn(connection, "clock", stop):
                    log.info("clock is active")
                while not stop.is_set():
                    recorded = record_ends(ledger, connection, clock())
                    # A full batch means that more waits; the read tables need a moment to see what was just recorded.
                    stop.wait(TICK_SECONDS if recorded < BATCH else 0.05)
        except (psycopg.Error, LedgerUnavailable) as error:
            log.warning("clock starts over", error=str(error))
            stop.wait(TICK_SECONDS)
        except Exception:
            log.exception("clock starts over after an unexpected error")
            stop.wait(TICK_SECONDS)


def record_ends(ledger: Ledger, connection: psycopg.Connection, now: datetime) -> int:
    """Appends the end of every punishment and tier that ran out until ``now``, a batch of each kind at most; returns how
    many ends it recorded. What is due comes from the read tables, whether it is so from the ledger."""
    items: list[tuple[Command, Context]] = []
    for stream, number, expires_at in due_punishments(connection, now, BATCH):
        command: Command = LapsePunishment(target=subject_of(stream), number=number, expires_at=expires_at)
        items.append((command, _context(f"{stream} {number} {expires_at.isoformat()}", now)))
    for stream, expires_at in due_subscriptions(connection, now, BATCH):
        command = EndSubscription(target=subject_of(stream), expires_at=expires_at)
        items.append((command, _context(f"{stream} tier {expires_at.isoformat()}", now)))
    if not items:
        return 0
    decisions = execute_batch(ledger, items)
    for (command, _), decision in zip(items, decisions, strict=True):
        if decision.refused is not None:
            log.error("an end was refused", command=repr(command), error=str(decision.refused))
    return sum(bool(decision.events) for decision in decisions)


def _context(end: str, now: datetime) -> Context:
    return Context(actor=SYSTEM, at=now, command_id=uuid5(ENDS, end), correlation_id=uuid4(), via="worker")

"""The clock worker: records in the ledger what ran out, at the time when it ran out.

States and tiers do not wait for it (queries compare ends with now); it is for histories, counts and listeners.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import cast
from uuid import UUID, uuid4, uuid5

import psycopg
import structlog

from modledger.domain.commands import Command, Context, EndSubscription, LapsePunishment
from modledger.domain.envelope import SYSTEM, subject_of
from modledger.domain.execute import execute_batch
from modledger.domain.kept_states import KeptStates
from modledger.domain.ledger import Ledger, LedgerUnavailable
from modledger.domain.personal_text import WrongMasterKey
from modledger.projections.due import due_punishments, due_subscriptions
from modledger.workers.turn import wait_for_turn

log = structlog.get_logger()

# One name for all ends, so that an end has one command id whoever records it and however often.
ENDS = UUID("3b1f5f8e-6f0c-5f5e-9d53-0a4b8a3c7d10")
BATCH = 500
TICK_SECONDS = 1.0


def run_clock(ledger: Ledger, conninfo: str, clock: Callable[[], datetime], stop: threading.Event) -> threading.Thread:
    """Starts the thread that records ends until ``stop`` is set. Of several processes one is active; should two ever
    be, the command ids keep every end single."""
    thread = threading.Thread(target=_run, args=(ledger, conninfo, clock, stop), name="clock", daemon=True)
    thread.start()
    return thread


def _run(ledger: Ledger, conninfo: str, clock: Callable[[], datetime], stop: threading.Event) -> None:
    kept = KeptStates()
    while not stop.is_set():
        try:
            with psycopg.connect(conninfo, autocommit=True, application_name="modledger clock") as connection:
                if wait_for_turn(connection, "clock", stop):
                    log.info("clock is active")
                done: set[UUID] = set()
                while not stop.wait(TICK_SECONDS):
                    # An end cannot be taken back, so of this machine's clock and the database's the one behind counts.
                    record_ends(ledger, connection, min(clock(), _time_of(connection)), done, kept)
                    kept.forget_unused()
        except (psycopg.Error, LedgerUnavailable, WrongMasterKey) as error:
            log.warning("clock starts over", error=str(error))
            stop.wait(TICK_SECONDS)
        except Exception:
            log.exception("clock starts over after an unexpected error")
            stop.wait(TICK_SECONDS)


def _time_of(connection: psycopg.Connection) -> datetime:
    row = connection.execute("select clock_timestamp()").fetchone()
    assert row is not None
    return cast("datetime", row[0])


def record_ends(
    ledger: Ledger,
    connection: psycopg.Connection,
    now: datetime,
    done: set[UUID] | None = None,
    kept: KeptStates | None = None,
) -> int:
    """Appends the end of every punishment and tier that ran out until ``now``; returns how many it appended. What is
    due comes from the read tables, whether it is so from the ledger.

    ``done`` keeps, from one call to the next, the ends that were dealt with and that read tables which are behind, or
    stand still, offer again; ``kept`` the states of streams.
    """
    done = set() if done is None else done
    offered: set[UUID] = set()
    recorded = 0
    for items in _batches(_due(connection, now)):
        offered.update(context.command_id for _, context in items)
        fresh = [item for item in items if item[1].command_id not in done]
        for (command, context), decision in zip(
            fresh, execute_batch(ledger, fresh, kept) if fresh else [], strict=True
        ):
            recorded += bool(decision.events)
            if decision.refused is None:
                done.add(context.command_id)
            else:
                log.error("an end was refused", command=repr(command), error=str(decision.refused))
    done &= offered
    return recorded


def _due(connection: psycopg.Connection, now: datetime) -> Iterator[tuple[Command, Context]]:
    for stream, number, end in due_punishments(connection, now):
        lapse = LapsePunishment(target=subject_of(stream), number=number, expires_at=end)
        yield lapse, _context(f"{stream} {number} {end.isoformat()}", now)
    for stream, end in due_subscriptions(connection, now):
        yield (
            EndSubscription(target=subject_of(stream), expires_at=end),
            _context(f"{stream} tier {end.isoformat()}", now),
        )


def _batches(items: Iterator[tuple[Command, Context]]) -> Iterator[list[tuple[Command, Context]]]:
    while batch := list(islice(items, BATCH)):
        yield batch


def _context(end: str, now: datetime) -> Context:
    return Context(actor=SYSTEM, at=now, command_id=uuid5(ENDS, end), correlation_id=uuid4(), via="worker")

"""Runs the projectors: each in its own thread, one active per projector however many processes there are."""

import threading
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import psycopg
import structlog

from modledger.domain.ledger import Ledger, LedgerUnavailable
from modledger.domain.mapper import UnreadableEvent
from modledger.projections.projector import Advance, Fenced, FoldFailed, Projector, advance, checkpoint
from modledger.workers.turn import wait_for_turn

log = structlog.get_logger()

BATCH = 2_000
POLL_SECONDS = 0.25
RETRY_SECONDS = 1.0


def run_projectors(
    ledger: Ledger, conninfo: str, projectors: Iterable[Projector[Any]], stop: threading.Event
) -> list[threading.Thread]:
    """Starts a thread for each projector and one that wakes them; they end when ``stop`` is set.

    A projector whose fold raises, or that meets an event that cannot be read, stops where it stands: it leaves its position, event and error in
    ``projection_failures`` and in the log, the others go on, and the next process that runs it tries that event again.
    """
    bells = {projector.name: threading.Event() for projector in projectors}
    threads = [
        threading.Thread(
            target=_run,
            args=(ledger, conninfo, projector, bells[projector.name], stop),
            name=projector.name,
            daemon=True,
        )
        for projector in projectors
    ]
    threads.append(threading.Thread(target=_ring, args=(conninfo, bells.values(), stop), name="listener", daemon=True))
    for thread in threads:
        thread.start()
    return threads


def _run(
    ledger: Ledger, conninfo: str, projector: Projector[Any], bell: threading.Event, stop: threading.Event
) -> None:
    while not stop.is_set():
        try:
            with psycopg.connect(
                conninfo, autocommit=True, application_name=f"modledger {projector.name}"
            ) as connection:
                if wait_for_turn(connection, f"projector {projector.name}", stop):
                    log.info("projector is active", projector=projector.name)
                    _follow(ledger, connection, projector, bell, stop)
        except FoldFailed as failure:
            _record(conninfo, projector.name, failure.position, failure.event_id, failure.topic, repr(failure.cause))
            return
        except UnreadableEvent as unreadable:
            _record(conninfo, projector.name, unreadable.position, UUID(int=0), unreadable.topic, repr(unreadable))
            return
        except (psycopg.Error, LedgerUnavailable, Fenced) as error:
            log.warning("projector starts over", projector=projector.name, error=str(error))
            stop.wait(RETRY_SECONDS)
        except Exception:
            # Nothing that is known to be possible; going on would be a guess and going silent worse.
            log.exception("projector starts over after an unexpected error", projector=projector.name)
            stop.wait(RETRY_SECONDS)


def _follow(
    ledger: Ledger,
    connection: psycopg.Connection,
    projector: Projector[Any],
    bell: threading.Event,
    stop: threading.Event,
) -> None:
    failed_at = _failed_at(connection, projector.name)
    limit = BATCH
    while not stop.is_set():
        bell.clear()
        try:
            step: Advance = advance(connection, projector, ledger, limit)
        except UnreadableEvent:
            if limit == 1:
                raise
            # It spoils the whole batch; one by one, everything before it is folded.
            limit = 1
            continue
        if failed_at is not None and step.position >= failed_at:
            # projection_failures_pkey
            connection.execute("delete from projection_failures where projector = %s", (projector.name,))
            failed_at = None
        if not step.more:
            # A notification can be lost; the poll finds what it announced.
            bell.wait(POLL_SECONDS)


def _failed_at(connection: psycopg.Connection, name: str) -> int | None:
    # projection_failures_pkey
    row = connection.execute("select position from projection_failures where projector = %s", (name,)).fetchone()
    return None if row is None else int(row[0])


def _record(conninfo: str, projector: str, position: int, event_id: UUID, topic: str, error: str) -> None:
    log.error(
        "projector stopped", projector=projector, position=position, event_id=str(event_id), topic=topic, error=error
    )
    with psycopg.connect(conninfo, autocommit=True) as connection:
        # projection_failures_pkey
        connection.execute(
            "insert into projection_failures (projector, position, event_id, topic, error, failed_at)"
            " values (%s, %s, %s, %s, %s, now())"
            " on conflict (projector) do update set position = excluded.position, event_id = excluded.event_id,"
            " topic = excluded.topic, error = excluded.error, failed_at = excluded.failed_at",
            (projector, position, event_id, topic, error),
        )


def _ring(conninfo: str, bells: Iterable[threading.Event], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            with psycopg.connect(conninfo, autocommit=True, application_name="modledger listener") as connection:
                connection.execute("listen ledger")
                while not stop.is_set():
                    for _ in connection.notifies(timeout=0.5, stop_after=1):
                        for bell in bells:
                            bell.set()
        except psycopg.Error as error:
            log.warning("listener starts over", error=str(error))
            stop.wait(RETRY_SECONDS)


def catch_up(ledger: Ledger, conninfo: str, projectors: Iterable[Projector[Any]]) -> int:
    """Folds everything that the ledger holds now into each projector's table, in this thread; returns the head reached.
    For tools and tests; another active runner of the same projector makes it raise Fenced."""
    head = ledger.head()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for projector in projectors:
            while checkpoint(connection, projector.name) < head:
                advance(connection, projector, ledger, BATCH)
    return head

"""Runs the projectors: one active of each however many processes there are, those of a process together
(projector_groups.py)."""

import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
import structlog

from modledger.domain.ledger import Ledger, LedgerUnavailable
from modledger.domain.mapper import UnreadableEvent
from modledger.domain.personal_text import WrongMasterKey
from modledger.projections.joint_advance import advance_together
from modledger.projections.projector import (
    Advance,
    Fenced,
    FoldFailed,
    Projector,
    Superseded,
    advance,
    checkpoint,
    look_up_by_index,
    standings,
)
from modledger.workers.projector_groups import ProjectorGroups
from modledger.workers.turn import wait_for_turn

log = structlog.get_logger()

# Ten projectors hold what so many events make of their rows, and readers of the one wait until all are written.
BATCH = 1_000
RETRY_SECONDS = 1.0
# What one event can do to a batch: its bytes are no event, or its row does not fit the table.
UNFIT = (UnreadableEvent, psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError)


def run_projectors(
    ledger: Ledger, conninfo: str, projectors: Iterable[Projector[Any]], stop: threading.Event
) -> list[threading.Thread]:
    """Starts a thread for each projector and one that wakes them; they end when ``stop`` is set.

    Those that stand at about the same place go on together, led by the thread of one of them. A projector that cannot
    take an event (the fold raises, its bytes are no event, the row does not fit) stops right before it: it leaves
    position, event and error in ``projection_failures`` and in the log, the others go on, and the next process that
    runs it tries that event again. One whose tables a newer program has replaced leaves them to it.
    """
    groups = ProjectorGroups(ledger, BATCH, stop)
    threads = [
        threading.Thread(
            target=_run, args=(ledger, conninfo, projector, groups, stop), name=projector.name, daemon=True
        )
        for projector in projectors
    ]
    threads.append(threading.Thread(target=_wake, args=(conninfo, groups, stop), name="listener", daemon=True))
    for thread in threads:
        thread.start()
    return threads


class Stopped(Exception):
    """The projector stands before an event that it cannot take; everything before it is folded."""

    def __init__(self, position: int, event_id: UUID | None, topic: str, cause: Exception) -> None:
        super().__init__(f"{topic} at position {position}: {cause!r}")
        self.position, self.event_id, self.topic, self.cause = position, event_id, topic, cause


def _run(
    ledger: Ledger, conninfo: str, projector: Projector[Any], groups: ProjectorGroups, stop: threading.Event
) -> None:
    name = f"modledger {projector.name}"
    alone = False
    while not stop.is_set():
        try:
            with psycopg.connect(conninfo, autocommit=True, application_name=name) as connection:
                if wait_for_turn(connection, f"projector {projector.name}", stop):
                    log.info("projector is active", projector=projector.name)
                    look_up_by_index(connection)
                    _follow(ledger, connection, projector, groups, stop, alone=alone)
        except Stopped as stopped:
            _record(conninfo, projector.name, stopped, stop)
            return
        except Superseded as error:
            log.warning("projector ends: start the program that made the tables", error=str(error))
            return
        except (psycopg.OperationalError, psycopg.InterfaceError, LedgerUnavailable, WrongMasterKey) as error:
            # Of a master key that only others were given: the turn is theirs to take meanwhile.
            log.warning("projector starts over", projector=projector.name, error=str(error))
            stop.wait(RETRY_SECONDS)
        except Exception:
            # Nothing that is known to be possible; going on would be a guess and going silent worse.
            log.exception("projector starts over after an unexpected error", projector=projector.name)
            stop.wait(RETRY_SECONDS)
        # The others hear no more of it than once.
        alone = True


def _follow(
    ledger: Ledger,
    connection: psycopg.Connection,
    projector: Projector[Any],
    groups: ProjectorGroups,
    stop: threading.Event,
    *,
    alone: bool,
) -> None:
    failed_at = _failed_at(connection, projector.name)
    one_by_one = 0
    while not stop.is_set():
        if not alone and failed_at is None:
            alone = groups.advance_with_others(connection, projector)
            continue
        try:
            step: Advance = advance(connection, projector, ledger, 1 if one_by_one else BATCH)
        except FoldFailed as failure:
            raise Stopped(failure.position, failure.event_id, failure.topic, failure.cause) from failure
        except Fenced as fenced:
            # Our turn is still ours: others took the place of the tables, or somebody catches up. Readers wait for us.
            log.info("projector goes on from where its tables stand", projector=projector.name, because=str(fenced))
            continue
        except UNFIT as error:
            if one_by_one:
                raise _stopped_by(error, ledger, connection, projector) from error
            # One event spoils the whole batch; one by one, everything before it is folded.
            one_by_one = BATCH
            continue
        if failed_at is not None and step.position >= failed_at:
            # projection_failures_pkey
            connection.execute("delete from projection_failures where projector = %s", (projector.name,))
            failed_at = None
        elif not step.more:
            # There is no such event any more: nothing to look at alone.
            failed_at = None
        one_by_one = one_by_one - 1 if one_by_one and step.more else 0
        alone = one_by_one > 0


def _stopped_by(error: Exception, ledger: Ledger, connection: psycopg.Connection, projector: Projector[Any]) -> Stopped:
    if isinstance(error, UnreadableEvent):
        return Stopped(error.position, None, error.topic, error)
    event = ledger.read(checkpoint(connection, projector.name), 1)[0]
    return Stopped(event.position, event.event_id, event.event.TOPIC, error)


def _failed_at(connection: psycopg.Connection, name: str) -> int | None:
    # projection_failures_pkey
    row = connection.execute("select position from projection_failures where projector = %s", (name,)).fetchone()
    return None if row is None else int(row[0])


def _record(conninfo: str, projector: str, stopped: Stopped, stop: threading.Event) -> None:
    where = {"position": stopped.position, "event_id": str(stopped.event_id), "topic": stopped.topic}
    log.error("projector stopped", projector=projector, **where, error=repr(stopped.cause))
    # A failure that nobody is told of would be the worst one, so this is tried for as long as it takes.
    while not stop.is_set():
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                # projection_failures_pkey
                connection.execute(
                    "insert into projection_failures (projector, position, event_id, topic, error, failed_at)"
                    " values (%s, %s, %s, %s, %s, now())"
                    " on conflict (projector) do update set position = excluded.position, event_id = excluded.event_id,"
                    " topic = excluded.topic, error = excluded.error, failed_at = excluded.failed_at",
                    (projector, stopped.position, stopped.event_id or UUID(int=0), stopped.topic, repr(stopped.cause)),
                )
            return
        except psycopg.Error as error:
            log.warning("the failure is not recorded yet", projector=projector, error=str(error))
            stop.wait(RETRY_SECONDS)


def _wake(conninfo: str, groups: ProjectorGroups, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            with psycopg.connect(conninfo, autocommit=True, application_name="modledger listener") as connection:
                connection.execute("listen ledger")
                while not stop.is_set():
                    for _ in connection.notifies(timeout=0.5, stop_after=1):
                        groups.wake()
        except psycopg.Error as error:
            log.warning("listener starts over", error=str(error))
            stop.wait(RETRY_SECONDS)


def catch_up(ledger: Ledger, conninfo: str, projectors: Iterable[Projector[Any]]) -> int:
    """Folds everything that the ledger holds now into each projector's table, in this thread; returns the head reached.
    Where a worker is at it already, their batches take turns. A projector that cannot take an event is left to the
    worker, which stops there visibly. Raises psycopg.Error and LedgerUnavailable."""
    head = ledger.head()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        look_up_by_index(connection)
        left = list(projectors)
        stands = standings(connection, [projector.name for projector in left])
        reached = {name: stand.position or 0 for name, stand in stands.items()}
        while left := [projector for projector in left if reached[projector.name] < head]:
            try:
                joint = advance_together(connection, left, ledger, BATCH)
                reached |= {name: stand.position or 0 for name, stand in joint.stands.items()}
                alone = [projector for projector in left if projector.name in joint.left]
            except UNFIT:
                alone = list(left)
            for projector in alone:
                try:
                    with suppress(Fenced):
                        reached[projector.name] = advance(connection, projector, ledger, BATCH).position
                except (FoldFailed, Superseded, *UNFIT) as error:
                    log.warning("projector cannot catch up", projector=projector.name, error=str(error))
                    left.remove(projector)
    return head

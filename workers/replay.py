"""Runs rebuilds (projections/rebuild.py): one process at a time where it has to be one, as many as wanted elsewhere."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import structlog
from psycopg import sql

from modledger.domain.ledger import Ledger
from modledger.projections.catalog import create_missing, replaceable
from modledger.projections.projector import Projector, fingerprint
from modledger.projections.rebuild import (
    ACTIVE,
    Replay,
    abort,
    beside,
    create_replay,
    current,
    drop,
    place_of,
    replays,
)
from modledger.projections.rebuild_folding import fold_parts
from modledger.projections.rebuild_steps import Followed, finish, promote
from modledger.workers.collector import collected_seldom
from modledger.workers.replay_progress import of_rebuild, watched
from modledger.workers.turn import end_turn, is_taken, take_free_turn, wait_for_turn

log = structlog.get_logger()


class Stopped(Exception):
    """Told to stop before the end; what is done is kept, and the same command goes on from there."""


def run_replay(
    ledger: Ledger, conninfo: str, projector: Projector[Any], stop: threading.Event, *, processes: int = 1
) -> Replay:
    """Brings the rebuild of the projector to ``verified``, with ``processes`` (≥ 1) processes of which this is one; no
    more than there are parts to fold. Others may run at the same time; whoever is last to fold finishes, and the others
    wait for it.

    Raises ReplayRefused, ReplayAborted, ReplayFailed, Stopped, LedgerUnavailable and psycopg.Error.
    """
    helping = min(processes, _parts_left(conninfo, projector.name)) - 1
    with _helpers(["run", projector.name, "--helping"], helping):
        fold_parts(conninfo, [projector], ledger, stop)
    return _finish(ledger, conninfo, projector, stop)


def run_replays(
    ledger: Ledger, conninfo: str, projectors: Sequence[Projector[Any]], stop: threading.Event, *, processes: int = 1
) -> list[Replay]:
    """As ``run_replay``, of several: they are folded together, and then finished by as many processes at once."""
    with _helpers(["all", "--helping"], processes - 1):
        fold_parts(conninfo, projectors, ledger, stop)
        if not stop.is_set():
            finish_free(ledger, conninfo, projectors, stop, alone=processes == 1)
        with psycopg.connect(conninfo, autocommit=True, application_name="modledger replay") as connection:
            return [
                _verified(connection, projector) or _finish(ledger, conninfo, projector, stop)
                for projector in projectors
            ]


def finish_free(
    ledger: Ledger, conninfo: str, projectors: Sequence[Projector[Any]], stop: threading.Event, *, alone: bool
) -> None:
    """Finishes the rebuilds that nobody else is at, one after the other, the longest first, so that several processes
    end at about the same time; ``alone``: no other process does so. Raises as ``run_replay``."""
    with psycopg.connect(conninfo, autocommit=True, application_name="modledger replay") as connection:
        for projector in sorted(projectors, key=partial(_entries, connection), reverse=True):
            name = f"replay {projector.name}"
            if stop.is_set() or _verified(connection, projector) or not take_free_turn(connection, name):
                continue
            between = partial(_unless_stopped, projector.name, stop)
            finish(conninfo, projector, ledger, _followed(projector), between, alone=alone)
            end_turn(connection, name)


def _entries(connection: psycopg.Connection[Any], projector: Projector[Any]) -> int:
    """About how many entries of indexes there are to make, by which it can be told which takes longest."""
    indexes = sum(1 + len(table.indexes) + len(table.fragments) for table in (projector.table, *projector.beside))
    return indexes * current(connection, place_of(connection, projector.name), projector).rows


def _verified(connection: psycopg.Connection, projector: Projector[Any]) -> Replay | None:
    """The rebuild, where it has come so far already. Raises ReplayRefused when there is none."""
    found = current(connection, place_of(connection, projector.name), projector)
    return found if found.state in ("verified", "live") else None


def _finish(ledger: Ledger, conninfo: str, projector: Projector[Any], stop: threading.Event) -> Replay:
    with turn(conninfo, projector.name, stop):
        return finish(conninfo, projector, ledger, _followed(projector), partial(_unless_stopped, projector.name, stop))


def stopped(projector: str) -> Stopped:
    """What there is to say of a rebuild that was stopped."""
    return Stopped(f"the rebuild of {projector} was stopped: run it again to go on")


def _unless_stopped(projector: str, stop: threading.Event) -> None:
    if stop.is_set():
        raise stopped(projector)


def _followed(projector: Projector[Any]) -> Followed:
    return partial(is_taken, name=f"projector {projector.name}")


def promote_replay(ledger: Ledger, conninfo: str, projector: Projector[Any], stop: threading.Event) -> Replay:
    """Puts the verified rebuild in the place of what is read; raises as ``run_replay``."""
    with turn(conninfo, projector.name, stop):
        return promote(conninfo, projector, ledger)


@contextmanager
def turn(conninfo: str, projector: str, stop: threading.Event) -> Iterator[None]:
    """What only one process may do at a time for that projector, or for ``all``; the others wait. Raises Stopped."""
    with psycopg.connect(conninfo, autocommit=True, application_name=f"modledger replay {projector}") as connection:
        if not wait_for_turn(connection, f"replay {projector}", stop):
            raise stopped(projector)
        yield


def _parts_left(conninfo: str, projector: str) -> int:
    with beside(conninfo, projector) as (connection, place):
        # replay_parts_pkey
        found = connection.execute(
            sql.SQL("select count(*) from {} where projector = %s and not finished").format(
                place.at_home("replay_parts")
            ),
            (projector,),
        ).fetchone()
    assert found is not None
    return int(found[0])


@contextmanager
def _helpers(arguments: Sequence[str], count: int) -> Iterator[None]:
    """Further processes, none where ``count`` is below 1, which do what there is to do. What one cannot do is taken up
    by another process, which then tells of it: so nobody reads what they say."""
    helpers = [
        subprocess.Popen(
            [sys.executable, "-m", "modledger.workers", "replay", *arguments],
            env=os.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for helper in helpers:
            helper.terminate()
            helper.wait()


def rebuild_outdated(
    ledger: Ledger, conninfo: str, projectors: Sequence[Projector[Any]], stop: threading.Event
) -> list[str]:
    """Rebuilds the read models whose tables another version of the program made, beside those tables, and puts them in
    their place: processes of the other version go on with theirs until that moment. Answers their names.

    Goes on where an earlier call was killed; of two calls at once the second waits. Tells on standard error how far it
    is. Raises as ``run_replay``.
    """
    rebuilt = []
    with (
        psycopg.connect(conninfo, autocommit=True, application_name="modledger migrate") as connection,
        collected_seldom(),
    ):
        if not wait_for_turn(connection, "rebuild outdated", stop):
            raise Stopped("the rebuild of the read tables was stopped: migrate again to go on")
        for projector in projectors:
            if projector.name not in replaceable(connection, [projector]):
                continue
            log.info("rebuilding the read tables of another version", projector=projector.name)
            if _begin(connection, conninfo, projector, ledger):
                with watched(projector.name, partial(of_rebuild, conninfo, ledger, projector.name)):
                    run_replay(ledger, conninfo, projector, stop)
                if stop.is_set():
                    raise Stopped(f"the rebuild of {projector.name} was stopped: migrate again to go on")
                promote_replay(ledger, conninfo, projector, stop)
                drop(conninfo, projector.name)
            rebuilt.append(projector.name)
    return rebuilt


def _begin(connection: psycopg.Connection, conninfo: str, projector: Projector[Any], ledger: Ledger) -> bool:
    """Whether a rebuild of this version is there, begun now or earlier. Where the role may make no schema, the tables
    are made anew in their place instead."""
    for one in replays(connection, place_of(connection, projector.name), projector.name):
        if one.state in ACTIVE and one.fingerprint == fingerprint(projector):
            return True
        if one.state in ACTIVE:
            abort(conninfo, projector.name)
    try:
        create_replay(conninfo, projector, ledger)
    except psycopg.errors.InsufficientPrivilege as error:
        log.warning("no rebuild beside: the tables are empty for a while", projector=projector.name, error=str(error))
        create_missing(connection, [projector])
        return False
    return True

"""Which projectors of a process go together: one of them leads the wave (projections/wave.py), the others wait aboard.

Each keeps its turn, and its connection that holds it, while another folds for it. Whoever cannot go along is sent home
to take its next step alone, and comes aboard again.
"""

import select
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
import psycopg
import structlog

from modledger.domain.ledger import Ledger
from modledger.projections.projector import Projector, checkpoint
from modledger.projections.wave import Wave, advance_together

log = structlog.get_logger()

POLL_SECONDS = 0.25
# How long all wait for a table that somebody has locked; from then on only the one whose table it is.
LOCK_PATIENCE = "250ms"


class _Place(msgspec.Struct, eq=False):
    """A projector's place aboard, with the connection that holds its turn; ``home``: it has to leave it, and ``alone``:
    then to take a step by itself."""

    projector: Projector[Any]
    connection: psycopg.Connection
    home: threading.Event
    alone: bool = False


class _Boat(msgspec.Struct, eq=False):
    """Who goes together, from ``position`` on; ``arriving`` comes along with the next step."""

    position: int
    aboard: list[_Place]
    arriving: list[_Place]
    bell: threading.Event


class Crew:
    """The projectors at work in a process. ``limit`` (≥ 1): how many events are folded at once, and how many positions
    somebody may be behind or ahead who comes aboard. Its methods are for any thread."""

    def __init__(self, ledger: Ledger, limit: int, stop: threading.Event) -> None:
        self._ledger = ledger
        self._limit = limit
        self._stop = stop
        self._lock = threading.Lock()
        self._boats: list[_Boat] = []

    def ring(self) -> None:
        """There is something new in the ledger."""
        with self._lock:
            for boat in self._boats:
                boat.bell.set()

    def go_along(self, connection: psycopg.Connection, projector: Projector[Any]) -> bool:
        """Has the projector go on with the others, or leads them; until it has to take a step alone, which it answers,
        or to come aboard again, or all stop. Nobody else may use the connection. Raises psycopg.Error."""
        place = _Place(projector, connection, threading.Event())
        boat = self._come_aboard(place, checkpoint(connection, projector.name))
        if boat is not None:
            self._lead(boat, place)
        # Where another leads, that one sends all home, whatever befalls it.
        place.home.wait()
        return place.alone

    def _come_aboard(self, place: _Place, position: int) -> _Boat | None:
        """Answers the boat that is to be led from there; None where somebody leads one already."""
        with self._lock:
            for boat in self._boats:
                if abs(boat.position - position) <= self._limit:
                    boat.arriving.append(place)
                    boat.bell.set()
                    return None
            boat = _Boat(position, [place], [], threading.Event())
            self._boats.append(boat)
            return boat

    def _lead(self, boat: _Boat, leader: _Place) -> None:
        alone = True
        try:
            leader.connection.execute("select set_config('lock_timeout', %s, false)", (LOCK_PATIENCE,))
            self._follow_the_ledger(boat, leader)
            alone = False
        except Exception as error:
            # Nothing was written. Whose error it is shows when each takes that step alone.
            names = [one.projector.name for one in boat.aboard]
            log.info("projectors go on one by one", projectors=names, because=str(error))
        finally:
            # A connection that is lost shows at its next statement.
            with suppress(psycopg.Error):
                leader.connection.execute("select set_config('lock_timeout', '0', false)")
            self._land(boat, alone=alone)

    def _follow_the_ledger(self, boat: _Boat, leader: _Place) -> None:
        step: Wave | None = None
        while leader in boat.aboard and not self._stop.is_set():
            boat.bell.clear()
            if self._take_aboard(boat):
                step = None
            lost = {one.projector.name for one in boat.aboard if one is not leader and not _is_silent(one.connection)}
            self._send_home(boat, dict.fromkeys(lost, "its connection has something to say"))
            step = advance_together(
                leader.connection,
                [one.projector for one in boat.aboard],
                self._ledger,
                self._limit,
                None if step is None else step.stands,
            )
            self._send_home(boat, step.left)
            if self._meets_another(boat, step.position):
                return
            # A notification can be lost; the poll finds what it announced, and tables that were replaced.
            if not step.more and not boat.bell.wait(POLL_SECONDS):
                step = None

    def _take_aboard(self, boat: _Boat) -> bool:
        with self._lock:
            arriving, boat.arriving = boat.arriving, []
        boat.aboard += arriving
        return bool(arriving)

    def _meets_another(self, boat: _Boat, position: int) -> bool:
        """Whether a boat is near that is further on: all change to that one."""
        with self._lock:
            boat.position = position
            return any(other is not boat and 0 <= other.position - position <= self._limit for other in self._boats)

    def _send_home(self, boat: _Boat, why: Mapping[str, str]) -> None:
        for place in [one for one in boat.aboard if one.projector.name in why]:
            log.info("projector goes on alone", projector=place.projector.name, because=why[place.projector.name])
            boat.aboard.remove(place)
            place.alone = True
            place.home.set()

    def _land(self, boat: _Boat, *, alone: bool) -> None:
        with self._lock:
            # Before anybody is home: who comes back has to find another, or to lead.
            self._boats.remove(boat)
            aboard = [*boat.aboard, *boat.arriving]
        for place in aboard:
            place.alone = alone
            place.home.set()


def _is_silent(connection: psycopg.Connection) -> bool:
    """Whether there is nothing to read on a connection that is not used: the server has not ended it."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)

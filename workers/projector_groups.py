"""Which projectors of a process advance together (projections/joint_advance.py): one of a group leads, the others wait.

Each keeps its turn, and its connection that holds it, while another folds for it. Whoever cannot go along is released
to take its next step alone, and joins again.
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
from modledger.projections.joint_advance import JointAdvance, advance_together
from modledger.projections.projector import Projector, checkpoint

log = structlog.get_logger()

POLL_SECONDS = 0.25
# How long all wait for a table that somebody has locked; from then on only the one whose table it is.
LOCK_PATIENCE = "250ms"


class _Member(msgspec.Struct, eq=False):
    """A projector in a group, with the connection that holds its turn; ``released``: it is in the group no more, and
    ``alone``: has to take a step by itself."""

    projector: Projector[Any]
    connection: psycopg.Connection
    released: threading.Event
    alone: bool = False


class _Group(msgspec.Struct, eq=False):
    """Who goes together, from ``position`` on; ``joining`` are members from the next step on. ``woken``: there is
    something to do."""

    position: int
    members: list[_Member]
    joining: list[_Member]
    woken: threading.Event


class ProjectorGroups:
    """The projectors at work in a process. ``limit`` (≥ 1): how many events are folded at once, and how many positions
    somebody who joins may be behind or ahead. Its methods are for any thread."""

    def __init__(self, ledger: Ledger, limit: int, stop: threading.Event) -> None:
        self._ledger = ledger
        self._limit = limit
        self._stop = stop
        self._lock = threading.Lock()
        self._groups: list[_Group] = []

    def wake(self) -> None:
        """There is something new in the ledger."""
        with self._lock:
            for group in self._groups:
                group.woken.set()

    def advance_with_others(self, connection: psycopg.Connection, projector: Projector[Any]) -> bool:
        """Has the projector go on with the others, or leads them; until it has to take a step alone, which it answers,
        or to join again, or all stop. Nobody else may use the connection. Raises psycopg.Error."""
        member = _Member(projector, connection, threading.Event())
        group = self._join(member, checkpoint(connection, projector.name))
        if group is not None:
            self._lead(group, member)
        # Where another leads, that one releases all, whatever befalls it.
        member.released.wait()
        return member.alone

    def _join(self, member: _Member, position: int) -> _Group | None:
        """Answers the group that is to be led from there; None where somebody leads one already."""
        with self._lock:
            for group in self._groups:
                if abs(group.position - position) <= self._limit:
                    group.joining.append(member)
                    group.woken.set()
                    return None
            group = _Group(position, [member], [], threading.Event())
            self._groups.append(group)
            return group

    def _lead(self, group: _Group, leader: _Member) -> None:
        alone = True
        try:
            leader.connection.execute("select set_config('lock_timeout', %s, false)", (LOCK_PATIENCE,))
            self._follow_the_ledger(group, leader)
            alone = False
        except Exception as error:
            # Nothing was written. Whose error it is shows when each takes that step alone.
            names = [one.projector.name for one in group.members]
            log.info("projectors go on one by one", projectors=names, because=str(error))
        finally:
            # A connection that is lost shows at its next statement.
            with suppress(psycopg.Error):
                leader.connection.execute("select set_config('lock_timeout', '0', false)")
            self._disband(group, alone=alone)

    def _follow_the_ledger(self, group: _Group, leader: _Member) -> None:
        step: JointAdvance | None = None
        while leader in group.members and not self._stop.is_set():
            group.woken.clear()
            if self._let_join(group):
                step = None
            lost = {one.projector.name for one in group.members if one is not leader and not _is_silent(one.connection)}
            self._release(group, dict.fromkeys(lost, "its connection has something to say"))
            step = advance_together(
                leader.connection,
                [one.projector for one in group.members],
                self._ledger,
                self._limit,
                None if step is None else step.stands,
            )
            self._release(group, step.left)
            if self._meets_another(group, step.position):
                return
            # A notification can be lost; the poll finds what it announced, and tables that were replaced.
            if not step.more and not group.woken.wait(POLL_SECONDS):
                step = None

    def _let_join(self, group: _Group) -> bool:
        with self._lock:
            joining, group.joining = group.joining, []
        group.members += joining
        return bool(joining)

    def _meets_another(self, group: _Group, position: int) -> bool:
        """Whether a group is near that is further on: all change to that one."""
        with self._lock:
            group.position = position
            return any(other is not group and 0 <= other.position - position <= self._limit for other in self._groups)

    def _release(self, group: _Group, why: Mapping[str, str]) -> None:
        for member in [one for one in group.members if one.projector.name in why]:
            log.info("projector goes on alone", projector=member.projector.name, because=why[member.projector.name])
            group.members.remove(member)
            member.alone = True
            member.released.set()

    def _disband(self, group: _Group, *, alone: bool) -> None:
        with self._lock:
            # Before anybody is released: who comes back has to find another, or to lead.
            self._groups.remove(group)
            members = [*group.members, *group.joining]
        for member in members:
            member.alone = alone
            member.released.set()


def _is_silent(connection: psycopg.Connection) -> bool:
    """Whether there is nothing to read on a connection that is not used: the server has not ended it."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)

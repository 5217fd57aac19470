"""How fast the projectors fold a ledger that is already there."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import psycopg
from eventsourcing.projection import ProjectionRunner

from bench.history import fill, history
from bench.measure import Effort, in_turn
from bench.peers import library
from bench.server import create_database
from bench.table import Result
from bench.world import World
from modledger.domain.envelope import NewEvent
from modledger.domain.ledger import Ledger
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import punishments
from modledger.projections.catalog import PROJECTORS, create
from modledger.projections.joint_advance import advance_together
from modledger.projections.projector import advance, checkpoint, look_up_by_index
from modledger.workers.collector import collected_seldom
from modledger.workers.migrate import migrate
from modledger.workers.runner import BATCH

# The library's runner commits once for each event: a round of ours would take it half a minute.
PEER_SHARE = 1 / 20
# How many events the library is given at once.
GROUP = 100

# What Ledger.read selects. ledger_position
COPY = """
    copy (select originator_id, originator_version, topic, state, notification_id, recorded_at from ledger
        where notification_id > {} and notification_id <= {} order by notification_id) to stdout
"""


class Ours(NamedTuple):
    """A database of ours with the history in its ledger and nothing folded."""

    ledger: Ledger
    connection: psycopg.Connection[Any]


def measure(world: World) -> dict[str, Result | str]:
    """Each round folds the next share of the ledger, so that tables grow as they really do."""
    conninfo, effort = world.scratch(), world.effort
    found = history(effort.events)
    with (
        _filled(conninfo, "catch_up_one", found) as one,
        _filled(conninfo, "catch_up_all", found) as everyone,
        # As in `modledger work`. The peer has it too.
        collected_seldom(),
    ):
        head = one.ledger.head()
        bounds = list(pairwise(head * n // effort.rounds for n in range(effort.rounds + 1)))
        peer = Peer(conninfo, effort)
        turns = {
            "punishments": _turns(bounds, lambda _, until: _fold(one, until)),
            "together": _turns(bounds, lambda _, until: _fold_together(everyone, until)),
            "copy": _turns(bounds, lambda after, until: _copy(one.connection, after, until)),
            "peer": peer.turn,
        }
        figures = in_turn(turns, effort.rounds)
    note = f"{len(found):,} events in {effort.rounds} shares, batches of {BATCH:,}; the peer {peer.share:,} a round"
    return {
        "catch-up": Result(figure=figures["punishments"], floor=figures["copy"], peer=figures["peer"], note=note),
        "catch-up all": Result(
            figure=[folded(rate) for rate in figures["together"]],
            floor=figures["copy"],
            peer=figures["peer"],
            note=f"each event counted for {len(PROJECTORS)} projections, as in rebuild; the peer's runner has one",
        ),
    }


def folded(rate: float) -> float:
    """Events a second, each counted once for each projection: the peer's runner has one."""
    return rate * len(PROJECTORS)


@contextmanager
def _filled(server: str, name: str, found: list[NewEvent]) -> Iterator[Ours]:
    conninfo = create_database(server, name)
    migrate(conninfo)
    with PostgresLedger(conninfo, os.urandom(32)) as ledger, psycopg.connect(conninfo, autocommit=True) as connection:
        fill(ledger, found)
        connection.execute("vacuum analyze ledger")
        look_up_by_index(connection)
        yield Ours(ledger, connection)


def _turns(bounds: list[tuple[int, int]], work: Callable[[int, int], None]) -> Callable[[], float]:
    """Events a second over the next share of the positions at each call."""
    shares = iter(bounds)

    def turn() -> float:
        after, until = next(shares)
        began = time.perf_counter()
        work(after, until)
        return (until - after) / (time.perf_counter() - began)

    return turn


def _fold(ours: Ours, until: int) -> None:
    reached = checkpoint(ours.connection, punishments.PROJECTOR.name)
    while reached < until:
        reached = advance(ours.connection, punishments.PROJECTOR, ours.ledger, min(BATCH, until - reached)).position


def _fold_together(ours: Ours, until: int) -> None:
    reached = checkpoint(ours.connection, punishments.PROJECTOR.name)
    while reached < until:
        reached = advance_together(ours.connection, PROJECTORS, ours.ledger, min(BATCH, until - reached)).position


def _copy(connection: psycopg.Connection[Any], after: int, until: int) -> None:
    with connection.cursor() as cursor, cursor.copy(COPY.format(after, until).encode()) as rows:
        for _ in rows:
            pass


class Peer:
    """The library's runner over a shorter history of fewer users, of the same mix and dates; a share at each turn."""

    def __init__(self, server: str, effort: Effort) -> None:
        conninfo = create_database(server, "catch_up_library")
        self.share = max(100, int(effort.events * PEER_SHARE / effort.rounds))
        self._environment = library.environment(conninfo)
        self._rest = iter(history(self.share * effort.rounds))
        with psycopg.connect(conninfo, autocommit=True) as connection:
            create(connection.cursor(), punishments.TABLE)

    def turn(self) -> float:
        """Events a second, from the runner's first event to its last commit; those that it passes over count too."""
        with library.Moderation(self._environment) as application:
            share = [library.translate(new) for new, _ in zip(self._rest, range(self.share), strict=False)]
            stored = [application.mapper.to_stored_event(event) for event in share]
            # In small groups: of some hundred kilobytes in one pipeline psycopg 3.3.9 may wait for ever, since what is
            # left unsent when it begins to read stays so. Not measured, only read afterwards.
            for first in range(0, len(stored), GROUP):
                application.recorder.insert_events(stored[first : first + GROUP])
            selected = application.recorder.select_notifications(None, 2**31, topics=library.Punishments.topics)
        runner = ProjectionRunner(
            application_class=library.Moderation,
            projection_class=library.Punishments,
            view_class=library.PunishmentsView,
            env=self._environment,
        )
        with runner:
            runner.wait(selected[-1].id, timeout=120)
            projection = runner.projection
        assert isinstance(projection, library.Punishments)
        return len(share) / (projection.done_at - projection.began_at)

"""Many more clients than a process can serve at once: whoever is too many is told so at once, and nothing else happens.

How fast that goes is measured by ``make bench-overload`` (docs/reliability.md).
"""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from bench.crowd import Came, crowd
from modledger.http.admission import LIMITS
from tests.crowds import commands, reads, reads_and_commands, require_each_once
from tests.http_client import USER, World
from tests.postgres_processes import until
from tests.serves import Serve, cookie_of, ended_after, environment_of

# Far more than ten for each of its fifteen connections to the database, and more than there are places for.
READERS, COMMANDERS = LIMITS["read"] + 70, LIMITS["command"] + 70


@pytest.fixture
def serve(world: World, tmp_path: Path) -> Iterator[Serve]:
    with ended_after([Serve(environment_of(world), tmp_path, cookie_of(world, USER))]) as (started,):
        yield started


def test_beyond_its_places_a_process_refuses_answers_probes_and_afterwards_all_is_well(
    world: World, serve: Serve
) -> None:
    came, over = Came(), threading.Event()
    readers, commanders = reads(world), commands(world)

    async def load() -> None:
        await asyncio.gather(
            crowd(serve.port, READERS, readers, over.is_set, came),
            crowd(serve.port, COMMANDERS, commanders, over.is_set, came),
        )

    clients = threading.Thread(target=lambda: asyncio.run(load()), daemon=True)
    with psycopg.connect(world.database) as held:
        # Nobody can be told apart, so every request stays where it is, until the statement's own end at the latest.
        held.execute("lock table profiles in access exclusive mode")
        clients.start()
        for kind in LIMITS:
            until(lambda kind=kind: serve.metric("modledger_http_refused_total", kind=kind) > 0)  # type: ignore[misc]
            assert serve.metric("modledger_http_admitted", kind=kind) <= LIMITS[kind]
        for probe in ("/health/live", "/health/ready", "/health"):
            # One that asks the database gives it a second, which a machine may take for itself.
            until(lambda probe=probe: serve.status(probe) == 200)  # type: ignore[misc]
        assert serve.metric("modledger_pool_waiting") <= sum(LIMITS.values())
        held.rollback()
    # Nobody leaves before what was begun is served.
    over.set()
    clients.join()
    assert came.wrong == []
    assert (len(came.took["read"]), len(came.took["command"])) >= (READERS, COMMANDERS)
    assert all(came.refused(kind) > 0 for kind in LIMITS)
    require_each_once(world, came)

    # Each is counted out right after its answer.
    for kind in LIMITS:
        until(lambda kind=kind: serve.metric("modledger_http_admitted", kind=kind) == 0)  # type: ignore[misc]
    until(lambda: serve.metric("modledger_http_requests_in_progress") == 0)
    until(lambda: serve.metric("modledger_pool_waiting") == 0)
    later = Came()
    asyncio.run(crowd(serve.port, 8, reads_and_commands(world), lambda: later.served >= 200, later))
    assert later.wrong == []
    assert {status for _, status in later.answers} == {200}
    assert "unexpected error" not in serve.output.read_text()

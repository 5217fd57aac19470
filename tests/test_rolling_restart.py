"""Two serve processes behind a balancer, restarted one after the other while they are in use: no request fails."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.crowd import Came, crowd
from tests.balancer import balancing
from tests.crowds import reads_and_commands, require_each_once
from tests.http_client import USER, World
from tests.serves import Serve, cookie_of, ended_after, environment_of

CLIENTS = 24
# It is the second signal that ends it here, so that nothing depends on how fast anybody is.
DRAIN_SECONDS = 60


@pytest.fixture
def serves() -> Iterator[list[Serve]]:
    with ended_after([]) as started:
        yield started


def test_a_rolling_restart_of_two_processes_under_load_fails_no_request_and_loses_nothing(
    world: World, serves: list[Serve], tmp_path: Path
) -> None:
    environment, cookie = environment_of(world), cookie_of(world, USER)
    came = Came()

    def start(port: int | None = None) -> Serve:
        serves.append(Serve(environment, tmp_path, cookie, port=port, drain_seconds=DRAIN_SECONDS))
        return serves[-1]

    async def restart_all(olds: list[Serve]) -> None:
        over = asyncio.Event()
        async with balancing([old.port for old in olds]) as balancer:
            clients = asyncio.create_task(crowd(balancer.port, CLIENTS, reads_and_commands(world), over.is_set, came))
            for old in olds:
                await _until_served(came, 100)
                old.stop()
                await balancer.out(old.port)
                # As if MODLEDGER_DRAIN_SECONDS were over.
                old.stop()
                assert await asyncio.to_thread(old.wait) == 0
                await asyncio.to_thread(start, old.port)
                await balancer.back(old.port)
            await _until_served(came, 100)
            over.set()
            await clients

    asyncio.run(restart_all([start(), start()]))
    assert came.wrong == []
    assert {status for _, status in came.answers} == {200}
    require_each_once(world, came)
    assert len(serves) == 4
    for serve in serves[2:]:
        assert serve.metric("modledger_http_requests_total", status="200", route="/v1/users/profile/{username}") > 0


async def _until_served(came: Came, more: int) -> None:
    wanted = came.served + more
    while True:
        if came.served >= wanted or came.wrong:
            return
        await asyncio.sleep(0.01)

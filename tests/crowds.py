"""What crowds of clients (bench/crowd.py) ask of the people of a world, and what has to be in its ledger afterwards."""

from collections import Counter
from collections.abc import Iterator
from itertools import count, cycle

from bench.crowd import Ask, Came
from modledger.domain import events
from tests.http_client import ADMIN, NAMES, OTHER_USER, World
from tests.serves import cookie_of

# Nobody knows them yet. Many, because of those who act on one person at the same time all but one have to think again.
TARGETS = range(7_000_000, 7_000_500)


def reads(world: World) -> Iterator[Ask]:
    """Of a user who never writes, so that no answer has to wait for a projector."""
    cookie = cookie_of(world, OTHER_USER)
    paths = [f"/v1/users/profile/{name}" for name in NAMES.values()] + ["/v1/users/me", "/v1/users/search?q=o"]
    return (Ask("read", path, cookie) for path in cycle(paths))


def commands(world: World) -> Iterator[Ask]:
    """Warnings of many people, each with a reason of its own."""
    cookie, to = cookie_of(world, ADMIN), "/v1/admin/punishments/user"
    return (
        Ask("command", f"{to}/{TARGETS[number % len(TARGETS)]}/warn", cookie, f"of the crowd, number {number}")
        for number in count()
    )


def reads_and_commands(world: World) -> Iterator[Ask]:
    """Three reads for each command."""
    reading, commanding = reads(world), commands(world)
    return (next(commanding) if number % 4 == 0 else next(reading) for number in count())


def require_each_once(world: World, came: Came) -> None:
    """What was acknowledged is in the ledger, once and under the id that was told, and nothing else is."""
    streams = world.ledger.load([f"user:{target}" for target in TARGETS]).values()
    warned = [
        (one.event.reason, one.position)
        for stream in streams
        for one in stream
        if isinstance(one.event, events.UserWarned)
    ]
    assert Counter(came.acknowledged) == Counter(warned)
    assert len(set(warned)) == len(warned) == len({reason for reason, _ in warned})

"""Read-your-writes: an answer is never older than what its caller has written, seen or been told (architecture.md).

Nothing is cached, so nothing has to be invalidated: a snapshot that is too old is read again when the projectors
have got there.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from litestar import Request

from modledger.http.errors import POSITION_HEADER, bad, unavailable
from modledger.http.parameters import one_header
from modledger.http.reader import Coalesced

T = TypeVar("T")

HEADER = POSITION_HEADER
# api.md §1
LONGEST_WAIT_S = 2.0
# Whoever waits looks when the loop's clock shows a multiple of these milliseconds, at the same moment as all others, so
# that they share the statement: of the first while a projector that is well gets there, then of the second.
_LOOK_MS, _LOOK_LATER_MS = 2, 10
_SOON_S = 0.03

# $1 text[] of projectors. projection_tracking_pkey
CHECKPOINTS = """
    select application_name, notification_id from projection_tracking where application_name = any($1::text[])
"""


def position_asked_for(request: Request[Any, Any, Any]) -> int:
    """The position in the request's X-Ledger-Position, 0 without one. Raises Problem 400."""
    text = one_header(request, HEADER)
    if text is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) >= 2**63:
        raise bad(f"{HEADER} must be an integer between 0 and {2**63 - 1}")
    return int(text)


async def fresh(
    read: Callable[[], Awaitable[T]],
    position_of: Callable[[T], int],
    required: Callable[[T], int],
    progress: Callable[[], Awaitable[int]],
) -> T:
    """What ``read`` answers, from a snapshot that is not below the position required of it. ``progress`` tells which
    position a new snapshot would have by now.

    Raises Problem 503 when it is still below after 2 seconds.
    """
    answer = await read()
    if position_of(answer) >= required(answer):
        return answer
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        waited = loop.time() - began
        if waited >= LONGEST_WAIT_S:
            raise unavailable(f"The read models are not yet at position {required(answer)}")
        apart = _LOOK_MS if waited < _SOON_S else _LOOK_LATER_MS
        await asyncio.sleep((apart - round(loop.time() * 1000) % apart) / 1000)
        if await progress() >= required(answer):
            answer = await read()
            if position_of(answer) >= required(answer):
                return answer


def progress_of(checkpoints: Coalesced[str], *projectors: str) -> Callable[[], Awaitable[int]]:
    """The position that all of these projectors have reached; 0 while one has not begun."""

    async def slowest() -> int:
        rows = await asyncio.gather(*(checkpoints.load(projector) for projector in projectors))
        return min(0 if row is None else row[0] for row in rows)

    return slowest

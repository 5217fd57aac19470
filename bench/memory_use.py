"""The memory of ``serve`` and ``work``, as the kernel tells it."""

from bench.load import NO_WRK, has_wrk
from bench.memory import of
from bench.processes import get, probe
from bench.reads import NAMES, VIEWERS, people_of, requests_of
from bench.table import Result
from bench.world import World

CONNECTIONS = 32


def measure(world: World) -> dict[str, Result | str]:
    """``serve`` idle is read when the product was started for this part, else it is what was read at its start."""
    product = world.product()
    serve, work = product.pids["serve"], product.pids["work"]
    probe(product.port, get("/health"))
    note = f"{world.effort.punishments:,} punishments in its ledger"
    found: dict[str, Result | str] = {
        "memory idle": Result(figure=[product.idle_mib], note="after its start and the first requests"),
        "memory serve": NO_WRK,
    }
    if has_wrk():
        people = people_of(world, VIEWERS + NAMES)
        cookies = world.sessions([(user, 0) for user, _ in people[:VIEWERS]])
        asked = requests_of([name for _, name in people[-NAMES:]], cookies)
        while world.requests < world.effort.requests:
            # A piece at a time, so that it ends soon after the last one asked for.
            world.load(product.port, asked, CONNECTIONS, min(10.0, world.effort.seconds))
        found["memory serve"] = Result(
            figure=[of(serve, "VmRSS")],
            floor=[product.idle_mib],
            note=f"{world.requests:,} requests, those of the parts before it among them; at most {of(serve, 'VmHWM')}",
        )
    found["memory work"] = Result(figure=[of(work, "VmHWM")], note=note)
    return found

"""How fast all read models are rebuilt, by the command as an operator would, and with how much memory."""

from bench import data_set
from bench.catch_up import Peer, folded
from bench.measure import in_turn
from bench.table import Result
from bench.world import World
from modledger.projections.catalog import PROJECTORS


def measure(world: World) -> dict[str, Result | str]:
    """Once: at the smaller data set now, of the run's own what its making told."""
    small, made = world.data(world.effort.beside), world.data().made
    seconds, mib = data_set.rebuild(small.folder)
    peer = in_turn({"peer": Peer(world.scratch(), world.effort).turn}, world.effort.rounds)["peer"]
    found: dict[str, Result | str] = {
        "rebuild": Result(
            figure=[folded(small.made.events / seconds)],
            peer=peer,
            note=_told(small.made.events, seconds),
        )
    }
    if made.rebuild_seconds is None or made.rebuild_mib is None:
        why = f"a data set of {made.punishments:,} punishments is folded by one process"
        return found | {"rebuild made": why, "rebuild memory": why}
    found["rebuild made"] = Result(
        figure=[folded(made.events / made.rebuild_seconds)],
        peer=peer,
        note=_told(made.events, made.rebuild_seconds),
    )
    found["rebuild memory"] = Result(figure=[made.rebuild_mib], floor=[mib], note=f"{made.events:,} events")
    return found


def _told(events: int, seconds: float) -> str:
    return (
        f"{events:,} events, each counted for {len(PROJECTORS)} projections; {seconds:.0f} s of the whole command, once"
    )

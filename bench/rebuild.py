"""How fast all read models are rebuilt, by the command as an operator would, and with how much memory."""

from bench import data_set
from bench.catch_up import Peer
from bench.measure import in_turn
from bench.table import Result
from bench.world import World


def measure(world: World) -> dict[str, Result | str]:
    """Once: at the smaller data set now, of the run's own what its making told."""
    small, made = world.data(world.effort.beside), world.data().made
    seconds, mib = data_set.rebuild(small.folder)
    peer = in_turn({"peer": Peer(world.scratch(), world.effort).turn}, world.effort.rounds)["peer"]
    found: dict[str, Result | str] = {
        "rebuild": Result(
            figure=[small.made.events / seconds],
            peer=peer,
            note=f"{small.made.events:,} events, {seconds:.0f} s of the whole command, once; the peer folds one table",
        )
    }
    if made.rebuild_seconds is None or made.rebuild_mib is None:
        why = f"a data set of {made.punishments:,} punishments is folded by one process"
        return found | {"rebuild made": why, "rebuild memory": why}
    note = f"{made.events:,} events, {made.rebuild_seconds:.0f} s, when it was made"
    found["rebuild made"] = Result(figure=[made.events / made.rebuild_seconds], peer=peer, note=note)
    found["rebuild memory"] = Result(figure=[made.rebuild_mib], floor=[mib], note=f"{made.events:,} events")
    return found

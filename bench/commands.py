"""Warnings over HTTP, beside the library's application behind the same kind of endpoint."""

import os
import time
from statistics import median
from typing import Any

from bench.append import warnings
from bench.load import NO_WRK, Load, cpu, has_wrk, shares
from bench.measure import in_turn
from bench.processes import post, probe
from bench.server import create_database
from bench.table import Result
from bench.world import NO_PEER, World, rows
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.migrate import migrate

CONNECTIONS = 32
MEMBERS = 2_000
REASON = "Repeated advertising in general"

_MEMBERS = """
    select user_id from profiles
    where username is not null and level = 0 and held = 0 and mod(user_id, 5) = 0 order by md5(user_id::text) limit %s
"""
_MODERATORS = "select user_id, level from profiles where level = 1 and held = 0 and username is not null limit %s"


def measure(world: World) -> dict[str, Result | str]:
    """Warns users whom the reads leave alone (reads.py); both contestants know all of them before."""
    if not has_wrk():
        return dict.fromkeys(("commands", "commands p99"), NO_WRK)
    data, at = world.data(), {"ours": world.product().port}
    cookies = world.sessions([(user, level) for user, level in rows(data.superuser, _MODERATORS, CONNECTIONS)])
    members = [user for (user,) in rows(data.superuser, _MEMBERS, MEMBERS)]
    warn = [
        post(f"/v1/admin/punishments/user/{user}/warn", cookies[n % len(cookies)], {"reason": REASON})
        for n, user in enumerate(members)
    ]
    if world.has_peer():
        library = create_database(data.superuser, "library_commands")
        at["peer"] = world.beside("bench.peers.commands", library, data.superuser)
        if probe(at["ours"], warn[0]).keys() != probe(at["peer"], warn[0]).keys():
            raise RuntimeError("the peer answers another thing")
    for port in at.values():
        # Streams are met, aggregates registered, connections open: not what is measured.
        world.load(port, warn, CONNECTIONS, min(2.0, world.effort.seconds))

    def load(port: int) -> Any:
        return lambda: world.load(port, warn, CONNECTIONS)

    loads: dict[str, list[Load]] = in_turn({name: load(port) for name, port in at.items()}, world.effort.rounds)
    single = [single_append(world) for _ in range(world.effort.rounds)]
    theirs = loads.get("peer", [])
    note = "; ".join(
        [
            *(
                f"{name} p50 {median(load.p50 for load in several):.1f} ms, {cpu(several)}"
                for name, several in loads.items()
            ),
            shares([one for several in loads.values() for one in several]),
            *([] if theirs else [NO_PEER]),
        ]
    )
    return {
        "commands": Result(
            figure=[load.rate for load in loads["ours"]], peer=[load.rate for load in theirs], note=note
        ),
        "commands p99": Result(
            figure=[load.p99 for load in loads["ours"]],
            floor=single,
            peer=[load.p99 for load in theirs],
            note="the single append is that of PostgresLedger.append into an empty ledger on the same server",
        ),
    }


def single_append(world: World) -> float:
    """Milliseconds of one append, median, nobody else at work; on the data set's server."""
    conninfo = create_database(world.data().superuser, "single_append")
    migrate(conninfo)
    source, took = warnings(0), []
    with PostgresLedger(conninfo, os.urandom(32), connections=1) as ledger:
        ledger.append(next(source))
        until = time.perf_counter() + max(0.2, world.effort.seconds / 2)
        while time.perf_counter() < until:
            command = next(source)
            began = time.perf_counter()
            ledger.append(command)
            took.append((time.perf_counter() - began) * 1000)
    return median(took)

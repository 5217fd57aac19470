"""Profiles over HTTP, beside their floors and the peer, on the data set of the run's size."""

import re
import subprocess
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from bench.load import MOST_SECONDS, NO_WRK, Load, cpu, has_wrk, shares
from bench.measure import in_turn
from bench.processes import get, probe
from bench.table import BARE, Result
from bench.world import NO_PEER, World, rows
from modledger.projections import profile
from modledger.workers.postgres import postgres_bin

CONNECTIONS = 32
VIEWERS = 1_000
NAMES = 20_000
# Of a script for pgbench: it has no random text, so it goes round names, each a statement of its own.
SCRIPTED = 50
PUNISHED = 20

# Viewers are nobody special and not restricted; read are others. Not those whom other parts warn, so that what is read
# is the same in each run. In no hurry.
_PEOPLE = """
    select user_id, username from profiles
    where username is not null and level = 0 and held = 0 and mod(user_id, 5) <> 0 order by md5(user_id::text) limit %s
"""
_PUNISHED = """
    select p.username from profiles p join (
        select user_id, count(*) from punishments where user_id is not null group by 1
    ) of_user using (user_id)
    where p.username is not null and p.level = 0 and mod(p.user_id, 5) <> 0
    order by abs(count - %s), md5(user_id::text) limit 200
"""
_MODERATOR = "select user_id, level from profiles where level = 1 and held = 0 and username is not null limit 1"


def measure(world: World) -> dict[str, Result | str]:
    """Raises RuntimeError where the peer answers another thing than we do."""
    if not has_wrk():
        return dict.fromkeys(("profile", "profile p50", "detail"), NO_WRK)
    port, data = world.product().port, world.data()
    people = people_of(world, VIEWERS + NAMES)
    cookies = world.sessions([(user, 0) for user, _ in people[:VIEWERS]])
    names = [name for _, name in people[-NAMES:]]
    profiles = requests_of(names, cookies)
    details = requests_of(
        [name for (name,) in rows(data.superuser, _PUNISHED, PUNISHED)],
        world.sessions([(user, level) for user, level in rows(data.superuser, _MODERATOR)]),
    )
    at = {
        "ours": port,
        "raw": world.beside("bench.floors", "raw"),
        "constant": world.beside("bench.floors", "constant"),
        BARE: world.beside("bench.floors", "row", data.superuser),
    }
    if world.has_peer():
        at["peer"] = world.beside("bench.peers.crud", data.superuser)
        for kind in (profiles, details):
            _same(port, at["peer"], kind[0])
    loads: dict[str, list[Load]] = {}

    def load(name: str, what: list[bytes], connections: int) -> Any:
        def run() -> Load:
            came = world.load(at[name], what, connections)
            loads.setdefault(f"{name} {connections}", []).append(came)
            return came

        return run

    for warmed in at.values():
        # Statements are prepared, connections open: not what is measured.
        world.load(warmed, profiles, CONNECTIONS, min(1.0, world.effort.seconds))
    many = in_turn({name: load(name, profiles, CONNECTIONS) for name in at}, world.effort.rounds)
    one = in_turn({name: load(name, profiles, 1) for name in at if name in ("ours", BARE, "peer")}, world.effort.rounds)
    detailed = in_turn(
        {name: load(name, details, CONNECTIONS) for name in at if name in ("ours", "peer")}, world.effort.rounds
    )
    statement = [
        pgbench(data.superuser, names, world.folder(), world.effort.seconds) for _ in range(world.effort.rounds)
    ]
    by = shares([one for several in loads.values() for one in several])
    missing = None if "peer" in at else NO_PEER

    def note(found: dict[str, list[Load]]) -> str:
        told = [
            f"{name} p50 {_ms(several, 'p50')}, p99 {_ms(several, 'p99')} ms, {cpu(several)}"
            for name, several in found.items()
        ]
        return "; ".join([*told, by, *([missing] if missing else [])])

    return {
        "profile": Result(
            figure=_rates(many["ours"]),
            floor=_rates(many["constant"]),
            peer=_rates(many.get("peer", [])),
            others={BARE: _rates(many[BARE]), "raw ASGI": _rates(many["raw"]), "pgbench": statement},
            note=note(many),
        ),
        "profile p50": Result(
            figure=[load.p50 for load in one["ours"]],
            floor=[load.p50 for load in one[BARE]],
            peer=[load.p50 for load in one.get("peer", [])],
            note=note(one),
        ),
        "detail": Result(
            figure=_rates(detailed["ours"]),
            floor=_rates(many["constant"]),
            peer=_rates(detailed.get("peer", [])),
            note=note(detailed),
        ),
    }


def people_of(world: World, most: int) -> list[tuple[int, str]]:
    """Ids and names of users who are nobody special, in an order that says nothing."""
    return [(user, name) for user, name in rows(world.data().superuser, _PEOPLE, most)]


def requests_of(names: list[str], cookies: list[str]) -> list[bytes]:
    """Each name by the next viewer, in an order that says nothing."""
    shuffled = Random(1).sample(names, len(names))
    return [get(f"/v1/users/profile/{quote(name)}", cookies[n % len(cookies)]) for n, name in enumerate(shuffled)]


def _same(port: int, peer: int, request: bytes) -> None:
    ours, theirs = probe(port, request), probe(peer, request)
    if ours != theirs:
        raise RuntimeError(f"the peer answers another thing\n{ours}\n{theirs}")


def _rates(loads: list[Load]) -> list[float]:
    return [load.rate for load in loads]


def _ms(loads: list[Load], of: str) -> str:
    values = sorted(getattr(load, of) for load in loads)
    return f"{values[len(values) // 2]:.1f}"


def pgbench(conninfo: str, names: list[str], folder: Path, seconds: float, clients: int = CONNECTIONS) -> float:
    """How often a second pgbench, by that many prepared connections, reads a profile's row by name."""
    script = folder / "profile.sql"
    # profiles_name, user_activity_pkey
    statement = (
        f"select a.last_activity_at, {profile.SHOWN} from profiles p left join user_activity a"
        " on a.user_id = p.user_id where p.username_key = '{}' order by p.named_at desc, p.user_id limit 1;\n"
    )
    keys = [profile.name_key(name).replace("'", "''") for name in names[:SCRIPTED]]
    script.write_text("".join(statement.format(key) for key in keys))
    return len(keys) * run_pgbench(conninfo, script, clients, seconds)


def run_pgbench(conninfo: str, script: Path, clients: int, seconds: float) -> float:
    """Transactions a second, statements prepared; in more time where none of them ends in so little, up to a minute.
    Less than a second is one transaction of each client. Raises RuntimeError when one failed."""
    whole = max(1, round(seconds))
    until = f"--time={whole}" if seconds >= 1 else "--transactions=1"
    said = subprocess.run(
        [
            postgres_bin(None) / "pgbench",
            *("--no-vacuum", "--protocol=prepared", f"--file={script}"),
            *(f"--client={clients}", f"--jobs={min(clients, 2)}", until),
            conninfo,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "actually processed: 0\n" in said.stdout and whole < MOST_SECONDS:
        return run_pgbench(conninfo, script, clients, 2 * whole)
    found = re.search(r"^tps = ([0-9.]+)", said.stdout, re.MULTILINE)
    if said.returncode or found is None or "failed transactions: 0 " not in said.stdout:
        raise RuntimeError(f"pgbench says:\n{said.stdout}\n{said.stderr}")
    return float(found[1])

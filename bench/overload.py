"""``make bench-overload``: what is left of a process's throughput when ten times as many clients come as it has
connections for their reads and commands, and when nearly as many come as can be connected to it.

For each kind of work it looks for the number of clients (8 … 128) that gets most answers a second, then measures that
and the others in turn; of the largest crowd also one that comes again at once instead of waiting as ``Retry-After``
says. One ``modledger up`` on the demo data, durable. Ends with status 1 where less than 80 % is left with ten times as
many, or where any answer is neither served nor 503 with ``Retry-After``.
"""

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count, cycle
from os import getloadavg
from pathlib import Path
from random import Random
from urllib.parse import quote

import msgspec
import psycopg
import uvloop

from bench.crowd import Ask, Came, crowd
from bench.measure import in_turn, machine
from bench.processes import free_port, python, token_of, wait
from bench.replay_under_load import Product
from modledger.domain.settings import Settings

LEVELS = (8, 16, 32, 64, 128)
TEN_TIMES = 10 * (Settings().read_connections + Settings().write_connections)
# Beyond workers/listening.py's CONNECTIONS a client would wait for another one to go.
CROWD = 1000
LEAST = 0.8
# Connections, prepared statements, a first look at everything.
WARM_SECONDS = 1.0
Works = dict[str, Callable[[], Iterator[Ask]]]


class Level(msgspec.Struct, kw_only=True):
    """So many clients, and what came of them in each round. ``rates``: served answers a second."""

    clients: int
    patient: bool = True
    rates: list[float] = []
    came: Came = msgspec.field(default_factory=Came)
    generator_cpu: float = 0.0

    @property
    def rate(self) -> float:
        """The median."""
        return statistics.median(self.rates)

    def run(self, port: int, work: Iterator[Ask], seconds: float) -> float:
        """One more round."""
        cpu, began = _cpu(), time.perf_counter()
        rate = uvloop.run(self._load(port, work, seconds))
        self.rates.append(rate)
        self.generator_cpu = max(self.generator_cpu, (_cpu() - cpu) / (time.perf_counter() - began))
        return rate

    async def _load(self, port: int, work: Iterator[Ask], seconds: float) -> float:
        over = asyncio.Event()
        clients = asyncio.create_task(crowd(port, self.clients, work, over.is_set, self.came, patient=self.patient))
        await asyncio.sleep(min(WARM_SECONDS, seconds))
        before, began = self.came.served, time.perf_counter()
        await asyncio.sleep(seconds)
        rate = (self.came.served - before) / (time.perf_counter() - began)
        over.set()
        await clients
        return rate

    def line(self, name: str, best: float) -> str:
        """A row of the table, to paste."""
        took = sorted(self.came.took["read"] + self.came.took["command"])
        refused = sum(self.came.refused(kind) for kind in ("read", "command"))
        who = "" if self.patient else ", that come again at once"
        return (
            f"| {name} | {self.clients}{who} | {self.rate:,.0f} | {self.rate / best:.0%} |"
            f" {refused / max(1, refused + len(took)):.0%} | {_of(took, 50):,.0f} | {_of(took, 99):,.0f} |"
            f" {_of(took, 100):,.0f} |"
        )


def measure(port: int, works: Works, rounds: int, seconds: float) -> tuple[list[str], list[str]]:
    """The rows of the table, and what was not as it has to be."""
    lines: list[str] = []
    wrong: list[str] = []
    for name, work in works.items():
        found = [Level(clients=clients) for clients in LEVELS]
        for level in found:
            level.run(port, work(), seconds)
        best = Level(clients=max(found, key=lambda level: level.rate).clients)
        many = Level(clients=TEN_TIMES)
        levels = [best, many, Level(clients=CROWD), Level(clients=CROWD, patient=False)]
        in_turn({str(n): _round(one, port, work, seconds) for n, one in enumerate(levels)}, rounds)
        lines += [level.line(name, best.rate) for level in levels]
        for level in (*found, *levels):
            wrong += level.came.wrong[:3]
            print(
                f"{name}, {level.clients} clients: {level.rates}, generator {level.generator_cpu:.0%}", file=sys.stderr
            )
        if (left := many.rate / best.rate) < LEAST:
            wrong.append(f"{name}: {left:.0%} is left with {many.clients} clients, less than {LEAST:.0%}")
    return lines, wrong


def _round(level: Level, port: int, work: Callable[[], Iterator[Ask]], seconds: float) -> Callable[[], float]:
    return lambda: level.run(port, work(), seconds)


def _of(took: list[float], of_hundred: int) -> float:
    return took[min(len(took) - 1, len(took) * of_hundred // 100)] if took else 0.0


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def works_on(database: str, user: str, admin: str) -> Works:
    """Profiles by name, warnings under an Idempotency-Key each, and four of the one for each of the other."""
    with psycopg.connect(database) as connection:
        # Once, over the whole of a small table.
        people = connection.execute(
            "select user_id, username from profiles where level = 0 and username is not null order by user_id"
        ).fetchall()
    rng = Random(1)
    rng.shuffle(people)
    numbers = count()

    def reads() -> Iterator[Ask]:
        return (Ask("read", f"/v1/users/profile/{quote(name)}", user) for _, name in cycle(people))

    def commands() -> Iterator[Ask]:
        to = "/v1/admin/punishments/user"
        return (Ask("command", f"{to}/{of}/warn", admin, f"one of many {next(numbers)}") for of, _ in cycle(people))

    def mixed() -> Iterator[Ask]:
        reading, commanding = reads(), commands()
        return (next(commanding if n % 5 == 0 else reading) for n in count())

    return {"profiles": reads, "warnings": commands, "both, 4 to 1": mixed}


def main() -> int:
    """Prints the table, and the machine and versions that it was made on."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each number of clients in each round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modledger-bench-") as folder:
        product, log = Product(Path(folder) / "data", free_port()), Path(folder) / "up.log"
        with python(["-m", "modledger.workers", "up"], log, product.environment) as process:
            # The last words of its welcome.
            wait(lambda: "Ctrl-C" in log.read_text(), process, log)
            ran_on = machine(product.database)
            user, admin = (token_of(product.folder / "cookies" / f"{role}.txt") for role in ("user", "admin"))
            works = works_on(product.database, user, admin)
            lines, wrong = measure(product.port, works, given.rounds, given.seconds)
    print("| work | clients | served/s | of best | refused | p50 ms | p99 ms | most ms |\n|---|---:|" + "---:|" * 6)
    print("\n".join(lines))
    print(", ".join(f"{name} {value}" for name, value in ran_on.items()))
    print(f"medians of {given.rounds} rounds of {given.seconds:g} s, load {getloadavg()[0]:.1f} at the end")
    for one in wrong:
        print(f"**WRONG** {one}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

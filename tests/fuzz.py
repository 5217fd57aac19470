"""``python -m tests.fuzz``: made-up requests to every operation, by everybody, for as long as one likes.

Goes through all operations again and again, each time with other requests, on a PostgreSQL of its own. Exit status 1
when an answer was none that /schema allows.
"""

import argparse
import logging
import secrets
import sys
import time
from collections import Counter

import structlog
from rich.console import Console
from rich.table import Table

from tests.fuzzing import OPERATIONS, Fuzzed
from tests.http_client import started
from tests.http_world import world_without_pytest

EXAMPLES = 10


def main() -> None:
    """Fuzzes, prints what was asked and answered, and every wrong answer as soon as it is found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long; every operation gets at least one round")
    parser.add_argument("--seed", type=int, default=None, help="to ask the same again; otherwise a new one")
    parser.add_argument("operations", nargs="*", metavar="operation", help="operation ids; otherwise all")
    given = parser.parse_args()
    if unknown := set(given.operations) - OPERATIONS.keys():
        parser.error(f"no operation {', '.join(sorted(unknown))}")
    seed = secrets.randbits(32) if given.seed is None else given.seed
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(f"seed {seed}", flush=True)
    with world_without_pytest("fuzz") as world, started(world):
        fuzzed = Fuzzed(world)
        fuzz(fuzzed, sorted(given.operations or OPERATIONS), seed, given.minutes * 60)
    report(fuzzed, seed)
    sys.exit(1 if fuzzed.found else 0)


def fuzz(fuzzed: Fuzzed, names: list[str], seed: int, seconds: float) -> None:
    """Rounds over all the operations until the time is over; the first is always completed."""
    began, rounds = time.monotonic(), 0
    while rounds == 0 or time.monotonic() - began < seconds:
        for name in names:
            if rounds and time.monotonic() - began >= seconds:
                return
            said = len(fuzzed.found)
            fuzzed.fuzz(name, EXAMPLES, seed + rounds)
            for one in fuzzed.found[said:]:
                print(f"\nround {rounds}, seed {seed + rounds}: {one}", flush=True)
        rounds += 1


def report(fuzzed: Fuzzed, seed: int) -> None:
    """The table: each operation with its calls, its answers by class, and the share that did what was asked: of all
    calls, and of those whose asker was let in."""
    table = Table("operation", "calls", "2xx", "3xx", "4xx", "5xx", "2xx of calls", "of those let in")
    total: Counter[int] = Counter()
    for name, statuses in sorted(fuzzed.statuses.items()):
        if not statuses:
            continue
        total.update(statuses)
        table.add_row(name, *_cells(statuses))
    table.add_section()
    table.add_row(f"{len(table.rows)} operations", *_cells(total))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    exact = ", ".join(f"{status}: {count}" for status, count in sorted(total.items()))
    print(f"statuses {exact}\nseed {seed}, {len(fuzzed.found)} findings")


def _cells(statuses: Counter[int]) -> list[str]:
    classes = Counter(
        {kind: sum(n for status, n in statuses.items() if status // 100 == kind) for kind in (2, 3, 4, 5)}
    )
    calls = statuses.total()
    let_in = calls - statuses[401] - statuses[403]
    shares = [f"{classes[2] / of:.0%}" if of else "" for of in (calls, let_in)]
    return [str(calls), *(str(classes[kind]) for kind in (2, 3, 4, 5)), *shares]


if __name__ == "__main__":
    main()

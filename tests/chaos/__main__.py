"""``python -m tests.chaos``: rounds of load under faults, for as long as one likes. Exit status 1 for any finding.

Every few rounds begin on a new installation, so that looking through the whole ledger stays quick.
"""

import argparse
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from tests.chaos.faults import FAULTS, LONG, SHORT, Pace, deck, possible
from tests.chaos.installation import installed
from tests.chaos.rounds import Rounds, Tally, Unwell, left_behind

ROUNDS_EACH = 10
ROUND_SECONDS = 4.0
FAULTS_EACH = 2


def main() -> None:
    """Plays rounds, and prints each and what is wrong as soon as it is found."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="no round begins later; there is at least one")
    parser.add_argument("--seed", default=None, help="to send and to break the same again; otherwise a new one")
    parser.add_argument("--short", action="store_true", help="the faults as short as in the tests")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for lists and logs, also of sound rounds")
    parser.add_argument("faults", nargs="*", metavar="fault", help=f"otherwise all: {', '.join(FAULTS)}")
    given = parser.parse_args()
    if unknown := set(given.faults) - FAULTS.keys():
        parser.error(f"no fault {', '.join(sorted(unknown))}")
    seed = given.seed or str(secrets.randbits(32))
    # What was started and mounted is put away, whoever ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed {seed}", flush=True)
    tally = Tally()
    until = time.monotonic() + given.minutes * 60
    try:
        play(tally, seed, until, SHORT if given.short else LONG, given.faults, given.keep)
    finally:
        print(f"seed {seed}: {tally}", flush=True)
    sys.exit(1 if tally.findings else 0)


def play(tally: Tally, seed: str, until: float, pace: Pace, only: list[str], keep: Path | None) -> None:
    """Rounds until then; a round that was begun is finished. Raises Unwell, and leaves lists and logs behind for that
    and for every finding; with ``keep`` those of every round, in there."""
    rng = Random(seed)
    kinds: Iterator[str] | None = None
    while tally.rounds == 0 or time.monotonic() < until:
        with installed() as one:
            if kinds is None:
                there = only or possible(one)
                if missing := FAULTS.keys() - set(there):
                    print(f"left out: {', '.join(sorted(missing))}", flush=True)
                kinds = deck(there, rng)
            rounds = Rounds(one, seed, tally)
            for _ in range(ROUNDS_EACH):
                number, began = tally.rounds, time.monotonic()
                chosen = list(islice(kinds, FAULTS_EACH))
                findings: list[object] = []
                try:
                    findings += rounds.play(number, chosen, ROUND_SECONDS, pace)
                except Unwell as unwell:
                    findings.append(unwell)
                    raise
                finally:
                    if findings:
                        to = Path(tempfile.mkdtemp(prefix=f"modledger-chaos-{seed}-{number}-"))
                        left_behind(one, to)
                        print(*findings, f"lists and logs are in {to}", sep="\n", flush=True)
                print(f"round {number}: {', '.join(chosen)}; {time.monotonic() - began:.1f} s", flush=True)
                if keep is not None:
                    left_behind(one, keep / f"from {number - number % ROUNDS_EACH}")
                if time.monotonic() >= until:
                    return


if __name__ == "__main__":
    main()

"""One writer of its own process: ``python -m bench.writers {ours,library} DATABASE-URL FIRST-USER SECONDS``.

Waits for a line on standard input, appends for that long, and prints how many events and how many seconds.
"""

import os
import sys
import time
from collections.abc import Callable
from itertools import count

from bench.append import stored, warnings
from bench.peers.library import recorder
from modledger.domain.postgres_ledger import PostgresLedger


def main(kind: str, conninfo: str, first_user: str, seconds: str) -> None:
    if kind == "ours":
        with PostgresLedger(conninfo, bytes.fromhex(os.environ["BENCH_KEY"]), connections=1) as ledger:
            source = warnings(int(first_user))
            ledger.append(next(source))
            _run(lambda: ledger.append(next(source)), float(seconds))
    else:
        state = bytes.fromhex(os.environ["BENCH_STATE"])
        with recorder(conninfo, create_table=False) as library:
            events = stored(state)
            library.insert_events([next(events)])
            _run(lambda: library.insert_events([next(events)]), float(seconds))


def _run(append: Callable[[], object], seconds: float) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    for done in count(1):
        append()
        if (took := time.perf_counter() - began) >= seconds:
            print(done, took, flush=True)
            return


if __name__ == "__main__":
    main(*sys.argv[1:])

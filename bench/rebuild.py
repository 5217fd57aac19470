"""How fast read models are rebuilt and verified, with how much memory, beside a catch-up of the same ledger.

``python -m bench.rebuild [events] [processes …]``; each rebuild is run by the command, as an operator would.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from pathlib import Path

import psycopg

from bench.history import fill, history
from bench.server import create_database
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.projections.rebuild import create_replay, drop
from modledger.workers.migrate import migrate
from modledger.workers.postgres import EmbeddedPostgres
from modledger.workers.replay import promote_replay
from modledger.workers.runner import catch_up

KEY = bytes(range(32))


def main() -> None:
    """Prints a line for each figure."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    processes = [int(word) for word in sys.argv[2:]] or [1, 2]
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        try:
            _measure(create_database(server.attach(), "rebuild"), events, processes)
        finally:
            server.stop()
            server.detach()


def _measure(conninfo: str, events: int, processes: list[int]) -> None:
    migrate(conninfo)
    with PostgresLedger(conninfo, KEY, connections=2) as ledger:
        fill(ledger, history(events))
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("vacuum analyze ledger")
        for projector in PROJECTORS:
            began = time.perf_counter()
            catch_up(ledger, conninfo, [projector])
            _tell(f"catch up {projector.name}", events, time.perf_counter() - began)
        for count in processes:
            for projector in PROJECTORS:
                create_replay(conninfo, projector, ledger)
                seconds, peak = _run(conninfo, "replay", "run", projector.name, "--processes", str(count))
                _tell(f"rebuild {projector.name}, {count} processes", events, seconds, peak)
                began = time.perf_counter()
                promote_replay(ledger, conninfo, projector, threading.Event())
                print(f"  promoted in {(time.perf_counter() - began) * 1000:.0f} ms")
                drop(conninfo, projector.name)
        for name in ("ledger", *(projector.name for projector in PROJECTORS)):
            seconds, peak = _run(conninfo, "verify", name)
            _tell(f"verify {name}", events, seconds, peak)


def _run(conninfo: str, *arguments: str) -> tuple[float, int]:
    """Seconds, and the peak memory of that process in MiB."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "modledger.workers", *arguments],
        env={**os.environ, "MODLEDGER_DATABASE_URL": conninfo, "MODLEDGER_MASTER_KEY": b64encode(KEY).decode()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # What wait4 tells is at least what this process had when it forked.
    peak = 0
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        time.sleep(0.02)
    assert process.returncode == 0, arguments
    return time.perf_counter() - began, peak


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def _tell(what: str, events: int, seconds: float, peak: int | None = None) -> None:
    memory = "" if peak is None else f", {peak} MiB"
    load = os.getloadavg()[0]
    print(f"{what}: {seconds:.1f} s, {events / seconds:,.0f} events/s{memory} (load {load:.1f})", flush=True)


if __name__ == "__main__":
    main()

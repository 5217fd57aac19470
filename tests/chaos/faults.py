"""The faults: each takes its time, and has ended when it returns."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

import psycopg

from modledger.workers.logins import OWNER, as_login
from modledger.workers.migrate import Migration, apply_sql, migrations
from tests.chaos.installation import NAMES, PATIENCE_SECONDS, ROOT, SERVERS, STEPPED, Installation
from tests.chaos.proxy import Proxy

WORKERS = NAMES[2:]
# What lies within seconds of each other's time is what a server's clock may be off by and still be of use.
FARTHEST_STEP_SECONDS = 90


class Pace(NamedTuple):
    """How long things last, in seconds: a stopped process, a hole, a full disk; how long a step of a clock."""

    stopped: float
    hole: float
    full: float
    stepped: float


LONG = Pace(stopped=10, hole=6, full=4, stepped=3)
SHORT = Pace(stopped=1.5, hole=1, full=1, stepped=0.7)

# What migrations did so far: a table, an index of the ledger, a column of a table that every request reads, and another
# body of the function by which commands enter the ledger. Each takes a lock that appends or reads wait for.
NEWER = Migration(
    9000,
    "newer",
    "0" * 64,
    """
    create table newer (a integer primary key, b text);
    create index newer_ledger on ledger (recorded_at, topic);
    alter table sessions add column newer text;
    do $$ begin execute pg_get_functiondef('ledger_append'::regproc); end $$;
    """,
)
TAKEN_BACK = """
    drop table if exists newer;
    drop index if exists newer_ledger;
    alter table sessions drop column if exists newer;
    delete from migrations where number = 9000;
"""

Fault = Callable[[Installation, Random, Pace], None]


def kill_serve(one: Installation, rng: Random, pace: Pace) -> None:
    one.processes[rng.choice(SERVERS)].kill()


def kill_work(one: Installation, rng: Random, pace: Pace) -> None:
    one.processes[rng.choice(WORKERS)].kill()


def kill_postmaster(one: Installation, rng: Random, pace: Pace) -> None:
    one.signal_postgres(signal.SIGKILL)


def kill_backend(one: Installation, rng: Random, pace: Pace) -> None:
    """The postmaster then ends all the others and recovers."""
    backends = one.backends()
    _signal(rng.sample(backends, min(1, len(backends))), signal.SIGKILL)


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def stop_serve(one: Installation, rng: Random, pace: Pace) -> None:
    _stop(one, rng.choice(SERVERS), pace)


def stop_work(one: Installation, rng: Random, pace: Pace) -> None:
    _stop(one, rng.choice(WORKERS), pace)


def _stop(one: Installation, name: str, pace: Pace) -> None:
    one.processes[name].signal(signal.SIGSTOP)
    time.sleep(pace.stopped)
    one.processes[name].signal(signal.SIGCONT)


def stop_postmaster(one: Installation, rng: Random, pace: Pace) -> None:
    """Nobody gets a new connection."""
    one.signal_postgres(signal.SIGSTOP)
    time.sleep(pace.stopped)
    one.signal_postgres(signal.SIGCONT)


def stop_backends(one: Installation, rng: Random, pace: Pace) -> None:
    """A quarter of them: perhaps the one that holds the ledger's lock, or a projector's."""
    backends = one.backends()
    chosen = rng.sample(backends, -(-len(backends) // 4))
    _signal(chosen, signal.SIGSTOP)
    time.sleep(pace.stopped)
    _signal(chosen, signal.SIGCONT)


def cut_database(one: Installation, rng: Random, pace: Pace) -> None:
    _cut(rng, list(one.proxies.values()), pace)


def cut_clients(one: Installation, rng: Random, pace: Pace) -> None:
    _cut(rng, list(one.doors.values()), pace)


def _cut(rng: Random, proxies: list[Proxy], pace: Pace) -> None:
    chosen = proxies if rng.random() < 0.3 else [rng.choice(proxies)]
    for _ in range(3):
        for proxy in chosen:
            proxy.cut()
        time.sleep(rng.uniform(0.05, 0.4))


def hole_database(one: Installation, rng: Random, pace: Pace) -> None:
    _hole(rng, list(one.proxies.values()), pace)


def hole_clients(one: Installation, rng: Random, pace: Pace) -> None:
    _hole(rng, list(one.doors.values()), pace)


def _hole(rng: Random, proxies: list[Proxy], pace: Pace) -> None:
    chosen = proxies if rng.random() < 0.2 else [rng.choice(proxies)]
    for proxy in chosen:
        proxy.hole()
    time.sleep(pace.hole)
    cutting = rng.random() < 0.5
    for proxy in chosen:
        proxy.heal(cutting=cutting)


def disk_full(one: Installation, rng: Random, pace: Pace) -> None:
    """Every byte of the file system that PostgreSQL has to itself."""
    filler = one.disk / "filler"
    until = time.monotonic() + pace.full
    try:
        with filler.open("wb", buffering=0) as file:
            while time.monotonic() < until:
                with suppress(OSError):
                    while True:
                        file.write(bytes(1 << 16))
                # What was freed meanwhile, such as a segment of the log.
                time.sleep(0.05)
    finally:
        filler.unlink(missing_ok=True)


def step_clocks(one: Installation, rng: Random, pace: Pace) -> None:
    """Back and forth, of one server and one worker; in the end they are right again."""
    for _ in range(3):
        for name in STEPPED:
            one.step_clock(name, rng.uniform(-FARTHEST_STEP_SECONDS, FARTHEST_STEP_SECONDS))
        time.sleep(pace.stepped)
    for name in STEPPED:
        one.step_clock(name, 0)


def migrate(one: Installation, rng: Random, pace: Pace) -> None:
    """What an upgrade does: the migrations, then every read model made anew beside its tables and put in their place.
    Another fault may keep it from that; the next one goes on where it was."""
    for arguments in (["migrate"], ["replay", "all", "--drop"]):
        with (one.folder / "operator.log").open("ab") as log:
            subprocess.run(
                [sys.executable, "-m", "modledger.workers", *arguments],
                cwd=ROOT,
                env=one.environment_of_operator(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )


def migrate_newer(one: Installation, rng: Random, pace: Pace) -> None:
    """The first half of an upgrade: a migration of which the programs that run know nothing. It is taken back in the
    end, since no newer program is here to take their place; until then one that was killed is refused at its start."""
    owner = as_login(one.url, OWNER)
    with suppress(psycopg.Error):
        apply_sql(owner, [*migrations(), NEWER])
        time.sleep(pace.stopped)
    take_back(owner)


def take_back(owner: str) -> None:
    """The database without the migration, if it has it, as soon as it answers."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        with suppress(psycopg.Error), psycopg.connect(owner, connect_timeout=5) as connection:
            connection.execute(TAKEN_BACK.encode())
            return
        time.sleep(0.2)


def take_over(one: Installation, rng: Random, pace: Pace) -> None:
    """Kills the worker that leads, and lets it come back only when the other has taken its place."""
    leads = [name for name in WORKERS if one.processes[name].said("clock is active")]
    leader = leads[0] if leads else rng.choice(WORKERS)
    [other] = [one.processes[name] for name in WORKERS if name != leader]
    one.processes[leader].held = True
    one.processes[leader].kill()
    until = time.monotonic() + 2 * pace.stopped
    while not other.said("clock is active") and time.monotonic() < until:
        time.sleep(0.05)
    one.processes[leader].held = False


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_serve,
        kill_work,
        kill_postmaster,
        kill_backend,
        stop_serve,
        stop_work,
        stop_postmaster,
        stop_backends,
        cut_database,
        cut_clients,
        hole_database,
        hole_clients,
        disk_full,
        step_clocks,
        migrate,
        migrate_newer,
        take_over,
    )
}


def possible(one: Installation) -> list[str]:
    """The faults that can be had on this machine."""
    return [name for name in FAULTS if name != "disk_full" or one.mounted]


def deck(names: list[str], rng: Random) -> Iterator[str]:
    """All of them in a random order, again and again, so that none is left out for long."""
    while True:
        yield from rng.sample(names, len(names))


def inject(one: Installation, kinds: list[str], rng: Random, pace: Pace) -> list[threading.Thread]:
    """Begins these faults one after the other, each perhaps while an earlier one lasts; answers their threads."""
    threads = []
    for kind in kinds:
        own = Random(rng.random())
        threads.append(threading.Thread(target=FAULTS[kind], args=(one, own, pace), name=kind, daemon=True))
        threads[-1].start()
        time.sleep(rng.uniform(0.2, 0.8))
    return threads


def end_all(one: Installation) -> None:
    """Whatever a fault has left behind is put right."""
    for proxy in (*one.proxies.values(), *one.doors.values()):
        proxy.heal(cutting=False)
    for process in one.processes.values():
        process.held = False
        process.signal(signal.SIGCONT)
    one.signal_postgres(signal.SIGCONT)
    for name in STEPPED:
        if float(one.processes[name].offset.read_text()):
            one.step_clock(name, 0)
    Path(one.disk / "filler").unlink(missing_ok=True)

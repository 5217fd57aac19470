"""Everything rebuilt on a product that is in use, and a changed byte found: the evidence behind docs/replay.md.

``python -m bench.replay_under_load [events]``: makes a demo ledger of that size, runs ``modledger up`` on it, sets
people to work over HTTP, runs ``modledger replay all`` with two processes beside them, verifies, changes one byte of
one event in SQL as superuser, and lets ``modledger seal check`` and ``modledger verify`` name its position. Prints
tables to paste, and ends with status 1 where anything is not as it has to be. Peak memory is told on Linux only.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import getloadavg
from pathlib import Path
from random import Random

import msgspec
import psycopg

from bench.measure import machine
from bench.memory import Peaks, watched
from bench.processes import free_port, token_of
from bench.sessions import Person, Session, Tally, Work, searcher, staff, viewer
from modledger.domain.subjects import ADMIN
from modledger.workers.demo import DEMO_ROLES
from modledger.workers.demo_staff import STINTS

START_SECONDS = 3600
PEOPLE = 4_000
ADMINS = [stint.user_id for stint in STINTS if stint.level == ADMIN and stint.until is None]
# In SQL, and in no hurry: the middle of the state of an event in the middle of the ledger.
_VICTIM = """
    select notification_id, length(state) / 2 from ledger
    where notification_id >= (select max(notification_id) / 2 from ledger) order by notification_id limit 1
"""
# Nobody who is punished now, and not always the same.
_PEOPLE = """
    select p.user_id, p.username from profiles as p
    where p.level = 0 and p.username is not null
        and not exists (select from punishments as q where q.user_id = p.user_id and q.open)
    order by md5(p.user_id::text) limit %s
"""


class Step(msgspec.Struct, frozen=True):
    """``events``: how many it went through."""

    what: str
    seconds: float
    events: int
    note: str = ""


class Report(msgspec.Struct, kw_only=True):
    """What came out. ``wrong`` is empty where everything is as it has to be."""

    events: int = 0
    position: int = 0
    steps: list[Step] = []
    done: dict[str, int] = {}
    wrong: list[str] = []
    peaks: dict[str, int] = {}
    machine: dict[str, str] = {}

    def add(self, what: str, seconds: float, events: int, note: str = "") -> None:
        """A step that is done, told at once: all of it takes long."""
        self.steps.append(Step(what, seconds, events, note))
        print(f"{what}: {seconds:,.1f} s, {events / seconds:,.0f} events/s {note}", file=sys.stderr, flush=True)

    def expect(self, right: bool, what: str) -> None:
        if not right:
            self.wrong.append(what)


class Product(msgspec.Struct, frozen=True):
    """An installation in a folder of its own."""

    folder: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
        return inherited | {
            "MODLEDGER_DATA_DIR": str(self.folder),
            "MODLEDGER_PORT": str(self.port),
            # Counting is part of the load; being refused is not.
            **{f"MODLEDGER_RATE_LIMIT_{kind}": "1000000" for kind in ("LOGIN", "STAFF", "PUBLIC", "BOT")},
        }

    @property
    def database(self) -> str:
        """Of the superuser. The server listens where the embedded one does."""
        lines = (self.folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()
        return f"postgresql:///modledger?host={lines[4]}&port={lines[3]}&user=postgres"

    def postgres(self) -> int:
        return int((self.folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])


def run(events: int, folder: Path, *, sessions: int = 4, pause: float = 2.0, breath: float = 0.0) -> Report:
    """All of it, in an empty folder. ``sessions``: how many of the staff write; as many again read. ``pause``: seconds
    of the load before and after the rebuild; ``breath``: of everybody between two pieces of work. Raises RuntimeError
    where a command that has to succeed does not."""
    product = Product(folder, free_port())
    report = Report()
    with watched() as peaks:
        _command(product, peaks, "migrate", 0)
        seconds, _ = _command(product, peaks, f"demo --events {events}", 0)
        report.add("modledger demo", seconds, events)
        began = time.perf_counter()
        with _up(product, peaks):
            report.add("modledger up, all projections caught up", time.perf_counter() - began, events)
            report.machine = machine(product.database)
            tally = Tally()
            with _load(product, tally, sessions, breath):
                time.sleep(pause)
                _rebuild(product, peaks, report)
                seconds, said = _command(product, peaks, "verify", None)
                report.add("modledger verify, under the load", seconds, events, _last(said))
                report.expect("difference" not in said, f"verify under the load: {said}")
                time.sleep(pause)
            report.done, report.wrong = dict(tally.done), report.wrong + tally.wrong
            _verify(product, peaks, report)
            _change(product, peaks, report)
    report.peaks = dict(sorted(peaks.mib.items()))
    report.expect(not tally.done["failed"] and not tally.done["stale"], "the load found something wrong")
    return report


def _rebuild(product: Product, peaks: Peaks, report: Report) -> None:
    began = last = time.perf_counter()
    head = _head(product)
    command = [sys.executable, "-m", "modledger.workers", "replay", "all", "--processes", "2"]
    with subprocess.Popen(
        command, env=product.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        peaks.roots[process.pid] = "replay all"
        assert process.stdout is not None
        for line in process.stdout:
            name, _, state = line.strip().partition(": ")
            if state:
                now = time.perf_counter()
                report.add(f"rebuild of {name}", now - last, head, state)
                report.expect(state.startswith("verified"), line)
                last = now
    report.expect(process.returncode == 0, f"replay all ended with {process.returncode}")
    report.add("rebuild of all, two processes, promoted", time.perf_counter() - began, head)


def _verify(product: Product, peaks: Peaks, report: Report) -> None:
    """The load is over: whatever is left is followed up first, so that the figures are of the whole."""
    report.events = _head(product)
    _command(product, peaks, "seal head", 0)
    for command in ("verify", "seal check"):
        seconds, said = _command(product, peaks, command, None)
        report.add(f"modledger {command}", seconds, report.events, _last(said))
        report.expect("difference" not in said and "position" not in said, f"{command}: {said}")


def _change(product: Product, peaks: Peaks, report: Report) -> None:
    with psycopg.connect(product.database) as connection:
        row = connection.execute(_VICTIM).fetchone()
        assert row is not None
        report.position, at = row
        connection.execute("alter table ledger disable trigger all")
        connection.execute(
            "update ledger set state = set_byte(state, %s, get_byte(state, %s) # 1) where notification_id = %s",
            (at, at, report.position),
        )
        connection.execute("alter table ledger enable trigger all")
        connection.execute("alter table ledger enable always trigger ledger_append_only")
    for command in ("seal check", "verify ledger"):
        seconds, said = _command(product, peaks, command, 1)
        told = [line for line in said.splitlines() if re.search(rf"\bposition {report.position}\b", line)]
        named = re.findall(r"\bposition (\d+)\b", said)
        report.add(f"modledger {command}, a byte changed", seconds, report.events, told[0] if told else said)
        report.expect(bool(told) and set(named) == {str(report.position)}, f"{command} named {named}: {said}")


# -- the processes


def _command(product: Product, peaks: Peaks, command: str, status: int | None) -> tuple[float, str]:
    """Seconds, and what it said. Raises RuntimeError for another exit status."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "modledger.workers", *command.split()],
        env=product.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        peaks.roots[process.pid] = command.partition(" --")[0]
        said, _ = process.communicate()
    del peaks.roots[process.pid]
    if status is not None and process.returncode != status:
        raise RuntimeError(f"modledger {command} ended with {process.returncode}:\n{said}")
    return time.perf_counter() - began, said


@contextmanager
def _up(product: Product, peaks: Peaks) -> Iterator[None]:
    log = product.folder.with_name(f"{product.folder.name}.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "modledger.workers", "up"],
            env=product.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    peaks.roots[process.pid] = "up"
    try:
        deadline = time.monotonic() + START_SECONDS
        # The last words of its welcome.
        while "Ctrl-C" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"modledger up has ended, or is not ready after {START_SECONDS} s\n{log.read_text()}"
                )
            time.sleep(0.1)
        peaks.roots[product.postgres()] = "postgres"
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        log.unlink()


@contextmanager
def _load(product: Product, tally: Tally, sessions: int, breath: float) -> Iterator[None]:
    """People at work until the block is left."""
    with psycopg.connect(product.database) as connection:
        people = [Person(*row) for row in connection.execute(_PEOPLE, (PEOPLE,)).fetchall()]
    cookies = {role: token_of(product.folder / "cookies" / f"{role}.txt") for role in DEMO_ROLES}
    writers = [(staff, _admin(product, ADMINS[n % len(ADMINS)]), people[n::sessions]) for n in range(sessions)]
    readers: list[tuple[Work, str, Sequence[Person]]] = [
        (viewer, cookies["user"], people) if n % 2 else (searcher, cookies["admin"], people) for n in range(sessions)
    ]
    over = threading.Event()
    with ThreadPoolExecutor(2 * sessions) as pool:
        tasks = [
            pool.submit(work, Session(product.port, cookie, tally, breath), tally, share, Random(number), over)
            for number, (work, cookie, share) in enumerate([*writers, *readers])
        ]
        try:
            yield
        finally:
            over.set()
        for task in tasks:
            task.result()


def _admin(product: Product, user_id: int) -> str:
    jar = product.folder / "cookies" / f"{user_id}.txt"
    command = [sys.executable, "-m", "modledger.workers", "session", str(user_id), "--cookie-jar", str(jar)]
    subprocess.run(command, env=product.environment, check=True, stdout=subprocess.DEVNULL)
    return token_of(jar)


def _head(product: Product) -> int:
    with psycopg.connect(product.database) as connection:
        row = connection.execute("select max(notification_id) from ledger").fetchone()
    assert row is not None
    return int(row[0])


def _last(said: str) -> str:
    wrong = [line for line in said.splitlines() if "difference" in line]
    return "; ".join(wrong) if wrong else "nothing found"


# -- what is printed


def render(report: Report) -> str:
    """Tables for docs/replay.md."""
    lines = ["| | seconds | events/s | |", "|---|---:|---:|---|"]
    lines += [
        f"| {one.what} | {one.seconds:,.1f} | {one.events / one.seconds:,.0f} | {one.note.replace('|', '/')} |"
        for one in report.steps
    ]
    lines += ["", "| under the load | |", "|---|---:|"]
    lines += [
        f"| {name} | {report.done.get(key, 0):,} |"
        for name, key in (
            ("reads", "reads"),
            ("commands", "commands"),
            ("asked again (503 with Retry-After)", "late"),
            ("failed", "failed"),
            ("stale", "stale"),
        )
    ]
    lines += ["", "| process | peak memory |", "|---|---:|"]
    lines += [f"| {name} | {mib:,} MiB |" for name, mib in report.peaks.items()]
    lines += ["", ", ".join(f"{name} {value}" for name, value in report.machine.items())]
    lines += [f"load {getloadavg()[0]:.1f} at the end, {report.events:,} events then"]
    lines += [f"**WRONG** {one}" for one in report.wrong]
    return "\n".join(lines)


def main() -> int:
    """Exit status 1 where something is not as it has to be."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay_under_load", description=__doc__)
    parser.add_argument("events", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=4, help="how many write; as many again read")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modledger-bench-") as folder:
        report = run(given.events, Path(folder) / "data", sessions=given.sessions)
    print(render(report))
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

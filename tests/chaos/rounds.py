"""Rounds: people to act on, a load, faults, and when all is well again the judgement."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from uuid import uuid4

import msgspec
import psycopg

from modledger.domain import commands
from modledger.domain.commands import ChangePermission, Context, RegisterUser
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor
from modledger.domain.execute import execute
from modledger.domain.ledger import Ledger, LedgerUnavailable
from modledger.http.sessions import open_session
from tests.chaos.checks import (
    Finding,
    judge_commands,
    judge_ends,
    judge_order,
    judge_reads,
    judge_tables,
    recorded_in,
    unrecorded_ends,
)
from tests.chaos.faults import Pace, end_all, inject
from tests.chaos.history import Command, History, Journal, read_history
from tests.chaos.installation import SERVERS, Installation
from tests.chaos.load import Http, Scene, Session, Staff, attempt, name_of

# An owner, two admins and a moderator act; the last one only reads.
STAFF = (Staff(101, 3), Staff(102, 2), Staff(103, 2), Staff(104, 1), Staff(105, 0))
USERS, GUILDS = 6, 2
# How long after the last fault everything may take to be well, in seconds; a bound for what hangs, no expectation.
PATIENCE_SECONDS = 180.0


class Tally(msgspec.Struct, kw_only=True):
    """What happened, over all rounds."""

    rounds: int = 0
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    commands: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    unanswered: int = 0
    repeated: int = 0
    reads: int = 0
    shared: int = 0
    subjects: int = 0
    tangled: int = 0
    findings: list[Finding] = []

    def __str__(self) -> str:
        found = Counter(one.kind for one in self.findings)
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        stale = sum(found[kind] for kind in ("stale", "backwards", "own write"))
        others = ", ".join(f"{kind} {count}" for kind, count in sorted(found.items()))
        return (
            f"rounds {self.rounds}; faults {sum(self.faults.values())} ({faults}); commands {self.commands}:"
            f" acknowledged {self.acknowledged}, refused {self.refused}, unknown {self.unknown},"
            f" unanswered tries {self.unanswered}, replayed answers {self.repeated}; reads {self.reads};"
            f" histories {self.subjects}, undecided {self.tangled};"
            f" lost {found['lost']}, doubled {found['doubled']}, stale {stale};"
            f" findings {len(self.findings)}{f' ({others})' if others else ''}"
        )


class Unwell(Exception):
    """It did not become well again."""


class Rounds:
    """Rounds on one installation, whose staff is logged in."""

    def __init__(self, one: Installation, seed: str, tally: Tally) -> None:
        self._one, self._seed, self._tally = one, seed, tally
        self._commands: list[Command] = []
        self._checked: set[Finding] = set()
        self._logs: dict[Path, int] = {}
        self.cookies: dict[int, str] = {}
        with one.ledger() as ledger, psycopg.connect(one.url, autocommit=True) as connection:
            for staff in STAFF:
                register(ledger, staff.id, f"staff{staff.id}", staff.level)
                self.cookies[staff.id] = open_session(connection, staff.id, staff.level, datetime.now(UTC))
        self._send = Http([one.doors[name].port for name in SERVERS], self.cookies)

    def play(self, number: int, kinds: list[str], seconds: float, pace: Pace) -> list[Finding]:
        """One round with these faults; answers what is wrong. Raises Unwell."""
        one, rng = self._one, Random(f"{self._seed} {number}")
        first = 1_000_000 + number * 100
        scene = Scene(f"round {number}", range(first, first + USERS), range(first + 50, first + 50 + GUILDS))
        journal = Journal(one.folder / f"round {number}.jsonl")
        with one.ledger() as ledger:
            for user in scene.users:
                register(ledger, user, name_of(user), 0)
        self._wait_until_well()
        sessions = [
            Session(scene, staff, self._send, self._skew, journal, Random(f"{self._seed} {number} {staff.id}"))
            for staff in STAFF
        ]
        began = time.monotonic()
        for session in sessions:
            session.start()
        time.sleep(0.5)
        for fault in inject(one, kinds, rng, pace):
            fault.join()
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        scene.stop.set()
        for session in sessions:
            session.join()
        end_all(one)
        self._wait_until_well()
        self._resolve(scene, journal, rng)
        journal.close()
        well_at = self._wait_until_well()
        self._send.close()
        return self._judge(kinds, journal.path, well_at)

    def _skew(self, server: int, began: float, ended: float) -> tuple[float, float]:
        return self._one.skew(SERVERS[server], began, ended)

    def _resolve(self, scene: Scene, journal: Journal, rng: Random) -> None:
        """Asks again, under its key, for whatever has no outcome yet."""
        until = time.monotonic() + PATIENCE_SECONDS
        for request in scene.unresolved:
            while not attempt(request, rng, self._send, self._skew, scene, journal) and time.monotonic() < until:
                time.sleep(0.1)

    def _wait_until_well(self) -> datetime:
        """Until both servers answer, every projector is at the ledger's end, and every end that has come is there; the
        moment that this is true of."""
        until = time.monotonic() + PATIENCE_SECONDS
        said = "not asked"
        while time.monotonic() < until:
            now = datetime.now(UTC)
            try:
                said = self._unwell(now)
            except (OSError, psycopg.Error, LedgerUnavailable, ValueError) as error:
                said = repr(error)
            if not said:
                return now
            time.sleep(0.2)
        raise Unwell(f"after {PATIENCE_SECONDS:.0f} s it is not well: {said}")

    def _unwell(self, now: datetime) -> str:
        for server in range(len(SERVERS)):
            answer = self._send(server, "GET", "/health", STAFF[0].id, headers={}, patience=9.0)
            behind = [name for name, one in answer.body.get("projections", {}).items() if one["lag_events"]]
            if answer.status != 200 or answer.body["status"] != "healthy" or behind:
                return f"{SERVERS[server]} says {answer.body}"
        # Also of the subjects of earlier rounds, since these are judged too.
        with self._one.ledger() as ledger:
            return ", ".join(unrecorded_ends(recorded_in(ledger), now))

    def _judge(self, kinds: list[str], path: Path, well_at: datetime) -> list[Finding]:
        history = read_history(path)
        self._commands += history.commands
        with self._one.ledger() as ledger:
            recorded = recorded_in(ledger)
            findings = [Finding("failed", one.what) for one in history.failed]
            findings += judge_commands(self._commands, recorded)
            findings += judge_reads(history.reads, recorded)
            findings += judge_ends(recorded, well_at)
            disorderly, tangled = judge_order(history, recorded)
            findings += disorderly
            findings += judge_tables(self._one.url, ledger)
        findings += [Finding("failed", said) for said in self._unforeseen()]
        new = [one for one in dict.fromkeys(findings) if one not in self._checked]
        self._checked.update(new)
        self._count(history, kinds, tangled, new)
        return new

    def _unforeseen(self) -> Iterator[str]:
        """Ends and errors that the processes themselves did not foresee."""
        while self._one.ended_alone:
            yield self._one.ended_alone.pop()
        for process in self._one.processes.values():
            if process.log.exists():
                with process.log.open(errors="replace") as log:
                    log.seek(self._logs.get(process.log, 0))
                    lines = log.readlines()
                    self._logs[process.log] = log.tell()
                yield from (f"{process.name}: {line.strip()}" for line in lines if "unexpected error" in line)

    def _count(self, history: History, kinds: list[str], tangled: int, findings: list[Finding]) -> None:
        tally = self._tally
        tally.rounds += 1
        tally.faults.update(kinds)
        tally.commands += len(history.commands)
        outcomes = Counter(command.outcome for command in history.commands)
        tally.acknowledged += outcomes["acknowledged"]
        tally.refused += outcomes["refused"]
        tally.unknown += outcomes["unknown"]
        tally.unanswered += sum(command.tries - (command.outcome != "unknown") for command in history.commands)
        tally.repeated += sum(command.repeated for command in history.commands)
        tally.reads += len(history.reads)
        tally.shared += sum(read.shared for read in history.reads)
        tally.subjects += len({command.subject for command in history.commands})
        tally.tangled += tangled
        tally.findings = [*tally.findings, *findings]


def register(ledger: Ledger, user_id: int, name: str, level: int) -> None:
    """A user who is known by that name, and of that level."""
    _act(ledger, RegisterUser(user_id=user_id, username=name), SYSTEM)
    if level:
        _act(ledger, ChangePermission(user_id=user_id, level=level, reason="staff"), OPERATOR)


def _act(ledger: Ledger, command: commands.Command, actor: Actor) -> None:
    context = Context(actor=actor, at=datetime.now(UTC), command_id=uuid4(), correlation_id=uuid4(), via="cli")
    execute(ledger, command, context)


def left_behind(one: Installation, to: Path) -> None:
    """Lists and logs, for whoever looks for the cause of a finding."""
    to.mkdir(parents=True, exist_ok=True)
    for file in (*one.folder.glob("*.jsonl"), *one.folder.glob("*.log"), one.cluster / "postgres.log"):
        with suppress(OSError):
            (to / file.name).write_bytes(file.read_bytes())

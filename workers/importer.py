"""Takes an import file into the ledger (docs/import.md), as a stream: memory does not grow with the file."""

import codecs
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import UUID, uuid4

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR
from modledger.domain.execute import Decision
from modledger.domain.execute_batches import execute_batches
from modledger.domain.importing import MAX_LINE, Record, Unfit, command_id, read_record
from modledger.domain.ledger import Ledger
from modledger.workers.collector import collected_seldom

# One transaction each: large enough that the commit does not count, small enough that no live command waits long.
BATCH = 1000
SECONDS_BETWEEN_LINES = 10.0
SWITCH_SECONDS = 0.0005


class Line(NamedTuple):
    """``number`` from 1; ``end``: how many bytes of the file end with it."""

    number: int
    end: int
    record: Record | Unfit


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """``read`` = ``added`` + ``already_there`` + all of ``skipped``, which counts by fault (docs/import.md).
    ``events``: how many the added records brought. ``correlation_id`` stands in each of them."""

    correlation_id: UUID
    read: int
    added: int
    already_there: int
    skipped: Mapping[str, int]
    events: int


def import_file(
    ledger: Ledger,
    path: Path,
    *,
    now: datetime,
    progress: bool = True,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> ImportReport:
    """Brings every record of the file that is not in the ledger yet, and goes past those that do not fit.

    ``now`` is the time of the import: no record may be younger. What was skipped is told on ``console`` (standard error
    unless given) by line number and reason, once per record; with ``progress`` also how far it has come, by ``clock``
    (seconds). Killed or failed at any moment, the same call made again ends in the same state. Raises OSError and
    LedgerUnavailable.
    """
    console = console or Console(stderr=True)
    correlation_id = uuid4()
    counts: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    # Those that were read and not answered yet.
    pending: deque[list[Line]] = deque()

    def batches(lines: Iterator[Line]) -> Iterator[list[tuple[Command, Context]]]:
        while batch := list(islice(lines, BATCH)):
            pending.append(batch)
            yield [
                (line.record, _context(line.record, now, correlation_id))
                for line in batch
                if not isinstance(line.record, Unfit)
            ]

    with (
        path.open("rb") as file,
        _progress(console, os.fstat(file.fileno()).st_size, progress, clock) as advance,
        _undisturbed(),
        closing(execute_batches(ledger, batches(_records(file)))) as answers,
    ):
        for decisions in answers:
            batch = pending.popleft()
            for number, unfit in _count(batch, decisions, counts):
                skipped[unfit.kind_of_fault] += 1
                # Not printed as markup or as it is: the text may quote the file, and that is a stranger's.
                console.print(
                    _plain(f"line {number}: {unfit}"), markup=False, highlight=False, emoji=False, soft_wrap=True
                )
            advance(batch[-1].end, counts["read"])
    return ImportReport(
        correlation_id=correlation_id,
        read=counts["read"],
        added=counts["added"],
        already_there=counts["already there"],
        skipped=dict(sorted(skipped.items())),
        events=counts["events"],
    )


def render(report: ImportReport) -> str:
    """The counts as lines of text, without a line break at the end."""
    lines = [
        f"read           {report.read}",
        f"added          {report.added} ({report.events} events, correlation id {report.correlation_id})",
        f"already there  {report.already_there}",
        f"skipped        {sum(report.skipped.values())}",
    ]
    return "\n".join([*lines, *(f"  {fault}: {count}" for fault, count in report.skipped.items())])


def _context(record: Record, now: datetime, correlation_id: UUID) -> Context:
    return Context(
        actor=OPERATOR,
        at=now,
        command_id=command_id(record),
        correlation_id=correlation_id,
        via="import",
        external_id=record.external_id,
    )


def _count(batch: Sequence[Line], decisions: Sequence[Decision], counts: Counter[str]) -> Iterator[tuple[int, Unfit]]:
    """Counts what became of the lines, and yields what did not fit in their order."""
    added = events = 0
    decided = iter(decisions)
    for line in batch:
        if isinstance(line.record, Unfit):
            yield line.number, line.record
            continue
        decision = next(decided)
        if decision.events:
            added += 1
            events += len(decision.events)
        elif decision.refused is None:
            counts["already there"] += 1
        elif isinstance(decision.refused, Unfit):
            yield line.number, decision.refused
        else:
            yield line.number, Unfit("refused", str(decision.refused))
    counts.update({"read": len(batch), "added": added, "events": events})


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The thread that sends a batch would wait as long as Python lets another one work, at each of its steps."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with collected_seldom():
            yield
    finally:
        sys.setswitchinterval(interval)


def _records(file: BinaryIO) -> Iterator[Line]:
    """The record of each line, or why there is none. Blank lines are no records."""
    for number, (end, line) in enumerate(_lines(file), start=1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not text or text.isspace():
            continue
        try:
            yield Line(number, end, read_record(text))
        except Unfit as unfit:
            yield Line(number, end, unfit)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines without their breaks and where they end; of one that is too long only as much as shows that."""
    most = MAX_LINE + len(codecs.BOM_UTF8) + len(b"\r\n")
    end = 0
    while line := file.readline(most):
        rest = line
        end += len(rest)
        while len(rest) == most and not rest.endswith(b"\n"):
            rest = file.readline(most)
            end += len(rest)
        yield end, line.rstrip(b"\r\n") if rest is line else line


def _plain(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


@contextmanager
def _progress(
    console: Console, size: int, wanted: bool, clock: Callable[[], float]
) -> Iterator[Callable[[int, int], None]]:
    """A function to tell how many bytes and records are done: a bar on a terminal, else a line every ten seconds."""
    if not wanted:
        yield lambda _done, _records: None
    elif console.is_terminal:
        columns = (
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[records]:,} records, {task.fields[rate]:,.0f}/s"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("import", total=size or None, records=0, rate=0.0)
            started = clock()

            def advance(done: int, records: int) -> None:
                bar.update(task, completed=done, records=records, rate=records / max(clock() - started, 1e-6))

            yield advance
    else:
        yield _line_writer(console, size, clock)


def _line_writer(console: Console, size: int, clock: Callable[[], float]) -> Callable[[int, int], None]:
    started = told = clock()

    def advance(done: int, records: int) -> None:
        nonlocal told
        now = clock()
        if now - told < SECONDS_BETWEEN_LINES:
            return
        told, passed = now, now - started
        left = f", {done / size:.0%}, {passed * (size - done) / done:.0f} s left" if size >= done > 0 else ""
        console.print(f"{records:,} records, {records / passed:,.0f}/s{left}", highlight=False, soft_wrap=True)

    return advance

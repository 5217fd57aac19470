"""How far rebuilds are, told on standard error to whoever waits for one: a bar with rate and time left on a terminal,
otherwise a line every ten seconds."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec
import psycopg
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from modledger.domain.ledger import Ledger, LedgerUnavailable
from modledger.projections.projector import Projector, checkpoint
from modledger.projections.rebuild import ACTIVE, beside, place_of, replays

# Between two lines where nobody can watch a bar, and between two looks where somebody can.
LINE_SECONDS, LOOK_SECONDS = 10.0, 0.5


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far something is: ``done`` of ``total`` in what it is at; both 0 where nobody can tell."""

    stage: str
    done: int
    total: int


Look = Callable[[], Progress]


def of_rebuild(conninfo: str, ledger: Ledger, projector: str) -> Progress:
    """How far the rebuild is now. Raises LedgerUnavailable and psycopg.Error."""
    with beside(conninfo, projector) as (conn, place):
        found = replays(conn, place, projector)
        if not found:
            return Progress(stage="not begun", done=0, total=0)
        [one] = found
        if one.state == "replaying" and one.folded and one.derived_rows:
            return Progress(stage="counting", done=one.derived_rows, total=one.rows)
        if one.state == "replaying" and one.folded:
            return Progress(stage="making indexes", done=0, total=0)
        if one.state == "replaying":
            return Progress(stage="folding", done=min(one.passed, one.total), total=one.total)
        if one.state == "catching_up":
            head = ledger.head()
            reached = checkpoint(conn, projector)
            if reached < head:
                return Progress(stage="catching up", done=reached, total=head)
            return Progress(stage="comparing", done=0, total=0)
        return Progress(stage=one.state, done=0, total=0)


def of_rebuilds(conninfo: str) -> Progress:
    """How far all rebuilds together are that are not promoted. Raises psycopg.Error."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        found = [one for one in replays(conn, place_of(conn, "all")) if one.state in ACTIVE]
    if any(not one.folded for one in found):
        passed = sum(min(one.passed, one.total) for one in found)
        return Progress(stage="folding", done=passed, total=sum(one.total for one in found))
    finished = sum(one.state == "verified" for one in found)
    return Progress(stage="deriving and comparing", done=finished, total=len(found))


def of_catch_up(conninfo: str, ledger: Ledger, projectors: Sequence[Projector[Any]]) -> Progress:
    """How far the live tables are: positions of the ledger, those of all projectors together. Raises as
    ``of_rebuild``."""
    head = ledger.head()
    with psycopg.connect(conninfo, autocommit=True) as conn:
        reached = [min(head, checkpoint(conn, projector.name)) for projector in projectors]
    return Progress(stage="catching up", done=sum(reached), total=head * len(reached))


@contextmanager
def watched(title: str, look: Look) -> Iterator[None]:
    """Shows what ``look`` answers as long as the block runs."""
    over = threading.Event()
    show = bar if sys.stderr.isatty() else lines
    watcher = threading.Thread(target=show, args=(title, look, over.wait, time.monotonic), name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def lines(title: str, look: Look, wait: Callable[[float], bool], clock: Callable[[], float]) -> None:
    """A line every ten seconds, until ``wait`` (so many seconds) answers that it is over. ``clock``: seconds."""
    before, then = Progress(stage="", done=0, total=0), clock()
    due = then + LINE_SECONDS
    while not wait(max(0.0, due - clock())):
        found, now = _look(look, before), clock()
        line = f"{title}: {found.stage}"
        if found.total:
            line += f" {found.done:,} of {found.total:,}"
            rate = (found.done - before.done) / (now - then) if found.stage == before.stage else 0
            if rate > 0:
                line += f", {rate:,.0f}/s, {(found.total - found.done) / rate:,.0f} s left"
        before, then = found, now
        due = max(due + LINE_SECONDS, now)
        click.echo(line, err=True)


class _Rate(ProgressColumn):
    """Done per second."""

    def render(self, task: Task) -> Text:
        """``1,234/s``, nothing before there is a rate."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


def bar(
    title: str,
    look: Look,
    wait: Callable[[float], bool],
    clock: Callable[[], float],
    console: Console | None = None,
) -> None:
    """As ``lines``, a bar that moves. ``console``: instead of standard error."""
    columns = (
        SpinnerColumn(),
        TextColumn(f"{title}: {{task.description}}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console or Console(stderr=True), transient=True, get_time=clock) as shown:
        before, task = Progress(stage="", done=0, total=0), TaskID(0)
        while True:
            found = _look(look, before)
            if found.stage != before.stage:
                if before.stage:
                    shown.remove_task(task)
                task = shown.add_task(found.stage, total=None)
            before = found
            shown.update(task, completed=found.done, total=found.total or None)
            if wait(LOOK_SECONDS):
                return


def _look(look: Look, before: Progress) -> Progress:
    try:
        return look()
    except (psycopg.Error, LedgerUnavailable):
        # Who does the work tells what is wrong.
        return Progress(stage=before.stage or "connecting", done=before.done, total=before.total)

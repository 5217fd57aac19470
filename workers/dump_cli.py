"""``modledger dump`` and ``modledger restore`` (docs/move.md)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from modledger.domain.personal_text import MasterKey, WrongMasterKey
from modledger.domain.settings import Settings
from modledger.workers.dump import Moved, NotPossible, Told
from modledger.workers.dump import dump as write_dump
from modledger.workers.dump import restore as read_dump
from modledger.workers.dump_file import Damaged
from modledger.workers.key_file import read_key
from modledger.workers.opening import Failure, installation, writing

SECONDS_BETWEEN_LINES = 10.0


@click.command("dump")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def dump(file: Path) -> None:
    """Write the whole ledger to a new file, while it goes on."""
    if not file.absolute().parent.is_dir():
        raise Failure(f"{file.parent} is no folder", 2)
    with installation("dump", owner=True) as (_, conninfo), _telling() as tell:
        try:
            with writing(file):
                moved = write_dump(conninfo, file, tell)
        except NotPossible as error:
            raise Failure(error, 2) from error
    click.echo(f"wrote {file}\n{_render(moved)}")


@click.command("restore")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(file: Path) -> None:
    """Put a dumped ledger into this installation, which has to be empty. Needs the master key of the dump's."""
    with installation("restore", owner=True) as (settings, conninfo), _telling() as tell:
        try:
            moved = read_dump(conninfo, file, MasterKey(_own_key(settings)), tell)
        except (NotPossible, WrongMasterKey, Damaged) as error:
            raise Failure(f"{error}; nothing was changed", 2) from error
    click.echo(f"restored {file}\n{_render(moved)}\nread tables follow with modledger work or modledger migrate")


def _own_key(settings: Settings) -> bytes:
    """The master key that there is; none is made, since a new one fits no dump."""
    path = settings.data_dir / "master.key"
    found = settings.master_key
    if found is None:
        with suppress(FileNotFoundError):
            found = read_key(path)
    if found is None:
        raise Failure(f"there is no master key: put that of the dump's installation into {path}", 2)
    return found


def _render(moved: Moved) -> str:
    return "\n".join(
        (
            f"events    {moved.events}, up to position {moved.position}",
            f"keys      {moved.keys}",
            f"root      {moved.root.hex()}",
        )
    )


@contextmanager
def _telling() -> Iterator[Told]:
    """A bar for each thing that is done on a terminal, else a line every ten seconds; on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_writer(console, time.monotonic)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        tasks = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None)
            bar.update(tasks[what], completed=done)

        yield tell


def _line_writer(console: Console, clock: Callable[[], float]) -> Told:
    told = clock()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal told
        if clock() - told >= SECONDS_BETWEEN_LINES:
            told = clock()
            console.print(f"{what} {done:,} of {total:,}", highlight=False, soft_wrap=True)

    return tell

"""``modledger replay …``: make read models anew beside those that are read (docs/replay.md).

Exit statuses: 0 done, 1 it cannot be done now, 2 the call does not fit; then nothing was changed.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import click
import psycopg
from rich.console import Console
from rich.table import Table

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.projections.projector import Projector
from modledger.projections.rebuild import (
    ACTIVE,
    ReplayAborted,
    ReplayFailed,
    ReplayRefused,
    abort,
    create_replay,
    drop,
    place_of,
    replays,
)
from modledger.projections.rebuild_steps import fold_parts
from modledger.workers.opening import Failure, installation, open_ledger
from modledger.workers.replay import Stopped, promote_replay, run_replay, turn
from modledger.workers.replay_progress import of_rebuild, watched
from modledger.workers.stopping import stop_on_signals


def projector_of(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Projector[Any] | None:
    """Callback of an argument: the projector of that name. Fails with the names that there are."""
    found = {projector.name: projector for projector in PROJECTORS}
    if value is not None and value not in found:
        raise click.BadParameter(f"there is no projection {value!r}; there are {', '.join(found)}")
    return None if value is None else found[value]


PROJECTION = click.argument("projection", callback=projector_of)
PROCESSES = click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="How many processes fold."
)


@click.group("replay")
def replay() -> None:
    """Make read models anew from the ledger, beside those that are read, and put them in their place."""


@replay.command()
@PROJECTION
def create(projection: Projector[Any]) -> None:
    """Begin a rebuild. What the last one replaced is dropped."""
    with _opened() as (ledger, conninfo, _):
        found = create_replay(conninfo, projection, ledger)
    click.echo(f"{projection.name}: a rebuild of {found.total} events, up to position {found.head}")


@replay.command()
@PROJECTION
@PROCESSES
@click.option("--fold-only", is_flag=True, hidden=True)
def run(projection: Projector[Any], processes: int, fold_only: bool) -> None:
    """Fold the ledger up to a verified rebuild; goes on wherever it stands."""
    with _opened() as (ledger, conninfo, stop):
        if fold_only:
            fold_parts(conninfo, projection, ledger, stop)
        else:
            _run(ledger, conninfo, projection, processes, stop)


def _run(
    ledger: PostgresLedger, conninfo: str, projection: Projector[Any], processes: int, stop: threading.Event
) -> None:
    with watched(projection.name, partial(of_rebuild, conninfo, ledger, projection.name)):
        found = run_replay(ledger, conninfo, projection, stop, processes=processes)
    if found.state == "replaying":
        raise Stopped(f"the rebuild of {projection.name} was stopped: run it again to go on")
    click.echo(f"{projection.name}: {found.state}" + (f", {found.note}" if found.note else ""))


@replay.command()
@click.argument("projection", callback=projector_of, required=False)
def status(projection: Projector[Any] | None) -> None:
    """How far the rebuilds are."""
    with installation("replay", owner=True) as (_, conninfo), psycopg.connect(conninfo, autocommit=True) as connection:
        found = replays(connection, place_of(connection, "replay"), None if projection is None else projection.name)
    table = Table("projection", "state", "folded", "rows", "since", "note")
    for one in found:
        share = f"{min(one.passed, one.total)} of {one.total}"
        note = f"failed: {one.error}" if one.error else one.note or ""
        table.add_row(one.projector, one.state, share, str(one.rows), f"{one.changed_at:%Y-%m-%d %H:%M:%S%z}", note)
    if found:
        Console(width=None if sys.stdout.isatty() else 200).print(table)
    else:
        click.echo("no rebuild")


@replay.command()
@PROJECTION
def promote(projection: Projector[Any]) -> None:
    """Let readers read the verified rebuild from now on."""
    with _opened() as (ledger, conninfo, stop):
        promote_replay(ledger, conninfo, projection, stop)
    click.echo(f"{projection.name}: live; modledger replay drop {projection.name} frees the old tables")


@replay.command("abort")
@PROJECTION
def abort_command(projection: Projector[Any]) -> None:
    """End a rebuild that is not promoted, and drop its tables."""
    with _refusing(), installation("replay", owner=True) as (_, conninfo):
        abort(conninfo, projection.name)
    click.echo(f"{projection.name}: aborted")


@replay.command("drop")
@PROJECTION
def drop_command(projection: Projector[Any]) -> None:
    """Drop the tables that a promoted rebuild replaced."""
    with _refusing(), installation("replay", owner=True) as (_, conninfo):
        drop(conninfo, projection.name)
    click.echo(f"{projection.name}: the old tables are dropped")


@replay.command("all")
@PROCESSES
@click.option("--drop", "dropping", is_flag=True, help="Drop what each of them replaces at once.")
def all_command(processes: int, dropping: bool) -> None:
    """Rebuild every read model, one after the other, and promote each; goes on with what stands. Of two at once the
    second waits."""
    with _opened() as (ledger, conninfo, stop), turn(conninfo, "all", stop):
        for projection in PROJECTORS:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                found = replays(connection, place_of(connection, projection.name), projection.name)
            if not found or found[0].state not in ACTIVE:
                create_replay(conninfo, projection, ledger)
            _run(ledger, conninfo, projection, processes, stop)
            promote_replay(ledger, conninfo, projection, stop)
            if dropping:
                drop(conninfo, projection.name)
    click.echo("every read model is rebuilt")


@contextmanager
def _opened() -> Iterator[tuple[PostgresLedger, str, threading.Event]]:
    stop = threading.Event()
    stop_on_signals(stop)
    with _refusing(), open_ledger("replay", connections=2, owner=True) as (ledger, conninfo):
        yield ledger, conninfo, stop


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ReplayRefused as error:
        raise Failure(error, 2) from error
    except (ReplayFailed, ReplayAborted, Stopped) as error:
        raise Failure(error, 1) from error

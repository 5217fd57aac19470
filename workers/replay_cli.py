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
    Replay,
    ReplayAborted,
    ReplayFailed,
    ReplayRefused,
    abort,
    create_replay,
    create_replays,
    drop,
    place_of,
    replays,
)
from modledger.projections.rebuild_folding import fold_parts
from modledger.workers.collector import collected_seldom
from modledger.workers.opening import Failure, installation, open_ledger
from modledger.workers.replay import (
    Stopped,
    finish_free,
    promote_replay,
    run_replay,
    run_replays,
    stopped,
    turn,
)
from modledger.workers.replay_progress import of_rebuild, of_rebuilds, watched
from modledger.workers.stopping import stop_on_signals


def projector_of(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Projector[Any] | None:
    """Callback of an argument: the projector of that name. Fails with the names that there are."""
    found = {projector.name: projector for projector in PROJECTORS}
    if value is not None and value not in found:
        raise click.BadParameter(f"there is no projection {value!r}; there are {', '.join(found)}")
    return None if value is None else found[value]


PROJECTION = click.argument("projection", callback=projector_of)
PROCESSES = click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="How many processes work."
)
# Of a process that another one started to help it.
HELPING = click.option("--helping", is_flag=True, hidden=True)


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
@HELPING
def run(projection: Projector[Any], processes: int, helping: bool) -> None:
    """Fold the ledger up to a verified rebuild; goes on wherever it stands."""
    with _opened() as (ledger, conninfo, stop):
        if helping:
            fold_parts(conninfo, [projection], ledger, stop)
            return
        with watched(projection.name, partial(of_rebuild, conninfo, ledger, projection.name)):
            found = run_replay(ledger, conninfo, projection, stop, processes=processes)
        _tell(found)


def _tell(found: Replay) -> None:
    """What a run came to. Raises Stopped where it did not come to its end."""
    if found.state == "replaying":
        raise stopped(found.projector)
    click.echo(f"{found.projector}: {found.state}" + (f", {found.note}" if found.note else ""))


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
@HELPING
def all_command(processes: int, dropping: bool, helping: bool) -> None:
    """Rebuild every read model and promote each; goes on with what stands. Of two at once the second waits."""
    with _opened() as (ledger, conninfo, stop):
        if helping:
            begun = _begun(conninfo)
            fold_parts(conninfo, begun, ledger, stop)
            finish_free(ledger, conninfo, begun, stop, alone=False)
            return
        with turn(conninfo, "all", stop):
            begun = _begun(conninfo)
            if missing := [projection for projection in PROJECTORS if projection not in begun]:
                create_replays(conninfo, missing, ledger)
            with watched("all", partial(of_rebuilds, conninfo)):
                found = run_replays(ledger, conninfo, PROJECTORS, stop, processes=processes)
            for one in found:
                _tell(one)
            for projection in PROJECTORS:
                promote_replay(ledger, conninfo, projection, stop)
                if dropping:
                    drop(conninfo, projection.name)
    click.echo("every read model is rebuilt")


def _begun(conninfo: str) -> list[Projector[Any]]:
    """Those of which there is a rebuild that is not promoted."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        found = {one.projector for one in replays(connection, place_of(connection, "all")) if one.state in ACTIVE}
    return [projection for projection in PROJECTORS if projection.name in found]


@contextmanager
def _opened() -> Iterator[tuple[PostgresLedger, str, threading.Event]]:
    stop = threading.Event()
    stop_on_signals(stop)
    with _refusing(), open_ledger("replay", connections=2, owner=True) as (ledger, conninfo), collected_seldom():
        yield ledger, conninfo, stop


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ReplayRefused as error:
        raise Failure(error, 2) from error
    except (ReplayFailed, ReplayAborted, Stopped) as error:
        raise Failure(error, 1) from error

"""``modledger demo``: the demo data, in its usual size or any other.

Exit statuses: 0 done, 1 it cannot be done now, 2 the call does not fit. Unless it is 0, nothing was changed.
"""

import os
import threading
from datetime import UTC, datetime

import click

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.demo import DemoRefused, load_demo
from modledger.workers.demo_blocks import MOST, Size
from modledger.workers.demo_load import Interrupted, load
from modledger.workers.master_key import master_key
from modledger.workers.opening import Failure, installation
from modledger.workers.replay_progress import Progress, watched
from modledger.workers.stopping import stop_on_signals

DEFAULT_SEED = 1
NUMBER = click.IntRange(1, MOST)


@click.command("demo")
@click.option("--events", type=NUMBER, help="So many events exactly, of whatever kind.")
@click.option("--punishments", type=NUMBER, help="So many punishments exactly, and whatever else befell everybody.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Another one gives other data, the same one the same, but for keys and ciphertexts.  [default: 1]",
)
@click.option("--processes", type=click.IntRange(1, 64), help="How many make the data.  [default: one a core]")
def demo(events: int | None, punishments: int | None, seed: int | None, processes: int | None) -> None:
    """Fill an empty ledger with demo data.

    Without options the one that `modledger up` loads: 2,000 users, 200 guilds, 20 bots and 3,000 punishments. Of any
    other size it begins with the same examples and staff and goes on in the same shape: about 2.7 events for each
    punishment, dated from March 2024 to March 2026. Counted is what the ledger has in the end: each warning, timeout,
    ban and blacklisting is a punishment, each row of the ledger an event. Killed at any time, nothing has changed.

    On its way an event takes some 600 bytes on disk, where the data is or where temporary files go.
    """
    if events is not None and punishments is not None:
        raise click.UsageError("--events and --punishments exclude each other")
    size = Size(events=events, punishments=punishments)
    if not size.number and (seed is not None or processes is not None):
        raise click.UsageError("--seed and --processes need --events or --punishments")
    stop = threading.Event()
    stop_on_signals(stop)
    with installation("demo", owner=True) as (settings, conninfo):
        key = master_key(settings, conninfo)
        # Opened first, as it begins a new installation, and knows the key of another one.
        with PostgresLedger(conninfo, key, connections=1) as ledger:
            if ledger.head():
                raise Failure("the ledger is not empty: a demo needs an installation of its own", 2)
            if not size.number:
                report = load_demo(ledger, conninfo, now=datetime.now(UTC))
                click.echo(_said(report.events, report.punishments))
                return
        shown = Progress(stage="beginning", done=0, total=0)

        def tell(what: str, done: int, total: int) -> None:
            nonlocal shown
            shown = Progress(stage=what, done=done, total=total)

        try:
            with watched("demo", lambda: shown):
                loaded = load(
                    conninfo,
                    key,
                    size,
                    DEFAULT_SEED if seed is None else seed,
                    processes=processes or os.cpu_count() or 1,
                    stop=stop,
                    tell=tell,
                    # Temporary files may be kept in memory; beside an embedded database there is room.
                    folder=settings.data_dir if settings.data_dir.is_dir() else None,
                )
        except DemoRefused as error:
            raise Failure(error, 2) from error
        except Interrupted as error:
            raise Failure(error, 1) from error
    click.echo(_said(loaded.events, loaded.punishments))


def _said(events: int, punishments: int) -> str:
    return (
        f"loaded {events:,} events, {punishments:,} of them punishments\n"
        "read tables follow with modledger up, work or migrate"
    )

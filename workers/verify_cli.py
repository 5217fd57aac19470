"""``modledger verify``: whether the read tables are what the ledger says, and the ledger is whole (docs/replay.md).

Exit statuses: 0 all is right, 1 something differs, or it cannot be done now, 2 the call is wrong.
"""

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from random import Random

import click
import psycopg
from rich.console import Console
from rich.text import Text

from modledger.domain.ledger import Ledger
from modledger.projections.catalog import PROJECTORS
from modledger.projections.ledger_verification import verify_ledger
from modledger.projections.samples import Verification, remember, verify_sample
from modledger.projections.verification import Difference, verify_projector
from modledger.workers.opening import open_ledger

LEDGER = "ledger"
# Of what is kept for /health; what is printed has no end.
MOST_KEPT = 1_000


def _subjects(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    known = [LEDGER, *(projector.name for projector in PROJECTORS)]
    for value in values:
        if value not in known:
            raise click.BadParameter(f"there is no projection {value!r}; there are {', '.join(known)}")
    return values or tuple(known)


@click.command("verify")
@click.argument("projections", nargs=-1, callback=_subjects)
@click.option("--sample", type=click.IntRange(1, 100_000), help="Compare about so many streams, drawn by lot.")
def verify(projections: tuple[str, ...], sample: int | None) -> None:
    """Compare read tables with the ledger folded anew, field by field and both ways.

    Without PROJECTIONS all of them, and the ledger itself, which goes by the name "ledger".
    """
    total = 0
    with open_ledger("verify", connections=2) as (ledger, conninfo):
        checked = _sampled(conninfo, ledger, projections, sample) if sample else _whole(conninfo, ledger, projections)
        for subject, differences in checked:
            count = 0
            for one in differences:
                count += 1
                _print(one)
            click.echo(
                f"{subject}: " + (f"{count} difference{'s' if count != 1 else ''}" if count else "as it should be")
            )
            total += count
    if total:
        sys.exit(1)


def _whole(conninfo: str, ledger: Ledger, projections: tuple[str, ...]) -> Iterator[tuple[str, Iterable[Difference]]]:
    of = {projector.name: projector for projector in PROJECTORS}
    for name in projections:
        found = verify_ledger(conninfo, ledger) if name == LEDGER else verify_projector(conninfo, of[name], ledger)
        kept: list[Difference] = []
        yield name, _keeping(found, kept)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            result = Verification(subject=name, streams=0, differences=kept)
            remember(connection, [result], datetime.now(UTC), whole=True)


def _keeping(found: Iterable[Difference], kept: list[Difference]) -> Iterator[Difference]:
    for one in found:
        if len(kept) < MOST_KEPT:
            kept.append(one)
        yield one


def _sampled(
    conninfo: str, ledger: Ledger, projections: tuple[str, ...], size: int
) -> Iterator[tuple[str, Iterable[Difference]]]:
    projectors = [projector for projector in PROJECTORS if projector.name in projections]
    results = verify_sample(conninfo, projectors, ledger, size, Random(), every_table=True)  # noqa: S311
    results = [one for one in results if one.subject in projections]
    with psycopg.connect(conninfo, autocommit=True) as connection:
        remember(connection, results, datetime.now(UTC), whole=False)
    for one in results:
        yield one.subject, one.differences


def _print(one: Difference) -> None:
    # Names of rows may hold what somebody put there, and a terminal obeys; values are JSON, which escapes.
    place = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in one.place())
    line = Text(place, style="bold")
    if one.expected is not None:
        line.append(f"\n  expected {one.expected}", style="green")
    if one.found is not None:
        line.append(f"\n  found    {one.found}", style="red")
    Console(soft_wrap=True, highlight=False).print(line)

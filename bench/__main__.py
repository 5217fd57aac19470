"""``python -m bench [part …]``: every part, or those named, one table, and ``results.json``.

A data set is made first where there is none of that size; that takes longer than measuring, and happens once.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from os import getloadavg
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench import append, catch_up, commands, import_records, memory_use, reads, rebuild, search, visible
from bench.data_set import size_of
from bench.load import NO_WRK, has_wrk
from bench.measure import Effort, machine
from bench.table import Result, Row, rows_of
from bench.world import World, default_home

RESULTS = Path(__file__).with_name("results.json")

# In the order in which they are run: memory last, so that it sees what the others asked of serve.
PARTS: dict[str, Callable[[World], dict[str, Result | str]]] = {
    "reads": reads.measure,
    "search": search.measure,
    "append": append.measure,
    "commands": commands.measure,
    "catch-up": catch_up.measure,
    "rebuild": rebuild.measure,
    "visible": visible.measure,
    "import": import_records.measure,
    "memory": memory_use.measure,
}


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts, prints the table and writes the results file."""
    default = Effort()
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; or data: only make the data set")
    parser.add_argument("--size", default=os.environ.get("BENCH_SIZE") or "1m", help="punishments: 100k, 1m, 10m …")
    parser.add_argument("--home", type=Path, default=default_home(), help="where data sets are kept")
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--seconds", type=float, default=default.seconds, help="for each contestant in each round")
    parser.add_argument("--events", type=int, default=default.events, help="in the ledger of catch-up")
    parser.add_argument("--records", type=int, default=default.records, help="of an import")
    parser.add_argument("--requests", type=int, default=default.requests, help="until serve's memory is read")
    parser.add_argument("--beside", default="100k", help="the smaller data set that search and rebuild compare with")
    parser.add_argument("--writers", type=int, default=default.writers, help="that append at once")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - PARTS.keys() - {"data"}:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}, data")
    try:
        effort = Effort(
            punishments=size_of(given.size),
            beside=size_of(given.beside),
            rounds=given.rounds,
            seconds=given.seconds,
            events=given.events,
            records=given.records,
            requests=given.requests,
            writers=given.writers,
        )
    except ValueError as error:
        parser.error(str(error))
    console = Console(width=None if Console().is_terminal else 200)
    if given.parts == ["data"]:
        with World(effort, given.home, console) as world:
            world.data(effort.beside)
            console.print(f"{world.data().folder} is there", highlight=False)
        return
    parts = [part for part in PARTS if part in given.parts or not given.parts]
    _measure(effort, given.home, parts, given.results, console)


def _measure(effort: Effort, home: Path, parts: list[str], results: Path, console: Console) -> None:
    if not has_wrk():
        console.print(f"{NO_WRK}: what needs it is not measured", style="bold")
    found: dict[str, Result | str] = {}
    rows: list[Row] = []
    with World(effort, home, console) as world:
        if _NEED_DATA & set(parts):
            world.data(effort.beside)
            world.data()
        ran_on = machine(world.data().superuser if _NEED_DATA & set(parts) else world.scratch())
        ran_on |= {"punishments": f"{effort.punishments:,}", "rounds": f"{effort.rounds} of {effort.seconds:g} s"}
        began, load = time.monotonic(), getloadavg()[0]
        for part in parts:
            at = time.monotonic()
            found |= PARTS[part](world)
            console.print(f"measured {part} in {time.monotonic() - at:.0f} s", style="dim", highlight=False)
            ran_on["load"] = f"{load:.1f} at the beginning, {getloadavg()[0]:.1f} at the end"
            # After each part: who stops a run keeps what it has found.
            rows = rows_of(parts, found)
            for row in rows:
                row.ran_on = ran_on
            results.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
    console.print(render(rows))
    for number, text in enumerate(_footnotes(rows), start=1):
        console.print(f"({number}) {text}", highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in ran_on.items()), highlight=False)
    console.print(f"{time.monotonic() - began:.0f} s, without making data sets", highlight=False)


_NEED_DATA = {"reads", "search", "commands", "rebuild", "visible", "memory"}


def render(rows: list[Row]) -> Table:
    """The table; the numbers in brackets are those of the footnotes."""
    table = Table("what")
    for heading in ("figure", "unit", "floor", "peer", "ratio", "goal", "met"):
        table.add_column(heading, justify="left" if heading in ("unit", "ratio", "goal") else "right")
    notes = _footnotes(rows)
    for row in rows:
        table.add_row(
            f"{row.name}{_marks(row, notes)}",
            _number(row.figure),
            row.unit,
            _number(row.floor),
            _number(row.peer),
            ", ".join(f"{ratio:.2f} {name}" for name, ratio in row.ratios.items()),
            row.goal or "",
            "–" if row.met is None else "yes" if row.met else "no",
        )
    return table


def _footnotes(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(text for row in rows for text in _texts(row)))


def _texts(row: Row) -> list[str]:
    others = ", ".join(f"{name} {_number(value)}" for name, value in row.others.items())
    spread = f"rounds {_number(min(row.rounds))} – {_number(max(row.rounds))}" if row.rounds else ""
    beside = "; ".join(text for text in (spread, others, row.note) if text)
    named = (("floor: ", row.floor_is), ("peer: ", row.peer_is), ("", beside))
    return [f"{what}{text}" for what, text in named if text]


def _marks(row: Row, notes: list[str]) -> str:
    return "".join(f" ({notes.index(text) + 1})" for text in _texts(row))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    # What was started is stopped; and a shell's background job would not even hear a Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit("stopped"))
    main()

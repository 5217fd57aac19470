"""``python -m bench [append] [catch-up] [requests]``: every part, or those named, on a PostgreSQL of its own."""

import argparse
import time
from collections.abc import Callable
from os import getloadavg
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench import append, catch_up, requests
from bench.measure import Effort, Row, machine
from bench.server import server

RESULTS = Path(__file__).with_name("results.json")

PARTS: dict[str, Callable[[str, Effort], list[Row]]] = {
    "append": append.measure,
    "catch-up": catch_up.measure,
    "requests": requests.measure,
}


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts, prints the table and writes the results file."""
    default = Effort()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--seconds", type=float, default=default.seconds, help="for each contestant in each round")
    parser.add_argument("--events", type=int, default=default.events, help="in the ledger of catch-up")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    effort = Effort(rounds=given.rounds, seconds=given.seconds, events=given.events)
    console = Console(width=None if Console().is_terminal else 160)
    rows: list[Row] = []
    began = time.monotonic()
    with server() as conninfo:
        ran_on = machine(conninfo)
        for part in given.parts or PARTS:
            console.print(f"measuring {part}", style="dim")
            for row in PARTS[part](conninfo, effort):
                row.ran_on = ran_on
                rows.append(row)
    console.print(render(rows))
    for number, text in enumerate(_footnotes(rows), start=1):
        console.print(f"({number}) {text}", highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in ran_on.items()), highlight=False)
    console.print(
        f"medians of {effort.rounds} rounds, load {getloadavg()[0]:.1f} at the end,"
        f" {time.monotonic() - began:.0f} s in all",
        highlight=False,
    )
    given.results.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")


def render(rows: list[Row]) -> Table:
    """The table; the numbers in brackets are those of the footnotes."""
    table = Table("what")
    for heading in ("figure", "min – max", "unit", "floor", "ratio", "peer", "ratio"):
        table.add_column(heading, justify="left" if heading == "unit" else "right", no_wrap=True)
    notes = _footnotes(rows)
    for row in rows:
        table.add_row(
            f"{row.name}{_marks(row, notes)}",
            _number(row.figure),
            f"{_number(min(row.rounds))} – {_number(max(row.rounds))}",
            row.unit,
            _number(row.floor),
            _ratio(row.floor_ratio),
            _number(row.peer),
            _ratio(row.peer_ratio),
        )
    return table


def _footnotes(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(text for row in rows for text in _texts(row)))


def _texts(row: Row) -> list[str]:
    named = (("floor: ", row.floor_is), ("peer: ", row.peer_is), ("", row.note))
    return [f"{what}{text}" for what, text in named if text]


def _marks(row: Row, notes: list[str]) -> str:
    return "".join(f" ({notes.index(text) + 1})" for text in _texts(row))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()

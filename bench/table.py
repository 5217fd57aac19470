"""The table of the benchmark as data: what is measured, against what, and what it must reach.

A part answers with a ``Result`` for each key, or with the reason why there is none; what it says nothing about was not
measured. Ratios are the figure by the other value, so for times smaller is better.
"""

import statistics
from collections.abc import Mapping

import msgspec


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """``of``: ``floor``, ``peer``, the name of another contestant, or ``figure`` for the figure itself. At least one of
    ``least`` and ``most`` is given; both are met by equality."""

    of: str
    least: float | None = None
    most: float | None = None

    def text(self) -> str:
        bounds = (("≥", self.least), ("≤", self.most))
        times = "" if self.of == "figure" else f" × {self.of}"
        return ", ".join(f"{sign} {value:,g}{times}" for sign, value in bounds if value is not None)

    def met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table before it is measured. ``floor``: what the parts beneath can do at best; ``peer``: what one
    would take instead; both in ``unit``, where there are any."""

    part: str
    name: str
    unit: str
    floor: str | None = None
    peer: str | None = None
    goals: tuple[Bound, ...] = ()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a part found, a value for each round. ``others``: further contestants by name."""

    figure: list[float]
    floor: list[float] | None = None
    peer: list[float] | None = None
    others: dict[str, list[float]] = {}
    note: str | None = None


Results = Mapping[str, Result | str]


class Row(msgspec.Struct, kw_only=True):
    """One object of results.json. Values are medians of the rounds in ``unit``, None where not measured; ``met`` None
    where there is no goal, or not everything that it asks for was measured."""

    part: str
    name: str
    figure: float | None
    unit: str
    floor: float | None
    peer: float | None
    others: dict[str, float]
    ratios: dict[str, float]
    goal: str | None
    met: bool | None
    rounds: list[float]
    floor_is: str | None
    peer_is: str | None
    note: str | None
    ran_on: dict[str, str] = {}


CRUD = "FastAPI, SQLAlchemy 2 and asyncpg on uvicorn, no ledger"
LIBRARY = "eventsourcing, its own recorder, defaults"
RUNNER = "eventsourcing's ProjectionRunner into one table of the same columns and indexes"
SINGLE = "a single append by one writer, median"
CONSTANT = "a constant answer of the same server and framework"
BARE = "bare row"

LINES: dict[str, Line] = {
    "profile": Line(
        part="reads",
        name="profile by name, regular viewer, session checked, 32 connections, one process",
        unit="answers/s",
        floor=CONSTANT,
        peer=CRUD,
        goals=(Bound(of="floor", least=0.35), Bound(of="peer", least=8), Bound(of=BARE, least=1.0)),
    ),
    "profile p50": Line(
        part="reads",
        name="the same, 1 connection, p50",
        unit="ms",
        floor="a Litestar handler that reads the row through psycopg's pool, no session",
        peer=CRUD,
        goals=(Bound(of="floor", most=3),),
    ),
    "detail": Line(
        part="reads",
        name="detail view of 20 punishments, moderator, 32 connections",
        unit="answers/s",
        floor=CONSTANT,
        peer=CRUD,
        goals=(Bound(of="peer", least=3),),
    ),
    "search p99": Line(
        part="search",
        name="search, every combination of filters, page and exact total, p99",
        unit="ms",
        floor="the page alone along the same indexes, without a total",
        goals=(Bound(of="floor", most=2), Bound(of="at 100k", most=1.5)),
    ),
    "search large": Line(
        part="search",
        name="search where the match is large, 8 connections",
        unit="answers/s",
        peer=CRUD,
        goals=(Bound(of="peer", least=20),),
    ),
    "search far": Line(
        part="search",
        name="search, page 10,000 by cursor, p50",
        unit="ms",
        floor="page 1 of the same search",
        goals=(Bound(of="floor", most=1.2),),
    ),
    "search q": Line(
        part="search",
        name="search q, a word and a fragment, p99",
        unit="ms",
        floor="a single row by its primary key, p50",
        goals=(Bound(of="floor", most=50),),
    ),
    "search scans": Line(
        part="search",
        name="plans of these searches that read a table from end to end",
        unit="plans",
        goals=(Bound(of="figure", most=0),),
    ),
    "append": Line(
        part="append",
        name="append, writers that are each a process of its own: the recorder",
        unit="events/s",
        floor="pgbench's INSERT into a plain table, unordered, as many clients",
        peer=LIBRARY,
        goals=(Bound(of="peer", least=4),),
    ),
    "append grouped": Line(
        part="append",
        name="append, callers of one process: their commands together, as in serve",
        unit="events/s",
        floor="pgbench's INSERT into a plain table, unordered, as many clients",
        peer=LIBRARY,
        goals=(Bound(of="floor", least=0.7),),
    ),
    "append lost": Line(
        part="append",
        name="events that a tail reader missed meanwhile",
        unit="events",
        goals=(Bound(of="figure", most=0),),
    ),
    "append one": Line(
        part="append",
        name="append, 1 writer",
        unit="events/s",
        floor="pgbench's INSERT into a plain table, 1 client",
        peer=LIBRARY,
    ),
    "append batch": Line(
        part="append",
        name="append_batch of 1,000 commands",
        unit="events/s",
        floor="pgbench, 1,000 rows an INSERT",
        peer=LIBRARY,
    ),
    "commands": Line(
        part="commands",
        name="commands over HTTP (warn), 32 connections",
        unit="answers/s",
        peer="FastAPI and an eventsourcing Application on uvicorn",
        goals=(Bound(of="peer", least=5),),
    ),
    "commands p99": Line(
        part="commands",
        name="the same, p99",
        unit="ms",
        floor=SINGLE,
        peer="FastAPI and an eventsourcing Application on uvicorn",
        goals=(Bound(of="floor", most=10),),
    ),
    "catch-up": Line(
        part="catch-up",
        name="catch-up, punishments and the tables beside it",
        unit="events/s",
        floor="COPY of the same events, thrown away",
        peer=RUNNER,
        goals=(Bound(of="peer", least=40),),
    ),
    "catch-up all": Line(
        part="catch-up",
        name="catch-up, all projectors together, each event counted for each",
        unit="events/s",
        floor="COPY of the same events, thrown away",
        peer=RUNNER,
        goals=(Bound(of="peer", least=40),),
    ),
    "rebuild": Line(
        part="rebuild",
        name="rebuild of all projections, two processes, verified and promoted, 100k punishments, counted likewise",
        unit="events/s",
        peer=RUNNER,
        goals=(Bound(of="peer", least=80),),
    ),
    "rebuild made": Line(
        part="rebuild",
        name="the same when the data set was made",
        unit="events/s",
        peer=RUNNER,
        goals=(Bound(of="peer", least=80),),
    ),
    "rebuild memory": Line(
        part="rebuild",
        name="peak memory of a process of that rebuild",
        unit="MiB",
        floor="the same at 100k punishments",
        goals=(Bound(of="floor", most=1.2),),
    ),
    "visible p99": Line(
        part="visible",
        name="commit to visible in search, at 200 commands/s, p99",
        unit="ms",
        floor=SINGLE,
        goals=(Bound(of="floor", most=25),),
    ),
    "own writes p50": Line(
        part="visible",
        name="read right after one's own write, p50",
        unit="ms",
        floor="the same read with nothing to wait for",
        goals=(Bound(of="figure", most=10),),
    ),
    "import": Line(part="import", name="import", unit="records/s", goals=(Bound(of="figure", least=20_000),)),
    "memory idle": Line(
        part="memory", name="memory of serve, idle", unit="MiB", goals=(Bound(of="figure", most=120),)
    ),
    "memory serve": Line(
        part="memory",
        name="memory of serve after a million requests",
        unit="MiB",
        floor="idle",
        goals=(Bound(of="figure", most=200),),
    ),
    "memory work": Line(
        part="memory", name="peak memory of work", unit="MiB", goals=(Bound(of="figure", most=200),)
    ),
}  # fmt: skip


def rows_of(parts: list[str], results: Results, lines: Mapping[str, Line] = LINES) -> list[Row]:
    """The rows of these parts, in the order of the table."""
    return [_row(line, results.get(key, "nothing was found")) for key, line in lines.items() if line.part in parts]


def _row(line: Line, result: Result | str) -> Row:
    goal = ", ".join(bound.text() for bound in line.goals) or None
    row = Row(
        part=line.part, name=line.name, unit=line.unit, goal=goal, floor_is=line.floor, peer_is=line.peer,
        figure=None, floor=None, peer=None, others={}, ratios={}, met=None, rounds=[], note=None,
    )  # fmt: skip
    if isinstance(result, str):
        row.note = f"not measured: {result}"
        return row
    row.figure, row.rounds, row.note = statistics.median(result.figure), result.figure, result.note
    row.floor, row.peer = _median(result.floor), _median(result.peer)
    row.others = {name: statistics.median(values) for name, values in result.others.items()}
    beside = {"floor": row.floor, "peer": row.peer, **row.others}
    row.ratios = {name: row.figure / value for name, value in beside.items() if value}
    measured = {**row.ratios, "figure": row.figure}
    if line.goals:
        verdicts = [bound.met(measured[bound.of]) if bound.of in measured else None for bound in line.goals]
        # One bound that is missed is enough to know; one that was not measured leaves the rest open.
        row.met = False if False in verdicts else None if None in verdicts else True
    return row


def _median(values: list[float] | None) -> float | None:
    return statistics.median(values) if values else None

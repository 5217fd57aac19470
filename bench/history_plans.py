"""Searches of the punishments of the past, beside the same searches of today, on a million punishments.

    python -m bench.history_plans postgresql://…/postgres [--rows 1000000] [--times 15] [--plans FILE]

Each filter is asked for as of an early moment, one in the middle and one of this week, by ``known_at``, ``as_of`` and
both. Prints, for each group, p50 and p99 of today and of the past, and the time that the server's process was computing
(Linux, the server on this machine), which other work on the machine hardly changes; fails when a plan reads a table
from end to end. The server's settings are those that it has, but for parallel plans, which HTTP does not use. Leaves
its database ``modledger_history_plans`` behind.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import psycopg

from bench.history_rows import fill_history
from bench.search_plans import end_to_end
from bench.search_rows import GUILD, ISSUER, NOW, USER
from modledger.projections import history_search, search
from modledger.projections.search import Search
from modledger.projections.time_travel import Instant
from modledger.workers.migrate import migrate

DATABASE = "modledger_history_plans"

# The first punishment is of 1,041 days before NOW; not midnight, so that weeks and buckets are cut.
MOMENTS = {
    "early": NOW - timedelta(days=900, hours=5),
    "middle": NOW - timedelta(days=400, hours=5),
    "recent": NOW - timedelta(days=2, hours=5),
}
QUERIES = ("auto", "spa", "https", "7a3b")
WHOM: dict[str, dict[str, Any]] = {
    "no filter of whom": {},
    "`issued_by`, a third of all": {"issued_by": ISSUER},
    "`issued_by`, another": {"issued_by": ISSUER + 77},
    "`guild_id`, 70,000 cases": {"guild_id": GUILD},
    "`guild_id` and `issued_by`": {"guild_id": GUILD, "issued_by": ISSUER},
    "`punishment_type=3`": {"type": 3},
    "`user_id`, 5,000 cases": {"user_id": USER},
}


class Asked(NamedTuple):
    group: str
    search: Search


def searches() -> Iterator[Asked]:
    for (whom, filters), active, sort in itertools.product(WHOM.items(), (False, True), search.SORTS):
        group = f"{whom}{', `active_only`' if active else ''}"
        yield Asked(group, Search(**filters, active_only=active, sort=sort))
    for days, active, sort in itertools.product((10, 100), (False, True), search.SORTS):
        group = f"between dates{', `active_only`' if active else ''}"
        since = NOW - timedelta(days=1000, hours=5)
        dates: dict[str, Any] = {"created_after": since, "created_before": since + timedelta(days=days)}
        yield Asked(group, Search(**dates, active_only=active, sort=sort))
    for q, filters, active, sort in itertools.product(
        QUERIES, ({}, {"issued_by": ISSUER}), (False, True), ("-created_at", "expires_at")
    ):
        of: dict[str, Any] = {"q": q, "sort": sort, **filters}
        yield Asked(f"`q={q}`{', `active_only`' if active else ''}", Search(active_only=active, **of))


class Times(NamedTuple):
    """``as_of`` and ``known_at``, as ``at`` has them; ``moment``: its name."""

    kind: str
    moment: str
    at: Instant
    position: int | None


def times(conn: psycopg.Connection[Any]) -> list[Times]:
    def known(moment: datetime) -> int:
        found = conn.execute("select max(position) from recorded where recorded <= %s", (moment,)).fetchone()
        return int(found[0] or 0) if found else 0

    found = []
    for name, moment in MOMENTS.items():
        later = moment + timedelta(days=1)
        found += [
            Times("`known_at`", name, Instant(now=moment, known_at=moment), known(moment)),
            Times("`as_of`", name, Instant(now=moment, as_of=moment), None),
            Times("both", name, Instant(now=moment, as_of=moment, known_at=later), known(later)),
        ]
    return found


Statement = tuple[str, list[object]]


class Measured(NamedTuple):
    """Milliseconds, planning and fetching included; ``cpu``: of the server, the middle one; the plan."""

    found: int
    p50: float
    p99: float
    cpu: float
    plan: list[str]


def measure(conn: psycopg.Connection[Any], asked: Search, when: Times | None, runs: int) -> Measured:
    cursor = psycopg.RawCursor(conn)

    def statement() -> Statement:
        if when is None:
            return search.statement(asked, NOW, fragments=True)
        return history_search.statement(asked, when.at, when.position, fragments=True)

    taken, computed, found = [], [], 0
    clock = Path(f"/proc/{conn.info.backend_pid}/schedstat")
    for _ in range(runs):
        begun, before = time.perf_counter(), int(clock.read_text().split()[0])
        sql, parameters = statement()
        lines = cursor.execute(sql, parameters, prepare=False).fetchall()
        page = search.page(asked, lines) if when is None else history_search.past_page(asked, when.at, lines)
        found = page.total
        taken.append((time.perf_counter() - begun) * 1000)
        computed.append((int(clock.read_text().split()[0]) - before) / 1e6)
    taken.sort()
    computed.sort()
    sql, parameters = statement()
    plan = [line for (line,) in cursor.execute("explain (analyze, buffers, costs off) " + sql, parameters)]
    return Measured(found, taken[len(taken) // 2], taken[len(taken) * 99 // 100], computed[len(computed) // 2], plan)


HEAD = """
| first page by | time | today p50 | p99 | cpu | past p50 | p99 | cpu early | cpu middle | cpu recent | cpu at most |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def render(group: str, kind: str, today: Sequence[Measured], past: dict[str, list[Measured]]) -> str:
    every = [one for name in MOMENTS for one in past[name]]
    cells = (
        *(median_low(values) for values in zip(*((one.p50, one.p99, one.cpu) for one in today), strict=True)),
        *(median_low(values) for values in zip(*((one.p50, one.p99) for one in every), strict=True)),
        *(median_low(one.cpu for one in past[name]) for name in MOMENTS),
        max(one.cpu for one in every),
    )
    return f"| {group} | {kind} | {' | '.join(f'{cell:.1f}' for cell in cells)} |"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("server", help="URL of a superuser on the server; the database is made and left there")
    parser.add_argument("--rows", type=int, default=1_000_000, help="punishments")
    parser.add_argument("--times", type=int, default=15, help="runs of each search")
    parser.add_argument("--plans", type=Path, help="where to write every plan")
    parser.add_argument("--only", default="", help="groups whose name contains this")
    asked = parser.parse_args(arguments)
    with psycopg.connect(asked.server, autocommit=True) as server:
        known = server.execute("select from pg_database where datname = %s", (DATABASE,)).fetchone()
        if known is None:
            server.execute(f"create database {DATABASE}")
    today: dict[str, list[Measured]] = {}
    past: dict[tuple[str, str], dict[str, list[Measured]]] = {}
    whole, plans = [], []
    with psycopg.connect(asked.server, dbname=DATABASE, autocommit=True) as conn:
        conn.execute("set max_parallel_workers_per_gather = 0")
        if known is None:
            migrate(f"{conn.info.dsn}")
            fill_history(conn, asked.rows)
            conn.execute("vacuum analyze")
        moments = times(conn)
        for one in searches():
            if asked.only not in one.group:
                continue
            today.setdefault(one.group, []).append(measure(conn, one.search, None, asked.times))
            for when in moments:
                measured = measure(conn, one.search, when, asked.times)
                past.setdefault((one.group, when.kind), {}).setdefault(when.moment, []).append(measured)
                name = f"{one.group} {one.search.sort} {when.kind} {when.moment}"
                plans += [f"-- {name}: {measured.p50:.2f} ms, {measured.found} found", *measured.plan, ""]
                whole += [f"{name}: {line}" for line in end_to_end(measured.plan)]
    print(HEAD)
    for (group, kind), found in past.items():
        print(render(group, kind, today[group], found))
    if asked.plans is not None:
        asked.plans.write_text("\n".join(plans))
    if whole:
        print("read from end to end:", *whole, sep="\n", file=sys.stderr)
    return 1 if whole else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

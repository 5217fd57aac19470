"""Fills a database of its own with a million punishments, 300,000 users and 50,000 guilds, and shows how the searches
do on every combination.

    python -m bench.search_plans postgresql://…/postgres [--rows 1000000] [--times 30] [--plans FILE]

Prints, for each group of combinations, the p50 of the middle one and of the worst, the p99 and the blocks that
PostgreSQL read; fails when a plan reads a table from end to end. The session's settings are those of the product.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median_low
from types import ModuleType
from typing import Any, NamedTuple

import psycopg

from bench.search_rows import GUILD, ISSUER, NOW, USER, fill_names, fill_punishments
from modledger.http.reader import SESSION
from modledger.projections import guild_search, search, user_search
from modledger.projections.fragments import LEAST
from modledger.workers.migrate import migrate

DATABASE = "modledger_search_plans"
USERS, GUILDS = 300_000, 50_000

# Of a third of all; a quarter; a sixth, as a short whole word; one in twelve; one in twenty, in 50,000 different words;
# two in the same reason, twice; of a few; of none.
QUERIES = ("auto", "rule", "in", "spa", "https", "auto spam", "phish gore", "7a3b", "nothing")


class Asked(NamedTuple):
    """``by``: the module that answers ``search``, one of its own ``Search``."""

    table: str
    group: str
    name: str
    by: ModuleType
    search: Any


def searches() -> Iterator[Asked]:
    yield from by_filters()
    yield from by_dates()
    yield from by_words()
    yield from far_pages()
    yield from by_names()


def _named(filters: dict[str, Any], *more: str) -> str:
    return " ".join([*(f"{name}={value}" for name, value in filters.items()), *more])


def by_filters() -> Iterator[Asked]:
    """Every combination of filters that can match, under each sort."""
    groups: list[tuple[str, dict[str, int]]] = [
        ("no filter of whom", {}),
        ("`issued_by`, a third of all", {"issued_by": ISSUER}),
        ("`issued_by`, another", {"issued_by": ISSUER + 77}),
        ("`guild_id`, 70,000 cases", {"guild_id": GUILD}),
        ("`guild_id` and `issued_by`", {"guild_id": GUILD, "issued_by": ISSUER}),
        ("`guild_id` and `issued_by`", {"guild_id": GUILD, "issued_by": ISSUER + 77}),
        ("`user_id`, 5,000 cases", {"user_id": USER}),
        ("`user_id`, 5,000 cases", {"user_id": USER, "issued_by": ISSUER}),
        ("`user_id`, 5,000 cases", {"user_id": USER, "issued_by": ISSUER + 77}),
    ]
    types: list[dict[str, int]] = [{}, {"type": 1}, {"type": 3}, {"type": 4}]
    for (group, whom), kind, active, sort in itertools.product(groups, types, (False, True), search.SORTS):
        filters: dict[str, Any] = {**whom, **kind, "active_only": active, "sort": sort}
        yield Asked("first page by", group, _named(filters), search, search.Search(**filters))


# Not midnight, so that weeks are cut.
_DAYS = {days: NOW - timedelta(days=days, hours=5) for days in (1, 30, 365)}


def by_dates() -> Iterator[Asked]:
    others: list[dict[str, Any]] = [{}, {"issued_by": ISSUER}, {"guild_id": GUILD}, {"active_only": True}, {"type": 3}]
    sorts: dict[search.Sort, str] = {
        "-created_at": "`created_at`, both ways",
        "created_at": "`created_at`, both ways",
        "-expires_at": "`-expires_at`",
        "expires_at": "`expires_at`",
    }
    for days, at in _DAYS.items():
        spans: tuple[tuple[str, dict[str, Any]], ...] = (
            ("`created_after`", {"created_after": at}),
            ("`created_before`", {"created_before": at}),
            ("ten days", {"created_after": at - timedelta(days=10), "created_before": at}),
        )
        for span, dates in spans:
            for other, (sort, named) in itertools.product(others, sorts.items()):
                sought, name = search.Search(**other, **dates, sort=sort), _named(other, span, f"-{days}d", sort)
                yield Asked("between dates", f"{span}, by {named}", name, search, sought)


def by_words() -> Iterator[Asked]:
    """Each ``q`` with each other filter, under each sort."""
    others: list[dict[str, Any]] = [
        {}, {"issued_by": ISSUER}, {"issued_by": ISSUER + 77}, {"guild_id": GUILD}, {"type": 1}, {"type": 3},
        {"guild_id": GUILD, "issued_by": ISSUER}, {"issued_by": ISSUER, "type": 3},
    ]  # fmt: skip
    dates: list[dict[str, Any]] = [
        {}, {"created_after": _DAYS[30]}, {"created_before": _DAYS[365]},
        {"created_after": _DAYS[365] - timedelta(days=100), "created_before": _DAYS[365]},
    ]  # fmt: skip
    for q in QUERIES:
        for other, between, active, sort in itertools.product(others, dates, (False, True), search.SORTS):
            filters = {**other, **between, "active_only": active, "sort": sort}
            group = f"`q={q}`" + (", between dates" if between else "")
            yield Asked("words and fragments", group, _named(filters, q), search, search.Search(q=q, **filters))
        for active, sort in itertools.product((False, True), search.SORTS):
            filters = {"user_id": USER, "active_only": active, "sort": sort}
            sought = search.Search(q=q, **filters)
            yield Asked("words and fragments", "any `q`, `user_id`, 5,000 cases", _named(filters, q), search, sought)


def far_pages() -> Iterator[Asked]:
    for offset in (1_000, 100_000):
        for filters in ({}, {"issued_by": ISSUER}, {"q": "auto"}):
            name = _named({**filters, "offset": offset})
            yield Asked("far pages", f"`{name}`", name, search, search.Search(**filters, offset=offset))


def by_names() -> Iterator[Asked]:
    for q in (None, "a", "am", "amber", "ott", "fox1", "er", "zzz", "_", "teapot", "123456"):
        what = "no `q`" if q is None else "a prefix" if len(q) < LEAST else "a fragment"
        for state, tier, level in itertools.product((None, 0, 1, 2), (None, 0, 2), (None, 0, 2)):
            filters: dict[str, Any] = {"state": state, "tier": tier, "level": level}
            sought = user_search.Search(q=q, **filters)
            yield Asked("users by name", what, _named(filters, str(q)), user_search, sought)
        for state, tier in itertools.product((None, 0, 1, 2), (None, 0, 2)):
            filters = {"state": state, "tier": tier}
            yield Asked(
                "guilds by name", what, _named(filters, str(q)), guild_search, guild_search.Search(q=q, **filters)
            )


class Measured(NamedTuple):
    """Milliseconds, planning and fetching included; the blocks that were read; the plan."""

    found: int
    p50: float
    p99: float
    blocks: int
    plan: list[str]


def measure(conn: psycopg.Connection[Any], asked: Asked, times: int) -> Measured:
    cursor = psycopg.RawCursor(conn)
    # What the product prepares.
    steady = asked.by is search and search.is_steady(asked.search)
    taken = []
    found = 0
    for _ in range(times):
        begun = time.perf_counter()
        sql, parameters = asked.by.statement(asked.search, NOW, fragments=True)
        found = asked.by.page(asked.search, cursor.execute(sql, parameters, prepare=steady).fetchall()).total
        taken.append((time.perf_counter() - begun) * 1000)
    taken.sort()
    sql, parameters = asked.by.statement(asked.search, NOW, fragments=True)
    plan = [line for (line,) in cursor.execute("explain (analyze, buffers, costs off) " + sql, parameters)]
    blocks = sum(
        int(part.strip(",").partition("=")[2])
        for part in next(line for line in plan if "Buffers:" in line).split()
        if part.startswith(("hit=", "read="))
    )
    return Measured(found, taken[len(taken) // 2], taken[len(taken) * 99 // 100], blocks, plan)


# Of one line or a few dozen; what is small is read as a whole.
SMALL = ("projection_tracking", "profile_counts", "guild_counts")


def end_to_end(plan: Sequence[str]) -> list[str]:
    return [line.strip() for line in plan if "Seq Scan" in line and not any(f" {table} " in line for table in SMALL)]


def render(group: str, measured: Sequence[Measured]) -> str:
    cells = (
        f"{len(measured)}",
        f"{max(one.found for one in measured):,}",
        f"{median_low(one.p50 for one in measured):.1f}",
        f"{max(one.p50 for one in measured):.1f}",
        f"{median_low(one.p99 for one in measured):.1f}",
        f"{max(one.blocks for one in measured):,}",
    )
    return f"| {group} | {' | '.join(cells)} |"


HEAD = """
| {} | combinations | found, at most | p50 ms, middle | p50 ms, worst | p99 ms, middle | blocks, at most |
| --- | --- | --- | --- | --- | --- | --- |"""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("server", help="URL of a superuser on the server; the database is made and left there")
    parser.add_argument("--rows", type=int, default=1_000_000, help="punishments")
    parser.add_argument("--times", type=int, default=30, help="runs of each combination")
    parser.add_argument("--plans", type=Path, help="where to write every plan")
    asked = parser.parse_args(arguments)
    with psycopg.connect(asked.server, autocommit=True) as server:
        known = server.execute("select from pg_database where datname = %s", (DATABASE,)).fetchone()
        if known is None:
            server.execute(f"create database {DATABASE}")
    with psycopg.connect(asked.server, dbname=DATABASE, autocommit=True) as conn:
        if known is None:
            migrate(f"{conn.info.dsn}")
            fill_punishments(conn, asked.rows)
            fill_names(conn, USERS, GUILDS)
            conn.execute("vacuum analyze")
        # As the product reads, but for as long as it takes.
        conn.execute(f"{SESSION}; set statement_timeout = 0".encode())
        groups: dict[tuple[str, str], list[Measured]] = {}
        whole, plans = [], []
        for one in searches():
            measured = measure(conn, one, asked.times)
            groups.setdefault((one.table, one.group), []).append(measured)
            plans += [f"-- {one.table} {one.name}: {measured.p50:.2f} ms", *measured.plan, ""]
            whole += [f"{one.name}: {line}" for line in end_to_end(measured.plan)]
    for table in dict.fromkeys(table for table, _ in groups):
        print(HEAD.format(table))
        for (of, group), several in groups.items():
            if of == table:
                print(render(group, several))
    if asked.plans is not None:
        asked.plans.write_text("\n".join(plans))
    if whole:
        print("read from end to end:", *whole, sep="\n", file=sys.stderr)
    return 1 if whole else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Fills a database of its own with a million punishments of skewed shape and shows how the search does on every
combination.

    python -m bench.search_plans postgresql://…/postgres [--rows 1000000] [--plans FILE]

Prints p50 and p99 of each combination of filters and sorts, first page and far pages, with the blocks that PostgreSQL
read; fails when a plan reads a table from end to end. The server's settings are those that it has.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from modledger.projections import marks, reason_words
from modledger.projections import search as punishment_search
from modledger.projections.catalog import create
from modledger.projections.punishments import COUNTS, TABLE
from modledger.projections.search import Search
from modledger.workers.demo_words import reason

DATABASE = "modledger_search_plans"
NOW = datetime(2026, 11, 1, tzinfo=UTC)
GUILD, ISSUER, USER = 500, 9_000, 100_000

# A guild with 70,000 cases, a user with 5,000, an issuer of a third of all, 2,000 other issuers, the system for one in
# twenty. Of those whose end has come one in 2,000 is not recorded yet and half lapsed; the others, and a tenth of the
# rest, were lifted.
FILL = """
    insert into punishments
    select (case when of_guild then 'guild:' || subject else 'user:' || subject end), n, n,
        case when not of_guild then subject end, case when of_guild then subject end, type,
        reason, reason_key, issuer, expires_at,
        not ended, case when not ended then expires_at end,
        case when lapsed then 'lapsed' when ended then 'lifted' end,
        case when ended and not lapsed then at + interval '1 hour' end,
        case when ended and not lapsed then issuer end, n, at, at
    from (
        select n, of_guild, subject, type, issuer, at, expires_at,
            expires_at is not null and expires_at <= %(now)s and luck > 0.0005 and luck < 0.56 as lapsed,
            (expires_at is not null and expires_at <= %(now)s and luck > 0.0005) or luck > 0.9 as ended
        from (
            select n, of_guild, subject, type, luck, at,
                case when who < 0.333 then %(issuer)s when who < 0.383 then null
                     else %(issuer)s + 1 + (who * 1e9)::bigint %% 2000 end as issuer,
                case when type = 1 or (type in (3, 4) and length < 0.19) then null
                     when type = 2 then at + (60 + length * 86400 * 3) * interval '1 second'
                     else at + (3600 + length * 86400 * 400) * interval '1 second' end as expires_at
            from (
                select n, n %% 10 = 0 as of_guild, random() as luck, random() as who, random() as length,
                    %(now)s - (%(rows)s - n) * interval '90 seconds' as at,
                    case when n %% 10 = 0 then case when n %% 100 < 70 then %(guild)s else %(guild)s + 1 + n %% 3001 end
                         when n %% 200 = 1 then %(user)s else %(user)s + 1 + (random() * 400000)::bigint end as subject,
                    case when n %% 10 = 0 then case when n %% 2000 = 0 then 4 else 1 end
                         else 1 + n %% 3 end as type
                from generate_series(1, %(rows)s) n
            ) drawn
        ) ending
    ) ended join sampled using (n)
"""
COUNT = """
    insert into punishment_counts
    select g, i, type, w, count(*), count(*) filter (where open)
    from punishments,
        lateral (values (0::bigint), (guild_id)) as of_guild (g),
        lateral (values (0::bigint), (issued_by)) as of_issuer (i),
        lateral (values (0), (1 + ((created_at at time zone 'UTC')::date - date '0001-01-01') / 7)) as of_week (w)
    where g is not null and i is not null group by 1, 2, 3, 4
"""


MARK = f"""
    insert into punishment_marks
    select kind, value, id / {marks.SPAN}, bit_or(set_bit(0::bit({marks.SPAN}), mod(id, {marks.SPAN})::int, 1))
    from punishments join sampled on n = id, lateral (
        select {marks.WORD}, word from unnest(words) as word
        union all select {marks.ISSUER}, issued_by where issued_by is not null
        union all select {marks.GUILD}, guild_id where guild_id is not null
        union all select {marks.TYPE}, type
        union all select {marks.OPEN}, 0 where open
        union all select {marks.WEEK}, 1 + ((created_at at time zone 'UTC')::date - date '0001-01-01') / 7
    ) as mark (kind, value) group by 1, 2, 3
"""


def sampled(rows: int) -> Iterator[tuple[int, str, str, list[int]]]:
    """Reasons as the demo has them. To a third of them an automaton has put its mark; one in twenty has a link of its
    own, one in twenty the number of a case."""
    luck = Random(7)
    for n in range(1, rows + 1):
        text, more = reason(luck), luck.random()
        if more < 0.333:
            text += " [auto]"
        elif more < 0.383:
            text += f" https://cdn.example/{luck.getrandbits(40):x}"
        elif more < 0.433:
            text += f", case {luck.randrange(10**17, 10**18)}"
        yield n, text, reason_words.key(text), [reason_words.number(word) for word in reason_words.words(text)]


def fill(conn: psycopg.Connection[Any], rows: int) -> None:
    cursor = conn.cursor()
    cursor.execute("create table projection_tracking (application_name text primary key, notification_id bigint)")
    cursor.execute("insert into projection_tracking values ('punishments', %s)", (rows,))
    cursor.execute("create extension if not exists pg_trgm")
    cursor.execute("create temp table sampled (n bigint primary key, reason text, reason_key text, words bigint[])")
    found: list[tuple[str, int]] = []
    with cursor.copy("copy sampled from stdin") as copied:
        for row in sampled(rows):
            copied.write_row(row)
            found += [(word, row[0]) for word in reason_words.words(row[1])]
    for table in (COUNTS, TABLE, marks.TABLE, reason_words.TABLE):
        create(cursor, table)
        for name, on in table.fragments.items():
            cursor.execute(f"create index {name} on {table.name} {on}".encode())
    reason_words.count(cursor, found, ())
    cursor.execute("select setseed(0.5)")
    cursor.execute(FILL, {"now": NOW, "rows": rows, "guild": GUILD, "issuer": ISSUER, "user": USER})
    cursor.execute(COUNT)
    cursor.execute(MARK.encode())
    cursor.execute("vacuum analyze")


def searches() -> Iterator[tuple[str, Search]]:
    """Every combination of filters that can match, under each sort; and far pages of the largest."""
    subjects: list[dict[str, int]] = [{}, {"user_id": USER}, {"guild_id": GUILD}]
    issuers: list[dict[str, int]] = [{}, {"issued_by": ISSUER}, {"issued_by": ISSUER + 77}]
    types: list[dict[str, int]] = [{}, {"type": 1}, {"type": 3}, {"type": 4}]
    for subject, issuer, kind, active, sort in itertools.product(
        subjects, issuers, types, (False, True), punishment_search.SORTS
    ):
        filters = {**subject, **issuer, **kind}
        names = [f"{name}={value}" for name, value in filters.items()] + (["active"] if active else []) + [sort]
        yield " ".join(names), Search(**filters, active_only=active, sort=sort)  # type: ignore[arg-type]
    beside_dates: list[dict[str, int]] = [
        {},
        {"issued_by": ISSUER},
        {"guild_id": GUILD},
        {"active_only": True},
        {"type": 3},
    ]
    # Not midnight, so that weeks are cut.
    for days in (1, 30, 365):
        at = NOW - timedelta(days=days, hours=5)
        for name, dates in (
            (f"created_after=-{days}d", {"created_after": at}),
            (f"created_before=-{days}d", {"created_before": at}),
            (f"created 10d before -{days}d", {"created_after": at - timedelta(days=10), "created_before": at}),
        ):
            for other in beside_dates:
                for sort in punishment_search.SORTS:
                    names = [*(f"{key}={value}" for key, value in other.items()), name, sort]
                    yield " ".join(names), Search(**other, **dates, sort=sort)  # type: ignore[arg-type]
    for offset in (1_000, 100_000):
        yield f"offset={offset}", Search(offset=offset)
        yield f"issued_by={ISSUER} offset={offset}", Search(issued_by=ISSUER, offset=offset)


def measure(conn: psycopg.Connection[Any], search: Search, times: int) -> tuple[list[float], int]:
    """Milliseconds of each run, planning and fetching included, and the total found."""
    cursor = psycopg.RawCursor(conn)
    taken = []
    total = 0
    for _ in range(times):
        begun = time.perf_counter()
        sql, parameters = punishment_search.statement(search, NOW, fragments=True)
        total = punishment_search.page(search, cursor.execute(sql, parameters, prepare=False).fetchall()).total
        taken.append((time.perf_counter() - begun) * 1000)
    return sorted(taken), total


def explain(conn: psycopg.Connection[Any], search: Search) -> list[str]:
    sql, parameters = punishment_search.statement(search, NOW, fragments=True)
    lines = psycopg.RawCursor(conn).execute("explain (analyze, buffers, costs off) " + sql, parameters).fetchall()
    return [line for (line,) in lines]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("server", help="URL of a superuser on the server; the database is made and left there")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=100, help="runs of each combination")
    parser.add_argument("--plans", type=Path, help="where to write every plan")
    asked = parser.parse_args(arguments)
    with psycopg.connect(asked.server, autocommit=True) as server:
        known = server.execute("select from pg_database where datname = %s", (DATABASE,)).fetchone()
        if known is None:
            server.execute(f"create database {DATABASE}")
    with psycopg.connect(asked.server, dbname=DATABASE, autocommit=True) as conn:
        if known is None:
            fill(conn, asked.rows)
        print("| search | found | p50 ms | p99 ms | blocks |\n| --- | --- | --- | --- | --- |")
        end_to_end = []
        plans = []
        for name, search in searches():
            taken, total = measure(conn, search, asked.times)
            plan = explain(conn, search)
            plans += [f"-- {name}", *plan, ""]
            if any("Seq Scan on punishments" in line for line in plan):
                end_to_end.append(name)
            blocks = sum(
                int(part.strip(",").partition("=")[2])
                for part in next(line for line in plan if "Buffers:" in line).split()
                if part.startswith(("hit=", "read="))
            )
            print(
                f"| {name} | {total} | {taken[len(taken) // 2]:.2f} | {taken[len(taken) * 99 // 100]:.2f} | {blocks} |"
            )
    if asked.plans is not None:
        asked.plans.write_text("\n".join(plans))
    if end_to_end:
        print("read from end to end: " + "; ".join(end_to_end), file=sys.stderr)
    return 1 if end_to_end else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

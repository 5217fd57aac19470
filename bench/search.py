"""The search of punishments: every combination of filters, words, far pages, and what is found much over HTTP."""

import itertools
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
import psycopg

from bench.data_set import DataSet
from bench.load import NO_WRK, Load, cpu, has_wrk, shares
from bench.measure import in_turn, quantile
from bench.processes import get, probe
from bench.search_plans import end_to_end
from bench.table import Result
from bench.world import NO_PEER, World, rows
from modledger.http.reader import SESSION
from modledger.projections import punishments, search
from modledger.projections.search import ENDS, SORTS, Search, by_end, types_of

CONNECTIONS = 8
FAR_PAGE = 10_000
# Rows of a table that should not be read from end to end.
LARGE = 10_000
WORDS = ("spam", "rule", "raid")
FRAGMENTS = ("adve", "hara", "tox")
_ADMIN = "select user_id, level from profiles where level = 2 and held = 0 and username is not null limit 1"
# Those with the most, and one of the middle. In no hurry.
_MOST = "select {0} from punishments where {0} is not null group by 1 order by count(*) desc, 1 limit 20"
_LARGE = "select relname from pg_class where relkind = 'r' and reltuples >= $1"


class Whom(NamedTuple):
    """Ids of the data set: who issued most and who fewer, the guild and the user with the most."""

    issuer: int
    other: int
    guild: int
    user: int
    last: datetime


def measure(world: World) -> dict[str, Result | str]:
    world.product()
    world.settle()
    data, small = world.data(), world.data(world.effort.beside)
    sets = {"": data, "at 100k": small} if small is not data else {"": data}
    taken: dict[str, list[Taken]] = {name: [] for name in sets}
    for _ in range(world.effort.rounds):
        for name, one in sets.items():
            taken[name].append(_all(one))
    ours = taken[""]
    whole = [line for one in ours for line in one.scans]
    found: dict[str, Result | str] = {
        "search p99": Result(
            figure=[one.p99 for one in ours],
            floor=[one.bare_p99 for one in ours],
            others={"at 100k": [one.p99 for one in taken["at 100k"]]} if "at 100k" in taken else {},
            note=f"{ours[0].combinations} combinations once a round, one connection, planning and fetching included;"
            f" p50 {median(one.p50 for one in ours):.1f} ms, of the page alone"
            f" {median(one.bare_p50 for one in ours):.1f} ms",
        ),
        "search q": Result(
            figure=[one.words_p99 for one in ours],
            floor=[one.single for one in ours],
            note=f"{', '.join(WORDS + FRAGMENTS)}, with other filters and each sort, each for the second time on a"
            f" connection; p50 {median(one.words_p50 for one in ours):.1f} ms; p99 of the first time"
            f" {median(one.first_words_p99 for one in ours):.1f} ms",
        ),
        "search scans": Result(figure=[len(whole)], note="; ".join(whole[:3]) or None),
        "search far": _far(world, data),
        "search large": _large(world, data),
    }
    return found


class Taken(msgspec.Struct, kw_only=True):
    """Of one round: milliseconds. ``words``: for the second time on a connection; ``first_words``: the time before."""

    combinations: int
    p50: float
    p99: float
    bare_p50: float
    bare_p99: float
    first_words_p99: float
    words_p50: float
    words_p99: float
    single: float
    scans: list[str]


def _all(data: DataSet) -> Taken:
    whom = _whom(data)
    now = datetime.now(whom.last.tzinfo)
    with _connected(data) as connection:
        cursor = psycopg.RawCursor(connection)
        ours, bare, scans = [], [], []
        first_words: list[float] = []
        words: list[float] = []
        for sought in combinations(whom):
            ours.append(_timed(cursor, *search.statement(sought, now, fragments=True), sought))
            bare.append(_timed(cursor, *bare_page(sought, now)))
        # As single rows are asked for: on a connection that has been asked before, and has its plans.
        for times in (first_words, words):
            for sought in worded(whom):
                times.append(_timed(cursor, *search.statement(sought, now, fragments=True), sought))
        # A small table is read as a whole, whatever its indexes.
        large = [table for (table,) in cursor.execute(_LARGE, (LARGE,))]
        # In part of them: EXPLAIN takes longer than the search.
        for sought in itertools.islice(itertools.chain(worded(whom), combinations(whom)), 0, None, 9):
            sql, parameters = search.statement(sought, now, fragments=True)
            plan = [line for (line,) in cursor.execute(f"explain (costs off) {sql}".encode(), parameters)]
            scans += [line for line in end_to_end(plan) if any(f" on {table}" in line for table in large)]
        single = _single(connection)
    return Taken(
        combinations=len(ours),
        p50=median(ours),
        p99=quantile(ours, 0.99),
        bare_p50=median(bare),
        bare_p99=quantile(bare, 0.99),
        first_words_p99=quantile(first_words, 0.99),
        words_p50=median(words),
        words_p99=quantile(words, 0.99),
        single=single,
        scans=scans,
    )


def _connected(data: DataSet) -> psycopg.Connection[Any]:
    """As the product reads (http/reader.py)."""
    connection = psycopg.connect(data.superuser, autocommit=True, prepare_threshold=0)
    # Its own questions about all rows take longer than a read may.
    connection.execute(f"{SESSION}; set statement_timeout = 0".encode(), prepare=False)
    return connection


def _timed(cursor: Any, sql: str, parameters: list[object], sought: Search | None = None) -> float:
    began = time.perf_counter()
    # As the product does: what may be prepared is. The bare page never is, since it has its numbers in it.
    steady = sought is not None and search.is_steady(sought)
    found = cursor.execute(sql.encode(), parameters, prepare=steady).fetchall()
    if sought is not None:
        search.page(sought, found)
    return (time.perf_counter() - began) * 1000


def _single(connection: psycopg.Connection[Any]) -> float:
    """Milliseconds of a row by its primary key, prepared, median."""
    keys = connection.execute("select stream, number from punishments order by md5(id::text) limit 500").fetchall()
    took = []
    for key in keys:
        began = time.perf_counter()
        # punishments_pkey
        connection.execute(
            f"select {punishments.COLUMNS} from punishments p where stream = %s and number = %s".encode(), key
        ).fetchall()
        took.append((time.perf_counter() - began) * 1000)
    return median(took)


def _whom(data: DataSet) -> Whom:
    issuers, guilds, users = (
        [key for (key,) in rows(data.superuser, _MOST.format(column))]
        for column in ("issued_by", "guild_id", "user_id")
    )
    # punishments_id
    last = rows(data.superuser, "select created_at from punishments order by id desc limit 1")[0][0]
    return Whom(issuers[0], issuers[len(issuers) // 2], guilds[0], users[0], last)


def combinations(whom: Whom) -> Iterator[Search]:
    """Every combination of filters that can match, under each sort."""
    subjects: list[dict[str, Any]] = [
        {}, {"issued_by": whom.issuer}, {"issued_by": whom.other}, {"guild_id": whom.guild},
        {"guild_id": whom.guild, "issued_by": whom.issuer}, {"user_id": whom.user},
        {"user_id": whom.user, "issued_by": whom.issuer},
    ]  # fmt: skip
    since = {days: whom.last - timedelta(days=days, hours=5) for days in (30, 365)}
    dates: list[dict[str, Any]] = [
        {}, {"created_after": since[30]}, {"created_before": since[365]},
        {"created_after": since[365] - timedelta(days=10), "created_before": since[365]},
    ]  # fmt: skip
    for subject, kind, active, between, sort in itertools.product(
        subjects, (None, 1, 3, 4), (False, True), dates, SORTS
    ):
        yield Search(**subject, **between, type=kind, active_only=active, sort=sort)


def worded(whom: Whom) -> Iterator[Search]:
    subjects: list[dict[str, Any]] = [{}, {"issued_by": whom.issuer}, {"guild_id": whom.guild}, {"type": 3}]
    for q, subject, active, sort in itertools.product(WORDS + FRAGMENTS, subjects, (False, True), SORTS):
        yield Search(**subject, q=q, active_only=active, sort=sort)


def bare_page(sought: Search, now: datetime) -> tuple[str, list[object]]:
    """The page alone, by hand: a walk along an index for each (open, type), merged; nothing is counted and no
    checkpoint read."""
    named = (("user_id", sought.user_id), ("guild_id", sought.guild_id), ("issued_by", sought.issued_by))
    wanted = [f"{name} = {value}" for name, value in named if value is not None]
    parameters: list[object] = []
    for sign, at in ((">", sought.created_after), ("<", sought.created_before)):
        if at is not None:
            parameters.append(at)
            wanted.append(f"created_at {sign} ${len(parameters)}::timestamptz")
    if sought.active_only:
        parameters.append(now)
        wanted.append(f"{ENDS} > ${len(parameters)}::timestamptz")
    way = "desc" if sought.sort.startswith("-") else "asc"
    key = ENDS if by_end(sought) else "created_at"
    order = f"order by {key} {way}, created_at {way}, id {way} limit {sought.limit}"
    states = ("open",) if sought.active_only else ("open", "not open")
    cells = [f"{state} and type = {kind}" for state in states for kind in types_of(sought)] or ["false"]
    if sought.user_id is not None:
        # punishments_user serves it; a user has few.
        kinds = "" if sought.type is None else f" and type = {sought.type}"
        cells = [("open" if sought.active_only else "true") + kinds]
    # punishments_, punishments_issuer_, punishments_guild_ or punishments_guild_issuer_, each _created or _ends
    walks = [f"(select * from punishments where {' and '.join([*wanted, cell])} {order})" for cell in cells]
    return f"select {punishments.COLUMNS} from ({' union all '.join(walks)}) p {order}", parameters


def _far(world: World, data: DataSet) -> Result | str:
    total = data.made.punishments
    page = min(FAR_PAGE, total // 25 - 1)
    first = Search()
    with _connected(data) as connection:
        cursor = psycopg.RawCursor(connection)
        now = datetime.now().astimezone()
        sql, parameters = search.statement(msgspec.structs.replace(first, offset=(page - 2) * 25), now, fragments=True)
        before = search.page(Search(offset=(page - 2) * 25), cursor.execute(sql.encode(), parameters).fetchall())
        far = msgspec.structs.replace(first, cursor=before.next_cursor)

        def run(sought: Search) -> float:
            statement = search.statement(sought, now, fragments=True)
            return median(_timed(cursor, *statement, sought) for _ in range(50))

        found = in_turn({"first": lambda: run(first), "far": lambda: run(far)}, world.effort.rounds)
    note = None if page == FAR_PAGE else f"page {page:,}, the last but one of this size"
    return Result(figure=found["far"], floor=found["first"], note=note)


def _large(world: World, data: DataSet) -> Result | str:
    if not has_wrk():
        return NO_WRK
    whom, at = _whom(data), {"ours": world.product().port}
    (cookie,) = world.sessions([(user, level) for user, level in rows(data.superuser, _ADMIN)])
    queries: list[dict[str, object]] = [
        {}, {"issued_by": whom.issuer}, {"punishment_type": 1}, {"punishment_type": 3},
        {"sort": "created_at"}, {"issued_by": whom.issuer, "sort": "created_at"},
    ]  # fmt: skip
    requests = [get(f"/v1/admin/punishments/search?{urlencode(query)}", cookie) for query in queries]
    if world.has_peer():
        at["peer"] = world.beside("bench.peers.crud", data.superuser)
        for query in ({"punishment_type": 3}, {"issued_by": whom.issuer, "sort": "created_at"}):
            asked = get(f"/v1/admin/punishments/search?{urlencode(query)}", cookie)
            ours, theirs = probe(at["ours"], asked), probe(at["peer"], asked)
            ours.pop("next_cursor", None)
            if ours != theirs:
                raise RuntimeError(f"the peer answers another thing\n{ours}\n{theirs}")

    def load(port: int) -> Any:
        return lambda: world.load(port, requests, CONNECTIONS)

    for port in at.values():
        world.load(port, requests, CONNECTIONS, min(1.0, world.effort.seconds))
    loads: dict[str, list[Load]] = in_turn({name: load(port) for name, port in at.items()}, world.effort.rounds)
    theirs = loads.get("peer", [])
    told = [
        f"{name} p50 {median(load.p50 for load in several):.1f} ms, {cpu(several)}" for name, several in loads.items()
    ]
    by = shares([one for several in loads.values() for one in several])
    return Result(
        figure=[load.rate for load in loads["ours"]],
        peer=[load.rate for load in theirs],
        note="; ".join(
            [f"{len(queries)} searches that find a fifth and more", *told, by, *([] if theirs else [NO_PEER])]
        ),
    )

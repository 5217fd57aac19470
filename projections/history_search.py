"""The punishment search over the past (api.md §4 and §5.2): what ``search`` would answer over the rows that
``punishments`` had at a moment, by ``time_travel``'s rule of which events count. One statement, one snapshot.

It reads ``punishment_versions``. Whether a version counts at a moment is four comparisons; the moment is a position of
the ledger (the last that was recorded until ``known_at``), a date (``as_of``), or both. How many there are is said by
sums (history_counts.py), or by marks where words, dates of issue or both times are asked for, whole buckets of
positions and whole weeks of dates at a time: so they are counted as of the beginning of the moment's own bucket and
week, and the versions that began, were replaced or ended between there and the moment, the *edge*, are looked at one by
one. So are the few that are not in order. Where few are found the marks also say which ones, and these are sorted; else
walks along the indexes soon find a page. docs/search.md shows the plans.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from modledger.projections import history_counts, marks, reason_search, search_dates
from modledger.projections.history_marks import (
    INSTANT,
    NOT_RARE,
    Asked,
    Then,
    after_last,
    changed_between,
    counting,
    counting_apart,
    found_table,
    had_ended,
    has_sums,
    is_rare,
    near_bucket,
    near_week,
    of_weeks,
    sought_table,
    spread_table,
    summed,
    there_by_date,
)
from modledger.projections.parameters import Parameters
from modledger.projections.punishment_versions import ALL, MARKS, WORDS
from modledger.projections.search import ENDS, Page, Search, by_end, page, place_of, types_of
from modledger.projections.time_travel import Instant
from modledger.projections.weeks import beginning, week

PROJECTOR = "punishment_history"

_POSITION = f"(select notification_id from projection_tracking where application_name = '{PROJECTOR}')"  # noqa: S608


async def find(
    conn: psycopg.AsyncConnection[Any], search: Search, at: Instant, position: int | None, *, fragments: bool
) -> Page:
    """The page that is asked for, its rows as they were; their ``version`` is that of the issue. ``at`` has an
    ``as_of``, a ``known_at``, or both; ``position``: the last one recorded until ``known_at``, None without it. It is
    right once the answer's own position has reached that. One round trip in autocommit mode. ``fragments``: the
    database has its indexes for fragments.

    Raises ValueError for a cursor that is not one of this search and moment, FragmentsNeeded, and psycopg.Error.
    """
    sql, parameters = statement(search, at, position, fragments=fragments)
    cursor = psycopg.AsyncRawCursor(conn, row_factory=tuple_row)
    await cursor.execute(sql, parameters, prepare=False)
    return past_page(search, at, await cursor.fetchall())


def past_page(search: Search, at: Instant, lines: Sequence[Sequence[Any]]) -> Page:
    """The answer of ``statement``. Raises FragmentsNeeded."""
    return page(search, lines, (at.as_of, at.known_at))


def check_cursor(search: Search, at: Instant) -> None:
    """Raises ValueError for a cursor that is not one of this search and moment."""
    place_of(search, (at.as_of, at.known_at))


def statement(search: Search, at: Instant, position: int | None, *, fragments: bool) -> tuple[str, list[object]]:
    """SQL and parameters for one of psycopg's raw cursors; ``past_page`` reads its lines. As in ``search.statement``
    numbers stand in it as they are. Raises ValueError for a cursor that is not one of this search and moment."""
    check_cursor(search, at)
    parameters = Parameters()
    asked, terms = _asked(search, at, position, parameters, fragments=fragments)
    way = "desc" if search.sort.startswith("-") else "asc"
    beyond = _beyond_cursor(asked, way, parameters)
    tables = [] if terms is None else terms.tables
    if not asked.types:
        # Whatever is a parameter has to stand somewhere.
        never = ["false", *asked.wanted, *asked.dates.both, *beyond, *counting(asked.then, active=search.active_only)]
        total = "0::bigint"
        ways = [f"select *, created_at as sort_key from punishment_versions where {' and '.join(never)}"]  # noqa: S608
    elif search.user_id is not None:
        tables += _of_user(asked)
        total, ways = "(select count(*) from mine)", [_sorted_rows("mine", asked, beyond, way)]
    else:
        tables += _marked(asked, terms)
        walks_of, walks = _walks(asked, terms, beyond, way, parameters)
        tables += walks_of
        if has_sums(asked):
            total = "((select most from decided) + (select count(*) from apart))::bigint"
        else:
            total = f"case when (select few from decided) then (select count(*) from few) else {_total(asked)} end"  # noqa: S608
        ways = [_sorted_rows("few", asked, beyond, way), *walks]
    sql = f"""
        {f"with {', '.join(tables)}" if tables else ""}
        select {_POSITION}, {total}, {"true" if terms is None else terms.known}, {_as_it_was(asked.then)}
        from (select 1) always left join (
            select * from ({" union all ".join(f"({one})" for one in ways)}) ways
            {_order(way)} offset {search.offset:d} limit {search.limit + 1:d}
        ) p on true
        order by p.sort_key {way}, p.created_at {way}, p.id {way}
    """  # noqa: S608
    return sql, parameters.values


def _asked(
    search: Search, at: Instant, position: int | None, parameters: Parameters, *, fragments: bool
) -> tuple[Asked, reason_search.Terms | None]:
    if (position is None) != (at.known_at is None):
        raise ValueError("a position belongs to known_at, and none to a search without it")
    terms = None
    if search.q is not None:
        terms = reason_search.terms(search.q, parameters, fragments=fragments, of_words=WORDS, of_marks=MARKS)
    named = (("guild_id", search.guild_id), ("issued_by", search.issued_by))
    date = None if at.as_of is None else parameters.add(at.as_of, "timestamptz")
    now = date or (parameters.add(at.now, "timestamptz") if search.active_only else "")
    asked = Asked(
        search=search,
        at=at,
        position=position,
        types=types_of(search),
        then=Then(
            since=f"{position or 0:d}",
            position=None if position is None else f"{position:d}",
            date=date,
            now=now,
        ),
        base=Then(
            since=f"{position or 0:d}",
            position=None if position is None else f"{near_bucket(position) * marks.BUCKET - 1:d}",
            date=None if at.as_of is None else f"{beginning(near_week(at.as_of))} - {INSTANT}",
            now=f"{beginning(near_week(at.now))} - {INSTANT}",
        ),
        dates=search_dates.between(search.created_after, search.created_before, parameters),
        wanted=[
            *(f"{name} = {value:d}" for name, value in named if value is not None),
            *([] if search.type is None else [f"type = {search.type:d}"]),
            *([] if terms is None else terms.rows),
        ],
        last=search.offset + search.limit + 1,
    )
    return asked, terms


def _beyond_cursor(asked: Asked, way: str, parameters: Parameters) -> list[str]:
    after = place_of(asked.search, (asked.at.as_of, asked.at.known_at))
    if after is None:
        return []
    times = {"created_at": parameters.add(after.created_at, "timestamptz")}
    if by_end(asked.search):
        times = {ENDS: parameters.add(after.expires_at or "infinity", "timestamptz"), **times}
    compared = "<" if way == "desc" else ">"
    return [f"({', '.join(times)}, id) {compared} ({', '.join(times.values())}, {after.id:d})"]


# -- what counts at a moment


def _as_it_was(at: Then) -> str:
    """The columns of ``punishments`` of a version ``p``, which has no ordinal."""
    ended = f"({had_ended(at)})"
    lifted = f"case when {ended} and ended_kind <> 'lapsed' then"
    return f"""
        stream, number, id, null, user_id, guild_id, type, reason, reason_key, issued_by, expires_at,
        not {ended}, case when not {ended} then expires_at end, case when {ended} then ended_kind end,
        {lifted} ended_at end, {lifted} ended_by end, number, created_at,
        case when {ended} then greatest(updated_at, ended_at) else updated_at end
    """


# -- where they stand


def _order(way: str) -> str:
    return f"order by sort_key {way}, created_at {way}, id {way}"


def _sort_key(asked: Asked) -> str:
    return ENDS if by_end(asked.search) else "created_at"


def _sorted_rows(table: str, asked: Asked, beyond: list[str], way: str) -> str:
    return f"""
        select *, {_sort_key(asked)} as sort_key from {table}
        where {" and ".join(beyond) or "true"} {_order(way)} limit {asked.last:d}
    """  # noqa: S608


def _of_user(asked: Asked) -> list[str]:
    """``mine``: the versions of one user, who has few. punishment_versions_user"""
    active = asked.search.active_only
    in_order = " and ".join([f"serves = {ALL}", *counting(asked.then, active=active)])
    apart = " and ".join(counting_apart(asked.then, active=active))
    wanted = [f"user_id = {asked.search.user_id:d}", f"type = any({_array(asked.types)})"]
    conditions = [*wanted, *asked.wanted, *asked.dates.both, f"({in_order} or {apart})"]
    return [f"mine as materialized (select * from punishment_versions where {' and '.join(conditions)})"]  # noqa: S608


def _array(types: Sequence[int]) -> str:
    return f"array[{', '.join(map(str, types))}]::smallint[]"


def _marked(asked: Asked, terms: reason_search.Terms | None) -> list[str]:
    """What stands in WITH, after the tables of the terms. ``sought``: what has the words, the issuer, the guild and the
    type that are asked for, at whatever time. ``rare``: whether these are so few that looking at each is quicker than
    reading the marks of times. ``found``: the versions that count at the base, by their marks, in all weeks that the
    dates touch. ``edge``: those of which something changed since then. ``apart``: those that are not in order.
    ``decided``: how many there are, by the sums where they know, and whether to fetch and sort them is quicker than to
    walk until a page is full (as ``search`` decides). ``spread``: between which weeks they were issued, by type.
    ``few``: their rows, if so."""
    active = asked.search.active_only
    then, base = (" and ".join(counting(one, active=active)) for one in (asked.then, asked.base))
    apart = [f"serves <> {ALL}", *counting_apart(asked.then, active=active), *asked.wanted, *asked.dates.both]
    whole = " and ".join(asked.dates.whole) or "true"
    of_edge = [f"serves = {ALL}", *asked.wanted, *asked.dates.both, f"({' or '.join(changed_between(asked))})"]
    again = [f"serves = {ALL}", *counting(asked.then, active=active), *asked.wanted, *asked.dates.both]
    rare = is_rare(asked.search)
    if has_sums(asked):
        # Of many the walks may ask for the weeks, which are read from all marks. OFFSET 0, or the sum would be made
        # wherever it stands.
        rare = f"case when (select few from decided) then {rare} else false end"  # noqa: S608
        decided = f"""
            select most, 3.0 * most * most <= {asked.last:d} * {_among(asked)} as few
            from (select {summed(asked)} as most offset 0) of_all
        """  # noqa: S608
    else:
        decided = f"""
            select base, (select rare from rare) or 3.0 * most * most <= {asked.last:d} * {_among(asked)} as few
            from (select coalesce(sum(bit_count(bits)), 0) as base from found) of_found,
                lateral (select base + counts as most from edges) of_both
        """  # noqa: S608
    decided = f"decided as materialized ({decided})"
    return [
        *([decided] if has_sums(asked) else []),
        sought_table(asked, terms),
        f"rare as materialized (select {rare} as rare)",
        found_table(asked),
        # By the index on each of what may have changed.
        f"""edge as materialized (
            select position, type, created_at, {then} as counts, ({then})::int - ({base})::int as change,
                {whole} as whole
            from punishment_versions where {" and ".join(of_edge)} and {NOT_RARE}
        )""",  # noqa: S608
        """edges as materialized (
            select count(*) filter (where counts) as counts, coalesce(sum(change) filter (where whole), 0) as change
            from edge
        )""",
        # punishment_versions_disordered
        f"apart as materialized (select * from punishment_versions where {' and '.join(apart)})",  # noqa: S608
        *([] if has_sums(asked) else [decided]),
        spread_table(),
        # punishment_versions_position; OFFSET 0 because nothing else is to be tried.
        f"""few as materialized (
            select v.* from (
                select number as position from ({marks.numbers("found", MARKS)}) of_found
                union select position from edge where counts
                union all select number from ({marks.numbers("sought", MARKS)}) of_sought where (select rare from rare)
            ) one cross join lateral (
                select * from punishment_versions where position = one.position offset 0
            ) v where (select few from decided) and {" and ".join(again)}
            union all select * from apart where (select few from decided)
        )""",  # noqa: S608
    ]


def _among(asked: Asked) -> str:
    """About how many versions a walk passes at most: of a date, those that there were, unless those that came later
    stand between them; else no more than there were events."""
    if has_sums(asked) and asked.at.as_of is not None and not by_end(asked.search):
        return there_by_date(asked, asked.at.as_of)
    return _POSITION if asked.position is None else f"{asked.position:d}"


def _total(asked: Asked) -> str:
    """How many there are, where they are many."""
    if asked.dates.weeks is None:
        whole = "(select base from decided)"
    else:
        whole = f"""(
            select coalesce(sum(bit_count(found.bits & weeks.bits)), 0)
            from found join ({of_weeks(asked.dates.whole_weeks)}) weeks using (span)
        )"""  # noqa: S608
    edge = "(select change from edges)"
    counted = [f"serves = {ALL}", f"type = any({_array(asked.types)})", *asked.wanted]
    counted += counting(asked.then, active=asked.search.active_only)
    # punishment_versions_created, at most twice seven days of it.
    cut = [
        f"(select count(*) from punishment_versions where {' and '.join([*counted, one])})"  # noqa: S608
        for one in asked.dates.cut_weeks
    ]
    return f"({' + '.join([whole, edge, '(select count(*) from apart)', *cut])})::bigint"  # noqa: S608


def _walks(
    asked: Asked, terms: reason_search.Terms | None, beyond: list[str], way: str, parameters: Parameters
) -> tuple[list[str], list[str]]:
    """What stands in WITH for the walks, and these: one for each type along punishment_versions_created or
    punishment_versions_ends, and those that are not in order. Order and limit stand in every walk, because the planner
    asks a branch of UNION ALL that has conditions of its own for no order. As in ``search``, by ``-expires_at`` what
    ends is looked for only where those without an end are no page."""
    search = asked.search
    rows = [] if terms is None else terms.rows
    # Of a CASE the planner knows nothing, and so expects a half; what it takes for rare it would rather sort.
    counts = counting(asked.then, active=False)
    if search.active_only:
        counts.append(f"not ({had_ended(asked.then)})")
    wanted = [f"case when {one} then true end" if one in rows else one for one in asked.wanted]
    wanted += [f"serves = {ALL}", "(select not few from decided)", *asked.dates.both, *beyond]
    wanted += [f"case when {' and '.join(counts)} then true end", *_bounds(asked)]
    wanted += [f"{ENDS} > {asked.then.now}"] if search.active_only else []
    spread = "true"
    if not by_end(search) and _is_spread(search):
        # One bound only: between two ends that it does not know the planner expects nearly nothing.
        bound = "created_at < (select until" if way == "desc" else "created_at >= (select since"
        spread = f"{bound} from spread where type = {{}})"

    def along(key: str, *conditions: str) -> list[str]:
        return [
            f"select *, {key} as sort_key from punishment_versions"  # noqa: S608
            f" where type = {kind:d} and {' and '.join([*conditions, *wanted, spread.format(kind)])}"
            f" {_order(way)} limit {asked.last:d}"
            for kind in asked.types
        ]

    apart = " and ".join(["(select not few from decided)", *beyond])
    walks = [f"select *, {_sort_key(asked)} as sort_key from apart where {apart}"]  # noqa: S608
    if not by_end(search):
        return [], [*walks, *along("created_at")]
    endless, ending = f"{ENDS} = 'infinity'", f"{ENDS} < 'infinity'"
    if asked.position is not None:
        ending += f" and {ENDS} < {after_last(marks.EXPIRES, asked.position)}"
    if search.created_after is not None:
        ending += f" and {ENDS} > {parameters.add(search.created_after, 'timestamptz')} - interval '24 hours'"
    tables, few, walked, short = [], _few_between(asked), "true", "true"
    if way == "desc":
        without_end = " union all ".join(f"({one})" for one in along(ENDS, endless))
        tables.append(
            f"without_end as materialized (select * from ({without_end}) walks {_order(way)} limit {asked.last:d})"  # noqa: S608
        )
        short = f"(select count(*) < {asked.last:d} from without_end)"  # noqa: S608
        few = few and f"case when {short} then {few} else false end"
    if few is not None:
        tables.append(f"between_dates as materialized (select {few} as few)")
        walked = "(select not few from between_dates)"
        # The sum is no index's order, so that the planner sorts what lies between the dates.
        walks += along(f"{ENDS} + interval '0'", "(select few from between_dates)")
    if way == "desc":
        walks.append(f"select * from without_end where {walked}")  # noqa: S608
    else:
        walks += along(ENDS, endless, walked)
    return tables, [*walks, *along(ENDS, ending, short, walked)]


def _is_spread(search: Search) -> bool:
    """Whether what is found may begin long after, or end long before, what a walk would begin with: what bears a word
    may be of one week, and of timeouts only the latest are active."""
    return search.q is not None or (search.active_only and not search.sort.startswith("-"))


def _bounds(asked: Asked) -> list[str]:
    """What the indexes can say of a version that counts."""
    found = []
    if asked.position is not None:
        found.append(f"id <= {asked.position:d}")
        if by_end(asked.search) or not _is_spread(asked.search):
            found.append(f"created_at < {after_last(marks.WEEK, asked.position)}")
    if asked.then.date is not None:
        found.append(f"created_at <= {asked.then.date}")
    return found


def _few_between(asked: Asked) -> str | None:
    """Whether it is quicker to sort what lies between the dates than to walk by end until a page is full, as SQL; None
    where it never is. As ``search`` decides, but of each version the row is looked at."""
    search, now = asked.search, asked.at.now
    after, before = search.created_after, search.created_before
    if not by_end(search) or after is None or (before is None and search.sort.startswith("-")):
        return None
    until = min(before or now, now)
    first, last = week(after), week(until)
    # As if what their weeks hold were spread evenly.
    share = max(0.0, min(1.0, (until - after) / timedelta(weeks=last - first + 1))) if last >= first else 0.0
    few = "share < 1000 or 40 * share < later" if search.sort.startswith("-") else "share < 4000"
    # punishment_history_counts_pkey
    return f"""(
        select {few} from (
            select coalesce(sum(there) filter (where place <= {last:d}), 0) * {share:.9f} as share,
                coalesce(sum(there) filter (where place > {last:d}), 0) as later
            from punishment_history_counts where axis = {history_counts.DATED:d}
            and guild_id = {search.guild_id or 0:d} and issued_by = {search.issued_by or 0:d}
            and type = any({_array(asked.types)}) and place >= {first:d}
        ) of_weeks
    )"""  # noqa: S608

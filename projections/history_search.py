"""The punishment search over the past (api.md §4 and §5.2): what ``search`` would answer over the rows that
``punishments`` had at a moment, by ``time_travel``'s rule of which events count. One statement, one snapshot.

It reads ``punishment_versions``. Whether a version counts at a moment is four comparisons; the moment is a position of
the ledger (the last that was recorded until ``known_at``), a date (``as_of``), or both. How many there are is said by
marks, whole buckets of positions and whole weeks of dates at a time: so they are counted as of the beginning of the
moment's own bucket and week, and the versions that began, were replaced or ended between there and the moment, the
*edge*, are looked at one by one. So are the few that are not in order. Where few are found the marks also say which
ones, and these are sorted; else walks along the indexes soon find a page. docs/search.md shows the plans.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

from modledger.projections import marks, reason_search
from modledger.projections.parameters import Parameters
from modledger.projections.punishment_versions import ALL, BOTH, DATED, KNOWN, MARKS, WORDS
from modledger.projections.search import ENDS, Dates, Page, Search, by_end, dates_of, page, place_of, types_of
from modledger.projections.time_travel import Instant
from modledger.projections.weeks import beginning, week

PROJECTOR = "punishment_history"

_POSITION = f"(select notification_id from projection_tracking where application_name = '{PROJECTOR}')"  # noqa: S608
_INSTANT = "interval '1 microsecond'"


class _Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A moment as SQL: the last position, the last date, None where none is asked for, and what the ends of active ones
    are compared with."""

    position: str | None
    date: str | None
    now: str


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """``then``: the moment that is asked about; ``base``: the last one of the bucket and the weeks before those of
    ``then``, which the marks count; ``position`` None where nothing was asked about what was known. ``wanted``:
    conditions on a version, the dates aside, ``last``: how many from the first are needed for the page."""

    search: Search
    at: Instant
    position: int | None
    types: tuple[int, ...]
    then: _Moment
    base: _Moment
    dates: Dates
    wanted: list[str]
    last: int


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
        never = ["false", *asked.wanted, *asked.dates.both, *beyond, *_counts(asked.then, active=search.active_only)]
        total = "0::bigint"
        ways = [f"select *, created_at as sort_key from punishment_versions where {' and '.join(never)}"]  # noqa: S608
    elif search.user_id is not None:
        tables += _of_user(asked)
        total, ways = "(select count(*) from mine)", [_sorted_rows("mine", asked, beyond, way)]
    else:
        tables += _marked(asked, terms)
        total = f"case when (select few from decided) then (select count(*) from few) else {_total(asked)} end"  # noqa: S608
        ways = [_sorted_rows("few", asked, beyond, way), *_walks(asked, terms, beyond, way, parameters)]
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
) -> tuple[_Asked, reason_search.Terms | None]:
    if (position is None) != (at.known_at is None):
        raise ValueError("a position belongs to known_at, and none to a search without it")
    terms = None
    if search.q is not None:
        terms = reason_search.terms(search.q, parameters, fragments=fragments, of_words=WORDS, of_marks=MARKS)
    named = (("guild_id", search.guild_id), ("issued_by", search.issued_by))
    date = None if at.as_of is None else parameters.add(at.as_of, "timestamptz")
    now = date or (parameters.add(at.now, "timestamptz") if search.active_only else "")
    asked = _Asked(
        search=search,
        at=at,
        position=position,
        types=types_of(search),
        then=_Moment(
            position=None if position is None else f"{position:d}",
            date=date,
            now=now,
        ),
        base=_Moment(
            position=None if position is None else f"{_bucket(position) * marks.BUCKET - 1:d}",
            date=None if at.as_of is None else f"{beginning(week(at.as_of))} - {_INSTANT}",
            now=f"{beginning(week(at.now))} - {_INSTANT}",
        ),
        dates=dates_of(search, parameters),
        wanted=[
            *(f"{name} = {value:d}" for name, value in named if value is not None),
            *([] if search.type is None else [f"type = {search.type:d}"]),
            *([] if terms is None else terms.rows),
        ],
        last=search.offset + search.limit + 1,
    )
    return asked, terms


def _bucket(position: int) -> int:
    return position // marks.BUCKET


def _beyond_cursor(asked: _Asked, way: str, parameters: Parameters) -> list[str]:
    after = place_of(asked.search, (asked.at.as_of, asked.at.known_at))
    if after is None:
        return []
    times = {"created_at": parameters.add(after.created_at, "timestamptz")}
    if by_end(asked.search):
        times = {ENDS: parameters.add(after.expires_at or "infinity", "timestamptz"), **times}
    compared = "<" if way == "desc" else ">"
    return [f"({', '.join(times)}, id) {compared} ({', '.join(times.values())}, {after.id:d})"]


# -- what counts at a moment


def _counts(at: _Moment, *, active: bool) -> list[str]:
    """Conditions on a version of a punishment in order: whether it counts, and whether it is active then."""
    found, replaced = [], []
    if at.position is not None:
        found.append(f"since_position <= {at.position}")
        replaced.append(f"until_position > {at.position}")
    if at.date is not None:
        found.append(f"dated_since <= {at.date}")
        replaced.append(f"dated_until > {at.date}")
    found.append(f"(until_position is null or {' or '.join(replaced)})")
    return [*found, f"not ({_ended(at)})", f"{ENDS} > {at.now}"] if active else found


def _ended(at: _Moment) -> str:
    """Whether a punishment had ended that is in order; of the others the rows hold what they say."""
    ended = [f"ended_position <= {at.position}"] if at.position is not None else []
    ended += [f"ended_dated <= {at.date}"] if at.date is not None else []
    return f"ended_kind is not null and (serves <> {ALL} or {' and '.join(ended)})"


def _counts_apart(at: _Moment, *, active: bool) -> list[str]:
    """As ``_counts``, of one that is not in order."""
    found = []
    if at.position is not None:
        found += [f"since_position <= {at.position}", f"(until_position is null or until_position > {at.position})"]
    if at.date is not None:
        found += [f"dated_since <= {at.date}", f"(dated_until is null or dated_until > {at.date})"]
    serves = KNOWN if at.date is None else DATED if at.position is None else BOTH
    found += [f"serves = {serves}"]
    return [*found, "ended_kind is null", f"{ENDS} > {at.now}"] if active else found


def _as_it_was(at: _Moment) -> str:
    """The columns of ``punishments`` of a version ``p``."""
    ended = f"({_ended(at)})"
    lifted = f"case when {ended} and ended_kind <> 'lapsed' then"
    return f"""
        stream, number, id, user_id, guild_id, type, reason, reason_key, issued_by, expires_at,
        not {ended}, case when not {ended} then expires_at end, case when {ended} then ended_kind end,
        {lifted} ended_at end, {lifted} ended_by end, number, created_at,
        case when {ended} then greatest(updated_at, ended_at) else updated_at end
    """


# -- where they stand


def _order(way: str) -> str:
    return f"order by sort_key {way}, created_at {way}, id {way}"


def _sort_key(asked: _Asked) -> str:
    return ENDS if by_end(asked.search) else "created_at"


def _sorted_rows(table: str, asked: _Asked, beyond: list[str], way: str) -> str:
    return f"""
        select *, {_sort_key(asked)} as sort_key from {table}
        where {" and ".join(beyond) or "true"} {_order(way)} limit {asked.last:d}
    """  # noqa: S608


def _of_user(asked: _Asked) -> list[str]:
    """``mine``: the versions of one user, who has few. punishment_versions_user"""
    active = asked.search.active_only
    in_order = " and ".join([f"serves = {ALL}", *_counts(asked.then, active=active)])
    apart = " and ".join(_counts_apart(asked.then, active=active))
    wanted = [f"user_id = {asked.search.user_id:d}", f"type = any({_array(asked.types)})"]
    conditions = [*wanted, *asked.wanted, *asked.dates.both, f"({in_order} or {apart})"]
    return [f"mine as materialized (select * from punishment_versions where {' and '.join(conditions)})"]  # noqa: S608


def _array(types: Sequence[int]) -> str:
    return f"array[{', '.join(map(str, types))}]::smallint[]"


def _marked(asked: _Asked, terms: reason_search.Terms | None) -> list[str]:
    """What stands in WITH, after the tables of the terms. ``found``: the versions that count at the base, by their
    marks, in all weeks that the dates touch. ``edge``: those of which something changed since then. ``apart``: those
    that are not in order. ``decided``: how many there are, and whether to fetch and sort them is quicker than to walk
    until a page is full (as ``search`` decides; passing what is not wanted takes a third as long here, since the
    indexes say who issued it). ``few``: their rows, if so."""
    active = asked.search.active_only
    then, base = (" and ".join(_counts(one, active=active)) for one in (asked.then, asked.base))
    apart = [f"serves <> {ALL}", *_counts_apart(asked.then, active=active), *asked.wanted, *asked.dates.both]
    whole = " and ".join(asked.dates.whole) or "true"
    of_edge = [f"serves = {ALL}", *asked.wanted, *asked.dates.both, f"({' or '.join(_since_base(asked))})"]
    again = [f"serves = {ALL}", *_counts(asked.then, active=active), *asked.wanted, *asked.dates.both]
    return [
        _found(asked, terms),
        # By the index on each of what may have changed.
        f"""edge as materialized (
            select position, created_at, {then} as counts, ({then})::int - ({base})::int as change, {whole} as whole
            from punishment_versions where {" and ".join(of_edge)}
        )""",  # noqa: S608
        # punishment_versions_disordered
        f"apart as materialized (select * from punishment_versions where {' and '.join(apart)})",  # noqa: S608
        f"""decided as materialized (
            select most, 3.0 * most * most <= {asked.last:d} * {_among(asked)} as few
            from (select (select coalesce(sum(bit_count(bits)), 0) from found)
                + (select count(*) from edge where counts) as most) as of_found
        )""",  # noqa: S608
        # punishment_versions_position; OFFSET 0 because nothing else is to be tried.
        f"""few as materialized (
            select v.* from (
                select id as position from ({marks.ids("found")}) of_found union select position from edge where counts
            ) one cross join lateral (
                select * from punishment_versions where position = one.position offset 0
            ) v where (select few from decided) and {" and ".join(again)}
            union all select * from apart where (select few from decided)
        )""",  # noqa: S608
    ]


def _among(asked: _Asked) -> str:
    """About how many versions a walk passes at most: no more than there were events."""
    return _POSITION if asked.position is None else f"{asked.position:d}"


def _since_base(asked: _Asked) -> list[str]:
    """Conditions of which one holds for every version that may count at ``base`` and not at ``then``, or the other
    way round."""
    active = asked.search.active_only
    found = []
    if asked.then.position is not None:
        columns = ["position", "until_position", *(["ended_position"] if active else [])]
        found += [f"({one} > {asked.base.position} and {one} <= {asked.then.position})" for one in columns]
    if asked.then.date is not None:
        columns = ["dated_since", "dated_until", *(["ended_dated"] if active else [])]
        found += [f"({one} > {asked.base.date} and {one} <= {asked.then.date})" for one in columns]
    if active:
        found.append(f"(expires_at > {asked.base.now} and expires_at <= {asked.then.now})")
    return found


def _found(asked: _Asked, terms: reason_search.Terms | None) -> str:
    """``found``: by the marks, those that count at the base."""
    search, at = asked.search, asked.at
    spans = "" if asked.position is None else f" and span < {_bucket(asked.position) * marks.BUCKET // marks.SPAN:d}"
    sought = [(marks.ISSUER, search.issued_by), (marks.GUILD, search.guild_id), (marks.TYPE, search.type)]
    bits = [] if terms is None else [f"select * from ({one}) of_term where true{spans}" for one in terms.bits]  # noqa: S608
    bits += [marks.marked(kind, value, MARKS) + spans for kind, value in sought if value is not None]
    weeks = [] if asked.dates.weeks is None else [asked.dates.weeks]
    weeks += [] if at.as_of is None else [f"week < {week(at.as_of):d}"]
    if weeks:
        bits.append(_of_weeks(" and ".join(weeks) + spans))
    elif not bits:
        bits.append(_any_of(marks.TYPE, f"value > 0{spans}"))
    gone = _gone(asked, marks.REPLACED_KNOWN, marks.REPLACED_DATED)
    if at.as_of is not None:
        gone.append(_any_of(marks.SINCE, f"value >= {week(at.as_of):d}"))
    if search.active_only:
        gone += _gone(asked, marks.ENDED_KNOWN, marks.ENDED_DATED)
        gone.append(_any_of(marks.EXPIRES, f"value < {week(at.now):d}"))
    # punishment_version_marks_pkey, all of them.
    return f"""found as materialized (
        select span, there.bits & ~coalesce(gone.bits, 0::bit({marks.SPAN})) as bits from (
            select span, bit_and(bits) as bits from ({" union all ".join(bits)}) one
            group by span having count(*) >= {len(bits)}
        ) there left join (
            select span, bit_or(bits) as bits from ({" union all ".join(gone)}) one group by span
        ) gone using (span)
    )"""  # noqa: S608


def _gone(asked: _Asked, known: int, dated: int) -> list[str]:
    """Those of which it was known at the base, and was so by its date."""
    found = []
    if asked.position is not None:
        found.append(_any_of(known, f"value < {_bucket(asked.position):d}"))
    if asked.at.as_of is not None:
        found.append(_any_of(dated, f"value < {week(asked.at.as_of):d}"))
    if len(found) < 2:
        return found
    both = " union all ".join(found)
    return [f"select span, bit_and(bits) as bits from ({both}) both_times group by span having count(*) = 2"]  # noqa: S608


def _any_of(kind: int, values: str) -> str:
    return f"select span, bit_or(bits) as bits from {MARKS.name} where kind = {kind:d} and {values} group by span"  # noqa: S608


def _of_weeks(weeks: str) -> str:
    return f"""
        select span, bit_or(bits) as bits
        from (select span, bits, value as week from {MARKS.name} where kind = {marks.WEEK}) of_week
        where {weeks} group by span
    """  # noqa: S608


def _total(asked: _Asked) -> str:
    """How many there are, where they are many."""
    if asked.dates.weeks is None:
        whole = "(select coalesce(sum(bit_count(bits)), 0) from found)"
    else:
        whole = f"""(
            select coalesce(sum(bit_count(found.bits & weeks.bits)), 0)
            from found join ({_of_weeks(asked.dates.whole_weeks)}) weeks using (span)
        )"""  # noqa: S608
    edge = "(select coalesce(sum(change), 0) from edge where whole)"
    counted = [f"serves = {ALL}", f"type = any({_array(asked.types)})", *asked.wanted]
    counted += _counts(asked.then, active=asked.search.active_only)
    # punishment_versions_created, at most twice seven days of it.
    cut = [
        f"(select count(*) from punishment_versions where {' and '.join([*counted, one])})"  # noqa: S608
        for one in asked.dates.cut_weeks
    ]
    return f"({' + '.join([whole, edge, '(select count(*) from apart)', *cut])})::bigint"  # noqa: S608


def _walks(
    asked: _Asked, terms: reason_search.Terms | None, beyond: list[str], way: str, parameters: Parameters
) -> list[str]:
    """One for each type along punishment_versions_created or punishment_versions_ends, and those that are not in order.
    Order and limit stand in every walk, because the planner asks a branch of UNION ALL that has conditions of its own
    for no order."""
    search = asked.search
    rows = [] if terms is None else terms.rows
    # Of a CASE the planner knows nothing, and so expects a half; words that it takes for rare it would rather sort.
    wanted = [f"case when {one} then true end" if one in rows else one for one in asked.wanted]
    wanted += [f"serves = {ALL}", "(select not few from decided)", *asked.dates.both, *beyond]
    wanted += [*_counts(asked.then, active=search.active_only), *_bounds(asked)]
    sort_key, parts = _sort_key(asked), ["true"]
    if by_end(search):
        if _few_between(asked):
            # The sum is no index's order, so that the planner sorts what lies between the dates.
            sort_key = f"{ENDS} + interval '0'"
        else:
            parts = [f"{ENDS} = 'infinity'", f"{ENDS} < 'infinity'"]
            if asked.position is not None:
                parts[1] += f" and {ENDS} < {_after_last(marks.EXPIRES, asked.position)}"
            if search.created_after is not None:
                parts[1] += f" and {ENDS} > {parameters.add(search.created_after, 'timestamptz')} - interval '24 hours'"
    walks = [
        f"select *, {sort_key} as sort_key from punishment_versions"  # noqa: S608
        f" where type = {kind:d} and {part} and {' and '.join(wanted)} {_order(way)} limit {asked.last:d}"
        for kind in asked.types
        for part in parts
    ]
    apart = " and ".join(["(select not few from decided)", *beyond])
    return [*walks, f"select *, {_sort_key(asked)} as sort_key from apart where {apart}"]  # noqa: S608


def _bounds(asked: _Asked) -> list[str]:
    """What the indexes can say of a version that counts."""
    found = []
    if asked.position is not None:
        found += [f"id <= {asked.position:d}", f"created_at < {_after_last(marks.WEEK, asked.position)}"]
    if asked.then.date is not None:
        found.append(f"created_at <= {asked.then.date}")
    return found


def _after_last(kind: int, position: int) -> str:
    """When the last week is over of which versions up to the position have such a mark. One beyond the position may
    share their line, so it may be a later week. punishment_version_marks_pkey, from its end."""
    last = f"""
        select value from {MARKS.name} where kind = {kind:d} and span <= {position // marks.SPAN:d}
        order by value desc limit 1
    """  # noqa: S608
    return f"('0001-01-01T00:00:00Z'::timestamptz + interval '168 hours' * ({last}))"


def _few_between(asked: _Asked) -> bool:
    """Whether it is quicker to sort what lies between the dates than to walk by end until a page is full."""
    after, before = asked.search.created_after, asked.search.created_before or asked.at.now
    return after is not None and min(before, asked.at.now) - after < timedelta(days=30)

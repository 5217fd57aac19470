"""The punishment search (api.md §5.2): one statement, one snapshot, exact totals, and an index for every combination.

The indexes of ``punishments`` begin with (guild, issuer, both or neither), then ``open`` and ``type``, then the sort
key. A search walks one index once for each (open, type) that it wants and merges the walks in order, so it reads no
more rows than it passes. Totals come from ``punishment_counts``, less those open ones that ran out and are not recorded
yet; between dates from its whole weeks, and what the dates cut off the weeks at both ends is counted along an index. So
is a search by user, because a user has few.

A search for words (``q``, reason_search.py) is answered by ``ordinal_marks``: they count what is found, whatever
else is filtered by. Where that is few they also say which ones, and these are sorted; else the walks soon find a page.
docs/search.md shows the plans.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

import msgspec
import psycopg
from psycopg.rows import tuple_row

from modledger.domain.subjects import BAN, GUILD_BLACKLIST, TIMEOUT, WARNING
from modledger.projections import cursors, marks, reason_search, search_dates
from modledger.projections.name_search import check_known
from modledger.projections.parameters import Parameters, Values
from modledger.projections.punishments import COLUMNS, POSITION, Punishment, punishment_of
from modledger.projections.search_dates import Dates
from modledger.projections.weeks import week

Sort = Literal["-created_at", "created_at", "-expires_at", "expires_at"]
SORTS: tuple[Sort, ...] = get_args(Sort)

# What more a cursor is bound to: the times of a search of the past.
Moment = tuple[datetime | None, ...]


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; filters are combined with AND. ``type`` 1–4, ``offset`` ≥ 0, ``limit`` ≥ 1; ``q`` 1–100
    characters, trimmed, by the rule of ``reason_search``;
    ``created_after`` and ``created_before`` exclude the moment itself. ``cursor``: a ``next_cursor`` of the same
    filters and sort; the page after it begins there and ``offset`` has to be 0.

    A punishment without an end sorts behind every end. Equal ends sort by created_at and then by id, equal created_at
    by id, all in the direction of the sort.
    """

    user_id: int | None = None
    guild_id: int | None = None
    issued_by: int | None = None
    type: int | None = None
    active_only: bool = False
    created_after: datetime | None = None
    created_before: datetime | None = None
    q: str | None = None
    sort: Sort = "-created_at"
    offset: int = 0
    limit: int = 25
    cursor: str | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """``total``: all that match, whatever the page. ``next_cursor`` None: nothing follows. ``position``: the answer is
    as fresh as this position of the ledger."""

    punishments: list[Punishment]
    total: int
    next_cursor: str | None
    position: int


class Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page ended. ``expires_at`` None: at those without an end, or not sorted by it."""

    expires_at: cursors.Moment | None
    created_at: cursors.Moment
    id: cursors.Id


ENDS = "coalesce(expires_at, 'infinity')"


async def find(conn: psycopg.AsyncConnection[Any], search: Search, now: datetime, *, fragments: bool) -> Page:
    """The page that is asked for, as of ``now``; one round trip in autocommit mode. ``fragments``: the database has its
    indexes for fragments.

    Raises ValueError for a cursor that is not one of this search's, FragmentsNeeded, and psycopg.Error.
    """
    return await answer(conn, search, statement(search, now, fragments=fragments))


async def answer(conn: psycopg.AsyncConnection[Any], search: Search, asked: tuple[str, list[object]]) -> Page:
    """As ``find``, ``asked`` being the search's ``statement``."""
    cursor = psycopg.AsyncRawCursor(conn, row_factory=tuple_row)
    await cursor.execute(*asked, prepare=is_steady(search))
    return page(search, await cursor.fetchall())


def is_steady(search: Search) -> bool:
    """Whether one plan serves the search whatever its values are, so that its statement may be prepared: it has one for
    each combination of types, sort and the filters that there are.

    Not so with a guild, which mostly has two punishments and may have a hundred thousand: for the average guild all
    its indexes are as good. Nor with dates, where the plan goes by how much they leave, and of a user's punishments
    those of an issuer or with words.
    """
    if search.user_id is not None and (search.issued_by is not None or search.q is not None):
        return False
    return search.guild_id is None and search.created_after is None and search.created_before is None


def statement(search: Search, now: datetime, *, fragments: bool) -> tuple[str, list[object]]:
    """SQL and parameters for one of psycopg's raw cursors; ``page`` reads its lines.

    A steady one has no value in it but parameters, each in a SELECT of its own: so the planner knows none of them,
    neither the first times, when it would still look, nor later, and holds on to the one plan at once. In all others
    numbers stand as they are: one guild has three punishments and the next a third of all, and a plan for the average
    of them is wrong for both. For the same reason these are best not prepared at all.
    Raises ValueError for a cursor that is not one of this search's.
    """
    after = place_of(search)
    parameters = Values() if is_steady(search) else Parameters()
    types = types_of(search)
    way = "desc" if search.sort.startswith("-") else "asc"
    named = (("user_id", search.user_id), ("guild_id", search.guild_id), ("issued_by", search.issued_by))
    wanted = [f"{name} = {parameters.number(value)}" for name, value in named if value is not None]
    dates = search_dates.between(search.created_after, search.created_before, parameters)
    moment = parameters.add(now, "timestamptz") if search.active_only else ""
    last = parameters.number(search.offset + search.limit + 1)
    terms = None if search.q is None else _terms(search, search.q, parameters, fragments=fragments)
    tables, of_words = ([], []) if terms is None else (terms.tables, terms.rows)
    wanted += of_words
    by_marks = bool(terms and types) and search.user_id is None
    weeks = None
    overdue = _overdue(search, types, wanted, dates, moment) if search.active_only and search.user_id is None else "0"
    if by_marks and search.active_only:
        tables.append(f"overdue as materialized (select {overdue} as total)")
        overdue = "(select total from overdue)"
    total = _total(search, types, wanted, dates, moment, overdue, parameters)
    wanted += dates.both
    if search.active_only:
        ends_later = f"{ENDS} > {moment}"
        # Of a CASE an index by end is no use to the planner, who might take it for all that end later and sort these.
        hidden = is_steady(search) and not by_end(search)
        wanted.append(f"case when {ends_later} then true end" if hidden else ends_later)
    if terms is not None and by_marks:
        weeks = _weeks(search, types, f"({last} + {overdue})", after, parameters)
        bits, among = _marked(search, types, terms, dates, parameters)
        tables += reason_search.found(bits, wanted, weeks, last=last, among=among)
        if weeks is None:
            total = f"case when (select few from decided) then (select count(*) from few) else {total} end"  # noqa: S608
    beyond_cursor = []
    if after is not None:
        times = {"created_at": parameters.add(after.created_at, "timestamptz")}
        if by_end(search):
            times = {ENDS: parameters.add(after.expires_at or "infinity", "timestamptz"), **times}
        beyond = "<" if way == "desc" else ">"
        place = ", ".join([*times.values(), parameters.number(after.id)])
        beyond_cursor = [f"({', '.join(times)}, id) {beyond} ({place})"]
    # By user: punishments_user. Else one walk for each (open, type) along punishments_, punishments_issuer_,
    # punishments_guild_ or punishments_guild_issuer_, each _created or _ends. Order and limit stand in every walk,
    # because the planner asks a branch of UNION ALL that has conditions of its own for no order.
    sort_key = ENDS if by_end(search) else "created_at"
    cells = _cells(search, types)
    order = f"order by sort_key {way}, created_at {way}, id {way}"
    if by_marks:
        # The walks are for words that many bear. The planner, who may take them for rare ones, would rather sort
        # everything: of a CASE it knows nothing, and so expects a half.
        many = [f"case when {condition} then true end" for condition in of_words]
        wanted = [condition for condition in wanted if condition not in of_words]
        wanted += [*many, "(select not few from decided)"]
        if weeks is not None:
            # In the weeks of this page. Between two ends that it does not know the planner expects nearly nothing, if
            # both are compared with one column.
            since, until = "(select since from spread)", "(select until from spread)"
            wanted += [f"(created_at, id) >= ({since}, 0)", f"created_at < {until}"]
    sought = [*wanted, *beyond_cursor]
    if dates.both and types and by_end(search) and search.user_id is None:
        between, ways = _between_by_end(search, types, sought, cells, order, last, now, parameters)
        tables += between
    else:
        ways = [("punishments", " and ".join([*sought, *cell])) for cell in cells]
    if by_marks:
        ways.append(("few", " and ".join(beyond_cursor) or "true"))
    # Where a statement is planned anew each time, many columns in each walk take longer to plan than the rows of a page
    # to be looked up again. punishments_id
    columns, rows = "*", "p"
    if not is_steady(search):
        columns = "id, created_at"
        rows = """walked on true left join lateral (
            select *, walked.sort_key from punishments where id = walked.id offset 0
        ) p"""
    walks = [
        f"(select {columns}, {sort_key} as sort_key from {table} where {condition} {order} limit {last})"  # noqa: S608
        for table, condition in ways or [("punishments", " and ".join(["false", *wanted]))]
    ]
    known = "true" if terms is None else terms.known
    sql = f"""
        {f"with {', '.join(tables)}" if tables else ""}
        select {POSITION}, {total}, {known}, {COLUMNS} from (select 1) always left join (
            select * from ({" union all ".join(walks)}) walks
            {order} offset {parameters.number(search.offset)} limit {parameters.number(search.limit + 1)}
        ) {rows} on true
        order by p.sort_key {way}, p.created_at {way}, p.id {way}
    """  # noqa: S608
    return sql, parameters.values


def by_end(search: Search) -> bool:
    return search.sort.endswith("expires_at")


def _between_by_end(
    search: Search,
    types: tuple[int, ...],
    sought: list[str],
    cells: list[list[str]],
    order: str,
    last: str,
    now: datetime,
    parameters: Parameters,
) -> tuple[list[str], list[tuple[str, str]]]:
    """What stands in WITH for a page by end between dates, and the walks for it, each a table and its condition.

    Those without an end stand in the order of ``created_at``, and no walk for them passes what is not between the
    dates. Under ``-expires_at`` they come first; only where they are no page it matters what ends last, which a walk
    may find behind all that was issued since."""
    endless, ending = _parts(search, parameters)
    sorts = _sorts_between(search, types, now)
    tables, ways, short, walked = [], [], "true", "true"
    if search.sort.startswith("-"):
        # punishments_ends, or that of the issuer, the guild or both
        walks = [
            f"(select id, created_at, expires_at, {ENDS} as sort_key from punishments"  # noqa: S608
            f" where {' and '.join([*sought, *cell, endless])} {order} limit {last})"
            for cell in cells
        ]
        of_all = f"select * from ({' union all '.join(walks)}) walks {order} limit {last}"  # noqa: S608
        tables.append(f"without_end as materialized ({of_all})")
        short = f"(select count(*) < {last} from without_end)"  # noqa: S608
        sorts = sorts and f"case when {short} then {sorts} else false end"
    if sorts is not None:
        walked = "(select not few from between_dates)"
        of_dates = [*sought, _state(search), _of_type(types)]
        tables += [f"between_dates as materialized (select {sorts} as few)", _first_of_sorted(of_dates, order, last)]
        # punishments_id
        ways.append(("punishments", "id = any(array(select id from first_of_sorted))"))
    parts = [endless, ending]
    if search.sort.startswith("-"):
        ways.append(("without_end", walked))
        parts = [ending]
    conditions = [*sought, short, walked]
    ways += [("punishments", " and ".join([*conditions, *cell, part])) for cell in cells for part in parts]
    return tables, ways


def _first_of_sorted(wanted: list[str], order: str, last: str) -> str:
    """The page's ids, by sorting all that lies between the dates. Without words what it takes stands in the _created
    index of the walks. The sum is no index's order, so that nothing but sorting comes into question."""
    return f"""first_of_sorted as materialized (
        select id from (
            select id, created_at, {ENDS} + interval '0' as sort_key from punishments where {" and ".join(wanted)}
        ) of_dates where (select few from between_dates) {order} limit {last}
    )"""  # noqa: S608


def _sorts_between(search: Search, types: tuple[int, ...], now: datetime) -> str | None:
    """Whether it is quicker to sort what lies between the dates than to walk by end until a page is full, as SQL; None
    where it never is.

    What ends last was mostly issued last: a walk from there passes what was issued since ``created_before``, within an
    index that has created_at too, each at about a fourth of what sorting one costs, within an index too, or a fortieth
    where the words of its row are looked at. A walk from the first end passes what was running at ``created_after``.
    """
    after, before = search.created_after, search.created_before
    if after is None or not types or (before is None and search.sort.startswith("-")):
        return None
    counted = "open" if search.active_only else "total"
    since, until = max(1, week(after)), week(before or now)
    # As if what their weeks hold were spread evenly.
    share = (
        max(0.0, min(1.0, ((before or now) - after) / timedelta(weeks=until - since + 1))) if until >= since else 0.0
    )
    dearer = 4 if search.q is None else 40
    sorts = f"share < 1000 or {dearer:d} * share < later" if search.sort.startswith("-") else "share < 4000"
    # punishment_counts_pkey
    return f"""(
        select {sorts} from (
            select coalesce(sum({counted}) filter (where week <= {until:d}), 0) * {share:.9f} as share,
                coalesce(sum({counted}) filter (where week > {until:d}), 0) as later
            from punishment_counts where guild_id = {search.guild_id or 0:d} and issued_by = {search.issued_by or 0:d}
            and {_of_type(types)} and week >= {since:d}
        ) of_weeks
    )"""  # noqa: S608


def _parts(search: Search, parameters: Parameters) -> tuple[str, str]:
    """Those without an end, which stand in the order of created_at, and those with one."""
    with_end = f"{ENDS} < 'infinity'"
    if search.created_after is not None:
        # A punishment ends after it began (domain/punishments.py, domain/importing.py). A day, for clocks that differ.
        with_end += f" and {ENDS} > {parameters.add(search.created_after, 'timestamptz')} - interval '24 hours'"
    # All versions are above 0. But no _created index has them: in these alone the planner might pass all others.
    return f"{ENDS} = 'infinity' and version > 0", with_end


def page(search: Search, lines: Sequence[Sequence[Any]], moment: Moment = ()) -> Page:
    """The answer of ``statement``, whose lines are never none. Raises FragmentsNeeded."""
    position, total, known, *_ = lines[0]
    check_known(known)
    found = [row for line in lines if (row := punishment_of(line[3:])) is not None]
    shown = found[: search.limit]
    more = len(found) > search.limit
    return Page(
        punishments=shown,
        total=total,
        next_cursor=_encode(search, moment, shown[-1]) if more else None,
        position=position or 0,
    )


def types_of(search: Search) -> tuple[int, ...]:
    """The types that can match: users and guilds have their own."""
    possible = {WARNING, TIMEOUT, BAN, GUILD_BLACKLIST} if search.type is None else {search.type}
    if search.user_id is not None:
        possible &= {WARNING, TIMEOUT, BAN}
    if search.guild_id is not None:
        possible &= {WARNING, GUILD_BLACKLIST}
    if search.user_id is not None and search.guild_id is not None:
        possible = set()
    return tuple(sorted(possible))


def _cells(search: Search, types: tuple[int, ...]) -> list[list[str]]:
    """Conditions on open and type, one list for each walk."""
    if not types:
        return []
    if search.user_id is not None:
        return [
            [*(["open"] if search.active_only else []), *([] if search.type is None else [f"type = {search.type:d}"])]
        ]
    states = ("open",) if search.active_only else ("open", "not open")
    return [[state, f"type = {kind:d}"] for state in states for kind in types]


def _state(search: Search) -> str:
    # Both values by name, or no index that begins with it could be walked.
    return "open" if search.active_only else "open = any(array[true, false])"


def _of_type(types: tuple[int, ...]) -> str:
    return f"type = any(array[{', '.join(map(str, types))}]::smallint[])"


def _total(
    search: Search,
    types: tuple[int, ...],
    wanted: list[str],
    dates: Dates,
    moment: str,
    overdue: str,
    parameters: Parameters,
) -> str:
    if not types:
        return "0::bigint"
    of_type = _of_type(types)
    if search.user_id is not None:
        # punishments_user
        active = ["open", f"{ENDS} > {moment}"] if search.active_only else []
        return _count([*wanted, *dates.both, of_type, *active])
    state = _state(search)
    counted = "open" if search.active_only else "total"
    if search.q is None:
        # punishment_counts_pkey
        whole = [
            f"coalesce((select sum({counted}) from punishment_counts where guild_id = {search.guild_id or 0:d}"  # noqa: S608
            f" and issued_by = {parameters.number(search.issued_by or 0)} and {of_type} and {cell}), 0)::bigint"
            for cell in dates.cells
        ]
    elif dates.weeks is None:
        whole = ["(select most from decided)"]
    else:
        whole = [
            f"""(
                select coalesce(sum(bit_count(found.bits & weeks.bits)), 0)::bigint
                from found join ({_of_weeks(dates.whole_weeks)}) weeks using (span)
            )"""  # noqa: S608
        ]
    # The _created index of the walks: what is left of two days, or of twice seven.
    cut = dates.cut_days if search.q is None else dates.cut_weeks
    total = " + ".join([*whole, *(_count([*wanted, state, of_type, one]) for one in cut)] or ["0::bigint"])
    return f"{total} - {overdue}" if search.active_only else total


def _overdue(search: Search, types: tuple[int, ...], wanted: list[str], dates: Dates, moment: str) -> str:
    """How many open ones have come to their end: a handful, or what came due while no clock worker ran.
    punishments_due"""
    due = f"due_at <= {moment}"
    conditions = [*wanted, *dates.both, _of_type(types)]
    if not is_steady(search):
        return _count([due, *conditions])
    # Of times that it does not know the planner expects a third to be before now, but few between two. OFFSET 0, or
    # another index might seem better.
    return f"""(
        select count(*) from (select * from punishments where {due} and due_at > '-infinity' offset 0) of_due
        where {" and ".join(conditions)}
    )"""  # noqa: S608


def _weeks(
    search: Search, types: tuple[int, ...], needed: str, after: Place | None, parameters: Parameters
) -> reason_search.Weeks | None:
    """How a page with words is looked for by weeks; None where the dates cut the weeks, or by end, of which the weeks
    say nothing."""
    if by_end(search) or search.created_after is not None or search.created_before is not None:
        return None
    cursor = None if after is None else f"{parameters.number(week(after.created_at))}::bigint"
    named = (("guild_id", search.guild_id), ("issued_by", search.issued_by))
    rows = [f"{name} = {parameters.number(value)}" for name, value in named if value is not None]
    # punishment_counts_pkey
    passed = f"""
        select week::bigint, sum({"open" if search.active_only else "total"}) as passed from punishment_counts
        where guild_id = {search.guild_id or 0:d} and issued_by = {parameters.number(search.issued_by or 0)}
        and {_of_type(types)} and week > 0 group by week
    """  # noqa: S608
    return reason_search.Weeks(
        descending=search.sort.startswith("-"),
        needed=needed,
        cursor=cursor,
        rows=[*rows, _state(search), _of_type(types)],
        passed=passed,
    )


def _terms(search: Search, q: str, parameters: Parameters, *, fragments: bool) -> reason_search.Terms:
    kind, value = marks.GUILD, search.guild_id
    if value is None:
        kind, value = marks.ISSUER, search.issued_by
    of_whom = None if value is None else marks.marked(kind, parameters.number(value), marks.PUNISHMENTS)
    return reason_search.terms(q, parameters, fragments=fragments, of_whom=of_whom)


def _marked(
    search: Search, types: tuple[int, ...], terms: reason_search.Terms, dates: Dates, parameters: Parameters
) -> tuple[list[str], str]:
    """Relations (span, bits) of what is asked for by a search for words, and how many would be found without them."""
    sought = (
        (marks.ISSUER, search.issued_by),
        (marks.GUILD, search.guild_id),
        (marks.TYPE, search.type),
        (marks.OPEN, 0 if search.active_only else None),
    )
    named = [
        marks.marked(kind, parameters.number(value), marks.PUNISHMENTS) for kind, value in sought if value is not None
    ]
    bits = [*terms.bits, *named, *([] if dates.weeks is None else [_of_weeks(dates.weeks)])]
    # punishment_counts_pkey
    among = f"""(
        select coalesce(sum({"open" if search.active_only else "total"}), 0)::bigint from punishment_counts
        where guild_id = {search.guild_id or 0:d} and issued_by = {parameters.number(search.issued_by or 0)}
        and {_of_type(types)} and week = 0
    )"""  # noqa: S608
    return bits, among


def _of_weeks(weeks: str) -> str:
    # ordinal_marks_pkey
    return f"""
        select span, bit_or(bits) as bits
        from (select span, bits, value as week from ordinal_marks where kind = {marks.WEEK}) of_week
        where {weeks} group by span
    """  # noqa: S608


def _count(conditions: Sequence[str]) -> str:
    return f"(select count(*) from punishments where {' and '.join(conditions)})"  # noqa: S608


def _identity(search: Search, moment: Moment) -> tuple[object, ...]:
    """What a cursor is bound to."""
    filters = (search.user_id, search.guild_id, search.issued_by, search.type, search.active_only, search.q)
    return (*filters, search.created_after, search.created_before, search.sort, *moment)


def _encode(search: Search, moment: Moment, last: Punishment) -> str:
    expires_at = last.expires_at if by_end(search) else None
    return cursors.encode(_identity(search, moment), Place(expires_at, last.created_at, last.id))


def place_of(search: Search, moment: Moment = ()) -> Place | None:
    """Where the page before ended; None without a cursor. Raises ValueError for one that is not of this search and
    moment."""
    if search.cursor is None:
        return None
    if search.offset:
        raise ValueError("cursor and offset exclude each other")
    return cursors.decode(search.cursor, _identity(search, moment), Place)

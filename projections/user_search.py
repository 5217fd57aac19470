"""Searching users by state, level, tier and name: one statement, one snapshot, exact totals, an index for each of them.

State and tier change at the second of an end, so no column can say what they are. ``profiles_cells`` begins with what
they would be if no end had come (``profile.HELD``, level, tier). A search by them walks each such cell that
``profile_counts`` knows, passes over what has ended since, and adds the ones that by now are what is asked for: those
are among the few whose first end has come and is not recorded yet (``profiles_first_end``). So are totals: the counts,
less and plus the same few. Only a search by ``q`` counts its matches one by one.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

from modledger.projections import cursors, name_search
from modledger.projections.parameters import Parameters
from modledger.projections.profile import COLUMNS, FIRST_END, POSITION, Found, Profile, found

_NAMED = name_search.Named(table="profiles", id="user_id", key="username_key", code="username_code")
_ORDER = "order by username_key, user_id"


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; filters are combined with AND. ``q`` as in ``name_search``, trimmed; ``state`` 0–2 and
    ``tier`` 0–3 as they are now; ``level`` 0–3; ``offset`` ≥ 0, ``limit`` ≥ 1. ``cursor``: a ``next_cursor`` of the
    same filters; the page after it begins there and ``offset`` has to be 0.

    Users follow each other by name, without regard to case, then by id; those without a name come last.
    """

    q: str | None = None
    state: int | None = None
    level: int | None = None
    tier: int | None = None
    offset: int = 0
    limit: int = 25
    cursor: str | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """``total``: all that match, whatever the page. ``next_cursor`` None: nothing follows. ``position``: the answer is
    as fresh as this position of the ledger."""

    users: list[Found]
    total: int
    next_cursor: str | None
    position: int


class _Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page ended; ``name`` is the key of a name, None among those without one."""

    name: cursors.Text | None
    user_id: cursors.Id


class _Filters(msgspec.Struct, frozen=True, kw_only=True):
    """A search as SQL. ``cell``: what held, level and tier have to be; ``now``: what has to be true of a row at this
    moment; ``ended``: the query of the rows that may fulfil one and not the other, None where both are the same."""

    cell: list[str]
    now: list[str]
    ended: str | None


async def find(conn: psycopg.AsyncConnection[Any], search: Search, now: datetime, *, fragments: bool) -> Page:
    """The page that is asked for, as of ``now``; one round trip in autocommit mode. ``fragments``: the table has its
    index for them.

    Raises ValueError for a cursor that is not one of this search's, FragmentsNeeded, and psycopg.Error.
    """
    sql, parameters = statement(search, now, fragments=fragments)
    cursor = psycopg.AsyncRawCursor(conn, row_factory=tuple_row)
    await cursor.execute(sql, parameters, prepare=False)
    return page(search, await cursor.fetchall())


def statement(search: Search, now: datetime, *, fragments: bool) -> tuple[str, list[object]]:
    """SQL and parameters for one of psycopg's raw cursors, best not prepared, because which index is best depends on
    the values; ``page`` reads its lines. Raises ValueError for a cursor that is not one of this search's."""
    after = _after(search)
    parameters = Parameters()
    filters = _filters(search, now, parameters)
    begin = _begin(after, parameters)
    last = search.offset + search.limit + 1
    with_ = [] if filters.ended is None else [f"ended as materialized ({filters.ended})"]
    known = "true"
    if search.q is None:
        total = _total(filters, None)
        walks = _walks(filters, None, begin, last)
    else:
        sought = name_search.sought(search.q, _NAMED, parameters, fragments=fragments)
        known = sought.known
        if sought.ordered:
            # The others find one user at most.
            by_name, *by_id = sought.ways
            total = " + ".join([_total(filters, by_name), *(_count([way, *filters.now]) for way in by_id)])
            walks = _walks(filters, by_name, begin, last)
            walks += [_walk("profiles", [way, *filters.now, " or ".join(begin)], last) for way in by_id]
        else:
            # profiles_code, profiles_pkey
            found = " union all ".join(
                f"(select username_key, user_id from profiles where {_all([way, *filters.now])})"  # noqa: S608
                for way in sought.ways
            )
            with_ = [f"hits as materialized ({found})"]
            total = "(select count(*) from hits)"
            walks = [_walk("hits", [" or ".join(begin)], last)]
    # user_activity_pkey, profiles_pkey
    sql = f"""
        {f"with {', '.join(with_)}" if with_ else ""}
        select {known}, {total}, asked.user_id, {POSITION}, a.last_activity_at, {COLUMNS}
        from (select 1) always left join (
            select * from ({" union all ".join(walks)}) walks
            {_ORDER} offset {search.offset:d} limit {search.limit + 1:d}
        ) asked on true
        left join profiles p on p.user_id = asked.user_id
        left join user_activity a on a.user_id = asked.user_id
        order by p.username_key, p.user_id
    """  # noqa: S608
    return sql, parameters.values


def page(search: Search, lines: Sequence[Sequence[Any]]) -> Page:
    """The answer of ``statement``, whose lines are never none. Raises FragmentsNeeded."""
    known, total, *_ = lines[0]
    name_search.check_known(known)
    users = [found(line[2:]) for line in lines]
    position = users[0].position
    matching = [one for one in users if one.profile is not None]
    shown = matching[: search.limit]
    return Page(
        users=shown,
        total=total,
        next_cursor=_cursor(search, shown[-1]) if len(matching) > search.limit else None,
        position=position,
    )


# -- the parts of the statement


def _filters(search: Search, now: datetime, parameters: Parameters) -> _Filters:
    cell, wanted, ended = [], [], None
    if search.level is not None:
        cell.append(f"level = {search.level:d}")
        wanted.append(f"level = {search.level:d}")
    if search.state is not None or search.tier is not None:
        moment = parameters.add(now, "timestamptz")
        # profiles_first_end: a handful, or what came due while no clock worker ran. Once, and by that index, whatever
        # order and limit are asked for.
        ended = f"select * from profiles where {FIRST_END} <= {moment}"  # noqa: S608
        if search.state is not None:
            cell.append(f"held = {search.state:d}")
            wanted.append(_state_is(search.state, moment))
        if search.tier is not None:
            cell.append(f"tier = {search.tier:d}")
            wanted.append(_tier_is(search.tier, moment))
    return _Filters(cell=cell, now=wanted, ended=ended)


def _state_is(state: int, moment: str) -> str:
    """As ``profile.state``; a null is no end, and so none to come."""
    banned, timed_out = f"coalesce(banned_until > {moment}, false)", f"coalesce(timeout_until > {moment}, false)"
    return {0: f"not {banned} and not {timed_out}", 1: f"not {banned} and {timed_out}", 2: banned}[state]


def _tier_is(tier: int, moment: str) -> str:
    """As ``profile.tier``."""
    if tier == 0:
        return f"tier = 0 or coalesce(tier_until <= {moment}, false)"
    return f"tier = {tier:d} and coalesce(tier_until > {moment}, true)"


def _cells(filters: _Filters) -> str:
    """The cells that anybody is in. profile_counts, of 96 rows at most"""
    return f"(select distinct held, level, tier from profile_counts where {_all(filters.cell)}) c"  # noqa: S608


_SAME = "held = c.held and level = c.level and tier = c.tier"


def _total(filters: _Filters, by_name: str | None) -> str:
    """The number of all who match, with ``by_name`` of those who also fulfil this condition."""
    if by_name is None:
        # profile_counts, of 96 rows at most
        total = f"(select coalesce(sum(total), 0)::bigint from profile_counts where {_all(filters.cell)})"  # noqa: S608
    elif not filters.cell:
        # profiles_names
        total = _count([by_name])
    else:
        # profiles_cells
        total = (
            f"(select coalesce(sum(n), 0)::bigint from {_cells(filters)}"  # noqa: S608
            f" cross join lateral (select count(*) as n from profiles where {_all([_SAME, by_name])}) w)"
        )
    if filters.ended is None:
        return total
    named = [] if by_name is None else [by_name]
    return f"{total} - {_count([*named, *filters.cell], 'ended')} + {_count([*named, *filters.now], 'ended')}"


def _count(conditions: list[str], table: str = "profiles") -> str:
    return f"(select count(*) from {table} where {_all(conditions)})"  # noqa: S608


def _walks(filters: _Filters, by_name: str | None, begin: list[str], last: int) -> list[str]:
    """Queries that each give the beginning of a part of all who match, in the page's order."""
    wanted = [] if by_name is None else [by_name]
    if not filters.cell:
        # profiles_names
        return [_walk("profiles", [*wanted, part], last) for part in begin]
    # profiles_cells; those who by now are no longer what their cell says are passed over.
    parts = " union all ".join(_walk("profiles", [_SAME, *filters.now, *wanted, part], last) for part in begin)
    walks = [f"(select w.* from {_cells(filters)} cross join lateral ({parts}) w)"]  # noqa: S608
    if filters.ended is not None:
        moved = [f"not ({_all(filters.cell)})", *filters.now, *wanted, " or ".join(begin)]
        walks.append(_walk("ended", moved, last))
    return walks


def _walk(table: str, conditions: list[str], last: int) -> str:
    return f"(select username_key, user_id from {table} where {_all(conditions)} {_ORDER} limit {last:d})"  # noqa: S608


def _begin(after: _Place | None, parameters: Parameters) -> list[str]:
    """What lies behind the place, in parts that are each a stretch of an index."""
    if after is None:
        return ["true"]
    if after.name is None:
        return [f"username_key is null and user_id > {after.user_id:d}"]
    name = parameters.add(after.name, "text")
    return [f"(username_key, user_id) > ({name}, {after.user_id:d})", "username_key is null"]


def _all(conditions: Iterable[str]) -> str:
    return " and ".join(f"({one})" for one in conditions) or "true"


# -- cursors


def _identity(search: Search) -> tuple[object, ...]:
    return ("users", search.q, search.state, search.level, search.tier)


def _after(search: Search) -> _Place | None:
    if search.cursor is None:
        return None
    if search.offset:
        raise ValueError("cursor and offset exclude each other")
    return cursors.decode(search.cursor, _identity(search), _Place)


def _cursor(search: Search, last: Found) -> str:
    assert isinstance(last.profile, Profile)
    return cursors.encode(_identity(search), _Place(last.profile.username_key, last.profile.user_id))

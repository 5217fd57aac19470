"""The search of guilds (api.md §4): by a piece of the name or the id, by state and tier as they are now.

State and tier are kept as the events have left them; what has ended since and is not recorded yet is a handful, and
looked at by itself (``guilds_first_end``). So without ``q`` the page is merged from walks along ``guilds_standing``,
one for each state and tier that it wants, and the total comes from ``guild_counts`` with that handful put right. So is
what begins with ``q``, but counted along the index; what contains it is found first and then sorted (``name_search``).
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import product
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

from modledger.projections import cursors
from modledger.projections.guilds import COLUMNS, FIRST_END, POSITION, PROFILE_POSITION, Owned, owned
from modledger.projections.name_search import Named, check_known, sought
from modledger.projections.parameters import Parameters

_NAMES = Named(table="guilds", id="guild_id")


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; filters are combined with AND. ``q`` 1–100 characters, trimmed; ``state`` 0–2, ``tier`` 0–3,
    ``offset`` ≥ 0, ``limit`` ≥ 1. ``cursor``: a ``next_cursor`` of the same filters; ``offset`` has to be 0 with it.

    The order is that of the names, without regard to case and by code point, then the id; guilds without a name last.
    """

    q: str | None = None
    state: int | None = None
    tier: int | None = None
    offset: int = 0
    limit: int = 25
    cursor: str | None = None


class Item(msgspec.Struct, frozen=True):
    """``owner_level`` 0 without an owner."""

    owned: Owned
    owner_level: int


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """``total``: all that match, whatever the page. ``next_cursor`` None: nothing follows. ``position``: what is said
    of the guilds is as fresh as this position of the ledger; ``owner_position`` the same for the levels of owners."""

    guilds: list[Item]
    total: int
    next_cursor: str | None
    position: int
    owner_position: int


class _Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    name_key: cursors.Text | None
    guild_id: cursors.Id


_ORDER = "order by name_key, guild_id"


async def find(conn: psycopg.AsyncConnection[Any], search: Search, now: datetime, *, fragments: bool) -> Page:
    """The page that is asked for, as of ``now``; one round trip in autocommit mode. ``fragments``: as in name_search.

    Raises ValueError for a cursor that is not one of this search's, FragmentsNeeded, and psycopg.Error.
    """
    sql, parameters = statement(search, now, fragments=fragments)
    cursor = psycopg.AsyncRawCursor(conn, row_factory=tuple_row)
    await cursor.execute(sql, parameters, prepare=False)
    return page(search, await cursor.fetchall())


def statement(search: Search, now: datetime, *, fragments: bool) -> tuple[str, list[object]]:
    """SQL and parameters for one of psycopg's raw cursors, not to be prepared: the plan depends on the values. ``page``
    reads its lines. Raises ValueError for a cursor that is not one of this search's."""
    place = None if search.cursor is None else cursors.decode(search.cursor, _identity(search), _Place)
    if place is not None and search.offset:
        raise ValueError("cursor and offset exclude each other")
    parameters = Parameters()
    moment = parameters.add(now, "timestamptz")
    wanted = _wanted(
        search,
        f"case when blacklisted_until > {moment} then 2 else state_set end",
        f"case when tier_until <= {moment} then 0 else tier end",
    )
    beyond = _beyond(place, parameters)
    ended = f"{FIRST_END} <= {moment}"
    found, known = "", "true"
    if search.q is None:
        total, walks = _by_standing(search, None, wanted, ended, beyond)
    else:
        # guilds_name, guilds_name_code, guilds_pkey
        named = sought(search.q, _NAMES, parameters, fragments=fragments)
        known = named.known
        if named.ordered:
            beginning, *by_id = named.ways
            total, walks = _by_standing(search, beginning, wanted, ended, beyond)
            for way in by_id:
                total += f" + {_count([way, *wanted])}"
                walks += f" union all {_walks(search, [[way, *wanted]], beyond)}"
        else:
            both = " union all ".join(
                f"select guild_id, name_key from guilds where {' and '.join([way, *wanted])}"  # noqa: S608
                for way in named.ways
            )
            found = f"with found as materialized ({both})"
            total = "(select count(*) from found)"
            walks = " union all ".join(f"(select * from found where {where})" for where in beyond)  # noqa: S608
    # guilds_pkey, profiles_pkey, guild_activity_pkey
    sql = f"""
        {found}
        select {POSITION}, {PROFILE_POSITION}, {known}, {total}, coalesce(o.level, 0),
            coalesce(a.member_count, 0), {COLUMNS}
        from (select 1) always
        left join (
            select * from ({walks}) walks {_ORDER} offset {search.offset:d} limit {search.limit + 1:d}
        ) p on true
        left join guilds g on g.guild_id = p.guild_id
        left join profiles o on o.user_id = g.owner_id
        left join guild_activity a on a.guild_id = g.guild_id
        order by p.name_key, p.guild_id
    """  # noqa: S608
    return sql, parameters.values


def page(search: Search, lines: Sequence[Sequence[Any]]) -> Page:
    """The answer of ``statement``, whose lines are never none. Raises FragmentsNeeded."""
    position, owner_position, known, total, *_ = lines[0]
    check_known(known)
    found = [Item(owned(line[5:]), line[4]) for line in lines if line[6] is not None]
    shown = found[: search.limit]
    next_cursor = None
    if len(found) > search.limit:
        last = shown[-1].owned.guild
        next_cursor = cursors.encode(_identity(search), _Place(last.name_key, last.guild_id))
    return Page(
        guilds=shown,
        total=total,
        next_cursor=next_cursor,
        position=position or 0,
        owner_position=owner_position or 0,
    )


def _identity(search: Search) -> tuple[object, ...]:
    """What a cursor is bound to."""
    return ("guilds", search.q, search.state, search.tier)


def _wanted(search: Search, state: str, tier: str) -> list[str]:
    """The filters, on these expressions of the state and the tier."""
    pairs = ((state, search.state), (tier, search.tier))
    return [f"({expression}) = {value:d}" for expression, value in pairs if value is not None]


def _by_standing(
    search: Search, name: str | None, wanted: Sequence[str], ended: str, beyond: Sequence[str]
) -> tuple[str, str]:
    """Total and walks, of all guilds or of those whose name begins as the condition ``name`` says."""
    named = [] if name is None else [name]
    recorded = _wanted(search, "state_recorded", "tier")
    states = range(3) if search.state is None else (search.state,)
    tiers = range(4) if search.tier is None else (search.tier,)
    # guilds_standing; without any filter guilds_name
    cells = [[f"state_recorded = {state:d}", f"tier = {tier:d}"] for state, tier in product(states, tiers)]
    cells = cells if wanted else [[]]
    if name is None:
        # guild_counts_pkey, of two dozen rows
        where = " and ".join(recorded) or "true"
        total = f"coalesce((select sum(total) from guild_counts where {where}), 0)::bigint"  # noqa: S608
    else:
        total = " + ".join(_count([*cell, name]) for cell in cells)
    if not wanted:
        return total, _walks(search, [named], beyond)
    # guilds_first_end
    total += f""" + (
        select count(*) filter (where {" and ".join(wanted)}) - count(*) filter (where {" and ".join(recorded)})
        from guilds where {" and ".join([ended, *named])}
    )"""  # noqa: S608
    # guilds_first_end. Without an order, or the planner might walk all names in search of the handful.
    handful = " union all ".join(
        f"(select guild_id, name_key from guilds where {' and '.join([ended, *named, *wanted, where])})"  # noqa: S608
        for where in beyond
    )
    running = [[*cell, *named, f"({ended}) is not true"] for cell in cells]
    return total, f"{_walks(search, running, beyond)} union all {handful}"


def _count(conditions: Sequence[str]) -> str:
    return f"(select count(*) from guilds where {' and '.join(conditions)})"  # noqa: S608


def _beyond(place: _Place | None, parameters: Parameters) -> list[str]:
    """Disjoint conditions for what comes after the place."""
    if place is None:
        return ["true"]
    if place.name_key is None:
        return [f"name_key is null and guild_id > {place.guild_id:d}"]
    return [
        f"(name_key, guild_id) > ({parameters.add(place.name_key, 'text')}, {place.guild_id:d})",
        "name_key is null",
    ]


def _walks(search: Search, ways: Sequence[Sequence[str]], beyond: Sequence[str]) -> str:
    """One walk for each way, in order. Order and limit stand in every walk, because the planner asks a branch of UNION
    ALL that has conditions of its own for no order."""
    last = search.offset + search.limit + 1
    return " union all ".join(
        f"(select guild_id, name_key from guilds where {' and '.join([*way, where])} {_ORDER} limit {last:d})"  # noqa: S608
        for way, where in product(ways, beyond)
    )

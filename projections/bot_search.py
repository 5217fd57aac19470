"""The search of bots (api.md §4): by name and id, owner and type; exact totals, and an index for every combination.

In the order of names (``name_search.py``). A search walks an index once for each (active, type) that it wants and
merges the walks; only the bots that contain a fragment, and those with an id, are found and then sorted. Totals without
``q`` come from ``bot_counts``; with ``q`` what it finds is counted.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

from modledger.projections import cursors, name_search
from modledger.projections.bots import COLUMNS, POSITION, REPORTED, Bot, Owned, owned_or_none
from modledger.projections.parameters import Parameters

_NAMED = name_search.Named(table="bots", id="bot_id")
_TYPES = (1, 2, 3)


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; filters are combined with AND. ``q`` as ``name_search.sought`` takes it; ``bot_type`` 1–3,
    ``offset`` ≥ 0, ``limit`` ≥ 1. ``inactive_too``: also bots that are switched off. ``cursor``: a ``next_cursor`` of
    the same filters; the page after it begins there and ``offset`` has to be 0."""

    q: str | None = None
    owner_id: int | None = None
    bot_type: int | None = None
    inactive_too: bool = False
    offset: int = 0
    limit: int = 25
    cursor: str | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """``total``: all that match, whatever the page. ``next_cursor`` None: nothing follows. ``position``: the answer is
    as fresh as this position of the ledger."""

    bots: list[Owned]
    total: int
    next_cursor: str | None
    position: int


class _Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The last bot of a page."""

    name_key: cursors.Text
    bot_id: cursors.Id


async def find(conn: psycopg.AsyncConnection[Any], search: Search, *, fragments: bool) -> Page:
    """The page that is asked for; one round trip in autocommit mode.

    Raises ValueError for a cursor that is not one of this search's, FragmentsNeeded, and psycopg.Error.
    """
    sql, parameters = statement(search, fragments=fragments)
    cursor = psycopg.AsyncRawCursor(conn, row_factory=tuple_row)
    await cursor.execute(sql.encode(), parameters, prepare=False)
    return page(search, await cursor.fetchall())


def statement(search: Search, *, fragments: bool) -> tuple[str, list[object]]:
    """SQL and parameters for one of psycopg's raw cursors; ``page`` reads its lines. ``fragments``: the database has
    the index for them. Best not prepared: a plan for the average name and owner is wrong for both.

    Raises ValueError for a cursor that is not one of this search's.
    """
    after = _after(search)
    parameters = Parameters()
    ways: tuple[str, ...] = ()
    ordered, known = True, "true"
    if search.q is not None:
        sought = name_search.sought(search.q, _NAMED, parameters, fragments=fragments)
        ways, ordered, known = sought.ways, sought.ordered, sought.known
    types = _TYPES if search.bot_type is None else (search.bot_type,)
    states = ("active", "not active") if search.inactive_too else ("active",)
    owner = [] if search.owner_id is None else [f"owner_id = {search.owner_id:d}"]
    beyond = []
    if after is not None:
        beyond = [f"(name_key, bot_id) > ({parameters.add(after.name_key, 'text')}, {after.bot_id:d})"]
    of_type = f"bot_type = any(array[{', '.join(map(str, types))}]::smallint[])"
    # Both values by name, or no index that begins with it could be walked.
    of_state = f"active = any(array[{'true, false' if search.inactive_too else 'true'}])"
    last = search.offset + search.limit + 1
    order = "order by name_key, bot_id"
    found, total = "", ""
    if not ordered:
        # bots_name_code, and bots_pkey for an id; the few that are found are sorted.
        every = [_select(["registered", of_state, of_type, *owner, way]) for way in ways]
        found = f"with found as materialized ({' union all '.join(every)})"
        total = "(select count(*) from found)"
        walks = [f"(select * from found {_where(beyond)} {order} limit {last:d})"]  # noqa: S608
    else:
        # bots_cells, with an owner bots_owner_cells; bots_pkey for an id. Order and limit stand in every walk, because
        # the planner asks a branch of UNION ALL that has conditions of its own for no order.
        cells = [["registered", state, f"bot_type = {kind:d}"] for state in states for kind in types]
        walks = [
            f"({_select([*cell, *owner, *way, *beyond])} {order} limit {last:d})"
            for cell in cells
            for way in ([[way] for way in ways] or [[]])
        ]
        # Those of the walks.
        total = " + ".join(_count(["registered", of_state, of_type, *owner, way]) for way in ways)
    if search.q is None:
        # bot_counts_pkey
        total = (
            f"coalesce((select sum(total) from bot_counts where owner_id = {search.owner_id or 0:d}"  # noqa: S608
            f" and {of_state} and {of_type}), 0)::bigint"
        )
    sql = f"""
        {found}
        select {POSITION}, {total}, {known}, {REPORTED}, {COLUMNS} from (select 1) always left join (
            select * from ({" union all ".join(walks)}) walks
            {order} offset {search.offset:d} limit {search.limit + 1:d}
        ) b on true
        left join bot_activity a on a.bot_id = b.bot_id
        order by b.name_key, b.bot_id
    """  # noqa: S608
    return sql, parameters.values


def page(search: Search, lines: Sequence[Sequence[Any]]) -> Page:
    """The answer of ``statement``, whose lines are never none. Raises FragmentsNeeded."""
    position, total, known, *_ = lines[0]
    name_search.check_known(known)
    found = [owned for line in lines if (owned := owned_or_none(line[3:])) is not None]
    shown = found[: search.limit]
    return Page(
        bots=shown,
        total=total,
        next_cursor=_cursor(search, shown[-1].bot) if len(found) > search.limit else None,
        position=position or 0,
    )


def _identity(search: Search) -> list[object]:
    return ["bots", search.q, search.owner_id, search.bot_type, search.inactive_too]


def _cursor(search: Search, last: Bot) -> str:
    return cursors.encode(_identity(search), _Place(last.name_key, last.bot_id))


def _after(search: Search) -> _Place | None:
    if search.cursor is None:
        return None
    if search.offset:
        raise ValueError("cursor and offset exclude each other")
    return cursors.decode(search.cursor, _identity(search), _Place)


def _select(conditions: Sequence[str]) -> str:
    return f"select * from bots where {' and '.join(conditions)}"  # noqa: S608


def _count(conditions: Sequence[str]) -> str:
    return f"(select count(*) from bots where {' and '.join(conditions)})"  # noqa: S608


def _where(conditions: Sequence[str]) -> str:
    return f"where {' and '.join(conditions)}" if conditions else ""

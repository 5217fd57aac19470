"""The punishment search (api.md §5.2): one statement, one snapshot, exact totals, and an index for every combination.

The indexes of ``punishments`` begin with (guild, issuer, both or neither), then ``open`` and ``type``, then the sort key. A search
walks one index once for each (open, type) that it wants and merges the walks in order, so it reads no more rows
than it passes. Totals come from ``punishment_counts``, less those open ones that ran out and are not recorded yet.
Two kinds count their matches along an index: a search by user, because a user has few, and one between dates, because
they may be any.
"""

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec
import psycopg
from psycopg.rows import tuple_row

from modledger.domain.subjects import BAN, GUILD_BLACKLIST, TIMEOUT, WARNING
from modledger.projections.punishments import COLUMNS, POSITION, Punishment, punishment_of

Sort = Literal["-created_at", "created_at", "-expires_at", "expires_at"]
SORTS: tuple[Sort, ...] = get_args(Sort)


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; filters are combined with AND. ``type`` 1–4, ``offset`` ≥ 0, ``limit`` ≥ 1;
    ``created_after`` and ``created_before`` exclude the moment itself. ``cursor``: a ``next_cursor`` of the same filters and sort; the page after it begins there and ``offset`` has to be 0.

    A punishment without an end sorts behind every end. Equal times sort by id, in the direction of the sort.
    """

    user_id: int | None = None
    guild_id: int | None = None
    issued_by: int | None = None
    type: int | None = None
    active_only: bool = False
    created_after: datetime | None = None
    created_before: datetime | None = None
    sort: Sort = "-created_at"
    offset: int = 0
    limit: int = 25
    cursor: str | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """``total``: all that match, whatever the page. ``next_cursor`` None: nothing follows. ``position``: the answer is as fresh
    as this position of the ledger."""

    punishments: list[Punishment]
    total: int
    next_cursor: str | None
    position: int


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page ended, and of which search; ``time`` None: at those without an end."""

    user_id: int | None
    guild_id: int | None
    issued_by: int | None
    type: int | None
    active_only: bool
    created_after: datetime | None
    created_before: datetime | None
    sort: Sort
    time: datetime | None
    id: int


class _Parameters:
    """The statement's parameters as they are named, one after the other."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def add(self, value: object, kind: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}::{kind}"


_ENDS = "coalesce(expires_at, 'infinity')"


async def find(conn: psycopg.AsyncConnection[Any], search: Search, now: datetime) -> Page:
    """The page that is asked for, as of ``now``; one round trip in autocommit mode.

    Raises ValueError for a cursor that is not one of this search's, and psycopg.Error.
    """
    sql, parameters = statement(search, now)
    cursor = psycopg.AsyncRawCursor(conn, row_factory=tuple_row)
    await cursor.execute(sql, parameters, prepare=False)
    return page(search, await cursor.fetchall())


def statement(search: Search, now: datetime) -> tuple[str, list[object]]:
    """SQL and parameters for one of psycopg's raw cursors; ``page`` reads its lines.

    Numbers stand in it as they are and not as parameters: one issuer has three punishments and the next a third of all, and
    a prepared plan for the average of them is wrong for both. For the same reason it is best not prepared at all.
    Raises ValueError for a cursor that is not one of this search's.
    """
    after = None if search.cursor is None else _decode(search, search.cursor)
    parameters = _Parameters()
    types = _types(search)
    descending = search.sort.startswith("-")
    column = "created_at" if search.sort.endswith("created_at") else _ENDS
    way = "desc" if descending else "asc"
    named = (("user_id", search.user_id), ("guild_id", search.guild_id), ("issued_by", search.issued_by))
    wanted = [f"{name} = {value:d}" for name, value in named if value is not None]
    if search.created_after is not None:
        wanted.append(f"created_at > {parameters.add(search.created_after, 'timestamptz')}")
    if search.created_before is not None:
        wanted.append(f"created_at < {parameters.add(search.created_before, 'timestamptz')}")
    moment = parameters.add(now, "timestamptz") if search.active_only else ""
    total = _total(search, types, wanted, moment)
    if search.active_only:
        wanted.append(f"{_ENDS} > {moment}")
    if after is not None:
        time = parameters.add("infinity" if after.time is None else after.time, "timestamptz")
        wanted.append(f"({column}, id) {'<' if descending else '>'} ({time}, {after.id:d})")
    # By user: punishments_user. Else one walk for each (open, type) along punishments_, punishments_issuer_, punishments_guild_
    # or punishments_guild_issuer_, each _created or _ends. Order and limit stand in every walk, because the planner asks a
    # branch of UNION ALL that has conditions of its own for no order.
    # What ends first was mostly issued first: a walk by end to those issued since some day would pass nearly everything. The sum
    # is no index's order, so that the planner sorts what lies between the dates.
    apart = search.created_before if descending else search.created_after
    sort_key = f"{column} + interval '0'" if column == _ENDS and apart is not None else column
    order = f"order by sort_key {way}, id {way}"
    last = search.offset + search.limit + 1
    conditions = [" and ".join([*wanted, *cell]) for cell in _cells(search, types)] or ["false"]
    walks = [
        f"(select *, {sort_key} as sort_key from punishments where {condition} {order} limit {last:d})"  # noqa: S608
        for condition in conditions
    ]
    sql = f"""
        select {POSITION}, {total}, {COLUMNS} from (select 1) always left join (
            select * from ({" union all ".join(walks)}) walks {order} offset {search.offset:d} limit {search.limit + 1:d}
        ) p on true
        order by p.sort_key {way}, p.id {way}
    """  # noqa: S608
    return sql, parameters.values


def page(search: Search, lines: Sequence[Sequence[Any]]) -> Page:
    """The answer of ``statement``, whose lines are never none."""
    position, total, *_ = lines[0]
    found = [row for line in lines if (row := punishment_of(line[2:])) is not None]
    shown = found[: search.limit]
    more = len(found) > search.limit
    return Page(
        punishments=shown,
        total=total,
        next_cursor=_encode(search, shown[-1]) if more else None,
        position=position or 0,
    )


def _types(search: Search) -> tuple[int, ...]:
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


def _total(search: Search, types: tuple[int, ...], wanted: list[str], moment: str) -> str:
    if not types:
        return "0::bigint"
    of_type = [] if search.type is None else [f"type = {search.type:d}"]
    if search.user_id is not None:
        # punishments_user
        active = ["open", f"{_ENDS} > {moment}"] if search.active_only else []
        return f"(select count(*) from punishments where {' and '.join([*wanted, *of_type, *active])})"  # noqa: S608
    if search.created_after is not None or search.created_before is not None:
        # The _created index of the walks.
        counts = [
            f"(select count(*) from punishments where {' and '.join([*wanted, *cell])})"  # noqa: S608
            for cell in _cells(search, types)
        ]
        total = " + ".join(counts)
    else:
        counted = "open" if search.active_only else "total"
        # punishment_counts_pkey
        total = (
            f"coalesce((select {counted} from punishment_counts where guild_id = {search.guild_id or 0:d}"  # noqa: S608
            f" and issued_by = {search.issued_by or 0:d} and type = {search.type or 0:d}), 0)"
        )
    if not search.active_only:
        return total
    # punishments_due: a handful, or what came due while no clock worker ran
    over = " and ".join([f"due_at <= {moment}", *wanted, *of_type])
    return f"{total} - (select count(*) from punishments where {over})"  # noqa: S608


def _identity(search: Search | _Cursor) -> tuple[object, ...]:
    """What a cursor is bound to."""
    filters = (search.user_id, search.guild_id, search.issued_by, search.type, search.active_only)
    return (*filters, search.created_after, search.created_before, search.sort)


def _encode(search: Search, last: Punishment) -> str:
    time = last.created_at if search.sort.endswith("created_at") else last.expires_at
    cursor = msgspec.convert([*_identity(search), time, last.id], _Cursor)
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def _decode(search: Search, text: str) -> _Cursor:
    if search.offset:
        raise ValueError("cursor and offset exclude each other")
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = msgspec.json.decode(raw, type=_Cursor)
    except (binascii.Error, UnicodeError, msgspec.DecodeError, RecursionError):
        raise ValueError("cursor is not valid") from None
    times = (cursor.created_after, cursor.created_before, cursor.time)
    timeless = cursor.time is None and cursor.sort.endswith("created_at")
    if timeless or any(time is not None and time.tzinfo is None for time in times) or not 0 < cursor.id < 2**63:
        raise ValueError("cursor is not valid")
    if _identity(cursor) != _identity(search):
        raise ValueError("cursor belongs to another search")
    return cursor

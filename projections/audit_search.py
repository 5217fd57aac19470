"""The search of the audit log: newest first, exact totals, and an index for every combination of filters.

Without an entity, a search walks an index once for each event type that it wants and merges the walks in order, so it
reads no more rows than it passes; which types there are, or an actor's, stand in ``audit_log_counts``. Totals come from
there too; what the dates cut off the weeks at both ends is counted along an index. A search by entity, or by the
correlation id of a request or import, walks and counts its rows: most have few.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import tuple_row

from modledger.domain.envelope import SubjectKind
from modledger.projections import cursors
from modledger.projections.audit_log import TABLE, Entry, prefix
from modledger.projections.parameters import Parameters
from modledger.projections.weeks import beginning, week


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, all of it together. ``event_types`` None: every one; ``entity_id`` and ``actor_id``
    are Discord ids; ``correlation_id``: of the request, import or run of the clock; ``since`` ≤ the event's own
    time < ``until``."""

    event_types: tuple[str, ...] | None = None
    entity: SubjectKind | None = None
    entity_id: int | None = None
    actor_id: int | None = None
    correlation_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """A page: newest first, of one time the later position first. ``offset`` ≥ 0, ``limit`` ≥ 1; ``cursor``: a
    ``next_cursor`` of the same filters, with which ``offset`` has to be 0."""

    filters: Filters = Filters()
    offset: int = 0
    limit: int = 50
    cursor: str | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """``total``: all that match, whatever the page. ``next_cursor`` None: nothing follows. ``position``: the answer is
    as fresh as this position of the ledger."""

    entries: list[Entry]
    total: int
    next_cursor: str | None
    position: int


class _Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page ended."""

    occurred_at: cursors.Moment
    position: cursors.Id


POSITION = "(select notification_id from projection_tracking where application_name = 'audit_log')"

# $1 an actor, 0 for any. audit_log_counts_pkey, projection_tracking_pkey
KINDS = f"""
    select {POSITION}, array(select event_type from audit_log_counts where actor_id = $1::bigint and week = 0)
"""  # noqa: S608


async def find(conn: psycopg.AsyncConnection[Any], search: Search) -> Page:
    """The page that is asked for; one round trip in autocommit mode, or two.

    Raises ValueError for a cursor that is not one of this search's, and psycopg.Error.
    """
    cursor = psycopg.AsyncRawCursor(conn, row_factory=tuple_row)
    filters, position = search.filters, None
    if needs_kinds(filters):
        await cursor.execute(KINDS.encode(), (filters.actor_id or 0,))
        found = await cursor.fetchone()
        assert found is not None
        position, kinds = found[0] or 0, found[1]
        sql, parameters = statement(search, kinds)
    else:
        sql, parameters = statement(search)
    await cursor.execute(sql.encode(), parameters, prepare=False)
    answer = page(search, await cursor.fetchall())
    # A type that came into being between the two statements is not in the answer.
    return answer if position is None else msgspec.structs.replace(answer, position=position)


def needs_kinds(filters: Filters) -> bool:
    """Whether ``statement`` needs to be told which event types there are."""
    return (
        filters.event_types is None
        and not _by_subject(filters)
        and (filters.actor_id is not None or filters.entity is not None)
    )


def _by_subject(filters: Filters) -> bool:
    """Whether the rows are walked and counted whatever else is asked for: those of an entity or of a correlation id."""
    return filters.entity_id is not None or filters.correlation_id is not None


def statement(search: Search, kinds: Iterable[str] = ()) -> tuple[str, list[object]]:
    """SQL and parameters for one of psycopg's raw cursors; ``page`` reads its lines. ``kinds``: the answer of
    ``KINDS``, where it is needed.

    Numbers stand in it as they are, and it is not prepared: actors and entities are too different for one plan. Raises
    ValueError for a cursor that is not one of this search's.
    """
    filters = search.filters
    after = None
    if search.cursor is not None:
        if search.offset:
            raise ValueError("cursor and offset exclude each other")
        after = cursors.decode(search.cursor, _identity(filters), _Place)
    parameters = Parameters()
    add = parameters.add
    since = None if filters.since is None else f"occurred_at >= {add(filters.since, 'timestamptz')}"
    until = None if filters.until is None else f"occurred_at < {add(filters.until, 'timestamptz')}"
    dates = [date for date in (since, until) if date is not None]
    actor = [] if filters.actor_id is None else [f"actor_id = {filters.actor_id:d}"]
    types = _types(filters, kinds)
    of_types = [] if types is None else [f"event_type = any({add(list(types), 'text[]')})"]
    if _by_subject(filters):
        # audit_log_entity or audit_log_correlation
        of = [*actor, *of_types]
        if filters.entity_id is not None:
            of.append(f"entity_id = {filters.entity_id:d}")
        if filters.correlation_id is not None:
            of.append(f"correlation_id = {add(filters.correlation_id, 'uuid')}")
        if filters.entity is not None:
            of.append(f"starts_with(event_type, '{prefix(filters.entity)}')")
        walks = [[*of, *dates]]
        total = _count(walks[0])
    else:
        # One walk for each type along audit_log_type or audit_log_actor; audit_log_pkey for all there are.
        walks = [[*actor, *dates]]
        if types is not None:
            walks = [[f"event_type = {add(one, 'text')}", *actor, *dates] for one in types] or [["false"]]
        total = _total(filters, [*actor, *of_types], since, until)
    if after is not None:
        moment = add(after.occurred_at, "timestamptz")
        beyond = f"(occurred_at, position) < ({moment}, {after.position:d})"
        walks = [[*walk, beyond] for walk in walks]
    # Order and limit stand in every walk too, because the planner asks a branch of UNION ALL for no order.
    order = "order by occurred_at desc, position desc"
    last = search.offset + search.limit + 1
    each = [
        f"(select * from audit_log where {' and '.join(walk) or 'true'} {order} limit {last:d})"  # noqa: S608
        for walk in walks
    ]
    sql = f"""
        select {POSITION}, {total}, {", ".join(f"a.{column}" for column in TABLE.columns)}
        from (select 1) always left join (
            select * from ({" union all ".join(each)}) walks
            {order} offset {search.offset:d} limit {search.limit + 1:d}
        ) a on true
        order by a.occurred_at desc, a.position desc
    """  # noqa: S608
    return sql, parameters.values


def page(search: Search, lines: Sequence[Sequence[Any]]) -> Page:
    """The answer of ``statement``, whose lines are never none."""
    position, total, *_ = lines[0]
    found = [Entry(**dict(zip(TABLE.columns, line[2:], strict=True))) for line in lines if line[2] is not None]
    shown = found[: search.limit]
    more = len(found) > search.limit
    return Page(
        entries=shown,
        total=total,
        next_cursor=cursors.encode(_identity(search.filters), _Place(shown[-1].occurred_at, shown[-1].position))
        if more
        else None,
        position=position or 0,
    )


def _types(filters: Filters, kinds: Iterable[str]) -> tuple[str, ...] | None:
    """The event types to walk; None for every one."""
    wanted: Iterable[str] | None = filters.event_types
    if wanted is None and needs_kinds(filters):
        wanted = kinds
    if wanted is None or filters.entity is None:
        return None if wanted is None else tuple(sorted(wanted))
    return tuple(sorted(one for one in wanted if one.startswith(prefix(filters.entity))))


def _total(filters: Filters, wanted: list[str], since: str | None, until: str | None) -> str:
    weeks, cut = _weeks(filters, since, until)
    of = [one for one in wanted if not one.startswith("actor_id")]
    # audit_log_counts_pkey
    whole = (
        "coalesce((select sum(total) from audit_log_counts"  # noqa: S608
        f" where {' and '.join([f'actor_id = {filters.actor_id or 0:d}', weeks, *of])}), 0)::bigint"
    )
    # The index of the walks, at most twice seven days of it.
    return " + ".join([whole, *(_count([*wanted, part]) for part in cut)])


def _weeks(filters: Filters, since: str | None, until: str | None) -> tuple[str, list[str]]:
    """The whole weeks between the dates, and what is left on both sides of them."""
    if filters.since is None and filters.until is None:
        return "week = 0", []
    first = None if filters.since is None else week(filters.since)
    last = None if filters.until is None else week(filters.until)
    if first is not None and last is not None and first >= last:
        return "false", [f"{since} and {until}"]
    weeks, cut = ["week > 0"], []
    if first is not None:
        weeks.append(f"week > {first}")
        cut.append(f"{since} and occurred_at < {beginning(first + 1)}")
    if last is not None:
        weeks.append(f"week < {last}")
        cut.append(f"occurred_at >= {beginning(last)} and {until}")
    return " and ".join(weeks), cut


def _count(conditions: Sequence[str]) -> str:
    return f"(select count(*) from audit_log where {' and '.join(conditions)})"  # noqa: S608


def _identity(filters: Filters) -> tuple[object, ...]:
    """What a cursor is bound to."""
    return msgspec.structs.astuple(filters)

"""What the search over the past (history_search.py) asks, and what the marks of versions tell of it: in SQL, which
versions count at a moment, and how many do, whole buckets of positions and whole weeks of dates at a time.
"""

from datetime import datetime, timedelta

import msgspec

from modledger.projections import history_counts, marks, reason_search
from modledger.projections.punishment_versions import ALL, BOTH, DATED, KNOWN, MARKS
from modledger.projections.search import ENDS, Search
from modledger.projections.search_dates import Dates
from modledger.projections.time_travel import Instant
from modledger.projections.weeks import week

INSTANT = "interval '1 microsecond'"
# So many are looked at one by one rather than by the marks of times.
_RARE = 2000
NOT_RARE = "(select not rare from rare)"


class Then(msgspec.Struct, frozen=True, kw_only=True):
    """A moment as SQL: the last position, the last date, None where none is asked for, and what the ends of active ones
    are compared with. ``since``: the last position of what had begun."""

    since: str
    position: str | None
    date: str | None
    now: str


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """``then``: the moment that is asked about; ``base``: the last one of the bucket and the weeks before those of
    ``then``, which the marks count; but what had begun they know by single positions. ``position`` None where nothing
    was asked about what was known. ``wanted``: conditions on a version, the dates aside, ``last``: how many from the
    first are needed for the page."""

    search: Search
    at: Instant
    position: int | None
    types: tuple[int, ...]
    then: Then
    base: Then
    dates: Dates
    wanted: list[str]
    last: int


def near_bucket(position: int) -> int:
    """The bucket whose beginning is next to the position."""
    return (position + marks.BUCKET // 2) // marks.BUCKET


def near_week(at: datetime) -> int:
    """The week whose beginning is next to the moment."""
    return week(at + timedelta(days=3.5))


def counting(at: Then, *, active: bool) -> list[str]:
    """Conditions on a version of a punishment in order: whether it counts, and whether it is active then."""
    found, replaced = [], []
    if at.position is not None:
        found.append(f"since_position <= {at.since}")
        replaced.append(f"until_position > {at.position}")
    if at.date is not None:
        found.append(f"dated_since <= {at.date}")
        replaced.append(f"dated_until > {at.date}")
    found.append(f"(until_position is null or {' or '.join(replaced)})")
    return [*found, f"not ({had_ended(at)})", f"{ENDS} > {at.now}"] if active else found


def had_ended(at: Then) -> str:
    """Whether a punishment had ended that is in order; of the others the rows hold what they say."""
    ended = [f"ended_position <= {at.position}"] if at.position is not None else []
    ended += [f"ended_dated <= {at.date}"] if at.date is not None else []
    return f"ended_kind is not null and (serves <> {ALL} or {' and '.join(ended)})"


def counting_apart(at: Then, *, active: bool) -> list[str]:
    """As ``counting``, of one that is not in order."""
    found = []
    if at.position is not None:
        found += [f"since_position <= {at.position}", f"(until_position is null or until_position > {at.position})"]
    if at.date is not None:
        found += [f"dated_since <= {at.date}", f"(dated_until is null or dated_until > {at.date})"]
    serves = KNOWN if at.date is None else DATED if at.position is None else BOTH
    found += [f"serves = {serves}"]
    return [*found, "ended_kind is null", f"{ENDS} > {at.now}"] if active else found


def is_rare(search: Search) -> str:
    if search.q is None and search.guild_id is None and search.issued_by is None:
        return "false"
    return f"(select coalesce(sum(bit_count(bits)), 0) <= {_RARE} from sought)"  # noqa: S608


def changed_between(asked: Asked) -> list[str]:
    """Conditions of which one holds for every version that may count at ``base`` and not at ``then``, or the other
    way round."""
    active, at = asked.search.active_only, asked.at
    found = []
    if asked.position is not None:
        first, last = sorted((near_bucket(asked.position) * marks.BUCKET - 1, asked.position))
        columns = ["until_position", *(["ended_position"] if active else [])]
        found += [f"({one} > {first:d} and {one} <= {last:d})" for one in columns]
    if at.as_of is not None:
        columns = ["dated_since", "dated_until", *(["ended_dated"] if active else [])]
        found += [_lies_between(one, at.as_of, asked.base.date, asked.then.date) for one in columns]
    if active:
        found.append(_lies_between("expires_at", at.now, asked.base.now, asked.then.now))
    return found


def _lies_between(column: str, at: datetime, base: str | None, then: str | None) -> str:
    first, last = (base, then) if near_week(at) <= week(at) else (then, base)
    return f"({column} > {first} and {column} <= {last})"


def has_sums(asked: Asked) -> bool:
    """Whether history_counts knows how many there are."""
    search, both = asked.search, asked.position is not None and asked.at.as_of is not None
    return search.q is None and search.user_id is None and asked.dates.weeks is None and not both


def summed(asked: Asked) -> str:
    """How many there are that are in order: the cells until the base, and what changed from there to the moment. Each
    cell and each change counts by itself (history_counts), so no row has to be looked at for both times."""
    search, at, active = asked.search, asked.at, asked.search.active_only
    of_type = f"type = any(array[{', '.join(map(str, asked.types))}]::smallint[])"
    named = (("guild_id", search.guild_id), ("issued_by", search.issued_by))
    wanted = [of_type, *(f"{name} = {value:d}" for name, value in named if value is not None)]
    found: list[str] = []

    def add(axis: int, place: int) -> None:
        # punishment_history_counts_pkey
        found.append(
            f"+ (select coalesce(sum({'active' if active else 'there'}), 0) from punishment_history_counts"  # noqa: S608
            f" where axis = {axis:d} and guild_id = {search.guild_id or 0:d} and issued_by = {search.issued_by or 0:d}"
            f" and {of_type} and place < {place:d})"
        )

    def change(column: str, base: str, then: str, *, began: bool, forth: bool) -> None:
        # The index on the column, alone; those of the wordings' own times hold only what is in order.
        in_order = [f"serves = {ALL}"] if column in ("until_position", "dated_since", "dated_until") else []
        first, last = (base, then) if forth else (then, base)
        counted = [*in_order, f"{column} > {first}", f"{column} <= {last}", *wanted]
        found.append(
            f"{'+' if began == forth else '-'} (select count(*) from punishment_versions where {' and '.join(counted)})"  # noqa: S608
        )

    if asked.position is not None:
        bucket = near_bucket(asked.position)
        base, then = f"{bucket * marks.BUCKET - 1:d}", f"{asked.position:d}"
        forth = bucket * marks.BUCKET <= asked.position
        add(history_counts.KNOWN, bucket)
        change("position", base, then, began=True, forth=forth)
        change("known_stop" if active else "until_position", base, then, began=False, forth=forth)
        if active:
            add(history_counts.ENDS, near_week(at.now))
            forth = near_week(at.now) <= week(at.now)
            change("known_end", asked.base.now, asked.then.now, began=False, forth=forth)
    elif at.as_of is not None and asked.base.date is not None and asked.then.date is not None:
        base, then, forth = asked.base.date, asked.then.date, near_week(at.as_of) <= week(at.as_of)
        add(history_counts.DATED, near_week(at.as_of))
        change("dated_since", base, then, began=True, forth=forth)
        change("dated_stop" if active else "dated_until", base, then, began=False, forth=forth)
    return f"({' '.join(found)})"


def there_by_date(asked: Asked, date: datetime) -> str:
    """How many there were of these types, of whomever, to the end of the week."""
    # punishment_history_counts_pkey
    return (
        "(select coalesce(sum(there), 0) from punishment_history_counts"  # noqa: S608
        f" where axis = {history_counts.DATED:d} and guild_id = 0 and issued_by = 0"
        f" and type = any(array[{', '.join(map(str, asked.types))}]::smallint[]) and place <= {week(date):d})"
    )


def sought_table(asked: Asked, terms: reason_search.Terms | None) -> str:
    search, last = asked.search, asked.position
    spans = "" if last is None else f" and span <= {last // marks.SPAN:d}"
    named = [(marks.ISSUER, search.issued_by), (marks.GUILD, search.guild_id), (marks.TYPE, search.type)]
    bits = [] if terms is None else [f"select * from ({one}) of_term where true{spans}" for one in terms.bits]  # noqa: S608
    bits += [marks.marked(kind, f"{value:d}", MARKS) + spans for kind, value in named if value is not None]
    if not bits:
        bits.append(_any_of(marks.TYPE, f"value > 0{spans}"))
    shared = "bit_and(bits)"
    if last is not None:
        # Of the last line those up to the position.
        known = last % marks.SPAN + 1
        up_to = f"rpad(repeat('1', {known:d}), {marks.SPAN}, '0')::bit({marks.SPAN})"
        shared = f"case when span < {last // marks.SPAN:d} then {shared} else {shared} & {up_to} end"
    # punishment_version_marks_pkey
    return f"""sought as materialized (
        select span, {shared} as bits from ({" union all ".join(bits)}) one
        group by span having count(*) >= {len(bits)}
    )"""  # noqa: S608


def found_table(asked: Asked) -> str:
    at = asked.at
    bits = ["select span, bits from sought"]
    weeks = [] if asked.dates.weeks is None else [asked.dates.weeks]
    weeks += [] if at.as_of is None else [f"week < {near_week(at.as_of):d}"]
    if weeks:
        bits.append(of_weeks(" and ".join(weeks)))
    gone = _gone(asked, marks.REPLACED_KNOWN, marks.REPLACED_DATED)
    if at.as_of is not None:
        gone.append(_any_of(marks.SINCE, f"value >= {near_week(at.as_of):d}"))
    if asked.search.active_only:
        gone += _gone(asked, marks.ENDED_KNOWN, marks.ENDED_DATED)
        gone.append(_below(marks.EXPIRES, near_week(at.now)))
    # punishment_version_marks_pkey, all of them.
    return f"""found as materialized (
        select span, there.bits & ~coalesce(gone.bits, 0::bit({marks.SPAN})) as bits from (
            select span, bit_and(bits) as bits from ({" union all ".join(bits)}) one
            where {NOT_RARE} group by span having count(*) >= {len(bits)}
        ) there left join (
            select span, bit_or(bits) as bits from ({" union all ".join(gone)}) one where {NOT_RARE} group by span
        ) gone using (span)
    )"""  # noqa: S608


def _gone(asked: Asked, known: int, dated: int) -> list[str]:
    """Those of which it was known at the base, and was so by its date."""
    found = []
    if asked.position is not None:
        found.append(_below(known, near_bucket(asked.position)))
    if asked.at.as_of is not None:
        found.append(_below(dated, near_week(asked.at.as_of)))
    if len(found) < 2:
        return found
    both = " union all ".join(found)
    return [f"select span, bit_and(bits) as bits from ({both}) both_times group by span having count(*) = 2"]  # noqa: S608


def _below(kind: int, value: int) -> str:
    """Those that have a mark of the kind with a lower value."""
    block = marks.BLOCKS.get(kind)
    if block is None:
        return _any_of(kind, f"value < {value:d}")
    whole = _any_of(block, f"value < {value // marks.BLOCK:d}")
    rest = _any_of(kind, f"value >= {value // marks.BLOCK * marks.BLOCK:d} and value < {value:d}")
    return f"select span, bit_or(bits) as bits from ({whole} union all {rest}) of_blocks group by span"  # noqa: S608


def _any_of(kind: int, values: str) -> str:
    return f"select span, bit_or(bits) as bits from {MARKS.name} where kind = {kind:d} and {values} group by span"  # noqa: S608


def of_weeks(weeks: str) -> str:
    return f"""
        select span, bit_or(bits) as bits
        from (select span, bits, value as week from {MARKS.name} where kind = {marks.WEEK}) of_week
        where {weeks} group by span
    """  # noqa: S608


def spread_table() -> str:
    # punishment_version_marks_pkey; OFFSET 0 because one look for all weeks is better than one for each span. A planner
    # that expects a line or two of FOUND would look at all others for each that there is: full joins, and a condition
    # of which it cannot say that it needs any side, leave it no such loop.
    return f"""spread as materialized (
        select type, min(since) as since, max(until) as until from (
            select type, {_monday("min(week) - 1")} as since, {_monday("max(week)")} as until
            from found full join (
                select span, bits, value as type from {MARKS.name} where kind = {marks.TYPE} offset 0
            ) of_type using (span) full join (
                select span, bits, value as week from {MARKS.name} where kind = {marks.WEEK} offset 0
            ) of_week using (span)
            where coalesce(bit_count(found.bits & of_type.bits & of_week.bits), 0) > 0 group by type
            union all
            select type, min(created_at), max(created_at) + {INSTANT} from edge where counts group by type
        ) of_both group by type
    )"""  # noqa: S608


def _monday(week_: str) -> str:
    """The beginning of the week after the one of that number."""
    return f"'0001-01-01T00:00:00Z'::timestamptz + interval '168 hours' * ({week_})"


def after_last(kind: int, position: int) -> str:
    """When the last week is over of which versions up to the position have such a mark. One beyond the position may
    share their line, so it may be a later week. punishment_version_marks_pkey, from its end."""
    last = f"""
        select value from {MARKS.name} where kind = {kind:d} and span <= {position // marks.SPAN:d}
        order by value desc limit 1
    """  # noqa: S608
    return f"({_monday(last)})"

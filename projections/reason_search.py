"""``q`` of the punishment search: what its terms mean, and where they stand in a statement.

The rule. ``q`` is split at white space, and a reason has to bear every term, in any case of letters: a term of three
characters and more anywhere in a word, a shorter one as a whole word, with or without the punctuation around that.
Without pg_trgm every term is a whole word; one of three characters and more that is a word of no reason then raises
FragmentsNeeded (HTTP 501).
"""

import msgspec

from modledger.projections import marks, reason_words
from modledger.projections.fragments import LEAST, code, containing
from modledger.projections.parameters import Parameters
from modledger.projections.profile import name_key
from modledger.projections.projector import Table
from modledger.projections.reason_words import number
from modledger.projections.weeks import beginning_of


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """``rows``: conditions on a row with a ``reason_key``. ``bits``: for each term a relation (span, bits) of those
    that bear it, and ``tables`` what stands in WITH for these. ``known``: an SQL boolean, for ``check_known``."""

    rows: list[str]
    tables: list[str]
    bits: list[str]
    known: str


def terms(
    q: str,
    parameters: Parameters,
    *,
    fragments: bool,
    of_words: Table = reason_words.TABLE,
    of_marks: marks.Marks = marks.PUNISHMENTS,
    of_whom: str | None = None,
) -> Terms:
    """``fragments``: the database has the index of the words for fragments. ``of_whom``: a relation (span, bits) of
    what else has to be so; a guild or an issuer mostly has few spans, and words are looked for in these alone."""
    rows, tables, bits, known = [], [], [], ["true"]
    spans = None
    if of_whom is not None:
        tables.append(f"of_whom as materialized (select array(select span from ({of_whom}) of_lines) as spans)")  # noqa: S608
        spans = "(select spans from of_whom)::bigint[]"
    for place, term in enumerate(dict.fromkeys(name_key(q).split())):
        name = f"term_{place}"
        if fragments and len(term) >= LEAST:
            # reason_words_code, version_words_code
            pattern = parameters.add(containing(term), "text")
            of_word, of_row = f"code like {pattern}", f"reason_key like {pattern}"
        else:
            # reason_words_pkey, reason_words_bare, version_words_pkey, version_words_bare
            of_word = f"word = {parameters.number(number(term))} or bare = {parameters.number(number(term))}"
            of_row = f"reason_key like {parameters.add(f'% {code(term)} %', 'text')}"
            if len(term) >= LEAST:
                known.append(f"exists (select from {of_words.name} where {of_word})")
        tables.append(f"{name} as materialized (select word, punishments, ids from {of_words.name} where {of_word})")  # noqa: S608
        bits.append(_bits(name, of_marks, spans))
        rows.append(of_row)
    return Terms(rows=rows, tables=tables, bits=bits, known=" and ".join(known))


# Lines are so many of these.
_PIECE = 512


def _bits(words: str, of_marks: marks.Marks, spans: str | None) -> str:
    # ordinal_marks_pkey, punishment_version_marks_pkey; OFFSET 0 because the planner, who does not know how few
    # words there are, might rather read all marks. A word of a single punishment says itself which one; of very many
    # such words the bits are put together in short pieces first, because it takes as long as a piece is.
    these = "" if spans is None else f"and span = any({spans})"
    return f"""
        select span, bit_or(bits) as bits from (
            select span, bits from {words} cross join lateral (
                select span, bits from {of_marks.name} where kind = {marks.WORD} and value = word {these} offset 0
            ) of_word where punishments > 1
            union all
            select piece * {_PIECE} / {of_marks.span},
                bits::bit({of_marks.span}) >> (mod(piece, {of_marks.span // _PIECE}) * {_PIECE})::int
            from (
                select ids / {_PIECE} as piece, bit_or(set_bit(0::bit({_PIECE}), mod(ids, {_PIECE})::int, 1)) as bits
                from {words} where punishments = 1 group by 1
            ) of_pieces
        ) of_words group by span
    """  # noqa: S608


class Weeks(msgspec.Struct, frozen=True, kw_only=True):
    """That a page by ``created_at`` is looked for in its weeks only. ``needed``: how many have to be there, as SQL;
    ``cursor``: the number of the week in which the page begins, as SQL. ``rows``: conditions on
    what a walk would pass, and ``passed`` a relation (week, passed) of how many that are in each week."""

    descending: bool
    needed: str
    cursor: str | None
    rows: list[str]
    passed: str


def found(bits: list[str], wanted: list[str], weeks: Weeks | None, *, last: str, among: str) -> list[str]:
    """What stands in WITH for the punishments that have all of ``bits``, relations of (span, bits).

    ``found``: which these are, by their marks. ``counted``: how many, and whether to fetch and sort them all is quicker
    (4 µs each) than to walk over those ``among`` which they are until ``last`` are met (1 µs each). With ``weeks``
    there is a third way, to fetch those of the page's own weeks, and a walk is of these weeks only. ``in_weeks``: what
    is found in each week, from that on with which the page begins, until they are enough for it; ``in_week``: how many.
    ``expected``: up to which week that should be. ``spread``: from where to where the page reaches, which are ``near``.
    ``decided``: which way it is; that of ``few``, all or near ones, whose rows that are ``wanted`` are then there, or
    the walk.
    """
    few = f"4.0 * most * most <= {last} * {among}"
    near, bits_of_few = "", "select span, bits from found where (select few from counted)"
    if weeks is not None:
        near = f" or 4.0 * (select near from spread) * most <= {last} * {among}"  # noqa: S608
        few += f" and most <= {_FEW}"
        bits_of_few += " union all " + _NEAR
    return [
        f"found as materialized ({_intersection(bits)})",
        f"""counted as materialized (
            select most, {few} as few
            from (select coalesce(sum(bit_count(bits)), 0)::bigint as most from found) as of_found
        )""",  # noqa: S608
        *([] if weeks is None else _weeks_of_page(weeks, among)),
        # Without AND and OR, of which either side may be asked first: the weeks are read where they have to be.
        f"""decided as materialized (
            select most, case when few then true else false{near} end as few from counted
        )""",  # noqa: S608
        # punishments_ordinal, one look for all of them; OFFSET 0 because nothing else is to be tried.
        f"""few as materialized (
            select p.* from (
                select * from punishments
                where ordinal = any(array({marks.numbers_one_by_one(bits_of_few, marks.PUNISHMENTS)})) offset 0
            ) p where {" and ".join(wanted)}
        )""",  # noqa: S608
    ]


# So many are fetched sooner than their weeks are looked for.
_FEW = 300
# So many rows are passed, in an index, sooner than the marks of their weeks.
_PASSED = 2000

_NEAR = """
    select span, bits from in_weeks
    where (select case when counted.few then false else decided.few end from counted, decided)
    and week between (select first from spread) and (select last from spread)
"""


def _intersection(bits: list[str]) -> str:
    """What has all of them, lines without any left out. A planner that takes each relation for a line or two would look
    at all of another's for each that there is: full joins, and OFFSET 0, leave it no such loop."""
    if len(bits) == 1:
        return bits[0]
    joined = " full join ".join(f"({one}) b{place}{' using (span)' if place else ''}" for place, one in enumerate(bits))
    shared = " & ".join(f"b{place}.bits" for place in range(len(bits)))
    return f"""
        select span, bits from (select span, {shared} as bits from {joined} offset 0) one where bit_count(bits) > 0
    """  # noqa: S608


def _weeks_of_page(weeks: Weeks, among: str) -> list[str]:
    if weeks.descending:
        reached, else_, way, back, on, not_past = "max", "min", "desc", "asc", "-", ">="
        first, last = "edge - width + 1", "edge"
    else:
        reached, else_, way, back, on, not_past = "min", "max", "asc", "desc", "+", "<="
        first, last = "edge", "edge + width - 1"
    # Of the cursor's own week it is not known how many are left.
    from_cursor, begin, left = "", _end_of_weeks(way), "found"
    if weeks.cursor is not None:
        from_cursor = f"where week {'<=' if weeks.descending else '>='} {weeks.cursor}"
        begin, left = weeks.cursor, f"case when week <> {weeks.cursor} then found else 0 end"
    return [
        # Up to where there should be enough, if what is found were spread evenly among what there is.
        f"""expected as materialized (
            select coalesce({reached}(week), {_end_of_weeks(back)}) as week, min(passed) <= {_PASSED} as by_rows from (
                select week, sum(passed) over (order by week {way}) as passed
                from ({weeks.passed}) of_each {from_cursor}
            ) of_weeks where passed * (select most from counted) > 1.5 * {weeks.needed} * {among}
        )""",  # noqa: S608
        # All these weeks by their rows at first; or one by its marks, then these, then twice as many each time.
        # "bit"[] has no length, as what array_agg makes has none.
        f"""in_weeks as materialized (
            with recursive on_and_on (edge, width, by_rows, so_far, weeks, spans, bits) as (
                select edge, case when by_rows then 1 + abs(week - edge) else 1 end, coalesce(by_rows, false),
                    0::bigint, array[]::bigint[], array[]::bigint[], array[]::"bit"[]
                from expected, (select {begin} as edge) begins where (select not few from counted)
                union all
                select edge {on} width,
                    case when width > 1 then 2 * width else greatest(2, abs((select week from expected) - edge)) end,
                    false, so_far + these.more, these.weeks, these.spans, these.bits
                from on_and_on cross join lateral (
                    select coalesce(sum({left}), 0)::bigint as more,
                        array_agg(week) as weeks, array_agg(span) as spans, array_agg(bits) as bits
                    from (
                        select span, week, bits, bit_count(bits) as found from (
                            {_by_marks(first, last)} union all {_by_rows(weeks.rows, first, last)}
                        ) of_line where bit_count(bits) > 0
                    ) of_each
                ) these
                where so_far < {weeks.needed} and edge {not_past} {_end_of_weeks(back)}
            ) select week, span, of_line.bits from on_and_on, unnest(weeks, spans, bits) as of_line (week, span, bits)
        )""",  # noqa: S608
        """in_week as materialized (
            select week, sum(bit_count(bits))::bigint as found from in_weeks group by week
        )""",
        f"""spread as materialized (
            select min(week) as first, max(week) as last, coalesce(sum(found), 0) as near,
                {beginning_of("min(week)")} as since, {beginning_of("max(week) + 1")} as until
            from in_week where week {not_past} (
                select coalesce({reached}(week) filter (where so_far >= {weeks.needed}), {else_}(week))
                from (select week, sum({left}) over (order by week {way}) as so_far from in_week) so_far
            )
        )""",  # noqa: S608
    ]


def _by_marks(first: str, last: str) -> str:
    # ordinal_marks_pkey; OFFSET 0 because one look for all weeks is better than one for each span.
    return f"""
        select span, of_week.value as week, of_week.bits & found.bits as bits from (
            select span, bits, value from {marks.PUNISHMENTS.name}
            where not by_rows and kind = {marks.WEEK} and value between {first} and {last} offset 0
        ) of_week join found using (span)
    """  # noqa: S608


def _by_rows(rows: list[str], first: str, last: str) -> str:
    """The same, a line for each that is found."""
    # The _created index of the walks, alone. A full join, as in _intersection.
    span = marks.PUNISHMENTS.span
    return f"""
        select span, week, set_bit(0::bit({span}), place, 1) from (
            select span, week, place, found.bits from (
                select ordinal / {span} as span, mod(ordinal, {span})::integer as place,
                    1 + floor(extract(epoch from created_at - {beginning_of("1")}) / 604800)::bigint as week
                from punishments where by_rows and {" and ".join(rows)}
                and created_at >= {beginning_of(f"({first})")} and created_at < {beginning_of(f"({last}) + 1")} offset 0
            ) of_row full join found using (span) offset 0
        ) of_span where coalesce(get_bit(bits, place), 0) = 1
    """  # noqa: S608


def _end_of_weeks(way: str) -> str:
    # ordinal_marks_pkey
    return f"(select value from ordinal_marks where kind = {marks.WEEK} order by kind {way}, value {way} limit 1)"  # noqa: S608

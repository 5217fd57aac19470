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
    of_marks: Table = marks.TABLE,
) -> Terms:
    """``fragments``: the database has the index of the words for fragments."""
    rows, tables, bits, known = [], [], [], ["true"]
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
        bits.append(_bits(name, of_marks))
        rows.append(of_row)
    return Terms(rows=rows, tables=tables, bits=bits, known=" and ".join(known))


def _bits(words: str, of_marks: Table) -> str:
    # punishment_marks_pkey, punishment_version_marks_pkey; OFFSET 0 because the planner, who does not know how few
    # words there are, might rather read all marks. A word of a single punishment says itself which one.
    return f"""
        select span, bit_or(bits) as bits from (
            select span, bits from {words} cross join lateral (
                select span, bits from {of_marks.name} where kind = {marks.WORD} and value = word offset 0
            ) of_word where punishments > 1
            union all
            select ids / {marks.SPAN}, set_bit(0::bit({marks.SPAN}), mod(ids, {marks.SPAN})::int, 1)
            from {words} where punishments = 1
        ) of_words group by span
    """  # noqa: S608


class Weeks(msgspec.Struct, frozen=True, kw_only=True):
    """That a page by ``created_at`` is looked for in its weeks only. ``needed``: how many have to be there, as SQL;
    ``cursor``: the number of the week in which the page begins, as SQL."""

    descending: bool
    needed: str
    cursor: str | None


def found(bits: list[str], wanted: list[str], weeks: Weeks | None, *, last: str, among: str) -> list[str]:
    """What stands in WITH for the punishments that have all of ``bits``, relations of (span, bits).

    ``found``: which these are, by their marks. ``counted``: how many, and whether to fetch and sort them all is quicker
    (3 µs each) than to walk over those ``among`` which they are until ``last`` are met (1 µs each). With ``weeks``
    there is a third way, to fetch those of the page's own weeks, and a walk is of these weeks only. ``in_week``: how
    many are found in each week from the cursor on. ``spread``: from where to where the page reaches, which are
    ``near``. ``decided``: which way it is; that of ``few``, all or near ones, whose rows that are ``wanted`` are then
    there, or the walk.
    """
    near = "" if weeks is None else f" or 3.0 * (select near from spread) * most <= {last} * {among}"  # noqa: S608
    ids = [f"select id from ({marks.ids('found')}) one where (select few from counted)"]  # noqa: S608
    if weeks is not None:
        ids.append(f"select id from ({marks.ids('picked')}) one")  # noqa: S608
    return [
        f"""found as materialized (
            select span, bit_and(bits) as bits from ({" union all ".join(bits)}) one
            group by span having count(*) >= {len(bits)}
        )""",  # noqa: S608
        f"""counted as materialized (
            select most, 3.0 * most * most <= {last} * {among} as few
            from (select coalesce(sum(bit_count(bits)), 0)::bigint as most from found) as of_found
        )""",  # noqa: S608
        *([] if weeks is None else _weeks_of_page(weeks)),
        # Without AND and OR, of which either side may be asked first: the weeks are read where they have to be.
        f"""decided as materialized (
            select most, case when few then true else false{near} end as few from counted
        )""",  # noqa: S608
        *([] if weeks is None else [_PICKED]),
        # punishments_id, one look for all of them; OFFSET 0 because nothing else is to be tried.
        f"""few as materialized (
            select p.* from (
                select * from punishments
                where id = any(array({" union all ".join(ids)})) offset 0
            ) p where {" and ".join(wanted)}
        )""",  # noqa: S608
    ]


# punishment_marks_pkey
_PICKED = f"""picked as materialized (
    select span, bit_or(of_week.bits) & bit_and(found.bits) as bits
    from (
        select span, bits from punishment_marks where kind = {marks.WEEK}
        and (select case when counted.few then false else decided.few end from counted, decided)
        and value between (select first from spread) and (select last from spread) offset 0
    ) of_week join found using (span)
    group by span
)"""  # noqa: S608


def _weeks_of_page(weeks: Weeks) -> list[str]:
    reached, else_, way, beyond = ("max", "min", "desc", "<=") if weeks.descending else ("min", "max", "asc", ">=")
    # Of the cursor's own week it is not known how many are left.
    from_cursor, left = "", "found"
    if weeks.cursor is not None:
        from_cursor = f" and value {beyond} {weeks.cursor}"
        left = f"case when week <> {weeks.cursor} then found else 0 end"
    return [
        # punishment_marks_pkey; OFFSET 0 because one look for all weeks is better than one for each span, and because
        # what is counted is smaller than its marks to be put in groups.
        f"""in_week as materialized (
            select week, sum(found)::bigint as found
            from (
                select of_week.value as week, bit_count(of_week.bits & found.bits) as found
                from (
                    select span, bits, value from punishment_marks
                    where kind = {marks.WEEK} and (select not few from counted){from_cursor} offset 0
                ) of_week join found using (span) offset 0
            ) of_line
            where found > 0 group by week
        )""",  # noqa: S608
        f"""spread as materialized (
            select min(week) as first, max(week) as last, coalesce(sum(found), 0) as near,
                {beginning_of("min(week)")} as since, {beginning_of("max(week) + 1")} as until
            from in_week where week {">=" if weeks.descending else "<="} (
                select coalesce({reached}(week) filter (where so_far >= {weeks.needed}), {else_}(week))
                from (select week, sum({left}) over (order by week {way}) as so_far from in_week) so_far
            )
        )""",  # noqa: S608
    ]

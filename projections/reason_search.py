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
            of_word = f"word = {number(term):d} or bare = {number(term):d}"
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

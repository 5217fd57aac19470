"""Which punishments bear a word, an issuer, a guild, a type, a week, or are open: one bit for each, so that what has
several of these in common is found and counted without a look at the punishments.

A *mark* is a kind, a value of that kind and a number: the ordinal of a punishment, or in a table of its own the
position of a wording of one (punishment_versions.py). So many numbers in a row share a line of the table, in which each
has its bit. Counting what has two marks in ten million punishments reads a few thousand lines for each of the two; by
the rows themselves it would be a million. Ordinals have no gaps, while of the ledger's positions one in three is a
punishment's.
"""

from collections.abc import Collection
from typing import Final

import msgspec

from modledger.projections.projector import Cursor, Table

# Positions that share a line. Short enough that the line of a rare word is not much larger than a row, long enough that
# a frequent one has few.
SPAN: Final = 2048
# Ordinals that do. Lines of more than 4,000 bits are compressed in an index: a rare word's to some 60 bytes.
ORDINALS: Final = 4096

# The kinds. A word's value is ``reason_words.word``; of OPEN there is one value, 0; of WEEK it is ``weeks.week``.
WORD, ISSUER, GUILD, TYPE, OPEN, WEEK = range(6)
# Of wordings only (punishment_versions.py): values are weeks, or buckets of positions.
SINCE, REPLACED_KNOWN, REPLACED_DATED, ENDED_KNOWN, ENDED_DATED, EXPIRES = range(6, 12)
# A bucket is this many positions: whole lines, so that all marks below one are those of whole lines.
BUCKET: Final = 8 * SPAN
# Of values that very many lines have, once more by blocks of this many values, so that all below one are read soon.
BLOCK: Final = 16
BLOCKS: Final = {ENDED_KNOWN: 12, ENDED_DATED: 13, EXPIRES: 14}

# From so many marks on it is cheaper to put their lines together here than to have PostgreSQL set bit by bit.
MANY: Final = 100

Mark = tuple[int, int, int]


class Marks(msgspec.Struct, frozen=True):
    """A table of marks, ``span`` numbers to a line. ``last``, in SQL: what a number of 0 or less counts back from."""

    table: Table
    span: int
    last: str = "0"

    @property
    def name(self) -> str:
        return self.table.name


def _table(name: str, span: int) -> Table:
    return Table(
        name=name,
        columns={
            "kind": "smallint not null",
            "value": "bigint not null",
            "span": "bigint not null",
            "bits": f"bit({span}) not null",
        },
        primary_key=("kind", "value", "span"),
        covered=("bits",),
        indexes={},
        options="with (fillfactor = 85)",
    )


POSITIONS = Marks(_table("punishment_version_marks", SPAN), SPAN)
# punishments_ordinal
PUNISHMENTS = Marks(_table("ordinal_marks", ORDINALS), ORDINALS, "(select max(ordinal) from punishments)")

_BITS = """
    select kind, value, number / {span} as span, bit_or(set_bit(0::bit({span}), mod(number, {span})::int, 1)) as bits
    from (
        select kind, value, case when number > 0 then number else number + {last} end as number
        from json_to_recordset(%s) as m (kind smallint, value bigint, number bigint)
    ) as numbered group by 1, 2, 3
"""


# The primary key, all three.
_SET = f"""
    insert into {{table}} as m (kind, value, span, bits) {_BITS}
    on conflict (kind, value, span) do update set bits = m.bits | excluded.bits
"""
# Lines instead of marks. The primary key, all three.
_SET_LINES = """
    insert into {table} as m (kind, value, span, bits)
    select kind, value, span, bits
    from json_to_recordset(%s) as n (kind smallint, value bigint, span bigint, bits bit({span}))
    on conflict (kind, value, span) do update set bits = m.bits | excluded.bits
"""
_FORGET = f"""
    delete from {{table}} m using ({_BITS}) n
    where m.kind = n.kind and m.value = n.value and m.span = n.span and m.bits & ~n.bits = 0::bit({{span}})
"""  # noqa: S608
_CLEAR = f"""
    update {{table}} m set bits = m.bits & ~n.bits from ({_BITS}) n
    where m.kind = n.kind and m.value = n.value and m.span = n.span
"""  # noqa: S608


def write(cursor: Cursor, set_: Collection[Mark], cleared: Collection[Mark], of: Marks) -> None:
    """Sets and clears these bits; no mark may be among both. A line without any is forgotten: its word may have been
    erased, and a digest of a word can be guessed."""
    # Not of what counts back, of which only PostgreSQL knows the line.
    if len(set_) >= MANY and all(number > 0 for _, _, number in set_):
        cursor.execute(_SET_LINES.format(table=of.name, span=of.span).encode(), (_lines(set_, of.span),))
        set_ = ()
    for marks, statement in ((set_, _SET), (cleared, _FORGET), (cleared, _CLEAR)):
        if marks:
            found = [{"kind": kind, "value": value, "number": number} for kind, value, number in marks]
            cursor.execute(
                statement.format(table=of.name, span=of.span, last=of.last).encode(),
                (msgspec.json.encode(found).decode(),),
            )


def _lines(marks: Collection[Mark], span: int) -> str:
    """The lines that have these marks and no other, as JSON."""
    lines: dict[tuple[int, int, int], bytearray] = {}
    for kind, value, number in marks:
        key = (kind, value, number // span)
        if (line := lines.get(key)) is None:
            line = lines[key] = bytearray(span // 8)
        line[number % span >> 3] |= 0x80 >> (number & 7)
    found = [
        {"kind": kind, "value": value, "span": place, "bits": f"x{line.hex()}"}
        for (kind, value, place), line in lines.items()
    ]
    return msgspec.json.encode(found).decode()


def marked(kind: int, value: str, of: Marks) -> str:
    """SQL for (span, bits): those that have the mark, whose value is SQL. The primary key"""
    return f"select span, bits from {of.name} where kind = {kind:d} and value = {value}"  # noqa: S608


def within(column: str, of: Marks) -> str:
    """SQL: the column's number shares a line with the others of the span of the parameter ``span``."""
    return f"{column} between %(span)s::bigint * {of.span} and %(span)s::bigint * {of.span} + {of.span - 1}"


def bearing(of: Marks) -> str:
    """SQL for (number): those that bear the word of the parameter ``word``. The primary key"""
    lines = f"select span, bits from {of.name} where kind = {WORD} and value = %(word)s"  # noqa: S608
    return f"with lines as ({lines}) {numbers('lines', of)}"


def numbers(lines: str, of: Marks) -> str:
    """SQL for (number): those whose bits are set in ``lines``, a relation of (span, bits)."""
    # What stands between the ones, as text; behind the last of them it ends one beyond the span.
    return f"""
        select {lines}.span * {of.span} + place.at as number
        from {lines}, lateral (
            select sum(length(gap) + 1) over (order by n) - 1 as at
            from string_to_table({lines}.bits::text, '1') with ordinality as gaps (gap, n)
        ) place
        where place.at < {of.span}
    """  # noqa: S608


def numbers_one_by_one(lines: str, of: Marks) -> str:
    """SQL for (number), as ``numbers``, of a relation of few bits in each line: bit by bit, each in a microsecond."""
    # The first byte with a bit in it, and the first bit of that. What is sent begins with the length; "bit" has none,
    # as what set_bit gives has none.
    return f"""
        with recursive peeled (span, place, bits) as (
            select span, -1, bits::"bit" from ({lines}) lines
            union all
            select span, first.place, set_bit(bits, first.place, 0) from peeled cross join lateral (
                select {of.span} - 8 * length(ltrim(substring(bit_send(bits) from 5), '\\x00')) as byte offset 0
            ) of_byte cross join lateral (
                select byte + position(B'1' in substring(bits from byte + 1 for 8)) - 1 as place offset 0
            ) first where bit_count(bits) > 0
        ) select span * {of.span} + place as number from peeled where place >= 0
    """  # noqa: S608

"""Which punishments bear a word, an issuer, a guild, a type, a week, or are open: one bit for each, so that what has
several of these in common is found and counted without a look at the punishments.

A *mark* is a kind, a value of that kind and the id of a punishment; in a table of its own, the position of a wording of
one (punishment_versions.py). Ids are positions of the ledger; ``SPAN`` of them in a row share a line of the table, in
which each has its bit. Counting what has two marks in ten million punishments reads a few thousand lines for each of
the two; by the rows themselves it would be a million.
"""

from collections.abc import Collection
from typing import Final

import msgspec

from modledger.projections.projector import Cursor, Table

# Short enough that the line of a rare word is not much larger than a row, long enough that a frequent one has few.
SPAN: Final = 2048

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


def table(name: str) -> Table:
    """A table of marks."""
    return Table(
        name=name,
        columns={
            "kind": "smallint not null",
            "value": "bigint not null",
            "span": "bigint not null",
            "bits": f"bit({SPAN}) not null",
        },
        primary_key=("kind", "value", "span"),
        covered=("bits",),
        indexes={},
        options="with (fillfactor = 85)",
    )


TABLE = table("punishment_marks")

_BITS = f"""
    select kind, value, id / {SPAN} as span, bit_or(set_bit(0::bit({SPAN}), mod(id, {SPAN})::int, 1)) as bits
    from json_to_recordset(%s) as m (kind smallint, value bigint, id bigint)
    group by 1, 2, 3
"""  # noqa: S608


# The primary key, all three.
_SET = f"""
    insert into {{table}} as m (kind, value, span, bits) {_BITS}
    on conflict (kind, value, span) do update set bits = m.bits | excluded.bits
"""
# Lines instead of marks. The primary key, all three.
_SET_LINES = f"""
    insert into {{table}} as m (kind, value, span, bits)
    select kind, value, span, bits
    from json_to_recordset(%s) as n (kind smallint, value bigint, span bigint, bits bit({SPAN}))
    on conflict (kind, value, span) do update set bits = m.bits | excluded.bits
"""  # noqa: S608
_FORGET = f"""
    delete from {{table}} m using ({_BITS}) n
    where m.kind = n.kind and m.value = n.value and m.span = n.span and m.bits & ~n.bits = 0::bit({SPAN})
"""  # noqa: S608
_CLEAR = f"""
    update {{table}} m set bits = m.bits & ~n.bits from ({_BITS}) n
    where m.kind = n.kind and m.value = n.value and m.span = n.span
"""  # noqa: S608


def write(cursor: Cursor, set_: Collection[Mark], cleared: Collection[Mark], of: Table = TABLE) -> None:
    """Sets and clears these bits; no mark may be among both. A line without any is forgotten: its word may have been
    erased, and a digest of a word can be guessed."""
    if len(set_) >= MANY:
        cursor.execute(_SET_LINES.format(table=of.name).encode(), (_lines(set_),))
        set_ = ()
    for marks, statement in ((set_, _SET), (cleared, _FORGET), (cleared, _CLEAR)):
        if marks:
            found = [{"kind": kind, "value": value, "id": id_} for kind, value, id_ in marks]
            cursor.execute(statement.format(table=of.name).encode(), (msgspec.json.encode(found).decode(),))


def _lines(marks: Collection[Mark]) -> str:
    """The lines that have these marks and no other, as JSON."""
    lines: dict[tuple[int, int, int], bytearray] = {}
    for kind, value, id_ in marks:
        key = (kind, value, id_ // SPAN)
        if (line := lines.get(key)) is None:
            line = lines[key] = bytearray(SPAN // 8)
        line[id_ % SPAN >> 3] |= 0x80 >> (id_ & 7)
    found = [
        {"kind": kind, "value": value, "span": span, "bits": f"x{line.hex()}"}
        for (kind, value, span), line in lines.items()
    ]
    return msgspec.json.encode(found).decode()


def marked(kind: int, value: str, of: Table = TABLE) -> str:
    """SQL for (span, bits): those that have the mark, whose value is SQL. The primary key"""
    return f"select span, bits from {of.name} where kind = {kind:d} and value = {value}"  # noqa: S608


def within(column: str) -> str:
    """SQL: the column's id shares a line with the others of the span of the parameter ``span``."""
    return f"{column} between %(span)s::bigint * {SPAN} and %(span)s::bigint * {SPAN} + {SPAN - 1}"


def bearing(of: Table) -> str:
    """SQL for (id): those that bear the word of the parameter ``word``. The primary key"""
    lines = f"select span, bits from {of.name} where kind = {WORD} and value = %(word)s"  # noqa: S608
    return f"with lines as ({lines}) {ids('lines')}"


def ids(of: str) -> str:
    """SQL for (id): the punishments whose bits are set in ``of``, a relation of (span, bits)."""
    # What stands between the ones, as text; behind the last of them it ends one beyond the span.
    return f"""
        select {of}.span * {SPAN} + place.at as id
        from {of}, lateral (
            select sum(length(gap) + 1) over (order by n) - 1 as at
            from string_to_table({of}.bits::text, '1') with ordinality as gaps (gap, n)
        ) place
        where place.at < {SPAN}
    """  # noqa: S608


def ids_one_by_one(of: str) -> str:
    """SQL for (id), as ``ids``, of a relation of few bits in each line: bit by bit, each in a microsecond."""
    # The first byte with a bit in it, and the first bit of that. What is sent begins with the length; "bit" has none,
    # as what set_bit gives has none.
    return f"""
        with recursive peeled (span, place, bits) as (
            select span, -1, bits::"bit" from ({of}) lines
            union all
            select span, first.place, set_bit(bits, first.place, 0) from peeled cross join lateral (
                select {SPAN} - 8 * length(ltrim(substring(bit_send(bits) from 5), '\\x00')) as byte offset 0
            ) of_byte cross join lateral (
                select byte + position(B'1' in substring(bits from byte + 1 for 8)) - 1 as place offset 0
            ) first where bit_count(bits) > 0
        ) select span * {SPAN} + place as id from peeled where place >= 0
    """  # noqa: S608

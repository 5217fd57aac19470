"""How many punishments there were at a moment, and how many active ones: what begins and stops, added up beside
``punishment_versions`` by guild, issuer and type, so that totals of the past are sums, as those of today are.

A version in order counts for ``[since <= M] - [until <= M]``, an active one for ``[since <= M] - [stop <= M]``, where
each bracket is 1 or 0. So whole weeks, or buckets of positions, are sums of cells, and what lies between the last of
them and the moment is a difference of counts, each along an index. Where a version stops to be active as it was known
is a position or, if nothing was recorded of it until it ran out, its end (``Version.known_stop``, ``known_end``).
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from modledger.projections import marks
from modledger.projections.projector import Cursor, Slice, Table
from modledger.projections.punishment_versions import ALL, Version
from modledger.projections.weeks import week

# What ``place`` is: a bucket of positions, a week of dates, a week of ends as they were known.
KNOWN, DATED, ENDS = 1, 2, 3

TABLE = Table(
    name="punishment_history_counts",
    # 0 stands for any guild and any issuer. ``there``: versions that began less those that were replaced; ``active``:
    # those that began less those that stopped to be active.
    columns={
        "axis": "smallint not null",
        "guild_id": "bigint not null",
        "issued_by": "bigint not null",
        "type": "smallint not null",
        "place": "bigint not null",
        "there": "bigint not null",
        "active": "bigint not null",
    },
    primary_key=("axis", "guild_id", "issued_by", "type", "place"),
    indexes={},
    options="with (fillfactor = 70)",
)

Cell = tuple[int, int, int, int, int]


def _turns(version: Version) -> Iterator[tuple[int, int, int, int]]:
    """(axis, place, there, active), of a version in order."""
    for position, there, active in (
        (version.since_position, 1, 1),
        (version.until_position, -1, 0),
        (version.known_stop, 0, -1),
    ):
        if position is not None:
            yield KNOWN, position // marks.BUCKET, there, active
    for axis, date, there, active in (
        (DATED, version.dated_since, 1, 1),
        (DATED, version.dated_until, -1, 0),
        (DATED, version.dated_stop, 0, -1),
        (ENDS, version.known_end, 0, -1),
    ):
        if date is not None:
            yield axis, week(date), there, active


def add(to: dict[Cell, list[int]], versions: Sequence[Version], sign: int) -> None:
    """Adds what the versions count for, or takes it away (``sign`` 1 or -1)."""
    for one in versions:
        if one.serves != ALL:
            continue
        guilds = (0,) if one.guild_id is None else (0, one.guild_id)
        issuers = (0,) if one.issued_by is None else (0, one.issued_by)
        whose = [(guild, issuer) for guild in guilds for issuer in issuers]
        for axis, place, there, active in _turns(one):
            for guild, issuer in whose:
                cell = (axis, guild, issuer, one.type, place)
                if (delta := to.get(cell)) is None:
                    to[cell] = [sign * there, sign * active]
                else:
                    delta[0] += sign * there
                    delta[1] += sign * active


# punishment_history_counts_pkey
_ADD = b"""
    insert into punishment_history_counts as c
    select * from json_populate_recordset(null::punishment_history_counts, %s)
    on conflict (axis, guild_id, issued_by, type, place)
    do update set there = c.there + excluded.there, active = c.active + excluded.active
"""
# As if it had never been: the table is the same however the ledger is cut into batches. punishment_history_counts_pkey
_FORGET = b"""
    delete from punishment_history_counts c using json_populate_recordset(null::punishment_history_counts, %s) n
    where c.axis = n.axis and c.guild_id = n.guild_id and c.issued_by = n.issued_by and c.type = n.type
        and c.place = n.place and c.there = 0 and c.active = 0
"""


def write(cursor: Cursor, deltas: Mapping[Cell, Sequence[int]]) -> None:
    """Adds these to the cells."""
    lines = [
        dict(zip(TABLE.columns, (*cell, *delta), strict=True)) for cell, delta in deltas.items() if delta != [0, 0]
    ]
    if lines:
        told = (msgspec.json.encode(lines).decode(),)
        cursor.execute(_ADD, told)
        cursor.execute(_FORGET, told)


_BUCKET = f"between %(place)s::bigint * {marks.BUCKET} and %(place)s::bigint * {marks.BUCKET} + {marks.BUCKET - 1}"
_MONDAY = "'0001-01-01T00:00:00Z'::timestamptz + make_interval(hours => 168 * (%(place)s::bigint - {})::integer)"
_WEEK = f">= {_MONDAY.format(1)} and {{0}} < {_MONDAY.format(0)}"
_FILTERS = (
    "type = %(type)s and (%(guild_id)s = 0 or guild_id = %(guild_id)s)"
    " and (%(issued_by)s = 0 or issued_by = %(issued_by)s)"
)
_OF_PLACE = " union all ".join(
    f"select stream, number from punishment_versions where %(axis)s = {axis} and {_FILTERS}"  # noqa: S608
    f" and {column} {place.format(column)}"
    for axis, place, columns in (
        (KNOWN, _BUCKET, ("position", "until_position", "known_stop")),
        (DATED, _WEEK, ("dated_since", "dated_until", "dated_stop")),
        (ENDS, _WEEK, ("known_end",)),
    )
    for column in columns
)
# punishment_versions_position, and those of each of these columns
SLICE = Slice(rows=f"(stream, number) in ({_OF_PLACE})")

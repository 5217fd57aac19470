"""What happened to every punishment, and which versions of it there were: what the past is searched by."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.projections import history_counts, marks, punishments, reason_words
from modledger.projections.copying import add_rows
from modledger.projections.projector import Cursor, Key, Projector, Slice, Table
from modledger.projections.punishment_versions import MARKS, WORDS, Version, marked, versions
from modledger.projections.punishment_versions import TABLE as VERSIONS
from modledger.projections.punishments import ISSUES, Change, change_of

TABLE = Table(
    name="punishment_histories",
    columns={
        "stream": "text not null",
        "number": "integer not null",
        "id": "bigint not null",
        "changes": "jsonb not null",
    },
    primary_key=("stream", "number"),
    indexes={"punishment_histories_id": "unique (id)"},
)


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A row. ``id`` and ``number`` as in ``punishments``; ``changes`` in the order of the ledger."""

    stream: str
    number: int
    id: int
    changes: list[Change]


def fold(rows: Mapping[Key, History], recorded: Recorded) -> Sequence[History]:
    event, stream, change = recorded.event, recorded.stream, change_of(recorded)
    if change.what == "erased":
        return [
            msgspec.structs.replace(row, changes=[*map(_without_text, row.changes), change]) for row in rows.values()
        ]
    if type(event) in ISSUES:
        return (History(stream=stream, number=change.version, id=change.position, changes=[change]),)
    row = rows[(stream, event.number)]  # type: ignore[attr-defined]
    return (msgspec.structs.replace(row, changes=[*row.changes, change]),)


def _without_text(change: Change) -> Change:
    return change if change.reason is None else msgspec.structs.replace(change, reason=events.ERASED)


def derive(cursor: Cursor, changes: Sequence[tuple[History | None, History]]) -> None:
    """Brings the tables beside ``punishment_histories`` along with these changes of rows."""
    gone: list[dict[str, Any]] = []
    first: list[Version] = []
    new: list[Version] = []
    set_: list[marks.Mark] = []
    cleared: list[marks.Mark] = []
    made: list[tuple[str, int]] = []
    lost: list[tuple[str, int]] = []
    counts: dict[history_counts.Cell, list[int]] = {}
    for before, after in changes:
        earlier = [] if before is None else versions(before.stream, before.changes)
        later = versions(after.stream, after.changes)
        history_counts.add(counts, earlier, -1)
        history_counts.add(counts, later, 1)
        if before is None:
            first += later
            made += _words(later)
            # None twice: each wording has a position of its own.
            for one in later:
                set_ += marked(one)
            continue
        was = {one.place: one for one in earlier}
        new += [one for one in later if was.get(one.place) != one]
        left = was.keys() - {one.place for one in later}
        gone += [{"stream": after.stream, "number": after.number, "place": place} for place in sorted(left)]
        bore, bears = _words(earlier), _words(later)
        made += bears - bore
        lost += bore - bears
        had, has = _marks(earlier), _marks(later)
        set_ += has - had
        cleared += had - has
    if gone:
        # punishment_versions_pkey
        cursor.execute(
            "delete from punishment_versions v using json_populate_recordset(null::punishment_versions, %s) g"
            " where v.stream = g.stream and v.number = g.number and v.place = g.place",
            (msgspec.json.encode(gone).decode(),),
        )
    if first:
        add_rows(cursor, VERSIONS, first)
    if new:
        cursor.execute(_UPSERT, (msgspec.json.encode(new).decode(),))
    set_ += [(marks.WORD, word, position) for word, position in reason_words.numbered(made)]
    cleared += [(marks.WORD, word, position) for word, position in reason_words.numbered(lost)]
    reason_words.count(cursor, made, lost, WORDS, MARKS)
    marks.write(cursor, set_, cleared, MARKS)
    history_counts.write(cursor, counts)


_COLUMNS = ", ".join(VERSIONS.columns)
_LATER = ", ".join(f"{column} = excluded.{column}" for column in VERSIONS.columns if column not in VERSIONS.primary_key)
# punishment_versions_pkey
_UPSERT = (
    f"insert into punishment_versions ({_COLUMNS})"  # noqa: S608
    f" select {_COLUMNS} from json_populate_recordset(null::punishment_versions, %s)"
    f" on conflict (stream, number, place) do update set {_LATER}"
).encode()


def _words(found: Sequence[Version]) -> set[tuple[str, int]]:
    return {
        (word, one.position) for one in found if one.position is not None for word in reason_words.words(one.reason)
    }


def _marks(found: Sequence[Version]) -> set[marks.Mark]:
    return {mark for one in found for mark in marked(one)}


_OF_POSITIONS = "select stream, number from punishment_versions where"

PROJECTOR = Projector(
    name="punishment_history",
    table=TABLE,
    row=History,
    key=("stream", "number"),
    topics=punishments.PROJECTOR.topics,
    makes=punishments.PROJECTOR.makes,
    touches=punishments.touches,
    fold=fold,
    also=derive,
    beside=(VERSIONS, MARKS.table, WORDS, history_counts.TABLE),
    inserts=frozenset({VERSIONS.name}),
    # Neighbours by id share their lines of marks.
    along=("id",),
    slices={
        # punishment_histories_pkey; punishment_versions_position
        VERSIONS.name: Slice(rows="stream = %(stream)s and number = %(number)s"),
        MARKS.name: Slice(rows=f"(stream, number) in ({_OF_POSITIONS} {marks.within('position', MARKS)})"),
        WORDS.name: Slice(rows=f"(stream, number) in ({_OF_POSITIONS} position in ({marks.bearing(MARKS)}))"),
        history_counts.TABLE.name: history_counts.SLICE,
    },
    version=2,
)

"""Heads and proofs out of the sealed tree, for whoever asks: the command line, synchronously, and HTTP, asynchronously.

So nothing here talks to the database. A proof is a generator of questions (``Ask``) that takes the rows of each answer
and returns what was asked for; a driver of a few lines carries them out.
"""

import base64
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from modledger.domain.merkle import consistency_spans, inclusion_spans, leaf_hash
from modledger.domain.refusals import Conflict, NotFound
from modledger.domain.seal_tree import (
    WIDTH,
    Tile,
    copy_rows,
    leaf_of_message,
    node_hash_from,
    path_from,
    root_from,
    tiles_for,
)

T = TypeVar("T")
Row = tuple[Any, ...]


class Ask(NamedTuple):
    """A query with ``$1`` placeholders; or, with ``copies``, a COPY whose messages are rows of one column."""

    query: str
    parameters: tuple[object, ...] = ()
    copies: bool = False


Steps = Generator[Ask, list[Row], T]


class Sealed(NamedTuple):
    """A row of the table ``seals``."""

    tree_size: int
    position: int
    note: str


class Inclusion(msgspec.Struct, frozen=True, kw_only=True):
    """That the event at ``position`` is in the ledger that ``head`` seals. ``leaf`` are the event's bytes; bytes and
    hashes stand in base64."""

    position: int
    leaf_index: int
    tree_size: int
    leaf: bytes
    path: list[bytes]
    head: str


class Consistency(msgspec.Struct, frozen=True, kw_only=True):
    """That the ledger of ``to_size`` events begins with the one of ``from_size``. The heads are those that were signed
    at these sizes, null where none was."""

    from_size: int
    to_size: int
    from_root: bytes
    to_root: bytes
    path: list[bytes]
    from_head: str | None
    to_head: str | None


# seal_tiles_pkey
_TILES = """
    select t.level, t.number, t.hashes from unnest($1::smallint[], $2::bigint[]) as asked (level, number)
        join seal_tiles as t on t.level = asked.level and t.number = asked.number
"""
# seals_pkey, its last entry
_LAST_HEAD = "select tree_size, position, note from seals order by tree_size desc limit 1"
# seals_pkey
_HEADS_OF_SIZES = "select tree_size, note from seals where tree_size = any($1::bigint[])"
# seal_tiles_position: the last tile that begins at the position or before it
_TILE_OF_POSITION = """
    select number, positions from seal_tiles where level = 0 and first_position <= $1
        order by first_position desc limit 1
"""
# seal_tiles_pkey, its last entry of level 0
_LAST_LEAVES = """
    select number, length(hashes) / 32, positions[cardinality(positions)] from seal_tiles where level = 0
        order by level desc, number desc limit 1
"""

# How many seconds the oldest event has waited for its seal, 0 when none waits. $1 timestamptz now.
# seals_pkey (its last entry), ledger_position (the first one after it)
UNSEALED = """
    select coalesce(max(greatest(extract(epoch from $1 - oldest.recorded_at), 0)), 0)::double precision from (
        select recorded_at from ledger
            where notification_id > coalesce((select position from seals order by tree_size desc limit 1), 0)
            order by notification_id limit 1
    ) as oldest
"""


def base64_of(raw: bytes) -> str:
    """As bytes stand in proofs."""
    return base64.b64encode(raw).decode()


def tiles(wanted: Iterable[Tile]) -> Steps[dict[Tile, bytes]]:
    """The hashes of those of the tiles that there are."""
    asked = list(wanted)
    if not asked:
        return {}
    rows = yield Ask(_TILES, ([level for level, _ in asked], [number for _, number in asked]))
    return {(level, number): bytes(hashes) for level, number, hashes in rows}


def last_head() -> Steps[Sealed]:
    """The newest head. Raises NotFound while there is none."""
    rows = yield Ask(_LAST_HEAD)
    if not rows:
        raise NotFound("Nothing is sealed yet")
    return Sealed(*rows[0])


def grown() -> Steps[tuple[int, int]]:
    """How many leaves the tree has, also those that no head is signed over yet, and the position of the last."""
    rows = yield Ask(_LAST_LEAVES)
    if not rows:
        return 0, 0
    number, length, position = rows[0]
    return number * WIDTH + length, position


def root_at(size: int) -> Steps[bytes]:
    """The root of the tree at a size that it has had. Raises Conflict where the tree was damaged."""
    found = yield from tiles(tiles_for([(0, size)]))
    return _undamaged(lambda: root_from(found, size))


def inclusion(position: int) -> Steps[Inclusion]:
    """The proof for the event at a position, under the newest head. Raises NotFound where there is no such event, and
    Conflict where it is not sealed yet or the ledger is no longer what was sealed."""
    head = yield from last_head()
    leaf = yield from _leaf(position)
    if position > head.position:
        if leaf is None:
            raise NotFound("Event not found")
        raise Conflict(f"Position {position} is not sealed yet: the last head is of position {head.position}")
    index = yield from _index_of(position)
    if index is None:
        if leaf is None:
            raise NotFound("Event not found")
        raise Conflict(f"The event at position {position} was not there when the ledger was sealed")
    if leaf is None:
        raise Conflict(f"The event at position {position} was sealed and is gone")
    spans = inclusion_spans(index, head.tree_size)
    found = yield from tiles(tiles_for([*spans, (index, index + 1)]))
    if leaf_hash(leaf) != _undamaged(lambda: node_hash_from(found, (0, index))):
        raise Conflict(f"The event at position {position} is not what was sealed")
    return Inclusion(
        position=position,
        leaf_index=index,
        tree_size=head.tree_size,
        leaf=leaf,
        path=_undamaged(lambda: path_from(found, spans)),
        head=head.note,
    )


def consistency(first: int, second: int | None) -> Steps[Consistency]:
    """The proof between two sizes of the sealed ledger, the newest for None. 0 < first ≤ second. Raises NotFound while
    nothing is sealed, Conflict for a size that is not sealed yet."""
    head = yield from last_head()
    last = head.tree_size if second is None else second
    if max(first, last) > head.tree_size:
        raise Conflict(f"{max(first, last)} events are not sealed yet: the last head is of {head.tree_size}")
    rows = yield Ask(_HEADS_OF_SIZES, ([first, last],))
    heads: Mapping[int, str] = dict(rows)
    spans = consistency_spans(first, last)
    found = yield from tiles(tiles_for([*spans, (0, first), (0, last)]))
    return _undamaged(
        lambda: Consistency(
            from_size=first,
            to_size=last,
            from_root=root_from(found, first),
            to_root=root_from(found, last),
            path=path_from(found, spans),
            from_head=heads.get(first),
            to_head=heads.get(last),
        )
    )


def _leaf(position: int) -> Steps[bytes | None]:
    rows = yield Ask(copy_rows(position - 1, position), copies=True)
    leaves = [leaf for (message,) in rows if (leaf := leaf_of_message(message)) is not None]
    return leaves[0] if leaves else None


def _index_of(position: int) -> Steps[int | None]:
    rows = yield Ask(_TILE_OF_POSITION, (position,))
    if not rows or position not in rows[0][1]:
        return None
    number, positions = rows[0]
    index: int = number * WIDTH + positions.index(position)
    return index


def _undamaged(read: Callable[[], T]) -> T:
    try:
        return read()
    except (KeyError, ValueError) as error:
        raise Conflict(f"The sealed tree is damaged ({error}): run modledger seal check") from None

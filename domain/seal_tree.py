"""The sealed tree as the database keeps it: the bytes of a leaf, tiles of 256 hashes, and proofs from few of them.

A tile of level 0 holds the hashes of 256 leaves, one of level n the roots over 256 full tiles below it, so a tree of a
million events is read with six tiles at most. Tables: ``workers/migrations/0007_seals.sql``; rules: docs/proof.md.
"""

from collections.abc import Iterable, Mapping

from modledger.domain.merkle import (
    HASH_BYTES,
    Node,
    Span,
    combine,
    hashes_of,
    perfect,
    tree_hash,
)

# A tile has 2^8 hashes.
HEIGHT = 8
WIDTH = 1 << HEIGHT

# Level and number.
Tile = tuple[int, int]
Tiles = Mapping[Tile, bytes]


# -- leaves

# The columns of a leaf, in this order, as PostgreSQL's binary COPY sends a row of them.
_COLUMNS = "notification_id, originator_id, originator_version, topic, state, recorded_at, command_id, actor, via"
# What binary COPY begins with (signature, flags, no extension) and ends with.
_COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"


def copy_rows(after: int, until: int, limit: int | None = None) -> str:
    """COPY of the leaves with a position above ``after``, up to ``until``, at most ``limit``. COPY takes no
    parameters; these are integers."""
    # ledger_position
    return (
        f"copy (select {_COLUMNS} from ledger where notification_id > {after:d} and notification_id <= {until:d}"  # noqa: S608
        f" order by notification_id{'' if limit is None else f' limit {limit:d}'}) to stdout (format binary)"
    )


def leaf_of_message(message: bytes | bytearray | memoryview) -> bytes | None:
    """The leaf in one message of that COPY, None for its end. The server sends each row as one message (PostgreSQL,
    "Message Formats"), the head of the whole before the first."""
    leaf = bytes(message).removeprefix(_COPY_HEAD)
    return None if leaf == _COPY_END else leaf


def position_of(leaf: bytes) -> int:
    """The position in a leaf. Raises ValueError for bytes that are none."""
    if len(leaf) < 14 or leaf[:6] != b"\0\x09\0\0\0\x08":
        raise ValueError("these bytes are no leaf")
    return int.from_bytes(leaf[6:14], signed=True)


def moved_to(leaf: bytes, position: int) -> bytes:
    """The leaf that the same event would be at another position."""
    return leaf[:6] + position.to_bytes(8, signed=True) + leaf[14:]


# -- tiles


def tile_of(node: Node) -> Tile:
    """The tile that a perfect subtree is made from."""
    level, index = node
    return level // HEIGHT, (index << level % HEIGHT) >> HEIGHT


def tiles_for(spans: Iterable[Span]) -> list[Tile]:
    """All the tiles that the hashes over these spans are made from."""
    return sorted({tile_of(node) for span in spans for node in perfect(span)})


def edge(size: int) -> list[Tile]:
    """The tiles that are not full in a tree of that size: at most one of each level, the lowest first."""
    tiles = []
    level = 0
    while size:
        if size % WIDTH:
            tiles.append((level, size >> HEIGHT))
        level, size = level + 1, size >> HEIGHT
    return tiles


def split(hashes: bytes) -> list[bytes]:
    """The hashes of a tile."""
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def node_hash_from(tiles: Tiles, node: Node) -> bytes:
    """The hash of a perfect subtree. Raises KeyError where its tile is missing, ValueError where that is too short."""
    level, index = node
    tile = tile_of(node)
    start = (index << level % HEIGHT) % WIDTH
    part = split(tiles[tile][start * HASH_BYTES : (start + (1 << level % HEIGHT)) * HASH_BYTES])
    if len(part) != 1 << level % HEIGHT:
        raise ValueError(f"tile {tile[1]} of level {tile[0]} is too short")
    return tree_hash(part)


def path_from(tiles: Tiles, spans: Iterable[Span]) -> list[bytes]:
    """The hashes over the spans; raises as ``node_hash_from``."""
    return hashes_of(spans, lambda node: node_hash_from(tiles, node))


def root_from(tiles: Tiles, size: int) -> bytes:
    """The root of the tree as it was at a size; raises as ``node_hash_from``."""
    return combine([node_hash_from(tiles, node) for node in perfect((0, size))])


def carry(level: int, number: int, hashes: bytes, above: dict[Tile, bytes]) -> None:
    """Puts the root over a tile that has become full into those above it, which ``above`` holds as far as they are."""
    while len(hashes) == WIDTH * HASH_BYTES:
        root = tree_hash(split(hashes))
        level, number = level + 1, number >> HEIGHT
        hashes = above[level, number] = above.get((level, number), b"") + root

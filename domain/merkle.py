"""The Merkle tree of RFC 9162 §2.1 with SHA-256: its root, proofs of inclusion and of consistency, and their checks.

A tree is asked for by its *perfect subtrees*, named by (level, index): the one with the leaves index·2^level up to
(index + 1)·2^level. Whoever keeps a growing tree never has to change one, and every root and proof of every size is
made of a logarithmic number of them: ``perfect`` says which, ``combine`` makes one hash of them.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

# The root of no leaves (RFC 9162 §2.1.1).
EMPTY = sha256(b"").digest()
HASH_BYTES = 32

Node = tuple[int, int]
# From the first leaf to before the second.
Span = tuple[int, int]


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees side by side."""
    return sha256(b"\x01" + left + right).digest()


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """The root over the hashes of leaves."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.add(leaf)
    return frontier.root()


class Frontier:
    """The perfect subtrees that a growing tree consists of, so its root at any moment: one hash for each bit of
    ``size``."""

    def __init__(self) -> None:
        self.size = 0
        self._hashes: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """One more leaf, by its hash."""
        self._hashes.append(leaf)
        self.size += 1
        # As in a binary counter: what carries is joined.
        carry = self.size
        while carry % 2 == 0:
            right = self._hashes.pop()
            self._hashes[-1] = node_hash(self._hashes[-1], right)
            carry //= 2

    def root(self) -> bytes:
        """The root over the leaves so far."""
        return combine(self._hashes)


def combine(subtrees: Sequence[bytes]) -> bytes:
    """The hash over perfect subtrees that lie side by side, the larger ones first; ``EMPTY`` for none."""
    if not subtrees:
        return EMPTY
    root = subtrees[-1]
    for left in reversed(subtrees[:-1]):
        root = node_hash(left, root)
    return root


def perfect(span: Span) -> list[Node]:
    """The perfect subtrees that a span consists of, the larger ones first. The span begins at a multiple of the least
    power of two that is not below its length, as all do that a tree is split into."""
    start, end = span
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append((level, start >> level))
        start += 1 << level
    return nodes


def inclusion_spans(index: int, size: int) -> list[Span]:
    """The subtrees whose hashes are the inclusion path of a leaf (RFC 9162 §2.1.3.1), from the leaf upwards. Raises
    ValueError unless 0 ≤ index < size."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    spans = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((start, middle))
            start = middle
    return spans[::-1]


def consistency_spans(first: int, second: int) -> list[Span]:
    """The subtrees whose hashes are the consistency path between two sizes (RFC 9162 §2.1.4.1); none for equal ones.
    Raises ValueError unless 0 < first ≤ second."""
    if not 0 < first <= second:
        raise ValueError(f"a tree of {first} is no beginning of a tree of {second}")
    spans = []
    start, end = 0, second
    while end > first:
        middle = start + _split(end - start)
        if first <= middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((start, middle))
            start = middle
    if start > 0:
        # Where the smaller tree is itself a subtree, who checks knows its hash.
        spans.append((start, end))
    return spans[::-1]


def hashes_of(spans: Iterable[Span], node: Callable[[Node], bytes]) -> list[bytes]:
    """The hash over each span, of the perfect subtrees' hashes."""
    return [combine([node(one) for one in perfect(span)]) for span in spans]


def proves_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the path proves that the leaf with this hash is at that index of the tree with that root (RFC 9162
    §2.1.3.2)."""
    if not 0 <= index < size:
        return False
    fn, sn, current = index, size - 1, leaf
    for sibling in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            current = node_hash(sibling, current)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            current = node_hash(current, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and current == root


def proves_consistency(first: int, second: int, path: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Whether the path proves that the tree with the second root begins with the one with the first (RFC 9162
    §2.1.4.2)."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not path and first_root == second_root
    hashes = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not hashes:
        return False
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            new = node_hash(new, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and old == first_root and new == second_root


def _split(size: int) -> int:
    # The greatest power of two below the size.
    return 1 << ((size - 1).bit_length() - 1)

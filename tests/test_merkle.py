"""The tree of RFC 9162: known roots and proofs, and all sizes against the recursive definitions of the RFC."""

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modledger.domain.merkle import (
    EMPTY,
    Node,
    consistency_spans,
    hashes_of,
    inclusion_spans,
    leaf_hash,
    node_hash,
    perfect,
    proves_consistency,
    proves_inclusion,
    tree_hash,
)

# The eight entries of certificate-transparency's own tests, the roots over the first one to eight of them, and proofs.
ENTRIES = [
    bytes.fromhex(entry)
    for entry in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSIONS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCIES = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
LEAVES = [leaf_hash(b"%d" % n) for n in range(300)]


# -- the RFC's own definitions, word by word


def rfc_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of §2.1.1."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256(b"").digest()
    k = rfc_k(len(leaves))
    return sha256(b"\x01" + rfc_root(leaves[:k]) + rfc_root(leaves[k:])).digest()


def rfc_k(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def rfc_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of §2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = rfc_k(len(leaves))
    if m < k:
        return [*rfc_path(m, leaves[:k]), rfc_root(leaves[k:])]
    return [*rfc_path(m - k, leaves[k:]), rfc_root(leaves[:k])]


def rfc_proof(m: int, leaves: Sequence[bytes], known: bool = True) -> list[bytes]:
    """PROOF and SUBPROOF of §2.1.4.1."""
    if m == len(leaves):
        return [] if known else [rfc_root(leaves)]
    k = rfc_k(len(leaves))
    if m <= k:
        return [*rfc_proof(m, leaves[:k], known), rfc_root(leaves[k:])]
    return [*rfc_proof(m - k, leaves[k:], False), rfc_root(leaves[:k])]


# -- ours


def node_of(leaves: Sequence[bytes], node: Node) -> bytes:
    level, index = node
    part = leaves[index << level : (index + 1) << level]
    assert len(part) == 1 << level
    return rfc_root(part)


def inclusion(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    return hashes_of(inclusion_spans(index, len(leaves)), lambda node: node_of(leaves, node))


def consistency(first: int, leaves: Sequence[bytes]) -> list[bytes]:
    return hashes_of(consistency_spans(first, len(leaves)), lambda node: node_of(leaves, node))


@pytest.mark.parametrize("size", range(1, 9))
def test_the_roots_of_the_known_tree_are_the_known_ones(size: int) -> None:
    assert tree_hash([leaf_hash(entry) for entry in ENTRIES[:size]]).hex() == ROOTS[size - 1]


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert tree_hash([]) == EMPTY == bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


@pytest.mark.parametrize(("index", "size"), INCLUSIONS)
def test_inclusion_proofs_of_the_known_tree_are_the_known_ones(index: int, size: int) -> None:
    path = inclusion(index, [leaf_hash(entry) for entry in ENTRIES[:size]])
    assert [one.hex() for one in path] == INCLUSIONS[index, size]
    root = bytes.fromhex(ROOTS[size - 1])
    assert proves_inclusion(leaf_hash(ENTRIES[index]), index, size, path, root)


@pytest.mark.parametrize(("first", "second"), CONSISTENCIES)
def test_consistency_proofs_of_the_known_tree_are_the_known_ones(first: int, second: int) -> None:
    path = consistency(first, [leaf_hash(entry) for entry in ENTRIES[:second]])
    assert [one.hex() for one in path] == CONSISTENCIES[first, second]
    roots = [bytes.fromhex(ROOTS[size - 1]) for size in (first, second)]
    assert proves_consistency(first, second, path, *roots)


def test_every_root_up_to_300_leaves_is_the_rfcs() -> None:
    for size in range(301):
        assert tree_hash(LEAVES[:size]) == rfc_root(LEAVES[:size]), size


def test_every_inclusion_proof_up_to_70_leaves_is_the_rfcs_and_holds_for_nothing_else() -> None:
    for size in range(1, 71):
        leaves = LEAVES[:size]
        root = rfc_root(leaves)
        for index in range(size):
            path = inclusion(index, leaves)
            assert path == rfc_path(index, leaves), (index, size)
            holds = [other for other in range(size + 1) if proves_inclusion(leaves[index], other, size, path, root)]
            assert holds == [index]
            assert not proves_inclusion(leaf_hash(b"other"), index, size, path, root)
            assert not proves_inclusion(leaves[index], index, size, [*path, root], root)
            assert not (path and proves_inclusion(leaves[index], index, size, path[:-1], root))


def test_every_consistency_proof_up_to_70_leaves_is_the_rfcs_and_holds_for_nothing_else() -> None:
    roots = [rfc_root(LEAVES[:size]) for size in range(71)]
    for second in range(1, 71):
        for first in range(1, second + 1):
            path = consistency(first, LEAVES[:second])
            assert path == rfc_proof(first, LEAVES[:second]), (first, second)
            assert proves_consistency(first, second, path, roots[first], roots[second])
            assert not proves_consistency(first, second, path, roots[0], roots[second])
            assert not proves_consistency(first, second, path, roots[first], roots[0])
            assert not proves_consistency(first, second, [*path, EMPTY], roots[first], roots[second])
            assert not (path and proves_consistency(first, second, path[:-1], roots[first], roots[second]))


@given(st.integers(1, 300), st.data())
def test_proofs_of_any_size_are_the_rfcs(size: int, data: st.DataObject) -> None:
    leaves = LEAVES[:size]
    index = data.draw(st.integers(0, size - 1))
    first = data.draw(st.integers(1, size))
    assert inclusion(index, leaves) == rfc_path(index, leaves)
    assert consistency(first, leaves) == rfc_proof(first, leaves)


@given(st.integers(2, 300), st.data())
def test_a_path_with_one_changed_hash_proves_nothing(size: int, data: st.DataObject) -> None:
    leaves = LEAVES[:size]
    index = data.draw(st.integers(0, size - 1))
    path = inclusion(index, leaves)
    changed = data.draw(st.integers(0, len(path) - 1))
    path[changed] = node_hash(path[changed], path[changed])
    assert not proves_inclusion(leaves[index], index, size, path, rfc_root(leaves))


@given(st.integers(1, 2**40), st.data())
def test_proofs_are_made_of_few_subtrees_however_large_the_tree(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    for spans in (inclusion_spans(index, size), consistency_spans(index + 1, size)):
        assert len(spans) <= 42
        assert sum(len(perfect(span)) for span in spans) <= 2 * 42
        for start, end in spans:
            nodes = perfect((start, end))
            assert [n << level for level, n in nodes][:1] == [start]
            assert sum(1 << level for level, _ in nodes) == end - start


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_there_is_no_path_for_a_leaf_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="there is no leaf"):
        inclusion_spans(index, size)
    assert not proves_inclusion(LEAVES[0], index, size, [], LEAVES[0])


@pytest.mark.parametrize(("first", "second"), [(0, 3), (4, 3), (-1, 3)])
def test_there_is_no_path_between_sizes_of_which_the_first_is_no_beginning(first: int, second: int) -> None:
    with pytest.raises(ValueError, match="is no beginning"):
        consistency_spans(first, second)
    assert not proves_consistency(first, second, [], EMPTY, EMPTY)

"""A checker of sealed ledgers as a stranger would write it: from docs/proof.md alone, with nothing of this program.

    python tests/independent_checker.py PUBLIC_KEY FILE…

Prints a line for each file that is good; ends with a message and status 1 at the first that is not.
"""

import base64
import json
import struct
import sys
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Head = tuple[int, bytes, int]


class Wrong(Exception):
    pass


def require(good: bool, message: str) -> None:
    if not good:
        raise Wrong(message)


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def good_head(note: str, public_key: str) -> Head:
    """Size, root and position of a head that the key has signed."""
    name, key_id, encoded = public_key.split("+", 2)
    raw = base64.b64decode(encoded)
    require(raw[0] == 1 and sha256(name.encode() + b"\n" + raw).digest()[:4].hex() == key_id, "not a public key")
    text, signature_line = note.split("\n\n")
    origin, size, root, position, _ = text.split("\n")
    dash, signer, signature = signature_line.rstrip("\n").split(" ")
    signed = base64.b64decode(signature)
    require(dash == "\u2014" and origin == signer == name and signed[:4].hex() == key_id, "head of another key")
    try:
        Ed25519PublicKey.from_public_bytes(raw[1:]).verify(signed[4:], (text + "\n").encode())
    except InvalidSignature:
        raise Wrong("the head was changed") from None
    return int(size), base64.b64decode(root), int(position.removeprefix("position "))


def fields(leaf: bytes) -> list[bytes | None]:
    (count,) = struct.unpack_from(">h", leaf)
    found: list[bytes | None] = []
    at = 2
    for _ in range(count):
        (length,) = struct.unpack_from(">i", leaf, at)
        at += 4
        found.append(None if length == -1 else leaf[at : at + length])
        at += max(0, length)
    require(at == len(leaf) and count == 9, "not a leaf")
    return found


def position_in(leaf: bytes) -> int:
    first = fields(leaf)[0]
    return 0 if first is None else int.from_bytes(first, "big", signed=True)


def check_inclusion(proof: dict[str, Any], key: str) -> str:
    size, root, _ = good_head(proof["head"], key)
    leaf = base64.b64decode(proof["leaf"])
    require(size == proof["tree_size"] and position_in(leaf) == proof["position"], "proof of something else")
    fn, sn, r = proof["leaf_index"], size - 1, sha256(b"\x00" + leaf).digest()
    require(0 <= fn <= sn, "no such leaf")
    for p in map(base64.b64decode, proof["path"]):
        require(sn != 0, "path too long")
        if fn % 2 == 1 or fn == sn:
            r = node(p, r)
            while fn % 2 == 0 and fn != 0:
                fn, sn = fn // 2, sn // 2
        else:
            r = node(r, p)
        fn, sn = fn // 2, sn // 2
    require(sn == 0 and r == root, "not included")
    return f"position {proof['position']} is in the ledger of {size} events"


def check_consistency(proof: dict[str, Any], key: str) -> str:
    first, second = proof["from_size"], proof["to_size"]
    from_root, to_root = base64.b64decode(proof["from_root"]), base64.b64decode(proof["to_root"])
    require(good_head(proof["from_head"], key)[:2] == (first, from_root), "not the signed root")
    require(good_head(proof["to_head"], key)[:2] == (second, to_root), "not the signed root")
    path = [base64.b64decode(one) for one in proof["path"]]
    if first == second:
        require(not path and from_root == to_root, "not consistent")
        return f"{second} events are {first} events"
    if first & (first - 1) == 0:
        path.insert(0, from_root)
    require(0 < first < second and path != [], "no proof")
    fr = sr = path[0]
    fn, sn = first - 1, second - 1
    while fn % 2 == 1:
        fn, sn = fn // 2, sn // 2
    for c in path[1:]:
        require(sn != 0, "path too long")
        if fn % 2 == 1 or fn == sn:
            fr, sr = node(c, fr), node(c, sr)
            while fn % 2 == 0 and fn != 0:
                fn, sn = fn // 2, sn // 2
        else:
            sr = node(sr, c)
        fn, sn = fn // 2, sn // 2
    require(sn == 0 and fr == from_root and sr == to_root, "not consistent")
    return f"{second} events begin with the {first}"


def check_export(lines: list[bytes], key: str) -> str:
    end = json.loads(lines[-1])
    whole = b"".join(lines[:-1])
    require(end.get("lines") == len(lines) - 1 and end.get("sha256") == sha256(whole).hexdigest(), "damaged")
    header = json.loads(lines[0])
    require(header["format"] == "modledger sealed ledger 1" and key.startswith(header["origin"] + "+"), "another")
    hashes: list[bytes] = []
    last, covered = -(2**63), 0
    for line in map(json.loads, lines[1:-1]):
        if "head" in line:
            size, root, position = good_head(line["head"], key)
            require(size == len(hashes) and position == last, "a head in the wrong place")
            require(root == tree_root(hashes), f"up to position {last} it is not what was sealed")
            covered = size
            continue
        position = line["position"]
        require("sealed" in line, f"position {position} was inserted")
        require("leaf" in line, f"position {position} was deleted")
        leaf, sealed = base64.b64decode(line["leaf"]), base64.b64decode(line["sealed"])
        require(sha256(b"\x00" + leaf).digest() == sealed, f"position {position} was changed")
        require(position_in(leaf) == position > last and line["leaf_index"] == len(hashes), "out of order")
        hashes.append(sealed)
        last = position
    require(covered == len(hashes), "the end is not signed")
    return f"{covered} events are what was sealed"


def tree_root(hashes: list[bytes]) -> bytes:
    if len(hashes) <= 1:
        return hashes[0] if hashes else sha256(b"").digest()
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return node(tree_root(hashes[:k]), tree_root(hashes[k:]))


def check(content: bytes, key: str) -> str:
    if content.startswith(b"modledger/"):
        size, _, position = good_head(content.decode(), key)
        return f"a head of {size} events, up to position {position}"
    if content.startswith(b'{"format"'):
        return check_export(content.splitlines(keepends=True), key)
    proof = json.loads(content)
    return check_consistency(proof, key) if "from_size" in proof else check_inclusion(proof, key)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        with open(name, "rb") as file:  # noqa: PTH123 - nothing but what the page needs
            try:
                print(f"{name}: {check(file.read(), sys.argv[1])}")
            except (Wrong, ValueError, KeyError) as error:
                sys.exit(f"{name}: {error}")

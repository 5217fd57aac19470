"""Signed tree heads: how large the sealed ledger was, its root, and when; signed with Ed25519.

A head is a checkpoint as C2SP tlog-checkpoint defines it, signed as a C2SP signed-note, so that tools for those read it
too. docs/proof.md has both in full.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from modledger.domain.merkle import HASH_BYTES

# Ed25519, as signed-note numbers algorithms.
_ALGORITHM = b"\x01"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class NoHead(Exception):
    """The text is no head, or no public key, at all; the message says where it goes wrong."""


class BadSignature(Exception):
    """The head was not signed by any of the keys given, or was changed since."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger up to ``position``, its ``tree_size`` events under ``root``, as sealed ``at`` (UTC, whole seconds).
    ``origin`` names the ledger."""

    origin: str
    tree_size: int
    root: bytes
    position: int
    at: datetime


class PublicKey(msgspec.Struct, frozen=True):
    """A key that verifies heads: its name, which is the origin that it signs for, and its 32 bytes."""

    name: str
    raw: bytes

    @property
    def id(self) -> bytes:
        """The four bytes by which a signature says whose it is."""
        return sha256(self.name.encode() + b"\n" + _ALGORITHM + self.raw).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(_ALGORITHM + self.raw)}"


def origin_of(installation: UUID) -> str:
    """The name of an installation's ledger."""
    return f"modledger/{installation}"


def public_key_of(origin: str, signer: Ed25519PrivateKey) -> PublicKey:
    """What verifies the heads of that ledger which this key signs."""
    return PublicKey(origin, signer.public_key().public_bytes_raw())


def read_public_key(text: str) -> PublicKey:
    """A key from its text form. Raises NoHead."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    try:
        raw = _bytes(encoded)
    except ValueError:
        raw = b""
    key = PublicKey(name, raw[1:])
    if not name or raw[:1] != _ALGORITHM or len(raw) != 1 + HASH_BYTES or key.id.hex() != key_id:
        raise NoHead(f"{text.strip()[:80]!r} is no public key: name+id+key, as `modledger seal key` prints it")
    return key


def sign(head: Head, signer: Ed25519PrivateKey) -> str:
    """The head as a signed note."""
    text = _text(head)
    key = public_key_of(head.origin, signer)
    return f"{text}\n— {key.name} {_base64(key.id + signer.sign(text.encode()))}\n"


def read_head(note: str) -> Head:
    """What a note says; who signed it, ``verify`` checks. Raises NoHead."""
    text, gap, _ = note.partition("\n\n")
    lines = text.split("\n")
    try:
        if not gap or len(lines) != 5:
            raise ValueError
        origin, size, root, position, at = lines
        head = Head(
            origin=origin,
            tree_size=_number(size),
            root=_bytes(root),
            position=_number(position.removeprefix("position ")),
            at=datetime.strptime(at, f"at {_TIME}").replace(tzinfo=UTC),
        )
    except ValueError:
        raise NoHead("not a head: five lines, an empty one, and a signature") from None
    if len(head.root) != HASH_BYTES or _text(head) != text + "\n":
        raise NoHead("not a head: five lines, an empty one, and a signature")
    return head


def verify(note: str, keys: Sequence[PublicKey]) -> Head:
    """The head that one of the keys has signed in its own name. Raises NoHead, BadSignature."""
    head = read_head(note)
    text, _, signatures = note.partition("\n\n")
    for line in signatures.splitlines():
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        try:
            signature = _bytes(encoded)
        except ValueError:
            signature = b""
        if dash != "—" or len(signature) != 4 + 64:
            raise NoHead("the signature of the head cannot be read")
        for key in keys:
            if key.name == name == head.origin and key.id == signature[:4]:
                try:
                    Ed25519PublicKey.from_public_bytes(key.raw).verify(signature[4:], f"{text}\n".encode())
                except InvalidSignature:
                    raise BadSignature(f"the head of {head.tree_size} events was changed after it was signed") from None
                return head
    raise BadSignature(f"the head of {head.tree_size} events of {head.origin} is not signed by a key that you gave")


def _text(head: Head) -> str:
    at = head.at.astimezone(UTC).strftime(_TIME)
    return f"{head.origin}\n{head.tree_size}\n{_base64(head.root)}\nposition {head.position}\nat {at}\n"


def _number(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,18}", text):
        raise ValueError
    return int(text)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError from error

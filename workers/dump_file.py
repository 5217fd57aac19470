"""The file of ``modledger dump``: frames, each with a digest of all that stands before its own (docs/move.md).

A line that names the format; then frames: a letter for the kind, four bytes for the length, the content, 32 bytes of
SHA-256 over the file from its first byte to there. ``H`` the header, JSON; ``E`` events and ``K`` keys, rows of
PostgreSQL's binary COPY; ``Z`` the end, JSON.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import BinaryIO, Literal, cast
from uuid import UUID

import msgspec

FORMAT = b"modledger dump 1\n"
# How much of rows is gathered for a frame, in bytes, and the most that is believed of one.
FRAME_BYTES = 1 << 20
MOST_BYTES = 1 << 28

Kind = Literal["H", "E", "K", "Z"]
_HEAD = struct.Struct(">cI")
_DIGEST = hashlib.sha256().digest_size


class Damaged(Exception):
    """The file is no dump, or not as it was written; the message says where."""


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose ledger it is, and how long. ``check``: by which the installation recognises its master key; ``position``:
    of the last event, 0 without any; ``given``: the last position that was ever given to an event."""

    installation: UUID
    check: bytes
    begun_at: datetime
    dumped_at: datetime
    events: int
    position: int
    given: int
    keys: int


class End(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What only is known when all is written: the root of the Merkle tree over the events (docs/proof.md)."""

    root: bytes


def writer(file: BinaryIO) -> Callable[[Kind, bytes], None]:
    """Begins the file; what is returned writes a frame. Raises OSError, both."""
    digest = hashlib.sha256(FORMAT)
    file.write(FORMAT)

    def write(kind: Kind, content: bytes) -> None:
        head = _HEAD.pack(kind.encode(), len(content))
        digest.update(head)
        digest.update(content)
        file.writelines((head, content, digest.digest()))

    return write


def gathered(rows: Iterable[bytes]) -> Iterator[bytes]:
    """The rows, as many together as make a frame."""
    frame = bytearray()
    for row in rows:
        frame += row
        if len(frame) >= FRAME_BYTES:
            yield bytes(frame)
            frame.clear()
    if frame:
        yield bytes(frame)


def frames(file: BinaryIO) -> Iterator[tuple[Kind, bytes]]:
    """The frames from the header to the end. Raises Damaged at the first byte that is not as it was written, at the
    latest with the frame that holds it; and OSError."""
    if file.read(len(FORMAT)) != FORMAT:
        raise Damaged("this is no dump of a ledger, or one of another version of the program")
    digest = hashlib.sha256(FORMAT)
    offset, kind = len(FORMAT), ""
    for number in range(1, 1 << 62):
        head = file.read(_HEAD.size)
        if kind == "Z":
            if head:
                raise Damaged(f"something stands behind the end, at byte {offset}")
            return
        where = f"in frame {number}, at byte {offset}"
        if len(head) < _HEAD.size:
            raise Damaged(f"the dump ends {where}, before its end")
        letter, length = _HEAD.unpack(head)
        if letter not in (b"H", b"E", b"K", b"Z") or (letter == b"H") != (number == 1) or length > MOST_BYTES:
            raise Damaged(f"the dump is damaged {where}")
        content = file.read(length)
        said = file.read(_DIGEST)
        if len(content) < length or len(said) < _DIGEST:
            raise Damaged(f"the dump ends {where}, before its end")
        digest.update(head)
        digest.update(content)
        if digest.digest() != said:
            raise Damaged(f"the dump is damaged {where}")
        kind = letter.decode()
        yield cast("Kind", kind), content
        offset += _HEAD.size + length + _DIGEST

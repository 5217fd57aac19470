"""The files that an auditor takes away (docs/proof.md): heads, proofs, and whole sealed ledgers; written and read."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from modledger.domain.merkle import leaf_hash, proves_consistency, proves_inclusion
from modledger.domain.refusals import Conflict
from modledger.domain.seal_proofs import Consistency, Inclusion
from modledger.domain.seal_tree import position_of
from modledger.domain.signed_heads import BadSignature, Head, NoHead, PublicKey, read_head, verify
from modledger.workers.seal_check import Event, Evidence, Signed, Torn

FORMAT = "modledger sealed ledger 1"


class Damaged(Exception):
    """The file is none of ours, or not as it was written; the message says where."""


class NotProved(Exception):
    """The file is whole and does not prove what it says."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    origin: str


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An event, a head, or the end."""

    position: int | None = None
    leaf_index: int | None = None
    sealed: bytes | None = None
    leaf: bytes | None = None
    head: str | None = None
    lines: int | None = None
    sha256: str | None = None


_header = msgspec.json.Decoder(_Header)
_line = msgspec.json.Decoder(_Line)
_encode = msgspec.json.Encoder().encode


# -- whole ledgers


def write_export(path: Path, origin: str, evidence: Iterable[Evidence]) -> int:
    """Writes a sealed ledger; the file has its name only when it is complete and durable. Returns how many events.
    Raises OSError, and Conflict where the sealed tree is damaged."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    lines = events = 0
    try:
        with draft.open("xb") as file:

            def put(line: object) -> None:
                nonlocal lines
                lines += 1
                written = _encode(line) + b"\n"
                digest.update(written)
                file.write(written)

            put(_Header(FORMAT, origin))
            for item in evidence:
                match item:
                    case Event(position, index, sealed, leaf):
                        put(_Line(position=position, leaf_index=index, sealed=sealed, leaf=leaf))
                        events += sealed is not None
                    case Signed(note):
                        put(_Line(head=note))
                    case Torn(start, end):
                        raise Conflict(f"the sealed tree is damaged over its leaves {start} to {end - 1}")
            file.write(_encode(_Line(lines=lines, sha256=digest.hexdigest())) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return events


def is_export(path: Path) -> bool:
    """Whether the file begins like a whole ledger."""
    with path.open("rb") as file:
        return file.read(10).startswith(b'{"format":')


def read_export(path: Path) -> Iterator[Evidence]:
    """The evidence in the file. Raises Damaged where it is not as it was written; only at the end is it known to be."""
    digest = hashlib.sha256()
    lines = 0
    with path.open("rb") as file:
        for raw in file:
            try:
                if not raw.endswith(b"\n"):
                    raise ValueError("it ends in the middle of the line")
                line = _header.decode(raw) if lines == 0 else _line.decode(raw)
                if isinstance(line, _Header):
                    if line.format != FORMAT:
                        raise ValueError(f"the format {line.format!r} is not known")
                elif line.lines is not None:
                    _require_end(line, lines, digest.hexdigest(), file.read(1))
                    return
                else:
                    yield _evidence(line)
            except ValueError as error:
                raise Damaged(f"{path} is damaged at line {lines + 1}: {error}") from error
            lines += 1
            digest.update(raw)
    raise Damaged(f"{path} is damaged: it ends after line {lines}, without its last one")


def _evidence(line: _Line) -> Evidence:
    if line.head is not None:
        return Signed(line.head)
    if line.position is None or (line.sealed is None and line.leaf is None):
        raise ValueError("it is neither an event nor a head")
    if line.leaf is not None and position_of(line.leaf) != line.position:
        raise ValueError("its event is of another position")
    return Event(line.position, line.leaf_index, line.sealed, line.leaf)


def _require_end(end: _Line, lines: int, sha256: str, rest: bytes) -> None:
    if end.lines != lines or rest:
        raise ValueError("the file has more lines, or fewer, than were written")
    if end.sha256 != sha256:
        raise ValueError("the checksum is not that of the lines before it")


# -- heads and proofs


def notes_in(path: Path) -> list[str]:
    """The signed heads that a file brings along. Raises Damaged."""
    match found := _read(path):
        case Inclusion():
            return [found.head]
        case Consistency():
            return [note for note in (found.from_head, found.to_head) if note is not None]
    return [found]


def heads_in(path: Path, keys: list[PublicKey]) -> dict[str, Head]:
    """The same, verified. Raises Damaged, and NotProved for one that none of the keys has signed."""
    try:
        return {note: verify(note, keys) for note in notes_in(path)}
    except NoHead as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    except BadSignature as error:
        raise NotProved(f"{path}: {error}") from error


def check_proof(path: Path, keys: list[PublicKey], heads: dict[int, Head]) -> str:
    """What the file proves, in words. ``heads``: verified ones from the other files, by size.

    Raises Damaged, NotProved, and BadSignature for a head that none of the keys has signed.
    """
    found = _read(path)
    match found:
        case Inclusion():
            return _inclusion(path, found, keys)
        case Consistency():
            return _consistency(path, found, keys, heads)
    head = verify(found, keys)
    return f"{path}: the head of {head.tree_size} events, up to position {head.position}, sealed at {_at(head)}"


def _inclusion(path: Path, proof: Inclusion, keys: list[PublicKey]) -> str:
    head = verify(proof.head, keys)
    try:
        position = position_of(proof.leaf)
    except ValueError as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    if position != proof.position:
        raise NotProved(f"{path}: the event is of position {position}, not {proof.position}")
    if proof.tree_size != head.tree_size or not proves_inclusion(
        leaf_hash(proof.leaf), proof.leaf_index, head.tree_size, proof.path, head.root
    ):
        raise NotProved(f"{path}: the event at position {position} is not proved to be in what was sealed")
    return f"{path}: the event at position {position} is in the ledger of {head.tree_size} events sealed at {_at(head)}"


def _consistency(path: Path, proof: Consistency, keys: list[PublicKey], heads: dict[int, Head]) -> str:
    known = dict(heads)
    for size, note in ((proof.from_size, proof.from_head), (proof.to_size, proof.to_head)):
        if note is not None:
            known.setdefault(size, verify(note, keys))
    for size, root in ((proof.from_size, proof.from_root), (proof.to_size, proof.to_root)):
        if size not in known:
            raise NotProved(f"{path}: the head of {size} events is needed and not among the files")
        if known[size].tree_size != size or known[size].root != root:
            raise NotProved(f"{path}: its root of {size} events is not the signed one")
    if not proves_consistency(proof.from_size, proof.to_size, proof.path, proof.from_root, proof.to_root):
        raise NotProved(f"{path}: {proof.to_size} events are not proved to begin with the {proof.from_size}")
    return f"{path}: the ledger of {proof.to_size} events begins with that of {proof.from_size}, unchanged"


def _at(head: Head) -> str:
    return f"{head.at:%Y-%m-%dT%H:%M:%SZ}"


def _read(path: Path) -> Inclusion | Consistency | str:
    try:
        text = path.read_text("utf-8")
        if not text.startswith("{"):
            read_head(text)
            return text
        if '"from_size"' in text:
            return msgspec.json.decode(text, type=Consistency)
        return msgspec.json.decode(text, type=Inclusion)
    except (ValueError, NoHead) as error:
        raise Damaged(f"{path} is damaged, or neither head, proof nor export: {error}") from error

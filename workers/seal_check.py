"""The check of a sealed ledger, event by event: the evidence comes from the database, or from an exported file."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import psycopg

from modledger.domain.merkle import HASH_BYTES, Frontier, leaf_hash
from modledger.domain.seal_proofs import grown, tiles
from modledger.domain.seal_tree import WIDTH, Tile, carry, moved_to, position_of, split
from modledger.domain.signed_heads import BadSignature, Head, NoHead, PublicKey, verify
from modledger.workers.seal_store import carry_out, leaves

# Beyond these a list helps nobody, and memory is to stay bounded.
MOST_FINDINGS = 10_000
MOST_MOVES = 200
_TILES = 16
_HEADS = 1_000
_FIRST = -(2**63)


class Event(NamedTuple):
    """What was sealed and what is there. ``leaf_index`` and ``sealed`` (the hash) None: not sealed; ``leaf`` None: it
    is gone."""

    position: int
    leaf_index: int | None
    sealed: bytes | None
    leaf: bytes | None


class Signed(NamedTuple):
    """A signed head, right after the last event that it covers."""

    note: str


class Torn(NamedTuple):
    """Stored hashes that are missing or not those of the tiles below: of the leaves ``start`` to before ``end``."""

    start: int
    end: int


Evidence = Event | Signed | Torn


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it was sealed. ``position``: of the event, None where it is not known."""

    position: int | None
    text: str


class Report(msgspec.Struct):
    """What was checked so far: how many events and heads, the last good head, and what was found."""

    events: int = 0
    heads: int = 0
    last: Head | None = None
    findings: list[Finding] = msgspec.field(default_factory=list)

    def add(self, position: int | None, text: str) -> None:
        self.findings.append(Finding(position, text))


class TooMuch(Exception):
    """More was found than is worth a list; the report has the first of it."""


def examine(
    report: Report,
    evidence: Iterable[Evidence],
    keys: Sequence[PublicKey],
    kept: Iterable[str] = (),
    *,
    covered: bool = False,
) -> None:
    """Completes the report. ``kept`` are heads from elsewhere, such as an auditor's. ``covered``: a head has to cover
    whatever is there, as in every export; in a database the sealer may be about to sign. Raises TooMuch, BadSignature
    or NoHead for a kept head, and what the evidence raises."""
    frontier = Frontier()
    waiting = sorted((verify(note, keys) for note in kept), key=lambda head: head.tree_size)
    lost: list[tuple[int, bytes]] = []
    strays: list[tuple[int, bytes]] = []
    last_position = _FIRST
    broken = False

    def compare(head: Head) -> None:
        nonlocal broken
        since = f"from position {report.last.position + 1} " if report.last else ""
        if head.root == frontier.root() and head.position == last_position:
            report.last = head
        elif not broken:
            # Whatever is signed later is not the tree either.
            broken = True
            report.add(
                None,
                f"the events {since}to position {head.position} are not those that were sealed at"
                f" {head.at:%Y-%m-%dT%H:%M:%SZ}: something was changed together with its hash, or put in or taken out",
            )

    for item in evidence:
        match item:
            case Event(position, index, sealed, leaf):
                if sealed is not None:
                    if index != frontier.size or position <= last_position:
                        report.add(position, f"position {position} is out of its order in the sealed tree")
                    frontier.add(sealed)
                    last_position = position
                    report.events += 1
                wrong = _difference(sealed, leaf)
                if wrong:
                    report.add(position, f"position {position}: {wrong}")
                    if sealed is not None and len(lost) < MOST_MOVES:
                        lost.append((position, sealed))
                    if leaf is not None and len(strays) < MOST_MOVES:
                        strays.append((position, leaf))
                while waiting and waiting[0].tree_size == frontier.size:
                    compare(waiting.pop(0))
            case Signed(note):
                try:
                    head = verify(note, keys)
                except (NoHead, BadSignature) as error:
                    report.add(None, str(error))
                    continue
                if head.tree_size == frontier.size:
                    report.heads += 1
                    compare(head)
                else:
                    report.add(None, f"the head of {head.tree_size} events stands after {frontier.size}")
            case Torn(start, end):
                report.add(None, f"the sealed tree is damaged over its leaves {start} to {end - 1}")
        if len(report.findings) > MOST_FINDINGS:
            raise TooMuch(f"more than {MOST_FINDINGS} things are not as they were sealed")
    for head in waiting:
        report.add(
            None,
            f"the head of {head.tree_size} events, sealed at {head.at:%Y-%m-%dT%H:%M:%SZ}, is of more than the"
            f" {frontier.size} that are here: the end of the ledger was taken away",
        )
    proved = 0 if report.last is None else report.last.tree_size
    if covered and proved < frontier.size and not broken:
        report.add(
            None,
            f"the last {frontier.size - proved} of the {frontier.size} events are covered by no head that is good:"
            " nothing proves them",
        )
    _name_moves(report, lost, strays)


def _difference(sealed: bytes | None, leaf: bytes | None) -> str | None:
    if leaf is None:
        return "deleted"
    if sealed is None:
        return "inserted after the ledger had been sealed beyond it"
    return None if leaf_hash(leaf) == sealed else "changed"


def _name_moves(report: Report, lost: Sequence[tuple[int, bytes]], strays: Sequence[tuple[int, bytes]]) -> None:
    for position, sealed in lost:
        for now, leaf in strays:
            if now != position and leaf_hash(moved_to(leaf, position)) == sealed:
                at = next(n for n, found in enumerate(report.findings) if found.position == position)
                report.findings[at] = Finding(
                    position, f"position {position}: moved, its event now stands at position {now}"
                )
                break


# -- the evidence of the database


def stored(connection: psycopg.Connection, *, signed_only: bool = False) -> Iterator[Evidence]:
    """The sealed tree beside the ledger, in their order; with ``signed_only`` only as far as a head was signed, and
    without the hashes above the leaves. Reads in small steps: what was sealed never changes, so no snapshot has to hold
    them together. ``connection``: in autocommit mode."""
    size, _ = carry_out(connection, grown())
    heads = _heads(connection)
    head = next(heads, None)
    if signed_only:
        # seals_pkey, its last entry
        row = connection.execute("select coalesce(max(tree_size), 0) from seals").fetchone()
        size = min(size, row[0] if row else 0)
    above: dict[Tile, bytes] = {}
    number, read_to = 0, _FIRST
    while number * WIDTH < size:
        # seal_tiles_pkey
        batch = connection.execute(
            "select number, positions, hashes from seal_tiles where level = 0 and number >= %s"
            " order by number limit %s",
            (number, _TILES),
        ).fetchall()
        if not batch or [tile[0] for tile in batch] != list(range(number, number + len(batch))):
            yield Torn(number * WIDTH, size)
            return
        sealed = [
            (position, tile * WIDTH + n, hashed)
            for tile, positions, hashes in batch
            for n, (position, hashed) in enumerate(zip(positions, split(hashes), strict=False))
            if tile * WIDTH + n < size
        ]
        last = max(position for position, _, _ in sealed)
        there: dict[int, list[bytes]] = {}
        with leaves(connection, read_to, last) as rows:
            for leaf in rows:
                # Several of one position, should somebody have dropped the index.
                there.setdefault(position_of(leaf), []).append(leaf)
        strays = sorted(there.keys() - {position for position, _, _ in sealed}, reverse=True)
        for position, index, hashed in sealed:
            while strays and strays[-1] < position:
                stray = strays.pop()
                yield from (Event(stray, None, None, leaf) for leaf in there[stray])
            yield from _at_one_position(position, index, hashed, there.get(position, []))
            while head is not None and head[0] <= index + 1:
                yield Signed(head[1])
                head = next(heads, None)
        if not signed_only:
            for tile, _, hashes in batch:
                if (tile + 1) * WIDTH <= size:
                    carry(0, tile, bytes(hashes), above)
            yield from _compare_above(connection, above, full=True)
        number, read_to = number + len(batch), last
    while head is not None and not signed_only:
        yield Signed(head[1])
        head = next(heads, None)
    yield from _compare_above(connection, above, full=False)


def _at_one_position(position: int, index: int, sealed: bytes, there: list[bytes]) -> Iterator[Event]:
    leaf = there[0] if there else None
    if len(there) > 1:
        leaf = next((one for one in there if leaf_hash(one) == sealed), leaf)
    yield Event(position, index, sealed, leaf)
    yield from (Event(position, None, None, one) for one in there if one is not leaf)


def _heads(connection: psycopg.Connection) -> Iterator[tuple[int, str]]:
    after = 0
    while True:
        # seals_pkey
        rows = connection.execute(
            "select tree_size, note from seals where tree_size > %s order by tree_size limit %s", (after, _HEADS)
        ).fetchall()
        if not rows:
            return
        yield from rows
        after = rows[-1][0]


def _compare_above(connection: psycopg.Connection, above: dict[Tile, bytes], *, full: bool) -> Iterator[Torn]:
    """Compares the tiles above the leaves that are complete now, or all that are left, and lets go of them."""
    ready = [tile for tile, hashes in above.items() if not full or len(hashes) == WIDTH * HASH_BYTES]
    found = carry_out(connection, tiles(ready))
    for level, number in ready:
        hashes = above.pop((level, number))
        # It may have grown since.
        if found.get((level, number), b"")[: len(hashes)] != hashes:
            leaves_below = WIDTH ** (level + 1)
            yield Torn(number * leaves_below, number * leaves_below + len(hashes) // HASH_BYTES * WIDTH**level)

"""The rows of a demo of any size: as binary COPY takes them, encrypted, and put aside until they can be sorted.

Positions go by date over all streams, while events are made stream by stream. So rows are put aside by spans of time
into one nameless file, which goes away with its process however that ends, and are then read and sorted span by span.
"""

import gc
import os
import struct
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import msgspec

from modledger.domain.envelope import NewEvent
from modledger.domain.events import has_text
from modledger.domain.mapper import EventMapper
from modledger.domain.personal_text import MasterKey, SubjectKey
from modledger.workers.demo_blocks import Happened, Part, Size, part
from modledger.workers.demo_staff import END, START
from modledger.workers.demo_telemetry import TABLES, encoded

# Rows of a span are sorted in memory; this many of them, where dates are spread evenly.
SPAN_ROWS = 10_000
# Bytes that are held back to be written in larger pieces.
HELD_BYTES = 16 << 20

# recorded_at comes first: it is the same for all rows, and put before them when they are copied.
LEDGER_COLUMNS = "recorded_at, originator_id, originator_version, topic, state, command_id, actor, via"
KEY_COLUMNS = "subject, generation, wrapped"
_COLUMNS = 8
_NULL = b"\xff\xff\xff\xff"
_EIGHT = struct.Struct(">iq").pack
_LENGTH = struct.Struct(">i").pack
_RECORDED = struct.Struct(">hiq").pack
# How long a row is, by which it is sorted (order, part, number in its part); the row.
_HEAD = struct.Struct(">IIII")


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """A part as rows of binary COPY: those of the ledger by span, of ``subject_keys``, and of the telemetry tables."""

    part: int
    events: int
    punishments: int
    ledger: list[tuple[int, bytes]]
    keys: bytes
    telemetry: dict[str, bytes]
    present: int


def spans(events: int) -> int:
    """Into how many spans of time so many events are divided."""
    return -(-events // SPAN_ROWS)


def rows(master: MasterKey, made: Part, number: int, spans: int) -> Rows:
    """Part ``number`` as rows, every subject under a new key of its own."""
    mapper = EventMapper()
    keys: dict[str, SubjectKey] = {}
    each = _SECONDS // spans + 1
    found: list[tuple[int, bytes]] = []
    count = 0
    for one in made.happened:
        for index, event in enumerate(one.events):
            key = keys.get(event.stream)
            if key is None and has_text(event.event):
                key = keys[event.stream] = master.make(event.stream, 0)
            row = _row(mapper, event, key, one if index == 0 else None)
            found.append((one.order // each, _HEAD.pack(len(row), one.order, number, count) + row))
            count += 1
    found.sort(key=_span)
    return Rows(
        part=number,
        events=count,
        punishments=Size(punishments=0).of(event for one in made.happened for event in one.events),
        ledger=[(span, b"".join(row for _, row in several)) for span, several in groupby(found, key=_span)],
        keys=b"".join(
            b"\0\x03" + _text(key.subject) + _EIGHT(8, key.generation) + _bytes(key.wrapped) for key in keys.values()
        ),
        telemetry={name: encoded(name, getattr(made.telemetry, name)) for name in TABLES},
        present=made.present,
    )


_SECONDS = int((END - START).total_seconds()) + 2


def _span(row: tuple[int, bytes]) -> int:
    return row[0]


def _row(mapper: EventMapper, event: NewEvent, key: SubjectKey | None, first: Happened | None) -> bytes:
    stored = mapper.to_stored_event(event, key)
    return b"".join(
        (
            _text(event.stream),
            _EIGHT(8, event.version),
            _text(stored.topic),
            _bytes(stored.state),
            _NULL if first is None else _bytes(first.command_id.bytes),
            _text(str(event.actor)),
            _text(event.via),
        )
    )


@lru_cache(4096)
def _text(text: str) -> bytes:
    return _bytes(text.encode())


def _bytes(content: bytes) -> bytes:
    return _LENGTH(len(content)) + content


def recorded(at_microseconds: int) -> bytes:
    """What stands before each row of the ledger: it was recorded so many microseconds after the year 2000 began."""
    return _RECORDED(_COLUMNS, 8, at_microseconds)


class Aside:
    """Rows put aside by span, in a nameless file in ``folder``; None is where temporary files go. Memory:
    ``HELD_BYTES``, and sixteen bytes for each piece written."""

    def __init__(self, spans: int, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115 - closed by close
        self._end = self._size = 0
        self._held: list[list[bytes]] = [[] for _ in range(spans)]
        self._places = [array("Q") for _ in range(spans)]

    def put(self, span: int, content: bytes) -> None:
        """Raises OSError where there is no room."""
        self._held[span].append(content)
        self._size += len(content)
        if self._size > HELD_BYTES:
            self._write()

    def _write(self) -> None:
        for span, held in enumerate(self._held):
            if held:
                content = b"".join(held)
                held.clear()
                self._places[span].extend((self._end, len(content)))
                left = memoryview(content)
                while left:
                    left = left[self._file.write(left) :]
                self._end += len(content)
        self._size = 0

    def pieces(self, span: int) -> Iterator[bytes]:
        """What was put there, in the order in which it came."""
        places = self._places[span]
        for start, length in zip(places[::2], places[1::2], strict=True):
            yield os.pread(self._file.fileno(), length, start)
        yield from self._held[span]

    def sorted(self, span: int) -> list[bytes]:
        """The rows of the ledger that were put there, in its order."""
        found = []
        for piece in self.pieces(span):
            at = 0
            while at < len(piece):
                (length, *_) = _HEAD.unpack_from(piece, at)
                found.append(piece[at + 4 : at + _HEAD.size + length])
                at += _HEAD.size + length
        found.sort()
        return [row[_HEAD.size - 4 :] for row in found]

    def close(self) -> None:
        self._file.close()


def made(master: MasterKey, seed: int, todo: Iterable[tuple[int, Size]], spans: int, today: datetime) -> Iterator[Rows]:
    """The rows of these parts, one after the other."""
    # What a part is made of goes all at once; meanwhile there is nothing to find.
    gc.disable()
    try:
        for number, size in todo:
            yield rows(master, part(seed, number, size, today), number, spans)
            gc.collect()
    finally:
        gc.enable()

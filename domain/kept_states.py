"""Folded streams that a process keeps between commands, so that the next one loads only what came since."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from threading import Lock
from time import monotonic
from uuid import UUID

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded, subject_of
from modledger.domain.ledger import UNSEEN, Ledger, Seen
from modledger.domain.subjects import State, User, evolve, fork, new

# At most so many streams and bytes of a process's memory.
STREAMS = 16_384
BYTES = 32 * 1024 * 1024
# Seconds that a state is kept without being asked for; for so long an idle process may hold text that another erased.
UNUSED_SECONDS = 600.0

# A stream's state, how far it is read and its place here, without texts and punishments; a punishment and its ending
# without their reasons; the end of an amended one; a text without its characters. In bytes, rather more than CPython
# 3.11 takes.
STREAM_BYTES, _ISSUED, _ENDED, _AMENDED, _TEXT = 2048, 640, 320, 64, 80


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """A stream folded as far as it was ``seen``. Threads share it: nobody may change the state. ``weight``: bytes of
    its punishments, and ``bytes`` of all of it, both upper bounds."""

    state: State
    seen: Seen
    weight: int = 0
    bytes: int = STREAM_BYTES

    def and_then(self, later: Sequence[Recorded]) -> "Folded":
        """With the events that follow, in a state of its own."""
        if not later:
            return self
        state, weight = fork(self.state), self.weight
        for happened in later:
            evolve(state, happened)
            weight += _weight(happened.event)
        name = state.username if isinstance(state, User) else state.name
        size = STREAM_BYTES + weight + _text(name) + _text(state.avatar_url)
        return Folded(state=state, seen=self.seen.and_then(later), weight=weight, bytes=size)


def _weight(event: events.Event) -> int:
    """What a punishment grows by; what an amendment replaces is not taken off."""
    if isinstance(event, events.Issued):
        return _ISSUED + _text(event.reason)
    if isinstance(event, events.PunishmentAmended):
        return _AMENDED + _text(event.reason)
    if isinstance(event, events.Revoked | events.PunishmentLapsed):
        return _ENDED + _text(getattr(event, "reason", None))
    return 0


def most_bytes(event: events.Event) -> int:
    """What a state grows by with the event, at most."""
    size = _ISSUED
    for name in event.PERSONAL:
        size += _text(getattr(event, name))
    return size


def _text(text: str | None) -> int:
    """Of a text as wide as its widest character can be, with the UTF-8 of it that Python may come to keep beside it."""
    if text is None:
        return 0
    return _TEXT + (len(text) if text.isascii() else 4 * len(text) + len(text.encode("utf-8", "surrogatepass")))


class KeptStates:
    """At most ``streams`` folded streams of at most ``size`` bytes together, the longest unused leave first, and all
    that were not asked for in ``unused`` seconds of ``clock``. For any number of threads.

    Nothing here has to be right: each use asks the ledger what came since and whether the stream is still the one that
    was folded (``Ledger.load_since``), and what is appended is refused unless the stream is where the decision saw it.
    """

    def __init__(
        self,
        streams: int = STREAMS,
        size: int = BYTES,
        *,
        unused: float = UNUSED_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._streams, self._size, self._unused, self._clock = streams, size, unused, clock
        # With the time of their last use, which is also their order.
        self._kept: OrderedDict[str, tuple[float, Folded]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """What is kept takes at most so many bytes of memory."""
        return self._bytes

    def find(self, streams: Iterable[str]) -> dict[str, Folded]:
        """Those of the streams that are kept."""
        now, found = self._clock(), {}
        with self._lock:
            self._drop_unused(now)
            for stream in streams:
                if one := self._kept.get(stream):
                    self._kept[stream] = now, one[1]
                    self._kept.move_to_end(stream)
                    found[stream] = one[1]
        return found

    def keep(self, folded: Mapping[str, Folded]) -> None:
        """Keeps these, each unless it is larger than all that may be kept or was read further already; a stream without
        events is not worth its place."""
        now = self._clock()
        with self._lock:
            for stream, one in folded.items():
                kept = self._kept.get(stream)
                if one.seen.version == 0 or (kept is not None and kept[1].seen.position > one.seen.position):
                    continue
                self._drop(stream)
                if one.bytes <= self._size:
                    self._kept[stream] = now, one
                    self._bytes += one.bytes
            while len(self._kept) > self._streams or self._bytes > self._size:
                self._drop(next(iter(self._kept)))

    def forget(self, streams: Iterable[str]) -> None:
        """Lets go of the streams, and of whatever text of them is kept."""
        with self._lock:
            for stream in streams:
                self._drop(stream)

    def forget_unused(self) -> None:
        """Lets go of what nobody asked for in a while; what a process calls that may get no more commands."""
        with self._lock:
            self._drop_unused(self._clock())

    def _drop_unused(self, now: float) -> None:
        while self._kept and (oldest := next(iter(self._kept.items())))[1][0] < now - self._unused:
            self._drop(oldest[0])

    def _drop(self, stream: str) -> None:
        dropped = self._kept.pop(stream, None)
        if dropped is not None:
            self._bytes -= dropped[1].bytes


def load_folded(
    ledger: Ledger, kept: KeptStates, streams: Collection[str], command_ids: Collection[UUID] = ()
) -> tuple[dict[str, Folded], dict[UUID, str]]:
    """The streams, each folded to its end, and the streams that hold the commands; loaded is what came since they were
    kept. One round trip, two where a stream is not the one that was kept. Raises LedgerUnavailable."""
    before = kept.find(streams)
    nothing = {s: Folded(state=new(subject_of(s)), seen=UNSEEN) for s in streams if s not in before}
    since = ledger.load_since({s: one.seen for s, one in sorted({**before, **nothing}.items())}, command_ids)
    later = dict(since.streams)
    if gone := [stream for stream, happened in later.items() if happened is None]:
        kept.forget(gone)
        for stream in gone:
            before.pop(stream)
            nothing[stream] = Folded(state=new(subject_of(stream)), seen=UNSEEN)
        later |= ledger.load_since(dict.fromkeys(sorted(gone), UNSEEN)).streams
    folded = {stream: one.and_then(later[stream] or ()) for stream, one in (before | nothing).items()}
    kept.keep(folded)
    return folded, since.commands

"""The door to the ledger: append, load, read forward. Two stores stand behind it, one contract binds both."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import ParamSpec, Protocol, TypeVar
from uuid import UUID

import msgspec

from modledger.domain.envelope import NewEvent, Recorded
from modledger.domain.events import SubjectErased, has_text
from modledger.domain.personal_text import Standing

P = ParamSpec("P")
T = TypeVar("T")


class VersionConflict(Exception):
    """A stream that the decision read has moved on; load again and decide again. Nothing was appended."""


class LedgerUnavailable(Exception):
    """The database cannot be reached, or did not say whether the append was committed. Safe to retry with the
    same command id."""


class LedgerDamaged(Exception):
    """What is stored contradicts itself, as after a restore of tables that do not belong together. Nothing was
    appended, and nothing will be until it is mended; ``modledger verify ledger`` names every such place."""


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """All events of one command: appended together or not at all.

    ``expected`` names every stream that the decision read with the version it had then (0: no event yet), and so at
    least every stream of ``events``, whose versions go on from there without a hole. ``command_id`` is recognised
    for ever: a second append under it adds nothing and returns the first one's events. ``erase`` names streams whose
    subject keys are destroyed in the same transaction.
    """

    command_id: UUID
    events: Sequence[NewEvent]
    expected: Mapping[str, int]
    erase: Sequence[str] = ()


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """``events`` in the order of the append. ``duplicate``: the command was already in the ledger."""

    events: Sequence[Recorded]
    duplicate: bool


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the ledger of which only some topics were read. ``passed``: how many events it has, read or not, the
    last of them at ``position``; with none, ``position`` is where the reading began."""

    events: list[Recorded]
    passed: int
    position: int


class Histories(msgspec.Struct, frozen=True, kw_only=True):
    """Some streams, each whole up to a position, in the store's order of their names; those of which no event was
    asked for are left out. ``passed``: how many events were gone through, read or not. Reading goes on after the
    stream ``last``; with no ``more`` the end is reached."""

    streams: dict[str, list[Recorded]]
    passed: int
    last: str
    more: bool


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """How far a stream was read, by the last event of it (``version`` 0: not at all). ``generation`` is the version of
    its last erasure, 0 before any; ``text``: personal text came since, and with it a key of that generation."""

    version: int = 0
    position: int = 0
    event_id: UUID | None = None
    recorded_at: datetime | None = None
    generation: int = 0
    text: bool = False

    def and_then(self, events: Sequence[Recorded]) -> "Seen":
        """How far it is read with these later events of it."""
        if not events:
            return self
        generation, text = self.generation, self.text
        for happened in events:
            if isinstance(happened.event, SubjectErased):
                generation, text = happened.version, False
            text = text or has_text(happened.event)
        last = events[-1]
        return Seen(
            version=last.version,
            position=last.position,
            event_id=last.event_id,
            recorded_at=last.recorded_at,
            generation=generation,
            text=text,
        )


UNSEEN = Seen()


class Since(msgspec.Struct, frozen=True, kw_only=True):
    """What came to streams since they were read. None for a stream: it is no longer the one that was read, or its text
    of then is readable no more; it has to be read from its beginning. ``commands``: the streams of the events that bear
    the command ids which were asked for; of those there are."""

    streams: dict[str, list[Recorded] | None]
    commands: dict[UUID, str]


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that a ledger made ready for itself: ``append`` appends it and answers what stood in the way, None for
    nothing. ``standings``: what is true of the streams' keys then."""

    append: Callable[[], str | None]
    expected: Mapping[str, int]
    standings: Mapping[str, Standing]


class Ledger(Protocol):
    """Every operation raises LedgerUnavailable when the store cannot be reached."""

    def append(self, append: Append) -> Appended:
        """Appends one command. Durable on return. Raises VersionConflict, and LedgerDamaged where a stream without
        events has a key. Each waits for the commits of those before it: what arrives together goes by
        ``append_together``."""
        ...

    def append_together(self, appends: Sequence[Append]) -> list[Appended | Exception]:
        """Appends commands of several callers in order and in one transaction, each succeeding or failing alone: of
        each what ``append`` answers or would raise; LedgerUnavailable for one that the store did not take for a moment
        while it took others, which may be told another thing alone. One that read a stream which another before it in
        the list writes is a VersionConflict, whatever it expects. Durable on return."""
        ...

    def append_batch(self, appends: Sequence[Append]) -> None:
        """Appends many commands in one transaction, all or none: the door for imports. ``expected`` is taken over the
        whole batch: of a stream's several entries the first is checked, later ones follow from the batch itself.
        Raises VersionConflict, also when one of the commands is already in the ledger, and LedgerDamaged as ``append``
        does."""
        ...

    def prepare_batch(
        self, appends: Sequence[Append], read: Mapping[str, int] | None = None, after: Prepared | None = None
    ) -> Prepared:
        """The first half of ``append_batch``: all that can be done before it is sent. ``read`` names streams that were
        read for nothing to append, with the version they had; they are expected as well. ``after``: a batch that goes
        before this one, may be under way and has to be appended when this one is."""
        ...

    def append_prepared(self, prepared: Prepared) -> None:
        """The second half; raises as ``append_batch``. Another thread may prepare the next batch meanwhile."""
        ...

    def load(self, streams: Sequence[str]) -> dict[str, list[Recorded]]:
        """The whole of each stream, in order, in one round trip; an empty list for a stream without events."""
        ...

    def load_since(self, seen: Mapping[str, Seen], command_ids: Collection[UUID] = ()) -> Since:
        """Of each stream what came after what was seen of it, in order, and which of the commands are already in the
        ledger; in one round trip, all of one moment. That a stream still goes on from what was seen is checked by the
        last event of it, with position, id and time, and by the key of its text: a ledger that was restored from an
        older dump, or lost its end, is not mistaken for the one that was read."""
        ...

    def read(self, after: int, limit: int) -> list[Recorded]:
        """At most ``limit`` events with a position greater than ``after``, in order of position. Nothing is ever
        committed later at a position that this has passed."""
        ...

    def read_topics(self, topics: Collection[str], after: int, limit: int) -> Passage:
        """As ``read``, and at most ``limit`` events are passed; but only those of the topics (current ones, as in
        ``events.EVENTS``) are decoded, the others not even looked into. A topic that this program does not know is
        never passed: a newer program may have meant it for this reader."""
        ...

    def read_streams(self, topics: Collection[str], after: str, until: str | None, head: int, limit: int) -> Histories:
        """The next streams after the name ``after`` ('' at first) up to ``until`` (None: to the last), each with its
        events of the topics up to the position ``head``. About ``limit`` (≥ 1) events are passed, more where a single
        stream is longer. As in ``read_topics`` other topics are not looked into, and one that this program does not
        know is not passed."""
        ...

    def at(self, position: int) -> Recorded | None:
        """The event at that position, None where there is none."""
        ...

    def at_all(self, positions: Collection[int]) -> dict[int, Recorded]:
        """The events at those positions, in one round trip. Left out: positions without one, and events that this
        program cannot read (those of a newer one, and damaged ones)."""
        ...

    def positions_of(self, versions: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The positions of events that are named by stream and version, in one round trip; of those there are."""
        ...

    def head(self) -> int:
        """The last position, 0 for an empty ledger."""
        ...

    def position_at(self, moment: datetime) -> int:
        """The last position that was recorded until then (an aware datetime; that very moment included), 0 where
        nothing was."""
        ...

    def known_commands(self, command_ids: Sequence[UUID]) -> set[UUID]:
        """Those of the ids under which something was appended."""
        ...

    def of_commands(self, command_ids: Collection[UUID]) -> dict[UUID, list[Recorded]]:
        """The events that were appended under those ids, each command's in order, in one round trip; ids under which
        nothing was appended are left out."""
        ...


def tried(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """What ``work`` answers, or the exception that it raises: of several, one is not to stop the others."""
    try:
        return work(*args, **kwargs)
    except Exception as error:
        return error


def each_tried(works: Iterable[Callable[[], T]]) -> list[T | Exception]:
    """Of each, one after the other, what it answers or raises; but a ledger that cannot be reached is waited for once,
    and then none of the rest is begun."""
    answers: list[T | Exception] = []
    for work in works:
        gone = isinstance(answers[-1], LedgerUnavailable) if answers else False
        answers.append(answers[-1] if gone else tried(work))
    return answers

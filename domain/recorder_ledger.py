"""What both ledgers are: the library's application around our mapper and one of our recorders."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Literal, Protocol, cast
from uuid import UUID

import msgspec
from eventsourcing.application import Application
from eventsourcing.persistence import Mapper
from eventsourcing.utils import Environment, EnvType

from modledger.domain.envelope import Recorded
from modledger.domain.events import has_text
from modledger.domain.ledger import Append, Appended, Histories, Passage, Prepared, Seen, Since, VersionConflict, tried
from modledger.domain.mapper import (
    EventMapper,
    Row,
    StoredCommand,
    UnreadableEvent,
    is_the_one,
    others_than,
    recorded,
)
from modledger.domain.personal_text import MasterKey, Standing, Standings, SubjectKey, drawn_ahead

# subject → its key's generation and wrapped bytes
WrappedKeys = Mapping[str, tuple[int, bytes]]


class Outcome(msgspec.Struct, frozen=True):
    """What became of one command. ``positions``: of its events, or of the first one alone for a duplicate."""

    kind: Literal["appended", "duplicate", "conflict"]
    positions: Sequence[int] = ()
    recorded_at: datetime | None = None


class StreamHead(msgspec.Struct, frozen=True):
    """Where a stream stands: its version, the version of its last erasure, its key if it has one."""

    version: int
    generation: int
    wrapped: bytes | None


class CommandRecorder(Protocol):
    """What a ledger needs of its store. Every method raises LedgerUnavailable when the store cannot be reached."""

    def append_command(self, command: StoredCommand) -> Outcome: ...

    def append_commands(self, commands: Sequence[StoredCommand]) -> Sequence[Outcome | Exception]:
        """In order and in one transaction; of each what ``append_command`` answers or would raise."""
        ...

    def append_all(self, commands: Sequence[StoredCommand], expected: Mapping[str, int]) -> str | None:
        """All or none. Answers what stood in the way, None when all were appended. Without commands it only looks
        whether the streams are where they are expected."""
        ...

    def ready_to_append(
        self, commands: Sequence[StoredCommand], expected: Mapping[str, int]
    ) -> Callable[[], str | None]:
        """``append_all`` with everything done that needs no answer of the store."""
        ...

    def heads_of(self, streams: Sequence[str]) -> dict[str, StreamHead]: ...

    def rows_of(self, streams: Sequence[str]) -> tuple[list[Row], WrappedKeys]:
        """Rows ordered by version, and the keys, both of one moment."""
        ...

    def rows_since(
        self, versions: Mapping[str, int], command_ids: Collection[UUID]
    ) -> tuple[list[Row], WrappedKeys, dict[UUID, str]]:
        """Rows of the streams from these versions on, ordered by version, the keys, and the streams of the events that
        bear the command ids, all of one moment."""
        ...

    def rows_after(self, position: int, limit: int) -> list[Row]: ...

    def rows_but(self, topics: Sequence[str], position: int, limit: int) -> tuple[list[Row], WrappedKeys, int, int]:
        """Of the rows after the position, at most ``limit``, those of other topics than these, and the keys of their
        subjects, both of one moment; how many rows that are in all, and the position of the last."""
        ...

    def rows_between(
        self, topics: Sequence[str], after: str, until: str | None, head: int, limit: int
    ) -> tuple[list[Row], int, str | None]:
        """Of the first ``limit`` rows of the streams after one name up to another: those of whole streams, of other
        topics than these, and not after the head; how many there are in all, and the last whole stream. With as
        many as ``limit`` the last stream of them does not count as whole."""
        ...

    def rows_of_command(self, position: int) -> list[Row]:
        """The events of the command whose first event is at the position."""
        ...

    def rows_at(self, positions: Collection[int]) -> tuple[list[Row], WrappedKeys]:
        """The rows at those positions, and the keys of their subjects, both of one moment."""
        ...

    def rows_of_commands(self, command_ids: Collection[UUID]) -> tuple[list[tuple[UUID, Row]], WrappedKeys]:
        """Rows with their command, ordered by position, and the keys of their subjects, both of one moment."""
        ...

    def positions_among(self, versions: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]: ...

    def keys_of(self, subjects: Sequence[str]) -> WrappedKeys: ...

    def last_position(self) -> int: ...

    def last_position_at(self, moment: datetime) -> int: ...

    def commands_among(self, command_ids: Sequence[UUID]) -> set[UUID]: ...


class RecorderLedger(Application[str]):
    """The contract of ``Ledger`` over a recorder.

    Of the library's application it uses the construction and the lifecycle; ``notification_log`` and ``events`` can be
    read with the library's own tools, personal text left out. ``save`` is refused by the recorders: only ``append``
    knows command ids and expected versions.
    """

    recorder: CommandRecorder  # type: ignore[assignment]

    def __init__(self, master: MasterKey, env: Mapping[str, str]) -> None:
        self._master = master
        self._standings = Standings(master)
        self._events = EventMapper()
        super().__init__(dict(env))

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:
        """Ours alone: a variable of the process that the library happens to know must not change the ledger."""
        return Environment(name, env)

    def construct_mapper(self) -> Mapper[str]:
        return self._events

    def append(self, append: Append) -> Appended:
        """See ``Ledger.append``; ValueError for an append against its rules."""
        command = self._stored(append)
        return self._answered(append, command, self.recorder.append_command(command))

    def append_together(self, appends: Sequence[Append]) -> list[Appended | Exception]:
        """See ``Ledger.append_together``; ValueError for an append against its rules."""
        stored: list[StoredCommand | Exception] = []
        written: set[str] = set()
        for append in appends:
            if written.isdisjoint(append.expected):
                stored.append(tried(self._stored, append))
                written.update(new.stream for new in append.events)
            else:
                # Also because nobody knows yet which key its text would be under.
                stored.append(VersionConflict("a stream moves on within the call"))
        commands = [command for command in stored if isinstance(command, StoredCommand)]
        outcomes = iter(self.recorder.append_commands(commands) if commands else ())
        return [
            command if isinstance(command, Exception) else self._told(append, command, next(outcomes))
            for append, command in zip(appends, stored, strict=True)
        ]

    def _stored(self, append: Append) -> StoredCommand:
        standings = self._standings_for([append], append.expected, {})
        return self._events.to_stored_command(append, standings, self._master)

    def _told(self, append: Append, command: StoredCommand, outcome: Outcome | Exception) -> Appended | Exception:
        return outcome if isinstance(outcome, Exception) else tried(self._answered, append, command, outcome)

    def _answered(self, append: Append, command: StoredCommand, outcome: Outcome) -> Appended:
        if outcome.kind == "conflict":
            self._standings.forget(append.expected)
            raise VersionConflict(
                "a stream has moved on: expected " + ", ".join(f"{s} at {v}" for s, v in append.expected.items())
            )
        if outcome.kind == "duplicate":
            return Appended(events=self._decode(self.recorder.rows_of_command(outcome.positions[0])), duplicate=True)
        self._standings.learn(command.standings)
        at = cast("datetime", outcome.recorded_at)
        events = [recorded(new, position, at) for new, position in zip(append.events, outcome.positions, strict=True)]
        return Appended(events=events, duplicate=False)

    def append_batch(self, appends: Sequence[Append]) -> None:
        """See ``Ledger.append_batch``; ValueError for an append against its rules."""
        if appends:
            self.append_prepared(self.prepare_batch(appends))

    def prepare_batch(
        self, appends: Sequence[Append], read: Mapping[str, int] | None = None, after: Prepared | None = None
    ) -> Prepared:
        """See ``Ledger.prepare_batch``; ValueError for an append against its rules."""
        expected: dict[str, int] = {}
        reached: dict[str, int] = {}
        for append in appends:
            for stream, version in append.expected.items():
                expected.setdefault(stream, version)
                if reached.setdefault(stream, version) != version:
                    raise VersionConflict(f"{stream} is at {reached[stream]} within the batch, not at {version}")
            for new in append.events:
                reached[new.stream] = new.version
        standings = self._standings_for(appends, expected, {} if after is None else after.standings)
        commands, random = [], drawn_ahead()
        for append in appends:
            command = self._events.to_stored_command(append, standings, self._master, random)
            standings.update(command.standings)
            commands.append(command)
        expected |= {stream: version for stream, version in (read or {}).items() if stream not in expected}
        return Prepared(
            append=self.recorder.ready_to_append(commands, expected),
            expected=expected,
            standings={stream: standings[stream] for stream in reached if stream in standings},
        )

    def append_prepared(self, prepared: Prepared) -> None:
        """See ``Ledger.append_prepared``."""
        in_the_way = prepared.append()
        if in_the_way is not None:
            self._standings.forget(prepared.expected)
            raise VersionConflict(in_the_way)
        self._standings.learn(prepared.standings)

    def load(self, streams: Sequence[str]) -> dict[str, list[Recorded]]:
        """See ``Ledger.load``."""
        rows, wrapped = self.recorder.rows_of(streams)
        keys = self._open(wrapped)
        loaded: dict[str, list[Recorded]] = {stream: [] for stream in streams}
        generations: dict[str, int] = {}
        for row in rows:
            stream = str(row.originator_id)
            event = self._events.to_domain_event(row, keys.get(stream))
            loaded[stream].append(event)
            if event.event.TOPIC == "subject.erased.v1":
                generations[stream] = event.version
        self._standings.learn(
            {
                stream: Standing(events[-1].version, generations.get(stream, 0), keys.get(stream))
                for stream, events in loaded.items()
                if events
            }
        )
        return loaded

    def load_since(self, seen: Mapping[str, Seen], command_ids: Collection[UUID] = ()) -> Since:
        """See ``Ledger.load_since``; raises as ``read``."""
        rows, wrapped, commands = self.recorder.rows_since({s: one.version for s, one in seen.items()}, command_ids)
        keys = self._open(wrapped)
        rows_of: dict[str, list[Row]] = {stream: [] for stream in seen}
        for row in rows:
            rows_of[str(row.originator_id)].append(row)
        streams: dict[str, list[Recorded] | None] = {}
        standings: dict[str, Standing] = {}
        for stream, before in seen.items():
            key, later = keys.get(stream), rows_of[stream]
            if not later and not before.version:
                streams[stream] = []
                continue
            if before.version:
                if not (later and is_the_one(later[0], before) and _still_readable(before, wrapped.get(stream))):
                    streams[stream] = None
                    continue
                del later[0]
            events = streams[stream] = [self._events.to_domain_event(row, key) for row in later]
            now = before.and_then(events)
            if now.version:
                standings[stream] = Standing(now.version, now.generation, key)
        self._standings.learn(standings)
        return Since(streams=streams, commands=commands)

    def read(self, after: int, limit: int) -> list[Recorded]:
        """See ``Ledger.read``. Raises UnreadableEvent, with its position, for one that cannot be
        read, and UnknownEvent for one of a newer program."""
        return self._decode(self.recorder.rows_after(after, limit))

    def read_topics(self, topics: Collection[str], after: int, limit: int) -> Passage:
        """See ``Ledger.read_topics``; raises as ``read``, but not for an event of another topic."""
        rows, wrapped, passed, position = self.recorder.rows_but(others_than(topics), after, limit)
        keys = self._open(wrapped)
        events = [self._events.to_domain_event(row, keys.get(str(row.originator_id))) for row in rows]
        return Passage(events=events, passed=passed, position=position)

    def read_streams(self, topics: Collection[str], after: str, until: str | None, head: int, limit: int) -> Histories:
        """See ``Ledger.read_streams``; raises as ``read_topics``."""
        others = others_than(topics)
        rows, passed, last = self.recorder.rows_between(others, after, until, head, limit)
        while last is None and passed:
            limit *= 2
            rows, passed, last = self.recorder.rows_between(others, after, until, head, limit)
        streams: dict[str, list[Recorded]] = {}
        for event in self._decode(rows):
            streams.setdefault(event.stream, []).append(event)
        return Histories(streams=streams, passed=passed, last=after if last is None else last, more=passed >= limit)

    def at(self, position: int) -> Recorded | None:
        """See ``Ledger.at``."""
        rows = [row for row in self.recorder.rows_after(position - 1, 1) if row.id == position]
        return self._decode(rows)[0] if rows else None

    def at_all(self, positions: Collection[int]) -> dict[int, Recorded]:
        """See ``Ledger.at_all``."""
        rows, wrapped = self.recorder.rows_at(positions)
        keys = self._open(wrapped)
        found = {}
        for row in rows:
            with suppress(UnreadableEvent):
                found[row.id] = self._events.to_domain_event(row, keys.get(str(row.originator_id)))
        return found

    def positions_of(self, versions: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """See ``Ledger.positions_of``."""
        return self.recorder.positions_among(versions)

    def head(self) -> int:
        """See ``Ledger.head``."""
        return self.recorder.last_position()

    def position_at(self, moment: datetime) -> int:
        """See ``Ledger.position_at``."""
        return self.recorder.last_position_at(moment)

    def known_commands(self, command_ids: Sequence[UUID]) -> set[UUID]:
        """See ``Ledger.known_commands``."""
        return self.recorder.commands_among(command_ids)

    def of_commands(self, command_ids: Collection[UUID]) -> dict[UUID, list[Recorded]]:
        """See ``Ledger.of_commands``; raises as ``read``."""
        rows, wrapped = self.recorder.rows_of_commands(command_ids)
        keys = self._open(wrapped)
        found: dict[UUID, list[Recorded]] = {}
        for command_id, row in rows:
            event = self._events.to_domain_event(row, keys.get(str(row.originator_id)))
            found.setdefault(command_id, []).append(event)
        return found

    def _standings_for(
        self, appends: Sequence[Append], expected: Mapping[str, int], coming: Mapping[str, Standing]
    ) -> dict[str, Standing]:
        """Standings of the streams that get personal text; no round trip for those that are still known, or that
        will be so once what is under way is appended (``coming``)."""
        written = {new.stream for append in appends for new in append.events if has_text(new.event)}
        standings = self._standings.as_of({stream: expected[stream] for stream in written if stream in expected})
        for stream in written & coming.keys():
            if coming[stream].version == expected.get(stream):
                standings[stream] = coming[stream]
        if missing := [stream for stream in written if stream in expected and stream not in standings]:
            for stream, head in self.recorder.heads_of(missing).items():
                key = None if head.wrapped is None else self._standings.open(stream, head.generation, head.wrapped)
                standings[stream] = Standing(head.version, head.generation, key)
        return standings

    def _decode(self, rows: Sequence[Row]) -> list[Recorded]:
        # Keys are asked for anew, however recently one was used: an erasure counts from its commit, in every process.
        keys = self._open(self.recorder.keys_of(list({str(row.originator_id) for row in rows}))) if rows else {}
        return [self._events.to_domain_event(row, keys.get(str(row.originator_id))) for row in rows]

    def _open(self, wrapped: WrappedKeys) -> dict[str, SubjectKey]:
        return {subject: self._standings.open(subject, *key) for subject, key in wrapped.items()}


def _still_readable(seen: Seen, key: tuple[int, bytes] | None) -> bool:
    """Whether text that was read under the key of then still can be. An erasure takes that key with it, so a stream
    that was erased since is read from its beginning, and nothing of the text stays."""
    return not seen.text or (key is not None and key[0] == seen.generation)

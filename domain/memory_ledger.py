"""A ledger in the memory of one process, for tests and trials: the whole contract, nothing durable."""

import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from eventsourcing.popo import POPOApplicationRecorder, POPOFactory
from eventsourcing.utils import Environment

from modledger.domain.mapper import Row, StoredCommand
from modledger.domain.personal_text import KEY_BYTES, MasterKey
from modledger.domain.recorder_ledger import Outcome, RecorderLedger, StreamHead, WrappedKeys


class MemoryRecorder(POPOApplicationRecorder):
    """The library's recorder in plain lists, with command ids, expected versions, times and keys beside them."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__()
        self._clock = clock
        self._times: list[datetime] = []
        self._first_positions: dict[UUID, int] = {}
        self._sizes: dict[int, int] = {}
        self._keys: dict[str, tuple[int, bytes]] = {}

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:  # noqa: ARG002
        raise TypeError("events enter the ledger through append: they need a command id and expected versions")

    def append_command(self, command: StoredCommand) -> Outcome:
        with self._database_lock:
            if known := self._first_positions.get(command.command_id):
                return Outcome("duplicate", [known])
            if any(self._version(stream) != version for stream, version in command.expected.items()):
                return Outcome("conflict")
            return self._append(command)

    def append_commands(self, commands: Sequence[StoredCommand]) -> list[Outcome | Exception]:
        with self._database_lock:
            return [self.append_command(command) for command in commands]

    def append_all(self, commands: Sequence[StoredCommand], expected: Mapping[str, int]) -> str | None:
        with self._database_lock:
            for stream, version in expected.items():
                if self._version(stream) != version:
                    return f"{stream} is not at {version}"
            ids = [command.command_id for command in commands]
            if len(set(ids)) < len(ids) or any(command_id in self._first_positions for command_id in ids):
                return "a command of the batch is already in the ledger"
            for command in commands:
                self._append(command)
            return None

    def ready_to_append(
        self, commands: Sequence[StoredCommand], expected: Mapping[str, int]
    ) -> Callable[[], str | None]:
        return lambda: self.append_all(commands, expected)

    def heads_of(self, streams: Sequence[str]) -> dict[str, StreamHead]:
        with self._database_lock:
            heads = {}
            for stream in streams:
                erasures = [row.originator_version for row in self._rows(stream) if row.topic == "subject.erased.v1"]
                wrapped = self._keys[stream][1] if stream in self._keys else None
                heads[stream] = StreamHead(self._version(stream), max(erasures, default=0), wrapped)
            return heads

    def rows_of(self, streams: Sequence[str]) -> tuple[list[Row], WrappedKeys]:
        with self._database_lock:
            return [row for stream in dict.fromkeys(streams) for row in self._rows(stream)], self.keys_of(streams)

    def rows_since(
        self, versions: Mapping[str, int], command_ids: Collection[UUID]
    ) -> tuple[list[Row], WrappedKeys, dict[UUID, str]]:
        with self._database_lock:
            rows = [
                row for stream, seen in versions.items() for row in self._rows(stream) if row.originator_version >= seen
            ]
            known = {one: self._first_positions[one] for one in command_ids if one in self._first_positions}
            written = {one: str(self._row(first - 1).originator_id) for one, first in known.items()}
            return rows, self.keys_of(list(versions)), written

    def rows_after(self, position: int, limit: int) -> list[Row]:
        with self._database_lock:
            start = max(position, 0)
            return [self._row(index) for index in range(start, min(start + limit, len(self._stored_events)))]

    def rows_but(self, topics: Sequence[str], position: int, limit: int) -> tuple[list[Row], WrappedKeys, int, int]:
        with self._database_lock:
            rows = self.rows_after(position, limit)
            wanted = [row for row in rows if row.topic not in topics]
            keys = self.keys_of([str(row.originator_id) for row in wanted])
        return wanted, keys, len(rows), rows[-1].id if rows else position

    def rows_between(
        self, topics: Sequence[str], after: str, until: str | None, head: int, limit: int
    ) -> tuple[list[Row], int, str | None]:
        with self._database_lock:
            names = sorted(s for s in self._stored_events_index if after < s and (until is None or s <= until))
            rows = [row for name in names for row in self._rows(name)][:limit]
        whole = list(dict.fromkeys(str(row.originator_id) for row in rows))
        if len(rows) == limit:
            whole.pop()
        found = [row for row in rows if row.originator_id in whole and row.topic not in topics and row.id <= head]
        return found, len(rows), whole[-1] if whole else None

    def rows_of_command(self, position: int) -> list[Row]:
        return self.rows_after(position - 1, self._sizes[position])

    def rows_at(self, positions: Collection[int]) -> tuple[list[Row], WrappedKeys]:
        with self._database_lock:
            rows = [self._row(position - 1) for position in positions if 0 < position <= len(self._stored_events)]
            return rows, self.keys_of([str(row.originator_id) for row in rows])

    def rows_of_commands(self, command_ids: Collection[UUID]) -> tuple[list[tuple[UUID, Row]], WrappedKeys]:
        with self._database_lock:
            known = sorted((self._first_positions[id_], id_) for id_ in set(command_ids) & self._first_positions.keys())
            rows = [(id_, row) for position, id_ in known for row in self.rows_of_command(position)]
            return rows, self.keys_of([str(row.originator_id) for _, row in rows])

    def positions_among(self, versions: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        with self._database_lock:
            indexes = {one: self._stored_events_index.get(one[0], {}).get(one[1]) for one in versions}
            return {one: index + 1 for one, index in indexes.items() if index is not None}

    def keys_of(self, subjects: Sequence[str]) -> WrappedKeys:
        with self._database_lock:
            return {subject: self._keys[subject] for subject in subjects if subject in self._keys}

    def last_position(self) -> int:
        return len(self._stored_events)

    def last_position_at(self, moment: datetime) -> int:
        with self._database_lock:
            return bisect_right(self._times, moment)

    def commands_among(self, command_ids: Sequence[UUID]) -> set[UUID]:
        return {command_id for command_id in command_ids if command_id in self._first_positions}

    def _append(self, command: StoredCommand) -> Outcome:
        at = max(self._clock(), self._times[-1]) if self._times else self._clock()
        positions = self._insert_events(command.events) or []
        self._times.extend(at for _ in positions)
        self._first_positions[command.command_id] = positions[0]
        self._sizes[positions[0]] = len(positions)
        self._keys.update((key.subject, (key.generation, key.wrapped)) for key in command.keys)
        for stream, generation in command.erased:
            if stream in self._keys and self._keys[stream][0] < generation:
                del self._keys[stream]
        return Outcome("appended", positions, at)

    def _version(self, stream: str) -> int:
        return max(self._stored_events_index.get(stream, ()), default=0)

    def _rows(self, stream: str) -> list[Row]:
        return [self._row(index) for index in self._stored_events_index.get(stream, {}).values()]

    def _row(self, index: int) -> Row:
        event = self._stored_events[index]
        return Row(
            event.originator_id, event.originator_version, event.topic, event.state, index + 1, self._times[index]
        )


class MemoryLedger(RecorderLedger):
    """``clock`` gives ``recorded_at``, as an aware datetime. ``master_key``: 32 bytes, random unless given."""

    def __init__(self, clock: Callable[[], datetime], master_key: bytes | None = None) -> None:
        self._clock = clock
        super().__init__(MasterKey(master_key or os.urandom(KEY_BYTES)), {})

    def construct_factory(self, env: Environment) -> POPOFactory:  # type: ignore[override]
        return POPOFactory(env)

    def construct_recorder(self) -> MemoryRecorder:
        return MemoryRecorder(self._clock)

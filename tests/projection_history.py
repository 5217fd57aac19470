"""Given these events, then these rows: folds tried without a database, and with one."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import msgspec
import psycopg

from modledger.domain.envelope import SYSTEM, Actor, NewEvent, Recorded
from modledger.domain.events import Event, SubjectErased
from modledger.domain.ledger import Append, Ledger
from modledger.domain.memory_ledger import MemoryLedger
from modledger.projections.projector import Key, Projector, Table

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
ADMIN, OTHER_ADMIN, BOT = Actor("user", 21), Actor("user", 22), Actor("bot", 500)
NAMESPACE = UUID("6f6e6c79-2066-6f72-2074-657374730001")

# Positions are far from versions, so that the two cannot be taken for each other.
FIRST_POSITION = 1001


class Happened(msgspec.Struct, frozen=True):
    """An event in the order of the ledger; ``at`` is the act's own time, ``request`` its correlation id."""

    stream: str
    event: Event
    at: datetime = NOW
    by: Actor = SYSTEM
    request: UUID = NAMESPACE


def new_event(happened: Happened, version: int) -> NewEvent:
    return NewEvent(
        stream=happened.stream,
        version=version,
        event=happened.event,
        event_id=uuid5(NAMESPACE, f"{happened.stream} {version}"),
        occurred_at=happened.at,
        actor=happened.by,
        correlation_id=happened.request,
        via="http",
    )


def recorded(history: Iterable[Happened]) -> list[Recorded]:
    """The history as a ledger gives it, from FIRST_POSITION on."""
    versions: dict[str, int] = {}
    events = []
    for position, happened in enumerate(history, FIRST_POSITION):
        version = versions[happened.stream] = versions.get(happened.stream, 0) + 1
        new = msgspec.structs.asdict(new_event(happened, version))
        events.append(Recorded(**new, position=position, recorded_at=NOW))
    return events


def folded(projector: Projector[Any], *history: Happened) -> dict[Key, Any]:
    """The projector's rows after these events, by key."""
    rows: dict[Key, Any] = {}
    for happened in recorded(history):
        touched = projector.touches(happened) if happened.event.TOPIC in projector.topics else None
        if touched is not None:
            mine = {key: row for key, row in rows.items() if key[0] == touched[0]}
            for row in projector.fold(mine, happened):
                rows[tuple(getattr(row, column) for column in projector.key)] = row
    return rows


def only(rows: Mapping[Key, Any]) -> Any:
    (row,) = rows.values()
    return row


def memory_ledger() -> MemoryLedger:
    return MemoryLedger(lambda: NOW)


def append(ledger: Ledger, versions: dict[str, int], happened: Happened) -> int:
    """Appends one event and answers its version; ``versions`` are those of all streams and kept."""
    ledger.append(append_of(versions, happened))
    return versions[happened.stream]


def append_of(versions: dict[str, int], happened: Happened) -> Append:
    """The same, for a batch."""
    before = versions.get(happened.stream, 0)
    versions[happened.stream] = before + 1
    return Append(
        command_id=uuid5(NAMESPACE, f"command {happened.stream} {before + 1}"),
        events=[new_event(happened, before + 1)],
        expected={happened.stream: before},
        erase=[happened.stream] if isinstance(happened.event, SubjectErased) else [],
    )


def contents(conn: psycopg.Connection[Any], tables: Sequence[Table]) -> dict[str, list[Any]]:
    """Every row of the tables, ordered by primary key."""
    return {
        table.name: conn.execute(
            f"select {', '.join(table.columns)} from {table.name} order by {', '.join(table.primary_key)}".encode()
        ).fetchall()
        for table in tables
    }

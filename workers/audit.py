"""The audit log as the ledger itself tells it: who did what to whom, when, by which way, why, and what it changed.

A read table only says where to look, for a period of time or a correlation id; whatever is told comes from the events.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import tuple_row

from modledger.domain.envelope import Actor, Recorded, Subject, subject_of
from modledger.domain.events import (
    Issued,
    PunishmentAmended,
    PunishmentLapsed,
    PunishmentSuperseded,
    Revoked,
    SubjectErased,
    TrialStarted,
)
from modledger.domain.ledger import Ledger
from modledger.domain.subjects import BASIC, TRIAL
from modledger.projections.audit_log import EVENT_TYPES

PAGE = 1000


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, all of it together. ``event_types``: names of ``EVENT_TYPES``, none for all; ``since`` ≤ the
    act's own time < ``until``; ``after`` < position ≤ ``head``, which is a position that the ledger has reached."""

    head: int
    after: int = 0
    subject: Subject | None = None
    actor: Actor | None = None
    event_types: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    correlation_id: UUID | None = None


class Change(msgspec.Struct, frozen=True):
    """A value before and after; ``old`` None also where there was none."""

    old: Any
    new: Any


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """An event as an auditor reads it. ``actor``: ``user:1``, ``bot:2``, ``system`` or ``operator``; ``reason``: why;
    ``changes``: values by their names. ``punishment_id``: the punishment that it is about; ``superseded_by``: the one
    that took its place. ``error``: why nothing more than the position is known, where the event cannot be read."""

    position: int
    recorded_at: datetime | None = None
    occurred_at: datetime | None = None
    subject: str | None = None
    event_type: str | None = None
    actor: str | None = None
    via: str | None = None
    reason: str | None = None
    changes: dict[str, Change] = {}
    punishment_id: int | None = None
    superseded_by: int | None = None
    correlation_id: UUID | None = None
    batch_id: UUID | None = None
    external_id: str | None = None
    error: str | None = None


def lines(conninfo: str, ledger: Ledger, asked: Filters, *, newest_first: bool = False) -> Iterator[Line]:
    """All that is asked for, in the order of positions, as they are in the ledger when the first is read. Memory does
    not grow with them. Where ``by_read_table`` says so, the read table ``audit_log`` has to have come to ``head``.

    Raises psycopg.Error and LedgerUnavailable.
    """
    positions = _positions(conninfo, asked, newest_first)
    while page := list(islice(positions, PAGE)):
        yield from _told(ledger, page, asked)


def story(ledger: Ledger, subject: Subject) -> list[Line]:
    """All that ever happened to the subject, in order; nothing for one that is not known. Raises LedgerUnavailable, and
    UnreadableEvent."""
    return _lines(ledger, ledger.load([str(subject)])[str(subject)])


def punishment_story(ledger: Ledger, punishment_id: int) -> list[Line] | None:
    """All that ever happened to the punishment, the erasure of its text among it; None where there is none of that id.
    Raises as ``story``."""
    issued = ledger.at(punishment_id)
    if issued is None or not isinstance(issued.event, Issued):
        return None
    number = issued.version
    history = ledger.load([issued.stream])[issued.stream]
    return _lines(
        ledger,
        [
            one
            for one in history
            if one.version == number
            or getattr(one.event, "number", None) == number
            or (isinstance(one.event, SubjectErased) and one.version > number)
        ],
    )


def matches(recorded: Recorded, asked: Filters) -> bool:
    """Whether the event is among what is asked for."""
    return (
        asked.after < recorded.position <= asked.head
        and (asked.subject is None or recorded.stream == str(asked.subject))
        and (asked.actor is None or recorded.actor == asked.actor)
        and (not asked.event_types or event_type(recorded) in asked.event_types)
        and (asked.since is None or recorded.occurred_at >= asked.since)
        and (asked.until is None or recorded.occurred_at < asked.until)
        and (asked.correlation_id is None or recorded.correlation_id == asked.correlation_id)
    )


def event_type(recorded: Recorded) -> str:
    """The event's public name, such as USER_BAN (docs/api.md)."""
    return EVENT_TYPES[subject_of(recorded.stream).kind, recorded.event.TOPIC]


# -- where to look


def by_read_table(asked: Filters) -> bool:
    """Whether the read table ``audit_log`` says where to look, and not the ledger itself."""
    told = (asked.since, asked.until, asked.correlation_id)
    return asked.subject is None and any(one is not None for one in told)


def _positions(conninfo: str, asked: Filters, newest_first: bool) -> Iterator[int]:
    query, parameters = _query(asked)
    order = "desc" if newest_first else "asc"
    with (
        psycopg.connect(conninfo, application_name="modledger audit") as connection,
        connection.cursor("audit", row_factory=tuple_row) as cursor,
    ):
        cursor.itersize = PAGE
        # A plan for the first rows would walk the whole ledger for a subject of few events; but for the newest ones.
        connection.execute(f"set local cursor_tuple_fraction = {0.01 if newest_first else 1}")
        cursor.execute(f"{query} order by 1 {order}".encode(), parameters)
        for (position,) in cursor:
            yield position


def _query(asked: Filters) -> tuple[str, list[object]]:
    """SQL and parameters for the positions of whatever may be asked for; ``matches`` says which of them is."""
    kinds = {(kind, topic) for (kind, topic), name in EVENT_TYPES.items() if name in asked.event_types}
    parameters: list[object] = [asked.after, asked.head]
    conditions = []

    def add(condition: str, value: object) -> None:
        conditions.append(condition)
        parameters.append(value)

    if by_read_table(asked):
        # audit_log_pkey, of a few types audit_log_type, of an actor audit_log_actor, audit_log_correlation
        query = "select position from audit_log where position > %s and position <= %s"
        if asked.since is not None:
            add("occurred_at >= %s", asked.since)
        if asked.until is not None:
            add("occurred_at < %s", asked.until)
        if kinds:
            add("event_type = any(%s)", sorted(asked.event_types))
        if asked.actor is not None and asked.actor.id is not None:
            add("actor_id = %s", asked.actor.id)
        if asked.correlation_id is not None:
            add("correlation_id = %s", asked.correlation_id)
    else:
        # Of a subject ledger_pkey. All else is looked for along ledger_position, over a million rows a second: asked
        # rarely, and never by a request.
        query = "select notification_id from ledger where notification_id > %s and notification_id <= %s"
        if asked.subject is not None:
            add("originator_id = %s", str(asked.subject))
        if kinds:
            add("topic = any(%s)", sorted({topic for _, topic in kinds}))
        if asked.actor is not None:
            add("actor = %s", str(asked.actor))
    return " and ".join([query, *conditions]), parameters


# -- what to tell


def _told(ledger: Ledger, positions: list[int], asked: Filters) -> Iterator[Line]:
    found = ledger.at_all(positions)
    told = {line.position: line for line in _lines(ledger, [one for one in found.values() if matches(one, asked)])}
    for position in positions:
        if position not in found:
            # Left out it would look as if nothing had happened.
            yield Line(position=position, error="the event cannot be read: it is damaged, or of a newer program")
        elif position in told:
            yield told[position]


def _lines(ledger: Ledger, happened: Iterable[Recorded]) -> list[Line]:
    known = list(happened)
    numbers = {(one.stream, number) for one in known for number in _numbers(one)}
    positions = ledger.positions_of(numbers) if numbers else {}
    return [_line(one, positions) for one in known]


def _numbers(recorded: Recorded) -> list[int]:
    event = recorded.event
    if isinstance(event, PunishmentSuperseded):
        return [event.number, event.by]
    return [event.number] if isinstance(event, PunishmentAmended | PunishmentLapsed | Revoked) else []


def _line(recorded: Recorded, positions: Mapping[tuple[str, int], int]) -> Line:
    event = recorded.event
    about = [positions.get((recorded.stream, number)) for number in _numbers(recorded)]
    return Line(
        position=recorded.position,
        recorded_at=recorded.recorded_at,
        occurred_at=recorded.occurred_at,
        subject=recorded.stream,
        event_type=event_type(recorded),
        actor=str(recorded.actor),
        via=recorded.via,
        reason=None if isinstance(event, PunishmentAmended) else getattr(event, "reason", None),
        changes=changes(recorded),
        punishment_id=recorded.position if isinstance(event, Issued) else next(iter(about), None),
        superseded_by=next(iter(about[1:]), None),
        correlation_id=recorded.correlation_id,
        batch_id=recorded.causation_id,
        external_id=recorded.external_id,
    )


def changes(recorded: Recorded) -> dict[str, Change]:
    """The values that the event changed, by their names, each with the one before where the event says so. The reason
    why is none of them, but an amended reason of a punishment is."""
    event = recorded.event
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    if "old_tier" in fields and "tier" not in fields:
        fields["tier"] = TRIAL if isinstance(event, TrialStarted) else BASIC
    if not isinstance(event, PunishmentAmended):
        fields.pop("reason", None)
    return {
        name: Change(old, value)
        for name, value in fields.items()
        if not name.startswith("old_") and name not in {"number", "by"} and (old := fields.get(f"old_{name}")) != value
    }

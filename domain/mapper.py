"""Between events and what the ledger stores of them: names, bytes, and personal text under its subject's key."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import JSONTranscoder, Mapper, Notification, StoredEvent
from msgspec.structs import asdict

from modledger.domain.envelope import Actor, NewEvent, Recorded, Via
from modledger.domain.events import ERASED, EVENTS, Event, SubjectErased, has_text
from modledger.domain.ledger import Append, Seen
from modledger.domain.personal_text import DamagedText, MasterKey, Random, Standing, SubjectKey
from modledger.domain.upcasting import UPCASTS, Upcast, newest, upcast

Payload = TypeVar("Payload", dict[str, Any], msgspec.Raw)


class UnreadableEvent(Exception):
    """The stored bytes are no event, or their personal text was changed. ``position`` and ``topic`` say which."""

    def __init__(self, position: int, topic: str, why: object) -> None:
        super().__init__(f"{topic} at position {position} cannot be read: {why}")
        self.position = position
        self.topic = topic


class UnknownEvent(UnreadableEvent):
    """The ledger holds an event that this program has no class for: it was written by a newer one."""


@dataclass(frozen=True)
class Row(Notification):
    """An event as the ledger stores it, with the time that the ledger gave it."""

    recorded_at: datetime


class Personal(msgspec.Struct, frozen=True):
    """The personal fields of an event, as the JSON object of them encrypted under the key of ``generation``."""

    generation: int
    text: bytes


class State(msgspec.Struct, Generic[Payload], frozen=True, omit_defaults=True):
    """The stored bytes: envelope and payload, an object on its way there, bytes on its way back. ``personal`` is left
    out where every personal field is None."""

    event_id: UUID
    occurred_at: datetime
    actor: Actor
    correlation_id: UUID
    via: Via
    payload: Payload
    causation_id: UUID | None = None
    external_id: str | None = None
    personal: Personal | None = None


class StoredCommand(msgspec.Struct, frozen=True):
    """An ``Append`` as the recorders take it. ``erased``: streams and the generation below which keys are destroyed.
    ``standings``: what is true of the streams' keys once it is appended."""

    command_id: UUID
    events: list[StoredEvent]
    actors: list[str]
    vias: list[str]
    expected: Mapping[str, int]
    keys: list[SubjectKey]
    erased: list[tuple[str, int]]
    standings: dict[str, Standing]


class Named(msgspec.Struct, frozen=True):
    """Of the stored bytes the id alone."""

    event_id: UUID


_encode = msgspec.json.Encoder().encode
_decode_name = msgspec.json.Decoder(Named).decode
_decode_state = msgspec.json.Decoder(State[msgspec.Raw]).decode
_decode_payload = msgspec.json.Decoder(dict[str, Any]).decode

# What stands for a personal field whose text is gone.
_PLACEHOLDERS: dict[type[Event], dict[str, str | None]] = {
    event: {
        field.name: ERASED if field.type is str else None
        for field in msgspec.structs.fields(event)
        if field.name in event.PERSONAL
    }
    for event in EVENTS.values()
}


def others_than(topics: Collection[str], upcasts: Mapping[str, tuple[str, Upcast]] = UPCASTS) -> list[str]:
    """The stored topics that this program knows and that become none of these."""
    return [topic for topic in (*EVENTS, *upcasts) if newest(topic, upcasts) not in topics]


def is_the_one(row: Row, seen: Seen) -> bool:
    """Whether the row holds the event that was seen last; its personal text is not looked into."""
    if (row.originator_version, row.id, row.recorded_at) != (seen.version, seen.position, seen.recorded_at):
        return False
    try:
        return _decode_name(row.state).event_id == seen.event_id
    except msgspec.MsgspecError:
        return False


class EventMapper(Mapper[str]):
    """The library's mapper, with stable names for topics and msgspec for JSON."""

    def __init__(self) -> None:
        super().__init__(JSONTranscoder())

    def to_stored_event(
        self, domain_event: DomainEventProtocol[str], key: SubjectKey | None = None, random: Random = os.urandom
    ) -> StoredEvent:
        """``key`` is the subject's of this moment; raises ValueError when the event needs one and none came."""
        if not isinstance(domain_event, NewEvent):
            raise TypeError(f"{type(domain_event).__name__} is not an event of the ledger")
        new, event = domain_event, domain_event.event
        payload = asdict(event)
        personal = None
        if event.PERSONAL:
            filled = has_text(event)
            text = {}
            for name in event.PERSONAL:
                text[name] = payload.pop(name)
            if filled:
                if key is None or key.subject != new.stream:
                    raise ValueError(f"{event.TOPIC} has personal text and needs the key of {new.stream}")
                personal = Personal(key.generation, key.seal(_encode(text), new.event_id, random))
        state = State(
            new.event_id,
            new.occurred_at,
            new.actor,
            new.correlation_id,
            new.via,
            payload,
            new.causation_id,
            new.external_id,
            personal,
        )
        return StoredEvent(new.stream, new.version, event.TOPIC, _encode(state))

    def to_domain_event(self, stored_event: StoredEvent, key: SubjectKey | None = None) -> Recorded:
        """``key`` is the one that the subject has now: text of another generation reads as erased, and so does all text
        without a key. Raises UnreadableEvent, and UnknownEvent for a topic that this program does not know."""
        if not isinstance(stored_event, Row):
            raise TypeError("only rows of the ledger have a position")
        position, topic = stored_event.id, stored_event.topic
        try:
            state = _decode_state(stored_event.state)
            payload = _decode_payload(state.payload)
            if state.personal and key and key.generation == state.personal.generation:
                payload.update(_decode_payload(key.open(state.personal.text, state.event_id)))
            newest, payload = upcast(topic, payload)
            event = EVENTS.get(newest)
            if event is None:
                raise UnknownEvent(position, topic, "this program does not know it")
            if event.PERSONAL:
                payload = (_PLACEHOLDERS[event] if state.personal else dict.fromkeys(event.PERSONAL)) | payload
            fact = msgspec.convert(payload, event)
        except (msgspec.MsgspecError, DamagedText) as error:
            raise UnreadableEvent(position, topic, error) from error
        return Recorded(
            stream=str(stored_event.originator_id),
            version=stored_event.originator_version,
            event=fact,
            event_id=state.event_id,
            occurred_at=state.occurred_at,
            actor=state.actor,
            correlation_id=state.correlation_id,
            causation_id=state.causation_id,
            via=state.via,
            external_id=state.external_id,
            position=position,
            recorded_at=stored_event.recorded_at,
        )

    def to_stored_command(
        self, append: Append, standings: Mapping[str, Standing], master: MasterKey, random: Random = os.urandom
    ) -> StoredCommand:
        """``standings``: at least of every stream that gets personal text. Raises ValueError for an append that breaks
        the rules of ``Append``: no event, an unnamed stream, a hole in the versions, an erasure without its event."""
        if not append.events:
            raise ValueError("an append needs an event")
        versions = dict(append.expected)
        now: dict[str, Standing] = {}
        stored, keys, erased = [], [], {}
        for new in append.events:
            stream, version, event = new.stream, new.version, new.event
            if versions.get(stream) != version - 1:
                raise ValueError(f"version {version} of {stream} does not follow {versions.get(stream)}")
            versions[stream] = version
            standing = now.get(stream) or standings.get(stream)
            if type(event) is SubjectErased:
                standing = Standing(version, version, None)
                erased[stream] = version
            if standing is None:
                stored.append(self.to_stored_event(new))
                continue
            key = standing.key
            if key is None and has_text(event):
                key = master.make(stream, standing.generation, random)
                keys.append(key)
            now[stream] = Standing(version, standing.generation, key)
            stored.append(self.to_stored_event(new, key, random))
        if (append.erase or erased) and set(append.erase) != erased.keys():
            raise ValueError("the streams to erase are not those that a SubjectErased is appended to")
        return StoredCommand(
            command_id=append.command_id,
            events=stored,
            actors=[str(new.actor) for new in append.events],
            vias=[new.via for new in append.events],
            expected=append.expected,
            keys=keys,
            erased=list(erased.items()),
            standings=now,
        )


def recorded(new: NewEvent, position: int, recorded_at: datetime) -> Recorded:
    """The event as it stands in the ledger after its append."""
    return Recorded(
        stream=new.stream,
        version=new.version,
        event=new.event,
        event_id=new.event_id,
        occurred_at=new.occurred_at,
        actor=new.actor,
        correlation_id=new.correlation_id,
        causation_id=new.causation_id,
        via=new.via,
        external_id=new.external_id,
        position=position,
        recorded_at=recorded_at,
    )

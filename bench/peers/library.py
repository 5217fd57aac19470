"""The peer: the eventsourcing library on PostgreSQL as its documentation teaches, with its defaults."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import DomainEvent
from eventsourcing.persistence import InfrastructureFactory, Tracking, TrackingRecorder
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresTrackingRecorder
from eventsourcing.projection import Projection
from eventsourcing.utils import Environment, get_topic
from psycopg.conninfo import conninfo_to_dict

from modledger.domain import events
from modledger.domain.envelope import NewEvent
from modledger.projections.punishments import ISSUES
from modledger.projections.reason_words import key


def environment(conninfo: str) -> dict[str, str]:
    """What the library needs to be told, and nothing that it has a default for."""
    parts = conninfo_to_dict(conninfo)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(parts["dbname"]),
        "POSTGRES_HOST": str(parts["host"]),
        "POSTGRES_PORT": str(parts["port"]),
        "POSTGRES_USER": str(parts["user"]),
        "POSTGRES_PASSWORD": "",
    }


@contextmanager
def recorder(conninfo: str, *, create_table: bool = True) -> Iterator[PostgresApplicationRecorder]:
    """The library's recorder on a table that it makes itself, unless another process already did: several that do it at
    the same time stop each other."""
    factory: InfrastructureFactory[TrackingRecorder] = InfrastructureFactory.construct(
        Environment("library", environment(conninfo) | {"CREATE_TABLE": "y" if create_table else "n"})
    )
    made = factory.application_recorder()
    assert isinstance(made, PostgresApplicationRecorder)
    try:
        yield made
    finally:
        factory.close()


@dataclass(frozen=True)
class Issued(DomainEvent):
    """A punishment, numbered by its version as ours."""

    stream: str
    type: int
    reason: str
    issued_by: int | None
    expires_at: datetime | None


@dataclass(frozen=True)
class Ended(DomainEvent):
    stream: str
    number: int
    kind: str
    lifted_by: int | None


@dataclass(frozen=True)
class Other(DomainEvent):
    """What the read model of punishments has nothing to do with."""

    text: str


class Moderation(Application[UUID]):
    """The event-sourced application that the projection follows."""


def translate(new: NewEvent) -> DomainEvent:
    """An event of our history as the peer's application would have recorded it."""
    identity: dict[str, Any] = {
        "originator_id": uuid5(NAMESPACE_OID, new.stream),
        "originator_version": new.version,
        "timestamp": new.occurred_at,
    }
    event = new.event
    kind = ISSUES.get(type(event))
    if kind is not None:
        return Issued(
            **identity,
            stream=new.stream,
            type=kind,
            reason=event.reason,  # type: ignore[attr-defined]
            issued_by=new.actor.user_id,
            expires_at=getattr(event, "expires_at", None),
        )
    if isinstance(event, events.PunishmentLapsed | events.PunishmentLifted):
        return Ended(
            **identity,
            stream=new.stream,
            number=event.number,
            kind="lapsed" if isinstance(event, events.PunishmentLapsed) else "lifted",
            lifted_by=new.actor.user_id,
        )
    return Other(**identity, text=repr(event))


class PunishmentsView(PostgresTrackingRecorder):
    """The materialised view: our table ``punishments`` with all its indexes, without the tables beside it. One upsert
    and one tracking record for each event, in one transaction."""

    def issued(self, event: Issued, tracking: Tracking) -> None:
        of, _, subject = event.stream.partition(":")
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                # punishments_pkey
                "insert into punishments (stream, number, id, user_id, guild_id, type, reason, reason_key, issued_by,"
                " expires_at, due_at, open, version, created_at, updated_at)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, true, %s, %s, %s)"
                " on conflict (stream, number) do update set reason = excluded.reason,"
                " expires_at = excluded.expires_at, due_at = excluded.due_at,"
                " version = excluded.version, updated_at = excluded.updated_at",
                (
                    event.stream,
                    event.originator_version,
                    tracking.notification_id,
                    int(subject) if of == "user" else None,
                    int(subject) if of == "guild" else None,
                    event.type,
                    event.reason,
                    key(event.reason),
                    event.issued_by,
                    event.expires_at,
                    event.expires_at,
                    event.originator_version,
                    event.timestamp,
                    event.timestamp,
                ),
                prepare=True,
            )

    def ended(self, event: Ended, tracking: Tracking) -> None:
        lifted = event.kind == "lifted"
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                # punishments_pkey
                "update punishments set open = false, due_at = null, ended_kind = %s, lifted_at = %s, lifted_by = %s,"
                " version = %s, updated_at = %s where stream = %s and number = %s",
                (
                    event.kind,
                    event.timestamp if lifted else None,
                    event.lifted_by if lifted else None,
                    event.originator_version,
                    event.timestamp,
                    event.stream,
                    event.number,
                ),
                prepare=True,
            )


class Punishments(Projection[PunishmentsView]):
    """The projection; the library selects its topics in the database, so that others never reach it."""

    name = "punishments"
    topics = (get_topic(Issued), get_topic(Ended))
    # From the first event to the last, without the runner's start; its own wait() sleeps for 0.1 s at a time.
    began_at = 0.0
    done_at = 0.0

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Nothing else is subscribed to."""

    @process_event.register
    def _(self, domain_event: Issued, tracking: Tracking) -> None:
        self.began_at = self.began_at or perf_counter()
        self.view.issued(domain_event, tracking)
        self.done_at = perf_counter()

    @process_event.register
    def _(self, domain_event: Ended, tracking: Tracking) -> None:
        self.began_at = self.began_at or perf_counter()
        self.view.ended(domain_event, tracking)
        self.done_at = perf_counter()

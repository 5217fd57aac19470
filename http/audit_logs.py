"""GET /v1/admin/audit/logs (api.md §4): every event of the ledger, newest first.

The read table says which events a page has; what happened is read from the ledger itself, so that erased text is
erased here too.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from anyio import to_thread
from litestar import Response
from litestar.params import QueryParameter

from modledger.domain.envelope import Recorded
from modledger.domain.events import Issued
from modledger.domain.ledger import Ledger
from modledger.domain.rank import ACCESS
from modledger.domain.subjects import ADMIN, MODERATOR
from modledger.http.answers import reply, required_position
from modledger.http.endpoints import STAFF, AnyRequest, read
from modledger.http.errors import Problem, bad
from modledger.http.freshness import fresh, progress_of
from modledger.http.parameters import FARTHEST, ID_SCHEMA, MAX_ID
from modledger.http.services import services
from modledger.http.views import Moment, Snowflake, View, snowflake, whole
from modledger.projections.audit_log import EVENT_TYPES, Entry, entity_of
from modledger.projections.audit_search import Filters, Page, Search, find, statement

# What a moderator sees (api.md §2).
_OF_MODERATORS = ("USER_TIMEOUT", "USER_WARN")
_NAMES = tuple(EVENT_TYPES.values())


class AuditEntryView(View, kw_only=True):
    """``id`` is the ledger position; ``discord_user_id`` the acting user or bot, null for the system and the
    operator."""

    id: int
    entity_type: Literal["user", "guild", "bot"]
    discord_id: Snowflake
    event_type: str
    discord_user_id: Snowflake | None
    event_metadata: dict[str, Any]
    created_at: Moment


class AuditLogView(View, kw_only=True):
    """A page of the audit log. ``next_cursor`` is there only when another page follows."""

    items: list[AuditEntryView]
    total: int
    offset: int
    limit: int
    next_cursor: str | msgspec.UnsetType = msgspec.UNSET


_EXAMPLE = {
    "items": [
        {
            "id": 42,
            "entity_type": "user",
            "discord_id": "123456789012345678",
            "event_type": "USER_WARN",
            "discord_user_id": "999888777666555444",
            "event_metadata": {
                "punishment_id": 42,
                "reason": "Rule 1",
                "actor_kind": "user",
                "via": "http",
                "correlation_id": "0d4f7a52-3c5e-4d0a-9c53-6a1f6c2b9e10",
            },
            "created_at": "2026-01-15T12:00:00Z",
        }
    ],
    "total": 1,
    "offset": 0,
    "limit": 50,
}

Versions = Mapping[tuple[str, int], int]


def metadata(recorded: Recorded, positions: Versions) -> dict[str, Any]:
    """What happened, and how it came about. ``positions``: of the events that issued what it is about."""
    event = recorded.event
    said: dict[str, Any] = {}
    if isinstance(event, Issued):
        said["punishment_id"] = recorded.position
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name in _NUMBERS:
            said[_NUMBERS[name]] = positions.get((recorded.stream, value))
        elif name.endswith("_id"):
            said[name] = snowflake(value)
        else:
            said[name] = whole(value) if isinstance(value, datetime) else value
    said |= {"actor_kind": recorded.actor.kind, "via": recorded.via, "correlation_id": recorded.correlation_id}
    if recorded.causation_id is not None:
        said["batch_id"] = recorded.causation_id
    return said


# Punishments have numbers within their streams, and positions to everybody else.
_NUMBERS = {"number": "punishment_id", "by": "superseded_by"}


def _view(entry: Entry, said: dict[str, Any]) -> AuditEntryView:
    return AuditEntryView(
        id=entry.position,
        entity_type=entity_of(entry.event_type),
        discord_id=str(entry.entity_id),
        event_type=entry.event_type,
        discord_user_id=snowflake(entry.actor_id),
        event_metadata=said,
        created_at=whole(entry.occurred_at),
    )


def _views(ledger: Ledger, entries: list[Entry]) -> list[AuditEntryView]:
    found = ledger.at_all([entry.position for entry in entries])
    numbers = {
        (recorded.stream, number)
        for recorded in found.values()
        for name in _NUMBERS
        if (number := getattr(recorded.event, name, None)) is not None
    }
    positions = ledger.positions_of(numbers) if numbers else {}
    return [
        # An event that only a newer program can read has its line, and nothing more to say.
        _view(entry, metadata(found[entry.position], positions) if entry.position in found else {})
        for entry in entries
    ]


def _event_types(asked: str | None, level: int) -> tuple[str, ...] | None:
    """Raises Problem 400 for what is no event type, and 403 for one that is not for the viewer."""
    if asked is not None and asked not in _NAMES:
        raise bad("event_type must be the name of an event, such as USER_BAN")
    if level < ADMIN and asked is not None and asked not in _OF_MODERATORS:
        raise Problem(403, ACCESS[ADMIN])
    if asked is not None:
        return (asked,)
    return _OF_MODERATORS if level < ADMIN else None


_Id = Annotated[int | None, QueryParameter(ge=1, le=MAX_ID, description="A Discord id.", schema_extra=ID_SCHEMA)]


@read(
    "/v1/admin/audit/logs",
    operation_id="search_audit_log",
    summary="Every event, newest first; for moderators warnings and timeouts of users only",
    access=STAFF[MODERATOR],
    tag="Audit log",
    example=_EXAMPLE,
    errors={400: "limit must be between 1 and 200", 403: "Admin access required"},
)
async def search_audit_log(
    request: AnyRequest,
    event_type: Annotated[
        str | None, QueryParameter(description="What happened.", schema_extra={"enum": list(_NAMES)})
    ] = None,
    entity_type: Annotated[
        Literal["user", "guild", "bot"] | None, QueryParameter(description="What it happened to.")
    ] = None,
    entity_id: _Id = None,
    actor_id: Annotated[
        int | None,
        QueryParameter(ge=1, le=MAX_ID, description="The acting user or bot.", schema_extra=ID_SCHEMA),
    ] = None,
    correlation_id: Annotated[
        UUID | None, QueryParameter(description="Of one request (its header X-Correlation-ID) or import.")
    ] = None,
    since: Annotated[datetime | None, QueryParameter(description="Only what happened then or later.")] = None,
    until: Annotated[datetime | None, QueryParameter(description="Only what happened before then.")] = None,
    offset: Annotated[int, QueryParameter(ge=0, description="How many to pass over.")] = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=200, description="How many to answer at most.")] = 50,
    cursor: Annotated[
        str | None, QueryParameter(description="next_cursor of the answer before; excludes offset.", max_length=512)
    ] = None,
) -> Response[AuditLogView]:
    has = services(request)
    required = required_position(request)
    if cursor is not None and "offset" in request.query_params:
        raise bad("offset cannot be used together with cursor")
    search = Search(
        filters=Filters(
            event_types=_event_types(event_type, request.user.level),
            entity=entity_type,
            entity_id=entity_id,
            actor_id=actor_id,
            correlation_id=correlation_id,
            since=None if since is None else since.astimezone(UTC),
            until=None if until is None else until.astimezone(UTC),
        ),
        offset=min(offset, FARTHEST),
        limit=limit,
        cursor=cursor,
    )
    try:
        statement(search)
    except ValueError as error:
        raise bad(str(error)) from None

    async def one_page() -> Page:
        return await has.reader.doing(lambda at: find(at.connection, search))

    found = await fresh(
        one_page, lambda answer: answer.position, lambda _: required, progress_of(has.checkpoints, "audit_log")
    )
    view = AuditLogView(
        items=await to_thread.run_sync(_views, has.ledger, found.entries),
        total=found.total,
        offset=offset,
        limit=limit,
        next_cursor=found.next_cursor or msgspec.UNSET,
    )
    return reply(request, view, found.position)


HANDLERS = [search_audit_log]

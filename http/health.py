"""GET /health and /v1/admin/health (api.md §4): whether the database answers, and how far each projector is; for the
staff also which program it is that answers. And two probes for what starts, stops and balances processes."""

import asyncio
from typing import Literal, TypeVar

import msgspec
import psycopg
from litestar import Response
from litestar.datastructures import State

from modledger.domain.seal_proofs import UNSEALED
from modledger.domain.subjects import ADMIN
from modledger.http.answers import reply
from modledger.http.endpoints import NOBODY, STAFF, AnyRequest, read
from modledger.http.errors import JSON, RETRY_AFTER, Unavailable
from modledger.http.services import Services, services
from modledger.http.source_hashes import ROOMS
from modledger.http.views import (
    AdminHealthView,
    DatabaseStatisticsView,
    HealthView,
    LiveView,
    ProjectionView,
    ReadyView,
    whole,
)
from modledger.projections import health
from modledger.projections.catalog import PROJECTORS
from modledger.projections.projector import fingerprint
from modledger.projections.samples import DIFFERING

# A projector is milliseconds behind, and seconds in a flood; more means that nobody runs it or that it gets nowhere.
LONGEST_LAG_S = 30.0
_TELLS = "modledger verify tells in what"
# The sealer comes by every minute; more means that nobody runs it, or that its key is lost (docs/proof.md).
LONGEST_UNSEALED_S = 600.0
# Who asks /health/ready does not wait long for it: a second or some, with most balancers.
READY_S = 1.0
_NO_ANSWER = "The database does not answer"

# The whole tables, a row per file and per projector.
_MIGRATIONS = "select number, checksum from migrations"
_FINGERPRINTS = "select projector, fingerprint from read_models"

_EXAMPLE = {
    "status": "healthy",
    "database": True,
    "cache": True,
    "started_at": "2026-03-10T12:00:00Z",
    "db_statistics": {
        "size": 4,
        "checked_in": 3,
        "checked_out": 1,
        "overflow": 0,
        "total": 4,
        "latency_ms": 0.21,
    },
    "cache_statistics": {},
    "errors": [],
    "projections": {"profile": {"position": 4711, "lag_events": 0, "lag_seconds": 0.0}},
}
_UNHEALTHY = {
    **_EXAMPLE,
    "status": "unhealthy",
    "database": False,
    "db_statistics": {
        "size": 4,
        "checked_in": 0,
        "checked_out": 0,
        "overflow": 0,
        "total": 0,
        "latency_ms": None,
    },
    "errors": ["The database cannot be used"],
    "projections": {},
}
_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_HASHES = {"source_hash": _HASH, "source_hashes": dict.fromkeys(ROOMS, _HASH)}


@read(
    "/health",
    operation_id="get_health",
    summary="Whether the service works: degraded while a projector is stopped or far behind, or a verification found"
    " a difference; unhealthy without its database",
    access=NOBODY,
    tag="Health",
    example=_EXAMPLE,
    own_503=_UNHEALTHY,
)
async def get_health(request: AnyRequest) -> Response[HealthView]:
    return _reply(await services(request).health.answer())


@read(
    "/v1/admin/health",
    operation_id="get_admin_health",
    summary="The same, and SHA-256 hashes of the program's source",
    access=STAFF[ADMIN],
    tag="Health",
    example={**_EXAMPLE, **_HASHES},
    own_503={**_UNHEALTHY, **_HASHES},
)
async def get_admin_health(request: AnyRequest) -> Response[AdminHealthView]:
    has = services(request)
    found = await has.health.answer()
    return _reply(
        AdminHealthView(
            **msgspec.structs.asdict(found),
            source_hash=has.source_hash,
            source_hashes=has.source_hashes,
        )
    )


H = TypeVar("H", bound=HealthView)


def _reply(view: H) -> Response[H]:
    unhealthy = view.status == "unhealthy"
    return Response(
        msgspec.json.encode(view),  # type: ignore[arg-type]
        status_code=503 if unhealthy else 200,
        headers=RETRY_AFTER if unhealthy else None,
        media_type=JSON,
    )


async def health_of(has: Services) -> HealthView:
    """What ``/health`` says. Asks the database over a connection of its own, so it tells of that and not of a queue."""
    try:
        latency_ms, projectors, differing = await _ask(has)
        ((unsealed_s,),) = await has.probes.fetch(UNSEALED, has.clock())
    # Also a database that answers but was never migrated is of no use.
    except (Unavailable, psycopg.Error):
        return _view(has, "unhealthy", None, [], ["The database cannot be used"])
    errors = [
        f"The projector {one.name} has stopped at position {one.failure.position}" for one in projectors if one.failure
    ]
    errors += [
        f"The projector {one.name} is {one.lag_seconds:.0f} s behind"
        for one in projectors
        if not one.failure and one.lag_seconds > LONGEST_LAG_S
    ]
    errors += [f"The tables of {of} differ from the ledger: {_TELLS}" for of in differing if of != "ledger"]
    errors += [f"The ledger is damaged: {_TELLS}" for of in differing if of == "ledger"]
    if unsealed_s > LONGEST_UNSEALED_S:
        errors.append(f"The sealer is {unsealed_s:.0f} s behind")
    return _view(has, "degraded" if errors else "healthy", latency_ms, projectors, errors)


async def _ask(has: Services) -> tuple[float, list[health.ProjectorHealth], list[str]]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await has.probes.fetch("select 1")
    latency_ms = (loop.time() - began) * 1000
    lines = await has.probes.fetch(health.HEALTH, health.NAMES, has.clock())
    differing = [subject for (subject,) in await has.probes.fetch(DIFFERING)]
    return latency_ms, [health.health(line) for line in lines], differing


def _view(
    has: Services,
    status: Literal["healthy", "degraded", "unhealthy"],
    latency_ms: float | None,
    projectors: list[health.ProjectorHealth],
    errors: list[str],
) -> HealthView:
    reader = has.reader
    return HealthView(
        status=status,
        database=status != "unhealthy",
        # There is no cache server, so nothing that could be down (api.md §4, Decision).
        cache=True,
        started_at=whole(has.started_at),
        db_statistics=DatabaseStatisticsView(
            size=reader.size,
            checked_in=reader.opened - reader.checked_out,
            checked_out=reader.checked_out,
            overflow=0,
            total=reader.opened,
            latency_ms=None if latency_ms is None else round(latency_ms, 3),
        ),
        cache_statistics={},
        errors=errors,
        projections={
            one.name: ProjectionView(
                position=one.position, lag_events=one.lag_events, lag_seconds=round(one.lag_seconds, 3)
            )
            for one in projectors
        },
    )


@read(
    "/health/live",
    operation_id="get_live",
    summary="Whether this process answers at all; asks nobody else",
    access=NOBODY,
    tag="Health",
    example={"status": "live"},
)
async def get_live(request: AnyRequest) -> Response[LiveView]:
    return reply(request, LiveView(status="live"), None)


@read(
    "/health/ready",
    operation_id="get_ready",
    summary="Whether requests should be sent to this process: its database answers and is this program's, and it is not"
    " about to stop",
    access=NOBODY,
    tag="Health",
    example={"status": "ready", "reason": None},
    own_503={"status": "not ready", "reason": "The database does not answer"},
)
async def get_ready(request: AnyRequest) -> Response[ReadyView]:
    reason = await _reason(request)
    return Response(
        msgspec.json.encode(ReadyView(status="ready" if reason is None else "not ready", reason=reason)),  # type: ignore[arg-type]
        status_code=200 if reason is None else 503,
        headers=None if reason is None else RETRY_AFTER,
        media_type=JSON,
    )


async def _reason(request: AnyRequest) -> str | None:
    if request.app.state["stopping"]:
        return "This process is about to stop"
    try:
        async with asyncio.timeout(READY_S):
            return await services(request).ready.answer()
    except TimeoutError:
        return _NO_ANSWER


async def unready(state: State) -> str | None:
    """Why the database of the application with this state is not one to serve from; None where it is."""
    has: Services = state["services"]
    try:
        applied: dict[int, str] = dict(await has.probes.fetch(_MIGRATIONS))
        made: dict[str, str] = dict(await has.probes.fetch(_FINGERPRINTS))
    except psycopg.errors.UndefinedTable:
        return "The database was never migrated"
    except (Unavailable, psycopg.Error):
        return _NO_ANSWER
    # What a newer version added is none of ours, or each of its migrations would stop all that still run.
    if any(applied.get(number) != checksum for number, checksum in state["migrations"].items()):
        return "The database is not at this program's migrations"
    if others := [one.name for one in PROJECTORS if made.get(one.name) != fingerprint(one)]:
        return f"The read tables of {', '.join(others)} are another version's"
    return None


HANDLERS = [get_health, get_live, get_ready, get_admin_health]

"""GET /health (api.md §4): whether the database answers, and how far each projector is."""

import asyncio

import msgspec
import psycopg
from litestar import Response

from modledger.http.endpoints import NOBODY, AnyRequest, read
from modledger.http.errors import JSON, RETRY_AFTER, Unavailable
from modledger.http.services import Services, services
from modledger.http.views import DatabaseStatisticsView, HealthView, ProjectionView, whole
from modledger.projections import health

# A projector is milliseconds behind, and seconds in a flood; more means that nobody runs it or that it gets nowhere.
LONGEST_LAG_S = 30.0

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


@read(
    "/health",
    operation_id="get_health",
    summary="Whether the service works: degraded while a projector is stopped or far behind, unhealthy without its"
    " database",
    access=NOBODY,
    tag="Health",
    example=_EXAMPLE,
    own_503={
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
    },
)
async def get_health(request: AnyRequest) -> Response[HealthView]:
    has = services(request)
    try:
        latency_ms, projectors = await _ask(has)
    # Also a database that answers but was never migrated is of no use.
    except (Unavailable, psycopg.Error):
        return _answer(has, "unhealthy", None, [], ["The database cannot be used"])
    errors = [
        f"The projector {one.name} has stopped at position {one.failure.position}" for one in projectors if one.failure
    ]
    errors += [
        f"The projector {one.name} is {one.lag_seconds:.0f} s behind"
        for one in projectors
        if not one.failure and one.lag_seconds > LONGEST_LAG_S
    ]
    return _answer(has, "degraded" if errors else "healthy", latency_ms, projectors, errors)


async def _ask(has: Services) -> tuple[float, list[health.ProjectorHealth]]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await has.reader.fetch("select 1")
    latency_ms = (loop.time() - began) * 1000
    lines = await has.reader.fetch(health.HEALTH, health.NAMES, has.clock())
    return latency_ms, [health.health(line) for line in lines]


def _answer(
    has: Services, status: str, latency_ms: float | None, projectors: list[health.ProjectorHealth], errors: list[str]
) -> Response[HealthView]:
    reader = has.reader
    view = HealthView(
        status=status,  # type: ignore[arg-type]
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
    if status == "unhealthy":
        return Response(msgspec.json.encode(view), status_code=503, headers=RETRY_AFTER, media_type=JSON)  # type: ignore[arg-type]
    return Response(msgspec.json.encode(view), media_type=JSON)  # type: ignore[arg-type]


HANDLERS = [get_health]

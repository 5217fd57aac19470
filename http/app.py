"""The application: every operation, the services behind them, and what holds for all of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from importlib.metadata import version

from anyio import to_thread
from litestar import Litestar
from litestar.config.cors import CORSConfig
from prometheus_client import CollectorRegistry

from modledger.domain.kept_states import KeptStates
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.http import (
    audit_logs,
    audit_proofs,
    authentication,
    bot_reports,
    bots,
    direct,
    erasure,
    fragments,
    freshness,
    geoip,
    guilds,
    health,
    idempotency,
    keys,
    own_guilds,
    own_sessions,
    permissions,
    profile,
    punishment_changes,
    punishment_search,
    punishments,
    punishments_bulk,
    rate_limits,
    sessions,
    source_hashes,
    statistics,
    subscriptions,
    users,
    users_me,
)
from modledger.http.admission import Admission, admitted
from modledger.http.command_groups import CommandGroups
from modledger.http.edge import named_and_logged, refused_preflights_as_errors
from modledger.http.endpoints import allowed_origins
from modledger.http.errors import BATCH_HEADER, BODY_LIMIT, answer_error
from modledger.http.metrics import Requests
from modledger.http.openapi import ClosedBodies, openapi_config
from modledger.http.reader import Coalesced, Reader
from modledger.http.sealing import Sealing
from modledger.http.services import Services, utc_now
from modledger.http.together import Together
from modledger.projections import guild_detail, user_detail
from modledger.projections import guilds as guild_rows
from modledger.projections import profile as profiles

# Sessions, codes and kept answers: short statements, so few connections do.
DESK_CONNECTIONS = 2
# One for each of the two probes that ask the database: they are not to wait where everybody waits.
PROBE_CONNECTIONS = 2
# Whatever a read is made to say, it writes nothing; a login that may write nothing stands behind it (docs/security.md).
READ_ONLY = "set default_transaction_read_only = on"
# Groups of commands that take long (command_groups.py), and reads of the ledger.
THREADS = 64
# How often folded states are looked at for those that nobody used, in seconds.
FORGET_SECONDS = 60


async def _forget_unused(states: KeptStates) -> None:
    """A process that gets no more commands is to hold no text of theirs either."""
    while True:
        await asyncio.sleep(FORGET_SECONDS)
        states.forget_unused()


def create_app(
    settings: Settings,
    *,
    conninfo: str,
    read_conninfo: str | None = None,
    master_key: bytes,
    clock: Callable[[], datetime] = utc_now,
    migrations: Mapping[int, str] | None = None,
) -> Litestar:
    """The application for one server process. It starts to use the database at ``conninfo`` when it is started, which
    fails with LedgerUnavailable, NotMigrated or WrongMasterKey where the ledger cannot be opened; a database that goes
    away later is answered with 503 until it is back. ``read_conninfo``: the same database for a login that only reads.
    ``migrations``: the checksums, by number, that the database must have for /health/ready, which also asks
    ``state["stopping"]``. Its requests are counted into ``state["registry"]``.
    Raises SettingsError for a GeoIP database that is none."""
    return furnish(
        operations(allowed_origins(settings)),
        settings,
        conninfo=conninfo,
        read_conninfo=read_conninfo,
        master_key=master_key,
        clock=clock,
        migrations=migrations,
    )


def operations(origins: Sequence[str]) -> Litestar:
    """Every operation, for pages of ``origins`` too, with nothing yet to work with: see ``furnish``."""
    app = Litestar(
        route_handlers=[
            *audit_logs.HANDLERS,
            *audit_proofs.HANDLERS,
            *authentication.HANDLERS,
            *bot_reports.HANDLERS,
            *bots.HANDLERS,
            *erasure.HANDLERS,
            *guilds.HANDLERS,
            *health.HANDLERS,
            *own_guilds.HANDLERS,
            *own_sessions.HANDLERS,
            *permissions.HANDLERS,
            *profile.HANDLERS,
            *punishment_search.HANDLERS,
            *punishments.HANDLERS,
            *punishments_bulk.HANDLERS,
            *punishment_changes.HANDLERS,
            *statistics.HANDLERS,
            *subscriptions.HANDLERS,
            *users.HANDLERS,
            *users_me.HANDLERS,
        ],
        lifespan=[_running],
        # Inside what the framework does for browsers, so that a page can read why it was refused.
        middleware=[admitted],
        exception_handlers={Exception: answer_error},
        request_max_body_size=BODY_LIMIT,
        openapi_config=openapi_config(version("modledger")),
        plugins=[ClosedBodies()],
        # The pages that may send commands may also read the answers.
        cors_config=CORSConfig(
            allow_origins=list(origins),
            allow_credentials=True,
            allow_methods=["GET", "POST"],
            expose_headers=[
                "ETag",
                "Retry-After",
                "X-Correlation-ID",
                BATCH_HEADER,
                freshness.HEADER,
                idempotency.REPLAYED,
            ],
        )
        if origins
        else None,
        # Ours is structlog, in edge.py and errors.py.
        logging_config=None,
    )
    app.state["unnamed"] = direct.directly(app, refused_preflights_as_errors(app.asgi_handler))
    return app


@asynccontextmanager
async def _running(app: Litestar) -> AsyncIterator[None]:
    async with app.state["running"]():
        yield


def furnish(
    app: Litestar,
    settings: Settings,
    *,
    conninfo: str,
    read_conninfo: str | None = None,
    master_key: bytes,
    clock: Callable[[], datetime] = utc_now,
    migrations: Mapping[int, str] | None = None,
) -> Litestar:
    """What ``create_app`` says, for the operations of ``app``, which take far longer to register. May be called again
    once ``app`` has stopped, and then leaves nothing of what was given before."""
    geo = geoip.open_geoip(settings.geoip_database)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        ledger = await to_thread.run_sync(
            lambda: PostgresLedger(conninfo, master_key, connections=settings.write_connections)
        )
        reader = Reader(read_conninfo or conninfo, settings.read_connections, session=READ_ONLY)
        desk = Reader(conninfo, DESK_CONNECTIONS)
        # One: two of them would wait for each other's rows.
        counts = Reader(conninfo, 1, session=rate_limits.SESSION)
        probes = Reader(read_conninfo or conninfo, PROBE_CONNECTIONS, session=READ_ONLY)
        sealing = Sealing(master_key)
        states = KeptStates()
        kept = idempotency.Keys(conninfo, desk, sealing)
        app.state["services"] = Services(
            settings=settings,
            clock=clock,
            started_at=clock(),
            ledger=ledger,
            commands=CommandGroups(ledger, states),
            reader=reader,
            desk=desk,
            probes=probes,
            health=Together(lambda: health.health_of(app.state["services"])),
            ready=Together(lambda: health.unready(app.state)),
            viewers=Coalesced(reader, sessions.VIEWERS),
            users=Coalesced(reader, sessions.USERS),
            callers=Coalesced(reader, keys.CALLERS),
            names=Coalesced(reader, profiles.BY_NAMES),
            user_details=Coalesced(reader, user_detail.BY_IDS),
            guilds=Coalesced(reader, guild_rows.BY_IDS),
            guild_details=Coalesced(reader, guild_detail.BY_IDS),
            checkpoints=Coalesced(reader, freshness.CHECKPOINTS),
            sealing=sealing,
            keys=kept,
            limits=rate_limits.limits(settings),
            limiter=rate_limits.RateLimiter(counts, clock),
            source_hash=source_hashes.source_hash(),
            source_hashes=source_hashes.source_hashes(),
            fragments=await fragments.indexed(reader),
            geoip=geo,
        )
        forgetting = asyncio.create_task(_forget_unused(states))
        try:
            yield
        finally:
            forgetting.cancel()
            await kept.close()
            await reader.close()
            await desk.close()
            await counts.close()
            await probes.close()
            await to_thread.run_sync(ledger.close)
            if geo is not None:
                geo.close()

    app.state["running"] = running
    app.state["migrations"] = migrations or {}
    app.state["stopping"] = False
    app.state["registry"] = CollectorRegistry()
    requests = Requests(app.state["registry"])
    app.state["admission"] = Admission(app.state["registry"])
    app.asgi_handler = named_and_logged(
        app.state["unnamed"], requests, settings.access_log, lambda: bool(app.state["stopping"])
    )
    return app

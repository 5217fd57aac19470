"""The HTTP process: one event loop, one process, stopped in order at SIGTERM."""

import asyncio
import signal
from collections.abc import Callable
from datetime import datetime

import structlog
import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.http.app import create_app
from modledger.http.services import utc_now
from modledger.workers.database import database
from modledger.workers.master_key import master_key
from modledger.workers.migrate import require_migrated
from modledger.workers.port import require_free_port

log = structlog.get_logger()


def serve(settings: Settings, clock: Callable[[], datetime] = utc_now) -> None:
    """Serves until SIGINT or SIGTERM; requests in hand are answered first. ``clock`` tells the time of every rule.
    Raises what opening the database raises."""
    require_free_port(settings.host, settings.port)
    with database(settings) as conninfo:
        require_migrated(conninfo)
        key = master_key(settings, conninfo)
        # The server could only say that its application did not start; this says why.
        PostgresLedger(conninfo, key, connections=1).close()
        app = create_app(settings, conninfo=conninfo, master_key=key, clock=clock)
        # granian's usual server runs its worker as a second process, which outlives a kill -9 of the first and keeps
        # the port; the embedded one is as fast (docs/architecture.md) and is this process.
        server = Server(
            app,
            address=settings.host,
            port=settings.port,
            interface=Interfaces.ASGI,
            websockets=False,
            backlog=1024,
            log_enabled=False,
        )
        uvloop.run(_run(server))


async def _run(server: Server) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    log.info("serving", address=server.bind_addr, port=server.bind_port)
    await server.serve()

"""The HTTP process: one event loop, one process, stopped in order at SIGTERM."""

import asyncio
import gc
import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import cast

import structlog
import uvloop
from granian.server.embed import Server
from litestar import Litestar
from prometheus_client import CollectorRegistry

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.http.app import create_app
from modledger.http.services import Services, utc_now
from modledger.workers.database import logged_in
from modledger.workers.listening import listening
from modledger.workers.logins import warn_unless_separated
from modledger.workers.master_key import master_key
from modledger.workers.metrics import Pool, metrics_served, watched_process
from modledger.workers.migrate import migrations, require_migrated
from modledger.workers.port import require_free_port

log = structlog.get_logger()

# No statement of ours takes longer; but a client that sends a byte now and then would keep us for ever.
FINISH_SECONDS = 8
# Objects, net: more than all the requests that are in hand at once hold.
COLLECT_AFTER = 10_000


def serve(settings: Settings, clock: Callable[[], datetime] = utc_now) -> None:
    """Serves until SIGINT or SIGTERM, then for MODLEDGER_DRAIN_SECONDS more, while /health/ready answers 503 (a second
    signal ends that); requests in hand are answered first, within ``FINISH_SECONDS``. ``clock`` tells the time of every
    rule. Raises what opening the database raises, and PortTaken."""
    require_free_port(settings.host, settings.port)
    with logged_in(settings) as logins:
        conninfo = logins.app
        require_migrated(conninfo)
        key = master_key(settings, conninfo)
        # The server could only say that its application did not start; this says why.
        PostgresLedger(conninfo, key, connections=1).close()
        files = {file.number: file.checksum for file in migrations()}
        app = create_app(
            settings,
            conninfo=conninfo,
            read_conninfo=logins.read,
            master_key=key,
            clock=clock,
            migrations=files,
        )
        warn_unless_separated(conninfo, logins.read)
        server = listening(app, settings.host, settings.port)
        registry: CollectorRegistry = app.state["registry"]
        with (
            watched_process(registry, "serve", settings, conninfo, lambda: _ledger(app), lambda: _pools(app)),
            metrics_served(settings, registry),
        ):
            # What is there by now stays; and what requests make mostly goes by its count of references. At Python's own
            # threshold the collector looks through all requests in hand at every thirtieth (docs/performance.md).
            gc.collect()
            gc.freeze()
            gc.set_threshold(COLLECT_AFTER)
            uvloop.run(_run(server, app, settings.drain_seconds))


async def _run(server: Server, app: Litestar, drain_seconds: int) -> None:
    loop = asyncio.get_running_loop()
    serving = loop.create_task(server.serve())

    def close() -> None:
        server.stop()  # type: ignore[no-untyped-call]
        loop.call_later(FINISH_SECONDS, serving.cancel)

    def stop() -> None:
        if app.state["stopping"] or not drain_seconds:
            close()
        else:
            # Whoever sends requests here has to see first that it should not.
            loop.call_later(drain_seconds, close)
        app.state["stopping"] = True

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    log.info("serving", address=server.bind_addr, port=server.bind_port)
    try:
        await serving
    except asyncio.CancelledError:
        log.warning("stopped before all requests were finished", after_seconds=FINISH_SECONDS)


def _ledger(app: Litestar) -> PostgresLedger | None:
    opened: Services | None = app.state.get("services")
    return None if opened is None else cast("PostgresLedger", opened.ledger)


def _pools(app: Litestar) -> Iterator[Pool]:
    has: Services = app.state["services"]
    # Those that count requests are not here: all wait for one connection, on purpose.
    for name, reader in (("read", has.reader), ("desk", has.desk)):
        yield Pool(
            name=name,
            most=reader.size,
            idle=reader.opened - reader.checked_out,
            busy=reader.checked_out,
            waiting=reader.waiting,
            waits=reader.waits,
            wait_seconds=reader.wait_seconds,
        )

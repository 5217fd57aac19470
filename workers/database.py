"""Where the database is: the user's own server, or the embedded one of the data directory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import structlog

from modledger.domain.settings import Settings
from modledger.workers.logins import Logins, embedded, external
from modledger.workers.postgres import EmbeddedPostgres
from modledger.workers.postgres_programs import PostgresError

log = structlog.get_logger()

CHECK_SECONDS = 1.0


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The URL of a running database for the program's own login, for as long as the block lasts; see ``logged_in``."""
    with logged_in(settings) as logins:
        yield logins.app


@contextmanager
def logged_in(settings: Settings) -> Iterator[Logins]:
    """The URLs of a running database, for as long as the block lasts.

    With MODLEDGER_DATABASE_URL nothing is started. Otherwise this process attaches to the embedded server in
    ``$MODLEDGER_DATA_DIR/postgres``, starting it when none of ours has yet, and again should somebody kill it; the last
    one out stops it. Its logins are made when missing. Raises PostgresError and psycopg.Error.
    """
    if settings.database_url is not None:
        yield external(settings, settings.database_url)
        return
    server = EmbeddedPostgres(settings.data_dir / "postgres", bin_dir=settings.postgres_bin)
    superuser = server.attach()
    leaving = threading.Event()
    watch = threading.Thread(target=_keep_running, args=(server, superuser, leaving), name="postgres", daemon=True)
    watch.start()
    try:
        yield embedded(superuser)
    finally:
        leaving.set()
        watch.join()
        server.detach()


def _keep_running(server: EmbeddedPostgres, conninfo: str, leaving: threading.Event) -> None:
    while not leaving.wait(CHECK_SECONDS):
        try:
            psycopg.connect(conninfo, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            log.warning("PostgreSQL does not answer", error=str(error))
            try:
                server.attach()
            except PostgresError as failure:
                log.warning("PostgreSQL does not start again yet", error=str(failure))
            else:
                log.warning("PostgreSQL answers again")

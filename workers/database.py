"""Where the database is: the user's own server, or the embedded one of the data directory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from modledger.domain.settings import Settings
from modledger.workers.postgres import EmbeddedPostgres


class Database(NamedTuple):
    """``revive`` starts the embedded server again if somebody killed it, and does nothing for a server of the user's."""

    conninfo: str
    revive: Callable[[], object]


@contextmanager
def database(settings: Settings) -> Iterator[Database]:
    """A running database, for as long as the block lasts.

    With MODLEDGER_DATABASE_URL nothing is started. Otherwise this process attaches to the embedded server in
    ``$MODLEDGER_DATA_DIR/postgres``, starting it when none of ours has yet; the last one out stops it. Raises PostgresError.
    """
    if settings.database_url is not None:
        yield Database(settings.database_url, lambda: None)
        return
    server = EmbeddedPostgres(settings.data_dir / "postgres", bin_dir=settings.postgres_bin)
    conninfo = server.attach()
    try:
        yield Database(conninfo, server.attach)
    finally:
        server.detach()

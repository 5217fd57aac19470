"""pytest plugin: the PostgreSQL that the suite talks to, and databases on it.

One embedded server per session (so one per xdist worker), without durability. MODLEDGER_TEST_DATABASE_URL, the URL of a
superuser on a server that already runs, makes the suite use that one instead, for example PostgreSQL 15.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from modledger.workers.postgres import EmbeddedPostgres

pytest_plugins = ["tests.postgres_processes"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a superuser on the server, naming a database that exists but is not meant to be written to."""
    if url := os.environ.get("MODLEDGER_TEST_DATABASE_URL"):
        yield url
        if url in _KEPT:
            _KEPT.pop(url).close()
        return
    # Not pytest's own folder: that one keeps the last three sessions, 40 MB of cluster each.
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", durable=False)
        url = server.attach()
        yield url
        if url in _KEPT:
            _KEPT.pop(url).close()
        server.stop()
        server.detach()


def fast_folder() -> str:
    """Where test clusters go: into memory if there is room (initdb is four times as fast), else where TMPDIR says."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 1024**3:  # Docker gives 64 MB
        return str(memory)
    return tempfile.gettempdir()


# The connection that makes and drops databases, by the server's URL: most tests have a database of their own, and to
# connect costs as much as a fifth of making it.
_KEPT: dict[str, psycopg.Connection] = {}


def _administer(server_url: str, statement: sql.Composed) -> None:
    kept = _KEPT.get(server_url)
    if kept is not None:
        try:
            kept.execute(statement)
        except psycopg.OperationalError:
            # A test may have restarted the server, or ended whatever was connected to it.
            if not kept.closed:
                raise
        else:
            return
    _KEPT[server_url] = psycopg.connect(server_url, autocommit=True)
    _KEPT[server_url].execute(statement)


def create_database(server_url: str, name: str, template: str | None = None) -> str:
    """Make the database `name`, a copy of `template` (which nobody may be connected to) if given; return its URL."""
    # Block by block through the log, which is the usual way, takes the server more than twice the time.
    statement = sql.SQL("create database {} strategy file_copy").format(sql.Identifier(name))
    if template is not None:
        statement += sql.SQL(" template {}").format(sql.Identifier(template))
    _administer(server_url, statement)
    # By hand: urlunsplit alone would drop the empty host of postgresql:///name.
    parts = urlsplit(server_url)
    return f"{parts.scheme}://{parts.netloc}" + urlunsplit(("", "", f"/{quote(name, safe='')}", parts.query, ""))


def drop_database(server_url: str, name: str) -> None:
    """Drop the database `name` if it is there, disconnecting whoever uses it."""
    _administer(server_url, sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

"""pytest plugin: the PostgreSQL that the suite talks to, and databases on it.

One embedded server per session (so one per xdist worker), without durability, and copied from the first one's.
MODLEDGER_TEST_DATABASE_URL, the URL of a superuser on a server that already runs, makes the suite use that one instead,
for example PostgreSQL 15.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from modledger.workers.postgres import EmbeddedPostgres
from tests.made_once import MadeOnce, fast_folder

pytest_plugins = ["tests.postgres_processes"]


# What fills a database of the suite, to be copied for one test after the other: by its name, and that of the one which
# it is a copy of. Registered by ``template``.
_TEMPLATES: dict[str, tuple[str | None, Callable[[str], None]]] = {}
Fill = Callable[[str], None]


def template(name: str, of: str | None = None) -> Callable[[Fill], Fill]:
    """Registers what fills the database of that name, given its URL; ``of``: the one that it begins as, registered
    before it."""

    def register(fill: Fill) -> Fill:
        _TEMPLATES[name] = of, fill
        return fill

    return register


def _make_cluster(folder: Path) -> None:
    server = EmbeddedPostgres(folder, durable=False)
    url = server.attach()
    for name in _TEMPLATES:
        _fill(url, name)
    _KEPT.pop(url).close()
    server.stop()
    server.detach()


def _fill(server_url: str, name: str) -> None:
    of, fill = _TEMPLATES[name]
    fill(create_database(server_url, f"template_{name}", None if of is None else f"template_{of}"))


@contextmanager
def filled(server_url: str, name: str) -> Iterator[str]:
    """The name of the database that a ``template`` filled. Nobody stays connected to it."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        known = connection.execute("select from pg_database where datname = %s", (f"template_{name}",)).fetchone()
    if known is not None:
        yield f"template_{name}"
        return
    # A server that was there before the suite.
    of, fill = _TEMPLATES[name]
    own = f"template_{name}_{uuid4().hex}"
    with filled(server_url, of) if of is not None else nullcontext() as begins:
        fill(create_database(server_url, own, begins))
    yield own
    drop_database(server_url, own)


@pytest.fixture(scope="session")
def postgres_server(made_once: MadeOnce) -> Iterator[str]:
    """The URL of a superuser on the server, naming a database that exists but is not meant to be written to."""
    if url := os.environ.get("MODLEDGER_TEST_DATABASE_URL"):
        yield url
        if url in _KEPT:
            _KEPT.pop(url).close()
        return
    # Not pytest's own folder: that one keeps the last three sessions, 40 MB of cluster each.
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        server = EmbeddedPostgres(made_once("cluster", _make_cluster, Path(folder) / "postgres"), durable=False)
        url = server.attach()
        yield url
        if url in _KEPT:
            _KEPT.pop(url).close()
        server.stop()
        server.detach()


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

"""PostgreSQL for what needs no data set: embedded, durable, in a folder that goes away with it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from modledger.workers.postgres import EmbeddedPostgres


@contextmanager
def server() -> Iterator[str]:
    """The URL of a superuser on a fresh server. Not in memory (unless TMPDIR is): a commit costs a real fsync."""
    with tempfile.TemporaryDirectory(prefix="modledger-bench-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        try:
            yield postgres.attach()
        finally:
            postgres.stop()
            postgres.detach()


def create_database(conninfo: str, name: str) -> str:
    """A new and empty database on the server, in the place of one of that name; its URL."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return named(conninfo, name)


def named(conninfo: str, name: str) -> str:
    """The same URL for another database of the server."""
    before, _, after = conninfo.partition(":///")
    return f"{before}:///{name}?{after.partition('?')[2]}"

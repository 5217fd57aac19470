"""What commands of the command line begin with: the settings, the database, the ledger, and who acts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import click

from modledger.domain.commands import Context
from modledger.domain.envelope import OPERATOR
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings, read_settings
from modledger.workers.database import logged_in
from modledger.workers.logs import configure_logs
from modledger.workers.master_key import master_key
from modledger.workers.migrate import require_migrated


class Failure(click.ClickException):
    """Ends the program with one line on standard error and this exit status: 1 the product cannot do it now, 2 the call
    or a file is wrong."""

    def __init__(self, error: object, exit_code: int) -> None:
        super().__init__(str(error))
        # click knows one for each class.
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"modledger: {self.message}", file=file, err=True)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """The file is named where it cannot be written: a full disk names none."""
    try:
        yield
    except OSError as error:
        raise Failure(f"{error.filename or file}: {error.strerror}; nothing of it is left", 1) from error


@contextmanager
def installation(process: str, *, owner: bool = False) -> Iterator[tuple[Settings, str]]:
    """The settings and the URL of a running database at this program's schema. ``process``: its name in the log;
    ``owner``: for what makes, fills or drops tables.
    Raises SettingsError, PostgresError, MigrationError and psycopg.Error."""
    settings = read_settings(os.environ)
    configure_logs(settings.log_level, process)
    with logged_in(settings) as logins:
        conninfo = logins.owner if owner else logins.app
        require_migrated(conninfo)
        yield settings, conninfo


@contextmanager
def open_ledger(process: str, connections: int = 1, *, owner: bool = False) -> Iterator[tuple[PostgresLedger, str]]:
    """The ledger, and the URL of its database. Raises as ``installation``, ``master_key`` and PostgresLedger."""
    with (
        installation(process, owner=owner) as (settings, conninfo),
        PostgresLedger(conninfo, master_key(settings, conninfo), connections=connections) as ledger,
    ):
        yield ledger, conninfo


def operator() -> Context:
    """A command that the operator gives now."""
    return Context(actor=OPERATOR, at=datetime.now(UTC), command_id=uuid4(), correlation_id=uuid4(), via="cli")

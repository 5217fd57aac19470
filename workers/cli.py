"""The command line: ``modledger up | serve | work | migrate | owner | session | key | import | settings``.

Exit statuses: 0 done, 1 the product cannot do it now, 2 the call or a setting is wrong, 3 an import skipped records.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal
from uuid import uuid4

import click
import psycopg
from rich.console import Console
from rich.table import Table

from modledger.domain.commands import ChangePermission, Context
from modledger.domain.envelope import OPERATOR
from modledger.domain.execute import execute
from modledger.domain.ledger import LedgerDamaged, LedgerUnavailable
from modledger.domain.personal_text import WrongMasterKey
from modledger.domain.postgres_ledger import NotMigrated, PostgresLedger
from modledger.domain.refusals import Refused
from modledger.domain.settings import Settings, SettingsError, describe_settings, read_settings
from modledger.domain.subjects import OWNER
from modledger.workers.audit_cli import audit
from modledger.workers.database import database, logged_in
from modledger.workers.demo_cli import demo
from modledger.workers.dump_cli import dump, restore
from modledger.workers.erase_cli import erase
from modledger.workers.logins import warn_unless_separated
from modledger.workers.logs import configure_logs
from modledger.workers.master_key import MasterKeyError, master_key
from modledger.workers.migrate import MigrationError, migrate, require_migrated
from modledger.workers.opening import Failure
from modledger.workers.port import PortTaken
from modledger.workers.postgres_programs import PostgresError
from modledger.workers.replay_cli import replay
from modledger.workers.seal_cli import seal
from modledger.workers.show_cli import Views, show
from modledger.workers.stopping import signal_when_parent_dies, stop_on_signals
from modledger.workers.verify_cli import verify

PARENT_FD = click.option("--parent-fd", type=int, hidden=True, help="A pipe that closes when the parent is gone.")
DISCORD_ID = click.IntRange(1, 2**63 - 1)


def main() -> None:
    """Runs the command line; what goes wrong ends in one line on standard error, never a traceback."""
    _open_standard_streams()
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except SettingsError as error:
        _fail(error, 2)
    except Refused as error:
        _fail(error, 1)
    except (PostgresError, MigrationError, NotMigrated) as error:
        _fail(error, 1)
    except (MasterKeyError, WrongMasterKey) as error:
        _fail(error, 2)
    except (LedgerUnavailable, LedgerDamaged, PortTaken, psycopg.Error) as error:
        _fail(error, 1)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else error, 1)


def _open_standard_streams() -> None:
    # Whoever starts us with one of them closed would have the next file or socket take its number, and be written to.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin, sys.stdout, sys.stderr = (
        stream or os.fdopen(number, mode)
        for number, (stream, mode) in enumerate(((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w")))
    )


def _fail(error: Exception | str, status: int) -> None:
    click.echo(f"modledger: {error}", err=True)
    sys.exit(status)


def _settings(*, development: bool = False) -> Settings:
    return read_settings({"MODLEDGER_DEVELOPMENT": "true", **os.environ} if development else os.environ)


@contextmanager
def _ledger(settings: Settings, connections: int) -> Iterator[tuple[PostgresLedger, str]]:
    with database(settings) as conninfo:
        require_migrated(conninfo)
        with PostgresLedger(conninfo, master_key(settings, conninfo), connections=connections) as ledger:
            yield ledger, conninfo


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="modledger")
def cli() -> None:
    """modledger: an event-sourced moderation ledger. Settings come from MODLEDGER_* variables only."""


cli.add_command(seal)
cli.add_command(erase)
cli.add_command(replay)
cli.add_command(verify)
cli.add_command(demo)
cli.add_command(dump)
cli.add_command(restore)
cli.add_command(audit)


def _views() -> Views:
    from modledger.http import bots, guilds, profile

    return Views(profile.searchable, profile.detailed_view, guilds.detailed_view, bots.admin_bot_view)


show.context_settings["obj"] = _views
cli.add_command(show)


@cli.command()
def up() -> None:
    """Run everything here: database, migrations, demo data, HTTP, workers."""
    from modledger.workers.up import UpError
    from modledger.workers.up import up as run_up

    settings = _settings(development=True)
    configure_logs(settings.log_level, "up")
    stop = threading.Event()
    stop_on_signals(stop)
    try:
        run_up(settings, stop)
    except UpError as error:
        _fail(error, 1)


@cli.command()
@PARENT_FD
def serve(parent_fd: int | None) -> None:
    """Serve HTTP."""
    from modledger.workers.serve import serve as run_serve

    settings = _settings()
    configure_logs(settings.log_level, "serve", gather=True)
    signal_when_parent_dies(parent_fd)
    run_serve(settings)


@cli.command()
@PARENT_FD
def work(parent_fd: int | None) -> None:
    """Run the projectors, the clock and the sealer."""
    from modledger.projections.catalog import PROJECTORS
    from modledger.workers.work import work as run_work

    settings = _settings()
    configure_logs(settings.log_level, "work")
    stop = threading.Event()
    stop_on_signals(stop)
    signal_when_parent_dies(parent_fd)
    with _ledger(settings, connections=len(PROJECTORS) + 2) as (ledger, conninfo):
        warn_unless_separated(conninfo)
        run_work(ledger, conninfo, settings, stop)


@cli.command("migrate")
def migrate_command() -> None:
    """Bring the database to this program's schema, and its read tables up to date."""
    from modledger.projections.catalog import PROJECTORS
    from modledger.projections.rebuild import ReplayAborted, ReplayFailed
    from modledger.workers.replay import Stopped, rebuild_outdated
    from modledger.workers.replay_progress import of_catch_up, watched
    from modledger.workers.runner import catch_up

    settings = _settings()
    configure_logs(settings.log_level, "migrate")
    stop = threading.Event()
    stop_on_signals(stop)
    with logged_in(settings) as logins:
        conninfo = logins.owner
        applied = migrate(conninfo, logins)
        # Makes the key of a new installation and checks that of an old one.
        with PostgresLedger(conninfo, master_key(settings, conninfo), connections=1) as ledger:
            try:
                rebuilt = rebuild_outdated(ledger, conninfo, PROJECTORS, stop)
            except (ReplayAborted, ReplayFailed, Stopped) as error:
                raise Failure(error, 1) from error
            # What was missing is empty until now.
            with watched("read tables", partial(of_catch_up, conninfo, ledger, PROJECTORS)):
                catch_up(ledger, conninfo, PROJECTORS)
    if rebuilt:
        click.echo(f"rebuilt the read tables of {', '.join(rebuilt)}")
    click.echo(f"applied {', '.join(applied)}" if applied else "nothing to apply")


@cli.command()
@click.argument("discord_id", type=DISCORD_ID)
def owner(discord_id: int) -> None:
    """Make a user an Owner."""
    settings = _settings()
    configure_logs(settings.log_level, "owner")
    with _ledger(settings, connections=1) as (ledger, _):
        command = ChangePermission(user_id=discord_id, level=OWNER, reason="Made an Owner on the command line")
        outcome = execute(ledger, command, _operator())
    click.echo(f"user {discord_id} is an Owner (position {outcome.position})")


@cli.command()
@click.argument("discord_id", type=DISCORD_ID)
@click.option("--cookie-jar", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
def session(discord_id: int, cookie_jar: Path) -> None:
    """Log a user in and write the cookie to a file for curl -b."""
    from modledger.workers.up import UpError, open_operator_session

    settings = _settings()
    configure_logs(settings.log_level, "session")
    with _ledger(settings, connections=1) as (ledger, conninfo):
        try:
            open_operator_session(ledger, conninfo, settings, discord_id, cookie_jar, datetime.now(UTC))
        except UpError as error:
            _fail(error, 1)
    click.echo(f"wrote {cookie_jar}")


@cli.group()
def key() -> None:
    """Make keys for clients, each shown once and only its hash kept; rotate the master key."""


@key.command("public")
def public_key() -> None:
    """A key for public views."""
    _make_key(None)


@key.command("bot")
@click.argument("discord_id", type=DISCORD_ID)
def bot_key(discord_id: int) -> None:
    """The key of a bot; an earlier one dies at once."""
    _make_key(discord_id)


@key.command("rotate")
def rotate_key() -> None:
    """Put the first of two master keys in the place of the second, while everything goes on (docs/keys.md)."""
    from modledger.http.resealing import reseal
    from modledger.workers.key_rotation import rotate

    settings = _settings()
    configure_logs(settings.log_level, "key")
    with logged_in(settings) as logins:
        # The program's own login may not change a key of a subject.
        conninfo = logins.owner
        require_migrated(conninfo)
        secret = master_key(settings, conninfo)
        done = rotate(conninfo, secret)
        sealed = reseal(conninfo, secret)
    click.echo(f"wrapped {done.rewrapped} of {done.keys} keys anew, sealed {sealed} codes and answers anew")
    click.echo("everything opens with the first master key alone")


def _make_key(bot_id: int | None) -> None:
    from modledger.http.keys import create_key

    settings = _settings()
    configure_logs(settings.log_level, "key")
    with database(settings) as conninfo:
        require_migrated(conninfo)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            kind: Literal["public", "bot"] = "public" if bot_id is None else "bot"
            click.echo(create_key(connection, kind, bot_id, datetime.now(UTC)))


@cli.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_command(file: Path) -> None:
    """Take a platform's existing records from a JSON Lines file (docs/import.md)."""
    from modledger.workers.importer import import_file, render

    settings = _settings()
    configure_logs(settings.log_level, "import")
    with _ledger(settings, connections=2) as (ledger, _):
        report = import_file(ledger, file, now=datetime.now(UTC))
    click.echo(render(report))
    if report.skipped:
        sys.exit(3)


@cli.command("settings")
def settings_command() -> None:
    """List every setting with its present value."""
    settings = _settings()
    table = Table("variable", "value", "default", "allowed", "meaning")
    for row in describe_settings(settings):
        table.add_row(row.variable, row.value, row.default, row.allowed, row.meaning)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _operator() -> Context:
    return Context(actor=OPERATOR, at=datetime.now(UTC), command_id=uuid4(), correlation_id=uuid4(), via="cli")

"""The command line: ``modledger up | serve | work | migrate | owner | session | key | import | settings``, and those
of ``ELSEWHERE``. Whatever only some commands need is imported when one of them runs: that takes longer than most do.

Exit statuses: 0 done, 1 the product cannot do it now, 2 the call or a setting is wrong, 3 an import skipped records.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from modledger.domain.settings import Settings, SettingsError, describe_settings, read_settings
from modledger.workers.stopping import signal_when_parent_dies, stop_on_signals

if TYPE_CHECKING:
    from modledger.domain.postgres_ledger import PostgresLedger
    from modledger.workers.show_cli import Views

PARENT_FD = click.option("--parent-fd", type=int, hidden=True, help="A pipe that closes when the parent is gone.")
DISCORD_ID = click.IntRange(1, 2**63 - 1)
# The commands that stand in modules of their own.
ELSEWHERE = {
    "audit": "audit_cli",
    "demo": "demo_cli",
    "dump": "dump_cli",
    "erase": "erase_cli",
    "replay": "replay_cli",
    "restore": "dump_cli",
    "seal": "seal_cli",
    "show": "show_cli",
    "verify": "verify_cli",
}


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
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else error, 1)
    except Exception as error:
        status = _status_of(error)
        if status is None:
            raise
        _fail(error, status)


def _status_of(error: Exception) -> int | None:
    """None for one that only a mistake of ours explains."""
    import psycopg

    from modledger.domain.ledger import LedgerDamaged, LedgerUnavailable
    from modledger.domain.personal_text import WrongMasterKey
    from modledger.domain.postgres_ledger import NotMigrated
    from modledger.domain.refusals import Refused
    from modledger.workers.master_key import MasterKeyError
    from modledger.workers.migrate import MigrationError
    from modledger.workers.port import PortTaken
    from modledger.workers.postgres_programs import PostgresError

    match error:
        case MasterKeyError() | WrongMasterKey():
            return 2
        case Refused() | PostgresError() | MigrationError() | NotMigrated():
            return 1
        case LedgerUnavailable() | LedgerDamaged() | PortTaken() | psycopg.Error():
            return 1
    return None


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
def _ledger(settings: Settings, connections: int) -> "Iterator[tuple[PostgresLedger, str]]":
    from modledger.domain.postgres_ledger import PostgresLedger
    from modledger.workers.database import database
    from modledger.workers.master_key import master_key
    from modledger.workers.migrate import require_migrated

    with database(settings) as conninfo:
        require_migrated(conninfo)
        with PostgresLedger(conninfo, master_key(settings, conninfo), connections=connections) as ledger:
            yield ledger, conninfo


class _Commands(click.Group):
    """Those of ``ELSEWHERE`` are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        command = getattr(import_module(f"modledger.workers.{ELSEWHERE[cmd_name]}"), cmd_name)
        assert isinstance(command, click.Command)
        if cmd_name == "show":
            command.context_settings["obj"] = _views
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="modledger")
def cli() -> None:
    """modledger: an event-sourced moderation ledger. Settings come from MODLEDGER_* variables only."""


def _views() -> "Views":
    from modledger.http import bots, guilds, profile
    from modledger.workers.show_cli import Views

    return Views(profile.searchable, profile.detailed_view, guilds.detailed_view, bots.admin_bot_view)


@cli.command()
def up() -> None:
    """Run everything here: database, migrations, demo data, HTTP, workers."""
    settings = _settings(development=True)

    from modledger.workers.logs import configure_logs
    from modledger.workers.up import UpError
    from modledger.workers.up import up as run_up

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
    settings = _settings()

    from modledger.workers.logs import configure_logs
    from modledger.workers.serve import serve as run_serve

    configure_logs(settings.log_level, "serve", gather=True)
    signal_when_parent_dies(parent_fd)
    run_serve(settings)


@cli.command()
@PARENT_FD
def work(parent_fd: int | None) -> None:
    """Run the projectors, the clock and the sealer."""
    settings = _settings()

    from modledger.projections.catalog import PROJECTORS
    from modledger.workers.logins import warn_unless_separated
    from modledger.workers.logs import configure_logs
    from modledger.workers.work import work as run_work

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
    settings = _settings()

    from modledger.domain.postgres_ledger import PostgresLedger
    from modledger.projections.catalog import PROJECTORS
    from modledger.projections.rebuild import ReplayAborted, ReplayFailed
    from modledger.workers.database import logged_in
    from modledger.workers.logs import configure_logs
    from modledger.workers.master_key import master_key
    from modledger.workers.migrate import migrate
    from modledger.workers.opening import Failure
    from modledger.workers.replay import Stopped, rebuild_outdated
    from modledger.workers.replay_progress import of_catch_up, watched
    from modledger.workers.runner import catch_up

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

    from modledger.domain.commands import ChangePermission
    from modledger.domain.execute import execute
    from modledger.domain.subjects import OWNER
    from modledger.workers.logs import configure_logs
    from modledger.workers.opening import operator

    configure_logs(settings.log_level, "owner")
    with _ledger(settings, connections=1) as (ledger, _):
        command = ChangePermission(user_id=discord_id, level=OWNER, reason="Made an Owner on the command line")
        outcome = execute(ledger, command, operator())
    click.echo(f"user {discord_id} is an Owner (position {outcome.position})")


@cli.command()
@click.argument("discord_id", type=DISCORD_ID)
@click.option("--cookie-jar", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
def session(discord_id: int, cookie_jar: Path) -> None:
    """Log a user in and write the cookie to a file for curl -b."""
    settings = _settings()

    from modledger.workers.logs import configure_logs
    from modledger.workers.up import UpError, open_operator_session

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
    settings = _settings()

    from modledger.http.resealing import reseal
    from modledger.workers.database import logged_in
    from modledger.workers.key_rotation import rotate
    from modledger.workers.logs import configure_logs
    from modledger.workers.master_key import master_key
    from modledger.workers.migrate import require_migrated

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
    settings = _settings()

    import psycopg

    from modledger.http.keys import create_key
    from modledger.workers.database import database
    from modledger.workers.logs import configure_logs
    from modledger.workers.migrate import require_migrated

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
    settings = _settings()

    from modledger.workers.importer import import_file, render
    from modledger.workers.logs import configure_logs

    configure_logs(settings.log_level, "import")
    with _ledger(settings, connections=2) as (ledger, _):
        report = import_file(ledger, file, now=datetime.now(UTC))
    click.echo(render(report))
    if report.skipped:
        sys.exit(3)


@cli.command("settings")
def settings_command() -> None:
    """List every setting with its present value."""
    from rich.console import Console
    from rich.table import Table

    settings = _settings()
    table = Table("variable", "value", "default", "allowed", "meaning")
    for row in describe_settings(settings):
        table.add_row(row.variable, row.value, row.default, row.allowed, row.meaning)
    Console(width=None if sys.stdout.isatty() else 200).print(table)

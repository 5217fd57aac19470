"""The whole product in one terminal: database, migrations, demo data, HTTP and workers, stopped together."""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import psycopg

from modledger.domain.envelope import Subject
from modledger.domain.ledger import Ledger
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.domain.subjects import User, fold
from modledger.http.geoip import open_geoip
from modledger.http.sessions import COOKIE, lifetime, open_session
from modledger.projections.catalog import PROJECTORS
from modledger.projections.rebuild import ReplayAborted, ReplayFailed
from modledger.workers import demo
from modledger.workers.cookie_jar import write_cookie_jar
from modledger.workers.database import logged_in
from modledger.workers.master_key import master_key
from modledger.workers.migrate import migrate
from modledger.workers.port import require_free_port
from modledger.workers.replay import Stopped, rebuild_outdated
from modledger.workers.replay_progress import of_catch_up, watched
from modledger.workers.runner import catch_up

READY_SECONDS = 60
STOP_SECONDS = 15
CHECK_SECONDS = 0.2
# A process that ends within this time of its start, several times in a row, will not be helped by another start.
EARLY_SECONDS = 5
EARLY_ENDS = 3


class UpError(Exception):
    """The product cannot start or go on; the message says why."""


def up(settings: Settings, stop: threading.Event) -> None:
    """Runs until ``stop`` is set or nothing can be done any more. Raises UpError, and what its parts raise."""
    require_free_port(settings.host, settings.port)
    # serve opens it for itself; this is to say now what is wrong with it.
    if (places := open_geoip(settings.geoip_database)) is not None:
        places.close()
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with logged_in(settings) as logins:
        conninfo = logins.owner
        migrate(conninfo, logins)
        with PostgresLedger(conninfo, master_key(settings, conninfo), connections=2) as ledger:
            if settings.demo and ledger.head() == 0:
                click.echo("Loading demo data")
                demo.load_demo(ledger, conninfo, now=datetime.now(UTC))
            try:
                rebuild_outdated(ledger, conninfo, PROJECTORS, stop)
            except Stopped:
                return
            except (ReplayAborted, ReplayFailed) as error:
                raise UpError(str(error)) from error
            # So that the first answer is the right one, also after tables were made anew.
            with watched("read tables", partial(of_catch_up, conninfo, ledger, PROJECTORS)):
                catch_up(ledger, conninfo, PROJECTORS)
            jars = _log_in_demo_roles(settings, ledger, conninfo) if demo.is_loaded(ledger) else None
            with processes(settings) as children:
                _wait_until_ready(settings, children, stop)
                if not stop.is_set():
                    _welcome(settings, jars)
                while not stop.wait(CHECK_SECONDS):
                    for child in children:
                        child.keep_alive()


class Child:
    """A process of ours (``serve`` or ``work``) that is started again when it ends without being told to."""

    def __init__(self, command: str, environment: dict[str, str]) -> None:
        self.command = command
        self.environment = environment
        self.early_ends = 0
        # The child reads, nobody writes: the kernel closes our end when we die in whatever way, and that it notices.
        self.read_end, self.write_end = os.pipe()
        self.start()

    def start(self) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "modledger.workers", self.command, "--parent-fd", str(self.read_end)],
            env=self.environment,
            pass_fds=[self.read_end],
            stdin=subprocess.DEVNULL,
            # A Ctrl-C in the terminal is for us; we tell the children when it is their turn.
            start_new_session=True,
        )

    def keep_alive(self) -> None:
        """Starts the process again if it has ended. Raises UpError when that has become pointless."""
        status = self.process.poll()
        if status is None:
            return
        self.early_ends = self.early_ends + 1 if time.monotonic() - self.started < EARLY_SECONDS else 0
        if self.early_ends >= EARLY_ENDS:
            raise UpError(f"modledger {self.command} ends again and again (exit status {status}): see the log above")
        click.echo(f"modledger {self.command} ended with status {status}: starting it again", err=True)
        self.start()

    def stop(self, patience: float) -> None:
        """Waits for its orderly end, kills it after ``patience`` seconds."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.read_end)
        os.close(self.write_end)


@contextmanager
def processes(settings: Settings) -> Iterator[list[Child]]:
    """``work`` and ``serve`` running; both told to stop, and waited for, at the end of the block."""
    environment = {
        # Nobody balances requests over what runs here.
        "MODLEDGER_DRAIN_SECONDS": "0",
        **os.environ,
        "MODLEDGER_DEVELOPMENT": "true" if settings.development else "false",
    }
    # What serves and works is not to know the way to more rights.
    environment.pop("MODLEDGER_OWNER_DATABASE_URL", None)
    children: list[Child] = []
    try:
        for command in ("work", "serve"):
            if settings.metrics_port is not None:
                environment["MODLEDGER_METRICS_PORT"] = str(settings.metrics_port + (command == "work"))
            child = Child(command, dict(environment))
            children.append(child)
        yield children
    finally:
        for child in children:
            child.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            child.stop(max(0.0, deadline - time.monotonic()))


def _wait_until_ready(settings: Settings, children: list[Child], stop: threading.Event) -> None:
    # A proxy of the machine's must not stand between us and ourselves.
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    deadline = time.monotonic() + READY_SECONDS
    while not stop.wait(0.1):
        for child in children:
            child.keep_alive()
        try:
            with ask(f"{base_url(settings)}/health", timeout=2) as answer:
                health = json.load(answer)
        except (OSError, ValueError, urllib.error.HTTPError):
            health = {}
        projections = health.get("projections", {})
        if projections and all(one["lag_events"] == 0 for one in projections.values()):
            return
        if health and time.monotonic() > deadline:
            click.echo("The projections are still catching up; /health shows how far they are.", err=True)
            return
        if time.monotonic() > deadline:
            raise UpError(f"{base_url(settings)}/health did not answer within {READY_SECONDS} s: see the log above")


def base_url(settings: Settings) -> str:
    """Where the product answers on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{settings.port}"


def _log_in_demo_roles(settings: Settings, ledger: Ledger, conninfo: str) -> Path:
    jars = settings.data_dir / "cookies"
    for role, user_id in demo.DEMO_ROLES.items():
        open_operator_session(ledger, conninfo, settings, user_id, jars / f"{role}.txt", datetime.now(UTC))
    return jars


def _welcome(settings: Settings, jars: Path | None) -> None:
    url = base_url(settings)
    click.echo(f"\nmodledger answers at {url}\n  API and viewer  {url}/schema\n  health          {url}/health")
    if jars is not None:
        search = f"{url}/v1/admin/punishments/search?issued_by={demo.DEMO_ROLES['admin']}&active_only=true"
        click.echo(
            f"\nTry (cookie jars for {', '.join(demo.DEMO_ROLES)} are in {jars}):\n"
            f"  {curl(jars / 'user.txt', f'{url}/v1/users/profile/exampleuser')}\n"
            f"  {curl(jars / 'admin.txt', search)}"
        )
    click.echo("\nCtrl-C stops everything.")


def open_operator_session(
    ledger: Ledger, conninfo: str, settings: Settings, user_id: int, jar: Path, now: datetime
) -> None:
    """Logs a user in from the command line: a session as any other, its cookie in a jar. Raises UpError for somebody
    whom the ledger has never seen."""
    subject = Subject("user", user_id)
    history = ledger.load([str(subject)])[str(subject)]
    if not history:
        raise UpError(f"user {user_id} was never seen")
    user = fold(subject, history)
    assert isinstance(user, User)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        token = open_session(connection, user_id, user.level, now, None, "modledger session")
    write_cookie_jar(jar, COOKIE, token, now + lifetime(user.level), settings)


def curl(jar: Path, url: str) -> str:
    """A line to paste into a shell."""
    return f"curl -s -b {shlex.quote(str(jar))} {shlex.quote(url)}"

"""The installation under test: PostgreSQL on a small file system of its own, two ``serve`` and two ``work``, and a
proxy on every way between them and to their clients. Whatever ends is started again, as a service manager does."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import psycopg

from bench.processes import free_port
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.logins import APP, OWNER, READ, as_login, embedded
from modledger.workers.migrate import migrate
from modledger.workers.postgres import EmbeddedPostgres, PostgresError
from tests.chaos.proxy import Proxy
from tests.made_once import fast_folder
from tests.postgres_processes import pid_of, socket_dir

ROOT = Path(__file__).resolve().parent.parent.parent
MASTER_KEY = bytes(range(32))
NAMES = ("serve a", "serve b", "work a", "work b")
SERVERS = NAMES[:2]
# The clocks of these can be stepped (process.py); the others are the product's command line as it stands.
STEPPED = ("serve b", "work b")
# A cluster, its log of at most 96 MB (CONFIGURATION), and room for what a few hundred rounds write.
DISK_MEGABYTES = 512
PATIENCE_SECONDS = 120.0
CONFIGURATION = """
max_connections = 200
shared_buffers = 64MB
min_wal_size = 32MB
max_wal_size = 64MB
"""


class Process:
    """One of ours: its command, and how it does."""

    def __init__(self, name: str, environment: dict[str, str], log: Path, offset: Path) -> None:
        self.name = name
        self.log = log
        self.offset = offset
        self.popen: subprocess.Popen[bytes] | None = None
        # Not started again while somebody holds it down.
        self.held = False
        self.killed = False
        self._environment = environment
        self._said = 0

    def start(self) -> None:
        command = self.name.split()[0]
        module = ["tests.chaos.process", command, str(self.offset)] if self.name in STEPPED else None
        self.killed = False
        self._said = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *(module or ["modledger.workers", command])],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def said(self, words: str) -> bool:
        """Whether the process that runs now, or ran last, has logged that."""
        if not self.log.exists():
            return False
        with self.log.open("rb") as log:
            log.seek(self._said)
            return words.encode() in log.read()

    def kill(self) -> None:
        """kill -9, also of one that is stopped."""
        self.killed = True
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        if self.popen is not None and self.popen.poll() is None:
            self.popen.send_signal(number)


class Installation:
    """Everything that runs. ``mounted``: its disk is its own, so that it can be made full. ``ended_alone``: processes
    that ended although nobody had killed them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted = False
        self.ended_alone: list[str] = []
        self.postgres: EmbeddedPostgres
        self.url = ""
        self.proxies: dict[str, Proxy] = {}
        self.doors: dict[str, Proxy] = {}
        self.processes: dict[str, Process] = {}
        self.skews: dict[str, list[tuple[float, float]]] = {name: [(0.0, 0.0)] for name in SERVERS}
        self.postgres_held = False
        self._leaving = threading.Event()
        self._keepers = [
            threading.Thread(target=keep, name="keeper", daemon=True)
            for keep in (self._keep_processes, self._keep_postgres)
        ]

    @property
    def disk(self) -> Path:
        """The folder of PostgreSQL, a file system of its own where one could be mounted."""
        return self.folder / "disk"

    @property
    def cluster(self) -> Path:
        return self.disk / "postgres"

    def begin(self) -> None:
        """Everything up, on an empty migrated database; the processes may still be starting."""
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(self.disk)]
        self.mounted = sys.platform == "linux" and os.geteuid() == 0 and _succeeds(mount)
        self.postgres = EmbeddedPostgres(self.cluster)
        self.url = self.postgres.attach()
        self.postgres.stop()
        with (self.cluster / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write(CONFIGURATION)
        self.url = self.postgres.attach()
        logins = embedded(self.url)
        migrate(logins.owner, logins)
        socket = socket_dir(self.url) / ".s.PGSQL.5432"
        for name in NAMES:
            proxy = self.proxies[name] = Proxy(socket)
            port = free_port()
            if name in SERVERS:
                self.doors[name] = Proxy(port)
            offset = self.folder / f"{name} is ahead"
            offset.write_text("0")
            log = self.folder / f"{name}.log"
            self.processes[name] = Process(name, self._environment(proxy.port, port), log, offset)
            self.processes[name].start()
        for keeper in self._keepers:
            keeper.start()

    def end(self) -> None:
        """Everything down and gone, but the folder."""
        self._leaving.set()
        for keeper in self._keepers:
            if keeper.is_alive():
                keeper.join()
        for process in self.processes.values():
            process.kill()
            if process.popen is not None:
                process.popen.wait()
        for proxy in (*self.proxies.values(), *self.doors.values()):
            proxy.close()
        if self.url:
            # A fault that was cut short may have left some of them stopped, which would never end.
            self._signal_all_of_postgres(signal.SIGCONT)
            self.postgres.stop()
            self.postgres.detach()
        until = time.monotonic() + PATIENCE_SECONDS
        while self._signal_all_of_postgres(signal.SIGKILL) and time.monotonic() < until:
            time.sleep(0.05)
        if self.mounted:
            subprocess.run(["umount", str(self.disk)], check=True)

    def _signal_all_of_postgres(self, number: int) -> int:
        """To every process of the cluster, with or without a postmaster; how many there were."""
        count = 0
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if (entry / "cwd").readlink() == self.cluster / "data":
                    os.kill(int(entry.name), number)
                    count += 1
        return count

    def _environment(self, database_port: int, port: int) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
        return {
            **inherited,
            **{f"MODLEDGER_RATE_LIMIT_{kind}": "0" for kind in ("LOGIN", "STAFF", "PUBLIC", "BOT")},
            "MODLEDGER_DATABASE_URL": f"postgresql://{APP}@127.0.0.1:{database_port}/modledger",
            "MODLEDGER_READ_DATABASE_URL": f"postgresql://{READ}@127.0.0.1:{database_port}/modledger",
            "MODLEDGER_DATA_DIR": str(self.folder / "data"),
            "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode(),
            "MODLEDGER_SEAL_KEY": b64encode(MASTER_KEY[::-1]).decode(),
            "MODLEDGER_PORT": str(port),
            "MODLEDGER_WRITE_CONNECTIONS": "4",
            "MODLEDGER_READ_CONNECTIONS": "4",
        }

    def environment_of_operator(self) -> dict[str, str]:
        """For the command line, straight to the database."""
        return {
            **self._environment(1, 1),
            "MODLEDGER_OWNER_DATABASE_URL": as_login(self.url, OWNER),
            "MODLEDGER_DATABASE_URL": as_login(self.url, APP),
            "MODLEDGER_READ_DATABASE_URL": as_login(self.url, READ),
        }

    # -- what a service manager does

    def _keep_processes(self) -> None:
        while not self._leaving.wait(0.2):
            for process in self.processes.values():
                if process.alive or process.held:
                    continue
                # One that cannot begin for want of a database ends by itself, and rightly.
                if not process.killed and process.said('"serving"' if process.name in SERVERS else "is active"):
                    assert process.popen is not None
                    self.ended_alone.append(f"{process.name} ended by itself with status {process.popen.returncode}")
                process.start()

    def _keep_postgres(self) -> None:
        while not self._leaving.wait(0.2):
            if not self.postgres_held and not self.postgres_runs():
                # A full disk may keep it from starting.
                with contextlib.suppress(PostgresError, psycopg.Error, OSError):
                    self.postgres.attach()

    def postgres_runs(self) -> bool:
        """Whether there is a postmaster, in whatever state."""
        try:
            state = Path(f"/proc/{pid_of(self.cluster)}/stat").read_text().rpartition(") ")[2]
        except (OSError, ValueError, IndexError):
            return False
        return state[:1] not in ("Z", "X")

    # -- what faults do

    def signal_postgres(self, number: int) -> None:
        """To the postmaster, if there is one."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            os.kill(pid_of(self.cluster), number)

    def backends(self) -> list[int]:
        """The pids, in this machine's counting, of the backends that serve our processes."""
        try:
            postmaster = pid_of(self.cluster)
        except (OSError, ValueError, IndexError):
            return []
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(") ")[2].split() if entry.name.isdigit() else []
                if fields and int(fields[1]) == postmaster and b"modledger" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return sorted(found)

    def step_clock(self, name: str, ahead: float) -> None:
        """From now on the process is so many seconds ahead of the machine."""
        if name in SERVERS:
            # Either may hold while the file is being written.
            self.skews[name].append((time.time(), ahead))
        offset = self.processes[name].offset
        fresh = offset.with_suffix(".new")
        fresh.write_text(str(ahead))
        fresh.replace(offset)

    def skew(self, name: str, began: float, ended: float) -> tuple[float, float]:
        """The least and the most that the server was ahead between two moments of this machine."""
        steps = self.skews[name]
        within = [ahead for at, ahead in steps if began - 0.5 <= at <= ended]
        before = [ahead for at, ahead in steps if at < began - 0.5]
        values = [*within, *before[-1:]]
        return min(values), max(values)

    # -- how it does

    @contextlib.contextmanager
    def ledger(self) -> Iterator[PostgresLedger]:
        """The harness's own look at the ledger, by no proxy."""
        with PostgresLedger(self.url, MASTER_KEY, connections=2) as ledger:
            yield ledger


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def installed() -> Iterator[Installation]:
    """An installation that runs, and is gone afterwards, its folder too."""
    with tempfile.TemporaryDirectory(prefix="modledger-chaos-", dir=fast_folder()) as folder:
        one = Installation(Path(folder))
        try:
            one.begin()
            yield one
        finally:
            one.end()

"""The embedded PostgreSQL: started by the first process that needs it, stopped by the last one that leaves.

Only the *binaries* of a PostgreSQL distribution are used. Three advisory locks (flock, so the kernel drops them at
kill -9) carry all the bookkeeping, each in a file of its own under the root folder:

    start.lock     exclusive, held for the length of one attach, detach or stop
    attached.lock  shared, held by every attached process for its life: whoever can take it exclusively was the last
    server.lock    exclusive, inherited by initdb and by every process of the server: free means that none of them lives

postgres is launched without pg_ctl: pg_ctl builds a shell line in which a `$` or a quote in a path is not literal.
"""

import atexit
import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from modledger.workers.postgres_programs import Account, PostgresError, account_for, major_version, postgres_bin, run

__all__ = ["EmbeddedPostgres", "PostgresError", "postgres_bin"]

# Crash recovery replays up to max_wal_size (1 GB) of log; on a slow disk that takes minutes, not seconds.
PATIENCE_SECONDS = 300.0
# Backends that outlive a killed postmaster notice within milliseconds unless they are in the middle of a computation.
ORPHAN_PATIENCE_SECONDS = 30.0
# A server that says it is ready may still refuse for a moment: it restarts its backends after one of them crashed.
REFUSAL_PATIENCE_SECONDS = 10.0
POLL_SECONDS = 0.02
LOG_LIMIT_BYTES = 8 * 1024 * 1024
PORT = 5432  # only part of the socket's file name: nothing listens on TCP
# No kernel gives this pid, so PostgreSQL takes a pid file that names it for stale.
NOBODYS_PID = 2**31 - 1

CONFIGURATION = """
# modledger
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = {shared_buffers}
wal_level = replica
timezone = 'UTC'
log_timezone = 'UTC'
"""


class _Postmaster(NamedTuple):
    pid: int
    port: int
    socket_dir: str
    ready: bool

    def url(self, database: str) -> str:
        # The port is spelled out because libpq would otherwise take it from PGPORT.
        query = urlencode({"host": self.socket_dir, "port": self.port, "user": "postgres"}, quote_via=quote, safe="/")
        return f"postgresql:///{quote(database, safe='')}?{query}"


class EmbeddedPostgres:
    """One PostgreSQL under `root` (created 0700 when absent), shared by every process that attaches to that folder.

    `root/data` is the cluster, `root/postgres.log` its log. `durable=False` turns fsync, synchronous_commit and
    full_page_writes off and is meant for tests: a power cut may then cost the whole cluster.
    """

    def __init__(
        self, root: Path, *, bin_dir: Path | None = None, database: str = "modledger", durable: bool = True
    ) -> None:
        self._root = root.resolve()
        self._data = self._root / "data"
        self._log = self._root / "postgres.log"
        self._bin_dir = bin_dir
        self._database = database
        self._durable = durable
        self._attached: int | None = None  # the descriptor of attached.lock
        self._owner = 0  # the process that opened it

    def attach(self) -> str:
        """Start the server unless it runs, keep it up for the life of this process, and return a URL for psycopg.

        The database exists when this returns. Safe to call again, also to restart a server that was killed. A server
        that already runs on `root/data` is used as it is. Raises PostgresError.
        """
        with _os_errors_explained(self._root):
            self._make_root()
            with self._alone():
                newly = self._attached is None or self._owner != os.getpid()
                if newly:
                    if self._attached is not None:  # a fork's copy of its parent's hold: with it we would never be last
                        os.close(self._attached)
                    self._attached, self._owner = self._open_lock("attached.lock"), os.getpid()
                    fcntl.flock(self._attached, fcntl.LOCK_SH)
                try:
                    url = self._reach_server()
                except BaseException:
                    if newly:
                        self._leave()
                    raise
        if newly:
            atexit.register(self.detach)
        return url

    def detach(self) -> None:
        """Let go of the server; the last process to do so stops it and waits for that. Also run at exit.

        A server that was started by hand stays up. Does nothing in a forked child, which shares its parent's hold, and
        nothing the second time. Raises PostgresError when the server does not stop.
        """
        atexit.unregister(self.detach)
        if self._attached is None or self._owner != os.getpid():
            return
        if not self._root.exists():
            os.close(self._attached)
            self._attached = None
            return
        with _os_errors_explained(self._root), self._alone():
            self._leave()

    def stop(self) -> None:
        """Stop the server now, whoever is attached, and wait for it: open transactions roll back, commits are safe.

        Does nothing when no server runs. Raises PostgresError when it has not stopped after five minutes.
        """
        if not self._root.exists():
            return
        with _os_errors_explained(self._root), self._alone():
            self._stop()

    # -- locks

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = self._open_lock("start.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _leave(self) -> None:
        lock, self._attached = self._attached, None
        if lock is None:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            if not self._server_lock_is_free():  # else somebody started it by hand, and it is theirs to stop
                self._stop()
        finally:
            os.close(lock)

    def _claim_server(self) -> int:
        """An exclusive hold of server.lock, for the programs about to be started to inherit.

        Waits for what an earlier initdb or a killed postmaster left running: two of them on one folder would destroy
        it. It also sees a server in another container, whose pids and shared memory PostgreSQL's own check can not see.
        """
        lock = self._open_lock("server.lock")
        deadline = time.monotonic() + ORPHAN_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    raise PostgresError(
                        f"processes of an earlier PostgreSQL still work in {self._data} although its postmaster"
                        " is gone, or a server in another container uses it; stop them and try again"
                    ) from None
            time.sleep(POLL_SECONDS)

    def _server_lock_is_free(self) -> bool:
        lock = self._open_lock("server.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def _open_lock(self, name: str) -> int:
        return self._open(self._root / name, os.O_RDWR | os.O_CREAT)

    def _open(self, path: Path, flags: int) -> int:
        """Open without following a link: root may be working in a folder that somebody else can write to."""
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.geteuid() == 0:
            owner = self._root.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor

    # -- the server's life

    def _reach_server(self) -> str:
        deadline = time.monotonic() + PATIENCE_SECONDS
        refused_until: float | None = None
        while time.monotonic() < deadline:
            server = self._postmaster()
            if server is None:
                self._start()
                refused_until = None
            elif server.ready:
                self._check_reachable(server)
                try:
                    return self._with_database(server)
                except psycopg.OperationalError as error:
                    refused_until = refused_until or time.monotonic() + REFUSAL_PATIENCE_SECONDS
                    if time.monotonic() > refused_until:
                        raise PostgresError(f"PostgreSQL in {self._data} refuses connections: {error}") from error
                except psycopg.Error as error:
                    raise PostgresError(f"no database {self._database!r} in {self._data}: {error}") from error
            time.sleep(POLL_SECONDS)
        raise PostgresError(f"PostgreSQL in {self._data} does not become ready\n{self._log_tail(0)}")

    def _check_reachable(self, server: _Postmaster) -> None:
        directory = Path(server.socket_dir)
        if directory == self._short_socket_dir(owner := self._data.stat().st_uid):
            _check_private(directory, owner)
        if not server.socket_dir or not (directory / f".s.PGSQL.{server.port}").exists():
            raise PostgresError(
                f"PostgreSQL runs in {self._data} (pid {server.pid}) but its socket in"
                f" {server.socket_dir or 'no folder'} can not be seen from here;"
                f" if it was deleted, stop the server with `kill -INT {server.pid}`"
            )

    def _with_database(self, server: _Postmaster) -> str:
        with psycopg.connect(server.url("postgres"), autocommit=True, connect_timeout=10) as connection:
            # pg_database_datname_index
            known = connection.execute("select 1 from pg_database where datname = %s", (self._database,)).fetchone()
            if known is None:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(self._database)))
        return server.url(self._database)

    def _start(self) -> None:
        programs = postgres_bin(self._bin_dir)
        major = major_version(programs)
        account = account_for(self._data)
        lock = self._claim_server()
        try:
            self._give_up_root(account)
            if not (self._data / "PG_VERSION").exists():
                self._initdb(programs, major, account, lock)
            self._check_version(programs, major)
            self._clear_stale_pid()
            settings = {"unix_socket_directories": str(self._socket_dir(account)), "port": str(PORT)}
            if not self._durable:
                settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
            log_start = self._open_log(account)
            # The shell's only work is to let postgres go: as our child it would stay a zombie when it is killed, and
            # PostgreSQL takes a zombie for a living server.
            command = [*account.prefix, "/bin/sh", "-c", '"$@" >>"$0" 2>&1 </dev/null &', str(self._log)]
            command += [str(programs / "postgres"), "-D", str(self._data)]
            command += [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
            run(command, account, lock)
        finally:
            os.close(lock)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (server := self._postmaster()) is None or not server.ready:
            if self._server_lock_is_free():
                raise PostgresError(f"PostgreSQL does not start in {self._data}\n{self._log_tail(log_start)}")
            if time.monotonic() > deadline:
                raise PostgresError(f"PostgreSQL in {self._data} does not become ready\n{self._log_tail(log_start)}")
            time.sleep(POLL_SECONDS)

    def _stop(self) -> None:
        server = self._postmaster()
        if server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGINT)  # PostgreSQL's "fast" shutdown
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (now := self._postmaster()) is not None and now.pid == server.pid:
            if time.monotonic() > deadline:
                raise PostgresError(f"PostgreSQL (pid {server.pid}) is still stopping\n{self._log_tail(0)}")
            time.sleep(POLL_SECONDS)

    def _initdb(self, programs: Path, major: int, account: Account, lock: int) -> None:
        """Make the cluster beside its place and rename it there, so that `data` is either whole or absent."""
        if self._data.exists() and any(self._data.iterdir()):
            raise PostgresError(f"{self._data} holds files but no PG_VERSION: not a PostgreSQL cluster; move it away")
        scratch = self._root / "data.new"
        if scratch.exists():  # a killed initdb's; a cluster never gets this name once it is complete
            shutil.rmtree(scratch)
        scratch.mkdir(mode=0o700)
        if account.switch:
            os.chown(scratch, account.uid, account.gid)
        # host scram: whoever opens TCP later in postgresql.conf does not open it to everyone.
        command = [*account.prefix, str(programs / "initdb"), "-D", str(scratch), "-U", "postgres", "--encoding=UTF8"]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256", "--data-checksums"]
        # From 17 on PostgreSQL brings C.UTF-8 itself; before, it is the system's, which macOS does not have.
        builtin = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command += builtin if major >= 17 else ["--locale=C.UTF-8"]
        run(command if self._durable else [*command, "--no-sync"], account, lock)
        with (scratch / "postgresql.conf").open("a") as configuration:
            configuration.write(CONFIGURATION.format(shared_buffers="256MB" if self._durable else "128MB"))
            configuration.flush()
            os.fsync(configuration.fileno())
        _sync_dir(scratch)
        scratch.rename(self._data)
        _sync_dir(self._root)
        _sync_dir(self._root.parent)

    def _check_version(self, programs: Path, major: int) -> None:
        found = (self._data / "PG_VERSION").read_text().strip()
        if found != str(major):
            raise PostgresError(
                f"{self._data} was written by PostgreSQL {found or '(PG_VERSION is empty)'}, but the programs in "
                f"{programs} are PostgreSQL {major}; point MODLEDGER_POSTGRES_BIN at version {found}, or dump the data "
                "with the old version and load it with the new one"
            )

    def _postmaster(self) -> _Postmaster | None:
        """The server that lives on our data folder, as its pid file describes it; None when there is none.

        postmaster.pid has, line by line: pid, folder, start time, port, socket folder, TCP address, shared memory key,
        status (PostgreSQL's pidfile.h). A starting server has written only the first few.
        """
        try:
            lines = (self._data / "postmaster.pid").read_text(errors="surrogateescape").splitlines()
            pid = int(lines[0])
        except (FileNotFoundError, IndexError, ValueError):
            return None
        if pid <= 0 or not _is_postmaster(pid, self._data):
            return None
        if len(lines) < 8 or not lines[3].isdigit():
            return _Postmaster(pid, 0, "", ready=False)
        return _Postmaster(pid, int(lines[3]), lines[4], ready=lines[7].strip() in ("ready", "standby"))

    def _clear_stale_pid(self) -> None:
        """Make PostgreSQL see that a crash left postmaster.pid behind, although another process has that pid now.

        The pid is replaced and the file kept: its other lines are PostgreSQL's check on a shared memory segment still
        in use. Only a file without a pid, which PostgreSQL refuses for ever, is deleted.
        """
        path = self._data / "postmaster.pid"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "r+", errors="surrogateescape") as file:
            first, newline, rest = file.read().partition("\n")
            if re.fullmatch(r"-?[1-9]\d*", first):
                file.seek(0)
                file.write(f"{NOBODYS_PID}{newline}{rest}")
                file.truncate()
            else:
                path.unlink()

    # -- folders, files and accounts

    def _make_root(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _give_up_root(self, account: Account) -> None:
        """Let the account reach its folders: through ours only, never by changing a parent folder."""
        if not account.switch:
            return
        if self._root.stat().st_uid != account.uid:
            self._root.chmod(stat.S_IMODE(self._root.stat().st_mode) | 0o011)
        if (sockets := self._root / "socket").exists():
            os.chown(sockets, account.uid, account.gid, follow_symlinks=False)
        if self._data.exists() and self._data.stat().st_uid != account.uid:
            for path in (self._data, *self._data.rglob("*")):
                os.chown(path, account.uid, account.gid, follow_symlinks=False)

    def _open_log(self, account: Account) -> int:
        """Prepare postgres.log, put a long one aside, and return where this start's lines begin (bytes)."""
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        log = self._open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            if account.switch:
                os.fchown(log, account.uid, account.gid)
            return os.fstat(log).st_size
        finally:
            os.close(log)

    def _log_tail(self, start: int) -> str:
        try:
            with self._log.open("rb") as log:
                log.seek(start)
                lines = log.read().decode(errors="replace").splitlines()[-20:]
        except OSError:
            lines = []
        return "\n".join([f"the end of {self._log}:", *lines])

    def _short_socket_dir(self, uid: int) -> Path:
        # Named by inode, not by path: a server whose folder was moved away keeps its own.
        root = self._root.stat()
        return Path(f"/tmp/modledger-{uid}-{root.st_dev:x}-{root.st_ino:x}")  # noqa: S108 - _check_private

    def _socket_dir(self, account: Account) -> Path:
        """Beside the data; in /tmp where that path is too long for a socket or holds one of libpq's separators."""
        beside, short = self._root / "socket", self._short_socket_dir(account.uid)
        for directory in (beside, short):
            if re.search(r'[,"\n]', str(directory)):
                continue
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
                os.chown(directory, account.uid, account.gid)
            _check_private(directory, account.uid)
            for remnant in directory.glob(".s.PGSQL.*"):  # a crash's: we hold server.lock, and the folder is ours alone
                remnant.unlink()
            if _takes_a_socket(directory):
                return directory
        raise PostgresError(f"neither {beside} nor {short} can hold a Unix socket")


@contextlib.contextmanager
def _os_errors_explained(root: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PostgresError(f"uid {os.geteuid()} may not use {root}, perhaps another user's: {error}") from error
    except OSError as error:
        raise PostgresError(f"PostgreSQL in {root}: {error}") from error


def _is_postmaster(pid: int, data: Path) -> bool:
    if sys.platform != "linux":
        command = ["/bin/ps", "-o", "stat=,command=", "-p", str(pid)]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return not shown.startswith("Z") and "postgres" in shown and str(data) in shown
    try:
        # proc(5): "pid (comm) state ..."; comm may itself hold blanks and parentheses.
        name, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").partition("(")[2].rpartition(") ")
        if name not in ("postgres", "postmaster") or rest[0] in "ZX":
            return False
        try:
            # A postmaster has its data folder as working directory before it writes the pid file.
            return Path(f"/proc/{pid}/cwd").samefile(data)
        except PermissionError:  # another uid's, and we lack CAP_SYS_PTRACE, as root in most containers does
            return os.fsencode(data) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has gone
        return False


def _check_private(directory: Path, uid: int) -> None:
    """Refuse a socket folder that another user owns or may enter: under its name they could pose as our server."""
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or stat.S_IMODE(found.st_mode) & 0o077:
        raise PostgresError(f"{directory} should be a folder of uid {uid} with mode 0700 and is not; remove it")


def _takes_a_socket(directory: Path) -> bool:
    # Asking the system is exact: the longest path differs by platform, and some file systems have no sockets at all.
    probe = directory / f".s.PGSQL.{PORT}"
    try:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.bind(str(probe))
        probe.unlink()
    except OSError:
        return False
    return True


def _sync_dir(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

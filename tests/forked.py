"""Python processes that begin with the program already imported: to import it takes longer than most commands run.

``start(["-m", "modledger.workers", "migrate"])`` is what ``subprocess.Popen([sys.executable, "-m", …])`` would be: a
process of its own, with the arguments, environment and streams that it is given, which ends as any interpreter ends. It
is forked from one that has imported all commands and done nothing else. That the command line also starts from nothing
is shown by tests/test_cli.py, and by whatever starts ``up``, which starts ``serve`` and ``work``.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from io import BufferedReader
from pathlib import Path
from types import ModuleType
from typing import IO, Any

_LENGTH_BYTES = 4
_LOCK = threading.Lock()
# Of each process of the suite the one that forks for it, and the socket that it listens at.
_FORKING: dict[int, tuple[subprocess.Popen[bytes], socket.socket]] = {}


class Forked:
    """A process that was started."""

    def __init__(self, arguments: Sequence[str], fate: int) -> None:
        self._arguments = arguments
        self._fate: BufferedReader = os.fdopen(fate, "rb")
        self.pid = int(self._fate.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """What ``wait`` would answer, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        """Where it has not ended yet."""
        if self.returncode is None:
            # It may have ended just now.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, or the negative number of the signal that ended it. Raises subprocess.TimeoutExpired when
        that takes longer than ``timeout`` seconds."""
        if self.returncode is None:
            if not select.select([self._fate], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired(list(self._arguments), timeout)
            with self._fate as fate:
                self.returncode = os.waitstatus_to_exitcode(int(fate.readline()))
        return self.returncode


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    stdout: int | IO[Any] = subprocess.DEVNULL,
    stderr: int | IO[Any] = subprocess.DEVNULL,
) -> Forked:
    """Starts ``python`` with these arguments: ``-m`` a module or ``-c`` a program, and what follows. Its environment is
    this process's unless it is given; it has nothing to read."""
    request = {"arguments": list(arguments), "environment": dict(os.environ if environment is None else environment)}
    body = json.dumps(request | {"folder": str(Path.cwd())}).encode("utf-8", "surrogateescape")
    with open(os.devnull, "r+b") as nothing:  # noqa: PTH123 - a device
        streams = [nothing if one == subprocess.DEVNULL else one for one in (stdout, stderr)]
        numbers = [one if isinstance(one, int) else one.fileno() for one in (nothing, *streams)]
        fate, end = os.pipe()
        try:
            with _LOCK:
                listening = _forking()
                socket.send_fds(listening, [len(body).to_bytes(_LENGTH_BYTES, "big")], [*numbers, end])
                listening.sendall(body)
        finally:
            os.close(end)
    return Forked(arguments, fate)


def run(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Runs ``python`` with these arguments to its end; answers what it said, as ``subprocess.run`` does. Raises
    subprocess.TimeoutExpired, and ends it, when it takes longer than ``timeout`` seconds."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start(arguments, environment, stdout=out, stderr=err)
        try:
            status = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        for stream in (out, err):
            stream.seek(0)
        return subprocess.CompletedProcess(list(arguments), status, out.read(), err.read())


def modledger(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Runs a command of the command line; as ``run``."""
    return run(["-m", "modledger.workers", *arguments], environment, timeout)


def _forking() -> socket.socket:
    process, listening = _FORKING.get(os.getpid(), (None, None))
    if process is None or listening is None or process.poll() is not None:
        listening, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
                cwd=Path(__file__).parents[1],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        _FORKING[os.getpid()] = process, listening
    return listening


@atexit.register
def _end() -> None:
    if os.getpid() in _FORKING:
        process, listening = _FORKING.pop(os.getpid())
        listening.close()
        process.wait()


# -- in the process that forks


def _listen(number: int) -> None:
    """Forks for each request; ends when nobody is left to make one. Returns only in a process that was forked."""
    from modledger.workers.cli import ELSEWHERE

    for name in {"importer", "serve", "up", "work", *ELSEWHERE.values()}:
        import_module(f"modledger.workers.{name}")
    gc.collect()
    gc.freeze()
    # Ctrl-C is for the tests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listening = socket.socket(fileno=number)
    while True:
        head, descriptors, _, _ = socket.recv_fds(listening, _LENGTH_BYTES, 4)
        if not head:
            sys.exit()
        request = json.loads(_exactly(listening, int.from_bytes(head, "big")).decode("utf-8", "surrogateescape"))
        if os.fork() == 0:
            listening.close()
            return _begin(request, descriptors)
        for one in descriptors:
            os.close(one)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _exactly(stream: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        piece = stream.recv(count - len(found))
        if not piece:
            sys.exit()
        found += piece
    return bytes(found)


def _begin(request: dict[str, Any], descriptors: list[int]) -> None:
    """Forks once more: the one is the process that was asked for, and returns; the other waits for it and tells."""
    *streams, fate = descriptors
    pid = os.fork()
    if pid == 0:
        os.close(fate)
        for number, one in enumerate(streams):
            os.dup2(one, number)
        for one in streams:
            os.close(one)
        _become(request)
        return
    for one in (*streams, *range(3)):
        os.close(one)
    os.write(fate, f"{pid}\n".encode())
    os.write(fate, f"{os.waitpid(pid, 0)[1]}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any]) -> None:
    """Makes this process what the interpreter would have made it."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, what, *more = request["arguments"]
    sys.argv = [kind, *more]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        assert kind == "-c"
        program = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(program))


if __name__ == "__main__":
    _listen(int(sys.argv[1]))

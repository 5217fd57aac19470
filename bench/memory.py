"""The memory and CPU of processes and all that they started, as the kernel tells it."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

EVERY_SECONDS = 0.1


class Peaks:
    """MiB by name of a process. Of PostgreSQL's processes only what is theirs alone: they share their buffers."""

    def __init__(self) -> None:
        self.mib: dict[str, int] = {}
        self.roots: dict[int, str] = {}

    def look(self) -> None:
        """Takes in what all processes under the roots have had."""
        found = _processes()
        for pid in found:
            name = _name(pid, found, self.roots)
            if name is not None:
                self.mib[name] = max(self.mib.get(name, 0), _peak(pid, "postgres" in name))


@contextmanager
def watched() -> Iterator[Peaks]:
    """Looks all the time; name processes in ``roots``."""
    peaks, over = Peaks(), threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_SECONDS):
            peaks.look()

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _processes() -> dict[int, int]:
    """Parents by process."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold anything.
            found[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def _name(pid: int, parents: Mapping[int, int], roots: Mapping[int, str]) -> str | None:
    above, root = pid, None
    while above in parents and root is None:
        root = roots.get(above)
        above = parents[above]
    if root is None:
        return None
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if b"postgres" in command[0].rpartition(b"/")[2]:
        return "postgres, each without its share of the buffers"
    if b"python" not in command[0]:
        # What has ended, and programs of others.
        return None
    if pid in roots:
        return root
    if b"modledger.workers" in command and root == "up":
        return command[command.index(b"modledger.workers") + 1].decode()
    return f"{root}, each further process"


def _peak(pid: int, alone: bool) -> int:
    return of(pid, "RssAnon" if alone else "VmHWM")


def cpu_seconds(root: int) -> float:
    """CPU that a process, what it started and what of that has ended have used. 0 where the kernel does not tell."""
    parents, ticks = _processes(), 0
    for pid in parents:
        above = pid
        while above != root and above in parents:
            above = parents[above]
        if above == root:
            with suppress(OSError):
                # Of its own, and of its children that have ended: fields 14 to 17, of which the first two were cut off.
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def of(pid: int, field: str) -> int:
    """MiB of a process: ``VmRSS`` it has now, ``VmHWM`` it had at most. 0 where the kernel does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith(field)), 0)

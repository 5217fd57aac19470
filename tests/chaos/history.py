"""The harness's own list: every command and read with what came of it, a line each in a file, written before the next
is sent. What the product says of itself is judged by this list and by nothing else."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

Outcome = Literal["unknown", "acknowledged", "refused"]


class Command(msgspec.Struct, frozen=True, kw_only=True, tag="command"):
    """One command, or one item of a bulk. ``token`` is its reason and like no other's, so its event is found by it.

    ``began`` is when it was first sent and ``ended`` when its last answer came, seconds since 1970 by this machine; an
    ``unknown`` one was last given up at ``ended``. ``skew_low`` and ``skew_high``: by how much the clocks of the
    servers that were asked were ahead meanwhile. ``position`` is what the answer said, of the whole request.
    """

    token: str
    kind: str
    subject: str
    actor: int
    actor_level: int
    began: float
    keyed: bool
    bulk: bool = False
    punishment_id: int | None = None
    body: dict[str, Any] = {}
    outcome: Outcome = "unknown"
    ended: float = 0.0
    tries: int = 0
    skew_low: float = 0.0
    skew_high: float = 0.0
    status: int = 0
    answer: dict[str, Any] = {}
    position: int = 0
    repeated: bool = False


class Read(msgspec.Struct, frozen=True, kw_only=True, tag="read"):
    """One answered read. ``own``: the greatest position among the session's acknowledged writes when it was sent;
    ``told``: the position in its X-Ledger-Position, 0 without; ``shared``: that was the greatest that anybody had seen.
    ``position``: what the answer said."""

    kind: str
    subject: str
    session: int
    began: float
    ended: float
    own: int
    told: int
    shared: bool
    skew_low: float
    skew_high: float
    position: int
    answer: dict[str, Any]


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """An answer that no fault explains: no client may see it."""

    what: str
    at: float


Entry = Command | Read | Failed


class History(msgspec.Struct, frozen=True):
    """The list as it stands."""

    commands: list[Command]
    reads: list[Read]
    failed: list[Failed]


class Journal:
    """Appends to the file; safe from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("ab")

    def write(self, *entries: Entry) -> None:
        """On disk when it returns."""
        lines = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        with self._lock:
            self._file.write(lines)
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def history_of(entries: Iterable[Entry]) -> History:
    """Of a command's several entries the last counts."""
    commands: dict[str, Command] = {}
    reads: list[Read] = []
    failed: list[Failed] = []
    for entry in entries:
        match entry:
            case Command():
                commands[entry.token] = entry
            case Read():
                reads.append(entry)
            case Failed():
                failed.append(entry)
    return History(list(commands.values()), reads, failed)


def read_history(path: Path) -> History:
    """The list in that file."""
    decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
    return history_of(decoder.decode(line) for line in path.read_bytes().splitlines())

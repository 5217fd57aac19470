"""What a ledger has done since its process began, counted for whoever watches the process."""

from collections.abc import Sequence
from threading import Lock

import msgspec

from modledger.domain.recorder_ledger import Outcome

# Commands in one call: powers of two up to the most that are carried out together (http/command_groups.py).
GROUP_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers that only grow. ``outcomes``: commands by what became of them at one try (appended, duplicate, conflict);
    ``events``: appended. ``groups``: calls with at most so many commands as ``GROUP_BOUNDS`` says, each call in one
    place alone, and ``grouped`` the commands of all calls. ``alone``: commands that were sent once more because the
    call that took them along failed; ``reconnects``: operations that were tried again for want of the server."""

    outcomes: dict[str, int]
    events: int
    groups: tuple[int, ...]
    grouped: int
    alone: int
    reconnects: int


class AppendCounts:
    """Counts for the threads that append at the same time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._outcomes = {"appended": 0, "duplicate": 0, "conflict": 0}
        self._groups = [0] * len(GROUP_BOUNDS)
        self._events = self._grouped = self._alone = self._reconnects = 0

    def call(self, outcomes: Sequence[Outcome]) -> None:
        """One call to the database: what became of each of its commands."""
        size = len(outcomes)
        place = next((n for n, bound in enumerate(GROUP_BOUNDS) if size <= bound), len(GROUP_BOUNDS) - 1)
        with self._lock:
            for outcome in outcomes:
                self._outcomes[outcome.kind] += 1
                # The positions of a duplicate are those of another call.
                self._events += len(outcome.positions) if outcome.kind == "appended" else 0
            self._groups[place] += 1
            self._grouped += size

    def batch(self, commands: int, events: int) -> None:
        """A batch that was appended, or met a conflict (``events`` 0). It is of one caller: it counts in no group."""
        with self._lock:
            self._outcomes["appended" if events else "conflict"] += commands if events else 1
            self._events += events

    def sent_alone(self) -> None:
        with self._lock:
            self._alone += 1

    def reconnected(self) -> None:
        with self._lock:
            self._reconnects += 1

    def now(self) -> Counted:
        """All of one moment."""
        with self._lock:
            return Counted(
                outcomes=dict(self._outcomes),
                events=self._events,
                groups=tuple(self._groups),
                grouped=self._grouped,
                alone=self._alone,
                reconnects=self._reconnects,
            )

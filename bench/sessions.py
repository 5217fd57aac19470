"""A load of people at work over HTTP, each of whom checks every answer: nothing failed, nothing older than they know.

Each session has a connection of its own and asks one thing after the other. What a session was told was done it must
see in its next answer; what an endpoint knew it knows from then on, by the position in its header and by its totals.
"""

import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote

HOST = "127.0.0.1"
POSITION = "X-Ledger-Position"
# How often an answer that is not fresh enough yet (503 with Retry-After) is asked for again.
PATIENCE = 30


class Person(NamedTuple):
    """A user to read and to write about."""

    user_id: int
    username: str


class Tally:
    """What all sessions did and what was wrong; for any number of threads."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def count(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1

    def blame(self, kind: str, text: str) -> None:
        """``kind``: failed or stale."""
        with self._lock:
            self.done[kind] += 1
            if len(self.wrong) < 100:
                self.wrong.append(f"{kind}: {text}")


class Session:
    """One person at work, with one connection; ``breath``: seconds between one piece of work and the next."""

    def __init__(self, port: int, cookie: str, tally: Tally, breath: float = 0.0) -> None:
        self.breath = breath
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)
        self._headers = {"Cookie": cookie, "Content-Type": "application/json"}
        self._tally = tally
        self._positions: dict[str, int] = {}
        # What was acknowledged to this session last.
        self._written = 0

    def close(self) -> None:
        self._connection.close()

    def read(self, endpoint: str, path: str) -> Any:
        """The answer's JSON, None where it failed."""
        self._tally.count("reads")
        answer, position = self._ask("GET", path, None)
        least = max(self._written, self._positions.get(endpoint, 0))
        if answer is not None and position is not None:
            if position < least:
                self._tally.blame("stale", f"{path} is of position {position}, known was {least}")
            self._positions[endpoint] = max(position, least)
        return answer

    def command(self, path: str, body: Mapping[str, str]) -> Any:
        """The answer's JSON, None where it failed."""
        self._tally.count("commands")
        answer, position = self._ask("POST", path, json.dumps(body))
        self._written = max(self._written, position or 0)
        return answer

    def _ask(self, method: str, path: str, body: str | None) -> tuple[Any, int | None]:
        for _ in range(PATIENCE):
            try:
                self._connection.request(method, path, body, self._headers)
                answer = self._connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                self._tally.blame("failed", f"{method} {path}: {error!r}")
                return None, None
            if answer.status == 200:
                position = answer.headers[POSITION]
                return json.loads(content), None if position is None else int(position)
            if answer.status != 503 or not answer.headers["Retry-After"]:
                self._tally.blame("failed", f"{method} {path}: {answer.status} {content[:300]!r}")
                return None, None
            self._tally.count("late")
        self._tally.blame("failed", f"{method} {path}: not fresh enough, {PATIENCE} times")
        return None, None


def staff(session: Session, tally: Tally, people: Sequence[Person], rng: Random, over: threading.Event) -> None:
    """Warns, times out, amends and lifts, and looks at once whether it is there. ``people``: of this session alone."""
    with closing(session):
        for number in count():
            for person in people:
                if over.wait(session.breath):
                    return
                _punish(session, tally, person, f"under load {number} {rng.randrange(1000)}")


def _punish(session: Session, tally: Tally, person: Person, text: str) -> None:
    to = f"/v1/admin/punishments/user/{person.user_id}"
    warned = session.command(f"{to}/warn", {"reason": text})
    if warned is not None:
        _look(session, tally, person, warned["id"], reason=text, is_lifted=False)
    until = (datetime.now(UTC) + timedelta(days=7)).strftime("%Y-%m-%dT%H:%M:%SZ")
    timeout = session.command(f"{to}/timeout", {"reason": text, "expires_at": until})
    if timeout is None:
        return
    number = timeout["id"]
    _look(session, tally, person, number, reason=text, expires_at=until, is_lifted=False)
    profile = session.read("profile", f"/v1/users/profile/{quote(person.username)}")
    if profile is not None and (profile["state"] != 1 or number not in [one["id"] for one in profile["punishments"]]):
        tally.blame("stale", f"{person.username} was timed out by {number}, and the profile does not say so")
    if session.command(f"/v1/admin/punishments/{number}/amend", {"reason": f"{text}, amended"}) is not None:
        _look(session, tally, person, number, reason=f"{text}, amended", is_lifted=False)
    if session.command(f"/v1/admin/punishments/{number}/lift", {"reason": "enough"}) is not None:
        _look(session, tally, person, number, reason=f"{text}, amended", is_lifted=True)


def _look(session: Session, tally: Tally, person: Person, number: int, **expected: object) -> None:
    """Whether the punishment is found, and as it was made."""
    found = session.read("search", f"/v1/admin/punishments/search?user_id={person.user_id}&limit=5&sort=-created_at")
    if found is None:
        return
    one = next((one for one in found["punishments"] if one["id"] == number), None)
    told = one and {name: one[name] for name in expected}
    if told != expected:
        tally.blame("stale", f"punishment {number} was {expected}, and the search has {told}")


def viewer(session: Session, tally: Tally, people: Sequence[Person], rng: Random, over: threading.Event) -> None:
    """Reads profiles and own data; everybody there is has a profile."""
    with closing(session):
        while not over.wait(session.breath):
            person = rng.choice(people)
            found = session.read("profile", f"/v1/users/profile/{quote(person.username)}")
            if found is not None and found["discord_id"] != str(person.user_id):
                tally.blame("stale", f"the profile of {person.username} is that of {found['discord_id']}")
            session.read("own punishments", "/v1/users/me/punishments?limit=5")


SEARCHES = (
    "punishment_type=3&limit=25",
    "limit=25&sort=-created_at",
    "punishment_type=WARNING&sort=created_at&limit=25",
    "q=spam&limit=25",
)


def searcher(session: Session, tally: Tally, people: Sequence[Person], rng: Random, over: threading.Event) -> None:
    """Searches; there are never fewer punishments or people than there were."""
    totals: dict[str, int] = {}

    def least(endpoint: str, query: str) -> None:
        found = session.read(endpoint, f"{endpoint}?{query}")
        if found is None:
            return
        known = totals.get(f"{endpoint}?{query}", 1)
        if found["total"] < known:
            tally.blame("stale", f"{endpoint}?{query} found {found['total']}, known were {known}")
        totals[f"{endpoint}?{query}"] = max(known, found["total"])

    with closing(session):
        while not over.wait(session.breath):
            least("/v1/admin/punishments/search", rng.choice(SEARCHES))
            least("/v1/admin/audit/logs", "limit=10")
            person = rng.choice(people)
            found = session.read("user", f"/v1/users/{person.user_id}")
            if found is not None and found["username"] != person.username:
                tally.blame("stale", f"user {person.user_id} is called {found['username']}")


Work = Callable[[Session, Tally, Sequence[Person], Random, threading.Event], None]

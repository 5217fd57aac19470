"""The load: sessions that each send commands and reads one after the other, now to one server and now to the other,
and write down what comes of them. What they send follows from a seed; what comes of it does not."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple, Protocol

import msgspec

from tests.chaos.history import Command, Entry, Failed, Journal, Outcome, Read

# How long a session waits for an answer, in seconds: from impatient to more than a server's own patience.
PATIENCES = (0.7, 2.0, 6.0, 9.0)
TRIES = 2
DEFINITE = {200, 400, 403, 404, 409}
MODERATOR, ADMIN = 1, 2


class Answer(NamedTuple):
    """``position``: X-Ledger-Position, 0 without."""

    status: int
    position: int
    repeated: bool
    body: Any


class Send(Protocol):
    """Sends a request with the session of ``actor`` to the server of that number. Raises OSError or
    http.client.HTTPException where no answer comes within ``patience`` seconds."""

    def __call__(
        self,
        server: int,
        method: str,
        path: str,
        actor: int,
        *,
        body: Any = None,
        headers: dict[str, str],
        patience: float,
    ) -> Answer: ...


class Staff(NamedTuple):
    id: int
    level: int


class Scene:
    """What the sessions of one round share: whom they act on, and what they know of them."""

    def __init__(self, name: str, users: Sequence[int], guilds: Sequence[int], servers: int = 2) -> None:
        self.name = name
        self.users = users
        self.guilds = guilds
        self.servers = servers
        self.stop = threading.Event()
        self._lock = threading.Lock()
        # Of each subject the punishments that a client was told of.
        self.known: dict[str, list[tuple[int, str]]] = {}
        self._newest = 0
        self.unresolved: list[Request] = []

    @property
    def newest(self) -> int:
        """The greatest position that any session has seen."""
        return self._newest

    def saw(self, position: int) -> None:
        with self._lock:
            self._newest = max(self._newest, position)

    def learn(self, subject: str, punishment_id: int, kind: str) -> None:
        with self._lock:
            self.known.setdefault(subject, []).append((punishment_id, kind))

    def leave(self, request: "Request") -> None:
        with self._lock:
            self.unresolved.append(request)


class Request(msgspec.Struct, kw_only=True):
    """What is sent, again and again under the same key until it is answered, and the commands in it."""

    path: str
    body: dict[str, Any]
    key: str | None
    actor: int
    commands: list[Command]


Skew = Callable[[int, float, float], tuple[float, float]]


class Session(threading.Thread):
    """One client. ``skew``: by how much a server's clock was ahead between two moments."""

    def __init__(
        self, scene: Scene, staff: Staff, send: Send, skew: Skew, journal: Journal, rng: Random, most: int | None = None
    ) -> None:
        super().__init__(name=f"session {staff.id}", daemon=True)
        self._scene, self._staff, self._send, self._skew, self._journal = scene, staff, send, skew, journal
        self._rng = rng
        self._most = most
        self._written = 0
        self._seen = 0
        self.count = 0

    def run(self) -> None:
        """Until the scene stops, or ``most`` requests are sent."""
        while not self._scene.stop.is_set() and (self._most is None or self.count < self._most):
            self.count += 1
            if self._staff.level >= MODERATOR and self._rng.random() < 0.55:
                self.command(self._made())
            else:
                self.read()
            self._scene.stop.wait(self._rng.uniform(0, 0.1))

    # -- commands

    def _made(self) -> Request:
        token = f"{self._scene.name} {self._staff.id} {self.count}"
        keyed = self._rng.random() < 0.85
        if self._staff.level >= ADMIN and self._rng.random() < 0.08:
            return self._bulk(token, keyed)
        path, command = self._single(token, keyed)
        return Request(
            path=path,
            body={**command.body, "reason": token},
            key=token if keyed else None,
            actor=self._staff.id,
            commands=[command],
        )

    def _single(self, token: str, keyed: bool) -> tuple[str, Command]:
        rng, admin = self._rng, self._staff.level >= ADMIN
        of, number = ("user", rng.choice(self._scene.users))
        if rng.random() < 0.15:
            of, number = ("guild", rng.choice(self._scene.guilds))
        subject = f"{of}:{number}"
        kinds = {"warn": 4, "timeout": 4 if of == "user" else 0}
        if admin:
            kinds |= {"ban": 4, "lift": 5, "amend": 3}
        if admin and of == "user":
            kinds |= {"permission": 3, "grant": 2, "trial": 1, "revoke": 2}
        [kind] = rng.choices(list(kinds), list(kinds.values()))
        known = self._scene.known.get(subject, ())
        if kind in ("lift", "amend") and not known:
            kind = "warn"
        path, body, punishment_id = f"/v1/admin/punishments/{of}/{number}/{kind}", {}, None
        match kind:
            case "timeout":
                body = {"expires_at": self._end(), "replace": admin and rng.random() < 0.2}
            case "ban":
                body = {"replace": rng.random() < 0.2}
                if rng.random() < 0.3:
                    body["expires_at"] = self._end()
            case "lift" | "amend":
                punishment_id, issued = rng.choice(known)
                path = f"/v1/admin/punishments/{punishment_id}/{kind}"
                if kind == "amend" and issued != "warn" and rng.random() < 0.5:
                    body = {"expires_at": self._end()}
            case "permission":
                path, body = f"/v1/admin/users/{number}/permission", {"permission_level": rng.randrange(2)}
            case "grant":
                path, body = f"/v1/admin/subscriptions/user/{number}/grant", {"tier": rng.choice((2, 2, 2, 3))}
            case "trial" | "revoke":
                path = f"/v1/admin/subscriptions/user/{number}/{kind}"
        return path, self._command(token, kind, subject, keyed, body, punishment_id)

    def _command(
        self, token: str, kind: str, subject: str, keyed: bool, body: dict[str, Any], punishment_id: int | None = None
    ) -> Command:
        return Command(
            token=token,
            kind=kind,
            subject=subject,
            actor=self._staff.id,
            actor_level=self._staff.level,
            began=time.time(),
            keyed=keyed,
            punishment_id=punishment_id,
            body=body,
        )

    def _end(self) -> str:
        """Mostly seconds from now, sometimes hours, by this machine's clock."""
        ahead = self._rng.choice((1, 2, 3, 5, 3600, 7200))
        moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=ahead)
        return moment.isoformat().replace("+00:00", "Z")

    def _bulk(self, token: str, keyed: bool) -> Request:
        commands, items = [], []
        for n in range(self._rng.randint(2, 5)):
            user, kind = self._rng.choice(self._scene.users), self._rng.choice(("warn", "timeout", "ban"))
            body: dict[str, Any] = {"expires_at": self._end()} if kind == "timeout" else {}
            command = self._command(f"{token}.{n}", kind, f"user:{user}", keyed, body)
            commands.append(msgspec.structs.replace(command, bulk=True))
            items.append({"action": kind, "target": "user", "id": str(user), "reason": command.token, **body})
        return Request(
            path="/v1/admin/punishments/bulk",
            body={"items": items},
            key=token if keyed else None,
            actor=self._staff.id,
            commands=commands,
        )

    def command(self, request: Request) -> None:
        """Sends it; what stays unknown and has a key is left to be tried again when the faults are over."""
        self._journal.write(*request.commands)
        for _ in range(TRIES if request.key else 1):
            if attempt(request, self._rng, self._send, self._skew, self._scene, self._journal):
                position = request.commands[0].position
                self._seen = max(self._seen, position)
                # A bulk that did nothing says how far everybody else has come.
                if any(command.outcome == "acknowledged" for command in request.commands):
                    self._written = max(self._written, position)
                return
            self._scene.stop.wait(self._rng.uniform(0.05, 0.4))
        if request.key:
            self._scene.leave(request)

    # -- reads

    def read(self) -> None:
        """One read; one that is not answered is nobody's concern."""
        rng, scene = self._rng, self._scene
        user = rng.choice(scene.users)
        kinds = ["users", "profile"] if self._staff.level < ADMIN else ["search", "search", "active", "users", "detail"]
        kind = rng.choice(kinds)
        path = {
            "profile": f"/v1/users/profile/{name_of(user)}",
            "detail": f"/v1/users/profile/{name_of(user)}",
            "users": f"/v1/users/search?q={user}",
            "search": f"/v1/admin/punishments/search?user_id={user}&limit=100",
            "active": f"/v1/admin/punishments/search?user_id={user}&limit=100&active_only=true",
        }[kind]
        # A moderator sees the details of some and not of others.
        shared = kind in ("search", "profile") and self._staff.level != MODERATOR and rng.random() < 0.4
        own, server, began = self._written, rng.randrange(scene.servers), time.time()
        # Looked up after the read began, and told of before a call ends: so it covers all that ended before.
        told = scene.newest if shared else rng.choice((0, self._seen))
        headers = {"X-Ledger-Position": str(told)} if told else {}
        try:
            answer = self._send(server, "GET", path, self._staff.id, headers=headers, patience=rng.choice(PATIENCES))
        except (OSError, http.client.HTTPException, ValueError):
            return
        scene.saw(answer.position)
        ended = time.time()
        if answer.status != 200:
            if answer.status != 503:
                self._journal.write(
                    Failed(what=f"GET {path} was answered with {answer.status} {answer.body}", at=ended)
                )
            return
        if "punishments" in answer.body and kind == "profile":
            kind = "detail"
        low, high = self._skew(server, began, ended)
        self._seen = max(self._seen, answer.position)
        self._journal.write(
            Read(
                kind=kind,
                subject=f"user:{user}",
                session=self._staff.id,
                began=began,
                ended=ended,
                own=own,
                told=told,
                shared=shared,
                skew_low=low,
                skew_high=high,
                position=answer.position,
                answer=answer.body,
            )
        )


def name_of(user: int) -> str:
    """The name that a user of the load is registered under."""
    return f"subject{user}"


def attempt(request: Request, rng: Random, send: Send, skew: Skew, scene: Scene, journal: Journal) -> bool:
    """Sends the request once and writes down what came of it; whether that is definite."""
    server, began = rng.randrange(scene.servers), time.time()
    headers = {"Idempotency-Key": request.key} if request.key else {}
    answer: Answer | None = None
    with suppress(OSError, http.client.HTTPException, ValueError):
        answer = send(
            server,
            "POST",
            request.path,
            request.actor,
            body=request.body,
            headers=headers,
            patience=rng.choice(PATIENCES),
        )
        scene.saw(answer.position)
    ended = time.time()
    low, high = skew(server, began, ended)
    entries: list[Entry] = []
    if answer is not None and answer.status not in DEFINITE | {503}:
        entries.append(Failed(what=f"POST {request.path} was answered with {answer.status} {answer.body}", at=ended))
    definite = answer is not None and answer.status in DEFINITE
    first = request.commands[0].tries == 0
    for n, command in enumerate(request.commands):
        request.commands[n] = msgspec.structs.replace(
            command,
            ended=ended,
            tries=command.tries + 1,
            skew_low=low if first else min(low, command.skew_low),
            skew_high=high if first else max(high, command.skew_high),
            **(_outcome(n, command, answer) if answer is not None and definite else {}),
        )
    journal.write(*entries, *request.commands)
    if definite:
        for command in request.commands:
            if command.outcome == "acknowledged" and command.kind in ("warn", "timeout", "ban"):
                scene.learn(command.subject, command.answer["id"], command.kind)
    return definite


def _outcome(n: int, command: Command, answer: Answer) -> dict[str, Any]:
    status, body = answer.status, answer.body
    if command.bulk and status == 200:
        result = answer.body["results"][n]
        status, body = result["status"], result["punishment"] or {"error": result["error"]}
    outcome: Outcome = "acknowledged" if status == 200 else "refused"
    return {
        "outcome": outcome,
        "status": status,
        "answer": body,
        "position": answer.position,
        "repeated": answer.repeated,
    }


class Http:
    """A ``Send`` to servers on these ports of this machine. Connections are kept, one for each thread and server."""

    def __init__(self, ports: Sequence[int], cookies: dict[int, str]) -> None:
        self._ports, self._cookies = ports, cookies
        self._kept: dict[tuple[int, int], http.client.HTTPConnection] = {}

    def close(self) -> None:
        """Closes what is kept; nobody may be sending."""
        while self._kept:
            self._kept.popitem()[1].close()

    def __call__(
        self,
        server: int,
        method: str,
        path: str,
        actor: int,
        *,
        body: Any = None,
        headers: dict[str, str],
        patience: float,
    ) -> Answer:
        mine = (threading.get_ident(), server)
        connection = self._kept.pop(mine, None) or http.client.HTTPConnection("127.0.0.1", self._ports[server])
        connection.timeout = patience
        if connection.sock is not None:
            connection.sock.settimeout(patience)
        try:
            sent = {**headers, "Cookie": f"hsession={self._cookies[actor]}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except BaseException:
            connection.close()
            raise
        self._kept[mine] = connection
        position = int(answer.headers.get("X-Ledger-Position", "0"))
        return Answer(answer.status, position, "Idempotency-Replayed" in answer.headers, content)

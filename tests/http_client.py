"""The application on a real database, driven over its whole stack, and the world that its tests begin in."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import psycopg
from httpx import Response
from litestar import Litestar
from litestar.testing import TestClient

from modledger.domain import commands
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Via
from modledger.domain.execute import Outcome, execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.http.app import furnish, operations
from modledger.http.endpoints import allowed_origins
from modledger.http.keys import create_key
from modledger.http.sessions import COOKIE, open_session
from modledger.projections.catalog import PROJECTORS
from modledger.projections.joint_advance import advance_together
from modledger.projections.projector import advance
from modledger.workers.logins import give_rights
from tests.asked_directly import ask
from tests.databases import logins_on, made_logins

MASTER_KEY = bytes(range(32))
NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
SETTINGS = Settings(
    allowed_origins=("https://panel.example.org",),
    read_connections=4,
    write_connections=6,
    # Most tests ask more often than one client may.
    rate_limit_login=0,
    rate_limit_staff=0,
    rate_limit_public=0,
    rate_limit_bot=0,
)

OWNER, ADMIN, OTHER_ADMIN, MODERATOR, OTHER_MODERATOR, USER, OTHER_USER = 1, 2, 22, 3, 33, 4, 44
EXAMPLE_USER = 123456789012345678
GUILD, UNKNOWN = 876543210987654321, 999
LEVELS = {OWNER: 3, ADMIN: 2, OTHER_ADMIN: 2, MODERATOR: 1, OTHER_MODERATOR: 1, USER: 0, OTHER_USER: 0}
NAMES = {1: "owner", 2: "admin", 22: "otheradmin", 3: "moderator", 33: "othermoderator", 4: "user", 44: "otheruser"}

AVATAR = "https://cdn.discordapp.com/avatars/123456789012345678/abc.png"


# Whether a projector has an event before it: to look at each is most of what a request costs otherwise.
_BEHIND = """
    select (select coalesce(max(notification_id), 0) from ledger) >
        (select coalesce(min(notification_id), 0) from projection_tracking
         where application_name in (select projector from read_models))
"""


class World:
    """One application, its ledger and database, and a clock that a test sets. Reads are caught up before each request
    unless ``catching_up`` is switched off."""

    def __init__(self, database: str, ledger: PostgresLedger, connection: psycopg.Connection | None = None) -> None:
        self.database = database
        self.ledger = ledger
        self.now = NOW
        self.catching_up = True
        self.connection = connection or psycopg.connect(database, autocommit=True)
        self.cookies: dict[int, str] = {}
        self.client: TestClient[Any]

    def catch_up(self, *names: str) -> None:
        """Runs the named projectors, or all, to the ledger's end."""
        ((behind,),) = self.query(_BEHIND)
        if not behind:
            return
        asked = [projector for projector in PROJECTORS if not names or projector.name in names]
        while True:
            joint = advance_together(self.connection, asked, self.ledger, 1000)
            for projector in asked:
                while projector.name in joint.left and advance(self.connection, projector, self.ledger, 1000).more:
                    pass
            if not joint.more:
                return

    def act(
        self,
        command: Command,
        actor: Actor = OPERATOR,
        at: datetime | None = None,
        via: Via = "cli",
    ) -> Outcome:
        """Carries out a command without HTTP."""
        context = Context(actor=actor, at=at or self.now, command_id=uuid4(), correlation_id=uuid4(), via=via)
        return execute(self.ledger, command, context)

    def register(self, user_id: int, name: str, level: int = 0, at: datetime | None = None) -> None:
        self.act(commands.RegisterUser(user_id=user_id, username=name), SYSTEM, at)
        if level:
            self.act(commands.ChangePermission(user_id=user_id, level=level, reason="staff"), at=at)

    def token(self, user_id: int, level: int | None = None) -> str:
        """A session's token; the same one for each user."""
        if user_id not in self.cookies:
            known = LEVELS.get(user_id, 0) if level is None else level
            self.cookies[user_id] = open_session(self.connection, user_id, known, self.now)
        return self.cookies[user_id]

    def send(
        self, method: str, path: str, user: int | None = None, *, headers: dict[str, str] | None = None, **more: Any
    ) -> Response:
        """One request, with the session of ``user``."""
        if self.catching_up:
            self.catch_up()
        headers = dict(headers or {})
        if user is not None:
            headers["Cookie"] = f"{COOKIE}={self.token(user)}"
        response = ask(self.client, method, path, headers, **more)
        assert response.headers["X-Correlation-ID"]
        assert_documented(self.client.app, method, path, response.status_code)
        return response

    def get(self, path: str, user: int | None = None, **more: Any) -> Response:
        return self.send("GET", path, user, **more)

    def post(self, path: str, user: int | None = None, json: Any = None, **more: Any) -> Response:
        if json is not None:
            more["json"] = json
        else:
            more["headers"] = {"Content-Type": "application/json", **more.get("headers", {})}
        return self.send("POST", path, user, **more)

    def raw(
        self,
        method: str,
        path: str,
        headers: list[tuple[str, str]],
        body: bytes = b"",
        *,
        breaks_off: bool = False,
        peer: str = "127.0.0.1",
    ) -> Response:
        """One request whose headers are sent just as they are, where a usual client joins those of one name; ``peer``
        is the address that it comes from."""
        if self.catching_up:
            self.catch_up()
        received = iter(
            [
                {"type": "http.request", "body": body, "more_body": breaks_off},
                {"type": "http.disconnect"},
            ]
        )
        sent: list[Any] = []

        async def receive() -> Any:
            return next(received)

        async def send(message: Any) -> None:
            sent.append(message)

        with self.client.portal() as portal:
            portal.call(self.client.app, scope_of(method, path, headers, peer=peer), receive, send)
        content = b"".join(message["body"] for message in sent[1:])
        return Response(sent[0]["status"], headers=sent[0]["headers"], content=content)

    def bot_key(self, bot_id: int = 5000) -> str:
        return create_key(self.connection, "bot", bot_id, self.now)

    def query(self, query: str, *args: object) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode(), args).fetchall()

    def later(self, **by: float) -> datetime:
        return self.now + timedelta(**by)


def scope_of(
    method: str, path: str, headers: list[tuple[str, str]], *, peer: str = "127.0.0.1", **state: object
) -> Any:
    """A request as a server hands it to an ASGI application; ``state``: what those before it have found out."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        "client": (peer, 1),
        "server": ("testserver", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
        "state": state,
        "extensions": {},
    }


def assert_documented(app: Litestar, method: str, path: str, status: int) -> None:
    """Whatever any test is answered has to be among the statuses that /schema gives for the operation."""
    path = unquote(path.partition("?")[0]).rstrip("/")
    documented = _documented(app)
    # The plain path of two that fit, as in /punishments/search and /punishments/{id}.
    fitting = [path] if path in documented else [one for one, (like, _) in documented.items() if like.fullmatch(path)]
    for template in fitting:
        statuses = documented[template][1].get(method)
        if statuses is not None:
            assert str(status) in statuses, (template, status)


_Documented = dict[str, tuple[re.Pattern[str], dict[str, set[str]]]]
_KNOWN: list[_Documented] = []


def _documented(app: Litestar) -> _Documented:
    """Of each path the statuses of its methods. Of the first application, since all have the same operations and each
    document takes longer to make than most tests take."""
    if not _KNOWN:
        _KNOWN.append(
            {
                template: (
                    re.compile(re.sub(r"\{\w+\}", "[^/]+", template)),
                    {
                        method.upper(): set(operation.responses or {})
                        for method in ("get", "post")
                        if (operation := getattr(item, method)) is not None
                    },
                )
                for template, item in (app.openapi_schema.paths or {}).items()
            }
        )
    return _KNOWN[0]


# Applications that ran, by their origins: to register the operations takes longer than most tests.
_STOPPED: dict[tuple[str, ...], list[Litestar]] = {}


@contextmanager
def started(world: World, settings: Settings = SETTINGS) -> Iterator[World]:
    """The world with an application that runs."""
    origins = allowed_origins(settings)
    stopped = _STOPPED.setdefault(origins, [])
    app = stopped.pop() if stopped else operations(origins)
    logins = logins_on(world.database)
    with ExitStack() as stack:
        connection = world.connection
        if connection.closed:
            connection = stack.enter_context(psycopg.connect(world.database, autocommit=True))
        if not connection.execute("select from database_roles").fetchall():
            # No copy of the suite's template.
            give_rights(connection, made_logins(world.database))
    furnish(
        app,
        settings,
        conninfo=logins.app,
        read_conninfo=logins.read,
        master_key=MASTER_KEY,
        clock=lambda: world.now,
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        world.client = client
        yield world
    stopped.append(app)


def people(world: World) -> None:
    """One user for each role, and two of some."""
    for user_id, level in LEVELS.items():
        world.register(user_id, NAMES[user_id], level, NOW - timedelta(days=30))


def error_of(response: Response, status: int) -> str:
    """The message of an error answer, whose shape is checked."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"].partition(";")[0] == "application/json"
    body = response.json()
    assert list(body) == ["error", "correlation_id"]
    assert body["correlation_id"] == response.headers["X-Correlation-ID"]
    return str(body["error"])

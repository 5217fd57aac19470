"""Made-up requests to every operation, by everybody, judged by /schema: what tests/test_http_fuzz.py and
``make fuzz`` share.

schemathesis makes them from the document, some valid and some not. A part of each is then exchanged for things that
exist, or almost every request would end in 404 and the code behind would hardly be reached.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any

import httpx
import hypothesis
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response

from modledger.domain import commands
from modledger.domain.envelope import SYSTEM, Actor, Subject
from modledger.http.keys import create_key
from modledger.http.sessions import COOKIE, SUFFIX_LENGTH, open_session
from modledger.workers.sealer import seal
from tests.http_client import World
from tests.openapi_document import DOCUMENT
from tests.sealing import begun

# A copy, for it writes what references stand for into what it is given.
_SCHEMA = schemathesis.openapi.from_dict(deepcopy(DOCUMENT))
OPERATIONS: dict[str, Any] = {
    found.definition.raw["operationId"]: found
    for found in (one.ok() for one in _SCHEMA.get_all_operations())  # type: ignore[union-attr]
}
_JUDGES = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    )
]
# What every answer bears, whatever it answers: docs/api.md, "Every answer".
_EVERYWHERE = {
    "allow",
    "cache-control",
    "content-length",
    "content-security-policy",
    "content-type",
    "cross-origin-resource-policy",
    "referrer-policy",
    "vary",
    "x-content-type-options",
}

# Ids that nobody comes upon by chance, so that no made-up request bans or demotes those who ask.
_FIRST = 9_100_000_000_000_000_001
ROLES = {"user": 0, "moderator": 1, "admin": 2, "owner": 3}
ASKERS = ("none", "public key", "bot key", *ROLES)
_BOT = _FIRST + 50
_numbers = count(_FIRST + 1_000)


class Fuzzed:
    """A world with things to ask for, and what was counted while asking."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.catching_up = False
        # Of each operation the statuses that were answered.
        self.statuses: dict[str, Counter[int]] = {name: Counter() for name in OPERATIONS}
        # Answers that /schema does not allow: who asked what, and what is wrong with the answer.
        self.found: list[str] = []
        self.known: dict[str, list[Any]] = {}
        for index, (role, level) in enumerate(ROLES.items()):
            world.register(_FIRST + index, f"fuzzing_{role}", level)
        world.act(
            commands.RegisterBot(bot_id=_BOT, name="fuzzing", owner_id=_FIRST, rate_limit_per_hour=100_000), SYSTEM
        )
        self.public_key = create_key(world.connection, "public", None, world.now)
        self.bot_key = create_key(world.connection, "bot", _BOT, world.now)
        self.credentials: dict[str, dict[str, str]] = {}
        self.stock()

    def stock(self) -> None:
        """Things to ask for, some of which commands use up; and a new session for everybody."""
        world = self.world
        users = [next(_numbers) for _ in range(4)]
        guilds, bots = [next(_numbers) for _ in range(3)], [next(_numbers) for _ in range(2)]
        for user_id in users:
            world.register(user_id, f"user{user_id}"[-20:])
        for guild_id in guilds:
            world.act(commands.RegisterGuild(guild_id=guild_id, name="a guild", owner_id=_FIRST), SYSTEM)
        for bot_id in bots:
            world.act(commands.RegisterBot(bot_id=bot_id, name="a bot", owner_id=users[0]), SYSTEM)
        for target in (Subject("user", users[0]), Subject("user", users[1]), Subject("guild", guilds[0])):
            world.act(commands.GrantSubscription(target=target, tier=2))
        until = world.now + timedelta(days=1)
        moderator = Actor("user", _FIRST + 1)
        timeouts = [
            world.act(commands.IssueTimeout(user_id=next(_numbers), reason="Rule 1", expires_at=until), actor).position
            for actor in (SYSTEM, SYSTEM, moderator)
        ]
        self.credentials = {
            "none": {},
            "public key": {"X-API-Key": self.public_key},
            "bot key": {"Authorization": f"Bearer {self.bot_key}"},
        }
        suffixes = []
        for index, (role, level) in enumerate(ROLES.items()):
            token = open_session(world.connection, _FIRST + index, level, world.now)
            self.credentials[role] = {"Cookie": f"{COOKIE}={token}"}
            suffixes.append(open_session(world.connection, _FIRST + index, level, world.now)[-SUFFIX_LENGTH:])
        world.catch_up()
        ids: dict[str, list[Any]] = {
            "user_id": users,
            "guild_id": guilds,
            "bot_id": bots,
            "punishment_id": timeouts,
            "username": [f"user{user_id}"[-20:] for user_id in users],
            "token_suffix": suffixes,
            "batch_id": [self._batch(users[0])],
            "code": [self._login_code(user_id) for user_id in users],
            "entity_id": [users[0], guilds[0]],
            "expires_at": [until.isoformat()],
        }
        for name, like in _LIKE.items():
            ids[name] = ids[like]
        ids["position"] = timeouts
        ids["from"], ids["to"] = [1, 2], [2, 3]
        self.known = ids
        seal(world.connection, begun(world.connection), world.now)
        # The batch was an owner's, who reads what they wrote.
        world.catch_up()

    def _batch(self, user_id: int) -> str:
        item = {"action": "warn", "target": "user", "id": user_id, "reason": "Raid"}
        answer = self._ask("owner", "POST", "/v1/admin/punishments/bulk", json={"items": [item]})
        return str(answer.json().get("batch_id", ""))

    def _login_code(self, user_id: int) -> str:
        self._ask("none", "POST", "/v1/authentication/request", json={"discord_id": user_id})
        answer = self._ask("bot key", "POST", "/v1/authentication/bot/login-code", json={"discord_id": user_id})
        return str(answer.json()["code"])

    def _ask(self, asker: str, method: str, url: str, **more: Any) -> Any:
        client = self.world.client
        client.cookies.clear()
        headers = {**more.pop("headers", {}), **self.credentials[asker]}
        return client.request(method, url, headers=headers, **more)

    def fuzz(self, name: str, examples: int, seed: int | None = None) -> None:
        """Asks one operation for ``examples`` made-up things, each by everybody; without a ``seed`` always for the
        same. What is answered wrongly goes into ``found``: an answer depends on what was done before, so to ask again
        for less, as Hypothesis would, would only hide it."""
        self.stock()

        rng = Random(name if seed is None else f"{name} {seed}")

        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=seed is None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=_requests(OPERATIONS[name]))
        def send(case: Any) -> None:
            _mend(rng, case, self.known)
            request, told = self._request(case)
            for asker in ASKERS:
                self._send_and_judge(name, asker, case, request, told)
            # The last one may have been a command of a session that reads its own writes.
            self.world.catch_up()

        (hypothesis.seed(seed)(send) if seed is not None else send)()

    def _request(self, case: Any) -> tuple[httpx.Request, str]:
        """What is sent for all askers, without anybody's credentials, and how to tell of it. Making it takes as long as
        answering it."""
        wanted = case.as_transport_kwargs(base_url="http://testserver.local")
        sent = {k: v for k, v in wanted.items() if k in ("params", "json", "data") and v is not None}
        if isinstance(sent.get("data"), bytes):
            sent["content"] = sent.pop("data")
        headers = {
            key: "".join(filter(str.isprintable, str(value))).encode("utf-8", "replace")
            for key, value in dict(wanted["headers"]).items()
            if key.lower() not in _NOT_OURS
        }
        self.world.client.cookies.clear()
        request = self.world.client.build_request(wanted["method"], wanted["url"], headers=headers, **sent)
        return request, f"{wanted['method']} {wanted['url']} {sent} {headers}"

    def _send_and_judge(self, name: str, asker: str, case: Any, like: httpx.Request, told: str) -> None:
        client = self.world.client
        client.cookies.clear()
        headers = httpx.Headers([*like.headers.raw, *_raw(self.credentials[asker])])
        response = client.send(
            httpx.Request(like.method, like.url, headers=headers, content=like.content, extensions=like.extensions)
        )
        self.statuses[name][response.status_code] += 1
        try:
            case.validate_response(_judged(response, like), checks=_JUDGES)
            _judge_headers(case.operation.definition.raw, response)
            if response.status_code >= 500:
                raise AssertionError(f"status {response.status_code}")
        except (AssertionError, FailureGroup) as error:
            wrong = "; ".join(str(one) for one in getattr(error, "exceptions", [error]))
            self.found.append(
                f"{name}, {asker}: {told}\n  answered {response.status_code} {response.text[:500]}\n  {wrong}"
            )


# What else is one of those that paths name.
_LIKE = {
    "issued_by": "user_id",
    "actor_id": "user_id",
    "discord_id": "user_id",
    "owner": "user_id",
    "owner_discord_id": "user_id",
    "user_discord_id": "user_id",
    "guild_discord_id": "guild_id",
    "id": "user_id",
    "q": "username",
}
# Credentials of the air would hide those of the asker.
_NOT_OURS = {"cookie", "authorization", "x-api-key", "user-agent", "accept", "accept-encoding", "connection"}


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _judged(response: httpx.Response, request: httpx.Request) -> Response:
    """As schemathesis knows it. ``from_httpx`` makes the request anew too, for checks that are none of these, and takes
    as long as they do."""
    prepared = requests.PreparedRequest()
    prepared.method, prepared.url, prepared.body = request.method, str(request.url), request.content
    prepared.headers = requests.structures.CaseInsensitiveDict(request.headers)
    return Response(
        status_code=response.status_code,
        headers={name: [value] for name, value in response.headers.items()},
        content=response.content,
        request=prepared,
        elapsed=0.0,
        verify=False,
        message=response.reason_phrase,
        encoding=response.encoding,
        http_version=response.http_version,
    )


def _judge_headers(operation: Mapping[str, Any], response: Any) -> None:
    documented = {name.lower() for name in operation["responses"][str(response.status_code)].get("headers", {})}
    assert "x-correlation-id" in response.headers
    undocumented = {name.lower() for name in response.headers} - documented - _EVERYWHERE
    assert not undocumented, f"undocumented headers {sorted(undocumented)}"


@st.composite
def _requests(draw: Any, operation: Any) -> Any:
    """A request of schemathesis' making: of those that can be wrong one in four is."""
    modes = [GenerationMode.POSITIVE] * 3 + [GenerationMode.NEGATIVE] * _can_be_wrong(operation)
    return draw(operation.as_strategy(generation_mode=draw(st.sampled_from(modes))))


def _mend(rng: Random, case: Any, known: Mapping[str, list[Any]]) -> None:
    """Puts things that exist in the place of most of those that do not, and leaves out some of what is optional: what
    is made up alone is too much at once, and never true."""
    operation = case.operation.definition.raw
    case.headers = _headers(rng, case, dict(case.headers or {}))
    if case.meta.generation.mode == GenerationMode.NEGATIVE:
        return
    for name in case.path_parameters:
        if name in known and rng.random() < 0.8:
            case.path_parameters[name] = rng.choice(known[name])
    for name in list(case.query):
        if rng.random() < 0.4:
            del case.query[name]
        elif name in known and rng.random() < 0.6:
            case.query[name] = rng.choice(known[name])
    if "requestBody" in operation and isinstance(case.body, dict):
        if rng.random() < 0.6:
            example = operation["requestBody"]["content"]["application/json"]["examples"]["example"]["value"]
            case.body = json.loads(json.dumps(example))
        for holder, name in list(_fields(case.body)):
            if name in known and isinstance(holder[name], int | str) and rng.random() < 0.8:
                holder[name] = rng.choice(known[name])


def _can_be_wrong(operation: Any) -> bool:
    raw = operation.definition.raw
    return "requestBody" in raw or any(one["in"] != "header" for one in raw.get("parameters", []))


def _fields(part: Any) -> Iterator[tuple[dict[str, Any], str]]:
    if isinstance(part, dict):
        for name, value in part.items():
            yield part, name
            yield from _fields(value)
    elif isinstance(part, list):
        for value in part:
            yield from _fields(value)


def _headers(rng: Random, case: Any, headers: dict[str, Any]) -> dict[str, Any]:
    if case.method == "POST" and "requestBody" not in case.operation.definition.raw and rng.random() < 0.8:
        headers["Content-Type"] = "application/json"
    # A position that nobody has written yet costs two seconds and is answered with 503, as documented.
    if "X-Ledger-Position" in headers:
        headers["X-Ledger-Position"] = rng.choice(["0", "1", "-1", "x"])
    return {
        name: value
        for name, value in headers.items()
        if name not in ("X-Ledger-Position", "If-Match", "If-None-Match", "Idempotency-Key") or rng.random() < 0.25
    }

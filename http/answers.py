"""The way out: a view becomes bytes, with its position and tag; a command becomes an answer, once."""

from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from anyio import to_thread
from litestar import Response

from modledger.domain.commands import Command, Context
from modledger.domain.envelope import Actor
from modledger.domain.execute import Outcome
from modledger.http import freshness
from modledger.http.endpoints import AnyRequest
from modledger.http.errors import error_body, problem_of
from modledger.http.etags import etag, expected_version, require_tags, unchanged
from modledger.http.idempotency import HEADER, Answer, Asked, read_key
from modledger.http.keys import Caller
from modledger.http.parameters import listed_header, one_header, read_body
from modledger.http.services import Services, services
from modledger.http.sessions import Viewer

T = TypeVar("T")
Made = tuple[object, int | None]


class _Sent(Response[bytes]):
    """Of the framework's response what ``direct`` sends; the rest is for its own way of answering."""

    def __init__(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.content, self.status_code, self.headers = body, status, headers


def required_position(request: AnyRequest) -> int:
    """What a read has to be at least as fresh as: the last write of whoever asks, and what the client asks for."""
    who: Viewer | Caller | None = request.scope["user"]
    return max(0 if who is None else who.written, freshness.position_asked_for(request))


def reply(request: AnyRequest, view: object, position: int | None, version: int | None = None) -> Response[Any]:
    """The answer to a read; 304 without a body where the caller already has it. ``version`` makes the ETag."""
    body = msgspec.json.encode(view)
    headers: dict[str, str] = {} if position is None else {freshness.HEADER: str(position)}
    if version is not None:
        tag = headers["ETag"] = etag(version, body)
        if unchanged(listed_header(request, "If-None-Match"), tag):
            return _Sent(b"", 304, headers)
    return _Sent(body, 200, headers)


async def answer_once(request: AnyRequest, scope: str, run: Callable[[UUID], Awaitable[Answer]]) -> Response[Any]:
    """What ``run`` answers under its command id, or the kept answer to the same request of the same ``scope``."""
    has = services(request)
    correlation_id: str = request.scope["state"]["correlation_id"]

    async def refusing(command_id: UUID) -> Answer:
        try:
            answer = await run(command_id)
        except Exception as error:
            problem = problem_of(error)
            if problem is None or problem.status >= 500:
                raise
            # A refusal is an answer like any other, and kept like one.
            answer = Answer(
                status=problem.status, body=error_body(problem.message, correlation_id), headers=problem.headers
            )
        # Kept with it, since the body of a refusal names it.
        return msgspec.structs.replace(answer, headers={**answer.headers, "X-Correlation-ID": correlation_id})

    key = read_key(one_header(request, HEADER))
    asked = Asked(request.method, request.scope["path"], await read_body(request))
    answer = await has.keys.once(scope, key, asked, has.clock(), refusing)
    headers = dict(answer.headers)
    if answer.set_cookie is not None:
        headers["Set-Cookie"] = answer.set_cookie
    return _Sent(answer.body, answer.status, headers)


def actor_of(request: AnyRequest) -> Actor:
    """Who acts by this request: the session's user, or the bot."""
    who: Viewer | Caller = request.user
    return Actor("user", who.user_id) if isinstance(who, Viewer) else Actor("bot", who.bot_id)


def context_of(request: AnyRequest, actor: Actor, command_id: UUID, if_match: int | None = None) -> Context:
    """The context of a command that this request gives."""
    return Context(
        actor=actor,
        at=services(request).clock().astimezone(UTC),
        command_id=command_id,
        correlation_id=UUID(request.scope["state"]["correlation_id"]),
        via="http",
        if_match=if_match,
    )


async def carry_out(
    request: AnyRequest, command: Command | Callable[[], Command], view: Callable[[Outcome], Made]
) -> Response[Any]:
    """Executes a command of the session's user, or of the bot, and answers what ``view`` makes of its outcome: the
    body, and the version for its ETag. A ``command`` that has yet to be made may ask the ledger for it."""
    executing = _executor(request)

    async def act(command_id: UUID) -> Answer:
        made = command if isinstance(command, Command) else await to_thread.run_sync(command)
        outcome, (body, version) = await executing(made, command_id, lambda outcome: (outcome, view(outcome)))
        return await _done(services(request), outcome, body, version)

    return await answer_once(request, str(actor_of(request)), act)


async def carry_out_then(
    request: AnyRequest, command: Command, view: Callable[[Outcome], Awaitable[Made]]
) -> Response[Any]:
    """As ``carry_out``, for a ``view`` that has more to read or to do than the ledger knows of."""
    executing = _executor(request)

    async def act(command_id: UUID) -> Answer:
        outcome = await executing(command, command_id, lambda outcome: outcome)
        return await _done(services(request), outcome, *await view(outcome))

    return await answer_once(request, str(actor_of(request)), act)


def _executor(request: AnyRequest) -> Callable[[Command, UUID, Callable[[Outcome], T]], Awaitable[T]]:
    if_match = listed_header(request, "If-Match")
    # Now, so that a mistake in writing is not kept under the request's Idempotency-Key.
    require_tags("If-Match", if_match)

    def executing(command: Command, command_id: UUID, then: Callable[[Outcome], T]) -> Awaitable[T]:
        context = context_of(request, actor_of(request), command_id, expected_version(if_match))
        return services(request).commands.execute(command, context, then)

    return executing


async def _done(has: Services, outcome: Outcome, made: object, version: int | None) -> Answer:
    body = msgspec.json.encode(made)
    # Nothing to change: then what the answer says is contained in all there is.
    headers = {freshness.HEADER: str(outcome.position or await to_thread.run_sync(has.ledger.head))}
    if version is not None:
        headers["ETag"] = etag(version, body)
    return Answer(status=200, body=body, headers=headers)

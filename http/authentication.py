"""Logging in and out (api.md §4): request a code, let the bot fetch it, verify it, log out."""

from datetime import datetime
from operator import attrgetter
from typing import Annotated
from uuid import UUID, uuid5

import msgspec
from anyio import to_thread
from litestar import Response
from litestar.datastructures import Cookie
from litestar.params import JSONBody
from msgspec import Meta

from modledger.domain import commands
from modledger.domain.envelope import Actor
from modledger.domain.refusals import Conflict, NotFound
from modledger.http import freshness, logins
from modledger.http.answers import answer_once, context_of
from modledger.http.client_address import client_ip, client_ip_or_unknown
from modledger.http.endpoints import LOGIN_BOT, NOBODY, OWN, AnyRequest, command
from modledger.http.errors import bad, unauthenticated
from modledger.http.idempotency import Answer
from modledger.http.keys import Caller
from modledger.http.login_codes import LENGTH, consume_code, pending_code, request_code
from modledger.http.parameters import BodyId
from modledger.http.profile import USER_EXAMPLE, user_view
from modledger.http.services import services
from modledger.http.sessions import (
    FORGET,
    OPEN,
    cookie,
    current_user,
    hash_of,
    new_session,
    removal,
    token_of,
    user_agent,
)
from modledger.http.views import CodeRequestedView, LoginCodeView, MessageView, VerifiedView, whole
from modledger.http.wire import Cursor
from modledger.projections import profile

Name = Annotated[str, Meta(min_length=1, max_length=64, description="A Discord username.")]


class CodeRequestBody(msgspec.Struct, kw_only=True):
    """One of both."""

    discord_id: BodyId | None = None
    username: Name | None = None


class SyncBody(msgspec.Struct, kw_only=True):
    """What the bot knows of the user now; a user who is not registered yet needs a name."""

    discord_id: BodyId
    username: Name | None = None
    avatar_url: Annotated[str, Meta(min_length=1, max_length=2048)] | None = None


class VerifyBody(msgspec.Struct, kw_only=True):
    """The code in any case. With ``discord_id`` a wrong one counts as a try against that user's code."""

    code: Annotated[str, Meta(min_length=1, max_length=64)]
    discord_id: BodyId | None = None


def _client(request: AnyRequest) -> str:
    # Whoever is nobody yet shares the keys of their address; the body takes part in what makes two requests the same.
    return f"client:{client_ip_or_unknown(request)}"


@command(
    "/v1/authentication/request",
    operation_id="request_login_code",
    summary="Ask for a log-in code; the answer is the same whether or not the user exists",
    access=NOBODY,
    tag="Authentication",
    example={"message": "Login code sent via Discord DM", "expires_at": "2026-03-10T12:05:00Z"},
    body_example={"username": "exampleuser"},
    errors={400: "discord_id or username is required"},
    on_ledger=False,
)
async def request_login_code(request: AnyRequest, data: JSONBody[CodeRequestBody]) -> Response[CodeRequestedView]:
    has = services(request)
    if data.discord_id is None and data.username is None:
        raise bad("discord_id or username is required")
    if data.discord_id is not None and data.username is not None:
        raise bad("discord_id and username exclude each other")

    async def run(_: UUID) -> Answer:
        now = has.clock()
        user_id = None if data.discord_id is None else int(data.discord_id)
        if data.username is not None:
            row = await has.names.load(profile.name_key(data.username.strip()))
            found = None if row is None else profile.found_shown(data.username, row).profile
            user_id = None if found is None else found.user_id
        expires_at = await request_code(has.desk, has.sealing, user_id, now)
        view = CodeRequestedView(message="Login code sent via Discord DM", expires_at=whole(expires_at))
        return Answer(status=200, body=msgspec.json.encode(view))

    return await answer_once(request, _client(request), run)


@command(
    "/v1/authentication/bot/login-code",
    operation_id="fetch_login_code",
    summary="For the bot: bring a user's name and avatar up to date and fetch the pending code to deliver",
    access=LOGIN_BOT,
    tag="Authentication",
    example={"code": "ABCD1234"},
    body_example={"discord_id": "123456789012345678", "username": "exampleuser"},
    errors={
        400: "username is required for a user who is not registered",
        409: "Idempotency-Key was already used with another request",
    },
)
async def fetch_login_code(request: AnyRequest, data: JSONBody[SyncBody]) -> Response[LoginCodeView]:
    has = services(request)
    caller: Caller = request.user
    actor = Actor("bot", caller.bot_id)
    user_id = int(data.discord_id)

    async def sync(command_id: UUID) -> int:
        context = context_of(request, actor, command_id)
        update = commands.UpdateUser(user_id=user_id, username=data.username, avatar_url=data.avatar_url)
        try:
            return await has.commands.execute(update, context, attrgetter("position"))
        except NotFound:
            if data.username is None:
                raise bad("username is required for a user who is not registered") from None
        register = commands.RegisterUser(user_id=user_id, username=data.username, avatar_url=data.avatar_url)
        try:
            again = context_of(request, actor, uuid5(command_id, "register"))
            return await has.commands.execute(register, again, attrgetter("position"))
        except Conflict:
            # Another bot was faster.
            return await has.commands.execute(update, context, attrgetter("position"))

    async def run(command_id: UUID) -> Answer:
        position = await sync(command_id) or await to_thread.run_sync(has.ledger.head)
        code = await pending_code(has.desk, has.sealing, user_id, has.clock())
        return Answer(
            status=200,
            body=msgspec.json.encode(LoginCodeView(code=code)),
            headers={freshness.HEADER: str(position)},
        )

    return await answer_once(request, str(actor), run)


@command(
    "/v1/authentication/verify",
    operation_id="verify_login_code",
    summary="Log in with a code: the answer sets the session cookie",
    access=NOBODY,
    tag="Authentication",
    example={"status": "success", "message": "Authentication successful", "user": USER_EXAMPLE},
    body_example={"code": "ABCD1234"},
    errors={400: "code is required", 401: "Authentication required", 403: "Origin not allowed"},
    on_ledger=False,
    sets_cookie=True,
)
async def verify_login_code(request: AnyRequest, data: JSONBody[VerifyBody]) -> Response[VerifiedView]:
    has = services(request)
    code = data.code.strip().upper()
    given_id = None if data.discord_id is None else int(data.discord_id)
    before = token_of(request)

    async def run(_: UUID) -> Answer:
        now = has.clock()
        opened = None
        async with has.desk.transaction() as cursor:
            user_id = await consume_code(cursor, has.sealing, code, given_id, now) if len(code) == LENGTH else None
            # Read only now that it is known who: with an exception in here the code stays good.
            found = None if user_id is None else await current_user(has, user_id)
            if found is not None and found.profile is not None:
                opened = await _log_in(request, cursor, found.profile, before, now)
        if found is None or opened is None:
            raise unauthenticated()
        view = VerifiedView(status="success", message="Authentication successful", user=user_view(found, now))
        return Answer(status=200, body=msgspec.json.encode(view), set_cookie=opened.to_header(header=""))

    return await answer_once(request, _client(request), run)


async def _log_in(
    request: AnyRequest, cursor: Cursor, user: profile.Person, before: str | None, now: datetime
) -> Cookie:
    """Always a new token, whatever cookie came with the request; and what that one opened is closed."""
    token, values = new_session(user.user_id, user.level, now, client_ip(request), user_agent(request))
    await cursor.execute(OPEN.encode(), values)
    if before is not None:
        # sessions_pkey
        await cursor.execute(b"delete from sessions where token_hash = $1", (hash_of(before),))
    await logins.note(cursor, user.user_id, client_ip_or_unknown(request), user_agent(request), now)
    # Last: whoever held these rows and then waited for the session above could be waited for in turn.
    await cursor.execute(FORGET.encode(), (now,))
    return cookie(token, user.level, services(request).settings)


@command(
    "/v1/authentication/logout",
    operation_id="log_out",
    summary="End the session",
    access=OWN,
    tag="Authentication",
    example={"message": "Logged out"},
    on_ledger=False,
    sets_cookie=True,
)
async def log_out(request: AnyRequest) -> Response[MessageView]:
    has = services(request)

    async def run(_: UUID) -> Answer:
        # sessions_pkey
        await has.desk.fetch("delete from sessions where token_hash = $1", request.user.token_hash)
        return Answer(
            status=200,
            body=msgspec.json.encode(MessageView(message="Logged out")),
            set_cookie=removal(has.settings).to_header(header=""),
        )

    return await answer_once(request, f"user:{request.user.user_id}", run)


HANDLERS = [request_login_code, fetch_login_code, verify_login_code, log_out]

"""Bots, for everybody and for the staff: the lists, the search, register, update, a new key (api.md §4)."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from litestar import Response
from litestar.params import JSONBody, QueryParameter
from msgspec import UNSET, Meta, UnsetType

from modledger.domain import commands
from modledger.domain.commands import Command
from modledger.domain.execute import Outcome
from modledger.domain.subjects import ADMIN, Bot
from modledger.http.answers import Made, carry_out_then, reply, required_position
from modledger.http.endpoints import OPEN, PUBLIC, SESSION, STAFF, AnyRequest, command, read
from modledger.http.errors import Problem, bad
from modledger.http.fragments import ERRORS, Cursor, trimmed
from modledger.http.freshness import fresh, progress_of
from modledger.http.keys import STORE, new_key
from modledger.http.parameters import FARTHEST, ID_SCHEMA, MAX_ID, BodyId, BotId
from modledger.http.profile import bot_view
from modledger.http.services import Services, services
from modledger.http.sessions import Viewer
from modledger.http.views import BotView, Moment, Snowflake, View, snowflake
from modledger.projections import bots
from modledger.projections.bot_search import Page, Search, find, statement
from modledger.projections.bots import Owned

MAX_Q = 50

BOT_EXAMPLE = {
    "discord_id": "555666777888999111",
    "name": "ExampleBot",
    "guilds": 120,
    "users": 34000,
    "avatar_url": "https://cdn.discordapp.com/avatars/555666777888999111/abc.png",
    "latency_ms": 41.5,
    "is_verified": False,
    "last_activity_at": "2026-03-10T12:00:00Z",
    "source": "database",
    "created_at": "2025-01-20T09:30:00Z",
    "updated_at": "2026-03-10T12:00:00Z",
}
ADMIN_BOT_EXAMPLE = {
    **BOT_EXAMPLE,
    "id": 17,
    "owner_discord_id": "123456789012345678",
    "bot_type": 3,
    "is_active": True,
    "rate_limit_per_hour": 1000,
}
_TIMES = {"created_at": ADMIN_BOT_EXAMPLE["created_at"], "updated_at": ADMIN_BOT_EXAMPLE["updated_at"]}
# No key that was ever given out.
_KEY_EXAMPLE = {"bot": ADMIN_BOT_EXAMPLE, "api_key": "hbot_" + "0" * 43, **_TIMES}
_CHANGING = {
    403: "You cannot act on this bot",
    404: "Bot not found",
    412: "The record has changed since: it is at version 8",
}


class AdminBotView(BotView, kw_only=True):
    """What admins see of a bot, and the bot of itself."""

    id: int
    owner_discord_id: Snowflake | None
    bot_type: Annotated[int, Meta(ge=1, le=3, description="1 Official, 2 Verified, 3 Community.")]
    is_active: bool
    rate_limit_per_hour: int


class BotsView(View, kw_only=True):
    """A page. ``next_cursor`` is there only in a search, and only when another page follows."""

    bots: list[BotView]
    total: int
    limit: int
    offset: int
    next_cursor: str | UnsetType = UNSET


class AdminBotsView(View, kw_only=True):
    """A page, for admins."""

    bots: list[AdminBotView]
    total: int
    limit: int
    offset: int
    next_cursor: str | UnsetType = UNSET


class BotChangedView(View, kw_only=True):
    message: str
    bot: AdminBotView
    created_at: Moment
    updated_at: Moment


class BotKeyView(View, kw_only=True):
    """``api_key`` is shown this once."""

    message: str
    bot: AdminBotView
    api_key: str
    created_at: Moment
    updated_at: Moment


_Name = Annotated[str, Meta(min_length=2, max_length=32, description="2–32 characters after trimming.")]
_Type = Annotated[int, Meta(ge=1, le=3, description="1 Official, 2 Verified, 3 Community.")]
_Limit = Annotated[int, Meta(ge=1, le=100_000, description="Requests an hour.")]


class RegisterBody(msgspec.Struct, kw_only=True):
    """A bot that is not registered yet, and whose it is."""

    discord_id: BodyId
    name: _Name
    owner_discord_id: BodyId
    rate_limit_per_hour: _Limit = 1000
    bot_type: _Type = 3
    avatar_url: Annotated[str, Meta(min_length=1, max_length=2048)] | None = None


class UpdateBody(msgspec.Struct, kw_only=True):
    """At least one of these."""

    name: _Name | UnsetType = UNSET
    owner_discord_id: BodyId | UnsetType = UNSET
    bot_type: _Type | UnsetType = UNSET
    rate_limit_per_hour: _Limit | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET


# -- rows become views


def admin_bot_view(owned: Owned) -> AdminBotView:
    """The public view and five keys more."""
    bot = owned.bot
    return AdminBotView(
        **msgspec.structs.asdict(bot_view(owned)),
        id=bot.id,
        owner_discord_id=snowflake(bot.owner_id),
        bot_type=bot.bot_type,
        is_active=bot.active,
        rate_limit_per_hour=bot.rate_limit_per_hour,
    )


def _sees_all(request: AnyRequest) -> bool:
    """Admins see inactive bots too, and more of each."""
    return isinstance(request.user, Viewer) and request.user.level >= ADMIN


# -- reads

_Offset = Annotated[int, QueryParameter(ge=0, description="How many to pass over.")]


class _Newest(msgspec.Struct, frozen=True):
    position: int
    total: int
    bots: list[Owned]


async def _newest(request: AnyRequest, offset: int, limit: int) -> _Newest:
    has, required = services(request), required_position(request)

    async def lines() -> _Newest:
        found = await has.reader.fetch(bots.NEWEST, _sees_all(request), min(offset, FARTHEST), limit)
        position, total, *_ = found[0]
        rows = [owned for line in found if (owned := bots.owned_or_none(line[2:])) is not None]
        return _Newest(position or 0, total, rows)

    return await fresh(lines, lambda one: one.position, lambda _: required, progress_of(has.checkpoints, "bots"))


@read(
    "/v1/bots",
    operation_id="list_bots",
    summary="The active bots, newest first; for admins all of them, with what only admins see",
    access=OPEN,
    tag="Bots",
    example=[BOT_EXAMPLE],
    errors={400: "limit must be between 1 and 50"},
)
async def list_bots(
    request: AnyRequest,
    offset: _Offset = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=50, description="How many to answer at most.")] = 25,
) -> Response[list[BotView] | list[AdminBotView]]:
    newest = await _newest(request, offset, limit)
    view = admin_bot_view if _sees_all(request) else bot_view
    return reply(request, [view(owned) for owned in newest.bots], newest.position)


@read(
    "/v1/bots/{bot_id:str}",
    operation_id="get_bot",
    summary="A bot; an inactive one is there for admins only",
    access=PUBLIC,
    tag="Bots",
    example=BOT_EXAMPLE,
    errors={404: "Bot not found"},
    tagged=True,
)
async def get_bot(request: AnyRequest, bot_id: BotId) -> Response[BotView | AdminBotView]:
    position, owned = await current_bot(services(request), bot_id, required_position(request))
    sees_all = _sees_all(request)
    if owned is None or not owned.bot.registered or not (owned.bot.active or sees_all):
        raise Problem(404, "Bot not found")
    view = admin_bot_view(owned) if sees_all else bot_view(owned)
    return reply(request, view, position, owned.bot.version)


async def current_bot(has: Services, bot_id: int, required: int) -> tuple[int, Owned | None]:
    """A bot as fresh as the position required, and how fresh it is. Raises Problem 503 after 2 seconds below it."""

    async def by_id() -> tuple[int, Owned | None]:
        _, position, *columns = (await has.reader.fetch(bots.BY_IDS, [bot_id]))[0]
        return position or 0, bots.owned_or_none(columns)

    return await fresh(by_id, lambda both: both[0], lambda _: required, progress_of(has.checkpoints, "bots"))


@read(
    "/v1/bots/search",
    operation_id="search_bots",
    summary="Search bots by name or id, owner and type, in the order of their names; inactive ones for admins only",
    access=SESSION,
    tag="Bots",
    example={"bots": [BOT_EXAMPLE], "total": 1, "limit": 25, "offset": 0},
    errors={400: "limit must be between 1 and 100", **ERRORS},
)
async def search_bots(
    request: AnyRequest,
    q: Annotated[
        str | None,
        QueryParameter(
            # Said but not checked, as in fragments.py.
            schema_extra={"min_length": 1, "max_length": MAX_Q},
            description=f"Part of the name, or the Discord id; 1–{MAX_Q} characters after trimming. Fewer than three"
            " characters: the beginning of the name.",
        ),
    ] = None,
    owner: Annotated[
        int | None,
        QueryParameter(ge=1, le=MAX_ID, description="The Discord id of the owner.", schema_extra=ID_SCHEMA),
    ] = None,
    bot_type: Annotated[
        int | None, QueryParameter(ge=1, le=3, description="1 Official, 2 Verified, 3 Community.")
    ] = None,
    offset: Annotated[int, QueryParameter(ge=0, le=10_000, description="How many to pass over.")] = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=100, description="How many to answer at most.")] = 25,
    cursor: Cursor = None,
) -> Response[BotsView | AdminBotsView]:
    has = services(request)
    required = required_position(request)
    if cursor is not None and "offset" in request.query_params:
        raise bad("offset cannot be used together with cursor")
    sees_all = _sees_all(request)
    search = Search(
        q=trimmed(q, MAX_Q),
        owner_id=owner,
        bot_type=bot_type,
        inactive_too=sees_all,
        offset=offset,
        limit=limit,
        cursor=cursor,
    )
    try:
        statement(search, fragments=has.fragments)
    except ValueError as error:
        raise bad(str(error)) from None

    async def one_page() -> Page:
        return await has.reader.doing(lambda at: find(at.connection, search, fragments=has.fragments))

    found = await fresh(
        one_page, lambda answer: answer.position, lambda _: required, progress_of(has.checkpoints, "bots")
    )
    paged: dict[str, Any] = {
        "total": found.total,
        "limit": limit,
        "offset": offset,
        "next_cursor": found.next_cursor or UNSET,
    }
    if sees_all:
        return reply(
            request, AdminBotsView(bots=[admin_bot_view(owned) for owned in found.bots], **paged), found.position
        )
    return reply(request, BotsView(bots=[bot_view(owned) for owned in found.bots], **paged), found.position)


@read(
    "/v1/admin/bots",
    operation_id="list_all_bots",
    summary="All bots, inactive ones too, newest first",
    access=STAFF[ADMIN],
    tag="Bots",
    example={"bots": [ADMIN_BOT_EXAMPLE], "total": 1, "limit": 25, "offset": 0},
    errors={400: "limit must be between 1 and 25"},
)
async def list_all_bots(
    request: AnyRequest,
    offset: _Offset = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=25, description="How many to answer at most.")] = 25,
) -> Response[AdminBotsView]:
    newest = await _newest(request, offset, limit)
    rows = [admin_bot_view(owned) for owned in newest.bots]
    view = AdminBotsView(bots=rows, total=newest.total, limit=limit, offset=offset)
    return reply(request, view, newest.position)


# -- commands


async def change_bot(
    request: AnyRequest,
    bot_id: int,
    act: Command,
    view: Callable[[AdminBotView], object],
    *,
    then: Callable[[], Awaitable[None]] | None = None,
) -> Response[Any]:
    """Executes a command about a bot, does what comes ``then`` unless it was refused, and answers what ``view`` makes
    of the bot as it is after both."""

    async def made(outcome: Outcome) -> Made:
        if then is not None:
            await then()
        return view(await _seen_after(services(request), bot_id, outcome)), outcome.subject.version

    return await carry_out_then(request, act, made)


async def _change_key(request: AnyRequest, bot_id: int, act: Command, message: str) -> Response[Any]:
    has = services(request)

    async def made(outcome: Outcome) -> Made:
        # The event is in the ledger already. A server that dies here leaves the bot without the new key; the request's
        # repetition is recognised there and comes here again.
        key, hashed = new_key("bot")
        await has.desk.fetch(STORE, hashed, "bot", bot_id, has.clock(), outcome.subject.version)
        seen = await _seen_after(has, bot_id, outcome)
        return (
            BotKeyView(message=message, bot=seen, api_key=key, created_at=seen.created_at, updated_at=seen.updated_at),
            outcome.subject.version,
        )

    return await carry_out_then(request, act, made)


async def _seen_after(has: Services, bot_id: int, outcome: Outcome) -> AdminBotView:
    assert isinstance(outcome.subject, Bot)
    (line,) = await has.desk.fetch(bots.BESIDE, bot_id)
    return admin_bot_view(bots.owned_after(outcome.subject, line))


@command(
    "/v1/admin/bots",
    operation_id="register_bot",
    summary="Register a bot and make its key, which is shown this once",
    access=STAFF[ADMIN],
    tag="Bots",
    example={"message": "Bot 555666777888999111 registered", **_KEY_EXAMPLE},
    body_example={"discord_id": "555666777888999111", "name": "ExampleBot", "owner_discord_id": "123456789012345678"},
    errors={
        400: "name is required",
        403: "You cannot act on this user",
        409: "Bot 555666777888999111 is already registered",
    },
    tagged=True,
)
async def register_bot(request: AnyRequest, data: JSONBody[RegisterBody]) -> Response[BotKeyView]:
    bot_id = int(data.discord_id)
    act = commands.RegisterBot(
        bot_id=bot_id,
        name=data.name,
        owner_id=int(data.owner_discord_id),
        avatar_url=data.avatar_url,
        bot_type=data.bot_type,
        rate_limit_per_hour=data.rate_limit_per_hour,
    )
    return await _change_key(request, bot_id, act, f"Bot {bot_id} registered")


@command(
    "/v1/admin/bots/{bot_id:str}/update",
    operation_id="update_bot",
    summary="Change a bot: for admins who may act on the old and the new owner",
    access=STAFF[ADMIN],
    tag="Bots",
    example={"message": "Bot 555666777888999111 updated", "bot": ADMIN_BOT_EXAMPLE, **_TIMES},
    body_example={"name": "ExampleBot", "is_active": True},
    errors={400: "name, owner_discord_id, bot_type, rate_limit_per_hour or is_active is required", **_CHANGING},
    tagged=True,
)
async def update_bot(request: AnyRequest, bot_id: BotId, data: JSONBody[UpdateBody]) -> Response[BotChangedView]:
    act = commands.UpdateBot(
        bot_id=bot_id,
        name=data.name,
        owner_id=UNSET if data.owner_discord_id is UNSET else int(data.owner_discord_id),
        bot_type=data.bot_type,
        rate_limit_per_hour=data.rate_limit_per_hour,
        is_active=data.is_active,
    )

    def view(seen: AdminBotView) -> BotChangedView:
        return BotChangedView(
            message=f"Bot {bot_id} updated", bot=seen, created_at=seen.created_at, updated_at=seen.updated_at
        )

    return await change_bot(request, bot_id, act, view)


@command(
    "/v1/admin/bots/{bot_id:str}/regenerate-key",
    operation_id="regenerate_bot_key",
    summary="Make a bot's key void and a new one, which is shown this once",
    access=STAFF[ADMIN],
    tag="Bots",
    example={"message": "API key of bot 555666777888999111 regenerated", **_KEY_EXAMPLE},
    errors=_CHANGING,
    tagged=True,
)
async def regenerate_bot_key(request: AnyRequest, bot_id: BotId) -> Response[BotKeyView]:
    act = commands.RegenerateBotKey(bot_id=bot_id)
    return await _change_key(request, bot_id, act, f"API key of bot {bot_id} regenerated")


HANDLERS = [
    list_bots,
    get_bot,
    search_bots,
    list_all_bots,
    register_bot,
    update_bot,
    regenerate_bot_key,
]

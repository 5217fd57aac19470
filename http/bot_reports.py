"""What a bot says with its key, and what it is told: of itself, of the commands that it ran, of users (api.md §4).

What it reports of the present is telemetry and stands in plain tables; names and pictures are facts and go through the
ledger.
"""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response
from litestar.params import JSONBody
from msgspec import Meta

from modledger.domain import commands
from modledger.domain.execute import Outcome
from modledger.domain.subjects import User
from modledger.http.answers import Made, actor_of, answer_once, carry_out_then, reply, required_position
from modledger.http.bots import ADMIN_BOT_EXAMPLE, AdminBotView, change_bot, current_bot
from modledger.http.bots import admin_bot_view as view_of
from modledger.http.endpoints import BOT, AnyRequest, command, read
from modledger.http.errors import Problem
from modledger.http.idempotency import Answer
from modledger.http.keys import Caller
from modledger.http.parameters import BodyId, BodyMoment, UserId
from modledger.http.profile import USER_EXAMPLE, user_view
from modledger.http.services import Services, services
from modledger.http.sessions import current_user
from modledger.http.views import MessageView, UserView
from modledger.projections import profile

MAX_COMMANDS = 1000
MAX_GUILDS = 10_000
# The longest lists that a body may hold do not fit in the usual 64 KiB.
BODY_LIMIT = 1024 * 1024

_STALE = {412: "The record has changed since: it is at version 8"}

_Avatar = Annotated[str, Meta(min_length=1, max_length=2048)]


class ReportBody(msgspec.Struct, kw_only=True):
    """The guilds that the bot is in now, the users that it sees there, and milliseconds to Discord. Without
    ``latency_ms`` or ``avatar_url`` the last ones stay."""

    guild_ids: Annotated[list[BodyId], Meta(max_length=MAX_GUILDS)]
    users: Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
    latency_ms: Annotated[float, Meta(ge=0, le=1_000_000)] | None = None
    avatar_url: _Avatar | None = None


class RanCommand(msgspec.Struct, kw_only=True):
    """``count`` times a user ran a command, the last time at ``timestamp``; ``guild_discord_id`` null: not in a
    guild."""

    command: Annotated[str, Meta(min_length=1, max_length=100)]
    count: Annotated[int, Meta(ge=1, le=1_000_000)]
    user_discord_id: BodyId
    guild_discord_id: BodyId | None = None
    timestamp: BodyMoment


class BatchBody(msgspec.Struct, kw_only=True):
    commands: Annotated[list[RanCommand], Meta(max_length=MAX_COMMANDS)]


class BotUserBody(msgspec.Struct, kw_only=True):
    """What the bot knows of the user now; what is left out stays."""

    username: Annotated[str, Meta(min_length=1, max_length=64, description="A Discord username.")] | None = None
    avatar_url: _Avatar | None = None


# -- the bot itself

# $1 bot id, $2 guilds, $3 users, $4 latency or null, $5 now. bot_activity_pkey. First, because its row lock makes two
# reports of one bot wait for each other.
_REPORTED = """
    insert into bot_activity as a (bot_id, guilds, users, latency_ms, last_activity_at) values ($1, $2, $3, $4, $5)
    on conflict (bot_id) do update set
        guilds = excluded.guilds,
        users = excluded.users,
        latency_ms = coalesce(excluded.latency_ms, a.latency_ms),
        last_activity_at = greatest(a.last_activity_at, excluded.last_activity_at)
"""
# $1 bot id, $2 bigint[] of guild ids. bot_guilds_pkey, bot_guilds_guild, ledger_pkey, guild_activity_pkey. With the
# last bot goes what is known of a guild of which the ledger knows nothing: bots could fill the table with any numbers.
_LEFT = """
    with gone as (
        delete from bot_guilds where bot_id = $1 and guild_id <> all($2::bigint[]) returning guild_id
    )
    delete from guild_activity where guild_id in (
        select guild_id from gone
        where not exists (select from bot_guilds b where b.guild_id = gone.guild_id and b.bot_id <> $1)
            and not exists (select from ledger where originator_id = 'guild:' || gone.guild_id)
    )
"""
_JOINED = """
    insert into bot_guilds (bot_id, guild_id) select $1, unnest($2::bigint[]) on conflict (bot_id, guild_id) do nothing
"""
# $1 bigint[] of guild ids, $2 now. guild_activity_pkey. Ordered, so that no two bots wait for each other's rows; and
# only those that are new, of which there are few.
_FIRST_JOINED = """
    insert into guild_activity as a (guild_id, first_joined_at)
    select asked.guild_id, $2 from unnest($1::bigint[]) as asked (guild_id)
    left join guild_activity known on known.guild_id = asked.guild_id
    where known.first_joined_at is null
    order by asked.guild_id
    on conflict (guild_id) do update set first_joined_at = coalesce(a.first_joined_at, excluded.first_joined_at)
"""


async def _record(has: Services, bot_id: int, data: ReportBody, now: datetime) -> None:
    guild_ids = sorted({int(guild_id) for guild_id in data.guild_ids})
    async with has.desk.transaction() as cursor:
        await cursor.execute(_REPORTED.encode(), (bot_id, len(guild_ids), data.users, data.latency_ms, now))
        await cursor.execute(_LEFT.encode(), (bot_id, guild_ids))
        await cursor.execute(_JOINED.encode(), (bot_id, guild_ids))
        await cursor.execute(_FIRST_JOINED.encode(), (guild_ids, now))


@read(
    "/v1/bot/me",
    operation_id="get_own_bot",
    summary="The bot of the key, as admins see it",
    access=BOT,
    tag="Bots",
    example=ADMIN_BOT_EXAMPLE,
    errors={404: "Bot not found"},
    tagged=True,
)
async def get_own_bot(request: AnyRequest) -> Response[AdminBotView]:
    caller: Caller = request.user
    assert caller.bot_id is not None
    position, owned = caller.position, caller.found
    required = required_position(request)
    if position < required:
        position, owned = await current_bot(services(request), caller.bot_id, required)
    if owned is None or not owned.bot.registered:
        raise Problem(404, "Bot not found")
    return reply(request, view_of(owned), position, owned.bot.version)


@command(
    "/v1/bot/me",
    operation_id="report_own_bot",
    summary="Report the guilds that the bot is in, the users that it sees, its latency and its picture",
    access=BOT,
    tag="Bots",
    example=ADMIN_BOT_EXAMPLE,
    body_example={"guild_ids": ["876543210987654321"], "users": 34000, "latency_ms": 41.5},
    errors={400: f"guild_ids must hold at most {MAX_GUILDS} items", 404: "Bot not found", **_STALE},
    tagged=True,
    body_limit=BODY_LIMIT,
)
async def report_own_bot(request: AnyRequest, data: JSONBody[ReportBody]) -> Response[AdminBotView]:
    caller: Caller = request.user
    assert caller.bot_id is not None
    bot_id, has = caller.bot_id, services(request)
    sync = commands.SyncBot(bot_id=bot_id, avatar_url=data.avatar_url)
    # After the command, which refuses a bot that is not registered, or that was switched off meanwhile.
    return await change_bot(
        request, bot_id, sync, lambda seen: seen, then=lambda: _record(has, bot_id, data, has.clock())
    )


# $1 bigint[] of user ids and $2 timestamptz[] beside it, $3 now, $4 bot id. ledger_pkey, user_activity_pkey,
# bot_activity_pkey. Ordered, so that no two batches wait for each other's rows. Of whom the ledger knows nothing there
# is nothing to show either.
_RAN = """
    with ran as (
        select user_id, max(least(at, $3)) as at from unnest($1::bigint[], $2::timestamptz[]) as ran (user_id, at)
        where exists (select from ledger where originator_id = 'user:' || user_id)
        group by user_id
    ), active as (
        insert into user_activity as a (user_id, last_activity_at) select user_id, at from ran order by user_id
        on conflict (user_id) do update set last_activity_at = excluded.last_activity_at
            where a.last_activity_at < excluded.last_activity_at
    )
    insert into bot_activity as a (bot_id, last_activity_at) values ($4, $3)
    on conflict (bot_id) do update set last_activity_at = greatest(a.last_activity_at, excluded.last_activity_at)
"""


@command(
    "/v1/bot/batch",
    operation_id="report_commands",
    summary="Report which commands users ran: moves when they, and the bot, were last active",
    access=BOT,
    tag="Bots",
    example={"message": "1 commands recorded"},
    body_example={
        "commands": [
            {
                "command": "play",
                "count": 3,
                "user_discord_id": "123456789012345678",
                "guild_discord_id": "876543210987654321",
                "timestamp": "2026-03-10T12:00:00Z",
            }
        ]
    },
    errors={400: "commands[3].count must be between 1 and 1000000"},
    on_ledger=False,
    body_limit=BODY_LIMIT,
)
async def report_commands(request: AnyRequest, data: JSONBody[BatchBody]) -> Response[MessageView]:
    has = services(request)
    caller: Caller = request.user

    async def run(_: UUID) -> Answer:
        users = [int(ran.user_discord_id) for ran in data.commands]
        times = [ran.timestamp for ran in data.commands]
        await has.desk.fetch(_RAN, users, times, has.clock(), caller.bot_id)
        view = MessageView(message=f"{len(data.commands)} commands recorded")
        return Answer(status=200, body=msgspec.json.encode(view))

    return await answer_once(request, str(actor_of(request)), run)


# -- users


@read(
    "/v1/bot/users/{user_id:str}",
    operation_id="get_user_as_bot",
    summary="A user, as users see themselves",
    access=BOT,
    tag="Bots",
    example=USER_EXAMPLE,
    errors={404: "User not found"},
    tagged=True,
)
async def get_user_as_bot(request: AnyRequest, user_id: UserId) -> Response[UserView]:
    has = services(request)
    found = await current_user(has, user_id, required_position(request))
    if found.profile is None:
        raise Problem(404, "User not found")
    return reply(request, user_view(found, has.clock()), found.position, found.profile.version)


@command(
    "/v1/bot/users/{user_id:str}",
    operation_id="sync_user",
    summary="Bring a registered user's name and picture up to date",
    access=BOT,
    tag="Bots",
    example=USER_EXAMPLE,
    body_example={"username": "exampleuser"},
    errors={400: "username must be between 1 and 64 characters", 404: "User not found", **_STALE},
    tagged=True,
)
async def sync_user(request: AnyRequest, user_id: UserId, data: JSONBody[BotUserBody]) -> Response[UserView]:
    has = services(request)
    update = commands.UpdateUser(user_id=user_id, username=data.username, avatar_url=data.avatar_url)

    async def made(outcome: Outcome) -> Made:
        assert isinstance(outcome.subject, User)
        # user_activity_pkey
        seen = await has.desk.fetch("select last_activity_at from user_activity where user_id = $1", user_id)
        row = profile.profile_of(outcome.subject)
        found = profile.Found(user_id, outcome.position, row, seen[0][0] if seen else None)
        return user_view(found, has.clock()), outcome.subject.version

    return await carry_out_then(request, update, made)


HANDLERS = [get_own_bot, report_own_bot, report_commands, get_user_as_bot, sync_user]

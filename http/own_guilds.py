"""Guilds as those see them who live with them: their owners, and bots with their keys (api.md §4)."""

from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Response
from litestar.params import JSONBody
from msgspec import Meta

from modledger.domain import commands
from modledger.domain.execute import Outcome
from modledger.domain.subjects import Guild
from modledger.http.answers import Made, carry_out_then, reply, required_position
from modledger.http.endpoints import BOT, OWN, AnyRequest, command, read
from modledger.http.freshness import fresh, progress_of
from modledger.http.guilds import GUILD_EXAMPLE, current_guild
from modledger.http.parameters import BodyId, GuildId
from modledger.http.profile import guild_view
from modledger.http.services import services
from modledger.http.users_me import PrefixBody
from modledger.http.views import GuildView, Moment, whole_or_none
from modledger.projections import guilds
from modledger.projections.guilds import Owned

# So many of one owner are answered.
MAX_OWN = 1000
MAX_MEMBERS = 2**31 - 1

_STALE = {412: "The record has changed since: it is at version 8"}
_PRIVATE_EXAMPLE = {
    **GUILD_EXAMPLE,
    "id": 7,
    "is_whitelisted": True,
    "has_bot": True,
    "first_joined_at": "2025-01-02T00:00:00Z",
}


class PrivateGuildView(GuildView, kw_only=True):
    """What bots see. ``is_whitelisted``: Premium or Lifetime now, and not blacklisted; ``has_bot``: the last report of
    some bot names the guild, ``first_joined_at``: the first that ever did."""

    id: int
    is_whitelisted: bool
    has_bot: bool
    first_joined_at: Moment | None


class GuildBody(msgspec.Struct, kw_only=True):
    """What the bot knows of the guild now; what is left out stays. A guild that is not registered needs a name."""

    name: Annotated[str, Meta(min_length=1, max_length=100, description="1–100 characters.")] | None = None
    avatar_url: Annotated[str, Meta(min_length=1, max_length=2048)] | None = None
    member_count: Annotated[int, Meta(ge=0, le=MAX_MEMBERS)] | None = None
    owner_discord_id: BodyId | None = None


def _private_view(owned: Owned, now: datetime, *, has_bot: bool, first_joined_at: datetime | None) -> PrivateGuildView:
    return PrivateGuildView(
        **msgspec.structs.asdict(guild_view(owned, now)),
        id=owned.guild.id,
        is_whitelisted=guilds.is_whitelisted(owned.guild, now),
        has_bot=has_bot,
        first_joined_at=whole_or_none(first_joined_at),
    )


# -- owners


@read(
    "/v1/users/me/guilds",
    operation_id="list_own_guilds",
    summary=f"The guilds of the session's user, newest first, {MAX_OWN} at most",
    access=OWN,
    tag="Users",
    example=[GUILD_EXAMPLE],
)
async def list_own_guilds(request: AnyRequest) -> Response[list[GuildView]]:
    has = services(request)
    required = required_position(request)
    user_id = request.user.user_id

    async def owned() -> tuple[int, list[Owned]]:
        return guilds.of_owner(await has.reader.fetch(guilds.OF_OWNER, user_id, MAX_OWN))

    position, own = await fresh(owned, lambda both: both[0], lambda _: required, progress_of(has.checkpoints, "guilds"))
    now = has.clock()
    return reply(request, [guild_view(one, now) for one in own], position)


@command(
    "/v1/users/me/guilds/{guild_id:str}/prefix",
    operation_id="change_own_guild_prefix",
    summary="Choose the prefix of a guild of one's own",
    access=OWN,
    tag="Users",
    example={**GUILD_EXAMPLE, "prefix": "?"},
    body_example={"prefix": "?"},
    errors={
        400: "prefix must be between 1 and 5 characters",
        403: "Only the guild's owner may change its prefix",
        404: "Guild not found",
        **_STALE,
    },
    tagged=True,
)
async def change_own_guild_prefix(
    request: AnyRequest, guild_id: GuildId, data: JSONBody[PrefixBody]
) -> Response[GuildView]:
    has = services(request)

    async def made(outcome: Outcome) -> Made:
        assert isinstance(outcome.subject, Guild)
        ((position, _, _, member_count),) = await has.desk.fetch(guilds.BESIDE, guild_id)
        owned = guilds.owned_after(outcome.subject, position, member_count)
        return guild_view(owned, has.clock()), outcome.subject.version

    return await carry_out_then(request, commands.ChangeGuildPrefix(guild_id=guild_id, prefix=data.prefix), made)


# -- bots


@read(
    "/v1/bot/guilds/{guild_id:str}",
    operation_id="get_guild_as_bot",
    summary="A guild, as bots see it",
    access=BOT,
    tag="Bots",
    example=_PRIVATE_EXAMPLE,
    errors={404: "Guild not found"},
    tagged=True,
)
async def get_guild_as_bot(request: AnyRequest, guild_id: GuildId) -> Response[PrivateGuildView]:
    has = services(request)
    found, owned = await current_guild(has, guild_id, required_position(request))
    view = _private_view(owned, has.clock(), has_bot=found.has_bot, first_joined_at=found.first_joined_at)
    return reply(request, view, found.position, owned.guild.version)


@command(
    "/v1/bot/guilds/{guild_id:str}",
    operation_id="sync_guild",
    summary="Bring a guild's name, picture, owner and members up to date; registers one that is not",
    access=BOT,
    tag="Bots",
    example=_PRIVATE_EXAMPLE,
    body_example={"name": "Example Guild", "member_count": 250, "owner_discord_id": "123456789012345678"},
    errors={400: "name is required for a guild that is not registered", **_STALE},
    tagged=True,
)
async def sync_guild(request: AnyRequest, guild_id: GuildId, data: JSONBody[GuildBody]) -> Response[PrivateGuildView]:
    has = services(request)
    sync = commands.SyncGuild(
        guild_id=guild_id,
        name=data.name,
        avatar_url=data.avatar_url,
        owner_id=None if data.owner_discord_id is None else int(data.owner_discord_id),
    )

    async def made(outcome: Outcome) -> Made:
        assert isinstance(outcome.subject, Guild)
        # Only now: where the ledger refuses, nothing is written at all.
        if data.member_count is not None:
            await has.desk.fetch(guilds.COUNT_MEMBERS, guild_id, data.member_count)
        ((position, has_bot, since, member_count),) = await has.desk.fetch(guilds.BESIDE, guild_id)
        owned = guilds.owned_after(outcome.subject, position, member_count)
        view = _private_view(owned, has.clock(), has_bot=has_bot, first_joined_at=since)
        return view, outcome.subject.version

    return await carry_out_then(request, sync, made)


HANDLERS = [list_own_guilds, change_own_guild_prefix, get_guild_as_bot, sync_guild]

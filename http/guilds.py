"""Guilds, for everybody and for the staff: one by id, the search, the update (api.md §4)."""

from datetime import datetime
from typing import Annotated, Any, TypeGuard

import msgspec
from litestar import Response
from litestar.params import JSONBody, QueryParameter
from msgspec import UNSET, Meta, UnsetType

from modledger.domain import commands
from modledger.domain.execute import Outcome
from modledger.domain.rank import may_act_on
from modledger.domain.subjects import ADMIN, MODERATOR
from modledger.http.answers import Made, carry_out, reply, required_position
from modledger.http.endpoints import PUBLIC, SESSION, STAFF, AnyRequest, command, read
from modledger.http.errors import Problem, bad
from modledger.http.fragments import ERRORS, Cursor, Q, trimmed
from modledger.http.freshness import fresh, progress_of
from modledger.http.keys import Caller
from modledger.http.parameters import FARTHEST, BodyId, GuildId
from modledger.http.profile import guild_view, subscription_change_view
from modledger.http.punishments import PUNISHMENT_EXAMPLE, punishment_view
from modledger.http.services import Services, services
from modledger.http.sessions import Viewer
from modledger.http.time_travel import AsOf, KnownAt, asked_moment, past_guild
from modledger.http.views import (
    GuildView,
    MessageView,
    Moment,
    PunishmentView,
    Snowflake,
    SubscriptionChangeView,
    Tier,
    View,
    snowflake,
    whole_or_none,
)
from modledger.projections import guilds
from modledger.projections.guild_detail import READ_BY_DETAIL, Detail, detail_of
from modledger.projections.guild_search import Item, Page, Search, find, statement
from modledger.projections.guilds import Found, Guild, Owned
from modledger.projections.time_travel import Instant

GUILD_EXAMPLE = {
    "discord_id": "876543210987654321",
    "name": "Example Guild",
    "avatar_url": "https://cdn.discordapp.com/icons/876543210987654321/abc.png",
    "member_count": 250,
    "prefix": "!",
    "owner_discord_id": "123456789012345678",
    "state": 0,
    "source": "database",
    "created_at": "2025-01-02T00:00:00Z",
    "updated_at": "2026-03-10T12:00:00Z",
}
_STANDING_EXAMPLE = {
    "subscription_tier": 2,
    "subscription_expires_at": "2026-04-09T12:00:00Z",
    "sponsored_by_id": "999888777666555444",
    "is_blacklisted": False,
}
_DETAIL_EXAMPLE = {
    **GUILD_EXAMPLE,
    **_STANDING_EXAMPLE,
    "punishments": [
        {
            **PUNISHMENT_EXAMPLE,
            "discord_user_id": None,
            "discord_guild_id": "876543210987654321",
            "punishment_type": "WARNING",
        }
    ],
    "subscription_history": [
        {
            "id": 51,
            "old_tier": 0,
            "new_tier": 2,
            "reason": None,
            "granted_by_id": "999888777666555444",
            "expires_at": "2026-04-09T12:00:00Z",
            "created_at": "2026-03-10T12:00:00Z",
        }
    ],
}


class DetailedGuildView(GuildView, kw_only=True):
    """What a moderator or above sees of a guild whose owner they can act on. For moderators what belongs to the
    subscription is 0, null and empty. Each list holds the newest 100."""

    subscription_tier: Tier
    subscription_expires_at: Moment | None
    sponsored_by_id: Snowflake | None
    is_blacklisted: bool
    punishments: list[PunishmentView]
    subscription_history: list[SubscriptionChangeView]


class FoundGuildView(GuildView, kw_only=True):
    """One guild of a search: the public view, and the detail without its lists for those who see it."""

    subscription_tier: Tier | UnsetType = UNSET
    subscription_expires_at: Moment | UnsetType | None = UNSET
    sponsored_by_id: Snowflake | UnsetType | None = UNSET
    is_blacklisted: bool | UnsetType = UNSET


class GuildsView(View, kw_only=True):
    """A page of the search. ``next_cursor`` is there only when another page follows."""

    guilds: list[FoundGuildView]
    total: int
    limit: int
    offset: int
    next_cursor: str | UnsetType = UNSET


class UpdateBody(msgspec.Struct, kw_only=True):
    """At least one of these; ``owner_discord_id`` null: nobody."""

    name: Annotated[str, Meta(min_length=1, max_length=100, description="1–100 characters.")] | UnsetType = UNSET
    owner_discord_id: BodyId | UnsetType | None = UNSET
    state: Annotated[int, Meta(ge=0, le=1, description="0 Active, 1 Inactive.")] | UnsetType = UNSET


# -- who sees what


def sees_detail(who: Viewer | Caller, guild: Guild, owner_level: int) -> TypeGuard[Viewer]:
    """Moderators and above, of guilds whose owner they can act on (api.md §2)."""
    return _is_staff(who) and may_act_on(who.user_id, who.level, guild.owner_id, owner_level)


def _is_staff(who: Viewer | Caller) -> TypeGuard[Viewer]:
    return isinstance(who, Viewer) and who.level >= MODERATOR


def _standing(guild: Guild, level: int, now: datetime) -> dict[str, Any]:
    """The four keys between the public view and the lists."""
    true_values = level >= ADMIN
    return {
        "subscription_tier": guilds.tier(guild, now) if true_values else 0,
        "subscription_expires_at": whole_or_none(guilds.subscription_expires_at(guild, now)) if true_values else None,
        "sponsored_by_id": snowflake(guilds.sponsored_by(guild, now)) if true_values else None,
        "is_blacklisted": guilds.state(guild, now) == guilds.BANNED,
    }


def detailed_view(all_of: Detail, owned: Owned, level: int, now: datetime) -> DetailedGuildView:
    """What somebody of that level sees of a guild whose owner they can act on."""
    history = all_of.subscription_history if level >= ADMIN else []
    return DetailedGuildView(
        **msgspec.structs.asdict(guild_view(owned, now)),
        **_standing(owned.guild, level, now),
        punishments=[punishment_view(row, now) for row in all_of.punishments],
        subscription_history=[subscription_change_view(row) for row in history],
    )


def _found_view(item: Item, who: Viewer, now: datetime) -> FoundGuildView:
    shown = msgspec.structs.asdict(guild_view(item.owned, now))
    if sees_detail(who, item.owned.guild, item.owner_level):
        shown |= _standing(item.owned.guild, who.level, now)
    return FoundGuildView(**shown)


# -- reads


async def current_guild(
    has: Services, guild_id: int, required: int, *, with_owner: bool = False
) -> tuple[Found, Owned]:
    """A guild as fresh as the position required; ``with_owner``: the owner's level too. Raises Problem 404 where there
    is none, and 503 after 2 seconds below the position."""

    async def by_id() -> Found:
        row = await has.guilds.load(guild_id)
        assert row is not None
        return guilds.found(row)

    def position(found: Found) -> int:
        return min(found.position, found.owner_position) if with_owner else found.position

    behind = ("guilds", "profile") if with_owner else ("guilds",)
    found = await fresh(by_id, position, lambda _: required, progress_of(has.checkpoints, *behind))
    if found.owned is None:
        raise Problem(404, "Guild not found")
    return found, found.owned


@read(
    "/v1/guilds/{guild_id:str}",
    operation_id="get_guild",
    summary="A guild by id; with histories for moderators and above who can act on its owner",
    access=PUBLIC,
    tag="Guilds",
    example=_DETAIL_EXAMPLE,
    errors={404: "Guild not found"},
    tagged=True,
    travels=True,
)
async def get_guild(
    request: AnyRequest, guild_id: GuildId, as_of: AsOf = None, known_at: KnownAt = None
) -> Response[GuildView | DetailedGuildView]:
    at = asked_moment(request, as_of, known_at)
    if at is not None:
        return await _past_guild(request, guild_id, at)
    has = services(request)
    who: Viewer | Caller = request.user
    required = required_position(request)
    found, owned = await current_guild(has, guild_id, required, with_owner=_is_staff(who))
    now = has.clock()
    if not sees_detail(who, owned.guild, found.owner_level):
        return reply(request, guild_view(owned, now), found.position, owned.guild.version)

    async def by_id() -> Detail:
        row = await has.guild_details.load(guild_id)
        assert row is not None
        return detail_of((guild_id, *row))

    all_of = await fresh(
        by_id,
        lambda answer: answer.position,
        lambda _: required,
        progress_of(has.checkpoints, *READ_BY_DETAIL),
    )
    owned = all_of.found.owned or owned
    # The later snapshot decides: the guild may have changed hands between the two.
    if not sees_detail(who, owned.guild, all_of.found.owner_level):
        return reply(request, guild_view(owned, now), all_of.position, owned.guild.version)
    view = detailed_view(all_of, owned, who.level, now)
    return reply(request, view, all_of.position, owned.guild.version)


async def _past_guild(request: AnyRequest, guild_id: int, at: Instant) -> Response[GuildView | DetailedGuildView]:
    viewer: Viewer = request.user
    then, owned = await past_guild(request, guild_id, at, lambda today, level: sees_detail(viewer, today, level))
    detailed = then.detail
    view = guild_view(owned, at.now) if detailed is None else detailed_view(detailed, owned, viewer.level, at.now)
    return reply(request, view, then.position, owned.guild.version)


@read(
    "/v1/guilds/search",
    operation_id="search_guilds",
    summary="Search guilds by name or id, state and tier, in the order of their names",
    access=SESSION,
    tag="Guilds",
    example={"guilds": [{**GUILD_EXAMPLE, **_STANDING_EXAMPLE}], "total": 1, "limit": 25, "offset": 0},
    errors={400: "limit must be between 1 and 100", **ERRORS},
)
async def search_guilds(
    request: AnyRequest,
    q: Q = None,
    # By another name, because the framework keeps "state" for its own.
    guild_state: Annotated[
        int | None,
        QueryParameter(name="state", ge=0, le=2, description="0 Active, 1 Inactive, 2 Banned, as it is now."),
    ] = None,
    subscription_tier: Annotated[
        int | None, QueryParameter(ge=0, le=3, description="0 Basic, 1 Trial, 2 Premium, 3 Lifetime, as it is now.")
    ] = None,
    offset: Annotated[int, QueryParameter(ge=0, description="How many to pass over.")] = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=100, description="How many to answer at most.")] = 25,
    cursor: Cursor = None,
) -> Response[GuildsView]:
    has = services(request)
    who: Viewer = request.user
    required = required_position(request)
    if cursor is not None and "offset" in request.query_params:
        raise bad("offset cannot be used together with cursor")
    search = Search(
        q=trimmed(q),
        state=guild_state,
        tier=subscription_tier,
        offset=min(offset, FARTHEST),
        limit=limit,
        cursor=cursor,
    )
    now = has.clock()
    try:
        statement(search, now, fragments=has.fragments)
    except ValueError as error:
        raise bad(str(error)) from None

    async def one_page() -> Page:
        return await has.reader.doing(lambda at: find(at.connection, search, now, fragments=has.fragments))

    def position(page: Page) -> int:
        return min(page.position, page.owner_position) if _is_staff(who) else page.position

    behind = ("guilds", "profile") if _is_staff(who) else ("guilds",)
    page = await fresh(one_page, position, lambda _: required, progress_of(has.checkpoints, *behind))
    view = GuildsView(
        guilds=[_found_view(item, who, now) for item in page.guilds],
        total=page.total,
        limit=limit,
        offset=offset,
        next_cursor=page.next_cursor or UNSET,
    )
    return reply(request, view, position(page))


# -- the update


@command(
    "/v1/admin/guilds/{guild_id:str}/update",
    operation_id="update_guild",
    summary="Change a guild's name, owner or state; who does must be able to act on the old and the new owner",
    access=STAFF[ADMIN],
    tag="Guilds",
    example={"message": "Guild 987 updated"},
    body_example={"name": "Example Guild", "state": 1},
    errors={
        400: "name, owner_discord_id or state is required",
        403: "You cannot act on this guild",
        404: "Guild not found",
        412: "The record has changed since: it is at version 8",
    },
    tagged=True,
)
async def update_guild(request: AnyRequest, guild_id: GuildId, data: JSONBody[UpdateBody]) -> Response[MessageView]:
    owner_id = data.owner_discord_id
    update = commands.UpdateGuild(
        guild_id=guild_id,
        name=data.name,
        owner_id=int(owner_id) if isinstance(owner_id, int | str) else owner_id,
        state=data.state,
    )

    def made(outcome: Outcome) -> Made:
        return MessageView(message=f"Guild {guild_id} updated"), outcome.subject.version

    return await carry_out(request, update, made)


HANDLERS = [get_guild, search_guilds, update_guild]

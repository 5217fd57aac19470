"""GET /v1/users/profile/{username} (api.md §5.1), and how a profile's row becomes what anybody sees of a user."""

from datetime import datetime
from typing import Annotated, Any

from litestar import Response
from litestar.openapi.spec import Example
from litestar.params import PathParameter

from modledger.domain.rank import may_act_on
from modledger.domain.subjects import MODERATOR
from modledger.http.answers import reply, required_position
from modledger.http.endpoints import SESSION, AnyRequest, asks_about_the_past, read
from modledger.http.errors import Problem
from modledger.http.freshness import fresh, progress_of
from modledger.http.punishments import punishment_view
from modledger.http.services import services
from modledger.http.sessions import Viewer
from modledger.http.time_travel import AsOf, KnownAt, asked_moment, past_user
from modledger.http.views import (
    BotView,
    DetailedUserView,
    GuildView,
    PermissionChangeView,
    SubscriptionChangeView,
    UserView,
    snowflake,
    whole,
    whole_or_none,
)
from modledger.projections import bots, guilds, permission_history, profile, subscription_history
from modledger.projections.profile import Found, Person
from modledger.projections.time_travel import Instant
from modledger.projections.user_detail import READ_BY_DETAIL, Detail, detail_of

USER_EXAMPLE = {
    "discord_id": "123456789012345678",
    "username": "exampleuser",
    "avatar_url": "https://cdn.discordapp.com/avatars/123456789012345678/abc.png",
    "subscription_tier": 0,
    "state": 0,
    "permission_level": 0,
    "prefix": "!",
    "subscription_expires_at": None,
    "last_activity_at": "2026-03-10T12:00:00Z",
    "source": "database",
    "created_at": "2025-01-01T00:00:00Z",
    "updated_at": "2026-03-10T12:00:00Z",
}

Username = Annotated[
    str,
    PathParameter(
        description="A Discord username, in any case: the user who bears it, now or then.",
        examples=[Example(id="example", value="exampleuser")],
    ),
]
# No name is longer, and PostgreSQL's text holds no NUL; nor can a lone surrogate be sent to it.
_LONGEST_NAME = 64


# -- rows become views


def user_fields(found: Found, row: Person, now: datetime) -> dict[str, Any]:
    """The 12 keys, in their order, as they are at ``now``."""
    return {
        "discord_id": str(row.user_id),
        "username": row.username,
        "avatar_url": row.avatar_url,
        "subscription_tier": profile.tier(row, now),
        "state": profile.state(row, now),
        "permission_level": row.level,
        "prefix": row.prefix,
        "subscription_expires_at": whole_or_none(profile.subscription_expires_at(row, now)),
        "last_activity_at": whole(found.last_activity_at or row.created_at),
        "source": "database",
        "created_at": whole(row.created_at),
        "updated_at": whole(profile.updated_at(row, now)),
    }


def user_view(found: Found, now: datetime) -> UserView:
    """The 12 keys. Raises Problem 404 where there is no such user."""
    if found.profile is None:
        raise Problem(404, "User not found")
    return UserView(**user_fields(found, found.profile, now))


def detailed_view(all_of: Detail, row: Person, now: datetime) -> DetailedUserView:
    """The 12 keys and the five lists."""
    return DetailedUserView(
        **user_fields(all_of.found, row, now),
        punishments=[punishment_view(one, now) for one in all_of.punishments],
        guilds=[guild_view(one, now) for one in all_of.guilds],
        bots=[bot_view(one) for one in all_of.bots],
        subscription_history=[subscription_change_view(one) for one in all_of.subscription_history],
        permission_history=[permission_change_view(one) for one in all_of.permission_history],
    )


def guild_view(owned: guilds.Owned, now: datetime) -> GuildView:
    """The public view of a guild."""
    guild = owned.guild
    return GuildView(
        discord_id=str(guild.guild_id),
        name=guild.name,
        avatar_url=guild.avatar_url,
        member_count=owned.member_count,
        prefix=guild.prefix,
        owner_discord_id=snowflake(guild.owner_id),
        state=guilds.state(guild, now),
        source="database",
        created_at=whole(guild.created_at),
        updated_at=whole(guilds.updated_at(guild, now)),
    )


def bot_view(owned: bots.Owned) -> BotView:
    """The public view of a bot."""
    bot = owned.bot
    return BotView(
        discord_id=str(bot.bot_id),
        name=bot.name,
        guilds=owned.guilds,
        users=owned.users,
        avatar_url=bot.avatar_url,
        latency_ms=owned.latency_ms,
        is_verified=bot.bot_type in (1, 2),
        last_activity_at=whole(owned.last_activity_at),
        source="database",
        created_at=whole(bot.created_at),
        updated_at=whole(bot.updated_at),
    )


def subscription_change_view(change: subscription_history.SubscriptionChange) -> SubscriptionChangeView:
    """One entry of ``subscription_history``."""
    return SubscriptionChangeView(
        id=change.id,
        old_tier=change.old_tier,
        new_tier=change.new_tier,
        reason=change.reason,
        granted_by_id=snowflake(change.granted_by),
        expires_at=whole_or_none(change.expires_at),
        created_at=whole(change.created_at),
    )


def permission_change_view(change: permission_history.PermissionChange) -> PermissionChangeView:
    """One entry of ``permission_history``."""
    return PermissionChangeView(
        id=change.id,
        old_level=change.old_level,
        new_level=change.new_level,
        reason=change.reason,
        changed_by_id=snowflake(change.changed_by),
        created_at=whole(change.created_at),
    )


# -- the endpoint


def searchable(username: str) -> str | None:
    """The form under which the name is found; None for what can be nobody's name."""
    if len(username) > _LONGEST_NAME or "\x00" in username:
        return None
    if not username.isascii() and any("\ud800" <= c <= "\udfff" for c in username):
        return None
    return profile.name_key(username)


def _start(request: AnyRequest) -> None:
    # On its way together with the session, in the same turn of the loop: one wait for both.
    key = searchable(request.scope["path_params"]["username"])
    if key is not None and not asks_about_the_past(request):
        request.scope["state"]["profile"] = key, services(request).names.load(key)


async def current_detail(request: AnyRequest, user_id: int) -> Detail:
    """Everything about a user, as fresh as the request has to be answered. Raises Problem 503 after 2 seconds."""
    has, required = services(request), required_position(request)

    async def by_id() -> Detail:
        row = await has.user_details.load(user_id)
        assert row is not None
        return detail_of((user_id, *row))

    return await fresh(
        by_id,
        lambda answer: answer.position,
        lambda _: required,
        progress_of(has.checkpoints, *READ_BY_DETAIL),
    )


def sees_detail(viewer: Viewer, target: Person) -> bool:
    """Moderators and above, of users they can act on (api.md §2)."""
    return viewer.level >= MODERATOR and may_act_on(viewer.user_id, viewer.level, target.user_id, target.level)


@read(
    "/v1/users/profile/{username:str}",
    operation_id="get_user_profile",
    summary="A user by name; with histories for moderators and above who can act on them",
    access=SESSION,
    tag="Users",
    example=USER_EXAMPLE,
    errors={404: "User not found"},
    tagged=True,
    start=_start,
    travels=True,
)
async def get_user_profile(
    request: AnyRequest, username: Username, as_of: AsOf = None, known_at: KnownAt = None
) -> Response[UserView | DetailedUserView]:
    has, viewer = services(request), request.scope["user"]
    at, started = asked_moment(request, as_of, known_at), request.scope["state"].get("profile")
    if at is not None or started is None:
        key = searchable(username)
        if key is None or at is None:
            raise Problem(404, "User not found")
        return await _past_profile(request, key, at)
    key, first = started
    required = required_position(request)

    async def by_name() -> Found:
        nonlocal first
        future, first = first or has.names.load(key), None
        row = await future
        assert row is not None
        return profile.found_shown(key, row)

    found = await fresh(
        by_name, lambda answer: answer.position, lambda _: required, progress_of(has.checkpoints, "profile")
    )
    now = has.clock()
    if found.profile is None:
        raise Problem(404, "User not found")
    if not sees_detail(viewer, found.profile):
        return reply(request, user_view(found, now), found.position, found.profile.version)
    all_of = await current_detail(request, found.profile.user_id)
    row = all_of.found.profile
    assert row is not None
    # The later snapshot decides: the target may have been promoted between the two.
    if not sees_detail(viewer, row):
        return reply(request, user_view(all_of.found, now), all_of.position, row.version)
    return reply(request, detailed_view(all_of, row, now), all_of.position, row.version)


async def _past_profile(request: AnyRequest, key: str, at: Instant) -> Response[UserView | DetailedUserView]:
    viewer: Viewer = request.user
    then, row = await past_user(request, key, at, lambda today: sees_detail(viewer, today))
    view = user_view(then.found, at.now) if then.detail is None else detailed_view(then.detail, row, at.now)
    return reply(request, view, then.position, row.version)


HANDLERS = [get_user_profile]

"""The peer's answers as pydantic models: the same keys in the same order as ours."""

from datetime import UTC, datetime

from pydantic import BaseModel

from bench.peers.models import Bot, Guild, PermissionChange, Punishment, SubscriptionChange, User

TYPES = {1: "WARNING", 2: "TIMEOUT", 3: "BAN", 4: "GUILD_BLACKLIST"}


class UserView(BaseModel):
    discord_id: str
    username: str | None
    avatar_url: str | None
    subscription_tier: int
    state: int
    permission_level: int
    prefix: str
    subscription_expires_at: datetime | None
    last_activity_at: datetime
    source: str = "database"
    created_at: datetime
    updated_at: datetime


class PunishmentView(BaseModel):
    id: int
    discord_user_id: str | None
    discord_guild_id: str | None
    punishment_type: str
    discord_issued_by_id: str | None
    reason: str
    expires_at: datetime | None
    is_lifted: bool
    lifted_at: datetime | None
    discord_lifted_by_id: str | None
    created_at: datetime
    updated_at: datetime


class GuildView(BaseModel):
    discord_id: str
    name: str | None
    avatar_url: str | None
    member_count: int
    prefix: str
    owner_discord_id: str | None
    state: int
    source: str = "database"
    created_at: datetime
    updated_at: datetime


class BotView(BaseModel):
    discord_id: str
    name: str | None
    guilds: int
    users: int
    avatar_url: str | None
    latency_ms: float | None
    is_verified: bool
    last_activity_at: datetime
    source: str = "database"
    created_at: datetime
    updated_at: datetime


class SubscriptionView(BaseModel):
    id: int
    old_tier: int
    new_tier: int
    reason: str | None
    granted_by_id: str | None
    expires_at: datetime | None
    created_at: datetime


class PermissionView(BaseModel):
    id: int
    old_level: int
    new_level: int
    reason: str
    changed_by_id: str | None
    created_at: datetime


class DetailedUserView(UserView):
    punishments: list[PunishmentView]
    guilds: list[GuildView]
    bots: list[BotView]
    subscription_history: list[SubscriptionView]
    permission_history: list[PermissionView]


class PunishmentsView(BaseModel):
    punishments: list[PunishmentView]
    total: int
    limit: int
    offset: int


def _whole(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(microsecond=0)


def _whole_or_none(at: datetime | None) -> datetime | None:
    return None if at is None else _whole(at)


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)


def _updated(at: datetime, ends: tuple[datetime | None, ...], now: datetime) -> datetime:
    return _whole(max([at, *(end for end in ends if end is not None and end <= now)]))


def state_of(user: User, now: datetime) -> int:
    """0 active, 1 timed out, 2 banned."""
    if user.banned_until is not None and user.banned_until > now:
        return 2
    return 1 if user.timeout_until is not None and user.timeout_until > now else 0


def user_view(user: User, now: datetime) -> UserView:
    ended = user.tier_until is not None and user.tier_until <= now
    tier = 0 if ended else user.tier
    last = user.activity.last_activity_at if user.activity is not None else user.created_at
    return UserView(
        discord_id=str(user.user_id),
        username=user.username,
        avatar_url=user.avatar_url,
        subscription_tier=tier,
        state=state_of(user, now),
        permission_level=user.level,
        prefix=user.prefix,
        subscription_expires_at=None if tier in (0, 3) else _whole_or_none(user.tier_until),
        last_activity_at=_whole(last),
        created_at=_whole(user.created_at),
        updated_at=_updated(user.updated_at, (user.tier_until, user.timeout_until, user.banned_until), now),
    )


def punishment_view(one: Punishment, now: datetime) -> PunishmentView:
    return PunishmentView(
        id=one.id,
        discord_user_id=_text(one.user_id),
        discord_guild_id=_text(one.guild_id),
        punishment_type=TYPES[one.type],
        discord_issued_by_id=_text(one.issued_by),
        reason=one.reason,
        expires_at=_whole_or_none(one.expires_at),
        is_lifted=one.lifted_at is not None,
        lifted_at=_whole_or_none(one.lifted_at),
        discord_lifted_by_id=_text(one.lifted_by),
        created_at=_whole(one.created_at),
        updated_at=_updated(one.updated_at, (one.expires_at if one.open else None,), now),
    )


def guild_view(guild: Guild, now: datetime) -> GuildView:
    banned = guild.blacklisted_until is not None and guild.blacklisted_until > now
    return GuildView(
        discord_id=str(guild.guild_id),
        name=guild.name,
        avatar_url=guild.avatar_url,
        member_count=(guild.activity and guild.activity.member_count) or 0,
        prefix=guild.prefix,
        owner_discord_id=_text(guild.owner_id),
        state=2 if banned else guild.state_set,
        created_at=_whole(guild.created_at),
        updated_at=_updated(guild.updated_at, (guild.tier_until, guild.blacklisted_until), now),
    )


def bot_view(bot: Bot) -> BotView:
    last = bot.activity.last_activity_at if bot.activity is not None else None
    return BotView(
        discord_id=str(bot.bot_id),
        name=bot.name,
        guilds=bot.activity.guilds if bot.activity else 0,
        users=bot.activity.users if bot.activity else 0,
        avatar_url=bot.avatar_url,
        latency_ms=bot.activity.latency_ms if bot.activity else None,
        is_verified=bot.bot_type in (1, 2),
        last_activity_at=_whole(last or bot.created_at),
        created_at=_whole(bot.created_at),
        updated_at=_whole(bot.updated_at),
    )


def subscription_view(change: SubscriptionChange) -> SubscriptionView:
    return SubscriptionView(
        id=change.id,
        old_tier=change.old_tier,
        new_tier=change.new_tier,
        reason=change.reason,
        granted_by_id=_text(change.granted_by),
        expires_at=_whole_or_none(change.expires_at),
        created_at=_whole(change.created_at),
    )


def permission_view(change: PermissionChange) -> PermissionView:
    return PermissionView(
        id=change.id,
        old_level=change.old_level,
        new_level=change.new_level,
        reason=change.reason,
        changed_by_id=_text(change.changed_by),
        created_at=_whole(change.created_at),
    )

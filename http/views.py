"""The shapes of all answers: names, types and order of keys as in api.md §4 and §5, byte for byte.

Discord ids are strings, internal ids integers, timestamps whole seconds in UTC.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Snowflake = Annotated[str, Meta(pattern="^[1-9][0-9]{0,18}$", description="A Discord id.")]
Moment = Annotated[datetime, Meta(tz=True, description="UTC, whole seconds, with Z.")]
Level = Annotated[int, Meta(ge=0, le=3, description="0 User, 1 Moderator, 2 Admin, 3 Owner.")]
Tier = Annotated[int, Meta(ge=0, le=3, description="0 Basic, 1 Trial, 2 Premium, 3 Lifetime.")]
UserState = Annotated[int, Meta(ge=0, le=2, description="0 Active, 1 Timeout, 2 Banned.")]
PunishmentName = Literal["WARNING", "TIMEOUT", "BAN", "GUILD_BLACKLIST"]

PUNISHMENT_NAMES: dict[int, PunishmentName] = {1: "WARNING", 2: "TIMEOUT", 3: "BAN", 4: "GUILD_BLACKLIST"}
PUNISHMENT_TYPES: dict[str, int] = {name: number for number, name in PUNISHMENT_NAMES.items()}


def whole(moment: datetime) -> datetime:
    """The moment in UTC, cut to its second."""
    if moment.tzinfo is UTC:
        # Most are, and cutting nothing off takes a third of the time.
        return moment.replace(microsecond=0) if moment.microsecond else moment
    return moment.astimezone(UTC).replace(microsecond=0)


def whole_or_none(moment: datetime | None) -> datetime | None:
    """As ``whole``; None stays None."""
    return None if moment is None else whole(moment)


def snowflake(discord_id: int | None) -> str | None:
    """A Discord id as answers bear it."""
    return None if discord_id is None else str(discord_id)


class View(msgspec.Struct, kw_only=True):
    """What an answer holds."""


class ErrorView(msgspec.Struct):
    """Every error answer."""

    error: str
    correlation_id: str


class MessageView(View, kw_only=True):
    message: str


# -- users


class UserView(View, kw_only=True):
    """The 12 keys of a user."""

    discord_id: Snowflake
    username: str | None
    avatar_url: str | None
    subscription_tier: Tier
    state: UserState
    permission_level: Level
    prefix: str
    subscription_expires_at: Moment | None
    last_activity_at: Moment
    source: Literal["database", "cache"]
    created_at: Moment
    updated_at: Moment


class PunishmentView(View, kw_only=True):
    """The record of the punishment search."""

    id: int
    discord_user_id: Snowflake | None
    discord_guild_id: Snowflake | None
    punishment_type: PunishmentName
    discord_issued_by_id: Snowflake | None
    reason: str
    expires_at: Moment | None
    is_lifted: bool
    lifted_at: Moment | None
    discord_lifted_by_id: Snowflake | None
    created_at: Moment
    updated_at: Moment


class GuildView(View, kw_only=True):
    """The public view of a guild."""

    discord_id: Snowflake
    name: str | None
    avatar_url: str | None
    member_count: int
    prefix: str
    owner_discord_id: Snowflake | None
    state: Annotated[int, Meta(ge=0, le=2, description="0 Active, 1 Inactive, 2 Banned.")]
    source: Literal["database", "cache"]
    created_at: Moment
    updated_at: Moment


class BotView(View, kw_only=True):
    """The public view of a bot."""

    discord_id: Snowflake
    name: str | None
    guilds: int
    users: int
    avatar_url: str | None
    latency_ms: float | None
    is_verified: bool
    last_activity_at: Moment
    source: Literal["database", "cache"]
    created_at: Moment
    updated_at: Moment


class SubscriptionChangeView(View, kw_only=True):
    """``id`` is the ledger position; ``granted_by_id`` null for the system."""

    id: int
    old_tier: Tier
    new_tier: Tier
    reason: str | None
    granted_by_id: Snowflake | None
    expires_at: Moment | None
    created_at: Moment


class PermissionChangeView(View, kw_only=True):
    """``id`` is the ledger position; ``changed_by_id`` null for the system."""

    id: int
    old_level: Level
    new_level: Level
    reason: str
    changed_by_id: Snowflake | None
    created_at: Moment


class DetailedUserView(UserView, kw_only=True):
    """What a moderator or above sees of a user they can act on: each list holds the newest 100."""

    punishments: list[PunishmentView]
    guilds: list[GuildView]
    bots: list[BotView]
    subscription_history: list[SubscriptionChangeView]
    permission_history: list[PermissionChangeView]


class LoginView(View, kw_only=True):
    """A log-in: its time, and what the client called itself."""

    ts: Moment
    ua: str


class UserRecordView(DetailedUserView, kw_only=True):
    """The same for a user by id, and the newest 100 log-ins under their addresses."""

    login_history: dict[str, list[LoginView]]


class PublicUserView(View, kw_only=True):
    """What anybody sees of a user."""

    discord_id: Snowflake
    username: str | None
    avatar_url: str | None
    subscription_tier: Tier
    source: Literal["database", "cache"]
    created_at: Moment
    updated_at: Moment


class FoundUserView(View, kw_only=True):
    """What anybody sees of a user, and the five keys more of one that the viewer can act on."""

    discord_id: Snowflake
    username: str | None
    avatar_url: str | None
    subscription_tier: Tier
    state: UserState | msgspec.UnsetType = msgspec.UNSET
    permission_level: Level | msgspec.UnsetType = msgspec.UNSET
    prefix: str | msgspec.UnsetType = msgspec.UNSET
    subscription_expires_at: Moment | msgspec.UnsetType | None = msgspec.UNSET
    last_activity_at: Moment | msgspec.UnsetType = msgspec.UNSET
    source: Literal["database", "cache"]
    created_at: Moment
    updated_at: Moment


class UsersView(View, kw_only=True):
    """A page of the search. ``next_cursor`` is there only when another page follows."""

    users: list[FoundUserView]
    total: int
    limit: int
    offset: int
    next_cursor: str | msgspec.UnsetType = msgspec.UNSET


class OwnSubscriptionView(View, kw_only=True):
    subscription_tier: Tier
    expires_at: Moment | None
    is_active: bool
    created_at: Moment
    updated_at: Moment


class OwnPunishmentView(View, kw_only=True):
    id: int
    punishment_type: PunishmentName
    reason: str
    is_lifted: bool
    expires_at: Moment | None
    created_at: Moment


# -- punishments


class PunishmentIssuedView(View, kw_only=True):
    """The answer of warn, timeout and ban."""

    user_discord_id: Snowflake | None
    guild_discord_id: Snowflake | None
    punishment_type: PunishmentName
    reason: str
    issued_by_discord_id: Snowflake | None
    expires_at: Moment | None
    created_at: Moment
    updated_at: Moment
    id: int


class PunishmentsView(View, kw_only=True):
    """A page of the search. ``next_cursor`` is there only when another page follows."""

    punishments: list[PunishmentView]
    total: int
    limit: int
    offset: int
    next_cursor: str | msgspec.UnsetType = msgspec.UNSET


class ActorView(View, kw_only=True):
    """Who acted; ``discord_id`` null for the system and for an operator."""

    kind: Literal["user", "bot", "system", "operator"]
    discord_id: Snowflake | None


class PunishmentEventView(View, kw_only=True):
    """One event of a punishment. ``id`` is its ledger position; the old values are null where it changed none."""

    id: int
    event_type: Literal["issued", "amended", "lapsed", "lifted", "voided", "overturned", "superseded"]
    actor: ActorView
    reason: str | None
    old_reason: str | None
    expires_at: Moment | None
    old_expires_at: Moment | None
    superseded_by: int | None
    created_at: Moment
    recorded_at: Moment


class PunishmentHistoryView(View, kw_only=True):
    """Every event of a punishment, oldest first."""

    id: int
    history: list[PunishmentEventView]


# -- subscriptions


class SubscriberView(View, kw_only=True):
    """Here the Discord id is an integer (api.md §1, Decision)."""

    discord_id: int
    name: str | None
    tier: Tier
    expires_at: Moment | None
    is_active: bool


class ActiveSubscriptionsView(View, kw_only=True):
    users: list[SubscriberView]
    guilds: list[SubscriberView]


# -- log-in


class CodeRequestedView(View, kw_only=True):
    message: str
    expires_at: Moment


class LoginCodeView(View, kw_only=True):
    code: str | None


class VerifiedView(View, kw_only=True):
    status: Literal["success"]
    message: str
    user: UserView


# -- health


class DatabaseStatisticsView(View, kw_only=True):
    """Of the connections for reads; ``latency_ms`` of one empty statement, null when there was no answer."""

    size: int
    checked_in: int
    checked_out: int
    overflow: int
    total: int
    latency_ms: float | None


class ProjectionView(View, kw_only=True):
    """``lag_seconds`` is the age of the oldest event that the projector has not taken in, 0 when there is none."""

    position: int
    lag_events: int
    lag_seconds: float


class HealthView(View, kw_only=True):
    status: Literal["healthy", "degraded", "unhealthy"]
    database: bool
    cache: bool
    started_at: Moment
    db_statistics: DatabaseStatisticsView
    cache_statistics: dict[str, int]
    errors: list[str]
    projections: dict[str, ProjectionView]


class LiveView(View, kw_only=True):
    status: Literal["live"]


class ReadyView(View, kw_only=True):
    """``reason`` says why not; null when ready."""

    status: Literal["ready", "not ready"]
    reason: str | None


class AdminHealthView(HealthView, kw_only=True):
    source_hash: str
    source_hashes: dict[str, str]

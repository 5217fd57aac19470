"""What can happen to a subject: one frozen Struct per event, each under a stable name and version.

The name (``user.banned.v1``) is what the ledger stores; it never changes and does not depend on where the
class lives. A changed shape is a new version with an upcast in ``upcasting.py``.

Free text about people stands in the fields named by ``PERSONAL``; the ledger encrypts those under the key
of the stream's subject, so that erasing the key erases the text and nothing else (design §2).

A punishment is known inside its stream by its ``number``: the stream version of the event that issued it.
"""

from datetime import datetime
from typing import ClassVar

import msgspec

ERASED = "[erased]"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A fact about one subject. ``TOPIC`` is its stable name, ``PERSONAL`` its encrypted fields."""

    TOPIC: ClassVar[str]
    PERSONAL: ClassVar[tuple[str, ...]] = ()


def has_text(event: Event) -> bool:
    """Whether any of its personal fields is filled."""
    for name in event.PERSONAL:  # noqa: SIM110 - a generator would take four times as long, and it is asked often
        if getattr(event, name) is not None:
            return True
    return False


# -- users, guilds and bots: who they are


class UserRegistered(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "user.registered.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("username", "avatar_url")
    username: str
    avatar_url: str | None = None


class UserRenamed(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "user.renamed.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("old_username", "username")
    old_username: str
    username: str


class UserAvatarChanged(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "user.avatar_changed.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("old_avatar_url", "avatar_url")
    old_avatar_url: str | None
    avatar_url: str | None


class UserPrefixChanged(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "user.prefix_changed.v1"
    old_prefix: str
    prefix: str


class PermissionChanged(Event, frozen=True, kw_only=True):
    """Levels 0 User, 1 Moderator, 2 Admin, 3 Owner (api.md §2)."""

    TOPIC: ClassVar[str] = "user.permission_changed.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    old_level: int
    new_level: int
    reason: str


class GuildRegistered(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "guild.registered.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("name", "avatar_url")
    name: str
    avatar_url: str | None = None
    owner_id: int | None = None


class GuildRenamed(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "guild.renamed.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("old_name", "name")
    old_name: str
    name: str


class GuildAvatarChanged(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "guild.avatar_changed.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("old_avatar_url", "avatar_url")
    old_avatar_url: str | None
    avatar_url: str | None


class GuildOwnerChanged(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "guild.owner_changed.v1"
    old_owner_id: int | None
    owner_id: int | None


class GuildPrefixChanged(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "guild.prefix_changed.v1"
    old_prefix: str
    prefix: str


class GuildStateChanged(Event, frozen=True, kw_only=True):
    """What the staff set: 0 Active, 1 Inactive. Banned (2) is never set, it follows from a blacklisting (api.md §3)."""

    TOPIC: ClassVar[str] = "guild.state_changed.v1"
    old_state: int
    state: int


class BotRegistered(Event, frozen=True, kw_only=True):
    """``bot_type`` 1 Official, 2 Verified, 3 Community; the limit is in requests an hour. A bot that is registered is
    active, also anew after an erasure."""

    TOPIC: ClassVar[str] = "bot.registered.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("name", "avatar_url")
    name: str
    avatar_url: str | None = None
    owner_id: int
    bot_type: int = 3
    rate_limit_per_hour: int = 1000


class BotRenamed(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "bot.renamed.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("old_name", "name")
    old_name: str
    name: str


class BotAvatarChanged(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "bot.avatar_changed.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("old_avatar_url", "avatar_url")
    old_avatar_url: str | None
    avatar_url: str | None


class BotOwnerChanged(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "bot.owner_changed.v1"
    old_owner_id: int
    owner_id: int


class BotTypeChanged(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "bot.type_changed.v1"
    old_bot_type: int
    bot_type: int


class BotRateLimitChanged(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "bot.rate_limit_changed.v1"
    old_rate_limit_per_hour: int
    rate_limit_per_hour: int


class BotActivated(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "bot.activated.v1"


class BotDeactivated(Event, frozen=True, kw_only=True):
    """Its keys are refused until it is activated."""

    TOPIC: ClassVar[str] = "bot.deactivated.v1"


class BotKeyRegenerated(Event, frozen=True, kw_only=True):
    """The keys that the bot had are void; the new one is no event, only its hash is stored, elsewhere."""

    TOPIC: ClassVar[str] = "bot.key_regenerated.v1"


# -- subscriptions, of a user or a guild: tiers 0 Basic, 1 Trial, 2 Premium, 3 Lifetime


class SubscriptionGranted(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "subscription.granted.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    old_tier: int
    tier: int
    expires_at: datetime | None
    reason: str | None = None


class TrialStarted(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "subscription.trial_started.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    old_tier: int
    expires_at: datetime
    reason: str | None = None


class SubscriptionRenewed(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "subscription.renewed.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    tier: int
    old_expires_at: datetime
    expires_at: datetime
    reason: str | None = None


class SubscriptionRevoked(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "subscription.revoked.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    old_tier: int
    reason: str


class SubscriptionEnded(Event, frozen=True, kw_only=True):
    """The tier ran out. Its time is the tier's own end, whenever the clock worker came to record it."""

    TOPIC: ClassVar[str] = "subscription.ended.v1"
    old_tier: int


# -- punishments


class UserWarned(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "user.warned.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    reason: str


class UserTimedOut(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "user.timed_out.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    reason: str
    expires_at: datetime


class UserBanned(Event, frozen=True, kw_only=True):
    """``expires_at`` None is a permanent ban."""

    TOPIC: ClassVar[str] = "user.banned.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    reason: str
    expires_at: datetime | None = None


class GuildWarned(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "guild.warned.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    reason: str


class GuildBlacklisted(Event, frozen=True, kw_only=True):
    """``expires_at`` None is a permanent blacklisting."""

    TOPIC: ClassVar[str] = "guild.blacklisted.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    reason: str
    expires_at: datetime | None = None


class PunishmentAmended(Event, frozen=True, kw_only=True):
    """Carries all four values, so that the history shows old and new without a look-up."""

    TOPIC: ClassVar[str] = "punishment.amended.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("old_reason", "reason")
    number: int
    old_reason: str
    reason: str
    old_expires_at: datetime | None
    expires_at: datetime | None


class PunishmentLapsed(Event, frozen=True, kw_only=True):
    """It ran out. Its time is the punishment's own end, whenever the clock worker came to record it."""

    TOPIC: ClassVar[str] = "punishment.lapsed.v1"
    number: int


class PunishmentLifted(Event, frozen=True, kw_only=True):
    TOPIC: ClassVar[str] = "punishment.lifted.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    number: int
    reason: str


class PunishmentVoided(Event, frozen=True, kw_only=True):
    """Issued in error."""

    TOPIC: ClassVar[str] = "punishment.voided.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    number: int
    reason: str


class PunishmentOverturned(Event, frozen=True, kw_only=True):
    """Overturned on appeal."""

    TOPIC: ClassVar[str] = "punishment.overturned.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    number: int
    reason: str


class PunishmentSuperseded(Event, frozen=True, kw_only=True):
    """Replaced by punishment number ``by`` of the same stream, issued in the same append."""

    TOPIC: ClassVar[str] = "punishment.superseded.v1"
    number: int
    by: int


# -- erasure


class SubjectErased(Event, frozen=True, kw_only=True):
    """The subject's key was destroyed: personal text of all earlier events of the stream reads as erased."""

    TOPIC: ClassVar[str] = "subject.erased.v1"
    PERSONAL: ClassVar[tuple[str, ...]] = ("reason",)
    reason: str


Issued = UserWarned | UserTimedOut | UserBanned | GuildWarned | GuildBlacklisted
Revoked = PunishmentLifted | PunishmentVoided | PunishmentOverturned | PunishmentSuperseded

EVENTS: dict[str, type[Event]] = {
    event.TOPIC: event
    for event in (
        UserRegistered,
        UserRenamed,
        UserAvatarChanged,
        UserPrefixChanged,
        PermissionChanged,
        GuildRegistered,
        GuildRenamed,
        GuildAvatarChanged,
        GuildOwnerChanged,
        GuildPrefixChanged,
        GuildStateChanged,
        BotRegistered,
        BotRenamed,
        BotAvatarChanged,
        BotOwnerChanged,
        BotTypeChanged,
        BotRateLimitChanged,
        BotActivated,
        BotDeactivated,
        BotKeyRegenerated,
        SubscriptionGranted,
        TrialStarted,
        SubscriptionRenewed,
        SubscriptionRevoked,
        SubscriptionEnded,
        UserWarned,
        UserTimedOut,
        UserBanned,
        GuildWarned,
        GuildBlacklisted,
        PunishmentAmended,
        PunishmentLapsed,
        PunishmentLifted,
        PunishmentVoided,
        PunishmentOverturned,
        PunishmentSuperseded,
        SubjectErased,
    )
}

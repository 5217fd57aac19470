"""Every command, as plain data. Who gave it, when and under which id stands in ``Context`` beside it."""

from datetime import datetime
from uuid import UUID

import msgspec

from modledger.domain.envelope import Actor, Subject, Via


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """``command_id`` makes a retry safe: the same id never acts twice. ``if_match`` is the version of the record
    (the punishment for commands about one, else the target's stream) that the caller has seen."""

    actor: Actor
    at: datetime
    command_id: UUID
    correlation_id: UUID
    via: Via
    causation_id: UUID | None = None
    external_id: str | None = None
    if_match: int | None = None


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants."""


# -- identity


class RegisterUser(Command, frozen=True, kw_only=True):
    user_id: int
    username: str
    avatar_url: str | None = None


class UpdateUser(Command, frozen=True, kw_only=True):
    """None leaves a fact as it is. Registers nobody."""

    user_id: int
    username: str | None = None
    avatar_url: str | None = None


class ChangeUserPrefix(Command, frozen=True, kw_only=True):
    user_id: int
    prefix: str


class RegisterGuild(Command, frozen=True, kw_only=True):
    guild_id: int
    name: str
    avatar_url: str | None = None
    owner_id: int | None = None


class UpdateGuild(Command, frozen=True, kw_only=True):
    """The staff's. UNSET leaves a fact as it is, ``owner_id`` None is nobody; ``state`` 0 Active, 1 Inactive."""

    guild_id: int
    name: str | msgspec.UnsetType = msgspec.UNSET
    owner_id: int | msgspec.UnsetType | None = msgspec.UNSET
    state: int | msgspec.UnsetType = msgspec.UNSET


class SyncGuild(Command, frozen=True, kw_only=True):
    """What a bot sees of a guild. None leaves a fact as it is; registers a guild that is not."""

    guild_id: int
    name: str | None = None
    avatar_url: str | None = None
    owner_id: int | None = None


class ChangeGuildPrefix(Command, frozen=True, kw_only=True):
    guild_id: int
    prefix: str


class RegisterBot(Command, frozen=True, kw_only=True):
    bot_id: int
    name: str
    owner_id: int
    avatar_url: str | None = None
    bot_type: int = 3
    rate_limit_per_hour: int = 1000


class UpdateBot(Command, frozen=True, kw_only=True):
    """UNSET leaves a fact as it is."""

    bot_id: int
    name: str | msgspec.UnsetType = msgspec.UNSET
    owner_id: int | msgspec.UnsetType = msgspec.UNSET
    bot_type: int | msgspec.UnsetType = msgspec.UNSET
    rate_limit_per_hour: int | msgspec.UnsetType = msgspec.UNSET
    is_active: bool | msgspec.UnsetType = msgspec.UNSET


class SyncBot(Command, frozen=True, kw_only=True):
    """What a bot says of itself. None leaves its picture as it is."""

    bot_id: int
    avatar_url: str | None = None


class RegenerateBotKey(Command, frozen=True, kw_only=True):
    """Makes the bot's keys void; whoever commands this makes the new one (``http/keys.py``)."""

    bot_id: int


# -- permissions


class ChangePermission(Command, frozen=True, kw_only=True):
    user_id: int
    level: int
    reason: str


# -- subscriptions; the target is a user or a guild


class GrantSubscription(Command, frozen=True, kw_only=True):
    """``tier`` 1 starts the trial; ``duration_days`` 1–3650 counts for tier 2 only."""

    target: Subject
    tier: int
    duration_days: int = 30
    reason: str | None = None


class StartTrial(Command, frozen=True, kw_only=True):
    target: Subject
    reason: str | None = None


class RevokeSubscription(Command, frozen=True, kw_only=True):
    target: Subject
    reason: str


class EndSubscription(Command, frozen=True, kw_only=True):
    """The clock's: records the end of a tier that ran out at ``expires_at``."""

    target: Subject
    expires_at: datetime


# -- punishments; the target is a user or a guild, ``number`` the version of the issuing event


class IssueWarning(Command, frozen=True, kw_only=True):
    target: Subject
    reason: str


class IssueTimeout(Command, frozen=True, kw_only=True):
    user_id: int
    reason: str
    expires_at: datetime
    replace: bool = False


class IssueBan(Command, frozen=True, kw_only=True):
    """A ban of a user or the blacklisting of a guild; ``expires_at`` None is for ever."""

    target: Subject
    reason: str
    expires_at: datetime | None = None
    replace: bool = False


class AmendPunishment(Command, frozen=True, kw_only=True):
    """UNSET leaves a value as it is; ``expires_at`` None makes a ban permanent."""

    target: Subject
    number: int
    reason: str | msgspec.UnsetType = msgspec.UNSET
    expires_at: datetime | msgspec.UnsetType | None = msgspec.UNSET


class LiftPunishment(Command, frozen=True, kw_only=True):
    target: Subject
    number: int
    reason: str


class VoidPunishment(Command, frozen=True, kw_only=True):
    target: Subject
    number: int
    reason: str


class OverturnPunishment(Command, frozen=True, kw_only=True):
    target: Subject
    number: int
    reason: str


class LapsePunishment(Command, frozen=True, kw_only=True):
    """The clock's: records that a punishment ran out at ``expires_at``."""

    target: Subject
    number: int
    expires_at: datetime


# -- erasure


class EraseSubject(Command, frozen=True, kw_only=True):
    """Owner only: destroys the subject's key."""

    target: Subject
    reason: str

"""What a stream adds up to: users, guilds, bots, their punishments and subscriptions, and the fold that builds them.

The folds are date-safe: an import may append events older than those already there. Level, tier and the owner of a
guild follow the event with the latest date (of two with the same date the later in the ledger); ends of punishments go
by number. The rest follows the ledger: no import changes it, and a bot's stream begins with its registration.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, TypeGuard

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Actor, NewEvent, Recorded, Subject

WARNING, TIMEOUT, BAN, GUILD_BLACKLIST = 1, 2, 3, 4
BASIC, TRIAL, PREMIUM, LIFETIME = 0, 1, 2, 3
USER, MODERATOR, ADMIN, OWNER = 0, 1, 2, 3

EndingKind = Literal["lapsed", "lifted", "voided", "overturned", "superseded"]

_ISSUED_TYPES: dict[type[events.Event], int] = {
    events.UserWarned: WARNING,
    events.GuildWarned: WARNING,
    events.UserTimedOut: TIMEOUT,
    events.UserBanned: BAN,
    events.GuildBlacklisted: GUILD_BLACKLIST,
}
_ENDINGS: dict[type[events.Event], EndingKind] = {
    events.PunishmentLapsed: "lapsed",
    events.PunishmentLifted: "lifted",
    events.PunishmentVoided: "voided",
    events.PunishmentOverturned: "overturned",
    events.PunishmentSuperseded: "superseded",
}
# By class, as folding asks for each event: that is faster than to try one class after the other.
_OF_PUNISHMENTS = frozenset((*_ISSUED_TYPES, *_ENDINGS, events.PunishmentAmended))
_OF_TIERS = frozenset(
    (
        events.SubscriptionGranted,
        events.TrialStarted,
        events.SubscriptionRenewed,
        events.SubscriptionRevoked,
        events.SubscriptionEnded,
    )
)


class Ending(msgspec.Struct, frozen=True):
    """How a punishment ended; ``reason`` is None where nobody gave one (lapsed, superseded)."""

    kind: EndingKind
    at: datetime
    by: Actor
    reason: str | None


class Punishment(msgspec.Struct, kw_only=True):
    """``number`` is the stream version of the issuing event, ``position`` that event's place in the ledger (0 while
    it is not yet appended), ``version`` the stream version of the last event about this punishment."""

    number: int
    position: int
    type: int
    reason: str
    issued_by: Actor
    issued_at: datetime
    expires_at: datetime | None
    ending: Ending | None = None
    version: int
    updated_at: datetime

    def active(self, at: datetime) -> bool:
        """Not ended, and no end or one after ``at`` (api.md §3)."""
        return self.ending is None and (self.expires_at is None or self.expires_at > at)

    @property
    def ends_at(self) -> datetime | None:
        """When it ended or will end; None for never."""
        return self.ending.at if self.ending is not None else self.expires_at


class Account(msgspec.Struct, kw_only=True):
    """What users and guilds have in common. ``version`` 0 and no ``created_at``: never seen. ``textless``: erased, and
    no personal text has come since."""

    id: int
    version: int = 0
    registered: bool = False
    avatar_url: str | None = None
    prefix: str = "!"
    prefix_chosen: bool = False
    tier: int = BASIC
    tier_until: datetime | None = None
    tier_since: datetime | None = None
    tier_ended_at: datetime | None = None
    trial_used: bool = False
    punishments: dict[int, Punishment] = {}
    created_at: datetime | None = None
    updated_at: datetime | None = None
    erased_at: datetime | None = None
    textless: bool = False

    def tier_at(self, at: datetime) -> int:
        """The tier at that second: Basic from the very end on."""
        return BASIC if self.tier_until is not None and self.tier_until <= at else self.tier

    def active_punishment(self, kind: int, at: datetime) -> Punishment | None:
        """The active punishment of that type, of several the one issued last."""
        return max(
            (p for p in self.punishments.values() if p.type == kind and p.active(at)),
            key=lambda p: p.number,
            default=None,
        )


class User(Account, kw_only=True):
    username: str | None = None
    level: int = USER
    level_since: datetime | None = None

    def restricted(self, at: datetime) -> bool:
        """Timed out or banned at that second."""
        return any(p.type in (TIMEOUT, BAN) and p.active(at) for p in self.punishments.values())


class Guild(Account, kw_only=True):
    """``state_set`` is what the staff set: 0 Active, 1 Inactive."""

    name: str | None = None
    owner_id: int | None = None
    owner_since: datetime | None = None
    state_set: int = 0


class Bot(msgspec.Struct, kw_only=True):
    id: int
    version: int = 0
    registered: bool = False
    name: str | None = None
    avatar_url: str | None = None
    owner_id: int | None = None
    bot_type: int = 3
    rate_limit_per_hour: int = 1000
    active: bool = True
    created_at: datetime | None = None
    updated_at: datetime | None = None
    erased_at: datetime | None = None
    textless: bool = False


State = User | Guild | Bot


def new(subject: Subject) -> State:
    """The state of a subject that has no event yet."""
    match subject.kind:
        case "user":
            return User(id=subject.id, punishments={})
        case "guild":
            return Guild(id=subject.id, punishments={})
        case "bot":
            return Bot(id=subject.id)


def fold(subject: Subject, history: Iterable[NewEvent]) -> State:
    """The state after these events of the subject's stream."""
    state = new(subject)
    for happened in history:
        evolve(state, happened)
    return state


def fork(state: State) -> State:
    """A state of the caller's own, equal to this one, which other threads may go on reading."""
    if isinstance(state, Bot):
        return msgspec.structs.replace(state)
    return msgspec.structs.replace(state, punishments=dict(state.punishments))


def evolve(state: State, happened: NewEvent) -> None:
    """Takes one event into a state that the caller owns. Its punishments are replaced and never changed: forks share
    them."""
    state.version = happened.version
    if state.created_at is None:
        state.created_at = happened.occurred_at
    if state.updated_at is None or happened.occurred_at > state.updated_at:
        state.updated_at = happened.occurred_at
    kind = type(happened.event)
    if kind is events.SubjectErased:
        state.erased_at, state.textless = happened.occurred_at, True
    elif state.textless and events.has_text(happened.event):
        state.textless = False
    if isinstance(state, Bot):
        _evolve_bot(state, happened)
    elif kind in _OF_PUNISHMENTS:
        _evolve_punishments(state, happened)
    elif kind in _OF_TIERS:
        _evolve_subscription(state, happened)
    elif isinstance(state, User):
        _evolve_user(state, happened)
    else:
        _evolve_guild(state, happened)


def _later(since: datetime | None, happened: NewEvent) -> bool:
    return since is None or happened.occurred_at >= since


def _evolve_user(user: User, happened: NewEvent) -> None:
    match happened.event:
        case events.UserRegistered() as event:
            user.registered = True
            user.username, user.avatar_url = event.username, event.avatar_url
            user.created_at = happened.occurred_at
        case events.UserRenamed() as event:
            user.username = event.username
        case events.UserAvatarChanged() as event:
            user.avatar_url = event.avatar_url
        case events.UserPrefixChanged() as event:
            user.prefix, user.prefix_chosen = event.prefix, True
        case events.PermissionChanged() as event if _later(user.level_since, happened):
            user.level, user.level_since = event.new_level, happened.occurred_at
        case events.SubjectErased():
            user.registered, user.username, user.avatar_url = False, None, None
            _erase_reasons(user)


def _evolve_guild(guild: Guild, happened: NewEvent) -> None:
    match happened.event:
        case events.GuildRegistered() as event:
            guild.registered = True
            guild.name, guild.avatar_url = event.name, event.avatar_url
            guild.created_at = happened.occurred_at
            if _later(guild.owner_since, happened):
                guild.owner_id, guild.owner_since = event.owner_id, happened.occurred_at
        case events.GuildRenamed() as event:
            guild.name = event.name
        case events.GuildAvatarChanged() as event:
            guild.avatar_url = event.avatar_url
        case events.GuildStateChanged() as event:
            guild.state_set = event.state
        case events.GuildOwnerChanged() as event if _later(guild.owner_since, happened):
            guild.owner_id, guild.owner_since = event.owner_id, happened.occurred_at
        case events.GuildPrefixChanged() as event:
            guild.prefix, guild.prefix_chosen = event.prefix, True
        case events.SubjectErased():
            guild.registered, guild.name, guild.avatar_url = False, None, None
            _erase_reasons(guild)


def _evolve_bot(bot: Bot, happened: NewEvent) -> None:
    match happened.event:
        case events.BotRegistered() as event:
            bot.registered = True
            bot.name, bot.avatar_url, bot.owner_id = event.name, event.avatar_url, event.owner_id
            bot.bot_type, bot.rate_limit_per_hour = event.bot_type, event.rate_limit_per_hour
            bot.active = True
            bot.created_at = happened.occurred_at
        case events.BotRenamed() as event:
            bot.name = event.name
        case events.BotAvatarChanged() as event:
            bot.avatar_url = event.avatar_url
        case events.BotOwnerChanged() as event:
            bot.owner_id = event.owner_id
        case events.BotTypeChanged() as event:
            bot.bot_type = event.bot_type
        case events.BotRateLimitChanged() as event:
            bot.rate_limit_per_hour = event.rate_limit_per_hour
        case events.BotActivated():
            bot.active = True
        case events.BotDeactivated():
            bot.active = False
        case events.SubjectErased():
            bot.registered, bot.name, bot.avatar_url = False, None, None


def _evolve_subscription(account: Account, happened: NewEvent) -> None:
    event = happened.event
    if isinstance(event, events.TrialStarted):
        account.trial_used = True
    if isinstance(event, events.SubscriptionEnded):
        # It says that the tier ran out and decides nothing, so a change before it that is imported later still counts.
        account.tier_ended_at = happened.occurred_at
        if account.tier_until is not None and account.tier_until <= happened.occurred_at:
            account.tier, account.tier_until = BASIC, None
        return
    if not _later(account.tier_since, happened):
        return
    account.tier_since = happened.occurred_at
    match event:
        case events.SubscriptionGranted() | events.SubscriptionRenewed():
            account.tier, account.tier_until = event.tier, event.expires_at
        case events.TrialStarted():
            account.tier, account.tier_until = TRIAL, event.expires_at
        case events.SubscriptionRevoked():
            account.tier, account.tier_until = BASIC, None


def issued_type(event: events.Event) -> int | None:
    """The type of the punishment that the event issues, None for all other events."""
    return _ISSUED_TYPES.get(type(event))


def _evolve_punishments(account: Account, happened: NewEvent) -> None:
    event = happened.event
    if _issues(event):
        account.punishments[happened.version] = Punishment(
            number=happened.version,
            position=happened.position if isinstance(happened, Recorded) else 0,
            type=_ISSUED_TYPES[type(event)],
            reason=event.reason,
            issued_by=happened.actor,
            issued_at=happened.occurred_at,
            expires_at=getattr(event, "expires_at", None),
            version=happened.version,
            updated_at=happened.occurred_at,
        )
        return
    if not _goes_on(event):
        return
    punishment = msgspec.structs.replace(
        account.punishments[event.number], version=happened.version, updated_at=happened.occurred_at
    )
    account.punishments[event.number] = punishment
    if isinstance(event, events.PunishmentAmended):
        punishment.reason, punishment.expires_at = event.reason, event.expires_at
    else:
        reason = getattr(event, "reason", None)
        punishment.ending = Ending(_ENDINGS[type(event)], happened.occurred_at, happened.actor, reason)


def _issues(event: events.Event) -> TypeGuard[events.Issued]:
    return type(event) in _ISSUED_TYPES


def _goes_on(event: events.Event) -> TypeGuard[events.Revoked | events.PunishmentAmended | events.PunishmentLapsed]:
    return type(event) in _ENDINGS or type(event) is events.PunishmentAmended


def _erase_reasons(account: Account) -> None:
    for number, punishment in account.punishments.items():
        ending = punishment.ending
        if ending is not None and ending.reason is not None:
            ending = msgspec.structs.replace(ending, reason=events.ERASED)
        account.punishments[number] = msgspec.structs.replace(punishment, reason=events.ERASED, ending=ending)

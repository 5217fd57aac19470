"""Records of another platform, as they stand in an import file, and the events that each brings (docs/import.md).

A record is data of the past: its events bear the record's dates and issuers, no rank is asked for, and what is
present stays: the folds go by date (``subjects.py``).
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID, uuid5

import msgspec
from msgspec import Meta

from modledger.domain import events, identity
from modledger.domain.commands import Command
from modledger.domain.envelope import SYSTEM, Actor, Subject
from modledger.domain.facts import Decided, Facts, has_control_characters, moment, reason
from modledger.domain.refusals import Invalid
from modledger.domain.subjects import (
    BAN,
    BASIC,
    GUILD_BLACKLIST,
    LIFETIME,
    PREMIUM,
    TIMEOUT,
    TRIAL,
    WARNING,
    Account,
    Bot,
    Guild,
    User,
)

MAX_LINE = 65_536
NO_REASON = "No reason given"

_NAMESPACE = UUID("6f5d0c0e-6f0b-5c35-9a57-2f4c8a8f2d61")
_TYPES = {"WARNING": WARNING, "TIMEOUT": TIMEOUT, "BAN": BAN, "GUILD_BLACKLIST": GUILD_BLACKLIST}


class Unfit(Invalid):
    """A record that cannot be taken. ``kind_of_fault`` is one of the texts in docs/import.md, the same for all records
    with that fault; the text of the exception adds what is wrong with this one."""

    def __init__(self, kind_of_fault: str, detail: str = "") -> None:
        super().__init__(f"{kind_of_fault}: {detail}" if detail else kind_of_fault)
        self.kind_of_fault = kind_of_fault


class DiscordId(int):
    """1 … 2^63−1, in the file as an integer or a string of digits."""


ExternalId = Annotated[str, Meta(min_length=1, max_length=255)]
Moment = Annotated[datetime, Meta(tz=True)]
Level = Annotated[int, Meta(ge=0, le=3)]
Tier = Annotated[int, Meta(ge=0, le=3)]


class Import(Command, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """``external_id`` (1–255 characters, unique within its kind) is how a second run recognises the record;
    ``created_at`` is when it came to be on the other platform, not after the import."""

    external_id: ExternalId
    created_at: Moment


class ImportUser(Import, frozen=True, kw_only=True, tag="user"):
    discord_id: DiscordId
    username: str
    avatar_url: str | None = None
    prefix: str | None = None


class ImportGuild(Import, frozen=True, kw_only=True, tag="guild"):
    discord_id: DiscordId
    name: str
    avatar_url: str | None = None
    owner_discord_id: DiscordId | None = None
    prefix: str | None = None


class ImportBot(Import, frozen=True, kw_only=True, tag="bot"):
    discord_id: DiscordId
    name: str
    avatar_url: str | None = None
    owner_discord_id: DiscordId
    bot_type: Annotated[int, Meta(ge=1, le=3)] = 3
    rate_limit_per_hour: Annotated[int, Meta(ge=1, le=100_000)] = 1000


class ImportPunishment(Import, frozen=True, kw_only=True, tag="punishment"):
    """Issued at ``created_at``; over at ``lifted_at``, else at ``expires_at``, else not yet. ``discord_issued_by_id``
    None is the system."""

    discord_user_id: DiscordId | None = None
    discord_guild_id: DiscordId | None = None
    punishment_type: Literal["WARNING", "TIMEOUT", "BAN", "GUILD_BLACKLIST", 1, 2, 3, 4]
    discord_issued_by_id: DiscordId | None = None
    reason: str
    expires_at: Moment | None = None
    is_lifted: bool | None = None
    lifted_at: Moment | None = None
    discord_lifted_by_id: DiscordId | None = None
    lifted_reason: str | None = None


class ImportSubscription(Import, frozen=True, kw_only=True, tag="subscription"):
    """One change of a tier at ``created_at``, as in ``subscription_history`` of a profile (api.md §5.1)."""

    discord_user_id: DiscordId | None = None
    discord_guild_id: DiscordId | None = None
    old_tier: Tier
    new_tier: Tier
    expires_at: Moment | None = None
    granted_by_id: DiscordId | None = None
    reason: str | None = None


class ImportPermission(Import, frozen=True, kw_only=True, tag="permission"):
    """One change of a level at ``created_at``, as in ``permission_history`` of a profile (api.md §5.1)."""

    discord_user_id: DiscordId
    old_level: Level
    new_level: Level
    changed_by_id: DiscordId | None = None
    reason: str


_OfUserOrGuild = ImportPunishment | ImportSubscription
Record = ImportUser | ImportGuild | ImportBot | ImportPunishment | ImportSubscription | ImportPermission


# -- from a line to a record


def _discord_id(wanted: type, value: Any) -> DiscordId:
    assert wanted is DiscordId
    if isinstance(value, str) and value.isascii() and value.isdigit():
        # Twenty digits hold any id; int() of a long string takes time that grows with its square.
        number = int(value) if len(value) <= 20 else 0
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        raise TypeError("Expected an id, an integer or a string of digits")
    if not 1 <= number < 2**63:
        raise ValueError("Expected an id between 1 and 2^63-1")
    return DiscordId(number)


_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record, dec_hook=_discord_id)

# What msgspec's messages begin with, and the fault that it means. The first that fits counts.
_FAULTS = (
    ("Object missing required field", "missing field"),
    ("Object contains unknown field", "unknown field"),
    ("Expected `object`", "not an object"),
    ("Expected `datetime` with a timezone", "date without offset"),
    ("Invalid RFC3339", "not a date"),
    ("Expected an id between", "out of range"),
    ("Invalid enum value", "out of range"),
    ("Expected `str` of length", "out of range"),
    ("Expected `int` <=", "out of range"),
    ("Expected `int` >=", "out of range"),
    ("Integer value out of range", "out of range"),
    ("Expected ", "wrong type"),
)


def read_record(line: bytes) -> Record:
    """The record of a line without its line break. Raises Unfit."""
    if len(line) > MAX_LINE:
        raise Unfit("line too long", f"more than {MAX_LINE} bytes")
    try:
        if not line.isascii():
            line.decode()
        record = _DECODER.decode(line)
    except UnicodeDecodeError as error:
        raise Unfit("not UTF-8", f"byte {error.start + 1} of the line") from None
    except msgspec.ValidationError as error:
        raise _unfit(str(error)) from None
    except msgspec.DecodeError as error:
        raise Unfit("not JSON", str(error)) from None
    except RecursionError:
        raise Unfit("not JSON", "nested too deeply") from None
    if has_control_characters(record.external_id):
        raise Unfit("invalid text", "external_id must not contain control characters")
    if isinstance(record, _OfUserOrGuild) and (record.discord_user_id is None) == (record.discord_guild_id is None):
        if record.discord_user_id is None:
            raise Unfit("missing field", "discord_user_id or discord_guild_id is required")
        raise Unfit("contradiction", "discord_user_id and discord_guild_id exclude each other")
    return record


def _unfit(message: str) -> Unfit:
    if message.startswith("Invalid value") and message.endswith("`$.kind`"):
        return Unfit("unknown kind", message.removeprefix("Invalid value ").removesuffix(" - at `$.kind`"))
    path = message.partition(" - at ")[2]
    for start, fault in _FAULTS:
        if message.startswith(start) and not (fault == "not an object" and path):
            return Unfit(fault, message.replace(" - at `$.", " at `"))
    return Unfit("wrong type", message)


def command_id(record: Record) -> UUID:
    """The same for the same kind and external id at every run: so a record is taken once."""
    return uuid5(_NAMESPACE, f"{record.__struct_config__.tag}:{record.external_id}")


def subject(record: Import) -> Subject:
    """Whose stream the record's events stand in."""
    match record:
        # First, as most records are of these.
        case ImportPunishment() | ImportSubscription():
            if record.discord_user_id is not None:
                return Subject("user", int(record.discord_user_id))
            assert record.discord_guild_id is not None
            return Subject("guild", int(record.discord_guild_id))
        case ImportUser():
            return Subject("user", int(record.discord_id))
        case ImportGuild():
            return Subject("guild", int(record.discord_id))
        case ImportBot():
            return Subject("bot", int(record.discord_id))
        case ImportPermission():
            return Subject("user", int(record.discord_user_id))
    raise TypeError(f"{type(record).__name__} is not a record")


# -- from a record to events


def bring(record: Import, facts: Facts) -> list[Decided]:
    """The record's events, with its own dates and actors; none for a subject that is registered already. ``context.at``
    is the time of the import. Raises Unfit."""
    at = _past("created_at", record.created_at, facts)
    target = subject(record)
    state = facts.states[str(target)]
    if state.erased_at is not None and at <= state.erased_at:
        raise Unfit("erased subject", f"{target.kind} {target.id} was erased after created_at")
    try:
        match record, state:
            case ImportPunishment(), Account():
                return _punishment(record, target, state, at, facts)
            case ImportUser(), User():
                return _user(record, state, at)
            case ImportGuild(), Guild():
                return _guild(record, state, at)
            case ImportBot(), Bot():
                return _bot(record, state, at)
            case ImportSubscription(), Account():
                return _subscription(record, target, state, at)
            case ImportPermission(), _:
                return _permission(record, at)
    except Unfit:
        raise
    except Invalid as invalid:
        raise Unfit("invalid text", str(invalid)) from None
    raise TypeError(f"{type(record).__name__} is not a record")


def _user(record: ImportUser, user: User, at: datetime) -> list[Decided]:
    if user.registered:
        return []
    registered = Decided(identity.user_registered(record.username, record.avatar_url), at, SYSTEM)
    prefix = _prefix(record.prefix, user)
    if prefix is None:
        return [registered]
    return [registered, Decided(events.UserPrefixChanged(old_prefix=user.prefix, prefix=prefix), at, SYSTEM)]


def _guild(record: ImportGuild, guild: Guild, at: datetime) -> list[Decided]:
    if guild.registered:
        return []
    owner_id = None if record.owner_discord_id is None else int(record.owner_discord_id)
    registered = Decided(identity.guild_registered(record.name, record.avatar_url, owner_id), at, SYSTEM)
    prefix = _prefix(record.prefix, guild)
    if prefix is None:
        return [registered]
    return [registered, Decided(events.GuildPrefixChanged(old_prefix=guild.prefix, prefix=prefix), at, SYSTEM)]


def _bot(record: ImportBot, bot: Bot, at: datetime) -> list[Decided]:
    if bot.registered:
        return []
    registered = identity.bot_registered(
        record.name, record.avatar_url, int(record.owner_discord_id), record.bot_type, record.rate_limit_per_hour
    )
    return [Decided(registered, at, SYSTEM)]


def _prefix(text: str | None, account: User | Guild) -> str | None:
    """The prefix that the record changes; None where somebody has chosen one here already, or it is the usual one."""
    if text is None:
        return None
    chosen = identity.prefix_of(text)
    return None if account.prefix_chosen or chosen == account.prefix else chosen


def _punishment(
    record: ImportPunishment, target: Subject, account: Account, at: datetime, facts: Facts
) -> list[Decided]:
    kind = _type(record.punishment_type)
    text = reason(record.reason)
    expires = _end(record, kind, at)
    lifted = _lift(record, at, expires, facts)
    over = lifted or expires
    if kind != WARNING:
        _require_room(account, target, kind, at, over)
    number = account.version + 1
    decided = [Decided(_issued(kind, target, text, expires), at, _actor(record.discord_issued_by_id))]
    if lifted is not None:
        why = NO_REASON if record.lifted_reason is None else reason(record.lifted_reason)
        lift = events.PunishmentLifted(number=number, reason=why)
        decided.append(Decided(lift, lifted, _actor(record.discord_lifted_by_id)))
    elif expires is not None and expires <= facts.context.at:
        decided.append(Decided(events.PunishmentLapsed(number=number), expires, SYSTEM))
    return decided


def _type(value: str | int) -> int:
    return value if isinstance(value, int) else _TYPES[value]


def _issued(kind: int, target: Subject, text: str, expires: datetime | None) -> events.Event:
    match kind, target.kind:
        case 1, "user":
            return events.UserWarned(reason=text)
        case 1, "guild":
            return events.GuildWarned(reason=text)
        case 2, "user":
            assert expires is not None
            return events.UserTimedOut(reason=text, expires_at=expires)
        case 3, "user":
            return events.UserBanned(reason=text, expires_at=expires)
        case 4, "guild":
            return events.GuildBlacklisted(reason=text, expires_at=expires)
    raise Unfit("contradiction", f"a {target.kind} cannot have this punishment_type")


def _end(record: ImportPunishment, kind: int, at: datetime) -> datetime | None:
    """No upper limit, unlike for a new timeout: what another platform allowed has happened."""
    if record.expires_at is None:
        if kind == TIMEOUT:
            raise Unfit("missing field", "expires_at is required for a timeout")
        return None
    if kind == WARNING:
        raise Unfit("contradiction", "expires_at does not apply to a warning")
    end = _moment("expires_at", record.expires_at)
    if end <= at:
        raise Unfit("end before start", "expires_at must be after created_at")
    return end


def _lift(record: ImportPunishment, at: datetime, expires: datetime | None, facts: Facts) -> datetime | None:
    if record.lifted_at is None:
        if record.is_lifted:
            raise Unfit("missing field", "lifted_at is required when is_lifted is true")
        if record.discord_lifted_by_id is not None or record.lifted_reason is not None:
            raise Unfit("missing field", "lifted_at is required with discord_lifted_by_id and lifted_reason")
        return None
    if record.is_lifted is False:
        raise Unfit("contradiction", "lifted_at is given although is_lifted is false")
    lifted = _past("lifted_at", record.lifted_at, facts)
    if lifted < at:
        raise Unfit("lift before start", "lifted_at must not be before created_at")
    if expires is not None and lifted > expires:
        raise Unfit("lift after end", "lifted_at must not be after expires_at")
    return lifted


def _require_room(account: Account, target: Subject, kind: int, start: datetime, end: datetime | None) -> None:
    """Never two bans, timeouts or blacklistings of one subject at any instant, the past included."""
    for other in account.punishments.values():
        if other.type != kind:
            continue
        until = other.ends_at
        if (until is None or start < until) and (end is None or other.issued_at < end):
            since = other.issued_at.isoformat()
            raise Unfit("overlap", f"{target.kind} {target.id} has one of this type since {since} already")


def _subscription(record: ImportSubscription, target: Subject, account: Account, at: datetime) -> list[Decided]:
    new, text, by = record.new_tier, _optional(record.reason), _actor(record.granted_by_id)
    expires = None if record.expires_at is None else _moment("expires_at", record.expires_at)
    if new in (BASIC, LIFETIME):
        if expires is not None:
            raise Unfit("contradiction", f"expires_at does not apply to new_tier {new}")
    elif expires is None:
        raise Unfit("missing field", f"expires_at is required for new_tier {new}")
    elif expires <= at:
        raise Unfit("end before start", "expires_at must be after created_at")
    if new == record.old_tier and new != PREMIUM:
        raise Unfit("no change", "old_tier and new_tier are the same")
    in_order = account.tier_since is None or account.tier_since <= at
    ran_out = account.tier != BASIC and account.tier_until is not None and account.tier_until <= at
    if new == BASIC:
        if record.granted_by_id is None and account.tier_ended_at == at:
            return []
        if record.granted_by_id is None and in_order and account.tier_until == at:
            return [Decided(events.SubscriptionEnded(old_tier=record.old_tier), at, SYSTEM)]
        # An end that nothing here explains has to outrank an older grant of a later line: a revocation does.
        return [Decided(events.SubscriptionRevoked(old_tier=record.old_tier, reason=text or NO_REASON), at, by)]
    ended = []
    if in_order and ran_out:
        ended.append(Decided(events.SubscriptionEnded(old_tier=account.tier), account.tier_until, SYSTEM))
    if new == TRIAL:
        if account.trial_used:
            raise Unfit("second trial", f"{target.kind} {target.id} has already used the trial")
        assert expires is not None
        started = events.TrialStarted(old_tier=record.old_tier, expires_at=expires, reason=text)
        return [*ended, Decided(started, at, by)]
    if in_order and new == record.old_tier == account.tier and account.tier_until is not None and not ran_out:
        assert expires is not None
        renewed = events.SubscriptionRenewed(
            tier=new, old_expires_at=account.tier_until, expires_at=expires, reason=text
        )
        return [Decided(renewed, at, by)]
    granted = events.SubscriptionGranted(old_tier=record.old_tier, tier=new, expires_at=expires, reason=text)
    return [*ended, Decided(granted, at, by)]


def _permission(record: ImportPermission, at: datetime) -> list[Decided]:
    if record.old_level == record.new_level:
        raise Unfit("no change", "old_level and new_level are the same")
    changed = events.PermissionChanged(
        old_level=record.old_level, new_level=record.new_level, reason=reason(record.reason)
    )
    return [Decided(changed, at, _actor(record.changed_by_id))]


def _actor(user_id: DiscordId | None) -> Actor:
    return SYSTEM if user_id is None else Actor("user", int(user_id))


def _optional(text: str | None) -> str | None:
    return None if text is None else reason(text)


def _moment(field: str, value: datetime) -> datetime:
    try:
        return moment(field, value)
    except Invalid as invalid:
        raise Unfit("out of range", str(invalid)) from None


def _past(field: str, value: datetime, facts: Facts) -> datetime:
    at = _moment(field, value)
    if at > facts.context.at:
        raise Unfit("date in the future", f"{field} is after the import")
    return at

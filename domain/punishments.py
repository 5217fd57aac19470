"""Decisions about punishments (api.md §2 to §4): warn, time out, ban, amend, end."""

from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import UNSET

from modledger.domain import commands, events
from modledger.domain.envelope import Subject
from modledger.domain.facts import Decided, Facts, moment, reason
from modledger.domain.rank import may_act_on, require_level, require_unrestricted
from modledger.domain.refusals import Conflict, Forbidden, Invalid, NotFound
from modledger.domain.subjects import ADMIN, BAN, GUILD_BLACKLIST, MODERATOR, TIMEOUT, WARNING, Punishment

LONGEST_TIMEOUT = timedelta(days=28)
NAMES = {WARNING: "warning", TIMEOUT: "timeout", BAN: "ban", GUILD_BLACKLIST: "blacklisting"}


def issue_warning(command: commands.IssueWarning, facts: Facts) -> list[Decided]:
    """Warns a user or guild; the target need not be known."""
    facts.authorise(command.target, MODERATOR)
    facts.require_version(facts.account(command.target).version)
    text = reason(command.reason)
    if command.target.kind == "guild":
        return [Decided(events.GuildWarned(reason=text))]
    return [Decided(events.UserWarned(reason=text))]


def issue_timeout(command: commands.IssueTimeout, facts: Facts) -> list[Decided]:
    """Times a user out for at most 28 days."""
    target = Subject("user", command.user_id)
    facts.authorise(target, MODERATOR)
    facts.require_version(facts.account(target).version)
    text = reason(command.reason)
    end = _end(TIMEOUT, command.expires_at, facts.at(target))
    assert end is not None
    return [
        *_make_room(facts, target, TIMEOUT, command.replace),
        Decided(events.UserTimedOut(reason=text, expires_at=end)),
    ]


def issue_ban(command: commands.IssueBan, facts: Facts) -> list[Decided]:
    """Bans a user or blacklists a guild, for ever or to an end in the future."""
    facts.authorise(command.target, ADMIN)
    facts.require_version(facts.account(command.target).version)
    text = reason(command.reason)
    kind = GUILD_BLACKLIST if command.target.kind == "guild" else BAN
    end = _end(kind, command.expires_at, facts.at(command.target))
    issued = events.GuildBlacklisted if kind == GUILD_BLACKLIST else events.UserBanned
    return [
        *_make_room(facts, command.target, kind, command.replace),
        Decided(issued(reason=text, expires_at=end)),
    ]


def amend(command: commands.AmendPunishment, facts: Facts) -> list[Decided]:
    """Changes reason or end of an active punishment; the event carries old and new."""
    if command.reason is UNSET and command.expires_at is UNSET:
        raise Invalid("reason or expires_at is required")
    _require_staff(facts)
    punishment = _punishment(facts, command.target, command.number)
    _authorise_change(facts, command.target, punishment)
    facts.require_version(punishment.version)
    at = facts.at(command.target)
    text = punishment.reason if command.reason is UNSET else reason(command.reason)
    end = punishment.expires_at
    if command.expires_at is not UNSET:
        if punishment.type == WARNING:
            raise Invalid("expires_at does not apply to a warning")
        end = _end(punishment.type, command.expires_at, at)
    _require_active(punishment, at)
    if (text, end) == (punishment.reason, punishment.expires_at):
        raise Conflict(f"{_named(punishment).capitalize()} already has this reason and end")
    return [
        Decided(
            events.PunishmentAmended(
                number=punishment.number,
                old_reason=punishment.reason,
                reason=text,
                old_expires_at=punishment.expires_at,
                expires_at=end,
            )
        )
    ]


def lift(command: commands.LiftPunishment, facts: Facts) -> list[Decided]:
    """Ends an active punishment."""
    return _end_by(facts, command.target, command.number, command.reason, events.PunishmentLifted)


def void(command: commands.VoidPunishment, facts: Facts) -> list[Decided]:
    """Ends an active punishment that was issued in error."""
    return _end_by(facts, command.target, command.number, command.reason, events.PunishmentVoided)


def overturn(command: commands.OverturnPunishment, facts: Facts) -> list[Decided]:
    """Ends an active punishment on appeal."""
    return _end_by(facts, command.target, command.number, command.reason, events.PunishmentOverturned)


def lapse(command: commands.LapsePunishment, facts: Facts) -> list[Decided]:
    """Records that a punishment ran out, at its own end; nothing when that is no longer so, or not yet."""
    if facts.context.actor.kind != "system":
        raise Forbidden("Only the clock records an end")
    punishment = _punishment(facts, command.target, command.number)
    if punishment.ending or punishment.expires_at != command.expires_at or command.expires_at > facts.context.at:
        return []
    return [Decided(events.PunishmentLapsed(number=punishment.number), at=command.expires_at)]


def _end_by(
    facts: Facts,
    target: Subject,
    number: int,
    why: str,
    ended: Callable[..., events.PunishmentLifted | events.PunishmentVoided | events.PunishmentOverturned],
) -> list[Decided]:
    _require_staff(facts)
    punishment = _punishment(facts, target, number)
    _authorise_change(facts, target, punishment)
    facts.require_version(punishment.version)
    text = reason(why)
    _require_active(punishment, facts.at(target))
    return [Decided(ended(number=number, reason=text))]


def _require_staff(facts: Facts) -> None:
    """First of all, so that nobody below learns which punishments exist."""
    actor = facts.actor
    if actor is None:
        if facts.context.actor.kind not in ("system", "operator"):
            raise Forbidden("This needs a user's session")
        return
    require_unrestricted(actor, facts.context.at)
    require_level(actor, MODERATOR)


def _punishment(facts: Facts, target: Subject, number: int) -> Punishment:
    punishment = facts.account(target).punishments.get(number)
    if punishment is None:
        raise NotFound("Punishment not found")
    return punishment


def _named(punishment: Punishment) -> str:
    """By its id, which is given at the append: what the batch under way has issued has none yet."""
    return f"punishment {punishment.position}" if punishment.position else "a punishment issued by this same batch"


def _require_active(punishment: Punishment, at: datetime) -> None:
    if not punishment.active(at):
        how = punishment.ending.kind if punishment.ending else "lapsed"
        raise Conflict(f"{_named(punishment).capitalize()} has already ended ({how})")


def _make_room(facts: Facts, target: Subject, kind: int, replace: bool) -> list[Decided]:
    """No two active bans or timeouts of one subject: refuse, or supersede the one there is; or all, where an import
    brought several."""
    account, at = facts.account(target), facts.at(target)
    newest = account.active_punishment(kind, at)
    if newest is None:
        return []
    if not replace:
        what = target.kind.capitalize()
        raise Conflict(f"{what} {target.id} already has an active {NAMES[kind]}: {_named(newest)}")
    standing = [p for p in account.punishments.values() if p.type == kind and p.active(at)]
    for punishment in standing:
        _authorise_change(facts, target, punishment)
    successor = account.version + len(standing) + 1
    return [Decided(events.PunishmentSuperseded(number=p.number, by=successor)) for p in standing]


def _end(kind: int, value: datetime | None, at: datetime) -> datetime | None:
    if value is None:
        if kind == TIMEOUT:
            raise Invalid("expires_at is required for a timeout")
        return None
    end = moment("expires_at", value)
    if end <= at:
        raise Invalid("expires_at must be in the future")
    if kind == TIMEOUT and end > at + LONGEST_TIMEOUT:
        raise Invalid("expires_at must be at most 28 days ahead")
    return end


def _authorise_change(facts: Facts, target: Subject, punishment: Punishment) -> None:
    """Moderators change what they issued; admins also what the system issued, and anything whose issuer and target
    they may act on (api.md §2). Nobody changes a punishment of their own."""
    actor = facts.actor
    if actor is None:
        return
    protected = facts.answerable(target)
    if protected is not None and protected.id == actor.id:
        raise Forbidden(f"You cannot act on this {target.kind}")
    issuer_id = punishment.issued_by.user_id
    if issuer_id == actor.id:
        return
    require_level(actor, ADMIN)
    if issuer_id is None:
        return
    issuer = facts.user(issuer_id)
    for user in (issuer, protected):
        if not may_act_on(actor.id, actor.level, user.id if user else None, user.level if user else 0):
            raise Forbidden("You cannot act on this punishment")

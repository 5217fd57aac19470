"""Decisions about subscriptions of users and guilds (api.md §3): 0 Basic, 1 Trial, 2 Premium, 3 Lifetime."""

from datetime import datetime, timedelta

from modledger.domain import commands, events
from modledger.domain.envelope import SYSTEM, Subject
from modledger.domain.facts import Decided, Facts, reason
from modledger.domain.refusals import Conflict, Forbidden, Invalid
from modledger.domain.subjects import ADMIN, BASIC, LIFETIME, PREMIUM, TRIAL, Account

TRIAL_LENGTH = timedelta(days=7)


def grant(command: commands.GrantSubscription, facts: Facts) -> list[Decided]:
    """Grants a tier; Premium while Premium is active is a renewal from the current end."""
    target = command.target
    account, at = _account(facts, target)
    if not TRIAL <= command.tier <= LIFETIME:
        raise Invalid("tier must be between 1 and 3")
    if not 1 <= command.duration_days <= 3650:
        raise Invalid("duration_days must be between 1 and 3650")
    text = _optional(command.reason)
    if command.tier == TRIAL:
        return _trial(account, target, at, text)
    tier = account.tier_at(at)
    if tier == LIFETIME:
        raise Conflict(f"{_named(target)} already has a lifetime subscription")
    ended = _unrecorded_end(account, at)
    if command.tier == LIFETIME:
        return [*ended, Decided(events.SubscriptionGranted(old_tier=tier, tier=LIFETIME, expires_at=None, reason=text))]
    if tier == PREMIUM:
        assert account.tier_until is not None
        end = _after(account.tier_until, command.duration_days)
        renewed = events.SubscriptionRenewed(
            tier=PREMIUM, old_expires_at=account.tier_until, expires_at=end, reason=text
        )
        return [Decided(renewed)]
    end = _after(at.replace(microsecond=0), command.duration_days)
    return [*ended, Decided(events.SubscriptionGranted(old_tier=tier, tier=PREMIUM, expires_at=end, reason=text))]


def start_trial(command: commands.StartTrial, facts: Facts) -> list[Decided]:
    """Seven days, once per user or guild for ever."""
    account, at = _account(facts, command.target)
    return _trial(account, command.target, at, _optional(command.reason))


def revoke(command: commands.RevokeSubscription, facts: Facts) -> list[Decided]:
    """Takes a tier away."""
    account, at = _account(facts, command.target)
    text = reason(command.reason)
    tier = account.tier_at(at)
    if tier == BASIC:
        raise Conflict(f"{_named(command.target)} has no active subscription")
    return [Decided(events.SubscriptionRevoked(old_tier=tier, reason=text))]


def end(command: commands.EndSubscription, facts: Facts) -> list[Decided]:
    """Records that a tier ran out, at its own end; nothing when that is no longer so, or not yet."""
    if facts.context.actor.kind != "system":
        raise Forbidden("Only the clock records an end")
    account = facts.account(command.target)
    if account.tier_until != command.expires_at:
        return []
    return _unrecorded_end(account, facts.context.at)


def _account(facts: Facts, target: Subject) -> tuple[Account, datetime]:
    facts.authorise(target, ADMIN)
    facts.require_known(target)
    account = facts.account(target)
    facts.require_version(account.version)
    return account, facts.at(target)


def _trial(account: Account, target: Subject, at: datetime, text: str | None) -> list[Decided]:
    if account.trial_used:
        raise Conflict(f"{_named(target)} has already used the trial")
    if account.tier_at(at) != BASIC:
        raise Conflict(f"{_named(target)} already has an active subscription")
    started = events.TrialStarted(old_tier=BASIC, expires_at=at.replace(microsecond=0) + TRIAL_LENGTH, reason=text)
    return [*_unrecorded_end(account, at), Decided(started)]


def _unrecorded_end(account: Account, at: datetime) -> list[Decided]:
    """A tier that ran out before the clock worker came by: its end goes into the ledger before what follows."""
    if account.tier == BASIC or account.tier_until is None or account.tier_until > at:
        return []
    return [Decided(events.SubscriptionEnded(old_tier=account.tier), at=account.tier_until, actor=SYSTEM)]


def _after(start: datetime, days: int) -> datetime:
    try:
        return start + timedelta(days=days)
    except OverflowError:
        raise Conflict("The subscription cannot be extended any further") from None


def _optional(text: str | None) -> str | None:
    return None if text is None else reason(text)


def _named(target: Subject) -> str:
    return f"{target.kind.capitalize()} {target.id}"

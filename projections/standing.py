"""What the rows of subjects have in common: names, the tier, and the punishments that are still open.

The rules are those of ``domain/subjects.py``: the tier follows the event with the latest date (of two with the same
date the later in the ledger), ends of punishments go by number.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.domain.subjects import BASIC, TRIAL

# Stands where the end of an open punishment would: a time that every client can read and compare, unlike PostgreSQL's
# 'infinity', in any time zone; and no end that was ever given, because those have whole seconds.
FOREVER = datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)

# Number → type and end (None: permanent).
OpenPunishments = dict[int, tuple[int, datetime | None]]

TIER_CHANGES = (
    events.SubscriptionGranted | events.TrialStarted | events.SubscriptionRenewed | events.SubscriptionRevoked
)
ENDINGS = events.Revoked | events.PunishmentLapsed
# By the class: each event is asked, and isinstance with a union of classes takes longer than all else about most.
_CHANGES_TIER = frozenset({*get_args(TIER_CHANGES), events.SubscriptionEnded})


def is_later(at: datetime | None, recorded: Recorded) -> bool:
    """Whether the event is to be believed over the one of ``at``: not older than it."""
    return at is None or recorded.occurred_at >= at


def tier_changes(tier_at: datetime | None, tier_until: datetime | None, recorded: Recorded) -> dict[str, Any]:
    """The columns tier, tier_until, tier_at and trial_used as far as the event changes them."""
    event = recorded.event
    changes: dict[str, Any] = {}
    if type(event) not in _CHANGES_TIER:
        return changes
    if isinstance(event, events.TrialStarted):
        changes["trial_used"] = True
    if isinstance(event, events.SubscriptionEnded):
        # As in domain/subjects.py: it ends the tier that ran out by then, and outranks no change before it.
        if tier_until is not None and tier_until <= recorded.occurred_at:
            changes["tier"], changes["tier_until"] = BASIC, None
    elif isinstance(event, TIER_CHANGES) and is_later(tier_at, recorded):
        changes["tier_at"] = recorded.occurred_at
        match event:
            case events.SubscriptionGranted() | events.SubscriptionRenewed():
                changes["tier"], changes["tier_until"] = event.tier, event.expires_at
            case events.TrialStarted():
                changes["tier"], changes["tier_until"] = TRIAL, event.expires_at
            case events.SubscriptionRevoked():
                changes["tier"], changes["tier_until"] = BASIC, None
    return changes


def open_after(
    open_punishments: OpenPunishments, recorded: Recorded, types: Mapping[type[events.Event], int]
) -> OpenPunishments | None:
    """The open punishments after the event, None when it changes nothing. ``types``: the issuing events that count."""
    event = recorded.event
    issued = types.get(type(event))
    if issued is not None:
        return {**open_punishments, recorded.version: (issued, getattr(event, "expires_at", None))}
    if not open_punishments:
        return None
    if isinstance(event, ENDINGS) and event.number in open_punishments:
        return {number: entry for number, entry in open_punishments.items() if number != event.number}
    if isinstance(event, events.PunishmentAmended) and event.number in open_punishments:
        return {**open_punishments, event.number: (open_punishments[event.number][0], event.expires_at)}
    return None


def greatest_until(open_punishments: OpenPunishments, kind: int) -> datetime | None:
    """When the last open punishment of that type ends: FOREVER for a permanent one, None when there is none."""
    return max(
        (FOREVER if until is None else until for type_, until in open_punishments.values() if type_ == kind),
        default=None,
    )


def unless_erased(text: str | None) -> str | None:
    """A replay after an erasure reads the erased text long before it comes to the erasure: it is no name."""
    return None if text == events.ERASED else text


def tier_now(tier: int, tier_until: datetime | None, now: datetime) -> int:
    """The tier at ``now``: Basic from the very second of its end on (api.md §3)."""
    return BASIC if tier_until is not None and tier_until <= now else tier


def updated_now(updated_at: datetime, ends: Iterable[datetime | None], now: datetime) -> datetime:
    """The time of the last change, ends that have come by ``now`` among them, whether or not the clock has recorded
    them yet."""
    return max((updated_at, *(end for end in ends if end is not None and end <= now)))

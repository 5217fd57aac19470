"""What changed about a subject between two moments, and by which events: the same fold as decisions, twice."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from modledger.domain.envelope import Recorded, Subject
from modledger.domain.events import Issued, SubjectErased
from modledger.domain.subjects import (
    BAN,
    GUILD_BLACKLIST,
    TIMEOUT,
    Account,
    Bot,
    Guild,
    State,
    User,
    evolve,
    new,
)
from modledger.workers.audit import Change

# What is no fact about the subject but how far it is folded, or is told with others.
_NOT_TOLD = {
    "id",
    "version",
    "punishments",
    "prefix_chosen",
    "level_since",
    "owner_since",
    "tier_since",
    "tier_ended_at",
    "textless",
    "created_at",
    "updated_at",
}
_TYPES = {1: "WARNING", 2: "TIMEOUT", 3: "BAN", 4: "GUILD_BLACKLIST"}

Facts = Mapping[str, Any]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A field that has another value at the later moment. ``by``: the events that changed it in between, in order; none
    where time alone did, as at the end of a timeout."""

    field: str
    change: Change
    by: list[Recorded]


def differences(subject: Subject, history: Iterable[Recorded], earlier: datetime, later: datetime) -> list[Difference]:
    """What was known of the subject at ``later`` and not at ``earlier``, by events *recorded* until then, in their
    order; state and tier as of those seconds. ``history``: the subject's whole stream. A field that was changed and
    changed back is not among them."""
    state = new(subject)
    by: dict[str, list[Recorded]] = {}
    before: Facts | None = None
    for happened in history:
        if happened.recorded_at > later:
            break
        if happened.recorded_at <= earlier:
            evolve(state, happened)
            continue
        if before is None:
            before = {**_facts(state, earlier), **_punishments(state)}
        touched = None if isinstance(happened.event, SubjectErased) else _touched(happened)
        were = {**_facts(state, later), **_punishments(state, touched)}
        evolve(state, happened)
        are = {**_facts(state, later), **_punishments(state, touched)}
        for field in were.keys() | are.keys():
            if were.get(field) != are.get(field):
                by.setdefault(field, []).append(happened)
    if before is None:
        before = {**_facts(state, earlier), **_punishments(state)}
    after = {**_facts(state, later), **_punishments(state)}
    return [
        Difference(field=field, change=Change(before.get(field), after.get(field)), by=by.get(field, []))
        for field in (*after, *(field for field in before if field not in after))
        if before.get(field) != after.get(field)
    ]


def _facts(state: State, at: datetime) -> Facts:
    """The subject's fields by name, what depends on the time of day as of that second."""
    facts = {name: value for name, value in msgspec.structs.asdict(state).items() if name not in _NOT_TOLD}
    if isinstance(state, Account):
        facts["tier"] = state.tier_at(at)
        facts["state"] = _state(state, at)
        facts.pop("state_set", None)
    return facts


def _state(account: Account, at: datetime) -> str:
    """As api.md §3 names it."""
    if isinstance(account, User):
        if account.active_punishment(BAN, at):
            return "Banned"
        return "Timeout" if account.active_punishment(TIMEOUT, at) else "Active"
    assert isinstance(account, Guild)
    if account.active_punishment(GUILD_BLACKLIST, at):
        return "Banned"
    return "Inactive" if account.state_set else "Active"


def _touched(happened: Recorded) -> set[int]:
    """The numbers of the punishments that the event can change."""
    number = happened.version if isinstance(happened.event, Issued) else getattr(happened.event, "number", None)
    return set() if number is None else {number}


def _punishments(state: State, only: set[int] | None = None) -> Facts:
    if isinstance(state, Bot):
        return {}
    facts: dict[str, Any] = {}
    for number in state.punishments if only is None else only & state.punishments.keys():
        one = state.punishments[number]
        name = f"punishment {one.position}"
        facts[f"{name} type"] = _TYPES[one.type]
        facts[f"{name} reason"] = one.reason
        facts[f"{name} expires_at"] = one.expires_at
        facts[f"{name} ended"] = None if one.ending is None else one.ending.kind
    return facts

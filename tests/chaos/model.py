"""What commands and reads of one subject may answer, if they came one after the other (api.md §3 and §4): the model
against which histories are checked. It knows nothing of streams, versions or projections.

Ends of punishments lie in time, and of the moment at which a server decided only bounds are known: where an end lies
between them, both are allowed.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import product

import msgspec

from tests.chaos.history import Command, History, Read
from tests.chaos.linearizability import Call, stuck_at

TYPES = {"warn": "WARNING", "timeout": "TIMEOUT", "ban": "BAN"}
ONE_AT_A_TIME = ("TIMEOUT", "BAN", "GUILD_BLACKLIST")
ADMIN, OWNER = 2, 3
# Who issued what nobody issued: whoever asks for it is told that there is no such punishment.
UNHEARD_OF = (0, 0)
# How long after it was given up a command without a known outcome may still have been decided, in seconds.
LATE = 60.0


class Open(msgspec.Struct, frozen=True):
    """A punishment that nobody has ended; whether time has, is asked when it matters. ``end`` in seconds since 1970."""

    id: int
    type: str
    end: float | None
    issuer: int
    issuer_level: int


class Standing(msgspec.Struct, frozen=True):
    """Of one subject; ``tier`` 0 Basic, 2 Premium, 3 Lifetime, 1 Trial."""

    level: int = 0
    tier: int = 0
    trial_used: bool = False
    open: frozenset[Open] = frozenset()


class Decided(msgspec.Struct, frozen=True):
    """A command with its outcome, decided between two moments. ``about``: who issued the punishment that it is about,
    and that user's level."""

    command: Command
    low: float
    high: float
    about: tuple[int, int] | None = None


class Seen(msgspec.Struct, frozen=True):
    """What a read showed: level and tier, or the punishments that nobody had ended."""

    level_and_tier: tuple[int, int] | None = None
    open_ids: frozenset[int] | None = None


Operation = Decided | Seen


def step(state: Standing, operation: Operation) -> Iterator[Standing]:
    """What the subject may be after it; nothing where the outcome cannot have been that one."""
    if isinstance(operation, Seen):
        if operation.level_and_tier not in (None, (state.level, state.tier)):
            return
        if operation.open_ids not in (None, frozenset(one.id for one in state.open)):
            return
        yield state
        return
    command = operation.command
    if operation.about is not None:
        if not _may_change(command, *operation.about, state.level):
            if command.status == 403:
                yield state
            return
        yield from _lift(state, operation) if command.kind == "lift" else _amend(state, operation)
        return
    if not _outranks(command, state.level):
        if command.status == 403:
            yield state
        return
    match command.kind:
        case "warn" | "timeout" | "ban":
            yield from _issue(state, operation)
        case "permission":
            wanted = command.body["permission_level"]
            if command.status == 200 and command.answer.get("old_level", state.level) == state.level != wanted:
                yield msgspec.structs.replace(state, level=wanted)
            elif command.status == 409 and wanted == state.level:
                yield state
        case _:
            yield from _subscribe(state, command)


def _outranks(command: Command, level: int) -> bool:
    return command.actor_level > level or command.actor_level == OWNER


def _may_change(command: Command, issuer: int, issuer_level: int, level: int) -> bool:
    """Their own, or from Admin on what they outrank, issuer and target."""
    if command.actor == issuer:
        return True
    return command.actor_level >= ADMIN and _outranks(command, issuer_level) and _outranks(command, level)


def _issue(state: Standing, one: Decided) -> Iterator[Standing]:
    command = one.command
    kind = "GUILD_BLACKLIST" if command.subject.startswith("guild:") and command.kind == "ban" else TYPES[command.kind]
    end = seconds(command.body.get("expires_at"))
    if command.status == 400:
        if end is not None and end <= one.high:
            yield state
        return
    if end is not None and end <= one.low:
        return
    rivals = [other for other in state.open if other.type == kind] if kind in ONE_AT_A_TIME else []
    if command.status == 409:
        named = re.search(r"punishment (\d+)", command.answer.get("error", ""))
        if not command.body.get("replace") and named is not None:
            for rival in rivals:
                if rival.id == int(named[1]) and True in active(rival, one):
                    yield state
        return
    for standing in product(*(active(rival, one) for rival in rivals)):
        superseded = {rival for rival, stands in zip(rivals, standing, strict=True) if stands}
        if superseded and not command.body.get("replace"):
            continue
        permitted = all(_may_change(command, other.issuer, other.issuer_level, state.level) for other in superseded)
        if command.status == 200 and permitted:
            issued = Open(command.answer["id"], kind, end, command.actor, command.actor_level)
            yield msgspec.structs.replace(state, open=(state.open - superseded) | {issued})
        elif command.status == 403 and not permitted:
            yield state


def _lift(state: Standing, one: Decided) -> Iterator[Standing]:
    found = _of(state, one.command)
    if one.command.status == 200 and found is not None and True in active(found, one):
        yield msgspec.structs.replace(state, open=state.open - {found})
    elif one.command.status == 409 and (found is None or False in active(found, one)):
        yield state


def _amend(state: Standing, one: Decided) -> Iterator[Standing]:
    found = _of(state, one.command)
    end = seconds(one.command.body.get("expires_at"))
    match one.command.status:
        case 200 if found is not None and True in active(found, one) and (end is None or end > one.low):
            amended = msgspec.structs.replace(found, end=found.end if end is None else end)
            yield msgspec.structs.replace(state, open=(state.open - {found}) | {amended})
        case 400 if end is not None and end <= one.high:
            yield state
        case 409 if found is None or False in active(found, one):
            yield state


def _subscribe(state: Standing, command: Command) -> Iterator[Standing]:
    tier = {"trial": 1, "revoke": 0}.get(command.kind, command.body.get("tier", 0))
    match command.kind:
        case "grant":
            refused = state.tier == 3
        case "trial":
            refused = state.trial_used or state.tier != 0
        case _:
            refused = state.tier == 0
    if command.status == 409 and refused:
        yield state
    elif command.status == 200 and not refused:
        yield msgspec.structs.replace(state, tier=tier, trial_used=state.trial_used or command.kind == "trial")


def _of(state: Standing, command: Command) -> Open | None:
    return next((one for one in state.open if one.id == command.punishment_id), None)


def active(one: Open, decided: Decided) -> tuple[bool, ...]:
    """Whether time had not ended it when that was decided; both where that cannot be told."""
    if one.end is None or one.end > decided.high:
        return (True,)
    return (False,) if one.end <= decided.low else (True, False)


# The statuses of commands whose answers bear a position.
BEARING = (200, 409)


def seconds(moment: str | None) -> float | None:
    """Seconds since 1970 of a moment as bodies and answers bear it."""
    return None if moment is None else datetime.fromisoformat(moment).timestamp()


def commands_of(history: History, subject: str, recorded: dict[str, int]) -> list[Call[Operation]]:
    """The commands about one subject. ``recorded``: positions by token, which tells of a command with an unknown
    outcome only whether it did anything and under which id."""
    mine = [one for one in history.commands if one.subject == subject]
    issuers = {
        recorded[one.token]: (one.actor, one.actor_level) for one in mine if one.kind in TYPES and one.token in recorded
    }
    calls: list[Call[Operation]] = []
    for one in mine:
        end: float | None = one.ended
        command = one
        if one.outcome == "unknown":
            if one.token not in recorded:
                continue
            end = None
            command = msgspec.structs.replace(one, status=200, answer={"id": recorded[one.token]})
        last = one.ended if end is not None else one.ended + LATE
        # A decision is never dated before what already happened to the subject, whoever's clock dated that; and an end
        # that is recorded, which happens by PostgreSQL's clock, holds for servers that are behind.
        high = max(
            other.ended + other.skew_high + (LATE if other.outcome == "unknown" else 0)
            for other in mine
            if other.began <= last
        )
        about = None if one.punishment_id is None else issuers.get(one.punishment_id, UNHEARD_OF)
        decided = Decided(command, one.began + one.skew_low, max(high, last + max(0.0, one.skew_high)), about)
        calls.append(Call(decided, one.began, end))
    return calls


def reads_of(history: History, subject: str) -> list[Call[Operation]]:
    """The reads of one subject that asked for everything that anybody had seen."""
    shared = [read for read in history.reads if read.subject == subject and read.shared]
    return [Call(_seen(read), read.began, read.ended) for read in shared]


def _seen(read: Read) -> Seen:
    if read.kind == "search":
        return Seen(open_ids=frozenset(one["id"] for one in read.answer["punishments"] if not one["is_lifted"]))
    return Seen(level_and_tier=(read.answer["permission_level"], read.answer["subscription_tier"]))


def disorder(history: History, subject: str, recorded: dict[str, int]) -> list[Call[Operation]] | None:
    """The calls at which the subject's history cannot be put in order; None when it can. Raises TooTangled.

    All commands must have an order. So must those that were acknowledged, or refused because of the state, together
    with the shared reads: these are told the positions of such answers and of reads. Other refusals bear none.
    """
    decided = commands_of(history, subject, recorded)
    told = [one for one in decided if isinstance(one.operation, Decided) and one.operation.command.status in BEARING]
    return stuck_at(decided, Standing(), step) or stuck_at([*told, *reads_of(history, subject)], Standing(), step)

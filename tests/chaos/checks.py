"""The judge: what the harness wrote down, against the ledger and the read tables."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded, subject_of
from modledger.domain.ledger import Ledger
from modledger.domain.subjects import BAN, TIMEOUT, Account, User, fold
from modledger.projections.catalog import PROJECTORS
from modledger.projections.ledger_verification import verify_ledger
from modledger.projections.verification import verify_projector
from tests.chaos.history import Command, History, Read
from tests.chaos.linearizability import TooTangled
from tests.chaos.model import Decided, disorder

Kind = Literal[
    "lost",  # acknowledged and not in the ledger
    "doubled",  # in the ledger more than once
    "refused",  # refused and in the ledger all the same
    "foreign",  # in the ledger and sent by nobody
    "altered",  # in the ledger otherwise than it was acknowledged
    "unresolved",  # nobody could find out, although everything was well again
    "own write",  # a session read less than it had written
    "stale",  # a read showed less than was asked for, or than it said
    "backwards",  # a session read less than it had read
    "expiry",  # a read showed what had ended as if it had not, or the other way round
    "lapse",  # an end that was not recorded, or too early
    "unexplained",  # a read showed what never was
    "order",  # what was answered about one subject cannot have happened one after the other
    "projection",  # a read table is not the fold of the ledger
    "ledger",  # the ledger is not whole
    "failed",  # an answer or an end of a process that no fault explains
]

_EVENTS: dict[str, tuple[type[events.Event], ...]] = {
    "warn": (events.UserWarned, events.GuildWarned),
    "timeout": (events.UserTimedOut,),
    "ban": (events.UserBanned, events.GuildBlacklisted),
    "lift": (events.PunishmentLifted,),
    "amend": (events.PunishmentAmended,),
    "permission": (events.PermissionChanged,),
    "grant": (events.SubscriptionGranted, events.SubscriptionRenewed),
    "trial": (events.TrialStarted,),
    "revoke": (events.SubscriptionRevoked,),
}
_NAMES = {1: "WARNING", 2: "TIMEOUT", 3: "BAN", 4: "GUILD_BLACKLIST"}
# These come from one projector's rows and checkpoint in one statement: exactly what is recorded up to their position.
_EXACT = ("search", "active", "profile")
_DAWN = datetime.min.replace(tzinfo=UTC)


class Finding(msgspec.Struct, frozen=True):
    """Something that must not be."""

    kind: Kind
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


# -- commands


def by_token(recorded: Iterable[Recorded]) -> dict[str, list[Recorded]]:
    """The events that clients' commands gave, by their reason."""
    found: dict[str, list[Recorded]] = defaultdict(list)
    for one in recorded:
        reason = getattr(one.event, "reason", None)
        if one.via == "http" and isinstance(reason, str):
            found[reason].append(one)
    return found


def judge_commands(commands: Sequence[Command], recorded: Sequence[Recorded]) -> Iterator[Finding]:
    """Every acknowledged command exactly once, every refused one never, every other at most once; nothing else."""
    found = by_token(recorded)
    for command in commands:
        mine = found.get(command.token, [])
        if command.outcome == "unknown" and command.keyed:
            yield Finding("unresolved", f"{_named(command)} has no outcome")
        if len(mine) > 1:
            at = ", ".join(str(one.position) for one in mine)
            yield Finding("doubled", f"{_named(command)} is in the ledger at {at}")
        elif command.outcome == "acknowledged" and not mine:
            yield Finding("lost", f"{_named(command)} was acknowledged at {command.position} and is not in the ledger")
        elif command.outcome == "refused" and mine:
            error = command.answer.get("error")
            yield Finding("refused", f"{_named(command)} was refused ({error}) and is at {mine[0].position}")
        elif command.outcome == "acknowledged" and not _is_as_answered(command, mine[0]):
            yield Finding("altered", f"{_named(command)} was answered {command.answer} and is {mine[0]}")
    tokens = {command.token for command in commands}
    for token, strangers in found.items():
        if token not in tokens:
            yield Finding("foreign", f"{token!r} at {strangers[0].position} was sent by nobody")


def _named(command: Command) -> str:
    return f"{command.kind} {command.token!r} of {command.subject}"


def _is_as_answered(command: Command, one: Recorded) -> bool:
    # The answer to a lift or an amendment bears the id of what it was about.
    position = command.answer["id"] if command.kind in ("warn", "timeout", "ban") else command.position
    return (
        isinstance(one.event, _EVENTS[command.kind])
        and one.stream == command.subject
        and one.actor.user_id == command.actor
        and (one.position == position or (command.bulk and one.position <= command.position))
    )


# -- reads


def judge_reads(reads: Sequence[Read], recorded: Sequence[Recorded]) -> Iterator[Finding]:
    """No read shows less than its session wrote, saw or asked for; none goes back; each shows what the ledger says, at
    its position and at its second."""
    streams = by_stream(recorded)
    before: dict[tuple[int, str], Read] = {}
    for read in sorted(reads, key=lambda one: one.began):
        if read.position < read.own:
            yield Finding("own write", f"{_shown(read)}, and the session had written {read.own}")
        elif read.position < read.told:
            yield Finding("stale", f"{_shown(read)}, and {read.told} was asked for")
        earlier = before.get((read.session, read.kind))
        if earlier is not None and read.position < earlier.position:
            yield Finding("backwards", f"{_shown(read)}, after {earlier.position}")
        before[(read.session, read.kind)] = read
        yield from _judge_content(read, streams.get(read.subject, []))


def by_stream(recorded: Iterable[Recorded]) -> dict[str, list[Recorded]]:
    """The events of each stream, in order."""
    streams: dict[str, list[Recorded]] = defaultdict(list)
    for one in recorded:
        streams[one.stream].append(one)
    return streams


def _shown(read: Read) -> str:
    return f"{read.kind} of {read.subject} by {read.session} showed position {read.position}"


def _judge_content(read: Read, stream: Sequence[Recorded]) -> Iterator[Finding]:
    least = sum(one.position <= read.position for one in stream)
    most = least if read.kind in _EXACT else sum(one.recorded_at.timestamp() <= read.ended for one in stream)
    for part in _parts(read):
        if _explained(read, part, stream, range(least, most + 1)):
            continue
        kind: Kind = "unexplained"
        if _explained(read, part, stream, range(least, most + 1), any_time=True):
            kind = "expiry"
        elif _explained(read, part, stream, range(least), any_time=True):
            kind = "stale"
        yield Finding(kind, f"{_shown(read)} at {read.began:.3f} to {read.ended:.3f}, with {part}")


Part = dict[str, Any]


def _parts(read: Read) -> list[Part]:
    """What the answer says, cut into what is read together."""
    answer = read.answer
    match read.kind:
        case "search":
            return [{"all": _records(answer["punishments"]), "total": answer["total"]}]
        case "active":
            return [{"active": _records(answer["punishments"]), "total": answer["total"]}]
        case "users":
            mine = [one for one in answer["users"] if f"user:{one['discord_id']}" == read.subject]
            return [_standing(one) for one in mine] if len(mine) == answer["total"] == 1 else [{"none": answer}]
    parts = [_standing(answer)]
    if "punishments" in answer:
        parts.append({"all": _records(answer["punishments"]), "total": len(answer["punishments"])})
    return parts


def _standing(user: dict[str, Any]) -> Part:
    return {name: user[name] for name in ("permission_level", "subscription_tier", "state") if name in user}


def _records(punishments: Sequence[dict[str, Any]]) -> dict[int, tuple[Any, ...]]:
    return {
        one["id"]: (one["punishment_type"], one["reason"], one["expires_at"], one["is_lifted"]) for one in punishments
    }


def _explained(
    read: Read, part: Part, stream: Sequence[Recorded], lengths: Iterable[int], *, any_time: bool = False
) -> bool:
    for length in lengths:
        account = fold(subject_of(read.subject), stream[:length])
        assert isinstance(account, Account)
        ends = {one.expires_at for one in account.punishments.values() if one.expires_at is not None}
        start = datetime.fromtimestamp(read.began + read.skew_low, UTC)
        end = datetime.fromtimestamp(read.ended + read.skew_high, UTC)
        moments = {_DAWN, *ends} if any_time else {start, *(one for one in ends if start < one <= end)}
        if any(part == _expected(account, part, moment) for moment in moments):
            return True
    return False


def _expected(account: Account, like: Part, at: datetime) -> Part:
    """What the answer would say of the account at that moment, with the same keys."""
    made: Part = {}
    for name in like:
        match name:
            case "all" | "active":
                made[name] = {
                    one.position: (_NAMES[one.type], one.reason, _written(one.expires_at), _is_lifted(one))
                    for one in account.punishments.values()
                    if name == "all" or one.active(at)
                }
            case "total":
                made[name] = len(made["all"] if "all" in made else made["active"])
            case "permission_level" if isinstance(account, User):
                made[name] = account.level
            case "subscription_tier":
                made[name] = account.tier_at(at)
            case "state":
                banned, timed_out = (account.active_punishment(kind, at) is not None for kind in (BAN, TIMEOUT))
                made[name] = 2 if banned else int(timed_out)
    return made


def _is_lifted(punishment: Any) -> bool:
    return punishment.ending is not None and punishment.ending.kind != "lapsed"


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- ends


def unrecorded_ends(recorded: Sequence[Recorded], now: datetime) -> Iterator[str]:
    """Of everybody's ends that came before ``now`` those that are not recorded."""
    for stream, mine in by_stream(recorded).items():
        account = fold(subject_of(stream), mine)
        if isinstance(account, Account):
            for one in account.punishments.values():
                if one.ending is None and one.expires_at is not None and one.expires_at <= now:
                    yield f"punishment {one.position} of {stream} ended at {one.expires_at} unrecorded"


def judge_ends(recorded: Sequence[Recorded], now: datetime) -> Iterator[Finding]:
    """Every end that came before ``now`` is recorded, once, at its second and not before it."""
    yield from (Finding("lapse", said) for said in unrecorded_ends(recorded, now))
    for stream, mine in by_stream(recorded).items():
        endings = Counter(
            one.event.number for one in mine if isinstance(one.event, events.Revoked | events.PunishmentLapsed)
        )
        for number, times in endings.items():
            if times > 1:
                yield Finding("doubled", f"punishment {number} of {stream} was ended {times} times")
        for place, lapse in enumerate(mine):
            if not isinstance(lapse.event, events.PunishmentLapsed):
                continue
            before = fold(subject_of(stream), mine[:place])
            assert isinstance(before, Account)
            end = before.punishments[lapse.event.number].expires_at
            if end is None or lapse.occurred_at != end or lapse.recorded_at < end:
                said = f"dated {lapse.occurred_at} and recorded at {lapse.recorded_at}"
                yield Finding("lapse", f"the end of punishment {lapse.event.number} of {stream} at {end} is {said}")


# -- order


def judge_order(history: History, recorded: Sequence[Recorded]) -> tuple[list[Finding], int]:
    """Per subject whether there is an order; and of how many subjects too much overlapped to say."""
    positions = {token: mine[0].position for token, mine in by_token(recorded).items()}
    findings, tangled = [], 0
    for subject in sorted({command.subject for command in history.commands}):
        try:
            stuck = disorder(history, subject, positions)
        except TooTangled:
            tangled += 1
            continue
        if stuck is not None:
            calls = "; ".join(_call(call.operation) for call in stuck)
            findings.append(Finding("order", f"the history of {subject} cannot go on with any of: {calls}"))
    return findings, tangled


def _call(operation: object) -> str:
    if isinstance(operation, Decided):
        command = operation.command
        answer = command.answer.get("error", command.answer.get("id", ""))
        return f"{_named(command)} {command.body} {command.punishment_id or ''} → {command.status} {answer}"
    return str(operation)


# -- read tables


def judge_tables(conninfo: str, ledger: Ledger) -> Iterator[Finding]:
    """What ``modledger verify`` finds, by the same functions."""
    for projector in PROJECTORS:
        for difference in verify_projector(conninfo, projector, ledger):
            said = f"expected {difference.expected}, found {difference.found}"
            yield Finding("projection", f"{difference.place()}: {said}")
    for difference in verify_ledger(conninfo, ledger):
        yield Finding("ledger", f"{difference.place()}: expected {difference.expected}, found {difference.found}")


def recorded_in(ledger: Ledger) -> list[Recorded]:
    """All of the ledger."""
    found: list[Recorded] = []
    while page := ledger.read(found[-1].position if found else 0, 5_000):
        found += page
    return found

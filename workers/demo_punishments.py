"""The punishments of the demo, of real shape (design §8).

Of the bans 19 % are permanent, 56 % have lapsed and 33 % were lifted; for that to add up, some permanent ones were
lifted: 56 % lapsed, 24 % lifted before their end, 9 % permanent and lifted, 10 % permanent and active, 1 % with an end
years ahead. The median timeout is an hour. Half of the punished have one record, p99 of the records per subject is 21
and the greatest number 44.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from random import Random
from typing import Literal

from modledger.domain import commands
from modledger.domain.envelope import SYSTEM, Actor, Subject
from modledger.domain.subjects import ADMIN, BAN, GUILD_BLACKLIST, MODERATOR, TIMEOUT, WARNING
from modledger.workers.demo_staff import END, Act, in_office, issuer, who_ends
from modledger.workers.demo_words import LIFT_REASONS, OVERTURN_REASONS, VOID_REASONS, reason

Outcome = Literal["lapsed", "lifted", "running", "permanent", "permanent, lifted"]

_HUNDRED_BANS: tuple[tuple[Outcome, int], ...] = (
    ("lapsed", 56),
    ("lifted", 24),
    ("running", 1),
    ("permanent", 10),
    ("permanent, lifted", 9),
)
# Records per subject → subjects with that many: 2,994 punishments of 994 subjects.
RECORDS = {
    1: 507, 2: 170, 3: 90, 4: 60, 5: 40, 6: 25, 7: 20, 8: 16, 9: 8, 10: 8, 11: 8, 12: 8, 13: 3, 14: 3, 15: 3, 16: 3,
    17: 3, 18: 3, 19: 3, 20: 3, 21: 4, 24: 1, 28: 1, 31: 1, 36: 1, 40: 1, 44: 1,
}  # fmt: skip
_TIMEOUT_MINUTES = (
    1,
    5,
    10,
    10,
    15,
    30,
    30,
    45,
    60,
    60,
    60,
    60,
    60,
    60,
    120,
    180,
    360,
    720,
    1440,
    1440,
    4320,
    10080,
    40320,
)
_BAN_DAYS = (1, 1, 3, 3, 7, 7, 7, 14, 14, 30, 30, 60, 90)
_NEVER = datetime.max.replace(tzinfo=UTC)
# The last punishment with a fixed date, so that each has time to end before the fixed dates do.
_LAST = END - timedelta(days=2)


def ban_outcomes(rng: Random) -> Iterator[Outcome]:
    """Without end, each hundred of exactly the shares named above."""
    while True:
        hundred = list(chain.from_iterable(repeat(outcome, count) for outcome, count in _HUNDRED_BANS))
        rng.shuffle(hundred)
        yield from hundred


def sanctions(
    rng: Random, target: Subject, since: datetime, records: int, keys: Iterator[int], outcomes: Iterator[Outcome]
) -> list[Act]:
    """``records`` punishments of one subject, none before ``since``, and all that became of them, in no order."""
    acts: list[Act] = []
    times = sorted(_between(rng, since, _LAST) for _ in range(records))
    busy_until = dict.fromkeys((TIMEOUT, BAN, GUILD_BLACKLIST), since)
    successor_of: Actor | None = None
    for index in range(records):
        at = times[index]
        kind = _kind(rng, target)
        if successor_of is not None:
            kind = GUILD_BLACKLIST if target.kind == "guild" else BAN
        elif kind != WARNING and busy_until[kind] >= at:
            kind = WARNING
        key, text = next(keys), reason(rng)
        by = successor_of or issuer(rng, at, ADMIN if kind in (BAN, GUILD_BLACKLIST) else MODERATOR)
        if kind == WARNING:
            acts.append(Act(at=at, actor=by, command=commands.IssueWarning(target=target, reason=text), issues=key))
            continue
        if kind == TIMEOUT:
            busy_until[kind] = _timeout(rng, acts, target, at, by, key, text)
            continue
        replaces, successor_of = successor_of is not None, None
        outcome = next(outcomes)
        end = _end_of_ban(rng, at, outcome)
        ban = commands.IssueBan(target=target, reason=text, expires_at=end, replace=replaces)
        acts.append(Act(at=at, actor=by, command=ban, issues=key, events=1 + replaces))
        busy_until[kind] = _NEVER
        if outcome == "lapsed":
            assert end is not None
            busy_until[kind] = _lapse(rng, acts, target, at, by, key, end)
        elif outcome in ("lifted", "permanent, lifted"):
            at_the_latest = END if end is None else min(end, END)
            lifted_at = _between(rng, at + timedelta(minutes=10), at_the_latest - timedelta(minutes=1))
            if index + 1 < records and rng.random() < 0.2 and by.user_id and in_office(by.user_id, lifted_at, ADMIN):
                times[index + 1] = min(times[index + 1], lifted_at)
                successor_of = by
                continue
            busy_until[kind] = lifted_at
            acts.append(_lifted(rng, target, lifted_at, by, key))
    return acts


def _kind(rng: Random, target: Subject) -> int:
    roll = rng.random()
    if target.kind == "guild":
        return GUILD_BLACKLIST if roll < 0.6 else WARNING
    return BAN if roll < 0.36 else TIMEOUT if roll < 0.7 else WARNING


def _timeout(rng: Random, acts: list[Act], target: Subject, at: datetime, by: Actor, key: int, text: str) -> datetime:
    """Issues a timeout and lets it run out or, a long one now and then, be lifted; answers when it ends."""
    length = timedelta(minutes=rng.choice(_TIMEOUT_MINUTES))
    end = at + length
    issue = commands.IssueTimeout(user_id=target.id, reason=text, expires_at=end)
    acts.append(Act(at=at, actor=by, command=issue, issues=key))
    if length >= timedelta(hours=1) and rng.random() < 0.2:
        lifted_at = _between(rng, at + timedelta(minutes=2), min(end, END) - timedelta(minutes=1))
        acts.append(_lifted(rng, target, lifted_at, by, key))
        return lifted_at
    return _lapse(rng, acts, target, at, by, key, end)


def _end_of_ban(rng: Random, at: datetime, outcome: Outcome) -> datetime | None:
    if outcome in ("permanent", "permanent, lifted"):
        return None
    if outcome == "running":
        return at + timedelta(days=rng.randrange(1200, 2400))
    length = timedelta(days=rng.choice(_BAN_DAYS))
    if outcome == "lapsed":
        # Hours are enough here: ends of real bans are round as well.
        length = min(length, timedelta(hours=(END - at) // timedelta(hours=1) - 1))
    return at + length


def _lapse(rng: Random, acts: list[Act], target: Subject, at: datetime, by: Actor, key: int, end: datetime) -> datetime:
    """Lets a punishment run out, some amended on the way; what ends after the fixed dates is left to the clock."""
    amended_at = at + (end - at) / 2
    amended_at = amended_at.replace(microsecond=0)
    if end - at >= timedelta(hours=1) and amended_at < END and rng.random() < 0.06:
        text = reason(rng)
        amend = commands.AmendPunishment(target=target, number=0, reason=f"{text}, see ticket")
        if rng.random() < 0.5:
            end = amended_at + (end - amended_at) / 2
            end = end.replace(microsecond=0)
            amend = commands.AmendPunishment(target=target, number=0, reason=f"{text} (shortened)", expires_at=end)
        acts.append(Act(at=amended_at, actor=who_ends(by, amended_at), command=amend, about=key))
    if end <= END:
        lapse = commands.LapsePunishment(target=target, number=0, expires_at=end)
        acts.append(Act(at=end, actor=SYSTEM, command=lapse, about=key))
    return end


def _lifted(rng: Random, target: Subject, at: datetime, by: Actor, key: int) -> Act:
    roll = rng.random()
    command: Callable[..., commands.Command]
    texts: tuple[str, ...]
    if roll < 0.07:
        command, texts = commands.VoidPunishment, VOID_REASONS
    elif roll < 0.15:
        command, texts = commands.OverturnPunishment, OVERTURN_REASONS
    else:
        command, texts = commands.LiftPunishment, LIFT_REASONS
    return Act(
        at=at, actor=who_ends(by, at), command=command(target=target, number=0, reason=rng.choice(texts)), about=key
    )


def _between(rng: Random, first: datetime, last: datetime) -> datetime:
    """A whole second, either end included."""
    return first + timedelta(seconds=rng.randrange(int((last - first).total_seconds()) + 1))

"""The history of the demo keeps to the rules: ranks, spans of punishments, dates, and who records an end."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from modledger.domain import events
from modledger.domain.envelope import SYSTEM, Recorded, Subject, subject_of
from modledger.domain.execute import execute_batch
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.rank import may_act_on
from modledger.domain.subjects import (
    ADMIN,
    BAN,
    GUILD_BLACKLIST,
    MODERATOR,
    TIMEOUT,
    Account,
    State,
    User,
    evolve,
    fold,
    new,
)
from modledger.workers.demo import make_demo
from modledger.workers.demo_staff import END, START

NOW = datetime(2026, 11, 22, 7, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def history() -> list[Recorded]:
    ledger = MemoryLedger(lambda: NOW)
    execute_batch(ledger, make_demo(NOW).items)
    return ledger.read(0, 100_000)


@pytest.fixture(scope="module")
def states(history: list[Recorded]) -> dict[str, State]:
    """Every subject as it stands at the end."""
    streams: dict[str, list[Recorded]] = defaultdict(list)
    for recorded in history:
        streams[recorded.stream].append(recorded)
    return {stream: fold(subject_of(stream), happened) for stream, happened in streams.items()}


@pytest.mark.parametrize("order", ["as recorded", "by date"])
def test_nobody_ever_acts_above_their_rank(history: list[Recorded], order: str) -> None:
    """By date as well, because an ``as_of`` answer is made in that order."""
    if order == "by date":
        history = sorted(history, key=lambda one: (one.occurred_at, one.position))
    assert judged_by_rank(history) > 3500


def judged_by_rank(history: Iterable[Recorded]) -> int:
    """Judges anew, from the events alone, whether everybody was of the rank that each act needs; how many acts were
    judged. What is brought over from elsewhere needs none."""
    least = {
        events.UserWarned: MODERATOR,
        events.GuildWarned: MODERATOR,
        events.UserTimedOut: MODERATOR,
        events.UserBanned: ADMIN,
        events.GuildBlacklisted: ADMIN,
        events.PunishmentAmended: MODERATOR,
        events.PunishmentLifted: MODERATOR,
        events.PunishmentVoided: MODERATOR,
        events.PunishmentOverturned: MODERATOR,
        events.SubscriptionGranted: ADMIN,
        events.SubscriptionRenewed: ADMIN,
        events.SubscriptionRevoked: ADMIN,
        events.TrialStarted: ADMIN,
        events.PermissionChanged: ADMIN,
        events.GuildStateChanged: ADMIN,
        events.BotRegistered: ADMIN,
        events.BotRenamed: ADMIN,
        events.BotOwnerChanged: ADMIN,
        events.BotTypeChanged: ADMIN,
        events.BotRateLimitChanged: ADMIN,
        events.BotActivated: ADMIN,
        events.BotDeactivated: ADMIN,
        events.BotKeyRegenerated: ADMIN,
    }
    states: dict[str, State] = {}
    judged = 0

    def user_of(user_id: int) -> User:
        state = states.setdefault(f"user:{user_id}", new(Subject("user", user_id)))
        assert isinstance(state, User)
        return state

    for one in history:
        state = states.setdefault(one.stream, new(subject_of(one.stream)))
        if one.actor.user_id is not None and type(one.event) in least and one.via != "import":
            actor = user_of(one.actor.user_id)
            owner_id = (
                one.event.owner_id if isinstance(one.event, events.BotRegistered) else getattr(state, "owner_id", None)
            )
            protected = state if isinstance(state, User) else None if owner_id is None else user_of(owner_id)
            target_id, target_level = (protected.id, protected.level) if protected else (None, 0)
            judged += 1
            assert actor.level >= least[type(one.event)], one
            assert not actor.restricted(one.occurred_at), one
            assert may_act_on(actor.id, actor.level, target_id, target_level), one
        evolve(state, one)
    return judged


def test_no_subject_has_two_active_bans_or_two_trials_or_an_end_before_its_start(
    history: list[Recorded], states: dict[str, State]
) -> None:
    assert max(Counter(one.stream for one in history if isinstance(one.event, events.TrialStarted)).values()) == 1
    assert_no_spans_overlap(states.values())


def assert_no_spans_overlap(states: Iterable[State]) -> None:
    """No subject ever had two timeouts, bans or blacklistings at once."""
    for state in states:
        if not isinstance(state, Account):
            continue
        for kind in (TIMEOUT, BAN, GUILD_BLACKLIST):
            spans = sorted(
                (one.issued_at, one.ends_at or datetime.max.replace(tzinfo=UTC))
                for one in state.punishments.values()
                if one.type == kind
            )
            assert all(start < end for start, end in spans)
            assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_dates_never_go_back_within_a_stream(history: list[Recorded]) -> None:
    last: dict[str, datetime] = {}
    for one in history:
        assert one.occurred_at >= last.get(one.stream, START)
        last[one.stream] = one.occurred_at


def test_an_end_is_recorded_by_the_system_at_that_very_second(history: list[Recorded]) -> None:
    ends = [one for one in history if isinstance(one.event, events.PunishmentLapsed | events.SubscriptionEnded)]
    assert len(ends) > 1000
    assert {one.actor for one in ends} == {SYSTEM}
    assert {one.via for one in history} == {"cli"}
    assert max(one.occurred_at for one in ends) <= END

"""The folds of the two histories."""

from datetime import datetime

import pytest

from modledger.domain import events
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor
from modledger.projections import permission_history, subscription_history
from modledger.projections.permission_history import PermissionChange
from modledger.projections.subscription_history import SubscriptionChange
from tests.projection_history import ADMIN, BOT, DAY, FIRST_POSITION, NOW, Happened, folded, only


@pytest.mark.parametrize("stream", ["user:7", "guild:8"])
@pytest.mark.parametrize(
    ("event", "tiers", "reason", "until"),
    [
        (
            events.SubscriptionGranted(old_tier=1, tier=2, expires_at=NOW + DAY, reason="gift"),
            (1, 2),
            "gift",
            NOW + DAY,
        ),
        (events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None), (0, 3), None, None),
        (events.TrialStarted(old_tier=0, expires_at=NOW + DAY), (0, 1), None, NOW + DAY),
        (
            events.SubscriptionRenewed(tier=2, old_expires_at=NOW, expires_at=NOW + DAY, reason="loyal"),
            (2, 2),
            "loyal",
            NOW + DAY,
        ),
        (events.SubscriptionRevoked(old_tier=2, reason="refund"), (2, 0), "refund", None),
        (events.SubscriptionEnded(old_tier=2), (2, 0), None, None),
    ],
)
def test_every_change_of_a_tier_is_kept_with_old_and_new(
    stream: str, event: events.Event, tiers: tuple[int, int], reason: str | None, until: datetime | None
) -> None:
    row = only(folded(subscription_history.PROJECTOR, Happened(stream, event, NOW, ADMIN)))
    assert row == SubscriptionChange(
        id=FIRST_POSITION,
        stream=stream,
        user_id=7 if stream == "user:7" else None,
        guild_id=8 if stream == "guild:8" else None,
        old_tier=tiers[0],
        new_tier=tiers[1],
        reason=reason,
        granted_by=21,
        expires_at=until,
        created_at=NOW,
    )


def test_a_change_of_level_is_kept_with_old_and_new() -> None:
    changed = events.PermissionChanged(old_level=0, new_level=2, reason="promoted")
    row = only(folded(permission_history.PROJECTOR, Happened("user:7", changed, NOW, ADMIN)))
    assert row == PermissionChange(
        id=FIRST_POSITION, user_id=7, old_level=0, new_level=2, reason="promoted", changed_by=21, created_at=NOW
    )


@pytest.mark.parametrize("actor", [SYSTEM, OPERATOR, BOT])
def test_only_users_count_as_those_who_changed(actor: Actor) -> None:
    level = Happened("user:7", events.PermissionChanged(old_level=0, new_level=3, reason="first"), NOW, actor)
    tier = Happened("user:7", events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None), NOW, actor)
    assert only(folded(permission_history.PROJECTOR, level)).changed_by is None
    assert only(folded(subscription_history.PROJECTOR, tier)).granted_by is None


def test_an_imported_older_change_keeps_its_own_date() -> None:
    newer = Happened("user:7", events.PermissionChanged(old_level=0, new_level=2, reason="new"), NOW)
    older = Happened("user:7", events.PermissionChanged(old_level=0, new_level=1, reason="old"), NOW - 300 * DAY)
    rows = folded(permission_history.PROJECTOR, newer, older)
    assert [(row.id, row.created_at) for row in rows.values()] == [
        (FIRST_POSITION, NOW),
        (FIRST_POSITION + 1, NOW - 300 * DAY),
    ]


def test_erasure_takes_the_reasons_of_the_subject_alone() -> None:
    history = [
        Happened(stream, event)
        for stream in ("user:7", "user:70")
        for event in (
            events.PermissionChanged(old_level=0, new_level=1, reason="promoted"),
            events.SubscriptionRevoked(old_tier=2, reason="refund"),
        )
    ]
    history.append(Happened("user:7", events.SubjectErased(reason="request")))
    levels = {row.user_id: row.reason for row in folded(permission_history.PROJECTOR, *history).values()}
    tiers = {row.user_id: row.reason for row in folded(subscription_history.PROJECTOR, *history).values()}
    assert levels == {7: events.ERASED, 70: "promoted"}
    assert tiers == {7: None, 70: "refund"}


def test_the_erasure_of_a_guild_is_no_users() -> None:
    assert folded(permission_history.PROJECTOR, Happened("guild:7", events.SubjectErased(reason="request"))) == {}

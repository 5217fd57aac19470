"""The fold of punishments, and what a punishment says at a point in time."""

from datetime import datetime

import pytest

from modledger.domain import events
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor
from modledger.projections import punishments
from modledger.projections.punishments import Punishment
from tests.projection_history import (
    ADMIN,
    BOT,
    DAY,
    FIRST_POSITION,
    HOUR,
    NOW,
    OTHER_ADMIN,
    SECOND,
    Happened,
    folded,
    only,
)

USER, GUILD = "user:7", "guild:8"


def after(*history: Happened) -> Punishment:
    row = only(folded(punishments.PROJECTOR, *history))
    assert isinstance(row, Punishment)
    return row


def banned(until: datetime | None = None, by: Actor = ADMIN) -> Happened:
    return Happened(USER, events.UserBanned(reason="raid", expires_at=until), NOW, by)


@pytest.mark.parametrize(
    ("stream", "event", "kind", "until"),
    [
        (USER, events.UserWarned(reason="raid"), 1, None),
        (USER, events.UserTimedOut(reason="raid", expires_at=NOW + HOUR), 2, NOW + HOUR),
        (USER, events.UserBanned(reason="raid"), 3, None),
        (USER, events.UserBanned(reason="raid", expires_at=NOW + DAY), 3, NOW + DAY),
        (GUILD, events.GuildWarned(reason="raid"), 1, None),
        (GUILD, events.GuildBlacklisted(reason="raid", expires_at=NOW + DAY), 4, NOW + DAY),
        (GUILD, events.GuildBlacklisted(reason="raid"), 4, None),
    ],
)
def test_an_issued_punishment_is_open_under_the_position_of_its_event(
    stream: str, event: events.Event, kind: int, until: datetime | None
) -> None:
    row = after(
        Happened("user:1", events.UserRegistered(username="someone else")),
        Happened(stream, events.SubscriptionEnded(old_tier=2)),
        Happened(stream, event, NOW, ADMIN),
    )
    assert row == Punishment(
        stream=stream,
        number=2,
        id=FIRST_POSITION + 2,
        user_id=7 if stream == USER else None,
        guild_id=8 if stream == GUILD else None,
        type=kind,
        reason="raid",
        reason_key=" raid ",
        issued_by=21,
        expires_at=until,
        open=True,
        due_at=until,
        ended_kind=None,
        lifted_at=None,
        lifted_by=None,
        version=2,
        created_at=NOW,
        updated_at=NOW,
    )


@pytest.mark.parametrize("actor", [SYSTEM, OPERATOR, BOT])
def test_only_users_count_as_issuers_and_lifters(actor: Actor) -> None:
    row = after(banned(by=actor), Happened(USER, events.PunishmentLifted(number=1, reason="sorry"), NOW, actor))
    assert (row.issued_by, row.lifted_by, punishments.is_lifted(row)) == (None, None, True)


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (events.PunishmentLifted(number=1, reason="sorry"), "lifted"),
        (events.PunishmentVoided(number=1, reason="error"), "voided"),
        (events.PunishmentOverturned(number=1, reason="appeal"), "overturned"),
        (events.PunishmentSuperseded(number=1, by=3), "superseded"),
    ],
)
def test_ends_by_somebody_read_as_lifted_under_their_own_kind(ending: events.Event, kind: str) -> None:
    row = after(banned(NOW + DAY), Happened(USER, ending, NOW + HOUR, OTHER_ADMIN))
    assert (row.open, row.due_at, row.ended_kind, row.lifted_at, row.lifted_by) == (False, None, kind, NOW + HOUR, 22)
    assert (row.version, row.updated_at, row.reason) == (2, NOW + HOUR, "raid")
    assert punishments.is_lifted(row)
    assert not punishments.is_active(row, NOW)


def test_one_that_ran_out_is_not_lifted_and_was_updated_at_its_end_whether_or_not_that_is_recorded() -> None:
    end = NOW + DAY
    unrecorded = after(banned(end))
    recorded = after(banned(end), Happened(USER, events.PunishmentLapsed(number=1), end))
    assert (recorded.open, recorded.due_at, recorded.ended_kind) == (False, None, "lapsed")
    for row in (unrecorded, recorded):
        assert (row.lifted_at, row.lifted_by, punishments.is_lifted(row)) == (None, None, False)
        assert not punishments.is_active(row, end)
        assert punishments.updated_at(row, end) == end


def test_one_with_an_end_is_active_until_the_second_before_it() -> None:
    row = after(banned(NOW + DAY))
    assert punishments.is_active(row, NOW + DAY - SECOND)
    assert not punishments.is_active(row, NOW + DAY)
    assert punishments.updated_at(row, NOW + DAY - SECOND) == NOW


def test_an_amendment_changes_reason_and_end() -> None:
    amended = events.PunishmentAmended(
        number=1, old_reason="raid", reason="raid, twice", old_expires_at=NOW + DAY, expires_at=None
    )
    row = after(banned(NOW + DAY), Happened(USER, amended, NOW + HOUR, OTHER_ADMIN))
    assert (row.reason, row.expires_at, row.due_at, row.open) == ("raid, twice", None, None, True)
    assert (row.issued_by, row.created_at, row.updated_at, row.version) == (21, NOW, NOW + HOUR, 2)


def test_an_imported_old_punishment_keeps_its_own_dates_and_touches_no_other() -> None:
    rows = folded(
        punishments.PROJECTOR,
        banned(),
        Happened(USER, events.UserTimedOut(reason="old", expires_at=NOW - 99 * DAY), NOW - 100 * DAY, OTHER_ADMIN),
        Happened(USER, events.PunishmentLapsed(number=2), NOW - 99 * DAY),
    )
    new, old = rows[(USER, 1)], rows[(USER, 2)]
    assert (new.open, new.version, new.updated_at) == (True, 1, NOW)
    assert (old.open, old.created_at, old.updated_at) == (False, NOW - 100 * DAY, NOW - 99 * DAY)


def test_erasure_takes_the_reasons_of_all_punishments_of_the_subject_alone() -> None:
    rows = folded(
        punishments.PROJECTOR,
        banned(),
        Happened("user:70", events.UserWarned(reason="other")),
        Happened(USER, events.PunishmentLifted(number=1, reason="sorry"), NOW, ADMIN),
        Happened(USER, events.UserWarned(reason="spam")),
        Happened(USER, events.SubjectErased(reason="request"), NOW + DAY),
        Happened(USER, events.UserWarned(reason="since then")),
    )
    reasons = {key: (row.reason, row.version, row.updated_at) for key, row in rows.items()}
    assert reasons == {
        (USER, 1): (events.ERASED, 4, NOW),
        (USER, 3): (events.ERASED, 4, NOW),
        (USER, 5): ("since then", 5, NOW),
        ("user:70", 1): ("other", 1, NOW),
    }


def test_the_end_of_a_punishment_that_never_was_is_refused() -> None:
    with pytest.raises(KeyError):
        folded(punishments.PROJECTOR, Happened(USER, events.PunishmentLapsed(number=1)))

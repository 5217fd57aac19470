"""Warn, time out, ban, amend and end (api.md §2 to §4): what is decided, and what is refused with which words."""

from datetime import datetime, timedelta, timezone

import pytest

from modledger.domain import commands, events
from modledger.domain.commands import AmendPunishment, Command, IssueBan, IssueTimeout, IssueWarning, LiftPunishment
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor
from modledger.domain.refusals import Conflict, Forbidden, Invalid, NotFound, Stale
from tests.scenario import (
    ADMIN,
    BOT,
    DAY,
    FIRST_POSITION,
    HOUR,
    MODERATOR,
    NOW,
    OTHER_ADMIN,
    OTHER_MODERATOR,
    OTHER_OWNER,
    OWNER,
    SECOND,
    Happened,
    given,
    guild,
    happened,
    has_level,
    is_banned,
    is_guild,
    is_timed_out,
    user,
)

REASONS_AS_GIVEN = ["x", "x" * 512, "مرحبا بالعالم", "\u202eabc\u202c", "line\nbreak", "<b>&amp;</b>", "a\u200db"]
BAD_REASONS = [
    ("", "reason must be between 1 and 512 characters"),
    (" \t\n\u3000", "reason must be between 1 and 512 characters"),
    ("x" * 513, "reason must be between 1 and 512 characters"),
    ("\0", "reason must not contain a NUL character"),
    ("spam\0spam", "reason must not contain a NUL character"),
]


# -- issue


def test_a_user_never_seen_can_be_warned_timed_out_and_banned() -> None:
    given().when(IssueWarning(target=user(1), reason="spam"), by=MODERATOR).then(events.UserWarned(reason="spam"))
    given().when(IssueTimeout(user_id=1, reason="spam", expires_at=NOW + HOUR), by=MODERATOR).then(
        events.UserTimedOut(reason="spam", expires_at=NOW + HOUR)
    )
    given().when(IssueBan(target=user(1), reason="spam"), by=ADMIN).then(
        events.UserBanned(reason="spam", expires_at=None)
    )


def test_a_guild_never_seen_can_be_warned_and_blacklisted() -> None:
    given().when(IssueWarning(target=guild(200), reason="raid"), by=MODERATOR).then(events.GuildWarned(reason="raid"))
    given().when(IssueBan(target=guild(200), reason="raid", expires_at=NOW + DAY), by=ADMIN).then(
        events.GuildBlacklisted(reason="raid", expires_at=NOW + DAY)
    )


@pytest.mark.parametrize("text", REASONS_AS_GIVEN, ids=ascii)
def test_a_reason_is_kept_as_given(text: str) -> None:
    given().when(IssueWarning(target=user(1), reason=text), by=MODERATOR).then(events.UserWarned(reason=text))


def test_white_space_around_a_reason_is_left_out_and_does_not_count() -> None:
    given().when(IssueWarning(target=user(1), reason=f" \n{'x' * 512}\t "), by=MODERATOR).then(
        events.UserWarned(reason="x" * 512)
    )


@pytest.mark.parametrize(("text", "message"), BAD_REASONS, ids=ascii)
def test_no_punishment_is_issued_changed_or_ended_for_an_impossible_reason(text: str, message: str) -> None:
    scenario = given(is_banned(1))
    for command in (
        IssueWarning(target=user(2), reason=text),
        IssueTimeout(user_id=2, reason=text, expires_at=NOW + HOUR),
        IssueBan(target=user(2), reason=text),
        IssueBan(target=guild(200), reason=text),
        AmendPunishment(target=user(1), number=1, reason=text),
        LiftPunishment(target=user(1), number=1, reason=text),
        commands.VoidPunishment(target=user(1), number=1, reason=text),
        commands.OverturnPunishment(target=user(1), number=1, reason=text),
    ):
        scenario.when(command, by=ADMIN).then_refused(Invalid, message)


@pytest.mark.parametrize("ahead", [SECOND, 28 * DAY], ids=["one second", "exactly 28 days"])
def test_a_timeout_may_last_from_one_second_to_28_days(ahead: timedelta) -> None:
    given().when(IssueTimeout(user_id=1, reason="spam", expires_at=NOW + ahead), by=MODERATOR).then(
        events.UserTimedOut(reason="spam", expires_at=NOW + ahead)
    )


@pytest.mark.parametrize(
    ("ahead", "message"),
    [
        (timedelta(0), "expires_at must be in the future"),
        (-SECOND, "expires_at must be in the future"),
        (timedelta(microseconds=999_999), "expires_at must be in the future"),
        (28 * DAY + SECOND, "expires_at must be at most 28 days ahead"),
        (29 * DAY, "expires_at must be at most 28 days ahead"),
    ],
)
def test_a_timeout_outside_its_range_is_refused(ahead: timedelta, message: str) -> None:
    command = IssueTimeout(user_id=1, reason="spam", expires_at=NOW + ahead)
    given().when(command, by=MODERATOR).then_refused(Invalid, message)


def test_a_ban_may_last_for_centuries_but_not_end_in_the_past() -> None:
    far = NOW.replace(year=9999)
    given().when(IssueBan(target=user(1), reason="spam", expires_at=far), by=ADMIN).then(
        events.UserBanned(reason="spam", expires_at=far)
    )
    for end in (NOW, NOW - SECOND):
        command = IssueBan(target=user(1), reason="spam", expires_at=end)
        given().when(command, by=ADMIN).then_refused(Invalid, "expires_at must be in the future")


def test_an_end_is_kept_in_utc_and_whole_seconds() -> None:
    given_end = datetime(2026, 3, 10, 15, 30, 5, 900_000, tzinfo=timezone(timedelta(hours=2)))
    given().when(IssueTimeout(user_id=1, reason="spam", expires_at=given_end), by=MODERATOR).then(
        events.UserTimedOut(reason="spam", expires_at=NOW.replace(hour=13, minute=30, second=5))
    )


def test_an_end_without_an_offset_or_out_of_range_is_refused() -> None:
    naive = NOW.replace(tzinfo=None) + DAY
    beyond = datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))
    for end, message in (
        (naive, "expires_at must have an offset, such as Z"),
        (beyond, "expires_at is out of range"),
    ):
        command = IssueBan(target=user(1), reason="spam", expires_at=end)
        given().when(command, by=ADMIN).then_refused(Invalid, message)


def test_the_first_bad_field_is_named() -> None:
    command = IssueTimeout(user_id=1, reason=" ", expires_at=NOW - DAY)
    given().when(command, by=MODERATOR).then_refused(Invalid, "reason must be between 1 and 512 characters")


def test_a_stale_if_match_is_refused_and_the_present_version_is_named() -> None:
    scenario = given(is_banned(1), is_timed_out(1, until=NOW + HOUR))
    command = IssueWarning(target=user(1), reason="spam")
    scenario.when(command, by=ADMIN, if_match=2).then(events.UserWarned(reason="spam"))
    scenario.when(command, by=ADMIN, if_match=1).then_refused(Stale, "The record has changed since: it is at version 2")


# -- one at a time


@pytest.mark.parametrize(
    ("standing", "command", "message"),
    [
        (
            is_banned(1),
            IssueBan(target=user(1), reason="raid"),
            f"User 1 already has an active ban: punishment {FIRST_POSITION}",
        ),
        (
            is_timed_out(1, until=NOW + SECOND),
            IssueTimeout(user_id=1, reason="raid", expires_at=NOW + HOUR),
            f"User 1 already has an active timeout: punishment {FIRST_POSITION}",
        ),
        (
            happened(guild(200), events.GuildBlacklisted(reason="raid")),
            IssueBan(target=guild(200), reason="raid"),
            f"Guild 200 already has an active blacklisting: punishment {FIRST_POSITION}",
        ),
    ],
    ids=["ban", "timeout", "blacklisting"],
)
def test_a_second_active_punishment_of_a_kind_is_refused_naming_the_first(
    standing: Happened, command: Command, message: str
) -> None:
    given(standing).when(command, by=ADMIN).then_refused(Conflict, message)


def test_a_ban_and_a_timeout_and_any_number_of_warnings_stand_side_by_side() -> None:
    scenario = given(is_timed_out(1, until=NOW + HOUR), happened(user(1), events.UserWarned(reason="rude")))
    scenario.when(IssueBan(target=user(1), reason="spam"), by=ADMIN).then(events.UserBanned(reason="spam"))
    scenario.when(IssueWarning(target=user(1), reason="spam"), by=ADMIN).then(events.UserWarned(reason="spam"))


def test_a_ban_that_ends_at_this_very_second_is_no_longer_in_the_way() -> None:
    command = IssueBan(target=user(1), reason="again")
    given(is_banned(1, until=NOW)).when(command, by=ADMIN).then(events.UserBanned(reason="again"))
    tried = given(is_banned(1, until=NOW + SECOND)).when(command, by=ADMIN)
    tried.then_refused(Conflict, f"User 1 already has an active ban: punishment {FIRST_POSITION}")


def test_a_lifted_ban_is_no_longer_in_the_way() -> None:
    lifted = happened(user(1), events.PunishmentLifted(number=1, reason="served"))
    given(is_banned(1), lifted).when(IssueBan(target=user(1), reason="again"), by=ADMIN).then(
        events.UserBanned(reason="again")
    )


def test_replace_supersedes_the_standing_ban_in_the_same_append() -> None:
    command = IssueBan(target=user(1), reason="worse", replace=True)
    given(has_level(1, 0), is_banned(1, by=ADMIN)).when(command, by=ADMIN).then(
        events.PunishmentSuperseded(number=2, by=4), events.UserBanned(reason="worse")
    )


def test_replace_supersedes_all_the_bans_that_an_import_left_standing() -> None:
    command = IssueBan(target=user(1), reason="worse", expires_at=NOW + HOUR, replace=True)
    both = given(is_banned(1, by=ADMIN), is_timed_out(1, until=NOW + HOUR), is_banned(1, by=ADMIN))
    both.when(command, by=ADMIN).then(
        events.PunishmentSuperseded(number=1, by=6),
        events.PunishmentSuperseded(number=3, by=6),
        events.UserBanned(reason="worse", expires_at=NOW + HOUR),
    )
    one_of_another = given(is_banned(1, by=OTHER_ADMIN), is_banned(1, by=ADMIN))
    one_of_another.when(command, by=ADMIN).then_refused(Forbidden, "You cannot act on this punishment")


def test_replace_without_a_standing_punishment_just_issues() -> None:
    given().when(IssueBan(target=user(1), reason="spam", replace=True), by=ADMIN).then(events.UserBanned(reason="spam"))
    given(is_banned(1, until=NOW)).when(IssueBan(target=user(1), reason="spam", replace=True), by=ADMIN).then(
        events.UserBanned(reason="spam")
    )


def test_a_moderator_replaces_only_what_they_issued() -> None:
    command = IssueTimeout(user_id=1, reason="raid", expires_at=NOW + HOUR, replace=True)
    for issuer in (OTHER_MODERATOR, ADMIN, SYSTEM, OPERATOR):
        scenario = given(is_timed_out(1, until=NOW + HOUR, by=issuer))
        scenario.when(command, by=MODERATOR).then_refused(Forbidden, "Admin access required")
    given(is_timed_out(1, until=NOW + HOUR, by=MODERATOR)).when(command, by=MODERATOR).then(
        events.PunishmentSuperseded(number=1, by=3), events.UserTimedOut(reason="raid", expires_at=NOW + HOUR)
    )


def test_an_admin_does_not_replace_the_ban_of_an_equal_or_of_an_owner() -> None:
    command = IssueBan(target=user(1), reason="raid", replace=True)
    for issuer in (OTHER_ADMIN, OWNER):
        scenario = given(is_banned(1, by=issuer))
        scenario.when(command, by=ADMIN).then_refused(Forbidden, "You cannot act on this punishment")
        scenario.when(command, by=OTHER_OWNER).then(
            events.PunishmentSuperseded(number=1, by=3), events.UserBanned(reason="raid")
        )


def test_replacing_does_not_leave_anything_superseded_when_the_new_end_is_refused() -> None:
    command = IssueBan(target=user(1), reason="raid", expires_at=NOW, replace=True)
    given(is_banned(1)).when(command, by=ADMIN).then_refused(Invalid, "expires_at must be in the future")


# -- lift, void, overturn


def endings(number: int, target_id: int = 1) -> list[tuple[Command, events.Event]]:
    target = user(target_id)
    return [
        (
            LiftPunishment(target=target, number=number, reason=" ok "),
            events.PunishmentLifted(number=number, reason="ok"),
        ),
        (
            commands.VoidPunishment(target=target, number=number, reason=" ok "),
            events.PunishmentVoided(number=number, reason="ok"),
        ),
        (
            commands.OverturnPunishment(target=target, number=number, reason=" ok "),
            events.PunishmentOverturned(number=number, reason="ok"),
        ),
    ]


@pytest.mark.parametrize(("command", "event"), endings(2))
def test_a_punishment_is_ended_by_an_admin_under_its_own_name(command: Command, event: events.Event) -> None:
    given(has_level(1, 0), is_banned(1)).when(command, by=ADMIN).then(event)


@pytest.mark.parametrize(("command", "event"), endings(1))
def test_a_warning_can_be_ended_too(command: Command, event: events.Event) -> None:
    given(happened(user(1), events.UserWarned(reason="rude"))).when(command, by=ADMIN).then(event)


@pytest.mark.parametrize(("command", "event"), endings(1))
@pytest.mark.parametrize(
    ("ended", "how"),
    [
        (events.PunishmentLifted(number=1, reason="served"), "lifted"),
        (events.PunishmentVoided(number=1, reason="mistaken"), "voided"),
        (events.PunishmentOverturned(number=1, reason="appeal"), "overturned"),
        (events.PunishmentLapsed(number=1), "lapsed"),
        (events.PunishmentSuperseded(number=1, by=2), "superseded"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_ended_is_not_ended_again(
    command: Command, event: events.Event, ended: events.Event, how: str
) -> None:
    scenario = given(is_banned(1), happened(user(1), ended))
    scenario.when(command, by=ADMIN).then_refused(Conflict, f"Punishment {FIRST_POSITION} has already ended ({how})")


@pytest.mark.parametrize(("command", "event"), endings(1))
def test_what_ran_out_this_very_second_unrecorded_is_not_ended_again(command: Command, event: events.Event) -> None:
    given(is_banned(1, until=NOW)).when(command, by=ADMIN).then_refused(
        Conflict, f"Punishment {FIRST_POSITION} has already ended (lapsed)"
    )
    given(is_banned(1, until=NOW + SECOND)).when(command, by=ADMIN).then(event)


@pytest.mark.parametrize(("command", "event"), endings(3))
def test_a_number_that_is_no_punishment_is_not_found(command: Command, event: events.Event) -> None:
    for scenario in (given(), given(is_banned(1), has_level(1, 0), has_level(1, 0))):
        scenario.when(command, by=ADMIN).then_refused(NotFound, "Punishment not found")


def test_if_match_is_the_version_of_the_punishment_and_not_of_the_stream() -> None:
    amended = events.PunishmentAmended(number=1, old_reason="spam", reason="raid", old_expires_at=None, expires_at=None)
    scenario = given(is_banned(1), happened(user(1), amended), has_level(1, 0))
    command = LiftPunishment(target=user(1), number=1, reason="ok")
    scenario.when(command, by=ADMIN, if_match=2).then(events.PunishmentLifted(number=1, reason="ok"))
    for stale in (1, 3):
        scenario.when(command, by=ADMIN, if_match=stale).then_refused(
            Stale, "The record has changed since: it is at version 2"
        )


# -- who may change what

LIFT = LiftPunishment(target=user(1), number=1, reason="ok")
AMEND = AmendPunishment(target=user(1), number=1, reason="other")


def test_a_moderator_changes_what_they_issued_and_nothing_else() -> None:
    own = given(is_timed_out(1, until=NOW + HOUR, by=MODERATOR))
    own.when(LIFT, by=MODERATOR).then(events.PunishmentLifted(number=1, reason="ok"))
    assert own.when(AMEND, by=MODERATOR).refused is None
    for issuer in (OTHER_MODERATOR, ADMIN, OWNER, SYSTEM, OPERATOR, BOT):
        for command in (LIFT, AMEND):
            scenario = given(is_timed_out(1, until=NOW + HOUR, by=issuer))
            scenario.when(command, by=MODERATOR).then_refused(Forbidden, "Admin access required")


@pytest.mark.parametrize(
    ("issuer", "target_level", "may"),
    [
        (MODERATOR, 0, True),
        (MODERATOR, 1, True),
        (MODERATOR, 2, False),
        (OTHER_ADMIN, 0, False),
        (OWNER, 0, False),
        (ADMIN, 0, True),
        (ADMIN, 3, True),
        (SYSTEM, 0, True),
        (SYSTEM, 3, True),
        (OPERATOR, 2, True),
        (Actor("user", 404), 1, True),
    ],
)
def test_an_admin_changes_their_own_the_systems_and_what_is_below_them_on_both_sides(
    issuer: Actor, target_level: int, may: bool
) -> None:
    scenario = given(is_banned(1, by=issuer), has_level(1, target_level))
    for command in (LIFT, AMEND):
        tried = scenario.when(command, by=ADMIN)
        if may:
            assert tried.refused is None
        else:
            tried.then_refused(Forbidden, "You cannot act on this punishment")


def test_an_owner_changes_the_ban_of_another_owner() -> None:
    given(is_banned(1, by=OTHER_OWNER), has_level(1, 3)).when(LIFT, by=OWNER).then(
        events.PunishmentLifted(number=1, reason="ok")
    )


def test_an_issuer_who_lost_every_level_no_longer_changes_it() -> None:
    fired = happened(user(MODERATOR.id or 0), events.PermissionChanged(old_level=1, new_level=0, reason="left"))
    scenario = given(is_timed_out(1, until=NOW + HOUR, by=MODERATOR), fired)
    scenario.when(LIFT, by=MODERATOR).then_refused(Forbidden, "Moderator access required")


def test_nobody_changes_a_punishment_of_their_own_even_one_that_they_issued() -> None:
    warned = happened(user(ADMIN.id or 0), events.UserWarned(reason="rude"), by=SYSTEM)
    lift = LiftPunishment(target=user(ADMIN.id or 0), number=2, reason="ok")
    given(warned).when(lift, by=ADMIN).then_refused(Forbidden, "You cannot act on this user")
    # They warned the guild first and came to own it afterwards.
    guild_warned = happened(guild(200), events.GuildWarned(reason="raid"), by=ADMIN)
    scenario = given(guild_warned, is_guild(200, owner_id=ADMIN.id))
    lift = LiftPunishment(target=guild(200), number=1, reason="ok")
    scenario.when(lift, by=ADMIN).then_refused(Forbidden, "You cannot act on this guild")

"""What counts at a moment, and in which order: told by the folds, and by a look at all events at once without any."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.domain.subjects import BAN, BASIC, TIMEOUT, TRIAL
from modledger.projections import bots, guilds, profile, punishments, time_travel
from modledger.projections.time_travel import Instant, instant
from tests.projection_history import DAY, HOUR, NOW, SECOND, Happened
from tests.projection_history import recorded as at_once
from tests.random_history import MINUTES, STREAMS, histories

MINUTE = timedelta(minutes=1)
TIERS = events.SubscriptionGranted | events.TrialStarted | events.SubscriptionRenewed | events.SubscriptionRevoked
ENDINGS = events.Revoked | events.PunishmentLapsed


def recorded(*history: Happened) -> list[Recorded]:
    """Each event is recorded a minute after the one before it, the first at NOW."""
    return [
        Recorded(**{name: getattr(one, name) for name in one.__struct_fields__} | {"recorded_at": NOW + n * MINUTE})
        for n, one in enumerate(at_once(history))
    ]


# -- the rules


def test_known_at_counts_what_was_recorded_until_then_in_the_order_of_the_ledger() -> None:
    stream = recorded(
        Happened("user:1", events.UserRegistered(username="anna"), NOW + DAY),
        Happened("user:1", events.UserRenamed(old_username="anna", username="bert"), NOW - DAY),
        Happened("user:1", events.UserRenamed(old_username="bert", username="carl"), NOW),
    )
    names = []
    for seconds in (-1, 0, 59, 60, 120):
        row = time_travel.profile_at(stream, Instant(now=NOW, known_at=NOW + seconds * SECOND))
        names.append(row and row.username)
    assert names == [None, "anna", "anna", "bert", "carl"]


def test_as_of_counts_what_is_dated_until_then_in_the_order_of_the_dates() -> None:
    stream = recorded(
        Happened("user:1", events.UserRegistered(username="anna"), NOW),
        Happened("user:1", events.UserRenamed(old_username="anna", username="bert"), NOW + 3 * HOUR),
        Happened("user:1", events.UserRenamed(old_username="bert", username="carl"), NOW + 2 * HOUR),
    )
    names = []
    for hours in (-1, 0, 2, 3):
        row = time_travel.profile_at(stream, Instant(now=NOW, as_of=NOW + hours * HOUR))
        names.append(row and row.username)
    assert names == [None, "anna", "carl", "bert"]


def test_both_times_are_how_things_stood_then_as_it_was_known_then() -> None:
    stream = recorded(
        Happened("user:1", events.UserRegistered(username="anna"), NOW - DAY),
        Happened("user:1", events.UserBanned(reason="old"), NOW - HOUR),
    )
    states = []
    for known_at in (NOW, NOW + MINUTE):
        at = instant(NOW + DAY, NOW - HOUR, known_at)
        row = time_travel.profile_at(stream, at)
        assert row is not None
        states.append(profile.state(row, at.now))
    assert states == [0, 2]


def test_of_two_with_the_same_date_the_later_in_the_ledger_counts() -> None:
    stream = recorded(
        Happened("user:1", events.UserRegistered(username="anna")),
        Happened("user:1", events.UserRenamed(old_username="anna", username="bert")),
    )
    row = time_travel.profile_at(stream, Instant(now=NOW, as_of=NOW))
    assert row is not None
    assert row.username == "bert"


def test_a_lift_dated_before_its_ban_never_comes_without_it() -> None:
    stream = recorded(
        Happened("user:1", events.UserRegistered(username="anna"), NOW - DAY),
        Happened("user:1", events.UserBanned(reason="raid"), NOW),
        Happened("user:1", events.PunishmentLifted(number=2, reason="no raid"), NOW - HOUR),
    )
    before = time_travel.user_detail_at(stream, time_travel.NOTHING, Instant(now=NOW, as_of=NOW - SECOND))
    after = time_travel.user_detail_at(stream, time_travel.NOTHING, Instant(now=NOW, as_of=NOW))
    assert before is not None
    assert after is not None
    assert before.punishments == []
    assert [one.ended_kind for one in after.punishments] == ["lifted"]


def test_what_was_recorded_after_an_erasure_keeps_its_text_whatever_its_date() -> None:
    stream = recorded(
        Happened("user:1", events.UserRegistered(username=events.ERASED), NOW - DAY),
        Happened("user:1", events.SubjectErased(reason="request"), NOW),
        Happened("user:1", events.UserWarned(reason="imported"), NOW - HOUR),
    )
    seen = time_travel.user_detail_at(stream, time_travel.NOTHING, Instant(now=NOW, as_of=NOW))
    assert seen is not None
    assert [one.reason for one in seen.punishments] == ["imported"]


def test_a_moment_in_the_future_is_refused_by_its_name() -> None:
    assert instant(NOW, NOW, None) == Instant(now=NOW, as_of=NOW)
    assert instant(NOW, None, NOW - DAY).now == NOW - DAY
    assert instant(NOW, None, None) == Instant(now=NOW)
    for as_of, known_at, name in ((NOW + SECOND, NOW, "as_of"), (NOW, NOW + SECOND, "known_at")):
        with pytest.raises(ValueError, match=f"^{name} must not be in the future$"):
            instant(NOW, as_of, known_at)


def test_the_version_is_that_up_to_which_everything_was_seen() -> None:
    stream = recorded(
        Happened("user:1", events.UserRegistered(username="anna"), NOW),
        Happened("user:1", events.UserWarned(reason="spam"), NOW + 2 * HOUR),
        Happened("user:1", events.UserWarned(reason="imported"), NOW + HOUR),
    )
    versions = []
    for hours in (0, 1, 2):
        row = time_travel.profile_at(stream, Instant(now=NOW, as_of=NOW + hours * HOUR))
        assert row is not None
        versions.append(row.version)
    assert versions == [1, 1, 3]


def test_what_was_owned_is_what_the_streams_say_newest_first_and_no_more_than_a_hundred() -> None:
    guild_streams = [
        recorded(Happened(f"guild:{n}", events.GuildRegistered(name="Guild", owner_id=1), NOW + n * SECOND))
        for n in range(1, 121)
    ]
    given_away = recorded(
        Happened("guild:500", events.GuildRegistered(name="Guild", owner_id=1), NOW + DAY),
        Happened("guild:500", events.GuildOwnerChanged(old_owner_id=1, owner_id=2), NOW + 2 * DAY),
    )
    bot = recorded(
        Happened("bot:1", events.BotRegistered(name="Bot", owner_id=1)),
        Happened("bot:1", events.BotDeactivated(), NOW + 2 * DAY),
    )
    early, late = (Instant(now=NOW, as_of=NOW + days * DAY) for days in (1, 3))
    for at, newest, running in ((early, [500, *range(120, 21, -1)], [1]), (late, [*range(120, 20, -1)], [])):
        found = time_travel.possessions(time_travel.NOTHING, 1, guild_streams[:60], at)
        found = time_travel.possessions(found, 1, [*guild_streams[60:], given_away, bot, []], at)
        assert [one.guild.guild_id for one in found.guilds] == newest
        assert [one.bot.bot_id for one in found.bots] == running


# -- the oracle: questions about sets of events, whose order is nobody's business


def counted(stream: list[Recorded], at: Instant) -> list[Recorded]:
    known = [one for one in stream if at.known_at is None or one.recorded_at <= at.known_at]
    dated = [one for one in known if at.as_of is None or one.occurred_at <= at.as_of]
    issued = {one.version for one in dated if isinstance(one.event, events.Issued)}
    return [one for one in dated if getattr(one.event, "number", None) in {None, *issued}]


def last(found: list[Recorded], at: Instant) -> Recorded | None:
    """The one that counts of several that say something else."""
    return max(found, key=lambda one: (one.occurred_at if at.as_of else NOW, one.position), default=None)


def since_erasure(found: list[Recorded]) -> list[Recorded]:
    erased = max((one.position for one in found if isinstance(one.event, events.SubjectErased)), default=0)
    return [one for one in found if one.position > erased]


def open_until(found: list[Recorded], kind: type[events.Event], at: Instant) -> list[datetime | None]:
    """The ends of the punishments of that kind that nobody and nothing has ended."""
    ended = {one.event.number for one in found if isinstance(one.event, ENDINGS)}
    ends = []
    for one in found:
        if isinstance(one.event, kind) and one.version not in ended:
            about = [
                o for o in found if isinstance(o.event, events.PunishmentAmended) and o.event.number == one.version
            ]
            deciding = last(since(about, one, at), at) or one
            ends.append(getattr(deciding.event, "expires_at", None))
    return ends


def since(about: list[Recorded], issued: Recorded, at: Instant) -> list[Recorded]:
    """Amendments as of the time of the punishment at the earliest."""
    if at.as_of is None:
        return about
    late = [one for one in about if one.occurred_at >= issued.occurred_at]
    return late or about


def is_active(ends: list[datetime | None], now: datetime) -> bool:
    return any(end is None or end > now for end in ends)


def tier_of(found: list[Recorded], now: datetime) -> int:
    changes = [one for one in found if isinstance(one.event, TIERS)]
    change = max(changes, key=lambda one: (one.occurred_at, one.position), default=None)
    if change is None or isinstance(change.event, events.SubscriptionRevoked):
        return BASIC
    until: datetime | None = change.event.expires_at  # type: ignore[attr-defined]
    if until is not None and (until <= now or any(is_its_end(one, change, until) for one in found)):
        return BASIC
    return getattr(change.event, "tier", TRIAL)


def is_its_end(one: Recorded, change: Recorded, until: datetime) -> bool:
    return (
        isinstance(one.event, events.SubscriptionEnded) and one.position > change.position and one.occurred_at >= until
    )


instants = st.tuples(st.none() | MINUTES, st.none() | st.integers(0, 40).map(lambda n: NOW + n * MINUTE), MINUTES).map(
    lambda three: Instant(now=three[0] or three[2], as_of=three[0], known_at=three[1])
)


@settings(max_examples=200, deadline=None)
@given(histories(), instants)
def test_the_past_is_what_the_events_say_all_at_once(history: list[Happened], at: Instant) -> None:
    everything = recorded(*history)
    for name in STREAMS:
        stream = [one for one in everything if one.stream == name]
        found = counted(stream, at)
        fresh = since_erasure(found)
        match name.partition(":")[0]:
            case "user":
                assert_user(stream, found, fresh, at)
            case "guild":
                assert_guild(stream, found, fresh, at)
            case "bot":
                bot = time_travel.bot_at(stream, at)
                assert (bot is None) == (not found)
                if bot is not None:
                    owners = [o for o in found if isinstance(o.event, events.BotRegistered | events.BotOwnerChanged)]
                    assert bot.bot.id == stream[0].position
                    assert bot.bot.registered == any(isinstance(o.event, events.BotRegistered) for o in fresh)
                    assert len(owners) == 0 or bot.bot.owner_id in {o.event.owner_id for o in owners}  # type: ignore[attr-defined]
                    assert_dates(bot.bot, found, stream, at)


def assert_user(stream: list[Recorded], found: list[Recorded], fresh: list[Recorded], at: Instant) -> None:
    row = time_travel.profile_at(stream, at)
    seen = time_travel.user_detail_at(stream, time_travel.NOTHING, at)
    assert (row is None) == (seen is None) == (not found)
    if row is None or seen is None:
        return
    naming = last([o for o in fresh if isinstance(o.event, events.UserRegistered | events.UserRenamed)], at)
    levels = [o for o in found if isinstance(o.event, events.PermissionChanged)]
    level = max(levels, key=lambda o: (o.occurred_at, o.position), default=None)
    banned = is_active(open_until(found, events.UserBanned, at), at.now)
    timed_out = is_active(open_until(found, events.UserTimedOut, at), at.now)
    assert row.username == (naming and naming.event.username)  # type: ignore[attr-defined]
    assert row.registered == any(isinstance(o.event, events.UserRegistered) for o in fresh)
    assert row.level == (level.event.new_level if level else 0)  # type: ignore[attr-defined]
    assert profile.tier(row, at.now) == tier_of(found, at.now)
    assert profile.state(row, at.now) == (2 if banned else 1 if timed_out else 0)
    assert row.trial_used == any(isinstance(o.event, events.TrialStarted) for o in found)
    assert seen.found.profile == row
    assert {one.id for one in seen.permission_history} == {o.position for o in levels}
    assert {one.id for one in seen.subscription_history} == {
        o.position for o in found if o.event.TOPIC.startswith("subscription.")
    }
    for one in seen.punishments:
        told = [o for o in fresh if o.position == one.id or getattr(o.event, "number", None) == one.number]
        amended = any(isinstance(o.event, events.Issued | events.PunishmentAmended) for o in told)
        assert amended or one.reason == events.ERASED
    assert {one.id for one in seen.punishments} == {o.position for o in found if isinstance(o.event, events.Issued)}
    ended = {o.event.number for o in found if isinstance(o.event, ENDINGS)}
    assert {one.number for one in seen.punishments if not one.open} == ended
    active = {one.type for one in seen.punishments if punishments.is_active(one, at.now)}
    assert (BAN in active, TIMEOUT in active) == (banned, timed_out)
    assert_dates(row, found, stream, at)


def assert_guild(stream: list[Recorded], found: list[Recorded], fresh: list[Recorded], at: Instant) -> None:
    owned = time_travel.guild_at(stream, at)
    assert (owned is None) == (not found)
    if owned is None:
        return
    row = owned.guild
    owners = [o for o in found if isinstance(o.event, events.GuildRegistered | events.GuildOwnerChanged)]
    owner = max(owners, key=lambda o: (o.occurred_at, o.position), default=None)
    naming = last([o for o in fresh if isinstance(o.event, events.GuildRegistered | events.GuildRenamed)], at)
    assert row.owner_id == (owner and owner.event.owner_id)  # type: ignore[attr-defined]
    assert row.name == (naming and naming.event.name)  # type: ignore[attr-defined]
    assert guilds.tier(row, at.now) == tier_of(found, at.now)
    blacklisted = is_active(open_until(found, events.GuildBlacklisted, at), at.now)
    assert (guilds.state(row, at.now) == guilds.BANNED) == blacklisted
    assert_dates(row, found, stream, at)


def assert_dates(
    row: profile.Profile | guilds.Guild | bots.Bot, found: list[Recorded], stream: list[Recorded], at: Instant
) -> None:
    registered = [
        o for o in found if isinstance(o.event, events.UserRegistered | events.GuildRegistered | events.BotRegistered)
    ]
    assert row.updated_at == max(o.occurred_at for o in found)
    assert row.created_at in {o.occurred_at for o in registered or found}
    assert {o.version for o in stream if o.version <= row.version} <= {o.version for o in found}
    if len(found) == len(stream):
        assert row.version == len(stream)

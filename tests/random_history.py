"""Random histories that the decisions could have let through, out of order in their dates as an import brings them."""

from datetime import datetime, timedelta

from hypothesis import strategies as st

from modledger.domain import events
from modledger.domain.envelope import OPERATOR, SYSTEM, subject_of
from modledger.domain.subjects import Account, evolve, new
from tests.projection_history import ADMIN, BOT, DAY, HOUR, NOW, OTHER_ADMIN, Happened, new_event

STREAMS = ("user:1", "user:2", "user:3", "guild:1", "guild:2", "bot:1", "bot:2")
ACTORS = (ADMIN, OTHER_ADMIN, SYSTEM, OPERATOR, BOT)
# Few, so that equal times are common.
MOMENTS = st.integers(-6, 3).map(lambda hours: NOW + hours * HOUR)
LENGTHS = st.sampled_from([None, HOUR, 2 * HOUR, DAY])
NAMES = st.sampled_from(["anna", "ANNA", "bert", "Straße", "STRASSE"])
TEXTS = st.sampled_from(["spam", "raid", 'quo"te\\', "אבג"])


@st.composite
def histories(draw: st.DrawFn, least: int = 1, most: int = 40) -> list[Happened]:
    """Events of several subjects in the order of the ledger. Ends and amendments are of punishments that are open."""
    states = {stream: new(subject_of(stream)) for stream in STREAMS}
    history = []
    for _ in range(draw(st.integers(least, most))):
        stream = draw(st.sampled_from(STREAMS))
        happened = Happened(stream, *draw(_events(stream, states[stream])), draw(st.sampled_from(ACTORS)))
        evolve(states[stream], new_event(happened, states[stream].version + 1))
        history.append(happened)
    return history


@st.composite
def _events(draw: st.DrawFn, stream: str, state: object) -> tuple[events.Event, datetime]:
    at = draw(MOMENTS)
    text, length = draw(TEXTS), draw(LENGTHS)
    until = None if length is None else at + length
    if not isinstance(state, Account):
        return draw(st.sampled_from(_about_bots(draw(NAMES), draw(st.integers(1, 3))))), at
    choices = _about_subscriptions(at, at + (length or HOUR), text)
    if stream.startswith("user"):
        choices += _about_users(draw(NAMES), text, draw(st.integers(0, 3)), at + (length or HOUR))
        choices += [events.UserBanned(reason=text, expires_at=until)] * 3
    else:
        choices += _about_guilds(draw(NAMES), text, draw(st.sampled_from([None, 1, 2])), draw(st.integers(0, 1)))
        choices += [events.GuildBlacklisted(reason=text, expires_at=until)] * 3
    for number, punishment in state.punishments.items():
        if punishment.ending is None:
            choices += _about_punishment(number, text, until)
            if punishment.expires_at is not None:
                choices.append(events.PunishmentLapsed(number=number))
    event = draw(st.sampled_from(choices))
    if isinstance(event, events.PunishmentLapsed):
        end = state.punishments[event.number].expires_at
        assert end is not None
        return event, end
    return event, at


def _about_users(name: str, text: str, level: int, until: datetime) -> list[events.Event]:
    return [
        events.UserRegistered(username=name, avatar_url="https://a.example/1.png"),
        events.UserRenamed(old_username="old", username=name),
        events.UserAvatarChanged(old_avatar_url=None, avatar_url="https://a.example/2.png"),
        events.UserPrefixChanged(old_prefix="!", prefix="?"),
        events.PermissionChanged(old_level=0, new_level=level, reason=text),
        events.UserWarned(reason=text),
        events.UserTimedOut(reason=text, expires_at=until),
    ]


def _about_guilds(name: str, text: str, owner_id: int | None, state: int) -> list[events.Event]:
    return [
        events.GuildRegistered(name=name, owner_id=owner_id),
        events.GuildRenamed(old_name="old", name=name),
        events.GuildAvatarChanged(old_avatar_url=None, avatar_url="https://a.example/3.png"),
        events.GuildOwnerChanged(old_owner_id=None, owner_id=owner_id),
        events.GuildStateChanged(old_state=1 - state, state=state),
        events.GuildPrefixChanged(old_prefix="!", prefix="?"),
        events.GuildWarned(reason=text),
    ]


def _about_bots(name: str, number: int) -> list[events.Event]:
    return [
        events.BotRegistered(name=name, owner_id=number, bot_type=number),
        events.BotRenamed(old_name="old", name=name),
        events.BotAvatarChanged(old_avatar_url=None, avatar_url="https://a.example/4.png"),
        events.BotOwnerChanged(old_owner_id=1, owner_id=number),
        events.BotTypeChanged(old_bot_type=1, bot_type=number),
        events.BotRateLimitChanged(old_rate_limit_per_hour=1000, rate_limit_per_hour=number * 500),
        events.BotActivated(),
        events.BotDeactivated(),
        events.BotKeyRegenerated(),
        events.SubjectErased(reason="request"),
    ]


def _about_subscriptions(at: datetime, until: datetime, text: str) -> list[events.Event]:
    return [
        events.SubscriptionGranted(old_tier=0, tier=2, expires_at=until, reason=text),
        events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None),
        events.TrialStarted(old_tier=0, expires_at=until),
        events.SubscriptionRenewed(tier=2, old_expires_at=at, expires_at=until),
        events.SubscriptionRevoked(old_tier=2, reason=text),
        events.SubscriptionEnded(old_tier=2),
        events.SubjectErased(reason="request"),
    ]


def _about_punishment(number: int, text: str, until: datetime | None) -> list[events.Event]:
    return [
        events.PunishmentAmended(number=number, old_reason="old", reason=text, old_expires_at=None, expires_at=until),
        events.PunishmentLifted(number=number, reason=text),
        events.PunishmentVoided(number=number, reason=text),
        events.PunishmentOverturned(number=number, reason=text),
        events.PunishmentSuperseded(number=number, by=number + 1),
    ]


MINUTES = st.integers(-8 * 60, 30 * 60).map(lambda minutes: NOW + timedelta(minutes=minutes))

"""What was ever stored can be read for ever: one sample per event as it stands in a ledger, and what it must read as.

A sample never changes. A new version of an event gets a sample of its own, and the old one's expectation becomes the
event of the new version that it is upcast to.
"""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from modledger.domain import events
from modledger.domain.envelope import Actor, Recorded
from modledger.domain.events import ERASED, EVENTS, Event
from modledger.domain.mapper import EventMapper, Row, UnknownEvent, UnreadableEvent, others_than
from modledger.domain.personal_text import MasterKey, SubjectKey
from modledger.domain.upcasting import UPCASTS, upcast
from tests.databases import MASTER_KEY

SAMPLES = Path(__file__).parent / "samples"
NEW_YEAR = datetime(2026, 1, 1, 0, 0, tzinfo=UTC)
SPRING = datetime(2026, 3, 20, 14, 46, 0, 123456, tzinfo=UTC)

EXPECTED: dict[str, Event] = {
    "user.registered.v1": events.UserRegistered(username="zoë", avatar_url="https://cdn.example/a.png"),
    "user.renamed.v1": events.UserRenamed(old_username="zoë", username='zo"ë\n'),
    "user.avatar_changed.v1": events.UserAvatarChanged(old_avatar_url=None, avatar_url="https://cdn.example/b.png"),
    "user.prefix_changed.v1": events.UserPrefixChanged(old_prefix="!", prefix="?"),
    "user.permission_changed.v1": events.PermissionChanged(old_level=0, new_level=2, reason="joined the team"),
    "guild.registered.v1": events.GuildRegistered(name="The Guild", avatar_url=None, owner_id=9223372036854775807),
    "guild.renamed.v1": events.GuildRenamed(old_name="The Guild", name="公会"),
    "guild.owner_changed.v1": events.GuildOwnerChanged(old_owner_id=None, owner_id=1),
    "guild.avatar_changed.v1": events.GuildAvatarChanged(old_avatar_url=None, avatar_url="https://cdn.example/g.png"),
    "guild.state_changed.v1": events.GuildStateChanged(old_state=0, state=1),
    "guild.prefix_changed.v1": events.GuildPrefixChanged(old_prefix="!", prefix="$$"),
    "bot.registered.v1": events.BotRegistered(name="Helper", owner_id=1, bot_type=2, rate_limit_per_hour=5000),
    "bot.renamed.v1": events.BotRenamed(old_name="Helper", name="Aide"),
    "bot.avatar_changed.v1": events.BotAvatarChanged(
        old_avatar_url="https://cdn.example/h.png", avatar_url="https://cdn.example/i.png"
    ),
    "bot.owner_changed.v1": events.BotOwnerChanged(old_owner_id=1, owner_id=9223372036854775807),
    "bot.type_changed.v1": events.BotTypeChanged(old_bot_type=3, bot_type=2),
    "bot.rate_limit_changed.v1": events.BotRateLimitChanged(old_rate_limit_per_hour=1000, rate_limit_per_hour=100000),
    "bot.activated.v1": events.BotActivated(),
    "bot.deactivated.v1": events.BotDeactivated(),
    "bot.key_regenerated.v1": events.BotKeyRegenerated(),
    "subscription.granted.v1": events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None),
    "subscription.trial_started.v1": events.TrialStarted(old_tier=0, expires_at=SPRING, reason="asked for it"),
    "subscription.renewed.v1": events.SubscriptionRenewed(tier=2, old_expires_at=NEW_YEAR, expires_at=SPRING),
    "subscription.revoked.v1": events.SubscriptionRevoked(old_tier=2, reason="charged back"),
    "subscription.ended.v1": events.SubscriptionEnded(old_tier=1),
    "user.warned.v1": events.UserWarned(reason="spam"),
    "user.timed_out.v1": events.UserTimedOut(reason="heated", expires_at=SPRING),
    "user.banned.v1": events.UserBanned(reason="مخالفة", expires_at=None),
    "guild.warned.v1": events.GuildWarned(reason="raids"),
    "guild.blacklisted.v1": events.GuildBlacklisted(reason="raids again", expires_at=SPRING),
    "punishment.amended.v1": events.PunishmentAmended(
        number=4, old_reason="spam", reason="spam in #general", old_expires_at=None, expires_at=SPRING
    ),
    "punishment.lapsed.v1": events.PunishmentLapsed(number=4),
    "punishment.lifted.v1": events.PunishmentLifted(number=4, reason="apologised"),
    "punishment.voided.v1": events.PunishmentVoided(number=4, reason="wrong user"),
    "punishment.overturned.v1": events.PunishmentOverturned(number=4, reason="appeal 12"),
    "punishment.superseded.v1": events.PunishmentSuperseded(number=4, by=6),
    "subject.erased.v1": events.SubjectErased(reason="asked by mail"),
}


class Sample(msgspec.Struct):
    """A row of a ledger, its state verbatim, and the subject's key wrapped by the tests' master key."""

    stream: str
    version: int
    topic: str
    position: int
    recorded_at: datetime
    generation: int
    wrapped_key: bytes
    state: msgspec.Raw

    def row(self) -> Row:
        return Row(self.stream, self.version, self.topic, bytes(self.state), self.position, self.recorded_at)

    def key(self) -> SubjectKey:
        return MasterKey(MASTER_KEY).unwrap(self.stream, self.generation, self.wrapped_key)


def sample(topic: str) -> Sample:
    return msgspec.json.decode((SAMPLES / f"{topic}.json").read_bytes(), type=Sample)


def stored_topics() -> list[str]:
    return sorted(file.stem for file in SAMPLES.glob("*.json"))


def test_every_event_has_a_stored_sample_and_every_sample_an_expectation() -> None:
    assert EVENTS.keys() - set(stored_topics()) == set()
    assert set(stored_topics()) == EXPECTED.keys()


@pytest.mark.parametrize("topic", stored_topics())
def test_a_stored_sample_reads_as_exactly_the_event_it_was(topic: str) -> None:
    stored = sample(topic)
    assert EventMapper().to_domain_event(stored.row(), stored.key()) == Recorded(
        stream="user:123456789012345678",
        version=7,
        event=EXPECTED[topic],
        event_id=UUID("4e0b0ef8-7d8f-5c6e-9b0e-1f2a3b4c5d6e"),
        occurred_at=datetime(2025, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        actor=Actor("user", 987654321098765432),
        correlation_id=UUID("0d0c0b0a-0908-4706-8504-030201000f0e"),
        causation_id=UUID("11111111-2222-4333-8444-555555555555"),
        via="http",
        external_id="ticket-17",
        position=42,
        recorded_at=datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("topic", stored_topics())
def test_a_stored_sample_whose_key_is_gone_still_counts_but_tells_no_text(topic: str) -> None:
    stored, expected = sample(topic), EXPECTED[topic]
    event = EventMapper().to_domain_event(stored.row(), None).event
    assert type(event) is type(expected)
    for name in expected.__struct_fields__:
        value = getattr(event, name)
        if name not in expected.PERSONAL:
            assert value == getattr(expected, name)
        else:
            assert value == ERASED or (value is None and field_allows_none(type(expected), name))


@pytest.mark.parametrize("topic", sorted(EVENTS))
def test_an_event_is_still_stored_the_way_its_sample_was(topic: str) -> None:
    stored = sample(topic)
    recorded = EventMapper().to_domain_event(stored.row(), stored.key())
    now = msgspec.json.decode(EventMapper().to_stored_event(recorded, stored.key()).state)
    then = msgspec.json.decode(stored.state)
    for state in (now, then):
        if "personal" in state:
            state["personal"].pop("text")  # differs by its nonce
    assert now == then


def test_no_personal_text_can_be_read_in_a_sample() -> None:
    for topic, expected in EXPECTED.items():
        for name in expected.PERSONAL:
            if text := getattr(expected, name):
                assert msgspec.json.encode(text)[1:-1] not in bytes(sample(topic).state)


def test_an_event_of_a_newer_program_is_named_with_its_position() -> None:
    stored = sample("user.warned.v1")
    stored.topic = "user.warned.v99"
    with pytest.raises(UnknownEvent, match=r"user\.warned\.v99 at position 42"):
        EventMapper().to_domain_event(stored.row(), stored.key())


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (b'"payload":', b'"payload":,'),
        (b'"payload"', b'"pay"'),
        (b'"text": "', b'"text": "AAAA'),
        (b"4e0b0ef8", b"4e0b0ef9"),
    ],
    ids=["no JSON", "no payload", "text changed", "text of another event"],
)
def test_bytes_that_are_no_event_are_named_with_their_position(was: bytes, now: bytes) -> None:
    stored = sample("user.warned.v1")
    row = replace(stored.row(), state=bytes(stored.state).replace(was, now))
    assert row != stored.row()
    with pytest.raises(UnreadableEvent, match=r"user\.warned\.v1 at position 42") as raised:
        EventMapper().to_domain_event(row, stored.key())
    assert raised.value.position == 42


def test_a_payload_is_taken_through_every_version_up_to_the_newest() -> None:
    def rename(payload: dict[str, Any]) -> dict[str, Any]:
        return {"why": payload["reason"]}

    def add_weight(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "weight": 1}

    table = {"warned.v1": ("warned.v2", rename), "warned.v2": ("warned.v3", add_weight)}
    assert upcast("warned.v1", {"reason": "spam"}, table) == ("warned.v3", {"why": "spam", "weight": 1})
    assert upcast("warned.v2", {"why": "spam"}, table) == ("warned.v3", {"why": "spam", "weight": 1})
    assert upcast("warned.v3", {"why": "spam", "weight": 5}, table) == ("warned.v3", {"why": "spam", "weight": 5})


def test_a_reader_of_a_topic_is_not_spared_its_older_versions() -> None:
    table = {
        "user.warned.v0": ("user.warned.v1", dict),
        "user.warned.vA": ("user.warned.v0", dict),
        "user.banned.v0": ("user.banned.v1", dict),
    }
    others = others_than({"user.warned.v1"}, table)
    assert set(others) == EVENTS.keys() - {"user.warned.v1"} | {"user.banned.v0"}
    assert set(others_than({"user.banned.v1"}, table)) == EVENTS.keys() - {"user.banned.v1"} | {
        "user.warned.v0",
        "user.warned.vA",
    }


def test_no_event_of_this_program_is_marked_as_old() -> None:
    assert EVENTS.keys() & UPCASTS.keys() == set()


def field_allows_none(event: type[Event], name: str) -> bool:
    return any(field.name == name and field.type == str | None for field in msgspec.structs.fields(event))

"""When a subject may be erased: not twice while there is nothing new to erase."""

import pytest

from modledger.domain import commands, events
from modledger.domain.envelope import OPERATOR, Actor, Subject
from modledger.domain.refusals import Conflict, NotFound
from tests.scenario import given, guild, happened, has_level, user

OWNER = Actor("user", 3)
ERASE = commands.EraseSubject(target=user(1), reason=" asked for ")
ERASED = (
    has_level(3, 3),
    happened(user(1), events.UserRegistered(username="ann")),
    happened(user(1), events.UserWarned(reason="rude")),
    happened(user(1), events.SubjectErased(reason="asked for")),
)


def test_an_erasure_says_why_and_nothing_else() -> None:
    done = given(*ERASED[:-1]).when(ERASE, by=OWNER)
    assert [one.event for one in done.decided] == [events.SubjectErased(reason="asked for")]


def test_whom_nobody_knows_cannot_be_erased() -> None:
    assert isinstance(given(has_level(3, 3)).when(ERASE, by=OWNER).refused, NotFound)


@pytest.mark.parametrize(
    "since",
    [
        [],
        [events.UserPrefixChanged(old_prefix="!", prefix="?")],
        [events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None)],
    ],
    ids=["nothing", "a prefix", "a tier without a reason"],
)
def test_what_is_erased_already_is_refused_so_that_the_first_reason_stays(since: list[events.Event]) -> None:
    tried = given(*ERASED, *(happened(user(1), event) for event in since)).when(ERASE, by=OPERATOR)
    assert isinstance(tried.refused, Conflict)
    assert str(tried.refused) == "User 1 is already erased"


@pytest.mark.parametrize(
    "since",
    [
        events.UserRegistered(username="ann"),
        events.UserWarned(reason="rude again"),
        events.PunishmentLifted(number=2, reason="sorry"),
        events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None, reason="order 12"),
    ],
    ids=lambda event: str(event.TOPIC),
)
def test_new_text_can_be_erased_again(since: events.Event) -> None:
    assert given(*ERASED, happened(user(1), since)).when(ERASE, by=OWNER).refused is None


def test_each_subject_is_erased_on_its_own() -> None:
    harbour = happened(guild(1), events.GuildRegistered(name="Harbour", owner_id=1))
    erase = commands.EraseSubject(target=Subject("guild", 1), reason="asked for")
    assert given(*ERASED, harbour).when(erase, by=OWNER).refused is None

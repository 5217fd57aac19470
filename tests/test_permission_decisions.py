"""Levels (api.md §2): Admins assign up to 1, Owners up to 2, the command line all."""

import pytest

from modledger.domain import events
from modledger.domain.commands import ChangePermission
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor
from modledger.domain.refusals import Conflict, Forbidden, Invalid, NotFound, Refused, Stale
from tests.scenario import (
    ADMIN,
    BOT,
    MODERATOR,
    NOW,
    OTHER_OWNER,
    OWNER,
    SECOND,
    given,
    happened,
    has_level,
    user,
)

OWNERS_ONLY = "An Owner is made by the command line only"


def change(level: int, *, user_id: int = 1, reason: str = "hired") -> ChangePermission:
    return ChangePermission(user_id=user_id, level=level, reason=reason)


@pytest.mark.parametrize(
    ("actor", "old", "new", "refusal"),
    [
        (ADMIN, 0, 1, None),
        (ADMIN, 1, 0, None),
        (ADMIN, 0, 2, "Owner access required"),
        (ADMIN, 1, 2, "Owner access required"),
        (ADMIN, 0, 3, OWNERS_ONLY),
        (ADMIN, 2, 0, "You cannot act on this user"),
        (ADMIN, 3, 0, "You cannot act on this user"),
        (OWNER, 0, 1, None),
        (OWNER, 0, 2, None),
        (OWNER, 2, 1, None),
        (OWNER, 3, 2, None),
        (OWNER, 3, 0, None),
        (OWNER, 0, 3, OWNERS_ONLY),
        (OWNER, 2, 3, OWNERS_ONLY),
        (MODERATOR, 0, 1, "Admin access required"),
        (MODERATOR, 0, 3, "Admin access required"),
        (OPERATOR, 0, 3, None),
        (OPERATOR, 3, 0, None),
        (SYSTEM, 0, 1, "This needs a user's session"),
        (BOT, 0, 1, "This needs a user's session"),
    ],
)
def test_who_may_assign_which_level(actor: Actor, old: int, new: int, refusal: str | None) -> None:
    tried = given(has_level(1, old)).when(change(new), by=actor)
    if refusal is None:
        tried.then(events.PermissionChanged(old_level=old, new_level=new, reason="hired"))
    else:
        tried.then_refused(Forbidden, refusal)


@pytest.mark.parametrize("level", range(4))
def test_nobody_changes_their_own_level(level: int) -> None:
    for actor in (ADMIN, OWNER):
        given().when(change(level, user_id=actor.id or 0), by=actor).then_refused(
            Forbidden, "You cannot act on this user"
        )


@pytest.mark.parametrize("level", [-1, 4])
def test_a_level_that_does_not_exist_is_refused(level: int) -> None:
    for actor in (ADMIN, OPERATOR):
        given(has_level(1, 0)).when(change(level), by=actor).then_refused(
            Invalid, "permission_level must be between 0 and 3"
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ", "reason must be between 1 and 512 characters"),
        ("x" * 513, "reason must be between 1 and 512 characters"),
        ("a\0b", "reason must not contain a NUL character"),
    ],
    ids=ascii,
)
def test_a_level_is_not_changed_for_an_impossible_reason(text: str, message: str) -> None:
    given(has_level(1, 0)).when(change(1, reason=text), by=ADMIN).then_refused(Invalid, message)


@pytest.mark.parametrize(("actor", "level"), [(ADMIN, 1), (ADMIN, 0), (OWNER, 2), (OPERATOR, 3)])
def test_a_level_to_itself_is_a_conflict(actor: Actor, level: int) -> None:
    given(has_level(1, level)).when(change(level), by=actor).then_refused(Conflict, f"User 1 already has level {level}")


def test_only_the_command_line_gives_a_level_to_a_user_never_seen() -> None:
    given().when(change(3), by=OPERATOR).then(events.PermissionChanged(old_level=0, new_level=3, reason="hired"))
    for actor in (ADMIN, OWNER):
        given().when(change(1), by=actor).then_refused(NotFound, "User not found")


def test_an_erased_user_keeps_the_level_until_it_is_changed() -> None:
    erased = happened(user(1), events.SubjectErased(reason="asked for"))
    scenario = given(has_level(1, 2), erased)
    scenario.when(change(0), by=ADMIN).then_refused(Forbidden, "You cannot act on this user")
    scenario.when(change(0), by=OWNER).then(events.PermissionChanged(old_level=2, new_level=0, reason="hired"))


@pytest.mark.parametrize(("version", "refusal"), [(1, Stale), (2, None), (3, Stale)])
def test_if_match_is_the_version_of_the_user(version: int, refusal: type[Refused] | None) -> None:
    tried = given(has_level(1, 0), has_level(1, 0)).when(change(1), by=ADMIN, if_match=version)
    assert (type(tried.refused) if tried.refused else None) is refusal


def test_the_level_that_was_given_last_counts_also_for_the_giver() -> None:
    lost = happened(
        user(OTHER_OWNER.id or 0), events.PermissionChanged(old_level=3, new_level=1, reason="left"), at=NOW - SECOND
    )
    scenario = given(has_level(1, 0), lost)
    scenario.when(change(1), by=OTHER_OWNER).then_refused(Forbidden, "Admin access required")


def test_the_level_that_an_owner_has_already_is_a_conflict_and_no_new_owner() -> None:
    tried = given().when(ChangePermission(user_id=OTHER_OWNER.id or 0, level=3, reason="stays"), by=OWNER)
    tried.then_refused(Conflict, f"User {OTHER_OWNER.id} already has level 3")

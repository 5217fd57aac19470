"""``known_at`` is what the endpoints answered then: live answers, written down while a random history runs, asked for
again when it is over."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from modledger.domain import commands
from modledger.domain.envelope import subject_of
from modledger.domain.events import ERASED, SubjectErased
from modledger.domain.subjects import ADMIN as ADMIN_LEVEL
from modledger.domain.subjects import User, fold
from modledger.projections.profile import name_key
from tests.http_client import ADMIN, OWNER, World, people, started
from tests.lived_history import BOTS, GUILDS, KEYS, SECOND, USERS, Life, set_time, world_of_set_time

# Sees public views and the 12 keys, as nobody can be acted on by them.
WATCHER = 900


class Answer(NamedTuple):
    """What an endpoint answered at ``at``; ``detailed``: to an Owner, else to somebody who can act on nobody."""

    path: str
    at: datetime
    detailed: bool
    status: int
    body: dict[str, Any]
    tag: str | None


@pytest.fixture
def lived(database: str) -> Iterator[World]:
    with world_of_set_time(database) as world:
        people(world)
        world.register(WATCHER, "watcher")
        with started(world):
            yield world


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_known_at_is_what_was_answered_then(lived: World, seed: int) -> None:
    life = Life(lived, seed)
    answers: list[Answer] = []
    for _ in range(60):
        life.step()
        answers += written_down(life)
        life.pass_time()
    happened = lived.ledger.read(0, 10_000)
    assert {one.event.TOPIC for one in happened} >= {
        "user.renamed.v1",
        "user.banned.v1",
        "punishment.amended.v1",
        "punishment.lapsed.v1",
        "guild.owner_changed.v1",
        "subscription.granted.v1",
        "subject.erased.v1",
    }
    assert any(one.via == "import" for one in happened)
    promote_everybody(lived)
    erased = erasures(lived)
    said: dict[tuple[datetime, int], dict[str, Any]] = {
        (one.at, int(one.body["discord_id"])): one.body
        for one in answers
        if one.detailed and one.status == 200 and one.path.startswith("/v1/users/1")
    }
    compared = 0
    for one in answers:
        given = lived.get(f"{one.path}?known_at={quote(one.at.isoformat())}", OWNER if one.detailed else ADMIN)
        hidden = hidden_at(one, erased)
        if one.path.startswith("/v1/users/profile/") and one.status == 200 and hidden:
            # The name is not known any more of whom it was; it may have been somebody else's too.
            assert_another(one, given.status_code, given.json(), said, erased)
            continue
        assert given.status_code == one.status, (one, given.text)
        if one.status == 200:
            compared += 1
            expected = without_text(one, erased)
            # An Owner's view of what nobody owns has more keys than the public one.
            assert {key: given.json().get(key) for key in expected} == expected, one
            if one.body == given.json():
                assert given.headers["ETag"] == one.tag
    assert compared > 100


def written_down(life: Life) -> Iterator[Answer]:
    paths = [
        f"/v1/users/profile/{life.draw.choice(KEYS)}",
        f"/v1/users/{life.draw.choice(USERS)}",
        f"/v1/guilds/{life.draw.choice(GUILDS)}",
    ]
    for path in paths:
        for detailed in (True, False):
            response = life.world.get(path, OWNER if detailed else WATCHER)
            assert response.status_code in (200, 404)
            tag = response.headers.get("ETag")
            yield Answer(path, life.world.now, detailed, response.status_code, response.json(), tag)


def promote_everybody(world: World) -> None:
    """So that an Admin of today can act on none of them, and on no guild's owner, whatever they were then."""
    for user_id in USERS:
        state = fold(subject_of(f"user:{user_id}"), world.ledger.load([f"user:{user_id}"])[f"user:{user_id}"])
        assert isinstance(state, User)
        if state.level != ADMIN_LEVEL:
            world.act(commands.ChangePermission(user_id=user_id, level=ADMIN_LEVEL, reason="all of them"))
    set_time(world, world.now + SECOND)


def erasures(world: World) -> dict[str, datetime]:
    """When each subject was erased last, by the ledger's clock."""
    names = [f"user:{one}" for one in USERS] + [f"guild:{one}" for one in GUILDS] + [f"bot:{one}" for one in BOTS]
    return {
        stream: one.recorded_at
        for stream, history in world.ledger.load(names).items()
        for one in history
        if isinstance(one.event, SubjectErased)
    }


def hidden_at(answer: Answer, erased: dict[str, datetime]) -> bool:
    kind = "guild" if answer.path.startswith("/v1/guilds") else "user"
    at = erased.get(f"{kind}:{answer.body.get('discord_id')}")
    return at is not None and at > answer.at


def without_text(answer: Answer, erased: dict[str, datetime]) -> dict[str, Any]:
    """The answer as it has to be now that the text of some of the subjects in it was erased after it."""
    body = dict(answer.body)
    if hidden_at(answer, erased):
        name = "name" if answer.path.startswith("/v1/guilds") else "username"
        body |= {name: None, "avatar_url": None}
        for key in ("punishments", "permission_history", "subscription_history"):
            if key in body:
                body[key] = [{**one, "reason": erased_reason(one)} for one in body[key]]
    for key in ("guilds", "bots"):
        if key in body:
            body[key] = [
                {**one, "name": None, "avatar_url": None}
                if erased.get(f"{key[:-1]}:{one['discord_id']}", answer.at) > answer.at
                else one
                for one in body[key]
            ]
    return body


def erased_reason(entry: dict[str, Any]) -> str | None:
    # Whether a tier was given for a reason is gone with the text; it was taken away for one.
    return None if entry.get("new_tier") or entry["reason"] is None else ERASED


def assert_another(
    answer: Answer,
    status: int,
    given: dict[str, Any],
    said: dict[tuple[datetime, int], dict[str, Any]],
    erased: dict[str, datetime],
) -> None:
    if status == 404:
        return
    assert status == 200
    other = int(given["discord_id"])
    assert other != int(answer.body["discord_id"])
    assert name_key(given["username"]) == answer.path.rpartition("/")[2]
    assert erased.get(f"user:{other}", answer.at) <= answer.at
    known = said.get((answer.at, other))
    assert known is None or known["username"] == given["username"]

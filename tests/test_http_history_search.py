"""The punishment search over the past: live answers, written down while a random history runs, asked for again when it
is over; and what is refused."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest

from modledger.domain import commands
from modledger.domain.envelope import Subject
from modledger.domain.events import ERASED
from tests.http_client import ADMIN, MODERATOR, NOW, OWNER, USER, World, error_of, people, started
from tests.lived_history import GUILDS, USERS, Life, world_of_set_time
from tests.test_http_time_travel import erasures

SEARCH = "/v1/admin/punishments/search"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Answer(NamedTuple):
    """What the search answered at ``at``."""

    asked: dict[str, Any]
    at: datetime
    body: dict[str, Any]


@pytest.fixture
def lived(database: str) -> Iterator[World]:
    with world_of_set_time(database) as world:
        people(world)
        with started(world):
            yield world


def a_search(life: Life) -> dict[str, Any]:
    draw, now = life.draw, life.world.now
    asked: dict[str, Any] = {"sort": draw.choice(("-created_at", "created_at", "-expires_at", "expires_at"))}
    filters: list[dict[str, Any]] = [
        {}, {"user_id": draw.choice(USERS)}, {"guild_id": draw.choice(GUILDS)}, {"issued_by": ADMIN},
        {"punishment_type": draw.randint(1, 4)}, {"created_after": (now - draw.randint(0, 400) * HOUR).isoformat()},
        {"created_before": (now - draw.randint(-1, 400) * HOUR).isoformat()}, {"q": draw.choice(("spam", "rule", "4"))},
    ]  # fmt: skip
    for one in draw.sample(filters, 2):
        asked |= one
    if draw.random() < 0.5:
        asked["active_only"] = "true"
    # A search for words is compared as a whole, because an erasure takes some away.
    asked["limit"] = 100 if "q" in asked or draw.random() < 0.5 else draw.randint(1, 10)
    return asked


def ask(world: World, asked: dict[str, Any], **at: datetime) -> dict[str, Any]:
    moments = {name: moment.isoformat() for name, moment in at.items()}
    response = world.get(f"{SEARCH}?{urlencode({**asked, **moments})}", ADMIN)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_known_at_is_what_the_search_answered_then(lived: World, seed: int) -> None:
    life = Life(lived, seed)
    answers: list[Answer] = []
    for _ in range(100):
        life.step()
        for _ in range(3):
            asked = a_search(life)
            answers.append(Answer(asked, lived.now, ask(lived, asked)))
        life.pass_time()
    happened = lived.ledger.read(0, 10_000)
    assert any(one.via == "import" for one in happened)
    assert {one.event.TOPIC for one in happened} >= {
        "punishment.amended.v1",
        "punishment.lapsed.v1",
        "subject.erased.v1",
    }
    erased = erasures(lived)
    for one in answers:
        given = ask(lived, one.asked, known_at=one.at)
        expected = without_text(one, erased)
        for body in (given, expected):
            body["next_cursor"] = "next_cursor" in body
        assert given == expected, one
    assert sum(len(one.body["punishments"]) for one in answers) > 500


def without_text(answer: Answer, erased: dict[str, datetime]) -> dict[str, Any]:
    """The answer as it has to be now that some text was erased after it: a search for words does not find that any
    more."""
    found, gone = [], 0
    for one in answer.body["punishments"]:
        kind = "user" if one["discord_user_id"] else "guild"
        if erased.get(f"{kind}:{one[f'discord_{kind}_id']}", answer.at) <= answer.at:
            found.append(one)
        elif "q" in answer.asked:
            gone += 1
        else:
            found.append({**one, "reason": ERASED})
    return {**answer.body, "punishments": found, "total": answer.body["total"] - gone}


@pytest.mark.parametrize("seed", [4, 5])
def test_the_search_and_the_views_of_a_subject_tell_the_same_past(lived: World, seed: int) -> None:
    life = Life(lived, seed)
    for _ in range(80):
        life.step()
        life.pass_time()
    # Imports bring what is older than the history.
    begin, compared = NOW - 10 * DAY, 0
    for _ in range(80):
        dated, known = (begin + life.draw.random() * (lived.now - begin) for _ in range(2))
        at = life.draw.choice(({"as_of": dated}, {"known_at": known}, {"as_of": dated, "known_at": known}))
        query = urlencode({name: moment.isoformat() for name, moment in at.items()})
        for path, asked in (("users", {"user_id": life.draw.choice(USERS)}), ("guilds", {"guild_id": GUILDS[0]})):
            view = lived.get(f"/v1/{path}/{next(iter(asked.values()))}?{query}", OWNER)
            found = ask(lived, {**asked, "limit": 100}, **at)
            there = view.json()["punishments"] if view.status_code == 200 else []
            assert found["punishments"] == there
            assert found["total"] == len(there)
            compared += len(there)
    assert compared > 50


def at(moment: datetime) -> str:
    return quote(moment.isoformat())


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (f"as_of={at(NOW + HOUR)}", "as_of must not be in the future"),
        (f"known_at={at(NOW + timedelta(microseconds=1))}", "known_at must not be in the future"),
        (f"known_at={at(NOW)}&as_of={at(NOW + DAY)}", "as_of must not be in the future"),
        ("as_of=yesterday", "as_of must be a timestamp such as 2026-03-10T12:00:00Z"),
        ("known_at=", "known_at must be a timestamp such as 2026-03-10T12:00:00Z"),
        ("known_at=2026-03-01T00:00:00", "known_at must have an offset such as Z"),
        (f"as_of={at(NOW)}&as_of={at(NOW)}", "as_of given more than once"),
        (f"as_of={at(NOW)}&cursor=garbage", "cursor is not valid"),
        (f"as_of={at(NOW)}&limit=101", "limit must be between 1 and 100"),
        (f"as_of={at(NOW)}&since={at(NOW)}", "unknown parameter: since"),
    ],
)
def test_what_is_no_search_of_the_past_is_refused(shared_world: World, query: str, message: str) -> None:
    assert error_of(shared_world.get(f"{SEARCH}?{query}", ADMIN), 400) == message
    assert error_of(shared_world.get(f"{SEARCH}?{query}", MODERATOR), 403) == "Admin access required"


def warn(world: World, count: int) -> None:
    for n in range(count):
        world.act(
            commands.IssueWarning(target=Subject("user", USER), reason=f"number {n}"), at=NOW - HOUR + n * HOUR / 60
        )


def test_a_cursor_is_bound_to_its_moment(world: World) -> None:
    warn(world, 3)
    moments: list[dict[str, datetime]] = [
        {}, {"as_of": NOW}, {"as_of": NOW - HOUR / 2}, {"known_at": world.now}, {"as_of": NOW, "known_at": world.now},
    ]  # fmt: skip
    # The database's clock tells when it was recorded.
    world.now = max(one.recorded_at for one in world.ledger.read(0, 100)) + HOUR
    moments[3]["known_at"] = moments[4]["known_at"] = world.now
    world.cookies.clear()
    cursors = [ask(world, {"limit": 1}, **one)["next_cursor"] for one in moments]
    assert len(set(cursors)) == len(moments)
    for cursor, mine in zip(cursors, moments, strict=True):
        for other in moments:
            query = urlencode(
                {"limit": 1, "cursor": cursor, **{name: moment.isoformat() for name, moment in other.items()}}
            )
            answer = world.get(f"{SEARCH}?{query}", ADMIN)
            if other == mine:
                assert [one["reason"] for one in answer.json()["punishments"]] == ["number 1"]
            else:
                assert error_of(answer, 400) == "cursor belongs to another search"


def test_every_page_of_the_past_is_of_the_same_moment(world: World) -> None:
    warn(world, 5)
    then = NOW - HOUR / 2
    first = ask(world, {"limit": 2}, as_of=then)
    warn(world, 4)
    world.act(commands.IssueWarning(target=Subject("user", USER), reason="later"))
    second = ask(world, {"limit": 2, "cursor": first["next_cursor"]}, as_of=NOW - HOUR / 2)
    assert first["total"] == 5
    assert second["total"] == 9
    assert second["punishments"][0]["created_at"] <= first["punishments"][-1]["created_at"]


@pytest.mark.usefixtures("unfolded")
def test_an_answer_about_the_past_is_as_fresh_as_any(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    warn(world, 1)
    head = world.ledger.head()
    early = quote((NOW - DAY).isoformat())
    world.now = world.ledger.read(head - 1, 1)[0].recorded_at + HOUR
    world.cookies.clear()
    asked = f"{SEARCH}?as_of={early}"
    assert world.get(asked, ADMIN).status_code == 200
    behind = world.get(asked, ADMIN, headers={"X-Ledger-Position": str(head)})
    assert error_of(behind, 503) == f"The read models are not yet at position {head}"
    # What was recorded until then has to be in the read table, whoever asks.
    known = quote(world.now.isoformat())
    assert error_of(world.get(f"{SEARCH}?known_at={known}", ADMIN), 503).endswith(f"position {head}")
    world.catch_up("punishment_history")
    answer = world.get(f"{SEARCH}?known_at={known}", ADMIN)
    assert (answer.json()["total"], answer.headers["X-Ledger-Position"]) == (1, str(head))
    set_before = world.get(f"{SEARCH}?known_at={early}", ADMIN)
    assert set_before.json()["total"] == 0

"""docs/permissions.md, cell by cell: who asks for what is answered with the status that the table says."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from modledger.domain import commands
from modledger.domain.envelope import SYSTEM, Subject
from modledger.http.keys import create_key
from modledger.http.sessions import COOKIE, open_session
from tests.http_client import ADMIN, LEVELS, MODERATOR, OWNER, USER, World, error_of
from tests.permitted_requests import REQUESTS, Asker

TABLE = Path(__file__).resolve().parent.parent / "docs" / "permissions.md"
COLUMNS = (
    "none",
    "public",
    "bot",
    "user",
    "mod",
    "admin",
    "owner",
    "timed-out mod",
    "banned admin",
    "ended",
)
TIMED_OUT, BANNED, BOT = 303, 202, 5000
SESSIONS = {
    "user": USER,
    "mod": MODERATOR,
    "admin": ADMIN,
    "owner": OWNER,
    "timed-out mod": TIMED_OUT,
    "banned admin": BANNED,
    "ended": ADMIN,
}


class Row(NamedTuple):
    operation: str
    about: str
    statuses: tuple[int, ...]

    @property
    def key(self) -> tuple[str, str]:
        return re.sub(r"\{\w+\}", "{}", self.operation), self.about


def rows() -> Iterator[Row]:
    for line in TABLE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and re.match(r"(GET|POST) /", cells[0]):
            yield Row(cells[0], cells[1], tuple(int(cell) for cell in cells[2:]))


ROWS = list(rows())


@pytest.fixture(scope="module")
def staffed(shared_world: World) -> World:
    """The shared world, with a moderator who is timed out, an admin who is banned, and a bot."""
    world = shared_world
    world.register(TIMED_OUT, "timedout", 1)
    world.register(BANNED, "banned", 2)
    world.act(
        commands.IssueTimeout(user_id=TIMED_OUT, reason="Rule 1", expires_at=world.now + timedelta(days=1)), SYSTEM
    )
    world.act(commands.IssueBan(target=Subject("user", BANNED), reason="Rule 1"), SYSTEM)
    world.act(commands.RegisterBot(bot_id=BOT, name="reporter", owner_id=USER), SYSTEM)
    return world


def asker(world: World, column: str) -> Asker:
    """Who asks in a column, with a session or key of their own for this one request."""
    if column == "none":
        return Asker(None, False, {})
    if column in ("public", "bot"):
        kind, bot_id = ("bot", BOT) if column == "bot" else ("public", None)
        key = create_key(world.connection, kind, bot_id, world.now)  # type: ignore[arg-type]
        return Asker(None, False, {"X-API-Key": key})
    user_id = SESSIONS[column]
    opened = world.now - timedelta(days=40) if column == "ended" else world.now
    token = open_session(world.connection, user_id, LEVELS.get(user_id, 0), opened)
    return Asker(user_id, column in ("mod", "admin", "owner"), {"Cookie": f"{COOKIE}={token}"})


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.operation} {row.about}".strip() for row in ROWS])
def test_each_is_answered_as_the_table_says(staffed: World, row: Row) -> None:
    found: list[int] = []
    for column in COLUMNS:
        who = asker(staffed, column)
        path, body = REQUESTS[row.key](staffed, who)
        method = row.operation.partition(" ")[0]
        if method == "GET":
            response = staffed.get(path, headers=who.credentials)
        else:
            response = staffed.post(path, json=body, headers=who.credentials)
        found.append(response.status_code)
        if response.status_code != 200:
            error_of(response, response.status_code)
    assert dict(zip(COLUMNS, found, strict=True)) == dict(zip(COLUMNS, row.statuses, strict=True))


def test_every_operation_has_a_row_and_every_row_an_operation(shared_world: World) -> None:
    paths = shared_world.get("/schema/openapi.json").json()["paths"]
    served = {
        re.sub(r"\{\w+\}", "{}", f"{method.upper()} {path}") for path, methods in paths.items() for method in methods
    }
    assert {row.key[0] for row in ROWS} == served


def test_the_table_has_the_columns_that_are_run(shared_world: World) -> None:
    heads = [line for line in TABLE.read_text("utf-8").splitlines() if line.startswith("| operation")]
    assert heads
    for head in heads:
        assert tuple(cell.strip() for cell in head.strip().strip("|").split("|")[2:]) == COLUMNS
    keys = [row.key for row in ROWS]
    assert len(set(keys)) == len(keys)
    assert all(len(row.statuses) == len(COLUMNS) for row in ROWS)

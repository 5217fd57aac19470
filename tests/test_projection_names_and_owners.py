"""Who ever took which name and who ever owned what: the two read tables that lead time travel to its streams."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest

from modledger.domain import events
from modledger.domain.memory_ledger import MemoryLedger
from modledger.projections import ownerships, user_names
from modledger.projections.projector import advance
from tests.projection_history import FIRST_POSITION, HOUR, NOW, Happened, append, folded


def registered(user_id: int, name: str, at: datetime = NOW) -> Happened:
    return Happened(f"user:{user_id}", events.UserRegistered(username=name), at)


def renamed(user_id: int, name: str, at: datetime = NOW) -> Happened:
    return Happened(f"user:{user_id}", events.UserRenamed(old_username="before", username=name), at)


def test_every_name_leaves_a_row_found_without_regard_to_case() -> None:
    rows = folded(user_names.PROJECTOR, registered(1, "Anna"), renamed(1, "STRASSE"), registered(2, "anna"))
    assert [(row.user_id, row.position - FIRST_POSITION, row.name_key) for row in rows.values()] == [
        (1, 0, "anna"),
        (1, 1, "strasse"),
        (2, 2, "anna"),
    ]


def test_an_erasure_takes_the_names_that_were_taken_before_it() -> None:
    erased = Happened("user:1", events.SubjectErased(reason="request"))
    rows = folded(user_names.PROJECTOR, registered(1, "anna"), renamed(1, "bert"), erased, registered(1, "carl"))
    assert [row.name_key for row in rows.values()] == [None, None, "carl"]


def test_a_replay_after_an_erasure_comes_to_the_same_names() -> None:
    erased = Happened("user:1", events.SubjectErased(reason="request"))
    live = folded(user_names.PROJECTOR, registered(1, "anna"), erased)
    assert folded(user_names.PROJECTOR, registered(1, events.ERASED), erased) == live


def test_the_erasure_of_a_guild_or_bot_is_nobodys_name() -> None:
    for stream in ("guild:1", "bot:1"):
        assert folded(user_names.PROJECTOR, Happened(stream, events.SubjectErased(reason="request"))) == {}


def test_whoever_owned_something_once_is_listed_once() -> None:
    rows = folded(
        ownerships.PROJECTOR,
        Happened("guild:7", events.GuildRegistered(name="Guild", owner_id=1)),
        Happened("guild:7", events.GuildOwnerChanged(old_owner_id=1, owner_id=2)),
        Happened("guild:7", events.GuildOwnerChanged(old_owner_id=2, owner_id=None)),
        Happened("guild:7", events.GuildOwnerChanged(old_owner_id=None, owner_id=1)),
        Happened("bot:7", events.BotRegistered(name="Bot", owner_id=1)),
        Happened("bot:7", events.BotOwnerChanged(old_owner_id=1, owner_id=3)),
    )
    assert sorted((row.stream, row.owner_id) for row in rows.values()) == [
        ("bot:7", 1),
        ("bot:7", 3),
        ("guild:7", 1),
        ("guild:7", 2),
    ]


@pytest.mark.parametrize("projector", [user_names.PROJECTOR, ownerships.PROJECTOR], ids=lambda one: one.name)
def test_an_event_of_another_kind_is_refused(projector: Any) -> None:
    warned = Happened("user:1", events.UserWarned(reason="spam"))
    with pytest.raises(TypeError):
        projector.fold({}, next(iter(read(warned))))


def read(*history: Happened) -> list[Any]:
    with MemoryLedger(lambda: NOW) as ledger:
        versions: dict[str, int] = {}
        for happened in history:
            append(ledger, versions, happened)
        return ledger.read(0, 100)


class Names:
    """The table of names, after some history that was recorded an hour at a time."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn = conn

    def fill(self, *history: Happened) -> None:
        now = NOW

        def hourly() -> datetime:
            nonlocal now
            now += HOUR
            return now

        with MemoryLedger(hourly) as ledger:
            versions: dict[str, int] = {}
            for happened in history:
                append(ledger, versions, happened)
            while advance(self.conn, user_names.PROJECTOR, ledger, 100).more:
                pass

    def bearers(self, key: str, known_at: int | None = None, as_of: int | None = None) -> list[int]:
        """At these hours after NOW."""
        moments = [None if hours is None else NOW + hours * HOUR for hours in (known_at, as_of)]
        cursor = psycopg.RawCursor(self.conn)
        _, found = user_names.bearers(cursor.execute(user_names.BEARERS.encode(), (key, *moments, 0, 100)).fetchall())
        return found


@pytest.fixture
def names(database: str) -> Iterator[Names]:
    with psycopg.connect(database, autocommit=True) as conn:
        yield Names(conn)


def test_the_bearers_of_a_name_are_those_who_took_no_other_until_then(names: Names) -> None:
    names.fill(
        registered(1, "anna", NOW + 1 * HOUR),
        renamed(1, "bert", NOW + 2 * HOUR),
        registered(2, "anna", NOW + 3 * HOUR),
        renamed(1, "Anna", NOW + 4 * HOUR),
    )
    assert [names.bearers("anna", known_at=hours) for hours in range(6)] == [[], [1], [], [2], [1, 2], [1, 2]]
    assert [names.bearers("anna", as_of=hours) for hours in range(6)] == [[], [1], [], [2], [1, 2], [1, 2]]
    assert names.bearers("bert", known_at=3) == [1]
    assert names.bearers("bert") == []
    assert names.bearers("nobody") == []


def test_a_name_is_dated_otherwise_than_it_was_recorded(names: Names) -> None:
    names.fill(registered(1, "anna", NOW + 5 * HOUR), renamed(1, "bert", NOW + 3 * HOUR))
    assert names.bearers("anna", as_of=5) == [1]
    assert names.bearers("anna", known_at=2) == []
    assert names.bearers("bert", as_of=4) == [1]
    assert names.bearers("bert", known_at=1, as_of=4) == []
    assert names.bearers("anna", known_at=1, as_of=5) == [1]


def test_the_names_of_the_erased_lead_nowhere_and_stand_in_nobodys_way(names: Names) -> None:
    names.fill(
        registered(1, "anna", NOW + 1 * HOUR),
        Happened("user:1", events.SubjectErased(reason="request"), NOW + 2 * HOUR),
        registered(1, "bert", NOW),
    )
    assert names.bearers("anna", known_at=1) == []
    assert names.bearers("bert", as_of=9) == [1]


def test_the_walk_for_a_name_is_an_indexs(names: Names) -> None:
    names.conn.execute(
        "insert into user_names select n, n, 'name' || n % 5000, now(), now() from generate_series(1, 20000) n"
    )
    names.conn.execute("analyze user_names")
    cursor = psycopg.RawCursor(names.conn)
    plan = cursor.execute(f"explain {user_names.BEARERS}".encode(), ("name7", NOW, NOW, 0, 10)).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "user_names_key" in text
    assert "user_names_pkey" in text
    assert "Seq Scan on user_names" not in text

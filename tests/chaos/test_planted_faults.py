"""The judge sees what is wrong: a sound history of the real application passes, and each kind of fault that is planted
into it is found and called by its name."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
import psycopg
import pytest
from litestar.testing import TestClient

from modledger.domain.commands import Context, IssueTimeout, IssueWarning, LapsePunishment
from modledger.domain.envelope import SYSTEM, Actor, Recorded, Subject, subject_of
from modledger.domain.execute import execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.subjects import Account, fold
from modledger.http.app import create_app
from modledger.http.sessions import open_session
from modledger.projections.catalog import PROJECTORS
from modledger.projections.projector import advance
from tests.chaos.checks import (
    Finding,
    by_stream,
    judge_commands,
    judge_ends,
    judge_order,
    judge_reads,
    judge_tables,
    recorded_in,
)
from tests.chaos.history import Command, History, Journal, Read, read_history
from tests.chaos.load import Answer, Scene, Session, name_of
from tests.chaos.rounds import STAFF, register
from tests.http_client import MASTER_KEY, SETTINGS
from tests.postgres_server import create_database, drop_database

# The rows of every change of a level, as a projector that took each event twice would leave them.
ADDED_AGAIN = """
    create temporary table again as table permission_history;
    update again set id = id + 1000000;
    insert into permission_history table again
"""
USERS, GUILDS = (2_000_001, 2_000_002, 2_000_003), (2_000_051,)


class Lived(NamedTuple):
    """What a load did and saw, the ledger that it left, and the name of its database, to which nobody is connected."""

    server: str
    name: str
    history: History
    recorded: list[Recorded]
    ended: datetime


@pytest.fixture(scope="module")
def lived(postgres_server: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    name = f"lived_{uuid4().hex}"
    database = create_database(postgres_server, name, template_database)
    journal = Journal(tmp_path_factory.mktemp("lived") / "list.jsonl")
    with PostgresLedger(database, MASTER_KEY) as ledger, psycopg.connect(database, autocommit=True) as connection:
        for staff in STAFF:
            register(ledger, staff.id, f"staff{staff.id}", staff.level)
        for user in USERS:
            register(ledger, user, name_of(user), 0)
        with TestClient(create_app(SETTINGS, conninfo=database, master_key=MASTER_KEY)) as client:
            _live(client, ledger, connection, journal)
        recorded = recorded_in(ledger)
    journal.close()
    yield Lived(postgres_server, name, read_history(journal.path), recorded, datetime.now(UTC))
    drop_database(postgres_server, name)


def _live(
    client: TestClient[Any], ledger: PostgresLedger, connection: psycopg.Connection[Any], journal: Journal
) -> None:
    folded = 0
    cookies = {one.id: open_session(connection, one.id, one.level, datetime.now(UTC)) for one in STAFF}

    def send(
        server: int, method: str, path: str, actor: int, *, body: Any = None, headers: dict[str, str], patience: float
    ) -> Answer:
        nonlocal folded
        if folded < (head := ledger.head()):
            for projector in PROJECTORS:
                advance(connection, projector, ledger, 1000)
            folded = head
        client.cookies.clear()
        headers = {**headers, "Cookie": f"hsession={cookies[actor]}", "Content-Type": "application/json"}
        answer = client.request(method, path, headers=headers, json=body)
        position = int(answer.headers.get("X-Ledger-Position", "0"))
        return Answer(answer.status_code, position, "Idempotency-Replayed" in answer.headers, answer.json())

    scene = Scene("lived", USERS, GUILDS, servers=1)
    for turn in range(3):
        for staff in STAFF:
            rng = Random(f"{turn} {staff.id}")
            session = Session(scene, staff, send, lambda *_: (0.0, 0.0), journal, rng, most=(turn + 1) * 12)
            # Goes on counting where the turn before ended, or its reasons would come again.
            session.count = turn * 12
            session.run()
    for projector in PROJECTORS:
        advance(connection, projector, ledger, 1000)


@pytest.fixture
def copy(lived: Lived) -> Iterator[str]:
    """The conninfo of a copy of its database, to be spoilt."""
    name = f"spoilt_{uuid4().hex}"
    yield create_database(lived.server, name, lived.name)
    drop_database(lived.server, name)


def spoil(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def ledger_of(database: str) -> list[Recorded]:
    with PostgresLedger(database, MASTER_KEY) as ledger:
        return recorded_in(ledger)


def tables_of(database: str) -> list[Finding]:
    with PostgresLedger(database, MASTER_KEY) as ledger:
        return list(judge_tables(database, ledger))


def acknowledged(lived: Lived, *kinds: str) -> Command:
    """The last of its kind that did something to a user."""
    done = [one for one in lived.history.commands if one.outcome == "acknowledged" and one.subject.startswith("user:")]
    return [one for one in done if one.kind in kinds][-1]


def event_of(lived: Lived, command: Command) -> Recorded:
    [found] = [one for one in lived.recorded if getattr(one.event, "reason", None) == command.token]
    return found


def instead(lived: Lived, old: Command, **changes: Any) -> list[Command]:
    """The list with one entry changed."""
    return [msgspec.structs.replace(one, **changes) if one is old else one for one in lived.history.commands]


def kinds_of(findings: list[Finding]) -> set[str]:
    return {one.kind for one in findings}


# -- nothing planted


def test_a_sound_history_passes(lived: Lived, copy: str) -> None:
    outcomes = {one.outcome for one in lived.history.commands}
    assert {"acknowledged", "refused"} <= outcomes
    assert {"search", "active", "users", "detail", "profile"} == {one.kind for one in lived.history.reads}
    assert any(one.shared for one in lived.history.reads)
    assert list(judge_commands(lived.history.commands, lived.recorded)) == []
    assert list(judge_reads(lived.history.reads, lived.recorded)) == []
    assert judge_order(lived.history, lived.recorded) == ([], 0)
    assert list(judge_ends(lived.recorded, datetime.min.replace(tzinfo=UTC))) == []
    assert tables_of(copy) == []


# -- planted among the commands


def test_an_acknowledged_command_that_the_ledger_lost_is_found(lived: Lived, copy: str) -> None:
    command = acknowledged(lived, "warn", "ban", "timeout")
    spoil(
        copy,
        "alter table ledger disable trigger ledger_append_only",
        f"delete from ledger where notification_id = {event_of(lived, command).position}",
    )
    found = list(judge_commands(lived.history.commands, ledger_of(copy)))
    assert [(one.kind, command.token in one.what) for one in found] == [("lost", True)]


def test_a_command_that_acted_twice_is_found(lived: Lived, copy: str) -> None:
    command = acknowledged(lived, "warn")
    # By the owner, who may warn anybody, whatever became of the actor's rank over the target since.
    actor = Actor("user", STAFF[0].id)
    again = Context(actor=actor, at=datetime.now(UTC), command_id=uuid4(), correlation_id=uuid4(), via="http")
    with PostgresLedger(copy, MASTER_KEY) as ledger:
        execute(ledger, IssueWarning(target=subject_of(command.subject), reason=command.token), again)
    found = list(judge_commands(lived.history.commands, ledger_of(copy)))
    assert [(one.kind, command.token in one.what) for one in found] == [("doubled", True)]


def test_a_command_that_was_refused_and_acted_is_found(lived: Lived) -> None:
    command = acknowledged(lived, "warn")
    commands = instead(lived, command, outcome="refused", status=409, answer={"error": "no"})
    assert [one.kind for one in judge_commands(commands, lived.recorded)] == ["refused"]


def test_an_event_that_nobody_asked_for_is_found(lived: Lived) -> None:
    command = acknowledged(lived, "warn")
    commands = [one for one in lived.history.commands if one is not command]
    assert [one.kind for one in judge_commands(commands, lived.recorded)] == ["foreign"]


@pytest.mark.parametrize("change", [{"answer": {"id": 1}}, {"subject": "user:9"}, {"kind": "ban"}, {"actor": 9}])
def test_an_event_that_is_not_what_was_answered_is_found(lived: Lived, change: dict[str, Any]) -> None:
    commands = instead(lived, acknowledged(lived, "warn"), **change)
    assert [one.kind for one in judge_commands(commands, lived.recorded)] == ["altered"]


def test_a_keyed_command_whose_outcome_stays_unknown_is_found_and_one_without_a_key_is_not(lived: Lived) -> None:
    command = acknowledged(lived, "warn")
    keyed = instead(lived, command, outcome="unknown", keyed=True)
    assert [one.kind for one in judge_commands(keyed, lived.recorded)] == ["unresolved"]
    assert list(judge_commands(instead(lived, command, outcome="unknown", keyed=False), lived.recorded)) == []


# -- planted among the reads


def read_after(lived: Lived, subject: str, position: int, **about: Any) -> Read:
    """A search of what stood at that position, as it was then."""
    account = fold(subject_of(subject), [r for r in by_stream(lived.recorded)[subject] if r.position <= position])
    assert isinstance(account, Account)
    names = {1: "WARNING", 2: "TIMEOUT", 3: "BAN"}
    records = [
        {
            "id": one.position,
            "punishment_type": names[one.type],
            "reason": one.reason,
            "expires_at": None if one.expires_at is None else one.expires_at.isoformat().replace("+00:00", "Z"),
            "is_lifted": one.ending is not None and one.ending.kind != "lapsed",
        }
        for one in account.punishments.values()
    ]
    made = {
        "kind": "search",
        "session": 102,
        "began": time.time(),
        "ended": time.time(),
        "own": 0,
        "told": 0,
        "shared": False,
        "skew_low": 0.0,
        "skew_high": 0.0,
        "position": position,
        "answer": {"punishments": records, "total": len(records)},
    }
    return Read(subject=subject, **{**made, **about})


def latest(lived: Lived) -> tuple[str, int, int]:
    """A user, the position of the last event about them that a search shows, and that of the one before."""
    subject = acknowledged(lived, "warn", "timeout", "ban").subject
    shown = [r.position for r in by_stream(lived.recorded)[subject] if r.event.TOPIC.endswith("ed.v1")]
    last = event_of(lived, acknowledged(lived, "warn", "timeout", "ban")).position
    return subject, last, max(position for position in shown if position < last)


def test_a_read_as_things_stood_passes(lived: Lived) -> None:
    subject, last, before = latest(lived)
    reads = [read_after(lived, subject, before), read_after(lived, subject, last)]
    assert list(judge_reads(reads, lived.recorded)) == []


def test_a_read_that_is_older_than_what_was_asked_for_is_found(lived: Lived) -> None:
    subject, last, before = latest(lived)
    found = list(judge_reads([read_after(lived, subject, before, told=last)], lived.recorded))
    assert [one.kind for one in found] == ["stale"]


def test_a_read_that_lacks_the_sessions_own_write_is_found(lived: Lived) -> None:
    subject, last, before = latest(lived)
    found = list(judge_reads([read_after(lived, subject, before, own=last)], lived.recorded))
    assert [one.kind for one in found] == ["own write"]


def test_a_read_that_shows_less_than_the_position_that_it_bears_is_found(lived: Lived) -> None:
    subject, last, before = latest(lived)
    stale = msgspec.structs.replace(read_after(lived, subject, before), position=last)
    assert [one.kind for one in judge_reads([stale], lived.recorded)] == ["stale"]


def test_a_session_whose_reads_go_back_is_found(lived: Lived) -> None:
    subject, last, before = latest(lived)
    reads = [read_after(lived, subject, last), read_after(lived, subject, before)]
    assert [one.kind for one in judge_reads(reads, lived.recorded)] == ["backwards"]
    reads[1] = msgspec.structs.replace(reads[1], session=103)
    assert list(judge_reads(reads, lived.recorded)) == []


def test_a_read_of_what_never_was_is_found(lived: Lived) -> None:
    subject, last, _ = latest(lived)
    read = read_after(lived, subject, last)
    read.answer["punishments"][0]["reason"] = "made up"
    assert [one.kind for one in judge_reads([read], lived.recorded)] == ["unexplained"]


def test_a_read_that_shows_an_ended_timeout_as_active_is_found(lived: Lived) -> None:
    command = next(
        one
        for one in lived.history.commands
        if one.kind == "timeout" and one.outcome == "acknowledged" and one.subject.startswith("user:")
    )
    event = event_of(lived, command)
    end = event.event.expires_at.timestamp()  # type: ignore[attr-defined]

    def active_at(moment: float, **skew: float) -> list[Finding]:
        shown = read_after(lived, command.subject, event.position)
        records = [one for one in shown.answer["punishments"] if not one["is_lifted"]]
        # Whatever ends later than this one is active as well.
        until = {one["id"]: one["expires_at"] for one in records}
        written = command.body["expires_at"]
        active = [one for one in records if until[one["id"]] is None or until[one["id"]] >= written]
        answer = {"punishments": active, "total": len(active)}
        read = msgspec.structs.replace(shown, kind="active", began=moment, ended=moment, answer=answer, **skew)
        return list(judge_reads([read], lived.recorded))

    assert active_at(end - 0.5) == []
    assert [one.kind for one in active_at(end + 0.5)] == ["expiry"]
    # Of a server whose clock is behind it is right.
    assert active_at(end + 0.5, skew_low=-1.0, skew_high=-1.0) == []


# -- planted among the ends


def test_an_end_that_was_never_recorded_is_found(lived: Lived) -> None:
    found = list(judge_ends(lived.recorded, lived.ended + timedelta(days=1)))
    assert found
    assert kinds_of(found) == {"lapse"}


def test_an_end_that_was_recorded_too_early_is_found(lived: Lived, copy: str) -> None:
    now, user = datetime.now(UTC), 2_000_099
    end = now.replace(microsecond=0) + timedelta(hours=1)
    issue = IssueTimeout(user_id=user, reason="for an hour", expires_at=end)
    lapse = LapsePunishment(target=Subject("user", user), number=1, expires_at=end)
    with PostgresLedger(copy, MASTER_KEY) as ledger:
        for command, at in ((issue, now), (lapse, end)):
            context = Context(actor=SYSTEM, at=at, command_id=uuid4(), correlation_id=uuid4(), via="worker")
            execute(ledger, command, context)
    found = list(judge_ends(ledger_of(copy), datetime.min.replace(tzinfo=UTC)))
    assert found
    assert kinds_of(found) == {"lapse"}


# -- planted into the order


def test_two_active_bans_of_one_user_have_no_order(lived: Lived) -> None:
    refused = next(
        one for one in lived.history.commands if one.kind == "ban" and one.status == 409 and "active" in str(one.answer)
    )
    commands = instead(lived, refused, outcome="acknowledged", status=200, answer={"id": 999_999})
    findings, _ = judge_order(msgspec.structs.replace(lived.history, commands=commands), lived.recorded)
    assert [one.kind for one in findings] == ["order"]
    assert refused.subject in findings[0].what


def test_a_shared_read_that_lacks_what_was_acknowledged_before_it_has_no_order(lived: Lived) -> None:
    command = acknowledged(lived, "warn")
    position = event_of(lived, command).position - 1
    stale = read_after(lived, command.subject, position, shared=True)
    history = msgspec.structs.replace(lived.history, reads=[*lived.history.reads, stale])
    findings, _ = judge_order(history, lived.recorded)
    assert [one.kind for one in findings] == ["order"]


# -- planted into the database


def test_an_event_that_a_projector_skipped_is_found(lived: Lived, copy: str) -> None:
    command = acknowledged(lived, "warn", "timeout", "ban")
    spoil(copy, f"delete from punishments where id = {event_of(lived, command).position}")
    assert "projection" in kinds_of(tables_of(copy))


@pytest.mark.parametrize(
    "twice",
    [
        "update punishment_counts set total = total + 1",
        "update profile_counts set total = total + 1",
        ADDED_AGAIN,
    ],
)
def test_an_event_that_was_projected_twice_is_found(copy: str, twice: str) -> None:
    spoil(copy, twice)
    assert kinds_of(tables_of(copy)) == {"projection"}


def test_a_hole_in_a_stream_is_found(lived: Lived, copy: str) -> None:
    stream, mine = next(item for item in by_stream(lived.recorded).items() if len(item[1]) > 2)
    spoil(
        copy,
        "alter table ledger disable trigger ledger_append_only",
        f"delete from ledger where originator_id = '{stream}' and originator_version = {mine[1].version}",
    )
    with PostgresLedger(copy, MASTER_KEY) as ledger:
        assert "ledger" in kinds_of(list(judge_tables(copy, ledger)))


# -- the list


def test_the_list_is_on_disk_as_soon_as_it_is_written_and_the_last_word_on_a_command_counts(
    lived: Lived, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "list.jsonl")
    command = acknowledged(lived, "warn")
    journal.write(msgspec.structs.replace(command, outcome="unknown", status=0))
    assert [one.outcome for one in read_history(journal.path).commands] == ["unknown"]
    journal.write(command, lived.history.reads[0])
    found = read_history(journal.path)
    journal.close()
    assert (found.commands, found.reads) == ([command], [lived.history.reads[0]])

"""The key of somebody's text goes with the event that says so, whoever asks for it and by whichever way."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg
import pytest
from eventsourcing.persistence import StoredEvent

from modledger.domain.events import ERASED, SubjectErased
from modledger.domain.mapper import StoredCommand
from modledger.domain.postgres_ledger import LedgerRecorder, PostgresLedger
from tests.databases import MASTER_KEY, logins_on
from tests.test_ledger_contract import command, erase, event, warnings

Send = Callable[[LedgerRecorder, StoredCommand], object]
ERASURE, ANOTHER = SubjectErased.TOPIC, "user.prefix_changed.v1"


@pytest.fixture
def as_app(database: str, ledger: PostgresLedger) -> Iterator[PostgresLedger]:
    """The ledger over the login of ``serve``, with two users' text in it: user:1 at version 2, and user:2 at version 3,
    who was erased at 2 and has text since."""
    warnings(ledger, "user:1", 1, 2)
    warnings(ledger, "user:2", 1, 1)
    erase(ledger, "user:2", 2)
    warnings(ledger, "user:2", 3, 3)
    with PostgresLedger(logins_on(database).app, MASTER_KEY) as opened:
        yield opened


def by_itself(recorder: LedgerRecorder, asked: StoredCommand) -> object:
    return recorder.append_command(asked)


def in_a_batch(recorder: LedgerRecorder, asked: StoredCommand) -> object:
    return recorder.append_all([asked], asked.expected)


def keys(database: str) -> list[tuple[str, int]]:
    with psycopg.connect(database) as connection:
        return connection.execute("select subject, generation from subject_keys order by 1").fetchall()


def asking(stream: str, version: int, topic: str, destroyed: str) -> StoredCommand:
    """What somebody sends who has the login and not our program: one event, and all keys of a subject to destroy."""
    return StoredCommand(
        command_id=uuid4(),
        events=[StoredEvent(stream, version, topic, b"{}")],
        actors=["system"],
        vias=["cli"],
        expected={stream: version - 1},
        keys=[],
        erased=[(destroyed, 2**62)],
        standings={},
    )


@pytest.mark.parametrize("send", [by_itself, in_a_batch])
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(asking("user:1", 3, ANOTHER, "user:1"), id="with another event of theirs"),
        pytest.param(asking("user:3", 1, ERASURE, "user:1"), id="with the erasure of another"),
        pytest.param(asking("user:2", 4, ANOTHER, "user:2"), id="with an erasure of before the key"),
    ],
)
def test_no_key_is_destroyed(database: str, as_app: PostgresLedger, send: Send, asked: StoredCommand) -> None:
    before, head = keys(database), as_app.head()
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="goes with an erasure in the ledger alone"):
        send(as_app.recorder, asked)
    assert (keys(database), as_app.head()) == (before, head)
    assert before == [("user:1", 0), ("user:2", 2)]


@pytest.mark.parametrize("send", [by_itself, in_a_batch])
def test_with_the_erasure_of_the_very_subject_it_is(database: str, as_app: PostgresLedger, send: Send) -> None:
    send(as_app.recorder, asking("user:1", 3, ERASURE, "user:1"))
    assert keys(database) == [("user:2", 2)]


def test_commands_erase_over_the_login_that_serves(database: str, as_app: PostgresLedger) -> None:
    erase(as_app, "user:1", 3)
    as_app.append_batch([command(event("user:2", 4, SubjectErased(reason="by mail")), erase=["user:2"])])
    # A reason is text as well: each erasure leaves the key of its own.
    assert keys(database) == [("user:1", 3), ("user:2", 4)]
    reasons = [getattr(one.event, "reason", None) for one in as_app.read(0, 10)]
    assert reasons == [ERASED] * 5 + ["asked by mail", "by mail"]


@pytest.mark.parametrize("change", ["delete from subject_keys", "truncate subject_keys"])
@pytest.mark.parametrize("role", ["origin", "replica"])
def test_the_owner_is_refused_as_well(database: str, as_app: PostgresLedger, role: str, change: str) -> None:
    before = keys(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"set session_replication_role = {role}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(change.encode())
    assert keys(database) == before
    assert [getattr(one.event, "reason", None) for one in as_app.load(["user:1"])["user:1"]] == ["spam", "spam"]

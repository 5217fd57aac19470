"""One master key in the place of another while commands go on, whatever dies meanwhile (docs/keys.md)."""

import base64
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import structlog

from modledger.domain.commands import Command, Context, EraseSubject, IssueWarning, RegisterUser
from modledger.domain.envelope import OPERATOR, Subject
from modledger.domain.execute import execute
from modledger.domain.personal_text import MasterKey, WrongMasterKey
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.http.idempotency import bound_to as answer_of
from modledger.http.login_codes import bound_to as code_of
from modledger.http.resealing import reseal
from modledger.http.sealing import Sealing
from modledger.projections import profile
from modledger.projections.ledger_verification import verify_ledger
from modledger.projections.projector import checkpoint
from modledger.workers.key_rotation import Rotated, rotate
from tests.databases import MASTER_KEY as OLD
from tests.forked import start
from tests.http_client import ADMIN, USER, World, error_of
from tests.postgres_processes import ask, until
from tests.test_cli import modledger, on, refused
from tests.test_runner import eventually, running

NEW = bytes(range(200, 232))
AT = datetime(2026, 3, 10, 12, tzinfo=UTC)


def act(ledger: PostgresLedger, command: Command) -> None:
    context = Context(actor=OPERATOR, at=AT, command_id=uuid4(), correlation_id=uuid4(), via="cli")
    assert execute(ledger, command, context).position


def register(ledger: PostgresLedger, *user_ids: int) -> None:
    for user_id in user_ids:
        act(ledger, RegisterUser(user_id=user_id, username=f"user {user_id}"))


def warning(user_id: int) -> Command:
    return IssueWarning(target=Subject("user", user_id), reason="spam")


def names(ledger: PostgresLedger, *user_ids: int) -> list[object]:
    histories = ledger.load([f"user:{user_id}" for user_id in user_ids])
    return [getattr(histories[f"user:{user_id}"][0].event, "username", None) for user_id in user_ids]


def opened_by(database: str, secret: bytes) -> int:
    """How many of the subjects' keys this master key alone opens."""
    master, count = MasterKey(secret), 0
    with psycopg.connect(database) as connection:
        for row in connection.execute("select subject, generation, wrapped from subject_keys"):
            try:
                master.unwrap(*row)
            except WrongMasterKey:
                continue
            count += 1
    return count


def test_processes_with_both_keys_go_on_through_a_rotation_and_the_old_key_opens_nothing_then(database: str) -> None:
    stop, failed = threading.Event(), list[BaseException]()
    with (
        PostgresLedger(database, OLD) as alone,
        PostgresLedger(database, OLD + NEW) as first,
        PostgresLedger(database, NEW + OLD) as second,
    ):
        register(alone, *range(1, 30))
        # While the processes are restarted one by one, each reads what the others write.
        register(first, 30)
        assert names(alone, 1, 30) == ["user 1", "user 30"]
        register(second, 31)
        assert names(first, 1, 30, 31) == ["user 1", "user 30", "user 31"]

        written = [100]

        def go_on() -> None:
            try:
                while not stop.is_set():
                    register(second, written[-1])
                    assert names(second, written[-1], 1) == [f"user {written[-1]}", "user 1"]
                    act(second, EraseSubject(target=Subject("user", written[-1] - 1), reason="meanwhile"))
                    written.append(written[-1] + 1)
                    register(second, written[-1])
                    written.append(written[-1] + 1)
            except BaseException as error:
                failed.append(error)

        act(second, RegisterUser(user_id=99, username="to be erased"))
        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            until(lambda: len(written) > 4 or bool(failed))
            rotated = rotate(database, NEW + OLD)
            so_far = len(written)
            until(lambda: len(written) > so_far + 2 or bool(failed))
        finally:
            stop.set()
            thread.join()
        assert failed == []
        assert rotated.rewrapped == 30
    keys = ask(database, "select count(*) from subject_keys")
    assert (opened_by(database, NEW), opened_by(database, OLD)) == (keys, 0)
    with PostgresLedger(database, NEW) as after:
        assert names(after, 1, 30, 31) == ["user 1", "user 30", "user 31"]
        assert list(verify_ledger(database, after)) == []
    with pytest.raises(WrongMasterKey):
        PostgresLedger(database, OLD)


def test_a_rotation_that_was_killed_goes_on_where_it_was(database: str, ledger: PostgresLedger) -> None:
    register(ledger, 1)
    old = MasterKey(OLD)
    with (
        psycopg.connect(database) as connection,
        connection.cursor() as cursor,
        cursor.copy("copy subject_keys (subject, generation, wrapped) from stdin") as copy,
    ):
        for number in range(20_000):
            copy.write_row((f"user:{10**6 + number}", 0, old.make(f"user:{10**6 + number}", 0).wrapped))
    code = (
        "import sys; from modledger.workers.key_rotation import rotate; rotate(sys.argv[1], bytes.fromhex(sys.argv[2]))"
    )
    with psycopg.connect(database) as holding:
        # The last key cannot be reached, so it cannot be done before it is killed.
        holding.execute("select from subject_keys where subject = %s for update", (f"user:{10**6 + 19_999}",))
        process = start(["-c", code, database, (NEW + OLD).hex()])
        until(lambda: opened_by(database, OLD) < 20_001 or process.poll() is not None)
        assert process.poll() is None
        process.kill()
        process.wait()
        # What it had sent when it was killed, its backend still does.
        backends = "select count(*) from pg_stat_activity where application_name = 'modledger key rotate'"
        until(lambda: ask(database, f"{backends} and datname = current_database()") == 0)
    left = opened_by(database, OLD)
    assert 0 < left < 20_001
    # The old one is still the installation's, and both together read everything.
    with PostgresLedger(database, NEW + OLD) as both:
        assert names(both, 1) == ["user 1"]
    with pytest.raises(WrongMasterKey):
        PostgresLedger(database, NEW)
    assert rotate(database, NEW + OLD) == Rotated(keys=20_001, rewrapped=left)
    assert rotate(database, NEW + OLD) == Rotated(keys=20_001, rewrapped=0)
    assert rotate(database, NEW) == Rotated(keys=20_001, rewrapped=0)
    assert opened_by(database, OLD) == 0
    with PostgresLedger(database, NEW) as after:
        assert names(after, 1) == ["user 1"]


def test_the_command_line_rotates_with_both_keys_and_says_what_it_did(
    database: str, ledger: PostgresLedger, tmp_path: Path
) -> None:
    register(ledger, 1, 2, 3)
    key_file = tmp_path / "master.key"
    settings = {"MODLEDGER_DATABASE_URL": database, "MODLEDGER_DATA_DIR": str(tmp_path)}
    key_file.write_bytes(b"\n".join(base64.b64encode(key) for key in (NEW, OLD)))
    done = modledger("key", "rotate", **settings)
    assert (done.returncode, done.stdout.startswith("wrapped 3 of 3 keys anew")) == (0, True), done
    key_file.write_bytes(base64.b64encode(NEW))
    done = modledger("key", "rotate", **settings)
    assert (done.returncode, done.stdout.startswith("wrapped 0 of 3 keys anew")) == (0, True), done
    refused(modledger("owner", "1", **on(database)), 2, "the master key is not this installation's")


@pytest.mark.parametrize(
    "lines", [b"", b"hunter2", b"%(one)s\nhunter2", b"%(one)s\n%(one)s", b"%(one)s\n%(two)s\n%(three)s"]
)
def test_a_key_file_with_anything_but_one_or_two_keys_is_refused(lines: bytes, database: str, tmp_path: Path) -> None:
    keys = {b"one": bytes(32), b"two": NEW, b"three": OLD}
    content = lines % {name: base64.b64encode(key) for name, key in keys.items()}
    (tmp_path / "master.key").write_bytes(content)
    done = modledger("owner", "1", MODLEDGER_DATABASE_URL=database, MODLEDGER_DATA_DIR=str(tmp_path))
    refused(done, 2, "does not hold a master key")
    assert (tmp_path / "master.key").read_bytes() == content


def test_codes_and_answers_are_sealed_anew_too(database: str) -> None:
    before, both, after = Sealing(OLD), Sealing(NEW + OLD), Sealing(NEW)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "insert into login_codes values (7, %s, %s, %s)",
            (before.lookup("CODE1234"), before.seal(b"CODE1234", code_of(7)), AT + timedelta(minutes=5)),
        )
        answer = before.seal(b"answer", answer_of("user:7", "k"))
        connection.execute(
            "insert into idempotency_keys values ('user:7', 'k', 'print', 200, %s, %s),"
            " ('user:7', 'l', 'print', null, null, %s)",
            (answer, AT, AT),
        )
        # Until then both open it, and find the code by it.
        assert both.unseal(answer, answer_of("user:7", "k")) == b"answer"
        assert before.lookup("CODE1234") in both.lookups("CODE1234")
        assert (reseal(database, NEW + OLD), reseal(database, NEW + OLD)) == (2, 0)
        row = connection.execute("select code_hash, sealed_code from login_codes").fetchone()
        assert row is not None
        assert (row[0], after.unseal(row[1], code_of(7))) == (after.lookup("CODE1234"), b"CODE1234")
        sealed = connection.execute("select body from idempotency_keys where key = 'k'").fetchone()
        assert sealed is not None
        assert after.unseal(sealed[0], answer_of("user:7", "k")) == b"answer"
        assert before.unseal(sealed[0], answer_of("user:7", "k")) is None


# -- in another order than docs/keys.md has


def test_a_process_that_was_not_given_the_new_key_says_so_and_leaves_its_turn_to_one_that_was(
    database: str, ledger: PostgresLedger
) -> None:
    register(ledger, 1)
    with PostgresLedger(database, NEW + OLD) as ahead:
        register(ahead, 2)
        before = ledger.head()
        for _ in range(2):
            with pytest.raises(WrongMasterKey, match=r"key of user:2 .* was not given"):
                act(ledger, warning(2))
        assert ledger.head() == before
        act(ledger, warning(1))
        act(ahead, warning(2))

        with psycopg.connect(database, autocommit=True) as connection, structlog.testing.capture_logs() as lines:
            with running(ledger, database, [profile.PROJECTOR]):
                eventually(lambda: any("was not given" in str(line.get("error")) for line in lines))
                with running(ahead, database, [profile.PROJECTOR]):
                    eventually(lambda: checkpoint(connection, "profile") == ledger.head())
            assert {line["log_level"] for line in lines} == {"info", "warning"}
            found = connection.execute("select username from profiles order by 1").fetchall()
            assert found == [("user 1",), ("user 2",)]
            assert connection.execute("select from projection_failures").fetchall() == []


def test_a_process_that_still_writes_with_the_old_key_is_found_out_before_that_is_destroyed(
    database: str, ledger: PostgresLedger
) -> None:
    register(ledger, 1)
    assert rotate(database, NEW + OLD).rewrapped == 1
    with pytest.raises(WrongMasterKey):
        names(ledger, 1)
    # It was running before, and nobody has restarted it: whoever has no key yet gets one that the others cannot open.
    register(ledger, 2)
    with PostgresLedger(database, NEW) as after, pytest.raises(WrongMasterKey, match="user:2"):
        names(after, 2)
    with pytest.raises(WrongMasterKey, match="user:2"):
        rotate(database, NEW)
    assert rotate(database, NEW + OLD).rewrapped == 1
    with PostgresLedger(database, NEW) as after:
        assert names(after, 1, 2) == ["user 1", "user 2"]


def test_a_server_that_was_not_given_the_new_key_answers_503_for_whom_it_cannot_read_and_serves_the_others(
    world: World,
) -> None:
    # Of the projectors there is a test above.
    world.catching_up = False
    with PostgresLedger(world.database, NEW + OLD) as ahead:
        register(ahead, 4040)
    answer = world.post("/v1/admin/punishments/user/4040/warn", ADMIN, {"reason": "spam"})
    assert error_of(answer, 503) == "This server was not given a master key that others write with"
    assert answer.headers["Retry-After"] == "1"
    assert world.post(f"/v1/admin/punishments/user/{USER}/warn", ADMIN, {"reason": "spam"}).status_code == 200
    items = [{"action": "warn", "target": "user", "id": user, "reason": "spam"} for user in (4040, USER)]
    results = world.post("/v1/admin/punishments/bulk", ADMIN, {"items": items}).json()["results"]
    assert [one["status"] for one in results] == [503, 200]

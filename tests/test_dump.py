"""``modledger dump`` and ``restore``: the same ledger in another installation, or nothing at all (docs/move.md)."""

import io
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modledger.domain import commands
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, Subject
from modledger.domain.execute import execute
from modledger.domain.personal_text import MasterKey
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.workers import dump_file
from modledger.workers.dump import dump, restore
from modledger.workers.runner import catch_up
from modledger.workers.sealer import seal
from tests import forked
from tests.databases import MASTER_KEY
from tests.postgres_server import create_database, drop_database
from tests.test_cli import modledger, on, refused

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
USER, GONE = Subject("user", 1), Subject("user", 2)
COMMAND = UUID(int=77)
ROWS = "select * from ledger order by notification_id"
SEQUENCE = "pg_get_serial_sequence('ledger', 'notification_id')::regclass"
KEYS = "select * from subject_keys order by 1, 2"


def say_nothing(_what: str, _done: int, _total: int) -> None:
    pass


def act(ledger: PostgresLedger, command: Command, at: datetime = NOW, command_id: UUID | None = None) -> int:
    context = Context(actor=OPERATOR, at=at, command_id=command_id or uuid4(), correlation_id=uuid4(), via="cli")
    return execute(ledger, command, context).position


def rows(conninfo: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(conninfo) as connection:
        return connection.execute(query.encode()).fetchall()


def burn(conninfo: str, positions: int) -> None:
    """Gives positions to nobody, as appends do that fail."""
    rows(conninfo, f"select nextval({SEQUENCE}) from generate_series(1, {positions})")


@pytest.fixture
def lived(database: str, ledger: PostgresLedger) -> str:
    """An installation with some life behind it: erased text, a command of many events, positions that nobody has."""
    act(ledger, commands.RegisterUser(user_id=1, username="Quill", avatar_url="https://a.example/1.png"))
    for user_id in range(3, 40):
        act(ledger, commands.RegisterUser(user_id=user_id, username=f"user{user_id}"))
    act(ledger, commands.IssueBan(target=USER, reason="raid"), command_id=COMMAND)
    act(ledger, commands.IssueBan(target=USER, reason="raid again", replace=True))
    with psycopg.connect(database) as connection:
        connection.execute(
            "select nextval(pg_get_serial_sequence('ledger', 'notification_id')) from generate_series(1, 9)"
        )
    act(ledger, commands.RegisterUser(user_id=2, username="Thistle"))
    act(ledger, commands.EraseSubject(target=GONE, reason="asked for"))
    act(ledger, commands.RegisterGuild(guild_id=5, name="Harbour", owner_id=1))
    act(ledger, commands.IssueTimeout(user_id=4, reason="spam", expires_at=NOW + timedelta(hours=1)))
    with psycopg.connect(database) as connection:
        connection.execute(
            "select nextval(pg_get_serial_sequence('ledger', 'notification_id')) from generate_series(1, 7)"
        )
    return database


@pytest.fixture
def empty(postgres_server: str, template_database: str) -> Iterator[str]:
    """Another installation, migrated and empty."""
    name = f"restored_{uuid4().hex}"
    yield create_database(postgres_server, name, template_database)
    drop_database(postgres_server, name)


@pytest.fixture
def file(lived: str, tmp_path: Path) -> Path:
    """A dump of it."""
    dump(lived, tmp_path / "ledger.dump", say_nothing)
    return tmp_path / "ledger.dump"


def test_the_restored_ledger_is_the_dumped_one_row_by_row(lived: str, file: Path, empty: str) -> None:
    restore(empty, file, MasterKey(MASTER_KEY), say_nothing)
    for query in (ROWS, KEYS, "select id, master_key_check, created_at from installation"):
        assert rows(empty, query) == rows(lived, query)
    assert rows(lived, ROWS)


def test_read_tables_made_from_it_are_the_same(lived: str, ledger: PostgresLedger, file: Path, empty: str) -> None:
    restore(empty, file, MasterKey(MASTER_KEY), say_nothing)
    catch_up(ledger, lived, PROJECTORS)
    with PostgresLedger(empty, MASTER_KEY) as restored:
        catch_up(restored, empty, PROJECTORS)
    for table in (table.name for one in PROJECTORS for table in (one.table, *one.beside)):
        query = f"select t::text from {table} t order by 1"
        assert rows(empty, query) == rows(lived, query), table
    assert rows(empty, "select username from profiles where user_id in (1, 2) order by user_id") == [
        ("Quill",),
        (None,),
    ]


def test_it_goes_on_where_the_other_one_was(ledger: PostgresLedger, file: Path, empty: str) -> None:
    restore(empty, file, MasterKey(MASTER_KEY), say_nothing)
    with PostgresLedger(empty, MASTER_KEY) as restored:
        # A retry of what was done before the move is recognised, and no position is given a second time.
        assert restored.known_commands([COMMAND]) == {COMMAND}
        again = commands.IssueBan(target=USER, reason="raid")
        assert act(restored, again, command_id=COMMAND) == act(ledger, again, command_id=COMMAND)
        renamed = commands.UpdateUser(user_id=1, username="Feather")
        assert act(restored, renamed) == act(ledger, renamed) == ledger.head()


def test_its_sealed_tree_is_the_same(lived: str, file: Path, empty: str) -> None:
    restore(empty, file, MasterKey(MASTER_KEY), say_nothing)
    signer = Ed25519PrivateKey.generate()
    heads = []
    for conninfo in (lived, empty):
        with psycopg.connect(conninfo, autocommit=True) as connection:
            heads.append(seal(connection, signer, NOW))
    assert heads[0] is not None
    assert heads[0] == heads[1]
    done = modledger("restore", str(file), **on(empty))
    refused(done, 2, "not empty")


def test_the_command_lines_say_what_was_moved(lived: str, empty: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.dump"
    out = modledger("dump", str(path), **on(lived))
    assert out.returncode == 0, out
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["ledger.dump"]
    back = modledger("restore", str(path), **on(empty))
    assert back.returncode == 0, back
    assert out.stdout.splitlines()[1:] == back.stdout.splitlines()[1:4]
    assert f"events    {len(rows(lived, ROWS))}, up to position" in out.stdout


def test_an_empty_ledger_can_be_moved_too(database: str, ledger: PostgresLedger, empty: str, tmp_path: Path) -> None:
    dump(database, tmp_path / "nothing", say_nothing)
    assert restore(empty, tmp_path / "nothing", MasterKey(MASTER_KEY), say_nothing).events == 0
    assert rows(empty, "select id from installation") == rows(database, "select id from installation")
    with PostgresLedger(empty, MASTER_KEY) as restored:
        user = commands.RegisterUser(user_id=1, username="Quill")
        assert act(restored, user) == act(ledger, user) == 1


def test_a_dump_is_of_one_moment_while_the_ledger_goes_on(
    lived: str, ledger: PostgresLedger, empty: str, tmp_path: Path
) -> None:
    stop, begun = threading.Event(), threading.Event()

    def go_on() -> None:
        user_id = 1000
        while not stop.is_set():
            user_id += 1
            act(ledger, commands.RegisterUser(user_id=user_id, username=f"user{user_id}"))
            begun.set()

    writing = threading.Thread(target=go_on)
    writing.start()
    try:
        assert begun.wait(30)
        moved = dump(lived, tmp_path / "ledger.dump", say_nothing)
    finally:
        stop.set()
        writing.join()
    assert restore(empty, tmp_path / "ledger.dump", MasterKey(MASTER_KEY), say_nothing) == moved
    until = f"select * from ledger where notification_id <= {moved.position} order by notification_id"
    assert rows(empty, ROWS) == rows(lived, until)
    assert moved.keys == moved.events - 6 + 1


# -- what is refused


def refused_and_unchanged(conninfo: str, file: Path, *words: str, key: bytes = MASTER_KEY) -> None:
    queries = (ROWS, KEYS, "select * from installation", f"select pg_sequence_last_value({SEQUENCE})")
    before = [rows(conninfo, query) for query in queries]
    refused(modledger("restore", str(file), **on(conninfo, key)), 2, *words, "nothing was changed")
    assert [rows(conninfo, query) for query in queries] == before


def test_a_ledger_that_is_not_empty_is_left_alone(lived: str, file: Path) -> None:
    refused_and_unchanged(lived, file, "the ledger of this installation is not empty")


def test_a_dump_of_an_installation_with_another_master_key_is_refused(file: Path, empty: str) -> None:
    refused_and_unchanged(empty, file, "another master key", key=bytes(32))


def test_without_a_master_key_nothing_is_restored_and_none_is_made(file: Path, empty: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = modledger("restore", str(file), MODLEDGER_DATABASE_URL=empty, MODLEDGER_DATA_DIR=str(data))
    refused(done, 2, "there is no master key", "master.key")
    assert not (data / "master.key").exists()


# From the front, and from the back: magic line, header, events, keys, end, its digest.
@pytest.mark.parametrize("at", [3, 17, 19, 40, 900, 5000, -1000, -400, -150, -60, -1])
def test_a_changed_byte_is_found(at: int, file: Path, empty: str) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    with pytest.raises(dump_file.Damaged):
        restore(empty, file, MasterKey(MASTER_KEY), say_nothing)
    assert rows(empty, ROWS) == []


def test_every_truncation_is_found(file: Path) -> None:
    content = file.read_bytes()
    for length in (*range(400), *range(400, len(content), 97), len(content) - 1):
        with pytest.raises(dump_file.Damaged):
            list(dump_file.frames(io.BytesIO(content[:length])))
    assert list(dump_file.frames(io.BytesIO(content)))


def test_a_damaged_or_truncated_dump_is_refused_in_words(file: Path, empty: str) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    refused_and_unchanged(empty, file, "the dump ends in frame")
    file.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    refused_and_unchanged(empty, file, "the dump is damaged in frame")
    file.write_bytes(content + b"x")
    refused_and_unchanged(empty, file, "behind the end")
    file.write_bytes(b"")
    refused_and_unchanged(empty, file, "no dump of a ledger")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"operator", b"opera7or", "another root"),
        (b"\x00\x09\x00\x00\x00\x08", b"\x00\x08\x00\x00\x00\x08", "rows that are none"),
    ],
    ids=["an event that was changed", "bytes that are no rows"],
)
def test_digests_that_were_made_to_fit_do_not_help(old: bytes, new: bytes, words: str, file: Path, empty: str) -> None:
    found = list(dump_file.frames(io.BytesIO(file.read_bytes())))
    with file.open("wb") as forged:
        write = dump_file.writer(forged)
        for kind, content in found:
            write(kind, content.replace(old, new, 1) if kind == "E" else content)
    refused_and_unchanged(empty, file, words)


def test_left_out_rows_are_found(file: Path, empty: str) -> None:
    found = list(dump_file.frames(io.BytesIO(file.read_bytes())))
    with file.open("wb") as forged:
        write = dump_file.writer(forged)
        for kind, content in found:
            if kind != "K":
                write(kind, content)
    refused_and_unchanged(empty, file, "others in number")


def test_a_file_that_is_there_is_not_written_over(lived: str, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("precious")
    refused(modledger("dump", str(path), **on(lived)), 2, "exists already")
    assert path.read_text() == "precious"
    refused(modledger("dump", str(tmp_path / "no" / "where"), **on(lived)), 2, "is no folder")
    refused(modledger("restore", str(tmp_path / "nothing"), **on(lived)), 2, "does not exist")


def test_an_installation_that_has_not_begun_has_nothing_to_dump(database: str, tmp_path: Path) -> None:
    refused(modledger("dump", str(tmp_path / "ledger.dump"), **on(database)), 2, "has not begun yet")
    assert list(tmp_path.iterdir()) == []


# -- killed in the middle


def start(*arguments: str, conninfo: str) -> forked.Forked:
    return forked.start(["-m", "modledger.workers", *arguments], on(conninfo))


def until_waiting(conninfo: str, name: str) -> None:
    """Until a process of that name waits for a lock."""
    query = f"select from pg_stat_activity where application_name = '{name}' and wait_event_type = 'Lock'"
    while not rows(conninfo, query):
        time.sleep(0.05)


def test_a_dump_that_was_killed_is_begun_anew(lived: str, empty: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.dump"
    with psycopg.connect(lived) as connection:
        # It has read the ledger and waits for the keys.
        connection.execute("lock table subject_keys in access exclusive mode")
        process = start("dump", str(path), conninfo=lived)
        until_waiting(lived, "modledger dump")
        refused(modledger("dump", str(path), **on(lived)), 2, "somebody else is writing")
        process.kill()
        process.wait()
    assert not path.exists()
    assert modledger("dump", str(path), **on(lived)).returncode == 0
    assert [one.name for one in tmp_path.iterdir()] == ["ledger.dump"]
    restore(empty, path, MasterKey(MASTER_KEY), say_nothing)


def test_a_restore_that_was_killed_leaves_nothing_and_is_begun_anew(lived: str, file: Path, empty: str) -> None:
    with psycopg.connect(empty) as connection:
        # It has stored the events and waits for the keys.
        connection.execute("lock table subject_keys in exclusive mode")
        process = start("restore", str(file), conninfo=empty)
        until_waiting(empty, "modledger restore")
        process.kill()
        process.wait()
    while rows(empty, "select from pg_stat_activity where application_name = 'modledger restore'"):
        time.sleep(0.05)
    assert rows(empty, ROWS) == []
    assert modledger("restore", str(file), **on(empty)).returncode == 0
    assert rows(empty, ROWS) == rows(lived, ROWS)


def test_nobody_appends_to_an_installation_that_is_being_restored(file: Path, empty: str) -> None:
    with psycopg.connect(empty) as connection:
        connection.execute("lock table subject_keys in exclusive mode")
        process = start("restore", str(file), conninfo=empty)
        until_waiting(empty, "modledger restore")
        asked = connection.execute(
            "select pg_try_advisory_lock('pg_class'::regclass::oid::int, 'ledger'::regclass::oid::int)"
        )
        assert asked.fetchone() == (False,)
    assert process.wait(timeout=60) == 0

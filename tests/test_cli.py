"""The command line: what it does, and that whatever goes wrong ends in one clear line and an exit status."""

import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Sequence
from http.cookiejar import MozillaCookieJar
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from bench.processes import free_port
from modledger.domain.envelope import OPERATOR
from modledger.domain.events import PermissionChanged
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.cli import cli
from modledger.workers.migrate import migrations
from tests import forked
from tests.databases import MASTER_KEY

USER = 123456789012345678


def modledger(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
    return forked.modledger(arguments, {**environment, **settings})


def from_nothing(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The same in an interpreter that has imported nothing yet."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
    return subprocess.run(
        [sys.executable, "-m", "modledger.workers", *arguments],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def on(database: str, key: bytes = MASTER_KEY) -> dict[str, str]:
    return {"MODLEDGER_DATABASE_URL": database, "MODLEDGER_MASTER_KEY": b64encode(key).decode()}


def refused(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def refused_at_once(arguments: Sequence[str], *words: str) -> None:
    """A call that is wrong before anything is opened or logged (no server is where this one is sent): so it is made in
    this process. Who asks shows for one such call that a process of its own ends the same way."""
    nowhere = {"MODLEDGER_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    done = CliRunner().invoke(cli, arguments, env=nowhere)
    assert isinstance(done.exception, SystemExit), done
    assert done.exit_code == 2, done
    for word in words:
        assert word in done.stderr


def test_migrate_brings_an_empty_database_up_to_date_and_does_nothing_the_second_time(empty_database: str) -> None:
    first = from_nothing("migrate", **on(empty_database))
    assert (first.returncode, first.stdout.startswith("applied 0001_ledger")) == (0, True)
    second = from_nothing("migrate", **on(empty_database))
    assert (second.returncode, second.stdout) == (0, "nothing to apply\n")


def test_the_first_owner_is_made_by_the_operator_and_recorded_as_such(database: str, ledger: PostgresLedger) -> None:
    assert modledger("owner", str(USER), **on(database)).returncode == 0
    event = ledger.load([f"user:{USER}"])[f"user:{USER}"][-1]
    assert isinstance(event.event, PermissionChanged)
    assert (event.event.new_level, event.actor, event.via) == (3, OPERATOR, "cli")


def test_making_an_owner_of_an_owner_is_refused(database: str) -> None:
    modledger("owner", str(USER), **on(database))
    refused(from_nothing("owner", str(USER), **on(database)), 1, f"User {USER} already has level 3")


@pytest.mark.parametrize("discord_id", ["0", "-1", str(2**63), "abc"])
def test_an_id_out_of_range_is_refused(discord_id: str, database: str) -> None:
    refused(modledger("owner", "--", discord_id, **on(database)), 2, "DISCORD_ID")


def test_a_session_from_the_command_line_comes_as_a_cookie_jar_for_its_owner_only(
    database: str, tmp_path: Path
) -> None:
    modledger("owner", str(USER), **on(database))
    path = tmp_path / "jar.txt"
    done = modledger("session", str(USER), "--cookie-jar", str(path), **on(database), MODLEDGER_DEVELOPMENT="true")
    assert done.returncode == 0, done
    assert path.stat().st_mode & 0o777 == 0o600
    jar = MozillaCookieJar(path)
    jar.load()
    assert {cookie.domain: cookie.name for cookie in jar} == {"127.0.0.1": "hsession", "localhost": "hsession"}
    with psycopg.connect(database) as connection:
        assert connection.execute("select user_id from sessions").fetchall() == [(USER,)]


def test_nobody_is_logged_in_whom_the_ledger_has_never_seen(database: str, tmp_path: Path) -> None:
    path = tmp_path / "jar.txt"
    refused(modledger("session", "42", "--cookie-jar", str(path), **on(database)), 1, "user 42 was never seen")
    assert not path.exists()


def test_keys_are_shown_once_and_only_their_hash_is_kept(database: str) -> None:
    public = modledger("key", "public", **on(database)).stdout.strip()
    bot = modledger("key", "bot", "77", **on(database)).stdout.strip()
    assert re.fullmatch(r"hbot_[\w-]{43}", bot)
    with psycopg.connect(database) as connection:
        kept = connection.execute("select t::text from api_keys t").fetchall()
    assert len(kept) == 2
    assert not [row for row in kept if public in row[0] or bot in row[0]]


def test_an_import_that_skipped_something_ends_with_status_3(database: str, tmp_path: Path) -> None:
    good = {
        "kind": "user",
        "external_id": "u1",
        "discord_id": "5",
        "username": "five",
        "created_at": "2025-01-01T00:00:00Z",
    }
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(good) + "\n")
    assert modledger("import", str(file), **on(database)).returncode == 0
    file.write_text(json.dumps(good) + "\nnot json\n")
    refused(from_nothing("import", str(file), **on(database)), 3, "2")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"MODLEDGER_PORT": "abc"}, ["MODLEDGER_PORT", "'abc'"]),
        ({"MODLEDGER_PROT": "8000"}, ["MODLEDGER_PROT", "MODLEDGER_PORT"]),
        ({"MODLEDGER_MASTER_KEY": "c2hvcnQ="}, ["MODLEDGER_MASTER_KEY"]),
    ],
)
@pytest.mark.parametrize("command", ["up", "serve", "work", "migrate", "settings"])
def test_a_bad_setting_is_named_and_stops_the_start(command: str, settings: dict[str, str], words: list[str]) -> None:
    refused(modledger(command, **settings), 2, *words)


def test_settings_are_listed_without_their_secrets(database: str) -> None:
    listed = modledger("settings", **on(database))
    assert listed.returncode == 0
    assert "MODLEDGER_DATA_DIR" in listed.stdout
    assert on(database)["MODLEDGER_MASTER_KEY"] not in listed.stdout


def test_what_needs_no_database_does_not_wait_for_the_modules_that_talk_to_one() -> None:
    code = (
        "import sys; from modledger.workers.cli import cli; cli(['settings'], standalone_mode=False);"
        "sys.exit(sum(name in sys.modules for name in ('psycopg', 'litestar', 'structlog', 'cryptography')))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_help_names_every_command_with_what_it_does() -> None:
    helped = CliRunner().invoke(cli, ["--help"]).output
    listed = dict(re.findall(r"^  ([a-z]+)  +(\S.*)$", helped.partition("Commands:")[2], re.MULTILINE))
    assert set(listed) == {
        *("up", "serve", "work", "migrate", "owner", "session", "key", "import", "settings"),
        *("audit", "demo", "dump", "erase", "replay", "restore", "seal", "show", "verify"),
    }


@pytest.mark.parametrize("command", [["migrate"], ["up"], ["serve"], ["work"], ["owner", str(USER)], ["key", "rotate"]])
def test_a_database_of_a_newer_program_is_refused_and_left_as_it_is(
    command: list[str], database: str, tmp_path: Path
) -> None:
    settings = {**on(database), "MODLEDGER_DATA_DIR": str(tmp_path), "MODLEDGER_PORT": str(free_port())}
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("insert into migrations (number, name, checksum) values (9000, 'from_the_future', '')")
        before = connection.execute("select m::text from migrations as m order by 1").fetchall()
        refused(modledger(*command, **settings), 1, "9000_from_the_future", "by a newer version; start that one")
        assert connection.execute("select m::text from migrations as m order by 1").fetchall() == before
        # Nobody began an installation in it.
        assert connection.execute("select count(*) from installation").fetchone() == (0,)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["serve", "work"])
def test_a_database_that_was_not_migrated_is_refused(command: str, empty_database: str) -> None:
    refused(modledger(command, **on(empty_database)), 1, "run modledger migrate")


@pytest.mark.parametrize("command", [["owner", str(USER)], ["serve"], ["work"], ["migrate"], ["key", "rotate"]])
def test_another_master_key_is_refused_and_changes_nothing(
    command: list[str], database: str, ledger: PostgresLedger
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        before = connection.execute("select i::text from installation as i").fetchall()
        refused(modledger(*command, **on(database, key=bytes(32))), 2, "master key is not this installation's")
        assert connection.execute("select i::text from installation as i").fetchall() == before
    assert ledger.head() == 0


def test_a_lost_master_key_file_is_not_replaced_by_a_new_key(
    database: str, ledger: PostgresLedger, tmp_path: Path
) -> None:
    assert ledger.head() == 0
    done = from_nothing("work", MODLEDGER_DATABASE_URL=database, MODLEDGER_DATA_DIR=str(tmp_path))
    refused(done, 2, "master.key does not exist")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["seal", "check"], ["dump", "whole.dump"], ["key", "public"]])
def test_without_the_master_key_the_ledger_can_still_be_proved_and_copied(
    command: list[str], database: str, ledger: PostgresLedger, tmp_path: Path
) -> None:
    assert modledger("owner", str(USER), **on(database)).returncode == 0
    command = [str(tmp_path / word) if word.endswith(".dump") else word for word in command]
    done = modledger(*command, MODLEDGER_DATABASE_URL=database, MODLEDGER_DATA_DIR=str(tmp_path / "none"))
    assert done.returncode == 0, done


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    refused(from_nothing("migrate", MODLEDGER_DATABASE_URL="postgresql://nobody@127.0.0.1:9/none"), 1, "127.0.0.1")


def test_it_works_with_all_standard_streams_closed(empty_database: str) -> None:
    environment = {**os.environ, **on(empty_database)}
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "modledger.workers", "migrate"]
    assert subprocess.run(closed, env=environment, check=False).returncode == 0
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("select count(*) from migrations").fetchone() == (len(migrations()),)

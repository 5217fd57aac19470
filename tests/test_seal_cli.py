"""``modledger seal`` as an operator and an auditor use it, beside a checker written from docs/proof.md alone."""

import ast
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner

from modledger.workers.seal_cli import seal
from tests import independent_checker
from tests.databases import MASTER_KEY
from tests.postgres_server import create_database, drop_database
from tests.sealing import SEED, fill, unguarded
from tests.test_cli import modledger, refused

CHECKER = Path(__file__).with_name("independent_checker.py")


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """A ledger of 600 events."""
    with psycopg.connect(database, autocommit=True) as opened:
        begin(opened)
        yield opened


@pytest.fixture
def settings(database: str, connection: psycopg.Connection) -> dict[str, str]:
    return settings_of(database)


def settings_of(database: str) -> dict[str, str]:
    return {"MODLEDGER_DATABASE_URL": database, "MODLEDGER_SEAL_KEY": b64encode(SEED).decode()}


def begin(connection: psycopg.Connection) -> None:
    connection.execute("insert into installation (master_key_check) values ('')")
    fill(connection, 600)


def ok(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done
    return done.stdout


def stranger(key: str, *files: Path) -> "subprocess.CompletedProcess[str]":
    # -I: neither this folder nor the environment helps it.
    command = [sys.executable, "-I", str(CHECKER), key, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def status_of(key: str, file: Path) -> tuple[int, bool]:
    """How our check of a file ends, and whether the stranger finds it good; both in this process, for long tables."""
    ours = CliRunner().invoke(seal, ["check", "--public-key", key, str(file)])
    assert isinstance(ours.exception, SystemExit | None), ours
    try:
        independent_checker.check(file.read_bytes(), key)
    except (independent_checker.Wrong, ValueError, KeyError, IndexError):
        return ours.exit_code, False
    return ours.exit_code, True


class Kit(NamedTuple):
    """What an auditor took away: the public key, two heads, proofs between them and of an event, and all events."""

    database: str
    key: str
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def taken_away(postgres_server: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """Made once. To its database, named here for copies to be made of it, nobody stays connected."""
    name = f"kit_{uuid4().hex}"
    database = create_database(postgres_server, name, template_database)
    settings = settings_of(database)
    with psycopg.connect(database, autocommit=True) as connection:
        begin(connection)
        old = ok(modledger("seal", "head", **settings))
        fill(connection, 411)
    file = tmp_path_factory.mktemp("kit") / "ledger.jsonl"
    new = ok(modledger("seal", "head", **settings))
    proof = ok(modledger("seal", "prove", "300", **settings))
    link = ok(modledger("seal", "consistency", "600", **settings))
    ok(modledger("seal", "export", str(file), **settings))
    texts = {"old.txt": old, "new.txt": new, "proof.json": proof, "link.json": link}
    files = {name: text.encode() for name, text in texts.items()} | {"ledger.jsonl": file.read_bytes()}
    yield Kit(name, ok(modledger("seal", "key", **settings)).strip(), files)
    drop_database(postgres_server, name)


@pytest.fixture
def kit(taken_away: Kit, tmp_path: Path) -> tuple[str, dict[str, Path]]:
    """The public key and the files, the test's own."""
    for name, content in taken_away.files.items():
        (tmp_path / name).write_bytes(content)
    return taken_away.key, {name: tmp_path / name for name in taken_away.files}


@pytest.fixture
def left_behind(postgres_server: str, taken_away: Kit) -> Iterator[tuple[psycopg.Connection, dict[str, str]]]:
    """The database that the kit was taken from, the test's own, and the settings that lead to it."""
    name = f"left_{uuid4().hex}"
    database = create_database(postgres_server, name, taken_away.database)
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened, settings_of(database)
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def head_and_one_more(postgres_server: str, template_database: str) -> Iterator[dict[str, str]]:
    """The settings of a ledger that is sealed but for its last event, for calls that change nothing."""
    name = f"sealed_{uuid4().hex}"
    settings = settings_of(create_database(postgres_server, name, template_database))
    with psycopg.connect(settings["MODLEDGER_DATABASE_URL"], autocommit=True) as connection:
        begin(connection)
        ok(modledger("seal", "head", **settings))
        fill(connection, 1)
    yield settings
    drop_database(postgres_server, name)


def test_what_an_auditor_took_away_is_checked_offline_with_the_public_key_only(
    kit: tuple[str, dict[str, Path]],
) -> None:
    key, files = kit
    # Without any setting: where the database is, nobody says.
    checked = ok(modledger("seal", "check", "--public-key", key, *map(str, files.values())))
    for said in (
        "the head of 600 events, up to position 600",
        "the head of 1011 events, up to position 1011",
        "the event at position 300 is in the ledger of 1011 events",
        "the ledger of 1011 events begins with that of 600, unchanged",
        "1011 events, 2 heads, the last good one of 1011 events",
    ):
        assert said in checked


def test_a_checker_written_from_the_page_alone_finds_the_same(kit: tuple[str, dict[str, Path]]) -> None:
    key, files = kit
    assert [line.partition(": ")[2] for line in ok(stranger(key, *files.values())).splitlines()] == [
        "a head of 600 events, up to position 600",
        "a head of 1011 events, up to position 1011",
        "position 300 is in the ledger of 1011 events",
        "1011 events begin with the 600",
        "1011 events are what was sealed",
    ]


def test_the_stranger_knows_nothing_of_this_program() -> None:
    imported = set()
    for one in ast.walk(ast.parse(CHECKER.read_text("utf-8"))):
        if isinstance(one, ast.Import):
            imported |= {alias.name for alias in one.names}
        elif isinstance(one, ast.ImportFrom):
            imported.add((one.module or "").partition(".")[0])
    assert imported == {"base64", "cryptography", "hashlib", "json", "struct", "sys", "typing"}


def test_both_checkers_find_every_forgery(kit: tuple[str, dict[str, Path]], tmp_path: Path) -> None:
    key, files = kit
    proof, link = (json.loads(files[name].read_text("utf-8")) for name in ("proof.json", "link.json"))
    forged = tmp_path / "forged"
    old, new = (files[name].read_text("utf-8") for name in ("old.txt", "new.txt"))
    proof_changes: list[dict[str, Any]] = [
        {"leaf_index": 300},
        {"leaf_index": 10**6},
        {"path": proof["path"][:-1]},
        {"path": [*proof["path"], proof["path"][0]]},
        {"path": proof["path"][::-1]},
        {"tree_size": 1010},
        {"position": 301},
        {"head": old},
    ]
    link_changes: list[dict[str, Any]] = [
        {"path": link["path"][:-1]},
        {"path": []},
        {"from_root": link["to_root"]},
        {"from_size": 599},
        {"from_head": new},
        {"to_head": old},
    ]
    forgeries = [
        old.replace("\n600\n", "\n601\n"),
        old.replace("position 600", "position 601"),
        *(json.dumps(proof | changed) for changed in proof_changes),
        *(json.dumps(link | changed) for changed in link_changes),
    ]
    for number, content in enumerate(forgeries):
        forged.write_text(content, "utf-8")
        assert status_of(key, forged) == (1, False), (number, content)


def ended(lines: list[str]) -> str:
    """An export of these lines, as whole as one that was never touched."""
    text = "".join(lines)
    last = {"lines": len(lines), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return text + json.dumps(last, separators=(",", ":")) + "\n"


def test_events_of_an_export_that_no_head_covers_are_not_taken_for_proved(
    kit: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    key, files = kit
    lines = files["ledger.jsonl"].read_text("utf-8").splitlines(keepends=True)[:-1]
    forged = tmp_path / "forged"
    forged.write_text(ended(lines), "utf-8")
    assert status_of(key, forged) == (0, True)
    heads = [n for n, line in enumerate(lines) if '"head"' in line]
    whole = json.loads(lines[heads[-1] - 1])
    # An event that was made up, with a hash that fits, after all that was ever signed.
    leaf = bytearray(base64.b64decode(whole["leaf"]))
    leaf[6:14] = (whole["position"] + 1).to_bytes(8, "big")
    more = {
        "position": whole["position"] + 1,
        "leaf_index": whole["leaf_index"] + 1,
        "sealed": base64.b64encode(hashlib.sha256(b"\x00" + leaf).digest()).decode(),
        "leaf": base64.b64encode(leaf).decode(),
    }
    without_heads = [line for n, line in enumerate(lines) if n not in heads]
    for content in (
        [*lines, json.dumps(more) + "\n"],
        without_heads,
        lines[: heads[0]],
        lines[: heads[0] + 2],
    ):
        forged.write_text(ended(content), "utf-8")
        assert status_of(key, forged) == (1, False), content[-1]
        told = CliRunner().invoke(seal, ["check", "--public-key", key, str(forged)]).output
        assert "covered by no head that is good: nothing proves them" in told
    # A kept head covers them as well as one in the file.
    forged.write_text(ended(without_heads), "utf-8")
    head = files["new.txt"]
    done = CliRunner().invoke(seal, ["check", "--public-key", key, "--head", str(head), str(forged)])
    assert (done.exit_code, "covered by no head" in done.output) == (0, False), done


def test_an_export_that_does_not_fit_on_the_disk_leaves_nothing_and_says_so(
    settings: dict[str, str], tmp_path: Path
) -> None:
    ok(modledger("seal", "head", **settings))
    for command in (["seal", "export"], ["dump"]):
        file = tmp_path / "taken away"
        done = subprocess.run(
            # No file may grow beyond 16 KiB, whatever the disk; the database runs elsewhere.
            [
                "sh",
                "-c",
                'ulimit -f 32; exec "$@"',
                "sh",
                sys.executable,
                "-m",
                "modledger.workers",
                *command,
                str(file),
            ],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 1, done
        assert f"{file}: File too large; nothing of it is left" in done.stderr
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []


def test_files_of_another_key_prove_nothing(kit: tuple[str, dict[str, Path]]) -> None:
    _, files = kit
    other = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    for file in files.values():
        assert status_of(other, file) == (1, False)


def test_a_byte_changed_in_sql_is_found_and_named_in_the_database_and_in_an_export(
    left_behind: tuple[psycopg.Connection, dict[str, str]], kit: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    key, files = kit
    connection, settings = left_behind
    assert "1011 events, 2 heads, the last good one of 1011 events" in ok(modledger("seal", "check", **settings))
    unguarded(
        connection, "update ledger set state = set_byte(state, 2, get_byte(state, 2) # 1) where notification_id = 300"
    )
    found = modledger("seal", "check", "--public-key", key, "--head", str(files["old.txt"]), **settings)
    refused(found, 1, "differences from what was sealed: 1")
    assert "position 300: changed\n" in found.stdout
    ok(modledger("seal", "export", str(tmp_path / "after.jsonl"), **settings))
    found = modledger("seal", "check", "--public-key", key, str(tmp_path / "after.jsonl"))
    refused(found, 1)
    assert found.stdout.startswith("position 300: changed\n")
    assert "position 300 was changed" in stranger(key, tmp_path / "after.jsonl").stderr
    refused(modledger("seal", "prove", "300", **settings), 2, "The event at position 300 is not what was sealed")


def test_a_kept_head_finds_that_the_end_was_cut_off(
    left_behind: tuple[psycopg.Connection, dict[str, str]], kit: tuple[str, dict[str, Path]]
) -> None:
    _, files = kit
    connection, settings = left_behind
    for table in ("seals", "seal_tiles"):
        unguarded(connection, f"delete from {table}")
    unguarded(connection, "delete from ledger where notification_id > 600")
    ok(modledger("seal", "head", **settings))
    ok(modledger("seal", "check", **settings))
    found = modledger("seal", "check", "--head", str(files["new.txt"]), **settings)
    refused(found, 1)
    assert "the end of the ledger was taken away" in found.stdout


def test_other_columns_of_the_ledger_are_told(connection: psycopg.Connection, settings: dict[str, str]) -> None:
    ok(modledger("seal", "head", **settings))
    unguarded(connection, "alter table ledger alter notification_id type integer")
    refused(modledger("seal", "check", **settings), 1, "the table ledger has other columns")
    unguarded(connection, "alter table ledger drop column via cascade")
    refused(modledger("seal", "check", **settings), 1, "via")


def test_the_state_of_sealing_is_told(connection: psycopg.Connection, settings: dict[str, str]) -> None:
    before = ok(modledger("seal", "status", **settings))
    assert "events sealed    0" in before
    assert "not sealed yet   600" in before
    ok(modledger("seal", "head", **settings))
    fill(connection, 5)
    after = ok(modledger("seal", "status", **settings))
    assert "events sealed    600, up to position 600" in after
    assert "not sealed yet   5" in after
    assert ok(modledger("seal", "key", **settings)) in after


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("prove", "601"), 2, "Position 601 is not sealed yet: the last head is of position 600"),
        (("prove", "602"), 2, "Event not found"),
        (("prove", "0"), 2, "0 is not in the range"),
        (("prove", "x"), 2, "POSITION"),
        (("consistency", "5", "4"), 2, "5 is more than 4"),
        (("consistency", "5", "601"), 2, "601 events are not sealed yet"),
        (("consistency", "0"), 2, "0 is not in the range"),
        (("check", "nothing.txt"), 2, "nothing.txt"),
        (("check", str(CHECKER)), 2, "say with --public-key"),
        (("check", "--public-key", "x", str(CHECKER)), 2, "is no public key"),
        (("export", "/nowhere/at/all"), 1, "/nowhere/at/all"),
        (("new-key",), 1, "is in force already: for a new key change MODLEDGER_SEAL_KEY first"),
    ],
)
def test_bad_input_is_one_clear_line(
    head_and_one_more: dict[str, str], arguments: tuple[str, ...], status: int, said: str
) -> None:
    refused(modledger("seal", *arguments, **head_and_one_more), status, said)


def test_before_anything_is_sealed_there_is_nothing_to_prove(settings: dict[str, str], tmp_path: Path) -> None:
    for arguments in (("prove", "1"), ("consistency", "1"), ("export", str(tmp_path / "file"))):
        refused(modledger("seal", *arguments, **settings), 2, "Nothing is sealed yet")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_ends_with_status_2(kit: tuple[str, dict[str, Path]]) -> None:
    key, files = kit
    for file in files.values():
        whole = file.read_bytes()
        for damaged in (whole[:-30], b"", whole[: len(whole) // 2], b"\xff" + whole):
            file.write_bytes(damaged)
            assert status_of(key, file) == (2, False), file
        refused(modledger("seal", "check", "--public-key", key, str(file)), 2, f"{file} is damaged")
        file.write_bytes(whole)
        assert status_of(key, file) == (0, True)


def test_a_single_flipped_bit_of_an_export_ends_with_status_2(kit: tuple[str, dict[str, Path]]) -> None:
    key, files = kit
    file = files["ledger.jsonl"]
    whole = bytearray(file.read_bytes())
    where = whole.index(b'"leaf":"', 40_000) + 60
    whole[where] = ord("A") if whole[where] != ord("A") else ord("B")
    file.write_bytes(whole)
    refused(modledger("seal", "check", "--public-key", key, str(file)), 2, "the checksum is not that of the lines")


def test_the_key_is_made_at_the_first_start_and_its_loss_is_told(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    own = {"MODLEDGER_DATABASE_URL": database, "MODLEDGER_DATA_DIR": str(tmp_path / "data")}
    ok(modledger("seal", "head", **own))
    file = tmp_path / "data" / "seal.key"
    assert file.stat().st_mode & 0o777 == 0o600
    fill(connection, 1)
    file.rename(tmp_path / "kept")
    refused(modledger("seal", "head", **own), 1, "seal.key does not exist", "modledger seal new-key")
    old = ok(modledger("seal", "key", **own))
    new = ok(modledger("seal", "new-key", **own))
    assert old != new == ok(modledger("seal", "key", **own))
    assert "\n601\n" in ok(modledger("seal", "head", **own))
    ok(modledger("seal", "check", **own))
    ok(modledger("seal", "check", "--public-key", old.strip(), "--public-key", new.strip(), **own))
    refused(modledger("seal", "check", "--public-key", new.strip(), **own), 1)


def test_the_private_key_is_never_shown(settings: dict[str, str]) -> None:
    secret = b64encode(SEED).decode()
    for arguments in (("settings",), ("seal", "status"), ("seal", "head"), ("seal", "key")):
        done = modledger(*arguments, **settings)
        assert secret not in done.stdout + done.stderr
    assert re.search(r"MODLEDGER_SEAL_KEY\s*│ \*\*\*", modledger("settings", **settings).stdout)


def test_the_master_key_is_not_needed_to_prove_or_check(settings: dict[str, str]) -> None:
    assert b64encode(MASTER_KEY).decode() not in settings.values()
    ok(modledger("seal", "head", **settings))
    ok(modledger("seal", "check", **settings))

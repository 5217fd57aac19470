"""What an import goes past: every reason, told with the number of the line, and nothing of it in the ledger."""

import io
import json
import os
import re
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modledger.domain.importing import MAX_LINE, Record, Unfit, read_record
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.importer import import_file
from tests.import_scenario import NOW

ROOT = Path(__file__).resolve().parent.parent

USER: dict[str, Any] = {
    "kind": "user",
    "external_id": "u",
    "discord_id": "1",
    "username": "ada",
    "created_at": "2025-01-01T00:00:00Z",
}
GUILD: dict[str, Any] = {
    "kind": "guild",
    "external_id": "g",
    "discord_id": "1",
    "name": "Quay",
    "created_at": "2025-01-01T00:00:00Z",
}
BOT: dict[str, Any] = {**GUILD, "kind": "bot", "external_id": "b", "owner_discord_id": "1"}
BAN: dict[str, Any] = {
    "kind": "punishment",
    "external_id": "p",
    "discord_user_id": "1",
    "punishment_type": "BAN",
    "reason": "raid",
    "created_at": "2025-01-01T00:00:00Z",
    "expires_at": "2025-02-01T00:00:00Z",
}
TIMEOUT: dict[str, Any] = {**BAN, "punishment_type": "TIMEOUT"}
FOREVER: dict[str, Any] = {**BAN, "expires_at": None}
TIER: dict[str, Any] = {
    "kind": "subscription",
    "external_id": "s",
    "discord_user_id": "1",
    "old_tier": 0,
    "new_tier": 2,
    "created_at": "2025-01-01T00:00:00Z",
    "expires_at": "2025-02-01T00:00:00Z",
}
LEVEL: dict[str, Any] = {
    "kind": "permission",
    "external_id": "l",
    "discord_user_id": "1",
    "old_level": 0,
    "new_level": 1,
    "reason": "hired",
    "created_at": "2025-01-01T00:00:00Z",
}
NO_NAME = {key: value for key, value in USER.items() if key != "username"}
NO_ID = {key: value for key, value in BAN.items() if key != "discord_user_id"}
NO_KIND = {key: value for key, value in USER.items() if key != "kind"}

TEMPLATES = {line["external_id"] for line in (USER, GUILD, BOT, BAN, TIER, LEVEL)}

# A line, whatever it is, and the start of what is said about it.
FAULTS: list[tuple[bytes | dict[str, Any], str]] = [
    (b"{", "not JSON: "),
    (b"user,1,ada", "not JSON: "),
    (b'{"kind": "user"} {}', "missing field: Object missing required field `external_id`"),
    (json.dumps(USER).encode() + b" {}", "not JSON: "),
    (b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "not JSON: nested too deeply"),
    (b'{"kind": "user", "external_id": "\xff"}', "not UTF-8: byte 34 of the line"),
    (b'{"kind": "user", "external_id": "\\ud800"}', "not JSON: "),
    (b"[]", "not an object: "),
    (b"7", "not an object: "),
    (b"null", "not an object: "),
    (b" " * 10 + b'{"kind": "user"}' + b" " * MAX_LINE, "line too long: more than 65536 bytes"),
    ({**USER, "kind": "role"}, "unknown kind: 'role'"),
    ({**USER, "kind": "User"}, "unknown kind: 'User'"),
    ({**USER, "kind": 3}, "wrong type: Expected `str` at `kind`"),
    (NO_KIND, "missing field: Object missing required field `kind`"),
    (NO_NAME, "missing field: Object missing required field `username`"),
    (NO_ID, "missing field: discord_user_id or discord_guild_id is required"),
    ({**BAN, "expires_at": None, "punishment_type": 2}, "missing field: expires_at is required for a timeout"),
    ({**BAN, "is_lifted": True}, "missing field: lifted_at is required"),
    ({**BAN, "discord_lifted_by_id": 2}, "missing field: lifted_at is required"),
    ({**BAN, "lifted_reason": "appeal"}, "missing field: lifted_at is required"),
    ({**TIER, "expires_at": None}, "missing field: expires_at is required for new_tier 2"),
    ({**USER, "level": 3}, "unknown field: Object contains unknown field `level`"),
    ({**USER, "\x1b[31m": 3}, r"unknown field: Object contains unknown field `\x1b[31m`"),
    ({**USER, "username": 7}, "wrong type: Expected `str`, got `int` at `username`"),
    ({**USER, "username": None}, "wrong type: Expected `str`, got `null` at `username`"),
    ({**USER, "external_id": 7}, "wrong type: Expected `str`, got `int` at `external_id`"),
    ({**USER, "created_at": 1735689600}, "wrong type: Expected `datetime`, got `int` at `created_at`"),
    ({**USER, "discord_id": "ada"}, "wrong type: Expected an id, an integer or a string of digits at `discord_id`"),
    ({**USER, "discord_id": "١"}, "wrong type: Expected an id"),
    ({**USER, "discord_id": 1.5}, "wrong type: Expected an id"),
    ({**USER, "discord_id": True}, "wrong type: Expected an id"),
    ({**USER, "discord_id": None}, "wrong type: Expected an id"),
    ({**USER, "discord_id": -1}, "out of range: Expected an id between 1 and 2^63-1 at `discord_id`"),
    ({**USER, "discord_id": 0}, "out of range: Expected an id"),
    ({**USER, "discord_id": "0"}, "out of range: Expected an id"),
    ({**USER, "discord_id": 2**63}, "out of range: Expected an id"),
    ({**USER, "discord_id": str(2**63)}, "out of range: Expected an id"),
    ({**USER, "discord_id": "9" * 5000}, "out of range: Expected an id"),
    ({**BAN, "discord_issued_by_id": 0}, "out of range: Expected an id between 1 and 2^63-1 at `discord_issued_by_id`"),
    ({**USER, "external_id": ""}, "out of range: Expected `str` of length >= 1 at `external_id`"),
    ({**USER, "external_id": "x" * 256}, "out of range: Expected `str` of length <= 255 at `external_id`"),
    ({**BAN, "punishment_type": 5}, "out of range: Invalid enum value 5 at `punishment_type`"),
    ({**BAN, "punishment_type": "KICK"}, "out of range: Invalid enum value 'KICK' at `punishment_type`"),
    ({**TIER, "new_tier": 4}, "out of range: Expected `int` <= 3 at `new_tier`"),
    ({**TIER, "old_tier": -1}, "out of range: Expected `int` >= 0 at `old_tier`"),
    ({**LEVEL, "new_level": 4}, "out of range: Expected `int` <= 3 at `new_level`"),
    ({**LEVEL, "old_level": -1}, "out of range: Expected `int` >= 0 at `old_level`"),
    ({**BOT, "bot_type": 4}, "out of range: Expected `int` <= 3 at `bot_type`"),
    ({**BOT, "rate_limit_per_hour": 0}, "out of range: Expected `int` >= 1 at `rate_limit_per_hour`"),
    ({**USER, "created_at": "0001-01-01T00:00:00+10:00"}, "out of range: created_at is out of range"),
    ({**USER, "created_at": "2025-01-01T00:00:00"}, "date without offset: Expected `datetime` with a timezone"),
    ({**BAN, "expires_at": "2025-02-01T00:00:00"}, "date without offset: "),
    ({**USER, "created_at": "yesterday"}, "not a date: Invalid RFC3339 encoded datetime at `created_at`"),
    ({**USER, "created_at": "2025-02-30T00:00:00Z"}, "not a date: "),
    ({**USER, "created_at": "2026-03-10T12:00:01Z"}, "date in the future: created_at is after the import"),
    ({**FOREVER, "lifted_at": "2026-03-10T12:00:01Z"}, "date in the future: lifted_at is after the import"),
    ({**BAN, "expires_at": BAN["created_at"]}, "end before start: expires_at must be after created_at"),
    ({**TIER, "expires_at": "2024-12-31T23:59:59Z"}, "end before start: expires_at must be after created_at"),
    ({**BAN, "lifted_at": "2024-12-31T23:59:59Z"}, "lift before start: lifted_at must not be before created_at"),
    ({**BAN, "lifted_at": "2025-02-01T00:00:01Z"}, "lift after end: lifted_at must not be after expires_at"),
    ({**BAN, "reason": ""}, "invalid text: reason must be between 1 and 512 characters"),
    ({**BAN, "reason": " \t "}, "invalid text: reason must be between 1 and 512 characters"),
    ({**BAN, "reason": "x" * 513}, "invalid text: reason must be between 1 and 512 characters"),
    ({**BAN, "reason": "a\0b"}, "invalid text: reason must not contain a NUL character"),
    ({**BAN, "lifted_at": BAN["expires_at"], "lifted_reason": ""}, "invalid text: reason must be between"),
    ({**LEVEL, "reason": ""}, "invalid text: reason must be between"),
    ({**TIER, "reason": "x" * 513}, "invalid text: reason must be between"),
    ({**USER, "username": "x" * 65}, "invalid text: username must be between 1 and 64 characters"),
    ({**USER, "username": "a\nb"}, "invalid text: username must not contain control characters"),
    ({**USER, "avatar_url": "javascript:alert(1)"}, "invalid text: avatar_url must be an http or https URL"),
    ({**USER, "prefix": "a b"}, "invalid text: prefix must not contain white space"),
    ({**USER, "external_id": "a\0"}, "invalid text: external_id must not contain control characters"),
    ({**GUILD, "name": "x" * 101}, "invalid text: name must be between 1 and 100 characters"),
    ({**GUILD, "prefix": "abcdef"}, "invalid text: prefix must be between 1 and 5 characters"),
    ({**BOT, "name": "x"}, "invalid text: name must be between 2 and 32 characters"),
    ({**BAN, "discord_guild_id": "1"}, "contradiction: discord_user_id and discord_guild_id exclude each other"),
    ({**BAN, "punishment_type": "WARNING"}, "contradiction: expires_at does not apply to a warning"),
    ({**BAN, "punishment_type": "GUILD_BLACKLIST"}, "contradiction: a user cannot have this punishment_type"),
    ({**NO_ID, "discord_guild_id": "1"}, "contradiction: a guild cannot have this punishment_type"),
    ({**NO_ID, "discord_guild_id": "1", "punishment_type": 2}, "contradiction: a guild cannot have this"),
    ({**BAN, "is_lifted": False, "lifted_at": BAN["expires_at"]}, "contradiction: lifted_at is given although"),
    ({**TIER, "new_tier": 3}, "contradiction: expires_at does not apply to new_tier 3"),
    ({**TIER, "old_tier": 2, "new_tier": 0}, "contradiction: expires_at does not apply to new_tier 0"),
    ({**TIER, "new_tier": 0, "expires_at": None}, "no change: old_tier and new_tier are the same"),
    ({**TIER, "old_tier": 3, "new_tier": 3, "expires_at": None}, "no change: old_tier and new_tier are the same"),
    ({**LEVEL, "new_level": 0}, "no change: old_level and new_level are the same"),
]


def put(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def as_line(line: bytes | dict[str, Any]) -> bytes:
    return line if isinstance(line, bytes) else json.dumps(line).encode()


def test_every_bad_line_is_told_by_number_and_reason_and_the_others_are_taken(
    ledger: PostgresLedger, tmp_path: Path
) -> None:
    # Every one under an id of its own, or the second of a kind would count as there already.
    lines = [
        as_line({**line, "external_id": f"fault {number}"} if line.get("external_id") in TEMPLATES else line)
        if isinstance(line, dict)
        else line
        for number, (line, _) in enumerate(FAULTS)
    ]
    before, after = {**USER, "discord_id": "2"}, {**LEVEL, "discord_user_id": "2"}
    file = put(tmp_path / "old.jsonl", [as_line(before), *lines, as_line(after)])
    told = io.StringIO()
    report = import_file(ledger, file, now=NOW, console=Console(file=told))
    for number, (heard, (line, expected)) in enumerate(zip(told.getvalue().splitlines(), FAULTS, strict=True), start=2):
        assert heard.startswith(f"line {number}: {expected}"), (line, heard)
    assert report.skipped == Counter(expected.partition(": ")[0] for _, expected in FAULTS)
    assert (report.read, report.added, report.already_there) == (len(FAULTS) + 2, 2, 0)
    assert [recorded.stream for recorded in ledger.read(0, 100)] == ["user:2", "user:2"]


def test_docs_name_exactly_the_reasons_that_there_are() -> None:
    section = (ROOT / "docs" / "import.md").read_text().partition("## Why a line is skipped")[2]
    documented = {
        name for row in re.findall(r"^\|(.*?)\|", section, re.MULTILINE) for name in re.findall("`(.*?)`", row)
    }
    seen = {expected.partition(": ")[0] for _, expected in FAULTS}
    assert documented == seen | {"overlap", "second trial", "erased subject"}


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        (("2025-01-01", "2025-02-01", None), ("2025-02-01", "2025-03-01", None), True),
        (("2025-01-01", "2025-02-01", None), ("2025-01-31", "2025-03-01", None), False),
        (("2025-02-01", "2025-03-01", None), ("2025-01-01", "2025-02-01", None), True),
        (("2025-02-01", "2025-03-01", None), ("2025-01-01", "2025-02-02", None), False),
        (("2025-01-01", None, None), ("2026-01-01", None, None), False),
        (("2026-01-01", None, None), ("2025-01-01", None, None), False),
        (("2025-01-01", None, "2025-01-05"), ("2025-01-05", None, None), True),
        (("2025-01-01", None, "2025-01-05"), ("2025-01-04", None, None), False),
        (("2025-01-05", "2025-01-06", None), ("2025-01-01", "2027-01-01", None), False),
        (("2025-01-01", "2027-01-01", None), ("2025-01-05", "2025-01-06", None), False),
        (("2025-01-01", "2027-01-01", "2025-01-05"), ("2025-01-05", "2025-01-06", None), True),
    ],
)
def test_two_bans_of_one_user_never_overlap_not_even_in_the_past(
    ledger: PostgresLedger,
    tmp_path: Path,
    first: tuple[str, str | None, str | None],
    second: tuple[str, str | None, str | None],
    fits: bool,
) -> None:
    def ban(external_id: str, dates: tuple[str, str | None, str | None]) -> bytes:
        created, expires, lifted = (day and f"{day}T00:00:00Z" for day in dates)
        mine = {"external_id": external_id, "created_at": created, "expires_at": expires, "lifted_at": lifted}
        return as_line({**BAN, **mine})

    file = put(tmp_path / "old.jsonl", [ban("a", first), ban("b", second)])
    report = import_file(ledger, file, now=NOW, console=Console(file=io.StringIO()))
    assert report.skipped == ({} if fits else {"overlap": 1})
    assert report.added == 1 + fits


def test_other_types_and_other_subjects_do_not_overlap(ledger: PostgresLedger, tmp_path: Path) -> None:
    lines = [
        BAN,
        {**BAN, "external_id": "other user", "discord_user_id": "2"},
        {**TIMEOUT, "external_id": "timeout"},
        {**FOREVER, "external_id": "warning", "punishment_type": "WARNING"},
        {**FOREVER, "external_id": "second warning", "punishment_type": "WARNING"},
    ]
    file = put(tmp_path / "old.jsonl", [as_line(line) for line in lines])
    report = import_file(ledger, file, now=NOW)
    assert (report.added, report.skipped) == (5, {})


def test_a_second_trial_is_skipped_whichever_is_older(ledger: PostgresLedger, tmp_path: Path) -> None:
    trial = {**TIER, "new_tier": 1}
    earlier = {**trial, "external_id": "earlier", "created_at": "2024-01-01T00:00:00Z"}
    later = {**trial, "external_id": "later", "created_at": "2025-01-20T00:00:00Z"}
    told = io.StringIO()
    file = put(tmp_path / "old.jsonl", [as_line(line) for line in (trial, earlier, later)])
    report = import_file(ledger, file, now=NOW, console=Console(file=told))
    assert (report.added, report.skipped) == (1, {"second trial": 2})
    assert told.getvalue().splitlines()[0] == "line 2: second trial: user 1 has already used the trial"


def test_a_line_without_end_costs_no_memory_and_keeps_the_count_of_lines(
    ledger: PostgresLedger, tmp_path: Path
) -> None:
    told = io.StringIO()
    file = put(tmp_path / "old.jsonl", [b"x" * 5_000_000, b"{", as_line(USER)])
    report = import_file(ledger, file, now=NOW, console=Console(file=told))
    assert [line.partition(": ")[0] for line in told.getvalue().splitlines()] == ["line 1", "line 2"]
    assert (report.read, report.added, report.skipped) == (3, 1, {"line too long": 1, "not JSON": 1})


@pytest.mark.parametrize("size", [MAX_LINE - 1, MAX_LINE])
@pytest.mark.parametrize("line_break", [b"", b"\n", b"\r\n"])
def test_a_line_of_at_most_64_kib_is_read(ledger: PostgresLedger, tmp_path: Path, size: int, line_break: bytes) -> None:
    file = tmp_path / "old.jsonl"
    file.write_bytes(as_line(USER).ljust(size) + line_break)
    assert import_file(ledger, file, now=NOW).added == 1


@pytest.mark.parametrize("line_break", [b"", b"\n", b"\r\n"])
def test_a_line_of_one_byte_more_is_not(ledger: PostgresLedger, tmp_path: Path, line_break: bytes) -> None:
    file = tmp_path / "old.jsonl"
    file.write_bytes(as_line(USER).ljust(MAX_LINE + 1) + line_break + as_line(LEVEL))
    report = import_file(ledger, file, now=NOW, console=Console(file=io.StringIO()))
    assert (report.added, report.skipped) == ((1, {"line too long": 1}) if line_break else (0, {"line too long": 1}))


def test_a_byte_order_mark_blank_lines_and_other_line_breaks_are_no_fault(
    ledger: PostgresLedger, tmp_path: Path
) -> None:
    file = tmp_path / "old.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + as_line(USER) + b"\r\n\r\n  \n" + b"{\r\n" + as_line(LEVEL))
    told = io.StringIO()
    report = import_file(ledger, file, now=NOW, console=Console(file=told))
    assert (report.read, report.added) == (3, 2)
    assert told.getvalue().startswith("line 4: not JSON")


def test_an_empty_file_brings_nothing(ledger: PostgresLedger, tmp_path: Path) -> None:
    report = import_file(ledger, put(tmp_path / "old.jsonl", []), now=NOW)
    assert (report.read, report.added, report.already_there, report.skipped) == (0, 0, 0, {})


def test_a_pipe_is_read_like_a_file(ledger: PostgresLedger, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(as_line(USER) + b"\n" + as_line(LEVEL),))
    writer.start()
    report = import_file(ledger, pipe, now=NOW)
    writer.join()
    assert (report.read, report.added) == (2, 2)


@pytest.mark.parametrize("value", [1, "1", 2**63 - 1, str(2**63 - 1), "007"])
def test_an_id_is_an_integer_or_a_string_of_digits(value: int | str) -> None:
    record: Record = read_record(as_line({**USER, "discord_id": value}))
    assert getattr(record, "discord_id") == int(value)  # noqa: B009


def test_a_date_of_this_very_second_is_not_in_the_future(ledger: PostgresLedger, tmp_path: Path) -> None:
    lines = [
        as_line({**USER, "created_at": "2026-03-10T13:00:00.9+01:00"}),
        as_line({**LEVEL, "created_at": (NOW + timedelta(seconds=1)).isoformat()}),
    ]
    report = import_file(ledger, put(tmp_path / "old.jsonl", lines), now=NOW, console=Console(file=io.StringIO()))
    assert (report.added, report.skipped) == (1, {"date in the future": 1})


def test_text_that_is_no_json_at_all_never_raises_anything_but_unfit() -> None:
    line = as_line(BAN)
    for cut in range(len(line)):
        with pytest.raises(Unfit):
            read_record(line[:cut])
        with pytest.raises(Unfit):
            read_record(line[:cut] + b"\x00" + line[cut:])

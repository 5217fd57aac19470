"""An import brings events of their own dates and actors, once, and leaves the present alone."""

import base64
import io
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from psycopg.conninfo import make_conninfo
from rich.console import Console

from bench.import_records import records, write
from modledger.domain import commands, events
from modledger.domain.envelope import SYSTEM, Actor, Recorded, Subject
from modledger.domain.importing import NO_REASON
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.subjects import User
from modledger.workers.importer import import_file, render
from tests.databases import MASTER_KEY
from tests.forked import modledger, start
from tests.import_scenario import NOW, ban, brought, day, live, state_of, take
from tests.postgres_processes import ask, until
from tests.postgres_server import create_database, drop_database

ROOT = Path(__file__).resolve().parent.parent

EXAMPLE = ROOT / "docs" / "import_example.jsonl"

EXAMPLE_USER, WARDEN, OFFENDER = 123456789012345678, 999888777666555444, 111222333444555666


@pytest.fixture
def second_ledger(postgres_server: str, template_database: str) -> Iterator[PostgresLedger]:
    """An empty ledger beside ``ledger``."""
    name = f"test_{uuid4().hex}"
    with PostgresLedger(create_database(postgres_server, name, template_database), MASTER_KEY) as opened:
        yield opened
    drop_database(postgres_server, name)


def test_the_example_of_the_docs_becomes_events_of_its_own_dates_and_actors(ledger: PostgresLedger) -> None:
    report = import_file(ledger, EXAMPLE, now=NOW)
    assert (report.read, report.added, report.already_there, report.skipped) == (15, 15, 0, {})
    warden = Actor("user", WARDEN)
    avatar = "https://cdn.discordapp.com/avatars/123456789012345678/abc.png"
    registered, trial_end = day("2025-01-01"), day("2025-03-08")
    assert brought(ledger, f"user:{EXAMPLE_USER}") == [
        (events.UserRegistered(username="exampleuser", avatar_url=avatar), registered, SYSTEM),
        (events.UserPrefixChanged(old_prefix="!", prefix="?"), registered, SYSTEM),
        (events.TrialStarted(old_tier=0, expires_at=trial_end), day("2025-03-01"), SYSTEM),
        (events.SubscriptionEnded(old_tier=1), trial_end, SYSTEM),
        (
            events.SubscriptionGranted(old_tier=0, tier=2, expires_at=day("2025-05-01"), reason="Won the raffle"),
            day("2025-04-01"),
            warden,
        ),
        (
            events.SubscriptionRenewed(tier=2, old_expires_at=day("2025-05-01"), expires_at=day("2025-06-01")),
            day("2025-04-28"),
            SYSTEM,
        ),
        (events.SubscriptionRevoked(old_tier=2, reason="Refunded"), day("2025-05-20"), warden),
    ]
    assert brought(ledger, f"user:{WARDEN}") == [
        (events.UserRegistered(username="warden"), day("2024-06-01T07:30:00"), SYSTEM),
        (events.PermissionChanged(old_level=0, new_level=2, reason="Joined the team"), day("2024-07-01"), SYSTEM),
    ]
    assert brought(ledger, f"user:{OFFENDER}") == [
        (events.UserWarned(reason="Spam in #general"), day("2025-06-01T10:00:00"), warden),
        (
            events.UserTimedOut(reason="Spam again", expires_at=day("2025-06-01T12:00:00")),
            day("2025-06-01T11:00:00"),
            warden,
        ),
        (events.PunishmentLapsed(number=2), day("2025-06-01T12:00:00"), SYSTEM),
        (events.UserBanned(reason="Raid"), day("2025-06-02"), warden),
        (events.PunishmentLifted(number=4, reason="Appeal accepted"), day("2025-07-01"), warden),
        (events.UserBanned(reason="Terms of service violation"), day("2026-01-15T12:00:00"), SYSTEM),
    ]
    assert brought(ledger, "guild:987654321098765432") == [
        (events.GuildRegistered(name="Harbour", owner_id=EXAMPLE_USER), day("2025-02-01T12:00:00"), SYSTEM),
        (events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None), day("2025-05-20"), SYSTEM),
    ]
    assert brought(ledger, "guild:876543210987654321") == [
        (events.GuildBlacklisted(reason="Scam server"), day("2026-01-16T12:00:00"), warden)
    ]
    assert brought(ledger, "bot:555666777888999000") == [
        (
            events.BotRegistered(name="Ferry", owner_id=EXAMPLE_USER, bot_type=2, rate_limit_per_hour=5000),
            day("2025-02-02T12:00:00"),
            SYSTEM,
        )
    ]


def test_every_event_says_that_it_was_imported_and_under_which_external_id(ledger: PostgresLedger) -> None:
    report = import_file(ledger, EXAMPLE, now=NOW)
    recorded = ledger.read(0, 1000)
    assert len(recorded) == report.events
    assert {one.via for one in recorded} == {"import"}
    assert {one.correlation_id for one in recorded} == {report.correlation_id}
    assert {one.external_id for one in recorded} == {
        json.loads(line)["external_id"] for line in EXAMPLE.read_text().splitlines()
    }


def test_a_second_run_adds_nothing(ledger: PostgresLedger) -> None:
    import_file(ledger, EXAMPLE, now=NOW)
    head = ledger.head()
    report = import_file(ledger, EXAMPLE, now=NOW + timedelta(days=1))
    assert (report.read, report.added, report.already_there, report.skipped) == (15, 0, 15, {})
    assert ledger.head() == head


def test_a_corrected_line_is_added_by_the_second_run_and_a_changed_one_is_not(
    ledger: PostgresLedger, tmp_path: Path
) -> None:
    good, bad = ban("a", 1, "2025-01-01"), {**ban("b", 2, "2025-01-01"), "reason": ""}
    assert take(ledger, tmp_path, good, bad).added == 1
    report = take(ledger, tmp_path, {**good, "reason": "another"}, {**bad, "reason": "spam"})
    assert (report.added, report.already_there, report.skipped) == (1, 1, {})
    assert brought(ledger, "user:1")[0][0] == events.UserBanned(reason="raid")


def test_the_same_external_id_twice_in_a_file_is_taken_once_and_kinds_do_not_share_ids(
    ledger: PostgresLedger, tmp_path: Path
) -> None:
    user = {
        "kind": "user",
        "external_id": "1",
        "discord_id": 1,
        "username": "ada",
        "created_at": "2025-01-01T00:00:00Z",
    }
    report = take(ledger, tmp_path, user, ban("1", 1, "2025-01-01"), user, ban("1", 2, "2025-01-01"))
    assert (report.read, report.added, report.already_there) == (4, 2, 2)


def test_a_timeout_of_any_length_and_a_ban_that_goes_on_are_taken_as_they_are(
    ledger: PostgresLedger, tmp_path: Path
) -> None:
    timeout = {**ban("a", 1, "2024-01-01", until="2027-01-01"), "punishment_type": "TIMEOUT"}
    take(ledger, tmp_path, timeout, ban("b", 1, "2025-01-01", until="2026-03-11"))
    user = state_of(ledger, Subject("user", 1))
    assert isinstance(user, User)
    assert [punishment.ending for punishment in user.punishments.values()] == [None, None]
    assert user.restricted(NOW)


def test_a_ban_that_ends_at_the_second_of_the_import_has_lapsed(ledger: PostgresLedger, tmp_path: Path) -> None:
    take(ledger, tmp_path, ban("a", 1, "2025-01-01", until="2026-03-01"), now=day("2026-03-01"))
    assert brought(ledger, "user:1")[1] == (events.PunishmentLapsed(number=1), day("2026-03-01"), SYSTEM)


def test_a_lift_without_reason_and_lifter_is_the_systems(ledger: PostgresLedger, tmp_path: Path) -> None:
    take(ledger, tmp_path, {**ban("a", 1, "2025-01-01"), "is_lifted": True, "lifted_at": "2025-01-02T00:00:00Z"})
    lifted = events.PunishmentLifted(number=1, reason=NO_REASON)
    assert brought(ledger, "user:1")[1] == (lifted, day("2025-01-02"), SYSTEM)


# Once so much is there it waits for its end, and does not come to that of the file.
IMPORT = """
import sys, time
from datetime import datetime
from pathlib import Path
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.importer import import_file
def clock():
    while ledger.head() >= int(sys.argv[4]):
        time.sleep(0.01)
    return time.monotonic()
with PostgresLedger(sys.argv[1], bytes(range(32))) as ledger:
    import_file(ledger, Path(sys.argv[2]), now=datetime.fromisoformat(sys.argv[3]), clock=clock)
"""


def without_time_and_place(recorded: Recorded) -> tuple[Any, ...]:
    return (
        recorded.version,
        recorded.event,
        recorded.event_id,
        recorded.occurred_at,
        recorded.actor,
        recorded.via,
        recorded.external_id,
    )


def all_streams(ledger: PostgresLedger) -> dict[str, list[tuple[Any, ...]]]:
    streams: dict[str, list[tuple[Any, ...]]] = {}
    for recorded in ledger.read(0, 1_000_000):
        streams.setdefault(recorded.stream, []).append(without_time_and_place(recorded))
    return streams


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_import_killed_or_told_to_stop_again_and_again_ends_as_one_clean_run(
    ledger: PostgresLedger, second_ledger: PostgresLedger, database: str, tmp_path: Path, how: signal.Signals
) -> None:
    file = tmp_path / "old.jsonl"
    write(file, records(6_000, NOW))
    clean = import_file(second_ledger, file, now=NOW)
    importing = make_conninfo(database, application_name="importing")
    backends = "select count(*) from pg_stat_activity where application_name = 'importing'"
    for least in (1, 2_500, 5_000):
        process = start(["-c", IMPORT, importing, str(file), NOW.isoformat(), str(least + 1)])
        while ledger.head() < least:
            assert process.poll() is None
            time.sleep(0.002)
        os.kill(process.pid, how)
        assert process.wait() == -how
        # What it had sent when it was killed, its backend still does.
        until(lambda: ask(database, backends) == 0)
    done = len(ledger.read(0, 1_000_000))
    assert 5_000 <= done < clean.events
    report = import_file(ledger, file, now=NOW)
    assert report.read == clean.read == report.added + report.already_there
    assert report.events == clean.events - done
    assert all_streams(ledger) == all_streams(second_ledger)


def test_live_commands_go_on_during_an_import_and_nothing_of_either_is_lost(
    ledger: PostgresLedger, tmp_path: Path
) -> None:
    warning = {**ban("", 1, "2025-01-01"), "punishment_type": "WARNING"}
    stop = threading.Event()
    warned: list[bool] = []

    def warn() -> None:
        # Not without end: a batch has to find a moment in which nobody touches its one stream.
        for number in range(20):
            live(ledger, commands.IssueWarning(target=Subject("user", 1), reason=f"live {number}"))
            warned.append(True)
            if stop.wait(0.05):
                return

    warner = threading.Thread(target=warn)
    warner.start()
    report = take(ledger, tmp_path, *({**warning, "external_id": str(number)} for number in range(2_500)))
    stop.set()
    warner.join()
    assert (report.added, report.skipped) == (2_500, {})
    history = ledger.load(["user:1"])["user:1"]
    assert [one.version for one in history] == list(range(1, 2_501 + len(warned)))
    assert sum(one.via == "cli" for one in history) == len(warned) > 0


def test_the_counts_are_printed_exactly(ledger: PostgresLedger, tmp_path: Path) -> None:
    take(ledger, tmp_path, ban("a", 1, "2025-01-01", until="2025-02-01"))
    report = take(
        ledger,
        tmp_path,
        ban("a", 1, "2025-01-01", until="2025-02-01"),
        ban("b", 1, "2025-01-15", until="2025-02-15"),
        ban("c", 2, "2025-01-15", until="2025-02-15"),
        {"kind": "role"},
        ban("d", 2, "2025-01-16", until="2025-01-17"),
    )
    assert render(report) == "\n".join(
        [
            "read           5",
            f"added          1 (2 events, correlation id {report.correlation_id})",
            "already there  1",
            "skipped        3",
            "  overlap: 2",
            "  unknown kind: 1",
        ]
    )


def test_a_terminal_shows_a_bar_that_ends_at_all(ledger: PostgresLedger) -> None:
    screen = io.StringIO()
    import_file(ledger, EXAMPLE, now=NOW, console=Console(file=screen, force_terminal=True, width=120))
    assert "100%" in screen.getvalue()
    assert "15 records" in screen.getvalue()


def test_without_a_terminal_a_line_comes_every_ten_seconds(ledger: PostgresLedger, tmp_path: Path) -> None:
    file, told, ticks = tmp_path / "old.jsonl", io.StringIO(), itertools.count(0, 6)
    write(file, records(4_000, NOW))
    import_file(ledger, file, now=NOW, console=Console(file=told), clock=lambda: next(ticks))
    lines = told.getvalue().splitlines()
    assert [line.partition(",/s")[0].split(" records")[0] for line in lines] == ["2,000", "4,000"]
    assert lines[0].startswith("2,000 records, 167/s, ")
    assert lines[1] == "4,000 records, 167/s, 100%, 0 s left"


def test_progress_can_be_turned_off(ledger: PostgresLedger) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True)
    import_file(ledger, EXAMPLE, now=NOW, progress=False, console=console)
    assert screen.getvalue() == ""


def test_the_command_exits_with_3_when_a_line_was_skipped_and_0_when_none(database: str, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
    key = base64.b64encode(MASTER_KEY).decode()
    environment = kept | {"MODLEDGER_DATABASE_URL": database, "MODLEDGER_MASTER_KEY": key}
    file = tmp_path / "old.jsonl"

    def run() -> subprocess.CompletedProcess[str]:
        return modledger(["import", str(file)], environment)

    file.write_bytes(EXAMPLE.read_bytes() + b"{}\n")
    first = run()
    assert (first.returncode, first.stderr) == (3, "line 16: missing field: Object missing required field `kind`\n")
    assert [line.split()[:2] for line in first.stdout.splitlines()[:2]] == [["read", "16"], ["added", "15"]]
    file.write_bytes(EXAMPLE.read_bytes())
    second = run()
    assert (second.returncode, second.stderr) == (0, "")
    assert "already there  15" in second.stdout

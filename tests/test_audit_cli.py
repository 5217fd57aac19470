"""``modledger audit``: what it tells, in every form, and what it says to calls that make no sense (docs/audit.md)."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest

from modledger.domain import commands
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Subject, Via
from modledger.domain.events import ERASED
from modledger.domain.execute import execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.workers.audit import Change, Filters, Line, lines, matches, punishment_story, story
from modledger.workers.audit_diff import differences
from modledger.workers.runner import catch_up
from tests.databases import MASTER_KEY
from tests.postgres_server import create_database, drop_database
from tests.test_cli import modledger, on, refused, refused_at_once

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OWNER, ADMIN = Actor("user", 1), Actor("user", 2)
USER, OTHER, GUILD, BOT = Subject("user", 7), Subject("user", 8), Subject("guild", 7), Subject("bot", 7)
CORRELATION = UUID("0d4f7a52-3c5e-4d0a-9c53-6a1f6c2b9e10")
OLD = datetime(2024, 5, 1, tzinfo=UTC)


class Lived(msgspec.Struct):
    conninfo: str
    ledger: PostgresLedger
    banned: int = 0


def act(
    ledger: PostgresLedger,
    command: Command,
    actor: Actor = OPERATOR,
    at: datetime = NOW,
    via: Via = "cli",
    correlation_id: UUID | None = None,
) -> int:
    context = Context(actor=actor, at=at, command_id=uuid4(), correlation_id=correlation_id or uuid4(), via=via)
    return execute(ledger, command, context).position


@pytest.fixture(scope="module")
def lived(postgres_server: str, template_database: str) -> Iterator[Lived]:
    """A ledger in which nothing happens any more, and its read tables."""
    name = f"audit_{uuid4().hex}"
    conninfo = create_database(postgres_server, name, template_database)
    with PostgresLedger(conninfo, MASTER_KEY) as ledger:
        made = Lived(conninfo, ledger)
        for user, level in ((1, 3), (2, 2)):
            act(ledger, commands.RegisterUser(user_id=user, username=f"staff{user}"), SYSTEM, OLD)
            act(ledger, commands.ChangePermission(user_id=user, level=level, reason="hired"), OPERATOR, OLD)
        act(ledger, commands.RegisterUser(user_id=7, username="ann"), SYSTEM)
        act(ledger, commands.UpdateUser(user_id=7, username="anna"), Actor("bot", 7), NOW + HOUR, "http")
        act(ledger, commands.IssueWarning(target=USER, reason="a\tb\x1b[31mc\n[bold]d"), ADMIN, NOW + HOUR, "http")
        made.banned = act(
            ledger, commands.IssueBan(target=USER, reason="raid"), ADMIN, NOW + 2 * HOUR, "http", CORRELATION
        )
        number = ledger.at(made.banned)
        assert number is not None
        amend = commands.AmendPunishment(target=USER, number=number.version, reason="a raid", expires_at=NOW + 30 * DAY)
        act(ledger, amend, OWNER, NOW + 3 * HOUR, "http")
        again = commands.IssueBan(target=USER, reason="worse", replace=True)
        act(ledger, again, OWNER, NOW + 4 * HOUR, "http")
        act(ledger, commands.RegisterGuild(guild_id=7, name="Harbour", owner_id=8), Actor("bot", 7), NOW, "http")
        act(ledger, commands.StartTrial(target=GUILD, reason="to try"), ADMIN, NOW, "http")
        act(ledger, commands.RevokeSubscription(target=GUILD, reason="abuse"), ADMIN, NOW + HOUR, "http")
        act(ledger, commands.RegisterBot(bot_id=7, name="Ferry", owner_id=8), OWNER, NOW, "http")
        act(ledger, commands.RegisterUser(user_id=8, username="bob"), SYSTEM)
        act(ledger, commands.EraseSubject(target=OTHER, reason="asked for"), OWNER)
        catch_up(ledger, conninfo, PROJECTORS)
        yield made
    drop_database(postgres_server, name)


def everything(lived: Lived, **asked: Any) -> list[Line]:
    return list(lines(lived.conninfo, lived.ledger, Filters(head=lived.ledger.head(), **asked)))


def run(lived: Lived, *arguments: str) -> str:
    done = modledger("audit", *arguments, **on(lived.conninfo))
    assert done.returncode == 0, done
    return done.stdout


# -- what is found

ASKED: list[dict[str, Any]] = [
    {},
    {"subject": USER},
    {"subject": GUILD},
    {"subject": Subject("user", 999)},
    {"actor": ADMIN},
    {"actor": Actor("bot", 7)},
    {"actor": SYSTEM},
    {"actor": OPERATOR},
    {"event_types": frozenset({"USER_BAN"})},
    {"event_types": frozenset({"USER_REGISTER", "GUILD_REGISTER"})},
    {"correlation_id": CORRELATION},
    {"correlation_id": UUID(int=1)},
    {"since": NOW + HOUR},
    {"until": NOW},
    {"since": NOW, "until": NOW + 2 * HOUR},
    {"since": NOW, "subject": USER},
    {"since": NOW, "actor": ADMIN, "event_types": frozenset({"USER_BAN", "USER_WARN"})},
    {"since": NOW, "actor": SYSTEM},
    {"until": NOW + 3 * HOUR, "correlation_id": CORRELATION},
    {"after": 6},
    {"after": 6, "since": NOW},
    {"after": 6, "subject": USER, "actor": ADMIN},
]


@pytest.mark.parametrize("asked", ASKED, ids=["+".join(asked) or "all" for asked in ASKED])
def test_each_search_finds_what_a_look_at_every_event_finds(asked: dict[str, Any], lived: Lived) -> None:
    filters = Filters(head=lived.ledger.head(), **asked)
    expected = [one.position for one in lived.ledger.read(0, 1000) if matches(one, filters)]
    assert [line.position for line in everything(lived, **asked)] == expected
    newest = lines(lived.conninfo, lived.ledger, filters, newest_first=True)
    assert [line.position for line in newest] == expected[::-1]


def test_the_searches_tried_tell_events_apart(lived: Lived) -> None:
    found = [len(everything(lived, **asked)) for asked in ASKED]
    assert found[0] == len(lived.ledger.read(0, 1000)) == 17
    assert found[3] == found[11] == 0
    assert all(0 < count < 17 for n, count in enumerate(found) if n not in (0, 3, 11))


def test_a_line_says_who_when_by_which_way_why_and_what_changed(lived: Lived) -> None:
    (ban,) = everything(lived, correlation_id=CORRELATION)
    assert (ban.subject, ban.event_type, ban.actor, ban.via) == ("user:7", "USER_BAN", "user:2", "http")
    assert (ban.occurred_at, ban.reason, ban.punishment_id) == (NOW + 2 * HOUR, "raid", lived.banned)
    assert ban.changes == {}
    (renamed,) = everything(lived, event_types=frozenset({"USER_RENAME"}))
    assert renamed.changes == {"username": Change("ann", "anna")}
    (amended,) = everything(lived, event_types=frozenset({"USER_PUNISHMENT_AMEND"}))
    assert amended.changes == {"reason": Change("raid", "a raid"), "expires_at": Change(None, NOW + 30 * DAY)}
    assert (amended.reason, amended.punishment_id) == (None, lived.banned)
    tiers = everything(lived, subject=GUILD, actor=ADMIN)
    assert [line.changes["tier"] for line in tiers] == [Change(0, 1), Change(1, 0)]
    assert [line.reason for line in tiers] == ["to try", "abuse"]


def test_the_story_of_a_punishment_is_its_own_alone(lived: Lived) -> None:
    told = punishment_story(lived.ledger, lived.banned)
    assert told is not None
    assert [line.event_type for line in told] == ["USER_BAN", "USER_PUNISHMENT_AMEND", "USER_PUNISHMENT_SUPERSEDE"]
    assert {line.punishment_id for line in told} == {lived.banned}
    replaced = lived.ledger.at(told[-1].superseded_by or 0)
    assert replaced is not None
    assert replaced.event == lived.ledger.load([str(USER)])[str(USER)][-1].event
    assert punishment_story(lived.ledger, 1) is None
    assert punishment_story(lived.ledger, 10**6) is None


def test_what_is_erased_is_erased_here_too_and_who_did_it_is_told(lived: Lived) -> None:
    registered, erased = story(lived.ledger, OTHER)
    assert registered.changes == {"username": Change(None, ERASED)}
    assert (erased.event_type, erased.actor, erased.reason) == ("USER_ERASE", "user:1", "asked for")


def test_an_event_that_cannot_be_read_has_its_line(database: str, ledger: PostgresLedger) -> None:
    for user_id in (1, 2, 3):
        act(ledger, commands.RegisterUser(user_id=user_id, username="ann"))
    with psycopg.connect(database) as connection:
        connection.execute("alter table ledger disable trigger ledger_append_only")
        connection.execute("grant update on ledger to current_user")
        connection.execute("update ledger set state = 'x' where notification_id = 2")
    found = list(lines(database, ledger, Filters(head=3)))
    assert [(line.position, line.error is None) for line in found] == [(1, True), (2, False), (3, True)]


# -- between two moments


def recorded_before(lived: Lived, position: int) -> datetime:
    found = lived.ledger.at(position)
    assert found is not None
    return found.recorded_at - timedelta(microseconds=1)


def test_a_difference_names_the_events_that_made_it(lived: Lived) -> None:
    history = lived.ledger.load([str(USER)])[str(USER)]
    found = differences(USER, history, recorded_before(lived, lived.banned), history[-1].recorded_at)
    told = {one.field: (one.change, [event.position for event in one.by]) for one in found}
    ban, amend, superseded, second = (one.position for one in history[-4:])
    assert told == {
        f"punishment {ban} type": (Change(None, "BAN"), [ban]),
        f"punishment {ban} reason": (Change(None, "a raid"), [ban, amend]),
        f"punishment {ban} expires_at": (Change(None, NOW + 30 * DAY), [amend]),
        f"punishment {ban} ended": (Change(None, "superseded"), [superseded]),
        f"punishment {second} type": (Change(None, "BAN"), [second]),
        f"punishment {second} reason": (Change(None, "worse"), [second]),
        # The amended end has passed by the later moment.
        "state": (Change("Active", "Banned"), [ban, amend, second]),
    }


def test_nothing_differs_where_nothing_was_recorded(lived: Lived) -> None:
    history = lived.ledger.load([str(USER)])[str(USER)]
    last = history[-1].recorded_at
    assert differences(USER, history, last, last + timedelta(microseconds=1)) == []


def test_what_time_alone_ended_names_no_event(database: str, ledger: PostgresLedger) -> None:
    now = datetime.now(UTC)
    act(ledger, commands.IssueTimeout(user_id=7, reason="spam", expires_at=now + HOUR), at=now)
    history = ledger.load([str(USER)])[str(USER)]
    (one,) = differences(USER, history, history[-1].recorded_at, now + 2 * HOUR)
    assert (one.field, one.change, one.by) == ("state", Change("Timeout", "Active"), [])


@pytest.mark.parametrize("subject", [USER, OTHER, GUILD, BOT], ids=str)
def test_from_the_beginning_everything_differs_that_is(subject: Subject, lived: Lived) -> None:
    history = lived.ledger.load([str(subject)])[str(subject)]
    found = differences(subject, history, history[0].recorded_at - DAY, datetime.now(UTC))
    assert {event.position for one in found for event in one.by} <= {one.position for one in history}
    assert {one.field for one in found} & {"username", "name", "registered", "erased_at"}


# -- on the command line


def test_the_log_is_plain_text_with_tabs_when_nobody_looks(lived: Lived) -> None:
    out = run(lived, "log", "--subject", "user:7", "--type", "USER_WARN")
    (line,) = out.splitlines()
    cells = line.split("\t")
    assert cells[1:6] == ["2026-03-10T13:00:00Z", "user:7", "USER_WARN", "user:2", "http"]
    assert cells[7] == "a\\tb\\x1b[31mc\\n[bold]d"
    assert "\x1b" not in out


def test_the_log_begins_with_what_was_recorded_last(lived: Lived) -> None:
    first = run(lived, "log", "--limit", "5").splitlines()
    positions = [int(line.split("\t")[0]) for line in first]
    assert positions == sorted(positions, reverse=True)
    assert positions[0] == lived.ledger.head()
    rest = run(lived, "log", "--before", str(positions[-1])).splitlines()
    assert len(rest) == 12


def test_stories_and_differences_can_be_read(lived: Lived) -> None:
    assert len(run(lived, "show", "user:7").splitlines()) == 7
    assert len(run(lived, "show", str(lived.banned)).splitlines()) == 3
    changed = run(lived, "diff", "user:7", "2020-01-01T00:00:00Z", datetime.now(UTC).isoformat())
    fields = {line.split("\t")[0]: line.split("\t") for line in changed.splitlines()}
    assert fields["username"][1:3] == ["-", "anna"]
    assert fields["username"][3].endswith("USER_RENAME by bot:7")
    assert run(lived, "diff", "user:7", "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z") == ""


def test_json_lines_are_resumed_by_position(lived: Lived) -> None:
    whole = run(lived, "export").splitlines()
    said = [json.loads(line) for line in whole]
    assert [one["position"] for one in said] == [one.position for one in lived.ledger.read(0, 1000)]
    assert said[4]["recorded_at"].endswith("Z")
    assert run(lived, "export", "--after", str(said[9]["position"])).splitlines() == whole[10:]
    done = modledger("audit", "export", "--type", "USER_BAN", **on(lived.conninfo))
    assert done.stderr == f"2 events; go on with --after {lived.ledger.head()}\n"
    assert run(lived, "export", "--after", str(lived.ledger.head())) == ""


def test_csv_has_a_head_line_once_and_the_same_values(lived: Lived) -> None:
    said = [json.loads(line) for line in run(lived, "export").splitlines()]
    out = run(lived, "export", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == list(Line.__struct_fields__)
    for row, one in zip(rows, said, strict=True):
        filled = {name: value for name, value in row.items() if value}
        filled["position"] = int(filled["position"])
        for name in ("punishment_id", "superseded_by"):
            if name in filled:
                filled[name] = int(filled[name])
        if "changes" in filled:
            filled["changes"] = json.loads(filled["changes"])
        assert filled == one
    rest = run(lived, "export", "--format", "csv", "--after", rows[3]["position"])
    assert len(list(csv.reader(io.StringIO(rest)))) == len(rows) - 4


def test_who_stops_reading_ends_it_quietly(lived: Lived) -> None:
    piped = subprocess.run(
        f"'{sys.executable}' -m modledger.workers audit export | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        env={**on(lived.conninfo), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (piped.returncode, "Traceback" in piped.stderr, "Broken" in piped.stderr) == (0, False, False)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("log", "--subject", "user"), "user:ID"),
        (("log", "--subject", "user:0"), "user:ID"),
        (("log", "--subject", f"user:{2**63}"), "user:ID"),
        (("log", "--actor", "guild:1"), "operator"),
        (("log", "--type", "USER_PRAISE"), "USER_PRAISE"),
        (("log", "--since", "yesterday"), "2026-03-10T12:00:00Z"),
        (("log", "--since", "2026-03-10T12:00:00"), "offset"),
        (("log", "--correlation-id", "x"), "UUID"),
        (("log", "--limit", "0"), "--limit"),
        (("export", "--after", "-1"), "--after"),
        (("export", "--format", "xml"), "--format"),
        (("diff", "user:7", "2026-03-10T12:00:00Z", "2026-03-10T12:00:00Z"), "after FROM"),
        (("diff", "user:7", "2026-03-10T12:00:00Z", "9999-01-01T00:00:00Z"), "future"),
        (("diff", "user:7", "2026-03-10T12:00:00Z"), "TO"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_call_that_makes_no_sense_is_refused_before_anything_is_opened(arguments: tuple[str, ...], word: str) -> None:
    refused_at_once(["audit", *arguments], word)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("log", "--since", "2026-03-10T12:00:00Z", "--until", "2026-03-10T12:00:00Z"), "--until"),
        (("show", "ann"), "user:ID"),
    ],
)
def test_a_call_that_makes_no_sense_ends_the_process_with_status_2(
    arguments: tuple[str, ...], word: str, lived: Lived
) -> None:
    refused(modledger("audit", *arguments, **on(lived.conninfo)), 2, word)


def test_whom_or_what_nobody_knows_is_said_to_be_unknown(lived: Lived) -> None:
    refused(modledger("audit", "show", "user:999", **on(lived.conninfo)), 1, "User 999 is not known")
    refused(modledger("audit", "show", "1", **on(lived.conninfo)), 1, "there is no punishment 1")


def test_a_period_is_not_answered_from_a_read_table_that_is_behind(database: str, ledger: PostgresLedger) -> None:
    act(ledger, commands.RegisterUser(user_id=1, username="ann"))
    refused(modledger("audit", "log", "--since", "2020-01-01T00:00:00Z", **on(database)), 1, "behind the ledger")
    done = modledger("audit", "log", "--subject", "user:1", "--since", "2020-01-01T00:00:00Z", **on(database))
    assert len(done.stdout.splitlines()) == 1

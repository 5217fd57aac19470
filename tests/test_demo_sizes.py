"""The demo of any size: exactly that size, the same for the same seed, within the rules, and whole or not there."""

import os
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import msgspec
import psycopg
import pytest
from click.testing import CliRunner

from modledger.domain import events
from modledger.domain.commands import Context, RegisterUser
from modledger.domain.envelope import OPERATOR, Recorded, subject_of
from modledger.domain.execute import execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.subjects import Account, Guild, State, User, fold
from modledger.projections.catalog import PROJECTORS
from modledger.projections.ledger_verification import verify_ledger
from modledger.projections.verification import verify_projector
from modledger.workers.demo import DEMO_BOT, EXAMPLE_BAN_ID, EXAMPLE_BANNED_ID, DemoRefused, is_loaded, load_demo
from modledger.workers.demo_blocks import EVENTS, PUNISHMENTS, Size, part, parts
from modledger.workers.demo_cli import demo
from modledger.workers.demo_load import Interrupted, Loaded, load
from modledger.workers.demo_staff import END, START
from modledger.workers.runner import catch_up
from tests.databases import MASTER_KEY
from tests.forked import modledger
from tests.postgres_server import create_database, drop_database
from tests.test_demo_rules import assert_no_spans_overlap, judged_by_rank

TWO_BLOCKS = EVENTS + 1_500


def loaded(database: str, size: Size, seed: int = 1, processes: int = 1) -> Loaded:
    return load(database, MASTER_KEY, size, seed, processes=processes, stop=threading.Event(), tell=lambda *_: None)


def history_of(database: str) -> list[Recorded]:
    with PostgresLedger(database, MASTER_KEY) as ledger:
        return ledger.read(0, 1_000_000)


def without_recording(history: list[Recorded]) -> list[Recorded]:
    return [msgspec.structs.replace(one, recorded_at=END) for one in history]


@pytest.fixture(scope="module")
def demo_database(postgres_server: str, template_database: str) -> Iterator[str]:
    """A database with a demo of a block and a half in it, every read model up to date. For reading only."""
    name = f"demo_{uuid4().hex}"
    conninfo = create_database(postgres_server, name, template_database)
    loaded(conninfo, Size(events=TWO_BLOCKS))
    with PostgresLedger(conninfo, MASTER_KEY) as ledger:
        catch_up(ledger, conninfo, PROJECTORS)
    yield conninfo
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def history(demo_database: str) -> list[Recorded]:
    return history_of(demo_database)


@pytest.fixture(scope="module")
def states(history: list[Recorded]) -> dict[str, State]:
    streams: dict[str, list[Recorded]] = defaultdict(list)
    for one in history:
        streams[one.stream].append(one)
    return {stream: fold(subject_of(stream), happened) for stream, happened in streams.items()}


# -- exactly that size


@pytest.mark.parametrize("number", [1, 43, 44, 1_000])
def test_so_many_events_are_exactly_so_many(database: str, number: int) -> None:
    assert loaded(database, Size(events=number)).events == number
    history = history_of(database)
    assert [one.position for one in history] == list(range(1, number + 1))


@pytest.mark.parametrize("number", [1, 3, 400])
def test_so_many_punishments_are_exactly_so_many(database: str, number: int) -> None:
    report = loaded(database, Size(punishments=number))
    history = history_of(database)
    assert sum(isinstance(one.event, events.Issued) for one in history) == report.punishments == number
    assert len(history) == report.events


def test_whatever_the_number_the_parts_add_up_to_it_and_blocks_are_alike() -> None:
    for number in (1, 43, 106, EVENTS, 1_000_000):
        assert sum(size.number for _, size in parts(Size(events=number))) == number
    for number in (1, 6, 7, PUNISHMENTS, 1_000_000):
        assert sum(size.number for _, size in parts(Size(punishments=number))) == number
    found = parts(Size(events=1_000_000))
    assert [number for number, _ in found] == list(range(len(found)))
    assert {size.number for _, size in found[1:-1]} == {EVENTS}


# -- the same for the same seed


def test_a_ban_that_was_brought_over_may_be_replaced_whoever_issued_it_elsewhere() -> None:
    # The first block of this seed in which the issuer is somebody who did not come along.
    block = part(1, 405, Size(punishments=PUNISHMENTS), END)
    issued = [one for happened in block.happened for one in happened.events if isinstance(one.event, events.Issued)]
    assert len(issued) == PUNISHMENTS


def test_the_same_seed_gives_the_same_ledger_by_any_number_of_processes(
    database: str, history: list[Recorded], demo_database: str
) -> None:
    loaded(database, Size(events=TWO_BLOCKS), processes=2)
    assert without_recording(history_of(database)) == without_recording(history)
    for table in ("user_activity", "guild_activity", "bot_activity", "bot_guilds"):
        statement = f"select * from {table} order by 1, 2".encode()
        with psycopg.connect(database) as here, psycopg.connect(demo_database) as there:
            assert here.execute(statement).fetchall() == there.execute(statement).fetchall() != []


def test_another_seed_gives_another_ledger_after_the_examples_and_the_staff(
    database: str, history: list[Recorded]
) -> None:
    loaded(database, Size(events=1_000), seed=2)
    other = history_of(database)
    assert without_recording(other[:43]) == without_recording(history[:43])
    shared = {one.stream for one in other} & {one.stream for one in history}
    assert shared == {one.stream for one in history if one.via == "cli" and one.stream in shared}
    assert 30 < len(shared) < 60


# -- within the rules, and of real shape


def test_everything_in_it_is_as_it_should_be(demo_database: str) -> None:
    with PostgresLedger(demo_database, MASTER_KEY) as ledger:
        assert list(verify_ledger(demo_database, ledger)) == []
        for projector in PROJECTORS:
            assert list(verify_projector(demo_database, projector, ledger)) == []


def test_nobody_acts_above_their_rank_and_no_two_bans_overlap(
    history: list[Recorded], states: dict[str, State]
) -> None:
    assert judged_by_rank(history) > 3_000
    assert_no_spans_overlap(states.values())


def test_a_stream_goes_by_date_but_for_what_was_brought_over(history: list[Recorded]) -> None:
    last: dict[str, datetime] = {}
    for one in history:
        if one.via != "import":
            assert one.occurred_at >= last.get(one.stream, START)
            last[one.stream] = one.occurred_at
    live = [one.occurred_at for one in history[43:] if one.via != "import"]
    assert live == sorted(live)


def test_dates_are_spread_over_two_years_and_few_ends_are_left_to_the_clock(
    history: list[Recorded], states: dict[str, State]
) -> None:
    dates = [one.occurred_at for one in history]
    assert (max(dates) - min(dates)).days > 700
    assert max(dates) <= END
    accounts = [one for one in states.values() if isinstance(one, Account)]
    open_ends = [one.tier_until for one in accounts] + [
        punishment.expires_at
        for one in accounts
        for punishment in one.punishments.values()
        if punishment.ending is None
    ]
    soon = [end for end in open_ends if end is not None and end.year < END.year + 1]
    assert all(end > END for end in soon)
    assert 0 < len(soon) < len(history) / 100


def test_every_kind_of_event_but_erasure_happens_and_some_is_brought_over(
    history: list[Recorded], states: dict[str, State]
) -> None:
    assert set(events.EVENTS.values()) - {type(one.event) for one in history} == {events.SubjectErased}
    via = Counter(one.via for one in history)
    assert 0.02 < via["import"] / len(history) < 0.1
    assert {type(one.event) for one in history if one.via == "import"} >= {
        events.UserRegistered,
        events.GuildRegistered,
        events.UserBanned,
        events.GuildBlacklisted,
        events.PunishmentLifted,
        events.PunishmentLapsed,
        events.SubscriptionGranted,
    }
    issued = [one for one in history if isinstance(one.event, events.Issued)]
    assert len({one.actor for one in issued}) > 20
    assert 0.33 < len(issued) / len(history) < 0.42
    assert sum(isinstance(one, Guild) for one in states.values()) > 100


def test_no_two_subjects_share_a_name_and_no_command_an_id(demo_database: str, states: dict[str, State]) -> None:
    names = [one.username for one in states.values() if isinstance(one, User) and one.username]
    assert len(names) == len(set(names)) > 2_000
    with psycopg.connect(demo_database) as connection:
        commands = connection.execute("select count(command_id), count(distinct command_id) from ledger").fetchone()
    assert commands is not None
    assert commands[0] == commands[1] > 9_000


def test_telemetry_is_about_everybody_registered_and_bots_are_in_as_many_guilds_as_they_say(
    demo_database: str, history: list[Recorded]
) -> None:
    kinds = Counter(type(one.event) for one in history)
    with psycopg.connect(demo_database) as connection:
        for table, event in (
            ("user_activity", events.UserRegistered),
            ("guild_activity", events.GuildRegistered),
            ("bot_activity", events.BotRegistered),
        ):
            found = connection.execute(f"select count(*) from {table}".encode()).fetchone()
            assert found is not None
            assert found[0] == kinds[event]
        told: dict[int, int] = dict(
            connection.execute("select bot_id, guilds from bot_activity where guilds > 0").fetchall()
        )
        named: dict[int, int] = dict(
            connection.execute("select bot_id, count(*) from bot_guilds group by bot_id").fetchall()
        )
    assert told == named
    assert told[DEMO_BOT] == max(told.values())


def test_the_documented_examples_and_roles_are_in_it(demo_database: str, history: list[Recorded]) -> None:
    assert history[EXAMPLE_BAN_ID - 1].stream == f"user:{EXAMPLE_BANNED_ID}"
    with PostgresLedger(demo_database, MASTER_KEY) as ledger:
        assert is_loaded(ledger)


def test_personal_text_is_encrypted_under_a_key_for_each_subject(demo_database: str, states: dict[str, State]) -> None:
    with psycopg.connect(demo_database) as connection:
        keys = connection.execute("select count(*), count(distinct subject) from subject_keys").fetchone()
        plain = connection.execute(
            "select count(*) from ledger where position('exampleuser'::bytea in state) > 0"
            " or position('reason'::bytea in state) > 0"
        ).fetchone()
    assert keys == (len(states), len(states))
    assert plain == (0,)


# -- whole or not there


def test_a_ledger_that_is_not_empty_is_refused_and_stays_as_it_is(ledger: PostgresLedger, database: str) -> None:
    context = Context(actor=OPERATOR, at=END, command_id=uuid4(), correlation_id=uuid4(), via="cli")
    execute(ledger, RegisterUser(user_id=1, username="somebody"), context)
    with pytest.raises(DemoRefused, match="not empty"):
        loaded(database, Size(events=100))
    assert ledger.head() == 1


def test_the_usual_demo_is_not_mixed_into_one_of_another_size(ledger: PostgresLedger, database: str) -> None:
    loaded(database, Size(events=200))
    with pytest.raises(DemoRefused):
        load_demo(ledger, database, now=datetime.now(UTC))
    assert ledger.head() == 200


def test_told_to_stop_it_leaves_nothing(database: str) -> None:
    for when in ("making", "copying"):
        stop = threading.Event()

        def tell(what: str, _done: int, _total: int, when: str = when, stop: threading.Event = stop) -> None:
            if what == when:
                stop.set()

        with pytest.raises(Interrupted):
            load(database, MASTER_KEY, Size(events=500), 1, processes=1, stop=stop, tell=tell)
        with psycopg.connect(database) as connection:
            assert connection.execute("select count(*) from ledger").fetchone() == (0,)
    loaded(database, Size(events=50))
    assert [one.position for one in history_of(database)] == list(range(1, 51))


KILLED = """
import os, signal, sys, threading
from modledger.workers.demo_blocks import Size
from modledger.workers.demo_cli import demo
from modledger.workers.demo_load import load

def tell(what, done, total):
    if what == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    load(sys.argv[1], bytes(range(32)), Size(events=8_500), 1, processes=2, stop=threading.Event(), tell=tell)
"""


@pytest.mark.parametrize("when", ["making", "copying", "copying keys and telemetry"])
def test_killed_at_any_time_it_leaves_nothing_and_nobody(database: str, tmp_path: Path, when: str) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    process = subprocess.Popen([sys.executable, str(script), database, when], start_new_session=True)
    assert process.wait(120) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while _alive_in_group(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with psycopg.connect(database) as connection:
        for table in ("ledger", "subject_keys", "user_activity"):
            assert connection.execute(f"select count(*) from {table}".encode()).fetchone() == (0,)
    loaded(database, Size(events=50))
    assert [one.position for one in history_of(database)] == list(range(1, 51))


def _alive_in_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# -- on the command line


def run(database: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    on = {"MODLEDGER_DATABASE_URL": database, "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode()}
    return modledger(arguments, {**os.environ, **on})


def test_the_command_loads_once_and_refuses_a_second_time(database: str) -> None:
    done = run(database, "demo", "--punishments", "50", "--seed", "7")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done
    assert "50 of them punishments" in done.stdout
    for again in (("demo",), ("demo", "--events", "100")):
        done = run(database, *again)
        assert done.returncode == 2
        assert done.stderr == "modledger: the ledger is not empty: a demo needs an installation of its own\n"


def test_the_command_without_options_loads_the_usual_demo(database: str) -> None:
    done = run(database, "demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3,000 of them punishments" in done.stdout
    with PostgresLedger(database, MASTER_KEY) as ledger:
        assert is_loaded(ledger)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--events", "0"], "'--events': 0 is not in the range 1<=x<=100000000"),
        (["--events", "many"], "'--events': 'many' is not a valid integer range"),
        (["--punishments", "-5"], "'--punishments': -5 is not in the range"),
        (["--punishments", "100000001"], "100000001 is not in the range"),
        (["--events", "5", "--punishments", "5"], "exclude each other"),
        (["--seed", "3"], "need --events or --punishments"),
        (["--events", "5", "--seed", "-1"], "'--seed': -1 is not in the range"),
        (["--events", "5", "--processes", "0"], "'--processes': 0 is not in the range"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_before_anything_is_opened(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(demo, arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output

"""A rebuild makes the tables that following the ledger makes, beside those that are read, whoever is killed."""

import os
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from bench.history import fill, history
from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.domain.ledger import Passage
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import audit_log, guilds, permission_history, profile, punishments
from modledger.projections.catalog import PROJECTORS
from modledger.projections.projector import Fenced, Key, Projector, advance, checkpoint
from modledger.projections.rebuild import (
    ReplayAborted,
    ReplayFailed,
    ReplayRefused,
    abort,
    beside,
    create_replay,
    current,
    drop,
)
from modledger.projections.rebuild_folding import fold_parts
from modledger.projections.rebuild_steps import finish, promote
from modledger.projections.verification import verify_projector
from modledger.workers.replay import Stopped, promote_replay, run_replay
from modledger.workers.runner import catch_up
from tests.databases import MASTER_KEY
from tests.forked import modledger, start
from tests.projection_history import Happened, append, contents
from tests.random_history import histories

TABLES = [table for projector in PROJECTORS for table in (projector.table, *projector.beside)]
GO_ON = threading.Event()
RUN = """
import sys, threading
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import rebuild_folding, rebuild_steps
from modledger.projections.catalog import PROJECTORS
from modledger.workers.replay import run_replay
rebuild_folding.BATCH = rebuild_steps.BATCH = 100
[projector] = [one for one in PROJECTORS if one.name == sys.argv[2]]
with PostgresLedger(sys.argv[1], bytes(range(32)), connections=1) as ledger:
    run_replay(ledger, sys.argv[1], projector, threading.Event())
"""


def rebuilt(ledger: PostgresLedger, database: str, projectors: Sequence[Projector[Any]] = PROJECTORS) -> list[str]:
    """Rebuilds and promotes these; answers what the verifications found."""
    notes = []
    for projector in projectors:
        create_replay(database, projector, ledger)
        notes.append(run_replay(ledger, database, projector, GO_ON).note or "")
        assert promote_replay(ledger, database, projector, GO_ON).state == "live"
    return notes


def on(database: str) -> dict[str, str]:
    return {"MODLEDGER_DATABASE_URL": database, "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode()}


def command(database: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return modledger(["replay", *arguments], {**os.environ, **on(database)}, timeout=240)


def schemas(conn: psycopg.Connection) -> list[str]:
    found = conn.execute("select nspname from pg_namespace where nspname ~ '^(replay|old)_' order by 1")
    return [name for (name,) in found.fetchall()]


def indexes(conn: psycopg.Connection) -> list[Any]:
    return conn.execute(
        "select tablename, indexname, indexdef from pg_indexes where schemaname = 'public' order by 1, 2"
    ).fetchall()


def options(conn: psycopg.Connection) -> list[Any]:
    """How full pages are made, and whether vacuum leaves a table alone."""
    return conn.execute(
        "select relname, reloptions from pg_class where relnamespace = 'public'::regnamespace order by 1"
    ).fetchall()


# Three at once: a rebuild of ten read models takes far longer than to fold what a history has.
@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=histories(least=5, most=60), second=histories(least=5, most=60), third=histories(least=5, most=60))
def test_a_rebuild_gives_the_tables_that_following_the_ledger_gives(
    conn: psycopg.Connection, database: str, first: list[Happened], second: list[Happened], third: list[Happened]
) -> None:
    # A ledger cannot be emptied, so each history is one of other subjects.
    with PostgresLedger(database, MASTER_KEY, connections=2) as ledger:
        for happened in (first, second, third):
            apart = 1000 * (ledger.head() + 1)
            versions: dict[str, int] = {}
            for one in happened:
                kind, _, number = one.stream.partition(":")
                append(ledger, versions, msgspec.structs.replace(one, stream=f"{kind}:{apart + int(number)}"))
        catch_up(ledger, database, PROJECTORS)
        live = contents(conn, TABLES)
        assert set(rebuilt(ledger, database)) == {"equal to the tables that are read, both ways"}
        assert contents(conn, TABLES) == live


def test_the_new_tables_have_the_indexes_and_the_options_of_the_old_ones(ledger: PostgresLedger, database: str) -> None:
    fill(ledger, history(500))
    catch_up(ledger, database, PROJECTORS)
    with psycopg.connect(database, autocommit=True) as conn:
        before, live = (indexes(conn), options(conn)), contents(conn, TABLES)
        rebuilt(ledger, database)
        assert (indexes(conn), options(conn)) == before
        assert contents(conn, TABLES) == live


def test_what_was_replaced_is_kept_until_it_is_dropped(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    fill(ledger, history(300))
    catch_up(ledger, database, PROJECTORS)
    conn.execute("update punishments set reason = 'changed by hand' where number = 2")
    rebuilt(ledger, database, [punishments.PROJECTOR])
    assert schemas(conn) == ["old_punishments"]
    kept = conn.execute("select count(*) from old_punishments.punishments where reason = 'changed by hand'").fetchone()
    now = conn.execute("select count(*) from punishments where reason = 'changed by hand'").fetchone()
    assert kept is not None
    assert kept[0] > 0
    assert now == (0,)
    drop(database, "punishments")
    assert schemas(conn) == []
    with pytest.raises(ReplayRefused, match="no rebuild of punishments was promoted"):
        drop(database, "punishments")


def test_a_rebuild_mends_tables_that_differ_from_the_ledger_and_says_how_much(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    fill(ledger, history(300))
    catch_up(ledger, database, PROJECTORS)
    right = contents(conn, TABLES)
    conn.execute("update profiles set level = 3 where user_id = 1")
    conn.execute("delete from profiles where user_id = 2")
    [note] = rebuilt(ledger, database, [profile.PROJECTOR])
    assert note == "equal to a fresh fold of the ledger, from which the tables that are read differ in 3 rows"
    assert contents(conn, TABLES) == right


def test_tables_that_are_behind_are_waited_for_only_while_somebody_brings_them_up(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    fill(ledger, history(300))
    answers = [True, True, False]

    def followed(live: psycopg.Connection[Any]) -> bool:
        assert live.execute("select count(*) from profiles").fetchone() == (0,)
        return answers.pop(0)

    create_replay(database, profile.PROJECTOR, ledger)
    fold_parts(database, [profile.PROJECTOR], ledger, GO_ON)
    run = finish(database, profile.PROJECTOR, ledger, followed, lambda: None)
    assert (run.state, run.note) == ("verified", "equal to a fresh fold of the ledger")
    assert answers == []


def test_whoever_is_stopped_between_two_batches_leaves_a_rebuild_that_goes_on(
    ledger: PostgresLedger, database: str
) -> None:
    fill(ledger, history(300))
    create_replay(database, punishments.PROJECTOR, ledger)
    fold_parts(database, [punishments.PROJECTOR], ledger, GO_ON)
    stopped, run = 0, None
    while run is None:
        try:
            run = finish(database, punishments.PROJECTOR, ledger, lambda _: False, _stopping_after(stopped))
        except Stopped:
            stopped += 1
    # While the tables beside are derived, streams compared, and what is derived.
    assert stopped >= 3
    assert (run.state, run.note) == ("verified", "equal to a fresh fold of the ledger")


def _stopping_after(batches: int) -> Callable[[], None]:
    left = iter(range(batches))

    def between() -> None:
        if next(left, None) is None:
            raise Stopped

    return between


def test_live_projectors_go_on_from_the_new_tables(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    whole = history(600)
    fill(ledger, whole[:300])
    catch_up(ledger, database, PROJECTORS)
    create_replay(database, punishments.PROJECTOR, ledger)
    fill(ledger, whole[300:400])
    catch_up(ledger, database, PROJECTORS)
    run_replay(ledger, database, punishments.PROJECTOR, GO_ON)
    fill(ledger, whole[400:500])
    catch_up(ledger, database, PROJECTORS)
    promote_replay(ledger, database, punishments.PROJECTOR, GO_ON)
    assert checkpoint(conn, "punishments") == ledger.head()
    fill(ledger, whole[500:])
    catch_up(ledger, database, PROJECTORS)
    live = contents(conn, TABLES)
    rebuilt(ledger, database)
    assert contents(conn, TABLES) == live


def test_a_runner_that_read_from_the_old_tables_writes_nothing_into_the_new_ones(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    whole = history(400)
    fill(ledger, whole[:300])
    catch_up(ledger, database, PROJECTORS)
    create_replay(database, profile.PROJECTOR, ledger)
    run_replay(ledger, database, profile.PROJECTOR, GO_ON)
    conn.execute("update profiles set level = 3")
    fill(ledger, whole[300:])
    promoted: list[bool] = []

    def late(rows: Mapping[Key, Any], recorded: Recorded) -> Sequence[Any]:
        if not promoted:
            promoted.append(True)
            promote(database, profile.PROJECTOR, ledger)
        return profile.fold(rows, recorded)

    before = checkpoint(conn, "profile")
    # As if nothing new had come: the new tables are at the very position that the runner read.
    with pytest.raises(Fenced):
        advance(conn, msgspec.structs.replace(profile.PROJECTOR, fold=late), ledger, 10)
    assert checkpoint(conn, "profile") >= before
    catch_up(ledger, database, PROJECTORS)
    live = contents(conn, TABLES)
    rebuilt(ledger, database, [profile.PROJECTOR])
    assert contents(conn, TABLES) == live


@pytest.mark.parametrize("projector", [profile.PROJECTOR, punishments.PROJECTOR, audit_log.PROJECTOR])
def test_whoever_is_killed_in_whatever_step_another_goes_on_and_nothing_counts_twice(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection, projector: Projector[Any]
) -> None:
    fill(ledger, history(4_000))
    catch_up(ledger, database, [projector])
    live = contents(conn, TABLES)
    create_replay(database, projector, ledger)
    stages, patience = [], 0.05
    while (state := _state(database, projector)) not in ("verified", "live"):
        stages.append(state)
        process = start(["-c", RUN, database, projector.name])
        # Each gets a little further before it is killed, at a moment that nobody chose.
        time.sleep(patience)
        process.kill()
        process.wait()
        patience *= 1.15
        assert len(stages) < 60, stages
    assert len(stages) > 1
    promote_replay(ledger, database, projector, GO_ON)
    assert contents(conn, TABLES) == live


def _state(database: str, projector: Projector[Any]) -> str:
    with beside(database, projector.name) as (conn, place):
        return current(conn, place, projector).state


def test_several_processes_fold_one_rebuild_together(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    fill(ledger, history(12_000))
    catch_up(ledger, database, [punishments.PROJECTOR])
    live = contents(conn, TABLES)
    create_replay(database, punishments.PROJECTOR, ledger)
    processes = [start(["-c", RUN, database, "punishments"]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert _state(database, punishments.PROJECTOR) == "verified"
    promote_replay(ledger, database, punishments.PROJECTOR, GO_ON)
    assert contents(conn, TABLES) == live


IN_THREE_PARTS = """
import sys
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import rebuild
from modledger.projections.guilds import PROJECTOR
rebuild.LEAST_PART = 100
with PostgresLedger(sys.argv[1], bytes(range(32)), connections=1) as ledger:
    rebuild.create_replay(sys.argv[1], PROJECTOR, ledger)
"""


@pytest.mark.parametrize(("processes", "helpers"), [(1, 0), (2, 1), (8, 2)])
def test_no_more_processes_fold_than_there_are_parts(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection, processes: int, helpers: int
) -> None:
    fill(ledger, history(250))
    catch_up(ledger, database, PROJECTORS)
    assert start(["-c", IN_THREE_PARTS, database]).wait(120) == 0
    held = "select from replay_parts where not finished for update"
    # Whoever looked what is left has started its helpers, and waits because others are at all of it.
    waiting = (
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and application_name = 'modledger replay' and query = 'COMMIT'"
    )
    arguments = ["-m", "modledger.workers", "replay", "run", "guilds", "--processes", str(processes)]
    with psycopg.connect(database) as holding:
        assert holding.execute(held).rowcount == 3
        running = start(arguments, {**os.environ, **on(database)})
        while conn.execute(waiting).fetchone() == (0,):
            assert running.poll() is None
        found = [line for line in _children(running.pid) if "--helping" in line]
    assert running.wait(120) == 0
    assert len(found) == helpers, found
    assert _state(database, guilds.PROJECTOR) == "verified"


def _children(of: int) -> list[str]:
    """The command lines of the processes that one has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        # A process may end while it is looked at.
        with suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == of:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_of_two_operators_who_create_the_same_rebuild_one_is_told_so(ledger: PostgresLedger, database: str) -> None:
    outcomes: list[str] = []

    def try_it() -> None:
        try:
            create_replay(database, profile.PROJECTOR, ledger)
            outcomes.append("created")
        except ReplayRefused as error:
            outcomes.append(str(error))

    _at_once([try_it] * 4)
    assert sorted(outcomes) == ["created"] + ["there is a rebuild of profile already, which is created"] * 3


def test_of_operators_who_promote_at_once_one_does_and_the_others_find_it_done(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    fill(ledger, history(200))
    create_replay(database, profile.PROJECTOR, ledger)
    run_replay(ledger, database, profile.PROJECTOR, GO_ON)
    states: list[str] = []
    _at_once([lambda: states.append(promote_replay(ledger, database, profile.PROJECTOR, GO_ON).state)] * 3)
    assert states == ["live"] * 3
    generation = conn.execute("select generation from read_models where projector = 'profile'").fetchone()
    assert generation == (1,)


def _at_once(work: Sequence[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_nothing_is_promoted_before_it_is_verified(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    fill(ledger, history(200))
    with pytest.raises(ReplayRefused, match="there is no rebuild of profile: create one"):
        promote(database, profile.PROJECTOR, ledger)
    create_replay(database, profile.PROJECTOR, ledger)
    with pytest.raises(ReplayRefused, match="is not verified yet, but created"):
        promote(database, profile.PROJECTOR, ledger)
    fold_parts(database, [profile.PROJECTOR], ledger, GO_ON)
    with pytest.raises(ReplayRefused, match="is not verified yet, but replaying"):
        promote(database, profile.PROJECTOR, ledger)
    assert conn.execute("select count(*) from profiles").fetchone() == (0,)


@pytest.mark.parametrize("step", ["fold", "also"])
def test_who_works_on_a_rebuild_that_is_aborted_writes_nothing_more_anywhere(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection, step: str
) -> None:
    fill(ledger, history(500))
    catch_up(ledger, database, PROJECTORS)
    live = contents(conn, TABLES)
    aborting = threading.Thread(target=abort, args=(database, "punishments"))

    class Following(PostgresLedger):
        """Does not look at what came after the rebuild's head before the abort is through: it has waited for a batch,
        but a busy machine might let the rebuild come to its end before it."""

        def read_topics(self, topics: Collection[str], after: int, limit: int) -> Passage:
            aborting.join()
            return super().read_topics(topics, after, limit)

    def meanwhile(*arguments: Any) -> Any:
        if aborting.ident is None:
            aborting.start()
            # It waits for the batch in hand.
            while not conn.execute("select from pg_locks where not granted").fetchall():
                pass
        return getattr(punishments.PROJECTOR, step)(*arguments)

    create_replay(database, punishments.PROJECTOR, ledger)
    surprised = msgspec.structs.replace(punishments.PROJECTOR, **{step: meanwhile})
    with Following(database, MASTER_KEY) as following, pytest.raises((ReplayAborted, ReplayRefused)):
        run_replay(following, database, surprised, GO_ON)
    aborting.join()
    assert contents(conn, TABLES) == live
    assert schemas(conn) == []
    with pytest.raises(ReplayRefused, match="there is no rebuild of punishments to abort"):
        abort(database, "punishments")


def test_an_event_that_cannot_be_folded_ends_the_run_and_is_named_and_nothing_is_lost(
    ledger: PostgresLedger, database: str, conn: psycopg.Connection
) -> None:
    fill(ledger, history(300))
    catch_up(ledger, database, PROJECTORS)
    live = contents(conn, TABLES)

    def broken(rows: Mapping[Key, Any], recorded: Recorded) -> Sequence[Any]:
        if isinstance(recorded.event, events.PermissionChanged) and recorded.stream == "user:7":
            raise ValueError("planted")
        return permission_history.fold(rows, recorded)

    projector = permission_history.PROJECTOR
    create_replay(database, projector, ledger)
    with pytest.raises(ReplayFailed, match=r"cannot fold user.permission_changed.v1 at position \d+"):
        run_replay(ledger, database, msgspec.structs.replace(projector, fold=broken), GO_ON)
    with beside(database, projector.name) as (shadow, place):
        assert "planted" in str(current(shadow, place, projector).error)
    run_replay(ledger, database, projector, GO_ON)
    promote_replay(ledger, database, projector, GO_ON)
    assert contents(conn, TABLES) == live


def test_of_two_operators_who_rebuild_everything_at_once_the_second_waits(
    ledger: PostgresLedger, database: str
) -> None:
    fill(ledger, history(100))
    catch_up(ledger, database, PROJECTORS)
    with ThreadPoolExecutor(2) as threads:
        operators = [threads.submit(command, database, "all", "--drop") for _ in range(2)]
    for operator in operators:
        done = operator.result()
        assert done.returncode == 0, done
        assert done.stdout.splitlines()[-1] == "every read model is rebuilt"
    with psycopg.connect(database) as connection:
        left = connection.execute("select count(*) from pg_namespace where nspname ~ '^(replay|old)_'").fetchone()
    assert left == (0,)
    assert [found for one in PROJECTORS for found in verify_projector(database, one, ledger)] == []


def test_the_command_line_takes_a_rebuild_from_its_beginning_to_its_end(ledger: PostgresLedger, database: str) -> None:
    fill(ledger, history(300))
    catch_up(ledger, database, PROJECTORS)
    for arguments, status, words in [
        (["create", "nonsense"], 2, "there is no projection 'nonsense'; there are profile, punishments"),
        (["run", "bots"], 2, "there is no rebuild of bots: create one"),
        (["promote", "bots"], 2, "there is no rebuild of bots: create one"),
        (["drop", "bots"], 2, "nothing to drop"),
        (["abort", "bots"], 2, "there is no rebuild of bots to abort"),
        (["status"], 0, "no rebuild"),
        (["create", "bots"], 0, "a rebuild of 300 events, up to position 300"),
        (["create", "bots"], 2, "there is a rebuild of bots already"),
        (["promote", "bots"], 2, "is not verified yet, but created"),
        (["run", "bots", "--processes", "2"], 0, "bots: verified, equal to the tables that are read, both ways"),
        (["status", "bots"], 0, "verified"),
        (["promote", "bots"], 0, "bots: live"),
        (["abort", "bots"], 2, "there is no rebuild of bots to abort"),
        (["drop", "bots"], 0, "dropped"),
        (["create", "bots"], 0, "a rebuild of 300 events"),
        (["abort", "bots"], 0, "bots: aborted"),
        (["all", "--drop"], 0, "every read model is rebuilt"),
    ]:
        done = command(database, *arguments)
        assert done.returncode == status, (arguments, done)
        assert words in done.stdout + done.stderr, (arguments, done)
        assert "Traceback" not in done.stderr

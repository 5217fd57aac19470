"""How the embedded PostgreSQL is started, shared, killed and found again, with real processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from modledger.workers.postgres import EmbeddedPostgres
from modledger.workers.postgres_programs import account_for
from tests.postgres_processes import (
    ATTACH,
    BIN_DIRS,
    answers,
    ask,
    crash,
    holder,
    is_dead,
    let_go,
    pid_of,
    server_for_tests,
    socket_dir,
    until,
    url_of,
)

# Durable, because without synchronous_commit the kill may take the newest commits with it.
WHOLE_LIFE = """
import os, signal, sys
from pathlib import Path
import psycopg
from modledger.workers.postgres import EmbeddedPostgres
pg_root = Path(sys.argv[1])
server = EmbeddedPostgres(pg_root, bin_dir=Path(sys.argv[2]))
url = server.attach()
with psycopg.connect(url, autocommit=True) as connection:
    connection.execute("create table if not exists kept (n int)")
    before = connection.execute("select count(*) from kept").fetchone()[0]
    for n in range(200):
        connection.execute("insert into kept values (%s)", (n,))
os.kill(int((pg_root / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
assert server.attach() == url
with psycopg.connect(url) as connection:
    print(connection.execute("select count(*) from kept").fetchone()[0] - before)
server.detach()
assert not (pg_root / "data" / "postmaster.pid").exists()
"""


def _can_run(uid: int, *command: str) -> bool:
    try:
        done = subprocess.run(
            command, user=uid, group=uid, extra_groups=[], cwd="/", capture_output=True, check=False, timeout=30
        )
    except OSError:
        return False
    return done.returncode == 0


def _accounts() -> dict[str, dict[str, Any]]:
    """Under whom this machine lets us try: what subprocess.run takes for each."""
    found: dict[str, dict[str, Any]] = {"as we are": {}}
    if os.geteuid() != 0:
        return found
    if all(_can_run(65534, str(folder / "postgres"), "--version") for folder in BIN_DIRS):
        # unshare is looked up on the PATH: without it root finds no user namespace, as in most containers
        found["root without namespaces"] = {"env": os.environ | {"PATH": "/nonexistent"}}
    nameless = 54321
    importing = (sys.executable, "-c", "import modledger.workers.postgres")
    if _can_run(65534, *importing):
        found["nobody"] = {"user": 65534, "group": 65534, "extra_groups": []}
    if _can_run(nameless, *importing) and _can_run(nameless, "unshare", "-U", "true"):
        found["a uid without a name"] = {"user": nameless, "group": nameless, "extra_groups": []}
    return found


ACCOUNTS = _accounts()
HANDOVERS = [["as we are", "as we are"]]
if "root without namespaces" in ACCOUNTS:
    HANDOVERS.append(["as we are", "root without namespaces", "as we are"])
if "nobody" in ACCOUNTS:
    HANDOVERS.append(["nobody", "as we are", "nobody"])


# -- whole lives


@pytest.mark.parametrize("bin_dir", BIN_DIRS, ids=str)
@pytest.mark.parametrize("account", ACCOUNTS)
def test_a_cluster_is_made_killed_recovered_without_a_lost_commit_and_stopped(
    open_cluster_place: Path, account: str, bin_dir: Path
) -> None:
    command = [sys.executable, "-c", WHOLE_LIFE, str(open_cluster_place / "postgres"), str(bin_dir)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **ACCOUNTS[account])
    assert (done.stdout, done.stderr) == ("200\n", "")


@pytest.mark.parametrize("accounts", HANDOVERS, ids=", then ".join)
def test_root_uses_what_another_account_made_and_the_other_way_round(
    open_cluster_place: Path, accounts: list[str]
) -> None:
    for account in accounts:
        command = [sys.executable, "-c", WHOLE_LIFE, str(open_cluster_place / "postgres"), str(BIN_DIRS[0])]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **ACCOUNTS[account])
        assert (done.stdout, done.stderr) == ("200\n", "")


def test_it_needs_neither_a_home_nor_a_locale_and_ignores_the_variables_of_other_servers(fresh_root: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PGPORT": "1", "PGDATA": "/nonexistent", "PGDATABASE": "other"}
    # What this interpreter may need to find its own modules and library.
    environment |= {name: os.environ[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    with holder(fresh_root, env=environment) as process:
        assert ask(url_of(process), "select current_database()") == "modledger"
        let_go(process)


@pytest.mark.parametrize(("durable", "setting"), [(True, "on"), (False, "off")])
def test_only_a_server_for_tests_goes_without_fsync(tmp_path: Path, durable: bool, setting: str) -> None:
    # on a disk, unlike the others
    server = EmbeddedPostgres(tmp_path / "pg", durable=durable)
    url = server.attach()
    names = ("fsync", "synchronous_commit", "full_page_writes")
    assert [ask(url, f"select current_setting('{name}')") for name in names] == [setting] * 3
    assert ask(url, "select current_setting('TimeZone')") == "UTC"
    assert ask(url, "select current_setting('listen_addresses')") == ""
    assert ask(url, "select lower('É')") == "é"
    server.detach()
    shutil.rmtree(tmp_path / "pg")


# -- sharing


def test_processes_that_race_on_a_fresh_folder_share_one_server_and_the_last_one_stops_it(fresh_root: Path) -> None:
    with contextlib.ExitStack() as stack:
        racers = [stack.enter_context(holder(fresh_root)) for _ in range(4)]
        urls = {url_of(process) for process in racers}
        assert len(urls) == 1
        url = urls.pop()
        first = pid_of(fresh_root)
        for process in racers[:-1]:
            let_go(process)
            assert answers(url)
        assert pid_of(fresh_root) == first
        let_go(racers[-1])
        assert not answers(url)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_outlives_its_killed_parent_and_the_next_process_finds_and_stops_it(
    pg_root: Path, blow: signal.Signals
) -> None:
    with holder(pg_root) as parent:
        url = url_of(parent)
        parent.send_signal(blow)
        parent.wait()
    running = pid_of(pg_root)
    assert answers(url)
    server = server_for_tests(pg_root)
    assert server.attach() == url
    assert pid_of(pg_root) == running
    server.detach()
    assert not answers(url)


def test_the_death_of_one_process_leaves_the_server_to_the_others(pg_root: Path) -> None:
    server = server_for_tests(pg_root)
    url = server.attach()
    with holder(pg_root) as other:
        url_of(other)
        other.kill()
    assert answers(url)
    server.detach()
    assert not answers(url)


def test_a_ctrl_c_in_the_terminal_reaches_the_process_but_not_the_server(pg_root: Path) -> None:
    with holder(pg_root, start_new_session=True, stderr=subprocess.DEVNULL) as starter:
        url = url_of(starter)
        server = server_for_tests(pg_root)
        server.attach()
        with psycopg.connect(url) as connection:
            os.killpg(starter.pid, signal.SIGINT)
            starter.wait()
            assert connection.execute("select 1").fetchone() == (1,)
    server.detach()
    assert not answers(url)


def test_attach_and_detach_may_be_repeated(pg_root: Path) -> None:
    server = server_for_tests(pg_root)
    server.detach()
    url = server.attach()
    assert server.attach() == url
    server.detach()
    assert not answers(url)
    server.detach()
    assert server.attach() == url
    server.detach()


def test_a_stopped_server_is_started_again_by_the_next_attach_with_its_data(pg_root: Path) -> None:
    server = server_for_tests(pg_root)
    url = server.attach()
    server.stop()
    assert not answers(url)
    server.stop()
    assert ask(server.attach(), "select n from kept") == 7
    server.detach()


def test_a_forked_child_does_not_stop_its_parents_server(pg_root: Path) -> None:
    code = ATTACH + (
        "url = server.attach()\n"
        "if os.fork() == 0:\n    server.detach(); sys.exit()\n"
        "os.wait(); print(url, flush=True); sys.stdin.read()"
    )
    with holder(pg_root, code) as parent:
        url = url_of(parent)
        assert answers(url)
        let_go(parent)
    assert not answers(url)


def test_a_forked_child_that_attaches_keeps_the_server_when_its_parent_leaves(pg_root: Path) -> None:
    code = ATTACH + (
        "server.attach()\n"
        "ready, told = os.pipe()\n"
        "if child := os.fork():\n"
        "    os.read(ready, 1); server.detach(); print('left', flush=True); os.waitpid(child, 0)\n"
        "else:\n"
        "    print(server.attach(), flush=True); os.write(told, b'x'); sys.stdin.read()"
    )
    with holder(pg_root, code) as family:
        url = url_of(family)
        assert family.stdout is not None
        assert family.stdout.readline() == "left\n"
        assert answers(url)
        let_go(family)
    assert not answers(url)


def test_a_server_started_by_hand_is_used_and_left_running(pg_root: Path, tmp_path: Path) -> None:
    server = server_for_tests(pg_root)
    sockets = tmp_path / "s"
    sockets.mkdir()
    pg_ctl = [*account_for(pg_root / "data").prefix, str(BIN_DIRS[0] / "pg_ctl"), "-D", str(pg_root / "data")]
    log = str(tmp_path / "by-hand.log")
    by_hand = [*pg_ctl, "-w", "-l", log, "-o", f"-k {sockets} -p 6001", "start"]
    subprocess.run(by_hand, check=True, stdout=subprocess.DEVNULL)
    running = pid_of(pg_root)
    url = server.attach()
    assert socket_dir(url) == sockets
    server.detach()
    assert answers(url)
    assert pid_of(pg_root) == running
    server.stop()
    assert not answers(url)


# -- crashes


def test_a_killed_postmaster_is_replaced_at_the_next_attach_of_a_process_that_stayed(pg_root: Path) -> None:
    server = EmbeddedPostgres(pg_root)
    url = server.attach()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate kept")
        for n in range(1000):
            connection.execute("insert into kept values (%s)", (n,))
    with holder(pg_root) as other:
        assert url_of(other) == url
        crash(pg_root)
        assert server.attach() == url
        assert ask(url, "select count(*) from kept") == 1000
        server.detach()
        assert answers(url)
        let_go(other)
    assert not answers(url)


def test_a_start_waits_for_a_backend_that_is_still_computing_after_its_postmaster_was_killed(pg_root: Path) -> None:
    server = server_for_tests(pg_root)
    url = server.attach()
    backend: list[int] = []

    def compute() -> None:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url) as connection:
            backend.append(connection.info.backend_pid)
            connection.execute("select count(*) from generate_series(1, 5000000) a where a % 7 = 1")

    thread = threading.Thread(target=compute)
    thread.start()
    until(lambda: bool(backend) and ask(url, "select count(*) from pg_stat_activity where state = 'active'") > 1)
    crash(pg_root)
    assert ask(server.attach(), "select n from kept") == 7
    assert is_dead(backend[0])
    thread.join()
    server.detach()


def _a_living_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"])


def _a_zombie() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process


@pytest.mark.parametrize("impostor", [_a_living_process, _a_zombie])
def test_a_pid_file_left_by_a_crash_is_not_believed_when_another_process_has_that_pid(
    pg_root: Path, impostor: Callable[[], subprocess.Popen[bytes]]
) -> None:
    server = server_for_tests(pg_root)
    url = server.attach()
    crash(pg_root)
    with impostor() as process:
        for path in (pg_root / "data" / "postmaster.pid", socket_dir(url) / ".s.PGSQL.5432.lock"):
            lines = path.read_text().splitlines(keepends=True)
            path.write_text("".join([f"{process.pid}\n", *lines[1:]]))
        assert ask(server.attach(), "select n from kept") == 7
        assert pid_of(pg_root) != process.pid
        server.detach()
        if impostor is _a_living_process:
            assert process.poll() is None
            process.kill()


@pytest.mark.parametrize("content", ["", "\0\0\0\0", "0\n", "no pid\n"])
def test_a_pid_file_that_a_power_cut_left_without_a_pid_does_not_prevent_the_start(pg_root: Path, content: str) -> None:
    server = server_for_tests(pg_root)
    (pg_root / "data" / "postmaster.pid").write_text(content)
    assert answers(server.attach())
    server.detach()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_an_initdb_that_was_cut_short_is_done_again(fresh_root: Path, blow: signal.Signals) -> None:
    with holder(fresh_root, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        until((fresh_root / "data.new" / "PG_VERSION").exists)
        os.killpg(process.pid, blow)
        process.wait()
    assert not (fresh_root / "data").exists()
    server = server_for_tests(fresh_root)
    assert answers(server.attach())
    assert not (fresh_root / "data.new").exists()
    server.detach()

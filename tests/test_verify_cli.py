"""What ``modledger verify`` prints of differences: for people on a terminal, plain elsewhere."""

import os
import pty
import re
from base64 import b64encode

import psycopg

from bench.history import fill, history
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.workers.runner import catch_up
from tests.databases import MASTER_KEY
from tests.forked import run, start
from tests.test_replay_progress import read_all

EXPECTED = """\
profile (user_id=2): avatar_url
  expected null
  found    "x"
profile (user_id=2): prefix
  expected "!"
  found    "?\\u001b[31m"
profile: 2 differences
audit_log audit_log_counts (actor_id=1, week=5, event_type=X\\x1b[31m): row is one too many
  found    {"actor_id":1,"week":5,"event_type":"X\\u001b[31m","total":1}
audit_log: 1 difference
"""


def test_differences_are_named_by_row_and_field_and_steer_no_terminal(database: str, ledger: PostgresLedger) -> None:
    fill(ledger, history(100))
    catch_up(ledger, database, PROJECTORS)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("update profiles set avatar_url = 'x', prefix = '?' || chr(27) || '[31m' where user_id = 2")
        connection.execute("insert into audit_log_counts values (1, 5, 'X' || chr(27) || '[31m', 1)")
    command = ["-m", "modledger.workers", "verify", "profile", "audit_log"]
    environment = {
        **os.environ,
        "MODLEDGER_DATABASE_URL": database,
        "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode(),
        "TERM": "xterm-256color",
    }
    piped = run(command, environment)
    assert (piped.returncode, piped.stderr) == (1, "")
    assert piped.stdout == EXPECTED
    ours, theirs = pty.openpty()
    process = start(command, environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    told = read_all(ours)
    assert process.wait(120) == 1
    # Without its colours it is the same, and nothing is cut off or left out.
    assert re.sub(r"\s+", "", told) == re.sub(r"\s+", "", EXPECTED)

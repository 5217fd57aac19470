"""What the tests start by forking behaves as what they would start from nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
PROGRAM = """
import atexit, os, sys
atexit.register(print, "and then this")
print(sys.argv[1:], sys.stdin.read(), os.environ.get("GIVEN"), sys.stdout.isatty(), __name__)
print("wrong", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "modledger.workers", "settings"),
        ("-m", "modledger.workers", "--help"),
        ("-m", "modledger.workers", "owner", "x"),
        ("-c", PROGRAM, "3"),
        ("-c", "import sys; sys.exit('a text')"),
        ("-c", "print(1)"),
    ],
    ids=lambda value: " ".join(value[:2]) + value[-1][-9:],
)
def test_it_says_and_answers_the_same(arguments: tuple[str, ...]) -> None:
    given = {**ENVIRONMENT, "GIVEN": "for it alone"}
    from_nothing = subprocess.run(
        [sys.executable, *arguments],
        env=given,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    ended = forked.run(arguments, given)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        from_nothing.returncode,
        from_nothing.stdout,
        from_nothing.stderr,
    )


def test_what_goes_wrong_ends_in_a_traceback_and_status_1() -> None:
    ended = forked.run(["-c", "raise ValueError('planted')"])
    assert ended.returncode == 1
    assert ended.stderr.endswith("ValueError: planted\n")


def test_it_runs_beside_its_starter_until_it_is_killed() -> None:
    running = forked.start(["-c", "import time; time.sleep(600)"])
    assert running.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.01)
    running.kill()
    assert running.wait(60) == -9
    assert running.poll() == -9


def test_one_leaves_nothing_to_the_next() -> None:
    forked.run(["-c", "import os, modledger.workers as w; os.environ['LEFT'] = w.left = 'x'; os.chdir('/')"])
    asked = "import os, modledger.workers as w; print(os.environ.get('LEFT'), hasattr(w, 'left'), os.getcwd())"
    assert forked.run(["-c", asked]).stdout == f"None False {Path.cwd()}\n"

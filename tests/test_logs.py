"""What goes to the log: one line for each event, whatever it quotes; JSON, or on a terminal for people."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modledger.workers.logs import Gatherer, as_json, escape

FORGED = 'x\n{"event":"forged"}\r\x1b[2J\x1b]0;title\x07\x9b31m\u2028\u2029\x85\u202etxt\x7f'

PROGRAM = """
import logging, sys
import structlog
from modledger.workers.logs import configure_logs
configure_logs("info", "serve", gather={gather!r})
text = {text!r}
structlog.get_logger().info("asked", reason=text, number=7, nothing=None)
structlog.get_logger().debug("not said")
structlog.get_logger().warning(text)
try:
    raise ValueError(text)
except ValueError:
    structlog.get_logger().exception("failed")
logging.getLogger("psycopg.pool").warning("from a library: %s", text)
logging.getLogger("psycopg.pool").info("not said either")
"""


def in_a_pipe(text: str, *, gather: bool) -> bytes:
    program = PROGRAM.format(text=text, gather=gather)
    return subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=True).stderr


def on_a_terminal(text: str) -> bytes:
    ours, theirs = pty.openpty()
    said = b""
    try:
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(text=text, gather=False)],
            stderr=theirs,
        ) as process:
            os.close(theirs)
            while True:
                try:
                    read = os.read(ours, 65536)
                except OSError:
                    # How Linux says that nobody has the other end open any more.
                    break
                said += read
            assert process.wait() == 0
    finally:
        os.close(ours)
    return said


@pytest.mark.parametrize("gather", [False, True])
def test_elsewhere_than_on_a_terminal_every_line_is_one_json_object(gather: bool) -> None:
    said = in_a_pipe(FORGED, gather=gather)
    assert said.isascii()
    lines = [json.loads(line) for line in said.decode().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("asked", "info"),
        (FORGED, "warning"),
        ("failed", "error"),
        (f"from a library: {FORGED}", "warning"),
    ]
    assert all(line["process"] == "serve" and line["timestamp"].endswith("Z") for line in lines)
    assert (lines[0]["reason"], lines[0]["number"], lines[0]["nothing"]) == (FORGED, 7, None)
    assert "ValueError" in lines[2]["exception"]


def test_on_a_terminal_nothing_that_is_quoted_moves_the_cursor_or_begins_a_line() -> None:
    # The terminal itself turns \n into \r\n; the colours are structlog's.
    said = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(FORGED).decode().replace("\r\n", "\n"))
    lines = said.splitlines()
    assert "asked" in lines[0]
    assert not any(line.lstrip().startswith("{") for line in lines)
    assert all(line[:4].isdigit() or line.startswith("    |") for line in lines if line)
    plain = said.replace("\n", "")
    assert not any(ord(sign) < 0x20 or 0x7F <= ord(sign) <= 0x9F or sign in "\u2028\u2029\u202e" for sign in plain)


@pytest.mark.parametrize(
    "odd", [{"bytes": b"\xff"}, {"object": object()}, {1: "one"}, {"half": "\ud800"}, {"set": {1}}]
)
def test_whatever_is_logged_by_mistake_still_makes_a_line(odd: dict[object, object]) -> None:
    assert "\n" not in as_json({"event": "odd", **odd})
    json.loads(as_json({"event": "odd", **odd}))


@given(st.text())
def test_json_lines_are_printable_ascii_and_lose_nothing(text: str) -> None:
    line = as_json({"event": text})
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {"event": text}


@given(st.text())
def test_escaped_text_has_no_control_character_and_plain_text_stays_as_it_is(text: str) -> None:
    escaped = escape(text)
    assert not any(ord(sign) < 0x20 or 0x7F <= ord(sign) <= 0x9F for sign in escaped)
    assert escape(escaped) == escaped


def test_lines_that_are_gathered_come_soon_and_in_order_and_none_is_lost_or_cut() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "r") as out, os.fdopen(write, "w") as into:
        gatherer = Gatherer(into)
        gatherer.info("first")
        # Nobody ends it, nothing else is logged.
        assert out.readline() == "first\n"

        def log(name: int) -> None:
            for number in range(500):
                (gatherer.error if number % 100 == 99 else gatherer.info)(f"{name} {number}")

        threads = [threading.Thread(target=log, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        lines = [out.readline().split() for _ in range(2_000)]
        for thread in threads:
            thread.join()
    for name in range(4):
        assert [int(number) for of, number in lines if of == str(name)] == list(range(500))


def test_what_went_wrong_is_written_at_once_after_what_came_before() -> None:
    out = io.StringIO()
    gatherer = Gatherer(out)
    gatherer.info("before")
    gatherer.warning("wrong")
    assert out.getvalue() == "before\nwrong\n"


def test_a_log_that_nobody_reads_any_more_stops_nothing() -> None:
    out = io.StringIO()
    gatherer = Gatherer(out)
    out.close()
    gatherer.error("lost")
    gatherer.info("lost as well")
    gatherer.write()

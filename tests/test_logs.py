"""What goes to the log: one line for each event, whatever it quotes; JSON, or on a terminal for people."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modledger.workers.logs import as_json, escape

FORGED = 'x\n{"event":"forged"}\r\x1b[2J\x1b]0;title\x07\x9b31m\u2028\u2029\x85\u202etxt\x7f'

PROGRAM = """
import logging, sys
import structlog
from modledger.workers.logs import configure_logs
configure_logs("info", "serve")
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


def in_a_pipe(text: str) -> bytes:
    program = PROGRAM.format(text=text)
    return subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=True).stderr


def on_a_terminal(text: str) -> bytes:
    ours, theirs = pty.openpty()
    said = b""
    try:
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(text=text)],
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


def test_elsewhere_than_on_a_terminal_every_line_is_one_json_object() -> None:
    said = in_a_pipe(FORGED)
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

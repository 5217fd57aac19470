"""Logs go to standard error: one JSON object a line, or readable lines on a terminal.

Whatever a line quotes, it stays one line and moves no cursor: control characters are escaped, and in JSON whatever is
not ASCII as well, because some readers of logs take U+2028 or U+0085 for the end of a line.
"""

import atexit
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

import msgspec
import structlog

from modledger.domain.settings import LogLevel

_encoder = msgspec.json.Encoder(enc_hook=repr)
# C0 and C1 controls, the two separators of Unicode, and what turns the direction of the text after it.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


# How long a line of a process that gathers them may wait, in seconds.
GATHER_SECONDS = 0.05


def configure_logs(level: LogLevel, process: str, *, gather: bool = False) -> None:
    """Once per process, before anything logs. ``process`` names it in every line (serve, work …). ``gather``: lines of
    the levels debug and info are written some at a time; a kill -9 loses those of the last ``GATHER_SECONDS``."""
    number = logging.getLevelNamesMapping()[level.upper()]
    terminal = sys.stderr.isatty()

    def name_process(
        _logger: structlog.typing.WrappedLogger, _method: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {"process": process, **line}

    processors: list[structlog.typing.Processor] = [
        name_process,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if terminal:
        processors.append(_escape_line)
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback)
    else:
        processors.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer(serializer=as_json)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_one_for_all(Gatherer(sys.stderr)) if gather else structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries (granian, psycopg's pool) speak through the standard library; same place, same shape.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*processors, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def _one_for_all(gatherer: "Gatherer") -> Callable[..., "Gatherer"]:
    return lambda *_: gatherer


class Gatherer:
    """A logger for structlog that writes many lines at once. A write gives other threads the interpreter, and the one
    that brings requests takes it: a write for each request costs four times what the making of the line does."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lines: deque[str] = deque()
        self._some = threading.Event()
        self._writing = threading.Lock()
        atexit.register(self.write)
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def info(self, line: str) -> None:
        """Takes the line for later."""
        self._lines.append(line)
        if not self._some.is_set():
            self._some.set()

    def error(self, line: str) -> None:
        """Writes the line at once, after those that wait: it may be the last words of the process."""
        self._lines.append(line)
        self.write()

    msg = debug = info
    warning = warn = critical = fatal = exception = error

    def write(self) -> None:
        """Writes all lines that wait. Where nobody reads them any more they are lost, and nothing else."""
        with self._writing:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if lines:
                with suppress(OSError, ValueError):
                    self._out.write("\n".join(lines) + "\n")
                    self._out.flush()

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            time.sleep(GATHER_SECONDS)
            self.write()


def as_json(line: Any, **_: object) -> str:
    """The line as JSON in ASCII, what is of no JSON type as its ``repr``: no log call fails for what it is given."""
    try:
        encoded = _encoder.encode(line)
        if encoded.isascii() and b"\x7f" not in encoded:
            return encoded.decode()
    except (TypeError, ValueError):
        # Halves of surrogate pairs, keys that are no text: worth a line all the same.
        pass
    try:
        text = json.dumps(line, default=repr)
    except (TypeError, ValueError):
        text = json.dumps(repr(line))
    return text.replace("\x7f", "\\u007f")


def escape(text: str) -> str:
    r"""The text with each control character as \xNN or \uNNNN."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _escape_line(
    _logger: structlog.typing.WrappedLogger, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {name: escape(value) if isinstance(value, str) else value for name, value in line.items()}


def _write_traceback(out: TextIO, error: structlog.typing.ExcInfo) -> None:
    # Marked at their beginnings, so that none can be made to look like a line of the log.
    lines = "".join(traceback.format_exception(*error)).splitlines()
    out.writelines(f"\n    | {escape(line)}" for line in lines)

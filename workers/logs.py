"""Logs go to standard error: one JSON object a line, or readable lines on a terminal.

Whatever a line quotes, it stays one line and moves no cursor: control characters are escaped, and in JSON whatever is
not ASCII as well, because some readers of logs take U+2028 or U+0085 for the end of a line.
"""

import json
import logging
import re
import sys
import traceback
from typing import Any, TextIO

import msgspec
import structlog

from modledger.domain.settings import LogLevel

_encoder = msgspec.json.Encoder(enc_hook=repr)
# C0 and C1 controls, the two separators of Unicode, and what turns the direction of the text after it.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def configure_logs(level: LogLevel, process: str) -> None:
    """Once per process, before anything logs. ``process`` names it in every line (serve, work …)."""
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
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
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

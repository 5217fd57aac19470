"""The examples of docs/api.md: what a fenced block says, run against a server, and compared with what it answers.

A block holds a request and its answer as they go over the wire, but for three things. ``<admin>`` in a header stands
for the session of that role of the demo, ``<bot key>`` and ``<public key>`` for keys. What a server makes up itself,
such as ids and codes, is another each time: the first answer that shows such a value says what it is here, and requests
that follow are sent with that. And the page is written as of ``WRITTEN_AT``: later times in requests are moved along.
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.product import Answer

WRITTEN_AT = datetime(2026, 11, 22, 12, tzinfo=UTC)

# What a server makes up, and the form that it has: compared by form alone.
_MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_MADE_UP = {
    "id": r"\d+",
    "position": r"\d+",
    "created_at": _MOMENT,
    "updated_at": _MOMENT,
    "recorded_at": _MOMENT,
    "expires_at": _MOMENT,
    "subscription_expires_at": _MOMENT,
    "last_activity_at": _MOMENT,
    "first_joined_at": _MOMENT,
    "lifted_at": _MOMENT,
    "started_at": _MOMENT,
    "ts": _MOMENT,
    "correlation_id": _UUID,
    "batch_id": _UUID,
    "punishment_id": r"\d+",
    "code": "[A-Z0-9]{8}",
    "api_key": "hbot_[A-Za-z0-9_-]{43}",
    "token_suffix": "[A-Za-z0-9_-]{6}",
    "next_cursor": "[A-Za-z0-9_=.-]+",
    "etag": r'"\d+-[A-Za-z0-9_-]+"',
    "x-ledger-position": r"\d+",
}
# Those that later requests name.
_NAMES = {
    "id",
    "punishment_id",
    "batch_id",
    "code",
    "api_key",
    "token_suffix",
    "next_cursor",
    "etag",
    "x-ledger-position",
}


class Example(NamedTuple):
    line: int
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int
    answer_headers: dict[str, str]
    answer: Any


def blocks(page: str, kind: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks of a kind, each with the line that it begins in."""
    for found in re.finditer(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        yield page.count("\n", 0, found.start()) + 1, found[1]


def examples(page: str) -> list[Example]:
    """Every ``http`` block of the page."""
    return [_example(line, text) for line, text in blocks(page, "http")]


def _example(line: int, text: str) -> Example:
    request, status, answer = re.split(r"^HTTP/1\.1 (\d{3}).*\n", text, maxsplit=1, flags=re.MULTILINE)
    first, _, rest = request.partition("\n")
    method, path = first.split()
    headers, body = _headers_and_body(rest)
    answer_headers, answer_body = _headers_and_body(answer)
    return Example(line, method, path, headers, body, int(status), answer_headers, answer_body)


def _headers_and_body(text: str) -> tuple[dict[str, str], Any]:
    head, _, body = ("\n" + text).partition("\n\n")
    headers = dict(re.findall(r"^([\w-]+): (.*)$", head, re.MULTILINE))
    return headers, json.loads(body) if body.strip() else None


class Reading:
    """One reading of the page from its top: what its made-up values are on this server."""

    def __init__(self, send: Callable[..., Answer], secrets: dict[str, str], now: datetime) -> None:
        self.send = send
        self.moved = now.replace(microsecond=0) - WRITTEN_AT
        # What the page says, and what that is here.
        self.here: dict[str, str] = dict(secrets)

    def run(self, example: Example) -> list[str]:
        """Sends the request; where its answer is not the page's."""
        headers = {name: self._translated(value) for name, value in example.headers.items()}
        body = None if example.body is None else json.loads(self._moved(self._translated(json.dumps(example.body))))
        answer = self.send(example.method, self._translated(example.path), body, headers)
        if answer.status != example.status:
            return [f"status {answer.status} {answer.text}"]
        given = {name.lower(): value for name, value in answer.headers.items()}
        found = []
        for name, value in example.answer_headers.items():
            if name.lower() not in given:
                found.append(f"no header {name}")
            else:
                found += self._differences(name.lower(), value, given[name.lower()], name)
        return found + self._differences("", example.answer, json.loads(answer.text) if answer.text else None, "$")

    def compare(self, said: Any, given: Any) -> list[str]:
        """Where an answer is not what the page says."""
        return self._differences("", said, given, "$")

    def _translated(self, text: str) -> str:
        for said, here in sorted(self.here.items(), key=lambda pair: -len(pair[0])):
            # A whole number or word only: 42 is no part of 4200.
            text = re.sub(rf"(?<![\w-]){re.escape(said)}(?![\w-])", here.replace("\\", r"\\"), text)
        return text

    def _moved(self, text: str) -> str:
        def move(found: re.Match[str]) -> str:
            moment = datetime.fromisoformat(found[0])
            later = moment + self.moved if moment > WRITTEN_AT else moment
            return later.strftime("%Y-%m-%dT%H:%M:%SZ")

        return re.sub(_MOMENT, move, text)

    def _differences(self, name: str, said: Any, given: Any, at: str) -> list[str]:
        if isinstance(said, dict) and isinstance(given, dict):
            if list(said) != list(given):
                return [f"{at}: the page has {list(said)}, the answer {list(given)}"]
            return [one for key in said for one in self._differences(key, said[key], given[key], f"{at}.{key}")]
        if isinstance(said, list) and isinstance(given, list) and len(said) == len(given):
            pairs = enumerate(zip(said, given, strict=True))
            return [one for i, (a, b) in pairs for one in self._differences(name, a, b, f"{at}[{i}]")]
        if type(said) is type(given) and (said == given or self._same_form(name, str(said), str(given))):
            return []
        return [f"{at}: the page has {said!r}, the answer {given!r}"]

    def _same_form(self, name: str, said: str, given: str) -> bool:
        form = _MADE_UP.get(name)
        if form is None or not re.fullmatch(form, said) or not re.fullmatch(form, given):
            return False
        return name not in _NAMES or self.here.setdefault(said, given) == given

"""Text of attackers (docs/security.md): in SQL it is a value, to a regular expression no more than one look at each
of its characters, and it stays what it was."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modledger.http import etags
from modledger.http.errors import Problem
from modledger.projections import reason_words
from modledger.workers import logs
from tests.http_client import ADMIN, OTHER_USER, OWNER, USER, World, error_of

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("domain", "projections", "http", "workers")

# -- regular expressions

# Each pattern of ours that is ever given what somebody else wrote, and the longest such text: all of them are walked
# once from left to right, since no two of their repetitions that follow each other can take the same character.
WRITTEN_BY_OTHERS = {
    "0|-?[1-9][0-9]*": "a number in path, query or body: 64 KiB",
    "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "a batch's id in the path: 64 KiB",
    r"[\x20-\x7e]{1,255}": "the header Idempotency-Key: 64 KiB",
    '\\s*(W/)?"([\\x21\\x23-\\x7e\\x80-\\xff]*)"\\s*(?:,|\\Z)': "the headers If-Match and If-None-Match: 64 KiB",
    "([0-9]{1,18})-[0-9a-f]{16}": "a tag of those headers",
    "[0-9]{1,19}": "the header X-Ledger-Position: 64 KiB; a position on the command line",
    "[A-Za-z0-9_-]{6}": "a token's suffix in the path: 64 KiB",
    r"[^\W_](?:.*[^\W_])?": "a word of a reason: 512 characters, more where a name is folded",
    "[1-9][0-9]{0,18}": "the size in a signed head that a witness brings",
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]": "what is logged on a terminal",
    r"\\(?:u00([0-9a-f]{2})|(.))": "the rows of a rebuild: reasons and names of any length, as JSON",
    r'\\[^"\\]': "the same",
}
# Of these those that are looked for anywhere; the others have to fit from the beginning.
SEARCHED = {
    r"[^\W_](?:.*[^\W_])?",
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]",
    r"\\(?:u00([0-9a-f]{2})|(.))",
    r'\\[^"\\]',
}
# What the operator writes (settings, command line), PostgreSQL (its files, its version) or we ourselves.
WRITTEN_BY_US = {
    "[0-9]{1,9}",
    "[0-9.]+|.*:.*",
    r"(?=.{1,253}\Z)(?!.*\.[0-9]+\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
    r"(https?)://(\[[0-9a-f:.]+\]|[^/:\[\]@]+)(?::([0-9]{1,5}))?",
    r"[\s\x00]",
    r"^(\w+://[^/@:]*):.*@",
    r"([?&](?:ssl)?password=)[^&]*",
    r"\d+",
    r"-?[1-9]\d*",
    r'[,"\n]',
    "(user|guild|bot):([1-9][0-9]{0,18})",
    "(user|bot):([1-9][0-9]{0,18})|(system|operator)",
    r"(\d{4})_([a-z0-9_]+)\.sql",
}
LONG = 100_000
# Long runs of what a pattern repeats, and then what it does not take.
ADVERSARIAL = [
    run * (LONG // len(run)) + end
    for run in ("0", "9", "a", " ", "-", "!", "_", '"', '"a",', '"a" ', "a!", "!a", "W/", "\t", "a-", "\x1b", "é", "٣")
    for end in ("", "x", "!", "\n", '"')
]


def patterns() -> Iterator[tuple[str, str]]:
    """Every regular expression of ours, and the module that it stands in."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and ast.unparse(node.func.value) == "re"
                    and node.func.attr != "escape"
                ):
                    first = node.args[0]
                    text = (
                        first.value
                        if isinstance(first, ast.Constant)
                        # The one that is put together has a number in it.
                        else "".join(
                            str(part.value) if isinstance(part, ast.Constant) else "6"
                            for part in (first.values if isinstance(first, ast.JoinedStr) else [])
                        )
                    )
                    # One of bytes is tried as one of characters.
                    known = text.decode() if isinstance(text, bytes) else str(text)
                    yield known.replace("{{", "{").replace("}}", "}"), path.name


def test_every_regular_expression_is_known_here_and_by_whom_its_text_is_written() -> None:
    found = {pattern for pattern, _ in patterns()}
    assert found == set(WRITTEN_BY_OTHERS) | WRITTEN_BY_US


@pytest.mark.parametrize("pattern", sorted(WRITTEN_BY_OTHERS))
def test_no_text_of_100_kb_holds_up_a_regular_expression(pattern: str) -> None:
    """That it ends is the test: one that looks twice at each character of such a text takes ten thousand million looks.
    Matched as the code does."""
    compiled = re.compile(pattern, re.DOTALL)
    how = compiled.search if pattern in SEARCHED else compiled.match
    for text in ADVERSARIAL:
        for found in (compiled.fullmatch(text), how(text)):
            assert found is None or len(found[0]) <= len(text)


def test_the_functions_around_them_end_too() -> None:
    for text in ADVERSARIAL:
        assert len(reason_words.bare(text)) <= len(text)
        assert len(logs.escape(text)) >= len(text)
        with pytest.raises(Problem) as refused:
            etags.expected_version(f"{text}§")
        assert refused.value.status == 400


@given(st.text(max_size=40).map(lambda text: "".join(text.split())))
def test_a_word_without_the_signs_around_it_is_what_stripping_them_one_by_one_leaves(word: str) -> None:
    def sign(letter: str) -> bool:
        return not letter.isalnum()

    left, right = 0, len(word)
    while left < right and sign(word[left]):
        left += 1
    while left < right and sign(word[right - 1]):
        right -= 1
    assert reason_words.bare(word) == (word[left:right] or word)


# -- SQL

INJECTED = [
    "'; drop table ledger; --",
    "' or '1'='1",
    '" or ""="',
    "\\'; select pg_sleep(60); --",
    "%' or 1=1 --",
    "$1",
    "%s",
    "%(name)s",
    "{0}",
    "1; delete from sessions",
    "') union select token_hash from sessions --",
    "/*",
    "\\",
    "%",
    "_",
    "user%",
    "u_er",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "\u202eresu",
    "=cmd|' /C calc'!A0",
]


def everything(world: World) -> list[Any]:
    tables = ("ledger", "sessions", "api_keys", "profiles", "punishments", "guilds", "bots", "login_codes")
    return [world.query(f"select count(*) from {table}") for table in tables]


def test_what_is_searched_for_is_a_value_and_never_a_piece_of_a_statement(shared_world: World) -> None:
    shared_world.token(ADMIN)
    before = everything(shared_world)
    for text in INJECTED:
        for path in ("/v1/users/search", "/v1/guilds/search", "/v1/bots/search", "/v1/admin/punishments/search"):
            response = shared_world.get(path, ADMIN, params={"q": text})
            assert response.status_code == 200, (path, text, response.text)
            # No wild card of LIKE is one here, and no condition is always true.
            assert response.json()["total"] == 0, (path, text)
        assert shared_world.get("/v1/admin/punishments/search", ADMIN, params={"user_id": text}).status_code == 400
        assert shared_world.get("/v1/admin/punishments/search", ADMIN, params={"sort": text}).status_code == 400
        assert shared_world.get("/v1/admin/punishments/search", ADMIN, params={"cursor": text}).status_code == 400
        assert shared_world.get("/v1/admin/audit/logs", ADMIN, params={"event_type": text}).status_code in (200, 400)
    assert everything(shared_world) == before


def test_what_is_written_comes_back_as_it_was_and_did_nothing(world: World) -> None:
    key = {"X-API-Key": world.bot_key()}
    path = f"/v1/admin/punishments/user/{OTHER_USER}/warn"
    for text in INJECTED:
        answer = world.post(path, ADMIN, {"reason": text})
        assert answer.json()["reason"] == text
        found = world.get(f"/v1/admin/punishments/{answer.json()['id']}", ADMIN)
        assert found.json()["reason"] == text
        body = {"username": text[:32]}
        assert world.post(f"/v1/bot/users/{USER}", json=body, headers=key).status_code == 200
        assert world.get("/v1/users/me", USER).json()["username"] == text[:32].strip()
        # Who bears such a name is found by it and by nothing else.
        error_of(world.post("/v1/authentication/verify", json={"code": text}), 401)
        assert world.post("/v1/authentication/request", json={"username": text[:32]}).status_code == 200
    assert world.query("select count(*) from sessions") != [(0,)]
    ((issued,),) = world.query("select count(*) from ledger where actor = %s", f"user:{ADMIN}")
    assert issued == len(INJECTED)
    assert world.get("/v1/users/search?q=owner", OWNER).json()["total"] == 1


def test_no_statement_is_put_together_from_anything_but_constants_of_ours() -> None:
    """Ruff's rule S608 finds every such string; each that is let pass says so in its own line, and what stands in its
    braces is a name of a module, of a column or of a table, never something that came in."""
    incoming = {"request", "data", "body", "reason", "username", "query_params", "headers", "q", "token", "code"}
    looked_at = 0
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(node, ast.JoinedStr):
                    continue
                text = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
                if not re.search(
                    r"\b(select|insert into|delete from|update)\b.*\b(from|where|into|set|values)\b", text, re.DOTALL
                ):
                    continue
                looked_at += 1
                for part in node.values:
                    if isinstance(part, ast.FormattedValue):
                        names = {one.id for one in ast.walk(part.value) if isinstance(one, ast.Name)}
                        assert not names & incoming, (path.name, ast.unparse(node))
    assert looked_at > 20

"""Every operation of /schema, asked wrongly in every way that its schema forbids: refused, and nothing is recorded.

What each operation may be asked is read from the document; how a refusal is worded is api.md's.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from modledger.domain import commands
from modledger.domain.envelope import SYSTEM, Subject
from tests.http_client import GUILD, NAMES, OTHER_USER, OWNER, World, error_of
from tests.openapi_document import DOCUMENT, OPERATIONS

JSON = "application/json"
TOP = 2**63 - 1
BOT = 6000
NO_INTEGERS = ("x", "1.5", "", "+1", "007", "1_0", "%20" + "1", "%D9%A1", "1e1", "9" * 60)
NO_MOMENTS = ("yesterday", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "1760000000", "")


class Bad(NamedTuple):
    """A request that has to be refused, with a message that names ``names``."""

    names: str
    path: str
    content: bytes | None
    status: int = 400
    content_type: str = JSON


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without references and without "or null"."""
    if "$ref" in schema:
        return resolved(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    kinds = [one for one in schema.get("oneOf", schema.get("anyOf", [])) if one.get("type") != "null"]
    return {**schema, **resolved(kinds[0])} if kinds else schema


def parameters(operation: dict[str, Any], place: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: resolved(one["schema"]) for one in operation.get("parameters", []) if one["in"] == place}


def good_text(name: str, schema: dict[str, Any]) -> str:
    if name == "batch_id" or schema.get("format") == "uuid":
        return "0d4f7a52-3c5e-4d0a-9c53-6a1f6c2b9e10"
    if schema.get("enum"):
        return str(schema["enum"][0])
    if schema.get("format") == "date-time":
        return "2026-01-01T00:00:00Z"
    return {"integer": "1", "boolean": "true"}.get(schema.get("type", ""), "abcdef")


def bad_texts(schema: dict[str, Any]) -> Iterator[str]:
    """Values of path or query that the schema forbids."""
    if schema.get("enum"):
        yield from ("nonsense", "")
    elif schema.get("format") == "date-time":
        yield from NO_MOMENTS
    elif schema.get("type") == "integer":
        low, high = int(schema.get("minimum", 0)), int(schema.get("maximum", TOP))
        yield from (*NO_INTEGERS, str(low - 1), str(high + 1))
    elif schema.get("type") == "boolean":
        yield from ("yes", "2", "")
    else:
        yield "a%00"
        if "maxLength" in schema:
            yield "a" * (schema["maxLength"] + 1)


def bad_values(schema: dict[str, Any]) -> Iterator[Any]:
    """Values of a body's field that the schema forbids."""
    match schema.get("type"):
        case "integer":
            low, high = int(schema.get("minimum", -TOP - 1)), int(schema.get("maximum", TOP))
            yield from (low - 1, high + 1, 10**30, 1.5, True, "x", "", [], {})
        case "number":
            yield from (True, "x", [], {})
        case "boolean":
            yield from (0, 1, "true", [], {})
        case "array":
            yield from (1, "x", {})
            if "maxItems" in schema:
                # So many of anything that the count is refused before any of them is looked at.
                yield [1] * (schema["maxItems"] + 1)
            if "minItems" in schema:
                yield []
        case "string" if "enum" in schema:
            yield from (1, "nonsense", "", [], {})
        case "string" if schema.get("format") == "date-time":
            yield from (1760000000, *NO_MOMENTS, [], {})
        case "string":
            yield from (1, True, [], {}, "a\x00")
            if schema.get("minLength"):
                yield ""
            if "maxLength" in schema:
                yield "a" * (schema["maxLength"] + 1)
            if "characters after trimming" in schema.get("description", ""):
                yield from (" \t\n ", "a" * 513)


def bad_fields(schema: dict[str, Any], example: dict[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Objects that break the schema in one place each, with the name of that place."""
    yield f"unknown field: {within}foo", {**example, "foo": 1}
    for name in schema.get("required", []):
        yield f"{within}{name} is required", {key: value for key, value in example.items() if key != name}
    for name, field in schema["properties"].items():
        found = resolved(field)
        for value in bad_values(found):
            yield within + name, {**example, name: value}
        if found.get("type") == "array" and example.get(name):
            item = resolved(found["items"])
            if "properties" in item:
                for place, broken in bad_fields(item, example[name][0], f"{within}{name}[0]."):
                    yield place, {**example, name: [broken, *example[name][1:]]}
            else:
                for value in bad_values(item):
                    yield f"{within}{name}[0]", {**example, name: [value]}


def bad_bodies(path: str, operation: dict[str, Any]) -> Iterator[Bad]:
    content = operation["requestBody"]["content"][JSON]
    example = content["examples"]["example"]["value"]
    good = json.dumps(example).encode()
    for raw in (b"", b"{", b"reason=spam", good + b" x", b"\xff\xfe", b'{"\\ud800": 1}', b"[" * 20_000):
        yield Bad("body must be valid JSON", path, raw)
    for raw in (b"[]", b"null", b'"x"', b"[" + good + b"]"):
        yield Bad("body must be a JSON object", path, raw)
    # As the document words it: not every operation has the same limit.
    too_large = operation["responses"]["413"]["content"][JSON]["examples"]["example"]["value"]["error"]
    limit = int(too_large.split()[-2]) * 1024 * (1024 if too_large.endswith("MiB") else 1)
    yield Bad(too_large, path, good + b" " * (limit + 1 - len(good)), 413)
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        yield Bad("Content-Type must be application/json", path, good, 415, content_type)
    for name, value in example.items():
        twice = f'{json.dumps({name: value})[:-1]}, "{name}": 1}}'
        yield Bad(f"{name} given more than once", path, twice.encode())
        break
    for place, broken in bad_fields(resolved(content["schema"]), example):
        yield Bad(place, path, json.dumps(broken).encode())


def bad_requests(path: str, operation: dict[str, Any]) -> Iterator[Bad]:
    in_path, in_query = parameters(operation, "path"), parameters(operation, "query")
    given = {name: good_text(name, schema) for name, schema in in_path.items()}
    fine = path.format(**given)
    content = None
    if "requestBody" in operation:
        yield from bad_bodies(fine, operation)
        content = json.dumps(operation["requestBody"]["content"][JSON]["examples"]["example"]["value"]).encode()
    for name, schema in in_path.items():
        # An empty one is another path.
        for value in filter(None, bad_texts(schema)):
            yield Bad(name, path.format(**{**given, name: value}), content)
    yield Bad("unknown parameter: foo", f"{fine}?foo=1", content)
    yield Bad("unknown parameter: foo", f"{fine}?foo=", content)
    for name, schema in in_query.items():
        good = f"{name}={good_text(name, schema)}"
        yield Bad(f"{name} given more than once", f"{fine}?{good}&{good}", content)
        yield Bad("unknown parameter: foo", f"{fine}?{good}&foo=1", content)
        for value in bad_texts(schema):
            yield Bad(name, f"{fine}?{name}={value}", content)


def credentials(world: World, operation: dict[str, Any]) -> dict[str, str]:
    """Of somebody who may: a bot's key where only that will do, else an Owner's session."""
    if "key" in {name for one in operation["security"] for name in one} and not any(
        "session" in one for one in operation["security"]
    ):
        return {"X-API-Key": world.bot_key(BOT)}
    return {"Cookie": f"hsession={world.token(OWNER)}"}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_whatever_the_schema_forbids_is_refused_by_name_and_nothing_recorded(shared_world: World, name: str) -> None:
    method, path, operation = OPERATIONS[name]
    shared_world.catch_up()
    shared_world.catching_up = False
    who = credentials(shared_world, operation)
    head = shared_world.ledger.head()
    tried = 0
    for bad in bad_requests(path, operation):
        headers = {**who, "Content-Type": bad.content_type}
        response = shared_world.send(method, bad.path, headers=headers, content=bad.content)
        message = error_of(response, bad.status)
        assert message.startswith(bad.names), (bad, message)
        tried += 1
    assert tried >= 2
    assert shared_world.ledger.head() == head


@pytest.fixture(scope="module")
def records(shared_world: World) -> dict[str, str]:
    """Records that there are, by the names that paths give them."""
    world = shared_world
    warned = world.act(commands.IssueWarning(target=Subject("user", OTHER_USER), reason="Rule 1"))
    world.act(commands.RegisterGuild(guild_id=GUILD, name="guild"), SYSTEM)
    world.act(commands.RegisterBot(bot_id=BOT, name="bot", owner_id=OTHER_USER), SYSTEM)
    world.catch_up()
    ids = {"user_id": OTHER_USER, "guild_id": GUILD, "bot_id": BOT, "punishment_id": warned.position}
    return {"username": NAMES[OTHER_USER], **{name: str(number) for name, number in ids.items()}}


HEADERS = {
    "X-Ledger-Position": ("-1", "x", "1.5", "", str(TOP + 1)),
    "Idempotency-Key": ("", "a" * 256),
    "If-Match": ("7", '"7', "*, 7"),
    "If-None-Match": ("7", '"7', "*, 7"),
}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_header_that_an_operation_documents_is_checked(
    shared_world: World, records: dict[str, str], name: str
) -> None:
    method, path, operation = OPERATIONS[name]
    given = {key: records.get(key, good_text(key, schema)) for key, schema in parameters(operation, "path").items()}
    content = operation.get("requestBody", {}).get("content", {}).get(JSON)
    body = content and json.dumps(content["examples"]["example"]["value"]).encode()
    who = {**credentials(shared_world, operation), "Content-Type": JSON}
    head = shared_world.ledger.head()
    for header in parameters(operation, "header"):
        for value in HEADERS[header]:
            response = shared_world.send(method, path.format(**given), headers={**who, header: value}, content=body)
            assert error_of(response, 400).startswith(header), (header, value)
    assert shared_world.ledger.head() == head

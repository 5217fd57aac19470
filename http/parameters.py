"""The strict check of path, query and body, by the types that the handler declares, before the framework reads them.

The framework alone would take the last of a repeated parameter, ignore an unknown one, and complain in words of its
own. The rules come from the handler's signature, so what OpenAPI says and what is checked are the same.
"""

import asyncio
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast, get_args, get_origin
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from litestar import Request
from litestar.handlers import BaseRouteHandler
from litestar.params import BodyKwarg, ParameterKwarg, PathParameter, QueryParameter
from litestar.types import HTTPReceiveMessage, HTTPScope
from msgspec import Meta

from modledger.domain.facts import MAX_REASON
from modledger.http.admission import place_of
from modledger.http.errors import BODY_LIMIT, JSON, Problem, bad, late, too_large
from modledger.http.services import services

MAX_ID = 2**63 - 1
MAX_INTEGER = 2**63 - 1
# What an offset is cut to in SQL: no table is longer, and PostgreSQL adds the limit to it.
FARTHEST = 2**62

# The end of a request's path or query is echoed in messages and logs; nobody needs more of it than this.
_ECHO = 64

# What the framework calls the argument that a body becomes.
BODY = "data"

Kind = Literal["integer", "number", "boolean", "moment", "text", "uuid", "choice", "list", "object", "any"]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What one parameter or field may hold. ``argument``: the handler's name for a parameter. ``low`` and ``high``
    bound a number's value, a text's length after trimming or how many items a list holds; ``digits``: an integer may
    also come as a string of digits. ``of``: the one rule for the items of a list, or those of an object's fields.
    ``any``: the handler looks at it itself."""

    name: str
    kind: Kind
    argument: str = ""
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    required: bool = False
    nullable: bool = False
    of: tuple["Rule", ...] = ()


# -- the types of signatures

_ID = "A Discord id."
# Said once more, because Litestar turns bounds into floating point, which cannot hold this one.
ID_SCHEMA: dict[str, object] = {"maximum": MAX_ID}

UserId = Annotated[int, PathParameter(ge=1, le=MAX_ID, description=_ID, schema_extra=ID_SCHEMA)]
GuildId = Annotated[int, PathParameter(ge=1, le=MAX_ID, description=_ID, schema_extra=ID_SCHEMA)]
BotId = Annotated[int, PathParameter(ge=1, le=MAX_ID, description=_ID, schema_extra=ID_SCHEMA)]
PunishmentId = Annotated[
    int, PathParameter(ge=1, le=MAX_ID, description="The id of a punishment.", schema_extra=ID_SCHEMA)
]

# Length counts after trimming, so the schema cannot give it as maxLength.
Reason = Annotated[
    str,
    Meta(
        min_length=1,
        pattern=r"^[^\u0000]*[^\u0000\s][^\u0000]*$",
        description=f"1–{MAX_REASON} characters after trimming, no NUL.",
        extra={"high": MAX_REASON},
    ),
]
BodyId = Annotated[
    int | str,
    Meta(
        description="A Discord id, 1 … 2^63−1: an integer or a string of digits.",
        extra={"id": True},
    ),
]
BodyMoment = Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset.")]


# -- rules from signatures

_rules: dict[object, tuple[dict[str, Rule], dict[str, Rule], list[Rule] | None]] = {}


def rules_of(handler: BaseRouteHandler) -> tuple[dict[str, Rule], dict[str, Rule], list[Rule] | None]:
    """The rules of a handler's path, query and body parameters; None for a handler without a body."""
    known = _rules.get(handler.fn)
    if known is None:
        known = _rules[handler.fn] = _read_rules(handler)
    return known


def _read_rules(handler: BaseRouteHandler) -> tuple[dict[str, Rule], dict[str, Rule], list[Rule] | None]:
    path: dict[str, Rule] = {}
    query: dict[str, Rule] = {}
    body: list[Rule] | None = None
    for name, field in handler.parsed_fn_signature.parameters.items():
        definition = field.kwarg_definition
        if isinstance(definition, BodyKwarg):
            body = body_rules(field.annotation)
        elif isinstance(definition, ParameterKwarg) and isinstance(definition, PathParameter | QueryParameter):
            kind, choices = _kind_of(field.annotation)
            rule = Rule(
                name=definition.name or name,
                argument=name,
                kind=kind,
                low=_integer_or_none(definition.ge if definition.ge is not None else definition.min_length),
                high=_integer_or_none(definition.le if definition.le is not None else definition.max_length),
                choices=choices,
                required=field.is_required,
            )
            (path if isinstance(definition, PathParameter) else query)[rule.name] = rule
    return path, query, body


def _integer_or_none(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


def _kind_of(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    if get_origin(annotation) is Literal:
        return "choice", tuple(str(choice) for choice in get_args(annotation))
    members = [member for member in get_args(annotation) if member is not type(None)]
    if members and get_origin(annotation) is not Annotated:
        return _kind_of(members[0])
    kinds: dict[Any, Kind] = {int: "integer", bool: "boolean", datetime: "moment", str: "text", UUID: "uuid"}
    return kinds[annotation], ()


def body_rules(struct: type) -> list[Rule]:
    """The rules of a body's fields in the order of their declaration."""
    described = msgspec.inspect.type_info(struct)
    assert isinstance(described, msgspec.inspect.StructType)
    return [_body_rule(field) for field in described.fields]


def _body_rule(field: msgspec.inspect.Field) -> Rule:
    return _rule_of_type(field.encode_name, field.type, required=field.required)


def _rule_of_type(name: str, kind: msgspec.inspect.Type, *, required: bool) -> Rule:
    extra: Mapping[str, Any] = {}
    nullable = False
    if isinstance(kind, msgspec.inspect.Metadata):
        extra, kind = kind.extra or {}, kind.type
    if isinstance(kind, msgspec.inspect.UnionType):
        members = [m for m in kind.types if not isinstance(m, msgspec.inspect.NoneType)]
        nullable = len(members) < len(kind.types)
        kind = members[0]
        if isinstance(kind, msgspec.inspect.Metadata):
            extra, kind = kind.extra or {}, kind.type
        if isinstance(kind, msgspec.inspect.UnionType):
            kind = kind.types[0]
    if extra.get("id"):
        return Rule(
            name=name, kind="integer", low=1, high=MAX_ID, choices=("digits",), required=required, nullable=nullable
        )
    match kind:
        case msgspec.inspect.IntType(ge=low, le=high):
            return Rule(name=name, kind="integer", low=low, high=high, required=required, nullable=nullable)
        case msgspec.inspect.FloatType(ge=least, le=most):
            return Rule(
                name=name,
                kind="number",
                low=_integer_or_none(least),
                high=_integer_or_none(most),
                required=required,
                nullable=nullable,
            )
        case msgspec.inspect.BoolType():
            return Rule(name=name, kind="boolean", required=required, nullable=nullable)
        case msgspec.inspect.DateTimeType():
            return Rule(name=name, kind="moment", required=required, nullable=nullable)
        case msgspec.inspect.StrType(min_length=low, max_length=high):
            return Rule(
                name=name, kind="text", low=low, high=extra.get("high", high), required=required, nullable=nullable
            )
        case msgspec.inspect.LiteralType(values=values):
            choices = tuple(str(value) for value in values)
            return Rule(name=name, kind="choice", choices=choices, required=required, nullable=nullable)
        case msgspec.inspect.ListType(item_type=item, min_length=low, max_length=high):
            items = (_rule_of_type("", item, required=True),)
            return Rule(name=name, kind="list", low=low, high=high, of=items, required=required, nullable=nullable)
        case msgspec.inspect.AnyType():
            return Rule(name=name, kind="any", required=required, nullable=True)
        case msgspec.inspect.StructType(fields=fields):
            of = tuple(_body_rule(field) for field in fields)
            return Rule(name=name, kind="object", of=of, required=required, nullable=nullable)
    raise TypeError(f"no rule for a field of type {kind}")


# -- headers


def header_values(request: Request[Any, Any, Any], name: str) -> list[str]:
    """The values of a header, in their order, as they came."""
    # Not from the framework's mapping: to make it takes longer than to look for the few that a read asks for.
    wanted = name.lower().encode()
    if wanted not in headers_of(request.scope):
        return []
    return [value.decode("latin-1") for one, value in request.scope["headers"] if one == wanted]


def headers_of(scope: HTTPScope) -> dict[bytes, bytes]:
    """Of each header the last value: which are there, and most come once."""
    found: dict[bytes, bytes] | None = scope["state"].get("headers")
    if found is None:
        found = scope["state"]["headers"] = dict(scope["headers"])
    return found


def one_header(request: Request[Any, Any, Any], name: str) -> str | None:
    """The value of a header that has one, None without it. Raises Problem 400 where it is given more than once: the
    framework alone would take the first."""
    values = header_values(request, name)
    if len(values) > 1:
        raise bad(f"{name} given more than once")
    return values[0] if values else None


def listed_header(request: Request[Any, Any, Any], name: str) -> str | None:
    """The value of a header that is a list, None without it; several of one name are one list (RFC 9110 §5.3)."""
    values = header_values(request, name)
    return ", ".join(values) if values else None


# -- the check


async def checked_body(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The body under the handler's name for it; nothing where the handler takes none. Raises Problem 415, 413, 408 or
    400, naming the first thing that is wrong with it."""
    handler = request.route_handler
    _, _, body = rules_of(handler)
    if body is None:
        if (raw := await read_body(request)).strip():
            check_fields(decode_object(raw), ())
        return {}
    require_json(request)
    raw = await read_body(request)
    check_fields(decode_object(raw), body)
    try:
        return {BODY: msgspec.json.decode(raw, type=handler.parsed_fn_signature.parameters[BODY].annotation)}
    except msgspec.ValidationError as error:
        # Only reached by what the rules let pass. It says where at its end: at `$.field`.
        _, at, field = str(error).rpartition("`$.")
        raise bad(f"{field.rstrip('`')} is not valid" if at else "Bad request") from None


def arguments(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """What path and query hold, under the handler's names; what is left out is left to the handler. Raises Problem 400,
    naming the first thing that is wrong."""
    scope = request.scope
    path, query, _ = rules_of(scope["route_handler"])
    given = scope["path_params"]
    values = {rule.argument: text_value(rule, str(given[name])) for name, rule in path.items()}
    return values | query_values(scope["query_string"], query)


async def read_body(request: Request[Any, Any, Any]) -> bytes:
    """The whole body, also where it was read before. Raises Problem 413 beyond the operation's limit, 408 where it
    takes too long, 400 where the client broke off, and Busy where others took its place meanwhile."""
    state = request.scope["state"]
    body: bytes | None = state.get("body")
    if body is None:
        body = state["body"] = await _receive(request)
    return body


async def _receive(request: Request[Any, Any, Any]) -> bytes:
    # Not by the framework's own generator, which takes as long as check and command (docs/performance.md).
    seconds, limit = services(request).settings.body_seconds, _body_limit(request)
    announced = (listed_header(request, "content-length") or "").strip()
    # More digits than Python reads as a number are too many bytes as well.
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
        raise Problem(413, too_large(limit))
    pieces, size = [], 0
    try:
        with place_of(request).given_up():
            async with asyncio.timeout(seconds):
                while True:
                    message = cast("HTTPReceiveMessage", await request.receive())
                    if message["type"] == "http.disconnect":
                        raise bad("body is not complete")
                    pieces.append(message["body"])
                    size += len(message["body"])
                    if size > limit:
                        raise Problem(413, too_large(limit))
                    if not message.get("more_body", False):
                        return b"".join(pieces)
    except TimeoutError:
        # What is still to come of it would be taken for the next request.
        raise Problem(408, late(seconds), {"Connection": "close"}) from None


def require_json(request: Request[Any, Any, Any]) -> None:
    """Raises Problem 415 unless the request says that its body is JSON."""
    content_type = (listed_header(request, "content-type") or "").partition(";")[0].strip().lower()
    if content_type != JSON:
        raise Problem(415, f"Content-Type must be {JSON}")


def _body_limit(request: Request[Any, Any, Any]) -> int:
    limit = request.route_handler.resolve_request_max_body_size()
    return BODY_LIMIT if limit is None else int(limit)


def query_values(raw: bytes, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """The values by their arguments. Raises Problem 400 for the first parameter that is unknown, repeated or not what
    its rule allows, then for one that is missing."""
    try:
        text, most = raw.decode("ascii"), len(rules) + 16
        given = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=most) if text else ()
    except ValueError:
        raise bad("the query must be UTF-8 and hold no more parameters than there are") from None
    values: dict[str, Any] = {}
    for name, value in given:
        rule = rules.get(name)
        if rule is None:
            raise bad(f"unknown parameter: {name[:_ECHO]}")
        if rule.argument in values:
            raise bad(f"{name} given more than once")
        values[rule.argument] = text_value(rule, value)
    for rule in rules.values():
        if rule.required and rule.argument not in values:
            raise bad(f"{rule.name} is required")
    return values


def text_value(rule: Rule, value: str) -> int | bool | datetime | UUID | str:
    """What a value of path or query, which is text, says. Raises Problem 400 unless it is what the rule allows."""
    match rule.kind:
        case "integer":
            # int() alone would take "+1", " 1", "1_000", "007" and the digits of other scripts. 40 digits are beyond
            # any range.
            number = int(value[:40]) if re.fullmatch(r"0|-?[1-9][0-9]*", value) else None
            return _within_range(rule, number)
        case "boolean":
            if value.lower() not in ("true", "false", "1", "0"):
                raise bad(f"{rule.name} must be true or false")
            return value.lower() in ("true", "1")
        case "moment":
            return parse_moment(rule.name, value)
        case "text":
            _check_text(rule, value)
        case "uuid":
            if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value, re.IGNORECASE | re.ASCII):
                raise bad(f"{rule.name} must be a UUID")
            return UUID(value)
        case "choice":
            if value not in rule.choices:
                raise bad(f"{rule.name} must be one of {', '.join(rule.choices)}")
    return value


def _within_range(rule: Rule, number: int | None) -> int:
    low, high = rule.low, rule.high
    if number is not None and (low is None or number >= low) and number <= (MAX_INTEGER if high is None else high):
        return number
    if low is not None and high is not None:
        raise bad(f"{rule.name} must be between {low} and {high}")
    if low is not None and (number is None or number < low):
        raise bad(f"{rule.name} must be {low} or greater")
    raise bad(f"{rule.name} must be an integer below 2^63")


def parse_moment(name: str, value: str) -> datetime:
    """The moment in UTC. Raises Problem 400 for anything but RFC 3339 with an offset."""
    try:
        moment = msgspec.convert(value, datetime)
        if moment.tzinfo is None:
            raise bad(f"{name} must have an offset such as Z")
        return moment.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise bad(f"{name} must be a timestamp such as 2026-03-10T12:00:00Z") from None


def _check_text(rule: Rule, value: str) -> None:
    if "\x00" in value:
        raise bad(f"{rule.name} must not contain a NUL character")
    length = len(value.strip())
    if (rule.low is not None and length < rule.low) or (rule.high is not None and length > rule.high):
        if rule.high is None:
            raise bad(f"{rule.name} must not be empty")
        raise bad(f"{rule.name} must be between {rule.low or 0} and {rule.high} characters")


def check_fields(fields: Mapping[str, Any], rules: Iterable[Rule], within: str = "") -> None:
    """Raises Problem 400 for the first field, in the order of declaration, that is missing or wrong, then for one that
    is not known. ``within`` is what stands before a field's name in the message, such as ``items[3].``"""
    known = set()
    for rule in rules:
        known.add(rule.name)
        named = msgspec.structs.replace(rule, name=within + rule.name) if within else rule
        value = fields.get(rule.name, msgspec.UNSET)
        if value is msgspec.UNSET or (value is None and rule.required and not rule.nullable):
            if rule.required:
                raise bad(f"{named.name} is required")
        elif value is not None or not rule.nullable:
            _check_json_value(named, value)
    for name in fields:
        if name not in known:
            raise bad(f"unknown field: {within}{name[:_ECHO]}")


def decode_object(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises Problem 400, also for a field that is given more than once."""
    try:
        decoded = msgspec.json.decode(raw)
        if isinstance(decoded, dict):
            # msgspec alone would take the last of several fields of one name.
            _UNIQUE.decode(raw.decode())
    # Too deep a nesting is one more way not to be JSON of ours.
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise bad("body must be valid JSON") from None
    if not isinstance(decoded, dict):
        raise bad("body must be a JSON object")
    return decoded


def _require_unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise bad(f"{name[:_ECHO]} given more than once")
        seen.add(name)


_UNIQUE = json.JSONDecoder(object_pairs_hook=_require_unique)


def _check_json_value(rule: Rule, value: object) -> None:
    match rule.kind:
        case "integer":
            if "digits" in rule.choices and isinstance(value, str):
                text_value(rule, value)
                return
            # bool is an int to Python, and true is not a number to anybody else.
            _within_range(rule, value if isinstance(value, int) and not isinstance(value, bool) else None)
        case "boolean":
            if not isinstance(value, bool):
                raise bad(f"{rule.name} must be true or false")
        case "moment":
            parse_moment(rule.name, value if isinstance(value, str) else "")
        case "text":
            if not isinstance(value, str):
                raise bad(f"{rule.name} must be a string")
            _check_text(rule, value)
        case "number":
            _check_number(rule, value)
        case "choice":
            text_value(rule, value if isinstance(value, str) else "")
        case "list":
            if not isinstance(value, list):
                raise bad(f"{rule.name} must be a list")
            _check_length(rule, len(value))
            for index, item in enumerate(value):
                try:
                    _check_json_value(rule.of[0], item)
                except Problem:
                    # Named only now: a name for each of ten thousand items would hold up the event loop.
                    _check_json_value(msgspec.structs.replace(rule.of[0], name=f"{rule.name}[{index}]"), item)
        case "object":
            if not isinstance(value, dict):
                raise bad(f"{rule.name} must be an object")
            # Items of a list have no name until one is wrong; see there.
            check_fields(value, rule.of, f"{rule.name}." if rule.name else "")


def _check_length(rule: Rule, length: int) -> None:
    low, high = rule.low or 0, MAX_INTEGER if rule.high is None else rule.high
    if not low <= length <= high:
        allowed = f"between {low} and {high}" if low else f"at most {high}"
        raise bad(f"{rule.name} must hold {allowed} items")


def _check_number(rule: Rule, value: object) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if number is None or not math.isfinite(number):
        raise bad(f"{rule.name} must be a number")
    if (rule.low is not None and number < rule.low) or (rule.high is not None and number > rule.high):
        raise bad(f"{rule.name} must be between {rule.low} and {rule.high}")

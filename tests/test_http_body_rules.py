"""The strict check of bodies that hold lists and objects: the message names the first bad item and field."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from modledger.http.errors import Problem
from modledger.http.parameters import BodyId, BodyMoment, body_rules, check_fields, decode_object


class Used(msgspec.Struct, kw_only=True):
    command: Annotated[str, Meta(min_length=1, max_length=5)]
    count: Annotated[int, Meta(ge=1, le=9)]
    guild_id: BodyId | None
    timestamp: BodyMoment


class Report(msgspec.Struct, kw_only=True):
    guild_ids: Annotated[list[BodyId], Meta(max_length=3)]
    commands: Annotated[list[Used], Meta(min_length=1, max_length=2)] = []
    latency_ms: Annotated[float, Meta(ge=0, le=1000)] | None = None
    kind: Literal["daily", "hourly"] = "daily"


USED = {"command": "ban", "count": 1, "guild_id": "7", "timestamp": "2026-03-10T12:00:00Z"}


def check(body: object) -> str | None:
    """What is wrong with the body, None when nothing is."""
    try:
        check_fields(decode_object(msgspec.json.encode(body)), body_rules(Report))
    except Problem as problem:
        return f"{problem.status}: {problem.message}"
    return None


@pytest.mark.parametrize(
    "body",
    [
        {"guild_ids": []},
        {"guild_ids": [1, "2", 2**63 - 1]},
        {"guild_ids": [], "commands": [USED, {**USED, "guild_id": None}]},
        {"guild_ids": [], "latency_ms": 0},
        {"guild_ids": [], "latency_ms": 12.5, "kind": "hourly"},
        {"guild_ids": [], "latency_ms": None},
    ],
)
def test_what_the_types_allow_passes_and_is_read_by_them(body: dict[str, Any]) -> None:
    assert check(body) is None
    assert isinstance(msgspec.convert(body, Report), Report)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "guild_ids is required"),
        ({"guild_ids": None}, "guild_ids is required"),
        ({"guild_ids": "1"}, "guild_ids must be a list"),
        ({"guild_ids": {"0": 1}}, "guild_ids must be a list"),
        ({"guild_ids": [1, 2, 3, 4]}, "guild_ids must hold at most 3 items"),
        ({"guild_ids": [1, 0]}, f"guild_ids[1] must be between 1 and {2**63 - 1}"),
        ({"guild_ids": [1, None]}, f"guild_ids[1] must be between 1 and {2**63 - 1}"),
        ({"guild_ids": [True]}, f"guild_ids[0] must be between 1 and {2**63 - 1}"),
        ({"guild_ids": [[1]]}, f"guild_ids[0] must be between 1 and {2**63 - 1}"),
        ({"guild_ids": ["٣"]}, f"guild_ids[0] must be between 1 and {2**63 - 1}"),
        ({"guild_ids": [], "commands": []}, "commands must hold between 1 and 2 items"),
        ({"guild_ids": [], "commands": [USED] * 3}, "commands must hold between 1 and 2 items"),
        ({"guild_ids": [], "commands": [USED, 7]}, "commands[1] must be an object"),
        ({"guild_ids": [], "commands": [USED, {**USED, "count": 0}]}, "commands[1].count must be between 1 and 9"),
        ({"guild_ids": [], "commands": [{**USED, "command": ""}]}, "commands[0].command must be between 1 and 5"),
        ({"guild_ids": [], "commands": [{**USED, "more": 1}]}, "unknown field: commands[0].more"),
        ({"guild_ids": [], "commands": [{"command": "ban", "count": 1}]}, "commands[0].guild_id is required"),
        ({"guild_ids": [], "commands": [{**USED, "timestamp": "2026-03-10T12:00:00"}]}, "commands[0].timestamp must"),
        ({"guild_ids": [], "latency_ms": -1}, "latency_ms must be between 0 and 1000"),
        ({"guild_ids": [], "latency_ms": "12"}, "latency_ms must be a number"),
        ({"guild_ids": [], "latency_ms": True}, "latency_ms must be a number"),
        ({"guild_ids": [], "kind": "weekly"}, "kind must be one of daily, hourly"),
        ({"guild_ids": [], "kind": 1}, "kind must be one of daily, hourly"),
        ({"guild_ids": [], "kind": None}, "kind must be one of daily, hourly"),
        ({"guild_ids": [], "more": 1}, "unknown field: more"),
    ],
)
def test_the_first_bad_field_is_named_with_its_place(body: dict[str, Any], message: str) -> None:
    found = check(body)
    assert found is not None
    assert found.startswith(f"400: {message}")

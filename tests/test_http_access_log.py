"""Which requests leave a line in the log, and what stands in it."""

from typing import Any, cast

import pytest
import structlog
from litestar.types import HTTPScope

from modledger.domain.settings import AccessLog
from modledger.http.access_log import actor_name, log_request
from modledger.http.keys import create_key
from tests.http_client import ADMIN, USER, World


def lines(world: World, method: str, path: str, user: int | None = None, **more: Any) -> list[dict[str, Any]]:
    with structlog.testing.capture_logs() as said:
        world.send(method, path, user, **more)
    return [dict(line) for line in said if line["event"] == "request"]


def said(wanted: AccessLog, method: str, status: int, route: str | None = "/v1/users/me") -> list[str]:
    scope = cast("HTTPScope", {"method": method} | ({} if route is None else {"path_template": route}))
    with structlog.testing.capture_logs() as found:
        log_request(wanted, scope, status, 0.01234)
    return [
        f"{line['log_level']} {line['method']} {line['route']} {line['status']} {line['took_ms']}" for line in found
    ]


@pytest.mark.parametrize(
    ("wanted", "method", "status", "logged"),
    [
        ("all", "GET", 200, True),
        ("all", "POST", 200, True),
        ("changes", "GET", 200, False),
        ("changes", "GET", 304, False),
        ("changes", "GET", 403, True),
        ("changes", "GET", 503, True),
        ("changes", "GET", 0, True),
        ("changes", "POST", 200, True),
        ("changes", "OPTIONS", 204, True),
        ("none", "POST", 500, False),
    ],
)
def test_the_setting_says_which_requests_leave_a_line(
    wanted: AccessLog, method: str, status: int, logged: bool
) -> None:
    assert said(wanted, method, status) == ([f"info {method} /v1/users/me {status} 12.34"] if logged else [])


def test_probes_that_go_well_are_for_debugging_and_others_are_not() -> None:
    for route in ("/health", "/health/live", "/health/ready"):
        assert said("all", "GET", 200, route) == [f"debug GET {route} 200 12.34"]
        assert said("all", "GET", 503, route) == [f"info GET {route} 503 12.34"]


def test_what_was_made_up_is_not_repeated() -> None:
    assert said("all", "\x1b[2JGET", 404, None) == ["info other unmatched 404 12.34"]


def test_a_line_names_who_asked_also_when_refused(world: World) -> None:
    path = "/v1/admin/punishments/search"
    assert lines(world, "GET", path)[0]["actor"] is None
    assert lines(world, "GET", path, USER)[0]["actor"] == f"user:{USER}"
    (line,) = lines(world, "POST", f"/v1/admin/punishments/user/{USER}/warn", ADMIN, json={"reason": "x"})
    assert line == {
        "event": "request",
        "log_level": "info",
        "method": "POST",
        "route": "/v1/admin/punishments/user/{user_id}/warn",
        "status": 200,
        "took_ms": line["took_ms"],
        "actor": f"user:{ADMIN}",
    }


def test_keys_are_named_as_the_ledger_names_actors(world: World) -> None:
    bot = {"Authorization": f"Bearer {world.bot_key()}"}
    (line,) = lines(world, "POST", "/v1/bot/me", headers=bot, json={"guild_ids": [], "users": "x"})
    assert (line["actor"], line["status"]) == ("bot:5000", 400)
    public = create_key(world.connection, "public", None, world.now)
    (line,) = lines(world, "GET", "/v1/bot/me", headers={"Authorization": f"Bearer {public}"})
    assert (line["actor"], line["status"]) == ("public key", 403)
    assert actor_name(None) is None

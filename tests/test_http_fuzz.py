"""Requests made up from /schema itself: answered as it says, and never with 500."""

import json
from typing import Any

import hypothesis
import msgspec
import pytest
import schemathesis
from schemathesis.checks import CHECKS
from schemathesis.core.transport import Response

from modledger.http.app import create_app
from modledger.http.sessions import COOKIE
from tests.http_client import ADMIN, MASTER_KEY, SETTINGS, World, assert_documented

DOCUMENT = json.loads(
    msgspec.json.encode(create_app(SETTINGS, conninfo="", master_key=MASTER_KEY).openapi_schema.to_schema())
)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = {found.definition.raw["operationId"]: found for found in (one.ok() for one in SCHEMA.get_all_operations())}  # type: ignore[union-attr]
WANTED = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"log_out"}))
def test_made_up_requests_are_answered_as_documented(shared_world: World, name: str) -> None:
    world = shared_world
    world.catch_up()
    cookie = f"{COOKIE}={world.token(ADMIN)}"

    @hypothesis.settings(
        max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(case=OPERATIONS[name].as_strategy())
    def send(case: Any) -> None:
        wanted = case.as_transport_kwargs(base_url="http://testserver.local")
        # Conditions and positions out of the air are refused before anything else can be.
        unmeetable = ("x-ledger-position", "if-match", "if-none-match")
        headers = {k: v for k, v in dict(wanted.pop("headers")).items() if k.lower() not in unmeetable}
        wanted = {k: v for k, v in wanted.items() if k in ("method", "url", "params", "json", "data") and v is not None}
        if isinstance(wanted.get("data"), bytes):
            wanted["content"] = wanted.pop("data")
        # The last one may have been a command of this session.
        world.catch_up()
        world.client.cookies.clear()
        response = world.client.request(headers={**headers, "Cookie": cookie}, **wanted)
        assert response.status_code < 500
        assert_documented(world.client.app, response)
        case.validate_response(
            Response.from_httpx(response, verify=False), checks=[CHECKS.get_one(check) for check in WANTED]
        )

    send()

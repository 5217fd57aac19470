"""What /schema says is complete and true, and its viewer needs nothing from elsewhere (issue 2 §5)."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from tests.http_client import World, error_of
from tests.openapi_document import DOCUMENT

JSON = "application/json"
# api.md §4 and §5, line by line; what stands in braces there is {} here.
CONTRACT = """
POST /v1/authentication/request
POST /v1/authentication/bot/login-code
POST /v1/authentication/verify
POST /v1/authentication/logout

GET  /v1/users/me
GET  /v1/users/profile/{}
GET  /v1/users/{}
GET  /v1/users/search
GET  /v1/users/me/subscription
GET  /v1/users/me/punishments
GET  /v1/users/me/guilds
POST /v1/users/me/prefix
POST /v1/users/me/guilds/{}/prefix
GET  /v1/users/me/sessions
POST /v1/users/me/sessions/{}/destroy

GET  /v1/guilds/{}
GET  /v1/guilds/search
GET  /v1/bots
GET  /v1/bots/{}
GET  /v1/bots/search
GET  /v1/bot/me
POST /v1/bot/me
POST /v1/bot/batch
GET  /v1/bot/users/{}
POST /v1/bot/users/{}
GET  /v1/bot/guilds/{}
POST /v1/bot/guilds/{}
GET  /v1/statistics/users
GET  /v1/statistics/guilds
GET  /v1/statistics/bots
GET  /v1/statistics/application
GET  /health
GET  /health/live
GET  /health/ready
GET  /v1/admin/health

GET  /v1/admin/punishments/search
POST /v1/admin/punishments/user/{}/warn
POST /v1/admin/punishments/guild/{}/warn
POST /v1/admin/punishments/user/{}/timeout
POST /v1/admin/punishments/user/{}/ban
POST /v1/admin/punishments/guild/{}/ban
POST /v1/admin/punishments/{}/lift
POST /v1/admin/punishments/{}/amend
GET  /v1/admin/punishments/{}
GET  /v1/admin/punishments/{}/history
POST /v1/admin/punishments/bulk
POST /v1/admin/punishments/bulk/{}/revert
POST /v1/admin/punishments/{}/void
POST /v1/admin/punishments/{}/overturn
POST /v1/admin/users/{}/permission
POST /v1/admin/users/{}/erase
POST /v1/admin/subscriptions/user/{}/grant
POST /v1/admin/subscriptions/guild/{}/grant
POST /v1/admin/subscriptions/user/{}/trial
POST /v1/admin/subscriptions/guild/{}/trial
POST /v1/admin/subscriptions/user/{}/revoke
POST /v1/admin/subscriptions/guild/{}/revoke
GET  /v1/admin/subscriptions/active
GET  /v1/admin/bots
POST /v1/admin/bots
POST /v1/admin/bots/{}/update
POST /v1/admin/bots/{}/regenerate-key
POST /v1/admin/guilds/{}/update
GET  /v1/admin/audit/logs
GET  /v1/admin/audit/head
GET  /v1/admin/audit/proof/{}
GET  /v1/admin/audit/consistency
"""


@pytest.fixture
def document() -> dict[str, Any]:
    return DOCUMENT


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_the_operations_are_those_of_the_contract(document: dict[str, Any]) -> None:
    served = {(method.upper(), re.sub(r"\{\w+\}", "{}", path)) for path, method, _ in operations(document)}
    assert served == {tuple(line.split()) for line in CONTRACT.splitlines() if line}


def test_every_operation_has_id_summary_tag_and_security(document: dict[str, Any]) -> None:
    named = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(named)) == len(named)
    for path, _, operation in operations(document):
        assert operation["summary"], path
        assert len(operation["tags"]) == 1, path
        assert operation["security"], path


def test_every_status_has_a_description_an_example_and_its_headers(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            assert answer["description"], (path, status)
            assert "X-Correlation-ID" in answer["headers"], (path, status)
            if status == "304":
                continue
            content = answer["content"][JSON]
            if status == "200":
                assert content["examples"]["example"]["value"] is not None, path
            elif (path.endswith("/health") or path == "/health/ready") and status == "503":
                said = "not ready" if path == "/health/ready" else "unhealthy"
                assert content["examples"]["example"]["value"]["status"] == said
                # Without the database it is not even known who asks.
                errors = [example["value"] for name, example in content["examples"].items() if name == "error"]
                assert len(errors) == (1 if operation["security"] != [{}] else 0)
            else:
                assert content["schema"] == {"$ref": "#/components/schemas/ErrorView"}
                assert list(content["examples"]["example"]["value"]) == ["error", "correlation_id"]
        if method == "post":
            assert {"200", "400", "403", "409", "415", "500", "503"} <= operation["responses"].keys(), path


def test_every_answer_to_a_session_documents_what_it_may_be_refused(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        statuses = operation["responses"].keys()
        if operation["security"] == [{"session": []}]:
            assert "401" in statuses, path
            assert "403" in statuses or path.startswith("/v1/users/me"), path
        if "/admin/" in path:
            assert {"401", "403"} <= statuses, path
        if "{" in path and "/subscriptions/" not in path and "{user_id}" not in path and "{guild_id}" not in path:
            assert "404" in statuses, path
        assert (method == "post") == ("413" in statuses) == ("408" in statuses), path


def test_only_commands_take_an_idempotency_key(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        headers = {one["name"] for one in operation.get("parameters", []) if one["in"] == "header"}
        assert ("Idempotency-Key" in headers) == (method == "post"), path
        assert not (method == "get" and "If-Match" in headers), path


def test_an_example_holds_what_openapi_knows_of_examples(document: dict[str, Any]) -> None:
    def examples(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, list):
            for one in part:
                yield from examples(one)
        elif isinstance(part, dict):
            for name, one in part.items():
                if name == "examples" and isinstance(one, dict):
                    yield from one.values()
                elif name not in ("example", "value"):
                    yield from examples(one)

    found = list(examples(document["paths"]))
    assert len(found) > 200
    assert all(example.keys() <= {"summary", "description", "value", "externalValue"} for example in found)


def test_every_application_of_a_process_says_the_same(document: dict[str, Any], shared_world: World) -> None:
    assert shared_world.get("/schema/openapi.json").json() == document


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    references = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", repr(document)))
    assert references
    assert references <= schemas.keys()


def test_the_examples_fit_their_schemas(document: dict[str, Any]) -> None:
    checked = 0
    for path, _, operation in operations(document):
        contents = [answer["content"][JSON] for answer in operation["responses"].values() if "content" in answer]
        if "requestBody" in operation:
            assert operation["requestBody"]["required"]
            contents.append(operation["requestBody"]["content"][JSON])
        for content in contents:
            # With the components beside it, so that references in it lead somewhere.
            schema = {**content["schema"], "components": document["components"]}
            example = content["examples"]["example"]["value"]
            found = list(Draft202012Validator(schema, validate_formats=True).iter_errors(example))
            assert not found, (path, example, found)
            checked += 1
    assert checked > 200


def test_the_schema_states_the_ranges_that_are_checked(document: dict[str, Any]) -> None:
    search = document["paths"]["/v1/admin/punishments/search"]["get"]["parameters"]
    by_name = {one["name"]: one for one in search}
    assert list(by_name) == [
        "user_id",
        "guild_id",
        "issued_by",
        "punishment_type",
        "active_only",
        "created_after",
        "created_before",
        "q",
        "sort",
        "offset",
        "limit",
        "cursor",
        "as_of",
        "known_at",
        "X-Ledger-Position",
    ]
    limit = by_name["limit"]["schema"]
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, 100, 25)
    ban = document["paths"]["/v1/admin/punishments/user/{user_id}/ban"]["post"]
    names = {one["name"]: one for one in ban["parameters"]}
    assert names.keys() == {"user_id", "Idempotency-Key", "If-Match"}
    assert names["user_id"]["schema"]["maximum"] == 2**63 - 1
    with_position = {status for status, said in ban["responses"].items() if "X-Ledger-Position" in said["headers"]}
    assert with_position == {"200", "409", "412"}


def test_a_body_says_that_it_refuses_unknown_fields(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    closed = {name for name, schema in schemas.items() if schema.get("additionalProperties") is False}
    bodies = {
        operation["requestBody"]["content"][JSON]["schema"]["$ref"].rpartition("/")[2]
        for _, _, operation in operations(document)
        if "requestBody" in operation
    }
    assert bodies
    assert bodies <= closed
    assert not {name for name in closed if name.endswith("View")}


@pytest.mark.parametrize("path", ["/schema", "/schema/openapi.json", "/schema/viewer.js", "/schema/favicon.svg"])
def test_the_schema_too_refuses_an_unknown_parameter(shared_world: World, path: str) -> None:
    assert error_of(shared_world.get(f"{path}?foo=1"), 400) == "unknown parameter: foo"


def test_the_document_is_served(shared_world: World) -> None:
    response = shared_world.get("/schema/openapi.json")
    assert response.status_code == 200
    assert response.json()["info"]["title"] == "modledger"


@pytest.mark.parametrize("path", ["/schema", "/schema/"])
def test_the_viewer_loads_nothing_from_elsewhere(shared_world: World, path: str) -> None:
    page = shared_world.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    assert not re.search(r"https?://|<script>", page.text)
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(linked) == 4
    for link in linked:
        asset = shared_world.get(link)
        assert asset.status_code == 200, link
        assert len(asset.content) > 100
        assert asset.headers["content-type"].count("charset") <= 1
    assert b"SwaggerUIBundle" in shared_world.get("/schema/assets/swagger-ui-bundle.js").content


@pytest.mark.parametrize("name", ["..%2F__init__.py", "index.html", "swagger-ui.js.map", "%2Fetc%2Fpasswd"])
def test_only_the_viewers_own_files_are_served(shared_world: World, name: str) -> None:
    assert shared_world.get(f"/schema/assets/{name}").status_code == 404

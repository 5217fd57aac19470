"""A page of another site in the browser of somebody who is logged in (docs/security.md): it sends no command, reads no
answer, and shows none within itself."""

from typing import Any

import pytest

from modledger.domain.settings import Settings
from tests.cookie_operations import POSTS, example, filled
from tests.http_client import OWNER, USER, World, error_of, started
from tests.openapi_document import DOCUMENT

EVIL = "https://evil.example"
# What a browser says beside it when a form of another site is sent.
NAVIGATION = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
# The three encodings of <form enctype>, with the body that a form makes of JSON in the name of a field.
FORMS = (
    ("application/x-www-form-urlencoded", "%7B%22reason%22%3A%22x%22%7D="),
    ("text/plain", "%s="),
    ("multipart/form-data; boundary=b", '--b\r\nContent-Disposition: form-data; name="reason"\r\n\r\nx\r\n--b--\r\n'),
)


@pytest.mark.parametrize("path", sorted(POSTS))
def test_a_form_of_another_site_sends_no_command(shared_world: World, path: str) -> None:
    """With the cookie, as SameSite=None lets it. Browsers say the Origin of every POST to another site, ``null`` of
    a sandboxed frame. Older ones said none: then the content type alone keeps forms out."""
    before = shared_world.ledger.head()
    sessions = shared_world.query("select count(*) from sessions where user_id = %s", OWNER)
    shared_world.token(OWNER)
    for content_type, body in FORMS:
        for origin, status in ((EVIL, 403), ("null", 403), (None, 415)):
            headers = {**NAVIGATION, "Content-Type": content_type}
            if origin is not None:
                headers["Origin"] = origin
            content = body.replace("%s", example(POSTS[path])).encode()
            response = shared_world.send("POST", filled(path), OWNER, headers=headers, content=content)
            assert error_of(response, status) in ("Origin not allowed", "Content-Type must be application/json")
            assert "set-cookie" not in response.headers
    assert shared_world.ledger.head() == before
    assert shared_world.get("/v1/users/me", OWNER).status_code == 200
    assert shared_world.query("select count(*) from sessions where user_id = %s", OWNER) >= sessions


@pytest.mark.parametrize("path", sorted(POSTS))
def test_a_script_of_another_site_sends_no_command_either(shared_world: World, path: str) -> None:
    """As ``fetch`` would with JSON, had the browser not asked first and been refused."""
    before = shared_world.ledger.head()
    headers = {"Origin": EVIL, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    asked = {**headers, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    refused = shared_world.send("OPTIONS", filled(path), headers=asked)
    assert refused.status_code == 400
    content = example(POSTS[path]).encode()
    sent = shared_world.send(
        "POST", filled(path), OWNER, headers={**headers, "Content-Type": "application/json"}, content=content
    )
    assert error_of(sent, 403) == "Origin not allowed"
    for response in (refused, sent):
        assert "access-control-allow-origin" not in response.headers
    assert shared_world.ledger.head() == before


def test_no_read_is_a_command() -> None:
    """A link or picture of another site is a GET with the cookie, so a GET must change nothing."""
    methods = {method for paths in DOCUMENT["paths"].values() for method in paths}
    assert methods == {"get", "post"}
    verbs = ("destroy", "lift", "revert", "grant", "revoke", "logout", "regenerate-key", "update", "erase", "ban")
    for path, operations in DOCUMENT["paths"].items():
        if path.rpartition("/")[2] in verbs:
            assert list(operations) == ["post"], path


def test_a_read_appends_nothing(shared_world: World) -> None:
    before = shared_world.ledger.head()
    shared_world.catch_up()
    tables = ("sessions", "login_codes", "api_keys", "idempotency_keys", "login_history")

    def counts() -> list[Any]:
        return [shared_world.query(f"select count(*), max(xmin::text::bigint) from {table}") for table in tables]

    token = shared_world.token(OWNER)
    found = counts()
    for path, operations in DOCUMENT["paths"].items():
        if "get" in operations:
            shared_world.get(filled(path).replace("{username}", "user"), headers={"Cookie": f"hsession={token}"})
    assert counts() == found
    assert shared_world.ledger.head() == before


@pytest.mark.parametrize("origin", [EVIL, "null", "https://panel.example.org", "http://localhost:8000"])
def test_without_a_list_of_origins_no_page_of_another_reads_or_commands(world: World, origin: str) -> None:
    with started(world, Settings(rate_limit_login=0)):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answers = [
            world.get("/v1/users/me", USER, headers={"Origin": origin}),
            world.post("/v1/authentication/logout", USER, {}, headers={"Origin": origin}),
            world.send("OPTIONS", "/v1/users/me", headers=asked),
        ]
        for response in answers:
            assert not [name for name in response.headers if name.lower().startswith("access-control-")]
        assert [response.status_code for response in answers] == [200, 403, 204]


def test_with_a_list_only_its_pages_read(world: World) -> None:
    for origin in (EVIL, "null", "https://panel.example.org.evil.example", "https://xpanel.example.org"):
        response = world.get("/v1/users/me", USER, headers={"Origin": origin})
        assert "access-control-allow-origin" not in response.headers
    response = world.get("/v1/users/me", USER, headers={"Origin": "https://panel.example.org"})
    assert response.headers["access-control-allow-origin"] == "https://panel.example.org"
    assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/users/me"),
        ("GET", "/v1/statistics/users"),
        ("GET", "/nowhere"),
        ("GET", "/health"),
        ("POST", "/v1/users/me"),
        ("POST", "/v1/authentication/verify"),
        ("GET", "/v1/users/me?foo=1"),
        ("GET", "/schema/openapi.json"),
    ],
)
def test_every_answer_forbids_the_browser_to_run_or_frame_or_keep_it(
    shared_world: World, method: str, path: str
) -> None:
    headers = shared_world.send(method, path, USER).headers
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert "json" in headers["content-type"]
    assert not {"server", "x-powered-by"} & set(headers)


def test_the_one_page_of_ours_runs_only_its_own_script_and_is_framed_by_nobody(shared_world: World) -> None:
    response = shared_world.get("/schema")
    policies = response.headers.get_list("content-security-policy")
    assert len(policies) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";"))
    assert (rules["default-src"], rules["script-src"], rules["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert (rules["base-uri"], rules["form-action"]) == ("'none'", "'none'")
    assert "<script>" not in response.text

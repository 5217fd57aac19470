"""No secret in anything that the product says (docs/security.md): it runs whole, at its most talkative, through
log-ins, commands, refusals and faults, and all it says and every error answer is searched for the secrets it has."""

import base64
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.forked import modledger
from tests.made_once import fast_folder
from tests.product import Answer, Product

USER, STAFF = "200000000000000001", "999888777666555444"
REASON = "a reason that names somebody 4711"
PASSWORD = "correct-horse-battery-staple"


def forms(secret: bytes) -> list[str]:
    """How a secret of bytes might be written by mistake."""
    return [
        secret.hex(),
        base64.b64encode(secret).decode().rstrip("="),
        base64.urlsafe_b64encode(secret).decode().rstrip("="),
        repr(secret)[2:-1],
    ]


def cookie_of(answer: Answer) -> str:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    found = re.search(r"hsession=([A-Za-z0-9_-]{43})", headers["set-cookie"])
    assert found
    return found[1]


@pytest.fixture
def product() -> Iterator[Product]:
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        made = Product(
            Path(folder) / "data",
            MODLEDGER_LOG_LEVEL="debug",
            MODLEDGER_ACCESS_LOG="all",
            MODLEDGER_DRAIN_SECONDS="0",
        )
        yield made
        if made.process is not None and made.process.poll() is None:
            made.stop()


def test_no_token_code_key_or_password_is_ever_written_or_answered(product: Product) -> None:
    product.start()
    try:
        secrets, refusals = run(product)
    finally:
        product.stop()
    for file in ("master.key", "seal.key", "cookies/owner.txt"):
        # Nobody else on the machine reads it.
        assert (product.data_dir / file).stat().st_mode & 0o077 == 0, file
    for file in ("master.key", "seal.key"):
        content = (product.data_dir / file).read_bytes().strip()
        secrets |= {content.decode(), *forms(base64.b64decode(content))}
    assert len(secrets) > 20
    assert len(refusals) > 10
    output = product.said()
    assert output.count("/v1/authentication/verify") > 2
    for place in (output, *refusals):
        assert [secret for secret in secrets if secret in place] == [], place


def run(product: Product) -> tuple[set[str], list[str]]:
    """Uses the product; the secrets that came up, and all error answers."""
    refusals: list[str] = []
    key, public = product.key("bot", "666777888999111222"), product.key("public")
    secrets = {key, public, REASON}

    def ask(method: str, path: str, role: str | None = None, body: object = None, **headers: str) -> Answer:
        answer = product.ask(method, path, role, body, **headers)
        if answer.status >= 400:
            refusals.append(f"{answer.headers}{answer.text}")
        return answer

    for number in range(2):
        ask("POST", "/v1/authentication/request", body={"discord_id": STAFF})
        headers = {"Idempotency-Key": f"fetch {number}", "X-API-Key": key}
        code = ask("POST", "/v1/authentication/bot/login-code", body={"discord_id": STAFF}, **headers).body["code"]
        # Wrong, for another, then right, then once more.
        for body in ({"code": code[::-1]}, {"code": code, "discord_id": USER}):
            ask("POST", "/v1/authentication/verify", body=body)
        verified = ask("POST", "/v1/authentication/verify", body={"code": code})
        assert verified.status == 200
        ask("POST", "/v1/authentication/verify", body={"code": code})
        token = cookie_of(verified)
        secrets |= {code, code[::-1], token}
        assert ask("GET", "/v1/users/me", Cookie=f"hsession={token}").status == 200
        for path in (f"/v1/{token}", f"/v1/users/me?{token}=1", f"/v1/users/me/{token}", f"/v1/users/me?token={token}"):
            # Whoever puts a token into an address; the parameter's name alone is said back, to them.
            answer = product.ask("GET", path, Cookie=f"hsession={token}")
            assert answer.status in (400, 404)
        ask("POST", "/v1/authentication/logout", body={"x": 1}, Cookie=f"hsession={token}")
        ask("GET", "/v1/users/me", Cookie=f"hsession={token}x")
    made = ask(
        "POST",
        "/v1/admin/bots",
        "owner",
        {"discord_id": "666777888999111333", "name": "reporter", "owner_discord_id": STAFF},
    )
    replaced = ask("POST", "/v1/admin/bots/666777888999111333/regenerate-key", "owner")
    secrets |= {made.body["api_key"], replaced.body["api_key"]}
    for bad in (made.body["api_key"], f"{key}x", "hbot_wrong"):
        ask("GET", "/v1/bot/me", X_API_Key=bad)
        ask("GET", "/v1/bot/me", Authorization=f"Bearer {bad}")
    for role in ("owner", "admin", "moderator", "user"):
        secrets.add(product.cookie(role).partition("=")[2])
        warn = f"/v1/admin/punishments/user/{USER}/warn"
        ask("POST", warn, role, {"reason": REASON})
        ask("POST", warn, role, {"reason": REASON, "foo": REASON})
        ask("POST", warn, role, {"reason": REASON}, Origin="https://evil.example")
        ask("GET", "/v1/admin/punishments/search?q=4711&limit=0", role)
    for command in (["verify"], ["settings"]):
        ran = modledger(command, product.environment())
        refusals.append(ran.stdout + ran.stderr)
    return secrets, refusals


def test_a_database_that_is_away_is_named_without_its_password() -> None:
    key = base64.b64encode(bytes(range(100, 132))).decode()
    for url in (
        f"postgresql://app:{PASSWORD}@127.0.0.1:1/ledger",
        f"postgresql://127.0.0.1:1/ledger?user=app&password={PASSWORD}",
        f"postgresql://app:{quote(PASSWORD + ' @:/')}@127.0.0.1:1/ledger",
    ):
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")},
            "MODLEDGER_DATABASE_URL": url,
            "MODLEDGER_MASTER_KEY": key,
            "MODLEDGER_LOG_LEVEL": "debug",
        }
        for command in (["migrate"], ["serve"], ["settings"], ["key", "public"]):
            ran = modledger(command, environment)
            said = ran.stdout + ran.stderr
            assert said
            assert (ran.returncode == 0) == (command == ["settings"]), said
            assert PASSWORD not in said
            assert key.rstrip("=") not in said
            assert "Traceback" not in said

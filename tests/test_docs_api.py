"""docs/api.md is true: each of its examples is asked of the real server, and its curl session is run."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.documented import Reading, blocks, examples
from tests.made_once import MadeOnce, fast_folder
from tests.product import Answer, Product, make_product

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")
ROLES = ("owner", "admin", "moderator", "user")
DEMO_BOT = "666777888999111222"


@pytest.fixture(scope="module")
def product(made_once: MadeOnce) -> Iterator[Product]:
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        started = Product(made_once("product", make_product, Path(folder) / "data"))
        started.start()
        try:
            yield started
        finally:
            started.stop()


def test_every_example_is_answered_as_the_page_says(product: Product) -> None:
    secrets = {f"<{role}>": product.cookie(role).removeprefix("hsession=") for role in ROLES}
    secrets |= {"<bot key>": product.key("bot", DEMO_BOT), "<public key>": product.key("public")}

    def send(method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
        return product.ask(method, path, None, body, **headers)

    reading = Reading(send, secrets, datetime.now(UTC))
    found = examples(PAGE)
    assert len(found) >= 20
    for example in found:
        differences = reading.run(example)
        assert differences == [], f"docs/api.md:{example.line}: {example.method} {example.path}"


def test_the_session_with_curl_does_what_the_page_shows(product: Product, tmp_path: Path) -> None:
    assert shutil.which("curl"), "the session in docs/api.md needs curl (Debian: apt install curl)"
    (_, script), *others = blocks(PAGE, "bash")
    assert not others
    (_, shown), *others = blocks(PAGE, "jsonl")
    assert not others
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env={
            **product.environment(),
            "API": f"http://127.0.0.1:{product.port}",
            "PYTHON": sys.executable,
            "TMPDIR": str(tmp_path),
            # A proxy of the machine's must not stand between curl and loopback.
            "NO_PROXY": "*",
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, (ran.stdout, ran.stderr)
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    said = [json.loads(line) for line in shown.splitlines()]
    reading = Reading(product.ask, {}, datetime.now(UTC))
    assert reading.compare(said, answers) == []

"""``modledger up``, the whole product in real processes: starts, answers, is killed, starts again, stops."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modledger.workers.demo import DEMO_ROLES
from tests.made_once import fast_folder
from tests.product import Answer, Product

PROFILE = {
    "discord_id": "123456789012345678",
    "username": "exampleuser",
    "avatar_url": "https://cdn.discordapp.com/avatars/123456789012345678/abc.png",
    "subscription_tier": 0,
    "state": 0,
    "permission_level": 0,
    "prefix": "!",
    "subscription_expires_at": None,
    "last_activity_at": "2026-03-10T12:00:00Z",
    "source": "database",
    "created_at": "2025-01-01T00:00:00Z",
    "updated_at": "2026-03-10T12:00:00Z",
}
FOUND = {
    "id": 42,
    "discord_user_id": "123456789012345678",
    "discord_guild_id": None,
    "punishment_type": "BAN",
    "discord_issued_by_id": "999888777666555444",
    "reason": "Terms of service violation",
    "expires_at": None,
    "is_lifted": False,
    "lifted_at": None,
    "discord_lifted_by_id": None,
    "created_at": "2026-01-15T12:00:00Z",
    "updated_at": "2026-01-15T12:00:00Z",
}


@pytest.fixture(scope="module")
def installation() -> Iterator[Product]:
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        product = Product(Path(folder) / "data with a space")
        yield product
        if product.process is not None and product.process.poll() is None:
            product.stop()


@pytest.fixture
def product(installation: Product) -> Product:
    """The installation, running; several tests leave it stopped."""
    if installation.process is None or installation.process.poll() is not None:
        installation.start()
    return installation


def processes_of(product: Product) -> dict[int, str]:
    """Command lines, by pid, of everything that was started with this product's port."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if line and (str(product.data_dir) in line or f"MODLEDGER_PORT={product.port}" in environment):
                found[int(entry.name)] = line
    return found


def test_the_documented_profile_comes_back_to_the_byte(product: Product) -> None:
    answer = product.ask("GET", "/v1/users/profile/ExampleUser", "user")
    assert (answer.status, list(answer.body.items())) == (200, list(PROFILE.items()))


def test_the_documented_search_comes_back_key_for_key_in_order(product: Product) -> None:
    answer = product.ask("GET", "/v1/admin/punishments/search?punishment_type=3&limit=25&active_only=true", "admin")
    assert answer.status == 200
    assert [*answer.body][:4] == ["punishments", "total", "limit", "offset"]
    record = answer.body["punishments"][0]
    assert list(record) == list(FOUND)
    documented = {name: type(value) for name, value in FOUND.items() if value is not None}
    assert {name: type(record[name]) for name in documented} == documented


def test_the_two_lines_that_it_prints_work_in_a_shell(product: Product) -> None:
    lines = [line.strip() for line in product.said().splitlines() if line.strip().startswith("curl ")]
    assert len(lines) == 2
    for line in lines:
        jar, url = shlex.split(line)[3:5]
        assert Path(jar).is_file()
        path = url.removeprefix(f"http://127.0.0.1:{product.port}")
        assert product.ask("GET", path, Path(jar).stem).status == 200


def test_there_is_a_cookie_jar_for_each_role_that_only_its_owner_can_read(product: Product) -> None:
    for role, user_id in DEMO_ROLES.items():
        jar = product.data_dir / "cookies" / f"{role}.txt"
        assert jar.stat().st_mode & 0o777 == 0o600
        me = product.ask("GET", "/v1/users/me", role)
        assert (me.status, me.body["discord_id"]) == (200, str(user_id))


def test_a_second_up_on_the_same_port_is_refused_with_a_clear_message(product: Product) -> None:
    environment = {**os.environ, "MODLEDGER_DATA_DIR": str(product.data_dir), "MODLEDGER_PORT": str(product.port)}
    assert product.process is not None
    second = subprocess.run(
        [sys.executable, "-m", "modledger.workers", "up"], env=environment, capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{product.port}" in second.stderr
    assert "Traceback" not in second.stderr
    assert product.ask("GET", "/health").status == 200


def test_a_serve_or_work_process_that_was_killed_is_started_again(product: Product) -> None:
    for command in ("serve", "work"):
        victim = next(pid for pid, line in processes_of(product).items() if f"workers {command} " in line)
        os.kill(victim, signal.SIGKILL)
    for _ in range(600):
        try:
            answer = product.ask("GET", "/v1/users/profile/exampleuser", "user")
            if answer.status == 200:
                break
        except OSError:
            pass
        time.sleep(0.1)
    else:
        pytest.fail(product.said())


def test_kill_9_during_writes_loses_nothing_that_was_acknowledged_and_doubles_nothing(product: Product) -> None:
    acknowledged: dict[str, int] = {}
    unknown: set[str] = set()

    def warn(worker: int) -> None:
        for n in range(10_000):
            reason = f"write {worker} {n}"
            try:
                answer = product.ask(
                    "POST", f"/v1/admin/punishments/user/{5_000_000 + worker}/warn", "admin", {"reason": reason}
                )
            except OSError:
                unknown.add(reason)
                return
            if answer.status != 200:
                # As while the process that was killed above is not all there again.
                assert answer.status == 503, answer
                unknown.add(reason)
                continue
            acknowledged[reason] = answer.body["id"]

    threads = [threading.Thread(target=warn, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 100:
        assert any(thread.is_alive() for thread in threads), (len(acknowledged), product.said())
        time.sleep(0.02)
    product.stop(signal.SIGKILL)
    for thread in threads:
        thread.join()

    product.start()
    found: dict[str, list[int]] = {}
    for worker in range(4):
        for record in all_of(product, 5_000_000 + worker):
            found.setdefault(record["reason"], []).append(record["id"])
    assert {reason: found.get(reason) for reason in acknowledged} == {
        reason: [number] for reason, number in acknowledged.items()
    }
    assert found.keys() - acknowledged.keys() <= unknown


def all_of(product: Product, user_id: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        answer: Answer = product.ask(
            "GET", f"/v1/admin/punishments/search?user_id={user_id}&limit=100{cursor}", "admin"
        )
        assert answer.status == 200, answer
        found += answer.body["punishments"]
        if "next_cursor" not in answer.body:
            assert answer.body["total"] == len(found)
            return found
        cursor = f"&cursor={answer.body['next_cursor']}"


def test_it_stops_at_sigterm_and_leaves_nothing_running(product: Product) -> None:
    assert processes_of(product) != {}
    assert product.stop(signal.SIGTERM) == 0
    assert processes_of(product) == {}


def test_a_later_start_loads_no_demo_data_again(product: Product) -> None:
    assert product.stop(signal.SIGINT) == 0
    product.start()
    assert product.said().count("Loading demo data") == 1

"""The real product in real processes, for tests: ``modledger up`` on a data directory of its own."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from http.cookiejar import MozillaCookieJar
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from bench.processes import free_port
from modledger.projections.due import due_punishments, due_subscriptions
from modledger.workers.postgres import EmbeddedPostgres
from tests.forked import modledger

PATIENCE_SECONDS = 90
# What is said after two seconds of waiting for projectors (http/freshness.py), which a machine may take for one step.
NOT_YET = "The read models are not yet at position"


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


class Product:
    """One ``modledger up``. Start it, ask it, end it in whatever way."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.settings = settings
        self.output = data_dir.with_name(f"{data_dir.name}.out")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "modledger.workers", "up"],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        said = len(self.said())
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "Ctrl-C stops everything." not in self.said()[said:]:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def environment(self) -> dict[str, str]:
        """What the product's command line needs to find this one."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
        return {
            **inherited,
            # A test asks more often than one client may.
            **{f"MODLEDGER_RATE_LIMIT_{kind}": "0" for kind in ("LOGIN", "STAFF", "PUBLIC", "BOT")},
            "MODLEDGER_DATA_DIR": str(self.data_dir),
            "MODLEDGER_PORT": str(self.port),
            **self.settings,
        }

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def ask(self, method: str, path: str, role: str | None = None, body: Any = None, **headers: str) -> Answer:
        """The answer; that the read models are not there yet, after which nothing was done, is none."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self._ask_once(method, path, role, body, headers)
            if not (answer.status == 503 and NOT_YET in answer.text) or time.monotonic() > deadline:
                return answer

    def _ask_once(self, method: str, path: str, role: str | None, body: Any, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if role is not None:
            sent["Cookie"] = self.cookie(role)
        payload = None
        if method == "POST":
            sent["Content-Type"] = "application/json"
            payload = json.dumps(body if body is not None else {})
        try:
            connection.request(method, path, payload, sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
        finally:
            connection.close()

    def key(self, *kind: str) -> str:
        """A new key, made as README says: of the kind public, or bot with an id."""
        made = modledger(["key", *kind], self.environment())
        assert made.returncode == 0, made
        return made.stdout.strip()

    def cookie(self, role: str) -> str:
        jar = MozillaCookieJar(self.data_dir / "cookies" / f"{role}.txt")
        jar.load()
        token = next(cookie.value for cookie in jar if cookie.domain == "127.0.0.1")
        return f"hsession={token}"


def make_product(folder: Path) -> None:
    """Makes a data folder, for copies of it to be started: ``up`` has been there and has loaded the demo, and what of
    that had run out by then is recorded, so that nothing but its own commands moves the ledger on under a test."""
    product = Product(folder)
    product.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    database = EmbeddedPostgres(folder / "postgres")
    try:
        with psycopg.connect(database.attach()) as connection:
            while any(True for due in (due_punishments, due_subscriptions) for _ in due(connection, datetime.now(UTC))):
                connection.rollback()
                assert time.monotonic() < deadline, product.said()
                time.sleep(0.05)
    finally:
        database.detach()
    assert product.stop() == 0, product.said()
    product.output.unlink()

"""``modledger serve`` processes for tests, on a database that is there."""

import http.client
import os
import signal
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families as parse

from bench.processes import free_port
from modledger.http.sessions import COOKIE, open_session
from tests.databases import MASTER_KEY
from tests.forked import start
from tests.http_client import LEVELS, World
from tests.product import PATIENCE_SECONDS


class Serve:
    """One process, ready for requests. ``cookie``: of whoever asks with ``status``; ``port``: one that is free."""

    def __init__(
        self,
        environment: Mapping[str, str],
        folder: Path,
        cookie: str,
        *,
        port: int | None = None,
        drain_seconds: int = 0,
    ) -> None:
        self.port, self.metrics_port, self._cookie = port or free_port(), free_port(), cookie
        self.output = folder / f"serve {self.port} {self.metrics_port}.out"
        with self.output.open("wb") as output:
            self.process = start(
                ["-m", "modledger.workers", "serve"],
                {
                    **environment,
                    "MODLEDGER_PORT": str(self.port),
                    "MODLEDGER_METRICS_PORT": str(self.metrics_port),
                    "MODLEDGER_DRAIN_SECONDS": str(drain_seconds),
                },
                stdout=output,
                stderr=output,
            )
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while self.status("/health/ready") != 200:
                assert self.process.poll() is None, self.output.read_text()
                assert time.monotonic() < deadline, self.output.read_text()
                time.sleep(0.05)
        except BaseException:
            # Nobody has it yet who could.
            self.process.kill()
            self.process.wait()
            raise

    def status(self, path: str) -> int | None:
        """Of a GET; None where nobody listens any more."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers={"Cookie": self._cookie})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (ConnectionError, http.client.RemoteDisconnected):
            return None
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of a name that have these labels, by the process's own metrics."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(
            sample.value
            for family in parse(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def ended_after(started: list[Serve]) -> Iterator[list[Serve]]:
    """The list; whatever is in it afterwards is killed."""
    try:
        yield started
    finally:
        for serve in started:
            serve.process.kill()
            serve.wait()


def environment_of(world: World) -> dict[str, str]:
    """What a process needs to serve the world's people."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")},
        # A test asks more often than one client may.
        **{f"MODLEDGER_RATE_LIMIT_{kind}": "0" for kind in ("LOGIN", "STAFF", "PUBLIC", "BOT")},
        "MODLEDGER_DATABASE_URL": world.database,
        "MODLEDGER_MASTER_KEY": b64encode(MASTER_KEY).decode(),
    }


def cookie_of(world: World, user_id: int) -> str:
    """Of a session that is good by the clock of the machine, which is that of a process."""
    return f"{COOKIE}={open_session(world.connection, user_id, LEVELS[user_id], datetime.now(UTC))}"

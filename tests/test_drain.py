"""Serve processes that are told to stop: first they say so, then they answer what they have, then they are gone."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from modledger.workers.postgres import EmbeddedPostgres
from tests.postgres_server import fast_folder
from tests.product import PATIENCE_SECONDS, Product, free_port
from tests.test_ledger_postgres import appends_held_back


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        started = Product(Path(folder) / "data")
        started.start()
        try:
            yield started
        finally:
            started.stop()


class Serve:
    """One more ``modledger serve`` of the product."""

    def __init__(self, product: Product, drain_seconds: int) -> None:
        self.port, self.metrics_port, self._product = free_port(), free_port(), product
        self.output = product.data_dir.with_name(f"serve {self.port}.out")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "modledger.workers", "serve"],
                env=product.environment()
                | {
                    "MODLEDGER_PORT": str(self.port),
                    "MODLEDGER_METRICS_PORT": str(self.metrics_port),
                    "MODLEDGER_DRAIN_SECONDS": str(drain_seconds),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.status("/health/ready") != 200:
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def status(self, path: str) -> int | None:
        """Of a GET by the demo's user; None where nobody listens any more."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers={"Cookie": self._product.cookie("user")})
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

    def wait(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)


@pytest.fixture
def serves(product: Product) -> Iterator[list[Serve]]:
    started: list[Serve] = []
    yield started
    for serve in started:
        serve.process.kill()
        serve.wait()


def test_each_process_counts_what_it_answered_and_nothing_of_its_neighbours(
    product: Product, serves: list[Serve]
) -> None:
    serves += [Serve(product, 0), Serve(product, 0)]
    for serve, times in zip(serves, (3, 5), strict=True):
        assert [serve.status("/v1/users/me") for _ in range(times)] == [200] * times
    assert [serve.metric("modledger_http_requests_total", route="/v1/users/me") for serve in serves] == [3, 5]


def test_a_process_that_drains_is_not_ready_and_answers_until_it_closes_its_port(
    product: Product, serves: list[Serve]
) -> None:
    serve = Serve(product, 2)
    serves.append(serve)
    seen: list[tuple[int | None, int | None]] = []
    serve.process.send_signal(signal.SIGTERM)
    while not seen or seen[-1] != (None, None):
        seen.append((serve.status("/health/ready"), serve.status("/v1/users/me")))
        time.sleep(0.05)
    assert serve.wait() == 0
    draining = [one for one in seen if one[0] == 503]
    assert draining
    # While anybody is told to go elsewhere, whoever comes is still answered; at the very end the port may close between
    # the two questions.
    assert set(draining[:-1]) <= {(503, 200)}
    assert seen.index(draining[0]) <= 1
    # Once it said so it never said anything else.
    assert {ready for ready, _ in seen[seen.index(draining[0]) :]} == {503, None}


def test_a_second_signal_ends_the_drain(product: Product, serves: list[Serve]) -> None:
    serve = Serve(product, 60)
    serves.append(serve)
    serve.process.send_signal(signal.SIGTERM)
    while serve.status("/health/ready") != 503:
        time.sleep(0.02)
    assert serve.process.poll() is None
    serve.process.send_signal(signal.SIGTERM)
    # The drain alone would take longer than that.
    assert serve.process.wait(50) == 0


def test_commands_that_wait_for_the_database_while_the_process_stops_are_answered(
    product: Product, serves: list[Serve]
) -> None:
    serve = Serve(product, 0)
    serves.append(serve)
    answers: list[int] = []

    def warn() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", serve.port, timeout=30)
        body = json.dumps({"reason": "asked before the stop"})
        headers = {"Cookie": product.cookie("admin"), "Content-Type": "application/json"}
        connection.request("POST", "/v1/admin/punishments/user/7200000001/warn", body, headers)
        answers.append(connection.getresponse().status)
        connection.close()

    database = EmbeddedPostgres(product.data_dir / "postgres")
    try:
        with appends_held_back(database.attach()):
            threads = [threading.Thread(target=warn) for _ in range(8)]
            for thread in threads:
                thread.start()
            while serve.metric("modledger_http_requests_in_progress") < 8:
                time.sleep(0.01)
            serve.process.send_signal(signal.SIGTERM)
            while serve.status("/health/live") is not None:
                time.sleep(0.01)
            assert answers == []
        for thread in threads:
            thread.join()
    finally:
        database.detach()
    assert serve.wait() == 0
    assert answers == [200] * 8


def test_a_client_that_never_ends_its_request_does_not_keep_the_process(product: Product, serves: list[Serve]) -> None:
    serve = Serve(product, 0)
    serves.append(serve)
    with socket.create_connection(("127.0.0.1", serve.port)) as connection:
        head = "POST /v1/authentication/verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        while serve.metric("modledger_http_requests_in_progress") < 1:
            time.sleep(0.01)
        serve.process.send_signal(signal.SIGTERM)
        assert serve.wait() == 0
    assert "stopped before all requests were finished" in serve.output.read_text()

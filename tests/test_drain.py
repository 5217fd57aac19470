"""Serve processes that are told to stop: first they say so, then they answer what they have, then they are gone."""

import http.client
import json
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modledger.workers.postgres import EmbeddedPostgres
from tests.made_once import MadeOnce, fast_folder
from tests.postgres_processes import until
from tests.product import Product, make_product
from tests.serves import Serve, ended_after
from tests.test_ledger_postgres import appends_held_back


@pytest.fixture(scope="module")
def product(made_once: MadeOnce) -> Iterator[Product]:
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        started = Product(made_once("product", make_product, Path(folder) / "data"))
        started.start()
        try:
            yield started
        finally:
            started.stop()


@pytest.fixture
def serves() -> Iterator[list[Serve]]:
    with ended_after([]) as started:
        yield started


def one_more(product: Product, drain_seconds: int, **settings: str) -> Serve:
    """One more ``modledger serve`` of the product."""
    environment, folder = product.environment() | settings, product.data_dir.parent
    return Serve(environment, folder, product.cookie("user"), drain_seconds=drain_seconds)


def test_each_process_counts_what_it_answered_and_nothing_of_its_neighbours(
    product: Product, serves: list[Serve]
) -> None:
    serves += [one_more(product, 0), one_more(product, 0)]
    for serve, times in zip(serves, (3, 5), strict=True):
        assert [serve.status("/v1/users/me") for _ in range(times)] == [200] * times
    for serve, times in zip(serves, (3, 5), strict=True):
        # Each is counted right after its answer, together with the probes before it.
        until(lambda serve=serve: serve.metric("modledger_http_requests_in_progress") == 0)  # type: ignore[misc]
        assert serve.metric("modledger_http_requests_total", route="/v1/users/me") == times


def drained(product: Product, serves: list[Serve], drain_seconds: int) -> list[tuple[int | None, int | None]]:
    """How a process that is told to stop answers a probe and a request, until nobody listens; nothing where it never
    said that it drains."""
    serve = one_more(product, drain_seconds)
    serves.append(serve)
    seen: list[tuple[int | None, int | None]] = []
    serve.process.send_signal(signal.SIGTERM)
    while not seen or seen[-1] != (None, None):
        seen.append((serve.status("/health/ready"), serve.status("/v1/users/me")))
        time.sleep(0.05)
    assert serve.wait() == 0
    return seen if any(ready == 503 for ready, _ in seen) else []


def test_a_process_that_drains_is_not_ready_and_answers_until_it_closes_its_port(
    product: Product, serves: list[Serve]
) -> None:
    # A machine may be too busy to ask within two seconds.
    seen = drained(product, serves, 2) or drained(product, serves, 30)
    draining = [one for one in seen if one[0] == 503]
    assert draining
    # While anybody is told to go elsewhere, whoever comes is still answered; at the very end the port may close between
    # the two questions.
    assert set(draining[:-1]) <= {(503, 200)}
    assert seen.index(draining[0]) <= 1
    # Once it said so it never said anything else.
    assert {ready for ready, _ in seen[seen.index(draining[0]) :]} == {503, None}


def test_a_second_signal_ends_the_drain(product: Product, serves: list[Serve]) -> None:
    serve = one_more(product, 60)
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
    serve = one_more(product, 0)
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
    # A body that is late is answered, and then there is nothing to stop.
    serve = one_more(product, 0, MODLEDGER_BODY_SECONDS="60")
    serves.append(serve)
    with socket.create_connection(("127.0.0.1", serve.port)) as connection:
        head = "POST /v1/authentication/verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        while serve.metric("modledger_http_requests_in_progress") < 1:
            time.sleep(0.01)
        serve.process.send_signal(signal.SIGTERM)
        assert serve.wait() == 0
    assert "stopped before all requests were finished" in serve.output.read_text()

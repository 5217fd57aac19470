"""/metrics of real processes: it changes as what is done says it must, and nobody can make it grow or talk."""

import http.client
import json
import random
import re
import string
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from bench.processes import free_port
from modledger.http.app import create_app
from modledger.http.metrics import METHODS
from modledger.projections.catalog import PROJECTORS
from modledger.workers.demo import DEMO_ROLES
from tests.forked import modledger
from tests.http_client import MASTER_KEY, SETTINGS
from tests.made_once import MadeOnce, fast_folder
from tests.postgres_processes import until
from tests.product import PATIENCE_SECONDS, Product, make_product

PROFILE = "/v1/users/profile/{username}"
WARN = "/v1/admin/punishments/user/{user_id}/warn"
Series = dict[str, dict[tuple[tuple[str, str], ...], float]]


@pytest.fixture(scope="module")
def product(made_once: MadeOnce) -> Iterator[Product]:
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        started = Product(
            made_once("product", make_product, Path(folder) / "data"),
            MODLEDGER_METRICS_PORT=str(free_port(more=1)),
            MODLEDGER_ACCESS_LOG="all",
        )
        started.start()
        try:
            yield started
        finally:
            started.stop()


def exposition(product: Product, process: str = "serve", accept: str = "") -> str:
    port = int(product.settings["MODLEDGER_METRICS_PORT"]) + (process == "work")
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return str(answer.read().decode())


def scrape(product: Product, process: str = "serve") -> Series:
    """Every sample, by name and labels."""
    found: Series = {}
    for family in parse(exposition(product, process)):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def counted(product: Product) -> Series:
    """What ``serve`` says when it has counted all that it answered, which it does right after."""
    until(lambda: value(scrape(product), "modledger_http_requests_in_progress") == 0)
    return scrape(product)


def value(series: Series, name: str, **labels: str) -> float:
    return series.get(name, {}).get(tuple(sorted(labels.items())), 0.0)


def test_both_processes_expose_what_the_library_parses_and_each_name_once(product: Product) -> None:
    for process in ("serve", "work"):
        families = [family.name for family in parse(exposition(product, process))]
        assert len(set(families)) == len(families)
        text = exposition(product, process, "application/openmetrics-text; version=1.0.0")
        strict = list(parse_openmetrics(text))  # type: ignore[no-untyped-call]
        assert {family.name for family in strict} >= {"modledger_appends", "modledger_projection_lag_seconds"}
        (labels,) = scrape(product, process)["modledger_build_info"]
        assert dict(labels)["process"] == process


def test_requests_are_counted_by_route_method_and_status(product: Product) -> None:
    before = counted(product)
    for _ in range(3):
        assert product.ask("GET", "/v1/users/profile/ExampleUser", "user").status == 200
    assert product.ask("GET", "/v1/users/profile/nobody-of-that-name", "user").status == 404
    assert product.ask("GET", "/v1/users/profile/ExampleUser").status == 401
    after = counted(product)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    for status, times in (("200", 3), ("404", 1), ("401", 1)):
        assert more("modledger_http_requests_total", route=PROFILE, method="GET", status=status) == times
    took = "modledger_http_request_duration_seconds"
    assert more(f"{took}_count", route=PROFILE, method="GET") == 5
    assert more(f"{took}_bucket", route=PROFILE, method="GET", le="+Inf") == 5
    assert more(f"{took}_sum", route=PROFILE, method="GET") > 0
    assert value(after, "modledger_http_requests_in_progress") == 0


def test_a_command_is_an_append_and_its_repetition_is_none(product: Product) -> None:
    before = counted(product)
    key = {"Idempotency_Key": f"metrics {random.random()}"}
    for _ in range(2):
        path = WARN.replace("{user_id}", "7100000001")
        assert product.ask("POST", path, "admin", {"reason": "counted"}, **key).status == 200
    after = counted(product)
    appended = value(after, "modledger_appends_total", outcome="appended")
    assert appended - value(before, "modledger_appends_total", outcome="appended") == 1
    assert value(after, "modledger_events_appended_total") - value(before, "modledger_events_appended_total") == 1
    groups = "modledger_group_commit_size_count"
    assert value(after, groups) - value(before, groups) == 1
    requests = {"route": WARN, "method": "POST", "status": "200"}
    total = "modledger_http_requests_total"
    assert value(after, total, **requests) - value(before, total, **requests) == 2
    head = value(after, "modledger_ledger_position")
    assert head - value(before, "modledger_ledger_position") >= 1


def test_both_processes_say_the_same_of_the_installation_once_the_projectors_are_there(product: Product) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        serve, work = scrape(product, "serve"), scrape(product, "work")
        lags = [lag for series in (serve, work) for lag in series["modledger_projection_lag_events"].values()]
        turns = [held for series in (serve, work) for held in series["modledger_turn_held"].values()]
        if (all(turns) and not any(lags)) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    names = {(("projector", projector.name),) for projector in PROJECTORS}
    for series in (serve, work):
        assert series["modledger_database_up"] == {(): 1}
        assert series["modledger_projection_lag_events"] == dict.fromkeys(names, 0)
        assert series["modledger_projection_stopped"] == dict.fromkeys(names, 0)
        assert set(series["modledger_projection_position"].values()) == {value(series, "modledger_ledger_position")}
        assert set(series["modledger_turn_held"].values()) == {1}
        assert set(series["modledger_metrics_failed"].values()) == {0}
        assert value(series, "process_resident_memory_bytes") > 10_000_000
        assert value(series, "process_cpu_seconds_total") > 0
        assert value(series, "modledger_data_dir_free_bytes") > 0
    assert value(serve, "modledger_pool_connections_max", pool="read") == 4
    assert value(serve, "modledger_pool_connections", pool="read", state="idle") >= 1
    # The library's pool of the worker process, and none of HTTP's.
    assert {dict(labels)["pool"] for labels in work["modledger_pool_connections_max"]} == {"ledger"}


def test_what_the_clock_records_is_counted_where_it_is_recorded(product: Product) -> None:
    # The demo's own ends first: many are due when it starts.
    until(lambda: value(scrape(product, "work"), "modledger_clock_lag_seconds") == 0)

    def appended() -> tuple[float, float]:
        """By that process, and by all."""
        series = scrape(product, "work")
        return value(series, "modledger_events_appended_total"), value(series, "modledger_ledger_position")

    before, head = appended()
    ends = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    path = "/v1/admin/punishments/user/7100000002/timeout"
    assert product.ask("POST", path, "admin", {"reason": "short", "expires_at": ends}).status == 200

    def all_but_the_command() -> bool:
        by_the_clock, now = appended()
        # One of the demo's may end as well.
        return before + 1 <= by_the_clock == before + now - head - 1

    until(all_but_the_command)


def test_no_request_can_add_a_label_that_was_made_up(product: Product) -> None:
    luck = random.Random(5)
    signs = string.ascii_letters + string.digits + "/%{}.-_~!$&'()*+,;=:@\"\\"
    methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "X" * 50, "get"]
    app: Litestar = create_app(SETTINGS, conninfo="", master_key=MASTER_KEY)
    known = sorted(route.path_format for route in app.routes)
    before = counted(product)
    statuses = set()
    for _ in range(600):
        made_up = "".join(luck.choice(signs) for _ in range(luck.randint(1, 60)))
        path = f"/{made_up}"
        # Half of them where something is.
        if luck.random() < 0.5:
            parts = luck.choice(known).split("/")
            path = "/".join(made_up.replace("/", "") if "{" in part else part for part in parts)
        connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
        connection.request(luck.choice(methods), path, headers={"Content-Length": "0"})
        statuses.add(connection.getresponse().status)
        connection.close()
    assert {401, 404, 405} <= statuses
    after = counted(product)
    # What the verifier says when it has come round for the first time, which it may meanwhile, is nobody's request.
    verified = {"modledger_verification_differences", "modledger_verification_timestamp_seconds"}
    assert after.keys() - verified == before.keys() - verified
    for name in ("modledger_http_requests_total", "modledger_http_request_duration_seconds_count"):
        asked = [dict(labels) for labels in after[name]]
        assert {one["route"] for one in asked} <= {*known, "unmatched"}
        assert {one["method"] for one in asked} <= METHODS | {"other"}
        assert all(re.fullmatch("[1-5][0-9][0-9]", one.get("status", "200")) for one in asked)
        assert any(one["route"] == "unmatched" for one in asked)
        assert any(one["method"] == "other" for one in asked)


def test_nothing_that_was_asked_or_is_secret_is_in_the_metrics(product: Product) -> None:
    secret = product.cookie("admin").removeprefix("hsession=")
    assert product.ask("GET", "/v1/users/search?q=exampleuser", "admin").status == 200
    said = exposition(product) + exposition(product, "work")
    master_key = (product.data_dir / "master.key").read_text().strip()
    for one in (secret, secret[-6:], master_key, "exampleuser", "ExampleUser", "123456789012345678", "postgresql:"):
        assert one not in said


def test_the_port_of_the_api_has_no_metrics(product: Product) -> None:
    assert product.ask("GET", "/metrics", "owner").status == 404


def test_a_port_that_is_taken_is_named_with_its_setting(product: Product) -> None:
    environment = product.environment() | {"MODLEDGER_PORT": str(free_port())}
    ended = modledger(["work"], environment)
    port = environment["MODLEDGER_METRICS_PORT"]
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f"modledger: cannot listen on 127.0.0.1:{port} (Address already in use): set MODLEDGER_METRICS_PORT to another"
    )


def logged(product: Product, correlation_id: str) -> dict[str, Any]:
    """The one line of a request; it is written right after the answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (lines := [one for one in product.said().splitlines() if correlation_id in one]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (line,) = [json.loads(one) for one in lines]
    assert line["event"] == "request"
    return dict(line)


def test_a_request_its_event_and_its_log_line_bear_one_correlation_id(product: Product) -> None:
    reason = 'forged\n{"event":"forged"}'
    answer = product.ask(
        "POST", "/v1/admin/punishments/user/7100000003/warn?", "admin", {"reason": reason}, User_Agent="x\tforged"
    )
    assert answer.status == 200
    correlation_id = answer.headers["x-correlation-id"]
    line = logged(product, correlation_id)
    assert line == line | {"process": "serve", "method": "POST", "route": WARN, "status": 200, "level": "info"}
    assert line["actor"] == f"user:{DEMO_ROLES['admin']}"
    assert line["took_ms"] > 0
    run = partial(modledger, environment=product.environment())
    (event,) = run(["audit", "export", "--correlation-id", correlation_id]).stdout.splitlines()
    said = json.loads(event)
    assert said["correlation_id"] == correlation_id
    assert said["position"] == int(answer.headers["x-ledger-position"])
    shown = run(["audit", "log", "--correlation-id", correlation_id]).stdout
    assert (shown.count("USER_WARN"), shown.count("7100000003")) == (1, 1)
    refused = product.ask("POST", "/v1/admin/punishments/user/7100000003/warn", "user", {"reason": reason})
    line = logged(product, refused.body["correlation_id"])
    assert (line["status"], line["actor"]) == (403, f"user:{DEMO_ROLES['user']}")


def test_the_log_quotes_nothing_of_what_was_asked(product: Product) -> None:
    product.ask("GET", "/v1/users/search?q=a-name-that-nobody-has", "admin")
    product.ask("GET", "/v1/users/profile/another-name-of-nobody", "admin")
    product.ask("GET", "/v1/no-such-place/a-third-name", "admin")
    product.ask("POST", "/v1/authentication/verify", None, {"code": "ZZZZ9999", "discord_id": 987654321})
    product.ask("POST", WARN.replace("{user_id}", "7100000003"), "admin", {"reason": "words of a moderator"})
    last = product.ask("GET", "/v1/users/me", "admin", User_Agent="an-agent-that-is-quoted-nowhere")
    assert logged(product, last.headers["x-correlation-id"])["route"] == "/v1/users/me"
    said = product.said()
    secrets = [product.cookie(role).removeprefix("hsession=") for role in DEMO_ROLES]
    for one in (
        "a-name-that-nobody-has",
        "another-name-of-nobody",
        "a-third-name",
        "ZZZZ9999",
        "987654321",
        "words of a moderator",
        "an-agent-that-is-quoted-nowhere",
        (product.data_dir / "master.key").read_text().strip(),
        *secrets,
    ):
        assert one not in said
    assert not any(secret[-6:] in line for secret in secrets for line in said.splitlines() if line.startswith("{"))

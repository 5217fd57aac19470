"""docs/operate.md and deploy/: every metric that they name exists, and every one that exists is named."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.http.admission import Admission
from modledger.http.metrics import Requests
from modledger.workers.metrics import watched_process
from tests.http_client import World

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "operate.md").read_text("utf-8")
# Types of PyYAML are not installed, and one file is not worth them.
yaml: Any = importlib.import_module("yaml")
RULES = yaml.safe_load((ROOT / "deploy" / "modledger-rules.yml").read_text("utf-8"))
CONFIGURATION = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text("utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
# Of Prometheus itself.
ITS_OWN = {"up"}
_WORD = re.compile(r"[a-z_][a-z0-9_]*")


@pytest.fixture
def exposed(world: World, ledger: PostgresLedger, tmp_path: Path) -> dict[str, set[str]]:
    """The names of all samples, with the labels that they can have."""
    registry = CollectorRegistry()
    requests = Requests(registry)
    Admission(registry)
    requests.began()
    requests.ended({"path_template": "/health", "method": "GET"}, 200, 0.01)  # type: ignore[typeddict-item]
    world.connection.execute(
        "insert into verifications (subject, checked_at, streams, differences, differing)"
        " values ('ledger', now(), 1, 0, '{}')"
    )
    world.connection.execute(
        "insert into replays (projector, state, fingerprint, head, total, created_at, changed_at)"
        " values ('bots', 'live', 'x', 0, 0, now(), now())"
    )
    found: dict[str, set[str]] = {}
    with watched_process(registry, "work", Settings(data_dir=tmp_path), world.database, lambda: ledger):
        for family in registry.collect():
            found.setdefault(family.name, set())
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


# Only where something was sealed, or somebody is at work.
SOMETIMES = {
    "modledger_sealed_events": set[str](),
    "modledger_seal_timestamp_seconds": set[str](),
    "modledger_turn_holder_connected_timestamp_seconds": {"turn"},
}


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in an expression: what is neither a label, a text, a function, nor a unit of time."""
    plain = re.sub(r'"[^"]*"|\b[0-9][0-9.e]*', "", expression)
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on|without|ignoring)\s*\([^)]*\)", " ", plain)
    return {word for word in _WORD.findall(plain) if not re.search(rf"\b{word}\s*\(", plain)}


def test_every_metric_of_an_alarm_exists_with_the_labels_that_it_asks_for(exposed: dict[str, set[str]]) -> None:
    known = exposed | SOMETIMES
    assert len(ALERTS) >= 15
    for rule in ALERTS:
        named = metrics_in(rule["expr"])
        assert named, rule["alert"]
        assert named <= known.keys() | ITS_OWN, rule["alert"]
        asked = {
            one for found in re.findall(r"\{([^}]*)\}", rule["expr"]) for one in re.findall(r"(\w+)\s*[=!]", found)
        }
        by = {one.strip() for found in re.findall(r"\bby\s*\(([^)]*)\)", rule["expr"]) for one in found.split(",")}
        # What Prometheus adds: which process it was.
        has = {"job", "instance"}.union(*(known.get(name, set()) for name in named))
        assert asked | by <= has, rule["alert"]


def test_every_alarm_says_how_bad_it_is_and_is_explained_on_the_page() -> None:
    explained = re.findall(r"^\| `(Modledger\w+)` \((page|ticket)\) \|", PAGE, re.MULTILINE)
    assert explained == [(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS]
    for rule in ALERTS:
        assert rule["annotations"]["summary"], rule["alert"]
        (line,) = [one for one in PAGE.splitlines() if one.startswith(f"| `{rule['alert']}`")]
        told = set(_WORD.findall(line))
        assert {name.removesuffix("_bucket") for name in metrics_in(rule["expr"])} <= told, rule["alert"]


def test_the_page_names_every_metric_and_none_that_does_not_exist(exposed: dict[str, set[str]]) -> None:
    named = set(re.findall(r"\bmodledger_\w+", PAGE))
    known = exposed.keys() | SOMETIMES.keys()
    assert named <= known
    suffixes = re.compile(r"_(bucket|count|sum|total|created|info)$")
    # A family goes by the name of its samples where it has but one kind of them.
    ours = {name for name in known if name.startswith("modledger_")}
    assert {suffixes.sub("", name) for name in ours} == {suffixes.sub("", name) for name in named}


def test_labels_are_those_that_the_page_lists(exposed: dict[str, set[str]]) -> None:
    rows = re.findall(r"^\| (`modledger_.*?) \| (.*?) \|", PAGE, re.MULTILINE)
    assert len(rows) >= 25
    for names, labels in rows:
        for name in re.findall(r"`(\w+)`", names):
            samples = [of for of in (name, f"{name}_bucket", f"{name}_count") if (exposed | SOMETIMES).get(of)]
            has = set().union(*((exposed | SOMETIMES)[of] for of in samples)) - {"le"}
            assert has == set(re.findall(r"`(\w+)`", labels)), name


def test_the_sample_configuration_reads_the_rules_and_asks_the_ports_of_the_page() -> None:
    assert CONFIGURATION["rule_files"] == ["modledger-rules.yml"]
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in CONFIGURATION["scrape_configs"]}
    assert jobs == {"modledger-serve": ["127.0.0.1:9464"], "modledger-work": ["127.0.0.1:9465"]}
    for targets in jobs.values():
        assert f"http://{targets[0]}/metrics" in PAGE

import gc
import signal
from pathlib import Path

import pytest

pytest_plugins = ["tests.made_once", "tests.postgres_server", "tests.databases", "tests.http_world"]

# A shell that runs the tests in the background lets them ignore Ctrl-C, and so would every process that they start:
# those that are to end by one would be waited for in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Some five thousand tests are made and kept until the end: to look for rubbish among them again and again took two of
# the five seconds of collecting them, in every worker. And while they run it is looked for as often as in `serve`.
gc.disable()
gc.set_threshold(10_000)


# Where a file's tests share what takes long to make, one process runs them all (--dist loadfile); so those that take
# longest begin first, in this order, and none of them is begun when the others are done.
LONGEST = (
    "test_http_history_search",
    "test_rebuild_together",
    "test_http_fuzz",
    "test_rebuild",
    "test_history_search",
    "test_bench",
    "test_http_time_travel",
    "test_replay_under_load",
    "test_search_reasons",
    "test_audit_search_plans",
    "test_postgres_lifecycle",
    "test_search_punishments",
    "test_derived_samples",
    "test_search_guilds",
    "test_http_permissions",
    "test_domain_invariants",
    "test_projection_equivalence",
    "test_slow_clients",
    "test_rebuild_live",
    "test_demo_sizes",
    "test_verification",
    "test_up",
    "test_drain",
    "test_cli",
    "test_seal_cli",
    "test_demo",
    "test_metrics",
    "test_upgrade",
    "test_audit_search",
    "test_user_search",
    "test_security_secrets",
    "test_embedded_logins",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(Path(item.location[0]).stem, len(LONGEST)))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()

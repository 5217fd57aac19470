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
    "test_history_search",
    "test_rebuild",
    "test_http_fuzz",
    "test_bench",
    "test_derived_samples",
    "test_http_history_search",
    "test_rebuild_live",
    "test_postgres_lifecycle",
    "test_http_time_travel",
    "test_replay_under_load",
    "test_demo_sizes",
    "test_slow_clients",
    "test_drain",
    "test_domain_invariants",
    "test_up",
    "test_security_secrets",
    "test_verification",
    "test_user_search",
    "test_projection_equivalence",
    "test_http_freshness",
    "test_metrics",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(Path(item.location[0]).stem, len(LONGEST)))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()

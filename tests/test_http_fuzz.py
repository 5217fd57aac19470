"""Made-up requests to every operation, by everybody: answered as /schema says, and never with 5xx."""

from typing import TYPE_CHECKING

import pytest

from tests.http_client import World
from tests.openapi_document import OPERATIONS

if TYPE_CHECKING:
    from tests.fuzzing import Fuzzed

# Each is asked by seven askers. `make fuzz` asks for as long as one likes.
EXAMPLES = 15


@pytest.fixture(scope="module")
def fuzzed(shared_world: World) -> "Fuzzed":
    # What makes the requests takes seconds to import, and is needed in one of the processes that collect the tests.
    from tests.fuzzing import Fuzzed

    return Fuzzed(shared_world)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_made_up_requests_are_answered_as_documented_and_some_do_what_they_ask(fuzzed: "Fuzzed", name: str) -> None:
    fuzzed.found.clear()
    fuzzed.fuzz(name, EXAMPLES)
    assert not fuzzed.found, "\n".join(fuzzed.found[:3])
    assert fuzzed.statuses[name][200] > 0, fuzzed.statuses[name]

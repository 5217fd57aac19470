"""docs/reliability.md names its evidence, and the evidence is there."""

import re
from pathlib import Path

import tests.chaos.checks
from tests.chaos.faults import FAULTS

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")


def test_every_test_that_the_page_names_exists() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named
    assert {name for name in named if f"def {name}(" not in sources} == set()


def test_every_judgement_that_the_page_names_is_made() -> None:
    named = set(re.findall(r"`(judge_\w+)`", PAGE))
    assert named == {name for name in vars(tests.chaos.checks) if name.startswith("judge_")}


def test_the_page_tells_of_every_fault() -> None:
    assert {name for name in FAULTS if f"`{name}`" not in PAGE} == set()

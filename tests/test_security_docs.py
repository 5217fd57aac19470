"""docs/security.md names tests that there are, and the audit of dependencies tells the truth."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AUDIT = runpy.run_path(str(ROOT / ".ci" / "audit_dependencies.py"))


def test_every_test_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", page))
    there = {
        name
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(named) > 60
    assert named - there == set()


def test_every_setting_and_page_that_it_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    settings = (ROOT / "domain" / "settings.py").read_text("utf-8")
    for name in re.findall(r"MODLEDGER_([A-Z_]+)", page):
        assert f"{name.lower()}: " in settings, name
    for link in re.findall(r"\]\(([a-z]+\.md)\)", page):
        assert (ROOT / "docs" / link).is_file()


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', 0, "not audited: no index was reached"),
        ("", 0, "not audited: no index was reached"),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "x"}]}',
            0,
            "audited 1 of 2 pinned packages: 0 known vulnerabilities\nnot audited, unknown there: b",
        ),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1"}]}]}',
            1,
            "audited 1 of 2 pinned packages: 1 known vulnerabilities\na 1: PYSEC-1",
        ),
    ],
)
def test_an_audit_that_reached_nobody_says_so_and_one_that_found_something_fails(
    answer: str, status: int, said: str
) -> None:
    """With a program in place of pip-audit that answers as it does."""
    command = [sys.executable, "-c", f"print({answer!r})"]
    found, message = AUDIT["audit"](["a==1", "b==2"], command)
    assert found == status
    assert message.startswith(said)


def test_all_that_is_pinned_is_asked_for_once() -> None:
    texts = [(ROOT / name).read_text("utf-8") for name in AUDIT["FILES"]]
    pins = AUDIT["pinned"](texts)
    assert len(pins) == len(set(pins)) > 40
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][\w.]*", pin) for pin in pins)
    assert any(pin.startswith("litestar==") for pin in pins)

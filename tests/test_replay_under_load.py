"""`make bench-replay`, in small: everything is rebuilt on a product in use, and a changed byte is found and named."""

import tempfile
from pathlib import Path

from bench.replay_under_load import render, run
from modledger.projections.catalog import PROJECTORS
from tests.made_once import fast_folder

EVENTS = 1_500


def test_everything_is_rebuilt_under_load_without_a_failed_or_stale_answer_and_a_changed_byte_is_named() -> None:
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        # With a breath between two, or they would take most of the machine.
        report = run(EVENTS, Path(folder) / "data", sessions=2, pause=0.2, breath=0.05)
    assert report.wrong == []
    assert (report.done.get("failed", 0), report.done.get("stale", 0)) == (0, 0)
    assert report.done["commands"] > 20
    assert report.done["reads"] > report.done["commands"]
    assert EVENTS < report.events <= EVENTS + 2 * report.done["commands"]
    steps = {step.what: step for step in report.steps}
    for projector in PROJECTORS:
        assert steps[f"rebuild of {projector.name}"].note.startswith("verified, equal to the tables that are read")
    for command in ("verify", "seal check"):
        assert steps[f"modledger {command}"].note == "nothing found"
    for command in ("seal check", "verify ledger"):
        assert f"position {report.position}" in steps[f"modledger {command}, a byte changed"].note
    told = render(report)
    assert "| failed | 0 |" in told
    assert "WRONG" not in told

"""`make bench`, run for a moment: what it promises about its results, never how fast anything was."""

from pathlib import Path

import msgspec
import pytest

from bench.__main__ import main
from bench.measure import Row


def test_the_append_part_writes_one_object_per_row_with_figure_floor_peer_and_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    main(["append", "--rounds", "1", "--seconds", "0.01", "--results", str(results)])

    rows = msgspec.json.decode(results.read_bytes(), type=list[dict[str, object]])
    assert [row["part"] for row in rows] == ["append"] * 3
    for row in rows:
        assert set(row) == set(Row.__struct_fields__)
        assert all(isinstance(row[name], float) for name in ("figure", "floor", "floor_ratio", "peer", "peer_ratio"))
        assert row["unit"] == "events/s"
        ran_on = row["ran_on"]
        assert isinstance(ran_on, dict)
        assert {"cpu", "load", "python", "postgresql", "eventsourcing"} <= set(ran_on)
    printed = capsys.readouterr().out
    assert "append_batch" in printed
    assert "floor: pgbench" in printed


def test_a_part_that_there_is_not_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["appends"])
    assert refused.value.code == 2
    assert "no part appends; there are append, catch-up, requests" in capsys.readouterr().err

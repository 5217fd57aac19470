"""`make bench`, run for a moment: what it promises about its results, never how fast anything was."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.__main__ import PARTS, main
from bench.data_set import size_of
from bench.load import NO_WRK, has_wrk
from bench.table import LINES, Bound, Line, Result, Row, rows_of

KEYS = ("part", "name", "figure", "unit", "floor", "peer", "ratios", "goal", "met", "ran_on")


def test_a_run_writes_one_object_for_each_row_of_the_table_in_its_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    # A writer takes longer to start than it writes.
    small = "--size 1500 --beside 1500 --rounds 1 --seconds 0.1 --events 1000 --records 300 --requests 1000 --writers 2"
    main([*small.split(), "--home", str(tmp_path / "sets"), "--results", str(results)])

    rows = msgspec.json.decode(results.read_bytes(), type=list[dict[str, Any]])
    assert [(row["part"], row["name"]) for row in rows] == [(line.part, line.name) for line in LINES.values()]
    for row in rows:
        assert set(KEYS) <= set(row)
        assert {"cpu", "load", "python", "postgresql", "eventsourcing"} <= set(row["ran_on"])
        if row["figure"] is None:
            assert row["met"] is None
            assert row["note"].startswith("not measured: ")
        else:
            assert row["ratios"].get("floor") == (row["floor"] and row["figure"] / row["floor"])
    # A set this small is folded by one process; and what asks over HTTP needs a load generator.
    missing = {name for name, row in zip(LINES, rows, strict=True) if row["figure"] is None}
    over_http = {"profile", "profile p50", "detail", "search large", "commands", "commands p99", "memory serve"}
    assert missing == {"rebuild made", "rebuild memory"} | (set() if has_wrk() else over_http)
    by_name = dict(zip(LINES, rows, strict=True))
    assert by_name["append lost"]["figure"] == 0
    assert by_name["search scans"]["unit"] == "plans"
    printed = capsys.readouterr().out
    assert "append_batch" in printed
    assert "floor: pgbench" in printed
    assert has_wrk() or NO_WRK in printed


def test_each_part_has_rows_and_each_row_a_part() -> None:
    assert set(PARTS) == {line.part for line in LINES.values()}


def test_a_goal_is_met_only_when_all_that_it_asks_for_was_measured_and_holds() -> None:
    line = Line(part="reads", name="", unit="", goals=(Bound(of="floor", most=2), Bound(of="peer", least=8)))
    assert _row(line, Result(figure=[16], floor=[8], peer=[2])).met is True
    assert _row(line, Result(figure=[17], floor=[8], peer=[2])).met is False
    assert _row(line, Result(figure=[16], floor=[8])).met is None
    assert _row(line, Result(figure=[17], floor=[8])).met is False
    assert _row(line, "no load generator").met is None
    assert _row(line, Result(figure=[16], floor=[8])).goal == "≤ 2 × floor, ≥ 8 × peer"


def test_a_figure_is_the_median_of_its_rounds_and_a_ratio_that_of_two_medians() -> None:
    row = _row(Line(part="reads", name="", unit=""), Result(figure=[1, 9, 4], floor=[2, 2, 7], others={"third": [8]}))
    assert (row.figure, row.floor, row.ratios) == (4, 2, {"floor": 2, "third": 0.5})


def _row(line: Line, result: Result | str) -> Row:
    (row,) = rows_of([line.part], {"only": result}, {"only": line})
    return row


@pytest.mark.parametrize(("text", "punishments"), [("100k", 100_000), ("1m", 1_000_000), ("10m", 10**7), ("500", 500)])
def test_a_size_is_a_number_of_punishments_in_thousands_or_millions_where_it_says_so(
    text: str, punishments: int
) -> None:
    assert size_of(text) == punishments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["appends"], "no part appends; there are reads, search, append"),
        (["--size", "1g"], "no size: '1g'"),
        (["--size", "0"], "no size: '0'"),
    ],
)
def test_what_there_is_not_is_refused_before_anything_starts(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert said in capsys.readouterr().err

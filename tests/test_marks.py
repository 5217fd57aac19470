"""Bits and the numbers that they stand for."""

from random import Random

import psycopg
import pytest

from modledger.projections import marks


@pytest.mark.parametrize("of", [marks.PUNISHMENTS, marks.POSITIONS], ids=lambda of: of.name)
@pytest.mark.parametrize("share", [0, 0.0005, 0.01, 0.5, 1])
def test_numbers_are_read_off_bits_one_by_one_as_they_are_all_at_once(
    conn: psycopg.Connection, share: float, of: marks.Marks
) -> None:
    luck = Random(share)
    bits = ["".join("1" if luck.random() < share else "0" for _ in range(of.span)) for _ in range(7)]
    # The first and the last of a line, and of a byte.
    bits += ["1" + "0" * (of.span - 1), "0" * (of.span - 1) + "1", "0" * 7 + "11" + "0" * (of.span - 9)]
    expected = [span * of.span + at for span, line in enumerate(bits) for at, one in enumerate(line) if one == "1"]
    conn.execute(f"create temp table lines (span bigint, bits bit({of.span}))".encode())
    with conn.cursor().copy("copy lines from stdin") as copied:
        for line in enumerate(bits):
            copied.write_row(line)
    for numbers in (marks.numbers("lines", of), marks.numbers_one_by_one("select span, bits from lines", of)):
        found = conn.execute(f"select number::bigint from ({numbers}) one order by number".encode()).fetchall()
        assert [number for (number,) in found] == expected


@pytest.mark.parametrize("of", [marks.PUNISHMENTS, marks.POSITIONS], ids=lambda of: of.name)
@pytest.mark.parametrize("batch", [1, marks.MANY - 1, marks.MANY, 5_000])
def test_marks_set_many_at_once_give_the_lines_that_they_give_a_few_at_a_time(
    conn: psycopg.Connection, batch: int, of: marks.Marks
) -> None:
    luck = Random(batch)
    at = [luck.randrange(1, 5 * of.span) for _ in range(3_000)]
    wanted = {(luck.choice([marks.WORD, marks.TYPE]), luck.randrange(-3, 3), number) for number in at}
    # The first that there is, and the last and the first of a line.
    wanted |= {(marks.OPEN, 0, 1), (marks.OPEN, 0, of.span - 1), (marks.OPEN, 0, of.span)}
    given = sorted(wanted, key=lambda _: luck.random())
    for first in range(0, len(given), batch):
        marks.write(conn.cursor(), given[first : first + batch], (), of)
    found = conn.execute(f"select kind, value, span, bits::text from {of.name}".encode()).fetchall()
    assert {
        (kind, value, span * of.span + place)
        for kind, value, span, bits in found
        for place, bit in enumerate(bits)
        if bit == "1"
    } == wanted
    assert len(found) == len({(kind, value, number // of.span) for kind, value, number in wanted})

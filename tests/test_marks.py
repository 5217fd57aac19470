"""Bits and the ids that they stand for."""

from random import Random

import psycopg
import pytest

from modledger.projections import marks


@pytest.mark.parametrize("share", [0, 0.0005, 0.01, 0.5, 1])
def test_ids_are_read_off_bits_one_by_one_as_they_are_all_at_once(conn: psycopg.Connection, share: float) -> None:
    luck = Random(share)
    bits = ["".join("1" if luck.random() < share else "0" for _ in range(marks.SPAN)) for _ in range(7)]
    # The first and the last of a line, and of a byte.
    bits += ["1" + "0" * (marks.SPAN - 1), "0" * (marks.SPAN - 1) + "1", "0" * 7 + "11" + "0" * (marks.SPAN - 9)]
    expected = [span * marks.SPAN + at for span, line in enumerate(bits) for at, one in enumerate(line) if one == "1"]
    conn.execute(f"create temp table lines (span bigint, bits bit({marks.SPAN}))".encode())
    with conn.cursor().copy("copy lines from stdin") as copied:
        for line in enumerate(bits):
            copied.write_row(line)
    for ids in (marks.ids("lines"), marks.ids_one_by_one("select span, bits from lines")):
        found = conn.execute(f"select id::bigint from ({ids}) one order by id".encode()).fetchall()
        assert [id_ for (id_,) in found] == expected


@pytest.mark.parametrize("batch", [1, marks.MANY - 1, marks.MANY, 5_000])
def test_marks_set_many_at_once_give_the_lines_that_they_give_a_few_at_a_time(
    conn: psycopg.Connection, batch: int
) -> None:
    luck = Random(batch)
    at = [luck.randrange(5 * marks.SPAN) for _ in range(3_000)]
    wanted = {(luck.choice([marks.WORD, marks.TYPE]), luck.randrange(-3, 3), id_) for id_ in at}
    # The first and the last of a line.
    wanted |= {(marks.OPEN, 0, 0), (marks.OPEN, 0, marks.SPAN - 1), (marks.OPEN, 0, marks.SPAN)}
    given = sorted(wanted, key=lambda _: luck.random())
    for first in range(0, len(given), batch):
        marks.write(conn.cursor(), given[first : first + batch], ())
    found = conn.execute("select kind, value, span, bits::text from punishment_marks").fetchall()
    assert {
        (kind, value, span * marks.SPAN + place)
        for kind, value, span, bits in found
        for place, bit in enumerate(bits)
        if bit == "1"
    } == wanted
    assert len(found) == len({(kind, value, id_ // marks.SPAN) for kind, value, id_ in wanted})

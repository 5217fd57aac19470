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

"""Arrays that we put into PostgreSQL's binary form are what it reads there."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.errors import DatatypeMismatch

from modledger.domain.wire_arrays import Wire, bigints, byteas, integers, texts, uuids

ARRAYS: list[tuple[str, Callable[[Any], Wire], st.SearchStrategy[Any]]] = [
    ("text", texts, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    ("bigint", bigints, st.integers(-(2**63), 2**63 - 1)),
    ("int", integers, st.integers(-(2**31), 2**31 - 1)),
    ("bytea", byteas, st.binary()),
    ("uuid", uuids, st.none() | st.uuids()),
]


@pytest.mark.parametrize(("of", "encode", "elements"), ARRAYS, ids=[of for of, _, _ in ARRAYS])
def test_what_is_encoded_is_what_the_server_reads(
    database: str, of: str, encode: Callable[[Any], Wire], elements: st.SearchStrategy[Any]
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:

        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(elements, max_size=40))
        def same(values: Sequence[Any]) -> None:
            row = connection.execute(
                f"select %b::{of}[], array_ndims(%b::{of}[])".encode(), [encode(values)] * 2, binary=True
            ).fetchone()
            assert row == (list(values), 1 if values else None)

        same()


@pytest.mark.parametrize("values", [["same"] * 5000, [str(number) * 300 for number in range(3000)]])
def test_long_arrays_and_equal_texts_come_whole(database: str, values: list[str]) -> None:
    with psycopg.connect(database) as connection:
        row = connection.execute("select %b::text[], cardinality(%b::text[])", [texts(values)] * 2).fetchone()
    assert row == (values, len(values))


def test_an_array_of_another_type_than_the_statement_says_is_refused(database: str) -> None:
    with psycopg.connect(database) as connection, pytest.raises(DatatypeMismatch, match="array element"):
        connection.execute("select %b::text[]", [uuids([UUID(int=1)])])

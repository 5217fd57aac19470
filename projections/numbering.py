"""Whether rows that are numbered when they are written (``projector.Numbered``) have the numbers of their order."""

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from modledger.projections.projector import Projector


def out_of_order(
    conn: psycopg.Connection[tuple[Any, ...]], projector: Projector[Any], rows: sql.Composable, most: int
) -> Iterator[tuple[dict[str, Any], int, int | None]]:
    """The rows whose number does not follow that of the one before, at most so many: key, the number that it should be,
    the one that it is. ``rows`` are those that are looked at, as ``t``. Raises psycopg.Error."""
    numbered = projector.numbered
    if numbered is None:
        return
    # The index of ``along``.
    found = conn.execute(
        sql.SQL(
            "select expected, t.{column}, {key} from {rows} cross join lateral (select 1 + coalesce(("
            " select {column} from {table} as before where before.{along} < t.{along} order by {along} desc limit 1"
            "), 0) as expected) as one where expected is distinct from t.{column} order by t.{along} limit %s"
        ).format(
            column=sql.Identifier(numbered.column),
            key=sql.SQL(", ").join(sql.Identifier("t", column) for column in projector.key),
            rows=rows,
            table=sql.Identifier(projector.table.name),
            along=sql.Identifier(numbered.along),
        ),
        (most,),
    )
    for expected, number, *values in found:
        yield dict(zip(projector.key, values, strict=True)), expected, number

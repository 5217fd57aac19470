"""The sealed tree in the database, for the workers: questions of ``domain/seal_proofs.py`` answered, leaves read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg

from modledger.domain.seal_proofs import Ask, Row, Steps
from modledger.domain.seal_tree import copy_rows, leaf_of_message

T = TypeVar("T")


def carry_out(connection: psycopg.Connection, steps: Steps[T]) -> T:
    """What the steps come to. Raises what they raise, and psycopg.Error."""
    try:
        ask = next(steps)
        while True:
            ask = steps.send(_rows(connection, ask))
    except StopIteration as done:
        answer: T = done.value
        return answer


def _rows(connection: psycopg.Connection, ask: Ask) -> list[Row]:
    with psycopg.RawCursor(connection) as cursor:
        if ask.copies:
            with cursor.copy(ask.query.encode()) as messages:
                return [(bytes(message),) for message in messages]
        return cursor.execute(ask.query.encode(), ask.parameters, binary=True).fetchall()


@contextmanager
def leaves(
    connection: psycopg.Connection, after: int, until: int, limit: int | None = None
) -> Iterator[Iterator[bytes]]:
    """The leaves of the ledger with positions above ``after``, up to ``until``, at most ``limit``, in their order, for
    as long as the block lasts; they come from the server as they are taken."""
    with connection.cursor() as cursor, cursor.copy(copy_rows(after, until, limit).encode()) as messages:
        yield (leaf for message in messages if (leaf := leaf_of_message(message)) is not None)

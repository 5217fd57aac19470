"""Of a product that is too large to be asked in full: rows that have any three of its values together."""

from collections.abc import Sequence
from itertools import product
from typing import Any


def every_three(*dimensions: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Each row has one value of each dimension. Whatever three dimensions, whatever values: one row at least has these.

    A row is what a polynomial a + bx + cx² is at 0, 1, 2 and so on, one place for each dimension, modulo a prime; and
    where there is a dimension more than places, c itself. Exactly one polynomial goes through three given points, so
    three places have everything there is in some row. That stays so where values are fewer than the prime, and begin
    again.
    """
    prime = max(2, len(dimensions) - 1, *map(len, dimensions))
    while any(prime % n == 0 for n in range(2, prime)):
        prime += 1
    found: dict[tuple[int, ...], None] = {}
    for a, b, c in product(range(prime), repeat=3):
        points = [*((a + b * x + c * x * x) % prime for x in range(prime)), c]
        found[tuple(point % len(values) for point, values in zip(points, dimensions, strict=False))] = None
    return [tuple(values[n] for n, values in zip(row, dimensions, strict=True)) for row in found]

from itertools import combinations, product

import pytest

from tests.every_three import every_three


@pytest.mark.parametrize(
    "sizes",
    [(2, 2, 2), (3, 1, 4), (5, 4, 4, 4, 3, 2), (4, 2, 3, 4, 4, 7, 2), (2, 2, 2, 2, 2, 2, 2, 2, 2), (6, 6, 6, 6)],
)
def test_any_three_values_of_three_dimensions_stand_together_in_a_row(sizes: tuple[int, ...]) -> None:
    dimensions = [[f"{place} {n}" for n in range(size)] for place, size in enumerate(sizes)]
    rows = every_three(*dimensions)
    for places in combinations(range(len(sizes)), 3):
        there = {tuple(row[place] for place in places) for row in rows}
        assert there == set(product(*(dimensions[place] for place in places)))
    assert all(value in values for row in rows for value, values in zip(row, dimensions, strict=True))
    assert len(rows) == len(set(rows))

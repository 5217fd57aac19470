"""The parameters of a statement that is put together, for psycopg's raw cursors."""


class Parameters:
    """``values`` in the order in which they were added; ``add`` answers the place of one in the statement, in which
    numbers stand as they are, so that the planner sees them."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def add(self, value: object, kind: str) -> str:
        """``$3::bigint``."""
        self.values.append(value)
        return f"${len(self.values)}::{kind}"

    def number(self, value: int) -> str:
        """``7``."""
        return f"{value:d}"


class Values(Parameters):
    """Parameters of which the planner sees none, nor numbers, so that one plan serves all values: ``(select
    $3::bigint)``."""

    def add(self, value: object, kind: str) -> str:
        return f"(select {super().add(value, kind)})"

    def number(self, value: int) -> str:
        return self.add(value, "bigint")

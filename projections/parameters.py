"""The parameters of a statement that is put together, for psycopg's raw cursors."""


class Parameters:
    """``values`` in the order in which they were added; ``add`` answers the place of one in the statement."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def add(self, value: object, kind: str) -> str:
        """``$3::bigint``."""
        self.values.append(value)
        return f"${len(self.values)}::{kind}"

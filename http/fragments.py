"""``q``, the piece of text that a search looks for, and what is answered where fragments cannot be looked for."""

from typing import Annotated, Final

from litestar.params import QueryParameter

from modledger.http.errors import NO_FRAGMENTS, bad
from modledger.http.reader import Reader
from modledger.projections.catalog import fragment_indexes

MAX_Q: Final = 100

# Of the operations with ``q``. Raising ``projections.fragments.FragmentsNeeded`` gives this answer.
ERRORS: Final = {501: NO_FRAGMENTS}

# Said but not checked: the framework would count what ``trimmed`` takes away.
LENGTHS: Final[dict[str, object]] = {"min_length": 1, "max_length": MAX_Q}

# For names.
Q = Annotated[
    str | None,
    QueryParameter(
        schema_extra=LENGTHS,
        description=f"Part of the name, or the Discord id; 1–{MAX_Q} characters after trimming."
        " Fewer than three characters: the beginning of the name.",
    ),
]
# A name of 100 characters in the longest form that a cursor has for it fits.
Cursor = Annotated[
    str | None,
    QueryParameter(max_length=4096, description="next_cursor of the answer before; excludes offset."),
]


def trimmed(q: str | None, most: int = MAX_Q) -> str | None:
    """``q`` as the searches take it. Raises Problem 400 unless it has 1 to ``most`` characters then."""
    if q is None:
        return None
    if not 1 <= len(q.strip()) <= most:
        raise bad(f"q must be between 1 and {most} characters")
    return q.strip()


async def indexed(reader: Reader) -> bool:
    """Whether the read tables have their indexes for fragments. Raises Unavailable."""
    ((complete,),) = await reader.fetch(
        "select coalesce(bool_and(to_regclass(name) is not null), true) from unnest($1::text[]) as wanted (name)",
        fragment_indexes(),
    )
    return bool(complete)

"""``as_of`` and ``known_at`` (api.md §4): what the endpoints about one user or guild answer about the past."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

from anyio import to_thread
from litestar.params import QueryParameter

from modledger.http.answers import required_position
from modledger.http.endpoints import AnyRequest
from modledger.http.errors import Problem, bad
from modledger.http.freshness import fresh, progress_of
from modledger.http.services import services
from modledger.projections import past, time_travel
from modledger.projections.guilds import Guild, Owned
from modledger.projections.profile import Profile
from modledger.projections.time_travel import Instant

AsOf = Annotated[
    datetime | None,
    QueryParameter(
        description="How things stood at that moment as it is known today: from what is dated until then."
        " Admin and above."
    ),
]
KnownAt = Annotated[
    datetime | None,
    QueryParameter(
        description="What this answered at that moment: from what was recorded until then. With as_of: how things stood"
        " at as_of as it was known at known_at. Admin and above."
    ),
]


def asked_moment(request: AnyRequest, as_of: datetime | None, known_at: datetime | None) -> Instant | None:
    """The moment of the past that the request asks about, None for the present. Raises Problem 400 for one in the
    future."""
    if as_of is None and known_at is None:
        return None
    try:
        return time_travel.instant(
            services(request).clock().astimezone(UTC),
            None if as_of is None else as_of.astimezone(UTC),
            None if known_at is None else known_at.astimezone(UTC),
        )
    except ValueError as error:
        raise bad(str(error)) from None


async def past_user(
    request: AnyRequest, who: int | str, at: Instant, sees_detail: Callable[[Profile], bool]
) -> tuple[past.User, Profile]:
    """A user as of the moment, by id or name (as ``past.user``), and the row. Raises Problem 404, and 503 after 2
    seconds behind what the request has to be as fresh as."""
    has, required = services(request), required_position(request)
    found = await fresh(
        lambda: past.user(has.reader.fetch, has.ledger, who, at, sees_detail),
        lambda answer: answer.position,
        lambda _: required,
        progress_of(has.checkpoints, *past.READ_BY_USER),
    )
    if found.found.profile is None:
        raise Problem(404, "User not found")
    return found, found.found.profile


async def past_guild(
    request: AnyRequest, guild_id: int, at: Instant, sees_detail: Callable[[Guild, int], bool]
) -> tuple[past.Guild, Owned]:
    """A guild as of the moment, as ``past_user``."""
    has, required = services(request), required_position(request)

    async def head() -> int:
        return await to_thread.run_sync(has.ledger.head)

    found = await fresh(
        lambda: past.guild(has.ledger, guild_id, at, sees_detail),
        lambda answer: answer.position,
        lambda _: required,
        head,
    )
    if found.owned is None:
        raise Problem(404, "Guild not found")
    return found, found.owned

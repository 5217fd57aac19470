"""``as_of`` and ``known_at`` (api.md §4): what the endpoints about one user or guild, and the punishment search, answer
about the past."""

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
from modledger.projections import history_search, past, time_travel
from modledger.projections.guilds import Guild, Owned
from modledger.projections.profile import Person
from modledger.projections.search import Page, Search
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
    request: AnyRequest, who: int | str, at: Instant, sees_detail: Callable[[Person], bool]
) -> tuple[past.User, Person]:
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


async def past_punishments(request: AnyRequest, search: Search, at: Instant) -> Page:
    """A page of the search as of the moment. Raises Problem 400 for a cursor of another search or moment, 501 where
    ``q`` needs fragments, and 503 after 2 seconds behind what was recorded until ``known_at`` and what the request has
    to be as fresh as."""
    has, required = services(request), required_position(request)
    try:
        history_search.check_cursor(search, at)
    except ValueError as error:
        raise bad(str(error)) from None
    position = None
    if at.known_at is not None:
        position = await to_thread.run_sync(has.ledger.position_at, at.known_at)
        required = max(required, position)

    async def one_page() -> Page:
        return await has.reader.doing(
            lambda on: history_search.find(on.connection, search, at, position, fragments=has.fragments)
        )

    return await fresh(
        one_page,
        lambda answer: answer.position,
        lambda _: required,
        progress_of(has.checkpoints, history_search.PROJECTOR),
    )

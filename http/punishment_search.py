"""GET /v1/admin/punishments/search (api.md §5.2)."""

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from litestar import Response
from litestar.params import QueryParameter

from modledger.domain.subjects import ADMIN
from modledger.http import fragments
from modledger.http.answers import reply, required_position
from modledger.http.endpoints import STAFF, AnyRequest, read
from modledger.http.errors import bad
from modledger.http.freshness import fresh, progress_of
from modledger.http.parameters import FARTHEST, MAX_ID
from modledger.http.punishments import PUNISHMENT_EXAMPLE, punishment_view
from modledger.http.services import services
from modledger.http.time_travel import AsOf, KnownAt, asked_moment, past_punishments
from modledger.http.views import PUNISHMENT_TYPES, PunishmentsView
from modledger.projections.search import Page, Search, answer, statement

_Id = Annotated[int | None, QueryParameter(ge=1, le=MAX_ID, description="A Discord id.")]
_Sort = Literal["-created_at", "created_at", "-expires_at", "expires_at"]
_Q = Annotated[
    str | None,
    QueryParameter(
        schema_extra=fragments.LENGTHS,
        description=f"Terms that the reason bears, all of them, in any case of letters; 1–{fragments.MAX_Q} characters"
        " after trimming. A term of three characters and more is found anywhere in a word, a shorter one as a"
        " whole word.",
    ),
]
_TYPE = "1 Warning, 2 Timeout, 3 Ban, 4 Guild Blacklist; or the name that answers bear, such as BAN."


def punishment_type_of(text: str | None) -> int | None:
    """The type from its number or name. Raises Problem 400."""
    if text is None:
        return None
    if text in ("1", "2", "3", "4"):
        return int(text)
    if text not in PUNISHMENT_TYPES:
        raise bad("punishment_type must be between 1 and 4")
    return PUNISHMENT_TYPES[text]


@read(
    "/v1/admin/punishments/search",
    operation_id="search_punishments",
    summary="Search all punishments",
    access=STAFF[ADMIN],
    tag="Punishments",
    example={"punishments": [PUNISHMENT_EXAMPLE], "total": 1, "limit": 25, "offset": 0},
    errors={400: "limit must be between 1 and 100", **fragments.ERRORS},
)
async def search_punishments(
    request: AnyRequest,
    user_id: _Id = None,
    guild_id: _Id = None,
    issued_by: _Id = None,
    punishment_type: Annotated[
        str | None,
        QueryParameter(description=_TYPE, schema_extra={"enum": ["1", "2", "3", "4", *PUNISHMENT_TYPES]}),
    ] = None,
    active_only: Annotated[bool, QueryParameter(description="Only those that have not ended.")] = False,
    created_after: Annotated[
        datetime | None, QueryParameter(description="Only those issued after this moment.")
    ] = None,
    created_before: Annotated[
        datetime | None, QueryParameter(description="Only those issued before this moment.")
    ] = None,
    q: _Q = None,
    sort: Annotated[
        _Sort, QueryParameter(description="- for descending; equal ends follow created_at, equal times the id.")
    ] = "-created_at",
    offset: Annotated[int, QueryParameter(ge=0, description="How many to pass over.")] = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=100, description="How many to answer at most.")] = 25,
    cursor: fragments.Cursor = None,
    as_of: AsOf = None,
    known_at: KnownAt = None,
) -> Response[PunishmentsView]:
    if cursor is not None and "offset" in request.query_params:
        raise bad("offset cannot be used together with cursor")
    search = Search(
        user_id=user_id,
        guild_id=guild_id,
        issued_by=issued_by,
        type=punishment_type_of(punishment_type),
        active_only=active_only,
        created_after=None if created_after is None else created_after.astimezone(UTC),
        created_before=None if created_before is None else created_before.astimezone(UTC),
        q=fragments.trimmed(q),
        sort=sort,
        offset=min(offset, FARTHEST),
        limit=limit,
        cursor=cursor,
    )
    at = asked_moment(request, as_of, known_at)
    now = services(request).clock() if at is None else at.now
    found = await (_present(request, search, now) if at is None else past_punishments(request, search, at))
    view = PunishmentsView(
        punishments=[punishment_view(row, now) for row in found.punishments],
        total=found.total,
        limit=limit,
        offset=offset,
        next_cursor=found.next_cursor or msgspec.UNSET,
    )
    return reply(request, view, found.position)


async def _present(request: AnyRequest, search: Search, now: datetime) -> Page:
    """A page as of now. Raises Problem 400 for a cursor of another search, 501 and 503."""
    has, required = services(request), required_position(request)
    try:
        asked = statement(search, now, fragments=has.fragments)
    except ValueError as error:
        raise bad(str(error)) from None

    async def one_page() -> Page:
        return await has.reader.doing(lambda at: answer(at.connection, search, asked))

    return await fresh(
        one_page, lambda answer: answer.position, lambda _: required, progress_of(has.checkpoints, "punishments")
    )


HANDLERS = [search_punishments]

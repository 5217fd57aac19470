"""Users by id, and the search for them (api.md §4)."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Response
from litestar.params import QueryParameter

from modledger.domain.subjects import MODERATOR
from modledger.http import logins
from modledger.http.answers import reply, required_position
from modledger.http.endpoints import PUBLIC, SESSION, AnyRequest, read
from modledger.http.errors import Problem, bad
from modledger.http.fragments import ERRORS, Cursor, Q, trimmed
from modledger.http.freshness import fresh, progress_of
from modledger.http.parameters import FARTHEST, UserId
from modledger.http.profile import USER_EXAMPLE, current_detail, detailed_view, sees_detail, user_fields
from modledger.http.services import services
from modledger.http.sessions import Viewer
from modledger.http.time_travel import AsOf, KnownAt, asked_moment, past_user
from modledger.http.views import FoundUserView, PublicUserView, UserRecordView, UsersView, whole
from modledger.projections import profile
from modledger.projections.profile import Found, Person
from modledger.projections.time_travel import Instant
from modledger.projections.user_search import Page, Search, find, statement

_PUBLIC_KEYS = ("discord_id", "username", "avatar_url", "subscription_tier", "source", "created_at", "updated_at")
PUBLIC_USER_EXAMPLE = {key: USER_EXAMPLE[key] for key in _PUBLIC_KEYS}


def public_fields(row: Person, now: datetime) -> dict[str, Any]:
    """The 7 keys that anybody may see, in their order, as they are at ``now``."""
    return {
        "discord_id": str(row.user_id),
        "username": row.username,
        "avatar_url": row.avatar_url,
        "subscription_tier": profile.tier(row, now),
        "source": "database",
        "created_at": whole(row.created_at),
        "updated_at": whole(profile.updated_at(row, now)),
    }


def _sees_detail(request: AnyRequest, target: Person) -> bool:
    return isinstance(request.user, Viewer) and sees_detail(request.user, target)


@read(
    "/v1/users/{user_id:str}",
    operation_id="get_user",
    summary="A user by id; with histories and log-ins for moderators and above who can act on them",
    access=PUBLIC,
    tag="Users",
    example=PUBLIC_USER_EXAMPLE,
    errors={404: "User not found"},
    tagged=True,
    travels=True,
)
async def get_user(
    request: AnyRequest, user_id: UserId, as_of: AsOf = None, known_at: KnownAt = None
) -> Response[PublicUserView | UserRecordView]:
    at = asked_moment(request, as_of, known_at)
    if at is not None:
        return await _past_user(request, user_id, at)
    has = services(request)
    required = required_position(request)

    async def by_id() -> Found:
        row = await has.users.load(user_id)
        assert row is not None
        return profile.found_shown(user_id, row[1:])

    found = await fresh(
        by_id, lambda answer: answer.position, lambda _: required, progress_of(has.checkpoints, "profile")
    )
    row, position = found.profile, found.position
    if row is None:
        raise Problem(404, "User not found")
    if _sees_detail(request, row):
        all_of = await current_detail(request, user_id)
        row, position = all_of.found.profile, all_of.position
        assert row is not None
        # The later snapshot decides: the target may have been promoted between the two.
        if _sees_detail(request, row):
            # login_history_user
            history = logins.by_address(await has.desk.fetch(logins.OF_USER, user_id, logins.NEWEST))
            record = UserRecordView(
                **msgspec.structs.asdict(detailed_view(all_of, row, has.clock())), login_history=history
            )
            # api.md §4: here, and not in the profile.
            if request.user.level == MODERATOR:
                record.subscription_history = []
            return reply(request, record, position, row.version)
    return reply(request, PublicUserView(**public_fields(row, has.clock())), position, row.version)


async def _past_user(request: AnyRequest, user_id: int, at: Instant) -> Response[PublicUserView | UserRecordView]:
    then, row = await past_user(request, user_id, at, lambda today: _sees_detail(request, today))
    view: PublicUserView | UserRecordView
    if then.detail is None:
        view = PublicUserView(**public_fields(row, at.now))
    else:
        view = UserRecordView(**msgspec.structs.asdict(detailed_view(then.detail, row, at.now)), login_history={})
    return reply(request, view, then.position, row.version)


@read(
    "/v1/users/search",
    operation_id="search_users",
    summary="Search users by name or id, state, level and tier, in the order of their names",
    access=SESSION,
    tag="Users",
    example={"users": [PUBLIC_USER_EXAMPLE], "total": 1, "limit": 25, "offset": 0},
    errors={400: "limit must be between 1 and 100", **ERRORS},
)
async def search_users(
    request: AnyRequest,
    q: Q = None,
    # The framework takes a parameter called state for its own.
    standing: Annotated[
        int | None, QueryParameter(name="state", ge=0, le=2, description="0 Active, 1 Timeout, 2 Banned.")
    ] = None,
    permission_level: Annotated[
        int | None, QueryParameter(ge=0, le=3, description="0 User, 1 Moderator, 2 Admin, 3 Owner.")
    ] = None,
    subscription_tier: Annotated[
        int | None, QueryParameter(ge=0, le=3, description="0 Basic, 1 Trial, 2 Premium, 3 Lifetime.")
    ] = None,
    offset: Annotated[int, QueryParameter(ge=0, description="How many to pass over.")] = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=100, description="How many to answer at most.")] = 25,
    cursor: Cursor = None,
) -> Response[UsersView]:
    has = services(request)
    required = required_position(request)
    if cursor is not None and "offset" in request.query_params:
        raise bad("offset cannot be used together with cursor")
    search = Search(
        q=trimmed(q),
        state=standing,
        level=permission_level,
        tier=subscription_tier,
        offset=min(offset, FARTHEST),
        limit=limit,
        cursor=cursor,
    )
    now = has.clock()
    try:
        statement(search, now, fragments=has.fragments)
    except ValueError as error:
        raise bad(str(error)) from None

    async def one_page() -> Page:
        return await has.reader.doing(lambda at: find(at.connection, search, now, fragments=has.fragments))

    found = await fresh(
        one_page, lambda answer: answer.position, lambda _: required, progress_of(has.checkpoints, "profile")
    )
    users = [
        FoundUserView(**(user_fields(one, row, now) if _sees_detail(request, row) else public_fields(row, now)))
        for one in found.users
        if (row := one.profile) is not None
    ]
    view = UsersView(
        users=users, total=found.total, limit=limit, offset=offset, next_cursor=found.next_cursor or msgspec.UNSET
    )
    return reply(request, view, found.position)


HANDLERS = [get_user, search_users]

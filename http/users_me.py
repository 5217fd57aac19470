"""What users see of themselves, restricted or not: /v1/users/me and what lies under it (api.md §4)."""

from typing import Annotated

import msgspec
from litestar import Response
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta

from modledger.domain import commands
from modledger.domain.execute import Outcome
from modledger.domain.subjects import BASIC, User
from modledger.http.answers import Made, carry_out, reply, required_position
from modledger.http.endpoints import OWN, AnyRequest, command, read
from modledger.http.errors import Problem
from modledger.http.freshness import fresh, progress_of
from modledger.http.parameters import FARTHEST
from modledger.http.profile import USER_EXAMPLE, user_view
from modledger.http.services import services
from modledger.http.sessions import current_found
from modledger.http.views import (
    PUNISHMENT_NAMES,
    OwnPunishmentView,
    OwnSubscriptionView,
    UserView,
    whole,
    whole_or_none,
)
from modledger.projections import profile, punishments


@read(
    "/v1/users/me",
    operation_id="get_own_user",
    summary="The user of the session",
    access=OWN,
    tag="Users",
    example=USER_EXAMPLE,
    errors={404: "User not found"},
    tagged=True,
)
async def get_own_user(request: AnyRequest) -> Response[UserView]:
    found = await current_found(request, required_position(request))
    if found.profile is None:
        raise Problem(404, "User not found")
    return reply(request, user_view(found, services(request).clock()), found.position, found.profile.version)


@read(
    "/v1/users/me/subscription",
    operation_id="get_own_subscription",
    summary="The subscription of the session's user",
    access=OWN,
    tag="Users",
    example={
        "subscription_tier": 2,
        "expires_at": "2026-04-09T12:00:00Z",
        "is_active": True,
        "created_at": "2025-01-01T00:00:00Z",
        "updated_at": "2026-03-10T12:00:00Z",
    },
    errors={404: "User not found"},
    tagged=True,
)
async def get_own_subscription(request: AnyRequest) -> Response[OwnSubscriptionView]:
    found = await current_found(request, required_position(request))
    row = found.profile
    if row is None:
        raise Problem(404, "User not found")
    now = services(request).clock()
    tier = profile.tier(row, now)
    view = OwnSubscriptionView(
        subscription_tier=tier,
        expires_at=whole_or_none(profile.subscription_expires_at(row, now)),
        is_active=tier != BASIC,
        created_at=whole(row.created_at),
        updated_at=whole(profile.updated_at(row, now)),
    )
    return reply(request, view, found.position, row.version)


@read(
    "/v1/users/me/punishments",
    operation_id="list_own_punishments",
    summary="The punishments of the session's user, newest first",
    access=OWN,
    tag="Users",
    example=[
        {
            "id": 42,
            "punishment_type": "WARNING",
            "reason": "Spam",
            "is_lifted": False,
            "expires_at": None,
            "created_at": "2026-01-15T12:00:00Z",
        }
    ],
    errors={400: "limit must be between 1 and 100"},
)
async def list_own_punishments(
    request: AnyRequest,
    offset: Annotated[int, QueryParameter(ge=0, description="How many to pass over.")] = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=100, description="How many to answer at most.")] = 50,
) -> Response[list[OwnPunishmentView]]:
    has = services(request)
    required = required_position(request)
    user_id = request.user.user_id

    async def newest() -> tuple[int, list[punishments.Punishment]]:
        lines = await has.reader.fetch(punishments.OF_USER, user_id, min(offset, FARTHEST), limit)
        rows = [row for line in lines if (row := punishments.punishment_of(line[1:])) is not None]
        return lines[0][0] or 0, rows

    position, rows = await fresh(
        newest, lambda both: both[0], lambda _: required, progress_of(has.checkpoints, "punishments")
    )
    view = [
        OwnPunishmentView(
            id=row.id,
            punishment_type=PUNISHMENT_NAMES[row.type],
            reason=row.reason,
            is_lifted=punishments.is_lifted(row),
            expires_at=whole_or_none(row.expires_at),
            created_at=whole(row.created_at),
        )
        for row in rows
    ]
    return reply(request, view, position)


class PrefixBody(msgspec.Struct, kw_only=True):
    """What commands begin with."""

    prefix: Annotated[str, Meta(min_length=1, max_length=5, description="1–5 characters, no white space.")]


@command(
    "/v1/users/me/prefix",
    operation_id="change_own_prefix",
    summary="Choose the prefix of one's own commands",
    access=OWN,
    tag="Users",
    example={**USER_EXAMPLE, "prefix": "?"},
    body_example={"prefix": "?"},
    errors={
        400: "prefix must be between 1 and 5 characters",
        404: "User not found",
        412: "The record has changed since: it is at version 8",
    },
    tagged=True,
)
async def change_own_prefix(request: AnyRequest, data: JSONBody[PrefixBody]) -> Response[UserView]:
    viewer, now = request.user, services(request).clock()
    change = commands.ChangeUserPrefix(user_id=viewer.user_id, prefix=data.prefix)

    def view(outcome: Outcome) -> Made:
        assert isinstance(outcome.subject, User)
        # Not read: no projector may have come so far yet.
        row = profile.profile_of(outcome.subject)
        seen = profile.Found(viewer.user_id, outcome.position or 0, row, viewer.found.last_activity_at)
        return user_view(seen, now), outcome.subject.version

    return await carry_out(request, change, view)


HANDLERS = [get_own_user, get_own_subscription, list_own_punishments, change_own_prefix]

"""POST /v1/admin/users/{id}/permission (api.md §2, §4)."""

from typing import Annotated

import msgspec
from litestar import Response
from litestar.params import JSONBody
from msgspec import Meta

from modledger.domain import commands, events
from modledger.domain.execute import Outcome
from modledger.domain.subjects import ADMIN, User
from modledger.http.answers import Made, carry_out
from modledger.http.endpoints import STAFF, AnyRequest, command
from modledger.http.parameters import Reason, UserId
from modledger.http.views import PermissionChangeView, snowflake, whole


class PermissionBody(msgspec.Struct, kw_only=True):
    """0 User, 1 Moderator, 2 Admin; 3 Owner is made by the command line only."""

    permission_level: Annotated[int, Meta(ge=0, le=3)]
    reason: Reason


def _changed(outcome: Outcome) -> Made:
    recorded = outcome.events[-1]
    assert isinstance(recorded.event, events.PermissionChanged)
    assert isinstance(outcome.subject, User)
    view = PermissionChangeView(
        id=recorded.position,
        old_level=recorded.event.old_level,
        new_level=recorded.event.new_level,
        reason=recorded.event.reason,
        changed_by_id=snowflake(recorded.actor.user_id),
        created_at=whole(recorded.occurred_at),
    )
    return view, outcome.subject.version


@command(
    "/v1/admin/users/{user_id:str}/permission",
    operation_id="change_permission",
    summary="Set a user's level: admins up to 1, owners up to 2",
    access=STAFF[ADMIN],
    tag="Permissions",
    example={
        "id": 4711,
        "old_level": 0,
        "new_level": 1,
        "reason": "Joined the team",
        "changed_by_id": "999888777666555444",
        "created_at": "2026-01-15T12:00:00Z",
    },
    body_example={"permission_level": 1, "reason": "Joined the team"},
    errors={
        404: "User not found",
        409: "User 123456789012345678 already has level 1",
        412: "The record has changed since: it is at version 8",
    },
    tagged=True,
)
async def change_permission(
    request: AnyRequest, user_id: UserId, data: JSONBody[PermissionBody]
) -> Response[PermissionChangeView]:
    change = commands.ChangePermission(user_id=user_id, level=data.permission_level, reason=data.reason)
    return await carry_out(request, change, _changed)


HANDLERS = [change_permission]

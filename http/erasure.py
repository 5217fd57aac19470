"""POST /v1/admin/users/{id}/erase (api.md §2; docs/erasure.md)."""

from litestar import Response
from litestar.params import JSONBody

from modledger.domain import commands
from modledger.domain.envelope import Subject
from modledger.domain.execute import Outcome
from modledger.domain.subjects import OWNER
from modledger.http.answers import Made, carry_out_then
from modledger.http.endpoints import STAFF, AnyRequest, command
from modledger.http.parameters import UserId
from modledger.http.punishments import ReasonBody
from modledger.http.services import services
from modledger.http.views import MessageView
from modledger.projections.erasures import FINISH, TURN


@command(
    "/v1/admin/users/{user_id:str}/erase",
    operation_id="erase_user",
    summary="Destroy a user's name, picture and all reasons about them, for ever; ends their sessions",
    access=STAFF[OWNER],
    tag="Users",
    example={"message": "User 123456789012345678 erased"},
    body_example={"reason": "Asked for by mail, ticket 4711"},
    errors={
        404: "User not found",
        409: "User 123456789012345678 is already erased",
        412: "The record has changed since: it is at version 8",
    },
    tagged=True,
)
async def erase_user(request: AnyRequest, user_id: UserId, data: JSONBody[ReasonBody]) -> Response[MessageView]:
    has = services(request)

    async def finished(outcome: Outcome) -> Made:
        # Should this fail, or the process die, the worker does it; the repetition of a 503 finds it done.
        async with has.desk.transaction() as cursor:
            await cursor.execute(TURN.encode())
            await cursor.execute(FINISH.encode())
        return MessageView(message=f"User {user_id} erased"), outcome.subject.version

    erase = commands.EraseSubject(target=Subject("user", user_id), reason=data.reason)
    return await carry_out_then(request, erase, finished)


HANDLERS = [erase_user]

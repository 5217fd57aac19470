"""What may become of a punishment: amended, lifted, voided, overturned (api.md §4)."""

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from litestar import Response
from litestar.params import JSONBody

from modledger.domain import commands, events
from modledger.domain.commands import Command
from modledger.domain.envelope import Recorded, Subject, subject_of
from modledger.domain.execute import Outcome
from modledger.domain.ledger import Ledger
from modledger.domain.subjects import MODERATOR, Account
from modledger.http.answers import Made, carry_out
from modledger.http.endpoints import STAFF, AnyRequest, command
from modledger.http.errors import Problem
from modledger.http.parameters import BodyMoment, PunishmentId, Reason
from modledger.http.punishments import PUNISHMENT_EXAMPLE, ReasonBody, view_of_state
from modledger.http.services import services
from modledger.http.views import PunishmentView

LIFTED_EXAMPLE = {
    **PUNISHMENT_EXAMPLE,
    "is_lifted": True,
    "lifted_at": "2026-02-01T09:30:00Z",
    "discord_lifted_by_id": "999888777666555444",
    "updated_at": "2026-02-01T09:30:00Z",
}
_STALE = {404: "Punishment not found", 412: "The record has changed since: it is at version 8"}
_ENDED = {**_STALE, 409: "Punishment 42 has already ended (lifted)"}


class AmendBody(msgspec.Struct, kw_only=True):
    """At least one of both; ``expires_at`` null makes a ban permanent."""

    reason: Reason | msgspec.UnsetType = msgspec.UNSET
    expires_at: BodyMoment | msgspec.UnsetType | None = msgspec.UNSET


def changed(outcome: Outcome) -> Made:
    """The record after a command that changed or ended a punishment, and its version."""
    last = outcome.events[-1]
    account = outcome.subject
    assert isinstance(account, Account)
    assert isinstance(
        last.event,
        events.PunishmentAmended | events.PunishmentLifted | events.PunishmentVoided | events.PunishmentOverturned,
    )
    punishment = account.punishments[last.event.number]
    return view_of_state(subject_of(last.stream), punishment), punishment.version


def issuing(found: Recorded | None) -> Recorded:
    """The event, which has to be one that issued a punishment. Raises Problem 404."""
    if found is None or not isinstance(found.event, events.Issued):
        raise Problem(404, "Punishment not found")
    return found


async def _change(
    request: AnyRequest, punishment_id: int, change: Callable[[Subject, int], Command]
) -> Response[PunishmentView]:
    ledger: Ledger = services(request).ledger

    def located() -> Command:
        found = issuing(ledger.at(punishment_id))
        return change(subject_of(found.stream), found.version)

    return await carry_out(request, located, changed)


@command(
    "/v1/admin/punishments/{punishment_id:str}/lift",
    operation_id="lift_punishment",
    summary="End an active punishment: a moderator what they issued, an admin what they outrank",
    access=STAFF[MODERATOR],
    tag="Punishments",
    example=LIFTED_EXAMPLE,
    body_example={"reason": "Appeal accepted"},
    errors=_ENDED,
    tagged=True,
)
async def lift_punishment(
    request: AnyRequest, punishment_id: PunishmentId, data: JSONBody[ReasonBody]
) -> Response[PunishmentView]:
    return await _change(
        request,
        punishment_id,
        lambda target, number: commands.LiftPunishment(target=target, number=number, reason=data.reason),
    )


@command(
    "/v1/admin/punishments/{punishment_id:str}/void",
    operation_id="void_punishment",
    summary="End an active punishment that was issued in error; who may is as for lifting",
    access=STAFF[MODERATOR],
    tag="Punishments",
    example=LIFTED_EXAMPLE,
    body_example={"reason": "The wrong user"},
    errors=_ENDED,
    tagged=True,
)
async def void_punishment(
    request: AnyRequest, punishment_id: PunishmentId, data: JSONBody[ReasonBody]
) -> Response[PunishmentView]:
    return await _change(
        request,
        punishment_id,
        lambda target, number: commands.VoidPunishment(target=target, number=number, reason=data.reason),
    )


@command(
    "/v1/admin/punishments/{punishment_id:str}/overturn",
    operation_id="overturn_punishment",
    summary="End an active punishment on appeal; who may is as for lifting",
    access=STAFF[MODERATOR],
    tag="Punishments",
    example=LIFTED_EXAMPLE,
    body_example={"reason": "Appeal accepted"},
    errors=_ENDED,
    tagged=True,
)
async def overturn_punishment(
    request: AnyRequest, punishment_id: PunishmentId, data: JSONBody[ReasonBody]
) -> Response[PunishmentView]:
    return await _change(
        request,
        punishment_id,
        lambda target, number: commands.OverturnPunishment(target=target, number=number, reason=data.reason),
    )


@command(
    "/v1/admin/punishments/{punishment_id:str}/amend",
    operation_id="amend_punishment",
    summary="Change reason or end of an active punishment; the old values stay in its history",
    access=STAFF[MODERATOR],
    tag="Punishments",
    example={**PUNISHMENT_EXAMPLE, "reason": "Ban evasion", "updated_at": "2026-01-15T12:05:00Z"},
    body_example={"reason": "Ban evasion"},
    errors={**_STALE, 409: "Punishment 42 already has this reason and end"},
    tagged=True,
)
async def amend_punishment(
    request: AnyRequest, punishment_id: PunishmentId, data: JSONBody[AmendBody]
) -> Response[PunishmentView]:
    end = data.expires_at.astimezone(UTC) if isinstance(data.expires_at, datetime) else data.expires_at
    return await _change(
        request,
        punishment_id,
        lambda target, number: commands.AmendPunishment(
            target=target, number=number, reason=data.reason, expires_at=end
        ),
    )


HANDLERS = [lift_punishment, void_punishment, overturn_punishment, amend_punishment]

"""Punishments: how a row or a state becomes a record, the commands that issue them, the reads of one."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from anyio import to_thread
from litestar import Response
from litestar.params import JSONBody

from modledger.domain import commands, events
from modledger.domain.commands import Command
from modledger.domain.envelope import Actor, Recorded, Subject, subject_of
from modledger.domain.execute import Outcome
from modledger.domain.subjects import ADMIN, MODERATOR, Account, Punishment
from modledger.http.answers import Made, carry_out, reply, required_position
from modledger.http.endpoints import STAFF, AnyRequest, command, read
from modledger.http.errors import Problem
from modledger.http.freshness import fresh, progress_of
from modledger.http.parameters import BodyMoment, GuildId, PunishmentId, Reason, UserId
from modledger.http.services import services
from modledger.http.views import (
    PUNISHMENT_NAMES,
    ActorView,
    PunishmentEventView,
    PunishmentHistoryView,
    PunishmentIssuedView,
    PunishmentView,
    snowflake,
    whole,
    whole_or_none,
)
from modledger.projections import punishments

PUNISHMENT_EXAMPLE = {
    "id": 42,
    "discord_user_id": "123456789012345678",
    "discord_guild_id": None,
    "punishment_type": "BAN",
    "discord_issued_by_id": "999888777666555444",
    "reason": "Terms of service violation",
    "expires_at": None,
    "is_lifted": False,
    "lifted_at": None,
    "discord_lifted_by_id": None,
    "created_at": "2026-01-15T12:00:00Z",
    "updated_at": "2026-01-15T12:00:00Z",
}


class ReasonBody(msgspec.Struct, kw_only=True):
    """A reason, for the histories."""

    reason: Reason


class TimeoutBody(msgspec.Struct, kw_only=True):
    """``expires_at`` lies in the future, at most 28 days ahead. ``replace`` supersedes an active timeout."""

    reason: Reason
    expires_at: BodyMoment
    replace: bool = False


class BanBody(msgspec.Struct, kw_only=True):
    """Without ``expires_at`` for ever. ``replace`` supersedes an active one."""

    reason: Reason
    expires_at: BodyMoment | None = None
    replace: bool = False


# -- records


def punishment_view(row: punishments.Punishment, now: datetime) -> PunishmentView:
    """The search record of a row, as it is at ``now``."""
    return PunishmentView(
        id=row.id,
        discord_user_id=snowflake(row.user_id),
        discord_guild_id=snowflake(row.guild_id),
        punishment_type=PUNISHMENT_NAMES[row.type],
        discord_issued_by_id=snowflake(row.issued_by),
        reason=row.reason,
        expires_at=whole_or_none(row.expires_at),
        is_lifted=punishments.is_lifted(row),
        lifted_at=whole_or_none(row.lifted_at),
        discord_lifted_by_id=snowflake(row.lifted_by),
        created_at=whole(row.created_at),
        updated_at=whole(punishments.updated_at(row, now)),
    )


def view_of_state(of: Subject, punishment: Punishment) -> PunishmentView:
    """The search record of a punishment as its stream has it."""
    ending = punishment.ending
    lifted = ending if ending is not None and ending.kind != "lapsed" else None
    return PunishmentView(
        id=punishment.position,
        discord_user_id=str(of.id) if of.kind == "user" else None,
        discord_guild_id=str(of.id) if of.kind == "guild" else None,
        punishment_type=PUNISHMENT_NAMES[punishment.type],
        discord_issued_by_id=snowflake(punishment.issued_by.user_id),
        reason=punishment.reason,
        expires_at=whole_or_none(punishment.expires_at),
        is_lifted=lifted is not None,
        lifted_at=None if lifted is None else whole(lifted.at),
        discord_lifted_by_id=None if lifted is None else snowflake(lifted.by.user_id),
        created_at=whole(punishment.issued_at),
        updated_at=whole(punishment.updated_at),
    )


def issued(outcome: Outcome) -> Made:
    """The answer to a command that issued a punishment, and the version of its target."""
    issuing = next(recorded for recorded in outcome.events if isinstance(recorded.event, events.Issued))
    of, account = subject_of(issuing.stream), outcome.subject
    assert isinstance(account, Account)
    punishment = account.punishments[issuing.version]
    view = PunishmentIssuedView(
        user_discord_id=str(of.id) if of.kind == "user" else None,
        guild_discord_id=str(of.id) if of.kind == "guild" else None,
        punishment_type=PUNISHMENT_NAMES[punishment.type],
        reason=punishment.reason,
        issued_by_discord_id=snowflake(punishment.issued_by.user_id),
        expires_at=whole_or_none(punishment.expires_at),
        created_at=whole(punishment.issued_at),
        updated_at=whole(punishment.updated_at),
        id=punishment.position,
    )
    return view, account.version


# -- commands

ISSUED_EXAMPLE = {
    "user_discord_id": "123456789012345678",
    "guild_discord_id": None,
    "punishment_type": "BAN",
    "reason": "Terms of service violation",
    "issued_by_discord_id": "999888777666555444",
    "expires_at": None,
    "created_at": "2026-01-15T12:00:00Z",
    "updated_at": "2026-01-15T12:00:00Z",
    "id": 42,
}
_GUILD_ISSUED = {**ISSUED_EXAMPLE, "user_discord_id": None, "guild_discord_id": "876543210987654321"}
_STALE = {412: "The record has changed since: it is at version 8"}
_REASON = {"reason": "Terms of service violation"}
_ACTIVE = "User 123456789012345678 already has an active ban: punishment 42"


def timeout(user_id: int, data: TimeoutBody) -> commands.IssueTimeout:
    """The command that the body asks for."""
    return commands.IssueTimeout(
        user_id=user_id, reason=data.reason, expires_at=data.expires_at.astimezone(UTC), replace=data.replace
    )


def ban(target: Subject, data: BanBody) -> commands.IssueBan:
    """The command that the body asks for."""
    expires_at = None if data.expires_at is None else data.expires_at.astimezone(UTC)
    return commands.IssueBan(target=target, reason=data.reason, expires_at=expires_at, replace=data.replace)


async def _issue(request: AnyRequest, issue: Command) -> Response[Any]:
    return await carry_out(request, issue, issued)


@command(
    "/v1/admin/punishments/user/{user_id:str}/warn",
    operation_id="warn_user",
    summary="Warn a user",
    access=STAFF[MODERATOR],
    tag="Punishments",
    example={**ISSUED_EXAMPLE, "punishment_type": "WARNING"},
    body_example=_REASON,
    errors=_STALE,
    tagged=True,
)
async def warn_user(request: AnyRequest, user_id: UserId, data: JSONBody[ReasonBody]) -> Response[PunishmentIssuedView]:
    return await _issue(request, commands.IssueWarning(target=Subject("user", user_id), reason=data.reason))


@command(
    "/v1/admin/punishments/guild/{guild_id:str}/warn",
    operation_id="warn_guild",
    summary="Warn a guild",
    access=STAFF[MODERATOR],
    tag="Punishments",
    example={**_GUILD_ISSUED, "punishment_type": "WARNING"},
    body_example=_REASON,
    errors=_STALE,
    tagged=True,
)
async def warn_guild(
    request: AnyRequest, guild_id: GuildId, data: JSONBody[ReasonBody]
) -> Response[PunishmentIssuedView]:
    return await _issue(request, commands.IssueWarning(target=Subject("guild", guild_id), reason=data.reason))


@command(
    "/v1/admin/punishments/user/{user_id:str}/timeout",
    operation_id="time_out_user",
    summary="Time a user out, for at most 28 days",
    access=STAFF[MODERATOR],
    tag="Punishments",
    example={**ISSUED_EXAMPLE, "punishment_type": "TIMEOUT", "expires_at": "2026-01-16T12:00:00Z"},
    body_example={**_REASON, "expires_at": "2026-01-16T12:00:00Z"},
    errors={**_STALE, 409: "User 123456789012345678 already has an active timeout: punishment 42"},
    tagged=True,
)
async def time_out_user(
    request: AnyRequest, user_id: UserId, data: JSONBody[TimeoutBody]
) -> Response[PunishmentIssuedView]:
    return await _issue(request, timeout(user_id, data))


@command(
    "/v1/admin/punishments/user/{user_id:str}/ban",
    operation_id="ban_user",
    summary="Ban a user, for ever or until a time",
    access=STAFF[ADMIN],
    tag="Punishments",
    example=ISSUED_EXAMPLE,
    body_example=_REASON,
    errors={**_STALE, 409: _ACTIVE},
    tagged=True,
)
async def ban_user(request: AnyRequest, user_id: UserId, data: JSONBody[BanBody]) -> Response[PunishmentIssuedView]:
    return await _issue(request, ban(Subject("user", user_id), data))


@command(
    "/v1/admin/punishments/guild/{guild_id:str}/ban",
    operation_id="blacklist_guild",
    summary="Blacklist a guild, for ever or until a time",
    access=STAFF[ADMIN],
    tag="Punishments",
    example={**_GUILD_ISSUED, "punishment_type": "GUILD_BLACKLIST"},
    body_example=_REASON,
    errors={**_STALE, 409: "Guild 876543210987654321 already has an active blacklisting: punishment 42"},
    tagged=True,
)
async def blacklist_guild(
    request: AnyRequest, guild_id: GuildId, data: JSONBody[BanBody]
) -> Response[PunishmentIssuedView]:
    return await _issue(request, ban(Subject("guild", guild_id), data))


# -- one record


def _require_own_below_admin(request: AnyRequest, issued_by: int | None) -> None:
    # What a moderator may lift or amend, they have to be able to see; all else is for admins, as the search is.
    if request.user.level < ADMIN and issued_by != request.user.user_id:
        raise Problem(403, "Admin access required")


@read(
    "/v1/admin/punishments/{punishment_id:str}",
    operation_id="get_punishment",
    summary="One punishment: for admins, and for the moderator who issued it",
    access=STAFF[MODERATOR],
    tag="Punishments",
    example=PUNISHMENT_EXAMPLE,
    errors={404: "Punishment not found"},
    tagged=True,
)
async def get_punishment(request: AnyRequest, punishment_id: PunishmentId) -> Response[PunishmentView]:
    has = services(request)
    required = required_position(request)

    async def by_id() -> tuple[int, punishments.Punishment | None]:
        line = (await has.reader.fetch(punishments.BY_IDS, [punishment_id]))[0]
        return line[1] or 0, punishments.punishment_of(line[2:])

    position, row = await fresh(
        by_id, lambda both: both[0], lambda _: required, progress_of(has.checkpoints, "punishments")
    )
    if row is None:
        raise Problem(404, "Punishment not found")
    _require_own_below_admin(request, row.issued_by)
    return reply(request, punishment_view(row, has.clock()), position, row.version)


@read(
    "/v1/admin/punishments/{punishment_id:str}/history",
    operation_id="get_punishment_history",
    summary="Every event of one punishment, with actor, time, old and new values, straight from the ledger",
    access=STAFF[MODERATOR],
    tag="Punishments",
    example={
        "id": 42,
        "history": [
            {
                "id": 42,
                "event_type": "issued",
                "actor": {"kind": "user", "discord_id": "999888777666555444"},
                "reason": "Terms of service violation",
                "old_reason": None,
                "expires_at": None,
                "old_expires_at": None,
                "superseded_by": None,
                "created_at": "2026-01-15T12:00:00Z",
                "recorded_at": "2026-01-15T12:00:00Z",
            }
        ],
    },
    errors={404: "Punishment not found"},
    tagged=True,
)
async def get_punishment_history(request: AnyRequest, punishment_id: PunishmentId) -> Response[PunishmentHistoryView]:
    ledger = services(request).ledger
    required = required_position(request)

    def load() -> tuple[int, list[Recorded]]:
        head = ledger.head()
        issuing = ledger.at(punishment_id)
        if issuing is None or not isinstance(issuing.event, events.Issued):
            return head, []
        return head, ledger.load([issuing.stream])[issuing.stream]

    position, stream = await fresh(
        lambda: to_thread.run_sync(load),
        lambda both: both[0],
        lambda _: required,
        lambda: to_thread.run_sync(ledger.head),
    )
    issuing = next((recorded for recorded in stream if recorded.position == punishment_id), None)
    if issuing is None:
        raise Problem(404, "Punishment not found")
    _require_own_below_admin(request, issuing.actor.user_id)
    ids = {recorded.version: recorded.position for recorded in stream}
    mine = [recorded for recorded in stream if _is_about(recorded, issuing.version)]
    view = PunishmentHistoryView(id=punishment_id, history=[_event_view(recorded, ids) for recorded in mine])
    return reply(request, view, position, mine[-1].version)


_EVENT_TYPES: dict[type[events.Event], Any] = {
    events.PunishmentAmended: "amended",
    events.PunishmentLapsed: "lapsed",
    events.PunishmentLifted: "lifted",
    events.PunishmentVoided: "voided",
    events.PunishmentOverturned: "overturned",
    events.PunishmentSuperseded: "superseded",
}


def _is_about(recorded: Recorded, number: int) -> bool:
    if type(recorded.event) in _EVENT_TYPES:
        return bool(getattr(recorded.event, "number", None) == number)
    return recorded.version == number


def _event_view(recorded: Recorded, ids: dict[int, int]) -> PunishmentEventView:
    event = recorded.event
    by = event.by if isinstance(event, events.PunishmentSuperseded) else None
    return PunishmentEventView(
        id=recorded.position,
        event_type=_EVENT_TYPES.get(type(event), "issued"),
        actor=_actor_view(recorded.actor),
        reason=getattr(event, "reason", None),
        old_reason=getattr(event, "old_reason", None),
        expires_at=whole_or_none(getattr(event, "expires_at", None)),
        old_expires_at=whole_or_none(getattr(event, "old_expires_at", None)),
        superseded_by=None if by is None else ids.get(by),
        created_at=whole(recorded.occurred_at),
        recorded_at=whole(recorded.recorded_at),
    )


def _actor_view(actor: Actor) -> ActorView:
    return ActorView(kind=actor.kind, discord_id=snowflake(actor.id))


HANDLERS = [
    warn_user,
    warn_guild,
    time_out_user,
    ban_user,
    blacklist_guild,
    get_punishment,
    get_punishment_history,
]

"""Subscriptions of users and guilds: grant, trial, revoke, and who has one (api.md §4)."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Response
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta

from modledger.domain import commands
from modledger.domain.commands import Command
from modledger.domain.envelope import Subject
from modledger.domain.subjects import ADMIN, Account
from modledger.http.answers import carry_out, reply, required_position
from modledger.http.endpoints import STAFF, AnyRequest, command, read
from modledger.http.freshness import fresh, progress_of
from modledger.http.parameters import GuildId, Reason, UserId
from modledger.http.punishments import ReasonBody
from modledger.http.services import services
from modledger.http.views import ActiveSubscriptionsView, MessageView, SubscriberView, whole_or_none
from modledger.http.wire import Cursor
from modledger.projections import guilds, profile
from modledger.projections.profile import Subscribed

# projection_tracking_pkey; a projector without a row has folded nothing yet
_POSITION = """
    select min(coalesce(t.notification_id, 0)) from unnest(array['profile', 'guilds']) as p (name)
    left join projection_tracking t on t.application_name = p.name
"""
_STALE = {412: "The record has changed since: it is at version 8"}


class GrantBody(msgspec.Struct, kw_only=True):
    """``tier`` 1 Trial (7 days, once for ever), 2 Premium, 3 Lifetime; ``duration_days`` counts for Premium only."""

    tier: Annotated[int, Meta(ge=1, le=3)]
    duration_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    reason: Reason | None = None


class TrialBody(msgspec.Struct, kw_only=True):
    """A reason, if there is one to give."""

    reason: Reason | None = None


async def _act(request: AnyRequest, act: Command, message: str) -> Response[Any]:
    def view(outcome: Any) -> tuple[MessageView, int]:
        assert isinstance(outcome.subject, Account)
        return MessageView(message=message), outcome.subject.version

    return await carry_out(request, act, view)


def _grant(target: Subject, data: GrantBody) -> commands.GrantSubscription:
    return commands.GrantSubscription(
        target=target, tier=data.tier, duration_days=data.duration_days, reason=data.reason
    )


_GRANTED = "Subscription granted successfully"
_GRANT_EXAMPLE = {"tier": 2, "duration_days": 30, "reason": "Order 1234"}
_USER_TRIAL_TWICE = {**_STALE, 404: "User not found", 409: "User 123456789012345678 has already used the trial"}
_GUILD_TRIAL_TWICE = {**_STALE, 404: "Guild not found", 409: "Guild 876543210987654321 has already used the trial"}


@command(
    "/v1/admin/subscriptions/user/{user_id:str}/grant",
    operation_id="grant_user_subscription",
    summary="Grant a user a tier; Premium while Premium is active extends it",
    access=STAFF[ADMIN],
    tag="Subscriptions",
    example={"message": _GRANTED},
    body_example=_GRANT_EXAMPLE,
    errors=_USER_TRIAL_TWICE,
    tagged=True,
)
async def grant_user_subscription(
    request: AnyRequest, user_id: UserId, data: JSONBody[GrantBody]
) -> Response[MessageView]:
    return await _act(request, _grant(Subject("user", user_id), data), _GRANTED)


@command(
    "/v1/admin/subscriptions/guild/{guild_id:str}/grant",
    operation_id="grant_guild_subscription",
    summary="Grant a guild a tier; Premium while Premium is active extends it",
    access=STAFF[ADMIN],
    tag="Subscriptions",
    example={"message": _GRANTED},
    body_example=_GRANT_EXAMPLE,
    errors=_GUILD_TRIAL_TWICE,
    tagged=True,
)
async def grant_guild_subscription(
    request: AnyRequest, guild_id: GuildId, data: JSONBody[GrantBody]
) -> Response[MessageView]:
    return await _act(request, _grant(Subject("guild", guild_id), data), _GRANTED)


@command(
    "/v1/admin/subscriptions/user/{user_id:str}/trial",
    operation_id="grant_user_trial",
    summary="Start a user's only trial: 7 days",
    access=STAFF[ADMIN],
    tag="Subscriptions",
    example={"message": "Trial granted to user 123456789012345678 (7-day trial)"},
    body_example={"reason": "Support ticket 77"},
    errors=_USER_TRIAL_TWICE,
    tagged=True,
)
async def grant_user_trial(request: AnyRequest, user_id: UserId, data: JSONBody[TrialBody]) -> Response[MessageView]:
    trial = commands.StartTrial(target=Subject("user", user_id), reason=data.reason)
    return await _act(request, trial, f"Trial granted to user {user_id} (7-day trial)")


@command(
    "/v1/admin/subscriptions/guild/{guild_id:str}/trial",
    operation_id="grant_guild_trial",
    summary="Start a guild's only trial: 7 days",
    access=STAFF[ADMIN],
    tag="Subscriptions",
    example={"message": "Trial granted to guild 876543210987654321 (7-day trial)"},
    body_example={"reason": "Support ticket 77"},
    errors=_GUILD_TRIAL_TWICE,
    tagged=True,
)
async def grant_guild_trial(request: AnyRequest, guild_id: GuildId, data: JSONBody[TrialBody]) -> Response[MessageView]:
    trial = commands.StartTrial(target=Subject("guild", guild_id), reason=data.reason)
    return await _act(request, trial, f"Trial granted to guild {guild_id} (7-day trial)")


@command(
    "/v1/admin/subscriptions/user/{user_id:str}/revoke",
    operation_id="revoke_user_subscription",
    summary="Take a user's tier away",
    access=STAFF[ADMIN],
    tag="Subscriptions",
    example={"message": "Subscription revoked for user 123456789012345678"},
    body_example={"reason": "Chargeback"},
    errors={**_STALE, 404: "User not found", 409: "User 123456789012345678 has no active subscription"},
    tagged=True,
)
async def revoke_user_subscription(
    request: AnyRequest, user_id: UserId, data: JSONBody[ReasonBody]
) -> Response[MessageView]:
    revoke = commands.RevokeSubscription(target=Subject("user", user_id), reason=data.reason)
    return await _act(request, revoke, f"Subscription revoked for user {user_id}")


@command(
    "/v1/admin/subscriptions/guild/{guild_id:str}/revoke",
    operation_id="revoke_guild_subscription",
    summary="Take a guild's tier away",
    access=STAFF[ADMIN],
    tag="Subscriptions",
    example={"message": "Subscription revoked for guild 876543210987654321"},
    body_example={"reason": "Chargeback"},
    errors={**_STALE, 404: "Guild not found", 409: "Guild 876543210987654321 has no active subscription"},
    tagged=True,
)
async def revoke_guild_subscription(
    request: AnyRequest, guild_id: GuildId, data: JSONBody[ReasonBody]
) -> Response[MessageView]:
    revoke = commands.RevokeSubscription(target=Subject("guild", guild_id), reason=data.reason)
    return await _act(request, revoke, f"Subscription revoked for guild {guild_id}")


@read(
    "/v1/admin/subscriptions/active",
    operation_id="list_active_subscriptions",
    summary="Every user and guild with a tier above Basic",
    access=STAFF[ADMIN],
    tag="Subscriptions",
    example={
        "users": [
            {
                "discord_id": 123456789012345678,
                "name": "exampleuser",
                "tier": 2,
                "expires_at": "2026-04-09T12:00:00Z",
                "is_active": True,
            }
        ],
        "guilds": [],
    },
    errors={400: "tier must be between 1 and 3"},
)
async def list_active_subscriptions(
    request: AnyRequest,
    tier: Annotated[int | None, QueryParameter(ge=1, le=3, description="Only this tier.")] = None,
) -> Response[ActiveSubscriptionsView]:
    has = services(request)
    required = required_position(request)
    now = has.clock()

    async def both(cursor: Cursor) -> tuple[int, list[Subscribed], list[Subscribed]]:
        await cursor.execute(b"begin isolation level repeatable read read only")
        position = await (await cursor.execute(_POSITION.encode())).fetchone()
        users = await (await cursor.execute(profile.SUBSCRIBED.encode(), (now, tier))).fetchall()
        communities = await (await cursor.execute(guilds.SUBSCRIBED.encode(), (now, tier))).fetchall()
        await cursor.execute(b"commit")
        assert position is not None
        return position[0], [Subscribed(*line) for line in users], [Subscribed(*line) for line in communities]

    position, users, communities = await fresh(
        lambda: has.reader.doing(both),
        lambda answer: answer[0],
        lambda _: required,
        progress_of(has.checkpoints, "profile", "guilds"),
    )
    view = ActiveSubscriptionsView(users=_subscribers(users), guilds=_subscribers(communities))
    return reply(request, view, position)


def _subscribers(rows: Sequence[Subscribed]) -> list[SubscriberView]:
    return [
        SubscriberView(
            discord_id=row.id, name=row.name, tier=row.tier, expires_at=whole_or_none(row.tier_until), is_active=True
        )
        for row in rows
    ]


HANDLERS = [
    grant_user_subscription,
    grant_guild_subscription,
    grant_user_trial,
    grant_guild_trial,
    revoke_user_subscription,
    revoke_guild_subscription,
    list_active_subscriptions,
]

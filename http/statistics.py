"""How many users, guilds and bots there are, for everybody (api.md §4): from counts that the projectors keep."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

from litestar import Response

from modledger.http.answers import reply, required_position
from modledger.http.endpoints import OPEN, AnyRequest, read
from modledger.http.freshness import fresh, progress_of
from modledger.http.services import services
from modledger.http.views import Moment, View, whole
from modledger.http.wire import Cursor
from modledger.projections import bots, guilds, profile

APPLICATION = "modledger"
_VERSION = version(APPLICATION)


class UserStatisticsView(View, kw_only=True):
    """Registered users, by the tier that they have now."""

    total_count: int
    basic_count: int
    premium_count: int
    lifetime_count: int
    trial_count: int


class GuildStatisticsView(View, kw_only=True):
    """Registered guilds: with Premium or Lifetime (whitelisted), with a trial, and with any of the three (access)."""

    total_count: int
    whitelisted_count: int
    trial_count: int
    guild_access_count: int


class BotStatisticsView(View, kw_only=True):
    """Registered bots, by type."""

    total_count: int
    official_count: int
    verified_count: int
    community_count: int


class ApplicationView(View, kw_only=True):
    """``users`` and ``guilds`` count the registered ones; ``started_at``: this server process."""

    application_name: str
    version: str
    users: int
    guilds: int
    started_at: Moment


class _Counted(Protocol):
    @property
    def position(self) -> int: ...


C = TypeVar("C", bound=_Counted)


async def _counted(
    request: AnyRequest, projector: str, query: str, parameters: Sequence[object], of: Callable[[Sequence[Any]], C]
) -> C:
    has, required = services(request), required_position(request)

    async def counts() -> C:
        return of((await has.reader.fetch(query, *parameters))[0])

    return await fresh(
        counts, lambda answer: answer.position, lambda _: required, progress_of(has.checkpoints, projector)
    )


@read(
    "/v1/statistics/users",
    operation_id="count_users",
    summary="How many users there are, and of which tier",
    access=OPEN,
    tag="Statistics",
    example={
        "total_count": 2000,
        "basic_count": 1700,
        "premium_count": 180,
        "lifetime_count": 100,
        "trial_count": 20,
    },
)
async def count_users(request: AnyRequest) -> Response[UserStatisticsView]:
    now = services(request).clock()
    found = await _counted(request, "profile", profile.STATISTICS, [now], profile.statistics)
    view = UserStatisticsView(
        total_count=found.total_count,
        basic_count=found.basic_count,
        premium_count=found.premium_count,
        lifetime_count=found.lifetime_count,
        trial_count=found.trial_count,
    )
    return reply(request, view, found.position)


@read(
    "/v1/statistics/guilds",
    operation_id="count_guilds",
    summary="How many guilds there are, and how many of them have access",
    access=OPEN,
    tag="Statistics",
    example={"total_count": 200, "whitelisted_count": 30, "trial_count": 5, "guild_access_count": 35},
)
async def count_guilds(request: AnyRequest) -> Response[GuildStatisticsView]:
    now = services(request).clock()
    found = await _counted(request, "guilds", guilds.STATISTICS, [now], guilds.statistics)
    view = GuildStatisticsView(
        total_count=found.total_count,
        whitelisted_count=found.whitelisted_count,
        trial_count=found.trial_count,
        guild_access_count=found.guild_access_count,
    )
    return reply(request, view, found.position)


@read(
    "/v1/statistics/bots",
    operation_id="count_bots",
    summary="How many bots there are, and of which type",
    access=OPEN,
    tag="Statistics",
    example={"total_count": 20, "official_count": 2, "verified_count": 6, "community_count": 12},
)
async def count_bots(request: AnyRequest) -> Response[BotStatisticsView]:
    found = await _counted(request, "bots", bots.STATISTICS, [], bots.statistics)
    view = BotStatisticsView(
        total_count=found.total,
        official_count=found.official,
        verified_count=found.verified,
        community_count=found.community,
    )
    return reply(request, view, found.position)


@read(
    "/v1/statistics/application",
    operation_id="describe_application",
    summary="What runs here since when, and how many users and guilds it has",
    access=OPEN,
    tag="Statistics",
    example={
        "application_name": APPLICATION,
        "version": "0.1.0",
        "users": 2000,
        "guilds": 200,
        "started_at": "2026-03-10T12:00:00Z",
    },
)
async def describe_application(request: AnyRequest) -> Response[ApplicationView]:
    has, required = services(request), required_position(request)
    now = has.clock()

    async def counts(cursor: Cursor) -> tuple[profile.Statistics, guilds.Statistics]:
        await cursor.execute(profile.STATISTICS.encode(), (now,))
        users = profile.statistics((await cursor.fetchall())[0])
        await cursor.execute(guilds.STATISTICS.encode(), (now,))
        return users, guilds.statistics((await cursor.fetchall())[0])

    users, communities = await fresh(
        lambda: has.reader.doing(counts),
        lambda both: min(one.position for one in both),
        lambda _: required,
        progress_of(has.checkpoints, "profile", "guilds"),
    )
    view = ApplicationView(
        application_name=APPLICATION,
        version=_VERSION,
        users=users.total_count,
        guilds=communities.total_count,
        started_at=whole(has.started_at),
    )
    return reply(request, view, min(users.position, communities.position))


HANDLERS = [count_users, count_guilds, count_bots, describe_application]

"""The peer without a ledger: FastAPI, SQLAlchemy 2 (async) and asyncpg on uvicorn, as their documentation teaches.

    python -m bench.peers.crud DATABASE-URL PORT

The engine, its pool (5 and 10 more) and the session per request are those of the tutorials; what it does not do is
count requests, log them, answer conditional requests, or wait for anything that was written.
"""

import hashlib
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Literal

import uvicorn
from fastapi import Cookie, Depends, FastAPI, HTTPException, Query
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, ColumnElement, Select, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import InstrumentedAttribute

from bench.peers.models import Bot, Guild, LoginSession, PermissionChange, Punishment, SubscriptionChange, User
from bench.peers.views import (
    DetailedUserView,
    PunishmentsView,
    UserView,
    bot_view,
    guild_view,
    permission_view,
    punishment_view,
    state_of,
    subscription_view,
    user_view,
)

NEWEST = 100
MODERATOR, ADMIN, OWNER = 1, 2, 3


def engine_url(conninfo: str) -> URL:
    """asyncpg takes the folder of a socket as ``host`` in the query."""
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    return URL.create(
        "postgresql+asyncpg",
        username=parts["user"],
        database=parts["dbname"],
        query={"host": parts["host"], "port": parts["port"]},
    )


def application(conninfo: str) -> FastAPI:
    """The application and its routes."""
    sessions = async_sessionmaker(create_async_engine(engine_url(conninfo)), expire_on_commit=False)
    app = FastAPI()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    Database = Annotated[AsyncSession, Depends(get_session)]  # noqa: N806 - as the tutorial names it

    async def get_viewer(database: Database, hsession: Annotated[str | None, Cookie()] = None) -> User:
        digest = hashlib.sha256((hsession or "").encode()).digest()
        found = await database.scalar(select(LoginSession).where(LoginSession.token_hash == digest))
        now = datetime.now(UTC)
        if found is None or found.expires_at <= now or found.user is None:
            raise HTTPException(401, "Authentication required")
        if state_of(found.user, now) != 0:
            raise HTTPException(403, "Account restricted")
        return found.user

    ViewerOf = Annotated[User, Depends(get_viewer)]  # noqa: N806

    @app.get("/v1/users/profile/{username}", response_model=None)
    async def get_user_profile(username: str, viewer: ViewerOf, database: Database) -> UserView | DetailedUserView:
        user = await database.scalar(
            select(User)
            .where(User.username_key == username.casefold())
            .order_by(User.named_at.desc(), User.user_id)
            .limit(1)
        )
        if user is None:
            raise HTTPException(404, "User not found")
        now = datetime.now(UTC)
        above = viewer.level > user.level or viewer.level == OWNER
        if viewer.level < MODERATOR or not above or viewer.user_id == user.user_id:
            return user_view(user, now)
        return await _detail(database, user, now)

    @app.get("/v1/admin/punishments/search")
    async def search_punishments(
        viewer: ViewerOf,
        database: Database,
        user_id: int | None = None,
        guild_id: int | None = None,
        issued_by: int | None = None,
        punishment_type: int | None = None,
        active_only: bool = False,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        sort: Literal["-created_at", "created_at", "-expires_at", "expires_at"] = "-created_at",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=100)] = 25,
    ) -> PunishmentsView:
        if viewer.level < ADMIN:
            raise HTTPException(403, "Admin access required")
        now = datetime.now(UTC)
        equal = {"user_id": user_id, "guild_id": guild_id, "issued_by": issued_by, "type": punishment_type}
        wanted: list[ColumnElement[bool] | InstrumentedAttribute[bool]] = [
            getattr(Punishment, name) == value for name, value in equal.items() if value is not None
        ]
        if active_only:
            wanted += [Punishment.open, or_(Punishment.expires_at.is_(None), Punishment.expires_at > now)]
        if created_after is not None:
            wanted.append(Punishment.created_at > created_after)
        if created_before is not None:
            wanted.append(Punishment.created_at < created_before)
        total = await database.scalar(select(func.count()).select_from(Punishment).where(*wanted))
        page = await database.scalars(_sorted(select(Punishment).where(*wanted), sort).offset(offset).limit(limit))
        return PunishmentsView(
            punishments=[punishment_view(one, now) for one in page], total=total or 0, limit=limit, offset=offset
        )

    return app


def _sorted(query: Select[Punishment], sort: str) -> Select[Punishment]:
    end = func.coalesce(Punishment.expires_at, "infinity")
    keys = [Punishment.created_at, Punishment.id] if "created" in sort else [end, Punishment.created_at, Punishment.id]
    return query.order_by(*(key.desc() if sort.startswith("-") else key for key in keys))


async def _detail(database: AsyncSession, user: User, now: datetime) -> DetailedUserView:
    own = user.user_id
    punishments = await database.scalars(
        select(Punishment)
        .where(Punishment.user_id == own)
        .order_by(Punishment.created_at.desc(), Punishment.id.desc())
        .limit(NEWEST)
    )
    guilds = await database.scalars(
        select(Guild)
        .where(Guild.owner_id == own, Guild.registered)
        .order_by(Guild.created_at.desc(), Guild.guild_id.desc())
        .limit(NEWEST)
    )
    bots = await database.scalars(
        select(Bot)
        .where(Bot.owner_id == own, Bot.active, Bot.registered)
        .order_by(Bot.created_at.desc(), Bot.bot_id.desc())
        .limit(NEWEST)
    )
    subscriptions = await database.scalars(
        select(SubscriptionChange)
        .where(SubscriptionChange.stream == f"user:{own}")
        .order_by(SubscriptionChange.created_at.desc(), SubscriptionChange.id.desc())
        .limit(NEWEST)
    )
    permissions = await database.scalars(
        select(PermissionChange)
        .where(PermissionChange.user_id == own)
        .order_by(PermissionChange.created_at.desc(), PermissionChange.id.desc())
        .limit(NEWEST)
    )
    return DetailedUserView(
        **user_view(user, now).model_dump(),
        punishments=[punishment_view(one, now) for one in punishments],
        guilds=[guild_view(one, now) for one in guilds],
        bots=[bot_view(one) for one in bots],
        subscription_history=[subscription_view(one) for one in subscriptions],
        permission_history=[permission_view(one) for one in permissions],
    )


if __name__ == "__main__":
    uvicorn.run(
        application(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False
    )

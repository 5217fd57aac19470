"""The tables of the peer without a ledger, as SQLAlchemy 2 declares them: a copy of ours with all indexes."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, ForeignKey, SmallInteger
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    type_annotation_map = {int: BigInteger, datetime: DateTime(timezone=True), dict[str, Any]: JSONB}  # noqa: RUF012


class UserActivity(Base):
    __tablename__ = "user_activity"
    user_id: Mapped[int] = mapped_column(ForeignKey("profiles.user_id"), primary_key=True)
    last_activity_at: Mapped[datetime]


class User(Base):
    __tablename__ = "profiles"
    user_id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str | None]
    username_key: Mapped[str | None]
    named_at: Mapped[datetime | None]
    avatar_url: Mapped[str | None]
    level: Mapped[int] = mapped_column(SmallInteger)
    prefix: Mapped[str]
    tier: Mapped[int] = mapped_column(SmallInteger)
    tier_until: Mapped[datetime | None]
    banned_until: Mapped[datetime | None]
    timeout_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    activity: Mapped[UserActivity | None] = relationship(lazy="joined")


class LoginSession(Base):
    __tablename__ = "sessions"
    token_hash: Mapped[bytes] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("profiles.user_id"))
    expires_at: Mapped[datetime]
    user: Mapped[User | None] = relationship(lazy="joined")


class Punishment(Base):
    __tablename__ = "punishments"
    stream: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[int]
    user_id: Mapped[int | None]
    guild_id: Mapped[int | None]
    type: Mapped[int] = mapped_column(SmallInteger)
    reason: Mapped[str]
    issued_by: Mapped[int | None]
    expires_at: Mapped[datetime | None]
    open: Mapped[bool]
    ended_kind: Mapped[str | None]
    lifted_at: Mapped[datetime | None]
    lifted_by: Mapped[int | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class GuildActivity(Base):
    __tablename__ = "guild_activity"
    guild_id: Mapped[int] = mapped_column(ForeignKey("guilds.guild_id"), primary_key=True)
    member_count: Mapped[int | None]


class Guild(Base):
    __tablename__ = "guilds"
    guild_id: Mapped[int] = mapped_column(primary_key=True)
    registered: Mapped[bool]
    name: Mapped[str | None]
    avatar_url: Mapped[str | None]
    owner_id: Mapped[int | None]
    prefix: Mapped[str]
    blacklisted_until: Mapped[datetime | None]
    tier_until: Mapped[datetime | None]
    state_set: Mapped[int] = mapped_column(SmallInteger)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    activity: Mapped[GuildActivity | None] = relationship(lazy="joined")


class BotActivity(Base):
    __tablename__ = "bot_activity"
    bot_id: Mapped[int] = mapped_column(ForeignKey("bots.bot_id"), primary_key=True)
    guilds: Mapped[int]
    users: Mapped[int]
    latency_ms: Mapped[float | None]
    last_activity_at: Mapped[datetime | None]


class Bot(Base):
    __tablename__ = "bots"
    bot_id: Mapped[int] = mapped_column(primary_key=True)
    registered: Mapped[bool]
    active: Mapped[bool]
    name: Mapped[str | None]
    avatar_url: Mapped[str | None]
    owner_id: Mapped[int | None]
    bot_type: Mapped[int] = mapped_column(SmallInteger)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    activity: Mapped[BotActivity | None] = relationship(lazy="joined")


class SubscriptionChange(Base):
    __tablename__ = "subscription_history"
    id: Mapped[int] = mapped_column(primary_key=True)
    stream: Mapped[str]
    old_tier: Mapped[int] = mapped_column(SmallInteger)
    new_tier: Mapped[int] = mapped_column(SmallInteger)
    reason: Mapped[str | None]
    granted_by: Mapped[int | None]
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class PermissionChange(Base):
    __tablename__ = "permission_history"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    old_level: Mapped[int] = mapped_column(SmallInteger)
    new_level: Mapped[int] = mapped_column(SmallInteger)
    reason: Mapped[str]
    changed_by: Mapped[int | None]
    created_at: Mapped[datetime]

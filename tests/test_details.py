"""The detail views are each one statement: it answers what separate looks at each table do, in every state of the
projectors."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.domain.memory_ledger import MemoryLedger
from modledger.projections import (
    bots,
    guild_detail,
    guilds,
    permission_history,
    profile,
    punishments,
    subscription_history,
    user_detail,
)
from modledger.projections.catalog import PROJECTORS
from modledger.projections.projector import Projector, advance
from tests.projection_history import NOW, Happened, append, memory_ledger
from tests.random_history import histories

TABLES = [table for projector in PROJECTORS for table in (projector.table, *projector.beside)]
USERS, GUILDS = [1, 2, 3, 4], [1, 2, 3]


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        # What the telemetry has of some and not of others.
        connection.execute("insert into user_activity (user_id, last_activity_at) values (1, %s), (4, %s)", (NOW, NOW))
        connection.execute("insert into guild_activity (guild_id, member_count) values (1, 50)")
        connection.execute(
            "insert into bot_activity (bot_id, guilds, users, latency_ms, last_activity_at)"
            " values (1, 3, 40, 41.5, %s)",
            (NOW,),
        )
        yield connection


def empty(conn: psycopg.Connection[Any]) -> None:
    for table in TABLES:
        conn.execute(f"delete from {table.name}".encode())
    conn.execute("update projection_tracking set notification_id = 0 where application_name <> '__migration__'")


def rows(conn: psycopg.Connection[Any], projector: Projector[Any], key: str, value: object) -> list[Any]:
    """The rows that have that value, newest first."""
    columns = ", ".join(projector.table.columns)
    lines = conn.execute(f"select {columns} from {projector.table.name} where {key} = %s".encode(), (value,)).fetchall()
    found = [projector.row(**dict(zip(projector.table.columns, line, strict=True))) for line in lines]
    return sorted(found, key=lambda row: (row.created_at, row.id), reverse=True)


def lines(conn: psycopg.Connection[Any], query: str, keys: list[int]) -> dict[int, Any]:
    return {line[0]: line for line in psycopg.RawCursor(conn).execute(query.encode(), (keys,)).fetchall()}


def positions(conn: psycopg.Connection[Any]) -> dict[str, int]:
    return dict(conn.execute("select application_name, notification_id from projection_tracking").fetchall())


def expected_user(conn: psycopg.Connection[Any], user_id: int) -> user_detail.Detail:
    found = profile.found(lines(conn, profile.BY_IDS, [user_id])[user_id])
    owned = conn.execute("select guild_id from guilds where owner_id = %s and registered", (user_id,)).fetchall()
    run = conn.execute("select bot_id from bots where owner_id = %s and registered and active", (user_id,)).fetchall()
    of_guilds = [
        guilds.found(line[1:]).owned for line in lines(conn, guilds.BY_IDS, [key for (key,) in owned]).values()
    ]
    of_bots = [bots.owned_or_none(line[2:]) for line in lines(conn, bots.BY_IDS, [key for (key,) in run]).values()]
    reached = positions(conn)
    return user_detail.Detail(
        found=found,
        punishments=rows(conn, punishments.PROJECTOR, "user_id", user_id),
        guilds=sorted(
            (one for one in of_guilds if one is not None),
            key=lambda one: (one.guild.created_at, one.guild.guild_id),
            reverse=True,
        ),
        bots=sorted(
            (one for one in of_bots if one is not None),
            key=lambda one: (one.bot.created_at, one.bot.bot_id),
            reverse=True,
        ),
        subscription_history=rows(conn, subscription_history.PROJECTOR, "stream", f"user:{user_id}"),
        permission_history=rows(conn, permission_history.PROJECTOR, "user_id", user_id),
        position=min(reached.get(name, 0) for name in user_detail.READ_BY_DETAIL),
    )


def expected_guild(conn: psycopg.Connection[Any], guild_id: int) -> guild_detail.Detail:
    reached = positions(conn)
    return guild_detail.Detail(
        found=guilds.found(lines(conn, guilds.BY_IDS, [guild_id])[guild_id][1:]),
        punishments=rows(conn, punishments.PROJECTOR, "guild_id", guild_id),
        subscription_history=rows(conn, subscription_history.PROJECTOR, "stream", f"guild:{guild_id}"),
        position=min(reached.get(name, 0) for name in guild_detail.READ_BY_DETAIL),
    )


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories(least=5, most=60), data=st.data())
def test_a_detail_is_what_each_table_says_of_its_subject_however_far_its_projector_is(
    conn: psycopg.Connection[Any], history: list[Happened], data: st.DataObject
) -> None:
    ledger: MemoryLedger
    with memory_ledger() as ledger:
        versions: dict[str, int] = {}
        empty(conn)
        for happened in history:
            append(ledger, versions, happened)
        for projector in PROJECTORS:
            advance(conn, projector, ledger, data.draw(st.sampled_from([1_000, 1_000, 3])))
        of_users = lines(conn, user_detail.BY_IDS, USERS)
        assert {key: user_detail.detail_of(line) for key, line in of_users.items()} == {
            user_id: expected_user(conn, user_id) for user_id in USERS
        }
        of_guilds = lines(conn, guild_detail.BY_IDS, GUILDS)
        assert {key: guild_detail.detail_of(line) for key, line in of_guilds.items()} == {
            guild_id: expected_guild(conn, guild_id) for guild_id in GUILDS
        }

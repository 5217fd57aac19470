"""What ran out and is not yet in the ledger, as far as the read tables know: the clock worker's questions."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from modledger.projections import guilds, profile, punishments

# Rows that are fetched at once.
PAGE = 1_000

# $1 timestamptz now: for how many seconds the oldest end that is not recorded yet has been due, 0 when none is; one
# that was recorded counts until the projector has taken it in. punishments_due, profiles_tier_until, guilds_tier_until
LONGEST_DUE = """
    select coalesce(extract(epoch from $1 - min(due)), 0)::float8 from (
        (select due_at as due from punishments where due_at <= $1 order by due_at limit 1)
        union all
        (select tier_until from profiles where tier_until <= $1 order by tier_until limit 1)
        union all
        (select tier_until from guilds where tier_until <= $1 order by tier_until limit 1)
    ) as oldest
"""


def due_punishments(conn: psycopg.Connection[Any], now: datetime) -> Iterator[tuple[str, int, datetime]]:
    """Every open punishment whose end has come, earliest first: (stream, number, end). However many, they are not all
    in memory at once."""
    return _stream(conn, "due_punishments", punishments.DUE, now)


def due_subscriptions(conn: psycopg.Connection[Any], now: datetime) -> Iterator[tuple[str, datetime]]:
    """Every tier of a user or guild whose end has come, earliest first of each: (stream, end)."""
    yield from _stream(conn, "due_users", profile.DUE_SUBSCRIPTIONS, now)
    yield from _stream(conn, "due_guilds", guilds.DUE_SUBSCRIPTIONS, now)


def _stream(conn: psycopg.Connection[Any], name: str, query: str, now: datetime) -> Iterator[Any]:
    with psycopg.RawServerCursor(conn, name, withhold=True, row_factory=tuple_row) as cursor:
        cursor.itersize = PAGE
        yield from cursor.execute(query, (now,))

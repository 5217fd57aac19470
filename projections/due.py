"""What ran out and is not yet in the ledger: the clock worker's questions."""

from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from modledger.projections import guilds, profile, punishments


def due_punishments(conn: psycopg.Connection[Any], now: datetime, limit: int) -> list[tuple[str, int, datetime]]:
    """At most ``limit`` open punishments whose end has come, earliest first: (stream, number, end)."""
    return psycopg.RawCursor(conn, row_factory=tuple_row).execute(punishments.DUE, (now, limit)).fetchall()


def due_subscriptions(conn: psycopg.Connection[Any], now: datetime, limit: int) -> list[tuple[str, datetime]]:
    """At most ``limit`` tiers of users and guilds whose end has come, earliest first: (stream, end)."""
    cursor = psycopg.RawCursor(conn, row_factory=tuple_row)
    due = [
        line
        for query in (profile.DUE_SUBSCRIPTIONS, guilds.DUE_SUBSCRIPTIONS)
        for line in cursor.execute(query, (now, limit))
    ]
    return sorted(due, key=lambda line: line[1])[:limit]

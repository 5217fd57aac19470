"""One at a time: a session advisory lock on which standbys wait, released by the server when its holder dies."""

import hashlib
import threading

import psycopg
from psycopg import sql

# The wait is cut into slices, because a blocked statement holds a snapshot and so keeps vacuum from its work.
SLICE = "2s"
# After how many seconds of silence the server asks a holder's host whether it is still there, how often it asks again,
# and how many times: one that vanished loses its turn in 25 seconds. The system's own default is more than two hours.
# Without effect where the connection is no TCP.
KEEPALIVES = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}

# Turns of this database, held and waited for. In memory, a line per lock; a bigint key stands there as two halves.
ALL_TURNS = """
    select pid, granted, (classid::bigint << 32) | objid::bigint as key from pg_locks
        where locktype = 'advisory' and objsubid = 1
        and database = (select oid from pg_database where datname = current_database())
"""


def turn_key(name: str) -> int:
    """The key of the advisory lock that whoever is active under that name holds."""
    return int.from_bytes(hashlib.sha256(f"modledger {name}".encode()).digest()[:8], signed=True)


def is_taken(connection: psycopg.Connection, name: str) -> bool:
    """Whether somebody is active under that name now."""
    row = connection.execute(
        f"select exists (select from ({ALL_TURNS}) as t where granted and key = %s)".encode(),  # noqa: S608
        (turn_key(name),),
    ).fetchone()
    return row is not None and bool(row[0])


def take_free_turn(connection: psycopg.Connection, name: str) -> bool:
    """Whether this connection (autocommit) is the only active one under that name from now on; without waiting."""
    row = connection.execute("select pg_try_advisory_lock(%s)", (turn_key(name),)).fetchone()
    return row is not None and bool(row[0])


def end_turn(connection: psycopg.Connection, name: str) -> None:
    """Lets another be active under that name, which this connection (autocommit) is."""
    connection.execute("select pg_advisory_unlock(%s)", (turn_key(name),))


def wait_for_turn(connection: psycopg.Connection, name: str, stop: threading.Event) -> bool:
    """Blocks until this connection (autocommit) is the only active one under that name; False when stopped first.

    A standby takes over as soon as the active connection ends, milliseconds after a kill -9, and half a minute after
    its whole host vanished.
    """
    key = turn_key(name)
    for setting, value in KEEPALIVES.items():
        connection.execute("select set_config(%s, %s, false)", (setting, value))
    connection.execute("select set_config('lock_timeout', %s, false)", (SLICE,))
    # A time-out that nobody caught would be an error in the server's log, every two seconds from every standby.
    wait = sql.SQL(
        "do $$ begin perform pg_advisory_lock({}); exception when lock_not_available then null; end $$"
    ).format(key)
    taken = False
    while not taken and not stop.is_set():
        connection.execute(wait)
        # A session may take its own lock again, so this says whether the wait was successful.
        taken = take_free_turn(connection, name)
    connection.execute("select set_config('lock_timeout', '0', false)")
    return taken

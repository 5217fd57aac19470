"""One at a time: a session advisory lock on which standbys wait, released by the server when its holder dies."""

import hashlib
import threading

import psycopg

# The wait is cut into slices, because a blocked statement holds a snapshot and so keeps vacuum from its work.
SLICE = "2s"


def wait_for_turn(connection: psycopg.Connection, name: str, stop: threading.Event) -> bool:
    """Blocks until this connection (autocommit) is the only active one under that name; False when stopped first.

    A standby takes over as soon as the active connection ends, milliseconds after a kill -9.
    """
    key = int.from_bytes(hashlib.sha256(f"modledger {name}".encode()).digest()[:8], signed=True)
    connection.execute("select set_config('lock_timeout', %s, false)", (SLICE,))
    while not stop.is_set():
        try:
            connection.execute("select pg_advisory_lock(%s)", (key,))
        except psycopg.errors.LockNotAvailable:
            continue
        connection.execute("select set_config('lock_timeout', '0', false)")
        return True
    return False

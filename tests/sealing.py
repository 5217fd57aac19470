"""Ledgers of made-up events, sealed, for the tests of what is sealed and proved."""

from datetime import UTC, datetime

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modledger.domain.settings import Settings
from modledger.workers.seal_key import signing_key

NOW = datetime(2026, 3, 10, 12, 0, 5, 678, tzinfo=UTC)
SEED = bytes(range(100, 132))
SETTINGS = Settings(seal_key=SEED)


def fill(connection: psycopg.Connection, events: int) -> None:
    """Appends events that nothing is meant to fold, one command each, some with a second event."""
    connection.execute(
        """
        insert into ledger (originator_id, originator_version, topic, state, recorded_at, command_id, actor, via)
            select stream, 1 + coalesce((select max(originator_version) from ledger where originator_id = stream), 0),
                'user.prefix_changed.v1', convert_to('{"n":' || n || '}', 'UTF8'),
                timestamptz '2026-03-10 12:00:00+00' + n * interval '1 ms',
                case when mod(n, 3) <> 0 then gen_random_uuid() end, 'user:' || mod(n, 7), 'http'
            from generate_series(1, %s) as n, concat('user:', 900000 + n) as stream order by n
        """,
        (events,),
    )


def begun(connection: psycopg.Connection) -> Ed25519PrivateKey:
    """The seal key of an installation that has begun with this."""
    connection.execute("insert into installation (master_key_check) values ('') on conflict do nothing")
    return signing_key(SETTINGS, connection)


def unguarded(connection: psycopg.Connection, statement: str, *parameters: object) -> None:
    """What a superuser can do who means it."""
    tables = ("ledger", "seals", "seal_tiles", "seal_keys")
    with connection.transaction():
        for table in tables:
            connection.execute(f"alter table {table} disable trigger all")
        connection.execute(statement, parameters)
        for table in tables:
            connection.execute(f"alter table {table} enable trigger all")

"""Whose turn it is: what the server is told about those who may vanish without a word."""

import secrets
import threading
from pathlib import Path

import psycopg

from modledger.workers.turn import KEEPALIVES, is_taken, wait_for_turn
from tests.postgres_processes import server_for_tests


def test_the_server_looks_for_a_holder_that_vanished_much_sooner_than_it_would_by_default(pg_root: Path) -> None:
    # Its port is always the same, so it gets an address of its own.
    address = f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}"
    with (pg_root / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write(f"listen_addresses = '{address}'\n")
    # First come, first served: before the rule that wants a password.
    rules = pg_root / "data" / "pg_hba.conf"
    rules.write_text(f"host all all 127.0.0.0/8 trust\n{rules.read_text()}")
    server = server_for_tests(pg_root)
    server.attach()
    try:
        with psycopg.connect(f"host={address} dbname=modledger user=postgres", autocommit=True) as holder:
            assert wait_for_turn(holder, "vanishing", threading.Event())
            shown = {name: holder.execute(f"show {name}".encode()).fetchone() for name in KEEPALIVES}
        assert shown == {name: (value,) for name, value in KEEPALIVES.items()}
    finally:
        server.detach()


def test_a_turn_is_taken_from_when_it_is_given_until_its_holder_ends(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as other:
        with psycopg.connect(database, autocommit=True) as holder:
            assert not is_taken(other, "profile")
            assert wait_for_turn(holder, "profile", threading.Event())
            assert is_taken(other, "profile")
            assert is_taken(holder, "profile")
            assert not is_taken(other, "punishments")
        # The server gives it back when it finds that the connection has ended.
        assert wait_for_turn(other, "profile", threading.Event())
        other.execute("select pg_advisory_unlock_all()")
        assert not is_taken(other, "profile")

"""What HTTP keeps sealed, sealed anew by the first of two master keys (docs/keys.md): log-in codes, kept answers."""

from typing import Any

import psycopg

from modledger.http import idempotency, login_codes
from modledger.http.sealing import Sealing

BATCH = 500

# login_codes_pkey; idempotency_keys_pkey
_CODES = "select user_id, sealed_code from login_codes where user_id > %s order by user_id limit %s"
_ANSWERS = """
    select actor, key, body from idempotency_keys
        where (actor, key) > (%s, %s) and body is not null order by actor, key limit %s
"""


def reseal(conninfo: str, master_key: bytes) -> int:
    """Answers how many. What neither key opens is left: it is of nobody's use and is forgotten within a day. Raises
    psycopg.Error."""
    sealing = Sealing(master_key)
    with psycopg.connect(conninfo, autocommit=True, application_name="modledger key rotate") as connection:
        return _codes(connection, sealing) + _answers(connection, sealing)


def _codes(connection: psycopg.Connection[Any], sealing: Sealing) -> int:
    count, last = 0, 0
    while page := connection.execute(_CODES, (last, BATCH)).fetchall():
        for user_id, sealed in page:
            bound_to = login_codes.bound_to(user_id)
            code = sealing.unseal(sealed, bound_to)
            new = sealing.reseal(sealed, bound_to)
            if code is not None and new is not None:
                # login_codes_pkey; one that was used or replaced meanwhile stays so.
                count += connection.execute(
                    "update login_codes set sealed_code = %s, code_hash = %s where user_id = %s and sealed_code = %s",
                    (new, sealing.lookup(code.decode()), user_id, sealed),
                ).rowcount
        last = page[-1][0]
    return count


def _answers(connection: psycopg.Connection[Any], sealing: Sealing) -> int:
    count, last = 0, ("", "")
    while page := connection.execute(_ANSWERS, (*last, BATCH)).fetchall():
        for actor, key, sealed in page:
            new = sealing.reseal(sealed, idempotency.bound_to(actor, key))
            if new is not None:
                # idempotency_keys_pkey; one that was forgotten or replaced meanwhile stays so.
                count += connection.execute(
                    "update idempotency_keys set body = %s where actor = %s and key = %s and body = %s",
                    (new, actor, key, sealed),
                ).rowcount
        last = page[-1][:2]
    return count

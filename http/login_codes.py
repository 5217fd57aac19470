"""Log-in codes: one pending per user, five minutes, five wrong tries (api.md §4, Authentication).

A code is stored twice: as a keyed hash to find it by, and sealed, because the bot that delivers it has to read it.
"""

import hmac
import secrets
import string
from datetime import datetime, timedelta

from psycopg.errors import UniqueViolation

from modledger.http.reader import Reader
from modledger.http.sealing import Sealing
from modledger.http.wire import Cursor

ALPHABET = string.ascii_uppercase + string.digits
LENGTH = 8
LIFETIME = timedelta(minutes=5)
WRONG_TRIES = 5

# $1 now. login_codes_expiry; a few at a time: anybody may ask for the codes of anybody, so there may be very many.
FORGET = """
    delete from login_codes where user_id in
        (select user_id from login_codes where expires_at <= $1 order by expires_at limit 20 for update skip locked)
"""


def new_code() -> str:
    """8 characters A–Z0–9 from the operating system's randomness."""
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


async def request_code(desk: Reader, sealing: Sealing, user_id: int | None, now: datetime) -> datetime:
    """Makes a new code for the user, in place of a pending one, and answers when it ends. For None, somebody who does
    not exist, it does as much work and makes no code. Raises Unavailable."""
    expires_at = now + LIFETIME
    while True:
        code = new_code()
        try:
            async with desk.transaction() as cursor:
                # A code lost with a crash is asked for again, and without a flush to disk nobody can tell from the time
                # that it took whether a user exists.
                await cursor.execute(b"set local synchronous_commit = off")
                # login_codes_pkey
                await cursor.execute(
                    b"insert into login_codes (user_id, code_hash, sealed_code, expires_at)"
                    b" select $1, $2, $3, $4 where $1::bigint is not null"
                    b" on conflict (user_id) do update set code_hash = excluded.code_hash,"
                    b" sealed_code = excluded.sealed_code, expires_at = excluded.expires_at, wrong_tries = 0",
                    (user_id, sealing.lookup(code), sealing.seal(code.encode(), bound_to(user_id or 0)), expires_at),
                )
                # Another user's live code is among the 36^8 the same.
        except UniqueViolation:
            continue
        break
    await desk.fetch(FORGET, now)
    return expires_at


async def pending_code(desk: Reader, sealing: Sealing, user_id: int, now: datetime) -> str | None:
    """The user's pending code, for the bot that delivers it. Raises Unavailable."""
    # login_codes_pkey
    rows = await desk.fetch("select sealed_code from login_codes where user_id = $1 and expires_at > $2", user_id, now)
    code = sealing.unseal(rows[0][0], bound_to(user_id)) if rows else None
    return None if code is None else code.decode()


async def consume_code(cursor: Cursor, sealing: Sealing, code: str, user_id: int | None, now: datetime) -> int | None:
    """The id of the user whose code this is, once; None for a wrong, used or expired one.

    ``cursor`` is in a transaction; of two that bring the same code one waits here, and then finds it used. A wrong code
    for a given user counts as a try, also when the answer is None, so the transaction has to be committed either way.
    """
    code_hashes = sealing.lookups(code)
    # login_codes_code_hash_key, login_codes_pkey
    column = b"code_hash = any($1::bytea[])" if user_id is None else b"user_id = $1"
    await cursor.execute(
        b"select user_id, code_hash, expires_at from login_codes where " + column + b" for update",
        (code_hashes if user_id is None else user_id,),
    )
    row = await cursor.fetchone()
    if row is not None:
        owner, known, expires_at = row
        if expires_at > now and any(hmac.compare_digest(known, one) for one in code_hashes):
            await cursor.execute(b"delete from login_codes where user_id = $1", (owner,))
            return int(owner)
    # The same whether or not there is a code, and nobody waits for the disk: or the time that it takes would tell for
    # whom one is pending, and so whose name it was asked for by. login_codes_pkey
    await cursor.execute(b"set local synchronous_commit = off")
    await cursor.execute(b"update login_codes set wrong_tries = wrong_tries + 1 where user_id = $1", (user_id,))
    await cursor.execute(b"delete from login_codes where user_id = $1 and wrong_tries >= $2", (user_id, WRONG_TRIES))
    return None


def bound_to(user_id: int) -> str:
    """What a user's sealed code is sealed for."""
    return f"log-in code of user {user_id}"

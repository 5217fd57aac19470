"""Another master key in the place of the one there is, while everything goes on (docs/keys.md).

No state of its own: whether a key is wrapped by the one master key or the other, opening it tells. So a rotation that
was killed is just begun again.
"""

import time
from collections.abc import Iterator
from itertools import count

import msgspec
import psycopg

from modledger.domain.personal_text import MasterKey, WrongMasterKey

BATCH = 500
# A row that somebody has locked, such as the key of whom they erase, is looked at again after this, in seconds.
PAUSE = 0.1

# subject_keys_pkey
_PAGE = """
    select subject, generation, wrapped from subject_keys
        where (subject, generation) > (%s, %s) order by subject, generation limit %s
"""
# subject_keys_pkey. Nobody is waited for, so no erasure of many at once can wait for us who wait for it; and a key that
# was destroyed or replaced meanwhile stays so.
_REWRAP = """
    with new as (
        select * from unnest(%s::text[], %s::bigint[], %s::bytea[], %s::bytea[])
            as n (subject, generation, was, is_now)
    ),
    mine as materialized (
        select k.subject, k.generation, n.is_now
            from new as n join subject_keys as k on k.subject = n.subject and k.generation = n.generation
            where k.wrapped = n.was
            for update of k skip locked
    )
    update subject_keys as k set wrapped = mine.is_now
        from mine where k.subject = mine.subject and k.generation = mine.generation
"""


class Rotated(msgspec.Struct, frozen=True):
    """``keys``: how many keys of subjects there are; ``rewrapped``: how many of them were wrapped anew."""

    keys: int
    rewrapped: int


def rotate(conninfo: str, secret: bytes) -> Rotated:
    """Wraps every subject's key by the first of two master keys, in short transactions, and makes that the
    installation's, so that the second alone opens nothing any more. With one key it only finds that all is so.
    ``secret``: as MasterKey's. Killed at any time, it goes on where it was when it is called again.

    Raises WrongMasterKey when neither is the installation's, or a subject's key opens by neither; psycopg.Error.
    """
    master = MasterKey(secret)
    with psycopg.connect(conninfo, autocommit=True, application_name="modledger key rotate") as connection:
        # A table of one row at most.
        installation = connection.execute("select id, master_key_check from installation").fetchone()
        if installation is None or not master.is_of(*installation):
            raise WrongMasterKey("the master key is not this installation's; nothing was changed")
        keys = rewrapped = 0
        for attempt in count():
            keys = behind = 0
            for page in _pages(connection):
                keys += len(page)
                new = [(*row, again) for row in page if (again := master.rewrap(*row)) is not None]
                if new:
                    behind += len(new)
                    rewrapped += connection.execute(
                        _REWRAP, [list(column) for column in zip(*new, strict=True)]
                    ).rowcount
            if not behind:
                break
            if attempt:
                time.sleep(PAUSE)
        # A table of one row.
        connection.execute("update installation set master_key_check = %s", (master.check(installation[0]),))
    return Rotated(keys, rewrapped)


def _pages(connection: psycopg.Connection) -> Iterator[list[tuple[str, int, bytes]]]:
    last: tuple[str, int] = ("", -1)
    while page := connection.execute(_PAGE, (*last, BATCH)).fetchall():
        yield page
        last = page[-1][:2]

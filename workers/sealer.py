"""The sealer: takes what is new in the ledger into the Merkle tree and signs the head (docs/proof.md)."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import psycopg
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modledger.domain.merkle import leaf_hash
from modledger.domain.refusals import Conflict, NotFound
from modledger.domain.seal_proofs import Sealed, grown, last_head, root_at, tiles
from modledger.domain.seal_tree import WIDTH, carry, edge, position_of
from modledger.domain.settings import Settings
from modledger.domain.signed_heads import BadSignature, Head, NoHead, sign, verify
from modledger.workers.seal_key import LOCK, SealKeyError, origin, public_keys, signing_key
from modledger.workers.seal_store import carry_out, leaves
from modledger.workers.turn import wait_for_turn

log = structlog.get_logger()

SEAL_SECONDS = 60.0
RETRY_SECONDS = 5.0
# Events in one transaction: what a kill -9 makes us do again, and about 1 MB of memory.
BATCH = 64 * WIDTH


class SealBroken(Exception):
    """What was sealed is no longer what is stored, so nothing more is signed on top of it; the message says more."""


def run_sealer(
    settings: Settings, conninfo: str, clock: Callable[[], datetime], stop: threading.Event
) -> threading.Thread:
    """Starts the thread that seals every minute what is new, until ``stop`` is set. Of several processes one is active;
    one that cannot (its key is lost or another one) says so in the log and leaves the turn to the others."""
    thread = threading.Thread(target=_run, args=(settings, conninfo, clock, stop), name="sealer", daemon=True)
    thread.start()
    return thread


def _run(settings: Settings, conninfo: str, clock: Callable[[], datetime], stop: threading.Event) -> None:
    while not stop.is_set():
        pause = RETRY_SECONDS
        try:
            with psycopg.connect(conninfo, autocommit=True, application_name="modledger sealer") as connection:
                if wait_for_turn(connection, "sealer", stop):
                    signer = signing_key(settings, connection)
                    log.info("sealer is active")
                    while not stop.is_set():
                        seal(connection, signer, clock(), stop)
                        stop.wait(SEAL_SECONDS)
        except (SealKeyError, SealBroken) as error:
            log.error("nothing is sealed", error=str(error))
            pause = SEAL_SECONDS
        except (psycopg.Error, OSError) as error:
            log.warning("sealer starts over", error=str(error))
        except Exception:
            log.exception("sealer starts over after an unexpected error")
        stop.wait(pause)


def seal(
    connection: psycopg.Connection,
    signer: Ed25519PrivateKey,
    now: datetime,
    stop: threading.Event | None = None,
    batch: int = BATCH,
) -> Head | None:
    """Seals all that the ledger holds, in transactions of at most ``batch`` events, and signs the head. Returns it;
    None when nothing was new or ``stop`` was set meanwhile. ``connection``: in autocommit mode. May run anywhere at any
    time: whoever else does so waits.

    Raises SealBroken where the newest head is not what the tree has at its size, or was not signed by a key of ours.
    """
    _require_unbroken(connection)
    while _grow(connection, batch) == batch:
        if stop is not None and stop.is_set():
            return None
    return _sign(connection, signer, now)


def _require_unbroken(connection: psycopg.Connection) -> None:
    with connection.transaction():
        connection.execute(LOCK)
        sealed = _last(connection)
        if sealed is None:
            return
        try:
            head = verify(sealed.note, public_keys(connection))
            if (head.tree_size, head.position) != (sealed.tree_size, sealed.position):
                raise Conflict(f"the head of {sealed.tree_size} events says something else than its row")
            if carry_out(connection, root_at(head.tree_size)) != head.root:
                raise Conflict(f"the tree of {head.tree_size} events is not the one that was signed")
        except (NoHead, BadSignature, Conflict) as error:
            raise SealBroken(f"{error}; run modledger seal check") from error


def _last(connection: psycopg.Connection) -> Sealed | None:
    try:
        return carry_out(connection, last_head())
    except NotFound:
        return None


class _Leaves(NamedTuple):
    """A tile of level 0 in the making."""

    positions: list[int]
    hashes: bytearray


def _grow(connection: psycopg.Connection, batch: int) -> int:
    """Takes at most ``batch`` more events into the tree, all or none; returns how many."""
    with connection.transaction():
        connection.execute(LOCK)
        size, last = carry_out(connection, grown())
        above = carry_out(connection, tiles(edge(size)))
        number = size // WIDTH
        current = _Leaves(_positions(connection, number), bytearray(above.pop((0, number), b"")))
        before = dict(above)
        done: list[tuple[int, _Leaves]] = []
        added = 0
        # Nothing is ever committed later at a position that was passed (ledger_append's lock).
        with leaves(connection, last, 2**63 - 1, batch) as rows:
            for leaf in rows:
                current.positions.append(position_of(leaf))
                current.hashes.extend(leaf_hash(leaf))
                added += 1
                if len(current.positions) == WIDTH:
                    done.append((number, current))
                    carry(0, number, bytes(current.hashes), above)
                    number, current = number + 1, _Leaves([], bytearray())
        if not added:
            return 0
        if current.positions:
            done.append((number, current))
        with connection.cursor() as cursor:
            # seal_tiles_pkey
            cursor.executemany(
                "insert into seal_tiles (level, number, first_position, positions, hashes)"
                " values (%s, %s, %s, %s::bigint[], %s)"
                " on conflict (level, number) do update set positions = excluded.positions, hashes = excluded.hashes",
                [
                    *((0, number, tile.positions[0], tile.positions, bytes(tile.hashes)) for number, tile in done),
                    *(
                        (level, number, None, None, hashes)
                        for (level, number), hashes in above.items()
                        if before.get((level, number)) != hashes
                    ),
                ],
            )
        return added


def _positions(connection: psycopg.Connection, number: int) -> list[int]:
    # seal_tiles_pkey
    row = connection.execute("select positions from seal_tiles where level = 0 and number = %s", (number,)).fetchone()
    return [] if row is None else list(row[0])


def _sign(connection: psycopg.Connection, signer: Ed25519PrivateKey, now: datetime) -> Head | None:
    with connection.transaction():
        connection.execute(LOCK)
        size, position = carry_out(connection, grown())
        last = _last(connection)
        if size == (0 if last is None else last.tree_size):
            return None
        head = Head(
            origin=origin(connection),
            tree_size=size,
            root=carry_out(connection, root_at(size)),
            position=position,
            at=now.astimezone(UTC).replace(microsecond=0),
        )
        connection.execute(
            "insert into seals (tree_size, position, note) values (%s, %s, %s)", (size, position, sign(head, signer))
        )
        return head

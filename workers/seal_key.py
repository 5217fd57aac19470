"""The key that signs tree heads: from MODLEDGER_SEAL_KEY, or from a file in the data directory made once.

The database knows its public half (``seal_keys``), so that another key is noticed before it signs anything.
"""

from pathlib import Path
from uuid import UUID

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modledger.domain.settings import Settings
from modledger.domain.signed_heads import PublicKey, origin_of
from modledger.workers.key_file import LENGTH, create_key, read_key

# Beside the ledger's own locks: the table is the name.
LOCK = "select pg_advisory_xact_lock('pg_class'::regclass::oid::int, 'seals'::regclass::oid::int)"


class SealKeyError(Exception):
    """No usable key; the message says what to do. Nothing was changed."""


def signing_key(settings: Settings, connection: psycopg.Connection) -> Ed25519PrivateKey:
    """The key in force. Only for a ledger that never had one, a new key is written to ``$MODLEDGER_DATA_DIR/seal.key``
    (mode 0600, durable before it is used) and its public half to the database. ``connection``: in autocommit mode.

    Raises SealKeyError when the key is lost, another one, or its file damaged or open to everybody.
    """
    in_force = public_keys(connection)[-1:]
    path = settings.data_dir / "seal.key"
    if settings.seal_key is None and in_force:
        if not path.exists():
            raise SealKeyError(
                f"this ledger is sealed with {in_force[0]}, but {path} does not exist: put the file back from your"
                " backup or set MODLEDGER_SEAL_KEY; should the key be lost, `modledger seal new-key` begins with"
                " another one, and the heads signed so far keep their proof"
            )
    elif settings.seal_key is None:
        create_key(path)
    signer = _signer(settings, path)
    if not in_force:
        _register(connection, signer)
        in_force = public_keys(connection)[-1:]
    if in_force[0].raw != signer.public_key().public_bytes_raw():
        where = "MODLEDGER_SEAL_KEY" if settings.seal_key is not None else str(path)
        raise SealKeyError(
            f"{where} is not the key that this ledger is sealed with, {in_force[0]}: put that one back, or let"
            " `modledger seal new-key` begin with this one"
        )
    return signer


def adopt_key(settings: Settings, connection: psycopg.Connection) -> PublicKey:
    """Puts another key in force: the one of the settings, else that of the file, which is made when it is missing.
    Raises SealKeyError for the key that is in force already."""
    path = settings.data_dir / "seal.key"
    if settings.seal_key is None:
        create_key(path)
    signer = _signer(settings, path)
    known = public_keys(connection)
    if known and known[-1].raw == signer.public_key().public_bytes_raw():
        where = "change MODLEDGER_SEAL_KEY" if settings.seal_key is not None else f"move {path} away"
        raise SealKeyError(f"{known[-1]} is in force already: for a new key {where} first")
    _register(connection, signer, after=len(known))
    return public_keys(connection)[-1]


def public_keys(connection: psycopg.Connection) -> list[PublicKey]:
    """Those that heads of this ledger were ever signed with, the one in force last."""
    name = origin(connection)
    # The whole table, a row per key.
    rows = connection.execute("select public_key from seal_keys order by number").fetchall()
    return [PublicKey(name, raw) for (raw,) in rows]


def origin(connection: psycopg.Connection) -> str:
    """The name of the ledger in its heads. Raises SealKeyError before the installation has begun."""
    # A table of one row at most.
    row: tuple[UUID] | None = connection.execute("select id from installation").fetchone()
    if row is None:
        raise SealKeyError("this installation has not begun yet: run modledger migrate")
    return origin_of(row[0])


def _signer(settings: Settings, path: Path) -> Ed25519PrivateKey:
    if settings.seal_key is not None:
        return Ed25519PrivateKey.from_private_bytes(settings.seal_key)
    if path.stat().st_mode & 0o007:
        raise SealKeyError(f"{path} is open to everybody on this machine: chmod 600 it, or better begin with a new key")
    key = read_key(path)
    if key is None:
        raise SealKeyError(f"{path} does not hold a seal key: {LENGTH} bytes in base64")
    return Ed25519PrivateKey.from_private_bytes(key)


def _register(connection: psycopg.Connection, signer: Ed25519PrivateKey, after: int = 0) -> None:
    with connection.transaction():
        connection.execute(LOCK)
        # Of two that begin at once, the first one's key is in force.
        connection.execute(
            "insert into seal_keys (public_key, since) select %s, now() where (select count(*) from seal_keys) = %s",
            (signer.public_key().public_bytes_raw(), after),
        )

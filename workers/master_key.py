"""The installation's master key: from MODLEDGER_MASTER_KEY, or from a file in the data directory made once."""

import base64
import binascii
import os
import secrets
from contextlib import suppress
from pathlib import Path

import psycopg

from modledger.domain.settings import Settings

LENGTH = 32


class MasterKeyError(Exception):
    """No usable key; the message says what to do. Nothing was changed."""


def master_key(settings: Settings, conninfo: str) -> bytes:
    """The key, 32 bytes. Only for an installation that never had one, a new key is written to
    ``$MODLEDGER_DATA_DIR/master.key`` (mode 0600, durable before it is used).

    Raises MasterKeyError when the key of an installation is missing or its file is damaged; whether a key is the right
    one, the ledger checks. psycopg.Error when the server cannot be reached.
    """
    if settings.master_key is not None:
        return settings.master_key
    path = settings.data_dir / "master.key"
    with suppress(FileNotFoundError):
        return _read(path)
    if _initialised(conninfo):
        raise MasterKeyError(
            f"this database has a master key, but {path} does not exist: put the file back from your backup or set"
            " MODLEDGER_MASTER_KEY; without the key the ledger's personal text cannot be read"
        )
    _create(path)
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != LENGTH:
        raise MasterKeyError(f"{path} does not hold a master key: {LENGTH} bytes in base64")
    return key


def _initialised(conninfo: str) -> bool:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        # A table of one row at most.
        found = connection.execute("select from installation").fetchone()
    return found is not None


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".master.key.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(LENGTH)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link fails when the name is taken: of two processes at once, one makes the key and both read it.
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

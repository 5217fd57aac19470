"""The installation's master key: from MODLEDGER_MASTER_KEY, or from a file in the data directory made once."""

from contextlib import suppress
from pathlib import Path

import psycopg

from modledger.domain.settings import Settings
from modledger.workers.key_file import LENGTH, create_key, read_keys


class MasterKeyError(Exception):
    """No usable key; the message says what to do. Nothing was changed."""


def master_key(settings: Settings, conninfo: str) -> bytes:
    """The key, 32 bytes, or two of them while it is rotated (docs/keys.md). Only for an installation that never had
    one, a new key is written to ``$MODLEDGER_DATA_DIR/master.key`` (mode 0600, durable before it is used).

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
    create_key(path)
    return _read(path)


def _read(path: Path) -> bytes:
    found = read_keys(path)
    if found is None or len(found) > 2:
        raise MasterKeyError(
            f"{path} does not hold a master key: {LENGTH} bytes in base64, or two such lines while it is rotated"
            " (docs/keys.md)"
        )
    return b"".join(found)


def _initialised(conninfo: str) -> bool:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        # A table of one row at most.
        found = connection.execute("select from installation").fetchone()
    return found is not None

"""A secret of 32 random bytes in a file of its own: made once, durable before it is used, for its owner's eyes only."""

import base64
import binascii
import os
import secrets
from contextlib import suppress
from pathlib import Path

LENGTH = 32


def read_key(path: Path) -> bytes | None:
    """The secret, None where the file holds something else. Raises FileNotFoundError."""
    return _decoded(path.read_bytes().strip())


def _decoded(text: bytes) -> bytes | None:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return key if len(key) == LENGTH else None


def read_keys(path: Path) -> list[bytes] | None:
    """The secrets of a file with one or more lines, None where one of them is something else. Raises
    FileNotFoundError."""
    found = [_decoded(line) for line in path.read_bytes().split()]
    keys = [key for key in found if key is not None]
    return keys if keys and len(keys) == len(found) == len(set(keys)) else None


def create_key(path: Path) -> None:
    """Writes a new secret (mode 0600) unless the file is there; of several processes at once, one does."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
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

"""What program is running: hashes of our modules as they stand on disk, for ``/v1/admin/health``.

A hash is the SHA-256 of a list in the format of ``sha256sum``, ordered by path, so it can be had without us:

    export LC_ALL=C; sha256sum $(find domain -name '*.py' -o -name '*.sql' | sort) | sha256sum
"""

import hashlib
from functools import cache
from pathlib import Path

ROOMS = ("domain", "projections", "http", "workers")
SUFFIXES = {".py", ".sql"}

# The folders stand beside each other in a wheel as they do in the repository.
_ROOT = Path(__file__).resolve().parent.parent


@cache
def source_hashes() -> dict[str, str]:
    """The hash of each of our folders, in hexadecimal digits, as they were when a process first asked. The same from a
    wheel as from the repository."""
    return {room: _hash_of(_files(room)) for room in ROOMS}


@cache
def source_hash() -> str:
    """The hash of all of them together."""
    return _hash_of([file for room in ROOMS for file in _files(room)])


def _files(room: str) -> list[Path]:
    return [file for file in (_ROOT / room).rglob("*") if file.suffix in SUFFIXES]


def _hash_of(files: list[Path]) -> str:
    lines = sorted(
        (file.relative_to(_ROOT).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files
    )
    return hashlib.sha256("".join(f"{digest}  {path}\n" for path, digest in lines).encode()).hexdigest()

"""Arrays in PostgreSQL's binary form, made in one go: psycopg would look at each element by itself, three times.

The form is that of the server's ``array_recv``: dimensions, whether there are nulls, the element's type, length and
lower bound; then each element with its length before it, -1 for a null.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from struct import Struct
from typing import Any
from uuid import UUID

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEAD = Struct("!iiIii").pack
_LENGTH = Struct("!i").pack
_BIGINT = Struct("!iq").pack
_INTEGER = Struct("!ii").pack
_NULL = _LENGTH(-1)
_UUID_LENGTH = _LENGTH(16)
_NOTHING = Struct("!iiI").pack


class Wire(bytes):
    """A parameter that is in the binary form already. The statement has to say of which type: ``%b::text[]``."""


class _WireDumper(Dumper):
    format = Format.BINARY
    # Unknown: the server takes the type from the statement.
    oid = 0

    def dump(self, obj: Any) -> bytes:
        return bytes(obj)


psycopg.adapters.register_dumper(Wire, _WireDumper)


def _array(element: str, length: int, parts: Iterable[bytes], *, nulls: bool = False) -> Wire:
    oid = psycopg.adapters.types[element].oid
    if not length:
        return Wire(_NOTHING(0, 0, oid))
    return Wire(b"".join(chain((_HEAD(1, nulls, oid, length, 1),), parts)))


def texts(values: Sequence[str]) -> Wire:
    """``text[]``, without NUL characters. Cheapest where many are the same."""
    made = {value: _with_length(value.encode()) for value in set(values)}
    return _array("text", len(values), map(made.__getitem__, values))


def bigints(values: Sequence[int]) -> Wire:
    """``bigint[]``, each within 64 bits."""
    return _array("int8", len(values), map(_BIGINT, repeat(8), values))


def integers(values: Sequence[int]) -> Wire:
    """``int[]``, each within 32 bits."""
    return _array("int4", len(values), map(_INTEGER, repeat(4), values))


def byteas(values: Sequence[bytes]) -> Wire:
    """``bytea[]``."""
    return _array("bytea", len(values), chain.from_iterable(zip(map(_LENGTH, map(len, values)), values, strict=True)))


def uuids(values: Sequence[UUID | None]) -> Wire:
    """``uuid[]``."""
    parts = (_NULL if value is None else _UUID_LENGTH + value.bytes for value in values)
    return _array("uuid", len(values), parts, nulls=True)


def _with_length(value: bytes) -> bytes:
    return _LENGTH(len(value)) + value

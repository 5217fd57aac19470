"""Opaque cursors: where a page ended, and of which search.

A cursor is the URL-safe base64 of a JSON array: a digest of the filters and the sort that it belongs to, then the
place, which is what the search sorts by. A place is a Struct with ``array_like`` and ``forbid_unknown_fields``; its
times are ``Moment``, its ids ``Id`` and its texts ``Text``, so that nothing can stand there that PostgreSQL would
refuse.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

P = TypeVar("P", bound=msgspec.Struct)

Moment = Annotated[datetime, Meta(tz=True)]
Id = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Text = Annotated[str, Meta(pattern=r"^[^\x00]*$")]


def encode(search: Sequence[object], place: msgspec.Struct) -> str:
    """``search``: the filters and the sort, as JSON can tell them apart."""
    packed = msgspec.json.encode((_digest(search), place))
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode(text: str, search: Sequence[object], place: type[P]) -> P:
    """The place. Raises ValueError for what is no cursor or one of another search."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        digest, found = msgspec.json.decode(raw, type=tuple[str, msgspec.Raw])
        decoded = msgspec.json.decode(found, type=place)
    except (binascii.Error, UnicodeError, msgspec.DecodeError, RecursionError):
        raise ValueError("cursor is not valid") from None
    if digest != _digest(search):
        raise ValueError("cursor belongs to another search")
    return decoded


def _digest(search: Sequence[object]) -> str:
    return hashlib.sha256(msgspec.json.encode(search)).hexdigest()[:16]

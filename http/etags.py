"""Strong ETags of single records, and the two conditions that go with them (api.md §1, RFC 9110 §13).

A tag is ``"<version>-<hash of the body>"``: the version is what a command compares, the hash makes it strong though
parts of a body (the last activity, a tier that ran out) change without an event.
"""

import hashlib
import re

from modledger.http.errors import Problem, bad

_TAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|\Z)')


def etag(version: int, body: bytes) -> str:
    """The tag of a body made from that version of a stream or punishment."""
    return f'"{version}-{hashlib.sha256(body).hexdigest()[:16]}"'


def unchanged(if_none_match: str | None, tag: str) -> bool:
    """Whether the caller already has this body (HTTP 304). Compared weakly, as RFC 9110 §13.1.2 says."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    return any(f'"{opaque}"' == tag for _, opaque in _tags("If-None-Match", if_none_match))


def expected_version(if_match: str | None) -> int | None:
    """The version that a command has to meet; None for any (no header, or ``*``).

    Of a list the greatest: versions only grow, so no other can still be met. Raises Problem 400 for what is no list of
    tags and 412 where none can match: weak tags never do (RFC 9110 §13.1.1), nor do tags that we did not give.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    versions = [
        int(found[1])
        for weak, opaque in _tags("If-Match", if_match)
        if not weak and (found := re.fullmatch(r"([0-9]{1,18})-[0-9a-f]{16}", opaque))
    ]
    if not versions:
        raise Problem(412, "If-Match names no version of this record")
    return max(versions)


def require_tags(header: str, value: str | None) -> None:
    """Raises Problem 400 for a value that is neither ``*`` nor a list of tags."""
    if value is not None and value.strip() != "*":
        _tags(header, value)


def _tags(header: str, value: str) -> list[tuple[bool, str]]:
    tags = []
    at = 0
    while at < len(value):
        found = _TAG.match(value, at)
        if found is None:
            raise bad(f"{header} must be * or a list of quoted tags")
        tags.append((found[1] is not None, found[2]))
        at = found.end()
    if not tags:
        raise bad(f"{header} must be * or a list of quoted tags")
    return tags

"""Tiny MaxMind DBs, written by the format's specification (version 2.0): a search tree over the bits of addresses,
sixteen zero bytes, the records, and metadata behind a marker."""

from collections.abc import Mapping
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any, NamedTuple

_MARKER = b"\xab\xcd\xefMaxMind.com"


class _Integer(NamedTuple):
    """``kind`` 5: of 16 bits, 6: of 32 bits, 9: of 64 bits."""

    kind: int
    value: int


def write_database(path: Path, places: Mapping[str, Any]) -> None:
    """A database of these networks. A record is any mapping, or bytes that stand in the file as they are."""
    data = b""
    nodes: list[list[int | None]] = [[None, None]]
    leaves: list[tuple[int, int, int]] = []
    for text, record in places.items():
        network = ip_network(text)
        # The tree is that of version 6, in which version 4 has ::/96.
        skipped = 96 if isinstance(network, IPv4Network) else 0
        bits = f"{int(network.network_address):0{network.max_prefixlen}b}"[: network.prefixlen]
        path_bits = [int(bit) for bit in "0" * skipped + bits]
        node = 0
        for bit in path_bits[:-1]:
            below = nodes[node][bit]
            if below is None:
                below = nodes[node][bit] = len(nodes)
                nodes.append([None, None])
            node = below
        leaves.append((node, path_bits[-1], len(data)))
        data += record if isinstance(record, bytes) else _encoded(record)
    count = len(nodes)
    for node, bit, offset in leaves:
        nodes[node][bit] = count + 16 + offset
    tree = b"".join((count if to is None else to).to_bytes(3, "big") for both in nodes for to in both)
    metadata = {
        "node_count": _Integer(6, count),
        "record_size": _Integer(5, 24),
        "ip_version": _Integer(5, 6),
        "database_type": "Test-City",
        "languages": ["en"],
        "binary_format_major_version": _Integer(5, 2),
        "binary_format_minor_version": _Integer(5, 0),
        "build_epoch": _Integer(9, 1_773_144_000),
        "description": {"en": "Test"},
    }
    path.write_bytes(tree + bytes(16) + data + _MARKER + _encoded(metadata))


def _encoded(value: Any) -> bytes:
    match value:
        case dict():
            return _control(7, len(value)) + b"".join(_encoded(k) + _encoded(v) for k, v in value.items())
        case list():
            return _control(11, len(value)) + b"".join(map(_encoded, value))
        case str():
            text = value.encode()
            return _control(2, len(text)) + text
        case _Integer():
            number = value.value.to_bytes(8, "big").lstrip(b"\0")
            return _control(value.kind, len(number)) + number
    raise TypeError(value)


def _control(kind: int, size: int) -> bytes:
    assert size < 29
    return bytes([kind << 5 | size]) if kind < 8 else bytes([size, kind - 7])

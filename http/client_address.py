"""Where a request comes from: the address of its peer, or what a trusted proxy says of it.

``X-Forwarded-For`` is believed from the networks of ``MODLEDGER_TRUSTED_PROXIES`` only. Each proxy appends the address
of its own peer, so the list is read from its end: the first address that is no trusted proxy's is the client, and
whatever stands before it may be the client's own invention.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from litestar import Request

from modledger.domain.settings import Network
from modledger.http.parameters import header_values
from modledger.http.services import services

Address = IPv4Address | IPv6Address

_UNKNOWN_IP = "0.0.0.0"  # noqa: S104 - what history shows for a peer without an address, such as a Unix socket


def client_address(request: Request[Any, Any, Any]) -> Address | None:
    """The address of the client; None for a peer without one, such as a Unix socket."""
    client = request.scope.get("client")
    peer = _peer(client[0]) if client else None
    trusted = services(request).settings.trusted_proxies
    if peer is None or not trusted or not _within(peer, trusted):
        return peer
    return forwarded_for(peer, header_values(request, "x-forwarded-for"), trusted)


def client_ip(request: Request[Any, Any, Any]) -> str | None:
    """As ``client_address``, as text."""
    address = client_address(request)
    return None if address is None else str(address)


def client_ip_or_unknown(request: Request[Any, Any, Any]) -> str:
    """As ``client_ip``, with 0.0.0.0 for none."""
    return client_ip(request) or _UNKNOWN_IP


def forwarded_for(peer: Address, headers: Iterable[str], trusted: Sequence[Network]) -> Address:
    """The client behind ``peer``, which is a trusted proxy. Several headers are one list (RFC 9110 §5.3); what is no
    address ends it, and the proxy that said so is the client. Where all are trusted proxies it is the first one."""
    client = peer
    for element in reversed(",".join(headers).split(",")):
        text = element.strip()
        if not text:
            continue
        said = parsed(_without_port(text))
        if said is None:
            break
        client = said
        if not _within(said, trusted):
            break
    return client


def parsed(text: str) -> Address | None:
    """An address in its one form: IPv4 where it is that within IPv6, and without a zone; None for anything else."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


# What a socket says, so short; not for what a client may make up.
_peer = lru_cache(maxsize=1024)(parsed)


def _without_port(text: str) -> str:
    # 192.0.2.1:4711, [2001:db8::1]:4711 and [2001:db8::1] are what proxies write beside the bare address.
    if text.startswith("["):
        inside, bracket, port = text[1:].partition("]")
        return inside if bracket and (not port or _is_port(port)) and ":" in inside else ""
    host, colon, _ = text.partition(":")
    return host if colon and _is_port(text[len(host) :]) and "." in host else text


def _is_port(text: str) -> bool:
    return text[0] == ":" and len(text) <= 6 and text[1:].isascii() and text[1:].isdigit()


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)

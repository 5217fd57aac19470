"""What every handler works with: one of each for a server process, reached through the request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from litestar import Request
from maxminddb import Reader as GeoIP

from modledger.domain.ledger import Ledger
from modledger.domain.settings import Settings
from modledger.http.command_groups import CommandGroups
from modledger.http.idempotency import Keys
from modledger.http.rate_limits import Kind, Limit, RateLimiter
from modledger.http.reader import Coalesced, Reader
from modledger.http.sealing import Sealing
from modledger.http.together import Together
from modledger.http.views import HealthView


@dataclass(frozen=True, kw_only=True)
class Services:
    """``reader`` reads the read tables, ``desk`` keeps sessions, log-in codes and idempotency keys. ``clock`` tells the
    time of every rule; waiting for projectors and connections goes by the event loop's own. ``fragments``: the read
    tables have their indexes for fragments."""

    settings: Settings
    clock: Callable[[], datetime]
    started_at: datetime
    ledger: Ledger
    commands: CommandGroups
    reader: Reader
    desk: Reader
    # Of the probes alone, and what they answer.
    probes: Reader
    health: Together[HealthView]
    ready: Together[str | None]
    viewers: Coalesced[bytes]
    users: Coalesced[int]
    callers: Coalesced[bytes]
    names: Coalesced[str]
    # The detail views, whole.
    user_details: Coalesced[int]
    guilds: Coalesced[int]
    guild_details: Coalesced[int]
    checkpoints: Coalesced[str]
    sealing: Sealing
    keys: Keys
    # What a client may ask in a minute, by kind of operation, and who counts it.
    limits: Mapping[Kind, Limit]
    limiter: RateLimiter
    # SHA-256 of the program's source as it was at the start, and of each of its folders.
    source_hash: str
    source_hashes: dict[str, str]
    fragments: bool
    geoip: GeoIP | None


def utc_now() -> datetime:
    """The time of the machine."""
    return datetime.now(UTC)


def services(request: Request[Any, Any, Any]) -> Services:
    """The services of the application that answers the request."""
    found: Services = request.scope["litestar_app"].state["services"]
    return found

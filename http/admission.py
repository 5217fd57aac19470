"""How many requests are worked on at once. For whoever comes beyond that nothing is done but to refuse them, with 503
and Retry-After.

All that a request may have to wait for in a process (connections, threads, the ledger's next commit, the count of a
rate limit, the lock of an Idempotency-Key) is asked for by requests that were admitted here, so no queue gets longer
than their number, however many clients there are. A place is given up while a body is waited for: a client that sends
slowly keeps nobody else out.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send
from prometheus_client import CollectorRegistry, Counter, Gauge

from modledger.http.errors import Busy

Kind = Literal["read", "command"]

# Apart, so that no flood of reads keeps a command out. Of each kind as many as are answered within the second after
# which the refused come again, where a few hundred are answered in it (docs/reliability.md has figures); and more
# would make nothing faster: of commands so many go into one group (command_groups.py).
LIMITS: Mapping[Kind, int] = {"read": 256, "command": 128}
# For how long a refusal is kept back, in seconds. Clients that come again without waiting as it says would otherwise
# cost the process more than those that it serves; so each connection costs two refusals a second at most. Only where
# a place was lost while a body came is one sent at once.
HOLD_SECONDS = 0.5
# Those who start, stop and balance processes ask these, and have to be told most of all when there is too much to do.
# They queue for nothing: of all that ask at the same time one asks the database (together.py).
PROBES = frozenset({"/health", "/health/live", "/health/ready"})


class Admission:
    """Counts who was admitted and who was refused, into ``registry``. Belongs to the application's event loop; a scrape
    may read it from any thread."""

    def __init__(self, registry: CollectorRegistry, limits: Mapping[Kind, int] = LIMITS) -> None:
        self.limits = dict(limits)
        self.admitted: dict[Kind, int] = dict.fromkeys(limits, 0)
        most = Gauge("modledger_http_admitted_max", "Requests that are worked on at most.", ["kind"], registry=registry)
        now = Gauge("modledger_http_admitted", "Requests that are worked on now.", ["kind"], registry=registry)
        refused = Counter("modledger_http_refused", "Requests refused, as too many were.", ["kind"], registry=registry)
        for kind, limit in limits.items():
            most.labels(kind).set(limit)
            now.labels(kind).set_function(partial(self.admitted.__getitem__, kind))
        self._refused = {kind: refused.labels(kind) for kind in limits}

    def enter(self, kind: Kind) -> None:
        """Raises Busy where all places are taken."""
        if self.admitted[kind] >= self.limits[kind]:
            self._refused[kind].inc()
            raise Busy
        self.admitted[kind] += 1

    def leave(self, kind: Kind) -> None:
        """A place is free again."""
        self.admitted[kind] -= 1


class Place:
    """What one request that was let in has of the admission."""

    __slots__ = ("_admission", "_kind", "_taken")

    def __init__(self, admission: Admission, kind: Kind) -> None:
        self._admission, self._kind = admission, kind
        self._taken = True

    def give_back(self) -> None:
        """To be called in the end, whatever happened."""
        if self._taken:
            self._taken = False
            self._admission.leave(self._kind)

    @contextmanager
    def given_up(self) -> Iterator[None]:
        """For the time that the client makes us wait. Raises Busy in the end where the place is taken by then."""
        self.give_back()
        yield
        self._admission.enter(self._kind)
        self._taken = True


def admitted(app: ASGIApp) -> ASGIApp:
    """``app`` for as many requests at once as ``state["admission"]`` allows. Raises Busy for the others, in a while."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope.get("path_template") in PROBES:
            await app(scope, receive, send)
            return
        admission: Admission = scope["litestar_app"].state["admission"]
        kind: Kind = "command" if scope["method"] == "POST" else "read"
        try:
            admission.enter(kind)
        except Busy:
            await asyncio.sleep(HOLD_SECONDS)
            raise
        if kind == "read":
            # There is no body that it could be given up for.
            try:
                await app(scope, receive, send)
            finally:
                admission.leave(kind)
            return
        place = scope["state"]["place"] = Place(admission, kind)
        try:
            await app(scope, receive, send)
        finally:
            place.give_back()

    return serve


def place_of(request: Request[Any, Any, Any]) -> Place:
    """The place of a request that was admitted."""
    place: Place = request.scope["state"]["place"]
    return place

"""A user's own sessions: where they are logged in, and ending one of them from another device (api.md §4)."""

import re
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response
from litestar.params import PathParameter

from modledger.http import logins
from modledger.http.answers import answer_once, reply, required_position
from modledger.http.endpoints import OWN, AnyRequest, command, read
from modledger.http.errors import Problem, bad
from modledger.http.geoip import GeoView, locate
from modledger.http.idempotency import Answer
from modledger.http.services import services
from modledger.http.sessions import SUFFIX_LENGTH, Viewer, current_found, token_of
from modledger.http.views import LoginView, Moment, View, whole
from modledger.http.wire import Cursor, Row

# More than anybody has; a user who does may end what is not shown too.
MOST = 500

# $1 user id, $2 now, $3 hash of the token that asks, $4 how many: those still good, newest first. sessions_order
NEWEST = """
    select token_suffix, created_at, expires_at, host(client_ip), token_hash = $3 from sessions
    where user_id = $1 and expires_at > $2 order by created_at desc, token_hash limit $4
"""
# $1 user id, $2 suffix, $3 now. sessions_order
_DESTROY = "delete from sessions where user_id = $1 and token_suffix = $2 and expires_at > $3 returning 1"


class SessionView(View, kw_only=True):
    """A session that is still good. ``client_ip`` is null for one that no address opened, ``geo`` where there is no
    GeoIP database, or nothing in it about the address."""

    token_suffix: str
    created_at: Moment
    expires_at: Moment
    client_ip: str | None
    geo: GeoView | None
    is_current: bool


class SessionsView(View, kw_only=True):
    """The sessions, newest first; ``geo_map`` holds every address in here, ``login_history`` the newest 100 log-ins."""

    sessions: list[SessionView]
    geo_map: dict[str, GeoView | None]
    login_history: dict[str, list[LoginView]]


class DestroyedView(View, kw_only=True):
    destroyed: bool


@read(
    "/v1/users/me/sessions",
    operation_id="list_own_sessions",
    summary="The sessions of the session's user that are still good, and the newest log-ins",
    access=OWN,
    tag="Users",
    example={
        "sessions": [
            {
                "token_suffix": "a1B2c3",
                "created_at": "2026-03-10T12:00:00Z",
                "expires_at": "2026-04-09T12:00:00Z",
                "client_ip": "198.51.100.7",
                "geo": None,
                "is_current": True,
            }
        ],
        "geo_map": {"198.51.100.7": None},
        "login_history": {"198.51.100.7": [{"ts": "2026-03-10T12:00:00Z", "ua": "Mozilla/5.0"}]},
    },
)
async def list_own_sessions(request: AnyRequest) -> Response[SessionsView]:
    has = services(request)
    viewer: Viewer = request.user
    now = has.clock()
    found = await current_found(request, required_position(request))

    async def both(cursor: Cursor) -> tuple[list[Row], list[Row]]:
        await cursor.execute(NEWEST.encode(), (viewer.user_id, now, viewer.token_hash, MOST))
        sessions = await cursor.fetchall()
        await cursor.execute(logins.OF_USER.encode(), (viewer.user_id, logins.NEWEST))
        return sessions, await cursor.fetchall()

    sessions, history = await has.desk.doing(both)
    addresses = [line[3] for line in sessions if line[3] is not None] + [line[0] for line in history]
    geo_map = locate(has.geoip, addresses)
    view = SessionsView(
        sessions=[_session(line, geo_map) for line in sessions],
        geo_map=geo_map,
        login_history=logins.by_address(history),
    )
    return reply(request, view, found.position)


def _session(line: Row, geo_map: dict[str, GeoView | None]) -> SessionView:
    suffix, created_at, expires_at, address, is_current = line
    return SessionView(
        token_suffix=suffix,
        created_at=whole(created_at),
        expires_at=whole(expires_at),
        client_ip=address,
        geo=geo_map.get(address),
        is_current=is_current,
    )


@command(
    "/v1/users/me/sessions/{token_suffix:str}/destroy",
    operation_id="destroy_own_session",
    summary="End another session of the session's user",
    access=OWN,
    tag="Users",
    example={"destroyed": True},
    errors={400: "The current session is ended by logging out", 404: "Session not found"},
    on_ledger=False,
)
async def destroy_own_session(
    request: AnyRequest,
    token_suffix: Annotated[
        str,
        PathParameter(description="The last 6 characters of its token. Several sessions with the same: all of them."),
    ],
) -> Response[DestroyedView]:
    has = services(request)
    user_id = request.user.user_id
    current = (token_of(request) or "")[-SUFFIX_LENGTH:]

    async def run(_: UUID) -> Answer:
        if token_suffix == current:
            raise bad("The current session is ended by logging out")
        now: datetime = has.clock()
        known = re.fullmatch(rf"[A-Za-z0-9_-]{{{SUFFIX_LENGTH}}}", token_suffix) is not None
        if not known or not await has.desk.fetch(_DESTROY, user_id, token_suffix, now):
            raise Problem(404, "Session not found")
        return Answer(status=200, body=msgspec.json.encode(DestroyedView(destroyed=True)))

    return await answer_once(request, f"user:{user_id}", run)


HANDLERS = [list_own_sessions, destroy_own_session]

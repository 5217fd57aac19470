"""Floors of a profile read, each on the server that the product uses.

    python -m bench.floors {raw,constant,row} [DATABASE-URL] PORT

``raw``: an ASGI application of a dozen lines with a constant answer; ``constant``: the same answer by a Litestar
handler; ``row``: a Litestar handler that reads the profile's row through psycopg's pool and answers as the product
does, without asking who wants to know.
"""

import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server
from litestar import Litestar, Response, get
from litestar.params import FromPath
from psycopg_pool import AsyncConnectionPool

from modledger.http.profile import user_view
from modledger.projections import profile

# The example of api.md §5.1.
ANSWER = (
    b'{"discord_id":"123456789012345678","username":"exampleuser",'
    b'"avatar_url":"https://cdn.discordapp.com/avatars/123456789012345678/abc.png","subscription_tier":0,"state":0,'
    b'"permission_level":0,"prefix":"!","subscription_expires_at":null,"last_activity_at":"2026-03-10T12:00:00Z",'
    b'"source":"database","created_at":"2025-01-01T00:00:00Z","updated_at":"2026-03-10T12:00:00Z"}'
)
# profiles_name, user_activity_pkey
ROW = f"""
    select 0, a.last_activity_at, {profile.SHOWN} from profiles p
    left join user_activity a on a.user_id = p.user_id
    where p.username_key = %s order by p.named_at desc, p.user_id limit 1
"""

_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def raw(scope: dict[str, Any], receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:  # noqa: ARG001
    """The ASGI application."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": ANSWER})


@get("/v1/users/profile/{username:str}")
async def constant(username: FromPath[str]) -> Response[bytes]:  # noqa: ARG001
    return Response(ANSWER, media_type="application/json")


def row_application(conninfo: str) -> Litestar:
    """The pool with its defaults, but in autocommit mode and with statements prepared at once, as ours are."""
    pool = AsyncConnectionPool(conninfo, min_size=4, open=False, kwargs={"autocommit": True, "prepare_threshold": 0})

    @get("/v1/users/profile/{username:str}")
    async def row(username: FromPath[str]) -> Response[bytes]:
        async with pool.connection() as connection:
            cursor = await connection.execute(ROW, (profile.name_key(username),))
            found = await cursor.fetchone()
        if found is None:
            return Response(b"{}", status_code=404)
        view = user_view(profile.found_shown(username, found), datetime.now(UTC))
        return Response(msgspec.json.encode(view), media_type="application/json")

    return Litestar([row], openapi_config=None, on_startup=[pool.open], on_shutdown=[pool.close])


def main(kind: str, *rest: str) -> None:
    *database, port = rest
    application: Any
    if kind == "raw":
        application = raw
    elif kind == "constant":
        application = Litestar([constant], openapi_config=None)
    else:
        application = row_application(database[0])
    # As workers/serve.py makes it.
    server = Server(
        application,
        address="127.0.0.1",
        port=int(port),
        interface=Interfaces.ASGI,
        websockets=False,
        backlog=1024,
        log_enabled=False,
    )
    uvloop.run(server.serve())


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The floor of every request: the same framework and server with a constant for an answer, of the profile's size.

python -m bench.constant PORT
"""

import sys

import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server
from litestar import Litestar, Response, get
from litestar.params import FromPath

ANSWER = (
    b'{"discord_id":"123456789012345678","username":"exampleuser",'
    b'"avatar_url":"https://cdn.discordapp.com/avatars/123456789012345678/abc.png","subscription_tier":0,"state":0,'
    b'"permission_level":0,"prefix":"!","subscription_expires_at":null,"last_activity_at":"2026-03-10T12:00:00Z",'
    b'"source":"database","created_at":"2025-01-01T00:00:00Z","updated_at":"2026-03-10T12:00:00Z"}'
)


@get("/v1/users/profile/{username:str}")
async def constant(username: FromPath[str]) -> Response[bytes]:  # noqa: ARG001
    """The example of api.md §5.1."""
    return Response(ANSWER, media_type="application/json")


if __name__ == "__main__":
    # As workers/serve.py makes it.
    server = Server(
        Litestar([constant], openapi_config=None),
        address="127.0.0.1",
        port=int(sys.argv[1]),
        interface=Interfaces.ASGI,
        websockets=False,
        backlog=1024,
        log_enabled=False,
    )
    uvloop.run(server.serve())

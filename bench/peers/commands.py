"""The peer for commands: FastAPI and an eventsourcing ``Application`` on uvicorn, as their documentation teaches.

    python -m bench.peers.commands DATABASE-URL SESSIONS-URL PORT

An aggregate for each user, loaded from its events and saved with the new one for each warning, by the library's own
recorder with its defaults. The endpoint is an ordinary function, which FastAPI runs in a thread. ``SESSIONS-URL``:
where the sessions and the levels stand, which are checked as ours are.
"""

import hashlib
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated
from uuid import NAMESPACE_OID, UUID, uuid5

import uvicorn
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError
from fastapi import Cookie, FastAPI, HTTPException
from psycopg_pool import ConnectionPool
from pydantic import BaseModel

from bench.peers.library import environment

TRIES = 5
# sessions_pkey, profiles_pkey
VIEWER = """
    select s.user_id, s.expires_at, p.level, p.banned_until, p.timeout_until
    from sessions s join profiles p using (user_id) where s.token_hash = %s
"""


class Member(Aggregate):
    """A user who may be warned."""

    @event("Registered")
    def __init__(self, user_id: int) -> None:
        self.user_id = user_id
        self.warnings: list[str] = []

    @staticmethod
    def create_id(user_id: int) -> UUID:
        return uuid5(NAMESPACE_OID, f"user:{user_id}")

    @event("Warned")
    def warn(self, reason: str, issued_by: int) -> None:  # noqa: ARG002 - becomes the event
        self.warnings.append(reason)


class Moderation(Application[UUID]):
    """Registers and warns."""

    def register(self, user_id: int) -> None:
        self.save(Member(user_id=user_id))

    def warn(self, user_id: int, reason: str, issued_by: int) -> int:
        """The version after it. Who is not known yet is registered first; raises IntegrityError when others were faster
        five times."""
        for left in reversed(range(TRIES)):
            with suppress(AggregateNotFoundError):
                member: Member = self.repository.get(Member.create_id(user_id))
                member.warn(reason=reason, issued_by=issued_by)
                try:
                    self.save(member)
                except IntegrityError:
                    if not left:
                        raise
                    continue
                return member.version
            with suppress(IntegrityError):
                self.register(user_id)
        raise AssertionError


class Body(BaseModel):
    reason: str


class Issued(BaseModel):
    user_discord_id: str
    guild_discord_id: str | None
    punishment_type: str
    reason: str
    issued_by_discord_id: str
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    id: int


def application(conninfo: str, sessions: str) -> FastAPI:
    moderation = Moderation(environment(conninfo))
    pool = ConnectionPool(sessions, open=True, kwargs={"autocommit": True})
    app = FastAPI()

    @app.post("/v1/admin/punishments/user/{user_id}/warn")
    def warn(user_id: int, body: Body, hsession: Annotated[str | None, Cookie()] = None) -> Issued:
        with pool.connection() as connection:
            viewer = connection.execute(VIEWER, (hashlib.sha256((hsession or "").encode()).digest(),)).fetchone()
        now = datetime.now(UTC)
        if viewer is None or viewer[1] <= now:
            raise HTTPException(401, "Authentication required")
        if any(end is not None and end > now for end in viewer[3:]):
            raise HTTPException(403, "Account restricted")
        if viewer[2] < 1:
            raise HTTPException(403, "Moderator access required")
        version = moderation.warn(user_id, body.reason, viewer[0])
        at = now.replace(microsecond=0)
        return Issued(
            user_discord_id=str(user_id),
            guild_discord_id=None,
            punishment_type="WARNING",
            reason=body.reason,
            issued_by_discord_id=str(viewer[0]),
            expires_at=None,
            created_at=at,
            updated_at=at,
            id=version,
        )

    return app


if __name__ == "__main__":
    # The library also reads the process's environment; what is meant is what is given here.
    os.environ.pop("PERSISTENCE_MODULE", None)
    given = application(sys.argv[1], sys.argv[2])
    uvicorn.run(given, host="127.0.0.1", port=int(sys.argv[3]), log_level="warning", access_log=False)

"""A valid request for each row of docs/permissions.md, so that its status is what the permission says.

Whatever a request is about is made for it alone: a cell of the table never sees what another one did.
"""

from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

from modledger.domain import commands
from modledger.domain.envelope import SYSTEM, Actor, Subject
from modledger.http.sessions import SUFFIX_LENGTH, open_session
from modledger.workers.sealer import seal
from tests.http_client import ADMIN, OTHER_ADMIN, OTHER_MODERATOR, OWNER, World
from tests.sealing import begun

REASON = {"reason": "Rule 4"}
_numbers = count(700_000)


class Asker(NamedTuple):
    """Who asks: the user behind the session, if it is one; ``staff`` says that this user may punish now."""

    user_id: int | None
    staff: bool
    credentials: dict[str, str]


class Asked(NamedTuple):
    path: str
    body: Any = None


Maker = Callable[[World, Asker], Asked]
REQUESTS: dict[tuple[str, str], Maker] = {}


def asks(operation: str, about: str = "") -> Callable[[Maker], Maker]:
    """Registers what makes the request of the row with this operation ({} for what its path names) and subject."""

    def register(maker: Maker) -> Maker:
        assert (operation, about) not in REQUESTS
        REQUESTS[operation, about] = maker
        return maker

    return register


def plain(operation: str, *, body: Any = None) -> None:
    """Registers a request that is about nothing that would have to be made."""
    path = operation.partition(" ")[2]
    REQUESTS[operation, ""] = lambda _, __: Asked(path, body)


# -- what requests are about


def a_user(world: World, level: int = 0) -> int:
    user_id = next(_numbers)
    world.register(user_id, f"user{user_id}", level)
    return user_id


def a_guild(world: World, owner_id: int | None = None) -> int:
    guild_id = next(_numbers)
    world.act(commands.RegisterGuild(guild_id=guild_id, name=f"guild {guild_id}", owner_id=owner_id), SYSTEM)
    return guild_id


def a_bot(world: World) -> int:
    bot_id = next(_numbers)
    world.act(commands.RegisterBot(bot_id=bot_id, name=f"bot {bot_id}", owner_id=a_user(world)), SYSTEM)
    return bot_id


def a_timeout(world: World, by: Actor) -> int:
    """The id of an active timeout."""
    timeout = commands.IssueTimeout(user_id=a_user(world), reason="Rule 1", expires_at=world.now + timedelta(days=1))
    position = world.act(timeout, by).position
    assert position is not None
    return position


def own_or_systems(asker: Asker) -> Actor:
    """The asker where they may issue something now, else the system: then there is nothing of their own."""
    return Actor("user", asker.user_id) if asker.staff and asker.user_id is not None else SYSTEM


def ahead(world: World, **by: float) -> str:
    return world.later(**by).isoformat()


# -- authentication

plain("POST /v1/authentication/logout")


@asks("POST /v1/authentication/request")
def request_login_code(world: World, _: Asker) -> Asked:
    return Asked("/v1/authentication/request", {"discord_id": a_user(world)})


@asks("POST /v1/authentication/bot/login-code")
def fetch_login_code(world: World, _: Asker) -> Asked:
    return Asked("/v1/authentication/bot/login-code", {"discord_id": a_user(world)})


@asks("POST /v1/authentication/verify")
def verify_login_code(world: World, _: Asker) -> Asked:
    user_id = a_user(world)
    world.post("/v1/authentication/request", json={"discord_id": user_id})
    fetched = world.post(
        "/v1/authentication/bot/login-code",
        json={"discord_id": user_id},
        headers={"X-API-Key": world.bot_key(next(_numbers))},
    )
    return Asked("/v1/authentication/verify", {"code": fetched.json()["code"]})


# -- users

plain("GET /v1/users/me")
plain("GET /v1/users/me/subscription")
plain("GET /v1/users/me/punishments")
plain("GET /v1/users/me/guilds")
plain("GET /v1/users/me/sessions")
plain("GET /v1/users/search")


@asks("POST /v1/users/me/prefix")
def change_prefix(_: World, __: Asker) -> Asked:
    return Asked("/v1/users/me/prefix", {"prefix": f"{next(_numbers) % 1000}?"})


@asks("POST /v1/users/me/guilds/{}/prefix", "a guild that they own")
def change_own_guilds_prefix(world: World, asker: Asker) -> Asked:
    return Asked(f"/v1/users/me/guilds/{a_guild(world, asker.user_id)}/prefix", {"prefix": "?"})


@asks("POST /v1/users/me/guilds/{}/prefix", "a guild of somebody else")
def change_a_guilds_prefix(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/users/me/guilds/{a_guild(world, a_user(world))}/prefix", {"prefix": "?"})


@asks("POST /v1/users/me/sessions/{}/destroy", "another session of theirs")
def destroy_session(world: World, asker: Asker) -> Asked:
    token = open_session(world.connection, asker.user_id or a_user(world), 0, world.now)
    return Asked(f"/v1/users/me/sessions/{token[-SUFFIX_LENGTH:]}/destroy")


@asks("GET /v1/users/profile/{}")
def get_profile(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/users/profile/user{a_user(world)}")


@asks("GET /v1/users/{}")
def get_user(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/users/{a_user(world)}")


@asks("GET /v1/users/profile/{}", "as of another time")
def get_past_profile(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/users/profile/user{a_user(world)}?as_of={quote(world.now.isoformat())}")


@asks("GET /v1/users/{}", "as of another time")
def get_past_user(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/users/{a_user(world)}?as_of={quote(world.now.isoformat())}")


@asks("GET /v1/guilds/{}", "as of another time")
def get_past_guild(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/guilds/{a_guild(world)}?as_of={quote(world.now.isoformat())}")


# -- guilds, bots, statistics, health

plain("GET /v1/guilds/search")
plain("GET /v1/bots")
plain("GET /v1/bots/search")
plain("GET /v1/statistics/users")
plain("GET /v1/statistics/guilds")
plain("GET /v1/statistics/bots")
plain("GET /v1/statistics/application")
plain("GET /health")
plain("GET /health/live")
plain("GET /health/ready")
plain("GET /v1/admin/health")
plain("GET /v1/bot/me")
plain("POST /v1/bot/me", body={"guild_ids": [], "users": 3})


@asks("GET /v1/guilds/{}")
def get_guild(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/guilds/{a_guild(world)}")


@asks("GET /v1/bots/{}")
def get_bot(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/bots/{a_bot(world)}")


@asks("GET /v1/bots/{}", "one that is not active")
def get_inactive_bot(world: World, _: Asker) -> Asked:
    bot_id = a_bot(world)
    world.act(commands.UpdateBot(bot_id=bot_id, is_active=False), Actor("user", OWNER))
    return Asked(f"/v1/bots/{bot_id}")


@asks("POST /v1/bot/batch")
def report_commands(world: World, _: Asker) -> Asked:
    ran = {
        "command": "play",
        "count": 1,
        "user_discord_id": a_user(world),
        "guild_discord_id": a_guild(world),
        "timestamp": world.now.isoformat(),
    }
    return Asked("/v1/bot/batch", {"commands": [ran]})


@asks("GET /v1/bot/users/{}")
def read_user_as_bot(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/bot/users/{a_user(world)}")


@asks("POST /v1/bot/users/{}")
def update_user_as_bot(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/bot/users/{a_user(world)}", {"username": f"renamed{next(_numbers)}"})


@asks("GET /v1/bot/guilds/{}")
def read_guild_as_bot(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/bot/guilds/{a_guild(world)}")


@asks("POST /v1/bot/guilds/{}")
def update_guild_as_bot(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/bot/guilds/{a_guild(world)}", {"name": "renamed"})


# -- punishments

plain("GET /v1/admin/punishments/search")


def _punishing(kind: str, act: str, about: str, target: Callable[[World], int], *, until: bool = False) -> None:
    def make(world: World, _: Asker) -> Asked:
        body = {**REASON, "expires_at": ahead(world, days=1)} if until else REASON
        return Asked(f"/v1/admin/punishments/{kind}/{target(world)}/{act}", body)

    REQUESTS[f"POST /v1/admin/punishments/{kind}/{{}}/{act}", about] = make


_punishing("user", "warn", "a User", a_user)
_punishing("user", "warn", "an Admin", lambda world: a_user(world, 2))
_punishing("user", "timeout", "a User", a_user, until=True)
_punishing("user", "timeout", "an Admin", lambda world: a_user(world, 2), until=True)
_punishing("user", "ban", "a User", a_user)
_punishing("user", "ban", "an Admin", lambda world: a_user(world, 2))
_punishing("guild", "warn", "a User's", lambda world: a_guild(world, a_user(world)))
_punishing("guild", "warn", "an Admin's", lambda world: a_guild(world, a_user(world, 2)))
_punishing("guild", "ban", "a User's", lambda world: a_guild(world, a_user(world)))
_punishing("guild", "ban", "an Admin's", lambda world: a_guild(world, a_user(world, 2)))


def _about_one(method: str, end: str, body: Any = None) -> None:
    # Who issued it decides: what the system did is for admins, what another did for whoever may act on them.
    issuers: dict[str, Callable[[Asker], Actor]] = {
        "issued by the asker, else by the system": own_or_systems,
        "issued by a moderator": lambda _: Actor("user", OTHER_MODERATOR),
        "issued by an admin": lambda _: Actor("user", OTHER_ADMIN),
    }
    for about, issuer in issuers.items():

        def make(world: World, asker: Asker, issuer: Callable[[Asker], Actor] = issuer) -> Asked:
            return Asked(f"/v1/admin/punishments/{a_timeout(world, issuer(asker))}{end}", body)

        REQUESTS[f"{method} /v1/admin/punishments/{{}}{end}", about] = make


_about_one("GET", "")
_about_one("GET", "/history")
_about_one("POST", "/lift", REASON)
_about_one("POST", "/amend", REASON)
_about_one("POST", "/void", REASON)
_about_one("POST", "/overturn", REASON)


def _a_batch(world: World) -> dict[str, Any]:
    return {"items": [{"action": "warn", "target": "user", "id": a_user(world), "reason": "Raid"}]}


@asks("POST /v1/admin/punishments/bulk")
def punish_in_bulk(world: World, _: Asker) -> Asked:
    return Asked("/v1/admin/punishments/bulk", _a_batch(world))


@asks("POST /v1/admin/punishments/bulk/{}/revert")
def revert_a_batch(world: World, _: Asker) -> Asked:
    done = world.post("/v1/admin/punishments/bulk", ADMIN, _a_batch(world))
    return Asked(f"/v1/admin/punishments/bulk/{UUID(done.json()['batch_id'])}/revert", REASON)


# -- levels and subscriptions


def _levels(about: str, level: int) -> None:
    def make(world: World, _: Asker) -> Asked:
        return Asked(f"/v1/admin/users/{a_user(world)}/permission", {"permission_level": level, **REASON})

    REQUESTS["POST /v1/admin/users/{}/permission", about] = make


_levels("to 1", 1)
_levels("to 2", 2)
_levels("to 3", 3)


def _erasing(about: str, level: int) -> None:
    REQUESTS["POST /v1/admin/users/{}/erase", about] = lambda world, _: Asked(
        f"/v1/admin/users/{a_user(world, level)}/erase", REASON
    )


_erasing("a User", 0)
_erasing("an Owner", 3)

plain("GET /v1/admin/subscriptions/active")


def _subscribing(kind: str, target: Callable[[World], int], act: str, body: Any) -> None:
    def make(world: World, _: Asker) -> Asked:
        target_id = target(world)
        if act == "revoke":
            subject = Subject("user", target_id) if kind == "user" else Subject("guild", target_id)
            world.act(commands.GrantSubscription(target=subject, tier=3))
        return Asked(f"/v1/admin/subscriptions/{kind}/{target_id}/{act}", body)

    REQUESTS[f"POST /v1/admin/subscriptions/{kind}/{{}}/{act}", ""] = make


for _kind, _target in (("user", a_user), ("guild", a_guild)):
    _subscribing(_kind, _target, "grant", {"tier": 2})
    _subscribing(_kind, _target, "trial", {})
    _subscribing(_kind, _target, "revoke", REASON)


# -- bots and guilds of the administration, audit log

plain("GET /v1/admin/bots")


@asks("POST /v1/admin/bots")
def register_bot(world: World, _: Asker) -> Asked:
    return Asked("/v1/admin/bots", {"discord_id": next(_numbers), "name": "helper", "owner_discord_id": a_user(world)})


@asks("POST /v1/admin/bots/{}/update")
def update_bot(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/admin/bots/{a_bot(world)}/update", {"name": "renamed"})


@asks("POST /v1/admin/bots/{}/regenerate-key")
def regenerate_key(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/admin/bots/{a_bot(world)}/regenerate-key")


@asks("POST /v1/admin/guilds/{}/update")
def update_guild(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/admin/guilds/{a_guild(world)}/update", {"name": "renamed"})


def _audit(about: str, query: str) -> None:
    REQUESTS["GET /v1/admin/audit/logs", about] = lambda _, __: Asked(f"/v1/admin/audit/logs{query}")


_audit("", "")
_audit("event_type=USER_TIMEOUT", "?event_type=USER_TIMEOUT")
_audit("event_type=USER_BAN", "?event_type=USER_BAN")


def _sealed(world: World) -> int:
    """The position of the last event, which is sealed."""
    seal(world.connection, begun(world.connection), world.now)
    return world.ledger.head()


@asks("GET /v1/admin/audit/head")
def get_audit_head(world: World, _: Asker) -> Asked:
    _sealed(world)
    return Asked("/v1/admin/audit/head")


@asks("GET /v1/admin/audit/proof/{}")
def prove_event(world: World, _: Asker) -> Asked:
    return Asked(f"/v1/admin/audit/proof/{_sealed(world)}")


@asks("GET /v1/admin/audit/consistency")
def prove_consistency(world: World, _: Asker) -> Asked:
    _sealed(world)
    return Asked("/v1/admin/audit/consistency?from=1")

"""The platform's API from outside: the documented request over real HTTP, the answer key by key, in order, by type.

What is to be answered stands in tests/contract.py, written from the contract and not from the product.
"""

import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests import contract
from tests.made_once import MadeOnce, fast_folder
from tests.postgres_processes import until
from tests.product import Answer, Product, make_product
from tests.shapes import differences, moment, one_of, text

EXAMPLE_USER, EXAMPLE_ADMIN, EXAMPLE_GUILD = 123456789012345678, 999888777666555444, 987654321098765432
DEMO_BOT = 666777888999111222
AVATAR = "https://cdn.example.org/a.png"
NO_LIMITS = {f"MODLEDGER_RATE_LIMIT_{kind}": "0" for kind in ("LOGIN", "STAFF", "PUBLIC", "BOT")}
_numbers = count(310_000_000_000_000_001)


class Platform:
    """The product with the demo in it, and a key of each kind. What one client wrote another may see some milliseconds
    later; so that no test waits for that, reads say which position they have heard of."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.public_key = product.key("public")
        self.bot_key = product.key("bot", str(DEMO_BOT))
        self.heard_of = 0

    def ask(self, who: str | None, line: str, body: Any = None) -> Answer:
        """``line`` is a method and a path; ``who`` a role of the demo, "public", "bot" or nobody."""
        method, _, path = line.partition(" ")
        headers = {"X-Ledger-Position": str(self.heard_of)} if method == "GET" else {}
        keys = {"public": self.public_key, "bot": self.bot_key}
        if who in keys:
            headers["Authorization"] = f"Bearer {keys[who]}"
        answer = self.product.ask(method, path, None if who in keys else who, body, **headers)
        self.heard_of = max(self.heard_of, int(answer.headers.get("x-ledger-position", 0)))
        return answer

    def answered(self, who: str | None, line: str, body: Any = None, *, shape: Any) -> Any:
        """The body of a 200 that has the shape."""
        answer = self.ask(who, line, body)
        assert answer.status == 200, (line, answer)
        assert answer.headers["content-type"] == "application/json", line
        assert differences(answer.body, shape) == [], line
        return answer.body

    def user(self, name: str | None = None) -> int:
        """A user whom the bot has just brought."""
        user_id = next(_numbers)
        said = {"discord_id": user_id, "username": name or f"contract{user_id}"}
        self.answered("bot", "POST /v1/authentication/bot/login-code", said, shape={"code": None})
        return user_id

    def guild(self, owner_id: int | None = None) -> int:
        """A guild that the bot has just brought."""
        guild_id = next(_numbers)
        said = {"name": f"Guild {guild_id}"} | ({} if owner_id is None else {"owner_discord_id": owner_id})
        self.answered("bot", f"POST /v1/bot/guilds/{guild_id}", said, shape=contract.PRIVATE_GUILD)
        return guild_id


@pytest.fixture(scope="module")
def platform(made_once: MadeOnce) -> Iterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="modledger-test-", dir=fast_folder()) as folder:
        product = Product(made_once("product", make_product, Path(folder) / "data"), **NO_LIMITS)
        product.start()
        try:
            yield Platform(product)
        finally:
            product.stop()


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


# -- logging in


def test_a_code_is_requested_fetched_and_verified(platform: Platform) -> None:
    user_id = platform.user()
    requested = {"message": "Login code sent via Discord DM", "expires_at": moment}
    platform.answered(None, "POST /v1/authentication/request", {"discord_id": user_id}, shape=requested)
    platform.answered(None, "POST /v1/authentication/request", {"username": f"contract{user_id}"}, shape=requested)
    code = platform.answered(
        "bot",
        "POST /v1/authentication/bot/login-code",
        {"discord_id": user_id, "username": f"contract{user_id}", "avatar_url": AVATAR},
        shape={"code": contract.CODE},
    )["code"]
    answer = platform.ask(None, "POST /v1/authentication/verify", {"code": code, "discord_id": user_id})
    assert answer.status == 200
    verified = {"status": "success", "message": "Authentication successful", "user": contract.USER}
    assert differences(answer.body, verified) == []
    assert answer.body["user"]["discord_id"] == str(user_id)
    assert answer.body["user"]["avatar_url"] == AVATAR
    # On loopback; elsewhere it is Secure and SameSite=None.
    cookie = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert cookie == {"httponly", "samesite=lax", "path=/", "max-age=2592000"}
    refused = platform.ask(None, "POST /v1/authentication/verify", {"code": code, "discord_id": user_id})
    assert refused.status == 401
    assert differences(refused.body, contract.ERROR) == []


# -- users


def test_the_profile_is_the_documented_one_to_the_byte(platform: Platform) -> None:
    for line in ("GET /v1/users/profile/exampleuser", "GET /v1/users/profile/ExampleUser"):
        assert platform.answered("user", line, shape=contract.USER) == {
            "discord_id": "123456789012345678",
            "username": "exampleuser",
            "avatar_url": "https://cdn.discordapp.com/avatars/123456789012345678/abc.png",
            "subscription_tier": 0,
            "state": 0,
            "permission_level": 0,
            "prefix": "!",
            "subscription_expires_at": None,
            "last_activity_at": "2026-03-10T12:00:00Z",
            "source": "database",
            "created_at": "2025-01-01T00:00:00Z",
            "updated_at": "2026-03-10T12:00:00Z",
        }


def test_a_privileged_viewer_gets_five_lists_more(platform: Platform) -> None:
    for role in ("moderator", "admin", "owner"):
        found = platform.answered(role, "GET /v1/users/profile/exampleuser", shape=contract.PRIVILEGED_USER)
        assert found["punishments"]
        assert found["guilds"]
        assert found["bots"]
    platform.answered("admin", "GET /v1/users/profile/demo_owner", shape=contract.USER)
    platform.answered("moderator", "GET /v1/users/profile/demo_moderator", shape=contract.USER)


def test_ones_own_account_is_the_twelve_keys(platform: Platform) -> None:
    for role in ("user", "moderator", "admin", "owner"):
        platform.answered(role, "GET /v1/users/me", shape=contract.USER)


def test_a_user_is_read_by_id_in_public_or_in_detail(platform: Platform) -> None:
    line = f"GET /v1/users/{EXAMPLE_USER}"
    public = platform.answered("public", line, shape=contract.PUBLIC_USER)
    assert public["username"] == "exampleuser"
    assert platform.answered("user", line, shape=contract.PUBLIC_USER) == public
    assert platform.answered("bot", line, shape=contract.PUBLIC_USER) == public
    for role in ("admin", "owner"):
        platform.answered(role, line, shape=contract.DETAILED_USER)
    shown_to_moderators = {**contract.DETAILED_USER, "subscription_history": one_of([])}
    platform.answered("moderator", line, shape=shown_to_moderators)
    platform.answered("moderator", f"GET /v1/users/{EXAMPLE_ADMIN}", shape=contract.PUBLIC_USER)


def test_logins_are_told_by_address_newest_first(platform: Platform) -> None:
    user_id = platform.user()
    for _ in range(2):
        platform.ask(None, "POST /v1/authentication/request", {"discord_id": user_id})
        code = platform.ask("bot", "POST /v1/authentication/bot/login-code", {"discord_id": user_id}).body["code"]
        assert platform.ask(None, "POST /v1/authentication/verify", {"code": code}).status == 200
    found = platform.answered("admin", f"GET /v1/users/{user_id}", shape=contract.DETAILED_USER)
    assert list(found["login_history"]) == ["127.0.0.1"]
    times = [entry["ts"] for entry in found["login_history"]["127.0.0.1"]]
    assert len(times) == 2
    assert times == sorted(times, reverse=True)


def test_users_are_searched_for(platform: Platform) -> None:
    line = "GET /v1/users/search?q=example&limit=3&offset=0"
    in_public = platform.answered("user", line, shape=contract.page("users", contract.PUBLIC_USER))
    in_detail = platform.answered("admin", line, shape=contract.page("users", contract.USER))
    assert all("example" in one["username"] for one in in_detail["users"])
    assert [one["discord_id"] for one in in_public["users"]] == [one["discord_id"] for one in in_detail["users"]]
    assert (in_detail["limit"], in_detail["offset"]) == (3, 0)
    by_id = platform.answered(
        "user", f"GET /v1/users/search?q={EXAMPLE_USER}", shape=contract.page("users", contract.PUBLIC_USER)
    )
    assert str(EXAMPLE_USER) in [one["discord_id"] for one in by_id["users"]]
    assert by_id["limit"] == 25
    for query in (
        "state=2",
        "permission_level=0",
        "subscription_tier=3",
        "state=0&permission_level=0&subscription_tier=0",
    ):
        found = platform.answered(
            "owner", f"GET /v1/users/search?{query}&limit=100", shape=contract.page("users", contract.USER)
        )
        assert found["total"] >= len(found["users"]) > 0
        for name, value in (pair.split("=") for pair in query.split("&")):
            assert {one[name] for one in found["users"]} == {int(value)}
    # A moderator sees details only of those below.
    staff = platform.ask("moderator", "GET /v1/users/search?q=demo_").body["users"]
    assert staff
    assert all(differences(one, contract.PUBLIC_USER) == [] for one in staff)


def test_ones_own_subscription_punishments_and_guilds(platform: Platform) -> None:
    subscription = platform.answered("user", "GET /v1/users/me/subscription", shape=contract.OWN_SUBSCRIPTION)
    assert subscription["is_active"] is (subscription["subscription_tier"] != 0)
    own = platform.answered("user", "GET /v1/users/me/punishments?offset=0&limit=50", shape=[contract.OWN_PUNISHMENT])
    assert own
    assert [one["id"] for one in own] == sorted((one["id"] for one in own), reverse=True)
    guilds = platform.answered("user", "GET /v1/users/me/guilds", shape=[contract.GUILD])
    assert str(EXAMPLE_GUILD) in [one["discord_id"] for one in guilds]
    assert {one["owner_discord_id"] for one in guilds} == {str(EXAMPLE_USER)}


def test_prefixes_are_changed_by_their_owner(platform: Platform) -> None:
    changed = platform.answered("moderator", "POST /v1/users/me/prefix", {"prefix": "m?"}, shape=contract.USER)
    assert changed["prefix"] == "m?"
    assert platform.answered("moderator", "GET /v1/users/me", shape=contract.USER)["prefix"] == "m?"
    line = f"POST /v1/users/me/guilds/{EXAMPLE_GUILD}/prefix"
    assert platform.answered("user", line, {"prefix": "g!"}, shape=contract.GUILD)["prefix"] == "g!"
    assert platform.ask("moderator", line, {"prefix": "x"}).status == 403
    for prefix in ("", "sixsix", "a b"):
        assert platform.ask("moderator", "POST /v1/users/me/prefix", {"prefix": prefix}).status == 400


def test_sessions_are_listed_and_ended(platform: Platform) -> None:
    user_id = platform.user()
    tokens = []
    for _ in range(2):
        platform.ask(None, "POST /v1/authentication/request", {"discord_id": user_id})
        code = platform.ask("bot", "POST /v1/authentication/bot/login-code", {"discord_id": user_id}).body["code"]
        verified = platform.ask(None, "POST /v1/authentication/verify", {"code": code})
        tokens.append(re.match("hsession=([^;]+)", verified.headers["set-cookie"])[1])  # type: ignore[index]
    product, cookie = platform.product, f"hsession={tokens[1]}"
    listed = product.ask("GET", "/v1/users/me/sessions", Cookie=cookie)
    assert listed.status == 200
    assert differences(listed.body, contract.SESSIONS) == []
    assert [(one["token_suffix"], one["is_current"]) for one in listed.body["sessions"]] == [
        (tokens[1][-6:], True),
        (tokens[0][-6:], False),
    ]
    end = "/v1/users/me/sessions/{}/destroy"
    ended = product.ask("POST", end.format(tokens[0][-6:]), Cookie=cookie)
    assert (ended.status, ended.body) == (200, {"destroyed": True})
    assert product.ask("GET", "/v1/users/me", Cookie=f"hsession={tokens[0]}").status == 401
    assert product.ask("POST", end.format(tokens[0][-6:]), Cookie=cookie).status == 404
    assert product.ask("POST", end.format(tokens[1][-6:]), Cookie=cookie).status == 400


# -- guilds, bots, statistics, health


def test_a_guild_is_read_in_public_redacted_or_whole(platform: Platform) -> None:
    line = f"GET /v1/guilds/{EXAMPLE_GUILD}"
    public = platform.answered("public", line, shape=contract.GUILD)
    assert public["owner_discord_id"] == str(EXAMPLE_USER)
    platform.answered("user", line, shape=contract.GUILD)
    platform.answered("moderator", line, shape=contract.REDACTED_GUILD)
    platform.answered("admin", line, shape=contract.DETAILED_GUILD)
    staffs = platform.guild(EXAMPLE_ADMIN)
    platform.answered("moderator", f"GET /v1/guilds/{staffs}", shape=contract.GUILD)
    platform.answered("owner", f"GET /v1/guilds/{staffs}", shape=contract.DETAILED_GUILD)


def test_guilds_are_searched_for(platform: Platform) -> None:
    line = "GET /v1/guilds/search?q=example&limit=3"
    found = platform.answered("user", line, shape=contract.page("guilds", contract.GUILD))
    assert str(EXAMPLE_GUILD) in [one["discord_id"] for one in found["guilds"]]
    platform.answered("owner", line, shape=contract.page("guilds", contract.GUILD_WITHOUT_LISTS))
    for query in ("state=0", "subscription_tier=2", f"q={EXAMPLE_GUILD}"):
        answer = platform.answered(
            "user", f"GET /v1/guilds/search?{query}", shape=contract.page("guilds", contract.GUILD)
        )
        assert answer["total"] > 0


def test_bots_are_listed_read_and_searched_for(platform: Platform) -> None:
    for who in (None, "public", "bot", "user"):
        assert len(platform.answered(who, "GET /v1/bots?limit=5&offset=1", shape=[contract.BOT])) == 5
    assert len(platform.answered("admin", "GET /v1/bots", shape=[contract.ADMINS_BOT])) >= 20
    for who in ("public", "user", "moderator"):
        one = platform.answered(who, f"GET /v1/bots/{DEMO_BOT}", shape=contract.BOT)
        assert one["is_verified"] is True
    platform.answered("admin", f"GET /v1/bots/{DEMO_BOT}", shape=contract.ADMINS_BOT)
    for query in ("q=modledger", f"owner={EXAMPLE_USER}", "bot_type=1", "q=bot&bot_type=3&offset=0&limit=1"):
        found = platform.answered("user", f"GET /v1/bots/search?{query}", shape=contract.page("bots", contract.BOT))
        assert found["total"] > 0
    platform.answered("owner", "GET /v1/bots/search", shape=contract.page("bots", contract.ADMINS_BOT))


def test_a_bot_reports_itself_and_what_it_ran(platform: Platform) -> None:
    platform.answered("bot", "GET /v1/bot/me", shape=contract.ADMINS_BOT)
    report = {"guild_ids": [str(EXAMPLE_GUILD)], "users": 1234, "latency_ms": 41.5, "avatar_url": AVATAR}
    mine = platform.answered("bot", "POST /v1/bot/me", report, shape=contract.ADMINS_BOT)
    assert (mine["guilds"], mine["users"], mine["latency_ms"]) == (1, 1234, 41.5)
    user_id = platform.user()
    ran = {
        "command": "play",
        "count": 2,
        "user_discord_id": str(user_id),
        "guild_discord_id": str(EXAMPLE_GUILD),
        "timestamp": in_days(-0.001),
    }
    platform.answered("bot", "POST /v1/bot/batch", {"commands": [ran]}, shape={"message": text})


def test_a_bot_reads_and_updates_users_and_guilds(platform: Platform) -> None:
    user_id = platform.user()
    platform.answered("bot", f"GET /v1/bot/users/{user_id}", shape=contract.USER)
    renamed = {"username": f"renamed{user_id}", "avatar_url": AVATAR}
    updated = platform.answered("bot", f"POST /v1/bot/users/{user_id}", renamed, shape=contract.USER)
    assert {name: updated[name] for name in renamed} == renamed
    assert platform.ask("bot", f"POST /v1/bot/users/{next(_numbers)}", renamed).status == 404
    guild_id = next(_numbers)
    said = {"name": "New guild", "avatar_url": AVATAR, "member_count": 7, "owner_discord_id": str(user_id)}
    made = platform.answered("bot", f"POST /v1/bot/guilds/{guild_id}", said, shape=contract.PRIVATE_GUILD)
    assert {name: made[name] for name in said} == said
    assert platform.answered("bot", f"GET /v1/bot/guilds/{guild_id}", shape=contract.PRIVATE_GUILD) == made


@pytest.mark.parametrize("what", contract.STATISTICS)
def test_statistics_are_open_to_all(platform: Platform, what: str) -> None:
    for who in (None, "public", "bot", "user"):
        counted = platform.answered(who, f"GET /v1/statistics/{what}", shape=contract.STATISTICS[what])
        assert all(value > 0 for value in counted.values() if isinstance(value, int))


def test_health_is_told_to_all_and_the_sources_to_admins(platform: Platform) -> None:
    # The demo may be older than what is healthy to be without a seal, and the sealer has just started.
    until(lambda: platform.answered(None, "GET /health", shape=contract.HEALTH)["status"] == "healthy")
    admins = {**contract.HEALTH, "source_hash": contract.HASH, "source_hashes": contract.HASHES}
    platform.answered("admin", "GET /v1/admin/health", shape=admins)


# -- administration


def test_the_documented_search_finds_the_documented_punishment(platform: Platform) -> None:
    line = f"GET /v1/admin/punishments/search?issued_by={EXAMPLE_ADMIN}&punishment_type=3&active_only=true"
    found = platform.answered("admin", line, shape=contract.page("punishments", contract.PUNISHMENT))
    assert [one for one in found["punishments"] if one["id"] == 42] == [
        {
            "id": 42,
            "discord_user_id": "444555666777888999",
            "discord_guild_id": None,
            "punishment_type": "BAN",
            "discord_issued_by_id": "999888777666555444",
            "reason": "Terms of service violation",
            "expires_at": None,
            "is_lifted": False,
            "lifted_at": None,
            "discord_lifted_by_id": None,
            "created_at": "2026-01-15T12:00:00Z",
            "updated_at": "2026-01-15T12:00:00Z",
        }
    ]
    assert (found["limit"], found["offset"]) == (25, 0)


def test_punishments_are_searched_for_by_each_filter(platform: Platform) -> None:
    shape = contract.page("punishments", contract.PUNISHMENT)
    everything = platform.answered("owner", "GET /v1/admin/punishments/search", shape=shape)
    of_guilds = platform.answered("owner", "GET /v1/admin/punishments/search?punishment_type=4&limit=1", shape=shape)
    for query in (
        f"user_id={EXAMPLE_USER}",
        f"guild_id={of_guilds['punishments'][0]['discord_guild_id']}",
        "punishment_type=1",
        "punishment_type=4",
        "active_only=true",
        "offset=10&limit=100",
    ):
        found = platform.answered("owner", f"GET /v1/admin/punishments/search?{query}", shape=shape)
        assert 0 < found["total"] <= everything["total"]
        assert len(found["punishments"]) == min(found["total"], found["limit"])


def test_punishments_are_issued(platform: Platform) -> None:
    user_id, guild_id = platform.user(), platform.guild()
    of_user, of_guild = f"POST /v1/admin/punishments/user/{user_id}", f"POST /v1/admin/punishments/guild/{guild_id}"
    reason = {"reason": "Rule 4"}
    for line, body, kind, role in (
        (f"{of_user}/warn", reason, "WARNING", "moderator"),
        (f"{of_guild}/warn", reason, "WARNING", "moderator"),
        (f"{of_user}/timeout", {**reason, "expires_at": in_days(2)}, "TIMEOUT", "moderator"),
        (f"{of_user}/ban", reason, "BAN", "admin"),
        (f"{of_guild}/ban", {**reason, "expires_at": in_days(365)}, "GUILD_BLACKLIST", "admin"),
    ):
        issued = platform.answered(role, line, body, shape=contract.ISSUED)
        assert issued["punishment_type"] == kind
        assert issued["user_discord_id"] == (str(user_id) if "user" in line else None)
        assert issued["guild_discord_id"] == (str(guild_id) if "guild" in line else None)
        assert (issued["expires_at"] is None) is ("expires_at" not in body)
    assert platform.ask("admin", f"{of_user}/ban", reason).status == 409
    assert platform.ask("moderator", f"{of_user}/timeout", {**reason, "expires_at": in_days(29)}).status == 400
    assert platform.answered("bot", f"GET /v1/bot/users/{user_id}", shape=contract.USER)["state"] == 2
    assert platform.answered("bot", f"GET /v1/bot/guilds/{guild_id}", shape=contract.PRIVATE_GUILD)["state"] == 2


@pytest.mark.parametrize("kind", ["user", "guild"])
def test_subscriptions_are_granted_tried_and_revoked(platform: Platform, kind: str) -> None:
    made = platform.user if kind == "user" else platform.guild
    target = made()
    line = f"POST /v1/admin/subscriptions/{kind}/{target}"
    granted = {"message": "Subscription granted successfully"}
    platform.answered("admin", f"{line}/grant", {"tier": 2, "duration_days": 30, "reason": "Order"}, shape=granted)
    active = {"users": [contract.SUBSCRIBER], "guilds": [contract.SUBSCRIBER]}
    found = platform.answered("admin", "GET /v1/admin/subscriptions/active?tier=2", shape=active)
    assert target in [one["discord_id"] for one in found[f"{kind}s"]]
    revoked = {"message": f"Subscription revoked for {kind} {target}"}
    platform.answered("admin", f"{line}/revoke", {"reason": "Chargeback"}, shape=revoked)
    assert platform.ask("admin", f"{line}/revoke", {"reason": "Chargeback"}).status == 409
    tried = {"message": f"Trial granted to {kind} {target} (7-day trial)"}
    platform.answered("admin", f"{line}/trial", {}, shape=tried)
    assert platform.ask("admin", f"{line}/trial", {"reason": "Again"}).status == 409
    platform.answered("admin", f"POST /v1/admin/subscriptions/{kind}/{made()}/grant", {"tier": 3}, shape=granted)
    platform.answered("admin", "GET /v1/admin/subscriptions/active", shape=active)


def test_bots_are_registered_updated_and_given_a_new_key(platform: Platform) -> None:
    bot_id, owner_id = next(_numbers), platform.user()
    body = {"discord_id": bot_id, "name": "Helper", "owner_discord_id": owner_id}
    made = platform.answered("admin", "POST /v1/admin/bots", body, shape=contract.REGISTERED_BOT)
    assert made["message"] == f"Bot {bot_id} registered"
    assert made["bot"]["rate_limit_per_hour"] == 1000
    changed = {"name": "Helper 2", "bot_type": 2, "rate_limit_per_hour": 5000}
    updated = platform.answered("admin", f"POST /v1/admin/bots/{bot_id}/update", changed, shape=contract.UPDATED_BOT)
    assert {name: updated["bot"][name] for name in changed} == changed
    again = platform.answered("admin", f"POST /v1/admin/bots/{bot_id}/regenerate-key", shape=contract.REGISTERED_BOT)
    product = platform.product
    assert product.ask("GET", "/v1/bot/me", Authorization=f"Bearer {made['api_key']}").status == 401
    assert product.ask("GET", "/v1/bot/me", Authorization=f"Bearer {again['api_key']}").status == 200
    listed = platform.answered(
        "admin", "GET /v1/admin/bots?limit=25&offset=0", shape=contract.page("bots", contract.ADMINS_BOT)
    )
    assert str(bot_id) in [one["discord_id"] for one in listed["bots"]]


def test_a_guild_is_updated(platform: Platform) -> None:
    guild_id, owner_id = platform.guild(), platform.user()
    changed = {"name": "Renamed", "owner_discord_id": owner_id, "state": 1}
    platform.answered(
        "admin", f"POST /v1/admin/guilds/{guild_id}/update", changed, shape={"message": f"Guild {guild_id} updated"}
    )
    found = platform.answered("public", f"GET /v1/guilds/{guild_id}", shape=contract.GUILD)
    assert (found["name"], found["owner_discord_id"], found["state"]) == ("Renamed", str(owner_id), 1)


def test_the_audit_log_is_read_by_each_filter(platform: Platform) -> None:
    shape = contract.page("items", contract.AUDIT_ITEM, ("total", "offset", "limit"))
    everything = platform.answered("admin", "GET /v1/admin/audit/logs", shape=shape)
    assert (everything["offset"], everything["limit"]) == (0, 50)
    for query in (
        "event_type=USER_BAN",
        "entity_type=guild",
        f"entity_type=user&entity_id={EXAMPLE_USER}",
        f"actor_id={EXAMPLE_ADMIN}",
        "since=2026-01-01T00:00:00Z&until=2026-02-01T00:00:00Z",
        "offset=5&limit=200",
    ):
        found = platform.answered("admin", f"GET /v1/admin/audit/logs?{query}", shape=shape)
        assert 0 < found["total"] <= everything["total"], query
        assert len(found["items"]) == min(found["total"], found["limit"])
    seen = platform.answered("moderator", "GET /v1/admin/audit/logs", shape=shape)
    assert {one["event_type"] for one in seen["items"]} <= {"USER_WARN", "USER_TIMEOUT"}
    assert platform.ask("moderator", "GET /v1/admin/audit/logs?event_type=USER_BAN").status == 403


# -- every answer


def test_refusals_are_answered_as_the_contract_says(platform: Platform) -> None:
    for who, line, status, message in (
        (None, "GET /v1/users/me", 401, "Authentication required"),
        ("user", "GET /v1/admin/punishments/search", 403, "Admin access required"),
        ("moderator", "GET /v1/admin/punishments/search", 403, "Admin access required"),
        ("admin", "GET /v1/admin/punishments/search?limit=101", 400, "limit must be between 1 and 100"),
        ("user", "GET /v1/users/profile/nobody_of_that_name", 404, "User not found"),
        ("user", "DELETE /v1/users/me", 405, "Method not allowed"),
    ):
        answer = platform.ask(who, line)
        assert (answer.status, answer.body["error"]) == (status, message)
        assert differences(answer.body, contract.ERROR) == []
        assert answer.headers["x-correlation-id"] == answer.body["correlation_id"]


def test_every_command_names_its_position_and_the_next_read_is_not_older(platform: Platform) -> None:
    issued = platform.ask("moderator", f"POST /v1/admin/punishments/user/{platform.user()}/warn", {"reason": "Rule 2"})
    position = int(issued.headers["x-ledger-position"])
    assert position >= issued.body["id"]
    read = platform.ask("moderator", f"GET /v1/admin/punishments/{issued.body['id']}")
    assert read.status == 200
    assert int(read.headers["x-ledger-position"]) >= position

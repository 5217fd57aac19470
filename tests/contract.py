"""The answers of the platform's API as the contract (api.md §4 and §5) gives them, written down once more by hand:
names, order and types of keys. Nothing here comes from the product's own views."""

from tests.shapes import (
    boolean,
    integer,
    mapping,
    matching,
    moment,
    null,
    number,
    one_of,
    or_null,
    snowflake,
    source,
    text,
    within,
)

USER = {
    "discord_id": snowflake,
    "username": or_null(text),
    "avatar_url": or_null(text),
    "subscription_tier": within(0, 3),
    "state": within(0, 2),
    "permission_level": within(0, 3),
    "prefix": text,
    "subscription_expires_at": or_null(moment),
    "last_activity_at": moment,
    "source": source,
    "created_at": moment,
    "updated_at": moment,
}
PUBLIC_USER = {
    "discord_id": snowflake,
    "username": or_null(text),
    "avatar_url": or_null(text),
    "subscription_tier": within(0, 3),
    "source": source,
    "created_at": moment,
    "updated_at": moment,
}
PUNISHMENT = {
    "id": integer,
    "discord_user_id": or_null(snowflake),
    "discord_guild_id": or_null(snowflake),
    "punishment_type": one_of("WARNING", "TIMEOUT", "BAN", "GUILD_BLACKLIST"),
    "discord_issued_by_id": or_null(snowflake),
    "reason": text,
    "expires_at": or_null(moment),
    "is_lifted": boolean,
    "lifted_at": or_null(moment),
    "discord_lifted_by_id": or_null(snowflake),
    "created_at": moment,
    "updated_at": moment,
}
GUILD = {
    "discord_id": snowflake,
    "name": or_null(text),
    "avatar_url": or_null(text),
    "member_count": integer,
    "prefix": text,
    "owner_discord_id": or_null(snowflake),
    "state": within(0, 2),
    "source": source,
    "created_at": moment,
    "updated_at": moment,
}
PRIVATE_GUILD = {
    **GUILD,
    "id": integer,
    "is_whitelisted": boolean,
    "has_bot": boolean,
    "first_joined_at": or_null(moment),
}
BOT = {
    "discord_id": snowflake,
    "name": or_null(text),
    "guilds": integer,
    "users": integer,
    "avatar_url": or_null(text),
    "latency_ms": or_null(number),
    "is_verified": boolean,
    "last_activity_at": moment,
    "source": source,
    "created_at": moment,
    "updated_at": moment,
}
ADMINS_BOT = {
    **BOT,
    "id": integer,
    "owner_discord_id": snowflake,
    "bot_type": within(1, 3),
    "is_active": boolean,
    "rate_limit_per_hour": within(1, 100_000),
}
SUBSCRIPTION_CHANGE = {
    "id": integer,
    "old_tier": within(0, 3),
    "new_tier": within(0, 3),
    "reason": or_null(text),
    "granted_by_id": or_null(snowflake),
    "expires_at": or_null(moment),
    "created_at": moment,
}
PERMISSION_CHANGE = {
    "id": integer,
    "old_level": within(0, 3),
    "new_level": within(0, 3),
    "reason": text,
    "changed_by_id": or_null(snowflake),
    "created_at": moment,
}
PRIVILEGED_USER = {
    **USER,
    "punishments": [PUNISHMENT],
    "guilds": [GUILD],
    "bots": [BOT],
    "subscription_history": [SUBSCRIPTION_CHANGE],
    "permission_history": [PERMISSION_CHANGE],
}
LOGIN_HISTORY = mapping([{"ts": moment, "ua": or_null(text)}])
DETAILED_USER = {**PRIVILEGED_USER, "login_history": LOGIN_HISTORY}
# An Admin's; to a Moderator the tier, its end, its giver and its history are redacted.
GUILD_WITHOUT_LISTS = {
    **GUILD,
    "subscription_tier": within(0, 3),
    "subscription_expires_at": or_null(moment),
    "sponsored_by_id": or_null(snowflake),
    "is_blacklisted": boolean,
}
DETAILED_GUILD = {**GUILD_WITHOUT_LISTS, "punishments": [PUNISHMENT], "subscription_history": [SUBSCRIPTION_CHANGE]}
REDACTED_GUILD = {
    **GUILD,
    "subscription_tier": 0,
    "subscription_expires_at": null,
    "sponsored_by_id": null,
    "is_blacklisted": boolean,
    "punishments": [PUNISHMENT],
    "subscription_history": one_of([]),
}
OWN_SUBSCRIPTION = {
    "subscription_tier": within(0, 3),
    "expires_at": or_null(moment),
    "is_active": boolean,
    "created_at": moment,
    "updated_at": moment,
}
OWN_PUNISHMENT = {
    "id": integer,
    "punishment_type": one_of("WARNING", "TIMEOUT", "BAN"),
    "reason": text,
    "is_lifted": boolean,
    "expires_at": or_null(moment),
    "created_at": moment,
}
GEO = or_null({"country": or_null(text), "city": or_null(text)})
SESSIONS = {
    "sessions": [
        {
            "token_suffix": matching("[A-Za-z0-9_-]{6}"),
            "created_at": moment,
            "expires_at": moment,
            "client_ip": or_null(text),
            "geo": GEO,
            "is_current": boolean,
        }
    ],
    "geo_map": mapping(GEO),
    "login_history": LOGIN_HISTORY,
}
ISSUED = {
    "user_discord_id": or_null(snowflake),
    "guild_discord_id": or_null(snowflake),
    "punishment_type": one_of("WARNING", "TIMEOUT", "BAN", "GUILD_BLACKLIST"),
    "reason": text,
    "issued_by_discord_id": snowflake,
    "expires_at": or_null(moment),
    "created_at": moment,
    "updated_at": moment,
    "id": integer,
}
SUBSCRIBER = {
    "discord_id": integer,
    "name": or_null(text),
    "tier": within(1, 3),
    "expires_at": or_null(moment),
    "is_active": True,
}
HEALTH = {
    "status": one_of("healthy", "degraded"),
    "database": True,
    "cache": True,
    "started_at": moment,
    "db_statistics": {
        "size": integer,
        "checked_in": integer,
        "checked_out": integer,
        "overflow": integer,
        "total": integer,
        "latency_ms": number,
    },
    "cache_statistics": {},
    "errors": [text],
    "projections": mapping({"position": integer, "lag_events": integer, "lag_seconds": number}),
}
AUDIT_ITEM = {
    "id": integer,
    "entity_type": one_of("user", "guild", "bot"),
    "discord_id": snowflake,
    "event_type": matching("(USER|GUILD|BOT)(_[A-Z]+)+"),
    "discord_user_id": or_null(snowflake),
    "event_metadata": mapping(lambda _: True),
    "created_at": moment,
}
STATISTICS = {
    "users": {
        "total_count": integer,
        "basic_count": integer,
        "premium_count": integer,
        "lifetime_count": integer,
        "trial_count": integer,
    },
    "guilds": {
        "total_count": integer,
        "whitelisted_count": integer,
        "trial_count": integer,
        "guild_access_count": integer,
    },
    "bots": {
        "total_count": integer,
        "official_count": integer,
        "verified_count": integer,
        "community_count": integer,
    },
    "application": {
        "application_name": text,
        "version": text,
        "users": integer,
        "guilds": integer,
        "started_at": moment,
    },
}
CODE = matching("[A-Z0-9]{8}")
HASH = matching("[0-9a-f]{40,64}")
HASHES = mapping(HASH)
KEY = matching("hbot_[A-Za-z0-9_-]{43}")
REGISTERED_BOT = {"message": text, "bot": ADMINS_BOT, "api_key": KEY, "created_at": moment, "updated_at": moment}
UPDATED_BOT = {"message": text, "bot": ADMINS_BOT, "created_at": moment, "updated_at": moment}
ERROR = {
    "error": text,
    "correlation_id": matching("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
}


def page(name: str, item: object, order: tuple[str, str, str] = ("total", "limit", "offset")) -> dict[str, object]:
    """A page of a search. ``next_cursor`` is ours, and there only when another page follows."""
    return {name: [item], **dict.fromkeys(order, integer), "next_cursor?": text}

"""Decisions about who users, guilds and bots are: register, name, avatar, prefix, owner, state."""

from msgspec import UNSET, UnsetType

from modledger.domain import commands, events
from modledger.domain.envelope import Subject
from modledger.domain.facts import Decided, Facts, display_name, has_control_characters
from modledger.domain.refusals import Conflict, Forbidden, Invalid, NotFound
from modledger.domain.subjects import ADMIN, Bot, Guild, State

SYNC = ("bot", "system", "operator")


def register_user(command: commands.RegisterUser, facts: Facts) -> list[Decided]:
    """A bot brings a user's name for the first time, or again after an erasure."""
    _only_sync(facts)
    _require_unregistered(facts.user(command.user_id), "User")
    return [Decided(user_registered(command.username, command.avatar_url))]


def user_registered(username: str, avatar_url: str | None) -> events.UserRegistered:
    """Raises Invalid for a name or URL against its rule, as the next two do."""
    name = display_name("username", username, 1, 64)
    return events.UserRegistered(username=name, avatar_url=_url(avatar_url))


def update_user(command: commands.UpdateUser, facts: Facts) -> list[Decided]:
    """A bot brings a registered user's present name and avatar; nothing happens where nothing changed."""
    _only_sync(facts)
    user = facts.user(command.user_id)
    if not user.registered or user.username is None:
        raise NotFound("User not found")
    facts.require_version(user.version)
    changed: list[events.Event] = []
    if command.username is not None:
        name = display_name("username", command.username, 1, 64)
        if name != user.username:
            changed.append(events.UserRenamed(old_username=user.username, username=name))
    if command.avatar_url is not None and command.avatar_url != user.avatar_url:
        changed.append(events.UserAvatarChanged(old_avatar_url=user.avatar_url, avatar_url=_url(command.avatar_url)))
    return [Decided(event) for event in changed]


def change_user_prefix(command: commands.ChangeUserPrefix, facts: Facts) -> list[Decided]:
    """Users choose their own prefix, restricted or not."""
    if facts.context.actor.kind != "operator" and facts.context.actor.user_id != command.user_id:
        raise Forbidden("You can only change your own prefix")
    user = facts.user(command.user_id)
    facts.require_known(Subject("user", command.user_id))
    facts.require_version(user.version)
    prefix = prefix_of(command.prefix)
    return [] if prefix == user.prefix else [Decided(events.UserPrefixChanged(old_prefix=user.prefix, prefix=prefix))]


def register_guild(command: commands.RegisterGuild, facts: Facts) -> list[Decided]:
    """A bot brings a guild for the first time."""
    _only_sync(facts)
    _require_unregistered(facts.guild(command.guild_id), "Guild")
    return [Decided(guild_registered(command.name, command.avatar_url, command.owner_id))]


def guild_registered(name: str, avatar_url: str | None, owner_id: int | None) -> events.GuildRegistered:
    name = display_name("name", name, 1, 100)
    return events.GuildRegistered(name=name, avatar_url=_url(avatar_url), owner_id=owner_id)


def update_guild(command: commands.UpdateGuild, facts: Facts) -> list[Decided]:
    """An Admin who may act on the old and the new owner changes a guild; a bot its name and owner only."""
    if command.name is UNSET and command.owner_id is UNSET and command.state is UNSET:
        raise Invalid("name, owner_discord_id or state is required")
    others = SYNC if command.state is UNSET else ("system", "operator")
    facts.authorise(Subject("guild", command.guild_id), ADMIN, others=others)
    if isinstance(command.owner_id, int):
        facts.authorise(Subject("user", command.owner_id), ADMIN, others=others)
    guild = facts.guild(command.guild_id)
    if not guild.registered:
        raise NotFound("Guild not found")
    facts.require_version(guild.version)
    changed = [*_guild_name(guild, command.name), *_guild_owner(guild, command.owner_id)]
    if command.state is not UNSET:
        if not 0 <= command.state <= 1:
            raise Invalid("state must be between 0 and 1")
        if command.state != guild.state_set:
            changed.append(events.GuildStateChanged(old_state=guild.state_set, state=command.state))
    return [Decided(event) for event in changed]


def sync_guild(command: commands.SyncGuild, facts: Facts) -> list[Decided]:
    """A bot brings a guild's present name, avatar and owner, and registers a guild that is not."""
    _only_sync(facts)
    guild = facts.guild(command.guild_id)
    facts.require_version(guild.version)
    if not guild.registered:
        if command.name is None:
            raise Invalid("name is required for a guild that is not registered")
        return [Decided(guild_registered(command.name, command.avatar_url, command.owner_id))]
    changed = [*_guild_name(guild, UNSET if command.name is None else command.name)]
    if command.avatar_url is not None and command.avatar_url != guild.avatar_url:
        changed.append(events.GuildAvatarChanged(old_avatar_url=guild.avatar_url, avatar_url=_url(command.avatar_url)))
    changed += _guild_owner(guild, UNSET if command.owner_id is None else command.owner_id)
    return [Decided(event) for event in changed]


def _guild_name(guild: Guild, text: str | UnsetType) -> list[events.Event]:
    if text is UNSET:
        return []
    assert guild.name is not None
    name = display_name("name", text, 1, 100)
    return [] if name == guild.name else [events.GuildRenamed(old_name=guild.name, name=name)]


def _guild_owner(guild: Guild, owner_id: int | UnsetType | None) -> list[events.Event]:
    if owner_id is UNSET or owner_id == guild.owner_id:
        return []
    return [events.GuildOwnerChanged(old_owner_id=guild.owner_id, owner_id=owner_id)]


def change_guild_prefix(command: commands.ChangeGuildPrefix, facts: Facts) -> list[Decided]:
    """The guild's owner chooses its prefix."""
    guild = facts.guild(command.guild_id)
    actor = facts.actor
    if not guild.registered:
        raise NotFound("Guild not found")
    if facts.context.actor.kind != "operator" and (actor is None or actor.id != guild.owner_id):
        raise Forbidden("Only the guild's owner may change its prefix")
    facts.require_version(guild.version)
    prefix = prefix_of(command.prefix)
    if prefix == guild.prefix:
        return []
    return [Decided(events.GuildPrefixChanged(old_prefix=guild.prefix, prefix=prefix))]


def register_bot(command: commands.RegisterBot, facts: Facts) -> list[Decided]:
    """An Admin who may act on the owner registers a bot; after an erasure, on the owner that it had as well."""
    facts.authorise(Subject("user", command.owner_id), ADMIN)
    facts.authorise(Subject("bot", command.bot_id), ADMIN)
    _require_unregistered(facts.bot(command.bot_id), "Bot")
    registered = bot_registered(
        command.name, command.avatar_url, command.owner_id, command.bot_type, command.rate_limit_per_hour
    )
    return [Decided(registered)]


def bot_registered(
    name: str, avatar_url: str | None, owner_id: int, bot_type: int, rate_limit_per_hour: int
) -> events.BotRegistered:
    name = display_name("name", name, 2, 32)
    _require_limit(rate_limit_per_hour)
    _require_type(bot_type)
    return events.BotRegistered(
        name=name,
        avatar_url=_url(avatar_url),
        owner_id=owner_id,
        bot_type=bot_type,
        rate_limit_per_hour=rate_limit_per_hour,
    )


def update_bot(command: commands.UpdateBot, facts: Facts) -> list[Decided]:
    """An Admin who may act on the old and the new owner changes a bot."""
    wanted = (command.name, command.owner_id, command.bot_type, command.rate_limit_per_hour, command.is_active)
    if all(value is UNSET for value in wanted):
        raise Invalid("name, owner_discord_id, bot_type, rate_limit_per_hour or is_active is required")
    facts.authorise(Subject("bot", command.bot_id), ADMIN)
    if command.owner_id is not UNSET:
        facts.authorise(Subject("user", command.owner_id), ADMIN)
    bot = _registered_bot(command.bot_id, facts)
    facts.require_version(bot.version)
    assert bot.name is not None
    assert bot.owner_id is not None
    changed: list[events.Event] = []
    if command.name is not UNSET:
        name = display_name("name", command.name, 2, 32)
        if name != bot.name:
            changed.append(events.BotRenamed(old_name=bot.name, name=name))
    if command.owner_id is not UNSET and command.owner_id != bot.owner_id:
        changed.append(events.BotOwnerChanged(old_owner_id=bot.owner_id, owner_id=command.owner_id))
    if command.bot_type is not UNSET:
        _require_type(command.bot_type)
        if command.bot_type != bot.bot_type:
            changed.append(events.BotTypeChanged(old_bot_type=bot.bot_type, bot_type=command.bot_type))
    if command.rate_limit_per_hour is not UNSET:
        old, new = bot.rate_limit_per_hour, command.rate_limit_per_hour
        _require_limit(new)
        if new != old:
            changed.append(events.BotRateLimitChanged(old_rate_limit_per_hour=old, rate_limit_per_hour=new))
    if command.is_active is not UNSET and command.is_active != bot.active:
        changed.append(events.BotActivated() if command.is_active else events.BotDeactivated())
    return [Decided(event) for event in changed]


def sync_bot(command: commands.SyncBot, facts: Facts) -> list[Decided]:
    """An active bot brings its own present avatar."""
    actor = facts.context.actor
    if actor.kind != "bot" or actor.id != command.bot_id:
        raise Forbidden("A bot can only report on itself")
    bot = _registered_bot(command.bot_id, facts)
    if not bot.active:
        raise Forbidden("Bot is inactive")
    facts.require_version(bot.version)
    if command.avatar_url is None or command.avatar_url == bot.avatar_url:
        return []
    return [Decided(events.BotAvatarChanged(old_avatar_url=bot.avatar_url, avatar_url=_url(command.avatar_url)))]


def regenerate_bot_key(command: commands.RegenerateBotKey, facts: Facts) -> list[Decided]:
    """An Admin who may act on the owner makes a bot's keys void, for a new one."""
    facts.authorise(Subject("bot", command.bot_id), ADMIN)
    bot = _registered_bot(command.bot_id, facts)
    facts.require_version(bot.version)
    return [Decided(events.BotKeyRegenerated())]


def _registered_bot(bot_id: int, facts: Facts) -> Bot:
    bot = facts.bot(bot_id)
    if not bot.registered:
        raise NotFound("Bot not found")
    return bot


def _require_limit(requests_per_hour: int) -> None:
    if not 1 <= requests_per_hour <= 100_000:
        raise Invalid("rate_limit_per_hour must be between 1 and 100000")


def _require_type(bot_type: int) -> None:
    if not 1 <= bot_type <= 3:
        raise Invalid("bot_type must be between 1 and 3")


def _only_sync(facts: Facts) -> None:
    if facts.context.actor.kind not in SYNC:
        raise Forbidden("Only a bot brings this")


def _require_unregistered(state: State, what: str) -> None:
    if state.registered:
        raise Conflict(f"{what} {state.id} is already registered")


def prefix_of(text: str) -> str:
    """A prefix as it is given: 1–5 characters, no white space (api.md §4); raises Invalid."""
    if not 1 <= len(text) <= 5:
        raise Invalid("prefix must be between 1 and 5 characters")
    if any(character.isspace() for character in text) or has_control_characters(text):
        raise Invalid("prefix must not contain white space")
    return text


def _url(text: str | None) -> str | None:
    if text is None:
        return None
    # Of all white space the ASCII space alone counts as printable.
    odd = not text.isprintable() or " " in text
    if odd or len(text) > 2048 or not text.startswith(("https://", "http://")):
        raise Invalid("avatar_url must be an http or https URL of at most 2048 characters")
    return text

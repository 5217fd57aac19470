"""Decisions about who users, guilds and bots are: register, rename, prefix, owner."""

from modledger.domain import commands, events
from modledger.domain.envelope import Subject
from modledger.domain.facts import Decided, Facts, display_name, has_control_characters
from modledger.domain.refusals import Conflict, Forbidden, Invalid, NotFound
from modledger.domain.subjects import ADMIN, State

SYNC = ("bot", "system", "operator")


def register_user(command: commands.RegisterUser, facts: Facts) -> list[Decided]:
    """A bot brings a user's name for the first time, or again after an erasure."""
    _only_sync(facts)
    _require_unregistered(facts.user(command.user_id), "User")
    name = display_name("username", command.username, 1, 64)
    return [Decided(events.UserRegistered(username=name, avatar_url=_url(command.avatar_url)))]


def update_user(command: commands.UpdateUser, facts: Facts) -> list[Decided]:
    """A bot brings a registered user's present name and avatar; nothing happens where nothing changed."""
    _only_sync(facts)
    user = facts.user(command.user_id)
    if not user.registered or user.username is None:
        raise NotFound("User not found")
    decided = []
    if command.username is not None:
        name = display_name("username", command.username, 1, 64)
        if name != user.username:
            decided.append(Decided(events.UserRenamed(old_username=user.username, username=name)))
    if command.avatar_url is not None and command.avatar_url != user.avatar_url:
        decided.append(
            Decided(events.UserAvatarChanged(old_avatar_url=user.avatar_url, avatar_url=_url(command.avatar_url)))
        )
    return decided


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
    name = display_name("name", command.name, 1, 100)
    registered = events.GuildRegistered(name=name, avatar_url=_url(command.avatar_url), owner_id=command.owner_id)
    return [Decided(registered)]


def rename_guild(command: commands.RenameGuild, facts: Facts) -> list[Decided]:
    """An Admin who may act on the owner, or a bot, renames a guild."""
    target = Subject("guild", command.guild_id)
    facts.authorise(target, ADMIN, others=SYNC)
    guild = facts.guild(command.guild_id)
    if not guild.registered or guild.name is None:
        raise NotFound("Guild not found")
    facts.require_version(guild.version)
    name = display_name("name", command.name, 1, 100)
    return [] if name == guild.name else [Decided(events.GuildRenamed(old_name=guild.name, name=name))]


def change_guild_owner(command: commands.ChangeGuildOwner, facts: Facts) -> list[Decided]:
    """An Admin who may act on the old and the new owner, or a bot, changes a guild's owner."""
    target = Subject("guild", command.guild_id)
    facts.authorise(target, ADMIN, others=SYNC)
    if command.owner_id is not None:
        facts.authorise(Subject("user", command.owner_id), ADMIN, others=SYNC)
    guild = facts.guild(command.guild_id)
    if not guild.registered:
        raise NotFound("Guild not found")
    facts.require_version(guild.version)
    if guild.owner_id == command.owner_id:
        return []
    return [Decided(events.GuildOwnerChanged(old_owner_id=guild.owner_id, owner_id=command.owner_id))]


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
    name = display_name("name", command.name, 2, 32)
    if not 1 <= command.rate_limit_per_hour <= 100_000:
        raise Invalid("rate_limit_per_hour must be between 1 and 100000")
    if not 1 <= command.bot_type <= 3:
        raise Invalid("bot_type must be between 1 and 3")
    return [
        Decided(
            events.BotRegistered(
                name=name,
                avatar_url=_url(command.avatar_url),
                owner_id=command.owner_id,
                bot_type=command.bot_type,
                rate_limit_per_hour=command.rate_limit_per_hour,
            )
        )
    ]


def rename_bot(command: commands.RenameBot, facts: Facts) -> list[Decided]:
    """An Admin who may act on the owner renames a bot."""
    target = Subject("bot", command.bot_id)
    facts.authorise(target, ADMIN)
    bot = facts.bot(command.bot_id)
    if not bot.registered or bot.name is None:
        raise NotFound("Bot not found")
    facts.require_version(bot.version)
    name = display_name("name", command.name, 2, 32)
    return [] if name == bot.name else [Decided(events.BotRenamed(old_name=bot.name, name=name))]


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
    if len(text) > 2048 or not text.startswith(("https://", "http://")) or not text.isprintable():
        raise Invalid("avatar_url must be an http or https URL of at most 2048 characters")
    return text

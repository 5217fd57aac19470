"""What became of the demo's guilds and bots: new pictures, guilds that were left, bots that changed hands or were shut.

Each thing happens to a guild or bot of its own, so that none depends on what else befell them.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from random import Random

import msgspec

from modledger.domain import commands
from modledger.domain.commands import Command
from modledger.domain.envelope import Actor
from modledger.workers import demo_words
from modledger.workers.demo_staff import END, Act, admin

_REPAINTED, _LEFT, _BACK = 15, 8, 2


class Upkeep(msgspec.Struct, frozen=True, kw_only=True):
    """``inactive_guilds`` and ``inactive_bots`` are those that still are, with the time at which they came to be."""

    acts: list[Act]
    inactive_guilds: dict[int, datetime]
    inactive_bots: dict[int, datetime]


def upkeep(rng: Random, bot: Actor, population: Iterable[Act]) -> Upkeep:
    """``population`` are the acts that register the guilds and bots; ``bot`` brings what is seen of guilds."""
    guilds, bots = [], []
    for act in population:
        match act.command:
            case commands.RegisterGuild():
                guilds.append((act.command.guild_id, act.at))
            case commands.RegisterBot():
                bots.append((act.command, act.at))
    acts, inactive_guilds = _of_guilds(rng, bot, rng.sample(guilds, _REPAINTED + _LEFT))
    of_bots, inactive_bots = _of_bots(rng, rng.sample(bots, len(bots)))
    return Upkeep(acts=acts + of_bots, inactive_guilds=inactive_guilds, inactive_bots=inactive_bots)


def _of_guilds(rng: Random, bot: Actor, guilds: list[tuple[int, datetime]]) -> tuple[list[Act], dict[int, datetime]]:
    """New pictures; guilds that every bot has left are set inactive, a few until a bot came back."""
    acts, inactive = [], {}
    for guild_id, since in guilds[:_REPAINTED]:
        picture = f"https://cdn.discordapp.com/icons/{guild_id}/{rng.getrandbits(128):032x}.png"
        sync = commands.SyncGuild(guild_id=guild_id, avatar_url=picture)
        acts.append(Act(at=_after(rng, since), actor=bot, command=sync))
    for index, (guild_id, since) in enumerate(guilds[_REPAINTED:]):
        at = _after(rng, since)
        acts.append(_by_admin(rng, at, commands.UpdateGuild(guild_id=guild_id, state=1)))
        if index < _BACK:
            acts.append(_by_admin(rng, _after(rng, at), commands.UpdateGuild(guild_id=guild_id, state=0)))
        else:
            inactive[guild_id] = at
    return acts, inactive


def _of_bots(rng: Random, bots: list[tuple[commands.RegisterBot, datetime]]) -> tuple[list[Act], dict[int, datetime]]:
    """One was shut and one is again open; one went to another owner, who had it verified and used it more; others got
    a name, a key or, each by itself, a picture."""
    (shut, shut_since), (opened, opened_since), (sold, sold_since), *others = bots
    shut_at, closed_at, sold_at = _after(rng, shut_since), _after(rng, opened_since), _after(rng, sold_since)
    acts = [
        _by_admin(rng, shut_at, commands.UpdateBot(bot_id=shut.bot_id, is_active=False)),
        _by_admin(rng, closed_at, commands.UpdateBot(bot_id=opened.bot_id, is_active=False)),
        _by_admin(rng, _after(rng, closed_at), commands.UpdateBot(bot_id=opened.bot_id, is_active=True)),
    ]
    buyer = next(other.owner_id for other, _ in others if other.owner_id != sold.owner_id)
    verified, more = 2 if sold.bot_type != 2 else 1, sold.rate_limit_per_hour * 2
    for quarters, change in enumerate(
        (
            commands.UpdateBot(bot_id=sold.bot_id, owner_id=buyer),
            commands.UpdateBot(bot_id=sold.bot_id, bot_type=verified),
            commands.UpdateBot(bot_id=sold.bot_id, rate_limit_per_hour=more),
        )
    ):
        acts.append(_by_admin(rng, sold_at + quarters * ((END - sold_at) // 4), change))
    for index, (bot, since) in enumerate(others[:9]):
        at, command = _after(rng, since), _change(rng, index % 3, bot.bot_id)
        itself = isinstance(command, commands.SyncBot)
        acts.append(
            Act(at=at, actor=Actor("bot", bot.bot_id), command=command) if itself else _by_admin(rng, at, command)
        )
    return acts, {shut.bot_id: shut_at}


def _change(rng: Random, which: int, bot_id: int) -> Command:
    match which:
        case 0:
            return commands.UpdateBot(bot_id=bot_id, name=demo_words.bot_name(rng))
        case 1:
            return commands.RegenerateBotKey(bot_id=bot_id)
    picture = f"https://cdn.discordapp.com/avatars/{bot_id}/{rng.getrandbits(128):032x}.png"
    return commands.SyncBot(bot_id=bot_id, avatar_url=picture)


def _by_admin(rng: Random, at: datetime, command: Command) -> Act:
    return Act(at=at, actor=admin(rng, at), command=command)


def _after(rng: Random, since: datetime) -> datetime:
    """A whole second after it, and before the fixed dates end."""
    return since + timedelta(seconds=rng.randrange(1, int((END - since).total_seconds())))

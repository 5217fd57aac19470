"""The people, guilds and bots of the demo beside its staff and its examples: who they are, what they pay and do."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain, count, repeat
from random import Random

import msgspec

from modledger.domain import commands
from modledger.domain.envelope import SYSTEM, Actor, Subject
from modledger.domain.subjects import ADMIN, LIFETIME, MODERATOR, PREMIUM, TRIAL, USER
from modledger.domain.subscriptions import TRIAL_LENGTH
from modledger.workers import demo_words
from modledger.workers.demo_punishments import RECORDS, ban_outcomes, sanctions
from modledger.workers.demo_staff import END, HEAD_ADMIN_ID, OWNER_ID, START, STINTS, Act, admin, user

# Ids of Discord count milliseconds from its epoch, above 22 other bits.
_DISCORD_EPOCH = datetime(2015, 1, 1, tzinfo=START.tzinfo)
_OLDEST_ACCOUNT = datetime(2016, 1, 1, tzinfo=START.tzinfo)
_LAST_REGISTRATION = END - timedelta(days=7)
# Punished subjects that no bot has ever named: their streams begin with a punishment.
_NEVER_SEEN = 40
_PUNISHED_GUILDS = 60
# More records than this only for those who registered before that.
_MANY = 8
_LONG_HERE = START + timedelta(days=240)
# Of the subjects with one record, those whose record is one of today.
TODAY = 12


class Population(msgspec.Struct, kw_only=True):
    """``people``, ``guilds`` and ``bots`` are the registered ones with their dates; ``spared`` are people who were
    never punished and never paid; ``unpunished_guilds`` likewise."""

    acts: list[Act]
    people: dict[int, datetime]
    guilds: dict[int, datetime]
    bots: dict[int, datetime]
    spared: list[int]
    spared_guilds: list[int]


def populate(
    rng: Random, bot: Actor, *, people: int, guilds: int, bots: int, names: Iterator[str], ids: Iterator[int]
) -> Population:
    """That many of each, under these names and ids, of which each comes once; ``bot`` brings them all."""
    registered = {next(ids): date(rng, START, _LAST_REGISTRATION) for _ in range(people)}
    everyone = Population(acts=[], people=registered, guilds={}, bots={}, spared=[], spared_guilds=[])
    for user_id, since in registered.items():
        everyone.acts += _person(rng, user_id, since, names, bot)
    owners = rng.sample(sorted(registered), guilds)
    for owner_id in owners[:guilds]:
        guild_id = next(ids)
        everyone.guilds[guild_id] = date(rng, registered[owner_id], END - timedelta(days=6))
        everyone.acts += _guild(rng, guild_id, everyone.guilds[guild_id], owner_id, bot)
    for index in range(bots):
        bot_id, owner_id = next(ids), rng.choice(owners)
        everyone.bots[bot_id] = date(rng, registered[owner_id], END - timedelta(days=1))
        register = commands.RegisterBot(
            bot_id=bot_id,
            name=demo_words.bot_name(rng),
            owner_id=owner_id,
            bot_type=1 + index % 3,
            rate_limit_per_hour=rng.choice((500, 1000, 1000, 5000)),
        )
        at = everyone.bots[bot_id]
        everyone.acts.append(Act(at=at, actor=admin(rng, at), command=register))
    _punish(rng, everyone, ids)
    _subscribe(rng, everyone)
    return everyone


def careers(first_day: Sequence[int], bot: Actor, names: set[str]) -> list[Act]:
    """Registration and levels of the staff that came after ``first_day``, and what the Owner had to say to some."""
    acts: list[Act] = []
    for index, stint in enumerate(STINTS):
        risen = any(other.user_id == stint.user_id and other.until == stint.since for other in STINTS)
        if stint.user_id not in first_day and not risen:
            name = f"mod_{index:02}"
            names.add(name)
            register = commands.RegisterUser(
                user_id=stint.user_id, username=name, avatar_url=avatar(stint.user_id, index)
            )
            acts.append(Act(at=stint.since - timedelta(hours=1), actor=bot, command=register))
        if stint.user_id not in first_day:
            why = "Trusted for months" if stint.level == ADMIN else "Joined the team"
            promote = commands.ChangePermission(user_id=stint.user_id, level=stint.level, reason=why)
            acts.append(Act(at=stint.since, actor=user(OWNER_ID if risen else HEAD_ADMIN_ID), command=promote))
        stays = stint.until is None or any(o.user_id == stint.user_id and o.since == stint.until for o in STINTS)
        if stint.until is not None and not stays:
            leave = commands.ChangePermission(user_id=stint.user_id, level=USER, reason="Stepped down")
            acts.append(Act(at=stint.until, actor=user(OWNER_ID), command=leave))
    warned = [stint for stint in STINTS if stint.level == MODERATOR and stint.user_id not in first_day][:3]
    for key, stint in enumerate(warned):
        warning = commands.IssueWarning(target=Subject("user", stint.user_id), reason="Be kinder to newcomers")
        at = stint.since + timedelta(days=30)
        acts.append(Act(at=at, actor=user(OWNER_ID), command=warning, issues=-1 - key))
    return acts


def avatar(user_id: int, seed: int) -> str:
    return f"https://cdn.discordapp.com/avatars/{user_id}/{seed:032x}.png"


def _person(rng: Random, user_id: int, since: datetime, names: Iterator[str], bot: Actor) -> list[Act]:
    picture = avatar(user_id, rng.getrandbits(128)) if rng.random() < 0.8 else None
    register = commands.RegisterUser(user_id=user_id, username=next(names), avatar_url=picture)
    acts = [Act(at=since, actor=bot, command=register)]
    if rng.random() < 0.08:
        rename = commands.UpdateUser(user_id=user_id, username=next(names))
        acts.append(Act(at=date(rng, since, END), actor=bot, command=rename))
    if rng.random() < 0.06:
        repaint = commands.UpdateUser(user_id=user_id, avatar_url=avatar(user_id, rng.getrandbits(128)))
        acts.append(Act(at=date(rng, since, END), actor=bot, command=repaint))
    if rng.random() < 0.05:
        change = commands.ChangeUserPrefix(user_id=user_id, prefix=rng.choice(("?", "$", "..", "-", "hey")))
        acts.append(Act(at=date(rng, since, END), actor=user(user_id), command=change))
    return acts


def _guild(rng: Random, guild_id: int, since: datetime, owner_id: int, bot: Actor) -> list[Act]:
    """A guild; of one in twenty nobody knows the owner, and a few get another name, owner or prefix."""
    known_owner = owner_id if rng.random() < 0.95 else None
    picture = (
        f"https://cdn.discordapp.com/icons/{guild_id}/{rng.getrandbits(128):032x}.png" if rng.random() < 0.7 else None
    )
    name = demo_words.guild_name(rng)
    register = commands.RegisterGuild(guild_id=guild_id, name=name, avatar_url=picture, owner_id=known_owner)
    acts = [Act(at=since, actor=bot, command=register)]
    roll = rng.random()
    at = date(rng, since, END)
    if roll < 0.1:
        rename = commands.SyncGuild(guild_id=guild_id, name=f"{name} {rng.randrange(2, 10)}.0")
        acts.append(Act(at=at, actor=bot, command=rename))
    elif roll < 0.2 and known_owner is not None:
        change = commands.ChangeGuildPrefix(guild_id=guild_id, prefix=rng.choice(("?", "$", "m!", ">>")))
        acts.append(Act(at=at, actor=user(known_owner), command=change))
    elif roll < 0.25 and known_owner is not None:
        # It has left the platform, and nobody knows yet who has the guild now.
        leave = commands.UpdateGuild(guild_id=guild_id, owner_id=None)
        acts.append(Act(at=at, actor=bot, command=leave))
    return acts


def _punish(rng: Random, everyone: Population, ids: Iterator[int]) -> None:
    counts = sorted(chain.from_iterable(repeat(records, subjects) for records, subjects in RECORDS.items()))[TODAY:]
    guilds = rng.sample(sorted(everyone.guilds), _PUNISHED_GUILDS)
    people = rng.sample(sorted(everyone.people), len(counts) - _PUNISHED_GUILDS - _NEVER_SEEN)
    subjects = [
        *((everyone.people[user_id], Subject("user", user_id)) for user_id in people),
        *((everyone.guilds[guild_id], Subject("guild", guild_id)) for guild_id in guilds),
        *((START + timedelta(days=1), Subject("user", next(ids))) for _ in range(_NEVER_SEEN)),
    ]
    # Those with many records have been here for long.
    subjects.sort(key=lambda one: one[0] < _LONG_HERE)
    few = bisect_right(counts, _MANY)
    counts[:few] = rng.sample(counts[:few], few)
    keys, outcomes = count(1), ban_outcomes(rng)
    for (since, subject), records in zip(subjects, counts, strict=True):
        everyone.acts += sanctions(rng, subject, since, records, keys, outcomes)
    everyone.spared = sorted(everyone.people.keys() - set(people))
    everyone.spared_guilds = sorted(everyone.guilds.keys() - set(guilds))


def _subscribe(rng: Random, everyone: Population) -> None:
    payers = rng.sample(sorted(everyone.people), 260)
    guilds = rng.sample(sorted(everyone.guilds), 50)
    for user_id in payers:
        everyone.acts += _subscriptions(rng, Subject("user", user_id), everyone.people[user_id])
    for guild_id in guilds:
        everyone.acts += _subscriptions(rng, Subject("guild", guild_id), everyone.guilds[guild_id])
    everyone.spared = [user_id for user_id in everyone.spared if user_id not in payers]
    everyone.spared_guilds = [guild_id for guild_id in everyone.spared_guilds if guild_id not in guilds]


def _subscriptions(rng: Random, target: Subject, since: datetime) -> list[Act]:
    """One of the ways that subscriptions go: a trial, Premium for months with renewals or for years, Lifetime; some are
    revoked, the others end or go on."""
    at = date(rng, since, END - timedelta(days=5))
    acts: list[Act] = []
    if rng.random() < 0.35:
        acts.append(_grant(rng, target, at, TRIAL))
        if rng.random() < 0.5:
            return [*acts, *_ended(target, at + TRIAL_LENGTH)]
        at += timedelta(days=rng.randrange(1, 4), minutes=rng.randrange(1440))
    until: datetime | None = None
    way = rng.random()
    if way < 0.15:
        acts.append(_grant(rng, target, at, LIFETIME))
    else:
        days = rng.choice((1095, 1825, 3650)) if way < 0.4 else 30
        acts.append(_grant(rng, target, at, PREMIUM, days))
        until = at + timedelta(days=days)
        for _ in range(rng.choice((0, 0, 1, 2, 5, 11))):
            if until >= END:
                break
            at, days = until - timedelta(days=rng.randrange(1, 6)), rng.choice((30, 30, 30, 90))
            acts.append(_grant(rng, target, at, PREMIUM, days))
            until += timedelta(days=days)
    if rng.random() < 0.12:
        at += timedelta(hours=rng.randrange(1, 24))
        revoke = commands.RevokeSubscription(target=target, reason=rng.choice(demo_words.REVOKE_REASONS))
        return [*acts, Act(at=at, actor=admin(rng, at), command=revoke)]
    return [*acts, *_ended(target, until)]


def _grant(rng: Random, target: Subject, at: datetime, tier: int, days: int = 30) -> Act:
    why = rng.choice(demo_words.GRANT_REASONS)
    grant = commands.GrantSubscription(target=target, tier=tier, duration_days=days, reason=why)
    return Act(at=at, actor=admin(rng, at), command=grant)


def _ended(target: Subject, until: datetime | None) -> list[Act]:
    """The clock's record, unless the end lies after the fixed dates: then it is left to the clock worker."""
    if until is None or until > END:
        return []
    return [Act(at=until, actor=SYSTEM, command=commands.EndSubscription(target=target, expires_at=until))]


def snowflakes(rng: Random) -> Iterator[int]:
    """Ids of accounts that are older than the demo, no two alike."""
    span = int((START - _OLDEST_ACCOUNT).total_seconds() * 1000)
    oldest = int((_OLDEST_ACCOUNT - _DISCORD_EPOCH).total_seconds() * 1000)
    seen: set[int] = set()
    while True:
        number = (oldest + rng.randrange(span)) << 22 | rng.getrandbits(22)
        if number not in seen:
            seen.add(number)
            yield number


def date(rng: Random, first: datetime, last: datetime) -> datetime:
    """A whole second after ``first``, at the latest ``last``."""
    return first + timedelta(seconds=rng.randrange(1, int((last - first).total_seconds()) + 1))

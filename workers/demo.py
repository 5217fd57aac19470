"""The demo data: a platform of 2,000 users, 200 guilds, 20 bots and 3,000 punishments, the same at every run.

**Written through the commands.** Each act is a command of whoever did it, dated when it was done and decided by the
domain; all of them are appended in one transaction, so that a first start that is killed leaves nothing behind. Only
telemetry, which is no event, is written into its tables.

**The same, and alive.** All comes from one seed, and all dates but those of the last few events are fixed, from
2025-01-01 to 2026-03-10T12:00:00Z; so are ids, texts and positions. What ends before that is recorded as ended, what
ends later is left to the clock worker. Permanent bans, bans and Premium that run for years, and Lifetime are alive on
any day; a timeout (at most 28 days) or a trial (7 days) is not. So the last events, twelve timeouts and four trials,
are dated just before the midnight (UTC) of the day of the load; who, by whom, why and how long is fixed for them too.
The same goes for the times at which bots were last heard of.

**The documented examples** (api.md §5) show the same user active on 10 March 2026 and, under an unlifted permanent ban
of 15 January, banned. ``exampleuser`` is as §5.1 has it, to the byte: it was banned on that day and the ban was lifted
at 2026-03-10T12:00:00Z. §5.2 shows a ban that stands: it is that of ``EXAMPLE_BANNED_ID``, of the same second, issuer
and reason as exampleuser's, and its id is the documented 42, because the acts that the examples rest on come first in
the ledger, at positions 1 to 43, before the rest goes through the same months in order. (An id is a position: 42 needs
a ledger that never had an event and whose sequence has lost no value.)
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec
import psycopg

from modledger.domain import commands
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Subject
from modledger.domain.execute import execute_batch
from modledger.domain.ledger import Ledger
from modledger.domain.subjects import MODERATOR, OWNER, PREMIUM, USER
from modledger.domain.subscriptions import TRIAL_LENGTH
from modledger.workers.demo_population import TODAY, Population, avatar, careers, populate, snowflakes
from modledger.workers.demo_staff import (
    END,
    EXAMPLE_ADMIN_ID,
    HEAD_ADMIN_ID,
    MODERATOR_ID,
    OWNER_ID,
    START,
    STINTS,
    Act,
    as_commands,
    by_date,
    issuer,
    user,
)
from modledger.workers.demo_telemetry import encoded, fill
from modledger.workers.demo_upkeep import upkeep
from modledger.workers.demo_words import reason, usernames

# How many commands, and events, the opening has.
OPENING = 43
EXAMPLE_USER_ID = 123456789012345678
EXAMPLE_BANNED_ID = 444555666777888999
EXAMPLE_BAN_ID = 42
EXAMPLE_GUILD_ID = 987654321098765432
EXAMPLE_BOT_ID = 555666777888999111
DEMO_BOT = 666777888999111222
DEMO_ROLES = {"owner": OWNER_ID, "admin": EXAMPLE_ADMIN_ID, "moderator": MODERATOR_ID, "user": EXAMPLE_USER_ID}

USERS, GUILDS, BOTS, PUNISHMENTS = 2000, 200, 20, 3000

_NAMES = {
    OWNER_ID: "demo_owner",
    HEAD_ADMIN_ID: "head_admin",
    EXAMPLE_ADMIN_ID: "demo_admin",
    MODERATOR_ID: "demo_moderator",
}
_SEED = 20260310
BOT = Actor("bot", DEMO_BOT)
_BANNED_AT = datetime(2026, 1, 15, 12, tzinfo=UTC)
_EXAMPLE_BAN_KEY = 0


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded. ``commands`` counts those that were carried out: 0 when the demo was there already."""

    commands: int
    events: int
    users: int
    guilds: int
    bots: int
    punishments: int


class DemoRefused(Exception):
    """This ledger is not empty, or the domain refused an act of the demo: then the demo is at fault."""


class Demo(msgspec.Struct, frozen=True, kw_only=True):
    """``items`` in the order of the ledger; the rest are the rows of the telemetry tables."""

    items: Sequence[tuple[Command, Context]]
    user_activity: Sequence[tuple[int, datetime]]
    guild_activity: Sequence[tuple[int, int, datetime]]
    bot_activity: Sequence[tuple[int, int, int, float, datetime]]
    bot_guilds: Sequence[tuple[int, int]]


def load_demo(ledger: Ledger, conninfo: str, *, now: datetime) -> DemoReport:
    """Loads the demo into an empty ledger and the telemetry tables of the database at ``conninfo``.

    A second call changes nothing. Two at once: one loads, the other finds it done. Raises DemoRefused for a ledger that
    holds something else, LedgerUnavailable and psycopg.Error; nothing has entered the ledger then, or all of it.
    """
    demo = make_demo(now)
    last = demo.items[-1][1].command_id
    if ledger.head() and not ledger.known_commands([last]):
        raise DemoRefused("the ledger is not empty")
    # First, because it may be written again: whoever is killed in between finds an empty ledger and starts over.
    _write_telemetry(conninfo, demo)
    decisions = execute_batch(ledger, demo.items)
    for decision, (command, context) in zip(decisions, demo.items, strict=True):
        if decision.refused:
            raise DemoRefused(f"{command} of {context.actor} at {context.at}: {decision.refused}")
    carried_out = [command for decision, (command, _) in zip(decisions, demo.items, strict=True) if decision.events]
    issuing = (commands.IssueWarning, commands.IssueTimeout, commands.IssueBan)
    return DemoReport(
        commands=len(carried_out),
        events=sum(len(decision.events) for decision in decisions),
        users=sum(isinstance(command, commands.RegisterUser) for command in carried_out),
        guilds=sum(isinstance(command, commands.RegisterGuild) for command in carried_out),
        bots=sum(isinstance(command, commands.RegisterBot) for command in carried_out),
        punishments=sum(isinstance(command, issuing) for command in carried_out),
    )


def is_loaded(ledger: Ledger) -> bool:
    """Whether the demo, this one or one of another size, is in this ledger, its roles among it; it is there as a whole
    or not at all."""
    first = as_commands(opening()[:1])[0][1].command_id
    return bool(ledger.known_commands([first]))


def make_demo(now: datetime) -> Demo:
    """The whole demo, as data; of ``now`` (aware) only the day counts."""
    rng = Random(_SEED)  # noqa: S311 - the point is that it can be foretold
    first = opening()
    opened = {one.command.user_id: one.at for one in first if isinstance(one.command, commands.RegisterUser)}
    names = {one.command.username for one in first if isinstance(one.command, commands.RegisterUser)}
    staff = careers(list(opened), BOT, names)
    joined = {one.command.user_id: one.at for one in staff if isinstance(one.command, commands.RegisterUser)}
    population = populate(
        rng, BOT, people=USERS - len(opened) - len(joined), guilds=GUILDS - 1, bots=BOTS - 2,
        names=usernames(rng, names), ids=snowflakes(rng),
    )  # fmt: skip
    # By a seed of its own, so that the rest stays what it was.
    later = Random(_SEED + 1)  # noqa: S311
    upkept = upkeep(later, BOT, population.acts)
    rest = by_date([*staff, *_afterwards(), *population.acts, *upkept.acts])
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    today = max(midnight, END.replace(hour=0) + timedelta(days=1))
    people = opened | joined | population.people
    guilds = {EXAMPLE_GUILD_ID: _day(2025, 1, 2)} | population.guilds
    bots = [DEMO_BOT, EXAMPLE_BOT_ID, *population.bots]
    # The demo's own bot is in every guild but those that all bots have left.
    present = sorted(guilds.keys() - upkept.inactive_guilds.keys())
    reports = {
        bot_id: present if bot_id == DEMO_BOT else later.sample(present, later.randrange(1, 150)) for bot_id in bots
    }
    return Demo(
        items=as_commands([*first, *rest, *by_date(_today(rng, today, population))]),
        user_activity=[(user_id, last_seen(rng, user_id, since)) for user_id, since in people.items()],
        guild_activity=[(guild_id, int(rng.lognormvariate(5, 1.8)) + 2, since) for guild_id, since in guilds.items()],
        bot_activity=[
            (bot_id, len(reports[bot_id]), rng.randrange(100, 40_000), round(rng.uniform(20, 180), 1),
             upkept.inactive_bots.get(bot_id, today) - timedelta(seconds=rng.randrange(3600)))
            for bot_id in bots
        ],
        bot_guilds=[(bot_id, guild_id) for bot_id, named in reports.items() for guild_id in named],
    )  # fmt: skip


def head_acts() -> list[Act]:
    """What a demo of any size begins with: the opening, then the rest of the staff and of the examples by date."""
    first = opening()
    opened = [one.command.user_id for one in first if isinstance(one.command, commands.RegisterUser)]
    return [*first, *by_date([*careers(opened, BOT, set()), *_afterwards()])]


def opening() -> list[Act]:
    """The staff and the bot of the first day, and what the examples rest on: the ledger's first 43 events."""
    acts = [
        _register(OWNER_ID, _NAMES[OWNER_ID], OPERATOR),
        _level(START, OWNER_ID, OWNER, "First owner", OPERATOR),
        Act(at=START, actor=OPERATOR, command=commands.RegisterBot(
            bot_id=DEMO_BOT, name="ModledgerBot", owner_id=OWNER_ID, bot_type=1, rate_limit_per_hour=100_000)),
    ]  # fmt: skip
    founders = [stint for stint in STINTS if stint.since == START and stint.level != OWNER]
    for index, stint in enumerate(founders, start=1):
        acts.append(_register(stint.user_id, _NAMES.get(stint.user_id, f"founder_{index}"), BOT))
        acts.append(_level(START, stint.user_id, stint.level, "Founding staff", user(OWNER_ID)))
    example, banned = Subject("user", EXAMPLE_USER_ID), Subject("user", EXAMPLE_BANNED_ID)
    trial, premium = _day(2025, 2, 1), _day(2025, 8, 1)
    why = "Terms of service violation"
    picture = f"https://cdn.discordapp.com/avatars/{EXAMPLE_USER_ID}/abc.png"
    admin, self_ = user(EXAMPLE_ADMIN_ID), user(EXAMPLE_USER_ID)
    return [
        *acts,
        _register(EXAMPLE_USER_ID, "exampleuser", BOT),
        _act(_day(2025, 1, 2), BOT, commands.RegisterGuild(
            guild_id=EXAMPLE_GUILD_ID, name="Example Guild", owner_id=EXAMPLE_USER_ID)),
        _act(_day(2025, 1, 20), user(HEAD_ADMIN_ID), commands.RegisterBot(
            bot_id=EXAMPLE_BOT_ID, name="ExampleBot", owner_id=EXAMPLE_USER_ID)),
        _act(trial, admin, commands.StartTrial(target=example, reason="Welcome")),
        _act(trial + TRIAL_LENGTH, SYSTEM, commands.EndSubscription(target=example, expires_at=trial + TRIAL_LENGTH)),
        _act(_day(2025, 3, 3), BOT, commands.RegisterUser(
            user_id=EXAMPLE_BANNED_ID, username="banned_example", avatar_url=avatar(EXAMPLE_BANNED_ID, 42))),
        _level(_day(2025, 4, 1), EXAMPLE_USER_ID, MODERATOR, "On probation", admin),
        _act(_day(2025, 5, 5), self_, commands.ChangeUserPrefix(user_id=EXAMPLE_USER_ID, prefix="?")),
        _act(_day(2025, 5, 6), self_, commands.ChangeUserPrefix(user_id=EXAMPLE_USER_ID, prefix="!")),
        _level(_day(2025, 7, 1), EXAMPLE_USER_ID, USER, "End of probation", user(OWNER_ID)),
        _act(premium, admin, commands.GrantSubscription(target=example, tier=PREMIUM, reason="Patreon")),
        _act(premium + timedelta(days=28), admin, commands.GrantSubscription(target=example, tier=PREMIUM)),
        _act(_day(2025, 9, 10), user(OWNER_ID), commands.RevokeSubscription(target=example, reason="Refunded")),
        _act(_day(2025, 11, 11), BOT, commands.UpdateUser(user_id=EXAMPLE_USER_ID, avatar_url=picture)),
        _act(_BANNED_AT, admin, commands.IssueBan(target=banned, reason=why)),
        Act(at=_BANNED_AT, actor=admin, command=commands.IssueBan(target=example, reason=why), issues=_EXAMPLE_BAN_KEY),
    ]  # fmt: skip


def _afterwards() -> list[Act]:
    """What became of exampleuser after the ban; the last of it makes ``updated_at`` of the documented answer."""
    example = Subject("user", EXAMPLE_USER_ID)
    warn = commands.IssueWarning(target=example, reason="ban evasion")
    lift = commands.LiftPunishment(target=example, number=0, reason="appeal accepted")
    return [
        _act(_day(2026, 2, 2), user(MODERATOR_ID), warn),
        Act(at=END, actor=user(EXAMPLE_ADMIN_ID), command=lift, about=_EXAMPLE_BAN_KEY),
    ]


def _today(rng: Random, today: datetime, population: Population) -> list[Act]:
    """What is under way on the day of the load, begun just before ``today``, its midnight."""
    people = rng.sample(population.spared, TODAY + 3)
    acts = []
    for index, user_id in enumerate(people[:TODAY]):
        at, end = today - timedelta(minutes=rng.randrange(1, 1440)), today + timedelta(days=2 + 2 * index, hours=12)
        timeout = commands.IssueTimeout(user_id=user_id, reason=reason(rng), expires_at=end)
        acts.append(_act(at, issuer(rng, END, MODERATOR), timeout))
    trials = [*(Subject("user", user_id) for user_id in people[TODAY:]), Subject("guild", population.spared_guilds[0])]
    for index, target in enumerate(trials):
        trial = commands.StartTrial(target=target, reason="Free week")
        acts.append(_act(today - timedelta(hours=index + 1), user(HEAD_ADMIN_ID), trial))
    return acts


def last_seen(rng: Random, user_id: int, since: datetime) -> datetime:
    """Most were here lately."""
    if user_id == EXAMPLE_USER_ID:
        return END
    return END - timedelta(seconds=int((END - since).total_seconds() * rng.random() ** 3))


def _act(at: datetime, actor: Actor, command: Command) -> Act:
    return Act(at=at, actor=actor, command=command)


def _register(user_id: int, username: str, actor: Actor) -> Act:
    return _act(START, actor, commands.RegisterUser(user_id=user_id, username=username))


def _level(at: datetime, user_id: int, level: int, why: str, actor: Actor) -> Act:
    return _act(at, actor, commands.ChangePermission(user_id=user_id, level=level, reason=why))


def _day(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, 9, 30, tzinfo=UTC)


def _write_telemetry(conninfo: str, demo: Demo) -> None:
    with psycopg.connect(conninfo) as connection:
        for table, rows in (
            ("user_activity", demo.user_activity),
            ("guild_activity", demo.guild_activity),
            ("bot_activity", demo.bot_activity),
            ("bot_guilds", demo.bot_guilds),
        ):
            fill(connection, table, [encoded(table, rows)])

"""The demo of any size: a head (the staff and the documented examples), then *blocks*, each a platform of its own size.

A block has the people, guilds and bots of the small demo (``populate``), all that befell them, staff on probation, and
what was brought over from another platform in weekly imports. It is made from its seed and number alone, so blocks are
made in any order by any number of processes, and has exactly as many events, or punishments, as it is asked for.

**Within the rules.** Every act is put to the same decision as a command that comes over HTTP, with the staff as it was
at that second; what is refused is left out, with all that would have followed from it. As in the small demo, ends that
lie after the fixed dates are left to the clock worker.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import chain, count
from random import Random
from typing import Literal
from uuid import UUID, uuid5

import msgspec

from modledger.domain import commands, events, importing
from modledger.domain.commands import Command, Context
from modledger.domain.decide import decide, target_of
from modledger.domain.envelope import OPERATOR, Actor, NewEvent, Subject, subject_of
from modledger.domain.events import Issued
from modledger.domain.execute import event_id, execute_batch
from modledger.domain.facts import Facts
from modledger.domain.importing import DiscordId
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.refusals import Refused
from modledger.domain.subjects import BAN, GUILD_BLACKLIST, MODERATOR, USER, WARNING, State, User, evolve, new
from modledger.workers import demo_words
from modledger.workers.demo import BOT, DEMO_BOT, OPENING, head_acts, last_seen
from modledger.workers.demo_population import date, populate, snowflakes
from modledger.workers.demo_punishments import ban_outcomes, sanctions
from modledger.workers.demo_staff import (
    END,
    HEAD_ADMIN_ID,
    OWNER_ID,
    STAFF,
    START,
    STINTS,
    Act,
    as_commands,
    by_date,
    user,
)
from modledger.workers.demo_upkeep import upkeep

PEOPLE, GUILDS, BOTS = 1960, 199, 18
# How much of each a block of that make-up has at the least; the last block takes what is left.
EVENTS, PUNISHMENTS = 8_000, 3_000
MOST = 100_000_000

_IMPORTED, _IMPORTED_GUILDS, _ON_PROBATION = 110, 10, 5
_FIRST_SUNDAY = START + timedelta(days=4, hours=3)
_SUNDAYS = (END - _FIRST_SUNDAY) // timedelta(days=7)
_OLDEST_RECORD = START - timedelta(days=300)
_TRIED_SINCE = START + timedelta(days=200)
_IMPORTS = UUID("8a5f1d0e-7b0c-4f3f-9a7e-2c61f0b7d915")
# Who issued what is brought over; some have come along.
_STAFF_THERE = (None, DiscordId(HEAD_ADMIN_ID), DiscordId(OWNER_ID), DiscordId(31_415_926_535_897_932))
# More blocks than there may be, and more subjects than a block has; both are powers of two.
_MOST_BLOCKS, _MOST_IN_BLOCK = 1 << 16, 1 << 14
_DISCORD_BITS = 22


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How many events, or else how many punishments."""

    events: int | None = None
    punishments: int | None = None

    @property
    def number(self) -> int:
        return self.events if self.events is not None else self.punishments or 0

    def of(self, happened: Iterable[NewEvent]) -> int:
        """How many of what is counted these are."""
        if self.events is not None:
            return sum(1 for _ in happened)
        return sum(isinstance(one.event, Issued) for one in happened)

    def but(self, number: int) -> "Size":
        """The same thing, another number of it."""
        return Size(events=number) if self.events is not None else Size(punishments=number)


class Happened(msgspec.Struct, frozen=True):
    """One command and what it brought about. ``order``: seconds since the demo's first, by which the ledger goes."""

    order: int
    command_id: UUID
    events: list[NewEvent]


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of the four tables, in the order of their columns (``demo_telemetry.TABLES``)."""

    user_activity: list[tuple[int, datetime]]
    guild_activity: list[tuple[int, int, datetime]]
    bot_activity: list[tuple[int, int, int, float, datetime]]
    bot_guilds: list[tuple[int, int]]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The head or a block: its commands, those of a stream in their order; a stream is in one part only. ``present``:
    how many guilds have the demo's bot."""

    happened: list[Happened]
    telemetry: Telemetry
    present: int


def parts(size: Size) -> list[tuple[int, Size]]:
    """The numbers of the parts, 0 the head, and the size of each."""
    whole = size.of(chain.from_iterable(one.events for one in _head(size)))
    each = EVENTS if size.events is not None else PUNISHMENTS
    blocks, last = divmod(size.number - whole, each)
    found = [(0, size.but(whole)), *((number, size.but(each)) for number in range(1, blocks + 1))]
    return [*found, (blocks + 1, size.but(last))] if last else found


def part(seed: int, number: int, size: Size, today: datetime) -> Part:
    """The part of that number, exactly of that size; the same for the same seed. ``today``: the midnight of the load,
    before which bots were last heard of."""
    rng = Random(f"{seed} {number}")  # noqa: S311 - the point is that it can be foretold
    happened = _block(rng, seed, number, size) if number else _head(size)
    return _with_telemetry(rng, happened, today)


def _head(size: Size) -> list[Happened]:
    """The documented examples at their positions, then the staff; or as much of it as is asked for."""
    found: list[Happened] = []
    items = as_commands(head_acts())
    missing = size.number
    for (_, context), decision in zip(items, execute_batch(MemoryLedger(lambda: END), items), strict=True):
        missing -= size.of(decision.events)
        if missing < 0:
            break
        order = 0 if len(found) < OPENING else _order(context.at)
        found.append(Happened(order, context.command_id, list(decision.events)))
        if missing == 0:
            break
    return found


def _block(rng: Random, seed: int, number: int, size: Size) -> list[Happened]:
    names, ids = _usernames(rng, number), _ids(rng, number)
    population = populate(rng, BOT, people=PEOPLE, guilds=GUILDS, bots=BOTS, names=names, ids=ids)
    acts = [
        *population.acts,
        *upkeep(rng, BOT, population.acts).acts,
        *_probation(rng, [one for one in population.spared if population.people[one] < _TRIED_SINCE]),
        *_imports(rng, f"{seed}-{number}", names, ids),
    ]
    streams: dict[Subject, list[Act]] = {}
    for act in acts:
        streams.setdefault(target_of(act.command), []).append(act)
    subjects = list(streams)
    rng.shuffle(subjects)
    found: list[Happened] = []
    missing = size.number
    for subject in subjects:
        happened = _decided(rng, subject, streams[subject])
        if (several := size.of(event for one in happened for event in one.events)) <= missing:
            found += happened
            missing -= several
    while missing:
        newcomer = Subject("user", next(ids))
        happened = _decided(rng, newcomer, _newcomer(rng, newcomer.id, next(names), size))
        missing -= size.of(event for one in happened for event in one.events)
        found += happened
    return found


def _decided(rng: Random, subject: Subject, acts: Sequence[Act]) -> list[Happened]:
    """What becomes of the acts about one subject; those that the domain refuses are left out."""
    stream, state = str(subject), new(subject)
    others = _others(acts)
    numbers: dict[int, int] = {}
    found: list[Happened] = []
    for act in by_date(acts):
        command = act.command
        if act.about is not None:
            if act.about not in numbers:
                continue
            command = msgspec.structs.replace(command, number=numbers[act.about])
        context = _context(rng, act.at, act.actor, command)
        states = _staff(bisect_left(_CHANGES, act.at)) | others
        states[stream] = state
        try:
            decided = decide(command, Facts(context, states))
        except Refused:
            continue
        if not decided:
            continue
        # As execute.py dates them.
        at = act.at if state.updated_at is None else max(act.at, state.updated_at)
        happened = []
        for index, one in enumerate(decided):
            event = NewEvent(
                stream=stream,
                version=state.version + 1,
                event=one.event,
                event_id=event_id(context.command_id, index),
                occurred_at=one.at or at,
                actor=one.actor or act.actor,
                correlation_id=context.correlation_id,
                via=context.via,
                external_id=context.external_id,
            )
            evolve(state, event)
            happened.append(event)
        if act.issues is not None:
            numbers[act.issues] = state.version
        found.append(Happened(_order(act.at), context.command_id, happened))
    return found


def _context(rng: Random, at: datetime, actor: Actor, command: Command) -> Context:
    if isinstance(command, importing.Import):
        return Context(
            actor=actor,
            at=at,
            command_id=importing.command_id(command),  # type: ignore[arg-type]
            # One for each file, and a file each Sunday.
            correlation_id=uuid5(_IMPORTS, f"{at:%Y-%m-%d}"),
            via="import",
            external_id=command.external_id,
        )
    command_id = UUID(int=rng.getrandbits(128), version=4)
    return Context(actor=actor, at=at, command_id=command_id, correlation_id=command_id, via="cli")


def _order(at: datetime) -> int:
    return 1 + int((at - START).total_seconds())


# -- whom decisions look at beside the subject: the staff of that second, and owners, who are of no rank

_CHANGES = sorted({at for stint in STINTS for at in (stint.since, stint.until) if at is not None})


@cache
def _staff(interval: int) -> dict[str, State]:
    """Between two changes."""
    after = _CHANGES[interval - 1] if interval else START - timedelta(days=1)
    middle = after + timedelta(seconds=1)
    levels = dict.fromkeys(STAFF, USER)
    for stint in STINTS:
        if stint.covers(middle):
            levels[stint.user_id] = max(levels[stint.user_id], stint.level)
    return {f"user:{user_id}": User(id=user_id, registered=True, level=level) for user_id, level in levels.items()}


def _others(acts: Iterable[Act]) -> dict[str, State]:
    ids = {act.actor.user_id for act in acts} | {getattr(act.command, "owner_id", None) for act in acts}
    # Of what was brought over some has an issuer who did not come along, and may be replaced here.
    ids |= set(_STAFF_THERE)
    return {f"user:{one}": User(id=one) for one in ids if isinstance(one, int) and one not in STAFF}


# -- what a block has beside the population of the small demo


def _probation(rng: Random, people: Sequence[int]) -> list[Act]:
    """Some are tried as moderators; most of them for a while."""
    acts = []
    for user_id in rng.sample(people, _ON_PROBATION):
        since = date(rng, _TRIED_SINCE, END - timedelta(days=120))
        promote = commands.ChangePermission(user_id=user_id, level=MODERATOR, reason="On probation")
        acts.append(Act(at=since, actor=user(HEAD_ADMIN_ID), command=promote))
        if rng.random() < 0.6:
            until = since + timedelta(days=rng.randrange(14, 120), minutes=rng.randrange(1440))
            demote = commands.ChangePermission(user_id=user_id, level=USER, reason="End of probation")
            acts.append(Act(at=until, actor=user(OWNER_ID), command=demote))
    return acts


def _imports(rng: Random, source: str, names: Iterator[str], ids: Iterator[int]) -> list[Act]:
    """People and guilds of another platform with what they had there, each taken over on some Sunday, and what became
    of some here. ``source`` makes the records' external ids their own."""
    acts: list[Act] = []
    # Beyond those of the population.
    keys, outcomes = count(1_000_000), ban_outcomes(rng)
    for index in range(_IMPORTED + _IMPORTED_GUILDS):
        is_guild = index >= _IMPORTED
        subject = Subject("guild" if is_guild else "user", next(ids))
        sunday = _FIRST_SUNDAY + rng.randrange(_SUNDAYS) * timedelta(days=7) + timedelta(seconds=rng.randrange(7200))
        since = date(rng, _OLDEST_RECORD, sunday - timedelta(days=30))
        external = f"{source}-{index}"
        id_, records = DiscordId(subject.id), list[importing.Import]()
        if is_guild:
            name = demo_words.guild_name(rng)
            records.append(importing.ImportGuild(external_id=external, created_at=since, discord_id=id_, name=name))
        else:
            prefix = "?" if rng.random() < 0.1 else None
            records.append(
                importing.ImportUser(
                    external_id=external, created_at=since, discord_id=id_, username=next(names), prefix=prefix
                )
            )
        for nth in range(rng.choice((0, 1, 1, 1, 2, 3))):
            records.append(_old_punishment(rng, subject, f"{external}-{nth}", since, sunday))
        if rng.random() < 0.15:
            at = date(rng, since, sunday)
            records.append(
                importing.ImportSubscription(
                    external_id=external,
                    created_at=at,
                    discord_user_id=None if is_guild else id_,
                    discord_guild_id=id_ if is_guild else None,
                    old_tier=0,
                    new_tier=2,
                    expires_at=at + timedelta(days=3650),
                    reason="Paid there",
                )
            )
        acts += [Act(at=sunday, actor=OPERATOR, command=record) for record in records]
        if rng.random() < 0.4:
            acts += sanctions(rng, subject, sunday, rng.choice((1, 1, 2)), keys, outcomes)
    return acts


def _old_punishment(
    rng: Random, subject: Subject, external: str, since: datetime, sunday: datetime
) -> importing.Import:
    """Over by the day of the import, unless it is for ever."""
    is_guild = subject.kind == "guild"
    kinds: tuple[Literal[1, 2, 3, 4], ...] = (1, 4) if is_guild else (1, 1, 2, 3)
    kind, way = rng.choice(kinds), rng.random()
    at = date(rng, since, sunday - timedelta(days=8))
    expires = lifted = None
    if kind in (BAN, GUILD_BLACKLIST) and way < 0.3:
        lifted = date(rng, at, sunday) if way < 0.1 else None
    elif kind != WARNING:
        expires = at + timedelta(hours=rng.choice((1, 24, 72, 168)))
        lifted = date(rng, at, expires) if way > 0.7 else None
    issued_by, lifted_by = rng.choice(_STAFF_THERE), rng.choice(_STAFF_THERE)
    return importing.ImportPunishment(
        external_id=external,
        created_at=at,
        discord_user_id=None if is_guild else DiscordId(subject.id),
        discord_guild_id=DiscordId(subject.id) if is_guild else None,
        punishment_type=kind,
        reason=demo_words.reason(rng),
        expires_at=expires,
        lifted_at=lifted,
        discord_issued_by_id=issued_by,
        discord_lifted_by_id=lifted_by if lifted else None,
    )


def _newcomer(rng: Random, user_id: int, username: str, size: Size) -> list[Act]:
    """One event more, or one punishment."""
    since = date(rng, START, END - timedelta(days=7))
    acts = [Act(at=since, actor=BOT, command=commands.RegisterUser(user_id=user_id, username=username))]
    if size.punishments is not None:
        warning = commands.IssueWarning(target=Subject("user", user_id), reason=demo_words.reason(rng))
        acts.append(Act(at=since + timedelta(days=1), actor=user(HEAD_ADMIN_ID), command=warning))
    return acts


def _usernames(rng: Random, number: int) -> Iterator[str]:
    """No two alike in all blocks: the number behind each is given once."""
    for ordinal in count(number * _MOST_IN_BLOCK):
        yield f"{demo_words.nickname(rng)}{ordinal}"


def _ids(rng: Random, number: int) -> Iterator[int]:
    """No two alike in all blocks: in the bits below the milliseconds stand the block and a number in it."""
    for index, at in zip(range(_MOST_IN_BLOCK), snowflakes(rng), strict=False):
        milliseconds = (at >> _DISCORD_BITS) // _MOST_BLOCKS * _MOST_BLOCKS + number
        yield milliseconds << _DISCORD_BITS | index << 8 | at & 0xFF


# -- what bots report about the present


def _with_telemetry(rng: Random, happened: list[Happened], today: datetime) -> Part:
    """About all that are registered, as in the small demo; the demo's bot is in every guild that a bot is in."""
    people: dict[int, datetime] = {}
    guilds: dict[int, datetime] = {}
    bots: dict[int, datetime] = {}
    inactive: set[int] = set()
    for new_event in chain.from_iterable(one.events for one in happened):
        number = subject_of(new_event.stream).id
        match new_event.event:
            case events.UserRegistered():
                people[number] = new_event.occurred_at
            case events.GuildRegistered():
                guilds[number] = new_event.occurred_at
            case events.BotRegistered():
                bots[number] = today
            case events.GuildStateChanged(state=1):
                inactive.add(number)
            case events.GuildStateChanged():
                inactive.discard(number)
            case events.BotDeactivated():
                bots[number] = new_event.occurred_at
            case events.BotActivated():
                bots[number] = today
    present = sorted(guilds.keys() - inactive)
    bots.pop(DEMO_BOT, None)
    reports = {one: rng.sample(present, min(len(present), rng.randrange(1, 150))) for one in bots}
    telemetry = Telemetry(
        user_activity=[(one, last_seen(rng, one, since)) for one, since in people.items()],
        guild_activity=[(one, int(rng.lognormvariate(5, 1.8)) + 2, since) for one, since in guilds.items()],
        bot_activity=[
            (one, len(reports[one]), rng.randrange(100, 40_000), round(rng.uniform(20, 180), 1), heard)
            for one, heard in bots.items()
        ],
        bot_guilds=[
            *((one, guild) for one, named in reports.items() for guild in named),
            *((DEMO_BOT, guild) for guild in present),
        ],
    )
    return Part(happened=happened, telemetry=telemetry, present=len(present))

"""Two folds read the same events, one to decide and one to answer: they never say different things about a subject."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid5

from hypothesis import given, settings
from hypothesis import strategies as st

from modledger.domain import commands
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Recorded, Subject, subject_of
from modledger.domain.execute import execute
from modledger.domain.importing import DiscordId, ImportPermission, ImportPunishment, ImportSubscription
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.refusals import Refused
from modledger.domain.subjects import BAN, GUILD_BLACKLIST, TIMEOUT, Bot, Guild, User, fold
from modledger.projections import bots, guilds, profile
from modledger.projections.projector import Key, Projector, R

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
NAMES = UUID("0b9a3a52-0f0e-4d77-8a51-0a4a0f5b7a10")
TARGETS = [Subject("user", 1), Subject("user", 2), Subject("guild", 3)]
BOT = Subject("bot", 4)

hours = st.integers(min_value=1, max_value=300)
targets = st.sampled_from(TARGETS)
numbers = st.integers(min_value=1, max_value=12)


def moment(hour: int) -> datetime:
    return START + hour * HOUR


@st.composite
def steps(draw: st.DrawFn) -> tuple[Command, Actor]:
    """A command by someone who may give it, so that much happens; many make no sense and are refused."""
    target, end = draw(targets), moment(draw(hours))
    number, level, tier = draw(numbers), draw(st.integers(0, 3)), draw(st.integers(0, 3))
    past: dict[str, Any] = {"external_id": str(draw(st.integers(0, 10**6))), "created_at": moment(-draw(hours))}
    user: dict[str, Any] = {"discord_user_id": DiscordId(target.id)}
    owned: dict[str, Any] = user if target.kind == "user" else {"discord_guild_id": DiscordId(target.id)}
    until = draw(st.none() | st.just(end - 150 * HOUR))
    kind: Literal["BAN", "GUILD_BLACKLIST"] = "BAN" if target.kind == "user" else "GUILD_BLACKLIST"
    return draw(
        st.sampled_from(
            [
                (commands.RegisterUser(user_id=target.id, username=f"name{number}"), SYSTEM),
                (commands.RegisterGuild(guild_id=target.id, name=f"name{number}", owner_id=1), SYSTEM),
                (commands.ChangeUserPrefix(user_id=target.id, prefix="?"), OPERATOR),
                (commands.ChangePermission(user_id=target.id, level=level, reason="why"), OPERATOR),
                (commands.GrantSubscription(target=target, tier=max(tier, 1), duration_days=number), OPERATOR),
                (commands.StartTrial(target=target), OPERATOR),
                (commands.RevokeSubscription(target=target, reason="why"), OPERATOR),
                (commands.EndSubscription(target=target, expires_at=end), SYSTEM),
                (commands.IssueWarning(target=target, reason="why"), OPERATOR),
                (commands.IssueTimeout(user_id=target.id, reason="why", expires_at=end, replace=level > 1), OPERATOR),
                (commands.IssueBan(target=target, reason="why", expires_at=until or end, replace=level > 1), OPERATOR),
                (commands.IssueBan(target=target, reason="why", replace=level > 1), OPERATOR),
                (commands.AmendPunishment(target=target, number=number, expires_at=end), OPERATOR),
                (commands.LiftPunishment(target=target, number=number, reason="why"), OPERATOR),
                (commands.VoidPunishment(target=target, number=number, reason="why"), OPERATOR),
                (commands.EraseSubject(target=target, reason="why"), OPERATOR),
                (commands.SyncGuild(guild_id=3, name=f"name{number}", avatar_url=f"https://a/{tier}.png"), SYSTEM),
                (commands.UpdateGuild(guild_id=3, owner_id=draw(st.none() | st.just(level)), state=tier % 2), OPERATOR),
                *_about_bots(number, level, tier),
                (ImportPunishment(punishment_type=kind, reason="old", expires_at=until, **past, **owned), OPERATOR),
                (ImportSubscription(old_tier=0, new_tier=tier, expires_at=until, **past, **owned), OPERATOR),
                (ImportPermission(old_level=0, new_level=level, reason="old", **past, **user), OPERATOR),
            ]
        )
    )


def _about_bots(number: int, level: int, tier: int) -> list[tuple[Command, Actor]]:
    name, limit = f"name{number}", number * 100
    return [
        (commands.RegisterBot(bot_id=4, name=name, owner_id=1 + level), OPERATOR),
        (commands.UpdateBot(bot_id=4, name=name, owner_id=1 + tier), OPERATOR),
        (commands.UpdateBot(bot_id=4, bot_type=max(tier, 1), rate_limit_per_hour=limit, is_active=level > 1), OPERATOR),
        (commands.SyncBot(bot_id=4, avatar_url=f"https://a/{tier}.png"), Actor("bot", 4)),
        (commands.RegenerateBotKey(bot_id=4), OPERATOR),
        (commands.EraseSubject(target=BOT, reason="why"), OPERATOR),
    ]


@settings(max_examples=300)
@given(st.lists(st.tuples(steps(), st.integers(0, 40)), min_size=10, max_size=40), hours)
def test_states_tiers_levels_and_names_are_the_same_in_decisions_and_in_read_tables(
    script: list[tuple[tuple[Command, Actor], int]], asked: int
) -> None:
    ledger = MemoryLedger(lambda: START)
    at = START
    for n, ((command, actor), wait) in enumerate(script):
        at += wait * HOUR
        context = Context(actor=actor, at=at, command_id=uuid5(NAMES, str(n)), correlation_id=NAMES, via="cli")
        try:
            execute(ledger, command, context)
        except Refused:
            continue
    now = moment(asked)
    happened = ledger.read(0, 10_000)
    profiles, blacklists = rows_of(profile.PROJECTOR, happened), rows_of(guilds.PROJECTOR, happened)
    ferries = rows_of(bots.PROJECTOR, happened)
    for stream in {one.stream for one in happened}:
        target = subject_of(stream)
        state = fold(target, [one for one in happened if one.stream == stream])
        if isinstance(state, User):
            row = profiles[(target.id,)]
            status = 2 if state.active_punishment(BAN, now) else 1 if state.active_punishment(TIMEOUT, now) else 0
            assert profile.state(row, now) == status
            assert profile.tier(row, now) == state.tier_at(now)
            assert (row.level, row.prefix, row.username) == (state.level, state.prefix, state.username)
            assert (row.registered, row.trial_used, row.version) == (state.registered, state.trial_used, state.version)
            assert (row.avatar_url, row.created_at) == (state.avatar_url, state.created_at)
        if isinstance(state, Guild):
            guild = blacklists[(target.id,)]
            assert (guilds.state(guild, now) == 2) == (state.active_punishment(GUILD_BLACKLIST, now) is not None)
            assert guilds.tier(guild, now) == state.tier_at(now)
            assert (guild.owner_id, guild.name, guild.prefix) == (state.owner_id, state.name, state.prefix)
            assert guilds.state(guild, now) == 2 or guilds.state(guild, now) == state.state_set
            assert (guild.avatar_url, guild.state_set) == (state.avatar_url, state.state_set)
            assert (guild.registered, guild.trial_used, guild.version) == (
                state.registered,
                state.trial_used,
                state.version,
            )

        if isinstance(state, Bot):
            bot = ferries[(target.id,)]
            assert (bot.registered, bot.active, bot.version) == (state.registered, state.active, state.version)
            assert (bot.name, bot.avatar_url, bot.owner_id) == (state.name, state.avatar_url, state.owner_id)
            assert (bot.bot_type, bot.rate_limit_per_hour) == (state.bot_type, state.rate_limit_per_hour)


def rows_of(projector: Projector[R], happened: list[Recorded]) -> dict[Key, R]:
    rows: dict[Key, R] = {}
    for recorded in happened:
        key = projector.touches(recorded) if recorded.event.TOPIC in projector.topics else None
        if key is not None:
            for row in projector.fold(rows, recorded):
                rows[tuple(getattr(row, column) for column in projector.key)] = row
    return rows

"""The demo data: the same at every run, of real shape, within the rules, and with the documented examples in it."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from uuid import uuid4

import msgspec
import psycopg
import pytest

from modledger.domain import events
from modledger.domain.commands import Context, RegisterUser
from modledger.domain.envelope import OPERATOR, SYSTEM, Recorded, Subject, subject_of
from modledger.domain.execute import execute, execute_batch
from modledger.domain.ledger import Ledger
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.subjects import (
    ADMIN,
    BAN,
    BASIC,
    GUILD_BLACKLIST,
    LIFETIME,
    MODERATOR,
    OWNER,
    PREMIUM,
    TIMEOUT,
    TRIAL,
    WARNING,
    Account,
    Bot,
    Guild,
    Punishment,
    State,
    User,
    fold,
)
from modledger.projections import profile, punishments, user_detail
from modledger.projections.catalog import PROJECTORS
from modledger.projections.projector import advance
from modledger.projections.search import Page, Search, find
from modledger.projections.user_detail import Detail
from modledger.workers.demo import (
    BOTS,
    DEMO_BOT,
    DEMO_ROLES,
    EXAMPLE_BAN_ID,
    EXAMPLE_BANNED_ID,
    EXAMPLE_USER_ID,
    GUILDS,
    PUNISHMENTS,
    USERS,
    DemoRefused,
    is_loaded,
    load_demo,
    make_demo,
    opening,
)
from modledger.workers.demo_staff import END, EXAMPLE_ADMIN_ID, START, as_commands
from tests.databases import MASTER_KEY
from tests.postgres_server import create_database, drop_database

NOW = datetime(2026, 11, 22, 7, 30, tzinfo=UTC)
MIDNIGHT = NOW.replace(hour=0, minute=0)


@pytest.fixture(scope="module")
def demo_database(postgres_server: str, template_database: str) -> Iterator[str]:
    """A database with the demo in it; every read model has folded it. For reading only."""
    name = f"demo_{uuid4().hex}"
    conninfo = create_database(postgres_server, name, template_database)
    with PostgresLedger(conninfo, MASTER_KEY) as ledger:
        load_demo(ledger, conninfo, now=NOW)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for projector in PROJECTORS:
                while advance(connection, projector, ledger, 5000).more:
                    pass
    yield conninfo
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def demo_ledger(demo_database: str) -> Iterator[PostgresLedger]:
    with PostgresLedger(demo_database, MASTER_KEY) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def history(demo_ledger: PostgresLedger) -> list[Recorded]:
    return everything(demo_ledger)


@pytest.fixture(scope="module")
def states(history: list[Recorded]) -> dict[str, State]:
    """Every subject as it stands at the end."""
    streams: dict[str, list[Recorded]] = defaultdict(list)
    for recorded in history:
        streams[recorded.stream].append(recorded)
    return {stream: fold(subject_of(stream), happened) for stream, happened in streams.items()}


@pytest.fixture(scope="module")
def issued(states: dict[str, State]) -> list[Punishment]:
    return [one for state in states.values() if isinstance(state, Account) for one in state.punishments.values()]


def everything(ledger: Ledger) -> list[Recorded]:
    return ledger.read(0, 100_000)


def without_recording(history: Iterable[Recorded]) -> list[Recorded]:
    return [msgspec.structs.replace(one, recorded_at=END) for one in history]


def telemetry(conninfo: str) -> list[list[tuple[object, ...]]]:
    with psycopg.connect(conninfo) as connection:
        return [
            connection.execute("select * from user_activity order by user_id").fetchall(),
            connection.execute("select * from guild_activity order by guild_id").fetchall(),
            connection.execute("select * from bot_activity order by bot_id").fetchall(),
            connection.execute("select * from bot_guilds order by bot_id, guild_id").fetchall(),
        ]


def share(part: Iterable[object], whole: Iterable[object]) -> float:
    return len(list(part)) / len(list(whole))


# -- the same at every run


def test_two_loads_on_one_day_give_the_same_events_at_the_same_positions(
    demo_database: str, history: list[Recorded], ledger: PostgresLedger, database: str
) -> None:
    load_demo(ledger, database, now=NOW + timedelta(hours=11))
    assert without_recording(everything(ledger)) == without_recording(history)
    assert telemetry(database) == telemetry(demo_database)


def test_another_day_moves_only_the_dates_of_what_is_under_way(database: str, history: list[Recorded]) -> None:
    later = MemoryLedger(lambda: NOW)
    load_demo(later, database, now=NOW + timedelta(days=100))
    moved = [
        pair for pair in zip(history, everything(later), strict=True) if pair[0].occurred_at != pair[1].occurred_at
    ]
    assert len(moved) == 16
    assert moved[-1][0].position == len(history)
    for here, there in moved:
        assert isinstance(here.event, events.UserTimedOut | events.TrialStarted)
        assert there.event == msgspec.structs.replace(
            here.event, expires_at=here.event.expires_at + timedelta(days=100)
        )
        assert there.occurred_at == here.occurred_at + timedelta(days=100)
        assert (there.stream, there.actor, there.event_id) == (here.stream, here.actor, here.event_id)
    same = len(history) - len(moved)
    assert without_recording(everything(later)[:same]) == without_recording(history[:same])


def test_the_demo_of_a_clock_that_is_behind_comes_after_its_fixed_dates(database: str) -> None:
    ledger = MemoryLedger(lambda: NOW)
    load_demo(ledger, database, now=START)
    assert max(one.occurred_at for one in everything(ledger)) < END + timedelta(days=1)
    timeouts = [one.event.expires_at for one in everything(ledger)[-16:] if isinstance(one.event, events.UserTimedOut)]
    assert min(timeouts) > END


def test_a_second_load_adds_nothing_whatever_the_day(ledger: PostgresLedger, database: str) -> None:
    assert not is_loaded(ledger)
    first = load_demo(ledger, database, now=NOW)
    assert is_loaded(ledger)
    head, before = ledger.head(), telemetry(database)
    second = load_demo(ledger, database, now=NOW + timedelta(days=3))
    assert (second.commands, second.events) == (0, 0)
    assert first.events == head == ledger.head()
    assert telemetry(database) == before


def test_the_demo_is_not_mixed_into_a_ledger_that_holds_something_else(database: str) -> None:
    ledger = MemoryLedger(lambda: NOW)
    context = Context(actor=OPERATOR, at=NOW, command_id=uuid4(), correlation_id=uuid4(), via="cli")
    execute(ledger, RegisterUser(user_id=1, username="somebody"), context)
    with pytest.raises(DemoRefused):
        load_demo(ledger, database, now=NOW)
    assert ledger.head() == 1
    assert telemetry(database) == [[], [], [], []]
    assert not is_loaded(ledger)


# -- the promised numbers


def test_the_report_counts_what_is_there(ledger: PostgresLedger, database: str) -> None:
    report = load_demo(ledger, database, now=NOW)
    kinds = Counter(type(one.event) for one in everything(ledger))
    assert (report.users, report.guilds, report.bots, report.punishments) == (USERS, GUILDS, BOTS, PUNISHMENTS)
    assert (USERS, GUILDS, BOTS, PUNISHMENTS) == (2000, 200, 20, 3000)
    assert kinds[events.UserRegistered] == USERS
    assert kinds[events.GuildRegistered] == GUILDS
    assert kinds[events.BotRegistered] == BOTS
    assert report.events == kinds.total() == ledger.head()


def test_no_command_of_the_demo_is_refused_or_idle() -> None:
    demo = make_demo(NOW)
    decisions = execute_batch(MemoryLedger(lambda: NOW), demo.items)
    assert [item for item, decision in zip(demo.items, decisions, strict=True) if not decision.events] == []


def test_every_kind_of_event_but_erasure_happens(history: list[Recorded]) -> None:
    assert set(events.EVENTS.values()) - {type(one.event) for one in history} == {events.SubjectErased}


def test_bans_end_as_real_ones_do(issued: list[Punishment]) -> None:
    bans = [one for one in issued if one.type == BAN]
    kinds = Counter(one.ending.kind if one.ending else "open" for one in bans)
    assert len(bans) > 700
    assert 0.16 < share((one for one in bans if one.expires_at is None), bans) < 0.22
    assert 0.52 < kinds["lapsed"] / len(bans) < 0.60
    lifted = sum(kinds[kind] for kind in ("lifted", "voided", "overturned", "superseded"))
    assert 0.29 < lifted / len(bans) < 0.37
    assert set(kinds) == {"lapsed", "lifted", "voided", "overturned", "superseded", "open"}


def test_the_median_timeout_is_an_hour(history: list[Recorded]) -> None:
    lengths = [
        (one.event.expires_at - one.occurred_at).total_seconds()
        for one in history
        if isinstance(one.event, events.UserTimedOut)
    ]
    assert len(lengths) > 700
    assert median(lengths) == 3600
    assert max(lengths) <= 28 * 86_400


def test_reasons_are_as_short_and_as_alike_as_real_ones(history: list[Recorded]) -> None:
    reasons = [one.event.reason for one in history if isinstance(one.event, events.Issued)]
    lengths = sorted(map(len, reasons))
    assert len(reasons) == PUNISHMENTS
    assert 8 <= median(lengths) <= 10
    assert 50 <= lengths[len(lengths) * 99 // 100] <= 60
    assert 0.27 < sum(count for _, count in Counter(reasons).most_common(10)) / len(reasons) < 0.33


def test_one_issuer_has_a_third_of_all_and_the_system_some(issued: list[Punishment]) -> None:
    by = Counter(one.issued_by for one in issued)
    assert 0.30 < by.most_common(1)[0][1] / len(issued) < 0.36
    assert 0.02 < by[SYSTEM] / len(issued) < 0.08
    assert len(by) > 20


def test_half_of_the_punished_have_one_record_and_few_have_many(states: dict[str, State]) -> None:
    counts = sorted(len(one.punishments) for one in states.values() if isinstance(one, Account) and one.punishments)
    assert 0.45 < counts.count(1) / len(counts) < 0.55
    assert 19 <= counts[len(counts) * 99 // 100] <= 23
    assert counts[-1] == 44


def test_some_of_the_punished_were_never_registered(states: dict[str, State]) -> None:
    assert sum(1 for one in states.values() if isinstance(one, User) and not one.registered) == 40


def test_everything_that_can_be_under_way_is_under_way_on_the_day_of_the_load(
    issued: list[Punishment], states: dict[str, State]
) -> None:
    running = Counter(one.type for one in issued if one.active(NOW))
    assert running[TIMEOUT] == 12
    assert min(running[WARNING], running[BAN], running[GUILD_BLACKLIST]) >= 5
    accounts = [one for one in states.values() if isinstance(one, Account)]
    for kind in (User, Guild):
        tiers = Counter(one.tier_at(NOW) for one in accounts if type(one) is kind)
        assert set(tiers) == {BASIC, TRIAL, PREMIUM, LIFETIME}


def test_there_is_staff_of_every_level_and_each_role_has_its_own(states: dict[str, State]) -> None:
    levels = Counter(one.level for one in states.values() if isinstance(one, User))
    assert levels[OWNER] == 1
    assert levels[ADMIN] >= 5
    assert 20 <= levels[MODERATOR] <= 40
    found = {role: states[f"user:{user_id}"] for role, user_id in DEMO_ROLES.items()}
    assert {role: one.level for role, one in found.items() if isinstance(one, User)} == {
        "owner": OWNER,
        "admin": ADMIN,
        "moderator": MODERATOR,
        "user": 0,
    }
    assert not any(one.restricted(NOW) for one in found.values() if isinstance(one, User))
    bot = states[f"bot:{DEMO_BOT}"]
    assert isinstance(bot, Bot)
    assert bot.registered


def test_names_are_borne_by_one_user_each(states: dict[str, State]) -> None:
    names = [profile.name_key(one.username) for one in states.values() if isinstance(one, User) and one.username]
    assert len(names) == len(set(names)) == USERS


def test_telemetry_is_about_everybody_registered_and_never_from_the_future(
    demo_database: str, states: dict[str, State]
) -> None:
    rows = telemetry(demo_database)
    for table, kind in zip(rows[:3], ("user", "guild", "bot"), strict=True):
        registered = {one.id for stream, one in states.items() if stream.startswith(kind) and one.registered}
        assert {row[0] for row in table} == registered
    assert all(row[1] <= END for row in rows[0] if isinstance(row[1], datetime))
    inactive = {f"bot:{one.id}" for one in states.values() if isinstance(one, Bot) and not one.active}
    heard = {f"bot:{row[0]}": row[4] for row in rows[2] if isinstance(row[4], datetime)}
    assert all(MIDNIGHT - timedelta(hours=1) <= at <= NOW for stream, at in heard.items() if stream not in inactive)
    assert all(heard[stream] <= END for stream in inactive)


def test_each_bot_is_in_as_many_guilds_as_it_says_and_none_is_in_an_inactive_guild(
    demo_database: str, states: dict[str, State]
) -> None:
    _, guild_rows, bot_rows, pairs = telemetry(demo_database)
    told = {row[0]: row[1] for row in bot_rows}
    assert Counter(bot_id for bot_id, _ in pairs) == told
    assert min(Counter(bot_id for bot_id, _ in pairs).values()) >= 1
    with_a_bot = {guild_id for _, guild_id in pairs}
    inactive = {one.id for one in states.values() if isinstance(one, Guild) and one.state_set == 1}
    assert len(inactive) == 6
    assert with_a_bot == {row[0] for row in guild_rows} - inactive


def test_a_bot_is_shut_and_another_one_changed_hands_type_and_limit(
    history: list[Recorded], states: dict[str, State]
) -> None:
    assert sum(1 for one in states.values() if isinstance(one, Bot) and not one.active) == 1
    kinds: dict[str, set[type[events.Event]]] = defaultdict(set)
    for one in history:
        kinds[one.stream].add(type(one.event))
    sold = {events.BotRegistered, events.BotOwnerChanged, events.BotTypeChanged, events.BotRateLimitChanged}
    assert [stream for stream, seen in kinds.items() if seen == sold]
    assert events.GuildAvatarChanged in {type(one.event) for one in history}
    assert states[f"bot:{DEMO_BOT}"].version == 1


# -- the documented examples (api.md §5)


def detail_of_exampleuser(demo_database: str) -> Detail:
    with psycopg.connect(demo_database, autocommit=True) as connection:
        (line,) = psycopg.RawCursor(connection).execute(user_detail.BY_IDS.encode(), ([EXAMPLE_USER_ID],)).fetchall()
    return user_detail.detail_of(line)


def test_exampleuser_has_the_documented_profile_value_by_value(demo_database: str) -> None:
    found = detail_of_exampleuser(demo_database).found
    row = found.profile
    assert row is not None
    assert {
        "discord_id": str(row.user_id),
        "username": row.username,
        "avatar_url": row.avatar_url,
        "subscription_tier": profile.tier(row, NOW),
        "state": profile.state(row, NOW),
        "permission_level": row.level,
        "prefix": row.prefix,
        "subscription_expires_at": profile.subscription_expires_at(row, NOW),
        "last_activity_at": found.last_activity_at,
        "created_at": row.created_at,
        "updated_at": profile.updated_at(row, NOW),
    } == {
        "discord_id": "123456789012345678",
        "username": "exampleuser",
        "avatar_url": "https://cdn.discordapp.com/avatars/123456789012345678/abc.png",
        "subscription_tier": 0,
        "state": 0,
        "permission_level": 0,
        "prefix": "!",
        "subscription_expires_at": None,
        "last_activity_at": datetime(2026, 3, 10, 12, tzinfo=UTC),
        "created_at": datetime(2025, 1, 1, tzinfo=UTC),
        "updated_at": datetime(2026, 3, 10, 12, tzinfo=UTC),
    }


def test_exampleuser_has_something_in_each_list_that_a_moderator_sees(demo_database: str) -> None:
    seen = detail_of_exampleuser(demo_database)
    assert [len(seen.punishments), len(seen.guilds), len(seen.bots)] == [2, 1, 1]
    assert [len(seen.subscription_history), len(seen.permission_history)] == [5, 2]


@pytest.mark.parametrize(
    "search",
    [Search(user_id=EXAMPLE_BANNED_ID), Search(issued_by=EXAMPLE_ADMIN_ID, active_only=True)],
    ids=["by user", "active ones by issuer"],
)
def test_the_documented_ban_is_found_alone_and_under_its_id(demo_database: str, search: Search) -> None:
    async def ask() -> Page:
        async with await psycopg.AsyncConnection.connect(demo_database, autocommit=True) as connection:
            return await find(connection, search, NOW, fragments=True)

    page = asyncio.run(ask())
    assert page.total == 1
    (ban,) = page.punishments
    assert {
        "id": ban.id,
        "discord_user_id": ban.user_id,
        "discord_guild_id": ban.guild_id,
        "punishment_type": ban.type,
        "discord_issued_by_id": ban.issued_by,
        "reason": ban.reason,
        "expires_at": ban.expires_at,
        "is_lifted": punishments.is_lifted(ban),
        "lifted_at": ban.lifted_at,
        "discord_lifted_by_id": ban.lifted_by,
        "created_at": ban.created_at,
        "updated_at": punishments.updated_at(ban, NOW),
    } == {
        "id": 42,
        "discord_user_id": EXAMPLE_BANNED_ID,
        "discord_guild_id": None,
        "punishment_type": BAN,
        "discord_issued_by_id": 999888777666555444,
        "reason": "Terms of service violation",
        "expires_at": None,
        "is_lifted": False,
        "lifted_at": None,
        "discord_lifted_by_id": None,
        "created_at": datetime(2026, 1, 15, 12, tzinfo=UTC),
        "updated_at": datetime(2026, 1, 15, 12, tzinfo=UTC),
    }


def test_the_examples_stand_at_the_positions_that_they_always_had(history: list[Recorded]) -> None:
    first = MemoryLedger(lambda: NOW)
    execute_batch(first, as_commands(opening()))
    assert first.head() == 43
    assert without_recording(history[:43]) == without_recording(everything(first))
    banned = events.UserBanned(reason="Terms of service violation")
    assert [(one.position, one.stream, one.event) for one in history[41:43]] == [
        (42, f"user:{EXAMPLE_BANNED_ID}", banned),
        (43, f"user:{EXAMPLE_USER_ID}", banned),
    ]


def test_exampleuser_was_banned_in_january_as_documented(history: list[Recorded]) -> None:
    """The two documented answers are of two moments: after the ban, and after it was lifted."""
    example = Subject("user", EXAMPLE_USER_ID)
    until = datetime(2026, 1, 15, 12, tzinfo=UTC)
    then = fold(example, [one for one in history if one.stream == str(example) and one.occurred_at <= until])
    assert isinstance(then, User)
    (ban,) = then.punishments.values()
    assert (ban.type, ban.issued_by.user_id, ban.issued_at, ban.expires_at) == (BAN, EXAMPLE_ADMIN_ID, until, None)
    assert (ban.reason, ban.ending) == ("Terms of service violation", None)
    assert ban.position == EXAMPLE_BAN_ID + 1

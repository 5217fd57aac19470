"""What the read models answer: profiles, the detail view, what is due, subscriptions, health."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from modledger.domain import events
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import bots, guilds, health, profile, punishments, user_detail
from modledger.projections.catalog import PROJECTORS
from modledger.projections.due import due_punishments, due_subscriptions
from modledger.projections.profile import BY_IDS, BY_NAMES, Found, Shown, found, found_shown, name_key
from modledger.projections.projector import advance
from modledger.projections.standing import FOREVER
from modledger.projections.user_detail import Detail, detail_of
from tests.projection_history import ADMIN, DAY, HOUR, NOW, SECOND, Happened, append, memory_ledger

Connection = psycopg.Connection[Any]


@pytest.fixture
def memory() -> Iterator[MemoryLedger]:
    with memory_ledger() as ledger:
        yield ledger


def given(conn: Connection, ledger: MemoryLedger, *history: Happened) -> None:
    versions: dict[str, int] = {}
    for happened in history:
        append(ledger, versions, happened)
    for projector in PROJECTORS:
        advance(conn, projector, ledger, 10_000)


def ask(conn: Connection, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    return psycopg.RawCursor(conn).execute(query, parameters).fetchall()


def by_name(conn: Connection, *names: str) -> dict[str, Found]:
    lines = ask(conn, BY_NAMES, [name_key(name) for name in names])
    return {key: found_shown(key, line) for key, *line in lines}


def registered(stream: str, name: str, at: Any = NOW) -> Happened:
    if stream.startswith("guild"):
        return Happened(stream, events.GuildRegistered(name=name, owner_id=7), at)
    if stream.startswith("bot"):
        return Happened(stream, events.BotRegistered(name=name, owner_id=7), at)
    return Happened(stream, events.UserRegistered(username=name), at)


def test_a_profile_is_found_by_name_without_regard_to_case_and_by_id(conn: Connection, memory: MemoryLedger) -> None:
    given(conn, memory, registered("user:7", "Anna"), registered("user:8", "Bert"))
    named = by_name(conn, "ANNA", "nobody")
    anna = named["anna"]
    assert anna.profile is not None
    assert (anna.profile.user_id, anna.profile.username, anna.position, anna.last_activity_at) == (7, "Anna", 2, NOW)
    assert (named["nobody"].profile, named["nobody"].position) == (None, 2)
    lines = {one.key: one for one in map(found, ask(conn, BY_IDS, [8, 7, 99]))}
    for field in Shown.__struct_fields__:
        assert getattr(lines[7].profile, field) == getattr(anna.profile, field)
    assert (lines[99].profile, lines[99].position) == (None, 2)


def test_a_name_belongs_to_whoever_took_it_last(conn: Connection, memory: MemoryLedger) -> None:
    given(
        conn,
        memory,
        registered("user:8", "anna", NOW),
        registered("user:7", "Anna", NOW - DAY),
        registered("user:9", "ANNA", NOW - HOUR),
        Happened("user:8", events.UserRenamed(old_username="anna", username="Bert"), NOW + HOUR),
    )
    bearer = by_name(conn, "anna")["anna"].profile
    assert bearer is not None
    assert bearer.user_id == 9


def test_an_erased_user_is_not_found_by_the_name_which_is_free_again(conn: Connection, memory: MemoryLedger) -> None:
    given(
        conn,
        memory,
        registered("user:7", "Anna", NOW - DAY),
        registered("user:8", "anna", NOW),
        Happened("user:8", events.SubjectErased(reason="request")),
    )
    bearer = by_name(conn, "anna")["anna"].profile
    assert bearer is not None
    assert bearer.user_id == 7
    assert by_name(conn, events.ERASED)[events.ERASED].profile is None


def test_an_answer_before_the_first_batch_is_as_fresh_as_nothing(conn: Connection) -> None:
    assert by_name(conn, "anna")["anna"] == Found("anna", 0, None, None)


def test_last_activity_is_what_was_reported(conn: Connection, memory: MemoryLedger) -> None:
    given(conn, memory, registered("user:7", "Anna", NOW - DAY))
    conn.execute("insert into user_activity values (7, %s)", (NOW,))
    assert by_name(conn, "anna")["anna"].last_activity_at == NOW


def test_a_row_survives_the_way_into_the_database_and_back(conn: Connection, memory: MemoryLedger) -> None:
    given(
        conn,
        memory,
        registered("user:7", "Ännä \"'\\ \U0001f600 אבג"),
        Happened("user:7", events.UserBanned(reason="for ever")),
        Happened("user:7", events.UserTimedOut(reason="a day", expires_at=NOW + DAY)),
    )
    (line,) = ask(conn, BY_IDS, [7])
    row = found(line).profile
    assert isinstance(row, profile.Profile)
    assert row.username == "Ännä \"'\\ \U0001f600 אבג"
    assert row.open_punishments == {2: (3, None), 3: (2, NOW + DAY)}
    assert (profile.state(row, NOW), row.timeout_until) == (2, NOW + DAY)


def test_times_come_back_right_in_every_time_zone_of_the_server(database: str, memory: MemoryLedger) -> None:
    zones = ("Pacific/Kiritimati", "Etc/GMT+12", "Europe/Berlin")
    versions: dict[str, int] = {}
    for zone in zones:
        with psycopg.connect(database, autocommit=True, options=f"-c timezone={zone}") as conn:
            # Written in one zone, read and changed in the next.
            append(memory, versions, Happened("user:7", events.UserBanned(reason="for ever")))
            for projector in PROJECTORS:
                advance(conn, projector, memory, 10)
            row = found(ask(conn, BY_IDS, [7])[0]).profile
            assert row is not None
            assert (row.created_at, row.banned_until, profile.state(row, NOW)) == (NOW, FOREVER, 2)


def test_punishments_are_found_by_id_and_by_user_newest_first(conn: Connection, memory: MemoryLedger) -> None:
    given(
        conn,
        memory,
        Happened("user:7", events.UserWarned(reason="new"), NOW),
        Happened("user:7", events.UserWarned(reason="imported"), NOW - DAY),
        Happened("user:7", events.UserWarned(reason="of the same second"), NOW),
    )
    of_user = [punishments.punishment_of(line[1:]) for line in ask(conn, punishments.OF_USER, 7, 0, 10)]
    assert [row and row.reason for row in of_user] == ["of the same second", "new", "imported"]
    assert [line[0] for line in ask(conn, punishments.OF_USER, 7, 1, 1)] == [3]
    by_id = {line[0]: punishments.punishment_of(line[2:]) for line in ask(conn, punishments.BY_IDS, [2, 999])}
    assert by_id == {2: of_user[2], 999: None}


def test_nothing_found_still_says_how_fresh_the_answer_is(conn: Connection, memory: MemoryLedger) -> None:
    given(conn, memory, registered("user:7", "Anna"))
    lines = ask(conn, punishments.OF_USER, 9, 0, 10)
    assert [(line[0], punishments.punishment_of(line[1:])) for line in lines] == [(1, None)]


def read_detail(conn: Connection, user_id: int) -> Detail:
    # Together with another's, as they are read over HTTP.
    return next(
        one for one in map(detail_of, ask(conn, user_detail.BY_IDS, [user_id, 999])) if one.found.key == user_id
    )


def test_the_detail_view_holds_the_profile_and_its_five_lists(conn: Connection, memory: MemoryLedger) -> None:
    given(
        conn,
        memory,
        registered("user:7", "Anna"),
        registered("guild:8", "Hers", NOW - DAY),
        registered("guild:9", "Hers too", NOW),
        registered("bot:5", "Helper"),
        Happened("guild:8", events.GuildOwnerChanged(old_owner_id=7, owner_id=1), NOW),
        Happened("user:7", events.UserWarned(reason="spam"), NOW, ADMIN),
        Happened("user:7", events.TrialStarted(old_tier=0, expires_at=NOW + DAY), NOW, ADMIN),
        Happened("user:7", events.SubscriptionEnded(old_tier=1), NOW + DAY),
        Happened("user:7", events.PermissionChanged(old_level=0, new_level=1, reason="promoted"), NOW, ADMIN),
        registered("user:70", "Another"),
        Happened("user:70", events.UserWarned(reason="hers"), NOW, ADMIN),
    )
    conn.execute("insert into guild_activity (guild_id, member_count) values (9, 50)")
    seen = read_detail(conn, 7)
    assert seen.found.profile is not None
    assert (seen.found.profile.username, seen.position) == ("Anna", 11)
    assert [row.reason for row in seen.punishments] == ["spam"]
    assert [(one.guild.name, one.member_count) for one in seen.guilds] == [("Hers too", 50)]
    assert [(one.bot.name, one.guilds, one.users, one.latency_ms, one.last_activity_at) for one in seen.bots] == [
        ("Helper", 0, 0, None, NOW)
    ]
    assert [(row.old_tier, row.new_tier) for row in seen.subscription_history] == [(1, 0), (0, 1)]
    assert [(row.new_level, row.changed_by) for row in seen.permission_history] == [(1, 21)]


def test_the_detail_view_is_as_fresh_as_its_slowest_projector(conn: Connection, memory: MemoryLedger) -> None:
    given(conn, memory, registered("user:7", "Anna"))
    append(memory, {"user:7": 1}, Happened("user:7", events.UserWarned(reason="spam")))
    for projector in PROJECTORS:
        if projector is not bots.PROJECTOR:
            advance(conn, projector, memory, 10)
    assert read_detail(conn, 7).position == 1


def test_the_detail_view_of_nobody_is_empty(conn: Connection) -> None:
    seen = read_detail(conn, 7)
    assert (seen.found.profile, seen.position, seen.punishments, seen.guilds, seen.bots) == (None, 0, [], [], [])


def test_the_detail_view_holds_the_newest_hundred_of_each(conn: Connection, memory: MemoryLedger) -> None:
    history = []
    for n in range(120):
        at = NOW + n * HOUR
        history += [
            Happened("user:7", events.UserWarned(reason=f"{n}"), at),
            Happened("user:7", events.PermissionChanged(old_level=0, new_level=1, reason=f"{n}"), at),
            Happened("user:7", events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None, reason=f"{n}"), at),
            registered(f"guild:{n + 1}", f"{n}", at),
            registered(f"bot:{n + 1}", f"{n}", at),
        ]
    given(conn, memory, *history)
    seen = read_detail(conn, 7)
    newest = [f"{n}" for n in range(119, 19, -1)]
    assert [row.reason for row in seen.punishments] == newest
    assert [row.reason for row in seen.permission_history] == newest
    assert [row.reason for row in seen.subscription_history] == newest
    assert [one.guild.name for one in seen.guilds] == newest
    assert [one.bot.name for one in seen.bots] == newest


def test_erased_and_unregistered_guilds_and_bots_are_not_shown_as_owned(conn: Connection, memory: MemoryLedger) -> None:
    erased = [Happened(stream, events.SubjectErased(reason="request")) for stream in ("guild:8", "bot:5")]
    owned = Happened("guild:9", events.GuildOwnerChanged(old_owner_id=None, owner_id=7))
    given(conn, memory, registered("guild:8", "Hers"), registered("bot:5", "Helper"), *erased, owned)
    seen = read_detail(conn, 7)
    assert (seen.guilds, seen.bots) == ([], [])


def test_what_ran_out_is_due_until_its_end_is_recorded(conn: Connection, memory: MemoryLedger) -> None:
    given(
        conn,
        memory,
        Happened("user:7", events.UserTimedOut(reason="later", expires_at=NOW + DAY)),
        Happened("user:7", events.UserBanned(reason="permanent")),
        Happened("user:7", events.UserWarned(reason="never ends")),
        Happened("guild:8", events.GuildBlacklisted(reason="sooner", expires_at=NOW + HOUR)),
        Happened("user:9", events.UserBanned(reason="recorded", expires_at=NOW + HOUR)),
        Happened("user:9", events.PunishmentLapsed(number=1), NOW + HOUR),
        Happened("user:9", events.UserBanned(reason="lifted", expires_at=NOW + HOUR)),
        Happened("user:9", events.PunishmentLifted(number=3, reason="sorry"), NOW),
    )
    assert list(due_punishments(conn, NOW + HOUR - SECOND)) == []
    assert list(due_punishments(conn, NOW + HOUR)) == [("guild:8", 1, NOW + HOUR)]
    assert list(due_punishments(conn, NOW + DAY)) == [("guild:8", 1, NOW + HOUR), ("user:7", 1, NOW + DAY)]


def test_tiers_that_ran_out_are_due_until_their_end_is_recorded(conn: Connection, memory: MemoryLedger) -> None:
    given(
        conn,
        memory,
        Happened("user:7", events.SubscriptionGranted(old_tier=0, tier=2, expires_at=NOW + DAY)),
        Happened("guild:8", events.TrialStarted(old_tier=0, expires_at=NOW + HOUR)),
        Happened("user:9", events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None)),
        Happened("user:10", events.TrialStarted(old_tier=0, expires_at=NOW + HOUR)),
        Happened("user:10", events.SubscriptionEnded(old_tier=1), NOW + HOUR),
        Happened("user:11", events.TrialStarted(old_tier=0, expires_at=NOW + HOUR)),
        Happened("user:11", events.SubscriptionRevoked(old_tier=1, reason="refund"), NOW),
    )
    assert list(due_subscriptions(conn, NOW + HOUR - SECOND)) == []
    assert set(due_subscriptions(conn, NOW + DAY)) == {("guild:8", NOW + HOUR), ("user:7", NOW + DAY)}


def test_active_subscriptions_are_those_with_a_tier_at_that_second(conn: Connection, memory: MemoryLedger) -> None:
    given(
        conn,
        memory,
        registered("user:7", "Anna"),
        Happened("user:7", events.SubscriptionGranted(old_tier=0, tier=2, expires_at=NOW + DAY)),
        Happened("user:9", events.SubscriptionGranted(old_tier=0, tier=3, expires_at=None)),
        registered("guild:8", "Hers"),
        Happened("guild:8", events.TrialStarted(old_tier=0, expires_at=NOW + HOUR)),
        registered("user:10", "Basic"),
    )
    users = [profile.Subscribed(*line) for line in ask(conn, profile.SUBSCRIBED, NOW, None)]
    assert users == [profile.Subscribed(7, "Anna", 2, NOW + DAY), profile.Subscribed(9, None, 3, None)]
    assert [line[0] for line in ask(conn, profile.SUBSCRIBED, NOW, 3)] == [9]
    assert [line[0] for line in ask(conn, profile.SUBSCRIBED, NOW + DAY, None)] == [9]
    assert ask(conn, guilds.SUBSCRIBED, NOW, None) == [(8, "Hers", 1, NOW + HOUR)]
    assert ask(conn, guilds.SUBSCRIBED, NOW + HOUR, None) == []


def test_health_tells_how_far_each_projector_is_and_where_one_stopped(conn: Connection, ledger: PostgresLedger) -> None:
    def told(now: Any) -> dict[str, health.ProjectorHealth]:
        return {one.name: one for one in map(health.health, ask(conn, health.HEALTH, health.NAMES, now))}

    assert {(one.position, one.lag_events, one.lag_seconds, one.failure) for one in told(NOW).values()} == {
        (0, 0, 0, None)
    }
    versions: dict[str, int] = {}
    for _ in range(3):
        append(ledger, versions, Happened("user:7", events.UserWarned(reason="spam")))
    advance(conn, PROJECTORS[0], ledger, 10)
    advance(conn, PROJECTORS[1], ledger, 1)
    first, second = ledger.at(1), ledger.at(2)
    assert first is not None
    assert second is not None
    conn.execute(
        "insert into projection_failures (projector, position, event_id, topic, error, failed_at)"
        " values ('punishments', 2, %s, %s, 'ValueError()', %s)",
        (second.event_id, second.event.TOPIC, NOW),
    )
    seen = told(second.recorded_at + timedelta(seconds=5))
    assert (seen["profile"].position, seen["profile"].lag_events, seen["profile"].lag_seconds) == (3, 0, 0)
    stopped = seen["punishments"]
    assert (stopped.position, stopped.lag_events, stopped.lag_seconds) == (1, 2, 5)
    assert stopped.failure is not None
    assert (stopped.failure.position, stopped.failure.event_id) == (2, str(second.event_id))
    assert told(first.recorded_at)["bots"].lag_seconds == 0

"""The present follows the dates of events: an import of old records leaves it alone, in whichever order they come."""

import itertools
from datetime import timedelta
from pathlib import Path

import pytest

from bench.import_records import records, write
from modledger.domain import commands, events
from modledger.domain.envelope import SYSTEM, Actor, Subject, subject_of
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.subjects import Guild, User, fold
from modledger.projections import guilds, profile
from modledger.projections.projector import Key
from modledger.workers.importer import import_file
from tests.import_scenario import NOW, ban, brought, day, live, state_of, take, tier_change


def test_old_records_after_live_commands_do_not_change_the_present(ledger: PostgresLedger, tmp_path: Path) -> None:
    target = Subject("user", 1)
    live(ledger, commands.RegisterUser(user_id=1, username="today"), at=NOW - timedelta(hours=1))
    live(ledger, commands.ChangeUserPrefix(user_id=1, prefix="?"), actor=Actor("user", 1))
    live(ledger, commands.ChangeUserPrefix(user_id=1, prefix="!"), actor=Actor("user", 1))
    live(ledger, commands.ChangePermission(user_id=1, level=2, reason="hired"))
    live(ledger, commands.GrantSubscription(target=target, tier=3))
    live(ledger, commands.IssueBan(target=target, reason="raid"))
    now = NOW + timedelta(hours=1)
    before = state_of(ledger, target)
    assert isinstance(before, User)
    level = {"kind": "permission", "external_id": "a", "discord_user_id": 1, "old_level": 2, "new_level": 3}
    report = take(
        ledger,
        tmp_path,
        {
            "kind": "user",
            "external_id": "a",
            "discord_id": 1,
            "username": "then",
            "prefix": "$",
            "created_at": "2020-01-01T00:00:00Z",
        },
        {**level, "reason": "promoted", "created_at": "2024-01-01T00:00:00Z"},
        tier_change("a", 0, 1, "2024-01-01", until="2024-01-08"),
        tier_change("b", 0, 2, "2024-02-01", until="2026-12-01"),
        tier_change("c", 2, 0, "2024-03-01", by=5),
        ban("a", 1, "2024-01-01", until="2024-02-01"),
        now=now,
    )
    assert (report.added, report.already_there, report.skipped) == (5, 1, {})
    after = state_of(ledger, target)
    assert isinstance(after, User)
    for fact in ("username", "prefix", "level", "tier", "tier_until", "created_at", "updated_at"):
        assert getattr(after, fact) == getattr(before, fact), fact
    standing, imported = after.active_punishment(3, now), max(after.punishments.values(), key=lambda one: one.number)
    assert standing is not None
    assert (standing.issued_at, standing.ending) == (NOW, None)
    assert imported.ending is not None
    assert imported.ending.kind == "lapsed"


def test_a_prefix_that_was_chosen_here_before_the_name_was_known_stays(ledger: PostgresLedger, tmp_path: Path) -> None:
    take(ledger, tmp_path, ban("a", 1, "2025-01-01"))
    live(ledger, commands.ChangeUserPrefix(user_id=1, prefix="?"))
    take(
        ledger,
        tmp_path,
        {
            "kind": "user",
            "external_id": "a",
            "discord_id": 1,
            "username": "ada",
            "prefix": "$",
            "created_at": "2020-01-01T00:00:00Z",
        },
    )
    user = state_of(ledger, Subject("user", 1))
    assert isinstance(user, User)
    assert (user.username, user.prefix, user.created_at) == ("ada", "?", day("2020-01-01"))


# A premium that was replaced by a lifetime before its end; one that was taken away; one that ran out.
HISTORIES = {
    "upgraded": (
        [tier_change("a", 0, 2, "2025-01-01", until="2025-03-01"), tier_change("b", 2, 3, "2025-02-01")],
        3,
    ),
    "revoked": (
        [
            tier_change("a", 0, 2, "2025-01-01", until="2027-01-01"),
            tier_change("b", 2, 0, "2025-02-01", by=5),
            tier_change("c", 0, 1, "2024-01-01", until="2024-01-08"),
        ],
        0,
    ),
    "renewed": (
        [
            tier_change("a", 0, 2, "2025-01-01", until="2025-02-01"),
            tier_change("b", 2, 2, "2025-01-20", until="2026-02-01"),
            tier_change("c", 2, 2, "2026-01-20", until="2027-02-01"),
        ],
        2,
    ),
    "ended with a record of its end": (
        [
            tier_change("a", 0, 2, "2025-01-01", until="2025-02-01"),
            tier_change("b", 2, 0, "2025-02-01"),
            tier_change("c", 0, 3, "2025-03-01"),
            tier_change("d", 3, 0, "2025-04-01"),
        ],
        0,
    ),
    "ended at its own second": (
        [tier_change("a", 0, 1, "2025-01-01", until="2025-01-08"), tier_change("b", 1, 0, "2025-01-08")],
        0,
    ),
}


@pytest.mark.parametrize("clock_comes_by", [False, True])
@pytest.mark.parametrize("name", HISTORIES)
def test_the_tier_is_right_in_whichever_order_its_records_come(
    ledger: PostgresLedger, tmp_path: Path, name: str, clock_comes_by: bool
) -> None:
    history, tier = HISTORIES[name]
    for number, order in enumerate(itertools.permutations(history), start=1):
        target = Subject("user", number)
        for line in order:
            mine = {**line, "external_id": f"{number} {line['external_id']}", "discord_user_id": number}
            report = take(ledger, tmp_path, mine)
            assert (report.added + report.already_there, report.skipped) == (1, {})
            user = state_of(ledger, target)
            if clock_comes_by and isinstance(user, User) and user.tier_until is not None:
                live(ledger, commands.EndSubscription(target=target, expires_at=user.tier_until), actor=SYSTEM)
        user = state_of(ledger, target)
        assert isinstance(user, User)
        assert user.tier_at(NOW) == tier, order
        assert user.tier_at(NOW) == profile.tier(profile_rows(ledger)[(number,)], NOW)


def test_an_end_that_the_clock_has_recorded_is_there_already(ledger: PostgresLedger, tmp_path: Path) -> None:
    granted, ended = tier_change("a", 0, 1, "2025-01-01", until="2025-01-08"), tier_change("b", 1, 0, "2025-01-08")
    take(ledger, tmp_path, granted)
    end = commands.EndSubscription(target=Subject("user", 1), expires_at=day("2025-01-08"))
    live(ledger, end, actor=SYSTEM)
    report = take(ledger, tmp_path, granted, ended)
    assert (report.added, report.already_there) == (0, 2)
    assert brought(ledger, "user:1")[1:] == [(events.SubscriptionEnded(old_tier=1), day("2025-01-08"), SYSTEM)]


def profile_rows(ledger: PostgresLedger) -> dict[Key, profile.Profile]:
    rows: dict[Key, profile.Profile] = {}
    for recorded in ledger.read(0, 1_000_000):
        if profile.touches(recorded) is not None:
            rows |= {(row.user_id,): row for row in profile.fold(rows, recorded)}
    return rows


def test_read_models_and_decisions_agree_after_an_import_of_real_shape(ledger: PostgresLedger, tmp_path: Path) -> None:
    file = tmp_path / "old.jsonl"
    write(file, records(3_000, NOW, seed=7))
    assert import_file(ledger, file, now=NOW).skipped == {}
    rows, guild_rows = profile_rows(ledger), dict[Key, guilds.Guild]()
    for recorded in ledger.read(0, 1_000_000):
        if guilds.touches(recorded) is not None:
            guild_rows |= {(row.guild_id,): row for row in guilds.fold(guild_rows, recorded)}
    streams = {recorded.stream for recorded in ledger.read(0, 1_000_000)}
    for stream, history in ledger.load(sorted(streams)).items():
        match fold(subject_of(stream), history):
            case User() as user:
                row = rows[(user.id,)]
                assert (row.username, row.level, profile.tier(row, NOW)) == (
                    user.username,
                    user.level,
                    user.tier_at(NOW),
                )
                assert (profile.state(row, NOW) > 0) == user.restricted(NOW)
                assert (row.version, row.created_at, row.updated_at) == (user.version, user.created_at, user.updated_at)
            case Guild() as guild:
                found = guild_rows[(guild.id,)]
                assert (found.name, found.owner_id) == (guild.name, guild.owner_id)


def test_records_from_before_an_erasure_are_skipped_and_later_ones_are_not(
    ledger: PostgresLedger, tmp_path: Path
) -> None:
    take(ledger, tmp_path, ban("a", 1, "2025-01-01", until="2025-01-02"))
    live(ledger, commands.EraseSubject(target=Subject("user", 1), reason="asked for"), at=day("2026-01-01"))
    user = {
        "kind": "user",
        "external_id": "a",
        "discord_id": 1,
        "username": "ada",
        "created_at": "2020-01-01T00:00:00Z",
    }
    report = take(ledger, tmp_path, user, ban("b", 1, "2025-06-01", until="2025-06-02"), ban("c", 1, "2026-02-01"))
    assert (report.added, report.skipped) == (1, {"erased subject": 2})
    state = state_of(ledger, Subject("user", 1))
    assert isinstance(state, User)
    assert (state.registered, len(state.punishments)) == (False, 2)

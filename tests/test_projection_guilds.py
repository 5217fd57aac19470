"""What the projector of guilds keeps beside the facts: the state set, the sponsor, forms of the name, the counts."""

from collections import Counter
from datetime import datetime
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modledger.domain import events, subjects
from modledger.domain.envelope import SYSTEM, Actor, subject_of
from modledger.domain.subjects import fold
from modledger.projections import guilds
from modledger.projections.guilds import Guild
from modledger.projections.projector import advance
from tests.projection_history import (
    ADMIN,
    DAY,
    HOUR,
    NOW,
    OTHER_ADMIN,
    SECOND,
    Happened,
    append,
    folded,
    memory_ledger,
    only,
    recorded,
)
from tests.random_history import histories

GUILD = "guild:8"
REGISTERED = Happened(GUILD, events.GuildRegistered(name="Straße 7", avatar_url="https://a.example/g.png", owner_id=7))


def guild_after(*history: Happened) -> Guild:
    row = only(folded(guilds.PROJECTOR, *history))
    assert isinstance(row, Guild)
    return row


def granted(tier: int, until: datetime | None, at: datetime = NOW, by: Actor = ADMIN) -> Happened:
    return Happened(GUILD, events.SubscriptionGranted(old_tier=0, tier=tier, expires_at=until), at, by)


def test_a_guild_is_inactive_when_the_staff_say_so_and_banned_before_that() -> None:
    inactive = Happened(GUILD, events.GuildStateChanged(old_state=0, state=1), NOW)
    blacklisted = Happened(GUILD, events.GuildBlacklisted(reason="raid", expires_at=NOW + DAY), NOW)
    row = guild_after(REGISTERED, blacklisted, inactive)
    assert [guilds.state(row, at) for at in (NOW, NOW + DAY - SECOND, NOW + DAY)] == [2, 2, 1]
    assert (row.state_set, row.state_recorded) == (1, 2)
    lapsed = Happened(GUILD, events.PunishmentLapsed(number=2), NOW + DAY)
    assert guild_after(REGISTERED, blacklisted, inactive, lapsed).state_recorded == 1
    active = Happened(GUILD, events.GuildStateChanged(old_state=1, state=0), NOW)
    assert guilds.state(guild_after(REGISTERED, inactive, active), NOW) == 0


def test_the_picture_follows_the_ledger_and_goes_with_an_erasure() -> None:
    changed = events.GuildAvatarChanged(old_avatar_url="https://a.example/g.png", avatar_url=None)
    assert guild_after(REGISTERED, Happened(GUILD, changed)).avatar_url is None
    erased = events.GuildAvatarChanged(old_avatar_url=events.ERASED, avatar_url=events.ERASED)
    assert guild_after(REGISTERED, Happened(GUILD, erased)).avatar_url is None


def test_a_name_is_found_by_its_key_and_code_until_it_is_erased() -> None:
    row = guild_after(REGISTERED)
    assert (row.name, row.name_key) == ("Straße 7", "strasse 7")
    assert row.name_code is not None
    assert row.name_code.startswith("strasse")
    gone = guild_after(REGISTERED, Happened(GUILD, events.SubjectErased(reason="request")))
    assert (gone.name, gone.name_key, gone.name_code) == (None, None, None)


def test_the_sponsor_is_who_gave_the_tier_that_runs() -> None:
    first = granted(2, NOW + DAY)
    assert guilds.sponsored_by(guild_after(REGISTERED), NOW) is None
    assert guilds.sponsored_by(guild_after(REGISTERED, first), NOW) == 21
    assert guilds.sponsored_by(guild_after(REGISTERED, first), NOW + DAY) is None
    renewed = events.SubscriptionRenewed(tier=2, old_expires_at=NOW + DAY, expires_at=NOW + 9 * DAY)
    later = Happened(GUILD, renewed, NOW + HOUR, OTHER_ADMIN)
    assert guilds.sponsored_by(guild_after(REGISTERED, first, later), NOW + HOUR) == 22
    assert guilds.sponsored_by(guild_after(REGISTERED, granted(3, None, by=SYSTEM)), NOW) is None
    revoked = Happened(GUILD, events.SubscriptionRevoked(old_tier=2, reason="refund"), NOW + HOUR, ADMIN)
    assert guild_after(REGISTERED, first, revoked).tier_by is None
    ended = Happened(GUILD, events.SubscriptionEnded(old_tier=2), NOW + DAY)
    assert guild_after(REGISTERED, first, ended).tier_by is None


def test_an_imported_older_tier_does_not_change_the_sponsor() -> None:
    older = granted(2, NOW - 9 * DAY, NOW - 40 * DAY, OTHER_ADMIN)
    assert guilds.sponsored_by(guild_after(REGISTERED, granted(3, None), older), NOW) == 21


@pytest.mark.parametrize(("tier", "until"), [(1, NOW + DAY), (2, NOW + DAY), (3, None)])
def test_premium_and_lifetime_are_whitelisted_unless_blacklisted(tier: int, until: datetime | None) -> None:
    row = guild_after(REGISTERED, granted(tier, until))
    assert guilds.is_whitelisted(row, NOW) == (tier > 1)
    assert guilds.is_whitelisted(row, NOW + DAY) == (tier == 3)
    blacklisted = Happened(GUILD, events.GuildBlacklisted(reason="raid", expires_at=NOW + HOUR))
    row = guild_after(REGISTERED, granted(tier, until), blacklisted)
    assert not guilds.is_whitelisted(row, NOW)
    assert guilds.is_whitelisted(row, NOW + HOUR) == (tier > 1)


@settings(deadline=None, max_examples=200)
@given(history=histories())
def test_the_answer_of_a_command_is_what_the_projector_will_say(history: list[Happened]) -> None:
    for stream in ("guild:1", "guild:2"):
        mine = [happened for happened in recorded(history) if happened.stream == stream]
        if not mine:
            continue
        row = guild_after(*(happened for happened in history if happened.stream == stream))
        state = fold(subject_of(stream), mine)
        assert isinstance(state, subjects.Guild)
        made = guilds.owned_after(state, row.id, 12)
        unseen = {"owner_at": None, "tier_at": None, "tier_by": None}
        assert made == guilds.Owned(msgspec.structs.replace(row, **unseen), 12)


# -- counts


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(least=5, most=60), limit=st.integers(1, 20))
def test_the_counts_are_what_counting_finds(conn: psycopg.Connection[Any], history: list[Happened], limit: int) -> None:
    conn.execute("truncate guilds, guild_counts")
    conn.execute("update projection_tracking set notification_id = 0 where application_name = 'guilds'")
    with memory_ledger() as ledger:
        versions: dict[str, int] = {}
        for happened in history:
            append(ledger, versions, happened)
        while advance(conn, guilds.PROJECTOR, ledger, limit).more:
            pass
    cells = conn.execute("select registered, state_recorded, tier from guilds").fetchall()
    counted = conn.execute("select registered, state_recorded, tier, total from guild_counts").fetchall()
    assert {tuple(cell): total for *cell, total in counted} == Counter(cells)

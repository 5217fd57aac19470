"""Erasing a user: nothing of their text is left in any table, and everything else goes on (docs/erasure.md)."""

import psycopg
import pytest
from psycopg import sql

from modledger.domain import commands, events
from modledger.domain.envelope import SYSTEM, Actor, Subject
from modledger.domain.events import ERASED
from modledger.http.login_codes import LENGTH
from modledger.projections.catalog import PROJECTORS
from modledger.projections.erasures import finish
from modledger.workers.migrate import migrate
from modledger.workers.runner import catch_up
from tests.http_client import (
    ADMIN,
    EXAMPLE_USER,
    MODERATOR,
    OTHER_USER,
    OWNER,
    UNKNOWN,
    USER,
    World,
    error_of,
)

ERASE = f"/v1/admin/users/{EXAMPLE_USER}/erase"
WHY = {"reason": "Asked for by mail"}
NAME, OLD_NAME = "Quillfeather", "Thistledown"
PICTURE, OLD_PICTURE = "https://cdn.example.org/quill.png", "https://cdn.example.org/thistle.png"
REASONS = ("Slanderlark", "Flamewarden", "Mudslinger", "Sockpuppetry", "Grantwhisper", "Rankrumour")
TEXTS = (NAME, OLD_NAME, PICTURE, OLD_PICTURE, *REASONS)
CODE = "/v1/authentication/bot/login-code"


@pytest.fixture
def known(world: World) -> World:
    """The world, with a user of whom there is something in every place that there is."""
    user, by = Subject("user", EXAMPLE_USER), Actor("user", ADMIN)
    bot = {"X-API-Key": world.bot_key()}
    world.act(commands.RegisterUser(user_id=user.id, username=OLD_NAME, avatar_url=OLD_PICTURE), SYSTEM)
    world.act(commands.UpdateUser(user_id=user.id, username=NAME, avatar_url=PICTURE), SYSTEM)
    world.act(commands.ChangePermission(user_id=user.id, level=1, reason=REASONS[5]), Actor("user", OWNER))
    world.act(commands.ChangePermission(user_id=user.id, level=0, reason="Done"), Actor("user", OWNER))
    world.act(commands.GrantSubscription(target=user, tier=2, reason=REASONS[4]), by)
    warned = world.post(
        f"/v1/admin/punishments/user/{user.id}/warn", ADMIN, {"reason": REASONS[0]}, headers={"Idempotency-Key": "w"}
    )
    assert warned.status_code == 200
    banned = world.act(commands.IssueBan(target=user, reason=REASONS[1]), by)
    world.act(commands.AmendPunishment(target=user, number=banned.events[0].version, reason=REASONS[2]), by)
    world.act(commands.LiftPunishment(target=user, number=banned.events[0].version, reason=REASONS[3]), by)
    world.post("/v1/authentication/request", json={"discord_id": user.id})
    code = world.post(CODE, json={"discord_id": user.id}, headers={**bot, "Idempotency-Key": "c"}).json()["code"]
    assert len(code) == LENGTH
    assert world.post("/v1/authentication/verify", json={"code": code}).status_code == 200
    world.post("/v1/authentication/request", json={"discord_id": user.id})
    ran = {
        "command": "play",
        "count": 1,
        "user_discord_id": user.id,
        "guild_discord_id": 7,
        "timestamp": str(world.now),
    }
    assert world.post("/v1/bot/batch", json={"commands": [ran]}, headers=bot).status_code == 200
    world.get("/v1/users/me", user.id)
    world.catch_up()
    return world


def lines(connection: psycopg.Connection, schema: str = "public") -> dict[str, list[str]]:
    """Every row of every table as text, bytes as what they say."""
    connection.execute("set bytea_output = 'escape'")
    # All of them, whatever tables there will be.
    names = connection.execute(
        "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relkind in ('r', 'p') order by 1",
        (schema,),
    ).fetchall()
    return {
        name: [
            line
            for (line,) in connection.execute(
                sql.SQL("select t::text from {} t").format(sql.Identifier(schema, name))
            ).fetchall()
        ]
        for (name,) in names
    }


def said(world: World, texts: tuple[str, ...] = TEXTS) -> set[tuple[str, str]]:
    """Which tables hold which of these texts, in whatever case."""
    return {
        (table, text)
        for table, rows in lines(world.connection).items()
        for row in rows
        for text in texts
        if text.casefold() in row.casefold()
    }


def count(world: World, table: str, where: str = f"user_id = {EXAMPLE_USER}") -> int:
    return int(world.query(f"select count(*) from {table} where {where}")[0][0])


OF_THE_USER = ("sessions", "login_codes", "login_history", "user_activity")


def erase(world: World) -> None:
    response = world.post(ERASE, OWNER, WHY)
    assert (response.status_code, response.json()) == (200, {"message": f"User {EXAMPLE_USER} erased"})
    world.catch_up()


def test_no_table_holds_the_name_the_picture_or_a_reason_afterwards(known: World) -> None:
    before = {table for table, _ in said(known)}
    assert {"profiles", "punishments", "reason_words", "permission_history", "subscription_history"} <= before
    assert {"punishment_histories", "punishment_versions", "version_words"} <= before
    erase(known)
    assert said(known) == set()


def test_sessions_log_ins_codes_activity_and_kept_answers_are_gone(known: World) -> None:
    assert [table for table in OF_THE_USER if not count(known, table)] == []
    assert count(known, "idempotency_keys", "body is not null") == 2
    others = count(known, "sessions", f"user_id <> {EXAMPLE_USER}")
    erase(known)
    assert [table for table in OF_THE_USER if count(known, table)] == []
    assert count(known, "idempotency_keys", "body is not null") == 0
    assert count(known, "sessions", f"user_id <> {EXAMPLE_USER}") == others + 1
    error_of(known.get("/v1/users/me", EXAMPLE_USER), 401)


def test_the_user_is_found_by_id_alone_and_nameless(known: World) -> None:
    before = known.get(f"/v1/users/{EXAMPLE_USER}", OWNER).json()
    erase(known)
    error_of(known.get(f"/v1/users/profile/{NAME}", OWNER), 404)
    assert known.get(f"/v1/users/search?q={NAME}", OWNER).json()["total"] == 0
    after = known.get(f"/v1/users/{EXAMPLE_USER}", OWNER).json()
    assert (after["username"], after["avatar_url"], after["login_history"]) == (None, None, {})
    for kept in ("discord_id", "subscription_tier", "permission_level", "created_at"):
        assert after[kept] == before[kept]
    assert {one["reason"] for one in after["permission_history"]} == {ERASED}


def test_punishments_keep_their_dates_and_lose_their_reasons(known: World) -> None:
    search = f"/v1/admin/punishments/search?user_id={EXAMPLE_USER}"
    before = known.get(search, OWNER).json()
    erase(known)
    after = known.get(search, OWNER).json()
    assert after["total"] == before["total"] == 2
    assert [one["reason"] for one in after["punishments"]] == [ERASED, ERASED]
    assert [one["created_at"] for one in after["punishments"]] == [one["created_at"] for one in before["punishments"]]
    for reason in REASONS:
        assert known.get(f"/v1/admin/punishments/search?q={reason}", OWNER).json()["total"] == 0
    history = known.get(f"/v1/admin/punishments/{after['punishments'][0]['id']}/history", OWNER)
    assert {one["reason"] for one in history.json()["history"]} == {ERASED}


def test_the_audit_log_says_who_erased_and_why_and_nothing_else(known: World) -> None:
    erase(known)
    log = known.get(f"/v1/admin/audit/logs?entity_type=user&entity_id={EXAMPLE_USER}&limit=200", OWNER)
    assert not [text for text in TEXTS if text in log.text]
    newest, *older = log.json()["items"]
    assert (newest["event_type"], newest["discord_user_id"]) == ("USER_ERASE", str(OWNER))
    assert newest["event_metadata"]["reason"] == WHY["reason"]
    assert len(older) == 10


def test_the_name_is_free_again(known: World) -> None:
    erase(known)
    known.act(commands.UpdateUser(user_id=OTHER_USER, username=NAME), SYSTEM)
    assert known.get(f"/v1/users/profile/{NAME}", USER).json()["discord_id"] == str(OTHER_USER)


def test_the_erased_may_come_back_under_a_new_name_and_log_in(known: World) -> None:
    erase(known)
    known.post("/v1/authentication/request", json={"discord_id": EXAMPLE_USER})
    bot = {"X-API-Key": known.bot_key()}
    error_of(known.post(CODE, json={"discord_id": EXAMPLE_USER}, headers=bot), 400)
    code = known.post(CODE, json={"discord_id": EXAMPLE_USER, "username": "afresh"}, headers=bot).json()["code"]
    user = known.post("/v1/authentication/verify", json={"code": code}).json()["user"]
    assert (user["username"], user["avatar_url"], user["subscription_tier"]) == ("afresh", None, 2)
    # What erases is done with the erasure: a session that was opened since is left alone.
    assert finish(known.connection) == 0
    assert count(known, "sessions") == 1


def test_read_tables_that_are_made_anew_are_the_same(known: World) -> None:
    erase(known)
    known.act(commands.UpdateUser(user_id=OTHER_USER, username=NAME), SYSTEM)
    known.catch_up()
    tables = [table.name for one in PROJECTORS for table in (one.table, *one.beside)]
    before = lines(known.connection)
    for table in tables:
        known.connection.execute(sql.SQL("drop table {}").format(sql.Identifier(table)))
    migrate(known.database)
    catch_up(known.ledger, known.database, PROJECTORS)
    after = lines(known.connection)
    assert {table: sorted(after[table]) for table in tables} == {table: sorted(before[table]) for table in tables}


def test_guilds_and_bots_leave_no_text_either(world: World) -> None:
    guild, bot = Subject("guild", 700), Subject("bot", 800)
    world.act(commands.RegisterGuild(guild_id=700, name=OLD_NAME, avatar_url=OLD_PICTURE, owner_id=USER), SYSTEM)
    world.act(commands.SyncGuild(guild_id=700, name=NAME, avatar_url=PICTURE), SYSTEM)
    world.act(commands.StartTrial(target=guild, reason=REASONS[4]), Actor("user", ADMIN))
    world.act(commands.IssueBan(target=guild, reason=REASONS[0]), Actor("user", ADMIN))
    world.act(commands.RegisterBot(bot_id=800, name=OLD_NAME, owner_id=USER, avatar_url=OLD_PICTURE), SYSTEM)
    world.act(commands.UpdateBot(bot_id=800, name=NAME), Actor("user", OWNER))
    world.catch_up()
    assert {"guilds", "bots", "punishments", "subscription_history"} <= {table for table, _ in said(world)}
    for subject in (guild, bot):
        world.act(commands.EraseSubject(target=subject, reason="Asked for"))
    finish(world.connection)
    world.catch_up()
    assert said(world) == set()
    assert world.get("/v1/guilds/700", OWNER).json()["name"] is None


# -- the command


def test_a_second_erasure_is_refused_until_there_is_something_to_erase(known: World) -> None:
    erase(known)
    message = error_of(known.post(ERASE, OWNER, {"reason": "Again"}), 409)
    assert message == f"User {EXAMPLE_USER} is already erased"
    known.act(commands.RegisterUser(user_id=EXAMPLE_USER, username="afresh"), SYSTEM)
    assert known.post(ERASE, OWNER, {"reason": "Again"}).status_code == 200
    known.catch_up()
    assert said(known, ("afresh",)) == set()


def test_an_unknown_user_cannot_be_erased(world: World) -> None:
    assert error_of(world.post(f"/v1/admin/users/{UNKNOWN}/erase", OWNER, WHY), 404) == "User not found"


def test_nobody_erases_themselves(world: World) -> None:
    assert error_of(world.post(f"/v1/admin/users/{OWNER}/erase", OWNER, WHY), 403) == "You cannot act on this user"


def test_an_owner_erases_another_owner(world: World) -> None:
    world.register(5, "otherowner", 3)
    assert world.post("/v1/admin/users/5/erase", OWNER, WHY).status_code == 200


def test_admins_erase_nobody(world: World) -> None:
    for asks in (ADMIN, MODERATOR, USER):
        error_of(world.post(ERASE, asks, WHY), 403)


@pytest.mark.parametrize("body", [{}, {"reason": " "}, {"reason": "x" * 513}, {"reason": 1}, {**WHY, "more": 1}])
def test_a_bad_body_erases_nobody(known: World, body: dict[str, object]) -> None:
    head = known.ledger.head()
    error_of(known.post(ERASE, OWNER, body), 400)
    assert (known.ledger.head(), count(known, "sessions")) == (head, 2)


def test_if_match_guards_the_erasure(known: World) -> None:
    stale = known.get(f"/v1/users/{EXAMPLE_USER}", OWNER).headers["ETag"]
    known.act(commands.UpdateUser(user_id=EXAMPLE_USER, username="later"), SYSTEM)
    error_of(known.post(ERASE, OWNER, WHY, headers={"If-Match": stale}), 412)
    assert count(known, "login_history") == 1
    fresh = known.get(f"/v1/users/{EXAMPLE_USER}", OWNER).headers["ETag"]
    done = known.post(ERASE, OWNER, WHY, headers={"If-Match": fresh})
    assert (done.status_code, done.headers["ETag"].partition("-")[0]) == (200, '"12')


def test_the_same_key_gets_the_same_answer_and_erases_once(known: World) -> None:
    first = known.post(ERASE, OWNER, WHY, headers={"Idempotency-Key": "e"})
    head = known.ledger.head()
    again = known.post(ERASE, OWNER, WHY, headers={"Idempotency-Key": "e"})
    assert (again.status_code, again.content) == (first.status_code, first.content) == (200, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert known.ledger.head() == head


def test_a_repetition_of_what_was_answered_before_acts_no_second_time_and_shows_no_text(known: World) -> None:
    erase(known)
    head = known.ledger.head()
    again = known.post(
        f"/v1/admin/punishments/user/{EXAMPLE_USER}/warn",
        ADMIN,
        {"reason": REASONS[0]},
        headers={"Idempotency-Key": "w"},
    )
    assert (again.status_code, again.json()["reason"]) == (200, ERASED)
    assert "Idempotency-Replayed" not in again.headers
    assert known.ledger.head() == head


def test_an_answer_that_was_being_given_during_the_erasure_is_not_kept(known: World) -> None:
    known.query("update idempotency_keys set status = null, body = null where key = 'w' returning 1")
    erase(known)
    repeat = f"/v1/admin/punishments/user/{EXAMPLE_USER}/warn"
    head = known.ledger.head()
    answer = known.post(repeat, ADMIN, {"reason": REASONS[0]}, headers={"Idempotency-Key": "w"})
    assert (answer.status_code, known.ledger.head()) == (200, head)
    assert count(known, "idempotency_keys", "body is not null") == 0


# -- whoever erased did not live to finish it


def test_an_erasure_that_was_left_half_done_is_finished_once(known: World) -> None:
    known.act(commands.EraseSubject(target=Subject("user", EXAMPLE_USER), reason="Asked for"), Actor("user", OWNER))
    assert count(known, "sessions") == 2
    assert finish(known.connection) == 1
    assert [table for table in OF_THE_USER if count(known, table)] == []
    assert finish(known.connection) == 0


def test_two_at_once_finish_each_erasure_once(known: World) -> None:
    known.act(commands.EraseSubject(target=Subject("user", EXAMPLE_USER), reason="Asked for"), Actor("user", OWNER))
    with psycopg.connect(known.database, autocommit=True) as other, other.transaction():
        assert finish(other) == 1
        known.connection.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            finish(known.connection)
    known.connection.execute("set lock_timeout = 0")
    assert finish(known.connection) == 0


def test_the_keys_of_an_erased_bot_are_deleted_and_a_new_one_stays(known: World) -> None:
    bot = Subject("bot", 5000)
    known.act(commands.RegisterBot(bot_id=bot.id, name="reporter", owner_id=USER), SYSTEM)
    old = known.bot_key()
    known.act(commands.EraseSubject(target=bot, reason="Asked for"))
    finish(known.connection)
    assert count(known, "api_keys", "bot_id = 5000") == 0
    error_of(known.get("/v1/bot/me", headers={"X-API-Key": old}), 401)
    assert known.get("/v1/bot/me", headers={"X-API-Key": known.bot_key()}).status_code != 401


def test_the_reason_of_an_erasure_is_text_of_its_own_generation(known: World) -> None:
    erase(known)
    last = known.ledger.load([f"user:{EXAMPLE_USER}"])[f"user:{EXAMPLE_USER}"][-1]
    assert last.event == events.SubjectErased(reason=WHY["reason"])
    assert last.actor == Actor("user", OWNER)
    assert said(known, (WHY["reason"],)) == set()

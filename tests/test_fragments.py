"""Databases with pg_trgm, without it, and those that get it later."""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from modledger.domain import commands
from modledger.domain.envelope import Subject
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import create_missing, fragment_indexes
from modledger.projections.fragments import beginning, code
from modledger.workers.migrate import migrate, require_migrated
from tests.http_client import ADMIN, MASTER_KEY, OTHER_USER, USER, World, error_of, people, started
from tests.postgres_server import create_database, drop_database

SEARCH = "/v1/admin/punishments/search"
REFUSED = "Searching for a fragment needs the PostgreSQL extension pg_trgm"
NO_FRAGMENTS = "drop extension pg_trgm cascade"


def made(conn: psycopg.Connection) -> set[str]:
    """The indexes for fragments that are there."""
    names = conn.execute("select indexname from pg_indexes where indexname = any(%s)", (fragment_indexes(),)).fetchall()
    return {name for (name,) in names}


@pytest.fixture
def plain(postgres_server: str, template_database: str) -> Iterator[World]:
    """People of every role and an application on a database without the extension."""
    name = f"plain_{uuid4().hex}"
    database = create_database(postgres_server, name, template_database)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(NO_FRAGMENTS)
    with PostgresLedger(database, MASTER_KEY) as ledger:
        world = World(database, ledger)
        with world.connection:
            people(world)
            with started(world) as running:
                yield running
    drop_database(postgres_server, name)


def test_migrate_brings_the_extension_and_its_indexes(database: str) -> None:
    with psycopg.connect(database) as conn:
        assert len(fragment_indexes()) == len(set(fragment_indexes())) >= 4
        assert made(conn) == set(fragment_indexes())


def test_without_the_extension_words_are_found_and_fragments_are_refused(plain: World) -> None:
    for user, text in ((USER, "Spam, in chat"), (OTHER_USER, "no spam")):
        plain.act(commands.IssueWarning(target=Subject("user", user), reason=text))

    def total(q: str, **more: str) -> int:
        return int(plain.get(SEARCH, ADMIN, params={"q": q, **more}).json()["total"])

    assert [total(q) for q in ("SPAM", "spam no", "in", "xy", "spam,")] == [2, 1, 1, 0, 1]
    assert total("spam", user_id=str(USER), sort="expires_at", active_only="true") == 1
    # Other filters rule out what is found, but not that a fragment would be.
    assert total("spam", user_id="99") == 0
    for q in ("pam", "spa", "spam nothing", "spam cha"):
        assert error_of(plain.get(SEARCH, ADMIN, params={"q": q}), 501) == REFUSED
    assert plain.get(SEARCH, ADMIN).json()["total"] == 2


@pytest.mark.parametrize("path", ["/v1/users/search", "/v1/guilds/search", "/v1/bots/search"])
def test_without_the_extension_names_are_found_by_their_beginning_and_ids(plain: World, path: str) -> None:
    plain.act(commands.RegisterGuild(guild_id=USER, name="Other guild", owner_id=USER))
    plain.act(commands.RegisterBot(bot_id=USER, name="Otherbot", owner_id=USER))

    def total(q: str) -> int:
        return int(plain.get(path, ADMIN, params={"q": q}).json()["total"])

    assert total("othe") >= 1
    assert total(str(USER)) == 1
    assert total("zz") == 0
    for q in ("ther", "no such name"):
        assert error_of(plain.get(path, ADMIN, params={"q": q}), 501) == REFUSED


def test_a_role_that_may_not_create_extensions_migrates_without(postgres_server: str, empty_database: str) -> None:
    role = f"plain_{uuid4().hex}"
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
        conn.execute(sql.SQL("grant create, usage on schema public to {}").format(sql.Identifier(role)))
    separator = "&" if "?" in empty_database else "?"
    as_role = f"{empty_database}{separator}options=-crole%3D{role}"
    try:
        migrate(as_role)
        with psycopg.connect(as_role, autocommit=True) as conn:
            assert made(conn) == set()
            require_migrated(as_role)
            # Somebody who may brings it later, and the next migration makes the indexes of the tables that are there.
            with psycopg.connect(empty_database, autocommit=True) as superuser:
                superuser.execute("create extension pg_trgm")
            assert create_missing(conn) == []
            assert made(conn) == set(fragment_indexes())
            assert create_missing(conn) == []
    finally:
        drop_database(postgres_server, psycopg.conninfo.conninfo_to_dict(empty_database)["dbname"])  # type: ignore[arg-type]
        with psycopg.connect(postgres_server, autocommit=True) as conn:
            conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


def test_a_code_contains_another_exactly_when_its_text_does() -> None:
    texts = (
        "",
        "a",
        "?",
        "??",
        "a?",
        "qdpz",
        "🚫",
        "🚫🚫",
        "a🚫",
        "ß",
        "3f",
        "_",
        "%",
        "\\",
        "é",
        "d",
        "p",
        "df",
        " a",
        "á",
    )
    for text in (first + second for first in texts for second in texts):
        assert code(text).isascii()
        assert code(text).isalnum() or not text
        for fragment in texts:
            assert (code(fragment) in code(text)) == (fragment in text), (fragment, text)


def test_a_beginning_is_taken_as_it_is(database: str) -> None:
    with psycopg.connect(database) as conn:
        for text in ("a%", "a_", "a\\", "\\", "%", "'", "a\\%"):
            for other in ("a%b", "axb", "a_b", "a\\b", "\\b", "%b", "xb", "'b", "a\\%b"):
                likes = conn.execute("select %s like %s", (other, beginning(text))).fetchone()
                assert likes == (other.startswith(text),), (text, other)

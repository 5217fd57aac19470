"""Brings a database to this program's schema: numbered SQL files, each once, in order, then the missing read tables."""

import contextlib
import hashlib
import re
from importlib import resources

import msgspec
import psycopg
from psycopg.rows import class_row

from modledger.workers.logins import Logins, give_rights

FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
# Any number will do that nothing else in the database locks: the text "migrate" as one.
LOCK = int.from_bytes(b"migrate")


class MigrationError(Exception):
    """The schema in the database and the files of this program do not belong together; nothing was changed."""


class Migration(msgspec.Struct, frozen=True):
    """One numbered file. ``checksum`` is the SHA-256 of its bytes, in hex."""

    number: int
    name: str
    checksum: str
    sql: str = ""


def migrations() -> list[Migration]:
    """The files of this program, by number."""
    found = []
    for file in resources.files("modledger.workers.migrations").iterdir():
        if match := FILE_NAME.fullmatch(file.name):
            content = file.read_bytes()
            found.append(Migration(int(match[1]), match[2], hashlib.sha256(content).hexdigest(), content.decode()))
    return sorted(found, key=lambda migration: migration.number)


def migrate(conninfo: str, logins: Logins | None = None) -> list[str]:
    """Applies the missing files, each in a transaction, creates the missing read tables, and gives the ``logins`` their
    rights (None: those that were named to an earlier call). ``conninfo``: the owner's. Returns the names of the files
    that this call applied. Safe to run by several processes at once: they wait for each other. Brings the
    extension pg_trgm where the server has it and the role may; without it only the search for fragments is missing.

    Read tables that another version of the program made and filled are left to be read, until
    ``replay.rebuild_outdated`` has made others beside them.

    Raises MigrationError when an applied file has changed since or the database knows one that this program lacks, and
    psycopg.Error when the server cannot be reached or the role may not create tables.
    """
    from modledger.projections.catalog import PROJECTORS, create_missing, replaceable

    with _locked(conninfo) as connection:
        applied = _apply(connection, migrations())
        _bring_trigrams(connection)
        with connection.transaction():
            left = replaceable(connection)
            create_missing(connection, [projector for projector in PROJECTORS if projector.name not in left])
            give_rights(connection, logins)
    return applied


def apply_sql(conninfo: str, files: list[Migration] | None = None) -> list[str]:
    """The first half of ``migrate``: numbered files only, no read tables. ``files``: instead of the program's."""
    with _locked(conninfo) as connection:
        return _apply(connection, migrations() if files is None else files)


def require_migrated(conninfo: str) -> None:
    """Raises MigrationError unless the database is at exactly this program's schema. Changes nothing."""
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            # The whole table, a row per file.
            rows = connection.execute("select number, name, checksum from migrations").fetchall()
    except psycopg.errors.UndefinedTable:
        rows = []
    except psycopg.errors.InsufficientPrivilege as error:
        # Also a login that was named after the last migration.
        raise MigrationError(f"this login may not read the database: run modledger migrate ({error})") from error
    ours = {file.number: file.checksum for file in migrations()}
    for number, name, _ in sorted(rows):
        if number not in ours:
            raise _newer(number, name)
    applied: dict[int, str] = {number: checksum for number, _, checksum in rows}
    if missing := sorted(ours.keys() - applied.keys()):
        raise MigrationError(f"the database lacks {len(missing)} of our migrations: run modledger migrate")
    if ours != applied:
        raise MigrationError(
            "the database was migrated by another version of this program: run modledger migrate to see"
        )
    from modledger.projections.catalog import outdated

    with psycopg.connect(conninfo, autocommit=True) as connection:
        if names := outdated(connection):
            raise MigrationError(f"the read tables of {', '.join(names)} are of another version: run modledger migrate")


def _newer(number: int, name: str) -> MigrationError:
    return MigrationError(
        f"the database has migration {number:04}_{name}, which this program does not know: it was migrated by a newer"
        " version; start that one. Nothing was changed"
    )


def _locked(conninfo: str) -> psycopg.Connection:
    connection = psycopg.connect(conninfo, autocommit=True)
    # A lock of the session: released by closing, and by the server when we are killed.
    connection.execute("select pg_advisory_lock(%s)", (LOCK,))
    return connection


def _bring_trigrams(connection: psycopg.Connection) -> None:
    # By hand and in no numbered file, because a server that has it one day is to get it then.
    available = connection.execute("select from pg_available_extensions where name = 'pg_trgm'").fetchone()
    if available is not None:
        # FeatureNotSupported: what hosted servers say of an extension that is not on their list.
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported):
            connection.execute("create extension if not exists pg_trgm")


def _apply(connection: psycopg.Connection, files: list[Migration]) -> list[str]:
    with connection.transaction():
        connection.execute(
            "create table if not exists migrations (number integer primary key, name text not null,"
            " checksum text not null, applied_at timestamptz not null default now())"
        )
    with connection.cursor(row_factory=class_row(Migration)) as cursor:
        # The whole table, a row per file.
        applied: dict[int, Migration] = {
            row.number: row for row in cursor.execute("select number, name, checksum from migrations")
        }
    known = {file.number: file for file in files}
    for number, row in sorted(applied.items()):
        if number not in known:
            raise _newer(number, row.name)
        if row.checksum != known[number].checksum:
            raise MigrationError(
                f"migration {number:04}_{row.name} was applied with other contents than this program's"
                f" {number:04}_{known[number].name}: an applied file never changes, add a new one"
            )
    missing = [file for file in files if file.number not in applied]
    for file in missing:
        with connection.transaction():
            connection.execute(file.sql.encode())
            connection.execute(
                "insert into migrations (number, name, checksum) values (%s, %s, %s)",
                (file.number, file.name, file.checksum),
            )
    return [f"{file.number:04}_{file.name}" for file in missing]

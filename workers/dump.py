"""Takes a whole ledger out of an installation, and puts it into an empty one (docs/move.md)."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
import psycopg
from psycopg.rows import tuple_row

from modledger.domain.merkle import Frontier, leaf_hash
from modledger.domain.personal_text import MasterKey, WrongMasterKey
from modledger.domain.seal_tree import leaf_of_message
from modledger.workers.dump_file import Damaged, End, Header, frames, gathered, writer
from modledger.workers.seal_store import leaves

T = TypeVar("T")
# What is being done, how much of it, of how much.
Told = Callable[[str, int, int], None]

# ledger_position, counted and its last entry; the sequence of the positions; subject_keys_pkey, counted; a table of
# one row.
_HEADER = """
    select i.id, i.master_key_check, i.created_at,
        (select count(*) from ledger), coalesce((select max(notification_id) from ledger), 0),
        coalesce(pg_sequence_last_value(pg_get_serial_sequence('ledger', 'notification_id')::regclass), 0),
        (select count(*) from subject_keys)
    from installation as i
"""
_OF_HEADER = ("installation", "check", "begun_at", "events", "position", "given", "keys")
# subject_keys_pkey
_KEYS = "copy (select subject, generation, wrapped from subject_keys order by 1, 2) to stdout (format binary)"
_INTO = {
    "E": "copy ledger (notification_id, originator_id, originator_version, topic, state, recorded_at, command_id,"
    " actor, via) from stdin (format binary)",
    "K": "copy subject_keys (subject, generation, wrapped) from stdin (format binary)",
}
# What binary COPY begins with: signature, flags, no extension. And what it ends with.
_COPY_HEAD, _COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
# That of ledger_append: nobody appends before we have committed.
_LOCK = "select pg_advisory_xact_lock('pg_class'::regclass::oid::int, 'ledger'::regclass::oid::int)"
_EMPTY = "select not exists (select from ledger) and not exists (select from subject_keys)"


class NotPossible(Exception):
    """The dump or restore that is asked for cannot be made; nothing was changed, and the message says why."""


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What was dumped or restored: how many events, the position of the last, keys, and the root over the events."""

    events: int
    position: int
    keys: int
    root: bytes


def dump(conninfo: str, path: Path, tell: Told) -> Moved:
    """Writes the ledger as it is at this moment to a new file, which has its name only when it is complete and durable;
    ``tell`` learns what is being done, how much of it, and of how much. Appends go on meanwhile. Memory does not grow
    with the ledger. Killed at any time, the same call may be made again.

    Raises NotPossible where the file exists, somebody else is writing it, or there is no installation yet; OSError and
    psycopg.Error.
    """
    if path.exists():
        raise NotPossible(f"{path} exists already")
    draft = path.with_name(f"{path.name}.part")
    # For its owner's eyes only: the texts in it are encrypted, ids and dates are not.
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotPossible(f"somebody else is writing {draft}") from None
        try:
            # What one that was killed has left.
            file.truncate()
            moved = _write(conninfo, file, tell)
            file.flush()
            os.fsync(file.fileno())
            draft.rename(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return moved


def restore(conninfo: str, path: Path, master: MasterKey, tell: Told) -> Moved:
    """Puts a dump into an empty installation, in one transaction; ``tell`` as in ``dump``, in bytes and then in events.
    What was stored is read again and has to have the dump's root before it is committed. The installation becomes the
    dump's: same id, same master key. Memory does not grow with the file. Killed at any time, nothing was changed.

    Raises NotPossible where the ledger is not empty, WrongMasterKey, Damaged, OSError and psycopg.Error; then nothing
    was changed either.
    """
    with (
        path.open("rb") as file,
        psycopg.connect(conninfo, application_name="modledger restore") as connection,
        connection.cursor(row_factory=tuple_row) as cursor,
    ):
        content = frames(file)
        header = _decoded(next(content)[1], Header)
        if not master.is_of(header.installation, header.check):
            raise WrongMasterKey("the dump belongs to an installation with another master key")
        cursor.execute(_LOCK)
        if cursor.execute(_EMPTY).fetchone() != (True,):
            raise NotPossible("the ledger of this installation is not empty")
        end, done, size = None, 0, os.fstat(file.fileno()).st_size
        for kind, group in groupby(content, key=lambda frame: frame[0]):
            if kind == "Z":
                end = _decoded(next(group)[1], End)
                continue
            try:
                with cursor.copy(_INTO[kind]) as copy:
                    copy.write(_COPY_HEAD)
                    for _, rows in group:
                        copy.write(rows)
                        done += len(rows)
                        tell("restored", done, size)
                    copy.write(_COPY_END)
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                raise Damaged(f"the dump holds rows that are none: {error}") from error
        assert end is not None
        stored = _stored(connection, tell)
        if stored != Moved(events=header.events, position=header.position, keys=header.keys, root=end.root):
            raise Damaged(
                "what the dump holds is not what it says: the rows have another root, or are others in number"
            )
        _give_no_position_twice(cursor, max(header.given, stored.position))
        # A table of one row.
        cursor.execute("delete from installation")
        cursor.execute(
            "insert into installation (id, master_key_check, created_at) values (%s, %s, %s)",
            (header.installation, header.check, header.begun_at),
        )
    return stored


def _write(conninfo: str, file: BinaryIO, tell: Told) -> Moved:
    with psycopg.connect(conninfo, application_name="modledger dump") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        row = connection.execute(_HEADER).fetchone()
        if row is None:
            raise NotPossible("this installation has not begun yet: run modledger migrate")
        header = Header(**dict(zip(_OF_HEADER, row, strict=True)), dumped_at=datetime.now(UTC))
        write = writer(file)
        write("H", msgspec.json.encode(header))
        tree = Frontier()
        with leaves(connection, 0, header.position) as rows:
            for content in gathered(_hashed(rows, tree)):
                write("E", content)
                tell("dumped", tree.size, header.events)
        with connection.cursor() as cursor, cursor.copy(_KEYS) as messages:
            for content in gathered(key for message in messages if (key := leaf_of_message(message)) is not None):
                write("K", content)
        write("Z", msgspec.json.encode(End(root=tree.root())))
        return Moved(events=tree.size, position=header.position, keys=header.keys, root=tree.root())


def _hashed(rows: Iterable[bytes], tree: Frontier) -> Iterator[bytes]:
    for row in rows:
        tree.add(leaf_hash(row))
        yield row


def _stored(connection: psycopg.Connection, tell: Told) -> Moved:
    # ledger_position, counted and its last entry; subject_keys_pkey, counted.
    row = connection.execute(
        "select count(*), coalesce(max(notification_id), 0), (select count(*) from subject_keys) from ledger"
    ).fetchone()
    assert row is not None
    events, position, keys = row
    tree = Frontier()
    with leaves(connection, 0, position) as rows:
        for _ in _hashed(rows, tree):
            if tree.size % 10_000 == 0:
                tell("checked", tree.size, events)
    return Moved(events=tree.size, position=position, keys=keys, root=tree.root())


def _give_no_position_twice(cursor: psycopg.Cursor[tuple[Any, ...]], given: int) -> None:
    row = cursor.execute("select pg_get_serial_sequence('ledger', 'notification_id')").fetchone()
    assert row is not None
    # Unlike setval, this is undone with the transaction. The name comes quoted where it has to be.
    cursor.execute(f"alter sequence {row[0]} restart with {given + 1:d}".encode())


def _decoded(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise Damaged(f"the dump is of another version of the program: {error}") from error

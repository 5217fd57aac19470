"""The ledger on PostgreSQL: table, keys and functions of ``workers/migrations/0001_ledger.sql``, one of these as
``0013_append_in_sets.sql`` has it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from eventsourcing.persistence import InfrastructureFactory, PersistenceError, StoredEvent, TrackingRecorder
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore, PostgresFactory
from eventsourcing.utils import Environment
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow, dict_row, tuple_row
from psycopg_pool import PoolClosed

from modledger.domain import ledger_queries
from modledger.domain.append_counts import AppendCounts
from modledger.domain.ledger import Append, Appended, LedgerDamaged, LedgerUnavailable, Prepared, tried
from modledger.domain.mapper import Row, StoredCommand
from modledger.domain.personal_text import MasterKey, WrongMasterKey
from modledger.domain.recorder_ledger import Outcome, RecorderLedger, StreamHead, WrappedKeys
from modledger.domain.wire_arrays import Wire, bigints, byteas, integers, texts, uuids

Answer = TypeVar("Answer")

# How long an operation goes on trying to reach the server, in seconds.
PATIENCE = 5.0
# Between two tries, in seconds; and how long a command of a call that failed is tried alone, for the others to go on.
PAUSE, ALONE_SECONDS = 0.1, 0.25
# A batch is one statement and may be large; a page of streams is read from all over the disk.
BATCH_SECONDS = 120
# At most one NOTIFY in this time, in seconds, and one process.
NOTIFY_PAUSE = 0.001


class NotMigrated(Exception):
    """The database lacks the ledger's tables: ``modledger migrate`` creates them."""


class LedgerRecorder(PostgresApplicationRecorder):
    """The library's recorder over the table ``ledger``; the writing, and what reads more columns, is ours."""

    def __init__(self, datastore: PostgresDatastore) -> None:
        super().__init__(datastore, events_table_name="ledger")
        self.counts = AppendCounts()

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:  # noqa: ARG002
        raise TypeError("events enter the ledger through append: they need a command id and expected versions")

    def append_command(self, command: StoredCommand) -> Outcome:
        return self._append_one(command, monotonic() + PATIENCE)

    def append_commands(self, commands: Sequence[StoredCommand]) -> Sequence[Outcome | Exception]:
        give_up = monotonic() + PATIENCE

        def alone(command: StoredCommand) -> Outcome:
            if monotonic() > give_up:
                raise LedgerUnavailable("the ledger's database did not answer in time")
            self.counts.sent_alone()
            return self._append_one(command, monotonic() + ALONE_SECONDS)

        while True:
            try:
                return self._once(lambda connection: self._append(connection, commands), give_up)
            except psycopg.Error:
                # Whatever befell the call may concern one of them, and the others are not to wait for that one. What
                # was committed, its answer lost, is recognised by its id.
                answers = [tried(alone, command) for command in commands]
            nobody = all(isinstance(answer, LedgerUnavailable) for answer in answers)
            if not nobody or monotonic() + PAUSE > give_up or self.datastore.pool.closed:
                return answers
            self._look_around()

    def _append_one(self, command: StoredCommand, give_up: float) -> Outcome:
        try:
            return self._reach(lambda connection: self._append(connection, [command])[0], give_up)
        except psycopg.errors.UniqueViolation as error:
            self._refuse_keys_without_events(command.expected, error)
            # A key of the subject that we did not know of, as after a restored backup: load again.
            return Outcome("conflict")

    def append_all(self, commands: Sequence[StoredCommand], expected: Mapping[str, int]) -> str | None:
        return self.ready_to_append(commands, expected)()

    def ready_to_append(
        self, commands: Sequence[StoredCommand], expected: Mapping[str, int]
    ) -> Callable[[], str | None]:
        events = [event for command in commands for event in command.events]
        first_only: list[UUID | None] = []
        for command in commands:
            first_only.append(command.command_id)
            first_only.extend([None] * (len(command.events) - 1))
        keys = [key for command in commands for key in command.keys]
        erased = [pair for command in commands for pair in command.erased]
        arguments = [
            uuids(first_only),
            texts([str(event.originator_id) for event in events]),
            bigints([event.originator_version for event in events]),
            texts([event.topic for event in events]),
            byteas([event.state for event in events]),
            texts([actor for command in commands for actor in command.actors]),
            texts([via for command in commands for via in command.vias]),
            texts(list(expected)),
            bigints(list(expected.values())),
            texts([key.subject for key in keys]),
            bigints([key.generation for key in keys]),
            byteas([key.wrapped for key in keys]),
            texts([stream for stream, _ in erased]),
            bigints([generation for _, generation in erased]),
        ]
        command_ids = [command.command_id for command in commands]
        return lambda: self._send_batch(arguments, command_ids, len(events), expected)

    def _send_batch(
        self, arguments: Sequence[Wire], command_ids: Sequence[UUID], events: int, expected: Mapping[str, int]
    ) -> str | None:
        tries = 0

        def send(connection: psycopg.Connection[Any]) -> str | None:
            nonlocal tries
            tries += 1
            with _for_a_batch(connection) as cursor:
                row = cursor.execute(ledger_queries.APPEND_BATCH, arguments, prepare=True).fetchone()
            return f"{row[0]} is not at {expected[row[0]]}" if row and row[0] is not None else None

        try:
            in_the_way = self._reach(send, monotonic() + PATIENCE)
        except psycopg.errors.UniqueViolation as error:
            self._refuse_keys_without_events(expected, error)
            in_the_way = "a command of the batch is already in the ledger"
        # After a second try what stands in the way may be this very batch: committed at the first, its answer lost.
        if in_the_way and tries > 1 and command_ids and self.commands_among(command_ids) == set(command_ids):
            in_the_way = None
        if command_ids or in_the_way:
            self.counts.batch(len(command_ids), 0 if in_the_way else events)
        return in_the_way

    def heads_of(self, streams: Sequence[str]) -> dict[str, StreamHead]:
        rows = self._rows(ledger_queries.HEADS, list(streams))
        return {stream: StreamHead(version, generation, wrapped) for stream, version, generation, wrapped in rows}

    def rows_of(self, streams: Sequence[str]) -> tuple[list[Row], WrappedKeys]:
        return _rows_and_keys(self._rows(ledger_queries.STREAMS, *[texts(streams)] * 2))

    def rows_since(
        self, versions: Mapping[str, int], command_ids: Collection[UUID]
    ) -> tuple[list[Row], WrappedKeys, dict[UUID, str]]:
        streams, seen = texts(list(versions)), bigints(list(versions.values()))
        found = self._rows(ledger_queries.SINCE, streams, seen, streams, uuids(list(command_ids)))
        rows, keys = _rows_and_keys([row for row in found if row[1] is not None])
        return rows, keys, {UUID(row[2]): row[0] for row in found if row[1] is None}

    def rows_after(self, position: int, limit: int) -> list[Row]:
        return [Row(*row) for row in self._rows(ledger_queries.AFTER, position, limit)]

    def rows_but(self, topics: Sequence[str], position: int, limit: int) -> tuple[list[Row], WrappedKeys, int, int]:
        found = self._rows(ledger_queries.AFTER_BUT, position, limit, list(topics))
        rows, keys = _rows_and_keys([row for row in found if row[0] is not None])
        passed, last = next((row[1], row[4]) for row in found if row[0] is None)
        return rows, keys, passed, position if last is None else last

    def rows_between(
        self, topics: Sequence[str], after: str, until: str | None, head: int, limit: int
    ) -> tuple[list[Row], int, str | None]:
        query, bounds = (
            (ledger_queries.AFTER_ONE, [after]) if until is None else (ledger_queries.BETWEEN_TWO, [after, until])
        )

        def ask(connection: psycopg.Connection[Any]) -> list[TupleRow]:
            with _for_a_batch(connection) as cursor:
                return cursor.execute(query, (*bounds, limit, limit, list(topics), head), prepare=True).fetchall()

        found = self._reach(ask, monotonic() + PATIENCE)
        last, passed = next((row[0], row[1]) for row in found if row[2] is None)
        return [Row(*row) for row in found if row[2] is not None], passed, last

    def rows_of_command(self, position: int) -> list[Row]:
        return [Row(*row) for row in self._rows(ledger_queries.COMMAND, position, position)]

    def rows_at(self, positions: Collection[int]) -> tuple[list[Row], WrappedKeys]:
        return _rows_and_keys(self._rows(ledger_queries.AT_ALL, list(positions)))

    def rows_of_commands(self, command_ids: Collection[UUID]) -> tuple[list[tuple[UUID, Row]], WrappedKeys]:
        found = self._rows(ledger_queries.OF_COMMANDS, list(command_ids))
        rows, keys = _rows_and_keys([row[:6] for row in found])
        return list(zip([row[6] for row in found if row[2] is not None], rows, strict=True)), keys

    def positions_among(self, versions: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        found = self._rows(
            ledger_queries.POSITIONS, [stream for stream, _ in versions], [version for _, version in versions]
        )
        return {(stream, version): position for stream, version, position in found}

    def keys_of(self, subjects: Sequence[str]) -> WrappedKeys:
        return {
            subject: (generation, wrapped)
            for subject, generation, wrapped in self._rows(ledger_queries.KEYS, list(subjects))
        }

    def last_position(self) -> int:
        return int(self._rows(ledger_queries.LAST)[0][0])

    def last_position_at(self, moment: datetime) -> int:
        return int(self._rows(ledger_queries.POSITION_AT, moment)[0][0])

    def commands_among(self, command_ids: Sequence[UUID]) -> set[UUID]:
        return {row[0] for row in self._rows(ledger_queries.COMMANDS, uuids(command_ids))}

    def _refuse_keys_without_events(self, streams: Iterable[str], cause: psycopg.Error) -> None:
        """Loading a stream again helps nobody where it has no event that would tell of the key that is there."""
        heads = self.heads_of(list(streams))
        if stray := sorted(stream for stream, head in heads.items() if not head.version and head.wrapped is not None):
            raise LedgerDamaged(
                f"the ledger is inconsistent: {', '.join(stray)} has a key but no events; run modledger verify ledger"
            ) from cause

    def _append(self, connection: psycopg.Connection[Any], commands: Sequence[StoredCommand]) -> list[Outcome]:
        events = list(chain.from_iterable(command.events for command in commands))
        keys = list(chain.from_iterable(command.keys for command in commands))
        erased = list(chain.from_iterable(command.erased for command in commands))
        arguments = [
            uuids([command.command_id for command in commands]),
            integers([len(command.events) for command in commands]),
            texts([str(event.originator_id) for event in events]),
            bigints([event.originator_version for event in events]),
            texts([event.topic for event in events]),
            byteas([event.state for event in events]),
            texts(list(chain.from_iterable(command.actors for command in commands))),
            texts(list(chain.from_iterable(command.vias for command in commands))),
            integers([len(command.expected) for command in commands]),
            texts(list(chain.from_iterable(command.expected for command in commands))),
            bigints(list(chain.from_iterable(command.expected.values() for command in commands))),
            integers([len(command.keys) for command in commands]),
            texts([key.subject for key in keys]),
            bigints([key.generation for key in keys]),
            byteas([key.wrapped for key in keys]),
            integers([len(command.erased) for command in commands]),
            texts([stream for stream, _ in erased]),
            bigints([generation for _, generation in erased]),
        ]
        with connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(ledger_queries.APPEND, arguments, prepare=True)
            outcomes = [Outcome(kind, positions or (), at) for kind, positions, at in cursor.fetchall()]
        self.counts.call(outcomes)
        return outcomes

    def _rows(self, query: str, *arguments: Any) -> list[TupleRow]:
        def ask(connection: psycopg.Connection[Any]) -> list[TupleRow]:
            with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
                return cursor.execute(query, arguments, prepare=True).fetchall()

        return self._reach(ask, monotonic() + PATIENCE)

    def _reach(self, work: Callable[[psycopg.Connection[Any]], Answer], give_up: float) -> Answer:
        """Does the work on a connection, again on another one while it fails for want of the server. It replaces the
        library's own retries, which would go on for ten times the time that a connection is waited for."""
        while True:
            try:
                return self._once(work, give_up)
            except PoolClosed as error:
                raise LedgerUnavailable("the ledger is closed") from error
            except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction) as error:
                if monotonic() + PAUSE > give_up:
                    raise LedgerUnavailable(f"the ledger's database cannot be reached: {error}") from error
                self._look_around()

    def _once(self, work: Callable[[psycopg.Connection[Any]], Answer], give_up: float) -> Answer:
        with self.datastore.pool.connection(timeout=max(0.001, give_up - monotonic())) as connection:
            try:
                return work(connection)
            except psycopg.errors.ReadOnlySqlTransaction:
                # The primary became a standby under us: the next connection may find the new one.
                connection.close()
                raise

    def _look_around(self) -> None:
        self.counts.reconnected()
        # One connection found dead means that its idle neighbours are dead as well.
        self.datastore.pool.check()
        sleep(PAUSE)


@contextmanager
def _for_a_batch(connection: psycopg.Connection[Any]) -> Iterator[psycopg.Cursor[TupleRow]]:
    """A transaction whose statement may take longer than one that somebody waits for. In no pipeline: psycopg 3.3 may
    wait for the end of one with a part of a large statement not sent."""
    with connection.transaction(), connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        cursor.execute(f"set local statement_timeout = '{BATCH_SECONDS}s'")
        yield cursor


def _rows_and_keys(found: Sequence[TupleRow]) -> tuple[list[Row], WrappedKeys]:
    """Events and keys from the lines of one statement: a key is a line without a topic."""
    rows = [Row(*row) for row in found if row[2] is not None]
    return rows, {row[0]: (row[1], row[3]) for row in found if row[2] is None}


class LedgerFactory(PostgresFactory):
    """The library's factory, its pool bound to every part of the connection string and not only the five it knows."""

    def __init__(self, env: Environment, conninfo: dict[str, Any]) -> None:
        super().__init__(env)
        pool = self.datastore.pool
        pool.kwargs = {**conninfo, "row_factory": dict_row}
        # Else the pool waits longer and longer between its own attempts, minutes in the end. Given up, the next
        # caller's need for a connection starts a new one.
        pool.reconnect_timeout = 2.0
        # Whoever asked for a connection before the first is there would have another one opened.
        pool.open(wait=True, timeout=PATIENCE)

    def application_recorder(self) -> LedgerRecorder:
        return LedgerRecorder(self.datastore)


class PostgresLedger(RecorderLedger):
    """``conninfo``: URL or key words, as libpq takes them. ``master_key``: 32 bytes, the installation's, or two such
    (see MasterKey). ``connections``: the most that are open at once; one more announces appends by ``NOTIFY ledger``
    after their commit.

    The first ledger that opens a fresh installation binds it to its master key. Raises LedgerUnavailable, NotMigrated,
    WrongMasterKey, ValueError for a master key of another length. Creates no tables. Close it, or use it as a context.
    """

    recorder: LedgerRecorder

    def __init__(self, conninfo: str, master_key: bytes, *, connections: int = 8) -> None:
        master = MasterKey(master_key)
        parameters: dict[str, Any] = dict(conninfo_to_dict(conninfo))
        parameters["options"] = (
            f"{parameters.get('options', '')} -c timezone=UTC -c statement_timeout={int(PATIENCE * 1000)}"
        ).strip()
        # A host that went away without a word is noticed in the same time as one that refuses.
        parameters = {"connect_timeout": int(PATIENCE), "tcp_user_timeout": int(PATIENCE * 1000), **parameters}
        schema = _enter_installation(parameters, master)
        self._conninfo = parameters
        self._unannounced = False
        self._appended = Event()
        self._announcer = Thread(target=self._announce, name="ledger-notify", daemon=True)
        environment = {
            # The library wants the first four; its pool takes them from the conninfo.
            "POSTGRES_DBNAME": "",
            "POSTGRES_HOST": "",
            "POSTGRES_USER": "",
            "POSTGRES_PASSWORD": "",
            "POSTGRES_CONNECT_TIMEOUT": str(int(PATIENCE)),
            "POSTGRES_POOL_SIZE": "1",
            "POSTGRES_MAX_OVERFLOW": str(connections - 1),
            "POSTGRES_SCHEMA": schema,
            "ORIGINATOR_ID_TYPE": "text",
            "CREATE_TABLE": "n",
        }
        try:
            super().__init__(master, environment)
        except (PersistenceError, psycopg.OperationalError) as error:
            raise LedgerUnavailable(f"the ledger's database cannot be reached: {error}") from error
        self._announcer.start()

    def construct_factory(self, env: Environment) -> InfrastructureFactory[TrackingRecorder]:
        return LedgerFactory(env, self._conninfo)  # type: ignore[return-value]

    def close(self) -> None:
        """Announces what is still to be announced, then closes the connections. A second call does nothing."""
        if not self.closing.is_set():
            self.closing.set()
            self._appended.set()
            if self._announcer.is_alive():
                self._announcer.join(PATIENCE)
            self.factory.close()

    def append(self, append: Append) -> Appended:
        """See ``Ledger.append``; ValueError for an append against its rules."""
        appended = super().append(append)
        self._to_announce()
        return appended

    def append_together(self, appends: Sequence[Append]) -> list[Appended | Exception]:
        """See ``Ledger.append_together``; ValueError for an append against its rules."""
        answers = super().append_together(appends)
        self._to_announce()
        return answers

    def append_prepared(self, prepared: Prepared) -> None:
        """See ``Ledger.append_prepared``."""
        super().append_prepared(prepared)
        self._to_announce()

    def _to_announce(self) -> None:
        self._unannounced = True
        self._appended.set()

    def _announce(self) -> None:
        """Outside the append: NOTIFY takes a lock over the whole cluster until its commit, here one without an fsync.
        What is appended while one is under way is followed by the next. A lost one is made up for by readers'
        polling."""
        options = f"{self._conninfo['options']} -c synchronous_commit=off"
        connection: psycopg.Connection | None = None
        while not self.closing.is_set():
            self._appended.wait()
            self._appended.clear()
            if self._unannounced:
                self._unannounced = False
                try:
                    if connection is None or connection.closed:
                        connection = psycopg.connect(**(self._conninfo | {"options": options}), autocommit=True)
                    connection.execute("notify ledger")
                except psycopg.Error:
                    if connection is not None:
                        connection.close()
                self.closing.wait(NOTIFY_PAUSE)
        if connection is not None:
            connection.close()


def _enter_installation(parameters: dict[str, Any], master: MasterKey) -> str:
    """The schema that holds the ledger, once the master key has proved to be the installation's."""
    try:
        with psycopg.connect(**parameters, autocommit=True) as connection:
            installation = connection.execute(ledger_queries.INSTALLATION).fetchone()
            if installation is None:
                new = uuid4()
                connection.execute(
                    "insert into installation (id, master_key_check) values (%s, %s) on conflict do nothing",
                    (new, master.check(new)),
                )
                installation = connection.execute(ledger_queries.INSTALLATION).fetchone()
    except psycopg.errors.UndefinedTable as error:
        raise NotMigrated("the database has no ledger: run modledger migrate") from error
    except psycopg.OperationalError as error:
        raise LedgerUnavailable(f"the ledger's database cannot be reached: {error}") from error
    if installation is None or not master.is_of(installation[0], installation[1]):
        raise WrongMasterKey(
            "the master key is not this installation's: set MODLEDGER_MASTER_KEY, or put the file master.key in"
            " MODLEDGER_DATA_DIR, as it was (docs/keys.md); nothing was changed"
        )
    return str(installation[2])

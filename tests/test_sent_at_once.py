"""Statements that are sent together: in order, all or none, whatever becomes of one of them."""

import psycopg
import pytest

from modledger.projections.sent_at_once import Sender, forget, sender

INSERT = "insert into numbers (number, text) values (%s, %s)"


@pytest.fixture
def numbers(conn: psycopg.Connection) -> psycopg.Connection:
    conn.execute("create table numbers (number bigint primary key, text text)")
    return conn


def stored(conn: psycopg.Connection) -> list[tuple[int, str]]:
    return conn.execute("select number, text from numbers order by number").fetchall()


def prepared(conn: psycopg.Connection) -> int:
    row = conn.execute("select count(*) from pg_prepared_statements where name like 'modledger%'").fetchone()
    assert row is not None
    return int(row[0])


def insert(out: Sender, *inserted: int) -> None:
    for number in inserted:
        out.execute(INSERT, (number, f"number {number}"))


def test_they_are_carried_out_in_order_and_each_is_prepared_once(numbers: psycopg.Connection) -> None:
    for first in (1, 3):
        with sender(numbers) as out:
            out.execute("begin")
            insert(out, first, first + 1)
            out.execute("update numbers set text = %s where number = any(%s)", ("changed", [first, 99]))
            out.execute("commit")
    assert stored(numbers) == [(1, "changed"), (2, "number 2"), (3, "changed"), (4, "number 4")]
    assert prepared(numbers) == 4


def test_what_was_pushed_is_done_while_the_next_is_gathered(numbers: psycopg.Connection, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as other, sender(numbers) as out:
        out.execute("select pg_advisory_lock(7)")
        out.push()
        while other.execute("select from pg_locks where locktype = 'advisory' and granted").fetchone() is None:
            pass
        insert(out, 1)
    assert stored(numbers) == [(1, "number 1")]


def test_the_first_that_fails_is_raised_and_nothing_after_it_is_done(numbers: psycopg.Connection) -> None:
    def twice() -> None:
        with sender(numbers) as out:
            out.execute("begin")
            insert(out, 1, 1)
            out.execute("no statement")
            out.execute("commit")

    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        twice()
    assert raised.value.diag.constraint_name == "numbers_pkey"
    numbers.rollback()
    assert stored(numbers) == []
    with sender(numbers) as out:
        insert(out, 1)
    assert stored(numbers) == [(1, "number 1")]


def test_an_error_while_they_are_gathered_comes_first_and_the_connection_stays_good(
    numbers: psycopg.Connection,
) -> None:
    def breaks_off() -> None:
        with sender(numbers) as out:
            out.execute("begin")
            insert(out, 1, 1)
            raise LookupError

    with pytest.raises(LookupError):
        breaks_off()
    numbers.rollback()
    assert stored(numbers) == []


def test_statements_larger_than_any_buffer_get_through_and_so_do_the_answers(numbers: psycopg.Connection) -> None:
    large = "x" * 3_000_000
    with sender(numbers) as out:
        for number in range(5):
            out.execute(INSERT, (number, large))
            # An answer that nobody has asked for yet, and that fills the way back.
            out.execute("select text from numbers")
    assert [len(text) for _, text in stored(numbers)] == [len(large)] * 5


def test_a_connection_that_is_lost_meanwhile_is_an_operational_error(
    numbers: psycopg.Connection, database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as doomed:

        def is_ended() -> None:
            with sender(doomed) as out:
                out.execute("begin")
                insert(out, 1)
                out.push()
                numbers.execute("select pg_terminate_backend(%s, 5000)", (doomed.info.backend_pid,))
                insert(out, 2)
                out.execute("commit")

        with pytest.raises(psycopg.OperationalError):
            is_ended()
        assert doomed.closed
    assert stored(numbers) == []


def test_what_psycopg_has_dropped_is_prepared_again_once_it_is_forgotten(numbers: psycopg.Connection) -> None:
    with sender(numbers) as out:
        insert(out, 1)
    numbers.execute("deallocate all")
    with pytest.raises(psycopg.errors.InvalidSqlStatementName), sender(numbers) as out:
        insert(out, 2)
    forget(numbers)
    with sender(numbers) as out:
        insert(out, 3)
    assert [number for number, _ in stored(numbers)] == [1, 3]


def test_a_statement_with_another_percent_sign_is_refused(numbers: psycopg.Connection) -> None:
    with pytest.raises(ValueError, match="placeholder"), sender(numbers) as out:
        out.execute("select 5 % 3")
    with pytest.raises(TypeError, match="in their order"), sender(numbers) as out:
        out.execute("select %(name)s", {"name": 1})
    assert stored(numbers) == []

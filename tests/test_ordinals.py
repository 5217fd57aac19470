"""Punishments are numbered without a gap in the order of the ledger, and keep their numbers, however rows are made."""

import itertools
import threading
from random import Random

import msgspec
import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.history import fill, history
from modledger.domain import events
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections import marks, punishments
from modledger.projections.catalog import PROJECTORS, create_missing
from modledger.projections.projector import advance
from modledger.projections.rebuild import beside, create_replay
from modledger.projections.rebuild_folding import fold_parts
from modledger.projections.rebuild_steps import finish
from modledger.projections.samples import verify_sample
from modledger.projections.verification import misnumbered, verify_projector
from modledger.workers.runner import catch_up
from tests.projection_history import DAY, NOW, Happened, append, memory_ledger
from tests.random_history import histories

PROJECTOR = punishments.PROJECTOR
# So that each example has tables of its own.
VERSIONS = itertools.count(1000)
ISSUES = frozenset(event.TOPIC for event in punishments.ISSUES)


def numbered(conn: psycopg.Connection) -> dict[int, int]:
    """The ordinal of each punishment by its id."""
    return dict(conn.execute("select id, ordinal from punishments order by id").fetchall())


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happened=histories(least=5, most=80), luck=st.randoms(use_true_random=False))
def test_ordinals_count_the_issuing_events_and_never_change(
    database: str, happened: list[Happened], luck: Random
) -> None:
    with memory_ledger() as ledger, psycopg.connect(database, autocommit=True) as conn:
        fresh = msgspec.structs.replace(PROJECTOR, version=next(VERSIONS))
        create_missing(conn, [fresh])
        versions: dict[str, int] = {}
        issued: list[int] = []
        known: dict[int, int] = {}
        for position, one in enumerate(happened, start=1):
            append(ledger, versions, one)
            if one.event.TOPIC in ISSUES:
                issued.append(position)
            if luck.random() < 0.3 or position == len(happened):
                while advance(conn, fresh, ledger, luck.randint(1, 20)).more:
                    pass
                found = numbered(conn)
                assert found == {id_: ordinal for ordinal, id_ in enumerate(issued, start=1)}
                assert known.items() <= found.items()
                known = found


def test_a_record_of_an_earlier_date_comes_after_those_that_are_there(database: str) -> None:
    with memory_ledger() as ledger, psycopg.connect(database, autocommit=True) as conn:
        versions: dict[str, int] = {}
        for stream, days in (("user:1", 0), ("user:2", 400), ("user:1", 30), ("user:3", 500)):
            append(ledger, versions, Happened(stream, events.UserWarned(reason="spam"), NOW - days * DAY))
            advance(conn, PROJECTOR, ledger, 100)
        assert numbered(conn) == {1: 1, 2: 2, 3: 3, 4: 4}


def test_bits_of_punishments_that_come_in_one_batch_with_changes_of_others_are_theirs(database: str) -> None:
    with memory_ledger() as ledger, psycopg.connect(database, autocommit=True) as conn:
        versions: dict[str, int] = {}
        for _ in range(3):
            append(ledger, versions, Happened("user:1", events.UserWarned(reason="old")))
        advance(conn, PROJECTOR, ledger, 100)
        # New ones of streams whose order is another than that of their ids, and changes of old and of new ones.
        append(ledger, versions, Happened("user:9", events.UserWarned(reason="fresh")))
        append(ledger, versions, Happened("user:1", events.PunishmentVoided(number=2, reason="mistake")))
        append(ledger, versions, Happened("guild:4", events.GuildWarned(reason="fresh only")))
        append(ledger, versions, Happened("user:1", events.PunishmentAmended(
            number=3, old_reason="old", reason="fresh", old_expires_at=None, expires_at=None
        )))  # fmt: skip
        append(ledger, versions, Happened("user:9", events.PunishmentVoided(number=1, reason="mistake")))
        append(ledger, versions, Happened("user:1", events.SubjectErased(reason="asked for")))
        append(ledger, versions, Happened("user:1", events.UserWarned(reason="fresh")))
        advance(conn, PROJECTOR, ledger, 100)
        bearing = conn.execute(
            "select kind, code, array_agg(place order by place) from ordinal_marks"
            " cross join lateral generate_series(0, %s) place left join reason_words on kind = %s and word = value"
            " where get_bit(bits, place) = 1 and kind in (%s, %s) group by 1, 2 order by 1, 2",
            (marks.ORDINALS - 1, marks.WORD, marks.WORD, marks.OPEN),
        ).fetchall()
        assert bearing == [
            (marks.WORD, "fresh", [4, 5, 6]),
            (marks.WORD, "only", [5]),
            (marks.OPEN, None, [1, 3, 5, 6]),
        ]
        words = conn.execute("select code, punishments, ids from reason_words order by code").fetchall()
        assert words == [("fresh", 3, 15), ("only", 1, 5)]


def test_a_rebuild_numbers_all_rows_once_and_goes_on_where_it_caught_up(ledger: PostgresLedger, database: str) -> None:
    fill(ledger, history(400))
    catch_up(ledger, database, [PROJECTOR])
    create_replay(database, PROJECTOR, ledger)
    fold_parts(database, [PROJECTOR], ledger, threading.Event())
    for user in range(900_000, 900_050):
        append(ledger, {}, Happened(f"user:{user}", events.UserWarned(reason="since")))
    with beside(database, PROJECTOR.name) as (conn, _):
        # Parts come in any order, and so do the rows of their streams.
        assert set(numbered(conn).values()) == {None}
    finish(database, PROJECTOR, ledger, lambda _: False, lambda: None)
    with beside(database, PROJECTOR.name) as (conn, _), psycopg.connect(database, autocommit=True) as live:
        catch_up(ledger, database, [PROJECTOR])
        found = numbered(conn)
        assert list(found.values()) == list(range(1, len(found) + 1))
        assert found == numbered(live)
        ((left,),) = conn.execute("select count(*) from pg_tables where tablename like 'numbered_%'").fetchall()
        assert left == 0


def test_a_number_that_does_not_follow_the_one_before_is_found(
    folded: psycopg.Connection, database: str, ledger: PostgresLedger
) -> None:
    last = max(numbered(folded).values())
    plants = [
        "update punishments set ordinal = ordinal + 10000 where ordinal = 4",
        "update punishments set ordinal = null where ordinal = 1",
        f"update punishments set ordinal = ordinal + 1 where ordinal = {last}",
    ]
    assert list(misnumbered(folded, PROJECTOR)) == []
    for plant in plants:
        with folded.transaction(force_rollback=True):
            assert folded.execute(plant.encode()).rowcount == 1
            told = list(misnumbered(folded, PROJECTOR))
            assert {one.field for one in told} == {"ordinal"}, plant
            assert [one.stream for one in told] == [None] * len(told)
            assert list(misnumbered(folded, PROJECTOR, 10_000)) == told, plant
    folded.execute(plants[0].encode())
    fields = {one.field for one in verify_projector(database, PROJECTOR, ledger)}
    # The bits are no longer those of the rows either.
    assert fields >= {"ordinal", "bits"}
    sampled = {one.subject: one for one in verify_sample(database, PROJECTORS, ledger, 1_000, Random(1))}
    assert "ordinal" in {one.field for one in sampled["punishments"].differences}


def test_tables_that_are_made_anew_in_their_place_leave_none_of_another_version(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("create table punishment_marks (kind smallint, value bigint)")
        conn.execute(
            "update read_models set fingerprint = 'of another', tables = tables || 'punishment_marks'::text"
            " where projector = 'punishments'"
        )
        assert create_missing(conn) == ["punishments"]
        assert conn.execute("select to_regclass('punishment_marks')").fetchone() == (None,)
        assert conn.execute("select to_regclass('ordinal_marks')").fetchone() != (None,)

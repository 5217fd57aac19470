"""What a superuser changes behind the ledger's back is found and named, in the database and in what was exported."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from modledger.domain.merkle import leaf_hash
from modledger.domain.seal_proofs import last_head
from modledger.workers.seal_check import MOST_FINDINGS, Report, TooMuch, examine, stored
from modledger.workers.seal_files import Damaged, read_export, write_export
from modledger.workers.seal_key import origin, public_keys
from modledger.workers.seal_store import carry_out, leaves
from modledger.workers.sealer import seal
from tests.databases import later_template
from tests.sealing import NOW, begun, fill, unguarded

EVENTS = 6000
# Where a tile begins or ends, where a batch does, and somewhere.
PLACES = (1, 256, 257, 4096, 4097, 2222, EVENTS)


@pytest.fixture(scope="module")
def sealed_database(postgres_server: str, template_database: str) -> Iterator[str]:
    """The name of a sealed ledger of 6,000 events in three heads, and ten events more that are not sealed."""
    with later_template(postgres_server, template_database) as (name, url):
        with psycopg.connect(url, autocommit=True) as opened:
            signer = begun(opened)
            for number, events in enumerate((2500, 3000, 500)):
                fill(opened, events)
                seal(opened, signer, NOW + timedelta(minutes=number))
            fill(opened, 10)
        yield name


@pytest.fixture
def template(request: pytest.FixtureRequest, template: str) -> str:
    name: str = request.getfixturevalue("sealed_database") if "connection" in request.fixturenames else template
    return name


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """To a copy of the sealed ledger."""
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


def found(connection: psycopg.Connection, *kept: str) -> list[str]:
    report = Report()
    examine(report, stored(connection), public_keys(connection), kept)
    return [finding.text for finding in report.findings]


def found_in_export(connection: psycopg.Connection, file: Path) -> list[str]:
    write_export(file, origin(connection), stored(connection, signed_only=True))
    report = Report()
    examine(report, read_export(file), public_keys(connection))
    return [finding.text for finding in report.findings]


def test_an_untouched_ledger_is_found_to_be_so(connection: psycopg.Connection, tmp_path: Path) -> None:
    report = Report()
    examine(report, stored(connection), public_keys(connection))
    assert (report.events, report.heads, report.findings) == (EVENTS, 3, [])
    assert report.last is not None
    assert report.last.tree_size == EVENTS
    assert found_in_export(connection, tmp_path / "export") == []


def test_an_empty_ledger_and_one_that_was_never_sealed_have_nothing_to_find(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as empty:
        begun(empty)
        assert found(empty) == []
        fill(empty, 3)
        assert found(empty) == []


@pytest.mark.parametrize(
    "change",
    [
        "state = set_byte(state, 3, get_byte(state, 3) # 1)",
        "state = state || ' '",
        "originator_id = originator_id || '0000'",
        "originator_version = originator_version + 100",
        "topic = 'user.prefix_changed.v2'",
        "recorded_at = recorded_at + interval '1 microsecond'",
        "recorded_at = 'infinity'",
        "command_id = gen_random_uuid()",
        "actor = 'system'",
        "actor = actor || ' '",
        "via = 'cli'",
        # What moves from the end of one field to the beginning of the next.
        "actor = 'user', via = ':1http'",
    ],
)
def test_a_change_of_any_field_is_found_and_named(connection: psycopg.Connection, tmp_path: Path, change: str) -> None:
    unguarded(connection, f"update ledger set {change} where notification_id = 2222")
    assert found(connection) == ["position 2222: changed"]
    assert found_in_export(connection, tmp_path / "export") == ["position 2222: changed"]


@pytest.mark.parametrize("place", PLACES)
def test_a_change_is_found_wherever_it_is(connection: psycopg.Connection, place: int) -> None:
    unguarded(connection, "update ledger set via = 'cli' where notification_id = %s", place)
    assert found(connection) == [f"position {place}: changed"]


@pytest.mark.parametrize("place", PLACES)
def test_a_deleted_event_is_found_and_named(connection: psycopg.Connection, tmp_path: Path, place: int) -> None:
    unguarded(connection, "delete from ledger where notification_id = %s", place)
    assert found(connection) == [f"position {place}: deleted"]
    assert found_in_export(connection, tmp_path / "export") == [f"position {place}: deleted"]


@pytest.mark.parametrize("place", [-5, 0, 3000])
def test_an_inserted_event_is_found_and_named(connection: psycopg.Connection, tmp_path: Path, place: int) -> None:
    if place == 3000:
        # A gap in the positions is where somebody would put it.
        connection.execute("select setval(pg_get_serial_sequence('ledger', 'notification_id'), 7000)")
        fill(connection, 1)
        seal(connection, begun(connection), NOW)
        place = 6500
    unguarded(
        connection,
        "insert into ledger overriding system value"
        " values (%s, 'user:77', 900, 'user.banned.v1', '{}', now(), null, 'system', 'cli')",
        place,
    )
    said = [f"position {place}: inserted after the ledger had been sealed beyond it"]
    assert found(connection) == said
    assert found_in_export(connection, tmp_path / "export") == said


@pytest.mark.parametrize("comes_first", [False, True])
def test_an_event_that_was_put_beside_another_at_its_position_is_found(
    connection: psycopg.Connection, tmp_path: Path, comes_first: bool
) -> None:
    unguarded(connection, "drop index ledger_position")
    unguarded(connection, "create temp table original as select * from ledger where notification_id = 2222")
    if comes_first:
        unguarded(connection, "delete from ledger where notification_id = 2222")
    unguarded(
        connection,
        "insert into ledger overriding system value"
        " values (2222, 'user:77', 900, 'user.banned.v1', '{}', now(), null, 'system', 'cli')",
    )
    if comes_first:
        unguarded(connection, "insert into ledger overriding system value select * from original")
    said = ["position 2222: inserted after the ledger had been sealed beyond it"]
    assert found(connection) == said
    assert found_in_export(connection, tmp_path / "export") == said


def test_events_that_were_reordered_are_found_and_named_with_their_new_places(
    connection: psycopg.Connection, tmp_path: Path
) -> None:
    unguarded(
        connection,
        "create temp table two as select * from ledger where notification_id in (1000, 5000)",
    )
    unguarded(connection, "delete from ledger where notification_id in (1000, 5000)")
    unguarded(
        connection,
        "insert into ledger overriding system value select 6000 - notification_id, originator_id, originator_version,"
        " topic, state, recorded_at, command_id, actor, via from two",
    )
    said = [
        "position 1000: moved, its event now stands at position 5000",
        "position 5000: moved, its event now stands at position 1000",
    ]
    assert found(connection) == said
    assert found_in_export(connection, tmp_path / "export") == said


def test_an_event_that_was_moved_behind_the_sealed_ones_is_named_as_deleted(connection: psycopg.Connection) -> None:
    unguarded(connection, "create temp table one as select * from ledger where notification_id = 1000")
    unguarded(connection, "delete from ledger where notification_id = 1000")
    unguarded(
        connection,
        "insert into ledger overriding system value select 9000, originator_id, originator_version, topic, state,"
        " recorded_at, command_id, actor, via from one",
    )
    assert found(connection) == ["position 1000: deleted"]


def test_a_change_together_with_its_hash_is_found_by_the_signed_heads(
    connection: psycopg.Connection, tmp_path: Path
) -> None:
    unguarded(connection, "update ledger set via = 'cli' where notification_id = 3000")
    with leaves(connection, 2999, 3000) as found_leaves:
        [leaf] = found_leaves
    unguarded(
        connection,
        "update seal_tiles set hashes = overlay(hashes placing %s from %s) where level = 0 and number = %s",
        leaf_hash(leaf),
        (2999 % 256) * 32 + 1,
        2999 // 256,
    )
    between = (
        "the events from position 2501 to position 5500 are not those that were sealed at 2026-03-10T12:01:05Z:"
        " something was changed together with its hash, or put in or taken out"
    )
    assert found(connection) == [between, "the sealed tree is damaged over its leaves 0 to 5887"]
    assert found_in_export(connection, tmp_path / "export") == [between]


def test_the_end_cut_off_with_its_seals_is_found_by_whoever_kept_a_head(connection: psycopg.Connection) -> None:
    kept = carry_out(connection, last_head()).note
    unguarded(connection, "delete from ledger where notification_id > 2500")
    unguarded(connection, "delete from seals where tree_size > 2500")
    unguarded(connection, "delete from seal_tiles where level = 0 and number > 9")
    unguarded(
        connection,
        "update seal_tiles set hashes = substr(hashes, 1, (2500 - number * 256)::int * 32),"
        " positions = positions[:(2500 - number * 256)] where level = 0 and number = 9",
    )
    unguarded(connection, "update seal_tiles set hashes = substr(hashes, 1, 9 * 32) where level = 1")
    assert found(connection) == []
    [said] = found(connection, kept)
    assert said == (
        "the head of 6000 events, sealed at 2026-03-10T12:02:05Z, is of more than the 2500 that are here: the end of"
        " the ledger was taken away"
    )


def test_a_ledger_that_was_rewritten_and_sealed_anew_is_found_by_whoever_kept_a_head(
    connection: psycopg.Connection,
) -> None:
    kept = carry_out(connection, last_head()).note
    for table in ("seals", "seal_tiles"):
        unguarded(connection, f"delete from {table}")
    unguarded(connection, "update ledger set via = 'cli' where notification_id = 1")
    seal(connection, begun(connection), NOW)
    assert found(connection) == []
    [said] = found(connection, kept)
    assert said.startswith("the events to position 6000 are not those that were sealed")


def test_a_damaged_tree_and_a_changed_head_are_found(connection: psycopg.Connection) -> None:
    unguarded(
        connection, "update seal_tiles set hashes = set_byte(hashes, 33, get_byte(hashes, 33) # 1) where level = 1"
    )
    assert found(connection) == ["the sealed tree is damaged over its leaves 0 to 5887"]
    unguarded(connection, "update seals set note = replace(note, 'T12:00', 'T11:00')")
    assert "the head of 2500 events was changed after it was signed" in found(connection)


def test_a_missing_tile_is_found(connection: psycopg.Connection) -> None:
    unguarded(connection, "delete from seal_tiles where level = 0 and number = 20")
    assert "the sealed tree is damaged over its leaves 4096 to 5999" in found(connection)


def test_heads_of_a_key_that_the_auditor_does_not_know_prove_nothing(connection: psycopg.Connection) -> None:
    report = Report()
    examine(report, stored(connection), [])
    assert len(report.findings) == 3
    assert all("is not signed by a key that you gave" in finding.text for finding in report.findings)
    assert report.last is None


def test_a_ledger_that_was_rewritten_from_end_to_end_does_not_fill_the_memory(connection: psycopg.Connection) -> None:
    signer = begun(connection)
    fill(connection, MOST_FINDINGS)
    seal(connection, signer, NOW)
    unguarded(connection, "update ledger set via = 'cli'")
    report = Report()
    with pytest.raises(TooMuch, match="more than 10000 things"):
        examine(report, stored(connection), public_keys(connection))
    assert report.findings[0].position == 1


def test_an_export_that_was_damaged_on_its_way_is_told_apart_from_a_change_of_the_ledger(
    connection: psycopg.Connection, tmp_path: Path
) -> None:
    file = tmp_path / "export"
    write_export(file, origin(connection), stored(connection, signed_only=True))
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert list(tmp_path.iterdir()) == [file]

    def complaint(content: bytes) -> str:
        file.write_bytes(content)
        with pytest.raises(Damaged) as damaged:
            examine(Report(), read_export(file), public_keys(connection))
        return str(damaged.value).removeprefix(str(file))

    assert complaint(b"") == " is damaged: it ends after line 0, without its last one"
    assert complaint(b"".join(lines[:-1])) == " is damaged: it ends after line 6004, without its last one"
    assert "is damaged at line 6005: it ends in the middle" in complaint(whole[:-1])
    assert "is damaged at line 3: it ends in the middle" in complaint(b"".join(lines[:3])[:-7])
    assert "is damaged at line 6004: the file has more lines" in complaint(b"".join(lines[:9] + lines[10:]))
    assert "is damaged at line 6005: the file has more lines" in complaint(whole + lines[5])
    assert "is damaged at line 10" in complaint(b"".join([*lines[:9], b"{}\n", *lines[10:]]))
    assert "is damaged at line 10" in complaint(b"".join([*lines[:9], b"\xff\xfe\n", *lines[10:]]))
    assert "is damaged at line 10" in complaint(b"".join([*lines[:9], b'{"position":1}\n', *lines[10:]]))
    assert "is damaged at line 1" in complaint(whole.replace(b"ledger 1", b"ledger 9"))
    # A single letter of an event's bytes.
    changed = lines[100].replace(b'"leaf":"AAkAAAAIAAAAAA', b'"leaf":"AAkAAAAIAAAAAA')[:-20] + b"A" + lines[100][-19:]
    assert changed != lines[100]
    assert "is damaged at line 6005: the checksum" in complaint(b"".join([*lines[:100], changed, *lines[101:]]))


def test_an_export_that_fails_leaves_no_file(connection: psycopg.Connection, tmp_path: Path) -> None:
    unguarded(connection, "delete from seal_tiles where level = 0 and number = 20")
    with pytest.raises(Exception, match="the sealed tree is damaged"):
        write_export(tmp_path / "export", origin(connection), stored(connection, signed_only=True))
    assert list(tmp_path.iterdir()) == []

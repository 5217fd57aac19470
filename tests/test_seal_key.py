"""The key that signs heads: made once, for its owner's eyes only, bound to the ledger, replaced only on purpose."""

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from modledger.domain.seal_proofs import last_head
from modledger.domain.settings import Settings
from modledger.domain.signed_heads import verify
from modledger.workers.seal_key import SealKeyError, adopt_key, public_keys, signing_key
from modledger.workers.seal_store import carry_out
from modledger.workers.sealer import seal
from tests.sealing import NOW, SEED, begun, fill


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as opened:
        opened.execute("insert into installation (master_key_check) values ('')")
        yield opened


def test_the_first_start_makes_a_file_that_only_its_owner_can_read(
    connection: psycopg.Connection, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    signer = signing_key(settings, connection)
    file = tmp_path / "data" / "seal.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes() == b64encode(signer.private_bytes_raw()) + b"\n"
    assert [one.name for one in (tmp_path / "data").iterdir()] == ["seal.key"]
    assert signing_key(settings, connection).private_bytes_raw() == signer.private_bytes_raw()
    assert [key.raw for key in public_keys(connection)] == [signer.public_key().public_bytes_raw()]


def test_the_key_of_the_settings_is_used_and_no_file_is_made(connection: psycopg.Connection, tmp_path: Path) -> None:
    signer = signing_key(Settings(data_dir=tmp_path, seal_key=SEED), connection)
    assert signer.private_bytes_raw() == SEED
    assert list(tmp_path.iterdir()) == []


def test_a_lost_file_is_told_and_not_replaced(connection: psycopg.Connection, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    signing_key(settings, connection)
    (tmp_path / "seal.key").unlink()
    with pytest.raises(SealKeyError, match=r"seal\.key does not exist: put the file back from your backup"):
        signing_key(settings, connection)
    assert list(tmp_path.iterdir()) == []


def test_another_key_is_told(connection: psycopg.Connection, tmp_path: Path) -> None:
    begun(connection)
    with pytest.raises(SealKeyError, match="MODLEDGER_SEAL_KEY is not the key that this ledger is sealed with"):
        signing_key(Settings(seal_key=bytes(32)), connection)
    (tmp_path / "seal.key").touch(mode=0o600)
    (tmp_path / "seal.key").write_bytes(b64encode(bytes(32)))
    with pytest.raises(SealKeyError, match=r"seal.key is not the key that this ledger is sealed with"):
        signing_key(Settings(data_dir=tmp_path), connection)
    assert len(public_keys(connection)) == 1


@pytest.mark.parametrize("content", [b"", b"c2hvcnQ=", b"not base64"])
def test_a_damaged_file_is_told(connection: psycopg.Connection, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "seal.key").touch(mode=0o600)
    (tmp_path / "seal.key").write_bytes(content)
    with pytest.raises(SealKeyError, match="does not hold a seal key: 32 bytes in base64"):
        signing_key(Settings(data_dir=tmp_path), connection)
    assert public_keys(connection) == []


def test_a_file_that_everybody_can_read_is_refused(connection: psycopg.Connection, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    signing_key(settings, connection)
    (tmp_path / "seal.key").chmod(0o644)
    with pytest.raises(SealKeyError, match="is open to everybody on this machine: chmod 600 it"):
        signing_key(settings, connection)


def test_a_new_key_is_put_in_force_on_purpose_and_earlier_heads_keep_their_proof(
    connection: psycopg.Connection, tmp_path: Path
) -> None:
    old = begun(connection)
    fill(connection, 3)
    first = seal(connection, old, NOW)
    settings = Settings(data_dir=tmp_path)
    adopted = adopt_key(settings, connection)
    new = signing_key(settings, connection)
    assert adopted.raw == new.public_key().public_bytes_raw() != old.public_key().public_bytes_raw()
    with pytest.raises(SealKeyError):
        signing_key(Settings(seal_key=SEED), connection)
    fill(connection, 3)
    second = seal(connection, new, NOW)
    keys = public_keys(connection)
    notes = [note for (note,) in connection.execute("select note from seals order by tree_size")]
    assert [verify(notes[0], [keys[0]]), verify(notes[1], [keys[1]])] == [first, second]
    assert carry_out(connection, last_head()).note == notes[1]


def test_the_key_in_force_cannot_be_taken_for_a_new_one(connection: psycopg.Connection, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    signing_key(settings, connection)
    with pytest.raises(SealKeyError, match=r"is in force already: for a new key move .*seal\.key away first"):
        adopt_key(settings, connection)
    assert len(public_keys(connection)) == 1


def test_an_installation_that_has_not_begun_has_no_key(database: str, tmp_path: Path) -> None:
    with (
        psycopg.connect(database, autocommit=True) as connection,
        pytest.raises(SealKeyError, match="has not begun yet"),
    ):
        signing_key(Settings(data_dir=tmp_path), connection)
    assert list(tmp_path.iterdir()) == []

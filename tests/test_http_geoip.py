"""Where log-ins came from, out of a MaxMind DB that an operator brings (MODLEDGER_GEOIP_DATABASE)."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.processes import free_port
from modledger.domain.settings import SettingsError
from modledger.http.geoip import open_geoip
from modledger.http.sessions import open_session
from tests.forked import modledger
from tests.geoip_database import write_database
from tests.http_client import SETTINGS, USER, World, started

ATLANTIS = {"country": {"names": {"en": "Atlantis", "de": "Atlantis (de)"}}, "city": {"names": {"en": "Poseidonis"}}}
PLACES: dict[str, Any] = {
    "192.0.2.0/24": ATLANTIS,
    "198.51.100.0/25": {"country": {"names": {"en": "Atlantis"}}},
    "2001:db8:1::/48": {"country": {"names": {"de": "Ohne"}}, "city": {"names": {"en": "Poseidonis"}}},
    "203.0.113.8/32": {"isp": "Example"},
    "203.0.113.9/32": {"country": "Atlantis", "city": {"names": ["en"]}},
    # A string of 28 bytes, of which none is there.
    "203.0.113.255/32": b"\x5c",
}
SESSIONS = "/v1/users/me/sessions"


@pytest.fixture
def located(world: World, tmp_path: Path) -> Any:
    """The world with a GeoIP database."""
    write_database(tmp_path / "places.mmdb", PLACES)
    with started(world, msgspec.structs.replace(SETTINGS, geoip_database=tmp_path / "places.mmdb")):
        yield world


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.1", {"country": "Atlantis", "city": "Poseidonis"}),
        ("192.0.2.255", {"country": "Atlantis", "city": "Poseidonis"}),
        ("192.0.3.0", None),
        ("198.51.100.127", {"country": "Atlantis", "city": None}),
        ("198.51.100.128", None),
        ("2001:db8:1::ffff", {"country": None, "city": "Poseidonis"}),
        ("2001:db8:2::1", None),
        ("203.0.113.8", {"country": None, "city": None}),
        ("203.0.113.9", {"country": None, "city": None}),
        ("203.0.113.255", None),
        ("0.0.0.0", None),
    ],
)
def test_a_session_says_where_it_was_opened(located: World, address: str, place: Any) -> None:
    open_session(located.connection, USER, 0, located.now, address, "curl/8")
    body = located.get(SESSIONS, USER).json()
    (session,) = [one for one in body["sessions"] if not one["is_current"]]
    assert session["geo"] == place
    assert body["geo_map"] == {address: place}


def test_the_map_has_the_places_of_log_ins_too(located: World) -> None:
    for address in ("192.0.2.7", "2001:db8:2::1"):
        located.connection.execute(
            "insert into login_history values (%s, %s, 'curl/8', %s)", (USER, address, located.now)
        )
    body = located.get(SESSIONS, USER).json()
    assert body["geo_map"] == {"192.0.2.7": {"country": "Atlantis", "city": "Poseidonis"}, "2001:db8:2::1": None}
    assert list(body["geo_map"]["192.0.2.7"]) == ["country", "city"]
    # One that no address opened is nowhere.
    assert [one["geo"] for one in body["sessions"]] == [None]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "missing.mmdb"
    with pytest.raises(
        SettingsError, match=r"MODLEDGER_GEOIP_DATABASE: .*missing\.mmdb.* cannot be read: No such file"
    ):
        open_geoip(path)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"text\n" * 9999, b"\xab\xcd\xefMaxMind.com", b"\xab\xcd\xefMaxMind.com\xe1"]
)
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "places.mmdb"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"MODLEDGER_GEOIP_DATABASE: .*places\.mmdb.* it is no MaxMind DB"):
        open_geoip(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MODLEDGER_GEOIP_DATABASE"):
        open_geoip(tmp_path)


@pytest.mark.parametrize("command", ["up", "serve"])
def test_nothing_starts_with_a_database_that_is_none(tmp_path: Path, command: str, database: str) -> None:
    environment = {
        "MODLEDGER_GEOIP_DATABASE": str(tmp_path / "missing.mmdb"),
        "MODLEDGER_DATA_DIR": str(tmp_path / "data"),
        "MODLEDGER_DATABASE_URL": database,
        "MODLEDGER_PORT": str(free_port()),
    }
    ended = modledger([command], environment)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("modledger: MODLEDGER_GEOIP_DATABASE: ")


def test_without_the_setting_there_is_no_database() -> None:
    assert open_geoip(None) is None

"""Where an address is, from a MaxMind DB that an operator brings; nothing is fetched, and nobody is asked."""

from collections.abc import Iterable
from pathlib import Path

import maxminddb
from maxminddb import InvalidDatabaseError, Reader

from modledger.domain.settings import SettingsError
from modledger.http.views import View


class GeoView(View, kw_only=True):
    """Where an address is, in English; null for what the database does not say."""

    country: str | None
    city: str | None


def open_geoip(path: Path | None) -> Reader | None:
    """A reader of that database, which the caller closes; None for none. Raises SettingsError for what is none."""
    if path is None:
        return None
    try:
        return maxminddb.open_database(path)
    except OSError as error:
        problem = error.strerror or str(error)
    except (InvalidDatabaseError, ValueError, UnicodeDecodeError):
        problem = "it is no MaxMind DB"
    raise SettingsError(f"MODLEDGER_GEOIP_DATABASE: {str(path)!r} cannot be read: {problem}")


def locate(reader: Reader | None, addresses: Iterable[str]) -> dict[str, GeoView | None]:
    """Where these IP addresses are, in their order; None for one of which nothing is known."""
    return {address: None if reader is None else _locate(reader, address) for address in addresses}


def _locate(reader: Reader, address: str) -> GeoView | None:
    try:
        record = reader.get(address)
    # An address of version 6 in a database of version 4; a record that is broken.
    except (ValueError, InvalidDatabaseError):
        return None
    if not isinstance(record, dict):
        return None
    return GeoView(country=_name(record.get("country")), city=_name(record.get("city")))


def _name(place: object) -> str | None:
    names = place.get("names") if isinstance(place, dict) else None
    name = names.get("en") if isinstance(names, dict) else None
    return name if isinstance(name, str) else None

"""Who a client is behind proxies: only those of the settings are believed, and only about their own peers."""

from collections.abc import Iterator
from ipaddress import ip_network

import msgspec
import pytest

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.http.client_address import forwarded_for, parsed
from tests.http_client import SETTINGS, USER, World, started

TRUSTED = tuple(map(ip_network, ("10.0.0.0/8", "2001:db8:feed::/48", "::1")))
PROXY, CLIENT, OTHER = "10.0.0.1", "203.0.113.7", "198.51.100.9"


def client_behind(*headers: str, peer: str = PROXY) -> str:
    address = parsed(peer)
    assert address is not None
    return str(forwarded_for(address, headers, TRUSTED))


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        # What one proxy says of its peer, and what the client had made up before it.
        ((CLIENT,), CLIENT),
        ((f"{OTHER}, {CLIENT}",), CLIENT),
        ((f"10.9.9.9, {OTHER},{CLIENT}",), CLIENT),
        # Through several proxies.
        ((f"{CLIENT}, 10.0.0.3, 10.0.0.2",), CLIENT),
        ((f"{OTHER}, {CLIENT}, 2001:db8:feed::1",), CLIENT),
        # Several headers are one list.
        ((OTHER, CLIENT), CLIENT),
        ((CLIENT, "10.0.0.3, 10.0.0.2"), CLIENT),
        # A request of a proxy's own.
        (("10.0.0.3, 10.0.0.2",), "10.0.0.3"),
        # Nothing is said.
        ((), PROXY),
        (("",), PROXY),
        ((" , ,",), PROXY),
        ((f"{CLIENT}, ,",), CLIENT),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(headers: tuple[str, ...], client: str) -> None:
    assert client_behind(*headers) == client


@pytest.mark.parametrize(
    ("text", "client"),
    [
        (f"{CLIENT}:4711", CLIENT),
        (f" {CLIENT}\t", CLIENT),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"[::ffff:{CLIENT}]:4711", CLIENT),
        ("::ffff:10.0.0.2", "10.0.0.2"),
    ],
)
def test_an_address_is_read_as_proxies_write_it(text: str, client: str) -> None:
    assert client_behind(text) == client


@pytest.mark.parametrize(
    "text",
    [
        "unknown",
        "_hidden",
        "proxy.example.org",
        "203.0.113",
        "203.0.113.7.8",
        "203.0.113.07",
        "203.0.113.7:",
        "203.0.113.7:port",
        "203.0.113.7:123456",
        "203.0.113.7:٤٧",
        "203.0.113.7/24",
        "[203.0.113.7]",
        "[2001:db8::1",
        "[2001:db8::1]4711",
        "[2001:db8::1]:",
        "2001:db8::1]:4711",
        "[]",
        "[",
        ":",
        "::g",
        '"203.0.113.7"',
        "for=203.0.113.7",
        "3405803783",
        "' or 1=1 --",
        "x" * 10_000,
    ],
)
def test_what_is_no_address_ends_the_list_and_counts_for_the_proxy_that_said_it(text: str) -> None:
    assert client_behind(text) == PROXY
    assert client_behind(f"{CLIENT}, {text}") == PROXY
    assert client_behind(f"{CLIENT}, {text}, 10.0.0.2") == "10.0.0.2"
    assert client_behind(f"{text}, {CLIENT}") == CLIENT


# -- over the whole application


@pytest.fixture
def behind_proxies(database: str, ledger: PostgresLedger) -> Iterator[World]:
    """An application that trusts proxies and lets a client log in twice a minute."""
    world = World(database, ledger)
    settings = msgspec.structs.replace(SETTINGS, trusted_proxies=TRUSTED, rate_limit_login=2)
    with world.connection, started(world, settings) as running:
        yield running


@pytest.fixture
def alone(database: str, ledger: PostgresLedger) -> Iterator[World]:
    """The same without a trusted proxy."""
    world = World(database, ledger)
    with world.connection, started(world, msgspec.structs.replace(SETTINGS, rate_limit_login=2)) as running:
        yield running


def ask(world: World, peer: str, *forwarded: str) -> int:
    """The status of a request for a log-in code."""
    headers = [("Content-Type", "application/json"), *(("X-Forwarded-For", value) for value in forwarded)]
    body = b'{"discord_id": "4"}'
    return world.raw("POST", "/v1/authentication/request", headers, body, peer=peer).status_code


def test_without_the_setting_a_header_tells_no_clients_apart(alone: World) -> None:
    assert [ask(alone, PROXY, f"203.0.113.{n}") for n in range(4)] == [200, 200, 429, 429]
    assert ask(alone, OTHER, "203.0.113.0") == 200


def test_behind_a_trusted_proxy_each_client_has_a_limit_of_its_own(behind_proxies: World) -> None:
    assert [ask(behind_proxies, PROXY, CLIENT) for _ in range(3)] == [200, 200, 429]
    assert [ask(behind_proxies, "10.0.0.2", f"{CLIENT}:{port}") for port in (1, 2)] == [429, 429]
    assert [ask(behind_proxies, PROXY, OTHER) for _ in range(3)] == [200, 200, 429]


def test_an_entry_that_the_client_forged_does_not_help_it(behind_proxies: World) -> None:
    assert [ask(behind_proxies, PROXY, f"198.51.100.{n}, {CLIENT}") for n in range(3)] == [200, 200, 429]
    assert ask(behind_proxies, PROXY, "10.0.0.99", CLIENT) == 429
    assert ask(behind_proxies, PROXY, "junk", CLIENT) == 429


def test_a_peer_that_is_no_trusted_proxy_is_not_believed(behind_proxies: World) -> None:
    assert [ask(behind_proxies, CLIENT, f"198.51.100.{n}") for n in range(3)] == [200, 200, 429]
    assert ask(behind_proxies, PROXY, CLIENT) == 429
    assert ask(behind_proxies, PROXY, "198.51.100.0") == 200


def test_clients_of_one_ipv6_network_share_a_limit(behind_proxies: World) -> None:
    assert [ask(behind_proxies, f"2001:db8:0:1::{n}") for n in range(1, 4)] == [200, 200, 429]
    assert ask(behind_proxies, "::1", "2001:db8:0:1:ffff::1") == 429
    assert ask(behind_proxies, "2001:db8:0:2::1") == 200


def test_an_ipv4_address_is_the_same_client_within_ipv6(behind_proxies: World) -> None:
    assert [ask(behind_proxies, f"::ffff:{CLIENT}"), ask(behind_proxies, CLIENT)] == [200, 200]
    assert ask(behind_proxies, "::ffff:10.0.0.1", f"::ffff:{CLIENT}") == 429


def test_sessions_and_login_history_bear_the_address_of_the_client(behind_proxies: World) -> None:
    world = behind_proxies
    world.register(USER, "user")
    json = ("Content-Type", "application/json")
    forwarded = ("X-Forwarded-For", f"{OTHER}, [2001:db8::7]:4711, 10.0.0.2")
    assert ask(world, PROXY, CLIENT) == 200
    key = ("X-API-Key", world.bot_key())
    fetched = world.raw("POST", "/v1/authentication/bot/login-code", [json, key], b'{"discord_id": "4"}')
    code = fetched.json()["code"]
    body = b'{"code": "%s"}' % code.encode()
    verified = world.raw("POST", "/v1/authentication/verify", [json, forwarded], body, peer=PROXY)
    assert verified.status_code == 200, verified.text
    assert world.query("select client_ip::text from sessions") == [("2001:db8::7/128",)]
    assert world.query("select client_ip::text from login_history") == [("2001:db8::7/128",)]

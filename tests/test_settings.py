"""Settings come from MODLEDGER_* only; a wrong one is refused by name, and a secret is never shown."""

import base64
from ipaddress import ip_network
from pathlib import Path

import pytest
from rich.pretty import pretty_repr

from modledger.domain.settings import Settings, SettingsError, describe_settings, read_settings

KEY = bytes(range(200, 232))
STANDARD_KEY = base64.standard_b64encode(KEY).decode()
URLSAFE_KEY = base64.urlsafe_b64encode(KEY).decode()


def refusal(**environ: str) -> str:
    with pytest.raises(SettingsError) as refused:
        read_settings({f"MODLEDGER_{name}": value for name, value in environ.items()})
    return str(refused.value)


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    assert read_settings({}) == Settings(
        data_dir=Path(".data"),
        database_url=None,
        postgres_bin=None,
        host="127.0.0.1",
        port=8000,
        master_key=None,
        development=False,
        cookie_domain=None,
        allowed_origins=(),
        trusted_proxies=(),
        login_bots=(),
        rate_limit_login=20,
        rate_limit_staff=60,
        rate_limit_public=120,
        rate_limit_bot=600,
        geoip_database=None,
        read_connections=4,
        write_connections=8,
        body_seconds=10,
        drain_seconds=2,
        log_level="info",
        access_log="changes",
        metrics_host="127.0.0.1",
        metrics_port=None,
        demo=True,
    )


def test_every_setting_is_read_from_its_variable() -> None:
    settings = read_settings(
        {
            "MODLEDGER_DATA_DIR": "/srv/mod ledger",
            "MODLEDGER_DATABASE_URL": "postgresql://app@db.example.org/ledger",
            "MODLEDGER_POSTGRES_BIN": "/opt/pg/bin",
            "MODLEDGER_HOST": "::1",
            "MODLEDGER_PORT": "9000",
            "MODLEDGER_MASTER_KEY": STANDARD_KEY,
            "MODLEDGER_DEVELOPMENT": "true",
            "MODLEDGER_COOKIE_DOMAIN": ".Example.org",
            "MODLEDGER_ALLOWED_ORIGINS": "https://panel.example.org, http://localhost:3000",
            "MODLEDGER_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
            "MODLEDGER_LOGIN_BOTS": "7, 555000111222333444",
            "MODLEDGER_RATE_LIMIT_LOGIN": "0",
            "MODLEDGER_RATE_LIMIT_STAFF": "1",
            "MODLEDGER_RATE_LIMIT_PUBLIC": "2",
            "MODLEDGER_RATE_LIMIT_BOT": "1000000",
            "MODLEDGER_GEOIP_DATABASE": "/srv/GeoLite2-City.mmdb",
            "MODLEDGER_READ_CONNECTIONS": "64",
            "MODLEDGER_WRITE_CONNECTIONS": "1",
            "MODLEDGER_BODY_SECONDS": "600",
            "MODLEDGER_DRAIN_SECONDS": "60",
            "MODLEDGER_LOG_LEVEL": "debug",
            "MODLEDGER_ACCESS_LOG": "all",
            "MODLEDGER_METRICS_HOST": "10.0.0.7",
            "MODLEDGER_METRICS_PORT": "9464",
            "MODLEDGER_DEMO": "false",
        },
        is_program=lambda path: path in {Path("/opt/pg/bin/postgres"), Path("/opt/pg/bin/initdb")},
    )
    assert settings == Settings(
        data_dir=Path("/srv/mod ledger"),
        database_url="postgresql://app@db.example.org/ledger",
        postgres_bin=Path("/opt/pg/bin"),
        host="::1",
        port=9000,
        master_key=KEY,
        development=True,
        cookie_domain="example.org",
        allowed_origins=("https://panel.example.org", "http://localhost:3000"),
        trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("::1")),
        login_bots=(7, 555000111222333444),
        rate_limit_login=0,
        rate_limit_staff=1,
        rate_limit_public=2,
        rate_limit_bot=1_000_000,
        geoip_database=Path("/srv/GeoLite2-City.mmdb"),
        read_connections=64,
        write_connections=1,
        body_seconds=600,
        drain_seconds=60,
        log_level="debug",
        access_log="all",
        metrics_host="10.0.0.7",
        metrics_port=9464,
        demo=False,
    )


def test_variables_of_other_programs_are_left_alone() -> None:
    assert read_settings({"PORT": "x", "MODLEDGER": "x", "PATH": "/bin", "modledger_port": "x"}) == Settings()


def test_variables_of_the_test_suite_are_left_alone() -> None:
    assert read_settings({"MODLEDGER_TEST_POSTGRES_BIN": "/nowhere"}) == Settings()


def test_a_mistyped_variable_is_refused_by_name_with_the_nearest_one() -> None:
    assert refusal(PROT="8000") == (
        "MODLEDGER_PROT is not a setting; did you mean MODLEDGER_PORT? (`modledger settings` lists them)"
    )


def test_a_variable_like_no_setting_is_refused_by_name() -> None:
    assert refusal(QUUX="1") == "MODLEDGER_QUUX is not a setting (`modledger settings` lists them)"


def test_all_wrong_variables_are_named_at_once() -> None:
    assert refusal(PORT="abc", DEMO="yes").splitlines() == [
        "MODLEDGER_DEMO must be true or false, not 'yes'",
        "MODLEDGER_PORT must be an integer between 1 and 65535, not 'abc'",
    ]


@pytest.mark.parametrize("text", ["", " ", "abc", "0", "-1", "65536", "8000.0", "1_000", " 8000", "٨٠٠٠", "9" * 5000])
def test_a_port_outside_its_range_is_refused(text: str) -> None:
    assert refusal(PORT=text) == f"MODLEDGER_PORT must be an integer between 1 and 65535, not {text!r}"


@pytest.mark.parametrize(("text", "port"), [("1", 1), ("65535", 65535)])
def test_a_port_at_either_end_of_its_range_is_taken(text: str, port: int) -> None:
    assert read_settings({"MODLEDGER_PORT": text}).port == port


@pytest.mark.parametrize("variable", ["READ_CONNECTIONS", "WRITE_CONNECTIONS"])
@pytest.mark.parametrize("text", ["0", "65", "", "four"])
def test_a_number_of_connections_outside_1_to_64_is_refused(variable: str, text: str) -> None:
    assert refusal(**{variable: text}) == f"MODLEDGER_{variable} must be an integer between 1 and 64, not {text!r}"


@pytest.mark.parametrize("variable", ["DEVELOPMENT", "DEMO"])
@pytest.mark.parametrize("text", ["", "1", "0", "True", "yes", "on", "false "])
def test_a_switch_takes_only_true_or_false(variable: str, text: str) -> None:
    assert refusal(**{variable: text}) == f"MODLEDGER_{variable} must be true or false, not {text!r}"


@pytest.mark.parametrize("text", ["", "INFO", "trace", "warn"])
def test_an_unknown_log_level_is_refused(text: str) -> None:
    assert refusal(LOG_LEVEL=text) == f"MODLEDGER_LOG_LEVEL must be debug, info, warning or error, not {text!r}"


@pytest.mark.parametrize("text", ["", "  "])
def test_a_data_folder_without_a_name_is_refused(text: str) -> None:
    assert refusal(DATA_DIR=text) == f"MODLEDGER_DATA_DIR must be the path of a folder, not {text!r}"


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "::1", "localhost", "db-1.internal", "xn--bcher-kva.example"])
def test_an_address_or_a_host_name_is_taken(text: str) -> None:
    assert read_settings({"MODLEDGER_HOST": text}).host == text


@pytest.mark.parametrize(
    "text", ["", " ", "300.1.1.1", "1.2.3", "host:80", "http://host", "-a", "a..b", "a b", "x" * 64, "a.1", "host\n"]
)
def test_what_is_neither_an_address_nor_a_host_name_is_refused(text: str) -> None:
    assert refusal(HOST=text) == f"MODLEDGER_HOST must be an IP address or a host name, not {text!r}"


@pytest.mark.parametrize("text", ["", "localhost", "127.0.0.1", "exam ple.org", "https://example.org", "example.org/"])
def test_a_cookie_domain_that_no_browser_would_take_is_refused(text: str) -> None:
    assert refusal(COOKIE_DOMAIN=text) == (
        f"MODLEDGER_COOKIE_DOMAIN must be a domain name with at least one dot, not {text!r}"
    )


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ()),
        ("https://Panel.Example.org", ("https://panel.example.org",)),
        ("https://a.example:443,http://a.example:80", ("https://a.example", "http://a.example")),
        ("https://a.example,https://a.example:8443", ("https://a.example", "https://a.example:8443")),
        ("https://a.example,https://A.example", ("https://a.example",)),
        ("http://[::1]:3000", ("http://[::1]:3000",)),
    ],
)
def test_origins_are_taken_in_the_form_that_browsers_send(text: str, origins: tuple[str, ...]) -> None:
    assert read_settings({"MODLEDGER_ALLOWED_ORIGINS": text}).allowed_origins == origins


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "null",
        "panel.example.org",
        "ftp://a.example",
        "https://a.example/",
        "https://a.example/path",
        "https://*.example.org",
        "https://user@a.example",
        "https://a.example:0",
        "https://a.example:65536",
        "https://",
        "https://a.example,",
        ",https://a.example",
    ],
)
def test_what_is_not_an_exact_origin_is_refused(text: str) -> None:
    assert refusal(ALLOWED_ORIGINS=text) == (
        "MODLEDGER_ALLOWED_ORIGINS must be a comma-separated list of origins such as "
        f"https://panel.example.org or http://localhost:3000, not {text!r}"
    )


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("", ()),
        (" ", ()),
        ("127.0.0.1", ("127.0.0.1/32",)),
        ("10.0.0.0/8,2001:DB8::/32 , fd00::1", ("10.0.0.0/8", "2001:db8::/32", "fd00::1/128")),
        ("10.0.0.1,10.0.0.1/32", ("10.0.0.1/32",)),
        ("::ffff:10.0.0.1,::ffff:10.0.0.0/104", ("10.0.0.1/32", "10.0.0.0/8")),
    ],
)
def test_addresses_and_networks_of_proxies_are_taken(text: str, networks: tuple[str, ...]) -> None:
    settings = read_settings({"MODLEDGER_TRUSTED_PROXIES": text})
    assert settings.trusted_proxies == tuple(map(ip_network, networks))
    (row,) = [row for row in describe_settings(settings) if row.variable == "MODLEDGER_TRUSTED_PROXIES"]
    assert row.value == (",".join(networks) or "none")


@pytest.mark.parametrize(
    "text",
    [
        "proxy.example.org",
        "*",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "010.0.0.1",
        "300.0.0.1",
        "10.0.0.1:80",
        "[::1]",
        "10.0.0.1,",
        ",10.0.0.1",
        "10.0.0.1;10.0.0.2",
        "0.0.0.0/0",
        "::/0",
        "::ffff:0:0/96",
    ],
)
def test_what_is_no_address_or_network_or_all_of_them_is_no_trusted_proxy(text: str) -> None:
    assert refusal(TRUSTED_PROXIES=text) == (
        "MODLEDGER_TRUSTED_PROXIES must be a comma-separated list of IP addresses or networks such as "
        f"10.0.0.0/8 or ::1, but never all addresses, not {text!r}"
    )


@pytest.mark.parametrize("variable", ["LOGIN", "STAFF", "PUBLIC", "BOT"])
@pytest.mark.parametrize("text", ["-1", "1000001", "", "20/m", "1e3"])
def test_a_rate_limit_outside_0_to_1000000_is_refused(variable: str, text: str) -> None:
    name = f"RATE_LIMIT_{variable}"
    assert refusal(**{name: text}) == f"MODLEDGER_{name} must be an integer between 0 and 1000000, not {text!r}"


@pytest.mark.parametrize("text", ["postgres://h/d", "postgresql://a:b@h1:1,h2:2/d?target_session_attrs=read-write"])
def test_a_database_url_is_taken_as_given(text: str) -> None:
    assert read_settings({"MODLEDGER_DATABASE_URL": text}).database_url == text


@pytest.mark.parametrize("text", ["", "mysql://u:hunter2@h/d", "host=db password=hunter2", "postgres://u:hunter2@h /d"])
def test_a_refused_database_url_is_not_repeated(text: str) -> None:
    assert refusal(DATABASE_URL=text) == (
        "MODLEDGER_DATABASE_URL must be a URL that begins with postgresql:// or postgres://"
    )


@pytest.mark.parametrize("kind", ["OWNER", "READ"])
def test_another_login_needs_the_database_url_beside_it(kind: str) -> None:
    assert refusal(**{f"{kind}_DATABASE_URL": "postgresql://me:hunter2@h/d"}) == (
        f"MODLEDGER_{kind}_DATABASE_URL needs MODLEDGER_DATABASE_URL: the embedded PostgreSQL has its own logins"
    )
    settings = read_settings(
        {"MODLEDGER_DATABASE_URL": "postgresql://h/d", f"MODLEDGER_{kind}_DATABASE_URL": "postgresql://me:hunter2@h/d"}
    )
    assert getattr(settings, f"{kind.lower()}_database_url") == "postgresql://me:hunter2@h/d"
    assert "hunter2" not in f"{settings!r} {describe_settings(settings)}"


@pytest.mark.parametrize("text", [STANDARD_KEY, URLSAFE_KEY, f"{URLSAFE_KEY}\n"])
def test_a_master_key_is_taken_in_either_base64_alphabet(text: str) -> None:
    assert read_settings({"MODLEDGER_MASTER_KEY": text}).master_key == KEY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        STANDARD_KEY[:-1],
        f"{STANDARD_KEY[:-1]}!",
        base64.b64encode(KEY[:31]).decode(),
        base64.b64encode(KEY + b"x").decode(),
        KEY.hex(),
        f"{STANDARD_KEY},",
        f"{STANDARD_KEY},{URLSAFE_KEY}",
        f"{STANDARD_KEY},{'A' * 43}=,{'B' * 42}A=",
        "é" * 44,
    ],
)
def test_a_refused_master_key_is_not_repeated(text: str) -> None:
    assert refusal(MASTER_KEY=text) == (
        "MODLEDGER_MASTER_KEY must be 32 bytes in base64, standard or URL-safe; or two such keys with a comma between"
    )


def test_two_master_keys_are_taken_in_their_order() -> None:
    other = base64.b64encode(bytes(32)).decode()
    assert read_settings({"MODLEDGER_MASTER_KEY": f"{other}, {STANDARD_KEY}"}).master_key == bytes(32) + KEY


def test_a_folder_without_the_programs_of_postgresql_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "postgres").touch(mode=0o755)
    (tmp_path / "initdb").touch(mode=0o644)
    assert refusal(POSTGRES_BIN=str(tmp_path)) == (
        "MODLEDGER_POSTGRES_BIN must be a folder with the programs postgres and initdb in it, "
        f"but {str(tmp_path)!r} has no initdb"
    )
    assert "has no postgres and no initdb" in refusal(POSTGRES_BIN=str(tmp_path / "missing"))


def test_a_folder_with_the_programs_of_postgresql_is_taken(tmp_path: Path) -> None:
    for name in ("postgres", "initdb"):
        (tmp_path / name).touch(mode=0o755)
    assert read_settings({"MODLEDGER_POSTGRES_BIN": str(tmp_path)}).postgres_bin == tmp_path


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:hunter2@db.example.org/ledger",
        "postgresql://app:hun@ter2@db.example.org/ledger",
        "postgresql://app:hunter2%20@db.example.org:5433,other:5432/ledger?sslmode=require",
        "postgresql://:hunter2@db.example.org/ledger",
        "postgresql://app:hunter2/x@db.example.org/ledger",
        "postgresql://db.example.org/ledger?user=app&password=hunter2&sslpassword=hunter2",
    ],
)
def test_no_text_form_of_the_settings_shows_a_secret(url: str) -> None:
    settings = read_settings({"MODLEDGER_DATABASE_URL": url, "MODLEDGER_MASTER_KEY": STANDARD_KEY})
    shown = [repr(settings), str(settings), pretty_repr(settings), f"{describe_settings(settings)}"]
    for text in shown:
        assert "db.example.org" in text
        for secret in ("hunter2", "ter2", "hun@", STANDARD_KEY, URLSAFE_KEY, repr(KEY)[2:-1], KEY.hex()):
            assert secret not in text


def test_the_description_covers_every_field_with_a_text_in_every_column() -> None:
    rows = describe_settings()
    assert [row.variable for row in rows] == [f"MODLEDGER_{name.upper()}" for name in Settings.__struct_fields__]
    for row in rows:
        assert all(row), row


def test_the_description_shows_what_is_in_force() -> None:
    settings = read_settings(
        {"MODLEDGER_PORT": "9000", "MODLEDGER_MASTER_KEY": STANDARD_KEY, "MODLEDGER_DEMO": "false"}
    )
    in_force = {row.variable: row for row in describe_settings(settings)}
    assert (in_force["MODLEDGER_PORT"].default, in_force["MODLEDGER_PORT"].value) == ("8000", "9000")
    assert in_force["MODLEDGER_DEMO"].value == "false"
    assert in_force["MODLEDGER_MASTER_KEY"].value == "***"
    assert in_force["MODLEDGER_ALLOWED_ORIGINS"].value == "none"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        read_settings({}).port = 1  # type: ignore[misc]


@pytest.mark.parametrize("text", ["", " ", ",", "7,", "0", "007", "-1", "1.5", "bot", "٧", str(2**63), "all"])
def test_bots_that_deliver_codes_are_named_by_their_ids_and_never_by_nothing(text: str) -> None:
    assert refusal(LOGIN_BOTS=text).startswith("MODLEDGER_LOGIN_BOTS must be a comma-separated list of Discord ids")

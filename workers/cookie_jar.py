"""Session cookies as a file that curl takes: Netscape's format, readable by its owner only."""

import os
from datetime import datetime
from pathlib import Path

from modledger.domain.settings import Settings


def write_cookie_jar(path: Path, name: str, token: str, expires_at: datetime, settings: Settings) -> None:
    """Writes (or replaces, in one step) the jar. The cookie is for the installation's own host, on loopback under each
    of its usual names."""
    hosts = [settings.cookie_domain or settings.host]
    if hosts[0] in ("127.0.0.1", "localhost", "::1", "0.0.0.0"):  # noqa: S104
        hosts = ["127.0.0.1", "localhost"]
    lines = ["# Netscape HTTP Cookie File"]
    for host in hosts:
        subdomains = settings.cookie_domain is not None
        domain = f".{host}" if subdomains else host
        secure = "FALSE" if settings.development else "TRUE"
        lines.append(
            "\t".join(
                [
                    f"#HttpOnly_{domain}",
                    str(subdomains).upper(),
                    "/",
                    secure,
                    str(int(expires_at.timestamp())),
                    name,
                    token,
                ]
            )
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    draft.replace(path)

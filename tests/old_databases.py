"""Databases as earlier versions left them: ``python -m tests.old_databases`` makes those that tests/samples/databases
lacks.

Each is made by the code of its time, out of this repository's history, and is kept as SQL (pg_dump, gzip) that
PostgreSQL 15 and later take. Needs git, and PostgreSQL 15 itself where others are to read what it writes.
"""

import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

from modledger.workers.postgres import EmbeddedPostgres, postgres_bin
from tests.postgres_server import create_database

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "samples" / "databases"
# Migration by migration the last commit before the next one: what an installation at it ran with. The first three: the
# commit with which the first two files became what they are; older ones were never given to anybody. The ninth: the
# last of which every part fits the others.
LAST_COMMITS = {
    1: "c5787395e787c990396ae32bc96051ebd6a0a002",
    2: "c5787395e787c990396ae32bc96051ebd6a0a002",
    3: "c5787395e787c990396ae32bc96051ebd6a0a002",
    4: "09b5b1aa74daaf8cb5001d8e7cd3b832bc97d0f4",
    5: "011a86ab36616c70cceb1047aab4a902958e2179",
    6: "198019956ecce0a6deee8795653c90401bd142ef",
    7: "d8d7e8fe0c1de85d21712ff882188b3a91037ddb",
    8: "bc3512fba05e0b7e36493166e71b2c2332427d14",
    9: "e5405c9a0bed88f303765eb2cc5d49cd01e36fd5",
    10: "81e27af05346ae96b11b1b9a8b0e58bb951fa914",
    11: "ce1d6f2e92600b08ba69c95faee16e588cf6330d",
    12: "22f762b28d38a20f3caf090e346573bc5ddf53b6",
}


def stored() -> dict[int, Path]:
    """The databases that are there, by the number of their last migration."""
    return {int(file.name[:4]): file for file in sorted(FOLDER.glob("[0-9]*.sql.gz"))}


def sql_of(number: int) -> str:
    """What brings a stored database back, in one transaction."""
    return gzip.decompress(stored()[number].read_bytes()).decode()


def make(number: int, commit: str, server: str, programs: Path, scratch: Path) -> None:
    """Fills a database on the server with the code of the commit, and stores it."""
    tree = scratch / f"{number:04}" / "modledger"
    tree.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", ROOT, "archive", commit], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
    history = (Path(__file__).parent / "old_history.py").read_text()
    (tree.parent / "old_history.py").write_text(history)
    url = create_database(server, f"old_{number:04}")
    # The folder of a script comes before everything that is installed: its modledger is the one that is imported.
    subprocess.run([sys.executable, tree.parent / "old_history.py", url, str(number)], check=True, cwd=tree.parent)
    options = ["--inserts", "--rows-per-insert=100", "--no-owner", "--no-privileges"]
    dumped = subprocess.run([programs / "pg_dump", *options, url], capture_output=True, text=True, check=True).stdout
    # Without psql's own.
    lines = [line for line in dumped.splitlines() if not line.startswith("\\")]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{number:04}.sql.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def main() -> None:
    oldest = Path("/usr/lib/postgresql/15/bin")
    programs = oldest if oldest.exists() else postgres_bin(None)
    with tempfile.TemporaryDirectory(prefix="modledger-old-") as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", bin_dir=programs, durable=False)
        url = server.attach()
        try:
            for number in sorted(LAST_COMMITS.keys() - stored().keys()):
                make(number, LAST_COMMITS[number], url, programs, Path(folder))
                sys.stdout.write(f"made {FOLDER / f'{number:04}.sql.gz'}\n")
        finally:
            server.stop()
            server.detach()


if __name__ == "__main__":
    main()

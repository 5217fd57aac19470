"""``modledger seal …``: seal, prove, export and check (docs/proof.md).

Exit statuses: 0 all is as it was sealed, 1 something is not, or cannot be done now, 2 the call or a file is wrong.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
import psycopg

from modledger.domain.refusals import Refused
from modledger.domain.seal_proofs import consistency, grown, inclusion, last_head
from modledger.domain.settings import Settings
from modledger.domain.signed_heads import BadSignature, Head, NoHead, PublicKey, read_head, read_public_key
from modledger.workers.opening import Failure, installation, writing
from modledger.workers.seal_check import Report, TooMuch, examine, stored
from modledger.workers.seal_files import (
    Damaged,
    NotProved,
    check_proof,
    heads_in,
    is_export,
    notes_in,
    read_export,
    write_export,
)
from modledger.workers.seal_key import SealKeyError, adopt_key, origin, public_keys, signing_key
from modledger.workers.seal_store import carry_out
from modledger.workers.sealer import SealBroken
from modledger.workers.sealer import seal as seal_now

POSITION = click.IntRange(1, 2**63 - 1)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@contextmanager
def _opened() -> Iterator[tuple[Settings, psycopg.Connection]]:
    with (
        installation("seal") as (settings, conninfo),
        psycopg.connect(conninfo, autocommit=True, application_name="modledger seal") as connection,
    ):
        try:
            yield settings, connection
        except (SealKeyError, SealBroken) as error:
            raise Failure(error, 1) from error
        except Refused as error:
            raise Failure(error, 2) from error


@click.group("seal")
def seal() -> None:
    """Prove that the ledger only ever grew, and check it."""


@seal.command()
def status() -> None:
    """How far the ledger is sealed."""
    with _opened() as (_, connection):
        size, position = carry_out(connection, grown())
        # ledger_position
        row = connection.execute("select count(*) from ledger where notification_id > %s", (position,)).fetchone()
        keys = public_keys(connection)
        click.echo(f"events sealed    {size}, up to position {position}")
        click.echo(f"not sealed yet   {row[0] if row else 0}")
        if size:
            head = read_head(carry_out(connection, last_head()).note)
            click.echo(f"last head        of {head.tree_size} events, at {head.at:%Y-%m-%dT%H:%M:%SZ}")
        click.echo(f"public key       {keys[-1] if keys else 'none yet: modledger work makes it'}")


@seal.command("key")
def key_command() -> None:
    """Print the public key: all that a check needs. Makes the key of a new ledger."""
    with _opened() as (settings, connection):
        if not public_keys(connection):
            signing_key(settings, connection)
        click.echo(public_keys(connection)[-1])


@seal.command("new-key")
def new_key() -> None:
    """Begin with another key, after the old one was lost or stolen. Earlier heads stay proved by theirs."""
    with _opened() as (settings, connection):
        click.echo(adopt_key(settings, connection))


@seal.command("head")
def head_command() -> None:
    """Seal what is new at once and print the signed head, for an auditor to keep."""
    with _opened() as (settings, connection):
        seal_now(connection, signing_key(settings, connection), datetime.now(UTC))
        click.echo(carry_out(connection, last_head()).note, nl=False)


@seal.command()
@click.argument("position", type=POSITION)
def prove(position: int) -> None:
    """Print the proof that the event at POSITION is in the sealed ledger."""
    with _opened() as (_, connection):
        _print(carry_out(connection, inclusion(position)))


@seal.command("consistency")
@click.argument("first", metavar="FROM", type=POSITION)
@click.argument("second", metavar="[TO]", type=POSITION, required=False)
def consistency_command(first: int, second: int | None) -> None:
    """Print the proof that the ledger of TO events (all that are sealed) begins with the one of FROM."""
    if second is not None and first > second:
        raise click.BadParameter(f"{first} is more than {second}", param_hint="FROM")
    with _opened() as (_, connection):
        _print(carry_out(connection, consistency(first, second)))


@seal.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def export(file: Path) -> None:
    """Write the whole sealed ledger to FILE, to be checked elsewhere. Personal text stays encrypted in it."""
    with _opened() as (_, connection):
        carry_out(connection, last_head())
        with writing(file):
            events = write_export(file, origin(connection), stored(connection, signed_only=True))
    click.echo(f"wrote {events} events to {file}")


@seal.command()
@click.argument("files", nargs=-1, type=FILE)
@click.option(
    "--public-key", "public_key", multiple=True, help="What `modledger seal key` prints; several: any of them."
)
@click.option("--head", "heads", multiple=True, type=FILE, help="A head that you kept, to compare the database with.")
def check(files: tuple[Path, ...], public_key: tuple[str, ...], heads: tuple[Path, ...]) -> None:
    """Check FILES, offline and with the public key only: heads, proofs, exports. Without FILES check the database."""
    try:
        keys = [read_public_key(text) for text in public_key]
        if not files:
            _check_database(keys, [note for head in heads for note in notes_in(head)])
            return
        if not keys:
            raise click.UsageError("to check files, say with --public-key whose signature they have to bear")
        _check_files([*files, *heads], keys)
    except (NoHead, Damaged) as error:
        raise Failure(error, 2) from error
    except (NotProved, BadSignature) as error:
        raise Failure(error, 1) from error


def _check_database(keys: list[PublicKey], kept: list[str]) -> None:
    with _opened() as (settings, connection):
        known = public_keys(connection)
        if known and (settings.seal_key is not None or (settings.data_dir / "seal.key").exists()):
            # Whoever can write to the database can put a key of their own there.
            signing_key(settings, connection)
        try:
            _report(Report(), stored(connection), keys or known, kept)
        except ValueError as error:
            # No row can be such, unless the table was made anew.
            raise Failure("the table ledger has other columns than those that were sealed", 1) from error
        if not keys:
            click.echo("checked with the keys that the database names; --public-key trusts only yours")


def _check_files(files: list[Path], keys: list[PublicKey]) -> None:
    exports = [file for file in files if is_export(file)]
    proofs = [file for file in files if file not in exports]
    kept = {note: head for file in proofs for note, head in heads_in(file, keys).items()}
    heads: dict[int, Head] = {}
    for head in kept.values():
        if heads.setdefault(head.tree_size, head).root != head.root:
            raise NotProved(f"two heads of {head.tree_size} events have different roots: there are two ledgers")
    for file in proofs:
        click.echo(check_proof(file, keys, heads))
    for file in exports:
        _report(Report(), read_export(file), keys, list(kept), covered=True)


def _report(report: Report, evidence: Any, keys: list[PublicKey], kept: list[str], *, covered: bool = False) -> None:
    try:
        examine(report, evidence, keys, kept, covered=covered)
    except TooMuch as error:
        _list(report)
        raise Failure(error, 1) from error
    except Damaged:
        _list(report)
        raise
    _list(report)
    if report.last is None:
        click.echo(f"{report.events} events, and no head that proves anything about them")
    else:
        click.echo(
            f"{report.events} events, {report.heads} heads, the last good one of {report.last.tree_size} events"
            f" sealed at {report.last.at:%Y-%m-%dT%H:%M:%SZ}"
        )
    if report.findings:
        raise Failure(f"differences from what was sealed: {len(report.findings)}", 1)


def _list(report: Report) -> None:
    for finding in report.findings:
        click.echo(finding.text)


def _print(proof: msgspec.Struct) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(proof)).decode())

"""``modledger erase``: destroys a subject's text (docs/erasure.md)."""

from typing import get_args

import click
import psycopg

from modledger.domain.commands import EraseSubject
from modledger.domain.envelope import Subject, SubjectKind
from modledger.domain.execute import execute
from modledger.domain.refusals import Invalid
from modledger.projections.erasures import finish
from modledger.workers.opening import open_ledger, operator


@click.command("erase")
@click.argument("kind", type=click.Choice(get_args(SubjectKind)))
@click.argument("discord_id", type=click.IntRange(1, 2**63 - 1))
@click.option("--reason", required=True, help="Why: 1 to 512 characters. It stays.")
def erase(kind: SubjectKind, discord_id: int, reason: str) -> None:
    """Destroy the names, pictures and reasons of a user, guild or bot, for ever."""
    with open_ledger("erase") as (ledger, conninfo):
        command = EraseSubject(target=Subject(kind, discord_id), reason=reason)
        try:
            outcome = execute(ledger, command, operator())
        except Invalid as error:
            raise click.BadParameter(str(error), param_hint="--reason") from error
        finally:
            # Also when it is refused because it is done: that one may have died before this.
            with psycopg.connect(conninfo, autocommit=True, application_name="modledger erase") as connection:
                finish(connection)
    click.echo(f"{kind} {discord_id} erased (position {outcome.position})")

"""``modledger audit log | show | diff | export`` (docs/audit.md).

Exit statuses: 0 shown, 1 there is no such subject or punishment, or the read tables are behind, 2 the call is wrong.
"""

import csv
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from itertools import islice
from typing import Any

import click
import msgspec
import psycopg
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modledger.domain.envelope import Actor, Subject
from modledger.domain.mapper import UnreadableEvent
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.audit_log import EVENT_TYPES
from modledger.projections.projector import checkpoint
from modledger.workers.audit import Change, Filters, Line, by_read_table, event_type, lines, punishment_story, story
from modledger.workers.audit_diff import differences
from modledger.workers.opening import Failure, open_ledger
from modledger.workers.show_cli import MomentType

PATIENCE_SECONDS, PAUSE_SECONDS = 2.0, 0.02
NAMES = tuple(EVENT_TYPES.values())
COLUMNS = ("position", "time", "subject", "event", "actor", "via", "what", "reason")
LAST = 2**63 - 1


class SubjectType(click.ParamType[Subject]):
    """``user:123``, ``guild:123`` or ``bot:123``."""

    name = "subject"

    def convert(self, value: str | Subject, param: click.Parameter | None, ctx: click.Context | None) -> Subject:
        """The subject; what names none ends the call with status 2."""
        if isinstance(value, Subject):
            return value
        found = re.fullmatch("(user|guild|bot):([1-9][0-9]{0,18})", value, re.ASCII)
        if found is None or int(found[2]) > LAST:
            self.fail("it has to be user:ID, guild:ID or bot:ID", param, ctx)
        return Subject(found[1], int(found[2]))  # type: ignore[arg-type]


class ActorType(click.ParamType[Actor]):
    """``user:123``, ``bot:123``, ``system`` or ``operator``."""

    name = "actor"

    def convert(self, value: str | Actor, param: click.Parameter | None, ctx: click.Context | None) -> Actor:
        """The actor; what names none ends the call with status 2."""
        if isinstance(value, Actor):
            return value
        found = re.fullmatch("(user|bot):([1-9][0-9]{0,18})|(system|operator)", value, re.ASCII)
        if found is None or (found[2] and int(found[2]) > LAST):
            self.fail("it has to be user:ID, bot:ID, system or operator", param, ctx)
        return Actor(found[3]) if found[3] else Actor(found[1], int(found[2]))  # type: ignore[arg-type]


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--correlation-id", type=click.UUID, help="Of one request or import."),
        click.option("--until", type=MomentType(), metavar="TIME", help="Only what happened before."),
        click.option("--since", type=MomentType(), metavar="TIME", help="Only what happened then or later."),
        click.option(
            "--type",
            "types",
            type=click.Choice(NAMES),
            multiple=True,
            metavar="TYPE",
            help="Such as USER_BAN; may be given again.",
        ),
        click.option("--actor", type=ActorType(), help="user:ID, bot:ID, system or operator."),
        click.option("--subject", type=SubjectType(), help="user:ID, guild:ID or bot:ID."),
    ):
        command = option(command)
    return command


@click.group("audit")
def audit() -> None:
    """Who did what to whom, when, by which way, why, and what it changed.

    TIME is RFC 3339, such as 2026-03-10T12:00:00Z.
    """


@audit.command("log")
@_filtered
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many at most.")
@click.option(
    "--before", type=click.IntRange(1, LAST), metavar="POSITION", help="Only what stands before in the ledger."
)
def log_command(limit: int, before: int | None, **asked: Any) -> None:
    """What happened, the last recorded first."""
    with _opened() as (ledger, conninfo):
        filters = _filters(ledger, conninfo, asked, head=None if before is None else before - 1)
        _show(islice(lines(conninfo, ledger, filters, newest_first=True), limit))


@audit.command("show")
@click.argument("what", metavar="SUBJECT|PUNISHMENT")
def show_command(what: str) -> None:
    """The whole story of a subject (user:ID, guild:ID, bot:ID) or of a punishment (its id), from its beginning."""
    with _opened() as (ledger, _):
        if re.fullmatch("[0-9]{1,19}", what, re.ASCII) and 1 <= int(what) <= LAST:
            found = punishment_story(ledger, int(what))
            if found is None:
                raise Failure(f"there is no punishment {what}", 1)
        else:
            subject = SubjectType().convert(what, _argument("what"), None)
            found = story(ledger, subject)
            if not found:
                raise Failure(f"{subject.kind.capitalize()} {subject.id} is not known", 1)
        _show(found)


@audit.command("diff")
@click.argument("subject", type=SubjectType())
@click.argument("earlier", type=MomentType(), metavar="FROM")
@click.argument("later", type=MomentType(), metavar="TO")
def diff_command(subject: Subject, earlier: datetime, later: datetime) -> None:
    """What was known of the subject at TO and not at FROM, and which events brought it."""
    if earlier >= later:
        raise click.BadParameter("it has to be after FROM", param_hint="TO")
    if later > datetime.now(UTC):
        raise click.BadParameter("it is in the future", param_hint="TO")
    with _opened() as (ledger, _):
        history = ledger.load([str(subject)])[str(subject)]
        if not history:
            raise Failure(f"{subject.kind.capitalize()} {subject.id} is not known", 1)
        _print(
            ("field", "old", "new", "by"),
            (
                (
                    one.field,
                    _text(one.change.old),
                    _text(one.change.new),
                    "; ".join(f"{event.position} {event_type(event)} by {event.actor}" for event in one.by) or "time",
                )
                for one in differences(subject, history, earlier, later)
            ),
        )


@audit.command("export")
@_filtered
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("--after", type=click.IntRange(0, LAST), default=0, metavar="POSITION", help="Go on behind it.")
def export_command(kind: str, after: int, **asked: Any) -> None:
    """Everything that is asked for, as JSON Lines or CSV, in the order of the ledger.

    Ends by telling, on standard error, the position to go on from; with --after the head line of a CSV is left out, so
    that the output can be put behind that of the last time.
    """
    with _opened() as (ledger, conninfo):
        filters = _filters(ledger, conninfo, asked, after=after)
        found = lines(conninfo, ledger, filters)
        count = _write_csv(found, head=not after) if kind == "csv" else _write_json_lines(found)
        sys.stdout.flush()
    click.echo(f"{count} events; go on with --after {max(filters.head, after)}", err=True)


# -- asking


@contextmanager
def _opened() -> Iterator[tuple[PostgresLedger, str]]:
    # Whatever the terminal's language: what is exported is read elsewhere.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    with open_ledger("audit") as (ledger, conninfo):
        try:
            yield ledger, conninfo
            sys.stdout.flush()
        except UnreadableEvent as error:
            raise Failure(error, 1) from error
        except BrokenPipeError:
            # Whoever reads has seen enough. What is still buffered must not fail once more at the end of the process.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(0) from None


def _argument(name: str) -> click.Argument:
    return click.Argument([name], metavar="SUBJECT|PUNISHMENT")


def _filters(
    ledger: PostgresLedger, conninfo: str, asked: dict[str, Any], *, head: int | None = None, after: int = 0
) -> Filters:
    since: datetime | None = asked["since"]
    until: datetime | None = asked["until"]
    if since is not None and until is not None and since >= until:
        raise click.BadParameter("it has to be after --since", param_hint="--until")
    reached = ledger.head()
    filters = Filters(
        head=reached if head is None else min(head, reached),
        after=after,
        subject=asked["subject"],
        actor=asked["actor"],
        event_types=frozenset(asked["types"]),
        since=since,
        until=until,
        correlation_id=asked["correlation_id"],
    )
    if by_read_table(filters):
        _wait_for(conninfo, filters.head)
    return filters


def _wait_for(conninfo: str, position: int) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    with psycopg.connect(conninfo, autocommit=True, application_name="modledger audit") as connection:
        while checkpoint(connection, "audit_log") < position:
            if time.monotonic() > give_up:
                raise Failure("the read table audit_log is behind the ledger: is modledger work running?", 1)
            time.sleep(PAUSE_SECONDS)


# -- telling


def _show(found: Iterable[Line]) -> None:
    _print(COLUMNS, (_cells(line) for line in found))


def _cells(line: Line) -> tuple[str, ...]:
    about = [f"punishment {line.punishment_id}"] if line.punishment_id not in (None, line.position) else []
    if line.superseded_by is not None:
        about.append(f"superseded by {line.superseded_by}")
    what = [*about, *(_changed(name, change) for name, change in line.changes.items())]
    return (
        str(line.position),
        _text(line.occurred_at),
        _text(line.subject),
        _text(line.event_type),
        _text(line.actor),
        _text(line.via),
        line.error or "; ".join(what),
        _text(line.reason),
    )


def _changed(name: str, change: Change) -> str:
    return (
        f"{name}: {_text(change.new)}" if change.old is None else f"{name}: {_text(change.old)} → {_text(change.new)}"
    )


def _text(value: object) -> str:
    """As it is read by people. Control characters are made visible: the text is strangers', and a terminal obeys."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(value))


def _print(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """A table on a terminal, else lines with tabs between their cells."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    table = Table(*heads)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _write_json_lines(found: Iterable[Line]) -> int:
    count = 0
    for line in found:
        # Without what has no value: most have few.
        said = {name: value for name, value in msgspec.structs.asdict(line).items() if value not in (None, {})}
        sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
        count += 1
    return count


def _write_csv(found: Iterable[Line], *, head: bool) -> int:
    out = csv.writer(sys.stdout, lineterminator="\n")
    if head:
        out.writerow(Line.__struct_fields__)
    count = 0
    for line in found:
        said = msgspec.to_builtins(line)
        said["changes"] = msgspec.json.encode(line.changes).decode() if line.changes else None
        out.writerow(said.values())
        count += 1
    return count

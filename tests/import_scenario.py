"""Lines of an import file, taking them into a ledger, and what has come of it."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console

from modledger.domain import events
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, Actor, Subject
from modledger.domain.execute import execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.subjects import State, fold
from modledger.workers.importer import ImportReport, import_file

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)

Brought = tuple[events.Event, datetime, Actor]


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def brought(ledger: PostgresLedger, stream: str) -> list[Brought]:
    return [(one.event, one.occurred_at, one.actor) for one in ledger.load([stream])[stream]]


def state_of(ledger: PostgresLedger, subject: Subject) -> State:
    return fold(subject, ledger.load([str(subject)])[str(subject)])


def take(ledger: PostgresLedger, folder: Path, *lines: dict[str, Any], now: datetime = NOW) -> ImportReport:
    file = folder / f"{uuid4().hex}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return import_file(ledger, file, now=now, console=Console(file=io.StringIO()))


def live(ledger: PostgresLedger, command: Command, *, actor: Actor = OPERATOR, at: datetime = NOW) -> None:
    execute(ledger, command, Context(actor=actor, at=at, command_id=uuid4(), correlation_id=uuid4(), via="cli"))


def tier_change(
    external_id: str, old: int, new: int, at: str, until: str | None = None, by: int | None = None
) -> dict[str, Any]:
    return {
        "kind": "subscription",
        "external_id": external_id,
        "discord_user_id": 1,
        "old_tier": old,
        "new_tier": new,
        "granted_by_id": by,
        "expires_at": until and f"{until}T00:00:00Z",
        "created_at": f"{at}T00:00:00Z",
    }


def ban(external_id: str, user_id: int, at: str, until: str | None = None) -> dict[str, Any]:
    return {
        "kind": "punishment",
        "external_id": external_id,
        "discord_user_id": user_id,
        "punishment_type": "BAN",
        "reason": "raid",
        "expires_at": until and f"{until}T00:00:00Z",
        "created_at": f"{at}T00:00:00Z",
    }

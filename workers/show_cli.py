"""``modledger show user | guild | bot``: one of them, now or at a moment of the past, from the events alone.

Exit statuses: 0 shown, 1 there was no such one, or the read tables are behind, 2 the call is wrong.
"""

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import click
import msgspec
import psycopg
from rich import print_json

from modledger.domain.ledger import Ledger
from modledger.domain.mapper import UnreadableEvent
from modledger.domain.subjects import OWNER
from modledger.projections import past
from modledger.projections.past import Fetch
from modledger.projections.projector import FoldFailed
from modledger.projections.time_travel import Instant, instant
from modledger.workers.opening import Failure, open_ledger

# Two seconds, as over HTTP.
PATIENCE_SECONDS, PAUSE_SECONDS = 2.0, 0.02

T = TypeVar("T")


class Views(NamedTuple):
    """What HTTP makes of rows, given by the command line, which alone knows HTTP. ``name``: as it is looked for, None
    for one that nobody can have."""

    name: Callable[[str], str | None]
    user: Callable[..., msgspec.Struct]
    guild: Callable[..., msgspec.Struct]
    bot: Callable[..., msgspec.Struct]


class MomentType(click.ParamType[datetime]):
    """RFC 3339 with an offset."""

    name = "moment"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The moment in UTC; what is none ends the call with status 2."""
        try:
            found = msgspec.convert(value, datetime)
            if found.tzinfo is None:
                self.fail("it needs an offset such as Z", param, ctx)
            return found.astimezone(UTC)
        except (msgspec.ValidationError, OverflowError):
            self.fail("it has to be a timestamp such as 2026-03-10T12:00:00Z", param, ctx)


_ID = re.compile("[0-9]{1,19}")
DISCORD_ID = click.IntRange(1, 2**63 - 1)
AS_OF = click.option("--as-of", type=MomentType(), metavar="TIME", help="How things stood then, as it is known today.")
KNOWN_AT = click.option("--known-at", type=MomentType(), metavar="TIME", help="What was recorded until then.")


@click.group("show")
def show() -> None:
    """Show a user, guild or bot, now or as of another time.

    TIME is RFC 3339, such as 2026-03-10T12:00:00Z. With both times: how things stood at the one, as it was known at the
    other. Activity, members and what bots report are no events, and not shown.
    """


@show.command("user")
@click.argument("user", metavar="NAME|ID")
@AS_OF
@KNOWN_AT
@click.pass_obj
def show_user(views: Callable[[], Views], user: str, as_of: datetime | None, known_at: datetime | None) -> None:
    """A user by Discord id, or by the name that the user bore then. Digits are an id."""
    at = _instant(as_of, known_at)
    who: int | str | None = int(user) if _ID.fullmatch(user) else views().name(user)
    if who is None:
        raise Failure("User not found", 1)
    if isinstance(who, int) and not 1 <= who < 2**63:
        raise click.BadParameter("an id is between 1 and 2^63-1", param_hint="NAME|ID")

    async def read(fetch: Fetch, ledger: Ledger) -> past.User:
        return await _fresh(
            ledger, lambda: past.user(fetch, ledger, who, at, lambda _: True), lambda found: found.position
        )

    found = _read(read)
    if found.detail is None or found.detail.found.profile is None:
        raise Failure("User not found", 1)
    _print(views().user(found.detail, found.detail.found.profile, at.now))


@show.command("guild")
@click.argument("guild_id", type=DISCORD_ID)
@AS_OF
@KNOWN_AT
@click.pass_obj
def show_guild(views: Callable[[], Views], guild_id: int, as_of: datetime | None, known_at: datetime | None) -> None:
    """A guild by Discord id."""
    at = _instant(as_of, known_at)
    found = _read(lambda _, ledger: past.guild(ledger, guild_id, at, lambda *_: True))
    if found.owned is None or found.detail is None:
        raise Failure("Guild not found", 1)
    _print(views().guild(found.detail, found.owned, OWNER, at.now))


@show.command("bot")
@click.argument("bot_id", type=DISCORD_ID)
@AS_OF
@KNOWN_AT
@click.pass_obj
def show_bot(views: Callable[[], Views], bot_id: int, as_of: datetime | None, known_at: datetime | None) -> None:
    """A bot by Discord id."""
    at = _instant(as_of, known_at)
    found = _read(lambda _, ledger: past.bot(ledger, bot_id, at))
    if found is None:
        raise Failure("Bot not found", 1)
    _print(views().bot(found))


def _instant(as_of: datetime | None, known_at: datetime | None) -> Instant:
    try:
        return instant(datetime.now(UTC), as_of, known_at)
    except ValueError as error:
        raise Failure(error, 2) from None


def _read(work: Callable[[Fetch, Ledger], Awaitable[T]]) -> T:
    with open_ledger("show") as (ledger, conninfo):

        async def reading() -> T:
            connection = await psycopg.AsyncConnection.connect(
                conninfo, autocommit=True, application_name="modledger show", options="-c timezone=UTC"
            )
            async with connection:

                async def fetch(query: str, *args: object) -> Sequence[Sequence[Any]]:
                    cursor = psycopg.AsyncRawCursor(connection)
                    await cursor.execute(query.encode(), args)
                    return await cursor.fetchall()

                return await work(fetch, ledger)

        try:
            return asyncio.run(reading())
        except (FoldFailed, UnreadableEvent) as error:
            raise Failure(error, 1) from error


async def _fresh(ledger: Ledger, read: Callable[[], Awaitable[T]], position_of: Callable[[T], int]) -> T:
    """What is read once the read tables know all that is in the ledger now."""
    head = await asyncio.to_thread(ledger.head)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = await read()
        if position_of(found) >= head:
            return found
        if time.monotonic() >= deadline:
            raise Failure(
                f"the read tables are at position {position_of(found)} of {head}: is modledger work running?",
                1,
            )
        await asyncio.sleep(PAUSE_SECONDS)


def _print(view: msgspec.Struct) -> None:
    encoded = msgspec.json.encode(view).decode()
    if sys.stdout.isatty():
        print_json(encoded)
    else:
        click.echo(msgspec.json.format(encoded, indent=2))

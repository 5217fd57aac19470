"""A history that a platform could have lived through: whoever, whatever, whenever, with the database's own clock set by
the test, so that a moment is the same to the server and to the ledger."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid5

import psycopg

from modledger.domain import commands
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, SYSTEM, Actor, Subject, Via
from modledger.domain.execute import execute
from modledger.domain.importing import DiscordId, Import, ImportPermission, ImportPunishment, ImportSubscription
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.refusals import Refused
from modledger.domain.subjects import Account, fold
from modledger.workers.clock import record_ends
from tests.http_client import ADMIN, MASTER_KEY, World

IDS = UUID("2f1f6b5e-1d0c-4a57-9f3e-74696d650001")
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
USERS, GUILDS, BOTS = (101, 102, 103, 104), (201, 202), (301, 302)
NAMES = ("anna", "ANNA", "bert", "Straße", "STRASSE")
KEYS = ("anna", "bert", "strasse", "nobody")


@contextmanager
def world_of_set_time(database: str) -> Iterator[World]:
    """A world whose database tells the time that ``set_time`` gave it: its clock_timestamp() is found before the
    server's. Begins at the world's own first moment."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create schema set_time")
        connection.execute("create table set_time.moment (at timestamptz not null)")
        connection.execute("insert into set_time.moment values ('-infinity')")
        connection.execute(
            "create function set_time.clock_timestamp() returns timestamptz language sql as"
            " 'select at from set_time.moment'"
        )
        connection.execute(
            f"alter database {connection.info.dbname} set search_path = public, set_time, pg_catalog".encode()
        )
        for function in ("ledger_append", "ledger_append_batch"):
            # Theirs is fixed, so that nobody who calls them does what is done here.
            connection.execute(
                f"alter function {function} set search_path = public, set_time, pg_catalog, pg_temp".encode()
            )
        connection.execute("grant usage on schema set_time to public")
        connection.execute("grant select on set_time.moment to public")
    with PostgresLedger(database, MASTER_KEY) as ledger:
        world = World(database, ledger)
        with world.connection:
            set_time(world, world.now)
            yield world


def set_time(world: World, now: datetime) -> None:
    """From now on it is that time, for everybody."""
    world.now = now
    world.connection.execute("update set_time.moment set at = %s", (now,))
    # Sessions live for a day or a month, and the history may last longer.
    world.cookies.clear()


class Life:
    """Makes things happen in a world. The same seed makes the same happen."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.draw = random.Random(seed)
        self.seed = seed
        self.count = 0

    def step(self) -> None:
        """One to three things at this moment; many are refused, as in life."""
        for _ in range(self.draw.randint(1, 3)):
            command, actor, via = self.draw.choice(self._possible())()
            # Servers' clocks differ a little.
            at = self.world.now + self.draw.choice((-2, 0, 0, 0, 1)) * SECOND
            self.count += 1
            context = Context(
                actor=actor,
                at=at,
                command_id=uuid5(IDS, f"{self.seed} {self.count}"),
                correlation_id=IDS,
                via=via,
                external_id=command.external_id if isinstance(command, Import) else None,
            )
            with suppress(Refused):
                execute(self.world.ledger, command, context)
        if self.draw.random() < 0.5:
            self.world.catch_up()
            record_ends(self.world.ledger, self.world.connection, self.world.now)

    def pass_time(self) -> None:
        """A microsecond at least, a day and a half at most."""
        by = self.draw.choice((timedelta(microseconds=1), SECOND, HOUR, 7 * HOUR, 36 * HOUR))
        set_time(self.world, self.world.now + by)

    def _possible(self) -> list[Callable[[], tuple[Command, Actor, Via]]]:
        draw, now = self.draw, self.world.now
        user_id, guild_id, bot_id = draw.choice(USERS), draw.choice(GUILDS), draw.choice(BOTS)
        user, guild = Subject("user", user_id), Subject("guild", guild_id)
        target = draw.choice((user, user, guild))
        number, name, text = self._open(target), draw.choice(NAMES), draw.choice(("spam", "raid", "Rule 4"))
        until = now + draw.choice((HOUR, 5 * HOUR, 2 * DAY))
        replace = draw.random() < 0.5
        avatar = f"https://a.example/{draw.randint(1, 3)}.png"
        admin = Actor("user", ADMIN)
        numbered: dict[str, Any] = {"target": target, "number": number}

        def by(actor: Actor, make: Callable[..., Command], **what: Any) -> Callable[[], tuple[Command, Actor, Via]]:
            return lambda: (make(**what), actor, "http")

        issuing = [
            by(admin, commands.IssueWarning, target=target, reason=text),
            by(admin, commands.IssueTimeout, user_id=user_id, reason=text, expires_at=until, replace=replace),
            by(admin, commands.IssueBan, target=target, reason=text, expires_at=until, replace=replace),
            by(admin, commands.IssueBan, target=target, reason=text),
        ]
        return [
            *[by(SYSTEM, commands.RegisterUser, user_id=user_id, username=name, avatar_url=avatar)] * 2,
            *[by(SYSTEM, commands.UpdateUser, user_id=user_id, username=name, avatar_url=avatar)] * 3,
            by(OPERATOR, commands.ChangeUserPrefix, user_id=user_id, prefix=draw.choice("!?$")),
            *[by(OPERATOR, commands.ChangePermission, user_id=user_id, level=draw.randint(0, 2), reason=text)] * 2,
            by(OPERATOR, commands.GrantSubscription, target=target, tier=draw.randint(2, 3), duration_days=1),
            by(admin, commands.StartTrial, target=target, reason=text),
            by(admin, commands.RevokeSubscription, target=target, reason=text),
            *issuing,
            *issuing,
            *[by(OPERATOR, commands.AmendPunishment, **numbered, expires_at=until, reason=text)] * 3,
            *[by(OPERATOR, commands.LiftPunishment, **numbered, reason=text)] * 2,
            by(OPERATOR, commands.VoidPunishment, **numbered, reason=text),
            by(OPERATOR, commands.OverturnPunishment, **numbered, reason=text),
            *[by(SYSTEM, commands.SyncGuild, guild_id=guild_id, name=name, owner_id=user_id)] * 3,
            by(OPERATOR, commands.UpdateGuild, guild_id=guild_id, owner_id=None, state=draw.randint(0, 1)),
            *[by(OPERATOR, commands.RegisterBot, bot_id=bot_id, name=f"bot {name}", owner_id=user_id)] * 2,
            by(OPERATOR, commands.UpdateBot, bot_id=bot_id, owner_id=user_id, is_active=draw.random() < 0.7),
            *self._imports(user_id, guild_id),
            by(OPERATOR, commands.EraseSubject, target=draw.choice((user, user, guild)), reason="asked for it"),
        ]

    def _open(self, target: Subject) -> int:
        """The number of a punishment that has not ended, 1 where there is none."""
        account = fold(target, self.world.ledger.load([str(target)])[str(target)])
        assert isinstance(account, Account)
        return self.draw.choice([one.number for one in account.punishments.values() if one.ending is None] or [1])

    def _imports(self, user_id: int, guild_id: int) -> list[Callable[[], tuple[Command, Actor, Via]]]:
        draw = self.draw
        dated = self.world.now - draw.randint(0, 400) * HOUR
        past: dict[str, Any] = {"external_id": str(draw.randint(1, 10**6)), "created_at": dated}
        whose: dict[str, Any] = {"discord_user_id": DiscordId(user_id)}
        if draw.random() < 0.3:
            whose = {"discord_guild_id": DiscordId(guild_id)}
        kind: Literal["BAN", "GUILD_BLACKLIST"] = "BAN" if "discord_user_id" in whose else "GUILD_BLACKLIST"
        end = dated + draw.randint(1, 600) * HOUR
        tier = draw.randint(0, 3)
        records: list[Import] = [
            ImportPunishment(punishment_type=kind, reason="old", expires_at=end, **past, **whose),
            ImportPunishment(
                punishment_type="WARNING", reason="older", is_lifted=True, lifted_at=dated + HOUR, **past, **whose
            ),
            ImportSubscription(old_tier=0, new_tier=tier, expires_at=end if tier == 2 else None, **past, **whose),
            ImportPermission(
                old_level=0, new_level=draw.randint(0, 1), reason="old", **past, discord_user_id=DiscordId(user_id)
            ),
        ]
        record = draw.choice(records)
        return [lambda: (record, OPERATOR, "import")] * 4

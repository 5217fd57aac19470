"""What happened in each of the stored databases of tests/samples/databases, told to the program of its time.

``python -m tests.old_history CONNINFO NUMBER`` fills an empty database as of migration NUMBER.
tests/old_databases.py runs it with the code of then, so it only calls what every version has had.
"""

import hashlib
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import psycopg

from modledger.domain import commands
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import OPERATOR, Actor, Subject
from modledger.domain.execute import execute
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.projections.catalog import PROJECTORS
from modledger.workers.migrate import apply_sql, migrate, migrations
from modledger.workers.runner import catch_up

MASTER_KEY = bytes(range(50, 82))
SEAL_KEY = bytes(range(100, 132))
AT = datetime(2026, 3, 10, 12, tzinfo=UTC)
ADMIN = Actor("user", 1)
ANNA, GONE, GUILD = Subject("user", 2), Subject("user", 4), Subject("guild", 20)
NAMES = {1: "Ada", 2: "Straße", 3: "Bert"}
REASONS = ["raid", "raid again", "spam \U0001f6a8 in #general"]
PUNISHING = (commands.IssueBan, commands.IssueWarning, commands.IssueTimeout)
CODES = UUID("6f6c6420-6461-4461-8261-736573000000")
CREDENTIALS, TELEMETRY, READ_MODELS, SEALS = 2, 3, 4, 7


def happenings() -> list[Command]:
    """All that was done, in this order."""
    return [
        *[commands.RegisterUser(user_id=number, username=name) for number, name in NAMES.items()],
        commands.RegisterUser(user_id=GONE.id, username="Gone"),
        commands.ChangePermission(user_id=1, level=2, reason="trusted"),
        commands.RegisterGuild(guild_id=GUILD.id, name="Harbour", owner_id=2),
        commands.RegisterBot(bot_id=30, name="helper", owner_id=1),
        commands.IssueBan(target=ANNA, reason=REASONS[0]),
        commands.IssueBan(target=ANNA, reason=REASONS[1], replace=True),
        commands.IssueWarning(target=ANNA, reason=REASONS[2]),
        commands.IssueTimeout(user_id=3, reason="calm down", expires_at=AT + timedelta(hours=5)),
        commands.IssueWarning(target=GONE, reason="whom nobody shall know"),
        commands.IssueBan(target=GUILD, reason="spam", expires_at=AT + timedelta(days=3000)),
        commands.GrantSubscription(target=ANNA, tier=2, duration_days=3000),
        commands.StartTrial(target=GUILD),
        commands.ChangeUserPrefix(user_id=2, prefix="?"),
        commands.UpdateUser(user_id=3, username="Bertram"),
        commands.EraseSubject(target=GONE, reason="asked for it"),
    ]


def fill(conninfo: str, number: int) -> None:
    """Lets it all happen in an empty database as of migration ``number`` (1 to this program's last)."""
    if number < READ_MODELS:
        # No program was ever content with these: the read tables need them all.
        apply_sql(conninfo, [file for file in migrations() if file.number <= number])
    else:
        migrate(conninfo)
    with PostgresLedger(conninfo, MASTER_KEY) as ledger:
        for n, command in enumerate(happenings()):
            context = Context(
                actor=ADMIN if isinstance(command, PUNISHING) else OPERATOR,
                at=AT + timedelta(minutes=n),
                command_id=uuid5(CODES, str(n)),
                correlation_id=CODES,
                via="http" if isinstance(command, PUNISHING) else "cli",
            )
            execute(ledger, command, context)
        if number >= READ_MODELS:
            catch_up(ledger, conninfo, PROJECTORS)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        if number >= CREDENTIALS:
            _credentials(connection)
        if number >= TELEMETRY:
            connection.execute("insert into user_activity values (2, %s)", (AT,))
            connection.execute("insert into guild_activity (guild_id, member_count) values (20, 12)")
            connection.execute("insert into bot_activity values (30, 1, 12, 41.5, %s)", (AT,))
        if number >= SEALS:
            from modledger.workers.seal_key import signing_key
            from modledger.workers.sealer import seal

            seal(connection, signing_key(Settings(seal_key=SEAL_KEY), connection), AT)


def _credentials(connection: psycopg.Connection) -> None:
    token, key = hashlib.sha256(b"token").digest(), hashlib.sha256(b"key").digest()
    connection.execute(
        "insert into sessions values (%s, 2, 'suffix', %s, %s, '192.0.2.1', 'curl')",
        (token, AT, AT + timedelta(days=1)),
    )
    connection.execute("insert into login_codes values (3, %s, 'sealed', %s, 2)", (token, AT + timedelta(minutes=5)))
    connection.execute("insert into login_history values (2, '192.0.2.1', 'curl', %s)", (AT,))
    connection.execute("insert into api_keys values (%s, 'public', null, %s)", (token, AT))
    connection.execute("insert into api_keys values (%s, 'bot', 30, %s)", (key, AT))
    connection.execute("insert into idempotency_keys values ('user:1', 'k', 'print', 200, 'sealed', %s)", (AT,))


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]))

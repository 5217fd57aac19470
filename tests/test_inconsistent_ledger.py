"""A ledger that was restored without its keys' events: whoever meets it is told so, and nobody is made to wait."""

from datetime import UTC, datetime
from pathlib import Path
from random import Random
from uuid import uuid4

import psycopg
import pytest

from modledger.domain import commands
from modledger.domain.commands import Context
from modledger.domain.envelope import OPERATOR, Subject
from modledger.domain.execute import execute, execute_batch
from modledger.domain.kept_states import KeptStates
from modledger.domain.ledger import LedgerDamaged
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.projections.catalog import PROJECTORS
from modledger.projections.ledger_verification import verify_ledger
from modledger.projections.samples import remember, verify_sample
from tests.databases import MASTER_KEY
from tests.http_client import ADMIN, OTHER_USER, USER, World, error_of
from tests.sealing import unguarded
from tests.test_cli import modledger, on

ROOT = Path(__file__).parent.parent
AT = datetime(2026, 3, 10, 12, tzinfo=UTC)
LOST, WELL = Subject("user", 4242), Subject("user", 4343)
SAYS = "user:4242 has a key but no events; run modledger verify ledger"


def context() -> Context:
    return Context(actor=OPERATOR, at=AT, command_id=uuid4(), correlation_id=uuid4(), via="cli")


def warning(of: Subject) -> commands.IssueWarning:
    return commands.IssueWarning(target=of, reason="spam")


def lose(database: str, of: Subject = LOST, since: int = 1) -> None:
    """The events of the stream are gone from that version on, and its keys are still there."""
    with psycopg.connect(database, autocommit=True) as connection:
        unguarded(
            connection, "delete from ledger where originator_id = %s and originator_version >= %s", str(of), since
        )


def found(database: str, ledger: PostgresLedger) -> list[tuple[str, str, str | None, str | None]]:
    return [(one.where, one.field, one.expected, one.found) for one in verify_ledger(database, ledger)]


def documented_sql() -> bytes:
    """What docs/backup.md has the owner say."""
    section = (ROOT / "docs" / "backup.md").read_text().partition("## Tables that do not belong together")[2]
    return section.partition("```sql")[2].partition("```")[0].encode()


@pytest.fixture
def broken(database: str, ledger: PostgresLedger) -> str:
    """A database in which two users were warned, and one of them is known by a key alone."""
    for one in (LOST, WELL):
        execute(ledger, warning(one), context())
    lose(database)
    return database


@pytest.mark.parametrize("kept", [True, False])
def test_a_command_on_a_stream_that_is_gone_but_for_its_key_ends_and_names_it(
    database: str, ledger: PostgresLedger, kept: bool
) -> None:
    states = KeptStates()
    execute(ledger, warning(LOST), context(), states)
    lose(database)
    with PostgresLedger(database, MASTER_KEY) as fresh:
        asked = (ledger, states) if kept else (fresh, KeptStates())
        for _ in range(2):
            with pytest.raises(LedgerDamaged, match=SAYS):
                execute(asked[0], warning(LOST), context(), asked[1])
        assert execute(asked[0], warning(WELL), context(), asked[1]).position
    assert ledger.load([str(LOST)]) == {str(LOST): []}


def test_so_does_a_batch_and_leaves_nothing(broken: str, ledger: PostgresLedger) -> None:
    before = ledger.head()
    with pytest.raises(LedgerDamaged, match=SAYS):
        execute_batch(ledger, [(warning(LOST), context()) for _ in range(2)])
    with PostgresLedger(broken, MASTER_KEY) as fresh:
        assert fresh.head() == before


def test_a_request_is_answered_503_that_names_it_and_others_go_on(world: World) -> None:
    path = f"/v1/admin/punishments/user/{LOST.id}/warn"
    assert world.post(path, ADMIN, {"reason": "spam"}).status_code == 200
    lose(world.database)
    refused = world.post(path, ADMIN, {"reason": "spam"})
    assert error_of(refused, 503) == f"The ledger is inconsistent: {SAYS}"
    assert world.post(f"/v1/admin/punishments/user/{USER}/warn", ADMIN, {"reason": "spam"}).status_code == 200

    items = [{"action": "warn", "target": "user", "id": user, "reason": "spam"} for user in (USER, LOST.id, OTHER_USER)]
    results = world.post("/v1/admin/punishments/bulk", ADMIN, {"items": items}).json()["results"]
    assert [one["status"] for one in results] == [200, 503, 200]
    assert results[1]["error"] == f"The ledger is inconsistent: {SAYS}"


def test_the_command_line_ends_with_status_1_and_names_it(broken: str) -> None:
    done = modledger("owner", str(LOST.id), **on(broken))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"modledger: the ledger is inconsistent: {SAYS}\n"


def test_verification_names_it_until_it_is_mended(broken: str, ledger: PostgresLedger) -> None:
    done = modledger("verify", "ledger", **on(broken))
    assert (done.returncode, done.stdout) == (
        1,
        "ledger of user:4242: has a key but no events\nledger: 1 difference\n",
    )
    # What a worker looks at every minute.
    with psycopg.connect(broken, autocommit=True) as connection:
        for _ in range(2):
            remember(connection, verify_sample(broken, PROJECTORS[:1], ledger, 5, Random(1)), AT, whole=False)
            assert connection.execute(
                "select differences, differing from verifications where subject = 'ledger'"
            ).fetchall() == [(1, [str(LOST)])]
        connection.execute(documented_sql())
    assert found(broken, ledger) == []
    assert execute(ledger, warning(LOST), context()).subject.version == 1


def test_a_key_of_an_erasure_that_is_gone_is_found_as_well(database: str, ledger: PostgresLedger) -> None:
    execute(ledger, warning(LOST), context())
    execute(ledger, commands.EraseSubject(target=LOST, reason="by mail"), context())
    assert found(database, ledger) == []
    lose(database, since=2)
    assert found(database, ledger) == [
        ("of user:4242", "has a key of another generation than its last erasure", "0", "2")
    ]

"""What a scrape finds in the database, each value against a state that a test made."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from bench.processes import free_port
from modledger.domain import commands
from modledger.domain.envelope import Subject
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import Settings
from modledger.projections.catalog import PROJECTORS
from modledger.projections.due import LONGEST_DUE
from modledger.workers.metrics import metrics_served, watched_process
from modledger.workers.metrics_installation import InstallationCollector
from modledger.workers.migrate import migrate
from modledger.workers.port import PortTaken
from modledger.workers.postgres import EmbeddedPostgres
from modledger.workers.seal_key import signing_key
from modledger.workers.sealer import seal
from modledger.workers.turn import wait_for_turn
from tests.http_client import ADMIN, MASTER_KEY, NOW, USER, World


@pytest.fixture
def registry(world: World) -> Iterator[CollectorRegistry]:
    world.catch_up()
    world.catching_up = False
    made = CollectorRegistry()
    collector = InstallationCollector(world.database)
    made.register(collector)
    yield made
    collector.close()


def values(registry: CollectorRegistry, name: str) -> dict[str, float]:
    """By the one label that it has; '' where it has none."""
    found = [family for family in registry.collect() if family.name == name]
    assert len(found) <= 1
    return {"/".join(sample.labels.values()): sample.value for family in found for sample in family.samples}


def test_a_projector_that_is_behind_is_told_in_events_and_seconds(world: World, registry: CollectorRegistry) -> None:
    names = {projector.name for projector in PROJECTORS}
    assert values(registry, "modledger_projection_lag_events") == dict.fromkeys(names, 0)
    for number in range(3):
        world.act(commands.IssueWarning(target=Subject("user", USER), reason=f"warning {number}"))
    world.catch_up("profile")
    lag = values(registry, "modledger_projection_lag_events")
    assert (lag["profile"], lag["punishments"]) == (0, 3)
    seconds = values(registry, "modledger_projection_lag_seconds")
    assert seconds["profile"] == 0
    assert 0 < seconds["punishments"] < 600
    head = world.ledger.head()
    assert values(registry, "modledger_ledger_position") == {"": head}
    positions = values(registry, "modledger_projection_position")
    assert (positions["profile"], positions["punishments"]) == (head, head - 3)


def test_a_projector_that_stopped_is_told(world: World, registry: CollectorRegistry) -> None:
    assert set(values(registry, "modledger_projection_stopped").values()) == {0}
    world.connection.execute(
        "insert into projection_failures values ('bots', 7, %s, 'bot.registered.v1', 'secret detail', now())",
        (uuid4(),),
    )
    stopped = values(registry, "modledger_projection_stopped")
    assert [name for name, is_so in stopped.items() if is_so] == ["bots"]


def test_the_clock_is_late_by_the_oldest_end_that_is_not_recorded(world: World, registry: CollectorRegistry) -> None:
    assert values(registry, "modledger_clock_lag_seconds") == {"": 0}
    now = datetime.now(UTC)
    for user_id, ago in ((USER, 100), (ADMIN, 300)):
        world.connection.execute(
            "update profiles set tier = 2, tier_until = %s where user_id = %s", (now - timedelta(seconds=ago), user_id)
        )
    assert 300 <= values(registry, "modledger_clock_lag_seconds")[""] < 900
    world.now = now
    world.act(commands.IssueTimeout(user_id=USER, reason="x", expires_at=now + timedelta(hours=1)), at=now)
    world.catch_up()
    world.connection.execute("update profiles set tier_until = null, tier = 0")
    assert values(registry, "modledger_clock_lag_seconds") == {"": 0}
    world.connection.execute("update punishments set due_at = %s where due_at is not null", (now - timedelta(hours=2),))
    assert 7200 <= values(registry, "modledger_clock_lag_seconds")[""] < 8000


def test_the_oldest_end_is_found_by_indexes(world: World) -> None:
    world.connection.execute("set enable_seqscan = off")
    cursor = psycopg.RawCursor(world.connection)
    plan = str(cursor.execute(f"explain (format json) {LONGEST_DUE}".encode(), [NOW]).fetchall())
    for index in ("punishments_due", "profiles_tier_until", "guilds_tier_until"):
        assert index in plan
    assert "Seq Scan" not in plan
    assert "'Sort'" not in plan


def test_verifications_and_rebuilds_are_told_as_they_stand(world: World, registry: CollectorRegistry) -> None:
    assert values(registry, "modledger_verification_differences") == {}
    assert values(registry, "modledger_replay_state") == {}
    world.connection.execute(
        "insert into verifications (subject, checked_at, streams, differences, differing)"
        " values ('profile', %s, 10, 0, '{}'), ('ledger', %s, 10, 2, '{user:1}')",
        (NOW, NOW - timedelta(days=1)),
    )
    world.connection.execute(
        "insert into replays (projector, state, fingerprint, head, total, created_at, changed_at)"
        " values ('bots', 'replaying', 'x', 100, 400, now(), now())"
    )
    world.connection.execute(
        "insert into replay_parts (projector, part, after, until, passed) values ('bots', 0, '', 'z', 100)"
    )
    assert values(registry, "modledger_verification_differences") == {"profile": 0, "ledger": 2}
    assert values(registry, "modledger_verification_timestamp_seconds") == {
        "profile": NOW.timestamp(),
        "ledger": NOW.timestamp() - 86_400,
    }
    assert values(registry, "modledger_replay_state") == {"bots/replaying": 1}
    assert values(registry, "modledger_replay_progress_ratio") == {"bots": 0.25}


def test_the_seal_is_told_with_what_it_lacks(world: World, registry: CollectorRegistry) -> None:
    assert values(registry, "modledger_unsealed_seconds")[""] > 0
    assert values(registry, "modledger_sealed_events") == {}
    signer = signing_key(Settings(seal_key=bytes(32)), world.connection)
    head = seal(world.connection, signer, NOW)
    assert head is not None
    assert values(registry, "modledger_unsealed_seconds") == {"": 0}
    assert values(registry, "modledger_sealed_events") == {"": head.tree_size}
    assert values(registry, "modledger_seal_timestamp_seconds") == {"": NOW.timestamp()}


def test_who_is_at_work_and_who_stands_by_is_told(world: World, registry: CollectorRegistry) -> None:
    assert set(values(registry, "modledger_turn_held").values()) == {0}
    stop = threading.Event()
    with (
        psycopg.connect(world.database, autocommit=True) as first,
        psycopg.connect(world.database, autocommit=True) as second,
    ):
        assert wait_for_turn(first, "projector profile", stop)
        waiting = threading.Thread(target=wait_for_turn, args=(second, "projector profile", stop))
        waiting.start()
        # It asks in slices; between two of them nobody waits.
        while not values(registry, "modledger_turn_waiting")["projector profile"]:
            pass
        held = values(registry, "modledger_turn_held")
        assert [turn for turn, is_so in held.items() if is_so] == ["projector profile"]
        before = values(registry, "modledger_turn_holder_connected_timestamp_seconds")
        assert list(before) == ["projector profile"]
        first.close()
        waiting.join()
        assert values(registry, "modledger_turn_held")["projector profile"] == 1
        assert values(registry, "modledger_turn_holder_connected_timestamp_seconds") != before


def test_a_part_that_cannot_be_found_out_is_named_and_the_others_stay(
    world: World, registry: CollectorRegistry
) -> None:
    world.connection.execute("alter table verifications rename to gone")
    failed = values(registry, "modledger_metrics_failed")
    assert [part for part, is_so in failed.items() if is_so] == ["verifications"]
    assert values(registry, "modledger_verification_differences") == {}
    assert values(registry, "modledger_database_up") == {"": 1}
    assert values(registry, "modledger_projection_lag_events") != {}


@pytest.fixture
def own_server(tmp_path: object) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres", durable=False)  # type: ignore[operator]
    yield server
    server.stop()
    server.detach()


def test_a_database_that_is_away_is_told_and_found_again_when_it_is_back(own_server: EmbeddedPostgres) -> None:
    conninfo = own_server.attach()
    migrate(conninfo)
    registry = CollectorRegistry()
    settings = Settings(database_url=conninfo)
    with (
        PostgresLedger(conninfo, MASTER_KEY) as ledger,
        watched_process(registry, "work", settings, conninfo, lambda: ledger),
    ):
        assert values(registry, "modledger_database_up") == {"": 1}
        own_server.stop()
        assert values(registry, "modledger_database_up") == {"": 0}
        assert values(registry, "modledger_ledger_position") == {}
        # What the process knows of itself stays.
        assert values(registry, "modledger_appends") == {"appended": 0, "duplicate": 0, "conflict": 0}
        own_server.attach()
        assert values(registry, "modledger_database_up") == {"": 1}
        assert values(registry, "modledger_ledger_position") == {"": 0}


def test_metrics_are_served_only_where_the_settings_say_so() -> None:
    with metrics_served(Settings(), CollectorRegistry()):
        pass
    port = free_port()
    with metrics_served(Settings(metrics_port=port), CollectorRegistry()):  # noqa: SIM117 - the second is what fails
        with pytest.raises(PortTaken, match="set MODLEDGER_METRICS_PORT to another"):
            with metrics_served(Settings(metrics_port=port), CollectorRegistry()):
                pass
    with metrics_served(Settings(metrics_port=port), CollectorRegistry()):
        pass

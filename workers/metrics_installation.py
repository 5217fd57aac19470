"""What every process finds in the database when /metrics is asked: how far projectors, clock, sealer and verifier are,
and who is at work. Of several processes each says the same, so that all is seen while any of them lives.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import psycopg
import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg.rows import tuple_row

from modledger.domain.seal_proofs import UNSEALED
from modledger.domain.signed_heads import NoHead, read_head
from modledger.projections import health
from modledger.projections.due import LONGEST_DUE
from modledger.workers.turn import ALL_TURNS, turn_key

log = structlog.get_logger()

CONNECT_SECONDS = 2
# Each statement is one or a few looks into an index; together they must end before a scrape is given up (10 s).
STATEMENT_MS = 1_000
TURNS = (*(f"projector {name}" for name in health.NAMES), "clock", "sealer", "verifier")

Ask = Callable[..., list[tuple[Any, ...]]]

# ledger_position, its last entry
_HEAD = "select coalesce(max(notification_id), 0), pg_database_size(current_database()) from ledger"
# The whole table, a row per projector and one for the ledger.
_VERIFICATIONS = "select subject, differences, extract(epoch from checked_at)::float8 from verifications"
# seals_pkey, its last entry
_SEAL = "select tree_size, note from seals order by tree_size desc limit 1"
# The whole table, a row per projector; replay_parts_pkey
_REPLAYS = """
    select r.projector, r.state, r.total, (select coalesce(sum(passed), 0)::bigint from replay_parts as p
        where p.projector = r.projector) from replays as r
"""
# In memory, a line per lock and session.
_TURNS = f"""
    select t.turn, bool_or(l.granted) is true, count(*) filter (where not l.granted),
        max(extract(epoch from a.backend_start)) filter (where l.granted)::float8
    from unnest($1::text[], $2::bigint[]) as t (turn, key)
    left join ({ALL_TURNS}) as l on l.key = t.key
    left join pg_stat_activity as a on a.pid = l.pid
    group by t.turn
"""  # noqa: S608


class InstallationCollector(Collector):
    """Asks over one connection of its own, which it keeps; a database that does not answer is a metric and no error."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: psycopg.Connection | None = None
        # A scrape has a thread of its own, and several may come at once.
        self._lock = threading.Lock()

    def close(self) -> None:
        """Closes the connection; a later scrape opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            metrics, answered = self._ask_all()
        yield GaugeMetricFamily("modledger_database_up", "Whether the database answers.", value=answered)
        yield from metrics

    def _ask_all(self) -> tuple[list[Metric], bool]:
        metrics: list[Metric] = []
        failed = GaugeMetricFamily(
            "modledger_metrics_failed", "Whether this part could not be found out; it is left out.", labels=["part"]
        )
        try:
            connection = self._connected()

            def ask(query: str, *arguments: object) -> list[tuple[Any, ...]]:
                with psycopg.RawCursor(connection, row_factory=tuple_row) as cursor:
                    return cursor.execute(query.encode(), arguments).fetchall()

            ((now,),) = ask("select clock_timestamp()")
            for name, part in _PARTS.items():
                try:
                    # Whole or not at all.
                    metrics += list(part(ask, now))
                    failed.add_metric([name], 0)
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    raise
                # Tables that are missing or another version's; a head that cannot be read.
                except (psycopg.Error, NoHead) as error:
                    log.warning("metrics are incomplete", part=name, error=str(error))
                    failed.add_metric([name], 1)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            log.warning("metrics lack the database", error=str(error))
            if self._connection is not None:
                self._connection.close()
            return [], False
        return [*metrics, failed], True

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._conninfo,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                tcp_user_timeout=CONNECT_SECONDS * 1000,
                application_name="modledger metrics",
            )
            self._connection.execute(f"set statement_timeout = {STATEMENT_MS}".encode())
        return self._connection


def _ledger(ask: Ask, _now: datetime) -> Iterator[Metric]:
    ((position, size),) = ask(_HEAD)
    yield GaugeMetricFamily("modledger_ledger_position", "Position of the last event.", value=position)
    yield GaugeMetricFamily("modledger_database_size_bytes", "Size of the database.", value=size)


def _projections(ask: Ask, now: datetime) -> Iterator[Metric]:
    found = [health.health(line) for line in ask(health.HEALTH, health.NAMES, now)]
    yield from (
        _by("projector", name, text, [(one.name, value(one)) for one in found]) for name, text, value in _OF_PROJECTORS
    )


_OF_PROJECTORS: Sequence[tuple[str, str, Callable[[health.ProjectorHealth], float]]] = (
    ("modledger_projection_position", "Last event in the projector's tables.", lambda one: one.position),
    ("modledger_projection_lag_events", "Events that are not in its tables yet.", lambda one: one.lag_events),
    ("modledger_projection_lag_seconds", "Age of the oldest of them.", lambda one: one.lag_seconds),
    (
        "modledger_projection_stopped",
        "Whether the projector stands before an event that it cannot fold.",
        lambda one: float(one.failure is not None),
    ),
)


def _clock(ask: Ask, now: datetime) -> Iterator[Metric]:
    ((seconds,),) = ask(LONGEST_DUE, now)
    text = "For how long the oldest end that is not recorded yet has been due."
    yield GaugeMetricFamily("modledger_clock_lag_seconds", text, value=seconds)


def _verifications(ask: Ask, _now: datetime) -> Iterator[Metric]:
    found = ask(_VERIFICATIONS)
    yield _by(
        "subject",
        "modledger_verification_differences",
        "Differences that the last verification found.",
        [(subject, differences) for subject, differences, _ in found],
    )
    yield _by(
        "subject",
        "modledger_verification_timestamp_seconds",
        "When it was verified last.",
        [(subject, at) for subject, _, at in found],
    )


def _seal(ask: Ask, now: datetime) -> Iterator[Metric]:
    ((unsealed,),) = ask(UNSEALED, now)
    yield GaugeMetricFamily("modledger_unsealed_seconds", "Age of the oldest event that waits for a seal.", unsealed)
    for size, note in ask(_SEAL):
        at = read_head(note).at.timestamp()
        yield GaugeMetricFamily("modledger_seal_timestamp_seconds", "When the newest head was signed.", at)
        yield GaugeMetricFamily("modledger_sealed_events", "Events under the newest signed head.", size)


def _replays(ask: Ask, _now: datetime) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "modledger_replay_state", "The state of the projector's last rebuild.", labels=["projector", "state"]
    )
    progress = GaugeMetricFamily(
        "modledger_replay_progress_ratio", "The part of the events that it has gone through.", labels=["projector"]
    )
    for projector, name, total, passed in ask(_REPLAYS):
        state.add_metric([projector, name], 1)
        progress.add_metric([projector], passed / total if total else 1)
    yield from (state, progress)


def _turns(ask: Ask, _now: datetime) -> Iterator[Metric]:
    found = ask(_TURNS, list(TURNS), [turn_key(turn) for turn in TURNS])
    yield _by("turn", "modledger_turn_held", "Whether a process is at this work.", [(one[0], one[1]) for one in found])
    yield _by("turn", "modledger_turn_waiting", "How many stand by for it.", [(one[0], one[2]) for one in found])
    yield _by(
        "turn",
        "modledger_turn_holder_connected_timestamp_seconds",
        "When the one at work had connected: another value is another process, or its next connection.",
        [(one[0], one[3]) for one in found if one[3] is not None],
    )


def _by(label: str, name: str, text: str, values: Sequence[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for of, value in values:
        family.add_metric([of], value)
    return family


_PARTS: dict[str, Callable[[Ask, datetime], Iterator[Metric]]] = {
    "ledger": _ledger,
    "projections": _projections,
    "clock": _clock,
    "verifications": _verifications,
    "seal": _seal,
    "replays": _replays,
    "turns": _turns,
}

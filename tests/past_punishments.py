"""A ledger of two years with everything that the past of punishments can trip over, and what a search of the past has
to answer: ``time_travel``'s rule applied to every stream, filtered and sorted in Python."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec

from modledger.domain import events
from modledger.domain.envelope import SYSTEM, Recorded, subject_of
from modledger.domain.ledger import Append
from modledger.domain.subjects import Punishment as Known
from modledger.domain.subjects import evolve, new
from modledger.projections import punishments
from modledger.projections.projector import fold_stream
from modledger.projections.punishments import Punishment
from modledger.projections.search import Search
from modledger.projections.time_travel import Instant, events_at
from tests.http_client import World
from tests.lived_history import set_time
from tests.projection_history import ADMIN, DAY, HOUR, OTHER_ADMIN, SECOND, Happened, append_of, new_event
from tests.test_search_reasons import bears, reason

BEGIN = datetime(2025, 1, 3, 10, tzinfo=UTC)
STREAMS = (*(f"user:{n}" for n in range(1, 7)), *(f"guild:{n}" for n in range(1, 4)))
MICROSECOND = timedelta(microseconds=1)


class Chronicle:
    """Writes a history into a world of set time. The same seed writes the same."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.draw = world, Random(seed)
        self.versions: dict[str, int] = {}
        # What happens at one moment is appended together.
        self.coming: list[Append] = []
        self.states: dict[str, Any] = {stream: new(subject_of(stream)) for stream in STREAMS}

    def write(self, steps: int) -> None:
        now = BEGIN
        for _ in range(steps):
            now += self.draw.choice((MICROSECOND, SECOND, HOUR, 9 * HOUR, 2 * DAY, 3 * DAY))
            set_time(self.world, now)
            for _ in range(self.draw.randint(1, 3)):
                self.step(now)
            if self.draw.random() < 0.1:
                self.append()
                self.gap(self.draw.choice((7, 300, 2048, 5000)))
            if self.draw.random() < 0.03:
                for _ in range(12):
                    self.old(now)
            self.append()
            if self.draw.random() < 0.2:
                self.world.catch_up("punishment_history")
        set_time(self.world, now + DAY)
        self.world.catch_up("punishment_history")

    def gap(self, positions: int) -> None:
        """The ledger goes on so many positions further on: other buckets, other lines of marks."""
        sequence = "pg_get_serial_sequence('ledger', 'notification_id')"
        head = self.world.ledger.head()
        self.world.query(f"select setval({sequence}, %s)", head + positions)

    def happen(self, stream: str, event: events.Event, at: datetime) -> None:
        by = self.draw.choice((ADMIN, ADMIN, OTHER_ADMIN, SYSTEM))
        happened = Happened(stream, event, at, by)
        evolve(self.states[stream], new_event(happened, self.versions.get(stream, 0) + 1))
        self.coming.append(append_of(self.versions, happened))

    def append(self) -> None:
        self.world.ledger.append_batch(self.coming)
        self.coming.clear()

    def step(self, now: datetime) -> None:
        draw = self.draw
        stream = draw.choice(STREAMS)
        at = now + draw.choice((-2, -1, 0, 0, 0, 0, 0, 0, 1)) * SECOND
        if draw.random() < 0.25:
            # A clock that is wrong, or somebody who writes down late what happened.
            at = now + draw.randint(-60 * 24, 48) * HOUR
        open_ = [(n, one) for n, one in self.states[stream].punishments.items() if one.ending is None]
        choice = draw.random()
        if choice < 0.012:
            self.happen(stream, events.SubjectErased(reason="asked for it"), at)
        elif choice < 0.5 or not open_:
            self.happen(stream, self.issue(stream, at), at)
        else:
            self.happen(stream, *self.change(*draw.choice(open_), at))

    def issue(self, stream: str, at: datetime) -> events.Event:
        draw, text = self.draw, reason(self.draw)
        until = at + draw.choice((HOUR, DAY, 20 * DAY, 200 * DAY)) + draw.randint(0, 9) * HOUR
        end = draw.choice((None, until, until))
        if stream.startswith("guild"):
            return draw.choice((events.GuildWarned(reason=text), events.GuildBlacklisted(reason=text, expires_at=end)))
        return draw.choice(
            (
                events.UserWarned(reason=text),
                events.UserTimedOut(reason=text, expires_at=until),
                events.UserBanned(reason=text, expires_at=end),
            )
        )

    def change(self, number: int, of: Known, at: datetime) -> tuple[events.Event, datetime]:
        draw = self.draw
        if draw.random() < 0.45:
            until = draw.choice((None, of.expires_at, at + draw.randint(1, 900) * HOUR))
            text = draw.choice((reason(draw), "spam"))
            return events.PunishmentAmended(
                number=number, old_reason="", reason=text, old_expires_at=of.expires_at, expires_at=until
            ), at
        if of.expires_at is not None and of.expires_at <= at:
            return events.PunishmentLapsed(number=number), of.expires_at
        ends: tuple[events.Event, ...] = (
            events.PunishmentLifted(number=number, reason="sorry"),
            events.PunishmentVoided(number=number, reason="error"),
            events.PunishmentOverturned(number=number, reason="appeal"),
            events.PunishmentSuperseded(number=number, by=number + 1),
        )
        return draw.choice(ends), at

    def old(self, now: datetime) -> None:
        """A record of an import: what happened long ago and how it ended, all of it recorded now."""
        stream = self.draw.choice(STREAMS)
        at = now - self.draw.randint(1, 500 * 24) * HOUR
        number = self.versions.get(stream, 0) + 1
        self.happen(stream, self.issue(stream, at), at)
        if self.draw.random() < 0.5:
            later = at + self.draw.randint(0, 900) * HOUR
            self.happen(stream, *self.change(number, self.states[stream].punishments[number], min(later, now)))


class Oracle:
    """The ledger's events, asked about moments."""

    def __init__(self, world: World) -> None:
        self.streams = world.ledger.load(STREAMS)
        self.events = sorted((one for found in self.streams.values() for one in found), key=lambda one: one.position)
        self.known: dict[Instant, list[Punishment]] = {}

    def rows(self, at: Instant) -> list[Punishment]:
        """All punishments as they were; ``version`` as a search of the past has it."""
        if at not in self.known:
            self.known[at] = [
                msgspec.structs.replace(row, version=row.number)
                for stream in self.streams.values()
                for row in fold_stream(punishments.PROJECTOR, self.of_punishments(events_at(stream, at))).values()
            ]
        return self.known[at]

    def of_punishments(self, counted: Sequence[Recorded]) -> list[Recorded]:
        return [one for one in counted if one.event.TOPIC in punishments.PROJECTOR.topics]

    def found(self, search: Search, at: Instant) -> list[Punishment]:
        """What the search finds, whole and in order."""
        wanted = [
            row
            for row in self.rows(at)
            if search.user_id in (None, row.user_id)
            and search.guild_id in (None, row.guild_id)
            and search.issued_by in (None, row.issued_by)
            and search.type in (None, row.type)
            and (search.created_after is None or row.created_at > search.created_after)
            and (search.created_before is None or row.created_at < search.created_before)
            and (punishments.is_active(row, at.now) or not search.active_only)
            and (search.q is None or bears(row, search.q))
        ]

        def key(row: Punishment) -> tuple[Any, ...]:
            if search.sort.endswith("created_at"):
                return (row.created_at, row.id)
            return (row.expires_at is None, row.expires_at or BEGIN, row.created_at, row.id)

        return sorted(wanted, key=key, reverse=search.sort.startswith("-"))

    def moments(self) -> Iterator[datetime]:
        """When something changes, and right before it."""
        for one in self.events:
            for at in (one.recorded_at, one.occurred_at, getattr(one.event, "expires_at", None)):
                if at is not None:
                    yield at
                    yield at - MICROSECOND

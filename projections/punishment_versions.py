"""The versions of a punishment: which wordings it had, since when and until when, in both times (time_travel.py).

A *version* is a wording (reason and end) of a punishment. Most have one only. It was known since the position of the
event that made it until that of the next amendment, and held since the date of the one until the date of the other; how
the punishment ended stands in the last. With P the last position that was recorded until ``known_at`` and T for
``as_of``, of a punishment in order the version counts at a moment for which

    since_position <= P and dated_since <= T and (until_position > P or dated_until > T)

where null is never reached and what is not asked for drops out; it had ended if ``ended_position <= P and ended_dated <= T``.

A punishment is *in order* if the dates of what is said about it do not go back along the ledger and nothing follows its
end. The few others, of clocks that differ, have a row for each state in which they ever were, with the end in it, and
apart for the three questions that can be asked: ``KNOWN``, ``DATED``, ``BOTH``. The rows of the last are valid while
both times lie in their ranges.
"""  # noqa: E501

import bisect
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Final

import msgspec

from modledger.domain.subjects import EndingKind
from modledger.projections import marks, reason_words
from modledger.projections.projector import Table
from modledger.projections.punishments import Change, Punishment, step
from modledger.projections.weeks import week

TABLE = Table(
    name="punishment_versions",
    columns={
        "stream": "text not null",
        "number": "integer not null",
        "place": "integer not null",
        "id": "bigint not null",
        "position": "bigint",
        "user_id": "bigint",
        "guild_id": "bigint",
        "type": "smallint not null",
        "reason": "text not null",
        "reason_key": "text not null",
        "issued_by": "bigint",
        "expires_at": "timestamptz",
        "created_at": "timestamptz not null",
        "updated_at": "timestamptz not null",
        "ended_kind": "text",
        "ended_at": "timestamptz",
        "ended_by": "bigint",
        "serves": "smallint not null",
        "since_position": "bigint not null",
        "until_position": "bigint",
        "ended_position": "bigint",
        "dated_since": "timestamptz not null",
        "dated_until": "timestamptz",
        "ended_dated": "timestamptz",
        "known_stop": "bigint",
        "known_end": "timestamptz",
        "dated_stop": "timestamptz",
    },
    primary_key=("stream", "number", "place"),
    indexes={
        # Behind what is compared, what is filtered by: so that history_counts reads nothing but them.
        "punishment_versions_position": "unique (position) include (type, issued_by, guild_id)",
        "punishment_versions_user": "(user_id, created_at, id) where user_id is not null",
        "punishment_versions_created": "(type, created_at, id, issued_by, guild_id)",
        "punishment_versions_ends": "(type, coalesce(expires_at, 'infinity'), created_at, id, issued_by, guild_id)",
        "punishment_versions_until_position": "(until_position, type, issued_by, guild_id)"
        " where until_position is not null and serves = 7",
        "punishment_versions_ended_position": "(ended_position) where ended_position is not null",
        "punishment_versions_dated_since": "(dated_since, type, issued_by, guild_id) where serves = 7",
        "punishment_versions_dated_until": "(dated_until, type, issued_by, guild_id)"
        " where dated_until is not null and serves = 7",
        "punishment_versions_ended_dated": "(ended_dated) where ended_dated is not null",
        "punishment_versions_expires": "(expires_at) where expires_at is not null",
        "punishment_versions_known_stop": "(known_stop, type, issued_by, guild_id) where known_stop is not null",
        "punishment_versions_known_end": "(known_end, type, issued_by, guild_id) where known_end is not null",
        "punishment_versions_dated_stop": "(dated_stop, type, issued_by, guild_id) where dated_stop is not null",
        "punishment_versions_disordered": "(id) where serves <> 7",
    },
)
MARKS = marks.POSITIONS
WORDS = reason_words.table("version_words")

# What a row is for, as bits of ``serves``.
KNOWN, DATED, BOTH = 1, 2, 4
ALL: Final = KNOWN | DATED | BOTH


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A row. ``id``: of the punishment; ``position``: of the event that made the wording, None of one that is not in
    order. ``updated_at``: without the end. ``ended_at``, ``ended_by``: when and by which user; ``ended_by`` is None
    of one that lapsed, too. ``dated_…``: never before the punishment. When one in order stopped to be active, None of
    one that never did: as known at the position ``known_stop`` or at its end ``known_end``, by dates at ``dated_stop``;
    of one that never was active it is where it began."""

    stream: str
    number: int
    place: int
    id: int
    position: int | None
    user_id: int | None
    guild_id: int | None
    type: int
    reason: str
    reason_key: str
    issued_by: int | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    ended_kind: EndingKind | None
    ended_at: datetime | None
    ended_by: int | None
    serves: int
    since_position: int
    until_position: int | None
    ended_position: int | None
    dated_since: datetime
    dated_until: datetime | None
    ended_dated: datetime | None
    known_stop: int | None = None
    known_end: datetime | None = None
    dated_stop: datetime | None = None


class _Dated(msgspec.Struct, frozen=True):
    """A change, and how many erasures lie before it: nothing comes before one that was recorded before it."""

    change: Change
    date: datetime
    erasures: int

    def order(self) -> tuple[int, datetime, int]:
        return (self.erasures, self.date, self.change.position)


def versions(stream: str, changes: Sequence[Change]) -> list[Version]:
    """All versions of a punishment, by ``place``, from what happened to it, in the order of the ledger."""
    dated = list(_dated(changes))
    return _wordings(stream, dated) if _in_order(dated) else _disordered(stream, dated)


def _dated(changes: Sequence[Change]) -> Iterator[_Dated]:
    first, erasures = changes[0].at, 0
    for change in changes:
        # What is erased is not there any more at any moment.
        if change.what == "erased":
            erasures += 1
        else:
            yield _Dated(change, max(change.at, first), erasures)


def _in_order(dated: Sequence[_Dated]) -> bool:
    return all(earlier.date <= later.date and _words(earlier.change) for earlier, later in itertools.pairwise(dated))


def _words(change: Change) -> bool:
    """Whether it makes a wording; else it ends the punishment."""
    return isinstance(change.what, int)


def _wordings(stream: str, dated: Sequence[_Dated]) -> list[Version]:
    found: list[Version] = []
    row: Punishment | None = None
    for one, after in itertools.zip_longest(dated, dated[1:]):
        if _words(one.change):
            row = step(row, stream, one.change)
            found.append(_wording(row, len(found), one, after))
    return found


def _wording(row: Punishment, place: int, one: _Dated, after: _Dated | None) -> Version:
    """The version that ``row`` is since ``one``, until what comes next."""
    replaced = after if after is not None and _words(after.change) else None
    ending = after if after is not None and replaced is None else None
    ended = row if ending is None else step(row, row.stream, ending.change)
    since, gone, end = one.change.position, None if after is None else after.change.position, row.expires_at
    known_stop, known_end = gone, None
    if end is not None:
        if end <= one.change.recorded_at:
            known_stop = since
        elif after is None or end <= after.change.recorded_at:
            known_stop, known_end = None, end
    stop = end if after is None or (end is not None and end <= after.date) else after.date
    return msgspec.structs.replace(
        _state(row, None if ending is None else ending.change.at),
        place=place,
        position=since,
        ended_kind=ended.ended_kind,
        ended_by=ended.lifted_by,
        serves=ALL,
        since_position=since,
        until_position=None if replaced is None else gone,
        ended_position=None if ending is None else gone,
        dated_since=one.date,
        dated_until=None if replaced is None else replaced.date,
        ended_dated=None if ending is None else ending.date,
        known_stop=known_stop,
        known_end=known_end,
        dated_stop=None if stop is None else max(stop, one.date),
    )


def _state(row: Punishment, ended_at: datetime | None) -> Version:
    """The version that a row is, of no time yet."""
    return Version(
        stream=row.stream,
        number=row.number,
        place=0,
        id=row.id,
        position=None,
        user_id=row.user_id,
        guild_id=row.guild_id,
        type=row.type,
        reason=row.reason,
        reason_key=row.reason_key,
        issued_by=row.issued_by,
        expires_at=row.expires_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        ended_kind=row.ended_kind,
        ended_at=ended_at,
        ended_by=row.lifted_by,
        serves=0,
        since_position=row.id,
        until_position=None,
        ended_position=None,
        dated_since=row.created_at,
        dated_until=None,
        ended_dated=None,
    )


class _Range(msgspec.Struct, frozen=True):
    """A state, where it holds: from the event at ``since`` until that at ``until``, and between two dates."""

    state: Version
    since: int
    until: int | None
    begins: datetime
    ends: datetime | None


def _disordered(stream: str, dated: Sequence[_Dated]) -> list[Version]:
    issued = dated[0]
    ordered: list[_Dated] = []
    in_order = in_dates = _Fold(stream)
    known: list[_Range] = []
    closed: list[_Range] = []
    # What is known after the changes so far: a range of dates beside the other, through all of time.
    open_: list[_Range] = []
    for one in dated:
        at = one.change.position
        in_order = in_order.then(one)
        if not known or known[-1].state != in_order.state():
            known[-1:] = [msgspec.structs.replace(last, until=at) for last in known[-1:]]
            known.append(_Range(in_order.state(), at, None, issued.date, None))
        last = not ordered or _Dated.order(ordered[-1]) < _Dated.order(one)
        bisect.insort(ordered, one, key=_Dated.order)
        in_dates = in_dates.then(one) if last else _folded(stream, ordered)
        dates = sorted({other.date for other in ordered if other.date >= one.date})
        first = bisect.bisect(open_, one.date, key=attrgetter("begins")) - 1
        pieces, over = [], []
        for was in _cut(open_[first:], dates) if open_ else [_Range(in_dates.state(), at, None, issued.date, None)]:
            if was.begins >= one.date:
                # Most are the latest: then this is what was folded already.
                of_date = (
                    in_dates if was.ends is None else _folded(stream, [o for o in ordered if o.date <= was.begins])
                )
                if of_date.state() != was.state:
                    over.append(msgspec.structs.replace(was, until=at))
                    pieces.append(_Range(of_date.state(), at, None, was.begins, was.ends))
                    continue
            pieces.append(was)
        closed += _joined(over)
        open_[max(first, 0) :] = _joined(pieces)
    by_date = _joined([msgspec.structs.replace(one, since=issued.change.position) for one in open_])
    rectangles = sorted([*closed, *open_], key=lambda one: (one.since, one.begins))
    # Each kind has places of its own, so that what comes later leaves most rows where they are.
    return [
        _row(3 * n + kind, serves, one)
        for kind, (serves, found) in enumerate(((KNOWN, known), (DATED, by_date), (BOTH, rectangles)))
        for n, one in enumerate(found)
    ]


class _Fold(msgspec.Struct, frozen=True):
    """How far a punishment has come, change by change."""

    stream: str
    row: Punishment | None = None
    ended_at: datetime | None = None

    def then(self, one: _Dated) -> "_Fold":
        row = step(self.row, self.stream, one.change)
        return _Fold(self.stream, row, self.ended_at if _words(one.change) else one.change.at)

    def state(self) -> Version:
        assert self.row is not None
        return _state(self.row, self.ended_at)


def _folded(stream: str, dated: Iterable[_Dated]) -> _Fold:
    return functools.reduce(_Fold.then, dated, _Fold(stream))


def _cut(ranges: Sequence[_Range], dates: Sequence[datetime]) -> Iterator[_Range]:
    """The ranges, none of which holds one of these dates but as its first."""
    for one in ranges:
        begins = one.begins
        for date in dates:
            if begins < date and (one.ends is None or date < one.ends):
                yield msgspec.structs.replace(one, begins=begins, ends=date)
                begins = date
        yield msgspec.structs.replace(one, begins=begins)


def _joined(ranges: Sequence[_Range]) -> list[_Range]:
    """Neighbours in time that are the same but for their dates, as one."""
    found: list[_Range] = []
    for one in ranges:
        last = found[-1] if found else None
        if (
            last is not None
            and msgspec.structs.replace(one, begins=last.begins, ends=last.ends) == last
            and last.ends == one.begins
        ):
            found[-1] = msgspec.structs.replace(last, ends=one.ends)
        else:
            found.append(one)
    return found


def _row(place: int, serves: int, one: _Range) -> Version:
    ended = one.state.ended_kind is not None
    return msgspec.structs.replace(
        one.state,
        place=place,
        serves=serves,
        since_position=one.since,
        until_position=one.until,
        ended_position=one.since if ended else None,
        dated_since=one.begins,
        dated_until=one.ends,
        ended_dated=one.begins if ended else None,
    )


def marked(version: Version) -> list[marks.Mark]:
    """The marks of a version, those of its words aside; none of one that is not in order."""
    at = version.position
    if at is None:
        return []
    created = week(version.created_at)
    found = [(marks.TYPE, version.type, at), (marks.WEEK, created, at)]
    if version.issued_by is not None:
        found.append((marks.ISSUER, version.issued_by, at))
    if version.guild_id is not None:
        found.append((marks.GUILD, version.guild_id, at))
    if week(version.dated_since) > created:
        found.append((marks.SINCE, week(version.dated_since), at))
    for kind, position in (
        (marks.REPLACED_KNOWN, version.until_position),
        (marks.ENDED_KNOWN, version.ended_position),
    ):
        if position is not None:
            found.append((kind, position // marks.BUCKET, at))
    for kind, date in (
        (marks.REPLACED_DATED, version.dated_until),
        (marks.ENDED_DATED, version.ended_dated),
        (marks.EXPIRES, version.expires_at),
    ):
        if date is not None:
            found.append((kind, week(date), at))
    blocks = [(marks.BLOCKS[kind], value // marks.BLOCK, at) for kind, value, _ in found if kind in marks.BLOCKS]
    return found + blocks

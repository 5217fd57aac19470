"""Every punishment ever issued, how many per guild, issuer, type, week and day, and which words lead to it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.domain.subjects import BAN, GUILD_BLACKLIST, TIMEOUT, WARNING, EndingKind
from modledger.projections import marks, reason_words
from modledger.projections.projector import Cursor, Key, Numbered, Projector, Slice, Table
from modledger.projections.weeks import day, week, within

TABLE = Table(
    name="punishments",
    columns={
        "stream": "text not null",
        "number": "integer not null",
        "id": "bigint not null",
        # Of its own only once the row is written, and in a rebuild once all are.
        "ordinal": "bigint",
        "user_id": "bigint",
        "guild_id": "bigint",
        "type": "smallint not null",
        "reason": "text not null",
        "reason_key": "text not null",
        "issued_by": "bigint",
        "expires_at": "timestamptz",
        "open": "boolean not null",
        "due_at": "timestamptz",
        "ended_kind": "text",
        "lifted_at": "timestamptz",
        "lifted_by": "bigint",
        "version": "integer not null",
        "created_at": "timestamptz not null",
        "updated_at": "timestamptz not null",
    },
    primary_key=("stream", "number"),
    # The search walks the indexes that begin with what it filters by and then (open, type): one walk for each value of
    # these two that it wants, merged in order. So a few indexes serve every combination; see search.py. created_at
    # stands in those by end so that a walk by end between dates passes the others without a look at their rows, and the
    # end in those by created_at so that what lies between dates is sorted by it without such a look; the ordinal in
    # these so that a row is looked for among bits without one.
    indexes={
        "punishments_id": "unique (id)",
        "punishments_ordinal": "unique (ordinal)",
        "punishments_user": "(user_id, created_at, id) where user_id is not null",
        "punishments_created": "(open, type, created_at, id) include (expires_at, ordinal)",
        "punishments_ends": "(open, type, coalesce(expires_at, 'infinity'), created_at, id)",
        "punishments_issuer_created": "(issued_by, open, type, created_at, id) include (expires_at, ordinal)"
        " where issued_by is not null",
        "punishments_issuer_ends": "(issued_by, open, type, coalesce(expires_at, 'infinity'), created_at, id)"
        " where issued_by is not null",
        "punishments_guild_created": "(guild_id, open, type, created_at, id) include (expires_at, ordinal)"
        " where guild_id is not null",
        "punishments_guild_ends": "(guild_id, open, type, coalesce(expires_at, 'infinity'), created_at, id)"
        " where guild_id is not null",
        "punishments_guild_issuer_created": "(guild_id, issued_by, open, type, created_at, id)"
        " include (expires_at, ordinal) where guild_id is not null",
        "punishments_guild_issuer_ends": "(guild_id, issued_by, open, type, coalesce(expires_at, 'infinity'),"
        " created_at, id) where guild_id is not null",
        # What the clock has to record, and what the count of open ones has too many.
        "punishments_due": "(due_at) where due_at is not null",
    },
)

COUNTS = Table(
    name="punishment_counts",
    # 0 stands for any guild, any issuer, any week (see ``week``). A type is always one. Below 0 ``week`` is a day, its
    # number negated.
    columns={
        "guild_id": "bigint not null",
        "issued_by": "bigint not null",
        "type": "smallint not null",
        "week": "integer not null",
        "total": "bigint not null",
        "open": "bigint not null",
    },
    primary_key=("guild_id", "issued_by", "type", "week"),
    indexes={},
    options="with (fillfactor = 50)",
)


class Punishment(msgspec.Struct, frozen=True, kw_only=True):
    """A row. ``id`` is the position of the issuing event, ``number`` its stream version, ``ordinal`` the how-manieth
    punishment it is in the ledger, from 1 on: None until it is written. ``reason_key``: see ``reason_words.key``.
    ``open``: neither ended by anyone nor recorded as run out; whether it is active depends on the time. ``due_at``: the
    end of an open one, a column of its own because a planner that multiplies the odds of ``open`` and of a past end
    expects a table full of them. ``issued_by`` and ``lifted_by`` are None unless a user acted."""

    stream: str
    number: int
    id: int
    ordinal: int | None = None
    user_id: int | None
    guild_id: int | None
    type: int
    reason: str
    reason_key: str
    issued_by: int | None
    expires_at: datetime | None
    open: bool
    due_at: datetime | None
    ended_kind: EndingKind | None
    lifted_at: datetime | None
    lifted_by: int | None
    version: int
    created_at: datetime
    updated_at: datetime


ISSUES: Mapping[type[events.Event], int] = {
    events.UserWarned: WARNING,
    events.GuildWarned: WARNING,
    events.UserTimedOut: TIMEOUT,
    events.UserBanned: BAN,
    events.GuildBlacklisted: GUILD_BLACKLIST,
}
AMENDED: Final = 0
_WORDINGS: Mapping[type[events.Event], int] = {**ISSUES, events.PunishmentAmended: AMENDED}
_ENDINGS: Mapping[type[events.Event], EndingKind | Literal["erased"]] = {
    events.PunishmentLapsed: "lapsed",
    events.PunishmentLifted: "lifted",
    events.PunishmentVoided: "voided",
    events.PunishmentOverturned: "overturned",
    events.PunishmentSuperseded: "superseded",
    events.SubjectErased: "erased",
}


def touches(recorded: Recorded) -> Key | None:
    if isinstance(recorded.event, events.SubjectErased):
        return (recorded.stream,)
    return (recorded.stream, getattr(recorded.event, "number", recorded.version))


class Change(msgspec.Struct, frozen=True, array_like=True):
    """What an event does to a punishment. ``what``: the type of one that is issued, 0 for an amendment, else how it
    ended, or that its text was erased. ``reason`` and ``expires_at`` only of the first two, ``by`` the Discord id of
    the user who acted."""

    position: int
    version: int
    at: datetime
    recorded_at: datetime
    what: int | EndingKind | Literal["erased"]
    by: int | None = None
    reason: str | None = None
    expires_at: datetime | None = None


def change_of(recorded: Recorded) -> Change:
    """Raises KeyError for an event of a topic that is not the projector's."""
    event = recorded.event
    kind = _WORDINGS.get(type(event))
    at, recorded_at, by = recorded.occurred_at, recorded.recorded_at, recorded.actor.user_id
    if kind is None:
        what: Any = _ENDINGS[type(event)]
        return Change(recorded.position, recorded.version, at, recorded_at, what, by)
    reason: str = event.reason  # type: ignore[attr-defined]
    expires_at = getattr(event, "expires_at", None)
    return Change(recorded.position, recorded.version, at, recorded_at, kind, by, reason, expires_at)


def step(row: Punishment | None, stream: str, change: Change) -> Punishment:
    """The punishment after the change; ``row`` is None before it is issued. Also of the past and of its history
    (punishment_versions.py)."""
    what, at = change.what, change.at
    if row is None:
        return _issued(stream, change)
    if what == "erased":
        return msgspec.structs.replace(row, reason=events.ERASED, reason_key="", version=change.version)
    updated_at = max(row.updated_at, at)
    if what == AMENDED:
        reason, expires_at = change.reason, change.expires_at
        assert reason is not None
        return msgspec.structs.replace(
            row,
            reason=reason,
            reason_key=reason_words.key(reason),
            expires_at=expires_at,
            due_at=expires_at if row.open else None,
            version=change.version,
            updated_at=updated_at,
        )
    ended: dict[str, Any] = {} if what == "lapsed" else {"lifted_at": at, "lifted_by": change.by}
    return msgspec.structs.replace(
        row, open=False, due_at=None, ended_kind=what, version=change.version, updated_at=updated_at, **ended
    )


def _issued(stream: str, change: Change) -> Punishment:
    of, _, subject_id = stream.partition(":")
    reason, kind = change.reason, change.what
    assert reason is not None
    assert isinstance(kind, int)
    return Punishment(
        stream=stream,
        number=change.version,
        id=change.position,
        user_id=int(subject_id) if of == "user" else None,
        guild_id=int(subject_id) if of == "guild" else None,
        type=kind,
        reason=reason,
        reason_key=reason_words.key(reason),
        issued_by=change.by,
        expires_at=change.expires_at,
        open=True,
        due_at=change.expires_at,
        ended_kind=None,
        lifted_at=None,
        lifted_by=None,
        version=change.version,
        created_at=change.at,
        updated_at=change.at,
    )


def fold(rows: Mapping[Key, Punishment], recorded: Recorded) -> Sequence[Punishment]:
    event, stream, change = recorded.event, recorded.stream, change_of(recorded)
    if change.what == "erased":
        return [step(row, stream, change) for row in rows.values()]
    if type(event) in ISSUES:
        return (step(None, stream, change),)
    return (step(rows[(stream, event.number)], stream, change),)  # type: ignore[attr-defined]


def derive(cursor: Cursor, changes: Sequence[tuple[Punishment | None, Punishment]]) -> None:
    """Brings the tables beside ``punishments`` along with these changes of rows."""
    count(cursor, changes)
    mark(cursor, changes)


def count(cursor: Cursor, changes: Sequence[tuple[Punishment | None, Punishment]]) -> None:
    """Brings ``punishment_counts`` along with these changes of rows."""
    deltas: dict[tuple[int, int, int, int], list[int]] = {}
    for before, after in changes:
        new = before is None
        opened = after.open - (before is not None and before.open)
        if not new and not opened:
            continue
        for cell in _cells(after):
            if (delta := deltas.get(cell)) is None:
                deltas[cell] = [int(new), opened]
            else:
                delta[0] += new
                delta[1] += opened
    # punishment_counts_pkey
    cursor.execute(
        "insert into punishment_counts as c (guild_id, issued_by, type, week, total, open)"
        " select guild_id, issued_by, type, week, total, open from json_populate_recordset(null::punishment_counts, %s)"
        " on conflict (guild_id, issued_by, type, week)"
        " do update set total = c.total + excluded.total, open = c.open + excluded.open",
        (
            msgspec.json.encode(
                [
                    dict(zip(COUNTS.columns, (*cell, *delta), strict=True))
                    for cell, delta in deltas.items()
                    if delta != [0, 0]
                ]
            ).decode(),
        ),
    )


def _cells(row: Punishment) -> list[tuple[int, int, int, int]]:
    """The cells in which a punishment counts: of its day, its week and of any, for each pair of guild and issuer asked
    for."""
    guilds = (0,) if row.guild_id is None else (0, row.guild_id)
    issuers = (0,) if row.issued_by is None else (0, row.issued_by)
    weeks = (0, week(row.created_at), -day(row.created_at))
    return [(guild, issuer, row.type, number) for guild in guilds for issuer in issuers for number in weeks]


def mark(cursor: Cursor, changes: Sequence[tuple[Punishment | None, Punishment]]) -> None:
    """Brings ``ordinal_marks`` and ``reason_words`` along with these changes of rows."""
    # Of what was written just now the ordinals are known in the database alone: they are the last ones there are.
    new = sorted(after.id for before, after in changes if before is None and after.ordinal is None)
    back = {id_: place - len(new) + 1 for place, id_ in enumerate(new)}
    made: list[tuple[str, int]] = []
    gone: list[tuple[str, int]] = []
    set_: list[marks.Mark] = []
    cleared: list[marks.Mark] = []
    for before, after in changes:
        later = set(reason_words.words(after.reason))
        earlier = set() if before is None else set(reason_words.words(before.reason))
        ordinal = back[after.id] if after.ordinal is None else after.ordinal
        made += [(word, ordinal) for word in later - earlier]
        gone += [(word, ordinal) for word in earlier - later]
        if before is None:
            set_ += _lasting_marks(after, ordinal)
        if after.open and (before is None or not before.open):
            set_.append((marks.OPEN, 0, ordinal))
        if not after.open and before is not None and before.open:
            cleared.append((marks.OPEN, 0, ordinal))
    set_ += [(marks.WORD, word, bearer) for word, bearer in reason_words.numbered(made)]
    cleared += [(marks.WORD, word, bearer) for word, bearer in reason_words.numbered(gone)]
    reason_words.count(cursor, made, gone)
    marks.write(cursor, set_, cleared, marks.PUNISHMENTS)


def _lasting_marks(row: Punishment, ordinal: int) -> list[marks.Mark]:
    found = [(marks.TYPE, row.type, ordinal), (marks.WEEK, week(row.created_at), ordinal)]
    if row.issued_by is not None:
        found.append((marks.ISSUER, row.issued_by, ordinal))
    if row.guild_id is not None:
        found.append((marks.GUILD, row.guild_id, ordinal))
    return found


PROJECTOR = Projector(
    name="punishments",
    table=TABLE,
    row=Punishment,
    key=("stream", "number"),
    topics=frozenset(topic for topic, event in events.EVENTS.items() if event in _WORDINGS or event in _ENDINGS),
    makes=frozenset(topic for topic, event in events.EVENTS.items() if event in ISSUES),
    touches=touches,
    fold=fold,
    also=derive,
    beside=(COUNTS, marks.PUNISHMENTS.table, reason_words.TABLE),
    # punishments_id. Neighbours by it share their lines of marks.
    numbered=Numbered(column="ordinal", along="id"),
    along=("id",),
    slices={
        # punishments_created, and those that begin with issuer and guild
        COUNTS.name: Slice(
            rows="open in (true, false) and type = %(type)s and (%(guild_id)s = 0 or guild_id = %(guild_id)s)"
            " and (%(issued_by)s = 0 or issued_by = %(issued_by)s) and " + within("created_at"),
            sums={"total": "count(*)", "open": "count(*) filter (where open)"},
        ),
        # punishments_ordinal
        marks.PUNISHMENTS.name: Slice(rows=marks.within("ordinal", marks.PUNISHMENTS)),
        reason_words.TABLE.name: Slice(
            rows=f"ordinal in ({marks.bearing(marks.PUNISHMENTS)})",
            sums={"punishments": "count(*)", "ids": "sum(ordinal)"},
        ),
    },
    version=4,
)


# -- at a point in time


def is_active(punishment: Punishment, now: datetime) -> bool:
    """Not ended, and no end or one in the future (api.md §3)."""
    return punishment.open and (punishment.expires_at is None or punishment.expires_at > now)


def is_lifted(punishment: Punishment) -> bool:
    """Ended by somebody: lifted, voided, overturned or superseded. One that ran out is not lifted (api.md §5.2)."""
    return punishment.lifted_at is not None


def updated_at(punishment: Punishment, now: datetime) -> datetime:
    """The last change; for one that ran out its end, whether or not the clock has recorded it yet."""
    if punishment.open and punishment.expires_at is not None and punishment.expires_at <= now:
        return max(punishment.updated_at, punishment.expires_at)
    return punishment.updated_at


# -- queries, for psycopg's raw cursors ($1); ``punishment_of`` reads a line of COLUMNS

COLUMNS = ", ".join(f"p.{column}" for column in TABLE.columns)
POSITION = "(select notification_id from projection_tracking where application_name = 'punishments')"

# $1 bigint[] of ids. A line per id asked for: id, checkpoint, columns (all null: no such punishment). punishments_id
BY_IDS = f"""
    select asked.key, {POSITION}, {COLUMNS}
    from unnest((select $1::bigint[])) as asked (key) left join punishments p on p.id = asked.key
"""  # noqa: S608

# $1 user id, $2 offset, $3 limit: newest first. A line per punishment, and one with nulls when there is none:
# checkpoint, columns. punishments_user
OF_USER = f"""
    select {POSITION}, {COLUMNS} from (select 1) always left join (
        select * from punishments where user_id = $1 order by created_at desc, id desc offset $2 limit $3
    ) p on true
    order by p.created_at desc, p.id desc
"""  # noqa: S608

# $1 timestamptz now: (stream, number, expires_at), earliest first. punishments_due
DUE = """
    select stream, number, expires_at from punishments
    where due_at <= $1 order by due_at
"""


def punishment_of(columns: Sequence[Any]) -> Punishment | None:
    """The row Struct from the columns of ``COLUMNS``; None where they are all null."""
    return None if columns[0] is None else Punishment(**dict(zip(TABLE.columns, columns, strict=True)))

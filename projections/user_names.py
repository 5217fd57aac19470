"""Who ever took which name: by it a name of the past leads to the few streams that can say whose it was."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.projections import standing
from modledger.projections.profile import name_key
from modledger.projections.projector import Key, Projector, Table

TABLE = Table(
    name="user_names",
    columns={
        "user_id": "bigint not null",
        "position": "bigint not null",
        "name_key": 'text collate "C"',
        "occurred_at": "timestamptz not null",
        "recorded_at": "timestamptz not null",
    },
    # Also finds what an erasure touches, and whether somebody took another name later.
    primary_key=("user_id", "position"),
    indexes={"user_names_key": "(name_key, occurred_at desc, user_id) where name_key is not null"},
)


class UserName(msgspec.Struct, frozen=True, kw_only=True):
    """A row: the user took this name by the event at ``position``. ``name_key`` as in ``profile.name_key``, None once
    the user is erased."""

    user_id: int
    position: int
    name_key: str | None
    occurred_at: datetime
    recorded_at: datetime


def touches(recorded: Recorded) -> Key | None:
    if not recorded.stream.startswith("user:"):
        return None
    user_id = int(recorded.stream[5:])
    return (user_id,) if isinstance(recorded.event, events.SubjectErased) else (user_id, recorded.position)


def fold(rows: Mapping[Key, UserName], recorded: Recorded) -> Sequence[UserName]:
    match recorded.event:
        case events.SubjectErased():
            return [msgspec.structs.replace(row, name_key=None) for row in rows.values()]
        case events.UserRegistered() | events.UserRenamed() as event:
            known = standing.unless_erased(event.username)
        case other:
            raise TypeError(f"{other.TOPIC} names nobody")
    return (
        UserName(
            user_id=int(recorded.stream[5:]),
            position=recorded.position,
            name_key=None if known is None else name_key(known),
            occurred_at=recorded.occurred_at,
            recorded_at=recorded.recorded_at,
        ),
    )


_NAMINGS = frozenset({events.UserRegistered.TOPIC, events.UserRenamed.TOPIC})

PROJECTOR = Projector(
    name="user_names",
    table=TABLE,
    row=UserName,
    key=("user_id", "position"),
    topics=_NAMINGS | {events.SubjectErased.TOPIC},
    makes=_NAMINGS,
    touches=touches,
    fold=fold,
)

POSITION = "(select notification_id from projection_tracking where application_name = 'user_names')"

# $1 name_key(), $2 until when events were recorded, $3 until when they are dated (either or both null), $4 offset,
# $5 limit: the users who took the name by then and no other one after it, who took it last first. A line per user, and
# one with null when there is none: checkpoint, user id. Nearly exact, but for erasures: their streams decide.
# user_names_key, user_names_pkey
BEARERS = f"""
    select {POSITION}, found.user_id from (select 1) always left join (
        select n.user_id, n.occurred_at from user_names n
        where n.name_key = $1 and ($2::timestamptz is null or n.recorded_at <= $2)
            and ($3::timestamptz is null or n.occurred_at <= $3)
            and not exists (
                select from user_names l
                where l.user_id = n.user_id and l.name_key is not null
                    and ($2::timestamptz is null or l.recorded_at <= $2)
                    and ($3::timestamptz is null or l.occurred_at <= $3)
                    and case when $3::timestamptz is null then l.position > n.position
                        else (l.occurred_at, l.position) > (n.occurred_at, n.position) end
            )
        order by n.occurred_at desc, n.user_id offset $4 limit $5
    ) found on true
    order by found.occurred_at desc, found.user_id
"""  # noqa: S608


def bearers(lines: Sequence[Sequence[Any]]) -> tuple[int, list[int]]:
    """The lines of BEARERS: how fresh they are, and the users."""
    return lines[0][0] or 0, [user_id for _, user_id in lines if user_id is not None]

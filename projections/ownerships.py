"""Who ever owned which guild or bot: by it time travel finds the streams that can say what was whose."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modledger.domain import events
from modledger.domain.envelope import Recorded
from modledger.projections.projector import Key, Projector, Table

TABLE = Table(
    name="ownerships",
    columns={
        "stream": "text not null",
        "owner_id": "bigint not null",
    },
    primary_key=("stream", "owner_id"),
    indexes={"ownerships_owner": "(owner_id, stream)"},
)


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """A row: the guild or bot of that stream was the user's at some time, whichever."""

    stream: str
    owner_id: int


_GIVINGS = events.GuildRegistered | events.GuildOwnerChanged | events.BotRegistered | events.BotOwnerChanged


def touches(recorded: Recorded) -> Key | None:
    if not isinstance(recorded.event, _GIVINGS) or recorded.event.owner_id is None:
        return None
    return (recorded.stream, recorded.event.owner_id)


def fold(rows: Mapping[Key, Ownership], recorded: Recorded) -> Sequence[Ownership]:
    key = touches(recorded)
    if key is None:
        raise TypeError(f"{recorded.event.TOPIC} gives nothing to anybody")
    return () if key in rows else (Ownership(stream=key[0], owner_id=key[1]),)


PROJECTOR = Projector(
    name="ownerships",
    table=TABLE,
    row=Ownership,
    key=("stream", "owner_id"),
    topics=frozenset(
        event.TOPIC
        for event in (events.GuildRegistered, events.GuildOwnerChanged, events.BotRegistered, events.BotOwnerChanged)
    ),
    touches=touches,
    fold=fold,
)

POSITION = "(select notification_id from projection_tracking where application_name = 'ownerships')"

# $1 user id: the streams of what was the user's at some time. A line per stream, and one with null when there is none:
# checkpoint, stream. ownerships_owner
OF_OWNER = f"""
    select {POSITION}, o.stream from (select 1) always left join ownerships o on o.owner_id = $1
"""  # noqa: S608


def of_owner(lines: Sequence[Sequence[Any]]) -> tuple[int, list[str]]:
    """The lines of OF_OWNER: how fresh they are, and the streams."""
    return lines[0][0] or 0, [stream for _, stream in lines if stream is not None]

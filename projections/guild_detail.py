"""The detail view of a guild (api.md §4): the guild, its owner's level and two arrays, all of one moment."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modledger.domain.subjects import GUILD_BLACKLIST, WARNING
from modledger.projections import guilds, punishments, subscription_history
from modledger.projections.user_detail import NEWEST, newest

# The projectors behind it.
READ_BY_DETAIL = ("guilds", "profile", "punishments", "subscription_history")


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """Each list holds the newest 100, newest first. ``position``: the least checkpoint of the four projectors, so
    everything in here is at least as fresh as this position of the ledger."""

    found: guilds.Found
    punishments: list[punishments.Punishment]
    subscription_history: list[subscription_history.SubscriptionChange]
    position: int


class _Lists(msgspec.Struct, frozen=True):
    """The document of a line of BY_IDS."""

    punishments: list[punishments.Punishment]
    subscription_history: list[subscription_history.SubscriptionChange]


# punishments_guild_created, walked once for each (open, type)
_WALKS = " union all ".join(
    f"(select {punishments.COLUMNS} from punishments p where guild_id = asked.key and {state} and type = {kind}"  # noqa: S608
    f" order by created_at desc, id desc limit {NEWEST})"
    for state in ("open", "not open")
    for kind in (WARNING, GUILD_BLACKLIST)
)
_PUNISHMENTS = f"select * from ({_WALKS}) walks order by created_at desc, id desc limit {NEWEST}"  # noqa: S608
# subscription_history_subject
_SUBSCRIPTIONS = f"""
    select {subscription_history.COLUMNS} from subscription_history where stream = 'guild:' || asked.key
    order by created_at desc, id desc limit {NEWEST}
"""  # noqa: S608

# $1 bigint[] of guild ids. A line per id asked for: id, the checkpoints of punishments and of subscription_history, the
# two lists as one JSON document (``_Lists``), and a line of ``guilds.BY_IDS``. One statement, so one snapshot.
# projection_tracking_pkey
BY_IDS = f"""
    select asked.key, {punishments.POSITION}, {subscription_history.POSITION},
        json_build_object(
            'punishments', {newest(_PUNISHMENTS)}, 'subscription_history', {newest(_SUBSCRIPTIONS)}
        )::text,
        asked.*
    from ({guilds.BY_IDS}) asked
"""  # noqa: S608

_decode = msgspec.json.Decoder(_Lists).decode


def detail_of(line: Sequence[Any]) -> Detail:
    """One line of BY_IDS. ``found.owned`` None: no such guild. Nothing in it depends on the time of day."""
    _, punished, subscribed, document, _, *who = line
    found, read = guilds.found(who), _decode(document)
    return Detail(
        found=found,
        punishments=read.punishments,
        subscription_history=read.subscription_history,
        position=min(found.position, found.owner_position, punished or 0, subscribed or 0),
    )

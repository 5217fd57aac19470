"""Finding users, guilds and bots by a piece of their name or by their id: what the three searches share.

The rule. ``q`` is one term, spaces inside included. A name matches where it contains ``q``; where ``q`` has fewer than
three characters, or the database has no pg_trgm, where it begins with ``q``; in any case of letters. A ``q`` of digits
also matches the Discord id. Without pg_trgm a ``q`` of three characters and more that no name begins with, and that is
no known id, raises FragmentsNeeded (HTTP 501).

What a table needs, its columns null where there is no name:

    columns     "name_key": 'text collate "C"'    profile.name_key(name)    (``username_key`` in profiles)
                "name_code": "text"               fragments.code(name_key)
    indexes     "guilds_name": "(name_key, guild_id)"
    fragments   "guilds_name_code": "using gin (name_code gin_trgm_ops) with (fastupdate = off)"

The order of names is ``name_key``, then the id: with the collation "C" the order of Python's strings, and an index that
serves both the order and what begins with something.

A statement takes the ways of ``sought``: disjoint conditions, each with its index, to be combined with the other
filters and joined by UNION ALL. ``ordered`` says how to go on:

    ordered      a prefix: a walk along the index of names, so give each way ``order by … limit …`` (as the walks of
                 search.py), and count the whole beside it
    not ordered  a fragment: the planner, asked for an order and a limit, would rather walk all names in order and look
                 into each. So put the ways into one ``with found as materialized (select …)`` without order or limit,
                 and take the total and the page from that

and selects ``known``, over which the reader of the answer calls ``check_known``.
"""

import msgspec

from modledger.projections.fragments import LEAST, FragmentsNeeded, beginning, containing
from modledger.projections.parameters import Parameters
from modledger.projections.profile import name_key


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A table of names, and its columns."""

    table: str
    id: str
    key: str = "name_key"
    code: str = "name_code"


class Sought(msgspec.Struct, frozen=True, kw_only=True):
    """``ways``: conditions, of which a row fulfils one at most. ``known``: an SQL boolean."""

    ways: tuple[str, ...]
    ordered: bool
    known: str


def sought(q: str, named: Named, parameters: Parameters, *, fragments: bool) -> Sought:
    """``q``: 1–100 characters, trimmed. ``fragments``: the database has the index on ``named.code``."""
    key = name_key(q)
    within = fragments and len(key) >= LEAST
    if within:
        # The index of fragments.
        of_name = f"{named.code} like {parameters.add(containing(key), 'text')}"
    else:
        # The index of names.
        of_name = f"{named.key} like {parameters.add(beginning(key), 'text')}"
    ways = [of_name]
    # What is longer is no id of Discord's, nor a number that PostgreSQL has.
    if q.isascii() and q.isdigit() and str(int(q)) == q and int(q) < 2**63:
        # The primary key.
        ways.append(f"{named.id} = {int(q):d} and ({of_name}) is not true")
    known = "true"
    if not fragments and len(key) >= LEAST:
        # Not by EXISTS, for which a planner that expects many matches would rather read the table until it meets one.
        known = " or ".join(
            f"(select 1 from {named.table} where {way} order by {named.key} limit 1) is not null"  # noqa: S608
            for way in ways
        )
    return Sought(ways=tuple(ways), ordered=not within, known=known)


def check_known(known: bool) -> None:
    """Raises FragmentsNeeded where it is not."""
    if not known:
        raise FragmentsNeeded

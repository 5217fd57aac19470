"""What the searches are measured on: punishments, users and guilds of skewed shape, straight into the read tables."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

import psycopg

from modledger.projections import marks, reason_words
from modledger.projections.fragments import code
from modledger.projections.profile import name_key
from modledger.workers.demo_words import guild_name, reason, usernames

NOW: Final = datetime(2026, 11, 1, tzinfo=UTC)
GUILD, ISSUER, USER = 500, 9_000, 100_000

# Positions as in a ledger, one in 2.7 a punishment's. A guild with 70,000 cases, a user with 5,000, an issuer
# of a third of all, 2,000 other issuers, the system for one in twenty. Of those whose end has come one in 2,000 is not
# recorded yet and half lapsed; the others, and a tenth of the rest, were lifted.
FILL = """
    insert into punishments
    select (case when of_guild then 'guild:' || subject else 'user:' || subject end), n, n * 27 / 10, n,
        case when not of_guild then subject end, case when of_guild then subject end, type,
        reason, reason_key, issuer, expires_at,
        not ended, case when not ended then expires_at end,
        case when lapsed then 'lapsed' when ended then 'lifted' end,
        case when ended and not lapsed then at + interval '1 hour' end,
        case when ended and not lapsed then issuer end, n, at, at
    from (
        select n, of_guild, subject, type, issuer, at, expires_at,
            expires_at is not null and expires_at <= %(now)s and luck > 0.0005 and luck < 0.56 as lapsed,
            (expires_at is not null and expires_at <= %(now)s and luck > 0.0005) or luck > 0.9 as ended
        from (
            select n, of_guild, subject, type, luck, at,
                case when who < 0.333 then %(issuer)s when who < 0.383 then null
                     else %(issuer)s + 1 + (who * 1e9)::bigint %% 2000 end as issuer,
                case when type = 1 or (type in (3, 4) and length < 0.19) then null
                     when type = 2 then at + (60 + length * 86400 * 3) * interval '1 second'
                     else at + (3600 + length * 86400 * 400) * interval '1 second' end as expires_at
            from (
                select n, n %% 10 = 0 as of_guild, random() as luck, random() as who, random() as length,
                    %(now)s - (%(rows)s - n) * interval '90 seconds' as at,
                    case when n %% 10 = 0 then case when n %% 100 < 70 then %(guild)s else %(guild)s + 1 + n %% 3001 end
                         when n %% 200 = 1 then %(user)s else %(user)s + 1 + (random() * 400000)::bigint end as subject,
                    case when n %% 10 = 0 then case when n %% 2000 = 0 then 4 else 1 end
                         else 1 + n %% 3 end as type
                from generate_series(1, %(rows)s) n
            ) drawn
        ) ending
    ) ended join sampled using (n)
"""
COUNT = """
    insert into punishment_counts
    select g, i, type, w, count(*), count(*) filter (where open)
    from punishments,
        lateral (values (0::bigint), (guild_id)) as of_guild (g),
        lateral (values (0::bigint), (issued_by)) as of_issuer (i),
        lateral (select (created_at at time zone 'UTC')::date - date '0001-01-01' as days) as of_day,
        lateral (values (0), (1 + days / 7), (-1 - days)) as of_week (w)
    where g is not null and i is not null group by 1, 2, 3, 4
"""


MARK = f"""
    insert into ordinal_marks
    select kind, value, ordinal / {marks.ORDINALS},
        bit_or(set_bit(0::bit({marks.ORDINALS}), mod(ordinal, {marks.ORDINALS})::int, 1))
    from punishments join sampled on n = number, lateral (
        select {marks.WORD}, word from unnest(words) as word
        union all select {marks.ISSUER}, issued_by where issued_by is not null
        union all select {marks.GUILD}, guild_id where guild_id is not null
        union all select {marks.TYPE}, type
        union all select {marks.OPEN}, 0 where open
        union all select {marks.WEEK}, 1 + ((created_at at time zone 'UTC')::date - date '0001-01-01') / 7
    ) as mark (kind, value) group by 1, 2, 3
"""


def sampled(rows: int) -> Iterator[tuple[int, str, str, list[int]]]:
    """Reasons as the demo has them. To a third of them an automaton has put its mark; one in twenty has a link of its
    own, one in twenty the number of a case."""
    luck = Random(7)
    for n in range(1, rows + 1):
        text, more = reason(luck), luck.random()
        if more < 0.333:
            text += " [auto]"
        elif more < 0.383:
            text += f" https://cdn.example/{luck.getrandbits(40):x}"
        elif more < 0.433:
            text += f", case {luck.randrange(10**17, 10**18)}"
        yield n, text, reason_words.key(text), [reason_words.number(word) for word in reason_words.words(text)]


# Nine in ten are users of level 0 and of no tier whom nobody holds.
USERS = """
    insert into profiles (user_id, version, registered, username, username_key, username_code, named_at, level, prefix,
        tier, tier_until, trial_used, open_punishments, banned_until, timeout_until, held, created_at, updated_at)
    select n, 1, true, name, name_key, name_code, %(now)s, case when n <= 300 then 1 + n %% 3 else 0 end, '!',
        case when n %% 20 = 0 then 2 when n %% 50 = 1 then 3 else 0 end,
        case when n %% 20 = 0 then %(now)s + (n %% 2000 - 2) * interval '1 hour' end, false, '{}',
        case when n %% 30 = 0 then %(now)s + (n %% 3000 - 2) * interval '1 hour' end,
        case when n %% 45 = 1 then %(now)s + (n %% 700 - 2) * interval '1 hour' end,
        case when n %% 30 = 0 then 2 when n %% 45 = 1 then 1 else 0 end, %(now)s, %(now)s
    from named
"""
USER_ACTIVITY = "insert into user_activity (user_id, last_activity_at) select user_id, %(now)s from profiles"
GUILD_ACTIVITY = "insert into guild_activity (guild_id, member_count) select guild_id, 100 from guilds"
COUNT_USERS = """
    insert into profile_counts
    select registered, held, level, tier, count(*) from profiles group by 1, 2, 3, 4
"""
GUILDS = """
    insert into guilds (guild_id, id, version, registered, name, name_key, name_code, owner_id, owner_at, prefix, tier,
        tier_until, trial_used, open_punishments, blacklisted_until, state_set, state_recorded, created_at, updated_at)
    select n, n, 1, true, name, name_key, name_code, n, %(now)s, '!',
        case when n %% 10 = 0 then 2 else 0 end,
        case when n %% 10 = 0 then %(now)s + (n %% 2000 - 2) * interval '1 hour' end, false, '{}',
        case when n %% 30 = 0 then %(now)s + (n %% 3000 - 2) * interval '1 hour' end,
        case when n %% 7 = 0 then 1 else 0 end,
        case when n %% 30 = 0 then 2 when n %% 7 = 0 then 1 else 0 end, %(now)s, %(now)s
    from named
"""
COUNT_GUILDS = """
    insert into guild_counts
    select registered, state_recorded, tier, count(*) from guilds group by 1, 2, 3
"""


# Words of so many reasons are counted in one statement: of ten million they would be more than it may hold.
_AT_ONCE = 200_000


def fill_punishments(conn: psycopg.Connection[Any], rows: int) -> None:
    """The database is migrated and empty."""
    cursor = conn.cursor()
    cursor.execute("create temp table sampled (n bigint primary key, reason text, reason_key text, words bigint[])")
    rest = sampled(rows)
    while several := list(itertools.islice(rest, _AT_ONCE)):
        with cursor.copy("copy sampled from stdin") as copied:
            for row in several:
                copied.write_row(row)
        reason_words.count(cursor, [(word, row[0]) for row in several for word in reason_words.words(row[1])], ())
    cursor.execute("select setseed(0.5)")
    cursor.execute(FILL, {"now": NOW, "rows": rows, "guild": GUILD, "issuer": ISSUER, "user": USER})
    cursor.execute(COUNT)
    cursor.execute(MARK.encode())
    cursor.execute("drop table sampled")


def fill_names(conn: psycopg.Connection[Any], users: int, guilds: int) -> None:
    """Names as the demo has them: those of users all different, of guilds many the same."""
    cursor, luck = conn.cursor(), Random(7)
    names = usernames(luck, set())
    of_guilds = (guild_name(luck) for _ in range(guilds))
    for given, statements in (
        (itertools.islice(names, users), (USERS, COUNT_USERS, USER_ACTIVITY)),
        (of_guilds, (GUILDS, COUNT_GUILDS, GUILD_ACTIVITY)),
    ):
        cursor.execute("create temp table named (n bigint, name text, name_key text, name_code text)")
        with cursor.copy("copy named from stdin") as copied:
            for n, name in enumerate(given, start=1):
                copied.write_row((n, name, name_key(name), code(name_key(name))))
        for statement in statements:
            cursor.execute(statement, {"now": NOW})
        cursor.execute("drop table named")

"""What searches of the past are measured on: the punishments of ``search_rows`` with the positions that their ledger
would have, one in twenty amended, a large import recorded late; straight into the read tables, as the folds would."""

from typing import Any, Final

import psycopg

from bench.search_rows import COUNT, FILL, GUILD, ISSUER, MARK, NOW, USER, sampled
from modledger.projections import history_counts, marks, punishment_versions, punishments, reason_words
from modledger.projections.catalog import create_indexes
from modledger.projections.punishment_versions import ALL, WORDS

# When the records of another platform came: a tenth of what was issued until then.
IMPORTED: Final = "2025-12-01T12:00:00Z"

# Of whom it is said when: issued (0), amended (1), ended (2). What is imported is recorded with the import, each record
# with its end.
HAPPENED = """
    create temp table happened as
    select n, what, row_number() over (order by recorded, n, what) as position, at, recorded from (
        select n, what, at,
            case when imported and at <= %(imported)s then %(imported)s::timestamptz else at end as recorded
        from (
            select number as n, number %% 10 = 3 and created_at < %(imported)s as imported, what, case what
                when 0 then created_at
                when 1 then least(created_at + (number %% 400) * interval '13 minutes' + interval '1 minute', ended)
                else ended end as at
            from (select *, case when ended_kind = 'lapsed' then expires_at else lifted_at end as ended
                from punishments) p, generate_series(0, 2) what
            where what = 0 or what = 1 and number %% 20 = 7 or what = 2 and ended is not null
        ) dated
    ) told
"""
POSITIONS = """
    create temp table positions as
    select n, max(position) filter (where what = 0) as issued,
        max(position) filter (where what = 1) as amended, max(at) filter (where what = 1) as amended_at,
        max(position) filter (where what = 2) as ended, max(at) filter (where what = 2) as ended_at,
        max(recorded) filter (where what = 0) as issue_recorded,
        max(recorded) filter (where what = 1) as amendment_recorded,
        max(recorded) filter (where what = 2) as end_recorded
    from happened group by n
"""
# What was amended had other words and, where it ends, another end.
VERSIONS = f"""
    insert into punishment_versions
    select stream, number, place, issued, case when place = 0 then issued else amended end, user_id, guild_id, type,
        case when former then s.reason else p.reason end, case when former then s.reason_key else p.reason_key end,
        issued_by, case when former and expires_at is not null then amended_at + interval '3 days' else expires_at end,
        created_at, case when place = 0 then created_at else amended_at end,
        case when not former then ended_kind end, case when not former then ended_at end,
        case when not former then lifted_by end, {ALL},
        case when place = 0 then issued else amended end, case when former then amended end,
        case when not former then ended end,
        case when place = 0 then created_at else amended_at end, case when former then amended_at end,
        case when not former then ended_at end,
        case when ending <= began then case when place = 0 then issued else amended end
            when ending is null or ending > gone_recorded then gone end,
        case when ending > began and (gone is null or ending <= gone_recorded) then ending end,
        case when least(gone_at, ending) is not null
            then greatest(least(gone_at, ending), case when place = 0 then created_at else amended_at end) end
    from punishments p join positions o on o.n = p.number, generate_series(0, (amended is not null)::int) place,
        lateral (select place = 0 and amended is not null as former) one,
        lateral (select
            case when former and expires_at is not null then amended_at + interval '3 days'
                else expires_at end as ending,
            case when place = 0 then issue_recorded else amendment_recorded end as began,
            case when former then amended else ended end as gone,
            case when former then amended_at else o.ended_at end as gone_at,
            case when former then amendment_recorded else end_recorded end as gone_recorded
        ) turns,
        lateral (select * from sampled where sampled.n = (p.number::bigint * 7919) %% %(rows)s + 1) s
    order by 5
"""
_WEEK = "1 + (({} at time zone 'UTC')::date - date '0001-01-01') / 7"
HISTORY_COUNTS = f"""
    insert into punishment_history_counts
    select axis, g, i, type, at, sum(there), sum(active)
    from punishment_versions, lateral (
        values ({history_counts.KNOWN}, since_position / {marks.BUCKET}, 1, 1),
            ({history_counts.KNOWN}, until_position / {marks.BUCKET}, -1, 0),
            ({history_counts.KNOWN}, known_stop / {marks.BUCKET}, 0, -1),
            ({history_counts.DATED}, {_WEEK.format("dated_since")}, 1, 1),
            ({history_counts.DATED}, {_WEEK.format("dated_until")}, -1, 0),
            ({history_counts.DATED}, {_WEEK.format("dated_stop")}, 0, -1),
            ({history_counts.ENDS}, {_WEEK.format("known_end")}, 0, -1)
        ) turn (axis, at, there, active),
        lateral (values (0::bigint), (guild_id)) of_guild (g),
        lateral (values (0::bigint), (issued_by)) of_issuer (i)
    where at is not null and g is not null and i is not null
    group by 1, 2, 3, 4, 5 having sum(there) <> 0 or sum(active) <> 0 order by 1, 2, 3, 4, 5
"""
VERSION_MARKS = f"""
    insert into punishment_version_marks
    select kind, value, position / {marks.SPAN},
        bit_or(set_bit(0::bit({marks.SPAN}), mod(position, {marks.SPAN})::int, 1))
    from punishment_versions v
        join sampled s on s.n = case when until_position is null then number
            else (number::bigint * 7919) % (select count(*) from sampled) + 1 end,
    lateral (
        select {marks.WORD}, word from unnest(words) as word
        union all select {marks.ISSUER}, issued_by where issued_by is not null
        union all select {marks.GUILD}, guild_id where guild_id is not null
        union all select {marks.TYPE}, type
        union all select {marks.WEEK}, {_WEEK.format("created_at")}
        union all select {marks.SINCE}, {_WEEK.format("dated_since")}
            where {_WEEK.format("dated_since")} > {_WEEK.format("created_at")}
        union all select {marks.REPLACED_KNOWN}, until_position / {marks.BUCKET} where until_position is not null
        union all select {marks.ENDED_KNOWN}, ended_position / {marks.BUCKET} where ended_position is not null
        union all select {marks.REPLACED_DATED}, {_WEEK.format("dated_until")} where dated_until is not null
        union all select {marks.ENDED_DATED}, {_WEEK.format("ended_dated")} where ended_dated is not null
        union all select {marks.EXPIRES}, {_WEEK.format("expires_at")} where expires_at is not null
    ) as mark (kind, value) group by 1, 2, 3 order by 1, 2, 3
"""
BLOCKS = f"""
    insert into punishment_version_marks
    select block, value / {marks.BLOCK}, span, bit_or(bits)
    from punishment_version_marks m join (values {", ".join(map(str, marks.BLOCKS.items()))}) of_kind (kind, block)
        on m.kind = of_kind.kind
    group by 1, 2, 3 order by 1, 2, 3
"""


def fill_history(conn: psycopg.Connection[Any], rows: int) -> None:
    """The database is migrated and empty. Also leaves what was recorded when, in the table ``recorded``."""
    cursor = conn.cursor()
    words: dict[int, list[str]] = {}
    for table in (punishments.TABLE, punishment_versions.TABLE):
        cursor.execute(f"drop index {', '.join(table.indexes)}".encode())
    cursor.execute("create temp table sampled (n bigint primary key, reason text, reason_key text, words bigint[])")
    with cursor.copy("copy sampled from stdin") as copied:
        for row in sampled(rows):
            copied.write_row(row)
            words[row[0]] = reason_words.words(row[1])
    cursor.execute("analyze sampled")
    cursor.execute("select setseed(0.5)")
    given = {"now": NOW, "rows": rows, "guild": GUILD, "issuer": ISSUER, "user": USER, "imported": IMPORTED}
    cursor.execute(FILL, given)
    cursor.execute(HAPPENED, given)
    cursor.execute(POSITIONS)
    cursor.execute("create unique index on positions (n)")
    cursor.execute("analyze positions")
    cursor.execute("create temp table drawn as select * from punishments")
    cursor.execute("truncate punishments")
    of_ledger = {"id": "issued", "ordinal": "row_number() over (order by issued)"}
    columns = ", ".join(of_ledger.get(column, column) for column in punishments.TABLE.columns)
    cursor.execute(
        f"insert into punishments select {columns} from drawn join positions on n = number order by issued".encode()
    )
    cursor.execute(VERSIONS.encode(), given)
    for table in (punishments.TABLE, punishment_versions.TABLE):
        create_indexes(cursor, table)
        cursor.execute(f"analyze {table.name}".encode())
    cursor.execute(COUNT)
    cursor.execute(MARK.encode())
    cursor.execute(VERSION_MARKS.encode())
    cursor.execute(BLOCKS.encode())
    cursor.execute(HISTORY_COUNTS.encode())
    cursor.execute("select n, issued, amended, row_number() over (order by issued) from positions")
    found: list[tuple[str, int]] = []
    of_versions: list[tuple[str, int]] = []
    for n, issued, amended, ordinal in cursor.fetchall():
        found += [(word, ordinal) for word in words[n]]
        of_versions += [(word, amended or issued) for word in words[n]]
        if amended is not None:
            of_versions += [(word, issued) for word in words[n * 7919 % rows + 1]]
    reason_words.count(cursor, found, ())
    reason_words.count(cursor, of_versions, (), WORDS, marks.POSITIONS)
    cursor.execute("create table recorded as select position, recorded from happened order by 1")
    cursor.execute(
        "insert into projection_tracking (application_name, notification_id)"
        " select name, (select max(position) from recorded)"
        " from unnest(array['punishments', 'punishment_history']) name"
        " on conflict (application_name) do update set notification_id = excluded.notification_id"
    )
    cursor.execute("drop table sampled, happened, positions, drawn")

"""The statements of the ledger on PostgreSQL, each with the indexes that serve it; their tables and functions are those
of ``workers/migrations/0001_ledger.sql`` and ``0013_append_in_sets.sql``."""

APPEND = """
    select outcome, positions, recorded from ledger_append(
        %b::uuid[],
        %b::int[], %b::text[], %b::bigint[], %b::text[], %b::bytea[], %b::text[], %b::text[],
        %b::int[], %b::text[], %b::bigint[],
        %b::int[], %b::text[], %b::bigint[], %b::bytea[],
        %b::int[], %b::text[], %b::bigint[])
"""
APPEND_BATCH = """
    select ledger_append_batch(
        %b::uuid[], %b::text[], %b::bigint[], %b::text[], %b::bytea[], %b::text[], %b::text[],
        %b::text[], %b::bigint[],
        %b::text[], %b::bigint[], %b::bytea[],
        %b::text[], %b::bigint[])
"""
# ledger_pkey; subject_keys_pkey. One statement, so that events and keys are of one moment.
STREAMS = """
    select originator_id, originator_version, topic, state, notification_id, recorded_at
        from ledger where originator_id = any(%b)
    union all
    select subject, generation, null, wrapped, null, null from subject_keys where subject = any(%b)
    order by 2
"""
# ledger_pkey; subject_keys_pkey; ledger_command. One statement, so that all is of one moment. The offset keeps the
# planner from reading the ledger whole where it expects long streams.
SINCE = """
    select l.originator_id, l.originator_version, l.topic, l.state, l.notification_id, l.recorded_at
        from unnest(%b::text[], %b::bigint[]) as seen (stream, version)
        cross join lateral (
            select * from ledger where originator_id = seen.stream and originator_version >= seen.version offset 0
        ) as l
    union all
    select subject, generation, null, wrapped, null, null from subject_keys where subject = any(%b)
    union all
    select originator_id, null, command_id::text, null, null, null from ledger where command_id = any(%b)
    order by 2
"""
# ledger_position
AFTER = """
    select originator_id, originator_version, topic, state, notification_id, recorded_at
        from ledger where notification_id > %s order by notification_id limit %s
"""
# ledger_position, subject_keys_pkey. The line without a stream says how many rows were passed and how far. One
# statement: rows, keys and how far are of one moment.
AFTER_BUT = """
    with passed as materialized (
        select originator_id, originator_version, topic, state, notification_id, recorded_at
            from ledger where notification_id > %s order by notification_id limit %s
    ), wanted as materialized (
        select * from passed where topic <> all(%b)
    )
    select * from wanted
    union all
    select null, count(*), null, null, max(notification_id), null from passed
    union all
    select subject, generation, null, wrapped, null, null from subject_keys
        where subject = any(array(select originator_id from wanted))
    order by 5
"""
# ledger_pkey. The line without a topic says which was the last whole stream, and how many rows were passed.
BETWEEN = """
    with passed as materialized (
        select originator_id, originator_version, topic, state, notification_id, recorded_at
            from ledger where originator_id > %s {} order by originator_id, originator_version limit %s
    ), page as (
        select count(*) as passed, case when count(*) < %s then max(originator_id) else (
            select max(originator_id) from passed where originator_id < (select max(originator_id) from passed)
        ) end as last from passed
    )
    select passed.* from passed, page
        where originator_id <= page.last and topic <> all(%b) and notification_id <= %s
    union all
    select last, passed, null, null, null, null from page
    order by 1, 2
"""
BETWEEN_TWO, AFTER_ONE = BETWEEN.format("and originator_id <= %s"), BETWEEN.format("")
# ledger_position: from a command's first event to the next event that is the first of its command.
COMMAND = """
    select originator_id, originator_version, topic, state, notification_id, recorded_at
        from ledger where notification_id >= %s and notification_id < coalesce(
            (select notification_id from ledger where notification_id > %s and command_id is not null
                order by notification_id limit 1), 9223372036854775807)
        order by notification_id
"""
# ledger_position, subject_keys_pkey. One statement, so that events and keys are of one moment.
AT_ALL = """
    with found as materialized (
        select originator_id, originator_version, topic, state, notification_id, recorded_at
            from ledger where notification_id = any(%b)
    )
    select * from found
    union all
    select subject, generation, null, wrapped, null, null from subject_keys
        where subject = any(array(select originator_id from found))
"""
# ledger_command; then as COMMAND; subject_keys_pkey.
OF_COMMANDS = """
    with found as materialized (
        select l.originator_id, l.originator_version, l.topic, l.state, l.notification_id, l.recorded_at, f.command_id
            from (select command_id, notification_id from ledger where command_id = any(%b)) as f
            cross join lateral (
                select * from ledger as l
                    where l.notification_id >= f.notification_id and l.notification_id < coalesce(
                        (select n.notification_id from ledger as n
                            where n.notification_id > f.notification_id and n.command_id is not null
                            order by n.notification_id limit 1), 9223372036854775807)
            ) as l
    )
    select * from found
    union all
    select subject, generation, null, wrapped, null, null, null from subject_keys
        where subject = any(array(select originator_id from found))
    order by 5
"""
# ledger_pkey
POSITIONS = """
    select l.originator_id, l.originator_version, l.notification_id
        from unnest(%b::text[], %b::bigint[]) as asked (stream, version)
        join ledger as l on l.originator_id = asked.stream and l.originator_version = asked.version
"""
# subject_keys_pkey
KEYS = "select subject, generation, wrapped from subject_keys where subject = any(%b)"
# ledger_pkey, ledger_erasures, subject_keys_pkey
HEADS = """
    select s.stream, h.version, e.generation, k.wrapped
        from unnest(%b::text[]) as s (stream)
        cross join lateral (select coalesce(max(originator_version), 0) as version
            from ledger where originator_id = s.stream) as h
        cross join lateral (select coalesce(max(originator_version), 0) as generation
            from ledger where originator_id = s.stream and topic = 'subject.erased.v1') as e
        left join subject_keys as k on k.subject = s.stream and k.generation = e.generation
"""
# ledger_position
LAST = "select coalesce(max(notification_id), 0) from ledger"
# ledger_position, once for each halving of what is left: recorded_at never goes back, so it needs no index of its own.
POSITION_AT = """
    with recursive asked as materialized (select %b::timestamptz as moment), search (lowest, highest) as (
        select 0::bigint, (select coalesce(max(notification_id), 0) from ledger)
        union all
        select case when met.recorded_at <= moment then met.notification_id else lowest end,
            case when met.recorded_at <= moment then highest else lowest + (highest - lowest + 1) / 2 - 1 end
        from asked, search left join lateral (
            select notification_id, recorded_at from ledger
                where notification_id >= lowest + (highest - lowest + 1) / 2 and notification_id <= highest
                order by notification_id limit 1
        ) as met on true
        where lowest < highest
    )
    select lowest from search where lowest = highest
"""
# ledger_command
COMMANDS = "select command_id from ledger where command_id = any(%b)"
# One row; the schema is the library's to know.
INSTALLATION = """
    select i.id, i.master_key_check, n.nspname
        from installation as i, pg_class as c join pg_namespace as n on n.oid = c.relnamespace
        where c.oid = 'ledger'::regclass
"""

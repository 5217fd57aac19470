-- A group of commands that nothing stands in the way of goes into the ledger in sets: three statements for all of it
-- instead of three or four for each command (docs/performance.md, "Commands"). Arguments, answers and lock are those of 0001.

create or replace function ledger_append(
    command_ids uuid[],
    event_counts int[], streams text[], versions bigint[], topics text[], states bytea[], actors text[], vias text[],
    expected_counts int[], expected_streams text[], expected_versions bigint[],
    key_counts int[], key_subjects text[], key_generations bigint[], key_wrapped bytea[],
    erased_counts int[], erased_subjects text[], erased_generations bigint[]
) returns table (outcome text, positions bigint[], recorded timestamptz) language plpgsql
-- Planned once: left to itself the server plans the statements over slices of the arrays anew in every call.
set plan_cache_mode = force_generic_plan
-- By the indexes: a plan that was made while the ledger was small would go on reading the whole of it.
set enable_seqscan = off
as $$
declare
    first_event int := 1; last_event int;
    first_expected int := 1; last_expected int;
    first_key int := 1; last_key int;
    first_erased int := 1; last_erased int;
    known bigint;
    now_recorded timestamptz;
    clear boolean := false;
    first_only uuid[];
    all_positions bigint[];
begin
    -- In a statement of its own, as in 0001: those after it see every earlier append.
    perform pg_advisory_xact_lock('pg_class'::regclass::oid::int, 'ledger'::regclass::oid::int);
    -- ledger_position
    select greatest(clock_timestamp(), (select recorded_at from ledger order by notification_id desc limit 1))
        into now_recorded;
    if cardinality(command_ids) > 1 then
        -- Clear: no erasure, no command that is known or here twice, every stream where each expects it, and none that
        -- one command writes and another expects as well. Then it does not matter which goes first.
        -- ledger_command; ledger_pkey, its last entry of the stream.
        select cardinality(erased_subjects) = 0
                and not exists (
                    select from (select id, count(*) as times from unnest(command_ids) as c (id) group by id) as c
                        where c.times > 1 or (select notification_id from ledger where command_id = c.id) is not null)
                and not exists (
                    select from (
                        select n.stream, min(n.version) as lowest, max(n.version) as highest,
                                count(n.version) as expecting, bool_or(n.version is null) as written
                            from (
                                select e.stream, e.version
                                    from unnest(expected_streams, expected_versions) as e (stream, version)
                                union all select w.stream, null from unnest(streams) as w (stream)
                            ) as n group by n.stream
                    ) as s
                        where s.lowest <> s.highest or (s.written and s.expecting > 1) or s.lowest <> coalesce(
                            (select max(originator_version) from ledger where originator_id = s.stream), 0))
            into clear;
    end if;
    if clear then
        for i in 1 .. cardinality(command_ids) loop
            first_only[first_event] := command_ids[i];
            first_event := first_event + event_counts[i];
        end loop;
        with inserted as (
            insert into ledger (originator_id, originator_version, topic, state, recorded_at, command_id, actor, via)
                select e.stream, e.version, e.topic, e.state, now_recorded, e.command_id, e.actor, e.via
                from unnest(first_only, streams, versions, topics, states, actors, vias)
                    with ordinality as e (command_id, stream, version, topic, state, actor, via, n)
                order by e.n
                returning notification_id
        )
        select array_agg(notification_id order by notification_id) into all_positions from inserted;
        if cardinality(key_subjects) > 0 then
            insert into subject_keys (subject, generation, wrapped)
                select * from unnest(key_subjects, key_generations, key_wrapped);
        end if;
        outcome := 'appended';
        recorded := now_recorded;
        first_event := 1;
        for i in 1 .. cardinality(command_ids) loop
            last_event := first_event + event_counts[i] - 1;
            positions := all_positions[first_event:last_event];
            return next;
            first_event := last_event + 1;
        end loop;
        return;
    end if;
    -- One after the other, each on what those before it left.
    for i in 1 .. cardinality(command_ids) loop
        last_event := first_event + event_counts[i] - 1;
        last_expected := first_expected + expected_counts[i] - 1;
        last_key := first_key + key_counts[i] - 1;
        last_erased := first_erased + erased_counts[i] - 1;
        positions := null;
        recorded := null;
        -- ledger_command
        select notification_id into known from ledger where command_id = command_ids[i];
        if found then
            outcome := 'duplicate';
            positions := array[known];
        elsif exists (
            -- ledger_pkey, its last entry of the stream
            select from generate_series(first_expected, last_expected) as e
                where expected_versions[e] <> coalesce(
                    (select max(originator_version) from ledger where originator_id = expected_streams[e]), 0)
        ) then
            outcome := 'conflict';
        else
            with inserted as (
                insert into ledger (originator_id, originator_version, topic, state, recorded_at, command_id, actor, via)
                    select streams[n], versions[n], topics[n], states[n], now_recorded,
                        case when n = first_event then command_ids[i] end, actors[n], vias[n]
                    from generate_series(first_event, last_event) as n
                    order by n
                    returning notification_id
            )
            select array_agg(notification_id order by notification_id) into positions from inserted;
            if last_key >= first_key then
                insert into subject_keys (subject, generation, wrapped)
                    select key_subjects[k], key_generations[k], key_wrapped[k] from generate_series(first_key, last_key) as k;
            end if;
            if last_erased >= first_erased then
                -- subject_keys_pkey
                delete from subject_keys using generate_series(first_erased, last_erased) as e
                    where subject = erased_subjects[e] and generation < erased_generations[e];
            end if;
            outcome := 'appended';
            recorded := now_recorded;
        end if;
        return next;
        first_event := last_event + 1;
        first_expected := last_expected + 1;
        first_key := last_key + 1;
        first_erased := last_erased + 1;
    end loop;
end
$$;

do $$
begin
    -- As 0011 left it: what replaces a function's body replaces these too, and leaves who may call it.
    execute format(
        'alter function ledger_append security definer set search_path = %I, pg_temp', current_schema());
end
$$;

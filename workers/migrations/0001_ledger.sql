-- The ledger, the keys of its subjects, and how far each projector has read it. PostgreSQL 15 and later, no contrib.
-- Names are unqualified: everything lands in the first schema of the role's search_path.

create table installation (
    only_row boolean primary key default true check (only_row),
    id uuid not null default gen_random_uuid(),
    master_key_check bytea not null,
    created_at timestamptz not null default now()
);

-- The first five columns are the eventsourcing library's.
create table ledger (
    notification_id bigint not null generated always as identity,
    originator_id text not null,
    originator_version bigint not null check (originator_version > 0),
    topic text not null,
    state bytea not null,
    recorded_at timestamptz not null,
    command_id uuid,
    actor text not null,
    via text not null,
    primary key (originator_id, originator_version)
);
-- Reading forward, one event by its position, the last position.
create unique index ledger_position on ledger (notification_id);
-- Recognising a command that is already here: only the first event of a command bears its id.
create unique index ledger_command on ledger (command_id) where command_id is not null;
-- The last position that an actor wrote over HTTP.
create index ledger_http_writes on ledger (actor, notification_id) where via = 'http';
-- The generation of a subject's key is the version of its stream's last erasure.
create index ledger_erasures on ledger (originator_id, originator_version) where topic = 'subject.erased.v1';

create function ledger_refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the ledger is append-only: % is refused', tg_op using errcode = 'insufficient_privilege';
end
$$;
create trigger ledger_append_only before update or delete or truncate on ledger
    for each statement execute function ledger_refuse_change();
-- Also for a session that has set session_replication_role.
alter table ledger enable always trigger ledger_append_only;
revoke update, delete, truncate on ledger from current_user;

create table subject_keys (
    subject text not null,
    generation bigint not null,
    wrapped bytea not null,
    primary key (subject, generation)
);

-- Appends a group of commands, each succeeding or failing alone, in the order given; all of them are durable when
-- the call's transaction commits. Events, expectations, keys and erasures come as parallel arrays, grouped by
-- command; the array of counts says how many belong to each.
--   appended   positions are those of the command's events
--   duplicate  the command id is known; positions holds that of its first event
--   conflict   a stream is not at the expected version (0: no event yet); nothing of the command was appended
-- The lock makes the order of positions the order of commits, so a reader by position misses nothing. It is taken in
-- its own statement: the statements after it have a snapshot that sees every earlier append. No NOTIFY in here: it
-- would take a lock over the whole cluster until the commit.
create function ledger_append(
    command_ids uuid[],
    event_counts int[], streams text[], versions bigint[], topics text[], states bytea[], actors text[], vias text[],
    expected_counts int[], expected_streams text[], expected_versions bigint[],
    key_counts int[], key_subjects text[], key_generations bigint[], key_wrapped bytea[],
    erased_counts int[], erased_subjects text[], erased_generations bigint[]
) returns table (outcome text, positions bigint[], recorded timestamptz) language plpgsql
-- Planned once: left to itself the server plans the statements over slices of the arrays anew in every call.
set plan_cache_mode = force_generic_plan
as $$
declare
    first_event int := 1; last_event int;
    first_expected int := 1; last_expected int;
    first_key int := 1; last_key int;
    first_erased int := 1; last_erased int;
    known bigint;
    now_recorded timestamptz;
begin
    perform pg_advisory_xact_lock('pg_class'::regclass::oid::int, 'ledger'::regclass::oid::int);
    -- ledger_position
    select greatest(clock_timestamp(), l.recorded_at) into now_recorded
        from (select 1) as always
        left join (select recorded_at from ledger order by notification_id desc limit 1) as l on true;
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

-- Appends many commands, all or none, in sets. Answers the first stream that is not at its expected version, null
-- when everything was appended. A command that is already known violates ledger_command.
create function ledger_append_batch(
    event_commands uuid[], streams text[], versions bigint[], topics text[], states bytea[], actors text[], vias text[],
    expected_streams text[], expected_versions bigint[],
    key_subjects text[], key_generations bigint[], key_wrapped bytea[],
    erased_subjects text[], erased_generations bigint[]
) returns text language plpgsql as $$
declare
    conflicting text;
    now_recorded timestamptz;
begin
    perform pg_advisory_xact_lock('pg_class'::regclass::oid::int, 'ledger'::regclass::oid::int);
    -- ledger_pkey, its last entry of the stream
    select e.stream into conflicting from unnest(expected_streams, expected_versions) as e (stream, version)
        where e.version <> coalesce((select max(originator_version) from ledger where originator_id = e.stream), 0)
        limit 1;
    if found then
        return conflicting;
    end if;
    -- ledger_position
    select greatest(clock_timestamp(), l.recorded_at) into now_recorded
        from (select 1) as always
        left join (select recorded_at from ledger order by notification_id desc limit 1) as l on true;
    insert into ledger (originator_id, originator_version, topic, state, recorded_at, command_id, actor, via)
        select e.stream, e.version, e.topic, e.state, now_recorded, e.command_id, e.actor, e.via
        from unnest(event_commands, streams, versions, topics, states, actors, vias)
            with ordinality as e (command_id, stream, version, topic, state, actor, via, n)
        order by e.n;
    insert into subject_keys (subject, generation, wrapped)
        select * from unnest(key_subjects, key_generations, key_wrapped);
    -- subject_keys_pkey
    delete from subject_keys as k using unnest(erased_subjects, erased_generations) as e (subject, generation)
        where k.subject = e.subject and k.generation < e.generation;
    return null;
end
$$;

-- The library's single-row tracking table, with the row by which the library knows that it is one.
create table projection_tracking (
    application_name text,
    notification_id bigint,
    primary key (application_name)
);
insert into projection_tracking values ('__migration__', 1);

create table projection_failures (
    projector text primary key,
    position bigint not null,
    event_id uuid not null,
    topic text not null,
    error text not null,
    failed_at timestamptz not null
);

-- Rebuilding a read model beside the one that is read, and what verifications have found.

-- generation goes up whenever other tables take the place of a projector's, so that a runner never writes into tables that it
-- did not read from. tables: what they are called.
alter table read_models
    add column generation bigint not null default 0,
    add column tables text[] not null default '{}';

-- The last rebuild of each projector. Its tables stand in a schema of its own until they are promoted. run tells one rebuild
-- from the next. head: streams are folded up to this position, what comes after it in the order of the ledger. total: events to
-- go through. derived: the last row from which the tables beside were made, null before the first; derived_rows: how many.
create table replays (
    projector text primary key,
    run bigint not null generated always as identity,
    state text not null check (
        state in ('created', 'replaying', 'catching_up', 'verified', 'live', 'aborted', 'dropped')
    ),
    fingerprint text not null,
    head bigint not null,
    total bigint not null,
    derived json,
    derived_rows bigint not null default 0,
    note text,
    error text,
    created_at timestamptz not null,
    changed_at timestamptz not null
);

-- The streams after one name up to another; done: the last that is folded. passed: events gone through, rows: made of them.
create table replay_parts (
    projector text not null,
    part integer not null,
    after text not null,
    until text not null,
    done text,
    passed bigint not null default 0,
    rows bigint not null default 0,
    finished boolean not null default false,
    primary key (projector, part)
);

-- The last verification of each projector and of the ledger. streams: how many were compared; differing: those of them that
-- are looked at again each time until they agree; more says what else differs, and never holds personal text.
create table verifications (
    subject text primary key,
    checked_at timestamptz not null,
    streams bigint not null,
    differences bigint not null,
    differing text[] not null,
    more text
);

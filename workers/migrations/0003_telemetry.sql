-- What bots report about the present: overwritten, not kept, and so not in the ledger.

create table user_activity (
    user_id bigint primary key,
    last_activity_at timestamptz not null
);

create table guild_activity (
    guild_id bigint primary key,
    member_count integer,
    has_bot boolean not null default false,
    first_joined_at timestamptz
);

create table bot_activity (
    bot_id bigint primary key,
    guilds integer not null default 0,
    users bigint not null default 0,
    latency_ms double precision,
    last_activity_at timestamptz
);

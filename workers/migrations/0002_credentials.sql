-- Sessions, log-in codes and keys: hashes only, never in the ledger.

create table sessions (
    token_hash bytea primary key,
    user_id bigint not null,
    token_suffix text not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    client_ip inet,
    user_agent text
);
create index sessions_user on sessions (user_id);
create index sessions_expiry on sessions (expires_at);

-- One pending code per user. sealed_code is the code encrypted for the bot that delivers it.
create table login_codes (
    user_id bigint primary key,
    code_hash bytea not null unique,
    sealed_code bytea not null,
    expires_at timestamptz not null,
    wrong_tries smallint not null default 0
);

create table login_history (
    user_id bigint not null,
    client_ip inet not null,
    user_agent text not null,
    at timestamptz not null
);
create index login_history_user on login_history (user_id, at desc);

create table api_keys (
    key_hash bytea primary key,
    kind text not null check (kind in ('public', 'bot')),
    bot_id bigint,
    created_at timestamptz not null,
    check ((kind = 'bot') = (bot_id is not null))
);
create unique index api_keys_bot on api_keys (bot_id) where bot_id is not null;

-- status null: the first request under this key is still at work.
create table idempotency_keys (
    actor text not null,
    key text not null,
    fingerprint bytea not null,
    status smallint,
    body bytea,
    created_at timestamptz not null,
    primary key (actor, key)
);
create index idempotency_keys_age on idempotency_keys (created_at);

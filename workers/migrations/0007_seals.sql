-- The proof that the ledger only ever grew (docs/proof.md): a Merkle tree over its events by position, and signed heads.

-- The tree. Level 0: the hashes of 256 events and their positions; level n: the roots over 256 full tiles below. 32 bytes
-- each, side by side. The last tile of a level grows until it is full; nothing else ever changes.
create table seal_tiles (
    level smallint not null,
    number bigint not null,
    first_position bigint,
    positions bigint[],
    hashes bytea not null,
    primary key (level, number),
    check (length(hashes) between 32 and 8192 and length(hashes) % 32 = 0),
    check ((level = 0) = (positions is not null and first_position is not null)),
    check (positions is null or (cardinality(positions) * 32 = length(hashes) and positions[1] = first_position))
);
-- Hashes do not compress.
alter table seal_tiles alter column hashes set storage external;
-- In which tile a position is.
create unique index seal_tiles_position on seal_tiles (first_position) where level = 0;

-- note: the head as it was signed (a C2SP signed note). position: that of the last event under it.
create table seals (
    tree_size bigint primary key check (tree_size > 0),
    position bigint not null,
    note text not null
);

-- The public keys that heads were signed with; the last one is in force.
create table seal_keys (
    number integer primary key generated always as identity,
    public_key bytea not null check (length(public_key) = 32),
    since timestamptz not null
);

create function seals_refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'seals are append-only: % of % is refused', tg_op, tg_table_name using errcode = 'insufficient_privilege';
end
$$;
create function seal_tiles_only_grow() returns trigger language plpgsql as $$
begin
    if (new.level, new.number) <> (old.level, old.number)
        or new.first_position is distinct from old.first_position
        or substr(new.hashes, 1, length(old.hashes)) <> old.hashes
        or new.positions[:cardinality(old.positions)] is distinct from old.positions
    then
        raise exception 'seal_tiles only grow: this % is refused', tg_op using errcode = 'insufficient_privilege';
    end if;
    return new;
end
$$;
create trigger seals_append_only before update or delete or truncate on seals
    for each statement execute function seals_refuse_change();
create trigger seal_keys_append_only before update or delete or truncate on seal_keys
    for each statement execute function seals_refuse_change();
create trigger seal_tiles_append_only before delete or truncate on seal_tiles
    for each statement execute function seals_refuse_change();
create trigger seal_tiles_grow before update on seal_tiles
    for each row execute function seal_tiles_only_grow();
-- Also for a session that has set session_replication_role.
alter table seals enable always trigger seals_append_only;
alter table seal_keys enable always trigger seal_keys_append_only;
alter table seal_tiles enable always trigger seal_tiles_append_only;
alter table seal_tiles enable always trigger seal_tiles_grow;
revoke update, delete, truncate on seals from current_user;
revoke update, delete, truncate on seal_keys from current_user;
revoke delete, truncate on seal_tiles from current_user;

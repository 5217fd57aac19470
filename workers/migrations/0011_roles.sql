-- Least rights for those who log in (docs/security.md). The ledger is written by functions that act as its owner, so the
-- program's own login needs no right to write it, and none to destroy a key but by them.

-- Which logins were given rights, and which: read tables that are made later give them too.
create table database_roles (
    name name primary key,
    rights text not null check (rights in ('app', 'read'))
);

do $$
declare
    name text;
begin
    foreach name in array array['ledger_append', 'ledger_append_batch'] loop
        -- pg_temp is searched last, or whoever calls could put tables of its own in the place of ours.
        execute format('alter function %I security definer set search_path = %I, pg_temp', name, current_schema());
        execute format('revoke execute on function %I from public', name);
    end loop;
end
$$;

-- A subject's key is destroyed by its erasure and by nothing else, whoever asks for it: the app's login through
-- ledger_append and ledger_append_batch (docs/security.md), or the owner by mistake. Both append the event first, so the
-- deletion finds it.

create function subject_keys_refuse_loss() returns trigger language plpgsql as $$
begin
    -- ledger_erasures
    if not exists (
        select from ledger
            where originator_id = old.subject and topic = 'subject.erased.v1' and originator_version > old.generation
    ) then
        raise exception 'the key of % goes with an erasure in the ledger alone: % is refused', old.subject, tg_op
            using errcode = 'insufficient_privilege';
    end if;
    return old;
end
$$;
do $$
begin
    -- The ledger is that beside it, whatever else the caller's session calls so.
    execute format('alter function subject_keys_refuse_loss set search_path = %I, pg_temp', current_schema());
end
$$;
create trigger subject_keys_only_erased before delete on subject_keys
    for each row execute function subject_keys_refuse_loss();
create trigger subject_keys_not_emptied before truncate on subject_keys
    for each statement execute function ledger_refuse_change();
-- Also for a session that has set session_replication_role.
alter table subject_keys enable always trigger subject_keys_only_erased;
alter table subject_keys enable always trigger subject_keys_not_emptied;

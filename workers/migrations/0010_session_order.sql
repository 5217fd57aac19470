-- A user's own sessions, newest first, are walked and not sorted; whatever else goes by the user goes by this as well.

create index sessions_order on sessions (user_id, created_at desc, token_hash);
drop index sessions_user;

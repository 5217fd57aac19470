-- Codes that have expired are forgotten whenever one is asked for: without reading all that have not.

create index login_codes_expiry on login_codes (expires_at);

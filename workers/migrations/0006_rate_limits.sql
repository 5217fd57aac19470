-- How many requests each client has left (http/rate_limits.py). Unlogged: a crash of the server forgets the counts of a
-- minute, or of a bot's hour, and no request waits for the disk. full_at and step are in nanoseconds, full_at since 1970: the
-- moment when all requests are there again. granted: how many of those that asked together last were let through.

create unlogged table rate_limits (
    key text collate "C" primary key,
    full_at bigint not null,
    step bigint not null,
    requests integer not null,
    granted integer not null
) with (fillfactor = 50);

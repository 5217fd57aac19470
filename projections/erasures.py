"""What stands outside the ledger about those who are erased: it goes when their events say so.

The ledger and the read tables lose the text with the key; sessions, log-ins, last activity and kept answers know
nothing of events. So the ledger is followed for them too, with a checkpoint of its own: whoever erased says ``FINISH``
right after, the worker says it all the time, and each erasure is finished once, whoever dies in between.
"""

from typing import Any

import psycopg
from psycopg.rows import tuple_row

# Held until the end of the transaction: one at a time, each from where the last one ended. Any number that no other
# advisory lock of ours has.
TURN = "select pg_advisory_xact_lock(7309457613245769317)"

# One statement, so that all of it is about the same erasures; answers how many. An answer below 400 may quote anybody,
# and which one does cannot be seen, because it is sealed: so all are emptied. Status 0: what is being answered right
# now may have been read before the erasure, and is not kept either (http/idempotency.py); but for what the one who
# erased is being answered. ledger_erasures or ledger_position, projection_tracking_pkey, sessions_order,
# login_codes_pkey, login_history_user, user_activity_pkey, api_keys_bot; all of idempotency_keys, which holds a day.
FINISH = """
    with reached as materialized (
        select coalesce(max(notification_id), 0) as position from projection_tracking
            where application_name = 'erasures'
    ), erased as materialized (
        select split_part(originator_id, ':', 1) as kind, split_part(originator_id, ':', 2)::bigint as id,
            originator_version as version, actor
        from ledger where topic = 'subject.erased.v1' and notification_id > (select position from reached)
    ), ended as (
        delete from sessions using erased where kind = 'user' and user_id = id
    ), codes as (
        delete from login_codes using erased where kind = 'user' and user_id = id
    ), logins as (
        delete from login_history using erased where kind = 'user' and user_id = id
    ), activity as (
        delete from user_activity using erased where kind = 'user' and user_id = id
    ), keys as (
        delete from api_keys using erased
            where erased.kind = 'bot' and bot_id = id and api_keys.version < erased.version
    ), answers as (
        update idempotency_keys set status = 0, body = null
            where exists (select from erased) and case when status is null
                then actor not in (select actor from erased) else status between 1 and 399 end
    ), moved as (
        insert into projection_tracking
            select 'erasures', max(notification_id) from ledger
                having max(notification_id) > (select position from reached)
            on conflict (application_name) do update set notification_id = excluded.notification_id
    )
    select count(*) from erased
"""


def finish(conn: psycopg.Connection[Any]) -> int:
    """Deletes what is left of all who were erased since the last call, of whichever process; how many that is. Durable
    on return where ``conn`` is in autocommit mode. Raises psycopg.Error; then nothing was changed."""
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(TURN)
        found = cursor.execute(FINISH).fetchone()
        assert found is not None
        return int(found[0])

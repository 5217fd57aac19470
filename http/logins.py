"""Who logged in when, from where and with what: kept for each user's newest log-ins, in no event."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from modledger.http.views import LoginView, whole
from modledger.http.wire import Cursor, Row

NEWEST: Final = 100

# $1 user id, $2 how many: address, user agent and time, newest first. login_history_user
OF_USER = """
    select host(client_ip), user_agent, at from login_history where user_id = $1 order by at desc, ctid desc limit $2
"""

_NOTE = "insert into login_history (user_id, client_ip, user_agent, at) values ($1, $2, $3, $4)"
# $1 user id, $2 how many are kept. login_history_user; so many at a time that an old installation's come down to it,
# and no log-in waits for another.
_FORGET = """
    delete from login_history where ctid = any(array(
        select ctid from login_history where user_id = $1 order by at desc, ctid desc offset $2 limit 100
        for update skip locked
    ))
"""


async def note(cursor: Cursor, user_id: int, client_ip: str, user_agent: str, now: datetime) -> None:
    """Adds a log-in and forgets what is older than the user's newest 100, within the transaction of ``cursor``."""
    await cursor.execute(_NOTE.encode(), (user_id, client_ip, user_agent, now))
    await cursor.execute(_FORGET.encode(), (user_id, NEWEST))


def by_address(lines: Iterable[Row]) -> dict[str, list[LoginView]]:
    """The lines of OF_USER for an answer, each address where its newest log-in stands."""
    history: dict[str, list[LoginView]] = {}
    for address, user_agent, at in lines:
        history.setdefault(address, []).append(LoginView(ts=whole(at), ua=user_agent))
    return history

"""A newer version's migration, applied while processes of this one serve and work (docs/operate.md, *Probes*)."""

import http.client
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count

import psycopg

from modledger.http.sessions import open_session
from modledger.workers.logins import OWNER, as_login
from modledger.workers.migrate import apply_sql, migrations
from tests.chaos.faults import NEWER
from tests.chaos.installation import PATIENCE_SECONDS, SERVERS, installed
from tests.chaos.load import Http
from tests.chaos.rounds import register
from tests.forked import modledger
from tests.product import NOT_YET

ADMIN, WARNED = 101, 2001
# Of a probe, after a second.
NO_ANSWER = "The database does not answer"
SEARCH = f"/v1/admin/punishments/search?user_id={WARNED}"


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.05)


def test_no_request_fails_while_a_newer_versions_migration_is_applied() -> None:
    with installed() as one:
        with one.ledger() as ledger, psycopg.connect(one.url, autocommit=True) as connection:
            register(ledger, ADMIN, "admin", 2)
            cookies = {ADMIN: open_session(connection, ADMIN, 2, datetime.now(UTC))}
        send = Http([one.doors[name].port for name in SERVERS], cookies)

        def status(server: int, path: str) -> int:
            try:
                return send(server, "GET", path, ADMIN, headers={}, patience=PATIENCE_SECONDS).status
            except (OSError, http.client.HTTPException):
                return 0

        # The second needs the projectors as well.
        for path in ("/health/ready", SEARCH):
            eventually(lambda path=path: [status(number, path) for number in (0, 1)] == [200, 200])  # type: ignore[misc]
        over = threading.Event()
        failed: list[object] = []
        done = dict.fromkeys(("warn", "search", "profile", "ready"), 0)
        warned: list[int] = []

        def go_on(name: str, method: str, path: str) -> None:
            for number in count():
                if over.is_set():
                    return
                body = {"reason": f"warning {number}"} if method == "POST" else None
                answer = send(number % 2, method, path, ADMIN, body=body, headers={}, patience=PATIENCE_SECONDS)
                if answer.status == 503 and any(late in str(answer.body) for late in (NOT_YET, NO_ANSWER)):
                    # Projectors, or the database, took longer than is waited for; nothing was done.
                    continue
                if answer.status != 200:
                    failed.append((path, answer.status, answer.body))
                elif method == "POST":
                    warned.append(answer.body["id"])
                done[name] += 1

        asked = (
            ("warn", "POST", f"/v1/admin/punishments/user/{WARNED}/warn"),
            ("search", "GET", SEARCH),
            ("profile", "GET", "/v1/users/profile/admin"),
            ("ready", "GET", "/health/ready"),
        )
        threads = [threading.Thread(target=go_on, args=each) for each in asked]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: min(done.values()) > 5)
            assert apply_sql(as_login(one.url, OWNER), [*migrations(), NEWER]) == ["9000_newer"]
            before = dict(done)
            # A thread that ended by an error would stand still.
            eventually(lambda: all(done[name] > before[name] + 5 for name in done))
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert failed == []

        # All of it is there, and projected by workers of this version.
        eventually(lambda: status(0, SEARCH) == 200)
        found = send(0, "GET", f"{SEARCH}&limit=1", ADMIN, headers={}, patience=PATIENCE_SECONDS).body
        assert found["total"] == len(set(warned)) == len(warned) == done["warn"]
        assert one.ended_alone == []
        send.close()
        # Whoever starts now is told to be the newer one.
        for command in ("serve", "work", "migrate"):
            started = modledger([command], one.environment_of_operator())
            assert started.returncode == 1
            assert "9000_newer" in started.stderr

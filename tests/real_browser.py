"""``python -m tests.real_browser``: a real Chromium in which the owner is logged in, on pages of others.

A ``serve`` with its usual settings for production, so that the cookie is ``SameSite=None``. The owner logs in on a page
of an origin that may, and warns somebody there: so the browser has the cookie, and this is what a command looks like.
Then pages of another site, of another origin of the same site, and of no origin (a sandbox) try every operation with
every encoding of a form, and with scripts. Exit status 1 when one of them did, read or held anything.
"""

import http.client
import json
import logging
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import structlog

from bench.processes import free_port
from modledger.http.sessions import COOKIE
from modledger.projections.catalog import PROJECTORS
from tests.chromium import NoBrowser, Tab, tab_of_new_browser
from tests.cookie_operations import POSTS, example, filled
from tests.http_client import OTHER_USER, OWNER, World
from tests.http_world import world_without_pytest
from tests.serves import Serve, cookie_of, ended_after, environment_of
from tests.test_runner import running

ENCODINGS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
REFUSED = (403, 415)
_SEND_FORM = """
    (({action, enctype, fields}) => {
        const form = document.createElement('form')
        Object.assign(form, {method: 'post', action, enctype})
        for (const [name, value] of fields) {
            const input = document.createElement('input')
            Object.assign(input, {type: 'hidden', name, value})
            form.append(input)
        }
        document.body.append(form)
        form.submit()
    })(%s)
"""
_FETCH = """
    (async ({url, options}) => {
        try {
            const answer = await fetch(url, {credentials: 'include', ...options})
            return {type: answer.type, status: answer.status, text: await answer.text()}
        } catch (error) {
            return {type: 'error', status: 0, text: String(error)}
        }
    })(%s)
"""


class Pages(BaseHTTPRequestHandler):
    """An empty page for whoever asks; ``/sandbox`` has no origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        if self.path == "/sandbox":
            self.send_header("Content-Security-Policy", "sandbox allow-scripts allow-forms")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>page</title><body></body>")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nobody reads it."""


class Browsed:
    """A browser beside a product. ``found``: what should not have been; ``counts``: what was tried and how it ended."""

    def __init__(self, world: World, tab: Tab, product: int, pages: int, listed: int) -> None:
        self.world, self.tab = world, tab
        self.product = f"http://localhost:{product}"
        self.ours = f"http://localhost:{listed}/"
        self.foreign = {
            "another site": f"http://evil.localhost:{pages}/",
            "another origin of the site": f"http://localhost:{pages}/",
            "no origin": f"http://evil.localhost:{pages}/sandbox",
        }
        self.found: list[str] = []
        self.counts: Counter[str] = Counter()
        self._port = product

    def log_in(self) -> None:
        """With a code, as people do."""
        self.tab.open(self.ours)
        self._needs(200, self.fetch("/v1/authentication/request", {"discord_id": OWNER}))
        connection = http.client.HTTPConnection("localhost", self._port, timeout=30)
        headers = {"Authorization": f"Bearer {self.world.bot_key()}", "Content-Type": "application/json"}
        body = json.dumps({"discord_id": str(OWNER)})
        connection.request("POST", "/v1/authentication/bot/login-code", body, headers)
        code = json.loads(connection.getresponse().read())["code"]
        connection.close()
        self._needs(200, self.fetch("/v1/authentication/verify", {"code": code}))

    def warn_as_one_may(self) -> None:
        """The page whose origin is listed reads and commands, with the cookie that the browser has."""
        before = self.world.ledger.head()
        self.tab.open(self.ours)
        self._needs(200, self.fetch("/v1/users/me"))
        path = f"/v1/admin/punishments/user/{OTHER_USER}/warn"
        self._needs(200, self.fetch(path, {"reason": "Rule 4"}))
        assert self.world.ledger.head() == before + 1
        # Or what is said of the pages of others, which share its host, would be said of a cookie that is not there.
        assert self.tab.run("document.cookie") == ""

    def fetch(self, path: str, body: Any = None, **more: Any) -> Any:
        """What a script of the page that is open finds."""
        options = dict(more)
        if body is not None:
            options = {
                "method": "POST",
                "body": json.dumps(body),
                "headers": {"Content-Type": "application/json"},
            } | more
        return self.tab.run(_FETCH % json.dumps({"url": self.product + path, "options": options}))

    def forms(self, whose: str, page: str) -> None:
        """Every operation, with every encoding."""
        for path, operation in sorted(POSTS.items()):
            for encoding in ENCODINGS:
                self.tab.open(page)
                status, cookie, origin = self._submit(filled(path), encoding, example(operation))
                self.counts[f"forms of {whose}: {status}"] += 1
                if status not in REFUSED:
                    self.found.append(f"a form of {whose}, {encoding} to {path}: {status}")
                if not cookie:
                    self.found.append(f"a form of {whose} to {path} had no cookie: this shows nothing")
                if origin is None:
                    self.found.append(f"a form of {whose} to {path} said no Origin")

    def _submit(self, path: str, encoding: str, body: str) -> tuple[int, bool, str | None]:
        """The status, whether the browser sent the session along, and the Origin that it said."""
        if encoding == "text/plain":
            # A form writes name=value: with the sign inside a string the whole is JSON.
            fields = [[body.rstrip("}") + (', "a": "' if body != "{}" else '"a": "'), '"}']]
        else:
            fields = [[name, str(value)] for name, value in json.loads(body).items()]
        url = self.product + path
        self.tab.events.clear()
        self.tab.run(_SEND_FORM % json.dumps({"action": url, "enctype": encoding, "fields": fields}))
        came = self.tab.until("Network.responseReceived", lambda one: one["response"]["url"] == url)
        sent = self.tab.until("Network.requestWillBeSentExtraInfo", lambda one: one["requestId"] == came["requestId"])
        # Or its end would be taken for that of the page that is opened next.
        self.tab.until("Page.loadEventFired", lambda _: True)
        headers = {name.lower(): value for name, value in sent["headers"].items()}
        return came["response"]["status"], f"{COOKIE}=" in headers.get("cookie", ""), headers.get("origin")

    def scripts(self, whose: str, page: str) -> None:
        """Commands as JSON and as plain text, beacons, and reads."""
        self.tab.open(page)
        for path, operation in sorted(POSTS.items()):
            body = json.loads(example(operation))
            plain = {"headers": {"Content-Type": "text/plain"}, "mode": "no-cors"}
            for name, tried in (
                ("JSON", self.fetch(filled(path), body)),
                ("plain text", self.fetch(filled(path), body, headers={"Content-Type": "text/plain"})),
                ("plain text that it may not read", self.fetch(filled(path), body, **plain)),
            ):
                self._blind(f"a script of {whose}, {name} to {path}", tried)
            beacon = f"navigator.sendBeacon({json.dumps(self.product + filled(path))}, {json.dumps(json.dumps(body))})"
            self.tab.run(beacon)
            self.counts["beacons"] += 1
        for path in ("/v1/users/me", "/v1/users/me/sessions", "/v1/admin/punishments/search", "/schema/openapi.json"):
            self._blind(f"a script of {whose}, reading {path}", self.fetch(path))
            self._blind(f"a script of {whose}, reading {path} unseen", self.fetch(path, mode="no-cors"))
        if self.tab.run("(() => { try { return document.cookie } catch { return '' } })()"):
            self.found.append(f"a script of {whose} has the cookie")

    def _blind(self, what: str, came: Any) -> None:
        self.counts[f"scripts: {came['type']}"] += 1
        if came["type"] not in ("error", "opaque") or came["status"] or (came["type"] == "opaque" and came["text"]):
            self.found.append(f"{what}: {came}")

    def _needs(self, status: int, came: Any) -> None:
        if came["status"] != status:
            raise RuntimeError(f"the page that may is answered {came}")


def main() -> None:
    """Prints what was tried and what was found."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with ExitStack() as stack:
        try:
            tab = stack.enter_context(tab_of_new_browser())
        except NoBrowser as missing:
            sys.exit(str(missing))
        world = stack.enter_context(world_without_pytest("browser"))
        world.catch_up()
        stack.enter_context(running(world.ledger, world.database, PROJECTORS))
        listed, pages = (stack.enter_context(_pages()) for _ in range(2))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modledger-browser-")))
        environment = environment_of(world) | {"MODLEDGER_ALLOWED_ORIGINS": f"http://localhost:{listed}"}
        serve = Serve(environment, folder, cookie_of(world, OWNER))
        stack.enter_context(ended_after([serve]))
        browsed = Browsed(world, tab, serve.port, pages, listed)
        version = tab.run("navigator.userAgent")
        browsed.log_in()
        browsed.warn_as_one_may()
        before = world.ledger.head()
        sessions = world.query("select count(*) from sessions")
        for whose, page in browsed.foreign.items():
            browsed.forms(whose, page)
            browsed.scripts(whose, page)
        if world.ledger.head() != before:
            browsed.found.append(f"{world.ledger.head() - before} events came into the ledger")
        if world.query("select count(*) from sessions") != sessions:
            browsed.found.append("there are other sessions than before")
        # The session is still good, so whatever was tried did not end it either.
        browsed.warn_as_one_may()
    print(version)
    for what, count in sorted(browsed.counts.items()):
        print(f"{count:5} {what}")
    for one in browsed.found:
        print(one)
    print(f"{len(POSTS)} operations, {sum(browsed.counts.values())} tries, findings {len(browsed.found)}")
    sys.exit(1 if browsed.found else 0)


@contextmanager
def _pages() -> Iterator[int]:
    """The port of a server of pages."""
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    main()

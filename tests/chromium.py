"""A headless Chromium, told what to do over its own pipe (Chrome DevTools Protocol), for tests in a real browser."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from select import select
from typing import Any

PATIENCE_SECONDS = 30.0
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# Nothing is looked up or fetched but what a page asks for, and that is on this machine.
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * 127.0.0.1",
    "--remote-debugging-pipe",
)


class NoBrowser(Exception):
    """There is no Chromium on this machine."""


class Tab:
    """One page. ``events``: those that came since somebody cleared them."""

    def __init__(self, send: Callable[[bytes], None], receive: Callable[[], dict[str, Any]]) -> None:
        self._send, self._receive = send, receive
        self._numbers, self._session = count(1), ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> Any:
        """The answer of the browser. Raises RuntimeError where it refuses."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._send(json.dumps(message).encode())
        while (said := self._receive()).get("id") != number:
            self.events.append(said)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return said["result"]

    def until(self, method: str, fits: Callable[[Any], bool]) -> Any:
        """The parameters of the first of the events of that name that fits. Raises TimeoutError."""
        looked = 0
        while True:
            for event in self.events[looked:]:
                if event.get("method") == method and fits(event["params"]):
                    return event["params"]
            looked = len(self.events)
            self.events.append(self._receive())

    def open(self, url: str) -> None:
        """Goes there as by the address bar, and waits until all of it is there."""
        self.events.clear()
        failed = self.ask("Page.navigate", url=url).get("errorText")
        if failed:
            raise RuntimeError(f"{url}: {failed}")
        self.until("Page.loadEventFired", lambda _: True)

    def run(self, script: str) -> Any:
        """What a script of the page comes to; a promise is waited for. Raises RuntimeError for what it throws."""
        done = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["exception"]["description"])
        return done["result"].get("value")


@contextmanager
def tab_of_new_browser() -> Iterator[Tab]:
    """A page of a browser that has never been anywhere. Raises NoBrowser."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise NoBrowser(f"none of {', '.join(PROGRAMS)} is installed (Debian: apt install chromium)")
    told, tell = os.pipe()
    hear, said = os.pipe()
    with tempfile.TemporaryDirectory(prefix="modledger-chromium-", ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            # It reads from 3 and writes to 4.
            ["sh", "-c", f'exec "$0" "$@" 3<&{told} 4>&{said}', program, *_OPTIONS, f"--user-data-dir={home}"],
            pass_fds=(told, said),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(Path(home) / "said").open("wb"),
        )
        os.close(told)
        os.close(said)
        rest = bytearray()

        def receive() -> dict[str, Any]:
            while b"\0" not in rest:
                if not select([hear], [], [], PATIENCE_SECONDS)[0]:
                    raise TimeoutError(f"the browser has said nothing for {PATIENCE_SECONDS:g} s")
                came = os.read(hear, 65_536)
                if not came:
                    raise RuntimeError(f"the browser has ended: {(Path(home) / 'said').read_text()}")
                rest.extend(came)
            message, _, after = bytes(rest).partition(b"\0")
            rest[:] = after
            found: dict[str, Any] = json.loads(message)
            return found

        try:
            yield Tab(lambda message: _write(tell, message + b"\0"), receive)
        finally:
            process.kill()
            process.wait()
            os.close(tell)
            os.close(hear)


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]

"""Start the installed product in an empty folder, ask it one real question, stop it; exit 0 when all of it worked.

Run by the interpreter of the environment that the product is installed in: `python -I start_installed.py FOLDER`.
"""

import contextlib
import http.cookiejar
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

FIRST_ANSWER_SECONDS = 90
ANSWER_SECONDS = 10
STOP_SECONDS = 20


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_healthy(product: subprocess.Popen[bytes], base: str) -> None:
    deadline = time.monotonic() + FIRST_ANSWER_SECONDS
    while time.monotonic() < deadline:
        if product.poll() is not None:
            raise SystemExit(f"`modledger up` ended with status {product.returncode} before its first answer")
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{base}/health", timeout=ANSWER_SECONDS) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"no 200 from /health within {FIRST_ANSWER_SECONDS} s")


def read_demo_profile(base: str, data_dir: Path) -> None:
    jar = http.cookiejar.MozillaCookieJar(data_dir / "cookies" / "admin.txt")
    jar.load(ignore_discard=True)
    # A proxy of the machine's must not stand between us and loopback.
    client = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar))
    try:
        with client.open(f"{base}/v1/users/profile/exampleuser", timeout=ANSWER_SECONDS) as answer:
            profile = json.load(answer)
    except urllib.error.HTTPError as refused:
        raise SystemExit(f"the profile of the demo user: {refused.code} {refused.read()!r}") from refused
    if profile["discord_id"] != "123456789012345678":
        raise SystemExit(f"not the demo user's profile: {profile!r}")


def stop(product: subprocess.Popen[bytes]) -> None:
    product.send_signal(signal.SIGTERM)
    try:
        status = product.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"still running {STOP_SECONDS} s after SIGTERM") from None
    if status != 0:
        raise SystemExit(f"SIGTERM ended it with status {status}, not 0")


def main(folder: Path) -> None:
    data_dir = folder / "data"
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    settings = {"MODLEDGER_DATA_DIR": str(data_dir), "MODLEDGER_PORT": str(port)}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODLEDGER_")}
    urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))
    log = folder / "up.log"
    with log.open("wb") as output:
        product = subprocess.Popen(
            [Path(sys.executable).parent / "modledger", "up"],
            cwd=folder,
            env=inherited | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        began = time.monotonic()
        wait_until_healthy(product, base)
        print(f"first answer after {time.monotonic() - began:.1f} s")
        read_demo_profile(base, data_dir)
        print("the demo user's profile is served")
        stop(product)
        print("stopped by SIGTERM with status 0")
    except BaseException:
        print(f"--- {log}", log.read_text(errors="replace"), "---", sep="\n")
        raise
    finally:
        # SIGTERM first: a killed supervisor would leave its PostgreSQL behind.
        if product.poll() is None:
            product.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                product.wait(STOP_SECONDS)
            product.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

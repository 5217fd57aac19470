"""Load on an HTTP server by wrk, a program in C: its share of a core is measured with it."""

import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

import msgspec

from bench.processes import ANSWER_SECONDS

# Each thread of wrk goes round all requests; one thread is used, so each request leaves in its turn.
_SCRIPT = r"""
local file = io.open(os.getenv("BENCH_REQUESTS"), "rb")
local requests, turn = {}, 0
for one in file:read("*a"):gmatch("[^%z]+") do requests[#requests + 1] = one end
file:close()
function request()
    turn = turn % #requests + 1
    return requests[turn]
end
function done(summary, latency)
    local e = summary.errors
    print(string.format('{"answers": %d, "bad": %d, "seconds": %f, "p50": %f, "p99": %f}',
        summary.requests, e.connect + e.read + e.write + e.status + e.timeout, summary.duration / 1e6,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""

# A machine that does many other things, or a large table that is read as a whole, may take as long for a first answer.
MOST_SECONDS = 60
NO_WRK = "wrk is not installed (Debian: apt install wrk; macOS: brew install wrk)"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. ``p50`` and ``p99`` in milliseconds; ``generator_cpu`` is the generator's share of one core:
    near 1 it measured itself. ``server_us`` and ``database_us``: CPU for each answer, in microseconds, of the server's
    process and of all of PostgreSQL; unlike times these hardly depend on who else is at work."""

    answers: int
    bad: int
    seconds: float
    p50: float
    p99: float
    generator_cpu: float = 0.0
    server_us: float = 0.0
    database_us: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def generate(host: str, port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Sends the requests again and again, one at a time on each connection. Raises RuntimeError when an answer is not
    2xx or 304: a rate would say nothing then. ``seconds``: rounded from one on; more where none of the answers takes so
    little, up to a minute."""
    load = _run(host, port, requests, connections, seconds)
    while not load.answers and not load.bad and load.seconds < MOST_SECONDS:
        load = _run(host, port, requests, connections, load.seconds * 2)
    if load.bad or not load.answers:
        raise RuntimeError(f"{load.bad} of {load.answers} answers are not good; the first request: {requests[0]!r}")
    return load


def _run(host: str, port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError(NO_WRK)
    with tempfile.TemporaryDirectory() as folder:
        file, script = Path(folder) / "requests", Path(folder) / "wrk.lua"
        file.write_bytes(b"\0".join(requests))
        script.write_text(_SCRIPT)
        command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={ANSWER_SECONDS}s"]
        command += ["-s", str(script)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with subprocess.Popen(
            [*command, f"http://{host}:{port}"],
            env=os.environ | {"BENCH_REQUESTS": str(file)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            if seconds < 1:
                # It knows whole seconds alone, and says at a Ctrl-C what it has measured until then.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                process.send_signal(signal.SIGINT)
            said, wrong = process.communicate()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode == -signal.SIGINT and seconds < 1:
        # It had not begun yet.
        return Load(answers=0, bad=0, seconds=seconds, p50=0, p99=0)
    if process.returncode:
        raise RuntimeError(f"wrk ended with {process.returncode}\n{said}\n{wrong}")
    load = msgspec.json.decode(said.strip().rpartition("\n")[2], type=Load)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return msgspec.structs.replace(load, generator_cpu=cpu / load.seconds)


def cpu(loads: Sequence[Load]) -> str:
    """What to say of the CPU of an answer, medians."""
    server, database = (
        median(values) for values in zip(*((one.server_us, one.database_us) for one in loads), strict=True)
    )
    return f"{server:,.0f} µs of CPU an answer and {database:,.0f} in PostgreSQL"


def shares(loads: Sequence[Load]) -> str:
    """What to say of the generator."""
    return f"load by wrk, at most {max(load.generator_cpu for load in loads):.0%} of a core"

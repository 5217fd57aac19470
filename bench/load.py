"""Load on an HTTP server: wrk where it is installed, else a client of our own in a process of its own.

python -m bench.load HOST PORT CONNECTIONS SECONDS REQUESTS-FILE    (what ``generate`` starts where there is no wrk)
"""

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import cast

import msgspec
import uvloop

WRK = r"""
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


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. ``p50`` and ``p99`` in milliseconds; ``generator_cpu`` is the generator's share of one core:
    near 1 it measured itself."""

    answers: int
    bad: int
    seconds: float
    p50: float
    p99: float
    generator_cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def generator() -> str:
    """Which one is used."""
    return "wrk" if shutil.which("wrk") else "bench.load (asyncio on uvloop)"


def generate(host: str, port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Sends the requests again and again, one at a time on each connection. Raises RuntimeError when an answer is not
    2xx, or when there is none: a rate would say nothing then."""
    with tempfile.TemporaryDirectory() as folder:
        file, script = Path(folder) / "requests", Path(folder) / "wrk.lua"
        file.write_bytes(b"\0".join(requests))
        script.write_text(WRK)
        command = [sys.executable, "-m", "bench.load", host, str(port), str(connections), str(seconds), str(file)]
        if wrk := shutil.which("wrk"):
            command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
            command.append(f"http://{host}:{port}")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, env=os.environ | {"BENCH_REQUESTS": str(file)}, capture_output=True, text=True, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    load = msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=Load)
    if load.bad:
        raise RuntimeError(f"{load.bad} of {load.answers} answers are not 2xx\n{done.stdout}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return msgspec.structs.replace(load, generator_cpu=cpu / load.seconds)


class _Connection(asyncio.Protocol):
    """One keep-alive connection: the next request leaves when the answer before it is complete."""

    def __init__(self, requests: Iterator[bytes], took: list[float], bad: list[bytes]) -> None:
        self._requests, self._took, self._bad = requests, took, bad
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.WriteTransport", transport)
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not end or len(body) < int(length):
            return
        self._took.append(time.perf_counter() - self._began)
        if head[9:10] != b"2":
            self._bad.append(self._answer)
        self._answer = b""
        self._send()

    def connection_lost(self, _: Exception | None) -> None:
        self._bad.append(b"connection lost")


async def _run(host: str, port: int, connections: int, seconds: float, requests: Sequence[bytes]) -> Load:
    loop = asyncio.get_running_loop()
    took: list[float] = []
    bad: list[bytes] = []
    source = cycle(requests)
    began = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(source, took, bad), host, port)
    await asyncio.sleep(seconds)
    elapsed, answers = time.perf_counter() - began, sorted(took)
    if bad:
        print(bad[0].decode("utf-8", "replace"))
    if not answers:
        sys.exit(f"no answer in {seconds} s")
    return Load(
        answers=len(answers),
        bad=len(bad),
        seconds=elapsed,
        p50=answers[len(answers) // 2] * 1000,
        p99=answers[len(answers) * 99 // 100] * 1000,
    )


if __name__ == "__main__":
    host, port, connections, seconds, file = sys.argv[1:]
    found = _run(host, int(port), int(connections), float(seconds), Path(file).read_bytes().split(b"\0"))
    print(json.dumps(msgspec.to_builtins(uvloop.run(found))))

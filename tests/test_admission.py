"""How many requests are worked on at once: exactly as many as there are places, of each kind, and the rest hears so."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Litestar, Request, get, post
from litestar.config.cors import CORSConfig
from prometheus_client import CollectorRegistry

from modledger.http.admission import Admission, admitted, place_of
from modledger.http.errors import answer_error
from modledger.http.together import Together
from tests.http_client import scope_of

PAGE = "https://panel.example.org"


class Served:
    """A small application behind the admission, two places of each kind, whose handlers wait until they are let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.began = 0
        self.registry = CollectorRegistry()

        async def work() -> str:
            self.began += 1
            await self.go.wait()
            return "done"

        @get("/work")
        async def look() -> str:
            return await work()

        @post("/work", status_code=200)
        async def act(request: Request[Any, Any, Any]) -> str:
            with place_of(request).given_up():
                await request.body()
            return await work()

        @get("/fails")
        async def fail() -> str:
            raise LookupError

        @get("/health/ready")
        async def probe() -> str:
            return "ready"

        self.app = Litestar(
            [look, act, fail, probe],
            middleware=[admitted],
            exception_handlers={Exception: answer_error},
            cors_config=CORSConfig(allow_origins=[PAGE]),
            logging_config=None,
        )
        self.admission = self.app.state["admission"] = Admission(self.registry, {"read": 2, "command": 2})

    def ask(self, method: str, path: str, body: asyncio.Future[bytes] | None = None) -> "asyncio.Task[Reply]":
        return asyncio.create_task(self._ask(method, path, body))

    async def _ask(self, method: str, path: str, body: asyncio.Future[bytes] | None) -> "Reply":
        reply = Reply()

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}" if body is None else await body, "more_body": False}

        async def send(message: Any) -> None:
            reply.take(message)

        headers = [("origin", PAGE), ("content-type", "application/json")]
        scope = scope_of(method, path, headers, correlation_id="0d4f7a52")
        await self.app(scope, receive, send)
        return reply

    def metric(self, name: str, kind: str) -> float | None:
        return self.registry.get_sample_value(name, {"kind": kind})


class Reply:
    status = 0
    headers: dict[str, str]
    body = b""

    def take(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]


async def until(condition: Callable[[], bool]) -> None:
    """For what comes with the next turns of the loop."""
    while True:
        if condition():
            return
        await asyncio.sleep(0)


def run(test: Callable[[Served], Awaitable[None]]) -> None:
    async def served() -> None:
        await test(Served())

    asyncio.run(served())


def test_whoever_comes_beyond_the_places_is_refused_and_the_others_are_answered() -> None:
    async def test(served: Served) -> None:
        for method, kind in (("GET", "read"), ("POST", "command")):
            served.go.clear()
            served.began = 0
            inside = [served.ask(method, "/work") for _ in range(2)]
            await until(lambda: served.began == 2)
            for _ in range(3):
                refused = await served.ask(method, "/work")
                assert (refused.status, refused.headers["retry-after"]) == (503, "1")
                assert refused.body == b'{"error":"The server is busy","correlation_id":"0d4f7a52"}'
                # A page is told why, and not only that something failed.
                assert refused.headers["access-control-allow-origin"] == PAGE
            assert (served.metric("modledger_http_admitted", kind), served.began) == (2, 2)
            assert served.metric("modledger_http_admitted_max", kind) == 2
            assert served.metric("modledger_http_refused_total", kind) == 3
            served.go.set()
            assert [(await one).status for one in inside] == [200, 200]
            assert (await served.ask(method, "/work")).status == 200
            assert served.metric("modledger_http_admitted", kind) == 0

    run(test)


def test_reads_keep_no_command_out_and_nobody_keeps_a_probe_out() -> None:
    async def test(served: Served) -> None:
        reads = [served.ask("GET", "/work") for _ in range(2)]
        await until(lambda: served.began == 2)
        commands = [served.ask("POST", "/work") for _ in range(2)]
        await until(lambda: served.began == 4)
        for method in ("GET", "POST"):
            assert (await served.ask(method, "/work")).status == 503
        assert (await served.ask("GET", "/health/ready")).status == 200
        served.go.set()
        assert [(await one).status for one in reads + commands] == [200] * 4

    run(test)


def test_who_waits_for_a_body_holds_no_place_and_asks_for_one_when_it_is_here() -> None:
    async def test(served: Served) -> None:
        loop = asyncio.get_running_loop()
        bodies = [loop.create_future() for _ in range(6)]
        slow = [served.ask("POST", "/work", body) for body in bodies]
        for _ in range(20):
            await asyncio.sleep(0)
        assert served.admission.admitted["command"] == 0
        quick = [served.ask("POST", "/work") for _ in range(2)]
        await until(lambda: served.began == 2)
        bodies[0].set_result(b"{}")
        refused = await slow[0]
        assert (refused.status, refused.headers["retry-after"], served.began) == (503, "1", 2)
        served.go.set()
        assert [(await one).status for one in quick] == [200, 200]
        for body, one in zip(bodies[1:], slow[1:], strict=True):
            body.set_result(b"{}")
            assert (await one).status == 200
        assert served.admission.admitted["command"] == 0

    run(test)


def test_a_place_is_free_again_after_an_error_and_after_a_client_that_is_gone() -> None:
    async def test(served: Served) -> None:
        for _ in range(5):
            assert (await served.ask("GET", "/fails")).status == 500
        inside = [served.ask("GET", "/work") for _ in range(2)]
        await until(lambda: served.began == 2)
        inside[0].cancel()
        await asyncio.wait([inside[0]])
        other = served.ask("GET", "/work")
        await until(lambda: served.began == 3)
        served.go.set()
        assert [(await inside[1]).status, (await other).status] == [200, 200]
        assert served.admission.admitted == {"read": 0, "command": 0}

    run(test)


def test_all_who_ask_together_are_answered_by_two_questions_and_none_by_an_older_one() -> None:
    async def test() -> None:
        asked = 0
        answers: list[asyncio.Future[int]] = []

        async def ask() -> int:
            nonlocal asked
            asked += 1
            answers.append(asyncio.get_running_loop().create_future())
            return await answers[-1]

        together = Together(ask)
        first = asyncio.create_task(together.answer())
        await until(lambda: len(answers) == 1)
        others = [asyncio.create_task(together.answer()) for _ in range(50)]
        await asyncio.sleep(0)
        others[0].cancel()
        answers[0].set_result(1)
        assert await first == 1
        await until(lambda: len(answers) == 2)
        answers[1].set_result(2)
        assert [await one for one in others[1:]] == [2] * 49
        assert asked == 2

    asyncio.run(test())


def test_a_question_that_fails_fails_for_those_who_asked_it_and_the_next_is_asked_anew() -> None:
    async def test() -> None:
        outcomes: list[Exception | int] = [LookupError("away"), 7]

        async def ask() -> int:
            await asyncio.sleep(0)
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        together = Together(ask)
        found = await asyncio.gather(together.answer(), together.answer(), return_exceptions=True)
        assert [type(one) for one in found] == [LookupError, LookupError]
        assert await together.answer() == 7

    asyncio.run(test())

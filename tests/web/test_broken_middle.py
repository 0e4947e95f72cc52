"""An answer that fails in its middle is cut: a second one would be read as the first one's body."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from sse_gateway.core.errors import GatewayError
from sse_gateway.metrics import Metrics
from sse_gateway.web import cors
from sse_gateway.web.connections import PARSER_LIMITS, Connections, serve_through
from sse_gateway.web.replies import METRICS, refusals
from sse_gateway.web.tracing import sign, tracing
from tests.chaos.local import local_gateway
from tests.support.ports import free_port
from tests.support.servers import RedisProcess
from tests.support.tokens import token
from tests.support.wait import until
from tests.support.wire import exchange
from tests.web.site import PAGE_ORIGIN

Failing = Callable[[web.Request], Awaitable[web.StreamResponse]]
FAULTS = {
    "a fault nobody foresaw": RuntimeError("of the test"),
    "a refusal that comes too late": GatewayError("forbidden_session", "of the test"),
    "an answer of aiohttp's": web.HTTPNotFound(),
    "a lost connection": ConnectionResetError("of the test"),
}


@pytest.fixture
async def serving() -> AsyncIterator[Callable[[Failing], Awaitable[int]]]:
    """Serve a handler as the gateway serves its own, and return the port."""
    runners: list[web.AppRunner] = []

    async def serve(handler: Failing) -> int:
        app = web.Application(middlewares=[tracing, cors.allowing([PAGE_ORIGIN]), refusals])
        app[METRICS] = Metrics()
        app.on_response_prepare.append(sign)
        app.router.add_get("/", handler)
        runners.append(web.AppRunner(app, access_log=None, **PARSER_LIMITS))
        await runners[-1].setup()
        serve_through(runners[-1], Connections(app[METRICS], most=100))
        port = free_port()
        await web.TCPSite(runners[-1], "127.0.0.1", port).start()
        return port

    yield serve
    for runner in runners:
        await runner.cleanup()


def get(path: str = "/") -> str:
    return f"GET {path} HTTP/1.1\r\nHost: gateway\r\nOrigin: {PAGE_ORIGIN}\r\n\r\n"


@pytest.mark.parametrize("what", FAULTS)
async def test_attack_a_second_answer_in_the_body_of_the_first(
    serving: Callable[[Failing], Awaitable[int]], caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Response splitting by a fault: one head, no end of the body, and the next request goes unanswered."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"the first half")
        raise FAULTS[what]

    port = await serving(handler)
    with caplog.at_level(logging.ERROR, "sse_gateway"):
        got = await exchange(port, get(), get(), pause=0.1)
    assert got.closed
    assert got.statuses == [200]
    assert got.received.endswith(b"the first half\r\n"), "neither an end of the body nor anything behind it"
    lines = [record.message for record in caplog.records if record.name.startswith("sse_gateway")]
    assert lines == ([] if what == "a lost connection" else ["a response failed in its middle"])


@pytest.mark.parametrize("what", FAULTS)
async def test_before_its_head_a_failure_is_one_answer(
    serving: Callable[[Failing], Awaitable[int]], what: str
) -> None:
    """The control: what fails before anything was sent gets its honest status and nothing of the fault."""

    async def handler(request: web.Request) -> web.StreamResponse:
        raise FAULTS[what]

    got = await exchange(await serving(handler), get())
    expected = {"a fault nobody foresaw": [500], "a refusal that comes too late": [403]}
    assert got.statuses == expected.get(what, [404] if what == "an answer of aiohttp's" else [])
    assert b"Traceback" not in got.received
    if what == "a fault nobody foresaw":
        assert b"of the test" not in got.received


@pytest.mark.parametrize("transport", ["aiohttp", "handover"])
async def test_a_stream_that_fails_behind_its_head_is_cut_and_leaves_nothing(
    server: RedisProcess, session_id: str, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """One head, a cut, and the place it had taken is free again; whoever holds its socket."""
    async with local_gateway(server.url, stream_transport=transport) as gateway:

        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("of the test")

        port = int(gateway.base.split(":")[2].split("/")[0])
        path = gateway.events(session_id, f"token={token(session_id=session_id)}").partition(str(port))[2]
        with monkeypatch.context() as broken:
            broken.setattr(gateway.gateway, "begin", fail)
            got = await exchange(port, get(path), seconds=5, quiet=3)
        assert got.statuses == [200]
        assert got.received.count(b"HTTP/1.") == 1
        assert got.closed, "nobody closes this socket any more"
        assert b"closing" not in got.received
        assert not gateway.gateway.hub.streams
        await until(lambda: not gateway.gateway.live.sessions, "the session to be let go of", seconds=2)
        begun = asyncio.create_task(exchange(port, get(path), seconds=5, quiet=0.5))
        assert b"event: ready" in (await begun).received

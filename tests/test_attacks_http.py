"""Attacks by HTTP itself: requests with two readings, bytes where none belong, clients that dawdle.

Raw sockets against real gateways, over both ways in which a stream can be held. Attacks by tokens are in
`test_attacks_tokens.py`, those by content in `test_attacks.py`.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from tests.support import started
from tests.support.gateway import BASE_PATH, COMMAND, GatewayProcess, environment
from tests.support.plain import plain_client
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token
from tests.support.wait import until
from tests.support.wire import exchange
from tests.web.site import Gateways, bearer

EVENT = '{"type":"note","data":{"smuggled":true}}'
SIZE = len(EVENT)
CHUNKED = f"{SIZE:x}\r\n{EVENT}\r\n0\r\n\r\n"


class Target:
    """A gateway and its server, with requests for a session of the caller's."""

    def __init__(self, server: RedisProcess, gateway: GatewayProcess) -> None:
        self.server = server
        self.gateway = gateway
        self.port = gateway.port

    def head(self, session_id: str, what: str = "publish", method: str = "POST") -> str:
        """Return a request's line and first headers, good as far as they go."""
        made = token(session_id=session_id, scope="sse:read sse:respond sse:publish")
        return (
            f"{method} {BASE_PATH}/{what}/{session_id} HTTP/1.1\r\nHost: gateway\r\n"
            f"Authorization: Bearer {made}\r\nContent-Type: application/json\r\n"
        )

    def publish(self, session_id: str) -> str:
        """Return a good request that publishes one event."""
        return f"{self.head(session_id)}Content-Length: {SIZE}\r\n\r\n{EVENT}"

    def stream(self, session_id: str) -> str:
        """Return a good request for a stream."""
        return f"{self.head(session_id, 'events', 'GET')}\r\n"

    def published(self, session_id: str) -> int:
        """Return how many events the session has had."""
        return int(self.server.client.hget(f"sse:{{{session_id}}}:meta", "seq") or 0)

    async def counted(self, series: str) -> float:
        """Return one of the gateway's metrics."""
        return (await self.gateway.metrics()).get(f"sse_gateway_{series}", 0)


@asynccontextmanager
async def _target(transport: str) -> AsyncIterator[Target]:
    with RedisProcess("valkey") as server:
        gateway = GatewayProcess(server.url, stream_transport=transport)
        try:
            yield Target(server, await gateway.start())
        finally:
            gateway.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def targets() -> AsyncIterator[dict[str, Target]]:
    """A gateway for each way of holding streams."""
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(_target(name)) for name in ("aiohttp", "handover")}


@pytest.fixture
def target(targets: dict[str, Target]) -> Target:
    """One gateway, where it does not matter which."""
    return targets["aiohttp"]


@pytest.fixture(params=["aiohttp", "handover"])
def each_target(request: pytest.FixtureRequest, targets: dict[str, Target]) -> Target:
    """Both, one after the other."""
    return targets[request.param]


LENGTH = f"Content-Length: {SIZE}\r\n"
TWO_READINGS = {
    "length and chunks": f"{LENGTH}Transfer-Encoding: chunked\r\n\r\n{CHUNKED}",
    "chunks and length": f"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{CHUNKED}",
    "two lengths": f"{LENGTH}Content-Length: {SIZE + 5}\r\n\r\n{EVENT}",
    "the same length twice": f"{LENGTH}{LENGTH}\r\n{EVENT}",
    "a list of lengths": f"Content-Length: {SIZE}, {SIZE}\r\n\r\n{EVENT}",
    "a length with a sign": f"Content-Length: +{SIZE}\r\n\r\n{EVENT}",
    "a negative length": f"Content-Length: -1\r\n\r\n{EVENT}",
    "a length in hex": f"Content-Length: 0x{SIZE:x}\r\n\r\n{EVENT}",
    "a length with an underscore": f"Content-Length: {SIZE // 10}_{SIZE % 10}\r\n\r\n{EVENT}",
    "a length of thirty digits": f"Content-Length: {10**30}\r\n\r\n{EVENT}",
    "another coding": f"Transfer-Encoding: xchunked\r\n\r\n{CHUNKED}",
    "chunks, then identity": f"Transfer-Encoding: chunked, identity\r\n\r\n{CHUNKED}",
    "identity": f"Transfer-Encoding: identity\r\n{LENGTH}\r\n{EVENT}",
    "chunks twice": f"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKED}",
    "chunks behind a vertical tab": f"Transfer-Encoding: \x0bchunked\r\n\r\n{CHUNKED}",
    "a space before the colon": f"Transfer-Encoding : chunked\r\n{LENGTH}\r\n{EVENT}",
    "a folded coding": f"Transfer-Encoding:\r\n chunked\r\n\r\n{CHUNKED}",
    "a folded header": f"X-A: a\r\n b\r\n{LENGTH}\r\n{EVENT}",
    "a bare line feed": f"X-A: a\n{LENGTH}\r\n{EVENT}",
    "a bare carriage return": f"X-A: a\r{LENGTH}\r\n{EVENT}",
    "two carriage returns": f"X-A: a\r\r\n{LENGTH}\r\n{EVENT}",
    "NUL in a header": f"X-A: a\0b\r\n{LENGTH}\r\n{EVENT}",
    "a control in a header": f"X-A: a\x01b\r\n{LENGTH}\r\n{EVENT}",
    "a space in a name": f"X A: a\r\n{LENGTH}\r\n{EVENT}",
    "a line without a colon": f"X-A\r\n{LENGTH}\r\n{EVENT}",
    "an empty name": f": a\r\n{LENGTH}\r\n{EVENT}",
    "a negative chunk": f"Transfer-Encoding: chunked\r\n\r\n-1\r\n{EVENT}\r\n0\r\n\r\n",
    "a chunk in 0x": f"Transfer-Encoding: chunked\r\n\r\n0x{SIZE:x}\r\n{EVENT}\r\n0\r\n\r\n",
    "a chunk with a sign": f"Transfer-Encoding: chunked\r\n\r\n+{SIZE:x}\r\n{EVENT}\r\n0\r\n\r\n",
    "a chunk beyond 2^64": f"Transfer-Encoding: chunked\r\n\r\n1{SIZE:016x}\r\n{EVENT}\r\n0\r\n\r\n",
    "chunks with line feeds": f"Transfer-Encoding: chunked\r\n\r\n{SIZE:x}\n{EVENT}\n0\n\n",
    "a line feed in an extension": f"Transfer-Encoding: chunked\r\n\r\n{SIZE:x};a\nb\r\n{EVENT}\r\n0\r\n\r\n",
    "a chunk that does not end": f"Transfer-Encoding: chunked\r\n\r\n{SIZE:x}\r\n{EVENT}0\r\n\r\n",
    "two hosts": f"Host: other\r\n{LENGTH}\r\n{EVENT}",
    "two types": f"Content-Type: text/plain\r\n{LENGTH}\r\n{EVENT}",
}  # fmt: skip


@pytest.mark.parametrize("case", TWO_READINGS)
async def test_attack_request_that_a_proxy_may_read_as_two(
    target: Target, session_id: str, case: str
) -> None:
    """Smuggling: what has two readings is a 400 and the connection's end, whatever follows unread."""
    hidden = target.publish(session_id)
    answer = await exchange(target.port, target.head(session_id) + TWO_READINGS[case] + hidden)
    assert answer.statuses == [400]
    assert answer.closed
    assert target.published(session_id) == 0


STRANGE = {
    "no host": ("POST /healthz HTTP/1.1\r\n\r\n", 400),
    "HTTP/0.9": ("GET /healthz\r\n\r\n", 400),
    "HTTP/1.2": ("GET /healthz HTTP/1.2\r\nHost: x\r\n\r\n", 400),
    "HTTP/2": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "tabs": ("GET\t/healthz\tHTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "bytes beyond ASCII": ("GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "five hundred headers": (
        "GET /healthz HTTP/1.1\r\nHost: x\r\n" + "".join(f"X-{n}: a\r\n" for n in range(500)) + "\r\n",
        400,
    ),
    "a long address": (f"GET /{'a' * 20_000} HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "a long header": (f"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: {'a' * 20_000}\r\n\r\n", 431),
    "a long name": (f"GET /healthz HTTP/1.1\r\nHost: x\r\n{'a' * 20_000}: a\r\n\r\n", 431),
    "an unknown expectation": ("GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n", 417),
    "CONNECT": ("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "TRACE": ("TRACE /healthz HTTP/1.1\r\nHost: x\r\nX-Secret: s3cret\r\n\r\n", 405),
}


@pytest.mark.parametrize("case", STRANGE)
async def test_attack_strange_request_lines_and_headers(target: Target, case: str) -> None:
    """Each has its status, in the JSON of every refusal, that repeats nothing and tells no version."""
    request, status = STRANGE[case]
    answer = await exchange(target.port, request)
    head, _, body = answer.received.partition(b"\r\n\r\n")
    told = json.loads(body)
    assert told["success"] is False
    assert (answer.statuses or [status]) == [status]
    if case != "HTTP/0.9":
        assert f"{status} " in answer.heads[0]
    assert f"Content-Length: {len(body)}".encode() in head
    assert [line for line in answer.heads if line.startswith("Server")] == ["Server: sse_gateway"]
    for hint in (b"aiohttp", b"Python", b"s3cret", b"Traceback", b"aaaa"):
        assert hint not in answer.received
    code = told["code"]
    assert await target.counted(f'requests_refused_total{{code="{code}"}}') >= 1


async def test_attack_bytes_behind_a_stream(each_target: Target, session_id: str) -> None:
    """Requests behind a stream's, in the same packet or later, are read by nobody."""
    stream, hidden = each_target.stream(session_id), each_target.publish(session_id)
    for pieces in ((stream + hidden,), (stream, hidden), (stream + hidden[:40], hidden[40:])):
        answer = await exchange(each_target.port, *pieces, pause=0.3)
        assert answer.statuses == [200]
        assert not answer.closed
        assert b"smuggled" not in answer.received
    assert each_target.published(session_id) == 0


async def test_attack_flood_of_bytes_into_a_stream(each_target: Target, session_id: str) -> None:
    """Up to 4 KiB are discarded; who sends more is cut off."""
    stream = each_target.stream(session_id)
    harmless = await exchange(each_target.port, stream, "x" * 4000, pause=0.3)
    assert (harmless.statuses, harmless.closed) == ([200], False)
    flood = await exchange(each_target.port, stream, "x" * 5000, pause=0.3)
    assert (flood.statuses, flood.closed) == ([200], True)
    assert await each_target.counted('connections_cut_total{reason="stray_bytes"}') >= 1


async def test_attack_body_where_none_belongs(target: Target, session_id: str) -> None:
    """The body of a GET is a body, however much it looks like a request."""
    hidden = target.publish(session_id)
    head = target.head(session_id, "health", "GET")
    answer = await exchange(target.port, f"{head}Content-Length: {len(hidden)}\r\n\r\n{hidden}")
    assert answer.statuses == [200]
    assert target.published(session_id) == 0


@pytest.mark.parametrize(
    ("header", "encoded"), [("Content-Encoding: gzip", True), ("Transfer-Encoding: gzip, chunked", False)]
)
async def test_attack_body_that_unpacks_to_gigabytes(
    target: Target, session_id: str, header: str, encoded: bool
) -> None:
    """A packed body is a 415 that is not unpacked at all."""
    head = f"{target.head(session_id)}{header}\r\n{LENGTH if encoded else ''}\r\n"
    before = target.gateway.rss_bytes()
    answer = await exchange(target.port, head + (EVENT if encoded else CHUNKED))
    assert answer.statuses == [415]
    assert target.gateway.rss_bytes() - before < 8 * 1024**2
    assert target.published(session_id) == 0


async def test_attack_by_dawdling(target: Target, session_id: str) -> None:
    """Slowloris: a connection that says nothing, a head and a body byte by byte all end in bounded time."""
    head = f"{target.head(session_id)}Content-Length: 4000\r\n\r\n"
    slow = "GET /healthz HTTP/1.1\r\nX-A: " + "a" * 400
    patient: dict[str, Any] = {"pause": 0.25, "quiet": 30, "seconds": 30}
    good = exchange(target.port, target.stream(session_id), quiet=15, seconds=15)
    silent, in_head, in_second_head, in_body, in_nobodys_body, stream = await asyncio.gather(
        exchange(target.port, "", **patient),
        exchange(target.port, *slow, **patient),
        exchange(target.port, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", *slow, **patient),
        exchange(target.port, head, *(" " * 400), **patient),
        exchange(target.port, re.sub(r"Bearer \S+", "Bearer x", head), *(" " * 400), **patient),
        good,
    )
    for one in (silent, in_head, in_second_head, in_nobodys_body):
        assert one.closed
        assert one.seconds < 13
    assert in_body.closed
    assert in_body.seconds < 26
    assert in_body.statuses == [408]
    assert in_second_head.statuses == [200]
    assert in_nobodys_body.statuses == [401]
    # Who waits for events says nothing either, and is left in peace.
    assert not stream.closed
    assert await target.counted('connections_cut_total{reason="slow_head"}') >= 3
    assert await target.counted('connections_cut_total{reason="slow_body"}') >= 1
    assert await target.counted('requests_refused_total{code="request_timeout"}') >= 1


@pytest.mark.parametrize("how", ["closed", "half-closed", "reset"])
async def test_attack_streams_left_half_open(each_target: Target, session_id: str, how: str) -> None:
    """A client that goes without a word gives back what its stream held within seconds."""

    async def held() -> float:
        return await each_target.counted("streams")

    before = await held()
    streams = []
    for _ in range(5):
        _reader, writer = await asyncio.open_connection("127.0.0.1", each_target.port)
        writer.write(each_target.stream(session_id).encode())
        streams.append(writer)
    await until(lambda: _is(held, before + 5), "the streams to be open")
    for writer in streams:
        if how == "half-closed":
            writer.write_eof()
        elif how == "closed":
            writer.close()
        else:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            writer.transport.abort()
    await until(lambda: _is(held, before), "the streams to be let go")
    for writer in streams:
        writer.close()


async def _is(value: Any, expected: float) -> bool:
    return bool(await value() == expected)


class FewDescriptors(GatewayProcess):
    """A gateway that may open 160 files and sockets."""

    def spawn(self) -> None:
        self.exit_code = None
        with self._output.open("ab") as output:
            self._process = started.start(
                "gateway with few descriptors",
                ["sh", "-c", f"ulimit -n 160; exec {COMMAND} serve"],
                output=output,
                cwd=self.folder,
                env=environment(self.settings),
            )


async def test_attack_by_using_up_all_descriptors(target: Target, session_id: str) -> None:
    """Idle connections are turned away before the last descriptors go, then cut, and the work goes on."""
    gateway = FewDescriptors(target.server.url)
    try:
        await gateway.start()
        async with (
            plain_client() as client,
            await SSEStream.open(gateway.events(session_id), token=token(session_id=session_id)) as stream,
        ):
            await stream.ready()
            assert (await client.get(f"{gateway.origin}/readyz")).status_code == 200
            idle = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(300)]
            # On the connection that it has: Redis is still reached, and the stream gets what is published.
            answer = await client.post(
                f"{gateway.base}/publish/{session_id}",
                headers=bearer(session_id, scope="sse:publish") | {"Content-Type": "application/json"},
                content='{"type":"note","data":{}}',
            )
            assert answer.status_code == 200
            await stream.message("note")
            assert gateway.descriptors() < 150
            metrics = (await client.get(f"{gateway.origin}/metrics")).text
            assert int(re.findall(r'cut_total\{reason="too_many"\} (\d+)', metrics)[0]) > 100
            await asyncio.gather(*(reader.read() for reader, _ in idle), return_exceptions=True)
            again = await exchange(gateway.port, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert again.statuses == [200]
            assert not [line for line in gateway.logs() if line["level"] == "error"]
            for _, writer in idle:
                writer.close()
    finally:
        gateway.close()


async def test_attack_by_keeping_every_connection_alive(target: Target, session_id: str) -> None:
    """One client that has a request served on each connection holds no place that another one needs."""
    gateway = FewDescriptors(target.server.url)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def served() -> bool:
        """Open one more connection, and tell whether it is served."""
        idle.append(await asyncio.open_connection("127.0.0.1", gateway.port))
        reader, writer = idle[-1]
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            return (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        except (ConnectionError, asyncio.IncompleteReadError):
            return False

    try:
        await gateway.start()
        ask = {"request_id": "r", "tool_name": "bash"}
        target.server.client.execute_command("FCALL", "sse_ask", 1, session_id, json.dumps(ask))
        async with (
            plain_client(timeout=30) as client,
            await SSEStream.open(gateway.events(session_id), token=token(session_id=session_id)) as stream,
        ):
            await stream.ready()
            # A call that waits, begun before all others: its connection is not idle.
            url = f"{gateway.base}/permissions/{session_id}/r?wait=60"
            waiting = asyncio.create_task(client.get(url, headers=bearer(session_id, scope="sse:publish")))
            while len(idle) < 200 and await served():
                pass
            for _ in range(50):
                await until(served, "another client to be served", seconds=10)
            assert gateway.descriptors() < 150
            metrics = await gateway.metrics()
            assert metrics['sse_gateway_connections_cut_total{reason="idle"}'] >= 50
            target.server.client.execute_command("FCALL", "sse_cancel", 1, session_id, "r")
            assert (await waiting).json()["data"]["status"] == "decided"
            await stream.message("permission_cleared")
    finally:
        for _, writer in idle:
            writer.close()
        gateway.close()


async def test_attack_many_pipelined_requests(target: Target, session_id: str) -> None:
    """Thousands of requests in one go are answered in order, with little kept of them meanwhile."""
    before = target.gateway.rss_bytes()
    many = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 4_000
    answer = await exchange(target.port, many, quiet=3, seconds=20)
    assert set(answer.statuses) == {200}
    assert len(answer.statuses) == 4_000
    assert target.gateway.rss_bytes() - before < 16 * 1024**2


async def test_attack_by_guessing_what_serves(gateways: Gateways, target: Target) -> None:
    """No answer tells the version of anything; the version is for those who may read metrics."""
    for path in ("/healthz", "/readyz", "/nothing", f"{BASE_PATH}/events/s1", f"{BASE_PATH}/health/s1"):
        answer = await exchange(target.port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "Server: sse_gateway" in answer.heads
        assert not re.search(rb"aiohttp|Python|/\d+\.\d+\.\d+", answer.received.replace(b"HTTP/1.1", b""))

"""The tests' own parser and client follow the standard, or they would forgive the gateway its faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ports import free_port
from tests.support.sse import Event, EventParser
from tests.support.stream import SSEStream, StreamError


def events(stream: bytes, size: int = 1 << 20) -> list[tuple[str, str, str]]:
    parser = EventParser()
    return [
        (event.type, event.data, event.last_event_id)
        for start in range(0, len(stream), size)
        for event in parser.feed(stream[start : start + size])
    ]


CASES: dict[str, tuple[bytes, list[tuple[str, str, str]]]] = {
    "the standard's stock ticker": (
        b"data: YHOO\ndata: +2\ndata: 10\n\n",
        [("message", "YHOO\n+2\n10", "")],
    ),
    "the standard's second example": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [("message", "first event", "1"), ("message", "second event", ""), ("message", " third event", "")],
    ),
    "the standard's empty data": (
        b"data\n\ndata\ndata\n\ndata:\n",
        [("message", "", ""), ("message", "\n", "")],
    ),
    "one space after the colon goes": (b"data:test\n\ndata: test\n\n", [("message", "test", "")] * 2),
    "an event's name": (
        b"event: ready\ndata: {}\n\ndata: x\n\n",
        [("ready", "{}", ""), ("message", "x", "")],
    ),
    "CR, LF and CRLF end lines": (
        b"data: a\rdata: b\r\ndata: c\n\r\ndata: d\r\r",
        [("message", "a\nb\nc", ""), ("message", "d", "")],
    ),
    "a byte order mark at the start only": (
        b"\xef\xbb\xbfdata: a\n\ndata: \xef\xbb\xbfb\n\n",
        [("message", "a", ""), ("message", "\ufeffb", "")],
    ),
    "an id without data moves the position and dispatches nothing": (
        b"id: 7\n\ndata: x\n\n",
        [("message", "x", "7")],
    ),
    "an id with NUL is ignored": (
        b"id: 1\ndata: a\n\nid: 2\x003\ndata: b\n\n",
        [("message", "a", "1"), ("message", "b", "1")],
    ),
    "a name without data is forgotten": (b"event: x\n\ndata: y\n\n", [("message", "y", "")]),
    "an unfinished event is lost": (b"data: a\n\ndata: b\n", [("message", "a", "")]),
    "non-ASCII": ("data: grüße 🎉 \u2028\n\n".encode(), [("message", "grüße 🎉 \u2028", "")]),
}


@pytest.mark.parametrize("size", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize("name", CASES)
def test_the_parser_reads_as_the_standard_says_however_the_bytes_arrive(name: str, size: int) -> None:
    stream, expected = CASES[name]
    assert events(stream, size) == expected


def test_the_parser_tells_own_ids_from_inherited_ones_and_lists_what_others_forgive() -> None:
    parser = EventParser()
    found = parser.feed(
        b"retry: 3000\nid: 1\ndata: a\n\ndata: b\n\n: hello\nretry: soon\nevnt: x\ndata: \xff\n\n"
    )
    assert [event.id for event in found] == ["1", None, None]
    assert parser.retry == 3000
    assert parser.comments == [" hello"]
    assert len(parser.complaints) == 3
    assert not parser.unfinished
    parser.feed(b"data: x")
    assert parser.unfinished


@given(st.text(st.characters(exclude_characters="\r\n\ufeff", exclude_categories=["Cs"])), st.integers(1, 9))
def test_any_line_comes_back_as_it_was(line: str, size: int) -> None:
    assert events(f"data: {line}\n\n".encode(), size) == [("message", line, "")]


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Answer], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Answer one connection after the other with raw bytes."""
    servers: list[asyncio.Server] = []

    async def make(answer: Answer) -> str:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
            writer.close()

        port = free_port()
        servers.append(await asyncio.start_server(handle, "127.0.0.1", port))
        return f"http://127.0.0.1:{port}/events?x=1"

    yield make
    for server in servers:
        server.close()
        await server.wait_closed()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


async def test_a_last_chunk_is_a_clean_end(serve: Serve) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        for byte in CHUNKED + b"9;x=y\r\ndata: 1\n\n\r\n5\r\ndata:\r\n4\r\n 2\n\n\r\n0\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()

    stream = await SSEStream.open(await serve(answer))
    assert await stream.ended() == "clean"
    assert [event.data for event in stream.events] == ["1", "2"]
    assert len(stream.arrivals) == 2


async def test_a_missing_last_chunk_is_a_cut(serve: Serve) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"9\r\ndata: 1\n\n\r\n")

    stream = await SSEStream.open(await serve(answer))
    assert await stream.ended() == "cut"


async def test_to_http_10_the_end_of_the_connection_is_a_clean_end(serve: Serve) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD.replace(b"1.1", b"1.0") + b"\r\ndata: 1\n\n")

    stream = await SSEStream.open(await serve(answer), http="1.0")
    assert await stream.ended() == "clean"
    assert stream.events == [Event("message", "1", "", None)]


@pytest.mark.parametrize(
    ("response", "complaint"),
    [
        (CHUNKED + b"9\r\ndata: 1\n\nxx", "without CRLF"),
        (CHUNKED + b"9\r\ndata: 1\n\n\r\nHTTP/1.1 500 Internal Server Error\r\n\r\n", "no chunk's size"),
        (CHUNKED + b"0\r\n\r\nmore", "after the last chunk"),
        (HEAD + b"content-type: text/plain\r\n\r\n", "there twice"),
        (b"SSH-2.0\r\n\r\n", "no HTTP"),
    ],
)
async def test_broken_http_is_a_fault(serve: Serve, response: bytes, complaint: str) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        await writer.drain()

    with pytest.raises(StreamError, match=complaint):
        await (await SSEStream.open(await serve(answer))).ended()


async def test_an_error_is_read_whole_and_is_no_stream(serve: Serve) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nno")
        await asyncio.sleep(0.05)
        writer.write(b"pe")

    stream = await SSEStream.open(await serve(answer))
    assert (stream.status, stream.body, stream.streaming) == (401, b"nope", False)


async def test_a_paused_reader_takes_nothing_and_then_everything(serve: Serve) -> None:
    blocked = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\ndata: 0\n\n")
        await writer.drain()
        await go.wait()
        for number in range(1, 3000):
            writer.write(b"data: %d%s\n\n" % (number, b"." * 1000))
        try:
            async with asyncio.timeout(0.2):
                await writer.drain()
        except TimeoutError:
            blocked.set()
        await writer.drain()

    go = asyncio.Event()
    stream = await SSEStream.open(await serve(answer), receive_buffer=4096)
    await stream.wait(lambda: stream.events, "the first event")
    stream.pause()
    go.set()
    await asyncio.wait_for(blocked.wait(), 5)
    assert len(stream.events) < 100
    stream.resume()
    await stream.ended()
    assert len(stream.events) == 3000


async def test_waiting_for_what_does_not_come_says_what_came(serve: Serve) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\nevent: ready\ndata: {}\n\n")
        await writer.drain()
        await asyncio.sleep(0.3)

    stream = await SSEStream.open(await serve(answer))
    assert await stream.ready() == {}
    with pytest.raises(StreamError, match=r"waited 0.1 s for: event 'closing' no. 1; status 200, 1 events"):
        await stream.event("closing", seconds=0.1)
    with pytest.raises(StreamError, match=r"ended \(clean\) before: message 'x' no. 1"):
        await stream.message("x")


async def test_hanging_up_is_our_own_end(serve: Serve) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        await writer.drain()
        await asyncio.sleep(1)

    stream = await SSEStream.open(await serve(answer))
    stream.abort()
    assert await stream.ended() == "ours"

"""One stream as an outbox: its bounds, its end, and that nothing follows the end."""

from __future__ import annotations

import asyncio

import pytest

from sse_gateway.core.notices import CLOSE_REASONS
from sse_gateway.core.wire import Frame
from sse_gateway.delivery import stream as stream_module
from tests.streams.outbox import Outbox

FRAME = Frame(b"data: x\n\n")


async def test_a_reader_that_takes_everything_is_never_full() -> None:
    """However many events pass, a stream with nothing unsent takes the next."""
    outbox = Outbox(queue_events=2, queue_bytes=10)
    assert all(outbox.stream.push(FRAME.chunk) for _ in range(1000))
    assert (outbox.stream.events, outbox.stream.sent_bytes) == (1000, 1000 * len(FRAME.body))


async def test_a_stream_is_full_by_events() -> None:
    """A push is refused, and writes nothing, once QUEUE_EVENTS were written since the buffer was empty."""
    outbox = Outbox(reads=False, queue_events=3)
    assert [outbox.stream.push(FRAME.chunk) for _ in range(5)] == [True, True, True, False, False]
    assert outbox.text == FRAME.body * 3
    outbox.buffer.take(1)
    assert not outbox.stream.push(FRAME.chunk)
    outbox.buffer.take()
    assert outbox.stream.push(FRAME.chunk)


async def test_a_stream_is_full_by_bytes() -> None:
    """A push is refused while more than QUEUE_BYTES are unsent; one event may pass the limit by itself."""
    outbox = Outbox(reads=False, queue_bytes=100)
    assert outbox.stream.push(Frame(b"x" * 5000).chunk)
    assert not outbox.stream.push(FRAME.chunk)
    outbox.buffer.take(4900)
    assert outbox.stream.push(FRAME.chunk)


@pytest.mark.parametrize("reason", list(CLOSE_REASONS))
async def test_closing_is_the_last_thing_said(reason: str) -> None:
    """A close says why once, ends the body once, tells its owner once, and nothing can follow it."""
    outbox = Outbox(reads=False)
    outbox.stream.close(reason)
    said = outbox.text
    assert outbox.names == ["closing"]
    outbox.stream.write(FRAME)
    outbox.stream.push(FRAME.chunk)
    outbox.stream.close("max_age")
    outbox.stream.end("client_gone")
    assert (outbox.text, outbox.finished, outbox.ended) == (said, 1, [reason])


async def test_nothing_is_written_to_a_connection_that_is_gone() -> None:
    """A stream whose peer left takes frames without an error and without bytes."""
    outbox = Outbox()
    outbox.buffer.closing = True
    assert outbox.stream.push(FRAME.chunk)
    outbox.stream.close("shutdown")
    assert (outbox.text, outbox.ended) == (b"", ["shutdown"])


async def test_who_does_not_take_the_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed stream whose reader takes nothing is aborted after the grace."""
    monkeypatch.setattr(stream_module, "CLOSE_GRACE_SECONDS", 0.05)
    outbox = Outbox(reads=False)
    outbox.stream.close("slow_client")
    assert not outbox.buffer.aborted
    await asyncio.sleep(0.1)
    assert outbox.buffer.aborted


async def test_drained_tells_room_from_the_end() -> None:
    """Waiting for room ends when little is unsent, or says that the stream is over."""
    outbox = Outbox(reads=False)
    outbox.stream.write(Frame(b"x" * 200_000))
    waiting = asyncio.ensure_future(outbox.stream.drained())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    outbox.buffer.take(150_000)
    assert await waiting is True

    outbox.stream.write(Frame(b"x" * 200_000))
    waiting = asyncio.ensure_future(outbox.stream.drained())
    await asyncio.sleep(0.02)
    outbox.buffer.closing = True
    assert await waiting is False
    assert outbox.ended == ["client_gone"]
    assert await outbox.stream.drained() is False

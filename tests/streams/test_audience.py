"""One frame for all live streams of a session: each gets it once, whatever its connection does meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from sse_gateway.core.wire import Frame
from sse_gateway.delivery.audience import Audience
from sse_gateway.delivery.stream import Stream
from tests.streams.outbox import Outbox

FRAME = Frame(b"data: x\n\n")


class Flowing(Outbox):
    """A stream whose carrier tells from within `write` that writing stalls, or goes on, as uvloop does."""

    def __init__(self, *, flows: bool = True, **options: int) -> None:
        super().__init__(reads=False, chunked=True, **options)
        self.reads = True
        """Whether the reader takes what it is sent, from the next write on."""
        self._write: Callable[[bytes], None] = self.buffer.write
        self.buffer.write = self.write  # type: ignore[method-assign]
        if flows:
            self.stream.flows()
        else:
            self.stall()

    def write(self, data: bytes) -> None:
        self._write(data)
        if self.reads:
            self.buffer.take()
            self.stream.flows()
        else:
            self.stream.stalls()

    def stall(self) -> None:
        """Leave one byte unsent."""
        self.buffer.unsent = 1
        self.stream.stalls()


def audience(*outboxes: Outbox) -> Audience:
    live = Audience()
    for outbox in outboxes:
        live.add(outbox.stream)
    return live


@pytest.mark.parametrize("flows", [True, False])
@pytest.mark.parametrize("reads", [True, False])
async def test_a_frame_is_written_once_whatever_the_write_tells(flows: bool, reads: bool) -> None:
    """A stream that stalls, or flows again, by being written to gets this frame once, and so the next."""
    outbox, other = Flowing(flows=flows), Flowing()
    outbox.reads = reads
    live = audience(outbox, other)
    for count in (1, 2):
        assert not live.push(FRAME.chunk)
        assert outbox.text == other.text == FRAME.chunk * count
    assert (outbox.stream.flowing, other.stream.flowing) == (reads, True)


async def test_a_stream_that_stalls_is_bounded_and_returned() -> None:
    """Behind a stall the limits of a stream count from the frame that was not taken."""
    outbox = Flowing(queue_events=3)
    live = audience(outbox)
    live.push(FRAME.chunk)
    outbox.reads = False
    assert [list(live.push(FRAME.chunk)) for _ in range(4)] == [[], [], [], [outbox.stream]]
    assert outbox.text == FRAME.chunk * 4
    outbox.reads = True
    outbox.buffer.take()
    outbox.stream.flows()
    assert not live.push(FRAME.chunk)
    assert outbox.text == FRAME.chunk * 5


async def test_a_connection_that_is_gone_keeps_nobody_from_theirs() -> None:
    """A connection that is gone raises with uvloop; the streams behind it get the frame all the same."""
    before, gone, behind = Flowing(), Flowing(), Flowing()

    def refuse(_data: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    gone.buffer.write = refuse  # type: ignore[method-assign]
    assert not audience(before, gone, behind).push(FRAME.chunk)
    assert before.text == behind.text == FRAME.chunk
    assert not audience(gone).push(FRAME.chunk)


async def test_a_bare_body_never_flows() -> None:
    """A connection of HTTP/1.0 gets the body without chunks, whatever its carrier says."""
    outbox = Outbox()
    outbox.stream.flows()
    assert not audience(outbox).push(FRAME.chunk)
    assert outbox.text == FRAME.body


async def test_a_stream_that_has_ended_never_flows() -> None:
    """What drains after the end does not make a stream one to be written to again."""
    outbox = Flowing()
    live = audience(outbox)
    outbox.stream.end("client_gone")
    said = outbox.text
    live.push(FRAME.chunk)
    outbox.stream.flows()
    live.push(FRAME.chunk)
    assert outbox.text == said


@pytest.mark.parametrize("seed", range(20))
async def test_what_is_counted_is_what_was_written(seed: int) -> None:
    """Frames and bytes of a stream are right in any order of joining, stalling, flowing and leaving."""
    chance = random.Random(seed)
    outboxes = [Flowing(flows=chance.random() < 0.5) for _ in range(5)]
    live, inside = Audience(), set[int]()
    for _ in range(200):
        at = chance.randrange(5)
        outbox = outboxes[at]
        match chance.choice(("join", "leave", "stall", "flow", "push", "push", "own")):
            case "join" if at not in inside:
                live.add(outbox.stream)
                inside.add(at)
            case "leave":
                assert live.remove(outbox.stream) == (at in inside)
                inside.discard(at)
            case "stall":
                outbox.reads = False
            case "flow":
                outbox.reads = True
                outbox.buffer.take()
                outbox.stream.flows()
            case "push":
                live.push(FRAME.chunk)
            case "own":
                outbox.stream.write(FRAME)
        for each in outboxes:
            written: Stream = each.stream
            assert written.events == len(each.buffer.written)
            assert written.sent_bytes == len(each.text)
    assert len(live) == len(inside)

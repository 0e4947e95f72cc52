"""One frame for all live streams of a session: each gets it once, whatever its connection does meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.wire import Frame, bare, durable_chunk
from sse_gateway.delivery.feed import Feed
from sse_gateway.delivery.stream import Stream
from tests.streams.outbox import EPOCH, Outbox, event

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


class Crowd:
    """A session's live streams, to which the same is sent as an event of history or as one without an id."""

    def __init__(self, *, durable: bool) -> None:
        self.durable = durable
        self.feed = Feed("s", b"sse_events:s")
        self.feed.place(Cursor(EPOCH, 0))
        self.feed.parked = None
        self.add, self.remove = self.feed.add, self.feed.remove

    def send(self) -> list[Stream]:
        if not self.durable:
            return list(self.feed.deliver_transient(FRAME))
        behind = self.feed.deliver_next(event(self.feed.last + 1))
        assert behind is not None
        return list(behind)

    @property
    def sent(self) -> bytes:
        """What was sent last, as a chunk."""
        if not self.durable:
            return FRAME.chunk
        return durable_chunk(b"%b-%d" % (EPOCH.encode(), self.feed.last), self.feed.last_data)


@pytest.fixture(params=[False, True], ids=["transient", "durable"])
def crowd(request: pytest.FixtureRequest) -> Crowd:
    return Crowd(durable=request.param)


@pytest.mark.parametrize("flows", [True, False])
@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("alone", [True, False])
async def test_a_frame_is_written_once_whatever_the_write_tells(
    crowd: Crowd, flows: bool, reads: bool, alone: bool
) -> None:
    """A stream that stalls, or flows again, by being written to gets this frame once, and so the next."""
    outbox, other = Flowing(flows=flows), Flowing()
    outbox.reads = reads
    crowd.add(outbox.stream)
    if not alone:
        crowd.add(other.stream)
    sent = b""
    for _ in range(2):
        assert not crowd.send()
        sent += crowd.sent
        assert outbox.text == sent
        assert other.text == (b"" if alone else sent)
    assert (outbox.stream.flowing, other.stream.flowing) == (reads, True)


async def test_a_stream_that_stalls_is_bounded_and_returned(crowd: Crowd) -> None:
    """Behind a stall the limits of a stream count from the frame that was not taken."""
    outbox = Flowing(queue_events=3)
    crowd.add(outbox.stream)
    crowd.send()
    outbox.reads = False
    assert [crowd.send() for _ in range(4)] == [[], [], [], [outbox.stream]]
    assert len(outbox.buffer.written) == 4
    outbox.reads = True
    outbox.buffer.take()
    outbox.stream.flows()
    assert not crowd.send()
    assert outbox.buffer.written[4:] == [crowd.sent]


async def test_a_connection_that_is_gone_keeps_nobody_from_theirs(crowd: Crowd) -> None:
    """A connection that is gone raises with uvloop; the streams behind it get the frame all the same."""
    before, gone, behind = Flowing(), Flowing(), Flowing()

    def refuse(_data: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    gone.buffer.write = refuse  # type: ignore[method-assign]
    crowd.add(gone.stream)
    assert not crowd.send()
    crowd.remove(gone.stream)
    for outbox in (before, gone, behind):
        crowd.add(outbox.stream)
    assert not crowd.send()
    assert before.text == behind.text == crowd.sent


async def test_a_bare_body_never_flows(crowd: Crowd) -> None:
    """A connection of HTTP/1.0 gets the body without chunks, whatever its carrier says."""
    outbox = Outbox()
    outbox.stream.flows()
    crowd.add(outbox.stream)
    assert not crowd.send()
    assert outbox.text == bare(crowd.sent)


async def test_a_stream_that_has_ended_never_flows(crowd: Crowd) -> None:
    """What drains after the end does not make a stream one to be written to again."""
    outbox = Flowing()
    crowd.add(outbox.stream)
    outbox.stream.end("client_gone")
    said = outbox.text
    crowd.send()
    outbox.stream.flows()
    crowd.send()
    assert outbox.text == said


@pytest.mark.parametrize("seed", range(20))
async def test_what_is_counted_is_what_was_written(crowd: Crowd, seed: int) -> None:
    """Frames and bytes of a stream are right in any order of joining, stalling, flowing and leaving."""
    chance = random.Random(seed)
    # One that is alone is written to in another way than several.
    outboxes = [Flowing(flows=chance.random() < 0.5) for _ in range(1 + seed % 5)]
    inside = set[int]()
    for _ in range(200):
        at = chance.randrange(len(outboxes))
        outbox = outboxes[at]
        match chance.choice(("join", "leave", "stall", "flow", "send", "send", "own")):
            case "join" if at not in inside:
                crowd.add(outbox.stream)
                inside.add(at)
            case "leave":
                assert crowd.remove(outbox.stream) == (at in inside)
                inside.discard(at)
            case "stall":
                outbox.reads = False
            case "flow":
                outbox.reads = True
                outbox.buffer.take()
                outbox.stream.flows()
            case "send":
                crowd.send()
            case "own":
                outbox.stream.write(FRAME)
        for each in outboxes:
            written: Stream = each.stream
            assert written.events == len(each.buffer.written)
            assert written.sent_bytes == len(each.text)
    assert len(crowd.feed.live) == len(inside)

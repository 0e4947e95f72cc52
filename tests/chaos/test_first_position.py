"""A new stream's read, the catching up after a reconnect, and live messages, in every order they can have."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.keys import Keys
from sse_gateway.gateway import catching_up as catching_up_module
from sse_gateway.gateway import handover as handover_module
from sse_gateway.gateway.handover import Handover
from sse_gateway.gateway.live import Live
from sse_gateway.metrics import Metrics
from sse_gateway.store.history import Entry, Reading
from tests.streams.outbox import EPOCH, Outbox, event
from tests.support.wait import until

EVENTS = 2
SHOWN = re.compile(rb'^data: \{"id":"[0-9a-f]+-([0-9]+)"', re.MULTILINE)
STEPS = (
    *(f"publish {seq}" for seq in range(1, EVENTS + 1)),
    *(f"hear {seq}" for seq in range(1, EVENTS + 1)),
    *(f"{who} {what}" for who in ("join", "catch-up") for what in ("looks", "hears")),
)


class History:
    """A history whose first two readers look, and hear what they saw, when the test says so."""

    def __init__(self) -> None:
        self.top = 0
        self.readers: list[tuple[str | None, asyncio.Future[Reading]]] = []
        self.seen: dict[str, Reading] = {}

    async def read(self, session_id: str, cursor: str | None, *, mode: str = "snapshot") -> Reading:
        if len(self.readers) >= 2:
            await asyncio.sleep(0)
            return self._look(cursor)
        reply: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()
        self.readers.append((cursor, reply))
        return await reply

    def step(self, who: str, what: str) -> None:
        cursor, reply = self.readers[("join", "catch-up").index(who)]
        if what == "looks":
            self.seen[who] = self._look(cursor)
        else:
            reply.set_result(self.seen[who])

    def _look(self, cursor: str | None) -> Reading:
        after = Cursor.parse(cursor) if cursor else None
        missed = range(after.seq + 1, self.top + 1) if after else ()
        return Reading(
            owner=None, ended=False, epoch=EPOCH, top=self.top, verdict="ok" if after else "none", oldest=0,
            entries=[Entry(seq, event(seq), None) for seq in missed], more=False, pending=[], state=[],
            now_ms=0,
        )  # fmt: skip


class Push:
    """A push connection on which every channel is live."""

    async def acquire(self, channel: bytes) -> None:
        pass

    def release(self, channel: bytes) -> None:
        pass


def orders() -> Iterator[tuple[str, ...]]:
    """Yield every order in which nothing is heard before it happened, and messages keep theirs."""
    for order in itertools.permutations(STEPS):
        at = {step: place for place, step in enumerate(order)}
        numbers = range(1, EVENTS + 1)
        if (
            all(at[f"publish {seq}"] < at[f"hear {seq}"] for seq in numbers)
            and all(at[f"publish {seq}"] < at[f"publish {seq + 1}"] for seq in numbers[:-1])
            and all(at[f"hear {seq}"] < at[f"hear {seq + 1}"] for seq in numbers[:-1])
            and all(at[f"{who} looks"] < at[f"{who} hears"] for who in ("join", "catch-up"))
        ):
            yield order


def made_live(history: History) -> Live:
    """Return what takes the messages of all sessions, with nobody to react to anything."""
    return Live(
        cast(Any, history), keys=Keys(), max_event_bytes=1000, metrics=Metrics(),
        on_request=lambda *_: None, on_permission=lambda *_: None, on_ended=lambda *_: None,
        on_behind=lambda *_: None, on_other=lambda *_: None, ready=lambda *_: cast(Any, None),
    )  # fmt: skip


async def play(order: tuple[str, ...]) -> Outbox:
    """Let a stream join in this order of things, publish one event more, and return what it was sent."""
    history = History()
    live = made_live(history)
    handover = Handover(
        live=live, push=cast(Any, Push()), history=cast(Any, history), metrics=Metrics(), gateway_id="g",
        heartbeat_seconds=30,
    )  # fmt: skip
    outbox = Outbox()

    async def join() -> None:
        async with handover.gate("s") as joining:
            reading = await handover.read(joining, None, mode="none")
            joining.stream = outbox.stream
            await handover.bring_live(joining, outbox.stream, reading, cursor=None)

    def hear(seq: int) -> None:
        live.receive(b"sse_events:s", event(seq))

    joining = asyncio.create_task(join())
    await until(lambda: len(history.readers) == 1, "the stream's read", every=0)
    live.restored()
    await until(lambda: len(history.readers) == 2, "the catching up's read", every=0)
    for step in order:
        what, _, which = step.partition(" ")
        if what == "publish":
            history.top = int(which)
        elif what == "hear":
            hear(int(which))
        else:
            history.step(what, which)
        for _ in range(random.choice((0, 1, 5))):
            await asyncio.sleep(0)
    await asyncio.wait_for(joining, 5)
    history.top = EVENTS + 1
    hear(history.top)
    feed = live.feed_of("s")
    assert feed is not None
    await until(lambda: feed.last == history.top and feed.parked is None, "the last event", every=0.001)
    await handover.stop()
    await live.stop()
    return outbox


async def test_a_first_position_told_twice_is_one_position(
    monkeypatch: pytest.MonkeyPatch, scale: Callable[[int, int], int]
) -> None:
    """A stream that joins while everything is caught up misses and repeats nothing, whatever comes first."""
    for module, name in (
        (catching_up_module, "CATCH_UP_SECONDS"),
        (catching_up_module, "CATCH_UP_BATCH_SECONDS"),
        (handover_module, "LIVE_LAG_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 0.002)
    possible = list(orders())
    for order in random.sample(possible, min(scale(150, 1000), len(possible))):
        outbox = await play(order)
        assert outbox.names == ["ready"], (order, outbox.text)
        shown = [int(seq) for seq in SHOWN.findall(outbox.text)]
        began = EVENTS + 1 - len(shown)
        assert shown == list(range(began + 1, EVENTS + 2)), (order, outbox.text)


async def test_what_waited_for_a_session_that_was_left_is_not_shown_to_who_comes_next() -> None:
    """Messages that came while a feed caught up go with it: they are older than its successor's stream."""
    history = History()
    live = made_live(history)
    left = live.join("s")
    live.restored()
    await until(lambda: len(history.readers) == 1, "the catching up's read", every=0)
    live.receive(b"sse_events:s", b'{"type":"note","data":{"for":"who was here before"}}')
    live.leave(left.feed, join=left)
    joined = live.join("s")
    joined.feed.place(Cursor(EPOCH, 0))
    joined.feed.parked = None
    outbox = Outbox()
    assert joined.feed.admit(joined, outbox.stream, joined.feed.position) is None
    # The catching up that was cancelled comes to its end.
    await until(lambda: left.feed.parked is None, "the end of the catching up", every=0)
    assert outbox.text == b""
    await live.stop()

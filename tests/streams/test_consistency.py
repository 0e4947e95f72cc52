"""Whatever happens to a session in Redis, every stream's view of it stays consistent, or is reset.

A hypothesis state machine on a real server and two real gateways. The model is a tree: every event published
has one parent, the event at the history's top when it was published. Trimming and losing history changes what
can be resumed, a flush begins at a new root, and a restart from an older dump goes on from an earlier event,
so that what came after it becomes a dead branch. A view is consistent if each of its events is the parent of
the next; a stream that stood on a dead branch has to be reset, and says so.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Coroutine
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from redis.exceptions import ResponseError

from tests.support.gateway import GatewayProcess
from tests.support.modes import scaled
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token
from tests.support.wait import Hopeless, until, until_sync

MOST_VIEWERS = 4
GATEWAYS = st.integers(0, 1)


class Node:
    """One event of the tree; a root has seq 0 and was never published."""

    def __init__(self, seq: int, *, marker: int = 0, parent: Node | None = None) -> None:
        self.seq = seq
        self.marker = marker
        self.parent = parent


class Viewer:
    """One browser tab: its connections, the last id it saw, and where that is in the tree."""

    def __init__(self, nodes: dict[str, Node], *, harms_before: int) -> None:
        self._nodes = nodes
        self.harms_before = harms_before
        """How many harms had happened when it came, or last came to rest: they are no reason to reset it."""
        self.stream: SSEStream | None = None
        self._taken = 0
        self.cursor: str | None = None
        self.at: Node | None = None
        """The last event; None while only a position is known, from a `ready` after a reset or at first."""
        self.seq: int | None = None
        self.resets = 0
        self._transient: set[int] = set()

    def connected(self, stream: SSEStream) -> None:
        self.stream, self._taken = stream, 0

    @property
    def open(self) -> bool:
        return self.stream is not None and self.stream.end is None

    def look(self) -> None:
        """Take in what has come, and check that it continues what was there."""
        if self.stream is None:
            return
        events = self.stream.events
        while self._taken < len(events):
            event = events[self._taken]
            self._taken += 1
            if event.type == "stream_reset":
                self.resets += 1
                self.at = self.seq = None
            elif event.type == "ready":
                seq = int(event.json["cursor"].partition("-")[2])
                assert self.seq in (None, seq), f"ready at {seq}, but {self.seq} was the last event"
                self.seq, self.cursor = seq, event.id
            elif event.type == "message" and event.id is not None:
                self._event(event.id, event.json)
            elif event.type == "message" and event.json["type"] == "token":
                number = event.json["data"]["n"]
                assert number not in self._transient, "a transient event came twice"
                self._transient.add(number)

    def _event(self, id: str, event: Any) -> None:
        node = self._nodes[id]
        assert event["id"] == id
        assert event["data"]["n"] == node.marker, f"{id} is not what was published as {id}"
        if self.at is not None:
            assert node.parent is self.at, f"{id} does not follow {self.cursor}"
        elif self.seq is not None:
            assert node.seq == self.seq + 1, f"{id} does not follow position {self.seq}"
        self.at, self.seq, self.cursor = node, node.seq, id

    def stands_at(self, node: Node) -> bool:
        """Tell whether this is the last event seen, or the position told with the last reset."""
        self.look()
        return self.seq == node.seq and self.at in (None, node)


class Session(RuleBasedStateMachine):
    """One session, its viewers, and everything that can happen to them."""

    def __init__(
        self, server: RedisProcess, gateways: list[GatewayProcess], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__()
        self.server = server
        self.gateways = gateways
        self.loop = loop
        self.id = f"s-{uuid.uuid4().hex[:12]}"
        self.bearer = token(session_id=self.id, exp=2_000_000_000)
        self.nodes: dict[str, Node] = {}
        self.top = Node(0)
        self.dumped = Node(0)
        """What a restart goes back to."""
        self.viewers: list[Viewer] = []
        self.count = 0
        self.harms = 0
        """How often something happened that may cost a view its continuation."""
        server.dump.unlink(missing_ok=True)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    def key(self, name: str) -> str:
        return f"sse:{{{self.id}}}:{name}"

    # what an agent does

    @rule(events=st.integers(1, 5))
    def publish(self, events: int) -> None:
        for _ in range(events):
            self.count += 1
            event = json.dumps({"type": "note", "data": {"n": self.count}})

            def published(event: str = event) -> str:
                try:
                    return str(self.server.client.fcall("sse_publish", 1, self.id, event))
                except ResponseError as error:
                    # A server that came back empty: a gateway gives it the functions again.
                    if "not found" not in str(error):
                        raise Hopeless(str(error)) from error
                    return ""

            id = until_sync(published, "the functions to be loaded")
            node = Node(int(id.partition("-")[2]), marker=self.count, parent=self.top)
            assert node.seq == self.top.seq + 1
            assert id not in self.nodes, "an id given twice"
            self.nodes[id] = self.top = node

    @rule(events=st.integers(1, 3))
    def publish_plainly(self, events: int) -> None:
        for _ in range(events):
            self.count += 1
            event = json.dumps({"type": "token", "data": {"n": self.count}})
            self.server.client.publish(f"sse_events:{self.id}", event)

    # what viewers do

    @precondition(lambda self: len(self.viewers) < MOST_VIEWERS)
    @rule(gateway=GATEWAYS, mode=st.sampled_from(["snapshot", "all", "none"]), patient=st.booleans())
    def connect(self, gateway: int, mode: str, patient: bool) -> None:
        self.viewers.append(Viewer(self.nodes, harms_before=self.harms))
        self.run(self._connect(self.viewers[-1], gateway, mode=mode, patient=patient))

    @precondition(lambda self: any(viewer.open for viewer in self.viewers))
    @rule(data=st.data(), reset=st.booleans())
    def disconnect(self, data: st.DataObject, reset: bool) -> None:
        viewer = data.draw(st.sampled_from([viewer for viewer in self.viewers if viewer.open]))
        self.run(self._disconnect(viewer, reset=reset))

    @precondition(lambda self: any(not viewer.open for viewer in self.viewers))
    @rule(data=st.data(), gateway=GATEWAYS, patient=st.booleans())
    def resume(self, data: st.DataObject, gateway: int, patient: bool) -> None:
        viewer = data.draw(st.sampled_from([viewer for viewer in self.viewers if not viewer.open]))
        self.run(self._connect(viewer, gateway, patient=patient))

    async def _connect(self, viewer: Viewer, gateway: int, *, mode: str = "snapshot", patient: bool) -> None:
        viewer.look()
        url = self.gateways[gateway].events(self.id, f"replay={mode}")
        viewer.connected(await SSEStream.open(url, token=self.bearer, last_event_id=viewer.cursor))
        if patient:
            await self._live(viewer)

    async def _live(self, viewer: Viewer) -> bool:
        """Wait until the viewer's stream is live, or was closed because Redis could not be reached."""
        stream = viewer.stream
        assert stream is not None
        await until(lambda: stream.named("ready") or stream.end, "a stream to be live or closed")
        viewer.look()
        return bool(stream.named("ready"))

    async def _disconnect(self, viewer: Viewer, *, reset: bool = False) -> None:
        stream = viewer.stream
        assert stream is not None
        stream.abort() if reset else stream.close()
        await until(lambda: stream.end is not None, "the connection to be closed")
        viewer.look()

    # what happens in Redis

    @rule(left=st.integers(0, 3))
    def trim(self, left: int) -> None:
        self.harms += 1
        self.server.client.xtrim(self.key("history"), maxlen=left, approximate=False)

    @rule(what=st.sampled_from(["meta", "history", "both"]))
    def expire(self, what: Literal["meta", "history", "both"]) -> None:
        self.harms += 1
        names = ["meta", "history"] if what == "both" else [what]
        for name in names:
            self.server.client.pexpire(self.key(name), 0)
        if "meta" in names:
            self.top = Node(0)

    @rule()
    def flush(self) -> None:
        self.harms += 1
        self.server.client.flushall()
        self.top = Node(0)

    @rule()
    def save(self) -> None:
        self.server.save()
        self.dumped = self.top

    @rule(patient=st.booleans())
    def restart_from_the_dump(self, patient: bool) -> None:
        self.harms += 1
        self.server.restart()
        self.top = self.dumped
        if patient:
            self.run(self._gateways_ready())

    @rule(lost=st.integers(0, 4), after=st.integers(0, 4), patient=st.booleans())
    def crash(self, lost: int, after: int, patient: bool) -> None:
        """Lose what was published last, and publish as much again, perhaps before a gateway is back."""
        self.save()
        self.publish(lost)
        if patient:
            self.run(asyncio.sleep(0.05))
        self.restart_from_the_dump(patient=False)
        self.publish(after)

    @rule()
    def lose_the_push_connections(self) -> None:
        self.server.client.client_kill_filter(_type="pubsub")

    @rule(seconds=st.sampled_from([0.02, 0.3]))
    def let_time_pass(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    # what must hold

    @rule()
    def settle(self) -> None:
        """Let everything come to rest: then every viewer has seen the last event, or was told of a reset."""
        self.run(self._settle())

    async def _settle(self) -> None:
        await self._gateways_ready()
        for turn, viewer in enumerate(self.viewers):

            async def live(viewer: Viewer = viewer, turn: int = turn) -> bool:
                if not viewer.open:
                    await self._connect(viewer, turn % 2, patient=False)
                return await self._live(viewer)

            await until(live, "every viewer to be live", seconds=20)
        self.publish(1)
        for viewer in self.viewers:
            await self._at_the_top(viewer)
        for viewer in self.viewers:
            reasons = self.harms - viewer.harms_before
            assert viewer.resets <= reasons, f"{viewer.resets} resets for {reasons} reasons"
            # All is at rest at the top: what happened until now is no reason any more.
            viewer.resets, viewer.harms_before = 0, self.harms

    async def _at_the_top(self, viewer: Viewer) -> None:
        what = f"a viewer at {viewer.seq} to stand at {self.top.seq}"
        await until(lambda: viewer.stands_at(self.top), what, seconds=15)

    async def _gateways_ready(self) -> None:
        for gateway in self.gateways:
            await gateway.answers("/readyz")

    def teardown(self) -> None:
        try:
            self.settle()
            reader = Viewer(self.nodes, harms_before=self.harms)
            self.run(self._connect(reader, 0, mode="all", patient=True))
            assert reader.stands_at(self.top)
            self.viewers.append(reader)
        finally:
            for viewer in self.viewers:
                if viewer.open:
                    self.run(self._disconnect(viewer))


@pytest.mark.scaled
@pytest.mark.timeout(900)
def test_every_view_is_consistent_or_was_reset(own_server: RedisProcess) -> None:
    """Over any sequence of events, faults and reconnects, no view has a gap, a repetition or a false event.

    And when all has come to rest, every view has reached the last event, and nobody was reset more often than
    something happened to the history.
    """
    loop = asyncio.new_event_loop()
    gateways = [GatewayProcess(own_server.url, heartbeat_seconds=60) for _ in range(2)]
    try:
        for gateway in gateways:
            loop.run_until_complete(gateway.start())
        run_state_machine_as_test(
            lambda: Session(own_server, gateways, loop),
            settings=settings(
                max_examples=scaled(4, 60),
                stateful_step_count=scaled(20, 30),
                deadline=None,
                # A step takes real time, and a failure is no less clear for being long.
                suppress_health_check=list(HealthCheck),
                phases=(Phase.explicit, Phase.reuse, Phase.generate),
                database=None,
            ),
        )
    finally:
        for gateway in gateways:
            gateway.close()
        loop.close()

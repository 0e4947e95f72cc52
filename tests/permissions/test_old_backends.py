"""SIMPLE_NOTIFIER_COMPAT: backends with one channel for all sessions, and a slot for the latest of each kind.

The gateways and the server are those of `old_desk`: three that listen to the old channel.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.permissions.conftest import Desk
from tests.permissions.desk import CROWDED, Agent, Dial, Ear, Gateways, Tab, answering, open_at
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.wait import until

OLD_TYPES = ("tool_status", "tool_result")


class OldBackend:
    """A backend of the old kind: it publishes on `sse_events` and keeps the latest of each kind in a slot."""

    def __init__(self, server: RedisProcess, session_id: str) -> None:
        self.server = server
        self.session_id = session_id
        self._turn = itertools.count()

    def event(self, kind: str, data: Any) -> str:
        """Return an event as it stands on the old channel."""
        stamp = datetime.now(UTC).isoformat()
        return json.dumps({"session_id": self.session_id, "type": kind, "data": data, "timestamp": stamp})

    def say(self, kind: str, data: Any) -> int:
        """Publish an event; return how many heard it."""
        heard: int = self.server.client.publish("sse_events", self.event(kind, data))
        return heard

    def request(self, tool_name: str = "bash", **members: Any) -> dict[str, Any]:
        """Return the data of a permission request that no other has."""
        stamp = f"{datetime.now(UTC).isoformat()}#{next(self._turn)}"
        return {"tool_name": tool_name, "parameters": {"cmd": "ls"}, "timestamp": stamp, **members}

    def ask(self, tool_name: str = "bash", **members: Any) -> None:
        """Publish a permission request."""
        self.say("permission_request", self.request(tool_name, **members))

    def clear(self, **data: Any) -> None:
        """Say that the request is over."""
        self.say("permission_cleared", data)

    def keep(self, kind: str, data: Any) -> None:
        """Put data into the slot of its kind."""
        self.server.client.set(f"{kind}:{self.session_id}", json.dumps(data))

    def drop(self, kind: str) -> None:
        """Empty a slot."""
        self.server.client.delete(f"{kind}:{self.session_id}")


@pytest.fixture
def backend(old_desk: Desk, session_id: str) -> OldBackend:
    """The backend of this test's session."""
    return OldBackend(old_desk.server, session_id)


@pytest.fixture
def old_agent(old_desk: Desk) -> Agent:
    """What the scripts say on the old desk's server."""
    return Agent(old_desk.server)


def tools(stream: SSEStream) -> list[str]:
    """Return the tools of the requests that a page shows as open."""
    by_id = {
        m["data"]["request_id"]: m["data"]["tool_name"]
        for m in stream.messages
        if m["type"] == "permission_request"
    }
    return [by_id[request_id] for request_id in open_at(stream)]


def open_tools(agent: Agent, session_id: str) -> list[str]:
    """Return the tools of the requests that Redis holds open."""
    requests = agent.call("pending", session_id)[3][1::5]
    return [json.loads(request)["tool_name"] for request in requests]


async def cleared(desk: Desk, session_id: str) -> None:
    """Wait until a gateway has dealt with a clear."""
    marks = f"sse:{{{session_id}}}:cleared:*"
    await until(lambda: list(desk.server.client.scan_iter(marks, count=100_000)), "the clear to count")


async def test_each_event_reaches_each_stream_once(
    old_desk: Desk, backend: OldBackend, tab: Tab, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """What one old producer says reaches every stream of three gateways once, in order, requests too."""
    rounds = scale(20, 500)
    tabs = [await tab(gateway, session_id) for gateway in old_desk.gateways for _ in range(2)]
    others = [await tab(gateway, f"{session_id}-other") for gateway in old_desk.gateways]
    for n in range(rounds):
        assert backend.say("tool_status", {"n": n}) == 3
        backend.ask(f"tool-{n}")
        for stream in tabs:
            # The script's event travels apart from the plain ones, so each is waited for.
            await stream.message("permission_request", count=n + 1)
        backend.say("tool_result", {"n": n})
        backend.clear()
        for stream in tabs:
            await stream.message("permission_cleared", count=n + 1)
    for stream in tabs:
        kinds = ("tool_status", "permission_request", "tool_result", "permission_cleared")
        for kind in kinds:
            found = [m for m in stream.messages if m["type"] == kind]
            assert len(found) == rounds
            if kind in OLD_TYPES:
                assert [m["data"]["n"] for m in found] == list(range(rounds))
                assert not any("id" in m for m in found)
        asked = [m["data"] for m in stream.messages if m["type"] == "permission_request"]
        assert [data["tool_name"] for data in asked] == [f"tool-{n}" for n in range(rounds)]
        assert len(stream.ids) == len(set(stream.ids)) == 2 * rounds
    for stream in others:
        assert not stream.messages


async def test_an_old_request_is_answered_and_its_backend_hears_of_it(
    old_desk: Desk, backend: OldBackend, old_agent: Agent, tab: Tab, dial: Dial, session_id: str
) -> None:
    """An answer at another gateway reaches a backend that has learnt no more than to subscribe."""
    stream = await tab(old_desk.a, session_id)
    backend.ask("deploy")
    request = (await stream.message("permission_request"))["data"]
    assert request["request_id"].startswith("lg-")
    async with Ear(old_desk.server, session_id) as ear:
        line = await dial(old_desk.b)
        body = {"approved": True, "request_id": request["request_id"]}
        assert (await line.send(answering(session_id, body))).won
        await until(lambda: [d["outcome"] for d in ear.heard] == ["approved"], "the backend to hear")
    # What it says next is no news.
    backend.clear()
    backend.ask("next")
    await stream.message("permission_request", count=2)
    cleared = [m["data"]["outcome"] for m in stream.messages if m["type"] == "permission_cleared"]
    assert cleared == ["approved"]
    assert open_tools(old_agent, session_id) == ["next"]


async def test_a_clear_never_overtakes_its_request(
    old_desk: Desk, backend: OldBackend, old_agent: Agent, tab: Tab, session_id: str, scale: Any
) -> None:
    """Request and clear in one breath: it is asked and withdrawn, in this order, and never left open."""
    tabs = [await tab(gateway, session_id) for gateway in old_desk.gateways]
    # Not more than the history has room for.
    rounds = scale(60, 450)
    for _ in range(rounds):
        with old_desk.server.client.pipeline(transaction=False) as together:
            together.publish("sse_events", backend.event("permission_request", backend.request()))
            together.publish("sse_events", backend.event("permission_cleared", {}))
            together.execute()
    backend.ask("last")
    for stream in tabs:
        await stream.message("permission_request", count=rounds + 1, seconds=60)
        await stream.wait(lambda stream=stream: tools(stream) == ["last"], "the rest to be over")  # type: ignore[misc]
    assert open_tools(old_agent, session_id) == ["last"]
    asked, cleared = (old_agent.events(session_id, f"permission_{kind}") for kind in ("request", "cleared"))
    assert len(asked) == rounds + 1
    assert [event["data"]["outcome"] for event in cleared] == ["cancelled"] * rounds


async def test_a_clear_that_a_gateway_hears_late_leaves_the_next_request_open(
    old_desk: Desk, backend: OldBackend, old_agent: Agent, tab: Tab, session_id: str
) -> None:
    """A gateway that stood still while others went on cancels what was cleared, not what was asked since."""
    stream = await tab(old_desk.a, session_id)
    late = await tab(old_desk.c, session_id)
    old_desk.c.pause()
    try:
        backend.ask("first")
        backend.clear()
        backend.ask("second")
        await stream.wait(lambda: tools(stream) == ["second"], "the second request")
    finally:
        old_desk.c.resume()
    # The third is asked by the late one alone, in its turn: it has dealt with the clear by then.
    old_desk.a.pause()
    old_desk.b.pause()
    try:
        backend.ask("third")
        await late.wait(lambda: "third" in tools(late), "the third request")
        assert tools(late) == ["second", "third"]
    finally:
        old_desk.a.resume()
        old_desk.b.resume()
    await stream.wait(lambda: tools(stream) == ["second", "third"], "the third request")
    assert open_tools(old_agent, session_id) == ["second", "third"]


async def test_a_clear_counts_at_the_gateway_that_asks_last(
    old_desk: Desk, backend: OldBackend, old_agent: Agent, tab: Tab, session_id: str
) -> None:
    """The others, without a stream, are done with the clear before the one with a stream has asked."""
    stream = await tab(old_desk.c, session_id)
    old_desk.c.pause()
    try:
        backend.ask("first")
        backend.clear()
        await cleared(old_desk, session_id)
    finally:
        old_desk.c.resume()
    await stream.message("permission_request")
    assert (await stream.message("permission_cleared"))["data"]["outcome"] == "cancelled"
    assert open_tools(old_agent, session_id) == []


async def test_a_clear_counts_though_nobody_is_watching(
    old_desk: Desk, backend: OldBackend, old_agent: Agent, tab: Tab, session_id: str
) -> None:
    """A request withdrawn while its page is reloaded is closed when the page is back."""
    stream = await tab(old_desk.a, session_id)
    backend.ask("first")
    await stream.message("permission_request")
    stream.close()
    await stream.ended()
    await until(
        lambda: [line for line in old_desk.a.logs("SSE stream closed") if line["session"] == session_id],
        "nobody to be there",
    )
    backend.clear()
    await until(lambda: open_tools(old_agent, session_id) == [], "the request to be withdrawn")
    back = await tab(old_desk.b, session_id)
    assert tools(back) == []


async def test_a_clear_that_names_its_request_leaves_the_others(
    old_desk: Desk, backend: OldBackend, tab: Tab, session_id: str
) -> None:
    """A backend that numbers its requests withdraws the one it names."""
    stream = await tab(old_desk.a, session_id)
    for name in ("one", "two"):
        backend.ask(name, request_id=name)
    backend.ask("three")
    await stream.message("permission_request", count=3)
    backend.clear(request_id="one")
    await stream.wait(lambda: tools(stream) == ["two", "three"], "the first to be withdrawn")
    backend.clear()
    await stream.wait(lambda: tools(stream) == ["two"], "the one without a name to be withdrawn")


async def test_slots_are_shown_to_who_comes_and_the_request_is_asked_once(
    old_desk: Desk, backend: OldBackend, old_agent: Agent, tab: Tab, session_id: str
) -> None:
    """Status and result of the slots come with the snapshot; the request under the id it has everywhere."""
    backend.keep("tool_status", {"status": "executing"})
    backend.keep("tool_result", {"result": 7})
    backend.keep("permission_request", backend.request("deploy"))
    tabs = await asyncio.gather(*(tab(gateway, session_id) for gateway in old_desk.gateways))
    for stream in tabs:
        assert tools(stream) == ["deploy"]
        shown = {m["type"]: m["data"] for m in stream.messages if m["type"] in OLD_TYPES}
        assert shown == {"tool_status": {"status": "executing"}, "tool_result": {"result": 7}}
    assert len(old_agent.events(session_id, "permission_request")) == 1


@pytest.mark.parametrize("way", ["from the slot", "live"])
async def test_a_slot_that_nobody_empties_is_not_asked_again(
    old_desk: Desk, backend: OldBackend, old_agent: Agent, tab: Tab, session_id: str, way: str
) -> None:
    """Long after a request was settled and forgotten, what still lies in its slot opens no dialog."""
    request = backend.request("deploy")
    if way == "live":
        first = await tab(old_desk.a, session_id)
        backend.say("permission_request", request)
        backend.keep("permission_request", request)
    else:
        backend.keep("permission_request", request)
        first = await tab(old_desk.a, session_id)
    await first.message("permission_request")
    backend.clear()
    await first.message("permission_cleared")
    # As after an hour: Redis has forgotten the decision.
    old_desk.server.client.delete(f"sse:{{{session_id}}}:permissions", f"sse:{{{session_id}}}:settled")
    for gateway in old_desk.gateways:
        late = await tab(gateway, session_id)
        assert tools(late) == []
    assert open_tools(old_agent, session_id) == []
    # The next one in the slot is another one.
    backend.keep("permission_request", backend.request("next"))
    late = await tab(old_desk.c, session_id)
    assert tools(late) == ["next"]


async def test_a_request_cleared_before_anybody_saw_it_is_not_asked_from_its_slot(
    old_desk: Desk, backend: OldBackend, old_agent: Agent, tab: Tab, session_id: str
) -> None:
    """A request that was published and withdrawn while nobody watched is over, though its slot remains."""
    request = backend.request("deploy")
    backend.keep("permission_request", request)
    assert backend.say("permission_request", request) == 3
    backend.clear()
    await cleared(old_desk, session_id)
    stream = await tab(old_desk.a, session_id)
    assert tools(stream) == []
    assert open_tools(old_agent, session_id) == []


async def test_a_clear_before_a_page_asks_from_a_slot_that_stays_leaves_no_ghost(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    gateways: Gateways,
    tab: Tab,
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    """One gateway knows what is cleared; the other, started since, is asked for it at that very moment."""
    first = await gateways(own_server, simple_notifier_compat=True, **CROWDED)
    rounds = scale(40, 200)
    backends = [OldBackend(own_server, f"{session_id}-{n}") for n in range(rounds)]
    for backend in backends:
        request = backend.request("deploy")
        backend.keep("permission_request", request)
        backend.say("permission_request", request)
    proxy = proxied(own_server)
    second = await gateways(proxy, simple_notifier_compat=True, **CROWDED)
    proxy.delay(0.1, way="down")

    async def clear(backend: OldBackend, after: float) -> None:
        await asyncio.sleep(after)
        backend.clear()

    clearing = [asyncio.create_task(clear(backend, 1.5 * n / rounds)) for n, backend in enumerate(backends)]
    pages = await asyncio.gather(*(tab(second, backend.session_id) for backend in backends))
    await asyncio.gather(*clearing)
    proxy.delay(0)
    # Both have dealt with the clear when they have asked what follows it.
    watching = [await tab(first, backend.session_id) for backend in backends]
    for backend in backends:
        backend.ask("last")
    agent = Agent(own_server)
    for backend, *streams in zip(backends, pages, watching, strict=True):
        for stream in streams:
            await stream.wait(lambda stream=stream: "last" in tools(stream), "the last request")  # type: ignore[misc]
        assert open_tools(agent, backend.session_id) == ["last"]


async def test_a_clear_that_was_said_before_leaves_what_a_page_finds_in_the_slot(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    gateways: Gateways,
    tab: Tab,
    session_id: str,
) -> None:
    """Both gateways are behind with clears when the next request is put into its slot and a page comes."""
    proxy = proxied(own_server)
    two = [await gateways(proxy, simple_notifier_compat=True, **CROWDED) for _ in range(2)]
    proxy.delay(0.02, way="down")
    agent = Agent(own_server)
    for n in range(6):
        backend = OldBackend(own_server, f"{session_id}-{n}")
        for turn in range(4 * n):
            backend.clear(turn=turn)
        backend.keep("permission_request", backend.request("next"))
        page = await tab(two[n % 2], backend.session_id)
        assert tools(page) == ["next"]
        watching = [await tab(gateway, backend.session_id) for gateway in two]
        backend.ask("last")
        for stream in watching:
            await stream.wait(lambda stream=stream: "last" in tools(stream), "the last request")  # type: ignore[misc]
        assert open_tools(agent, backend.session_id) == ["next", "last"]


async def test_a_clear_that_names_what_nobody_asked_is_the_end_of_it(
    old_desk: Desk, backend: OldBackend, old_agent: Agent, tab: Tab, session_id: str
) -> None:
    """A request of the backend's own name, still in its slot: it was withdrawn before anybody came."""
    backend.keep("permission_request", backend.request("deploy", request_id="mine"))
    backend.clear(request_id="mine")
    await cleared(old_desk, session_id)
    stream = await tab(old_desk.a, session_id)
    assert tools(stream) == []
    assert open_tools(old_agent, session_id) == []


@pytest.mark.parametrize("name", [None, ""], ids=["null", "empty"])
async def test_a_request_whose_id_says_nothing_gets_one(
    old_desk: Desk, backend: OldBackend, tab: Tab, session_id: str, name: str | None
) -> None:
    """A `request_id` that is null or empty counts as missing, on the old channel and on the session's own."""
    tabs = [await tab(gateway, session_id) for gateway in old_desk.gateways]
    backend.ask("old", request_id=name, editable=True)
    request = {"type": "permission_request", "data": backend.request("plain", request_id=name)}
    old_desk.server.client.publish(f"sse_events:{session_id}", json.dumps(request))
    for stream in tabs:
        await stream.wait(lambda stream=stream: sorted(tools(stream)) == ["old", "plain"], "both requests")  # type: ignore[misc]
        for m in stream.messages:
            assert m["data"]["request_id"].startswith("lg-")
            assert m["data"]["parameters"] == {"cmd": "ls"}
    assert len({m["data"]["request_id"] for stream in tabs for m in stream.messages}) == 2


async def test_what_is_no_request_is_dropped_and_the_rest_goes_on(
    old_desk: Desk, backend: OldBackend, tab: Tab, session_id: str
) -> None:
    """Nonsense on the old channel costs a count and a line, and never the next event."""
    stream = await tab(old_desk.a, session_id)
    before = (await old_desk.a.metrics())['sse_gateway_events_received_total{kind="malformed"}']
    client = old_desk.server.client
    for nonsense in (b"\xff", b"[]", b'"x"', b"7", b"{}", b'{"session_id":7,"type":"permission_cleared"}'):
        client.publish("sse_events", nonsense)
    for data in (None, [], {"tool_name": "bash"}, {"tool_name": 7, "timestamp": "x"}):
        backend.say("permission_request", data)
    backend.clear()
    backend.say("permission_cleared", None)
    backend.ask("good")
    await stream.wait(lambda: tools(stream) == ["good"], "the good one")
    after = (await old_desk.a.metrics())['sse_gateway_events_received_total{kind="malformed"}']
    assert after - before >= 8

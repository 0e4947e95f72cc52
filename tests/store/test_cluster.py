"""Redis Cluster: one slot a session, slots that move, nodes that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.store.connection import Store
from sse_gateway.store.history import History, Position
from sse_gateway.store.library import Library
from sse_gateway.store.permissions import Permissions
from tests.support.modes import missing
from tests.support.servers import KINDS, RedisProcess, binary
from tests.support.topologies import Cluster
from tests.support.wait import until

SESSION = "s-1"
EVENT = b'{"type":"x"}'
Stores = Callable[..., Store]


@pytest.fixture(scope="module", params=KINDS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A Cluster for all tests of this module, which leave it as they found it but for the data."""
    if binary(request.param) is None:
        missing(request.param)
    with Cluster(request.param) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def empty(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.client.flushall()


@pytest.fixture
def store(cluster: Cluster, stores: Stores) -> Store:
    return stores(cluster.url)


def contents(cluster: Cluster) -> dict[tuple[int, str], Any]:
    """Return every key of every node, dumped."""
    found = {}
    for node in cluster.nodes:
        with redis.Redis(port=node.port) as client:
            for key in client.keys("*"):
                with client.pipeline(transaction=False) as pipeline:
                    # A node that imports the slot shows a key only to who asks so.
                    found[node.port, key] = pipeline.execute_command("ASKING").dump(key).execute()[-1]
    return found


def ask_node(node: RedisProcess, *command: Any, asking: bool = False) -> str:
    """Send a command to one node as it is, and return the first word of what it says."""
    with redis.Redis(port=node.port, decode_responses=True) as client, client.pipeline(False) as pipeline:
        if asking:
            pipeline.execute_command("ASKING")
        pipeline.execute_command(*command)
        reply = pipeline.execute(raise_on_error=False)[-1]
    names = {redis.exceptions.AskError: "ASK", redis.exceptions.MovedError: "MOVED"}
    if isinstance(reply, redis.exceptions.TryAgainError):
        return "TRYAGAIN"
    return names.get(type(reply)) or str(reply).partition(" ")[0]


async def test_every_function_serves_sessions_of_every_node(cluster: Cluster, store: Store) -> None:
    history, permissions = History(store), Permissions(store)
    names = [f"s-{number}" for number in range(60)]
    await asyncio.gather(*(history.publish(name, EVENT, owner="u") for name in names))
    assert {cluster.owner(cluster.slot(name)).port for name in names} == {node.port for node in cluster.nodes}
    readings = await asyncio.gather(*(history.read(name, None, mode="all") for name in names))
    assert [len(reading.entries) for reading in readings] == [1] * 60
    assert await history.positions(names) == [
        Position(Cursor(reading.epoch, 1), ended=False) for reading in readings
    ]
    assert await history.beat([(name, 2, 1) for name in names], "g-1") == [(2, 1)] * 60
    for name in names[:6]:
        await permissions.ask(name, b'{"tool_name":"bash","request_id":"r"}')
        decision = b'{"request_id":"r","outcome":"approved","approved":true}'
        assert (await permissions.answer(name, "r", decision, approved=True)).verdict == "won"
        assert await permissions.claim(name, "r", "w")
        assert (await permissions.request(name, "r")).state == "consumed"
        assert await permissions.end(name) == 0
        assert (await history.status(name)).viewers == 1


async def test_the_library_is_loaded_on_every_primary(cluster: Cluster, store: Store) -> None:
    for node in cluster.nodes:
        node.client.function_flush()
    await store.ensure_library()
    versions = [node.client.execute_command("FCALL", "sse_version", 0) for node in cluster.nodes]
    assert versions == [[Library().version, Library().fingerprint]] * 3
    cluster.nodes[1].client.function_flush()
    results = await store.fcall_many([("publish", f"s-{number}", (EVENT,)) for number in range(30)])
    assert [type(result) for result in results] == [bytes] * 30


async def test_any_primary_carries_a_message_to_subscribers_of_any_other(
    cluster: Cluster, store: Store
) -> None:
    # A session of its own: what the test before has published may still be on its way between the nodes.
    with cluster.nodes[2].client.pubsub() as listener:
        listener.subscribe("sse_events:heard-everywhere")
        await asyncio.to_thread(listener.get_message, timeout=5)
        event_id = await History(store).publish("heard-everywhere", EVENT)
        message = await asyncio.to_thread(listener.get_message, timeout=5)
        await store.publish_channel("sse_events:heard-everywhere", "by any")
        by_any = await asyncio.to_thread(listener.get_message, timeout=5)
    assert message["data"].startswith(f'{{"id":"{event_id}"')
    assert by_any["data"] == "by any"


def test_while_a_slot_moves_every_node_answers_try_again_and_nothing_is_written(cluster: Cluster) -> None:
    source = cluster.owner(cluster.slot(SESSION))
    for node in cluster.nodes:
        node.client.function_load(Library().text, replace=True)
    call = ("FCALL", "sse_publish", 1, "sse:{s-1}", '{"type":"tool_status","data":{}}')
    ask = ("FCALL", "sse_ask", 1, SESSION, '{"tool_name":"bash","request_id":"r"}')
    read = ("FCALL", "sse_read", 1, SESSION, "", "snapshot", 1000)
    for command in (call, ask):
        source.client.execute_command(*command)
    target = next(node for node in cluster.nodes if node is not source)
    moments = 0

    def look() -> None:
        nonlocal moments
        moments += 1
        before = contents(cluster)
        for command in (call, ask, read, ("FCALL", "sse_end", 1, SESSION)):
            assert ask_node(source, *command) in ("ASK", "TRYAGAIN")
            assert ask_node(target, *command, asking=True) == "TRYAGAIN"
        by_eval = ("EVAL", Library().eval_text("publish"), 1, SESSION, '{"type":"x"}')
        assert ask_node(target, *by_eval, asking=True) == "TRYAGAIN"
        assert contents(cluster) == before

    cluster.migrate(cluster.slot(SESSION), to=target, between_keys=look, before_end=look)
    assert moments == 6, "meta, history, state, permissions, pending, and the end"
    assert ask_node(source, *call) == "MOVED"
    assert ask_node(target, *read) != "TRYAGAIN"
    kept = target.client.execute_command(*read)
    assert (kept[3], len(kept[8]), len(kept[9])) == (2, 4, 1)


async def test_publishing_goes_on_while_the_slot_moves_to_and_fro(cluster: Cluster, store: Store) -> None:
    history = History(store)
    published: list[Cursor] = []
    moving = True

    async def publish() -> None:
        while moving:
            cursor = Cursor.parse(str(await history.publish(SESSION, EVENT)))
            assert cursor is not None
            published.append(cursor)
            await asyncio.sleep(0.002)

    publishers = [asyncio.create_task(publish()) for _ in range(3)]
    await until(lambda: len(published) > 3, "the first events to be published")
    first = published[0]
    for _ in range(6):
        await asyncio.to_thread(cluster.migrate, cluster.slot(SESSION))
        await asyncio.sleep(0.05)
    moving = False
    await asyncio.gather(*publishers)
    assert sorted(cursor.seq for cursor in published) == list(range(1, len(published) + 1))
    reading = await history.read(SESSION, None, mode="all")
    assert [entry.seq for entry in reading.entries] == list(range(1, len(published) + 1))
    assert (await history.read(SESSION, f"{reading.epoch}-{first.seq}")).verdict == "ok"


async def test_a_batch_reaches_sessions_whose_slots_have_moved(cluster: Cluster, store: Store) -> None:
    history = History(store)
    names = [f"s-{number}" for number in range(30)]
    await asyncio.gather(*(history.publish(name, EVENT) for name in names))
    for name in names[:3]:
        await asyncio.to_thread(cluster.migrate, cluster.slot(name))
    readings = await asyncio.gather(*(history.read(name, None, mode="all") for name in names))
    assert [len(reading.entries) for reading in readings] == [1] * 30
    positions = await history.positions(names)
    assert [isinstance(position, Position) and position.cursor.seq for position in positions] == [1] * 30


class TestNodeGone:
    """One primary of three is dead and has no replica."""

    @pytest.fixture
    def cluster(self) -> Iterator[Cluster]:
        with Cluster(options={"cluster-require-full-coverage": "no"}) as cluster:
            yield cluster

    async def test_the_others_sessions_are_served(self, cluster: Cluster, stores: Stores) -> None:
        store = stores(cluster.url)
        history = History(store)
        names = [f"s-{number}" for number in range(30)]
        await asyncio.gather(*(history.publish(name, EVENT) for name in names))
        gone = cluster.owner(cluster.slot(names[0]))
        lost = {name for name in names if cluster.owner(cluster.slot(name)) is gone}
        gone.kill()
        results = await asyncio.gather(
            *(history.read(name, None, mode="all") for name in names), return_exceptions=True
        )
        failed = {
            name for name, result in zip(names, results, strict=True) if isinstance(result, GatewayError)
        }
        assert failed == lost
        positions = await history.positions(names)
        assert {
            name for name, found in zip(names, positions, strict=True) if isinstance(found, Unavailable)
        } == lost
        with pytest.raises(Unavailable):
            await history.publish(names[0], EVENT)
        healthy = next(name for name in names if name not in lost)
        assert await history.publish(healthy, EVENT)
        assert (await store.push_endpoint()).port in {node.port for node in cluster.nodes}


async def test_a_cluster_nobody_answers_for_is_unavailable(stores: Stores) -> None:
    store = stores("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    for call in (store.fcall("status", SESSION), store.push_endpoint(), store.ping(), store.ensure_library()):
        with pytest.raises(Unavailable):
            await call

"""What an agent publishes: once, in order, in a form that every browser reads, or refused with the place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from sse_gateway.agent import AgentClient, GatewayError, Unavailable
from tests.agent.people import People
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.wait import until


async def test_status_and_result_have_the_shape_of_the_contract(
    any_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    session = agents(any_server).session(session_id, owner="user-1")
    first = await session.tool_status("executing", tool_name="bash", tool_call_id="c1", step=2)
    second = await session.tool_result("bash", {"out": "ok"}, tool_call_id="c1")
    third = await session.tool_result("bash", success=False, error="exit code 1")
    events = People(any_server).events(session_id)
    assert [event["id"] for event in events] == [first, second, third]
    assert [event["data"] for event in events] == [
        {"tool_name": "bash", "tool_call_id": "c1", "status": "executing", "step": 2},
        {"tool_name": "bash", "tool_call_id": "c1", "success": True, "result": {"out": "ok"}},
        {"tool_name": "bash", "success": False, "result": None, "error": "exit code 1"},
    ]
    assert {event["session_id"] for event in events} == {session_id}


async def test_the_owner_is_recorded_once_and_for_good(agent: AgentClient, session_id: str) -> None:
    await agent.session(session_id, owner="user-1").tool_status("executing")
    with pytest.raises(GatewayError) as raised:
        await agent.session(session_id, owner="user-2").tool_status("executing")
    assert raised.value.code == "owner_conflict"


async def test_an_idempotency_key_publishes_once(agent: AgentClient, people: People, session_id: str) -> None:
    session = agent.session(session_id)
    ids = {await session.publish("note", {"n": 1}, idempotency_key="n-1") for _ in range(3)}
    assert len(ids) == len(people.events(session_id)) == 1
    with pytest.raises(GatewayError) as raised:
        await session.publish("note", {"n": 2}, idempotency_key="n-1")
    assert raised.value.code == "idempotency_mismatch"


async def test_a_publish_whose_reply_was_lost_is_repeated_and_kept_once(
    server: RedisProcess,
    people: People,
    proxied: Callable[[RedisProcess], Proxy],
    agents: Callable[..., AgentClient],
    session_id: str,
) -> None:
    proxy = proxied(server)
    session = agents(proxy).session(session_id)
    await session.publish("note", {"n": 0})
    proxy.hold("down")
    publishing = asyncio.create_task(session.publish("note", {"n": 1}))
    await until(lambda: len(people.events(session_id)) == 2, "the event to be kept")
    proxy.drop()
    proxy.release()
    event_id = await publishing
    assert [event["data"]["n"] for event in people.events(session_id)] == [0, 1]
    assert people.events(session_id)[-1]["id"] == event_id


async def test_transient_text_goes_to_who_listens_and_is_kept_nowhere(
    agent: AgentClient, server: RedisProcess, people: People, session_id: str
) -> None:
    session = agent.session(session_id)
    async with server.connect() as redis, redis.pubsub() as pubsub:
        await pubsub.subscribe(f"sse_events:{session_id}")
        await pubsub.get_message(timeout=5)
        assert await session.publish("token", {"text": "Hé"}, durable=False) is None
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5)
    assert message is not None
    event = json.loads(message["data"])
    assert (event["session_id"], event["type"], event["data"]) == (session_id, "token", {"text": "Hé"})
    assert "id" not in event
    assert people.events(session_id) == []
    with pytest.raises(GatewayError, match="idempotency"):
        await session.publish("token", {}, durable=False, idempotency_key="k")


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize(
    ("event_type", "data", "code", "says"),
    [
        ("a b", {}, "invalid_event", "type"),
        ("", {}, "invalid_event", "type"),
        ("x" * 65, {}, "invalid_event", "type"),
        ("heartbeat", {}, "invalid_event", "gateway alone"),
        ("permission_cleared", {}, "invalid_event", "gateway alone"),
        ("permission_request", {}, "invalid_event", "request_permission"),
        ("note", {"a": [float("inf")]}, "invalid_event", r"data\.a\[0\] is inf"),
        ("note", {"a": b"bytes"}, "invalid_event", r"data\.a is of type bytes"),
        ("note", {"a": "\ud83d"}, "invalid_event", "surrogate"),
        ("note", {("t",): 1}, "invalid_event", "keys must be strings"),
        ("note", {"a": "x" * (256 * 1024)}, "payload_too_large", "at most 262144"),
    ],
)
async def test_what_is_no_event_is_refused_at_the_edge(
    agent: AgentClient,
    people: People,
    session_id: str,
    event_type: str,
    data: Any,
    code: str,
    says: str,
    durable: bool,
) -> None:
    with pytest.raises(GatewayError, match=says) as raised:
        await agent.session(session_id).publish(event_type, data, durable=durable)
    assert raised.value.code == code
    assert people.events(session_id) == []


@pytest.mark.parametrize("durable", [True, False])
async def test_what_is_nested_too_deeply_is_refused(
    agent: AgentClient, session_id: str, durable: bool
) -> None:
    deep: list[Any] = []
    for _ in range(70):
        deep = [deep]
    with pytest.raises(GatewayError) as raised:
        await agent.session(session_id).publish("note", deep, durable=durable)
    assert raised.value.code == "malformed_json"


async def test_a_user_who_may_not_load_functions_publishes_by_script(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    own_server.client.execute_command(
        "ACL", "SETUSER", "agent", "on", ">secret", "~*", "&*", "+@all", "-function"
    )
    client = agents(f"redis://agent:secret@127.0.0.1:{own_server.port}/0")
    session = client.session(session_id)
    await session.tool_status("executing")
    assert client.library.by_eval
    decision = await session.request_permission("bash", {}, timeout=0.3)
    assert decision.outcome == "expired"
    assert len(People(own_server).events(session_id)) == 3


async def test_a_user_who_may_not_subscribe_gets_decisions_all_the_same(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    own_server.client.execute_command(
        "ACL", "SETUSER", "agent", "on", ">secret", "~*", "&*", "+@all", "-subscribe"
    )
    people = People(own_server)
    client = agents(f"redis://agent:secret@127.0.0.1:{own_server.port}/0")
    waiting = asyncio.create_task(client.session(session_id).request_permission("bash", {}, timeout=30))
    request_id = (await until(lambda: people.pending(session_id), "the request"))[0]
    people.answer(session_id, request_id)
    assert (await asyncio.wait_for(waiting, 5)).approved


async def test_a_wrong_password_is_said_at_once(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    client = agents(f"redis://nobody:secret-word@127.0.0.1:{own_server.port}/0")
    async with asyncio.timeout(3):
        with pytest.raises(Unavailable, match="refused the user name or password") as raised:
            await client.session(session_id).tool_status("executing")
    assert "secret-word" not in str(raised.value)


async def test_a_full_server_refuses_in_its_own_words(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    session = agents(own_server).session(session_id)
    await session.tool_status("executing")
    own_server.client.config_set("maxmemory", "1mb")
    with pytest.raises(GatewayError, match="maxmemory") as raised:
        await session.tool_status("executing")
    assert raised.value.code == "redis_refused"


async def test_many_publishes_at_once_use_few_connections(
    agent: AgentClient, server: RedisProcess, session_id: str
) -> None:
    before = len(server.client.client_list())
    await asyncio.gather(*(agent.session(session_id).publish("note", {"n": n}) for n in range(300)))
    assert len(server.client.client_list()) - before <= 8

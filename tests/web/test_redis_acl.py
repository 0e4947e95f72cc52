"""config/redis.acl: a gateway and agents do everything under it, and nothing besides."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sse_gateway.agent import AgentClient, GatewayError
from sse_gateway.store.library import Library
from tests.agent.people import People
from tests.support import acl
from tests.support.acl import PASSWORDS, AclServer
from tests.support.leaks import noted
from tests.support.modes import missing
from tests.support.servers import KINDS, Kind, binary
from tests.support.topologies import Cluster
from tests.support.wait import until
from tests.web.site import Gateways, Human, Tab, bearer

PAGE = (acl.ROOT / "docs" / "security.md").read_text()
ADDED = dict(re.findall(r"^- for ([\w ,]+): `([^`]+)`", PAGE, re.MULTILINE))
"""What a setting needs besides the file, as the page has it."""
OWN = {"auth", "hello", "select", "info", "acl|log", "config|get", "config|resetstat", "client|setinfo"}
"""Commands that the test itself sends, or a client before it is anybody."""
LATER = {"unsubscribe"}
"""What is sent only seconds after the last who wanted a channel has gone."""


@pytest.fixture(params=KINDS)
def acl_server(request: pytest.FixtureRequest) -> Iterator[AclServer]:
    """A server under the very file."""
    with serving(request.param) as server:
        yield server


@contextmanager
def serving(kind: Kind, changed: dict[str, str] | None = None) -> Iterator[AclServer]:
    """Run a server under the file, or under the file with some texts changed."""
    if binary(kind) is None:
        missing("redis-server")
    with AclServer(kind, changed) as server:
        yield server


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """The gateway's password."""
    path = tmp_path / "gateway"
    path.write_text(PASSWORDS["gateway"])
    return path


@asynccontextmanager
async def agent_of(server: AclServer, **options: Any) -> AsyncIterator[AgentClient]:
    async with AgentClient(server.url_of("agent"), password=PASSWORDS["agent"], **options) as client:
        yield client


def used(server: AclServer) -> set[str]:
    """Return the commands that were called since the last look, by users and inside of scripts."""
    called = {name.removeprefix("cmdstat_") for name in server.client.info("commandstats")}
    server.client.config_resetstat()
    return called - OWN


async def test_a_gateway_needs_all_of_its_rights_and_no_other(
    acl_server: AclServer,
    password_file: Path,
    gateways: Gateways,
    tab: Tab,
    human: Human,
    http: httpx.AsyncClient,
    session_id: str,
) -> None:
    """Everything a gateway does by itself and for its callers, agents without Redis among them."""
    gateway = await gateways(
        acl_server.url_of("gateway"),
        redis_password_file=password_file,
        min_display_seconds=0,
        # Small, so that a history has to be trimmed.
        max_event_bytes=1024,
        history_bytes=8192,
    )
    headers = bearer(session_id, scope="sse:read sse:respond sse:publish")

    async def call(method: str, what: str, **options: Any) -> Any:
        answer = await http.request(method, f"{gateway.base}/{what}", **{"headers": headers, **options})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    ticket = noted((await call("POST", f"ticket/{session_id}"))["ticket"])
    stream = await tab(gateway, session_id, f"ticket={ticket}", token=None)
    for number in range(52):
        data = {"status": "executing", "tool_call_id": f"call-{number}"}
        await call("POST", f"publish/{session_id}", json={"type": "tool_status", "data": data})
    await call(
        "POST",
        f"publish/{session_id}",
        json={"type": "tool_result", "data": {}},
        headers=headers | {"Idempotency-Key": "k"},
    )
    await stream.message("tool_result")
    ask = {"type": "permission_request", "data": {"tool_name": "bash", "risk_level": "low"}}
    asked = await call("POST", f"publish/{session_id}", json=ask)
    waiting = asyncio.create_task(call("GET", f"permissions/{session_id}/{asked['request_id']}?wait=20"))
    await stream.message("permission_request")
    assert (await human.answer(gateway)).status_code == 200
    assert (await asyncio.wait_for(waiting, 10))["decision"]["outcome"] == "approved"
    claim = f"permissions/{session_id}/{asked['request_id']}/claim"
    assert (await call("POST", claim, json={"worker_id": "w"}))["claimed"]
    # One whose time runs out while somebody watches.
    short = {**ask["data"], "expires_in": 1}
    await call("POST", f"publish/{session_id}", json={"type": "permission_request", "data": short})
    await stream.message("permission_cleared", count=2)
    assert (await call("GET", f"permissions/{session_id}"))["pending"] == []
    assert (await call("GET", f"health/{session_id}"))["redis"] == "connected"
    missed = await tab(gateway, session_id, last_event_id=stream.ids[0])
    assert missed.named("stream_reset")
    for opened in (stream, missed):
        opened.close()

    async def beaten() -> bool:
        return not acl_server.client.hgetall(f"sse:{{{session_id}}}:streams")

    await until(beaten, "the gateway to tell Redis that its streams are gone")
    assert acl_server.refused() == set()
    # INFO is the test's own too, but no script could do without it.
    assert used(acl_server) | LATER | {"info"} == acl.commands("gateway")


async def test_an_agent_needs_all_of_its_rights_and_no_other(acl_server: AclServer, session_id: str) -> None:
    """By the SDK: publish, ask, be answered, claim, expire, cancel, end; and raw, as any language would."""
    people = People(acl_server)
    acl_server.client.function_load(Library().text)
    used(acl_server)
    async with agent_of(acl_server) as client:
        session = client.session(session_id, owner="user-1")
        for number in range(52):
            await session.tool_status("executing", tool_name="bash", tool_call_id=f"call-{number}")
        for number in range(20):
            await session.publish("note", {"text": "x" * 250_000}, idempotency_key=f"k-{number}")
        await session.publish("token", {"text": "…"}, durable=False)
        asking = asyncio.create_task(session.request_permission("bash", {"cmd": "ls"}, timeout=30))
        (request_id,) = await until(lambda: people.pending(session_id), "the request")
        called: set[str] = set()

        def listens() -> bool:
            called.update(used(acl_server))
            return "subscribe" in called

        await until(listens, "the agent to listen for its answer")
        people.answer(session_id, request_id)
        decision = await asyncio.wait_for(asking, 10)
        used(acl_server)
        assert await session.claim(decision)
        assert (await session.request_permission("bash", {}, timeout=0.2)).outcome == "expired"
        withdrawn = asyncio.create_task(session.request_permission("bash", {}, timeout=30))
        await until(lambda: acl_server.client.zcard(f"sse:{{{session_id}}}:pending"), "the next request")
        withdrawn.cancel()
        await asyncio.gather(withdrawn, return_exceptions=True)
        assert await session.end() == 0
    raw = acl_server.login("agent")
    key, answers = f"sse:{{{session_id}}}", f"permission_responses:{{{session_id}}}"
    assert raw.ping()
    ((last, _),) = raw.xrevrange(answers, "+", "-", count=1)
    asked = json.loads(raw.fcall("sse_ask", 1, key, '{"request_id":"r","tool_name":"deploy"}'))
    assert asked["status"] == "pending"
    cancelled = json.loads(raw.fcall("sse_cancel", 1, key, "r", "another way"))
    ((_, ((_, entry),)),) = raw.xread({answers: last}, count=1, block=5000)
    assert json.loads(entry["decision"]) == cancelled["decision"]
    assert json.loads(raw.fcall("sse_decision", 1, key, "r")) == cancelled
    raw.close()
    called |= used(acl_server)
    assert acl_server.refused() == set()
    assert called | LATER | {"info"} == acl.commands("agent")


@pytest.fixture(scope="module")
def denying() -> Iterator[AclServer]:
    """A server that refuses, for all tests that only try."""
    with serving("redis") as server:
        yield server


DENIED = {
    "another key": ("SET", "other", "1"),
    "a key that resembles": ("SET", "sse:x", "1"),
    "somebody else's answers": ("XADD", "permission_response:s", "*", "a", "b"),
    "a channel that resembles": ("PUBLISH", "sse_events", "{}"),
    "another channel": ("SUBSCRIBE", "other"),
    "every channel": ("PSUBSCRIBE", "*"),
    "names of keys": ("KEYS", "*"),
    "keys one by one": ("SCAN", "0"),
    "a key at random": ("RANDOMKEY",),
    "everything away": ("FLUSHALL",),
    "this database away": ("FLUSHDB",),
    "all functions away": ("FUNCTION", "FLUSH"),
    "one library away": ("FUNCTION", "DELETE", "sse"),
    "a script": ("EVAL", "return 1", "0"),
    "settings": ("CONFIG", "GET", "*"),
    "users": ("ACL", "LIST"),
    "to watch everybody": ("MONITOR",),
    "to throw others out": ("CLIENT", "KILL", "TYPE", "normal"),
    "who is there": ("CLIENT", "LIST"),
    "to move a key": ("RENAME", "sse:{s}:meta", "sse:{t}:meta"),
    "a raw key": ("RESTORE", "sse:{s}:meta", "0", "x"),
    "another server": ("REPLICAOF", "127.0.0.1", "1"),
    "the end": ("SHUTDOWN", "NOSAVE"),
}
FOR_AGENTS = {
    "a ticket of one's own making": ("SET", "sse:ticket:0", '{"user":"root"}'),
    "whose a ticket is": ("GET", "sse:ticket:0"),
    "a function of one's own": ("FUNCTION", "LOAD", "#!lua name=mine"),
    "a gateway's probe": ("PUBLISH", "sse:probe:g", "1"),
    "all answers": ("PSUBSCRIBE", "permission_response:*"),
}


@pytest.mark.parametrize(
    ("user", "what"),
    [*(("gateway", what) for what in DENIED), *(("agent", what) for what in (*DENIED, *FOR_AGENTS))],
)
def test_attack_by_a_stolen_redis_password(denying: AclServer, user: str, what: str) -> None:
    """Who has the gateway's or an agent's password reaches what is sse_gateway's, and nothing else."""
    client = denying.login(user)
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*(DENIED | FOR_AGENTS)[what])
    client.close()


@pytest.mark.parametrize("command", [("PING",), ("FCALL", "sse_version", "0"), ("CLIENT", "ID")])
def test_attack_without_a_password(denying: AclServer, command: tuple[str, ...]) -> None:
    """Whom Redis has not let in is nobody: `default`, which every new server lets in, is off."""
    client = redis.Redis(port=denying.port, retry=Retry(NoBackoff(), 0))
    with pytest.raises(redis.exceptions.AuthenticationError):
        client.execute_command(*command)
    client.close()


@pytest.mark.parametrize("user", ["gateway", "agent"])
def test_the_page_says_of_each_right_what_it_is_for(user: str) -> None:
    """Each command of the file has a line in the page's table under its user, and no other has one."""
    told = set()
    for names, users in re.findall(r"^\| (`[^|]+`) \| ([a-z, ]+) \|", PAGE, re.MULTILINE):
        if user in users.split(", "):
            told |= {name.replace(" ", "|") for name in re.findall(r"`([a-z ]+)`", names)}
    assert told == acl.commands(user)


def test_the_file_as_it_stands_lets_nobody_in() -> None:
    """No password stands in it: who forgets to put one there is locked out, and not open to everybody."""
    for user in ("gateway", "agent"):
        assert not [rule for rule in acl.rules(user) if rule[0] in "#>" or rule == "nopass"]


async def test_agents_of_one_team_can_be_kept_to_their_own_sessions(password_file: Path) -> None:
    """With a prefix in its patterns an agent's user cannot write, read or hear any other session."""
    narrower = {
        "~sse:{* ~permission_responses:{* &sse_events:* &permission_response:* +ping": "~sse:{team-a.* "
        "~permission_responses:{team-a.* &sse_events:team-a.* &permission_response:team-a.* +ping"
    }
    with serving("redis", narrower) as server:
        server.client.function_load(Library().text)
        async with agent_of(server, call_seconds=2) as client:
            assert await client.session("team-a.1").tool_status("executing")
            for other in ("team-b.1", "team-a", "x-team-a.1"):
                with pytest.raises(GatewayError) as refused:
                    await client.session(other).tool_status("executing")
                assert refused.value.code == "not_permitted"
        raw = server.login("agent")
        for command in (
            ("FCALL", "sse_publish", 1, "team-b.1", '{"type":"x"}'),
            ("FCALL", "sse_publish", 1, "team-a.1", '{"type":"x"}'),
            ("HGETALL", "sse:{team-b.1}:meta"),
            ("XREAD", "STREAMS", "permission_responses:{team-b.1}", "0"),
            ("SUBSCRIBE", "sse_events:team-b.1"),
            ("PUBLISH", "permission_response:team-b.1", "{}"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                raw.execute_command(*command)
        raw.close()
        assert server.client.keys("*team-b*") == []


SCRIPTS = {
    "+function|load": "+eval +evalsha +script|load",
    "+unsubscribe +xread": "+unsubscribe +eval +evalsha +xread",
}


async def test_where_functions_are_forbidden_scripts_do_the_same(
    password_file: Path, gateways: Gateways, tab: Tab, human: Human, session_id: str
) -> None:
    """Gateway and agent may run scripts but load no functions: ready, asked, answered, claimed."""
    with serving("redis", SCRIPTS) as server:
        gateway = await gateways(server.url_of("gateway"), redis_password_file=password_file)
        assert gateway.logs("Redis does not permit loading functions; sending scripts instead")
        stream = await tab(gateway, session_id)
        async with agent_of(server) as client:
            session = client.session(session_id)
            asking = asyncio.create_task(session.request_permission("bash", {"cmd": "ls"}, timeout=30))
            request = await stream.message("permission_request")
            request_id = request["data"]["request_id"]
            assert (await human.answer(gateway, request_id=request_id)).status_code == 200
            assert await session.claim(await asyncio.wait_for(asking, 10))
        assert server.client.function_list() == []


async def test_an_agent_that_comes_before_the_gateway_waits_for_it(
    password_file: Path, gateways: Gateways, session_id: str
) -> None:
    """An agent may load no functions: its calls go through once a gateway has, and fail in words before."""
    with serving("redis") as server:
        async with agent_of(server, call_seconds=30) as patient, agent_of(server, call_seconds=2) as hasty:
            publishing = asyncio.create_task(patient.session(session_id).tool_status("executing"))
            with pytest.raises(GatewayError, match="has not been given the functions yet") as told:
                await hasty.session(session_id).tool_status("executing")
            assert told.value.code == "redis_unavailable"
            assert not publishing.done()
            await gateways(server.url_of("gateway"), redis_password_file=password_file)
            assert (await publishing).endswith("-1")
            assert await hasty.session(session_id).tool_status("done")


async def test_a_gateway_that_may_load_neither_functions_nor_scripts_is_not_ready(
    password_file: Path, gateways: Gateways, http: httpx.AsyncClient
) -> None:
    """It says so, and is ready as soon as somebody with that right has loaded them."""
    with serving("redis", {" +function|load": ""}) as server:
        gateway = await gateways(server.url_of("gateway"), redis_password_file=password_file, wait="live")
        await until(lambda: gateway.logs("the function library cannot be loaded"), "it to be said")
        answer = await http.get(f"{gateway.origin}/readyz")
        assert (answer.status_code, "[-] library:" in answer.text) == (503, True)
        server.client.function_load(Library().text)
        await gateway.answers("/readyz")


@pytest.mark.parametrize("right", ["client|setname", "&sse:probe:*"])
async def test_a_right_that_is_missing_is_said_in_readyz(
    password_file: Path, gateways: Gateways, http: httpx.AsyncClient, right: str
) -> None:
    """Which command of the push connection was refused, and the file that has the right."""
    rule = right if right.startswith("&") else f"+{right}"
    with serving("redis", {f" {rule} ": " "}) as server:
        gateway = await gateways(server.url_of("gateway"), redis_password_file=password_file, wait="live")

        async def told() -> bool:
            text = (await http.get(f"{gateway.origin}/readyz")).text
            return "on the push connection; see config/redis.acl." in text

        await until(told, "the missing right to be named")


async def test_what_some_settings_need_besides_is_what_the_page_says(
    password_file: Path, gateways: Gateways, tab: Tab, human: Human, session_id: str
) -> None:
    """A namespace, another database, WAIT and old backends, with the additions that the page names."""
    more = f"{ADDED['WAIT']} {ADDED['database']} {ADDED['old backends']}"
    # A namespace goes in front of every key and channel.
    mine = " ".join(re.sub(r"^([~&]|%R~)", r"\1app_", rule) for rule in acl.rules("gateway") + more.split())
    with serving("redis", {" ".join(acl.rules("gateway"))[len("on ") :]: mine[len("on ") :]}) as server:
        gateway = await gateways(
            server.url_of("gateway").replace("/0", "/1"),
            redis_password_file=password_file,
            namespace="app_",
            redis_wait_replicas=1,
            simple_notifier_compat=True,
            min_display_seconds=0,
        )
        old = server.login("admin", db=1)
        old.set(f"app_tool_status:{session_id}", '{"status":"executing"}')
        stream = await tab(gateway, session_id)
        await stream.message("tool_status")
        event = {"session_id": session_id, "type": "permission_request", "data": {"tool_name": "x"}}
        event["data"]["timestamp"] = "2026-01-01T00:00:00.000Z"
        old.publish("app_sse_events", json.dumps(event))
        await stream.message("permission_request")
        answer = await human.answer(gateway)
        # There is no replica: the answer stands, and it is said that nobody else has it.
        assert (answer.status_code, "replicas" in answer.text) == (503, True)
        event |= {"type": "permission_cleared"}
        old.publish("app_sse_events", json.dumps(event))
        old.close()
        assert server.refused() == set()
        assert {"wait", "select"} <= used(server) | {"select"}


async def test_what_a_cluster_needs_besides_is_what_the_page_says(
    cluster: Cluster, password_file: Path, gateways: Gateways
) -> None:
    """With its additions a gateway and an agent work in a Cluster, and nothing is refused."""
    for node in cluster.nodes:
        for user in ("gateway", "agent"):
            rules = [*acl.rules(user), *ADDED[f"Cluster, {user}"].split(), f">{PASSWORDS[user]}"]
            node.client.execute_command("ACL", "SETUSER", user, *rules)
    hosts = cluster.url.partition("://")[2]
    await gateways(f"redis+cluster://gateway:@{hosts}", redis_password_file=password_file)
    async with AgentClient(f"redis+cluster://agent:@{hosts}", password=PASSWORDS["agent"]) as client:
        for number in range(6):
            session = client.session(f"session-{number}")
            assert await session.tool_status("executing")
            assert (await session.request_permission("bash", {}, timeout=0.2)).outcome == "expired"
    refused = {
        (entry["username"], entry["object"]) for node in cluster.nodes for entry in node.client.acl_log()
    }
    assert refused <= {("gateway", "client|setinfo"), ("agent", "client|setinfo")}

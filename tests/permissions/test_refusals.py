"""What must not count leaves the request as it was, and tells nothing to who may not know."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.permissions.conftest import Desk
from tests.permissions.desk import CROWDED, Agent, Dial, Gateways, Line, answering
from tests.support.gateway import GatewayProcess
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.tokens import token
from tests.support.wait import until

Commands = Callable[[str], Awaitable[list[str]]]
"""The fixture `commands`."""
REQUEST: dict[str, Any] = {
    "request_id": "r",
    "options": [
        {"id": "once", "label": "Once", "kind": "allow_once"},
        {"id": "no", "label": "No", "kind": "reject_once"},
    ],
    "args_digest": "d:1",
}
BODIES: dict[str, tuple[Any, int, str]] = {
    "unknown option": ({"approved": True, "option_id": "nope"}, 400, "option_conflict"),
    "approve with a rejecting option": ({"approved": True, "option_id": "no"}, 400, "option_conflict"),
    "deny with an allowing option": ({"approved": False, "option_id": "once"}, 400, "option_conflict"),
    "an edit nobody offered": ({"approved": True, "updated_input": {}}, 400, "not_editable"),
    "an edit of a denial": ({"approved": False, "updated_input": {}}, 400, "not_editable"),
    "another digest": ({"approved": True, "args_digest": "d:2"}, 409, "digest_mismatch"),
    **{
        f"half a character in {name}": (
            b'{"approved":true,"%b":"\\ud800"}' % name.encode(),
            400,
            "malformed_json",
        )
        for name in ("reason", "option_id", "args_digest", "client_id", "request_id")
    },
    "half a character in an edit": (
        b'{"approved":true,"updated_input":{"\\udc00":1}}',
        400,
        "malformed_json",
    ),
    "no opinion": ({"reason": "?"}, 400, "bad_request"),
    "an opinion that is a number": ({"approved": 1}, 400, "bad_request"),
    "a misspelt member": ({"approved": True, "updatedInput": {}}, 400, "bad_request"),
    "a name for who decided": ({"approved": True, "decided_by": "root"}, 400, "bad_request"),
    "an edit that is a list": ({"approved": True, "updated_input": []}, 400, "bad_request"),
    "a long reason": ({"approved": True, "reason": "x" * 2001}, 400, "bad_request"),
    "two opinions": (b'{"approved":true,"approved":false}', 400, "malformed_json"),
    "NaN": (b'{"approved":true,"updated_input":{"n":NaN}}', 400, "malformed_json"),
    "cut off": (b'{"approved":true', 400, "malformed_json"),
    "no UTF-8": (b'{"approved":true,"reason":"\xff"}', 400, "malformed_json"),
    "nothing": (b"", 400, "malformed_json"),
    "a list": (b"[true]", 400, "bad_request"),
    "far too deep": (b'{"approved":true,"updated_input":' + b'{"a":' * 90 + b"1" + b"}" * 91, 400, ""),
}
NAMES = ["nobody-asked", "a b", "a}b{c", "..", "x" * 129, "\u0000"]


@pytest.fixture
async def line(desk: Desk, dial: Dial) -> Line:
    """A line to a gateway that takes answers at once."""
    return await dial(desk.c)


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
async def test_a_refused_answer_leaves_the_request_open(
    agent: Agent, line: Line, session_id: str, case: str, named: bool
) -> None:
    """What is malformed or contradicts the request decides nothing, and the next good answer counts."""
    body, status, code = BODIES[case]
    agent.ask(session_id, **REQUEST)
    if not isinstance(body, bytes):
        body = json.dumps(body | ({"request_id": "r"} if named else {})).encode()
    elif named and body.startswith(b'{"approved"'):
        body = b'{"request_id":"r",' + body[1:]
    reply = await line.send(answering(session_id, body))
    assert reply.status == status, reply
    assert reply.code == code or not code
    assert agent.pending(session_id) == ["r"]
    assert agent.told(session_id) == []
    good = {"approved": True, "option_id": "once", "args_digest": "d:1", "request_id": "r"}
    assert (await line.send(answering(session_id, good))).won


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b'[1,{"a":1e999}]'])
async def test_a_number_that_no_browser_could_read_back_is_refused(
    agent: Agent, line: Line, session_id: str, number: bytes
) -> None:
    """An edit with a number beyond all range is a 400, and no failure of the gateway."""
    agent.ask(session_id, request_id="r", editable=True)
    body = b'{"approved":true,"request_id":"r","updated_input":{"n":' + number + b"}}"
    reply = await line.send(answering(session_id, body))
    assert (reply.status, reply.code) == (400, "malformed_json")
    assert agent.pending(session_id) == ["r"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
async def test_a_name_that_is_none_is_refused(agent: Agent, line: Line, session_id: str, name: str) -> None:
    """An answer to what was never asked, or cannot be a name, is the caller's fault and never ours."""
    agent.ask(session_id, request_id="r")
    reply = await line.send(answering(session_id, {"approved": True, "request_id": name}))
    expected = {(404, "unknown_request")} if name == "nobody-asked" else {(400, "bad_request")}
    assert (reply.status, reply.code) in expected
    assert agent.pending(session_id) == ["r"]


@pytest.fixture
async def watched(own_server: RedisProcess, gateways: Gateways) -> GatewayProcess:
    """A gateway on a server of its own, whose commands are all its own."""
    return await gateways(own_server, **CROWDED)


@pytest.fixture
async def commands(own_server: RedisProcess, watched: GatewayProcess) -> AsyncIterator[Commands]:
    """Return what was sent to Redis that names a session, from now on."""
    async with own_server.connect(decode_responses=True) as client, client.monitor() as monitor:
        seen: list[str] = []

        async def watch() -> None:
            async for command in monitor.listen():
                # What a script does goes without saying.
                seen.extend([command["command"]] if command["client_type"] != "lua" else [])

        async def so_far(session_id: str) -> list[str]:
            mark = f"ECHO {uuid.uuid4().hex}"
            own_server.client.execute_command(*mark.split())
            await until(lambda: mark in seen, "the monitor to have caught up")
            return [command for command in seen if session_id in command]

        task = asyncio.create_task(watch())
        yield so_far
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


FORBIDDEN: dict[str, tuple[dict[str, Any], int, str]] = {
    "reads only": ({"scope": "sse:read"}, 403, "missing_scope"),
    "publishes only": ({"scope": "sse:publish"}, 403, "missing_scope"),
    "no rights": ({"scope": "sse:nothing"}, 403, "missing_scope"),
    "another session": ({"session_id": "another"}, 403, "forbidden_session"),
    "expired": ({"exp": 1}, 401, "token_expired"),
}


@pytest.mark.parametrize("case", FORBIDDEN)
async def test_who_may_not_answer_learns_nothing_and_asks_redis_nothing(
    own_server: RedisProcess,
    watched: GatewayProcess,
    commands: Commands,
    http: httpx.AsyncClient,
    session_id: str,
    case: str,
) -> None:
    """403 comes before any look-up: the same for a request that is open, settled or unknown."""
    changed, status, code = FORBIDDEN[case]
    agent = Agent(own_server)
    agent.ask(session_id, request_id="open")
    agent.ask(session_id, request_id="settled")
    agent.call("cancel", session_id, "settled")
    await until(lambda: watched.logs("permission_decided"), "the line of what was settled")
    before = len(await commands(session_id))
    headers = {"Authorization": f"Bearer {token(**{'session_id': session_id, **changed})}"}
    answers = []
    for session in (session_id, f"{session_id}-unknown"):
        for name in ("open", "settled", "unknown"):
            answer = await http.post(
                f"{watched.base}/permission-response/{session}",
                headers=headers,
                json={"approved": True, "request_id": name},
            )
            answers.append((answer.status_code, answer.json()["code"]))
    assert set(answers) == {(status, code)}
    sent = (await commands(session_id))[before:]
    assert all(command.startswith("FCALL sse_status ") for command in sent), "only the owner is looked up"
    assert bool(sent) is (code == "forbidden_session")
    assert agent.pending(session_id) == ["open"]


@pytest.mark.chaos
async def test_with_redis_down_an_answer_is_a_503_and_the_request_stays_open(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    gateways: Gateways,
    dial: Dial,
    session_id: str,
) -> None:
    """Without Redis nothing is decided; the same answer, once Redis is back, is the first."""
    proxy = proxied(own_server)
    gateway = await gateways(proxy, **CROWDED)
    agent = Agent(own_server)
    agent.ask(session_id, request_id="r")
    line = await dial(gateway)
    proxy.refuse()
    for body in ({"approved": True, "request_id": "r"}, {"approved": True}):
        reply = await line.send(answering(session_id, body))
        assert (reply.status, reply.code) == (503, "redis_unavailable")
    assert agent.pending(session_id) == ["r"]
    assert agent.told(session_id) == []
    proxy.accept()
    await gateway.answers("/readyz")
    assert (await line.send(answering(session_id, {"approved": True, "request_id": "r"}))).won

"""Every kind of URL that a gateway takes leads an agent to Redis too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from sse_gateway.agent import AgentClient, Session, Unavailable
from tests.agent.people import People
from tests.agent.test_permissions import asked
from tests.support.certificates import Authority, TlsServer
from tests.support.servers import RedisProcess


async def ask_and_answer(session: Session, people: People) -> None:
    await session.tool_status("executing")
    await session.publish("token", {"text": "…"}, durable=False)
    waiting = asyncio.create_task(session.request_permission("bash", {}, timeout=30))
    (request_id,) = await asked(people, session.session_id)
    people.answer(session.session_id, request_id)
    decision = await asyncio.wait_for(waiting, 10)
    assert await session.claim(decision)


async def test_a_unix_socket(agents: Callable[..., AgentClient], session_id: str) -> None:
    server = RedisProcess("valkey")
    path = server.folder / "redis.sock"
    server.options["unixsocket"] = str(path)
    with server:
        await ask_and_answer(agents(f"unix://{path}").session(session_id), People(server))


async def test_tls_with_a_ca_of_ones_own(
    agents: Callable[..., AgentClient], session_id: str, tmp_path: Path
) -> None:
    """With the CA's file and a password beside the URL an agent asks and is answered."""
    ours = Authority(tmp_path)
    with TlsServer(ours) as server:
        server.client.execute_command("ACL", "SETUSER", "agent", "on", ">p@ss:word", "~*", "&*", "+@all")
        client = agents(server.tls_url("agent"), password="p@ss:word", ca_file=str(ours.ca_file))
        await ask_and_answer(client.session(session_id), People(server))


@pytest.mark.parametrize("fault", ["another CA", "the system's CAs", "another name"])
async def test_tls_that_proves_nothing_is_refused_at_once_and_says_what_to_do(
    agents: Callable[..., AgentClient], session_id: str, tmp_path: Path, fault: str
) -> None:
    """Attack: somebody in the middle has a certificate, but not of our CA, or not for that name."""
    ours, theirs = Authority(tmp_path), Authority(tmp_path, "theirs")
    host = "redis.example.org" if fault == "another name" else "127.0.0.1"
    ca_file = {"another CA": theirs.ca_file, "the system's CAs": None}.get(fault, ours.ca_file)
    with TlsServer(ours, host) as server:
        client = agents(server.tls_url(), ca_file=None if ca_file is None else str(ca_file))
        began_at = time.monotonic()
        with pytest.raises(Unavailable, match="is not trusted; name the CA"):
            await client.session(session_id).tool_status("executing")
        assert time.monotonic() - began_at < 5


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 3}, {"socket_timeout": 0.5}])
async def test_a_client_of_the_applications_own_may_be_set_up_in_any_way(
    server: RedisProcess,
    people: People,
    agents: Callable[..., AgentClient],
    session_id: str,
    options: dict[str, object],
) -> None:
    async with Redis(host="127.0.0.1", port=server.port, **options) as redis:  # type: ignore[arg-type]
        client = agents(redis)
        await ask_and_answer(client.session(session_id), people)
        await client.close()
        assert await redis.ping()

"""TLS towards Redis: everything goes over it, and what proves nothing is refused in words that help."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from sse_gateway.agent import AgentClient
from tests.cli.command import sse_gateway
from tests.support.certificates import Authority, TlsServer
from tests.support.gateway import GatewayProcess
from tests.support.wait import until
from tests.web.site import Gateways, Human, Tab, bearer

PASSWORD = "p@ss:w/rd-0123456789"


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    """The authority that signed the server's certificate."""
    return Authority(tmp_path)


@pytest.fixture
def tls(ours: Authority) -> Iterator[TlsServer]:
    """A server that proves to be 127.0.0.1, with a user that has a password."""
    with TlsServer(ours) as server:
        server.client.execute_command("ACL", "SETUSER", "app", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        yield server


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """The user's password, as an editor leaves it."""
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


@asynccontextmanager
async def not_ready(gateway: GatewayProcess) -> AsyncIterator[str]:
    """Give what `/readyz` says of the push connection once it says more than that it is down."""
    async with httpx.AsyncClient() as http:

        async def told() -> str | None:
            answer = await http.get(f"{gateway.origin}/readyz")
            assert answer.status_code == 503
            (line,) = [line for line in answer.text.splitlines() if line.startswith("[-] push:")]
            return None if line.endswith("the push connection is down") else line

        yield await until(told, "a reason why the gateway is not ready")


async def test_a_gateway_and_an_agent_use_nothing_but_tls(
    tls: TlsServer,
    ours: Authority,
    password_file: Path,
    gateways: Gateways,
    tab: Tab,
    human: Human,
    session_id: str,
) -> None:
    """Asked, answered, claimed and published over `rediss://`; the push connection is encrypted too."""
    gateway = await gateways(
        tls.tls_url("app"), redis_ca_file=ours.ca_file, redis_password_file=password_file
    )
    stream = await tab(gateway, session_id)
    async with AgentClient(tls.tls_url("app"), password=PASSWORD, ca_file=str(ours.ca_file)) as client:
        session = client.session(session_id)
        asking = asyncio.create_task(session.request_permission("bash", {"cmd": "ls"}, timeout=30))
        request = await stream.message("permission_request")
        answer = await human.answer(gateway, request_id=request["data"]["request_id"])
        assert answer.status_code == 200
        decision = await asyncio.wait_for(asking, 10)
        assert decision.approved
        assert await session.claim(decision)
        await session.publish("note", {"durable": False}, durable=False)
        await stream.message("note")
        connections = [entry for entry in tls.client.client_list() if entry["user"] == "app"]
    published = await asyncio.to_thread(
        sse_gateway, "publish", session_id, '{"type":"from_a_shell"}', redis_url=tls.tls_url("app"),
        redis_ca_file=ours.ca_file, redis_password_file=password_file,
    )  # fmt: skip
    assert published.code == 0, published
    await stream.message("from_a_shell")

    listening = [entry for entry in connections if int(entry["sub"]) + int(entry["psub"])]
    assert len(connections) > len(listening) >= 2, "the gateway's push connection and the agent's listener"
    assert {entry["laddr"] for entry in connections} == {f"127.0.0.1:{tls.tls_port}"}
    assert PASSWORD not in gateway.log_text()


@pytest.mark.parametrize("fault", ["the system's CAs", "another name"])
async def test_a_gateway_does_not_talk_to_a_redis_that_proves_nothing(
    ours: Authority,
    password_file: Path,
    gateways: Gateways,
    http: httpx.AsyncClient,
    session_id: str,
    fault: str,
) -> None:
    """Attack: somebody in the middle. It is not ready, says what to do, and gives nobody its password."""
    with TlsServer(ours, "redis.example.org" if fault == "another name" else "127.0.0.1") as server:
        server.client.execute_command("ACL", "SETUSER", "app", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        gateway = await gateways(
            server.tls_url("app"),
            redis_ca_file=ours.ca_file if fault == "another name" else None,
            redis_password_file=password_file,
            wait="live",
        )
        async with not_ready(gateway) as told:
            assert "Redis's certificate is not trusted; name the CA that signed it (REDIS_CA_FILE" in told
        answer = await http.get(f"{gateway.base}/permissions/{session_id}", headers=bearer(session_id))
        assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
        assert "certificate" not in answer.text, "that is for whoever runs it"
        assert gateway.logs("push connection failed, retrying: Redis's certificate is not trusted")
        assert gateway.logs("[SSL: CERTIFICATE_VERIFY_FAILED]"), "what exactly is wrong with it is in the log"
        # A connection that is just being given up may be among them.
        said = {(entry["user"], entry["cmd"]) for entry in server.client.client_list()}
        assert said <= {("default", "client|list"), ("default", "NULL")}, "nobody has said anything to it"
    assert PASSWORD not in gateway.log_text()


async def test_a_wrong_password_file_is_said(
    tls: TlsServer, ours: Authority, tmp_path: Path, gateways: Gateways
) -> None:
    """The gateway starts, is not ready, and says which of the things an operator gives is wrong."""
    (tmp_path / "wrong").write_text("wrong-password-0123456789")
    gateway = await gateways(
        tls.tls_url("app"),
        redis_ca_file=ours.ca_file,
        redis_password_file=tmp_path / "wrong",
        wait="live",
    )
    async with not_ready(gateway) as told:
        assert told == "[-] push: Redis refused the user name or password of the push connection."
    assert "wrong-password" not in gateway.log_text()

"""Every kind of URL that a gateway takes leads an agent to Redis too."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis

from sse_gateway.agent import AgentClient, Session, Unavailable
from tests.agent.people import People
from tests.agent.test_permissions import asked
from tests.support.modes import missing
from tests.support.ports import free_port
from tests.support.servers import RedisProcess, binary


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
    if binary("redis") is None:
        missing("redis-server")
    make_certificate(tmp_path)
    port = free_port()
    options = {
        "tls-port": str(port),
        "tls-cert-file": str(tmp_path / "cert.pem"),
        "tls-key-file": str(tmp_path / "key.pem"),
        "tls-ca-cert-file": str(tmp_path / "cert.pem"),
        "tls-auth-clients": "no",
        "requirepass": "",
    }
    with RedisProcess("redis", options=options) as server:
        url = f"rediss://127.0.0.1:{port}/0"
        client = agents(url, ca_file=str(tmp_path / "cert.pem"))
        await ask_and_answer(client.session(session_id), People(server))
        with pytest.raises(Unavailable):
            await agents(url, call_seconds=1).session(session_id).tool_status("executing")


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


def make_certificate(folder: Path) -> None:
    """Write a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

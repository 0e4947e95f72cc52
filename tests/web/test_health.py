"""Health of a session, and of the process: live, ready, metrics."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.servers import RedisProcess
from tests.support.tokens import token
from tests.support.wait import until
from tests.web.site import Gateways, Site, Tab, bearer


async def test_health_tells_how_a_session_stands(
    any_site: Site, tab: Tab, http: httpx.AsyncClient, session_id: str
) -> None:
    """Health counts the streams of all gateways, the open requests, and tells the session's position."""
    urls = [f"{gateway.base}/health/{session_id}" for gateway in (any_site.a, any_site.b)]
    headers = bearer(session_id, sub="ann")
    fresh = await http.get(urls[0], headers=headers)
    assert fresh.status_code == 200
    assert fresh.json() == {
        "success": True,
        "data": {
            "session_id": session_id,
            "chat_session_id": session_id,
            "user_id": "ann",
            "connected": False,
            "subscriber_count": 0,
            "local_subscriber_count": 0,
            "manager_status": "running",
            "pending_permissions": 0,
            "cursor": None,
            "redis": "connected",
        },
    }
    assert any_site.server.client.keys(f"sse:{{{session_id}}}:*") == [], "looking must not make a session"

    streams = [await tab(gateway, session_id) for gateway in (any_site.a, any_site.a, any_site.b)]
    any_site.ask(session_id)
    cursor = any_site.publish(session_id, "tool_status")

    async def counted(expected: tuple[int, int, int]) -> bool:
        found = [(await http.get(url, headers=headers)).json()["data"] for url in urls]
        local_a, local_b, everywhere = expected
        return [(one["local_subscriber_count"], one["subscriber_count"]) for one in found] == [
            (local_a, everywhere),
            (local_b, everywhere),
        ]

    await until(lambda: counted((2, 1, 3)), "both gateways to know of three streams")
    found = (await http.get(urls[1], headers=headers)).json()["data"]
    assert (found["connected"], found["pending_permissions"], found["cursor"]) == (True, 1, cursor)
    streams[0].close()
    streams[2].abort()
    await until(lambda: counted((1, 0, 1)), "both gateways to know of one stream")


@pytest.mark.parametrize(
    ("claims", "status"), [({"session_id": ...}, 403), ({"scope": "sse:publish"}, 403), (None, 401)]
)
async def test_health_is_for_who_may_read(
    site: Site, http: httpx.AsyncClient, session_id: str, claims: dict[str, Any] | None, status: int
) -> None:
    """Health needs a token that reaches the session and may read."""
    headers = {} if claims is None else bearer(**{"session_id": session_id, **claims})
    answer = await http.get(f"{site.a.base}/health/{session_id}", headers=headers)
    assert answer.status_code == status
    assert answer.json()["success"] is False


async def test_probes_while_redis_comes_and_goes(
    own_server: RedisProcess, gateways: Gateways, http: httpx.AsyncClient, session_id: str
) -> None:
    """Live never looks at Redis, ready does unless told not to, and all is well when Redis is back."""
    gateway = await gateways(own_server)
    health = f"{gateway.base}/health/{session_id}"

    async def get(path: str) -> tuple[int, str]:
        answer = await http.get(gateway.origin + path)
        return answer.status_code, answer.text

    async def state() -> tuple[str, str]:
        data = (await http.get(health, headers=bearer(session_id))).json()["data"]
        return data["manager_status"], data["redis"]

    everything_fine = "[+] draining: ok\n[+] redis: ok\n[+] push: ok\n[+] library: ok\nready\n"
    assert await get("/healthz") == (200, "ok\n")
    assert await get("/readyz") == (200, "ready\n")
    assert await get("/readyz?verbose") == (200, everything_fine)
    assert await state() == ("running", "connected")

    own_server.kill()
    await gateway.answers("/readyz", 503)
    assert (await get("/healthz")) == (200, "ok\n")
    status, text = await get("/readyz?verbose")
    assert status == 503
    assert re.search(r"^\[-\] redis: .+$", text, re.M)
    assert re.search(r"^\[-\] push: .+$", text, re.M)
    assert text.endswith("\nnot ready\n")
    assert (await get("/readyz"))[1].startswith("[-] ")
    assert await get("/readyz?exclude=redis") == (200, "ready\n")
    assert await get("/readyz?exclude=redis&verbose") == (200, "[+] draining: ok\nready\n")
    assert await state() == ("degraded", "unreachable")
    assert (await gateway.metrics())["sse_gateway_push_connected"] == 0
    # What cannot be answered without Redis says so.
    owner = await http.get(health, headers={"Authorization": f"Bearer {token()}"})
    assert (owner.status_code, owner.json()["code"]) == (503, "redis_unavailable")
    assert int(owner.headers["retry-after"]) > 0

    own_server.start()
    await gateway.answers("/readyz")
    assert await get("/readyz?verbose") == (200, everything_fine)
    assert await state() == ("running", "connected")
    assert own_server.client.execute_command(
        "FCALL", "sse_publish", 1, session_id, '{"type":"tool_status","data":{}}'
    ).endswith("-1"), "an empty server must have been given the functions"
    metrics = await gateway.metrics()
    assert metrics["sse_gateway_push_connected"] == 1
    assert metrics["sse_gateway_push_reconnects_total"] >= 1


async def test_probes_on_a_port_of_their_own(site: Site, gateways: Gateways, http: httpx.AsyncClient) -> None:
    """With ADMIN_PORT the public port has neither probes nor metrics, and the other has nothing else."""
    admin = free_port()
    gateway = await gateways(site.server, admin_port=admin)
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await http.get(gateway.origin + path)).status_code == 404
        assert (await http.get(f"http://127.0.0.1:{admin}{path}")).status_code == 200
    assert (await http.get(f"{gateway.base}/health/s1")).status_code == 401
    assert (
        await http.get(f"{gateway.base}/health/s1".replace(str(gateway.port), str(admin)))
    ).status_code == 404


async def test_metrics_tell_what_happened(site: Site, tab: Tab, session_id: str) -> None:
    """Streams, events and decisions show up in /metrics, under the names of the design."""

    async def at_rest() -> bool:
        return (await site.a.metrics())["sse_gateway_streams"] == 0

    await until(at_rest, "the streams of earlier tests to have been counted as closed")
    before = await site.a.metrics()
    stream = await tab(site.a, session_id)
    site.publish(session_id, "tool_status")
    site.say(session_id, '{"type":"tool_status"}')
    await stream.wait(lambda: len(stream.messages) == 2, "two events")

    async def change() -> dict[str, float]:
        now = await site.a.metrics()
        return {name: value - before.get(name, 0) for name, value in now.items()}

    changed = await change()
    for name in (
        "sse_gateway_streams",
        "sse_gateway_streams_opened_total",
        'sse_gateway_events_received_total{kind="durable"}',
        'sse_gateway_events_received_total{kind="plain"}',
    ):
        assert changed[name] == 1, name
    assert changed["sse_gateway_frames_sent_total"] >= 3
    assert changed["sse_gateway_sent_bytes_total"] > 200
    assert session_id not in str(changed)
    stream.close()

    async def closed() -> bool:
        return (await change()).get('sse_gateway_streams_closed_total{reason="client_gone"}') == 1

    await until(closed, "the closed stream to be counted")
    assert (await change())["sse_gateway_streams"] == 0

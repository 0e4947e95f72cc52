"""A backend that has a token and HTTP, and no Redis: it asks, waits, lists and claims at any gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.permissions.conftest import Desk
from tests.permissions.desk import CROWDED, Agent, Dial, Gateways, Tab, answering, bearer
from tests.support.gateway import GatewayProcess
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.wait import until

DECIDED_SOON_SECONDS = 1.5
"""Far less than a look at Redis every few seconds would need."""


class Backend:
    """The calls of a backend; each goes to the gateway that is named."""

    def __init__(self, http: httpx.AsyncClient, session_id: str, scope: str = "sse:read sse:publish") -> None:
        self.http = http
        self.session_id = session_id
        self.headers = {"Authorization": bearer("backend", session_id, scope)}

    async def get(self, gateway: GatewayProcess, path: str = "") -> httpx.Response:
        """GET something under the session's permissions."""
        url = f"{gateway.base}/permissions/{self.session_id}{path}"
        return await self.http.get(url, headers=self.headers)

    async def ask(self, gateway: GatewayProcess, **request: Any) -> dict[str, Any]:
        """Publish a request and return how it stands."""
        data = {"tool_name": "bash", "parameters": {"cmd": "ls"}, "risk_level": "low", **request}
        response = await self.http.post(
            f"{gateway.base}/publish/{self.session_id}",
            headers=self.headers,
            json={"type": "permission_request", "data": data},
        )
        assert response.status_code == 200, response.text
        standing: dict[str, Any] = response.json()["data"]
        return standing

    async def wait(self, gateway: GatewayProcess, request_id: str, seconds: float) -> dict[str, Any]:
        """Poll for a decision and return how the request stands."""
        response = await self.get(gateway, f"/{request_id}?wait={seconds}")
        assert response.status_code == 200, response.text
        standing: dict[str, Any] = response.json()["data"]
        return standing

    async def claim(self, gateway: GatewayProcess, request_id: str, worker: str) -> httpx.Response:
        """Claim a decision."""
        url = f"{gateway.base}/permissions/{self.session_id}/{request_id}/claim"
        return await self.http.post(url, headers=self.headers, json={"worker_id": worker})

    async def cancel(self, gateway: GatewayProcess, request_id: str, **body: Any) -> httpx.Response:
        """Withdraw a request."""
        url = f"{gateway.base}/permissions/{self.session_id}/{request_id}/cancel"
        return await self.http.post(url, headers=self.headers, json=body)


@pytest.fixture
def backend(http: httpx.AsyncClient, session_id: str) -> Backend:
    """The backend of this test's session."""
    return Backend(http, session_id)


async def polled(gateway: GatewayProcess, before: float, count: int = 1) -> None:
    """Wait until so many polls have had their first look at Redis."""
    name = 'sse_gateway_redis_command_duration_seconds_count{command="sse_status"}'

    async def looked() -> bool:
        return (await gateway.metrics()).get(name, 0) >= before + count

    await until(looked, "the poll to wait")


async def looks(gateway: GatewayProcess) -> float:
    """Return a number that grows by one with each poll that begins to wait."""
    name = 'sse_gateway_redis_command_duration_seconds_count{command="sse_status"}'
    return (await gateway.metrics()).get(name, 0.0)


async def test_the_whole_flow_over_three_gateways(
    desk: Desk, backend: Backend, dial: Dial, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """Asked at one gateway, listed and answered at another, told at the third at once, claimed once."""
    line = await dial(desk.b)
    for n in range(scale(3, 50)):
        name, other = f"r{n}", f"other-{n}"
        asked = await backend.ask(desk.a, request_id=name)
        assert (asked["status"], asked["request_id"], asked["viewers"]) == ("pending", name, 0)
        await backend.ask(desk.c, request_id=other)
        listed = (await backend.get(desk.b)).json()["data"]
        assert [request["request_id"] for request in listed["pending"]] == [name, other]
        assert listed["pending"][0]["parameters"] == {"cmd": "ls"}
        before = await looks(desk.c)
        polls = [asyncio.create_task(backend.wait(desk.c, name, 30)) for _ in range(3)]
        await polled(desk.c, before, 3)
        body = {"approved": n % 2 == 0, "request_id": name, "reason": "so be it"}
        began = time.monotonic()
        decision = (await line.send(answering(session_id, body, user="ann"))).decision
        found = await asyncio.gather(*polls)
        assert time.monotonic() - began < DECIDED_SOON_SECONDS
        assert found == [{"status": "decided", "decision": decision}] * 3
        # Who comes later is told at once, and so is who asks again.
        assert await backend.wait(desk.a, name, 30) == found[0]
        assert await backend.ask(desk.b, request_id=name) == found[0]
        claims = await asyncio.gather(
            *(backend.claim(desk.gateways[w % 3], name, f"w{w % 6}") for w in range(12))
        )
        won = [claim.json()["data"]["claimed"] for claim in claims]
        assert won.count(True) == 2
        assert won[:6] == won[6:], "the same worker is told the same"
        listed = (await backend.get(desk.c)).json()["data"]
        newest = listed["recent"][0]
        assert (newest["request_id"], newest["state"]) == (name, "consumed")
        assert newest["decision"] == decision
        assert (decision["decided_by"], decision["decided_at"][-1]) == ("ann", "Z")
        assert [request["request_id"] for request in listed["pending"]] == [other]
        denial = {"approved": False, "request_id": other}
        assert (await line.send(answering(session_id, denial))).won
    assert (await backend.claim(desk.a, other, "w1")).json()["data"] == {"claimed": True}


async def test_a_request_is_withdrawn_at_any_gateway_and_on_condition(
    desk: Desk, backend: Backend, tab: Tab, dial: Dial, session_id: str
) -> None:
    """Every tab sees it close; a condition counts viewers over all gateways; what was decided stands."""
    viewer = await tab(desk.c, session_id)

    async def viewers() -> int:
        return int((await backend.get(desk.a)).json()["data"]["viewers"])

    await until(viewers, "the viewer to be counted")
    await backend.ask(desk.a, request_id="r")
    kept = (await backend.cancel(desk.b, "r", if_no_viewer=True)).json()["data"]
    assert (kept["status"], kept["viewers"]) == ("pending", 1)
    polling = asyncio.create_task(backend.wait(desk.a, "r", 30))
    ended = (await backend.cancel(desk.b, "r", reason="found another way — é")).json()["data"]
    assert ended["decision"]["outcome"] == "cancelled"
    assert ended["decision"]["reason"] == "found another way — é"
    assert await polling == ended == (await backend.cancel(desk.a, "r", reason="again")).json()["data"]
    assert (await viewer.message("permission_cleared"))["data"]["outcome"] == "cancelled"

    await backend.ask(desk.a, request_id="answered")
    line = await dial(desk.b)
    answer = answering(session_id, {"approved": True, "request_id": "answered"})
    decision = (await line.send(answer)).decision
    assert (await backend.cancel(desk.c, "answered")).json()["data"]["decision"] == decision

    viewer.close()
    await backend.ask(desk.b, request_id="alone")

    async def given_up() -> bool:
        standing = (await backend.cancel(desk.c, "alone", if_no_viewer=True)).json()["data"]
        return standing["status"] == "decided" and standing["decision"]["reason"] == "no_viewer"

    await until(given_up, "nobody to be there")
    assert await viewers() == 0


async def test_a_poll_waits_as_long_as_it_was_told_to(desk: Desk, backend: Backend, session_id: str) -> None:
    """What nobody answers is pending at the end of the wait, neither earlier nor much later."""
    await backend.ask(desk.a, request_id="r")
    for seconds in (0, 0.4):
        began = time.monotonic()
        standing = await backend.wait(desk.b, "r", seconds)
        assert (standing["status"], standing["request_id"]) == ("pending", "r")
        assert seconds <= time.monotonic() - began < seconds + 1


async def test_a_poll_is_told_of_the_deadline_when_it_passes(
    desk: Desk, backend: Backend, session_id: str
) -> None:
    """An expiry that nobody else settles, with no stream open, is told when it is due, not seconds later."""
    for n in range(3):
        expires_at = (await backend.ask(desk.a, request_id=f"r{n}", expires_in=0.6))["expires_at"]
        standing = await backend.wait(desk.gateways[n], f"r{n}", 30)
        assert (standing["decision"]["outcome"], standing["decision"]["source"]) == ("expired", "timeout")
        decided_at = datetime.fromisoformat(standing["decision"]["decided_at"])
        assert 0 <= (decided_at - datetime.fromisoformat(expires_at)).total_seconds() < 0.5


async def test_a_poll_needs_its_scope_and_its_session(
    desk: Desk, backend: Backend, http: httpx.AsyncClient, session_id: str
) -> None:
    """Who may not publish is a 403, alike for what is open and what nobody asked; the list needs reading."""
    await backend.ask(desk.a, request_id="r")
    viewer = Backend(http, session_id, "sse:read sse:respond")
    for request_id in ("r", "nobody-asked"):
        for response in (
            await viewer.get(desk.b, f"/{request_id}?wait=20"),
            await viewer.claim(desk.b, request_id, "w1"),
            await viewer.cancel(desk.b, request_id),
        ):
            assert (response.status_code, response.json()["code"]) == (403, "missing_scope")
            assert "sse:publish" in response.json()["message"]
    assert (await viewer.get(desk.b)).status_code == 200
    publisher = Backend(http, session_id, "sse:publish")
    assert (await publisher.get(desk.b)).json()["code"] == "missing_scope"
    stranger = Backend(http, session_id)
    stranger.headers = {"Authorization": bearer("backend", "another-session", "sse:read sse:publish")}
    for response in (
        await stranger.get(desk.a, "/r?wait=20"),
        await stranger.claim(desk.a, "r", "w1"),
        await stranger.cancel(desk.a, "r"),
    ):
        assert (response.status_code, response.json()["code"]) == (403, "forbidden_session")


async def test_what_cannot_be_waited_for_or_claimed_is_said_at_once(
    desk: Desk, backend: Backend, http: httpx.AsyncClient
) -> None:
    """An unknown request is a 404, nonsense a 400, what is open nobody's to claim."""
    await backend.ask(desk.a, request_id="r")
    for response, status, code in (
        (await backend.get(desk.b, "/nobody-asked?wait=20"), 404, "unknown_request"),
        (await backend.claim(desk.b, "nobody-asked", "w1"), 404, "unknown_request"),
        (await backend.get(desk.b, "/r?wait=61"), 400, "bad_parameter"),
        (await backend.get(desk.b, "/r?wait=nan"), 400, "bad_parameter"),
        (await backend.get(desk.b, "/a%7Db?wait=1"), 400, "bad_request"),
        (await backend.claim(desk.b, "r", ""), 400, "bad_request"),
        (await backend.claim(desk.b, "r", "w" * 257), 400, "bad_request"),
        (await backend.cancel(desk.b, "nobody-asked"), 404, "unknown_request"),
        (await backend.cancel(desk.b, "r", reason=7), 400, "bad_request"),
        (await backend.cancel(desk.b, "r", reason="x" * 2001), 400, "bad_request"),
        (await backend.cancel(desk.b, "r", if_no_viewer="yes"), 400, "bad_request"),
        (await backend.cancel(desk.b, "r", if_no_viewers=True), 400, "bad_request"),
    ):
        assert (response.status_code, response.json()["code"]) == (status, code), response.text
    lone = await http.post(
        f"{desk.b.base}/permissions/{backend.session_id}/r/cancel",
        headers=backend.headers | {"Content-Type": "application/json"},
        content=b'{"reason":"\\ud800"}',
    )
    assert lone.status_code == 400, lone.text
    assert (await backend.claim(desk.b, "r", "w1")).json()["data"] == {"claimed": False}
    for data, status, code in (
        ({"request_id": "r", "tool_name": "bash", "parameters": {"cmd": "rm"}}, 409, "request_mismatch"),
        ({"request_id": "r", "tool_name": "edit", "parameters": {"cmd": "ls"}}, 409, "request_mismatch"),
        ({"tool_name": "bash", "parameters": []}, 400, "bad_request"),
        ({"tool_name": "bash", "expires_in": 0}, 400, "bad_request"),
    ):
        response = await http.post(
            f"{desk.c.base}/publish/{backend.session_id}",
            headers=backend.headers,
            json={"type": "permission_request", "data": data},
        )
        assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert [r["request_id"] for r in (await backend.get(desk.a)).json()["data"]["pending"]] == ["r"]


async def test_a_poll_is_sent_on_by_a_gateway_that_stops(
    desk: Desk, gateways: Gateways, backend: Backend, session_id: str
) -> None:
    """SIGTERM holds up neither the poll nor the gateway: it is told "pending", and waits elsewhere."""
    gateway = await gateways(desk.server, **CROWDED)
    await backend.ask(gateway, request_id="r")
    before = await looks(gateway)
    polls = [asyncio.create_task(backend.wait(gateway, "r", 40)) for _ in range(3)]
    await polled(gateway, before, 3)
    began = time.monotonic()
    assert await asyncio.to_thread(gateway.stop) == 0
    assert [poll["status"] for poll in await asyncio.gather(*polls)] == ["pending"] * 3
    assert time.monotonic() - began < 4


@pytest.mark.chaos
async def test_a_decision_whose_message_was_lost_is_found(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    gateways: Gateways,
    http: httpx.AsyncClient,
    session_id: str,
) -> None:
    """A poll that is not woken looks by itself within seconds."""
    proxy = proxied(own_server)
    gateway = await gateways(proxy, **CROWDED)
    backend = Backend(http, session_id)
    await backend.ask(gateway, request_id="r")
    before = await looks(gateway)
    poll = asyncio.create_task(backend.wait(gateway, "r", 30))
    await polled(gateway, before)
    proxy.swallow()
    Agent(own_server).call("cancel", session_id, "r")
    await until(lambda: proxy.swallowed, "the message to be lost")
    began = time.monotonic()
    assert (await poll)["decision"]["outcome"] == "cancelled"
    assert time.monotonic() - began < 7


@pytest.mark.chaos
async def test_a_poll_outlives_a_restart_of_redis(
    own_server: RedisProcess, gateways: Gateways, http: httpx.AsyncClient, dial: Dial, session_id: str
) -> None:
    """Redis away while polls wait: they go on, and are told once it is back; what it forgot is a 404."""
    server = own_server
    two = await asyncio.gather(*(gateways(server, **CROWDED) for _ in range(2)))
    backend = Backend(http, session_id)
    line = await dial(two[0])
    await backend.ask(two[0], request_id="r")
    server.save()
    before = await looks(two[1])
    polls = [asyncio.create_task(backend.wait(two[1], "r", 40)) for _ in range(5)]
    await polled(two[1], before, 5)
    server.kill()
    # Longer than the time from one look to the next.
    await asyncio.sleep(5.5)
    assert not any(poll.done() for poll in polls)
    server.start()
    await two[0].answers("/readyz")
    answer = answering(session_id, {"approved": True, "request_id": "r"}, user="ann")
    decision = (await line.send(answer)).decision
    began = time.monotonic()
    assert await asyncio.gather(*polls) == [{"status": "decided", "decision": decision}] * 5
    assert time.monotonic() - began < 6
    # Its time runs out while Redis is away: that is not "pending", it is not known.
    await backend.ask(two[0], request_id="r2")
    before = await looks(two[1])
    short = asyncio.create_task(backend.get(two[1], "/r2?wait=1.5"))
    lost = asyncio.create_task(backend.get(two[1], "/r2?wait=30"))
    await polled(two[1], before, 2)
    server.kill()
    response = await short
    assert (response.status_code, response.json()["code"]) == (503, "redis_unavailable")
    assert response.headers["Retry-After"]
    server.dump.unlink()
    server.start()
    response = await lost
    assert (response.status_code, response.json()["code"]) == (404, "unknown_request")

"""EventSource clients for Python that nobody here wrote.

httpx-sse yields a `retry:` that stands alone as an event without data, where a browser dispatches nothing.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from aiohttp import ClientSession
from aiohttp_sse_client2.client import EventSource
from httpx_sse import aconnect_sse

from tests.support.tokens import token
from tests.web.site import Gateways, Human, Site, bearer


async def test_httpx_sse_reads_the_stream(
    site: Site, http: httpx.AsyncClient, human: Human, session_id: str
) -> None:
    """httpx-sse gets ready, the events with their ids, the permission's course, heartbeats and `closing`."""
    seen: list[Any] = []
    types: list[str] = []
    url = site.a.events(session_id)
    async with aconnect_sse(http, "GET", url, headers=bearer(session_id)) as source, asyncio.timeout(20):
        assert source.response.status_code == 200
        async for event in source.aiter_sse():
            seen.append(event)
            if not event.data:
                assert 2500 <= (event.retry or 0) <= 4500
                continue
            data = event.json()
            types.append(data["type"] if event.event == "message" else event.event)
            match types[-1]:
                case "ready":
                    assert [event.retry is None for event in seen] == [False, True]
                    assert event.id == data["cursor"]
                    site.publish(session_id, "tool_status", {"text": "größer\n🙂"})
                case "tool_status":
                    assert data["data"] == {"text": "größer\n🙂"}
                    assert event.id == data["id"]
                    site.ask(session_id, request_id="r1")
                case "permission_request":
                    assert (await human.answer(site.b, request_id="r1")).status_code == 200
                case "permission_cleared":
                    site.publish(session_id, "tool_result", {"ok": True})
                case "heartbeat" if "tool_result" in types:
                    site.call("sse_end", session_id)
    told = [name for name in types if name != "heartbeat"]
    assert told == [
        "ready",
        "tool_status",
        "permission_request",
        "permission_cleared",
        "tool_result",
        "closing",
    ]
    assert "heartbeat" in types
    assert seen[-1].json()["reason"] == "session_ended"
    assert seen[-1].retry == seen[-1].json()["retry_ms"]


async def test_httpx_sse_resumes(site: Site, http: httpx.AsyncClient, session_id: str) -> None:
    """With the id it was left with, a new connection goes on behind it."""

    async def read(headers: dict[str, str], count: int) -> list[Any]:
        found: list[Any] = []
        url = site.a.events(session_id)
        async with (
            aconnect_sse(http, "GET", url, headers=bearer(session_id) | headers) as source,
            asyncio.timeout(10),
        ):
            async for event in source.aiter_sse():
                if event.data:
                    found.append(event)
                if len(found) == count:
                    break
        return found

    (ready,) = await read({}, 1)
    ids = [site.publish(session_id, "tool_status", {"n": n}) for n in range(3)]
    again = await read({"Last-Event-ID": ready.id}, 3)
    assert [event.id for event in again] == ids
    last = await read({"Last-Event-ID": ids[1]}, 2)
    assert [(event.event, event.id) for event in last] == [("message", ids[2]), ("ready", ids[2])]


async def test_aiohttp_sse_client_comes_back_by_itself(
    site: Site, gateways: Gateways, session_id: str
) -> None:
    """aiohttp-sse-client2, which reconnects by itself, misses nothing across a gateway's restart."""
    gateway = await gateways(site.server)
    expected: list[str] = []
    got: list[str] = []
    restarted = False
    async with (
        asyncio.timeout(40),
        EventSource(
            gateway.events(session_id),
            headers={"Authorization": f"Bearer {token(session_id=session_id)}"},
            reconnection_time=timedelta(seconds=0.1),
            max_connect_retry=10,
        ) as source,
    ):
        async for event in source:
            if event.type == "ready":
                if len(got) == 3:
                    break
                expected.append(site.publish(session_id, "tool_status", {"n": 1}))
            elif event.type is None and json.loads(event.data)["type"] == "tool_status":
                got.append(event.last_event_id)
                assert json.loads(event.data)["id"] == event.last_event_id
                if not restarted:
                    restarted = True
                    assert await asyncio.to_thread(gateway.stop) == 0
                    # While nobody is there to hear it.
                    expected += [site.publish(session_id, "tool_status", {"n": n}) for n in (2, 3)]
                    await gateway.start()
            elif event.type == "closing":
                assert json.loads(event.data)["reconnect"] is True
    assert got == expected
    assert len(got) == 3


async def test_both_are_told_why_they_are_refused(
    site: Site, http: httpx.AsyncClient, session_id: str
) -> None:
    """A refusal is a status and JSON to a client that can read them."""
    headers = {"Authorization": "Bearer garbage"}
    async with aconnect_sse(http, "GET", site.a.events(session_id), headers=headers) as source:
        assert source.response.status_code == 401
        await source.response.aread()
        assert source.response.json()["code"] == "token_invalid"
    # A session of ours, since the client leaves its own open when it cannot connect.
    async with ClientSession() as session:
        with pytest.raises(ConnectionRefusedError) as caught:
            await EventSource(site.a.events(session_id), headers=headers, session=session).connect()
    assert json.loads(caught.value.args[1])["success"] is False

"""Tabs of a browser: streams that are hung up, and seen to have ended, at the end of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from tests.support.gateway import GatewayProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token


@asynccontextmanager
async def tabs() -> AsyncIterator[Callable[..., Awaitable[SSEStream]]]:
    """Open streams: `await tab(gateway, session_id, "replay=all", last_event_id=…, http="1.0")`.

    That returns when the stream is ready (`ready=False`: when its head is there). Its token names the
    session; `claims={…}` adds to its claims, `token=…` takes its place.
    """
    opened: list[SSEStream] = []

    async def tab(
        gateway: GatewayProcess,
        session_id: str,
        query: str = "",
        *,
        ready: bool = True,
        claims: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> SSEStream:
        made = token(**({"session_id": session_id} | dict(claims)))
        stream = await SSEStream.open(gateway.events(session_id, query), **{"token": made, **options})
        opened.append(stream)
        if ready:
            await stream.ready()
        return stream

    yield tab
    for stream in opened:
        stream.close()
    for stream in opened:
        await stream.ended()

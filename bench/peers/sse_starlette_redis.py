"""sse-starlette with redis-py's pub/sub, a subscription per stream; run by uvicorn.

usage: REDIS_PORT=… uvicorn --no-access-log --backlog 4096 bench.peers.sse_starlette_redis:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import redis.asyncio
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

client = redis.asyncio.Redis(port=int(os.environ["REDIS_PORT"]), max_connections=30_000)


async def messages(channel: str) -> AsyncIterator[dict[str, str]]:
    async with client.pubsub() as pubsub:
        await pubsub.subscribe(channel)
        async for message in pubsub.listen():
            if message["type"] == "message":
                yield {"data": message["data"].decode()}


async def events(request: Request) -> EventSourceResponse:
    return EventSourceResponse(messages(f"sse:{request.path_params['name']}"), sep="\n")


app = Starlette(routes=[Route("/events/{name}", events)])

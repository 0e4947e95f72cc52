"""aiohttp-sse with a queue and a task wake-up per stream, fed by one redis-py subscription.

usage: python -m bench.peers.aiohttp_sse_queue PORT REDIS_PORT
"""

from __future__ import annotations

import asyncio
import sys

import redis.asyncio
import uvloop
from aiohttp import web
from aiohttp_sse import sse_response


class Broker:
    """Pass each channel's messages to the queues of its streams."""

    def __init__(self, port: int) -> None:
        self._pubsub = redis.asyncio.Redis(port=port).pubsub()
        self._queues: dict[bytes, set[asyncio.Queue[bytes]]] = {}

    async def run(self, _app: web.Application) -> None:
        await self._pubsub.subscribe("start")
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._pubsub.listen():
            if message["type"] == "message":
                for queue in self._queues.get(message["channel"], ()):
                    queue.put_nowait(message["data"])

    async def join(self, channel: str) -> asyncio.Queue[bytes]:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        queues = self._queues.setdefault(channel.encode(), set())
        queues.add(queue)
        if len(queues) == 1:
            await self._pubsub.subscribe(channel)
        return queue

    async def leave(self, channel: str, queue: asyncio.Queue[bytes]) -> None:
        self._queues[channel.encode()].discard(queue)


def main() -> None:
    port, redis_port = int(sys.argv[1]), int(sys.argv[2])
    app = web.Application()
    broker = Broker(redis_port)

    async def events(request: web.Request) -> web.StreamResponse:
        channel = f"sse:{request.match_info['name']}"
        async with sse_response(request, sep="\n") as response:
            queue = await broker.join(channel)
            try:
                while response.is_connected():
                    await response.send((await queue.get()).decode())
            finally:
                await broker.leave(channel, queue)
        return response

    app.on_startup.append(broker.run)
    app.router.add_get("/events/{name}", events)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=port, backlog=4096, access_log=None, print=None)


if __name__ == "__main__":
    main()

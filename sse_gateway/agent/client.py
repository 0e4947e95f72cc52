"""The agent's side of the gateway, for asyncio. One client a process serves all its sessions."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import secrets
import socket
from typing import Any, Self

from redis.asyncio import RedisCluster

from sse_gateway.agent.calls import Calls
from sse_gateway.agent.connect import check_client, close_client, make_client, open_connection
from sse_gateway.agent.listener import Listener
from sse_gateway.agent.session import Session
from sse_gateway.agent.waiting import RECHECK_SECONDS, Waiting
from sse_gateway.core.keys import Keys
from sse_gateway.store.library import Library, Limits

CALL_SECONDS = 10.0


class AgentClient:
    """Publish to sessions and ask their viewers for permission.

        async with AgentClient("redis://…") as client:
            session = client.session("s1", owner="user-1")
            decision = await session.request_permission("bash", {"cmd": "rm -rf build"}, risk_level="high")

    Besides the connections that calls use, all waiting requests of all sessions share one. Belongs to the
    event loop in which it is first used.
    """

    def __init__(
        self,
        redis: Any,
        *,
        namespace: str = "",
        worker_id: str | None = None,
        call_seconds: float = CALL_SECONDS,
        recheck_seconds: float = RECHECK_SECONDS,
        wait_replicas: int = 0,
        limits: Limits | None = None,
        password: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        """Prepare a client; nothing is connected before the first call.

        redis: a URL as the gateway takes it (redis, rediss, unix, redis+sentinel, redis+cluster), or a
            `redis.asyncio.Redis` or `RedisCluster` of yours, which stays yours to close.
        worker_id: whose claims these are, the beginning of each worker's id; unique to this process unless
            given. See `Session.claim`.
        call_seconds: the limit of one call, repetitions included.
        recheck_seconds: how often a waiting request is looked at even though nothing was heard of it.
        wait_replicas: how many replicas must have a claim before it counts.
        limits: the settings of the scripts, should this client be the first to load them.
        password: takes the place of the URL's, so that none need stand there (`rediss://agent:@redis/0`).
        ca_file: the certificates that the server's own is checked against, for a URL with TLS; the
            system's without it.
        """
        self.namespace = namespace
        self.worker_id = worker_id or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.library = Library(namespace, limits)
        self.keys: Keys = self.library.keys
        self.max_event_bytes = self.library.limits.max_event_bytes
        self._owns_client = isinstance(redis, str)
        self._redis = (
            make_client(redis, password=password, ca_file=ca_file)
            if isinstance(redis, str)
            else check_client(redis)
        )
        if wait_replicas and isinstance(self._redis, RedisCluster):
            raise ValueError(
                "wait_replicas does not work in a Cluster: WAIT must follow on the call's connection"
            )
        self._wait_replicas = wait_replicas
        self._numbers = itertools.count(1)
        self._instance = secrets.token_hex(8)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls = Calls(self._redis, self.library, seconds=call_seconds)
        self._listener = Listener(
            functools.partial(open_connection, self._redis), on_message=self._heard, on_live=self._live
        )
        self._waiting = Waiting(self._calls, self._listener, recheck_seconds=recheck_seconds)

    def session(self, session_id: str, *, owner: str = "") -> Session:
        """Return the session of this id; `owner`, the user it belongs to, is recorded with the first call.

        A token whose user is the owner may watch and answer; a session has one owner for good.
        """
        return Session(self, session_id, owner=owner)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection of ours. Open requests stay open, for the agent that asks again."""
        await self._waiting.close()
        await self._listener.close()
        if self._owns_client:
            await close_client(self._redis)

    # What sessions use

    @property
    def calls(self) -> Calls:
        self._check_loop()
        return self._calls

    @property
    def waiting(self) -> Waiting:
        self._check_loop()
        return self._waiting

    def next_key(self) -> str:
        """Return an idempotency key that nobody else uses."""
        return f"{self._instance}-{next(self._numbers)}"

    async def claim(self, session_id: str, request_id: str, worker_id: str) -> bool:
        """Claim a decision, and have replicas confirm it where the client is told to."""
        if self._wait_replicas:
            return bool(
                await self.calls.call_durably(
                    "claim", session_id, request_id, worker_id, replicas=self._wait_replicas
                )
            )
        return bool(await self.calls.call("claim", session_id, request_id, worker_id))

    def _heard(self, channel: str, payload: bytes) -> None:
        self._waiting.heard(channel, payload)

    def _live(self, channel: str) -> None:
        self._waiting.live(channel)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("an AgentClient belongs to the event loop of its first call; make one a loop")

"""Call the scripts through any client of redis-py: one limit for all tries, and no try that could do harm.

Each call of the SDK is made so that a second one changes nothing (a publish carries an idempotency key, a
request its id, a claim its worker). So whatever may pass (a lost connection, a failover, a moving slot, a
server that is loading) is tried again, with jittered pauses, until the limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import NoPermissionError, RedisClusterException, ResponseError

from sse_gateway.agent.connect import calls_at_once
from sse_gateway.agent.ending import within
from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.store.failures import TROUBLE, Outcome, as_gateway_error, judge
from sse_gateway.store.library import Library

T = TypeVar("T")
ATTEMPT_SECONDS = 3.0
"""After so long a try is given up and made anew on another connection: this one may be half open."""
BATCH = 100
WAIT_MS = 1000
_PAUSE_SECONDS = (0.05, 2.0)
BROKEN = (AttributeError, RuntimeError)
"""What a write to a transport that has just been lost raises, past redis-py: on Python 3.13.0, on uvloop."""
# redis-py raises RedisClusterException when no node of a Cluster answers; it is no RedisError.
FAULTS = (*TROUBLE, RedisClusterException, *BROKEN)


class Again(Exception):
    """Tell that a try failed in a way that may pass; `error` is what to raise when it does not."""

    def __init__(self, error: GatewayError) -> None:
        super().__init__(str(error))
        self.error = error


class Pauses:
    """Give jittered pauses that grow."""

    def __init__(self, *, longest: float = _PAUSE_SECONDS[1]) -> None:
        self._next, self._longest = _PAUSE_SECONDS[0], longest

    def next(self) -> float:
        """Return the next pause in seconds."""
        pause = self._next * random.uniform(0.5, 1.0)
        self._next = min(2 * self._next, self._longest)
        return pause


class Calls:
    """Make calls for any number of sessions."""

    def __init__(self, client: Any, library: Library, *, seconds: float) -> None:
        self.client = client
        self.library = library
        self.seconds = seconds
        """The limit of one call, all tries included."""
        self._slots = asyncio.Semaphore(calls_at_once(client))

    async def call(self, function: str, session_id: str, *args: Any) -> Any:
        """Return the reply of `sse_<function>`; raises GatewayError as the script refused, or Unavailable."""
        return await self._insist(lambda seconds: self.attempt(function, session_id, *args, seconds=seconds))

    async def call_durably(self, function: str, session_id: str, *args: Any, replicas: int) -> Any:
        """Call as `call` does, and return once so many replicas have what it wrote.

        Raises Unavailable when they do not confirm. The call has happened then, and whoever repeats it is
        told the same by the script.
        """
        key = self.library.keys.session_key(session_id)

        async def once(seconds: float) -> Any:
            command = self.library.command(function, session_id, *args)
            if self.library.by_eval:
                command = ("EVAL", self.library.eval_text(function), 1, key, *args)
            # One connection for both: WAIT is about the writes of its own.
            reply, confirmed = await self._pipeline((command, ("WAIT", replicas, WAIT_MS)), seconds)
            if isinstance(reply, Exception):
                if judge(reply) is Outcome.NO_FUNCTION:
                    await self._load()
                    raise Again(as_gateway_error(reply))
                raise _judged(reply)
            if isinstance(confirmed, Exception):
                raise _judged(confirmed)
            if confirmed < replicas:
                raise Unavailable("Too few Redis replicas confirmed the write in time; try again.")
            return reply

        return await self._insist(once)

    async def _insist(self, attempt: Callable[[float], Awaitable[Any]]) -> Any:
        """Repeat `attempt(seconds left)` until it gives an answer or the limit is reached."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.seconds
        pauses = Pauses()
        while True:
            try:
                return await attempt(deadline - loop.time())
            except Again as again:
                pause = pauses.next()
                if loop.time() + pause >= deadline:
                    raise again.error from again.__cause__
            await asyncio.sleep(pause)

    async def attempt(
        self, function: str, session_id: str, *args: Any, seconds: float = ATTEMPT_SECONDS
    ) -> Any:
        """Try once; raises GatewayError for a refusal, and Again for what may pass."""

        async def once() -> Any:
            async with self._slots:
                return await self.library.call(await self._place(session_id), function, session_id, *args)

        return await self._limited(seconds, once())

    async def attempt_many(self, function: str, calls: Sequence[tuple[str, str]]) -> list[Any]:
        """Try calls with one argument each, in one round trip per batch; failures are among the results.

        In a Cluster, where a client's pipeline may hold only what redis-py can route, they go side by side.
        """
        results: list[Any] = []
        for start in range(0, len(calls), BATCH):
            batch = calls[start : start + BATCH]
            if len(batch) == 1 or isinstance(self.client, RedisCluster):
                replies = await asyncio.gather(*(self._outcome(function, *call) for call in batch))
            else:
                replies = await self._pipelined(function, batch)
            results += replies
        return results

    async def publish(self, channel: str, payload: bytes) -> None:
        """PUBLISH, once: whoever hears it has no way to tell a repetition; raises Unavailable."""

        async def once() -> None:
            options = {}
            async with self._slots:
                if isinstance(self.client, RedisCluster):
                    await self.client.initialize()
                    options["target_nodes"] = random.choice(self.client.get_primaries())
                await self.client.execute_command("PUBLISH", channel, payload, **options)

        try:
            await self._limited(ATTEMPT_SECONDS, once())
        except Again as again:
            raise again.error from again.__cause__

    async def _outcome(self, function: str, session_id: str, argument: str) -> Any:
        try:
            return await self.attempt(function, session_id, argument)
        except (GatewayError, Again) as error:
            return error

    async def _pipelined(self, function: str, calls: Sequence[tuple[str, str]]) -> list[Any]:
        try:
            replies = await self._pipeline(
                [self.library.command(function, *call) for call in calls], ATTEMPT_SECONDS
            )
        except (GatewayError, Again) as error:
            return [error] * len(calls)
        return list(
            await asyncio.gather(
                *(self._finish(function, call, reply) for call, reply in zip(calls, replies, strict=True))
            )
        )

    async def _pipeline(self, commands: Sequence[tuple[Any, ...]], seconds: float) -> list[Any]:
        """Return the replies to commands sent together on one connection; errors are among them."""

        async def once() -> list[Any]:
            async with self._slots:
                pipeline = self.client.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
                return replies

        return await self._limited(seconds, once())

    async def _load(self) -> None:
        async def once() -> None:
            # Where that is not permitted a gateway brings it, and the call is repeated until then.
            with contextlib.suppress(NoPermissionError):
                await self.library.provide(self.client)

        await self._limited(ATTEMPT_SECONDS, once())

    async def _limited(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await within(min(seconds, ATTEMPT_SECONDS), work)
        except FAULTS as error:
            # A fault that is not Redis's may be the application's own, and is then to be seen.
            raise _judged(error) from (error if isinstance(error, BROKEN) else None)

    async def _finish(self, function: str, call: tuple[str, str], reply: Any) -> Any:
        if not isinstance(reply, Exception):
            return reply
        if judge(reply) in (Outcome.NO_FUNCTION, Outcome.NO_SCRIPT):
            return await self._outcome(function, *call)
        return _judged(reply)

    async def _place(self, session_id: str) -> Any:
        """Return what to send a session's call to: the client, or in a Cluster its session's primary."""
        if not isinstance(self.client, RedisCluster):
            return self.client
        # Nothing is asked when the layout is known; after a failed node it is looked up anew.
        await self.client.initialize()
        return _AtNode(self.client, self.library.keys.session_key(session_id))


class _AtNode:
    """Send commands to the primary of a key.

    Told the node, redis-py need not ask the server where the keys of a command stand, as it does before
    every FCALL; and a library is loaded where the call is made.
    """

    def __init__(self, client: Any, key: str) -> None:
        self._client = client
        self._key = key

    async def execute_command(self, *args: Any) -> Any:
        node = self._client.get_node_from_key(self._key)
        return await self._client.execute_command(*args, target_nodes=node)


def _judged(error: Exception) -> GatewayError | Again:
    if judge(error) is not Outcome.REFUSED:
        return Again(as_gateway_error(error))
    refusal = as_gateway_error(error)
    if isinstance(error, ResponseError) and type(refusal) is Unavailable:
        return _refused_by_server(str(error))
    return refusal


def _refused_by_server(text: str) -> GatewayError:
    if "unknown command" in text:
        return GatewayError(
            "redis_refused", "The server knows no functions: Redis 7 or newer, or Valkey, is needed."
        )
    return GatewayError("redis_refused", f"Redis refused the call: {text:.200}")

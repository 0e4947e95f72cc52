"""The way to Redis: one server, a primary found by Sentinel, or a Cluster, all used alike.

Every call has an explicit limit, and every failure is a GatewayError: the script's own refusal, or
Unavailable. What certainly did nothing is tried again; what may have happened is repeated only where
that changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.core.keys import Keys
from sse_gateway.store.cluster import Address, Command, redirected
from sse_gateway.store.commands import Commands
from sse_gateway.store.failures import TROUBLE, Outcome, as_gateway_error, judge
from sse_gateway.store.library import Library
from sse_gateway.store.servers import CALL_SECONDS, Endpoint, Servers

logger = logging.getLogger(__name__)

BATCH = 100
IN_FLIGHT = 32
"""Calls by connections of redis-py at a time; the others wait for their turn within their limit."""
WAIT_MS = 1000
_PAUSE_SECONDS = (0.02, 0.4)
_SAFE_TO_REPEAT = frozenset({"read", "status", "pending", "request", "decision", "claim", "beat", "version"})
"""Functions that leave the same behind when called twice."""

Call = tuple[str, str, Sequence[Any]]
"""A function's name, a session id, and the arguments."""
Observe = Callable[[str, float], None]
"""Called with a command's or a function's name, and how many seconds its round trip took."""


def _ignore(_command: str, _seconds: float) -> None:
    """Observe nothing."""


class Store:
    """Call the function library, wherever the session's data is.

    `password` (and `username`) take the place of the URL's, so that no secret need stand in a URL;
    `wait_replicas` is how many replicas must confirm a call made by `fcall_durably`. `observe` is told of
    each round trip, under the name of its first command.
    """

    def __init__(
        self,
        url: str,
        *,
        keys: Keys,
        library: Library,
        ca_file: str | None = None,
        username: str | None = None,
        password: str | None = None,
        wait_replicas: int = 0,
        observe: Observe = _ignore,
    ) -> None:
        self._observe = observe
        self.keys = keys
        self.library = library
        self._wait_replicas = wait_replicas
        self._servers = Servers(url, ca_file=ca_file, username=username, password=password)
        self._nodes = self._servers.nodes
        self.target = self._servers.target
        self.client = self._servers.client
        """A Redis or RedisCluster for plain commands, which raise redis-py's own errors."""
        self._calls = Commands(self._servers.endpoint)
        self._batches = Commands(self._servers.endpoint)
        """A way of their own, so that no answer waits behind a thousand histories."""
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._providing: dict[Any, asyncio.Task[None]] = {}
        self._turn = random.randrange(16384)
        """Which primary published last, so that every one is tried in time."""

    @property
    def is_cluster(self) -> bool:
        return self.target.kind == "cluster"

    async def fcall(self, name: str, session_id: str, *args: Any) -> Any:
        """Call `sse_<name>` for a session; replies are bytes, int and lists.

        Raises GatewayError as the script refused, or Unavailable within CALL_SECONDS.
        """
        return (await self._call(name, session_id, args, extra=()))[0]

    async def fcall_durably(self, name: str, session_id: str, *args: Any) -> Any:
        """Call as `fcall` does, and return once `wait_replicas` replicas have it too.

        Raises Unavailable when they do not confirm in a second. The call has happened then: whoever
        repeats it is told so by the script, and waits again.
        """
        if not self._wait_replicas:
            return await self.fcall(name, session_id, *args)
        reply, confirmed = await self._call(
            name, session_id, args, extra=(("WAIT", self._wait_replicas, WAIT_MS),)
        )
        if isinstance(confirmed, Exception):
            raise as_gateway_error(confirmed)
        if confirmed < self._wait_replicas:
            logger.warning("only %d of %d replicas confirmed a write", confirmed, self._wait_replicas)
            raise Unavailable("Too few Redis replicas confirmed the write in time; try again.")
        return reply

    async def fcall_many(self, calls: Sequence[Call]) -> list[Any]:
        """Make several calls in one round trip for each batch and node; failures are among the results."""
        results: list[Any] = []
        for start in range(0, len(calls), BATCH):
            results += await self._call_batch(calls[start : start + BATCH])
        return results

    async def _call_batch(self, calls: Sequence[Call]) -> list[Any]:
        commands = [
            (self.keys.session_key(session_id), self.library.command(name, session_id, *args))
            for name, session_id, args in calls
        ]
        results = await self.send_many(commands)
        if all(isinstance(result, Exception) and judge(result) is Outcome.UNKNOWN for result in results):
            if not all(name.removeprefix("sse_") in _SAFE_TO_REPEAT for name, _, _ in calls):
                return [as_gateway_error(result) for result in results]
            results = await self.send_many(commands)
        failed = [at for at, result in enumerate(results) if isinstance(result, Exception)]
        if failed:
            mended = await asyncio.gather(*(self._mend(calls[at], results[at]) for at in failed))
            for at, result in zip(failed, mended, strict=True):
                results[at] = result
        return results

    async def _mend(self, call: Call, result: Exception) -> Any:
        """Return the result of a call that failed in a batch, made again by itself where that can help."""
        if judge(result) in (Outcome.REFUSED, Outcome.UNKNOWN):
            return as_gateway_error(result)
        name, session_id, args = call
        try:
            return await self.fcall(name, session_id, *args)
        except GatewayError as error:
            return error

    async def send_many(self, commands: Sequence[tuple[str, Command]]) -> list[Any]:
        """Send (key, command) pairs, pipelined by node; errors are among the results, none is raised."""
        nodes = self._nodes
        if nodes is None:
            with self._timed(commands[0][1]):
                try:
                    return await self._batches.send([command for _, command in commands])
                except (*TROUBLE, Unavailable) as error:
                    return [error] * len(commands)
        results: list[Any] = [None] * len(commands)
        by_node: dict[Address, list[int]] = {}
        for at, (key, _) in enumerate(commands):
            try:
                by_node.setdefault(await nodes.address_of(key), []).append(at)
            except TROUBLE as error:
                return [error] * len(commands)

        async def send(address: Address, places: list[int]) -> None:
            with self._timed(commands[places[0]][1]):
                replies = await self._limited(
                    nodes.send_to(address, [commands[at][1] for at in places]), len(places)
                )
            for at, reply in zip(places, replies, strict=True):
                key, command = commands[at]
                again = redirected(reply) is not None
                results[at] = (await self._limited(nodes.send(key, [command]), 1))[0] if again else reply

        await asyncio.gather(*(send(address, places) for address, places in by_node.items()))
        return results

    async def _limited(self, sending: Awaitable[list[Any]], count: int) -> list[Any]:
        """Await `count` replies within the limit; a failure of the connection is every reply.

        For what goes by connections of redis-py: those of our own keep the limit themselves.
        """
        try:
            async with asyncio.timeout(CALL_SECONDS), self._slots:
                return await sending
        except (*TROUBLE, Unavailable) as error:
            return [error] * count

    async def _send_once(self, key: str, commands: Sequence[Command]) -> list[Any]:
        """Send commands for one key on one connection; a failure of the connection is every reply."""
        with self._timed(commands[0]):
            if self._nodes is not None:
                return await self._limited(self._nodes.send(key, commands), len(commands))
            if len(commands) == 1:
                try:
                    return await self._calls.send(commands)
                except (*TROUBLE, Unavailable) as error:
                    return [error]
            # WAIT blocks its connection, so this goes by one of its own.
            pipeline = self.client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await self._limited(pipeline.execute(raise_on_error=False), len(commands))

    @contextmanager
    def _timed(self, command: Command) -> Iterator[None]:
        """Observe a round trip, failed ones too: those are the ones somebody looks for."""
        began_at = time.perf_counter()
        try:
            yield
        finally:
            self._observe(_named(command), time.perf_counter() - began_at)

    async def _call(self, name: str, session_id: str, args: Sequence[Any], extra: Sequence[Command]) -> Any:
        """Return the replies to the call and to the commands that go with it on the same connection."""
        until = asyncio.get_running_loop().time() + CALL_SECONDS
        replies = await self._attempt(name, session_id, args, extra)
        if not isinstance(replies[0], Exception):
            return replies
        try:
            async with asyncio.timeout_at(until):
                return await self._call_again(name, session_id, args, extra, failure=replies[0])
        except TimeoutError:
            raise as_gateway_error(replies[0]) from None

    async def _call_again(
        self,
        name: str,
        session_id: str,
        args: Sequence[Any],
        extra: Sequence[Command],
        *,
        failure: Exception,
    ) -> list[Any]:
        """Do what can be done about a failure, for as long as the caller lets it."""
        repeats = 1 if name.removeprefix("sse_") in _SAFE_TO_REPEAT else 0
        pause, longest = _PAUSE_SECONDS
        while True:
            match judge(failure):
                case Outcome.NO_SCRIPT:
                    key = self.keys.session_key(session_id)
                    await self._send_once(key, [("SCRIPT", "LOAD", self.library.eval_text(name))])
                case Outcome.NO_FUNCTION:
                    await self._provide_library(self.keys.session_key(session_id))
                case Outcome.NOT_EXECUTED:
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                    pause = min(2 * pause, longest)
                case Outcome.UNKNOWN if repeats:
                    repeats -= 1
                case _:
                    raise as_gateway_error(failure) from None
            replies = await self._attempt(name, session_id, args, extra)
            if not isinstance(replies[0], Exception):
                return replies
            failure = replies[0]

    async def _attempt(
        self, name: str, session_id: str, args: Sequence[Any], extra: Sequence[Command]
    ) -> list[Any]:
        command = self.library.command(name, session_id, *args)
        return await self._send_once(self.keys.session_key(session_id), (command, *extra))

    async def _provide_library(self, key: str) -> None:
        """Give the library to the server of `key`; whoever finds it missing meanwhile shares this."""
        try:
            client = self.client
            if self._nodes is not None:
                client = self._nodes.client_at(await self._nodes.address_of(key))
            providing = self._providing.get(client)
            if providing is None:
                providing = asyncio.create_task(self.library.provide(client), name="provide library")
                self._providing[client] = providing
                providing.add_done_callback(lambda task: self._provided(client, task))
            await asyncio.shield(providing)
        except TROUBLE as error:
            raise as_gateway_error(error) from None

    def _provided(self, client: Any, task: asyncio.Task[None]) -> None:
        del self._providing[client]
        if not task.cancelled():
            task.exception()  # marked as seen: whoever waits for it raises it

    async def ensure_library(self, *, force: bool = False) -> None:
        """Load the library on every primary that lacks it.

        Raises Unavailable, `library_conflict`, or `not_permitted` where neither functions nor scripts are.
        """
        try:
            async with asyncio.timeout(2 * CALL_SECONDS):
                for client in await self.primaries():
                    if force:
                        await self.library.load(client, force=True)
                    else:
                        await self.library.provide(client)
        except (*TROUBLE, TimeoutError) as error:
            raise as_gateway_error(error) from None

    async def primaries(self) -> list[Any]:
        """Return a client for each primary: one, except in a Cluster."""
        return await self._servers.primaries()

    async def refresh_layout(self) -> int:
        """Look up the Cluster's layout again; return a number that changes when its primaries do."""
        return await self._servers.refresh_layout()

    async def push_endpoint(self) -> Endpoint:
        """Return where to open the push connection now; raises Unavailable when nobody knows."""
        return await self._servers.endpoint()

    async def command(self, name: str, key: str, *args: Any) -> Any:
        """Send one plain command about one key; raises Unavailable."""
        (reply,) = await self.send_many([(key, (name, key, *args))])
        if isinstance(reply, Exception):
            raise as_gateway_error(reply)
        return reply

    async def publish_channel(self, channel: str, payload: bytes | str) -> None:
        """PUBLISH by way of each primary in turn; raises Unavailable."""
        primaries = await self.primaries()
        self._turn = (self._turn + 1) % len(primaries)
        client = primaries[self._turn]
        try:
            async with asyncio.timeout(CALL_SECONDS), self._slots:
                with self._timed(("PUBLISH",)):
                    await client.execute_command("PUBLISH", channel, payload)
        except (*TROUBLE, TimeoutError) as error:
            raise as_gateway_error(error) from None

    async def ping(self) -> None:
        """Return when every primary has answered; raises Unavailable."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                for client in await self.primaries():
                    with self._timed(("PING",)):
                        await client.execute_command("PING")
        except (*TROUBLE, TimeoutError) as error:
            raise as_gateway_error(error) from None

    async def close(self) -> None:
        """Close every connection."""
        await self._calls.close()
        await self._batches.close()
        await self._servers.close()


def _named(command: Command) -> str:
    """Return a command's name, or the name of the function it calls."""
    name = str(command[0])
    return str(command[1]) if name == "FCALL" else name

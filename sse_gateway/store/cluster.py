"""Send commands to the right node of a Redis Cluster.

redis-py's RedisCluster asks the server for the keys of every FCALL, repeats calls whose outcome is
unknown, and sends ASKING on another connection than the command after it. This does neither: it knows
that a command's slot is its session's, follows MOVED and ASK, and leaves other errors to the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import AskError, ConnectionError, MovedError, ResponseError  # noqa: A004

from sse_gateway.store.failures import TROUBLE

logger = logging.getLogger(__name__)

Address = tuple[str, int]
Command = tuple[Any, ...]
_REDIRECTIONS = 4
_REDIRECTION = re.compile(r"(ASK|MOVED) \d+ (.*):(\d+)")


class Redirection(NamedTuple):
    """Where a node sends us, for good (MOVED) or for this once (ASK)."""

    asking: bool
    host: str
    port: int


def redirected(result: Any) -> Redirection | None:
    """Return where `result` redirects to; redis-py 5 gives it as text outside its own Cluster client."""
    if isinstance(result, AskError):
        return Redirection(not isinstance(result, MovedError), result.host, result.port)
    match = _REDIRECTION.match(str(result)) if isinstance(result, ResponseError) else None
    return Redirection(match[1] == "ASK", match[2], int(match[3])) if match else None


class ClusterNodes:
    """Know which primary serves which slot, and hold one client a node."""

    def __init__(self, seeds: Sequence[Address], make_client: Callable[[Address], Redis]) -> None:
        self._seeds = tuple(seeds)
        self._make_client = make_client
        self._clients: dict[Address, Redis] = {}
        self._ranges: list[tuple[int, int, Address]] = []
        """First slot, last slot, primary."""
        self._refreshing: asyncio.Task[None] | None = None
        self.generation = 0
        """Raised whenever the set of primaries is found changed."""

    def client_at(self, address: Address) -> Redis:
        """Return the client of one node."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = self._make_client(address)
        return client

    async def primaries(self) -> list[Redis]:
        """Return a client for each primary that serves slots."""
        if not self._ranges:
            await self.refresh()
        return [self.client_at(address) for address in self.addresses()]

    def addresses(self) -> list[Address]:
        """Return the primaries known at present."""
        return sorted({address for _, _, address in self._ranges})

    async def refresh(self) -> None:
        """Ask for the layout; calls made meanwhile share the answer. Raises the last node's error."""
        self._begin_refresh()
        assert self._refreshing is not None
        await asyncio.shield(self._refreshing)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # marked as seen: whoever waits for it raises it

    async def _refresh(self) -> None:
        known = self.addresses()
        random.shuffle(known)
        failure: Exception = ConnectionError("no node of the Cluster answered")
        for address in dict.fromkeys((*known, *self._seeds)):
            try:
                # As two words: as one, redis-py would parse the reply.
                client: Any = self.client_at(address)
                slots = await client.execute_command("CLUSTER", "SLOTS")
            except TROUBLE as error:
                failure = error
                continue
            ranges = [(first, last, _address(primary, address)) for first, last, primary, *_ in slots]
            if ranges:
                before, self._ranges = set(self.addresses()), ranges
                if before != set(self.addresses()):
                    self.generation += 1
                    await self._forget_others()
                return
        raise failure

    async def _forget_others(self) -> None:
        keep = {*self.addresses(), *self._seeds}
        for address in [address for address in self._clients if address not in keep]:
            with contextlib.suppress(*TROUBLE):
                await self._clients.pop(address).aclose()

    async def address_of(self, key: str) -> Address:
        """Return the primary that serves the slot of `key`."""
        slot = key_slot(key.encode())
        for _ in range(2):
            for first, last, address in self._ranges:
                if first <= slot <= last:
                    return address
            await self.refresh()
        raise ResponseError("CLUSTERDOWN no node serves the slot")

    async def send(self, key: str, commands: Sequence[Command]) -> list[Any]:
        """Send commands for one key on one connection of its node; errors are among the results.

        Follows MOVED and ASK, as the first command meets them. Raises what concerns the connection.
        """
        address = await self.address_of(key)
        asking = False
        results: list[Any] = []
        for _ in range(_REDIRECTIONS):
            results = await self.send_to(address, (("ASKING",), *commands) if asking else commands)
            if asking:
                del results[0]
            redirection = redirected(results[0])
            if redirection is None:
                break
            asking = redirection.asking
            address = (redirection.host or address[0], redirection.port)
        return results

    async def send_to(self, address: Address, commands: Sequence[Command]) -> list[Any]:
        """Send commands to one node as they are; errors, redirections too, are among the results."""
        pipeline = self.client_at(address).pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            results: list[Any] = await pipeline.execute(raise_on_error=False)
        except TROUBLE:
            self._begin_refresh()
            raise
        if any(redirection and not redirection.asking for redirection in map(redirected, results)):
            self._begin_refresh()
        return results

    def _begin_refresh(self) -> None:
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(), name="cluster layout")
            self._refreshing.add_done_callback(self._refreshed)

    async def aclose(self) -> None:
        """Close every node's connections."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()


def _address(node: Sequence[Any], asked: Address) -> Address:
    """Return a node's address out of CLUSTER SLOTS; an unnamed host is the one that was asked."""
    host = node[0].decode() if isinstance(node[0], bytes) else node[0]
    return (host if host and host != "?" else asked[0], int(node[1]))

"""The servers behind a Redis URL: clients for them, and which of them are primaries now.

Knows how to reach Redis, and nothing of what is asked of it.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sse_gateway.store.cluster import Address, ClusterNodes
from sse_gateway.store.failures import TROUBLE, as_gateway_error
from sse_gateway.store.urls import Target, parse_url

CALL_SECONDS = 3.0
"""Limit of one call, repetitions included."""
CONNECT_SECONDS = 2.0
CONNECTIONS = 64
"""Of redis-py's pool at most."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to open a connection of one's own."""

    host: str = ""
    port: int = 0
    path: str = ""
    """A unix socket instead of host and port."""
    ssl: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0


class Servers:
    """Hold the clients of one URL; `username` and `password` take the place of the URL's."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: str | None = None,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self.target: Target = parse_url(url)
        self._username = username if username is not None else self.target.username
        self._password = password if password is not None else self.target.password
        self._ca_file = ca_file
        self._ssl = ssl.create_default_context(cafile=ca_file) if self.target.tls else None
        self._sentinel: Any = None
        self.nodes: ClusterNodes | None = None
        """Of a Cluster; None with one primary."""
        self.client: Any = self._make_client()
        """A Redis or RedisCluster for plain commands, which raise redis-py's own errors."""

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "username": self._username,
            "password": self._password,
            "protocol": 2,
            "max_connections": CONNECTIONS,
            "socket_timeout": CALL_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
        }
        if self.target.tls:
            # The name too: before release 6 redis-py takes any certificate of the CA for any host.
            options |= {"ssl": True, "ssl_ca_certs": self._ca_file, "ssl_check_hostname": True}
        return options

    def _make_client(self) -> Any:
        target, options = self.target, self._options()
        if target.kind == "cluster":
            self.nodes = ClusterNodes(target.hosts, self._make_node_client)
            return RedisCluster(startup_nodes=[ClusterNode(*host) for host in target.hosts], **options)
        if target.kind == "sentinel":
            sentinel: Any = Sentinel
            self._sentinel = sentinel(
                target.hosts,
                sentinel_kwargs=options
                | {"username": target.sentinel_username, "password": target.sentinel_password},
            )
            return self._sentinel.master_for(target.service, db=target.db, **options)
        if target.kind == "unix":
            return Redis(unix_socket_path=target.path, db=target.db, **options)
        host, port = target.hosts[0]
        return Redis(host=host, port=port, db=target.db, **options)

    def _make_node_client(self, address: Address) -> Redis:
        client = Redis(host=address[0], port=address[1], **self._options())
        # Replies as Redis gives them, as everywhere else here.
        client.response_callbacks.clear()
        return client

    async def primaries(self) -> list[Any]:
        """Return a client for each primary: one, except in a Cluster."""
        if self.nodes is None:
            return [self.client]
        try:
            return list(await self.nodes.primaries())
        except TROUBLE as error:
            raise as_gateway_error(error) from None

    async def refresh_layout(self) -> int:
        """Look up the Cluster's layout again; return a number that changes when its primaries do."""
        if self.nodes is None:
            return 0
        try:
            await self.nodes.refresh()
        except TROUBLE as error:
            raise as_gateway_error(error) from None
        return self.nodes.generation

    async def endpoint(self) -> Endpoint:
        """Return where to open a connection of one's own now; raises Unavailable when nobody knows.

        In a Cluster it is any primary, which will do for a subscription.
        """
        target = self.target
        user: dict[str, Any] = {"username": self._username, "password": self._password, "db": target.db}
        if target.kind == "unix":
            return Endpoint(path=target.path, **user)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                if self._sentinel is not None:
                    host, port = await self._sentinel.discover_master(target.service)
                elif self.nodes is not None:
                    # Looked up anew: the node to avoid is the one that just went away.
                    await self.nodes.refresh()
                    host, port = random.choice(self.nodes.addresses())
                else:
                    host, port = target.hosts[0]
        except (*TROUBLE, TimeoutError) as error:
            raise as_gateway_error(error) from None
        return Endpoint(host=host, port=port, ssl=self._ssl, **user)

    async def close(self) -> None:
        """Close every connection."""
        await self.client.aclose()
        if self.nodes is not None:
            await self.nodes.aclose()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()
